"""decode_frames: every frame in order with OpenCV's pixels, and files that are not videos."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.decode import decode_frames
from support.videos import noise, write_sound, write_timed, write_video


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [("bikes", 250, (272, 640)), ("bunny", 132, (720, 1280)), ("carphone", 120, (144, 176))],
)
def test_h264_frames_are_complete_and_in_order(request, name, frames, size):
    decoded = list(decode_frames(request.getfixturevalue(name)))
    assert [frame.index for frame in decoded] == list(range(frames))
    assert {frame.pixels.shape for frame in decoded} == {(*size, 3)}
    assert {frame.pixels.dtype for frame in decoded} == {np.dtype(np.uint8)}
    times = [frame.time_s for frame in decoded]
    assert times == sorted(set(times))
    assert times[0] == pytest.approx(0.0, abs=1e-6)


def test_packed_b_frames_of_ucf101(baseball):
    decoded = list(decode_frames(baseball))
    assert len(decoded) == 107
    steps = np.diff([frame.time_s for frame in decoded])
    assert steps == pytest.approx(np.full(106, 1001 / 30000), abs=1e-3)


def test_source_may_be_a_path_or_a_string(carphone):
    from_path = next(iter(decode_frames(carphone)))
    from_string = next(iter(decode_frames(str(carphone))))
    assert np.array_equal(from_path.pixels, from_string.pixels)


def test_pixels_are_rgb(tmp_path):
    def red(_number):
        return np.full((240, 320, 3), (200, 20, 20), np.uint8)

    frame = next(iter(decode_frames(write_video(tmp_path / "red.mp4", 2, draw=red))))
    assert frame.pixels[100, 100] == pytest.approx((200, 20, 20), abs=12)


def test_decoding_can_be_ended_early(bunny):
    frames = decode_frames(bunny)
    next(frames)
    frames.close()


class TestNotAVideo:
    def fails(self, path, message):
        with pytest.raises(VideoDecodeError, match=message) as caught:
            list(decode_frames(path))
        assert caught.value.source == str(path)
        assert "\n" not in str(caught.value)

    def test_missing_file(self, tmp_path):
        self.fails(tmp_path / "absent.mp4", "no such file")

    def test_folder(self, tmp_path):
        self.fails(tmp_path, "is a folder")

    def test_empty_file(self, tmp_path):
        path = tmp_path / "empty.mp4"
        path.touch()
        self.fails(path, "is empty")

    @pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "notes"])
    def test_text_of_any_name(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("not a video\n" * 2000)
        self.fails(path, "cannot be opened as a video|is text, not a video")

    def test_random_bytes(self, tmp_path):
        path = tmp_path / "noise.mp4"
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
        self.fails(path, "cannot be opened as a video")

    def test_audio_only(self, tmp_path):
        self.fails(write_sound(tmp_path / "song.m4a"), r"has no video stream \(it holds: audio aac")

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("tail.mp4", "libx264", {}),  # its index, at the end, is missing
            ("head.mp4", "libx264", {"movflags": "faststart"}),
            ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
            ("video.avi", "mpeg4", {}),
            ("video.mkv", "libx264", {}),
            ("video.webm", "libvpx-vp9", {}),
        ],
    )
    def test_video_that_is_cut_short(self, tmp_path, name, codec, options):
        whole = write_video(tmp_path / name, 60, codec=codec, draw=noise, container_options=options)
        assert len(list(decode_frames(whole))) == 60
        content = whole.read_bytes()
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(content[: int(len(content) * 0.6)])
        self.fails(cut, "is cut short|cannot be opened as a video")

    def test_real_video_that_is_cut_short(self, baseball, tmp_path):
        cut = tmp_path / "cut.avi"
        cut.write_bytes(baseball.read_bytes()[:200_000])
        self.fails(cut, "is cut short")


REGULAR = [40 * number for number in range(6)]


def coloured_quarters(_number, width=176, height=144):
    """Return a picture of red, green, blue and white quarters, clockwise from the top left."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 220, 30, 30
    picture[: height // 2, width // 2 :] = 30, 220, 30
    picture[height // 2 :, width // 2 :] = 30, 30, 220
    picture[height // 2 :, : width // 2] = 230, 230, 230
    return picture


def count_frames_equal_to_opencvs(path):
    """Check that every frame equals the one of cv2.VideoCapture, and return their number."""
    reader = cv2.VideoCapture(str(path))
    count = 0
    for frame in decode_frames(path):
        is_read, picture = reader.read()
        assert is_read
        assert np.array_equal(frame.pixels, picture[:, :, ::-1]), f"frame {count} differs"
        count += 1
    assert not reader.read()[0]
    return count


@pytest.mark.parametrize(("name", "frames"), [("baseball", 107), ("carphone", 120), ("bikes", 250)])
def test_frames_of_real_videos_equal_opencvs(request, name, frames):
    assert count_frames_equal_to_opencvs(request.getfixturevalue(name)) == frames


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
def test_frames_of_all_formats_equal_opencvs(tmp_path, name, options):
    stamps = range(6) if "time_base" in options else REGULAR
    assert count_frames_equal_to_opencvs(write_timed(tmp_path / name, stamps, **options)) == 6


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_video_is_rotated_as_by_opencv(tmp_path, degrees):
    path = write_timed(tmp_path / "a.mp4", REGULAR, rotation=(degrees, False, False))
    assert count_frames_equal_to_opencvs(path) == 6


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
def test_all_rotations_and_mirrorings(tmp_path, rotation, shown):
    path = write_timed(tmp_path / "a.mov", [0, 40], draw=coloured_quarters, rotation=rotation)
    frame = next(iter(decode_frames(path)))
    width, height = frame.picture.width, frame.picture.height
    assert (width, height) == ((144, 176) if rotation[0] % 180 else (176, 144))
    assert frame.pixels.shape == (height, width, 3)
    positions = [(0.25, 0.25), (0.25, 0.75), (0.75, 0.75), (0.75, 0.25)]  # clockwise
    colours = [frame.pixels[int(height * y), int(width * x)] for y, x in positions]
    assert "".join("W" if min(c) > 150 else "RGB"[np.argmax(c)] for c in colours) == shown


def test_other_angles_are_errors(tmp_path):
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
def test_colours_of_odd_sizes_ten_bits_and_interlaced_fields(tmp_path, name, options):
    if options.get("codec") == "libx265":
        options = {**options, "options": {"x265-params": "log-level=none"}}
    drawn = coloured_quarters(0, options.get("width", 176), options.get("height", 144))
    path = write_timed(tmp_path / name, REGULAR, draw=lambda _: drawn, **options)
    decoded = [frame.pixels for frame in decode_frames(path)]
    assert len(decoded) == 6
    for pixels in decoded:
        assert pixels.shape == drawn.shape
        assert np.abs(pixels.astype(int) - drawn).mean() < 8


def test_interlaced_frames_contain_both_fields(tmp_path):
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
def test_frame_size_may_change_within_a_video(tmp_path, suffix, container):
    both = b"".join(
        write_timed(
            tmp_path / f"{width}.{suffix}", REGULAR, width=width, height=144, container=container
        ).read_bytes()
        for width in (176, 320)
    )
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(both)
    assert [frame.pixels.shape[1] for frame in decode_frames(path)] == [176] * 6 + [320] * 6


def test_threads_do_not_change_frames(baseball):
    parallel, sequential = decode_frames(baseball), decode_frames(baseball, threads=1)
    for left, right in zip(parallel, sequential, strict=True):
        assert (left.index, left.time_s, left.duration_s) == (
            right.index,
            right.time_s,
            right.duration_s,
        )
        assert np.array_equal(left.pixels, right.pixels)
