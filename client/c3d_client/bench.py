"""What to expect of this machine and of that server: the measures of `c3d bench`.

Each part of the walk by itself, then the whole. A measure takes about as long as it is told to,
longer where a server needs longer for its answers.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.client import C3DClient
from c3d_client.core.contract import BATCH_SIZES, CLIP_SHAPE, FC6_FEATURES, MAX_BATCH_SIZE
from c3d_client.core.errors import Cancelled, ContractMismatch, UsageError, VideoTooShortError
from c3d_client.core.uri import redact
from c3d_client.inference import VideoInference
from c3d_client.results import Timings
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.client import ServingClient
from c3d_client.serving.messages import from_proto, predict_request
from c3d_client.serving.model_info import ModelInfo
from c3d_client.serving.options import ServingOptions
from c3d_client.video.decode import Frame, decode_frames

# Each way is measured so often, in turn, and the best is kept: other programs only make it worse.
_ROUNDS = 3
# With fewer, opening the film would be what is measured.
_LEAST_FRAMES = 64
# The first answer tells more of how long the first batch took to fill than of what follows.
_LEAST_ANSWERS = 2


@dataclass(frozen=True)
class DecodeSpeed:
    """Frames of a film in a second of one core.

    Args:
        width: of the film, in pixels, as shown.
        height: likewise.
        frames: how many each number was measured on; a short film's count again.
        decode: decoded alone.
        exact: decoded and prepared, ``resize="exact"``.
        fast: decoded and prepared, ``resize="fast"``.
    """

    width: int
    height: int
    frames: int
    decode: float
    exact: float
    fast: float


@dataclass(frozen=True)
class MessageSpeed:
    """How quickly a request of the largest size is made from clips, and read back.

    Args:
        clips: in the request.
        make_gb_per_s: of clips, in 10^9 bytes a second.
        parse_gb_per_s: likewise.
        gb_per_s: of both, one after the other.
    """

    clips: int
    make_gb_per_s: float
    parse_gb_per_s: float
    gb_per_s: float


@dataclass(frozen=True)
class BatchSpeed:
    """A server asked with batches of one size, as many on their way as it takes.

    Args:
        batch_size: clips in a request.
        requests: answered.
        clips_per_s: all requests together.
        alone_s: how long one request takes with no other on its way.
        p50_s: half of the answers came within this time, those on their way at once taken
            together.
        p95_s: 95 of 100.
        p99_s: 99 of 100.
        window: how many may be on their way at once, at the end.
        push_backs: how many the server pushed back; they were sent again.
    """

    batch_size: int
    requests: int
    clips_per_s: float
    alone_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    window: int
    push_backs: int


@dataclass(frozen=True)
class ExtractSpeed:
    """A film on its whole walk, from its file to its features.

    Args:
        clips: answered.
        wall_s: until the last of these answers.
        clips_per_s: of the two.
        frames_per_s: of the film, as far as these clips reach.
        timings: where the time went, for these clips.
        bottleneck: what the rest waited for: ``decoding``, ``the server``, ``the network``, or
            ``the server or the network`` where the server does not tell.
    """

    clips: int
    wall_s: float
    clips_per_s: float
    frames_per_s: float
    timings: Timings
    bottleneck: str


def decode_speed(video: str | os.PathLike[str], *, seconds: float) -> DecodeSpeed:
    """Decode the beginning of a film on one core, alone and with its frames prepared.

    Raises:
        VideoDecodeError: the film cannot be decoded.
    """
    until = time.process_time() + seconds / _ROUNDS / 3
    frames, width, height = 0, 0, 0
    for frame in _endless(video):
        frame.picture.prepared()
        frames, width, height = frames + 1, frame.picture.width, frame.picture.height
        if frames >= _LEAST_FRAMES and time.process_time() >= until:
            break

    def decode(use: Callable[[Frame], object] | None) -> None:
        for frame in itertools.islice(_endless(video), frames):
            if use is not None:
                use(frame)

    ways: tuple[Callable[[Frame], object] | None, ...] = (
        None,
        lambda frame: frame.picture.prepared("exact"),
        lambda frame: frame.picture.prepared("fast"),
    )
    best = [math.inf] * len(ways)
    for _, (way, use) in itertools.product(range(_ROUNDS), enumerate(ways)):
        started = time.process_time()
        decode(use)
        best[way] = min(best[way], time.process_time() - started)
    decode_s, exact_s, fast_s = best
    return DecodeSpeed(width, height, frames, frames / decode_s, frames / exact_s, frames / fast_s)


def _endless(video: str | os.PathLike[str]) -> Iterator[Frame]:
    while True:
        yield from decode_frames(video, threads=1)


def message_speed(*, seconds: float) -> MessageSpeed:
    """Make and read a request of 32 clips, over and over."""
    clips = _clips(MAX_BATCH_SIZE)
    spec = wire.ModelSpec(signature_name=FC6_FEATURES.name)
    name = FC6_FEATURES.input.name
    make_s = parse_s = both_s = math.inf
    until = time.perf_counter() + seconds
    while both_s == math.inf or time.perf_counter() < until:
        started = time.perf_counter()
        request = predict_request(spec, name, clips)
        made = time.perf_counter()
        from_proto(wire.PredictRequest.FromString(request).inputs[name])
        parsed = time.perf_counter()
        make_s, parse_s = min(make_s, made - started), min(parse_s, parsed - made)
        both_s = min(both_s, parsed - started)
    size = clips.nbytes / 1e9
    return MessageSpeed(len(clips), size / make_s, size / parse_s, size / both_s)


def batch_sizes(info: ModelInfo) -> tuple[int, ...]:
    """1, 8 and 32, as far as the servable was made for them."""
    largest = max(info.card.get("batch_sizes") or BATCH_SIZES)
    return tuple(size for size in BATCH_SIZES if size == 1 or size <= largest)


def batch_speed(options: ServingOptions, size: int, *, seconds: float) -> BatchSpeed:
    """Ask a server with batches of one size, through a window of their own.

    Where one request takes longer than ``seconds``, it is the only one.

    Raises:
        ServingError: the server failed.
    """
    clips = _clips(size)
    with ServingClient(options) as serving:
        serving.predict(FC6_FEATURES, clips[:1])  # connects
        started = time.perf_counter()
        alone_s = serving.predict(FC6_FEATURES, clips).latency_s
        latencies = [alone_s]
        if alone_s < seconds:
            started = time.perf_counter()
            batches = _until(started + seconds, clips)
            latencies = [answer.latency_s for answer in serving.stream(FC6_FEATURES, batches)]
        wall_s = time.perf_counter() - started
        p50, p95, p99 = (float(p) for p in np.percentile(latencies, (50, 95, 99)))
        return BatchSpeed(
            batch_size=size,
            requests=len(latencies),
            clips_per_s=size * len(latencies) / wall_s,
            alone_s=alone_s,
            p50_s=p50,
            p95_s=p95,
            p99_s=p99,
            window=serving.concurrency.limit,
            push_backs=serving.concurrency.rejected,
        )


def _clips(count: int) -> npt.NDArray[np.uint8]:
    return np.full((count, *CLIP_SHAPE), 127, np.uint8)


def _until(end: float, clips: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    yield clips
    while time.perf_counter() < end:
        yield clips


def extract_speed(c3d: C3DClient, video: str | os.PathLike[str], *, seconds: float) -> ExtractSpeed:
    """Send a film on its walk, to its end or until the first answer after so many seconds.

    There are two answers at least, where the film has clips for them.

    Raises:
        VideoDecodeError: the film cannot be decoded.
        VideoTooShortError: it has too few frames for one clip.
        ServingError: the server failed.
    """
    version = c3d.model_info().version
    enough = threading.Event()
    answers, answered_s = 0, 0.0

    def note(clips: int) -> None:
        nonlocal answers, answered_s
        answers, answered_s = answers + 1, time.perf_counter() - started
        if answers >= _LEAST_ANSWERS and answered_s >= seconds:
            enough.set()

    inference = VideoInference(video, c3d.window, cancel=enough, on_clips=note)
    started = time.perf_counter()
    try:
        if inference.run(c3d.serving, FC6_FEATURES, version=version) != version:
            raise ContractMismatch(
                c3d.serving.options.target,
                "another version of the model was rolled out meanwhile; measure again",
            )
    except Cancelled:
        pass
    clips, starts = inference.rows.count, inference.clip_starts()
    if not clips:
        raise VideoTooShortError(
            redact(os.fspath(video)),
            f"has {inference.frames} frames; a clip needs {c3d.window.span}",
        )
    frames = int(starts[clips - 1]) + c3d.window.span
    timings = inference.timings()
    # Where the film was left, more clips were decoded than answered.
    decode_s = timings.decode_s * clips / len(starts)
    timings = replace(timings, wall_s=answered_s, decode_s=decode_s)
    return ExtractSpeed(
        clips=clips,
        wall_s=answered_s,
        clips_per_s=clips / answered_s,
        frames_per_s=frames / answered_s,
        timings=timings,
        bottleneck=bottleneck(timings),
    )


def bottleneck(timings: Timings) -> str:
    """What the other parts waited for."""
    if timings.decode_s >= timings.wall_s / 2:
        return "decoding"
    if timings.queue_s is None or timings.compute_s is None:
        return "the server or the network"
    if timings.queue_s + timings.compute_s >= timings.wire_s:
        return "the server"
    return "the network"


WIDTH, HEIGHT, FPS = 1280, 720, 25
# Two seconds are drawn and encoded, and are there often enough for a minute.
_DRAWN = 2 * FPS
_TIMES = 30

_BOX = np.s_[HEIGHT // 4 : 3 * HEIGHT // 4, WIDTH // 3 : 2 * WIDTH // 3]

Pixels = npt.NDArray[np.uint8]


def write_film(folder: Path) -> Path:
    """Write a film of a minute: a texture drifts, and a part of another crosses it.

    It takes as many bits as films of its size do, and so as much decoding.

    Args:
        folder: where it goes.

    Raises:
        UsageError: this FFmpeg has no encoder for H.264.
    """
    drawn = folder / "drawn.mp4"
    one, other = _texture(0), _texture(1)
    with av.open(str(drawn), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=FPS)
        except ValueError as error:
            raise UsageError(
                "this FFmpeg cannot encode H.264, so there is no film to measure with; name a video"
            ) from error
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(_DRAWN):
            picture = _part(one, 3 * number).copy()
            picture[_BOX] = _part(other, -2 * number)[_BOX]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    film = repeat(drawn, folder / "film.mp4", times=_TIMES)
    drawn.unlink()
    return film


def repeat(source: Path, path: Path, *, times: int) -> Path:
    """Write a film's packets into another file over and over; nothing is encoded anew."""
    with av.open(str(path), "w") as target:
        stream = None
        begins = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.pts is None or packet.dts is None:  # the mark of the end
                        continue
                    packet.pts += begins
                    packet.dts += begins
                    packet.stream = stream
                    target.mux(packet)
                begins += video.duration or 0
    return path


def _texture(seed: int) -> Pixels:
    """Soft spots of two sizes, twice as wide and high as the film."""
    random = np.random.default_rng(seed)
    large, small = (
        cv2.resize(
            random.integers(0, 256, (2 * HEIGHT // spot, 2 * WIDTH // spot, 3), dtype=np.uint8),
            (2 * WIDTH, 2 * HEIGHT),
            interpolation=cv2.INTER_CUBIC,
        )
        for spot in (64, 8)
    )
    return cast("Pixels", cv2.addWeighted(large, 0.6, small, 0.4, 0))


def _part(texture: Pixels, shift: int) -> Pixels:
    top, left = HEIGHT // 2 + shift, WIDTH // 2 + 2 * shift
    return texture[top : top + HEIGHT, left : left + WIDTH]
