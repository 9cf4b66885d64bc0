"""Synthetic clips whose motion is known: textured shapes, and sometimes the whole scene, that move
left, right, up or down, or stand still.

What the demo's last layer is fitted on, and what it is tried on. Scenes are functions of the place,
sampled anew for every frame, so that motion by parts of a pixel is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, CLIP_FRAMES, CLIP_SHAPE, CROP_SIZE

# Of what is seen, on the picture: the scene moves left when the camera turns right.
MOTIONS = ("left", "right", "up", "down", "still")
# Rows grow downwards.
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}

_Array = npt.NDArray[np.floating[Any]]  # float32, which NumPy's types lose on the way
_Pattern = Callable[[_Array, _Array], _Array]


@dataclass(frozen=True)
class Scenery:
    """What clips may show; two of them share no texture, shape, size, speed or colour.

    Args:
        patterns: textures by name, for the ground and for the shapes.
        corners: the exponents of the shapes' outlines ``|x|^n + |y|^n = 1``: 2 is an ellipse.
        sizes: ranges of half a shape's side, in pixels.
        speeds: ranges of pixels a frame.
        hues: ranges on the colour circle, 0 to 1.
    """

    patterns: tuple[str, ...]
    corners: tuple[float, ...]
    sizes: tuple[tuple[float, float], ...]
    speeds: tuple[tuple[float, float], ...]
    hues: tuple[tuple[float, float], ...]


# A shape of the example's film is 17 x 17 by this measure, and moves by 1.5 pixels a frame.
SEEN = Scenery(
    patterns=("plain", "checks", "waves", "ramp"),
    corners=(2.0, 20.0),
    sizes=((8, 12), (16, 20), (24, 30)),
    speeds=((0.8, 1.2), (1.6, 2.2), (2.8, 3.6)),
    hues=((0.0, 0.17), (0.33, 0.5), (0.67, 0.83)),
)
UNSEEN = Scenery(
    patterns=("diamonds", "dots", "cells"),
    corners=(1.2, 4.0),
    sizes=((12, 16), (20, 24)),
    speeds=((1.2, 1.6), (2.2, 2.8)),
    hues=((0.17, 0.33), (0.5, 0.67), (0.83, 1.0)),
)


def motion_clips(
    count: int, *, seed: int, start: int = 0, scenery: Scenery = SEEN
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Make clips, the motions in turn.

    Args:
        count: how many.
        seed: 0 or more; the same clips for the same seed.
        start: the number of the first one, so that many can be made a few at a time.
        scenery: what they may show.

    Returns:
        Clips, uint8 ``[count, 16, 112, 112, 3]`` RGB, and each one's index in :data:`MOTIONS`,
        int64 ``[count]``.
    """
    clips = np.empty((count, *CLIP_SHAPE), np.uint8)
    motions = np.arange(start, start + count) % len(MOTIONS)
    for place, motion in enumerate(motions):
        rng = np.random.Generator(np.random.PCG64([seed, start + place]))
        clips[place] = _clip(rng, MOTIONS[motion], scenery)
    return clips, motions


def _clip(rng: np.random.Generator, motion: str, scenery: Scenery) -> npt.NDArray[np.uint8]:
    forward = np.array(_DIRECTIONS[motion], np.float32)
    # Not quite straight: up to a fifth to the side.
    heading = forward + forward[::-1] * rng.uniform(-0.2, 0.2)
    times = np.arange(CLIP_FRAMES) - (CLIP_FRAMES - 1) / 2
    moved = np.outer(times, heading * _within(rng, scenery.speeds)).astype(np.float32)
    places = np.arange(CROP_SIZE, dtype=np.float32)
    rows, columns = places[None, :, None], places[None, None, :]
    # Where each frame's pixels lie on what moves: [16, 112, 1] and [16, 1, 112].
    y, x = rows - moved[:, 0, None, None], columns - moved[:, 1, None, None]
    ground_moves = rng.random() < 0.3
    ground = _paint(rng, scenery, (0.05, 0.45))
    picture = np.empty(CLIP_SHAPE, np.float32)
    picture[:] = ground(y, x) if ground_moves else ground(rows, columns)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.uniform(20, CROP_SIZE - 20, 2)
        half = _within(rng, scenery.sizes), _within(rng, scenery.sizes)
        corner = rng.choice(scenery.corners)
        across = (
            np.abs((y - top) / half[0]) ** corner + np.abs((x - left) / half[1]) ** corner
        ) ** (1 / corner)
        # One where the shape is, and about a pixel from one to nothing at its outline.
        cover = np.clip(0.5 + (1 - across) * min(half), 0, 1)[..., None]
        shape = _paint(rng, scenery, (0.55, 1.0))
        picture += cover * (shape(y - top, x - left) - picture)
    if rng.random() < 0.5:
        picture = 1 - picture  # dark shapes on bright ground
    # A camera's noise, differing from frame to frame; as strong when nothing moves.
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0, 3))
    return np.clip(np.rint(picture * 255 + noise), 0, 255).astype(np.uint8)


def _within(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> float:
    low, high = ranges[rng.integers(len(ranges))]
    return float(rng.uniform(low, high))


def _paint(rng: np.random.Generator, scenery: Scenery, values: tuple[float, float]) -> _Pattern:
    """A texture of two colours: rows and columns, which broadcast, to RGB from 0 to 1."""
    colours = [_colour(rng, scenery, values) for _ in range(2)]
    pattern = _PATTERNS[scenery.patterns[rng.integers(len(scenery.patterns))]](rng)

    def paint(y: _Array, x: _Array) -> _Array:
        return colours[0] + pattern(y, x)[..., None] * (colours[1] - colours[0])

    return paint


def _colour(rng: np.random.Generator, scenery: Scenery, values: tuple[float, float]) -> _Array:
    phase = _within(rng, scenery.hues) + np.arange(CHANNELS) / CHANNELS
    value, saturation = rng.uniform(*values), rng.uniform(0, 0.8)
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * phase)
    return np.asarray(value * (1 - saturation * (1 - tint)), np.float32)


# Textures, each from 0 to 1 over rows and columns.


def _waves(rng: np.random.Generator) -> _Pattern:
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 6))
    steps = 2 * np.pi / rng.uniform(10, 50, 6)
    waves = np.stack([np.sin(angles) * steps, np.cos(angles) * steps, phases], 1).tolist()

    def pattern(y: _Array, x: _Array) -> _Array:
        total = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.float32)
        for down, across, phase in waves:
            total += np.sin(down * y + across * x + phase)
        return 0.5 + np.clip(total / 6, -0.5, 0.5)

    return pattern


def _checks(rng: np.random.Generator) -> _Pattern:
    step = float(np.pi / rng.uniform(6, 20))
    return lambda y, x: _edge(np.sin(y * step) * np.sin(x * step) / step)


def _diamonds(rng: np.random.Generator) -> _Pattern:
    angle, checks = float(rng.uniform(0.15, 0.35) * np.pi), _checks(rng)
    sine, cosine = math.sin(angle), math.cos(angle)
    return lambda y, x: checks(sine * y + cosine * x, cosine * y - sine * x)


def _dots(rng: np.random.Generator) -> _Pattern:
    step = float(2 * np.pi / rng.uniform(10, 24))
    return lambda y, x: _edge((np.sin(y * step) + np.sin(x * step) - 1) / step)


def _cells(rng: np.random.Generator) -> _Pattern:
    """Squares of random greys."""
    greys, side = rng.random((64, 64), np.float32), float(rng.uniform(5, 14))

    def numbers(places: _Array) -> npt.NDArray[np.int64]:
        return np.asarray(np.floor(places / side) % 64, np.int64)

    return lambda y, x: greys[numbers(y), numbers(x)]


def _ramp(rng: np.random.Generator) -> _Pattern:
    step, angle = float(np.pi / rng.uniform(150, 300)), float(rng.uniform(0, 2 * np.pi))
    sine, cosine = math.sin(angle) * step, math.cos(angle) * step
    return lambda y, x: 0.5 + 0.5 * np.sin(sine * y + cosine * x)


def _plain(rng: np.random.Generator) -> _Pattern:
    return lambda y, x: np.zeros_like(y)


def _edge(height: _Array) -> _Array:
    """Below zero to above it, within about a pixel."""
    return np.clip(0.5 + height, 0, 1)


_PATTERNS: dict[str, Callable[[np.random.Generator], _Pattern]] = {
    "plain": _plain,
    "checks": _checks,
    "waves": _waves,
    "ramp": _ramp,
    "diamonds": _diamonds,
    "dots": _dots,
    "cells": _cells,
}
