"""Frames to pixels and crops: exact to the byte, or fast and nearly exact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import av
import cv2
import numpy as np
import pytest
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video import frame as frame_module
from c3d_client.video.fast_crop import ExactCrop, FastCrop, Shape
from c3d_client.video.frame import Picture, prepare_frame
from support import videos

# Pixel formats of decoders: those that fast_crop supports, and others.
SUPPORTED_FORMATS = ("yuv420p", "yuvj420p")
OTHER_FORMATS = (
    *("yuv422p", "yuv444p", "nv12", "yuv420p10le", "yuv422p10le", "p010le", "yuva420p", "yuv411p"),
    *("rgb24", "bgr24", "gbrp", "rgba", "gray", "gray10le", "yuyv422", "rgb48le", "pal8"),
)


def noise(format: str, width: int, height: int, seed: int = 0) -> av.VideoFrame:
    """Return a frame of random bytes, on which two conversions do not agree by chance."""
    frame = av.VideoFrame(width, height, format)
    random = np.random.default_rng(seed)
    for plane in frame.planes:
        plane.update(random.bytes(plane.buffer_size))
    return frame


def opencv(frame: av.VideoFrame, rotation: int = 0) -> np.ndarray:
    """Return the exact crop: the whole frame converted, rotated, resized by OpenCV, and cropped."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), rotation // 90)
    resized = cv2.resize(np.ascontiguousarray(pixels), (171, 128), interpolation=cv2.INTER_LINEAR)
    return resized[8:120, 29:141]


def uses_faster_conversion(frame: av.VideoFrame, rotation: int = 0, resize: str = "exact") -> bool:
    """Whether the faster conversion is used; where it is not exact, prepared() does not use it."""
    colours = frame.colorspace, frame.color_range, frame.interlaced_frame
    shape = Shape(frame.format.name, frame.width, frame.height, *colours, rotation // 90)
    crop = frame_module._thread.quick_crop(shape, resize)
    assert crop is None or isinstance(crop, ExactCrop if resize == "exact" else FastCrop)
    return crop is not None


def frames_of(path, count: int = 24) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return [frame for _, frame in zip(range(count), container.decode(video=0), strict=False)]


# Exact crops


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(
    ("width", "height"),
    [(320, 240), (340, 256), (426, 240), (640, 272), (854, 480), (1026, 578), (1280, 720),
     (1918, 1082), (720, 1280), (172, 2160), (4096, 172), (3840, 2160)],
)  # fmt: skip
def test_crop_equals_opencvs_at_any_size_and_rotation(width, height, rotation):
    frame = noise("yuv420p", width, height)
    assert np.array_equal(Picture(frame, rotation=rotation).prepared(), opencv(frame, rotation))
    assert uses_faster_conversion(frame, rotation)


def test_crop_equals_opencvs_at_sixty_random_sizes_and_rotations():
    draw = np.random.default_rng(20)
    for seed in range(60):
        width, height = (int(n) for n in draw.integers(16, 1300, 2))
        if seed % 4:
            width, height = width // 2 * 2 + 200, height // 2 * 2 + 200
        frame = noise(SUPPORTED_FORMATS[seed % 2], width, height, seed)
        frame.colorspace = (2, 1, 5, 6, 9)[seed % 5]
        frame.color_range = seed % 3
        rotation = seed % 4 * 90
        prepared = Picture(frame, rotation=rotation).prepared()
        assert np.array_equal(prepared, opencv(frame, rotation)), (width, height, rotation)
        if seed % 4:
            assert uses_faster_conversion(frame, rotation), (width, height, rotation)


@pytest.mark.parametrize("format", [*SUPPORTED_FORMATS, *OTHER_FORMATS])
@pytest.mark.parametrize(
    ("width", "height"), [(320, 240), (321, 241), (322, 241), (321, 240), (176, 144), (16, 16)]
)
def test_crop_equals_opencvs_in_any_pixel_format_and_odd_or_small_sizes(format, width, height):
    frame = noise(format, width, height)
    for resize in ("exact", "fast") if format not in SUPPORTED_FORMATS else ("exact",):
        for rotation in (0, 270):
            prepared = Picture(frame, rotation=rotation).prepared(resize)
            assert np.array_equal(prepared, opencv(frame, rotation)), (resize, rotation)


@pytest.mark.parametrize("video", ["bikes", "bunny", "carphone"])
def test_crop_of_decoded_video_equals_opencvs(video, request):
    for frame in frames_of(request.getfixturevalue(video)):
        assert np.array_equal(Picture(frame).prepared(), opencv(frame))


def test_interlaced_video_is_converted_field_by_field(tmp_path):
    path = videos.write_video(
        tmp_path / "interlaced.mp4",
        3,
        width=1280,
        height=720,
        draw=lambda n: videos.noise(n, width=1280, height=720),
        options={"x264-params": "tff=1", "flags": "+ildct+ilme", "crf": "4"},
    )
    for frame in frames_of(path):
        assert frame.interlaced_frame
        for resize in ("exact", "fast"):
            assert np.array_equal(Picture(frame).prepared(resize), opencv(frame))


@pytest.mark.parametrize("size", [(320, 240), (1280, 720)])
def test_picture_stored_from_the_bottom_up(size):
    graph = av.filter.Graph()
    source = graph.add_buffer(width=size[0], height=size[1], format="yuv420p", time_base="1/25")
    graph.link_nodes(source, graph.add("vflip"), graph.add("buffersink")).configure()
    blocks = videos.noise(0, width=size[0], height=size[1])
    graph.push(av.VideoFrame.from_ndarray(blocks).reformat(format="yuv420p"))
    frame = graph.pull()
    assert frame.planes[0].line_size < 0
    exact = Picture(frame).prepared()
    assert np.array_equal(exact, opencv(frame))
    assert mean_difference(Picture(frame).prepared("fast"), exact) < 20  # over 50 if upside down


def test_faster_conversion_is_not_used_if_its_bytes_differ(monkeypatch):
    class OneLevelOff(ExactCrop):
        def __call__(self, frame):
            return super().__call__(frame) ^ 1

    monkeypatch.setattr(frame_module, "ExactCrop", OneLevelOff)
    frame_module._is_exact.cache_clear()
    frame_module._thread.quick_crop.cache_clear()
    frame = noise("yuv420p", 640, 362)
    assert np.array_equal(Picture(frame).prepared(), opencv(frame))
    frame_module._is_exact.cache_clear()
    frame_module._thread.quick_crop.cache_clear()


def test_threads_can_convert_pictures_of_different_sizes():
    frames = [noise("yuv420p", *(1280, 720) if n % 3 else (320, 240), n) for n in range(24)]
    with ThreadPoolExecutor(4) as threads:
        crops = list(threads.map(lambda n: Picture(frames[n % 24]).prepared(), range(96)))
    for n, crop in enumerate(crops):
        assert np.array_equal(crop, opencv(frames[n % 24])), n


@pytest.mark.parametrize("resize", ["exact", "fast"])
@pytest.mark.parametrize("size", [(320, 240), (1280, 720), (64, 64)])
def test_crop_is_contiguous_and_is_not_overwritten_by_the_next(size, resize):
    first = Picture(noise("yuv420p", *size)).prepared(resize)
    before = first.copy()
    Picture(noise("yuv420p", *size, 1)).prepared(resize)
    assert first.shape == (112, 112, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert np.array_equal(first, before)


@pytest.mark.parametrize("size", [(320, 241), (321, 240), (640, 126), (170, 640)])
def test_fast_crop_of_odd_sizes_and_enlarged_pictures_is_exact(size):
    frame = noise("yuv420p", *size)
    assert np.array_equal(Picture(frame).prepared("fast"), opencv(frame))


# Fast crops


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


# Measured 0.3, 0.4, 1.2 and 1.0; the largest single differences were 15, 17, 44 and 67.
@pytest.mark.parametrize(
    ("video", "most"), [("bikes", 0.5), ("bunny", 0.6), ("carphone", 1.5), ("baseball", 1.3)]
)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_fast_crop_differs_by_about_one_level_from_the_exact_one(video, most, rotation, request):
    if video == "bikes" and rotation % 180:
        most = 1.0  # when rotated, its chroma is too small to be resized to the size of luma
    for frame in frames_of(request.getfixturevalue(video), 12):
        picture = Picture(frame, rotation=rotation)
        difference = mean_difference(picture.prepared("fast"), picture.prepared())
        # Enlarged pictures are exact, such as this one when it is rotated.
        assert (difference == 0) == (video == "carphone" and rotation % 180 != 0)
        assert difference < most


@pytest.mark.parametrize("size", [(320, 240), (1280, 720)])
@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("colorspace", [1, 2, 5, 7, 9])
@pytest.mark.parametrize("format", SUPPORTED_FORMATS)
def test_fast_crop_keeps_the_colours_of_every_matrix_and_range(
    format, colorspace, color_range, size
):
    frame = av.VideoFrame(*size, format)
    for plane, value in zip(frame.planes, (120, 90, 170), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = colorspace, color_range
    difference = Picture(frame).prepared("fast").astype(int) - opencv(frame)
    assert np.abs(difference).max() <= 1
    assert uses_faster_conversion(frame, resize="fast")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(("width", "height"), [(344, 258), (342, 256), (340, 254), (172, 172)])
def test_fast_crop_has_the_position_of_the_exact_one(width, height, rotation):
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(20, 230, width)
    ramps[..., 1] = np.linspace(20, 230, height)[:, None]
    frame = av.VideoFrame.from_ndarray(ramps).reformat(format="yuv420p")
    picture = Picture(frame, rotation=rotation)
    difference = picture.prepared("fast").astype(float) - picture.prepared()
    # Half a pixel of 171 is 0.6 levels of the ramps.
    assert np.abs(difference.mean((0, 1))).max() < 0.3


# Whole pictures


def test_pixels_are_rotated_and_copied():
    frame = noise("yuv420p", 64, 48)
    whole = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
    for rotation, height, width in ((0, 48, 64), (90, 64, 48), (-90, 64, 48), (180, 48, 64)):
        picture = Picture(frame, rotation=rotation)
        assert (picture.height, picture.width) == (height, width)
        pixels = picture.pixels()
        assert np.array_equal(pixels, np.rot90(whole, rotation // 90))
        pixels[:] = 0
    assert np.array_equal(Picture(frame).pixels(), whole)


def test_rotation_is_counter_clockwise_as_in_pyav():
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[:, 160:] = 255  # white on the right, so at the top after the rotation
    frame = av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p")
    for resize in ("exact", "fast"):
        crop = Picture(frame, rotation=90).prepared(resize)
        assert crop[:40].min() > 240
        assert crop[-40:].max() < 15


def test_picture_from_pixels_copies_them():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    mirrored = pixels[:, ::-1]
    picture = Picture.from_pixels(mirrored)
    assert np.array_equal(picture.pixels(), mirrored)
    assert np.array_equal(picture.prepared(), prepare_frame(mirrored))
    picture.pixels()[:] = 0
    before = picture.pixels()
    pixels[:] = 0
    assert np.array_equal(picture.pixels(), before)
    assert before.any()


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
     np.zeros((0, 4, 3), np.uint8)],
)  # fmt: skip
def test_picture_from_wrong_dtype_or_shape_is_an_error(pixels):
    with pytest.raises(UsageError, match=r"give uint8 \[height, width, 3\]"):
        Picture.from_pixels(pixels)


def test_unknown_resize_is_an_error_that_names_the_known_ones():
    with pytest.raises(UsageError, match="'lanczos'; give one of: exact, fast"):
        Picture(noise("yuv420p", 320, 240)).prepared("lanczos")


@pytest.mark.parametrize("make", ["pixels", "prepared"])
@pytest.mark.parametrize(("matrix", "name"), [(8, "YCgCo"), (10, "BT.2020 with"), (14, "ICtCp")])
def test_matrix_that_ffmpeg_cannot_convert_is_a_decode_error(make, matrix, name):
    frame = noise("yuv420p", 320, 240)
    frame.colorspace, frame.color_trc = matrix, 9
    with pytest.raises(VideoDecodeError, match=rf"a\.mp4: .* {name}.*_coefficients {matrix}\)"):
        getattr(Picture(frame, name="a.mp4"), make)()


# Labels that do not concern the conversion to RGB

# libswscale refuses the transfer characteristics 0, 3, 9, 10 and the primaries 0, 3.
LABELS = [("color_trc", value) for value in range(25)]
LABELS += [("color_primaries", value) for value in range(25)]


@pytest.mark.parametrize("matrix", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "format", ["yuv420p", "yuvj420p", "yuv444p", "yuv420p10le", "gbrp", "gray"]
)
def test_transfer_and_primaries_change_no_pixel(format, matrix):
    def labelled(attribute=None, value=None):
        frame = noise(format, 320, 240)
        frame.colorspace = matrix
        if attribute:
            setattr(frame, attribute, value)
        return frame

    expected, crop = Picture(labelled()).pixels(), opencv(labelled())
    fast = Picture(labelled()).prepared("fast")
    for attribute, value in LABELS:
        case = f"{attribute} {value}"
        assert np.array_equal(Picture(labelled(attribute, value)).pixels(), expected), case
        assert np.array_equal(Picture(labelled(attribute, value)).prepared(), crop), case
        assert np.array_equal(Picture(labelled(attribute, value)).prepared("fast"), fast), case


@pytest.mark.parametrize("format", ["yuv420p", "yuv444p"])
def test_reserved_matrix_is_converted_as_an_unspecified_one(format):
    reserved, unspecified = noise(format, 320, 240), noise(format, 320, 240)
    reserved.colorspace, unspecified.colorspace = 3, 2
    assert np.array_equal(Picture(reserved).pixels(), Picture(unspecified).pixels())
    assert np.array_equal(Picture(reserved).prepared(), Picture(unspecified).prepared())
