"""Files that end early: sizes and end marks decide, for cut files and for sound ones."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError, VideoUnreadableError
from c3d_client.video import containers, stores
from c3d_client.video import decode as decoder
from c3d_client.video.containers import EndCheck
from c3d_client.video.decode import decode_frames
from c3d_client.video.sources import open_source
from support.s3_faults import s3_proxy
from support.s3_server import s3_server
from support.videos import add_video, noise, write_video
from support.web_server import web_server

FRAMES = 40


@dataclasses.dataclass(frozen=True)
class Kind:
    """How to write a file.

    Args:
        container: FFmpeg's name of the format.
        codec, pix_fmt, size: of the pictures.
        sound: the audio codec; empty for none.
        options: of the container.
        is_whole: whether the container records a size or an end mark.
        unit: a cut at multiples of so many bytes cannot be seen; 0 for none.
    """

    container: str
    codec: str
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (176, 144)
    sound: str = ""
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    is_whole: bool = True
    unit: int = 0


FAST = {
    "libvpx": {"deadline": "realtime", "cpu-used": "-8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libx264": {"preset": "veryfast"},
}
CLUSTERS = {"cluster_time_limit": "300"}
FRAGMENTS = {"frag_duration": "400000"}
KINDS = {
    "avi": Kind("avi", "mpeg4", sound="mp2"),
    "avi of H.264": Kind("avi", "libx264"),
    "wmv": Kind("asf", "wmv2", sound="mp2"),
    "wmv without sound": Kind("asf", "wmv1"),
    "gif": Kind("gif", "gif", "rgb8"),
    "ogg": Kind("ogg", "libvpx", sound="opus"),
    "ogg without sound": Kind("ogg", "libvpx"),
    "y4m": Kind("yuv4mpegpipe", "wrapped_avframe"),
    "y4m of 4:4:4": Kind("yuv4mpegpipe", "wrapped_avframe", "yuv444p"),
    "mp4": Kind("mp4", "libx264", sound="aac"),
    "mp4 with its index first": Kind(
        "mp4", "libx264", sound="aac", options={"movflags": "faststart"}
    ),
    "mp4 in fragments": Kind(
        "mp4", "libx264", sound="aac", options={"movflags": "frag_keyframe+empty_moov", **FRAGMENTS}
    ),
    "mp4 in fragments with one index": Kind(
        "mp4", "libx264", options={"movflags": "dash+global_sidx+skip_trailer", **FRAGMENTS}
    ),
    "mp4 in fragments without an index": Kind(
        *("mp4", "libx264"), is_whole=False, options={"movflags": "dash+skip_trailer", **FRAGMENTS}
    ),
    "mov": Kind("mov", "mjpeg", "yuvj420p", sound="pcm_s16le"),
    "3gp": Kind("3gp", "mpeg4", sound="aac"),
    "mkv": Kind("matroska", "libx264", sound="aac", options=CLUSTERS),
    "mkv of FFV1": Kind("matroska", "ffv1", options=CLUSTERS),
    "live mkv": Kind("matroska", "libx264", options={**CLUSTERS, "live": "1"}, is_whole=False),
    "webm": Kind("webm", "libvpx-vp9", sound="opus", options=CLUSTERS),
    "flv": Kind("flv", "libx264", sound="aac"),
    "flv without its size": Kind(
        *("flv", "flv"), sound="libmp3lame", is_whole=False,
        options={"flvflags": "no_duration_filesize"},
    ),
    "rm": Kind("rm", "rv20", sound="ac3", is_whole=False),
    "ivf": Kind("ivf", "libvpx", is_whole=False),
    "mxf": Kind("mxf", "mpeg2video", "yuv422p", sound="pcm_s16le"),
    "nut": Kind("nut", "mpeg4", sound="mp2"),
    "dv": Kind("dv", "dvvideo", size=(720, 576), sound="pcm_s16le", is_whole=False, unit=144_000),
    "dvcpro50": Kind("dv", "dvvideo", "yuv422p", (720, 576), "pcm_s16le", {}, False, 288_000),
    "mpg": Kind("vob", "mpeg2video", sound="mp2", is_whole=False),
    "mpg of MPEG-1": Kind("mpeg", "mpeg1video", sound="mp2", is_whole=False),
    "ts": Kind("mpegts", "libx264", sound="aac", is_whole=False, unit=188),
    "m2ts": Kind(
        *("mpegts", "libx264"), sound="aac", is_whole=False, unit=192,
        options={"mpegts_m2ts_mode": "1"},
    ),
}  # fmt: skip


def write(path, kind, frames=FRAMES):
    """Write a file of noise at 25 frames a second, with silent sound of the same length."""
    width, height = kind.size
    with av.open(str(path), "w", format=kind.container, options=kind.options) as output:
        stream = add_video(output, kind.codec, options=FAST.get(kind.codec))
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pix_fmt
        packets = []
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(
                noise(number, width=width, height=height), format="rgb24"
            )
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += stream.encode(picture)
        packets += stream.encode()
        if kind.sound:
            sound = output.add_stream(kind.sound, rate=48000, layout="stereo")
            length = sound.codec_context.frame_size or 1024
            to_codec = av.AudioResampler(sound.codec_context.format, "stereo", 48000)
            for start in range(0, 1920 * frames, length):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((2, length), np.float32), format="fltp", layout="stereo"
                )
                silence.sample_rate, silence.pts = 48000, start
                silence.time_base = Fraction(1, 48000)
                for converted in to_codec.resample(silence):
                    packets += sound.encode(converted)
            packets += sound.encode()
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            output.mux(packet)
    return path.read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the bytes of a sound file of a kind, by its name in KINDS."""
    folder = tmp_path_factory.mktemp("made")
    return functools.cache(lambda name: write(folder / name.replace(" ", "-"), KINDS[name]))


def decode(content):
    """Return the number of frames, or the reason of the error."""
    try:
        return sum(1 for _ in decode_frames(io.BytesIO(content), threads=1))
    except VideoDecodeError as error:
        return error.reason


def ending(content):
    return EndCheck(io.BytesIO(content)).ending


def is_cut(content):
    return bool(ending(content).cut)


def pictures_end(content):
    """Return the offset behind the last packet."""
    with av.open(io.BytesIO(content)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        return max(packet.pos + packet.size for packet in packets if packet.pos is not None)


def cut_points(kind, content, *, first, count):
    """Yield offsets up to the end of the file, none at a multiple of the kind's unit."""
    for offset in np.linspace(len(content) * first, len(content) - 1, count).astype(int):
        on_unit = kind.unit and min(offset % kind.unit, -offset % kind.unit) < 8
        yield int(offset) - (16 if on_unit else 0)


@pytest.mark.parametrize("name", KINDS)
def test_sound_file_has_all_frames(made, name):
    content = made(name)
    assert decode(content) == FRAMES
    assert ending(content) == containers.Ending(is_whole=KINDS[name].is_whole)


@pytest.mark.parametrize("name", KINDS)
def test_cut_file_is_an_error_and_never_a_shorter_video(made, name):
    content = made(name)
    end = pictures_end(content)
    for offset in cut_points(KINDS[name], content, first=0.1, count=24):
        result = decode(content[:offset])
        if offset < end - 16:
            assert isinstance(result, str), f"{result} frames of a file cut at {offset}"
        else:
            assert result == FRAMES or isinstance(result, str)


@pytest.mark.parametrize("name", KINDS)
def test_bytes_alone_show_that_a_file_is_cut(made, name):
    content, kind = made(name), KINDS[name]
    end = pictures_end(content)
    missed = [
        offset
        for offset in cut_points(kind, content, first=0.2, count=300)
        if offset < end - 16 and not is_cut(content[:offset])
    ]
    # Nothing shows that the file goes on after a whole packet, fragment or cluster.
    allowed = {"mpg": 30, "mpg of MPEG-1": 30, "m2ts": 8}.get(name, 0 if kind.is_whole else 3)
    assert len(missed) <= allowed, missed


@pytest.mark.parametrize(
    ("name", "missing"),
    [("avi", 500), ("wmv", 40), ("mkv", 20), ("webm", 20), ("nut", 40), ("mp4 in fragments", 90)],
)
def test_cut_index_at_the_end_is_no_loss(made, name, missing):
    content = made(name)
    assert decode(content[:-missing]) == FRAMES
    assert ending(content[:-missing]) == containers.Ending(
        is_whole=name not in ("nut", "mp4 in fragments")
    )


def test_message_has_what_was_expected_and_what_is_there(made):
    for name, expected in {
        "avi": "it says 40 frames in {whole} bytes and ends after {cut}",
        "mkv": "it says 1.6\\d s in {whole} bytes and ends after {cut}",
        "flv": "it says 1.6\\d s in {whole} bytes and ends after {cut}",
        "gif": "it ends without its end mark, after {cut} bytes",
        "y4m": "it ends within frame 23, after {cut} bytes",
    }.items():
        content = made(name)
        cut = int(len(content) * 0.6)
        with pytest.raises(VideoDecodeError) as caught:
            next(decode_frames(io.BytesIO(content[:cut])))
        assert type(caught.value) is VideoDecodeError
        sizes = {"whole": f"{len(content):,}", "cut": f"{cut:,}"}
        assert re.fullmatch(f"is cut short: {expected.format(**sizes)}", caught.value.reason)


# Sound files


def in_place(content, offset, new):
    return content[:offset] + new + content[offset + len(new) :]


def without_avi_sizes(content, size):
    """Return an AVI as an interrupted recorder leaves it: no sizes, and no index."""
    content = content[: content.rindex(b"idx1")]
    return in_place(in_place(content, 4, size), content.index(b"movi") - 4, size)


def as_broadcast(content):
    properties = content.index(containers._ASF_FILE)
    return in_place(content, properties + 88, b"\1\0\0\0")


def boxes(content):
    """Return the offsets of an MP4's boxes, by name; of several the last."""
    found, at = {}, 0
    while at < len(content):
        found[content[at + 4 : at + 8]] = at
        at += struct.unpack_from(">I", content, at)[0]
    return found


def with_mdat_to_the_end(content):
    return in_place(content, boxes(content)[b"mdat"], bytes(4))


def with_wide_mdat(content):
    """Return an MP4 whose `mdat` has a size of 8 bytes in place of the `free` box before it."""
    free, mdat = boxes(content)[b"free"], boxes(content)[b"mdat"]
    assert mdat == free + 8
    length = struct.unpack_from(">I", content, mdat)[0] + 8
    return in_place(content, free, struct.pack(">I4sQ", 1, b"mdat", length))


def without_cluster_sizes(content):
    """Return a Matroska file with unknown sizes, as browsers record."""
    at = content.index(b"\x18\x53\x80\x67") + 4
    content = in_place(content, at, b"\1" + b"\xff" * 7)
    at = content.find(b"\x1f\x43\xb6\x75")
    while at >= 0:
        size_bytes = 9 - content[at + 4].bit_length()
        unknown = ((1 << 7 * size_bytes + 1) - 1).to_bytes(size_bytes, "big")
        content = in_place(content, at + 4, unknown)
        at = content.find(b"\x1f\x43\xb6\x75", at + 4)
    return content[: content.rindex(b"\x1c\x53\xbb\x6b")]


def flv_number(content, name, number):
    return in_place(content, content.index(name) + len(name) + 1, struct.pack(">d", number))


def with_parity(content):
    """Return a transport stream in packets of 204 bytes."""
    return b"".join(content[at : at + 188] + bytes(16) for at in range(0, len(content), 188))


JUNK = b"ID3 or whatever a tool appends" * 9
SOUND = {
    "avi, sizes of 0": ("avi", lambda b: without_avi_sizes(b, bytes(4))),
    "avi, sizes of -1": ("avi", lambda b: without_avi_sizes(b, b"\xff" * 4)),
    "avi, bytes after the end": ("avi", lambda b: b + JUNK),
    "avi, size with its own header": (
        *("avi", lambda b: in_place(b, 4, struct.pack("<I", len(b)))),
    ),
    "wmv, live": ("wmv", lambda b: as_broadcast(b)[:-1000]),
    "wmv, bytes after the end": ("wmv", lambda b: b + JUNK),
    "gif, bytes after the end": ("gif", lambda b: b + JUNK),
    "gif, zero bytes after the end": ("gif", lambda b: b + bytes(500)),
    "ogg, bytes after the end": ("ogg", lambda b: b + JUNK),
    "y4m, parameters of frames": ("y4m", lambda b: b.replace(b"FRAME\n", b"FRAME Ip\n")),
    "mp4, zero bytes after the end": ("mp4", lambda b: b + bytes(4)),
    "mp4, bytes after the end": ("mp4", lambda b: b + JUNK),
    "mp4, cut free box": ("mp4", lambda b: b + struct.pack(">I4s", 100, b"free") + bytes(50)),
    "mp4, cut udta box": ("mp4", lambda b: b + struct.pack(">I4s", 100, b"udta") + bytes(50)),
    "mp4, size of 8 bytes": ("mp4", with_wide_mdat),
    "mp4, mdat of size 0": ("mp4 with its index first", with_mdat_to_the_end),
    "mp4, fragments without an index": ("mp4 in fragments", lambda b: b[: boxes(b)[b"mfra"]]),
    "mp4, fragments and zero bytes": ("mp4 in fragments without an index", lambda b: b + bytes(4)),
    "mov, wide box": (
        *("mov", lambda b: b.replace(b"\0\0\0\x08wide", b"\0\0\0\x08free")),
    ),
    "mkv, bytes after the end": ("mkv", lambda b: b + JUNK),
    "webm, unknown sizes": ("webm", without_cluster_sizes),
    "flv, filesize of 0": ("flv", lambda b: flv_number(b, b"filesize", 0)),
    "flv, longer than filesize": ("flv", lambda b: flv_number(b, b"filesize", len(b) - 9000)),
    "flv, filesize of another copy": ("flv", lambda b: flv_number(b, b"filesize", len(b) + 9)),
    "flv, duration of 60 s": ("flv", lambda b: flv_number(b, b"duration", 60)),
    "flv, bytes after the end": ("flv", lambda b: b + JUNK),
    "nut, bytes after the end": ("nut", lambda b: b + JUNK),
    "mpg, end code": ("mpg", lambda b: b + b"\0\0\1\xb9"),
    "mpg, zero bytes after the end": ("mpg", lambda b: b + bytes(2048)),
    "ts, bytes before the start": ("ts", lambda b: b"junk" * 10 + b),
    "ts, bytes after the end": ("ts", lambda b: b + b"\0" * 100),
    "ts, packets of 204 bytes": ("ts", with_parity),
}  # fmt: skip


# FFmpeg reads other bytes as the next packet, or does not recognise the format.
NOT_READ_BY_FFMPEG = {"flv, bytes after the end", "nut, bytes after the end"} | {
    "ts, bytes before the start"
}


@pytest.mark.parametrize("case", SOUND)
def test_no_false_alarm(made, case):
    name, change = SOUND[case]
    content = made(name)
    changed = change(content)
    assert changed != content or "wide" in case
    assert not is_cut(changed), ending(changed)
    if case not in NOT_READ_BY_FFMPEG:
        assert decode(changed) == FRAMES


def test_longer_duration_in_the_header_of_a_whole_file_is_no_error(made, tmp_path):
    """The last picture of slides is shown for seconds; Matroska records that and no packet does."""
    for name, content in {
        "flv": flv_number(made("flv"), b"duration", 60),
        "mkv": with_mkv_duration(made("mkv"), 60_000),
        "webm": with_mkv_duration(made("webm"), 60_000),
    }.items():
        assert decode(content) == FRAMES, name
        assert str(decode(content[: -len(content) // 3])).startswith(
            "is cut short: it says 60.00 s"
        )


def with_mkv_duration(content, number):
    return in_place(content, content.index(b"\x44\x89\x88") + 3, struct.pack(">d", number))


# Files that are cut where a packet ends, and sizes that are lies


def flv_without_last_tags(content, count):
    for _ in range(count):
        content = content[: -4 - int.from_bytes(content[-4:], "big")]
    return content


def without_ogg_end(content):
    """Return an Ogg file without the last page of its video."""
    return content[: content.rindex(b"OggS")]


AT_A_BOUNDARY = {
    "flv": lambda b: flv_without_last_tags(b, 24),
    "ogg without sound": without_ogg_end,
    "mkv": lambda b: b[: b.rindex(b"\x1f\x43\xb6\x75")],
    "webm": lambda b: b[: b.rindex(b"\x1f\x43\xb6\x75")],
    "mp4 in fragments": lambda b: b[: boxes(b)[b"mdat"]],
    "mp4 in fragments without an index": lambda b: b[: boxes(b)[b"mdat"]],
    "mp4 in fragments with one index": lambda b: b[: boxes(b)[b"moof"]],
    "gif": lambda b: b[:-1],
    "wmv": lambda b: b[: -2 * 3200],
}


@pytest.mark.parametrize("name", AT_A_BOUNDARY)
def test_cut_at_the_end_of_a_part_is_an_error(made, name):
    assert str(decode(AT_A_BOUNDARY[name](made(name)))).startswith("is cut short: it ")


def test_moof_that_is_longer_than_the_file_is_an_error(made):
    content = made("mp4 in fragments without an index")
    moof = boxes(content)[b"moof"]
    for offset in (9, 50, 200):
        assert is_cut(content[: moof + offset])


def test_incomplete_block_of_a_cluster_without_size_is_an_error(made):
    content = without_cluster_sizes(made("webm"))
    assert str(decode(content[: len(content) * 2 // 3])).startswith("is cut short")


def test_chained_ogg_needs_only_the_end_of_its_last_chain(made):
    content = made("ogg without sound")
    unended = without_ogg_end(content).replace(content[14:18], b"1234")
    assert not is_cut(unended + content)
    sound = in_place(in_place(content[content.rindex(b"OggS") :], 5, b"\0"), 14, b"sound"[:4])
    assert ending(unended + content + sound).is_whole
    assert is_cut(content + unended)
    assert is_cut(content + unended[:-9])


class Sparse(io.RawIOBase):
    """A file of zero bytes with some pieces of content, of any size."""

    def __init__(self, size, pieces):
        self.size, self.pieces, self.at = size, pieces, 0

    def seekable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, offset, whence=os.SEEK_SET):
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size=-1):
        assert 0 <= size < 1 << 20, "the check reads pieces"
        data = bytearray(max(0, min(size, self.size - self.at)))
        for start, piece in self.pieces.items():
            for index in range(max(start, self.at), min(start + len(piece), self.at + len(data))):
                data[index - self.at] = piece[index - start]
        self.at += len(data)
        return bytes(data)


GIB = 1 << 30


def opendml(segments):
    """Return the pieces of an OpenDML file of segments of 1 GiB, and its size."""
    pieces = {}
    for number in range(segments):
        kind = b"AVIX" if number else b"AVI "
        movi = struct.pack("<4sI4s", b"LIST", GIB - 8 - 12 - 8 - 1000, b"movi")
        pieces[number * GIB] = struct.pack("<4sI4s", b"RIFF", GIB - 8, kind) + movi
        pieces[number * GIB + GIB - 1000 - 8] = struct.pack("<4sI", b"idx1", 1000)
    return pieces, segments * GIB


def test_opendml_of_several_gib_is_checked_in_every_segment():
    pieces, size = opendml(6)
    assert EndCheck(Sparse(size, pieces)).ending.is_whole
    assert EndCheck(Sparse(size + 333, pieces)).ending == containers.Ending()  # more than 4 GiB
    for cut in (GIB // 2, GIB * 3 // 2, 5 * GIB + 5000, size - 2000):
        assert "bytes and ends after" in EndCheck(Sparse(cut, pieces)).ending.cut, cut
    assert EndCheck(Sparse(size - 500, pieces)).ending.is_whole  # the last segment's index
    pieces[4 * GIB + 4] = b"\xff" * 4  # the recorder was interrupted there
    pieces = {at: piece for at, piece in pieces.items() if at <= 4 * GIB + 4}
    assert EndCheck(Sparse(4 * GIB + GIB // 3, pieces)).ending == containers.Ending(is_live=True)


def test_mp4_beyond_4_gib_has_sizes_of_8_bytes():
    ftyp = struct.pack(">I4s8x", 16, b"ftyp")
    mdat = struct.pack(">I4sQ", 1, b"mdat", 5 * GIB)
    moov = struct.pack(">I4s", 1000, b"moov")
    pieces = {0: ftyp + mdat, 16 + 5 * GIB: moov}
    assert EndCheck(Sparse(16 + 5 * GIB + 1000, pieces)).ending.is_whole
    for size in (4 * GIB, 16 + 5 * GIB - 1, 16 + 5 * GIB + 999):
        assert EndCheck(Sparse(size, pieces)).ending.cut


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">I4s", 16, b"ftyp") + bytes(8) + struct.pack(">I4s", 8, b"free") * 300_000,
        b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 700_000,
        b"FLV\1\5\0\0\0\x09\0\0\0\0" + (b"\x08" + bytes(10) + b"\0\0\0\x0a") * 200_000,
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff" + b"\xec\x80" * 700_000,
        b"RIFF\xff\xff\0\x7fAVI " + (b"JUNK" + bytes(4)) * 200_000,
        b"OggS" + bytes(23) + (b"OggS" + bytes(23)) * 60_000,
        b"YUV4MPEG2 W0 H0 F1:1\n" + b"FRAME\n" * 200_000,
        b"DKIF\0\0\x20\0" + bytes(24) + bytes(12) * 100_000,
    ],
    ids=["mp4", "gif", "flv", "mkv", "avi", "ogg", "y4m", "ivf"],
)
def test_many_small_parts_end_the_check(monkeypatch, content):
    monkeypatch.setattr(containers, "_MOST_REQUESTS", 50_000)
    check = EndCheck(io.BytesIO(content))
    assert check.ending == containers.Ending()
    assert check._requests == 50_001


def test_random_bytes_never_stop_the_check(made, monkeypatch):
    monkeypatch.setattr(containers, "_MOST_REQUESTS", 2000)
    random = np.random.default_rng(0)
    for name in KINDS:
        content = made(name)[:100_000]
        for _ in range(20):
            changed = bytearray(content[: random.integers(4, len(content))])
            for offset in (
                random.integers(4, min(len(changed), 2000), 8) if len(changed) > 4 else ()
            ):
                changed[offset] = random.choice([0, 1, 8, 127, 128, 255, random.integers(256)])
            assert isinstance(ending(bytes(changed)), containers.Ending)


# Where only the duration shows it


def test_allowance_of_the_duration_does_not_grow_with_the_video(tmp_path):
    """A recorder leaves no size. Of 80 s one second is missing, which is less than 2 %."""
    whole = write_video(
        tmp_path / "a.flv",
        2000,
        codec="flv",
        width=64,
        height=48,
        draw=lambda number: noise(number, width=64, height=48),
    )
    content = flv_number(whole.read_bytes(), b"filesize", 0)
    assert decode(content) == 2000
    cut = flv_without_last_tags(content, 25)
    assert ending(cut) == containers.Ending()
    assert decode(cut) == "is cut short: it says 80.00 s and ends at 79.00 s"


def test_slow_frames_need_not_fill_the_duration(tmp_path):
    """A packet without a duration ends when it begins; the frame is shown for two seconds."""
    path = tmp_path / "a.flv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("flv", rate=Fraction(1, 2))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            picture = noise(number, width=64, height=48)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    content = flv_number(path.read_bytes(), b"filesize", 0)
    assert ending(content) == containers.Ending()
    assert decode(content) == 10


# Files that cannot be checked


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, offset, whence=os.SEEK_SET):
        raise io.UnsupportedOperation("seek")


def test_file_that_cannot_seek_is_not_checked(made):
    for name in ("avi", "gif", "y4m", "flv"):
        content = made(name)
        assert EndCheck(Pipe(content[: len(content) // 2])).ending == containers.Ending()
        assert sum(1 for _ in decode_frames(Pipe(content))) == FRAMES


def test_file_is_read_from_its_beginning_after_the_check(made):
    file = io.BytesIO(made("mp4"))
    EndCheck(file)
    assert file.tell() == 0


def test_read_error_is_left_to_the_decoder(made):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError("connection lost")

    assert EndCheck(Failing(made("mp4"))).ending == containers.Ending()
    with pytest.raises(VideoUnreadableError, match="connection lost"):
        list(decode_frames(Failing(made("mp4"))))


def test_short_reads_are_continued(made):
    class Short(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7) if size >= 0 else 7)

    content = made("mkv")
    assert EndCheck(Short(content)).ending.is_whole
    assert EndCheck(Short(content[:-9000])).ending.cut


# Files that change


def append(path):
    with path.open("ab") as file:
        file.write(b"x")


def touch(path):
    os.utime(path, ns=(1, 1))


def shrink(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [append, touch, shrink])
@pytest.mark.parametrize("name", ["mp4", "ts", "mkv"])
def test_file_that_changes_while_it_is_read_is_unreadable(made, tmp_path, name, change):
    path = tmp_path / "video"
    path.write_bytes(made(name))
    frames = decode_frames(path)
    next(frames)
    change(path)
    with pytest.raises(VideoUnreadableError, match="was changed while it was read"):
        list(frames)
    with path.open("rb") as file:
        frames = decode_frames(file)
        if change is append:
            next(frames)
            append(path)
            with pytest.raises(VideoUnreadableError, match="was changed while it was read"):
                list(frames)


def test_file_that_is_replaced_is_read_to_its_end(made, tmp_path):
    path, other = tmp_path / "video.mp4", tmp_path / "other.mp4"
    path.write_bytes(made("mp4"))
    other.write_bytes(made("mp4 with its index first"))
    frames = decode_frames(path)
    next(frames)
    other.replace(path)
    assert len(list(frames)) == FRAMES - 1


# Remote files


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Return longer files, of some kinds, so that they have many blocks."""
    folder = tmp_path_factory.mktemp("long")
    return functools.cache(lambda name: write(folder / "file", KINDS[name], frames=120))


def scale_down(monkeypatch):
    """Make blocks and reads smaller, so that a small file has many blocks."""
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    for module in (containers, decoder):
        monkeypatch.setattr(module, "_READ_BYTES", 1 << 11)
    monkeypatch.setattr(containers, "_MOST_BYTES", 1 << 13)


@pytest.fixture
def web(monkeypatch):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: remote videos not run")
    scale_down(monkeypatch)
    with web_server() as server:
        yield server


def ranges(server):
    return sum(method == "GET" for method, _, _ in server.requests)


def decode_without_check(uri):
    """Decode as PyAV does, and return the number of frames."""
    with open_source(uri) as file, av.open(file, buffer_size=1 << 11) as container:
        stream = container.streams.video[0]
        return sum(len(stream.decode(p)) for p in container.demux() if p.stream is stream)


REMOTE = [
    "avi",
    "wmv",
    "gif",
    "ogg",
    "y4m",
    "mp4",
    "mp4 with its index first",
    "mkv",
    "live mkv",
] + [
    *("mp4 in fragments without an index", "flv", "flv without its size", "mpg", "ts"),
]


@pytest.mark.long
@pytest.mark.parametrize("name", REMOTE)
def test_check_of_a_remote_file_costs_at_most_two_ranges(web, long, name):
    web.files["/a"] = long(name)
    assert len(web.files["/a"]) > stores._CACHED_BLOCKS * stores._BLOCK_BYTES
    assert decode_without_check(f"{web.url}/a") == 120
    plain = ranges(web)
    web.requests.clear()
    assert sum(1 for _ in decode_frames(f"{web.url}/a")) == 120
    assert ranges(web) <= plain + 2


@pytest.mark.long
@pytest.mark.parametrize("name", REMOTE)
def test_remote_file_that_is_cut_is_an_error(web, long, name):
    content = long(name)
    for offset in cut_points(
        KINDS[name], content[: pictures_end(content) - 20], first=0.3, count=6
    ):
        web.files["/a"] = content[:offset]
        with pytest.raises(VideoDecodeError) as caught:
            list(decode_frames(f"{web.url}/a"))
        assert type(caught.value) is VideoDecodeError


@pytest.mark.parametrize("name", ["avi", "wmv", "mp4", "flv"])
def test_remote_file_with_its_size_in_front_fails_after_few_ranges(web, long, name):
    web.files["/a"] = long(name)[: len(long(name)) * 2 // 3]
    with pytest.raises(VideoDecodeError, match="is cut short: it says"):
        next(decode_frames(f"{web.url}/a"))
    assert ranges(web) <= 3


@pytest.mark.long
def test_check_on_s3_costs_at_most_two_ranges(long, monkeypatch, tmp_path_factory):
    pytest.importorskip("s3fs", reason="s3fs is not installed: videos on S3 not run")
    with s3_server(tmp_path_factory.mktemp("s3")) as server, s3_proxy(server.endpoint) as proxy:
        files = server.file_system()
        files.mkdir("videos")
        server.use(monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        scale_down(monkeypatch)
        for name in ("mp4", "ogg", "mp4 in fragments without an index"):
            files.pipe("videos/whole", long(name))
            proxy.requests.clear()
            assert decode_without_check("s3://videos/whole") == 120
            plain = sum(request.startswith("GET") for request in proxy.requests)
            proxy.requests.clear()
            assert sum(1 for _ in decode_frames("s3://videos/whole")) == 120
            assert sum(request.startswith("GET") for request in proxy.requests) <= plain + 2
            files.pipe("videos/cut", long(name)[: len(long(name)) * 2 // 3])
            with pytest.raises(VideoDecodeError, match="s3://videos/cut: is cut short"):
                list(decode_frames("s3://videos/cut"))
