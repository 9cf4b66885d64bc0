"""Videos whose pictures are large for the memory that the process may use."""

import gc
import os
import re
import threading

import av
import numpy as np
import pytest
from c3d_client import VideoTooLarge, decode_frames
from c3d_client.core.errors import Cancelled
from c3d_client.core.limits import machine_memory, memory_in_use
from c3d_client.video import memory
from c3d_client.video.decode import decode_source
from c3d_client.video.memory import DecoderMemory, sharing
from c3d_client.views.thumbnails import read_thumbnails
from support.cgroups import limited
from support.processes import LONG_S
from support.videos import write_grey, write_timed, write_video

os.environ.setdefault("SVT_LOG", "1")  # errors only, of the encoder for AV1

MIB = 1 << 20
FAST = {"preset": "ultrafast"}
REALTIME = {"deadline": "realtime", "cpu-used": "8"}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """This process's own memory is not counted, and other tests' decoders neither."""
    monkeypatch.setattr(memory, "_running", memory._Running())
    monkeypatch.setattr(memory, "memory_in_use", lambda: 0)


@pytest.fixture
def limit(monkeypatch):
    """A function that sets the memory limit in MiB."""
    return lambda mib: monkeypatch.setattr(memory, "memory_limit", lambda: round(mib * MIB))


@pytest.fixture
def allotted(monkeypatch):
    """The numbers of threads that decoders got."""
    numbers = []
    allot = DecoderMemory.allot

    def noted(self, *arguments, **options):
        numbers.append(allot(self, *arguments, **options))
        return numbers[-1]

    monkeypatch.setattr(DecoderMemory, "allot", noted)
    return numbers


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """H.264, 1920x1080, one reference: with one thread its need is estimated as 23 MiB."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    return write_grey(path, [(1920, 1080)], 20, options=FAST)


def sizes(frames) -> list[tuple[int, int]]:
    return [(frame.picture.width, frame.picture.height) for frame in frames]


def test_video_that_needs_more_than_the_limit_fails_before_it_is_decoded(limit, large):
    limit(20)
    with pytest.raises(VideoTooLarge) as caught:
        next(decode_frames(large))
    assert caught.value.source == str(large)
    assert caught.value.reason == (
        "has pictures of 1920x1080 pixels: decoding needs about 23 MiB of the 20 MiB that this "
        "process may use; raise its memory limit"
    )
    with pytest.raises(VideoTooLarge), open(large, "rb") as file:
        next(decode_frames(file))
    with pytest.raises(VideoTooLarge):
        read_thumbnails(large)


def test_memory_that_the_process_uses_without_decoders_counts(limit, large, monkeypatch):
    limit(40)
    assert len(list(decode_frames(large, threads=1))) == 20
    monkeypatch.setattr(memory, "memory_in_use", lambda: 20 * MIB)
    # What a decoder leaves behind is used again by the next one.
    assert len(list(decode_frames(large, threads=1))) == 20
    monkeypatch.setattr(memory, "_running", memory._Running())
    with pytest.raises(VideoTooLarge, match="needs about 43 MiB of the 40 MiB"):
        next(decode_frames(large, threads=1))


def test_process_that_has_more_memory_than_the_limit_does_not_wait(limit, large, monkeypatch):
    limit(10)
    monkeypatch.setattr(memory, "memory_in_use", lambda: 20 * MIB)
    with sharing() as share, pytest.raises(VideoTooLarge):
        next(decode_source(large, share=share))


def test_decoder_has_fewer_threads_where_only_that_fits(limit, large, allotted):
    for mib, threads in ((24, 1), (30, 2), (36, 3), (42, 4), (1000, 4)):
        limit(mib)
        frames = list(decode_frames(large, threads=4))
        assert allotted.pop() == threads, mib
        assert sizes(frames) == [(1920, 1080)] * 20


def test_frames_are_the_same_with_and_without_a_limit(limit, tmp_path, allotted):
    path = write_video(tmp_path / "a.mp4", 30)
    plain = [frame.pixels for frame in decode_frames(path, threads=4)]
    limit(1.5)
    frames = [frame.pixels for frame in decode_frames(path, threads=4)]
    assert allotted == [4, 1]
    assert np.array_equal(plain, frames)


def test_threads_are_those_of_the_cpu_limit_and_as_many_as_ffmpeg_takes(
    limit, large, allotted, monkeypatch
):
    limit(4000)
    for cores, threads in ((1, 1), (2, 3), (6, 7), (64, 16)):
        monkeypatch.setattr(memory, "core_count", lambda cores=cores: cores)
        next(decode_frames(large))
        assert allotted.pop() == threads, cores


def test_fast_resizing_converts_no_whole_pictures(limit, large):
    limit(18)
    with pytest.raises(VideoTooLarge):
        next(decode_source(large, resize="exact", threads=1))
    assert sizes(decode_source(large, resize="fast", threads=1)) == [(1920, 1080)] * 20


def test_without_a_limit_the_size_of_the_machine_counts(limit, large, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: None)
    monkeypatch.setattr(memory, "machine_memory", lambda: 20 * MIB)
    with pytest.raises(VideoTooLarge, match="of the 20 MiB"):
        next(decode_frames(large))
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    assert len(list(decode_frames(large))) == 20
    assert (machine_memory() or 0) > 100 * MIB
    assert memory_in_use() > 10 * MIB


# Codec, format of the file, encoder's options.
CODECS = {
    "h264": ("libx264", "mpegts", FAST),
    "hevc": ("libx265", "mpegts", {**FAST, "x265-params": "log-level=none:pools=none"}),
    "vp9": ("libvpx-vp9", "webm", REALTIME),
    "av1": ("libsvtav1", "matroska", {"preset": "12"}),
    "mpeg4": ("mpeg4", "avi", {}),
    "mpeg2": ("mpeg2video", "mpegts", {}),
    "mjpeg": ("mjpeg", "avi", {}),
}


def test_picture_that_is_larger_than_those_before_is_the_videos_own_failure(limit, tmp_path):
    for name, (codec, container, options) in CODECS.items():
        path = write_grey(
            tmp_path / name,
            [(320, 240), (1280, 720)],
            10,
            codec=codec,
            pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
            options=options,
            container=container,
        )
        for threads in (1, 3):
            for damage in ("error", "skip"):
                limit(5)
                seen = []
                frames = decode_frames(path, threads=threads, damage=damage)
                with pytest.raises(VideoTooLarge, match=r"needs about \d+ MiB of the 5 M") as found:
                    seen.extend(frame.picture.width for frame in frames)
                assert set(seen) == {320}, name
                size = re.search(r"pictures of (.*?) pixels", found.value.reason)[1]
                assert size == "1280x720" if name in ("h264", "hevc") else "more than" in size
                if name == "mpeg2":  # the picture before the join is damaged, whatever the limit
                    continue
                limit(500)
                frames = sizes(decode_frames(path, threads=threads, damage=damage))
                assert frames[-9:] == [(1280, 720)] * 9, name


def test_stream_that_shows_its_size_with_its_first_picture_is_decoded(limit, tmp_path):
    path = write_grey(tmp_path / "late.h264", [(640, 480)], 3)
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    for mib in (50, 1):
        limit(mib)
        context = av.CodecContext.create("h264", "r")
        assert (context.width, context.height) == (0, 0)
        decoder = DecoderMemory("late.h264")
        decoder.allot(context, threads=1)
        pictures = 0
        try:
            for packet in [*packets, None]:
                pictures += len(context.decode(None if packet is None else av.Packet(packet)))
        except av.FFmpegError as error:
            with pytest.raises(VideoTooLarge, match="pictures of .* pixels"):
                decoder.check(context, error)
        assert pictures == (3 if mib == 50 else 0)


def test_gif_of_large_pictures_is_refused(limit, tmp_path):
    path = write_grey(tmp_path / "a.gif", [(2000, 2000)], 3, codec="gif", pix_fmt="rgb8")
    limit(50)
    with pytest.raises(VideoTooLarge, match="2000x2000 pixels: decoding needs about 76 MiB"):
        next(decode_frames(path))
    limit(80)
    assert len(list(decode_frames(path))) == 3


def decoded(path, share, *, threads=1) -> int:
    return sum(1 for _ in decode_source(path, threads=threads, share=share))


class Decoding:
    """A video that another thread decodes with a share."""

    def __init__(self, path, cancel=None) -> None:
        self.frames, self.error = 0, None
        self._thread = threading.Thread(target=self._decode, args=(path, cancel))
        self._thread.start()

    def _decode(self, path, cancel) -> None:
        try:
            with sharing(cancel) as share:
                self.frames = decoded(path, share)
        except Cancelled as error:
            self.error = str(error)

    def is_waiting(self) -> bool:
        self._thread.join(0.3)
        return self._thread.is_alive()

    def end(self) -> None:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()


def test_video_that_fits_alone_waits_for_the_end_of_others(limit, large, tmp_path):
    larger = write_grey(tmp_path / "b.mp4", [(2560, 1440)], 20, options=FAST)
    # Of the other video: more than half of the memory, and less.
    for mib, path in ((30, large), (50, larger)):
        limit(mib)
        with sharing() as share:
            frames = decode_source(large, threads=1, share=share)
            next(frames)
            other = Decoding(path)
            assert other.is_waiting()
            # Videos without a share, and those of the same thread, do not wait.
            assert len(list(decode_frames(large))) == 20
            with sharing() as nested:
                assert decoded(large, nested) == 20
            assert len(list(frames)) == 19
            assert other.is_waiting()
        other.end()
        assert (other.frames, other.error) == (20, None)


def test_video_has_fewer_threads_beside_another_one(limit, large, allotted):
    limit(54)
    with sharing() as share:
        next(decode_source(large, threads=1, share=share))
        thread = threading.Thread(target=lambda: list(decode_frames(large, threads=4)))
        thread.start()
        thread.join(LONG_S)
    assert allotted == [1, 2]


def test_waiting_video_can_be_cancelled(limit, large, tmp_path):
    larger = write_grey(tmp_path / "b.mp4", [(2560, 1440)], 20, options=FAST)
    for mib, path in ((30, large), (50, larger)):
        limit(mib)
        cancel = threading.Event()
        with sharing() as share:
            frames = decode_source(large, threads=1, share=share)
            next(frames)
            other = Decoding(path, cancel)
            assert other.is_waiting()
            cancel.set()
            other.end()
        assert other.error == "the video was cancelled while it waited for memory"


def test_no_frame_is_left_in_memory_after_a_video(tmp_path, bikes):
    turned = write_timed(tmp_path / "a.mp4", [40 * n for n in range(5)], rotation=(90, True, False))

    def frames_in_memory() -> int:
        # Not isinstance(), which asks objects of other libraries for their class; some warn.
        return sum(issubclass(type(thing), av.VideoFrame) for thing in gc.get_objects())

    gc.collect()
    gc.disable()  # it counts objects, not the megabytes of their pixels, and comes late
    try:
        before = frames_in_memory()
        for path in (bikes, turned):
            assert all(frame.picture.width for frame in decode_frames(path))
            assert frames_in_memory() <= before, path
    finally:
        gc.enable()


PEAK = """
import os, re, sys
import av
from c3d_client.video import memory
from c3d_client.video.decode import decode_source
needs = []
allot = memory.DecoderMemory.allot

def noted(self, context, *, threads, references=0):
    needs.append(self._need(context, threads, references))
    return allot(self, context, threads=threads, references=references)

memory.DecoderMemory.allot = noted
for path in sys.argv[1:]:
    for threads in (1, 2, 4):
        pid = os.fork()
        if not pid:
            def status(key):
                with open("/proc/self/status") as file:
                    return int(re.search(key + r":\\s+(\\d+)", file.read())[1]) << 10
            before = status("VmRSS")
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            for frame in decode_source(path, threads=threads):
                frame.picture.prepared()
            print(path, threads, needs[-1], status("VmHWM") - before, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
"""


@pytest.mark.faults
def test_estimates_are_not_above_the_peaks_of_memory(tmp_path):
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("no /proc/self/clear_refs: peaks of memory cannot be measured")
    paths = []
    for name, (codec, container, options) in CODECS.items():
        if name != "hevc":  # its encoder takes seconds
            format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            paths.append(
                write_grey(
                    tmp_path / name,
                    [(2048, 1536)],
                    12,
                    codec=codec,
                    pix_fmt=format,
                    options=options,
                    container=container,
                )
            )
    paths.append(
        write_grey(tmp_path / "b.mp4", [(2048, 1536)], 20, options={"bf": "2", "refs": "3"})
    )
    with limited(memory=2000 * MIB) as group:
        lines = group.run(PEAK, *paths).splitlines()
    assert len(lines) == 3 * len(paths)
    for line in lines:
        path, threads, need, peak = line.split()
        assert int(need) <= 1.15 * int(peak), line
        assert int(peak) <= 3 * int(need), line
