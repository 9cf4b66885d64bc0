"""The memory that decoding a video needs, held against what this process may use.

A decoder keeps pictures: those that later ones refer to, those that are not shown yet, and some for
each thread. Of a small file with large pictures they can exceed a container's memory limit, and the
kernel then ends the process with all its videos. So the need is estimated before decoding. A
decoder has fewer threads where only that fits, and a video that needs more than there is fails
alone.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from c3d_client.core.errors import Cancelled, VideoTooLarge
from c3d_client.core.limits import core_count, machine_memory, memory_in_use, memory_limit
from c3d_client.video.fast_crop import Shape

# How many threads FFmpeg takes at most where their number is left to it.
_MOST_THREADS = 16
_WAIT_S = 0.2
# Above this many bytes the memory of a video is returned at its end.
_LARGE = 128 << 20


class _Pictures(NamedTuple):
    """How many pictures a decoder has in memory.

    Args:
        first: with one thread, besides the pictures that later ones may refer to where their number
            is known.
        reordered: added where pictures are shown in another order than they are decoded.
        second: added for the second thread.
        further: added for each thread after the second.
    """

    first: float
    reordered: float
    second: float
    further: float


# Measured with FFmpeg 8 as peaks of a process's memory, for 1920x1080 to 8192x8192 pixels and 1, 2
# and 4 threads. For each codec it is about the lowest of its videos, so that no video is refused
# that would pass. At 8192x8192 pixels the peak is 0.95 to 1.0 times the estimate for H.264, GIF,
# MPEG-4 and MJPEG, 1.0 to 1.1 times for VP9 and HEVC, and 1.3 to 1.5 times for AV1.
_PICTURES = {
    "h264": _Pictures(4, 1, 1.9, 1.9),
    "hevc": _Pictures(5, 4, 0.3, 1.7),
    "libdav1d": _Pictures(4, 0, 4.7, 0),
    "mpeg4": _Pictures(5, 1, 1.7, 1.7),
}
_OTHERS = _Pictures(4, 0, 1, 1)
# Bytes a pixel of converting a picture to RGB: where only the rows of the crop are converted, which
# is the case for most videos, and elsewhere. Measured 3.8 to 5.3 and 3.0 to 3.5.
_CROP_BYTES, _RGB_BYTES = 3.8, 3.0
# Where the format is not known before the first picture: 4:2:0, of which most videos are.
_UNKNOWN_FORMAT_BITS = 12

# For what is not pictures: batches of clips, page tables, and what the process loads later.
# Measured in a worker: 50 MB with a video of 8192x8192 pixels.
_MARGIN = 1.05

# FFmpeg takes a number of pixels as a C int, compares it with the size that it allocates, and
# aligns width and height for that.
_MOST_PIXELS = (1 << 31) - 1
_ALIGNMENT = 128
_MEGAPIXEL = 1 << 20
_INVALID_ARGUMENT, _OUT_OF_RANGE = 22, 34


class Share:
    """The memory of one video among those that are decoded at the same time.

    Args:
        cancel: set by another thread to end the wait for memory.

    Attributes:
        size: in bytes; 0 before the video's decoder exists.
        thread: identifies the thread that decodes the video.
    """

    def __init__(self, cancel: threading.Event | None) -> None:
        self.cancel = cancel
        self.size = 0
        self.thread = threading.get_ident()

    def wait(self) -> None:
        """Wait for the end of a video; the caller holds the lock of the running videos.

        Raises:
            Cancelled: the video was cancelled.
        """
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("the video was cancelled while it waited for memory")
        _running.changed.wait(_WAIT_S)


class _Running:
    """The videos that are decoded in this process at the moment."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.shares: list[Share] = []
        self._least: int | None = None

    def base(self) -> int:
        """Return the memory of this process without decoders, in bytes.

        It is the least at the starts of decoders while no other one ran: memory that a decoder
        leaves behind is used again by the next one.
        """
        if self._least is None or not any(share.size for share in self.shares):
            in_use = memory_in_use()
            self._least = in_use if self._least is None else min(in_use, self._least)
        return self._least

    def others(self) -> int:
        """Return the bytes of the decoders in other threads."""
        thread = threading.get_ident()
        return sum(share.size for share in self.shares if share.thread != thread)


_running = _Running()


@contextmanager
def sharing(cancel: threading.Event | None = None) -> Iterator[Share]:
    """Yield a share for a video that this thread decodes within the block.

    Begins when no video of another thread needs more than half of the memory: FFmpeg decodes up to
    three pictures of any size to open a video. A decoder with a share waits while its video fits
    into memory only without those of other threads.

    Args:
        cancel: set by another thread to end the waits.

    Raises:
        Cancelled: ``cancel`` was set during the wait.
    """
    share = Share(cancel)
    limit = memory_limit()
    with _running.changed:
        while limit is not None and _running.others() > max(0, limit - _running.base()) / 2:
            share.wait()
        _running.shares.append(share)
    try:
        yield share
    finally:
        if share.size > _LARGE:
            _return_freed_memory()
        with _running.changed:
            _running.shares.remove(share)
            _running.changed.notify_all()


def _return_freed_memory() -> None:
    """Have the C library return freed memory to the system, where it keeps it for its thread.

    Measured after a video of 8192x8192 pixels: 200 MB, which another thread cannot use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


class DecoderMemory:
    """The memory for the decoder of one video.

    Args:
        name: of the video, for error messages.
        resize: how its pictures are resized; ``fast`` converts no whole pictures of most videos.
        share: the video's share; without one it does not wait, and other videos not for it.
    """

    def __init__(self, name: str, *, resize: str = "exact", share: Share | None = None) -> None:
        self._name = name
        self._resize = resize
        self._share = share
        self._base = self._total = 0
        self._most_pixels = _MOST_PIXELS

    def allot(self, context: VideoCodecContext, *, threads: int, references: int = 0) -> int:
        """Limit a decoder to the memory of this process.

        The size of its pictures is limited, because later ones may be larger.

        Args:
            context: the decoder, not open yet.
            threads: the largest number of threads; 0 for as many as there are cores.
            references: how many pictures later ones may refer to, where it is known.

        Returns:
            The number of threads that fit into memory.

        Raises:
            VideoTooLarge: the video needs more memory than this process may use.
            Cancelled: the video was cancelled while it waited for the end of others.
        """
        if not threads:
            cores = core_count()
            threads = min(cores + 1, _MOST_THREADS) if cores > 1 else 1  # as FFmpeg chooses

        def need(threads: int) -> int:
            return self._need(context, threads, references)

        limit, machine = memory_limit(), machine_memory()
        sizes = [size for size in (limit, machine) if size is not None]
        if not sizes:
            return threads
        self._total = min(sizes)
        with _running.changed:
            # Without a limit only what clearly exceeds the whole machine is refused.
            self._base = 0 if limit is None else _running.base()
            if self._base + need(1) > self._total:
                raise self._error(f"{context.width}x{context.height}", need(1))
            threads = self._fitting(threads, need)
            if self._share is not None:
                self._share.size = need(threads)
        # A stream may show its size with its first picture only. The need is proportional to it.
        pixels = context.width * context.height or _MEGAPIXEL
        needed = self._need(context, threads, references, pixels=pixels)
        fitting = (self._total - self._base) * pixels // needed
        aligned = (context.width + _ALIGNMENT) * (context.height + _ALIGNMENT)
        self._most_pixels = max(fitting, aligned)
        if self._most_pixels < _MOST_PIXELS:
            context.options = {**context.options, "max_pixels": str(self._most_pixels)}
        return threads

    def check(self, context: VideoCodecContext, error: FFmpegError) -> None:
        """Raise VideoTooLarge where a decoder refused a picture because of its size.

        Args:
            context: the decoder.
            error: what it raised.
        """
        if self._most_pixels >= _MOST_PIXELS:
            return
        pixels = context.width * context.height
        if pixels > self._most_pixels:
            size = f"{context.width}x{context.height}"
        elif (not pixels and error.errno == _INVALID_ARGUMENT) or (
            context.name == "libdav1d" and error.errno == _OUT_OF_RANGE
        ):
            size, pixels = f"more than {self._most_pixels / 1e6:.0f} million", self._most_pixels
        else:
            return
        raise self._error(size, self._need(context, 1, 0, pixels=pixels)) from error

    def _fitting(self, threads: int, need: Callable[[int], int]) -> int:
        """Return the number of threads that fits beside other videos, or wait for their end."""
        while True:
            free = self._total - self._base - _running.others()
            fitting = next((count for count in range(threads, 0, -1) if need(count) <= free), 0)
            if fitting:
                return fitting
            if self._share is None:
                return 1
            self._share.wait()

    def _need(
        self,
        context: VideoCodecContext,
        threads: int,
        references: int,
        *,
        pixels: int | None = None,
    ) -> int:
        """Return about how many bytes decoding needs."""
        if pixels is None:
            pixels = context.width * context.height
        format = context.format
        bits = _UNKNOWN_FORMAT_BITS if format is None else max(8, format.padded_bits_per_pixel)
        pictures = _PICTURES.get(context.name, _OTHERS)
        count = pictures.first + references
        if context.has_b_frames:
            count += pictures.reordered
        if threads > 1:
            count += pictures.second + pictures.further * (threads - 2)
        bytes_per_pixel = count * bits / 8
        shape = Shape(format.name if format else "", context.width, context.height, 0, 0, False, 0)
        if not shape.is_supported:
            bytes_per_pixel += _RGB_BYTES
        elif self._resize != "fast":
            bytes_per_pixel += _CROP_BYTES
        return round(pixels * bytes_per_pixel * _MARGIN)

    def _error(self, size: str, need: int) -> VideoTooLarge:
        needed, total = ((part + (1 << 19)) >> 20 for part in (self._base + need, self._total))
        return VideoTooLarge(
            self._name,
            f"has pictures of {size} pixels: decoding needs about {max(needed, total + 1)} MiB of "
            f"the {total} MiB that this process may use; raise its memory limit",
        )
