"""What a video may be given as: a path or URL, bytes, an open file, images, or frames in memory.

:func:`open_input` decides by the type of the value and returns a :class:`VideoInput`, which yields
the frames. Frames in memory and images pass the same resize and crop as decoded frames. Images are
decoded with OpenCV, as ``cv2.imread`` does, so their pixels are those of a program that reads the
images with OpenCV and gives the arrays; the original C3D reads frames with the same function.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.core.arguments import kind_of
from c3d_client.core.errors import (
    OutputError,
    UsageError,
    VideoDecodeError,
    VideoUnreadableError,
)
from c3d_client.core.file_kinds import START_BYTES, Group, file_kind
from c3d_client.core.text import escape_bytes
from c3d_client.core.uri import Uri
from c3d_client.video.clips import ClipWindow, check_fps
from c3d_client.video.damage import Accounts
from c3d_client.video.decode import Frame, decode_source
from c3d_client.video.images import ImageSequence, find_images, image_problem, names_images
from c3d_client.video.memory import Share
from c3d_client.video.sources import fingerprint

VideoSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Iterable[Any]"
)
"""What a video may be given as.

A path or URL; a folder or a pattern of images; frames, uint8 ``[n, height, width, 3]``, as a NumPy
array, a torch tensor or another array; an iterable of frames, uint8 ``[height, width, 3]``; the
content of a video as bytes, or as a binary file open for reading.
"""

Fingerprint: TypeAlias = Mapping[str, "str | int"]

CHANNEL_ORDERS = ("rgb", "bgr")

_READ_BYTES = 1 << 20
_LONGEST_PATH = 4096
_TO_UINT8 = "give uint8 from 0 to 255 ((x * 255).round() where values are from 0 to 1)"


class VideoInput(ABC):
    """One video, whatever it was given as.

    Attributes:
        name: its address, redacted, or what it is in angle brackets, such as ``<array>``.
        is_once: whether its frames can be read only once.
        has_times: whether its frames have times; otherwise these are NaN.
        is_encoded: whether frames are decoded from a file, which has streams and may be interlaced.
    """

    name: str
    is_once = False
    has_times = True
    is_encoded = True

    @abstractmethod
    def prepare(self) -> None:
        """Find what is there, before each time that the frames are read.

        Raises:
            VideoDecodeError: it cannot be read, or is no video.
        """

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Return the properties that show whether the video has changed; after its last frame."""

    def provenance(self) -> dict[str, Any]:
        """Return what a result records about the video's form, besides what it records of any."""
        return {}

    @abstractmethod
    def frames(
        self,
        *,
        threads: int = 0,
        on_stream: Callable[[int], None] | None = None,
        accounts: Accounts | None = None,
        share: Share | None = None,
    ) -> Iterator[Frame]:
        """Yield the frames; the arguments are those of :func:`decode_source`."""


class _EncodedVideo(VideoInput):
    """A video at a path or URL."""

    def __init__(self, uri: Uri, window: ClipWindow, known: Fingerprint | None) -> None:
        self.name = str(uri)
        self._uri = uri
        self._window = window
        self._known = known

    def prepare(self) -> None:
        if self._known is None:
            self._known = fingerprint(self._uri)

    def fingerprint(self) -> Fingerprint:
        return self._known or {}

    def frames(self, **options: Any) -> Iterator[Frame]:
        size = (self._known or {}).get("size")
        size = None if size is None else int(size)
        return self._decoded(self._uri.raw, size=size, **options)

    def _decoded(self, source: Any, **options: Any) -> Iterator[Frame]:
        return decode_source(
            source,
            stream=self._window.stream,
            damage=self._window.damage,
            resize=self._window.resize,
            **options,
        )


class _Content(_EncodedVideo):
    """The content of a video: bytes, or a file open for reading, from its start.

    A file that cannot seek is copied to an unnamed temporary file in the folder that TMPDIR names,
    because most containers are not read in one direction.
    """

    def __init__(self, file: BinaryIO, name: str, window: ClipWindow, *, kind: str) -> None:
        super().__init__(Uri(name), window, None)
        self._given = file
        self._kind = kind
        self._file: IO[bytes] | None = None

    def prepare(self) -> None:
        try:
            if self._file is None:
                self._file = self._seekable()
            self._file.seek(0)
            if self._known is None:
                self._known = self._read()
                self._file.seek(0)
        except OutputError:  # which is an OSError too
            raise
        except OSError as error:
            reason = error.strerror or error
            raise VideoUnreadableError(self.name, f"cannot be read ({reason})") from error
        if not self._known["size"]:
            raise VideoDecodeError(self.name, "is empty (0 bytes)")

    def provenance(self) -> dict[str, Any]:
        return {"input": self._kind}

    def frames(self, **options: Any) -> Iterator[Frame]:
        return self._decoded(self._file, name=self.name, **options)

    def _seekable(self) -> IO[bytes]:
        seekable = getattr(self._given, "seekable", None)
        if seekable() if callable(seekable) else hasattr(self._given, "seek"):
            return self._given
        copy = tempfile.TemporaryFile(prefix="c3d-video-")  # noqa: SIM115
        weakref.finalize(self, copy.close)
        for chunk in self._chunks(self._given):
            try:
                copy.write(chunk)
                copy.flush()
            except OSError as error:
                raise OutputError(
                    tempfile.gettempdir(),
                    f"{self.name} cannot be copied there ({error.strerror or error}); "
                    "free disk space, or name another folder in TMPDIR",
                ) from error
        return copy

    def _read(self) -> dict[str, str | int]:
        assert self._file is not None
        size, digest = 0, hashlib.sha256()
        for chunk in self._chunks(self._file):
            size += len(chunk)
            digest.update(chunk)
        return {"size": size, "sha256": digest.hexdigest()}

    def _chunks(self, file: IO[bytes]) -> Iterator[bytes]:
        while True:
            chunk: Any = file.read(_READ_BYTES)
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise UsageError(
                    f"source is a file that reads {kind_of(chunk)}; open it in binary mode, 'rb'"
                )
            if not chunk:
                return
            yield bytes(chunk)


class _Frames(VideoInput):
    """Frames that are not decoded from a video: the parts that all kinds share.

    Args:
        name: of the video.
        kind: the form that the provenance records.
        frames_fps: their rate in frames a second; None where it is not known.
    """

    is_encoded = False

    def __init__(self, name: str, kind: str, frames_fps: float | Fraction | None) -> None:
        self.name = name
        self.has_times = frames_fps is not None
        self._kind = kind
        self._fps = frames_fps

    def provenance(self) -> dict[str, Any]:
        fps = None if self._fps is None else float(self._fps)
        return {"input": self._kind, "frames_fps": fps}

    def frames(self, **options: Any) -> Iterator[Frame]:
        # The options are a decoder's.
        duration_s = math.nan if self._fps is None else float(1 / self._fps)
        size: tuple[int, ...] | None = None
        for index, (label, pixels) in enumerate(self._pixels()):
            size = size or pixels.shape
            if pixels.shape != size:
                raise VideoDecodeError(
                    self.name,
                    f"{label} has {_size_text(pixels.shape)} pixels, and those before it "
                    f"{_size_text(size)}; give frames of one size",
                )
            time_s = math.nan if self._fps is None else float(index / self._fps)
            yield Frame.from_pixels(index, time_s, duration_s, pixels, name=self.name)

    @abstractmethod
    def _pixels(self) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
        """Yield the frames, uint8 ``[height, width, 3]`` RGB, each with its name for messages."""


class _Images(_Frames):
    """A folder or a pattern of images."""

    def __init__(self, uri: Uri, frames_fps: float | Fraction | None) -> None:
        super().__init__(str(uri), "images", frames_fps)
        self._path = uri.path
        self._sequence: ImageSequence | None = None

    def prepare(self) -> None:
        self._sequence = find_images(self._path)

    def fingerprint(self) -> Fingerprint:
        return {} if self._sequence is None else self._sequence.fingerprint()

    def _pixels(self) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
        assert self._sequence is not None
        try:
            for name in self._sequence.names:
                path = os.path.join(self._sequence.folder, name)
                yield escape_bytes(name), read_image(path, name=self.name)
        except VideoDecodeError as error:
            self._require_unchanged(error)
            raise
        self._require_unchanged(None)

    def _require_unchanged(self, cause: Exception | None) -> None:
        """Raise VideoUnreadableError where images were added, removed or written meanwhile."""
        try:
            is_same = find_images(self._path) == self._sequence
        except VideoDecodeError:
            is_same = False
        if not is_same:
            raise VideoUnreadableError(
                self.name, "was changed while it was read; try again when it is complete"
            ) from cause


class _FramesInMemory(_Frames):
    """Frames whose pixels are digested while they are read.

    Args:
        name: of the video.
        kind: the form that the provenance records.
        frames_fps: as for :class:`_Frames`.
        channel_order: of the pixels.
    """

    def __init__(
        self, name: str, kind: str, frames_fps: float | Fraction | None, channel_order: str
    ) -> None:
        super().__init__(name, kind, frames_fps)
        self._order = channel_order
        self._digest = hashlib.sha256()

    def prepare(self) -> None:
        self._digest = hashlib.sha256()

    def fingerprint(self) -> Fingerprint:
        return {"pixels_sha256": self._digest.hexdigest()}

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "channel_order": self._order}

    def _rgb(self, index: int, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the pixels in RGB, contiguous; they are part of the digest."""
        pixels = np.ascontiguousarray(pixels[..., ::-1] if self._order == "bgr" else pixels)
        if not index:
            # The same bytes may be frames of another shape.
            self._digest.update(repr(pixels.shape).encode())
        self._digest.update(pixels.data)
        return pixels


class _Array(_FramesInMemory):
    """An array of frames, converted to NumPy frame by frame."""

    def __init__(self, array: Any, frames_fps: float | Fraction | None, channel_order: str) -> None:
        super().__init__("<array>", "array", frames_fps, channel_order)
        self._array = array
        if problem := _problem(array, rank=4):
            raise UsageError(f"source is {kind_of(array)} of {_dtype(array)}; {problem}")

    def _pixels(self) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
        for index in range(int(self._array.shape[0])):
            pixels = _to_numpy(self._array[index], "source")
            yield f"frame {index}", self._rgb(index, pixels)


class _Iterable(_FramesInMemory):
    """An iterable of frames; of an iterator, such as a generator, each frame is read once."""

    def __init__(
        self, frames: Iterable[Any], frames_fps: float | Fraction | None, channel_order: str
    ) -> None:
        super().__init__("<frames>", "frames", frames_fps, channel_order)
        self._frames = frames
        self.is_once = isinstance(frames, Iterator)

    def _pixels(self) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
        for index, frame in enumerate(self._frames):
            yield f"frame {index}", self._rgb(index, _frame_pixels(frame, index, self._frames))


def open_input(
    source: VideoSource,
    *,
    window: ClipWindow,
    channel_order: str = "rgb",
    frames_fps: float | Fraction | None = None,
    known: Fingerprint | None = None,
) -> VideoInput:
    """Return a video by what it is given as; nothing is read yet.

    Args:
        source: see :data:`VideoSource`.
        window: how clips are cut, with the stream and what is done about damage.
        channel_order: ``rgb`` or ``bgr``, of frames in memory.
        frames_fps: the rate of frames that have no times: images and frames in memory.
        known: what :func:`c3d_client.video.sources.fingerprint` returned for the source just now.

    Raises:
        UsageError: the source is nothing of these, its frames have another dtype or shape, or an
            argument does not apply to it.
    """
    if channel_order not in CHANNEL_ORDERS:
        raise UsageError(f"channel_order is {channel_order!r}; give 'rgb' or 'bgr'")
    if frames_fps is not None:
        check_fps(frames_fps, "frames_fps")
    given = _input(source, window, channel_order, frames_fps, known)
    if given.is_encoded and frames_fps is not None:
        raise UsageError(
            f"frames_fps is {frames_fps} and {given.name} is a video with times of its own; "
            "leave it out (fps resamples a video)"
        )
    if channel_order != "rgb" and not isinstance(given, _FramesInMemory):
        raise UsageError(
            f"channel_order is {channel_order!r} and {given.name} is decoded to RGB; it is for "
            "arrays and iterables of frames"
        )
    if given.is_encoded:
        return given
    if window.stream is not None:
        raise UsageError(f"stream is {window.stream} and {given.name} has no streams; leave it out")
    if window.fps is not None and not given.has_times:
        raise UsageError(
            f"fps is {window.fps} and the frames of {given.name} have no times; "
            "give their rate as frames_fps"
        )
    return given


def _input(
    source: VideoSource,
    window: ClipWindow,
    channel_order: str,
    frames_fps: float | Fraction | None,
    known: Fingerprint | None,
) -> VideoInput:
    if isinstance(source, (str, os.PathLike)):
        uri = Uri.of(source)
        if uri.is_local and names_images(uri.path):
            return _Images(uri, frames_fps)
        return _EncodedVideo(uri, window, known)
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        if len(content) < _LONGEST_PATH and b"\0" not in content and os.path.lexists(content):
            raise UsageError("source is a path in bytes; give os.fsdecode(source)")
        return _Content(io.BytesIO(content), "<bytes>", window, kind="bytes")
    if isinstance(source, io.TextIOBase):
        raise UsageError("source is a file open as text; open it in binary mode, 'rb'")
    if hasattr(source, "isOpened"):
        raise UsageError(
            f"source is {kind_of(source)} of OpenCV; give the video itself, or a generator of its "
            "frames and channel_order='bgr'"
        )
    if callable(getattr(source, "read", None)):
        if getattr(source, "closed", False):
            raise UsageError("source is a file that is closed; give it open, in binary mode")
        name = getattr(source, "name", None)  # a number where it was opened by one
        is_path = isinstance(name, (str, bytes, os.PathLike))
        name = str(Uri(os.fsdecode(cast(str, name)))) if is_path else "<file>"
        return _Content(cast(BinaryIO, source), name, window, kind="file")
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _Array(source, frames_fps, channel_order)
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return _Iterable(source, frames_fps, channel_order)
    raise UsageError(
        f"source is {kind_of(source)}; give a path or URL, frames as uint8 [n, height, width, 3] "
        "or as an iterable, or a video's bytes or open file"
    )


def read_image(path: str, *, name: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image, uint8 ``[height, width, 3]`` RGB.

    OpenCV decodes it as ``cv2.imread`` does: turned as its EXIF orientation requires, grey in all
    three channels, and without its alpha channel, as a decoded video is.

    Args:
        path: of the image.
        name: of the video, for error messages.

    Raises:
        VideoUnreadableError: the file cannot be read.
        VideoDecodeError: it is no image, is cut short or damaged, or has more than 8 bits a
            channel, which OpenCV would cut off.
    """
    image = escape_bytes(os.path.basename(path))
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise VideoUnreadableError(name, f"{image}: cannot be read ({error.strerror})") from error
    if problem := image_problem(data):
        raise VideoDecodeError(name, f"{image}: {problem}")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        reason = getattr(error, "err", "") or type(error).__name__
        raise VideoDecodeError(name, f"{image}: cannot be decoded ({reason})") from error
    if pixels is None:
        kind = file_kind(data[:START_BYTES], name=path)
        explained = f": {kind.text('image')}" if kind and kind.group is not Group.PICTURE else ""
        raise VideoDecodeError(name, f"{image}: cannot be decoded as an image{explained}")
    if pixels.dtype != np.uint8:
        raise VideoDecodeError(
            name,
            f"{image}: has {8 * pixels.itemsize} bits a channel; convert the images to 8 bits, "
            "which decides what is black and what is white",
        )
    return cast("npt.NDArray[np.uint8]", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _frame_pixels(frame: Any, index: int, frames: Iterable[Any]) -> npt.NDArray[np.uint8]:
    """Return one frame of an iterable as an array.

    Raises:
        UsageError: it is something else than uint8 ``[height, width, 3]``.
    """
    if isinstance(frame, (str, os.PathLike)):
        raise UsageError(
            f"source is {kind_of(frames)} of paths; give several videos to extract_many, and "
            "images as a folder or a pattern, such as 'frames/%06d.jpg'"
        )
    if not any(hasattr(frame, name) for name in ("shape", "__array__", "__array_interface__")):
        hint = next(
            (hint for name, hint in _HINTS.items() if hasattr(frame, name)),
            "give frames, uint8 [height, width, 3]",
        )
        raise UsageError(f"frame {index} is {kind_of(frame)}; {hint}")
    pixels = frame if hasattr(frame, "shape") else _to_numpy(frame, f"frame {index}")
    if problem := _problem(pixels, rank=3):
        raise UsageError(f"frame {index} is {kind_of(pixels)} of {_dtype(pixels)}; {problem}")
    return _to_numpy(pixels, f"frame {index}")


_HINTS = {
    "pixels": "give its .pixels",  # this package's Frame
    "to_ndarray": "give its .to_ndarray(format='rgb24')",  # PyAV's VideoFrame
    "asnumpy": "give its .asnumpy()",  # decord's NDArray
}


def _to_numpy(value: Any, name: str) -> npt.NDArray[np.uint8]:
    """Return an array of any library in NumPy, from the memory of a GPU too.

    Raises:
        UsageError: NumPy cannot read the array.
    """
    for step in ("detach", "cpu"):  # a torch tensor may have a gradient or be on a GPU
        method = getattr(value, step, None)
        value = method() if callable(method) else value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{name} cannot be read by NumPy ({reason}); give a NumPy array") from None


def _dtype(array: Any) -> str:
    """Return the name of an array's dtype: ``uint8`` for NumPy's, torch's and TensorFlow's."""
    dtype = getattr(array, "dtype", "unknown dtype")
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _problem(array: Any, *, rank: int) -> str:
    """Return what to do about an array that is not uint8 frames; empty where it is.

    Args:
        array: with a shape and a dtype.
        rank: 4 for a video ``[n, height, width, 3]``, 3 for a frame ``[height, width, 3]``.
    """
    shape = tuple(int(size or 0) for size in array.shape)
    if problem := _shape_problem(shape, rank=rank):
        return problem
    if _dtype(array) != "uint8":
        return _TO_UINT8
    if 0 in shape[-3:]:
        return "give frames that have pixels"
    return ""


def _shape_problem(shape: Sequence[int], *, rank: int) -> str:
    is_video = rank == 4
    wanted = "[n, height, width, 3]" if is_video else "[height, width, 3]"
    if len(shape) == rank:
        if shape[-1] == 3:
            return ""
        for channels_at in reversed(range(rank - 2)):
            if shape[channels_at] == 3:
                order = ", ".join(str(i) for i in (*_without(rank, channels_at), channels_at))
                return (
                    f"it has channels first; give {wanted}: x.transpose({order}), of torch "
                    f"x.permute({order})"
                )
        if shape[-1] == 4:
            return f"it has 4 channels; give {wanted}: x[..., :3], without the alpha channel"
        if shape[-1] == 1:
            return f"it is grey; give {wanted}: numpy.repeat(x, 3, -1)"
    elif len(shape) == rank - 1:
        if is_video and shape[-1] == 3:
            return f"it is one frame; give {wanted}, or a list of frames"
        return f"it is grey; give {wanted}: numpy.repeat(x[..., None], 3, -1)"
    elif len(shape) == rank + 1:
        if is_video:
            return f"give one video, {wanted}; list(x) of several videos is for extract_many"
        return f"it is several frames; yield each of them, {wanted}"
    return f"give {wanted}"


def _without(rank: int, index: int) -> list[int]:
    return [i for i in range(rank) if i != index]


def _size_text(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
