"""Videos that tests make: small, real files whose content is known frame by frame."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

_BITS = 10


def index_frame(number: int, *, width: int = 320, height: int = 240) -> np.ndarray:
    """A frame that shows its own number: ten bars, white for one, black for zero.

    The bars are broad, so that lossy codecs, resizing and cropping leave them readable.
    """
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    columns = np.arange(width) * _BITS // width
    row = np.array(bits, np.uint8)[columns] * 255
    return np.repeat(np.repeat(row[None, :, None], height, 0), 3, 2)


def read_index(prepared: np.ndarray) -> int:
    """The number that a prepared 112x112 frame shows; the crop cuts away no bar's middle bit 2-7.

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


def write_film(
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
    """Write a film of index frames, or of what ``draw(number)`` gives, uint8 RGB."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = options or {}
        for number in range(frames):
            picture = draw(number) if draw else index_frame(number, width=width, height=height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def noise(number: int, *, width: int = 320, height: int = 240) -> np.ndarray:
    """A blocky picture that differs in every frame, so that packets are not tiny."""
    blocks = np.random.default_rng(number).integers(
        0, 256, (height // 8, width // 8, 3), dtype=np.uint8
    )
    return blocks.repeat(8, 0).repeat(8, 1)


def write_sound(path: Path, *, seconds: float = 1.0) -> Path:
    """Write a file that holds sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = np.zeros((1, int(44100 * seconds)), np.float32)
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path
