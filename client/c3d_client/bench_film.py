"""A film to measure with where nobody names one: 1280x720, H.264, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.errors import UsageError

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
