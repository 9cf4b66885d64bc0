"""Sound videos of every container and codec that PyAV can write, to find false alarms.

:func:`write_sound_videos` writes them one at a time. The number of frames of each is known from how
it was made, not from decoding it.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import count
from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from av.error import FFmpegError
from av.format import formats_available
from av.stream import Disposition

from support.videos import add_video, restore_scheduling, write_edit_list

# SVT-AV1 prints its settings otherwise, past FFmpeg's own logging.
os.environ.setdefault("SVT_LOG", "1")

_MPEG = ("libx264", "libx265", "mpeg1video", "mpeg2video", "mpeg4")
_SWF = ("flashsv", "flv", "mjpeg")
_MXF = ("dnxhd", "dvvideo", "ffv1", "jpeg2000", "libx264", "mpeg2video")
_MXF += ("prores", "prores_aw", "prores_ks")

# The containers whose files FFmpeg reads back, and the codecs that each carries; None for all that
# its muxer takes. Muxers of MPEG streams take any codec and write what no reader knows.
_CODECS_OF: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("mp4", "mov", "3gp", "3g2", "ipod", "f4v", "ismv", "matroska", "webm")),
    **dict.fromkeys(("avi", "asf", "flv", "nut", "ivf", "obu")),
    **dict.fromkeys(("mxf", "mxf_opatom"), _MXF),
    **dict.fromkeys(("ogg", "ogv"), ("libtheora", "libvpx")),
    **dict.fromkeys(("mpegts", "mpeg", "dvd", "vob", "svcd", "vcd"), _MPEG),
    **dict.fromkeys(("mpeg1video", "mpeg2video", "m4v", "mjpeg", "h264", "hevc", "h261", "h263")),
    **dict.fromkeys(("dv", "rm", "roq", "dnxhd", "gif", "apng", "fits")),
    **dict.fromkeys(("swf", "avm2"), _SWF),
    "yuv4mpegpipe": ("rawvideo", "wrapped_avframe"),
    "film_cpk": ("cinepak",),
    "wtv": _MPEG[:1] + _MPEG[2:] + ("msmpeg4", "wmv1"),
}

_SUFFIXES = {
    "matroska": "mkv",
    "mpegts": "ts",
    "mpeg": "mpg",
    "yuv4mpegpipe": "y4m",
    "asf": "wmv",
    "ipod": "m4v",
    "mpeg2video": "m2v",
    "mpeg1video": "m1v",
}

# Encoders that write nothing, or memory addresses.
_NOT_VIDEO = ("vnull",)
_HARDWARE = ("_amf", "_mf", "_nvenc", "_qsv", "_v4l2m2m", "_vaapi", "_videotoolbox", "_vulkan")

_FPS = 25
_SIZES = {
    "dnxhd": (256, 120),
    "dvvideo": (720, 576),
    **dict.fromkeys(("h261", "h263", "h263p", "rv10", "rv20"), (176, 144)),
}
_PIX_FMTS = {"dvvideo": "yuv420p", "rawvideo": "yuv420p", "wrapped_avframe": "yuv420p"}
_OPTIONS = {
    "dnxhd": {"profile": "dnxhr_sq"},
    "libsvtav1": {"preset": "12"},
    "libvpx": {"deadline": "realtime", "cpu-used": "-8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "bframes=0"},
    # They are experimental in FFmpeg.
    "avui": {"strict": "experimental"},
    "vc2": {"strict": "experimental"},
}
_ELEMENTARY = ("mpeg1video", "mpeg2video", "m4v", "mjpeg", "h264", "hevc", "h261", "h263", "obu")


@dataclass(frozen=True)
class SoundVideo:
    """A file that must be decoded without an error.

    Args:
        path: the file.
        container: FFmpeg's name of its muxer.
        codec: FFmpeg's name of its encoder.
        feature: what is special about it.
        frames: the number of frames that are shown.
    """

    path: Path
    container: str
    codec: str
    feature: str
    frames: int

    def __str__(self) -> str:
        return f"{self.container} / {self.codec} / {self.feature} / {self.frames} frames"


@dataclass(frozen=True)
class _Recipe:
    """How a file is made.

    Args:
        stamps: when frames are shown, in milliseconds; None for 25 a second.
        start_ms: added to all stamps.
        audio: encoder of an audio track of ``audio_s`` seconds.
        extra: adds streams to the output, and returns their packets.
        live: written to an output that cannot seek.
        after: changes the bytes of the file.
        shown: the frames that are shown, where they are not those that are encoded.
    """

    container: str
    codec: str
    feature: str = "plain"
    frames: int = 12
    size: tuple[int, int] | None = None
    pix_fmt: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)
    rate: Fraction | int = _FPS
    stamps: Sequence[int] | None = None
    start_ms: int = 0
    audio: str | None = None
    audio_s: float = 0.5
    rotation: tuple[float, bool, bool] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: bool = False
    extra: Callable[[av.container.OutputContainer], list[av.Packet]] | None = None
    live: bool = False
    after: Callable[[Path], None] | None = None
    packets: Callable[[list[av.Packet]], list[av.Packet]] | None = None
    shown: int | None = None


class _Unseekable(io.RawIOBase):
    """An output that can only be appended to, as a pipe or a socket."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def encoders() -> list[str]:
    """Return the software video encoders of this build of FFmpeg, each once."""
    names = []
    for name in sorted(av.codecs_available):
        try:
            codec = Codec(name, "w")
        except (FFmpegError, ValueError):
            continue
        # libavcodec has names of standards, such as h264, for one of their encoders.
        is_software = name not in _NOT_VIDEO and not name.endswith(_HARDWARE)
        if codec.type == "video" and codec.name == name and is_software:
            names.append(name)
    return names


def containers() -> list[str]:
    """Return the muxers of this build of FFmpeg whose files are tried."""
    return [name for name in _CODECS_OF if name in formats_available]


def write_sound_videos(folder: Path, family: str) -> Iterator[SoundVideo]:
    """Write the videos of a family; those that FFmpeg refuses to write are left out.

    Args:
        folder: an empty folder; the caller may delete each file before the next is written.
        family: one of :data:`FAMILIES`.
    """
    for number, recipe in enumerate(FAMILIES[family]()):
        path = folder / f"{number}.{_SUFFIXES.get(recipe.container, recipe.container)}"
        try:
            _write(path, recipe)
        except (FFmpegError, ValueError, OSError):
            path.unlink(missing_ok=True)
            continue
        frames = recipe.frames if recipe.shown is None else recipe.shown
        yield SoundVideo(path, recipe.container, recipe.codec, recipe.feature, frames)


def _pairs() -> Iterator[_Recipe]:
    """Every codec in every container, with 1 to 40 frames in turn."""
    lengths = count()
    for container in containers():
        for codec in encoders():
            if not _takes(container, codec):
                continue
            frames = 1 + next(lengths) * 7 % 40
            is_rgb = (container, codec) == ("mov", "rawvideo")
            # A raw stream of one picture is a still; some demuxers do not recognise it.
            if container in (*_ELEMENTARY, "mpegts"):
                frames = max(frames, 6)
            pix_fmt = "rgb24" if is_rgb else None  # QuickTime has no number for other raw pixels
            yield _Recipe(container, codec, frames=frames, pix_fmt=pix_fmt)


def _takes(container: str, codec: str) -> bool:
    """Whether the muxer takes the codec; found out without encoding."""
    codecs = _CODECS_OF[container]
    if codecs is not None and codec not in codecs:
        return False
    with av.open(_Unseekable(), "w", format=container) as output:
        try:
            output.add_stream(codec, rate=_FPS)
        except (FFmpegError, ValueError):
            return False
    return True


_AUDIO = {
    "mp4": ("aac", "libmp3lame", "ac3", "alac", "flac", "libopus"),
    "mov": ("aac", "pcm_s16le", "pcm_s16be", "alac"),
    "3gp": ("aac", "libopencore_amrnb"),
    "matroska": ("aac", "flac", "libopus", "vorbis", "pcm_s16le", "ac3"),
    "avi": ("libmp3lame", "pcm_s16le", "mp2", "ac3"),
    "asf": ("wmav2", "libmp3lame"),
    "flv": ("aac", "libmp3lame"),
    "mpegts": ("mp2", "aac", "ac3"),
    "mpeg": ("mp2",),
    "vob": ("ac3",),
    "mxf": ("pcm_s16le",),
    "nut": ("flac", "pcm_s16le"),
    "webm": ("libopus", "vorbis"),
    "ogg": ("flac", "libopus", "vorbis"),
    "f4v": ("aac",),
    "wtv": ("mp2",),
    "rm": ("ac3",),
}
_CODEC_WITH_AUDIO = {
    "3gp": "mpeg4",
    "avi": "mpeg4",
    "asf": "wmv2",
    "mpegts": "mpeg2video",
    "mpeg": "mpeg2video",
    "vob": "mpeg2video",
    "mxf": "mpeg2video",
    "webm": "libvpx",
    "ogg": "libvpx",
    "wtv": "mpeg2video",
    "rm": "rv20",
}


def _with_audio() -> Iterator[_Recipe]:
    for container, audios in _AUDIO.items():
        codec = _CODEC_WITH_AUDIO.get(container, "libx264")
        for audio in audios:
            for audio_s, name in ((0.1, "shorter"), (0.48, "equal"), (2.5, "longer")):
                if container == "mxf" and name == "shorter":
                    continue  # the muxer drops pictures that have no audio
                yield _Recipe(container, codec, f"{name} {audio}", audio=audio, audio_s=audio_s)
        # The muxer of WTV adds the start to the duration once more.
        for start_ms in (400,) if container == "wtv" else (400, 3000):
            yield _Recipe(
                container,
                codec,
                f"{audios[0]}, pictures begin at {start_ms} ms",
                audio=audios[0],
                start_ms=start_ms,
            )


_ALTERNATE = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}
_ONE_PASS = {"arnr-maxframes": "7", "arnr-strength": "5", "g": "12"}

# What makes an encoder write pictures in another order than they are shown, or hidden ones.
_REORDERINGS: dict[str, dict[str, dict[str, str]]] = {
    "libx264": {
        "B-frames": {"bf": "3", "x264-params": "b-pyramid=strict"},
        "B-pyramid": {"bf": "7", "x264-params": "b-pyramid=normal:b-adapt=0"},
        "open groups": {"bf": "3", "g": "6", "x264-params": "open-gop=1:b-adapt=0"},
        "intra refresh": {"x264-params": "intra-refresh=1:keyint=10"},
        "only keyframes": {"g": "1"},
    },
    "libx265": {
        "B-frames": {"x265-params": "bframes=4:b-adapt=0"},
        "open groups": {"x265-params": "bframes=3:open-gop=1:keyint=6:min-keyint=6:b-adapt=0"},
        "closed groups": {"x265-params": "bframes=3:open-gop=0:keyint=6:min-keyint=6:b-adapt=0"},
        "temporal layers": {"x265-params": "temporal-layers=3:bframes=3"},
    },
    "mpeg2video": {
        "open groups": {"bf": "2", "g": "6"},
        "closed groups": {"bf": "2", "g": "6", "flags": "+cgop", "sc_threshold": "1000000000"},
        "low delay": {"flags": "+low_delay"},
    },
    "mpeg1video": {"open groups": {"bf": "2", "g": "6"}},
    "mpeg4": {
        "B-frames": {"bf": "2", "g": "6"},
        "quarter pixels": {"flags": "+qpel", "bf": "1"},
        "data partitions": {"data_partitioning": "1", "ps": "200"},
    },
    "libvpx": {"alternate references": {**_ALTERNATE, **_ONE_PASS}},
    "libvpx-vp9": {
        "alternate references": {**_ALTERNATE, **_ONE_PASS},
        "error resilience": {"error-resilient": "1", "lag-in-frames": "0"},
    },
    "libsvtav1": {
        "hidden frames": {"preset": "10", "svtav1-params": "keyint=16:pred-struct=2"},
        "low delay": {"preset": "10", "svtav1-params": "pred-struct=1"},
    },
}


def _reordered() -> Iterator[_Recipe]:
    names = ("mp4", "mov", "matroska", "webm", "avi", "asf", "flv", "mpegts", "mpeg", "vob", "mxf")
    names += ("nut", "ogg", "ivf", "h264", "hevc", "mpeg2video", "m4v", "obu", "f4v", "ismv", "wtv")
    for codec, settings in _REORDERINGS.items():
        for container in names:
            if _takes(container, codec):
                for feature, options in settings.items():
                    yield _Recipe(container, codec, feature, frames=40, options=options)


def _coded_differently() -> Iterator[_Recipe]:
    """Yield streams whose codec is used in an unusual way."""
    x264 = {
        "lossless": "qp=0",
        "four slices": "slices=4",
        "access unit delimiters": "aud=1:repeat-headers=1",
        "filler": "nal-hrd=cbr:filler=1:vbv-maxrate=400:vbv-bufsize=400:bitrate=400",
        "many references": "ref=16:bframes=8",
        "no deblocking": "no-deblock=1:cabac=0",
        "3D": "frame-packing=3",
    }
    for feature, params in x264.items():
        for container in ("mp4", "matroska", "mpegts", "h264", "avi"):
            options = {"preset": "veryfast", "x264-params": params}
            yield _Recipe(container, "libx264", feature, frames=20, options=options)
    x265 = {
        "checksums": "hash=1:repeat-headers=1",
        "wavefronts": "wpp=1:slices=2:aud=1:hrd=1:vbv-maxrate=400:vbv-bufsize=400",
        "lossless": "lossless=1",
        "intra refresh": "intra-refresh=1:keyint=10:bframes=0",
    }
    for feature, params in x265.items():
        for container in ("mp4", "matroska", "mpegts", "hevc"):
            options = {"x265-params": params}
            yield _Recipe(container, "libx265", feature, frames=20, options=options)
    for level in ("0", "1", "3", "4"):
        for checks in ("0", "1"):
            for container in ("matroska", "avi", "nut", "mxf"):
                options = {"level": level, "slicecrc": checks, "strict": "experimental"}
                feature = f"level {level}, {'with' if checks == '1' else 'no'} checksums"
                yield _Recipe(container, "ffv1", feature, options=options)
    for feature, options in {
        "optimal tables": {"huffman": "optimal"},
        "coarse": {"qmin": "31", "qmax": "31"},
        "restarts": {"slices": "4"},
    }.items():
        for container in ("avi", "mov", "matroska", "mjpeg", "nut"):
            yield _Recipe(container, "mjpeg", feature, options=options)
    for feature, options in {
        "whole pictures": {"gifflags": "-offsetting-transdiff"},
        "local palettes": {"global_palette": "0"},
    }.items():
        yield _Recipe("gif", "gif", feature, options=options)
    yield _Recipe("gif", "gif", "no repetition", muxer={"loop": "-1"})
    yield _Recipe("gif", "gif", "repeated thrice", muxer={"loop": "3"})
    for container in ("avi", "nut", "asf", "h263"):
        yield _Recipe(container, "h263p", "slices", options={"structured_slices": "1", "ps": "200"})
    for container in ("avi", "matroska", "mov"):
        yield _Recipe(container, "snow", "wavelet", options={"strict": "experimental"})
        yield _Recipe(
            container,
            "mpeg4",
            "packed B-frames",
            frames=20,
            options={"bf": "1", "b_strategy": "0"},
            packets=_packed,
        )
    for container in ("avi", "matroska", "mp4", "nut"):
        # Of every four pictures one is not coded: the picture before it is shown for longer.
        yield _Recipe(
            container, "mpeg4", "pictures not coded", frames=20, shown=15, packets=_not_coded
        )
    for container in ("avi", "mov", "matroska", "mjpeg"):
        yield _Recipe(container, "mjpeg", "EXIF", packets=_with_exif)
        if container == "mjpeg":
            continue  # without a container, every field is a picture
        yield _Recipe(
            container,
            "mjpeg",
            "two fields in a packet",
            frames=20,
            shown=10,
            size=(64, 24),
            packets=_in_fields,
        )
    yield _Recipe("asf", "wmv2", "small packets", muxer={"packet_size": "400"}, frames=40)
    yield _Recipe("asf", "wmv1", "large packets", muxer={"packet_size": "32000"}, frames=40)


def _of_variable_rate() -> Iterator[_Recipe]:
    stamps = [0, 40, 80, 200, 240, 600, 640, 1640, 1680, 1720]
    pairs = [
        *((name, "libx264") for name in ("mp4", "mov", "matroska", "mpegts", "flv", "nut", "avi")),
        *((name, "mpeg4") for name in ("avi", "mp4", "asf")),
        *((name, "mpeg2video") for name in ("mpeg", "mpegts", "mxf")),
        *((name, "libvpx") for name in ("webm", "ogg", "ivf", "avi")),
        *((name, "mjpeg") for name in ("avi", "mov", "matroska")),
        ("asf", "wmv2"),
        ("gif", "gif"),
        ("apng", "apng"),
        ("rm", "rv20"),
    ]
    for container, codec in pairs:
        no_order = {"bf": "0"} if codec in ("libx264", "mpeg4") else {}
        yield _Recipe(container, codec, "variable rate", frames=10, stamps=stamps, options=no_order)
        for feature, step in (("one frame a second", 1000), ("one frame in ten seconds", 10_000)):
            slow = [step * number for number in range(5)]
            yield _Recipe(container, codec, feature, frames=5, stamps=slow, options=no_order)
        late = [*range(0, 400, 40), 5000]
        yield _Recipe(container, codec, "late last frame", frames=11, stamps=late, options=no_order)


def _of_other_pixels() -> Iterator[_Recipe]:
    for codec, formats in {
        "libx264": ("yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "yuv422p10le", "gray"),
        "libx265": ("yuv422p", "yuv444p", "yuv420p10le", "yuv420p12le", "gbrp"),
        "libvpx": ("yuva420p",),
        "libvpx-vp9": ("yuva420p", "yuv444p", "gbrp"),
        "libsvtav1": ("yuv420p10le",),
        "ffv1": ("yuva420p", "bgra", "yuv420p10le", "gray16le", "gbrp12le", "rgb48le"),
        "prores_ks": ("yuv422p10le", "yuva444p10le"),
        "png": ("rgba", "gray", "rgb48be", "ya8", "monob"),
        "qtrle": ("argb", "rgb555be", "gray"),
        "utvideo": ("gbrap", "yuv422p"),
        "magicyuv": ("gbrap", "yuv444p", "gray"),
        "huffyuv": ("rgb24", "bgra"),
        "ffvhuff": ("yuv410p", "gbrp10le"),
        "jpeg2000": ("gray", "rgb48le", "gbrp10le", "yuv420p"),
        "dnxhd": ("yuv422p10le",),
        "v210": ("yuv422p",),
        "cfhd": ("gbrp12le", "gbrap12le"),
        "rawvideo": ("yuv420p", "rgb24", "bgr24", "gray", "yuyv422", "uyvy422", "nv12"),
        "gif": ("bgr8", "gray"),
        "apng": ("rgba", "gray", "rgb48be"),
        "mjpeg": ("yuvj422p", "yuvj444p"),
        "cinepak": ("gray",),
        "zmbv": ("bgr0",),
        "flashsv2": ("bgr24",),
        "libx264rgb": ("bgr0",),
    }.items():
        options = {"profile": "dnxhr_hqx"} if codec == "dnxhd" else {}
        if codec.startswith("libvpx"):  # transparency excludes alternate references
            options = {"auto-alt-ref": "0"}
        for container in ("mp4", "mov", "matroska", "avi", "nut", "mxf", "webm", "gif", "apng"):
            if container == "mov" and codec == "rawvideo":
                continue
            if _takes(container, codec):
                for pix_fmt in formats:
                    yield _Recipe(container, codec, pix_fmt, pix_fmt=pix_fmt, options=options)
    for container in ("yuv4mpegpipe",):
        for pix_fmt in ("yuv444p", "yuv422p", "gray", "yuv411p"):
            yield _Recipe(container, "wrapped_avframe", pix_fmt, pix_fmt=pix_fmt)
    odd = {"libx264": "yuv444p", "libx265": "yuv444p", "gif": "rgb8", "mjpeg": "yuvj420p"}
    for codec in ("libx264", "libx265", "mpeg4", "mpeg2video", "libvpx", "libvpx-vp9", "ffv1"):
        for container in ("mp4", "matroska", "avi", "nut", "mpegts", "webm"):
            if _takes(container, codec):
                pix_fmt = odd.get(codec)
                yield _Recipe(container, codec, "63x47", size=(63, 47), pix_fmt=pix_fmt)
    for container, codec in (("gif", "gif"), ("avi", "mjpeg"), ("avi", "msvideo1")):
        yield _Recipe(container, codec, "63x47", size=(63, 47), pix_fmt=odd.get(codec))
    for container, codec in (("mov", "png"), ("avi", "huffyuv"), ("mov", "qtrle"), ("avi", "zlib")):
        yield _Recipe(container, codec, "63x47", size=(63, 47))
    for width, height in ((1, 1), (2, 2), (16, 400), (400, 16)):
        for container, codec in (("avi", "png"), ("gif", "gif"), ("matroska", "ffv1")):
            yield _Recipe(container, codec, f"{width}x{height}", size=(width, height))


def _interlaced() -> Iterator[_Recipe]:
    fields = {"flags": "+ildct+ilme"}
    for container in ("mpegts", "mpeg", "vob", "mxf", "matroska", "mp4", "mov", "mpeg2video"):
        yield _Recipe(container, "mpeg2video", "interlaced", options={**fields, "bf": "2"})
    for container in ("avi", "mp4", "matroska"):
        yield _Recipe(container, "mpeg4", "interlaced", options=fields)
    for container in ("mp4", "matroska", "mpegts", "h264", "mxf", "avi", "flv"):
        options = {"x264-params": "tff=1:bframes=2"}
        yield _Recipe(container, "libx264", "interlaced", options=options)
    for container in ("mov", "mxf", "matroska"):
        yield _Recipe(container, "prores_ks", "interlaced", options=fields)
    ntsc = {"size": (720, 480), "pix_fmt": "yuv411p", "rate": Fraction(30000, 1001)}
    for container in ("dv", "avi", "mov", "mxf", "nut", "matroska"):
        yield _Recipe(container, "dvvideo", "PAL", frames=5)
        yield _Recipe(container, "dvvideo", "NTSC", frames=5, **ntsc)
        yield _Recipe(container, "dvvideo", "DV50", frames=5, pix_fmt="yuv422p")


def _of_any_length() -> Iterator[_Recipe]:
    pairs = (
        ("mp4", "libx264"),
        ("matroska", "libx265"),
        ("avi", "mpeg4"),
        ("mpegts", "mpeg2video"),
    )
    pairs += (("webm", "libvpx-vp9"), ("asf", "wmv2"), ("flv", "flv"), ("ogg", "libvpx"))
    pairs += (("mov", "prores_ks"), ("mpeg", "mpeg1video"), ("nut", "ffv1"), ("gif", "gif"))
    pairs += (("mxf", "mpeg2video"), ("rm", "rv10"), ("yuv4mpegpipe", "wrapped_avframe"))
    pairs += (("apng", "apng"), ("ivf", "libsvtav1"), ("mkv", "ffv1"))
    for container, codec in pairs:
        if container not in _CODECS_OF:
            continue
        for frames in (1, 2, 3, 5, 8, 15, 16, 17, 31, 40):
            # FFmpeg does not recognise a transport stream of so few bytes.
            if container == "mpegts" and frames < 3:
                continue
            yield _Recipe(container, codec, f"length {frames}", frames=frames)


def _with_other_streams() -> Iterator[_Recipe]:
    for container, codec in (("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264")):
        for picture in ("png", "mjpeg"):
            yield _Recipe(container, codec, f"{picture} cover", extra=_cover(picture))
            yield _Recipe(
                container, codec, f"{picture} cover and audio", extra=_cover(picture), audio="aac"
            )
    for container in ("mp4", "mov", "matroska", "mpegts", "mxf", "nut", "avi", "asf"):
        yield _Recipe(container, "mpeg4", "chapters", chapters=True)
        yield _Recipe(container, "mpeg2video", "title", metadata={"title": "A ü 中"})
    for container in ("mov", "mp4", "mxf", "matroska"):
        codec = "mpeg2video" if container == "mxf" else "libx264"
        timecode = {"timecode": "01:02:03:04"}
        yield _Recipe(container, codec, "timecode", metadata=timecode)
    for container, kind in (
        ("mp4", "mov_text"),
        ("mov", "mov_text"),
        ("matroska", "subrip"),
        ("matroska", "ass"),
        ("webm", "webvtt"),
    ):
        codec = "libvpx" if container == "webm" else "libx264"
        yield _Recipe(container, codec, f"{kind} subtitles", extra=_subtitles(kind))
    for container in ("matroska", "mp4", "mov", "nut", "mpegts", "avi", "asf"):
        yield _Recipe(container, "mpeg4", "second video stream", extra=_second_video("mpeg4"))
    yield _Recipe("mpegts", "mpeg2video", "data", extra=_data)
    yield _Recipe("matroska", "libx264", "attachment", extra=_attachment)
    for rotation in ((90, False, False), (180, False, False), (0, True, False), (90, True, False)):
        for container in ("mp4", "mov", "matroska"):
            yield _Recipe(container, "libx264", f"rotated {rotation}", rotation=rotation)


def _of_container_kinds() -> Iterator[_Recipe]:
    kinds = ("faststart", "frag_keyframe+empty_moov", "frag_every_frame+empty_moov")
    kinds += ("frag_keyframe+delay_moov", "dash+frag_keyframe", "cmaf", "hybrid_fragmented")
    kinds += ("negative_cts_offsets", "rtphint", "disable_chpl", "use_metadata_tags")
    kinds += ("frag_keyframe+separate_moof", "frag_keyframe+empty_moov+default_base_moof")
    kinds += ("frag_keyframe+skip_trailer+empty_moov",)
    for flags in kinds:
        for codec in ("libx264", "mpeg4", "libx265"):
            for audio in (None, "aac"):
                feature = flags + (", audio" if audio else "")
                if audio and "every_frame" in flags:
                    continue  # the muxer writes overlapping fragments, and FFmpeg hides a picture
                options = {"g": "10", "bf": "2"} if codec != "libx265" else {}
                yield _Recipe(
                    "mp4",
                    codec,
                    feature,
                    frames=30,
                    options=options,
                    muxer={"movflags": flags},
                    audio=audio,
                )
    yield _Recipe("mp4", "libx264", "no edit list", frames=30, muxer={"use_editlist": "0"})
    yield _Recipe("mov", "libx264", "QuickTime fragments", muxer={"movflags": "frag_keyframe"})
    for start_ms in (700, 5000):
        for container in ("mp4", "mov", "matroska", "mpegts", "flv", "asf", "nut", "mpeg"):
            yield _Recipe(container, "mpeg4", f"begins at {start_ms} ms", start_ms=start_ms)
    yield _Recipe("mp4", "libx264", "free at the end", after=_append(_FREE))
    yield _Recipe("mov", "mpeg4", "free at the end", after=_append(_FREE))
    yield _Recipe("mp4", "mpeg4", "mdat of size 0", muxer=_FAST_START, after=_with_endless_mdat)
    yield _Recipe("mp4", "libx264", "mdat of size 0", muxer=_FAST_START, after=_with_endless_mdat)
    yield _Recipe("mp4", "libx264", "mdat of 64 bits", muxer=_FAST_START, after=_with_wide_mdat)
    for flags in ("m2ts", "resend_headers", "latm", "system_b", "pat_pmt_at_frames"):
        muxer = {"mpegts_flags": flags} if flags != "m2ts" else {"mpegts_m2ts_mode": "1"}
        for codec in ("libx264", "mpeg2video", "libx265"):
            yield _Recipe("mpegts", codec, flags, muxer=muxer, audio="aac", frames=30)
    yield _Recipe("mpegts", "libx264", "constant rate", muxer={"muxrate": "2000000"}, frames=30)
    yield _Recipe("mpeg", "mpeg2video", "constant rate", muxer={"muxrate": "2000000"}, frames=30)
    for muxer in (
        {"cluster_time_limit": "100"},
        {"cues_to_front": "1", "reserve_index_space": "4000"},
    ):
        for container, codec in (
            ("matroska", "libx264"),
            ("webm", "libvpx"),
            ("matroska", "mpeg4"),
        ):
            name = ", ".join(muxer)
            yield _Recipe(container, codec, name, muxer=muxer, frames=40, audio="libopus")
    yield _Recipe("avi", "mpeg4", "no index", after=_without_index, frames=30)
    yield _Recipe("avi", "mpeg4", "reserved index", muxer={"reserve_index_space": "4000"})
    yield _Recipe("avi", "mjpeg", "junk at the end", after=_append(b"JUNK\4\0\0\0abcd"))
    yield _Recipe("nut", "libx264", "no index", muxer={"write_index": "0"})
    yield _Recipe("flv", "libx264", "key frame index", muxer={"flvflags": "add_keyframe_index"})
    yield _Recipe("flv", "libx264", "no duration", muxer={"flvflags": "no_duration_filesize"})
    yield _Recipe("flv", "libx264", "no end", muxer={"flvflags": "no_sequence_end"})
    yield _Recipe("ogg", "libvpx", "short pages", muxer={"page_duration": "1000"}, audio="vorbis")
    yield _Recipe("ogg", "libvpx", "long pages", muxer={"page_duration": "9000000"}, audio="flac")


_LIVE = {
    "matroska": ("libx264", "mpeg4", "ffv1"),
    "webm": ("libvpx", "libvpx-vp9"),
    "avi": ("mpeg4", "mjpeg"),
    "asf": ("wmv2",),
    "flv": ("libx264", "flv"),
    "mpegts": ("libx264", "mpeg2video"),
    "mpeg": ("mpeg2video",),
    "nut": ("libx264", "ffv1"),
    "ogg": ("libvpx",),
    "gif": ("gif",),
    "apng": ("apng",),
    "ivf": ("libvpx", "libsvtav1"),
    "yuv4mpegpipe": ("wrapped_avframe",),
    "mjpeg": ("mjpeg",),
    "h264": ("libx264",),
    "hevc": ("libx265",),
    "dv": ("dvvideo",),
    "mp4": ("libx264",),
    "mov": ("libx265",),
    "mxf": ("mpeg2video",),
    "rm": ("rv10",),
    "swf": ("flv",),
}


def _live() -> Iterator[_Recipe]:
    for container, codecs in _LIVE.items():
        muxer = _FRAGMENTS if container in ("mp4", "mov") else {}
        for codec in codecs:
            for frames in (6, 40):
                yield _Recipe(
                    container, codec, "not seekable", frames=frames, muxer=muxer, live=True
                )
            audio = _AUDIO.get(container, (None,))[0]
            if audio:
                yield _Recipe(
                    container, codec, "not seekable, audio", muxer=muxer, live=True, audio=audio
                )
    for container, codec in (("matroska", "libx264"), ("webm", "libvpx")):
        yield _Recipe(container, codec, "live", live=True, muxer={"live": "1"}, audio="libopus")


def _joined() -> Iterator[_Recipe]:
    """Files of two videos, as recorders write them."""
    for container, codec in (
        ("mpegts", "libx264"),
        ("mpegts", "mpeg2video"),
        ("mpeg", "mpeg2video"),
        ("mpeg2video", "mpeg2video"),
        ("h264", "libx264"),
        ("hevc", "libx265"),
        ("mjpeg", "mjpeg"),
        ("m4v", "mpeg4"),
        ("dv", "dvvideo"),
    ):
        frames = 8
        yield _Recipe(container, codec, "joined", frames=frames, shown=2 * frames, after=_twice)


def _edited() -> Iterator[_Recipe]:
    for container in ("mp4", "mov"):
        for edits, shown, feature in (
            ([(500, -1), (1600, 1024)], 40, "empty edit"),
            ([(1000, 1024)], 25, "edit that ends early"),
            ([(600, 1024 + 12800)], 15, "edit that starts in a group"),
            ([(400, 1024), (400, 1024 + 12800)], 20, "two edits"),
        ):
            yield _Recipe(
                container,
                "libx264",
                feature,
                frames=40,
                shown=shown,
                options={"preset": "medium", "g": "250"},
                after=_edit(*edits),
            )


_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
_FAST_START = {"movflags": "faststart"}
_FREE = struct.pack(">I4s", 64, b"free") + bytes(56)


def _write(path: Path, recipe: _Recipe) -> None:
    output = _Unseekable() if recipe.live else str(path)
    with av.open(output, "w", format=recipe.container, options=recipe.muxer) as container:
        container.metadata.update(recipe.metadata)
        if recipe.chapters:
            chapter = {"time_base": Fraction(1, 1000), "metadata": {"title": "one"}}
            container.set_chapters([{"id": 1, "start": 0, "end": 200, **chapter}])
        packets = _video_packets(container, recipe)
        if recipe.packets is not None:
            packets = recipe.packets(packets)
        if recipe.audio is not None:
            packets += _audio_packets(container, recipe.audio, recipe.audio_s)
        if recipe.extra is not None:
            packets += recipe.extra(container)
        # Packets without a stamp keep their place.
        packets.sort(key=lambda packet: (packet.dts or 0) * packet.time_base)
        for packet in packets:
            container.mux(packet)
    restore_scheduling()
    if isinstance(output, _Unseekable):
        path.write_bytes(output.data)
    if recipe.after is not None:
        recipe.after(path)


def _video_packets(container: av.container.OutputContainer, recipe: _Recipe) -> list[av.Packet]:
    codec = recipe.codec
    stream = add_video(container, codec, rate=recipe.rate)
    stream.width, stream.height = recipe.size or _SIZES.get(codec, (64, 48))
    stream.pix_fmt = recipe.pix_fmt or _first_format(codec)
    stream.options = {**stream.options, **_OPTIONS.get(codec, {}), **recipe.options}
    if codec == "libx265":  # its threads now and then wait for each other for ever
        stream.options = {
            **stream.options,
            "x265-params": f"{stream.options['x265-params']}:log-level=none:pools=none",
        }
    stream.codec_context.thread_count = 1  # starting threads takes longer than these pictures
    if recipe.rotation is not None:
        angle, hflip, vflip = recipe.rotation
        stream.set_display_rotation(angle, hflip=hflip, vflip=vflip)
    packets = []
    for number in range(recipe.frames):
        frame = _picture(number, stream.width, stream.height, stream.pix_fmt)
        frame.pts, frame.time_base = number, 1 / Fraction(recipe.rate)
        packets += stream.encode(frame)
    packets += stream.encode()
    if recipe.stamps is not None or recipe.start_ms:
        for packet in packets:
            stamps = recipe.stamps or range(0, 40 * recipe.frames, 40)
            packet.pts, packet.dts = (
                stamps[stamp] if stamp >= 0 else 40 * stamp
                for stamp in (round(x * packet.time_base * recipe.rate) for x in _both(packet))
            )
            packet.pts += recipe.start_ms
            packet.dts += recipe.start_ms
            packet.duration, packet.time_base = 0, Fraction(1, 1000)
    return packets


def _both(packet: av.Packet) -> tuple[int, int]:
    """Return the presentation and the decoding stamp of a packet."""
    return packet.pts, packet.dts


def _first_format(codec: str) -> str:
    formats = Codec(codec, "w").video_formats
    return _PIX_FMTS.get(codec) or (formats[0].name if formats else "yuv420p")


@lru_cache(maxsize=1000)
def _picture(number: int, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    """Return a picture of coarse noise with a bar that moves; the caller sets its stamp."""
    noise = np.random.default_rng(number // 8).integers(0, 256, (6, 8, 3), np.uint8)
    rows, columns = (np.arange(n) * cells // n for n, cells in ((height, 6), (width, 8)))
    pixels = noise[rows][:, columns]
    pixels[:, number * 4 % width :][:, :4] = number * 6
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(format=pix_fmt)


def _audio_packets(
    container: av.container.OutputContainer, codec: str, seconds: float
) -> list[av.Packet]:
    rate = {"libopencore_amrnb": 8000, "wmav2": 44100}.get(codec, 48000)
    layout = "stereo" if codec in ("vorbis", "wmav2") else "mono"
    stream = container.add_stream(codec, rate=rate, layout=layout)
    if codec == "wmav2":
        stream.bit_rate = 64_000
    if codec == "vorbis":
        stream.options = {"strict": "experimental"}
    resampler = av.AudioResampler(stream.format, layout, rate)
    packets = []
    size = 160 if rate == 8000 else 960
    for start in range(0, int(rate * seconds), size):
        wave = np.sin(np.arange(start, start + size) / 20) * 8000
        samples = wave.astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for resampled in resampler.resample(frame):
            packets += stream.encode(resampled)
    return packets + stream.encode()


def _cover(codec: str) -> Callable[[av.container.OutputContainer], list[av.Packet]]:
    def add(container: av.container.OutputContainer) -> list[av.Packet]:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 200, 100, _first_format(codec)
        stream.disposition = Disposition.attached_pic
        return [*stream.encode(_picture(0, 200, 100, stream.pix_fmt)), *stream.encode()]

    return add


def _second_video(codec: str) -> Callable[[av.container.OutputContainer], list[av.Packet]]:
    """Return a function that adds a smaller video of fewer frames."""

    def add(container: av.container.OutputContainer) -> list[av.Packet]:
        return _video_packets(container, _Recipe("", codec, frames=7, size=(32, 32)))

    return add


def _subtitles(codec: str) -> Callable[[av.container.OutputContainer], list[av.Packet]]:
    texts = {"mov_text": b"\0\5hello", "ass": b"0,0,Default,,0,0,0,,hello"}

    def add(container: av.container.OutputContainer) -> list[av.Packet]:
        stream = container.add_mux_stream(codec)
        packets = []
        for start in (0, 200, 3000):
            packet = av.Packet(texts.get(codec, b"hello"))
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = 100, Fraction(1, 1000), stream
            packets.append(packet)
        return packets

    return add


def _data(container: av.container.OutputContainer) -> list[av.Packet]:
    stream = container.add_data_stream("klv")
    packets = []
    for start in (0, 10, 90):
        packet = av.Packet(b"\x06\x0e\x2b\x34 data")
        packet.pts = packet.dts = start * 90
        packet.time_base, packet.stream = Fraction(1, 90000), stream
        packets.append(packet)
    return packets


def _attachment(container: av.container.OutputContainer) -> list[av.Packet]:
    container.add_attachment("font.ttf", "application/x-truetype-font", bytes(5000))
    return []


def _packed(packets: list[av.Packet]) -> list[av.Packet]:
    """Pack MPEG-4 B-frames as DivX did: with the later picture before them, then an empty one."""
    result = []
    for packet in packets:
        data = bytes(packet)
        if not result:
            start = data.index(b"\0\0\1\xb6")
            data = data[:start] + b"\0\0\1\xb2DivX503b1393p" + data[start:]
        picture = data.index(b"\0\0\1\xb6")
        kind = data[picture + 4] >> 6
        if kind == 2:  # a B-frame
            result[-1] += data
            data = b"\0\0\1\xb6\x50\xcf"  # a picture that is not coded
        result.append(data)
    packed = []
    for number, data in enumerate(result):
        packet = av.Packet(data)
        packet.stream, packet.time_base = packets[0].stream, packets[0].time_base
        packet.pts = packet.dts = number
        packet.duration = 1
        packet.is_keyframe = number == 0
        packed.append(packet)
    return packed


def _not_coded(packets: list[av.Packet]) -> list[av.Packet]:
    """Replace every fourth MPEG-4 picture by one that is marked as not coded."""
    return [
        _changed(packet, b"\0\0\1\xb6\x50\xcf") if number % 4 == 2 else packet
        for number, packet in enumerate(packets)
    ]


def _with_exif(packets: list[av.Packet]) -> list[av.Packet]:
    """Give JPEG pictures the EXIF data of a camera."""
    data = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + b"\1\x12\0\3\0\0\0\1\0\1\0\0" + bytes(4)
    segment = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    return [_changed(packet, bytes(packet)[:2] + segment + bytes(packet)[2:]) for packet in packets]


def _in_fields(packets: list[av.Packet]) -> list[av.Packet]:
    """Join each two JPEG pictures to one of two fields, as capture cards write them."""
    fields = []
    for number, packet in enumerate(packets):
        # The segment of Motion JPEG in AVI, with the field's number.
        segment = b"\xff\xe0\0\x10AVI1" + bytes([1 + number % 2]) + bytes(9)
        fields.append(bytes(packet)[:2] + segment + bytes(packet)[2:])
    result = []
    for number, packet in enumerate(packets[: len(packets) // 2]):
        result.append(_changed(packet, fields[2 * number] + fields[2 * number + 1]))
    return result


def _changed(packet: av.Packet, data: bytes) -> av.Packet:
    """Return a packet with other bytes."""
    changed = av.Packet(data)
    changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
    changed.time_base, changed.stream = packet.time_base, packet.stream
    changed.is_keyframe = packet.is_keyframe
    return changed


def _append(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes() + data) and None


def _twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the outermost boxes of an MP4."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, start + size
        start += size


def _with_endless_mdat(path: Path) -> None:
    """Write the size 0, to the end of the file, into the last box of an MP4."""
    data = bytearray(path.read_bytes())
    kind, start, _ = list(_boxes(data))[-1]
    assert kind == b"mdat"
    struct.pack_into(">I", data, start, 0)
    path.write_bytes(data)


def _with_wide_mdat(path: Path) -> None:
    """Give the last box of an MP4 a size of 64 bits, in the place of the empty box before it."""
    data = bytearray(path.read_bytes())
    (before, start, _), (kind, _, end) = list(_boxes(data))[-2:]
    assert (before, kind) == (b"free", b"mdat")
    struct.pack_into(">I4sQ", data, start, 1, b"mdat", end - start)
    path.write_bytes(data)


def _without_index(path: Path) -> None:
    """Cut the index of an AVI off, and write the sizes that a crash leaves: 0."""
    data = bytearray(path.read_bytes())
    del data[data.rindex(b"idx1") :]
    struct.pack_into("<I", data, 4, 0)
    struct.pack_into("<I", data, data.rindex(b"movi") - 4, 0)
    path.write_bytes(data)


def _edit(*edits: tuple[int, int]) -> Callable[[Path], None]:
    return lambda path: write_edit_list(path, path, edits) and None


FAMILIES: dict[str, Callable[[], Iterator[_Recipe]]] = {
    "every codec in every container": _pairs,
    "with audio": _with_audio,
    "reordered pictures": _reordered,
    "unusual coding": _coded_differently,
    "variable rate": _of_variable_rate,
    "other pixels": _of_other_pixels,
    "interlaced": _interlaced,
    "any length": _of_any_length,
    "other streams": _with_other_streams,
    "kinds of containers": _of_container_kinds,
    "not seekable": _live,
    "joined": _joined,
    "edited": _edited,
}
