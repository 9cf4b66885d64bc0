"""What frames show: turned, odd-sized, deep, grey, transparent, woven; the same as OpenCV's."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.decode import decode_frames
from support.films import write_timed

REGULAR = [40 * number for number in range(6)]


def quarters(_number, width=176, height=144):
    """Red, green, blue and white, clockwise from the top left."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 220, 30, 30
    picture[: height // 2, width // 2 :] = 30, 220, 30
    picture[height // 2 :, width // 2 :] = 30, 30, 220
    picture[height // 2 :, : width // 2] = 230, 230, 230
    return picture


def same_as_opencv(path):
    """Every frame equals what cv2.VideoCapture reads, and no frame is left over."""
    reader = cv2.VideoCapture(str(path))
    count = 0
    for frame in decode_frames(path):
        found, picture = reader.read()
        assert found
        assert np.array_equal(frame.pixels, picture[:, :, ::-1]), f"frame {count} differs"
        count += 1
    assert not reader.read()[0]
    return count


@pytest.mark.parametrize(("name", "frames"), [("baseball", 107), ("carphone", 120), ("bikes", 250)])
def test_real_films_give_the_frames_of_opencv(request, name, frames):
    assert same_as_opencv(request.getfixturevalue(name)) == frames


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {"pix_fmt": "yuv444p", "width": 175, "height": 143}),
        ("a.mkv", {"pix_fmt": "yuv444p", "width": 16, "height": 16}),
        ("a.mp4", {"pix_fmt": "yuvj420p"}),
        ("a.mp4", {"pix_fmt": "gray"}),
        ("a.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("a.mkv", {"codec": "libx264rgb", "pix_fmt": "rgb24", "width": 175, "height": 143}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "gray16le"}),
        ("a.mkv", {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"}),
        ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le"}),
        ("a.mov", {"codec": "png", "pix_fmt": "rgba"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("a.mpg", {"codec": "mpeg2video", "time_base": Fraction(1, 25)}),
    ],
)
def test_formats_give_the_frames_of_opencv(tmp_path, name, options):
    stamps = range(6) if "time_base" in options else REGULAR
    assert same_as_opencv(write_timed(tmp_path / name, stamps, **options)) == 6


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_a_film_is_turned_as_opencv_turns_it(tmp_path, degrees):
    path = write_timed(tmp_path / "a.mp4", REGULAR, rotation=(degrees, False, False))
    assert same_as_opencv(path) == 6


@pytest.mark.parametrize(
    ("rotation", "shown"),
    [
        ((0, False, False), "RGBW"),
        ((90, False, False), "GBWR"),  # counter-clockwise
        ((180, False, False), "BWRG"),
        ((270, False, False), "WRGB"),
        ((0, True, False), "GRWB"),  # mirrored left to right
        ((0, False, True), "WBGR"),  # and top to bottom
        ((90, True, False), "BGRW"),
        ((90, False, True), "RWBG"),
    ],
)
def test_the_eight_ways_to_hold_a_camera(tmp_path, rotation, shown):
    path = write_timed(tmp_path / "a.mov", [0, 40], draw=quarters, rotation=rotation)
    frame = next(iter(decode_frames(path)))
    across, down = frame.picture.width, frame.picture.height
    assert (across, down) == ((144, 176) if rotation[0] % 180 else (176, 144))
    assert frame.pixels.shape == (down, across, 3)
    places = [(0.25, 0.25), (0.25, 0.75), (0.75, 0.75), (0.75, 0.25)]  # clockwise
    found = [frame.pixels[int(down * y), int(across * x)] for y, x in places]
    assert "".join("W" if min(c) > 150 else "RGB"[np.argmax(c)] for c in found) == shown


def test_another_angle_is_named(tmp_path):
    path = write_timed(tmp_path / "a.mp4", [0, 40], rotation=(30, False, False))
    with pytest.raises(VideoDecodeError, match="rotated by about (29|30) degrees"):
        list(decode_frames(path))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {"codec": "ffv1", "width": 175, "height": 143}),
        ("a.webm", {"codec": "libvpx-vp9", "width": 175, "height": 143, "container": "matroska"}),
        ("a.mp4", {"pix_fmt": "yuv420p10le"}),
        ("a.mp4", {"codec": "libx265", "pix_fmt": "yuv422p10le"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le", "width": 16, "height": 16}),
        ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
        ("a.mp4", {"options": {"x264-params": "interlaced=1:tff=1"}}),
    ],
)
def test_odd_sizes_ten_bits_and_fields_keep_the_colours(tmp_path, name, options):
    if options.get("codec") == "libx265":
        options = {**options, "options": {"x265-params": "log-level=none"}}
    drawn = quarters(0, options.get("width", 176), options.get("height", 144))
    path = write_timed(tmp_path / name, REGULAR, draw=lambda _: drawn, **options)
    decoded = [frame.pixels for frame in decode_frames(path)]
    assert len(decoded) == 6
    for pixels in decoded:
        assert pixels.shape == drawn.shape
        assert np.abs(pixels.astype(int) - drawn).mean() < 8


def test_interlaced_frames_come_woven(tmp_path):
    def rows(number):
        picture = np.zeros((144, 176, 3), np.uint8)
        picture[number % 2 :: 2] = 255
        return picture

    fields = {"x264-params": "interlaced=1:tff=1:qp=0"}
    path = write_timed(tmp_path / "a.mp4", REGULAR, draw=rows, options=fields)
    with av.open(str(path)) as container:
        assert all(frame.interlaced_frame for frame in container.decode(video=0))
    for number, frame in enumerate(decode_frames(path)):
        assert np.abs(frame.pixels.astype(int) - rows(number)).max() < 8


@pytest.mark.parametrize(("suffix", "container"), [("h264", None), ("ts", "mpegts")])
def test_frames_go_on_where_the_size_changes(tmp_path, suffix, container):
    both = b"".join(
        write_timed(
            tmp_path / f"{width}.{suffix}", REGULAR, width=width, height=144, container=container
        ).read_bytes()
        for width in (176, 320)
    )
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(both)
    assert [frame.pixels.shape[1] for frame in decode_frames(path)] == [176] * 6 + [320] * 6


def test_threads_do_not_change_a_frame(baseball):
    many, one = decode_frames(baseball), decode_frames(baseball, threads=1)
    for left, right in zip(many, one, strict=True):
        assert (left.index, left.time_s, left.duration_s) == (
            right.index,
            right.time_s,
            right.duration_s,
        )
        assert np.array_equal(left.pixels, right.pixels)
