"""Measurements of `c3d bench`: decoding, messages, a server, and an extraction as a whole.

A measurement takes about as many seconds as its argument, longer with a slow server.
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
from c3d_client.core.contract import CLIP_SHAPE, FC6_FEATURES, MAX_BATCH_SIZE
from c3d_client.core.errors import Cancelled, ContractMismatch, UsageError, VideoTooShortError
from c3d_client.core.uri import Uri
from c3d_client.inference import VideoInference, halves_sizes
from c3d_client.results import Timings
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.client import ServingClient
from c3d_client.serving.messages import from_proto, predict_request
from c3d_client.serving.model_info import ModelInfo
from c3d_client.serving.options import ServingOptions
from c3d_client.video.decode import Frame, decode_frames
from c3d_client.video.frames import open_input

# Each variant is measured this often, in turn, and the best is used: other programs on the machine
# only make a result worse.
_ROUNDS = 3
# With fewer frames, the time to open the video would dominate.
_MIN_FRAMES = 64
# The server's batch sizes to measure: one clip, a request of extract, and the largest request.
_BATCH_SIZES = (1, 8, MAX_BATCH_SIZE)
# The time of the first answer is dominated by the time to decode the first batch.
_MIN_ANSWERS = 2

# The generated video. Two seconds are drawn and encoded, and repeated to a minute.
WIDTH, HEIGHT, FPS = 1280, 720, 25
_DRAWN_FRAMES = 2 * FPS
_REPETITIONS = 30
_BOX = np.s_[HEIGHT // 4 : 3 * HEIGHT // 4, WIDTH // 3 : 2 * WIDTH // 3]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeSpeed:
    """Frames per second of one core.

    Args:
        width: width of the video in pixels, as displayed.
        height: height of the video in pixels, as displayed.
        frames: number of frames that each speed was measured on; a short video is repeated.
        decode: speed of decoding alone.
        exact: speed of decoding and preparing with ``resize="exact"``.
        fast: speed of decoding and preparing with ``resize="fast"``.
    """

    width: int
    height: int
    frames: int
    decode: float
    exact: float
    fast: float


@dataclass(frozen=True)
class MessageSpeed:
    """Speed of serialising and parsing a request of the largest size.

    Args:
        clips: number of clips in the request.
        make_gb_per_s: speed of serialising, in 10^9 bytes of clips per second.
        parse_gb_per_s: speed of parsing, in the same unit.
        gb_per_s: speed of both, one after the other.
    """

    clips: int
    make_gb_per_s: float
    parse_gb_per_s: float
    gb_per_s: float


@dataclass(frozen=True)
class BatchSpeed:
    """Speed of a server with batches of one size and concurrent requests.

    Args:
        batch_size: clips in a request.
        requests: number of answered requests.
        clips_per_s: clips per second of all requests together.
        alone_s: latency of a request without concurrent requests.
        p50_s: median latency of concurrent requests.
        p95_s: 95th percentile of their latency.
        p99_s: 99th percentile of their latency.
        window: the limit of concurrent requests at the end.
        push_backs: number of requests that the server rejected as overloaded; they were retried.
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
    """Speed of an extraction from the file to the features.

    Args:
        clips: number of answered clips.
        wall_s: time until the last of these answers.
        clips_per_s: clips per second of that time.
        frames_per_s: frames of these clips per second of that time.
        timings: where the time went, for these clips.
        bottleneck: the slowest part: ``decoding``, ``the server``, ``the network``, or ``the server
            or the network`` where the server does not report its times.
    """

    clips: int
    wall_s: float
    clips_per_s: float
    frames_per_s: float
    timings: Timings
    bottleneck: str


def decode_speed(
    video: str | os.PathLike[str], *, seconds: float, stream: int | None = None
) -> DecodeSpeed:
    """Decode the start of a video on one core, without and with preparing its frames.

    Args:
        video: as for :func:`c3d_client.decode_frames`.
        seconds: how long to measure.
        stream: as for :func:`c3d_client.decode_frames`.

    Raises:
        VideoDecodeError: the video cannot be decoded.
    """
    until = time.process_time() + seconds / _ROUNDS / 3
    frames, width, height = 0, 0, 0
    for frame in _repeated_frames(video, stream):
        frame.picture.prepared()
        frames, width, height = frames + 1, frame.picture.width, frame.picture.height
        if frames >= _MIN_FRAMES and time.process_time() >= until:
            break

    def decode(prepare: Callable[[Frame], object] | None) -> None:
        for frame in itertools.islice(_repeated_frames(video, stream), frames):
            if prepare is not None:
                prepare(frame)

    variants: tuple[Callable[[Frame], object] | None, ...] = (
        None,
        lambda frame: frame.picture.prepared("exact"),
        lambda frame: frame.picture.prepared("fast"),
    )
    best = [math.inf] * len(variants)
    for _, (index, prepare) in itertools.product(range(_ROUNDS), enumerate(variants)):
        started = time.process_time()
        decode(prepare)
        best[index] = min(best[index], time.process_time() - started)
    decode_s, exact_s, fast_s = best
    return DecodeSpeed(width, height, frames, frames / decode_s, frames / exact_s, frames / fast_s)


def _repeated_frames(video: str | os.PathLike[str], stream: int | None) -> Iterator[Frame]:
    while True:
        yield from decode_frames(video, threads=1, stream=stream)


def message_speed(*, seconds: float) -> MessageSpeed:
    """Serialise and parse a request of 32 clips repeatedly."""
    clips = _clips(MAX_BATCH_SIZE)
    spec = wire.ModelSpec(signature_name=FC6_FEATURES.name)
    name = FC6_FEATURES.input.name
    make_s = parse_s = both_s = math.inf
    until = time.perf_counter() + seconds
    while both_s == math.inf or time.perf_counter() < until:
        started = time.perf_counter()
        request = predict_request(spec, name, clips)
        serialised = time.perf_counter()
        from_proto(wire.PredictRequest.FromString(request).inputs[name])
        parsed = time.perf_counter()
        make_s, parse_s = min(make_s, serialised - started), min(parse_s, parsed - serialised)
        both_s = min(both_s, parsed - started)
    size = clips.nbytes / 1e9
    return MessageSpeed(len(clips), size / make_s, size / parse_s, size / both_s)


def batch_sizes(info: ModelInfo) -> tuple[int, ...]:
    """Return 1, 8 and 32, as far as the servable was exported for them."""
    largest = max(info.batch_sizes)
    return tuple(size for size in _BATCH_SIZES if size == 1 or size <= largest)


def batch_speed(options: ServingOptions, size: int, *, seconds: float) -> BatchSpeed:
    """Send batches of one size to a server, through a connection with its own concurrency limit.

    Where one request takes longer than ``seconds``, no other is sent.

    Raises:
        ServingError: the server failed.
    """
    clips = _clips(size)
    with ServingClient(options) as serving:
        serving.predict(FC6_FEATURES, clips[:1])  # opens the connection
        started = time.perf_counter()
        alone_s = serving.predict(FC6_FEATURES, clips).latency_s
        latencies = [alone_s]
        if alone_s < seconds:
            started = time.perf_counter()
            batches = _repeat_until(started + seconds, clips)
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


def _repeat_until(end: float, clips: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    yield clips
    while time.perf_counter() < end:
        yield clips


def extract_speed(c3d: C3DClient, video: str | os.PathLike[str], *, seconds: float) -> ExtractSpeed:
    """Extract a video to its end, or until the first answer after ``seconds``.

    There are at least two answers, where the video has clips for them.

    Raises:
        VideoDecodeError: the video cannot be decoded.
        VideoTooShortError: the video has too few frames for one clip.
        ServingError: the server failed.
    """
    info = c3d.model_info()
    enough = threading.Event()
    answers, answered_s = 0, 0.0

    def count_answer(clips: int) -> None:
        nonlocal answers, answered_s
        answers, answered_s = answers + 1, time.perf_counter() - started
        if answers >= _MIN_ANSWERS and answered_s >= seconds:
            enough.set()

    source = open_input(video, window=c3d.window)
    inference = VideoInference(source, c3d.window, cancel=enough, on_clips=count_answer)
    sizes = halves_sizes(info, FC6_FEATURES, c3d.window, batch_size=c3d.serving.options.batch_size)
    started = time.perf_counter()
    try:
        version = inference.run(c3d.serving, FC6_FEATURES, version=info.version, halves_sizes=sizes)
        if version != info.version:
            raise ContractMismatch(
                c3d.serving.options.target,
                "another version of the model was rolled out meanwhile; measure again",
            )
    except Cancelled:
        pass
    clips, starts = inference.rows.count, inference.clip_starts()
    if not clips:
        raise VideoTooShortError(
            str(Uri.of(video)),
            f"has {inference.frames} frames; a clip needs {c3d.window.span}",
        )
    frames = int(starts[clips - 1]) + c3d.window.span
    timings = inference.timings()
    # After a cancelled inference, more clips were decoded than answered.
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
    """Return the part that the others waited for."""
    if timings.decode_s >= timings.wall_s / 2:
        return "decoding"
    if timings.queue_s is None or timings.compute_s is None:
        return "the server or the network"
    if timings.queue_s + timings.compute_s >= timings.wire_s:
        return "the server"
    return "the network"


def generate_video(folder: Path) -> Path:
    """Write a video of one minute: a moving texture, crossed by a box with another one.

    It has the bit rate of usual videos of its size, and so the same decoding time.

    Args:
        folder: the folder for the file.

    Raises:
        UsageError: this FFmpeg has no encoder for H.264.
    """
    drawn = folder / "drawn.mp4"
    background, foreground = _texture(0), _texture(1)
    with av.open(str(drawn), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=FPS)
        except ValueError as error:
            raise UsageError(
                "this FFmpeg cannot encode H.264, so no video can be generated; name a video"
            ) from error
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(_DRAWN_FRAMES):
            frame = _view(background, 3 * number).copy()
            frame[_BOX] = _view(foreground, -2 * number)[_BOX]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    video = repeat_video(drawn, folder / "video.mp4", times=_REPETITIONS)
    drawn.unlink()
    return video


def repeat_video(source: Path, path: Path, *, times: int) -> Path:
    """Write a video's packets several times into another file, without encoding."""
    with av.open(str(path), "w") as target:
        stream = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.pts is None or packet.dts is None:  # marks the end
                        continue
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    target.mux(packet)
                offset += video.duration or 0
    return path


def _texture(seed: int) -> Pixels:
    """Return soft spots of two sizes, twice as wide and high as the video."""
    rng = np.random.default_rng(seed)
    large, small = (
        cv2.resize(
            rng.integers(0, 256, (2 * HEIGHT // spot, 2 * WIDTH // spot, 3), dtype=np.uint8),
            (2 * WIDTH, 2 * HEIGHT),
            interpolation=cv2.INTER_CUBIC,
        )
        for spot in (64, 8)
    )
    return cast("Pixels", cv2.addWeighted(large, 0.6, small, 0.4, 0))


def _view(texture: Pixels, shift: int) -> Pixels:
    """Return a part of a texture in the size of the video, moved from the middle."""
    top, left = HEIGHT // 2 + shift, WIDTH // 2 + 2 * shift
    return texture[top : top + HEIGHT, left : left + WIDTH]
