"""Rotation and mirroring within a video: each holds until the next one."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.decode import decode_frames
from support.videos import add_video, noise

# The bits of a display orientation message: mirrored left to right, top to bottom, and the angle
# counter-clockwise in 1/65536 of a turn.
QUARTER = 1 << 14
UPRIGHT, LEFT, DOWN, RIGHT = ((0, 0, turns * QUARTER) for turns in range(4))
MIRRORED, FLIPPED, MIRRORED_LEFT = (1, 0, 0), (0, 1, 0), (1, 0, QUARTER)

TURN = {
    UPRIGHT: lambda pixels: pixels,
    LEFT: np.rot90,
    DOWN: lambda pixels: np.rot90(pixels, 2),
    RIGHT: lambda pixels: np.rot90(pixels, 3),
    MIRRORED: np.fliplr,
    FLIPPED: np.flipud,
    MIRRORED_LEFT: lambda pixels: np.rot90(np.fliplr(pixels)),
}


def message(codec, orientation, *, period=1, before=b""):
    """Return a unit with a display orientation message, in Annex B.

    Args:
        codec: libx264 or libx265.
        orientation: one of the above.
        period: H.264's repetition period.
        before: another message in the same unit.
    """
    hflip, vflip, angle = orientation
    bits = f"0{hflip}{vflip}{angle:016b}"
    if codec == "libx265":
        bits += "1"  # it persists
    else:
        digits = f"{period + 1:b}"  # an Exp-Golomb code
        bits += "0" * (len(digits) - 1) + digits + "0"
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    payload = before + bytes([47, len(bits) // 8]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
    escaped = bytearray()
    for byte in payload + b"\x80":
        if byte <= 3 and escaped[-2:] == b"\0\0":
            escaped.append(3)
        escaped.append(byte)
    return b"\0\0\0\1" + (b"\x06" if codec == "libx264" else b"\x4e\x01") + bytes(escaped)


def insert(data, unit, codec):
    """Insert a unit before the first slice of a picture, in Annex B."""
    position = data.index(b"\0\0\1")
    while True:
        first = data[position + 3]
        is_slice = 1 <= first & 31 <= 5 if codec == "libx264" else first >> 1 & 63 < 32
        if is_slice:
            start = position - (data[position - 1 : position] == b"\0")
            return data[:start] + unit + data[start:]
        position = data.index(b"\0\0\1", position + 3)


def write_turned(path, codec, units, *, options=None, frames=18, rotation=None):
    """Write a video with units before the pictures of some packets, by the packets' numbers."""
    # The threads of x265's pools now and then wait for each other for ever.
    log = {"x265-params": "log-level=none:pools=none:bframes=0:keyint=6:min-keyint=6:scenecut=0"}
    with av.open(str(path), "w") as output:
        options = options or (log if codec == "libx265" else {"bf": "0", "g": "6"})
        stream = add_video(output, codec, options=options)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        packets = []
        for number in range(frames):
            pixels = noise(number, width=176, height=144)
            packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += stream.encode()
        for number, packet in enumerate(packets):
            if number in units:
                changed = av.Packet(insert(bytes(packet), units[number], codec))
                changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
                changed.time_base, changed.stream = packet.time_base, stream
                changed.is_keyframe = packet.is_keyframe
                packet = changed
            output.mux(packet)
    return path


def assert_turned(turned, plain, orientations, **options):
    """Check each frame against the frame of the video without messages."""
    count = 0
    for count, (one, other) in enumerate(
        zip(decode_frames(turned, **options), decode_frames(plain), strict=True), 1
    ):
        expected = TURN[orientations[count - 1]](other.pixels)
        assert np.array_equal(one.pixels, expected), f"frame {count - 1}"
    assert count == len(orientations)


CONTAINERS = [
    *(("libx264", name) for name in ("a.mp4", "a.mkv", "a.ts", "a.flv", "a.h264", "a.avi")),
    *(("libx265", name) for name in ("a.mp4", "a.mkv", "a.ts", "a.hevc")),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("codec", "name", "orientation"),
    [
        *((*pair, LEFT) for pair in CONTAINERS),
        *(("libx264", "a.mp4", turn) for turn in (DOWN, RIGHT, MIRRORED, FLIPPED, MIRRORED_LEFT)),
        *(("libx265", "a.ts", turn) for turn in (DOWN, RIGHT, MIRRORED, FLIPPED, MIRRORED_LEFT)),
    ],
)
def test_one_message_turns_all_frames(tmp_path, codec, name, orientation):
    units = {0: message(codec, orientation)}
    turned = write_turned(tmp_path / f"turned-{name}", codec, units)
    plain = write_turned(tmp_path / f"plain-{name}", codec, {})
    assert_turned(turned, plain, [orientation] * 18, threads=1)


@pytest.mark.long
@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize(("codec", "name"), CONTAINERS)
def test_message_holds_until_the_next_one_also_an_upright_one(tmp_path, codec, name, threads):
    order = {3: LEFT, 6: UPRIGHT, 9: DOWN, 10: MIRRORED, 13: UPRIGHT, 15: FLIPPED, 17: UPRIGHT}
    units = {number: message(codec, orientation) for number, orientation in order.items()}
    turned = write_turned(tmp_path / f"turned-{name}", codec, units)
    plain = write_turned(tmp_path / f"plain-{name}", codec, {})
    expected = [UPRIGHT]
    for number in range(18):
        expected.append(order.get(number, expected[-1]))
    for threads in (0, 1):
        assert_turned(turned, plain, expected[1:], threads=threads)


def test_messages_apply_in_the_order_of_presentation(tmp_path):
    options = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=6:min-keyint=6"}
    units = {0: message("libx264", LEFT), 6: message("libx264", UPRIGHT)}
    turned = write_turned(tmp_path / "a.mp4", "libx264", units, options=options)
    plain = write_turned(tmp_path / "b.mp4", "libx264", {}, options=options)
    assert_turned(turned, plain, [LEFT] * 6 + [UPRIGHT] * 12)


@pytest.mark.parametrize("period", [0, 1, 63, 16383])
def test_upright_message_is_found_wherever_it_is(tmp_path, period):
    # Two long messages before it, with bytes that keep start codes out of them.
    other = bytes([5, 255, 45]) + bytes(300) + bytes([4, 3, 0, 0, 1])
    upright = message("libx264", UPRIGHT, period=period, before=other)
    units = {0: message("libx264", LEFT, period=period, before=other), 6: upright}
    turned = write_turned(tmp_path / "a.mp4", "libx264", units)
    plain = write_turned(tmp_path / "b.mp4", "libx264", {})
    assert_turned(turned, plain, [LEFT] * 6 + [UPRIGHT] * 12)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_matrix_of_the_container_turns_all_frames(tmp_path, name):
    turned = write_turned(tmp_path / f"turned-{name}", "libx264", {}, rotation=90)
    plain = write_turned(tmp_path / f"plain-{name}", "libx264", {})
    assert_turned(turned, plain, [LEFT] * 18)


def test_matrix_of_the_container_takes_precedence_over_messages(tmp_path):
    # As in libavcodec since FFmpeg 7.1, and in players.
    units = {6: message("libx264", LEFT), 12: message("libx264", UPRIGHT)}
    turned = write_turned(tmp_path / "a.mp4", "libx264", units, rotation=180)
    plain = write_turned(tmp_path / "b.mp4", "libx264", {})
    assert_turned(turned, plain, [DOWN] * 18)


@pytest.mark.parametrize("units", [{0: 30}, {0: 90, 6: 30}])
def test_message_with_another_angle_is_an_error(tmp_path, units):
    messages = {
        number: message("libx264", (0, 0, degrees * 65536 // 360))
        for number, degrees in units.items()
    }
    path = write_turned(tmp_path / "a.mp4", "libx264", messages)
    with pytest.raises(VideoDecodeError, match="rotated by about (29|30) degrees"):
        list(decode_frames(path))


def test_frames_are_freed_without_the_garbage_collector(tmp_path):
    # PyAV's list of a frame's side data refers to the frame, and the frame to the list.
    units = {number: message("libx264", (LEFT, UPRIGHT)[number % 2]) for number in range(18)}
    paths = [
        write_turned(tmp_path / "a.mp4", "libx264", units),
        write_turned(tmp_path / "b.mp4", "libx264", {}, rotation=90),
    ]
    gc.collect()
    gc.disable()
    try:
        for path in paths:
            assert len(list(decode_frames(path))) == 18
        cycles = sum(type(value).__name__ == "SideDataContainer" for value in gc.get_objects())
    finally:
        gc.enable()
    assert cycles <= 2  # of each video's first frame


def exif(orientation):
    """Return a JPEG segment of EXIF data with an orientation."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + orientation.to_bytes(2, "big") + b"\0\0"
    data = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + bytes(4)
    return b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "a.mkv"])
@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, UPRIGHT), (2, MIRRORED), (3, DOWN), (6, RIGHT), (8, LEFT)]
)
def test_jpeg_with_exif_is_decoded_and_turned(tmp_path, name, orientation, turn):
    paths = {"plain": b"", "turned": exif(orientation)}
    for kind, segment in paths.items():
        with av.open(str(tmp_path / f"{kind}-{name}"), "w") as output:
            stream = output.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 176, 144, "yuvj420p"
            for number in range(4):
                pixels = noise(number, width=176, height=144)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                for packet in stream.encode(frame):
                    data = bytes(packet)
                    changed = av.Packet(data[:2] + segment + data[2:])
                    changed.pts = changed.dts = number
                    changed.time_base, changed.stream = Fraction(1, 25), stream
                    changed.is_keyframe = True
                    output.mux(changed)
    assert_turned(tmp_path / f"turned-{name}", tmp_path / f"plain-{name}", [turn] * 4)
