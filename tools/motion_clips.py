"""Synthetic clips of known motion: textured shapes that move left, right, up, down or not at all.

The demo's last layer is fitted and tested on them; in some clips the background moves too. Scenes
are functions of the coordinates, evaluated for every frame, so that motion by fractions of a pixel
is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, CLIP_FRAMES, CLIP_SHAPE, CROP_SIZE

# The motion of the image, in the order of fc8's outputs: the scene moves left when the camera turns
# right.
MOTIONS = ("left", "right", "up", "down", "still")
# (rows, columns); row numbers grow downwards.
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}

_Array = npt.NDArray[np.floating[Any]]  # float32, which NumPy's type hints do not preserve
_Pattern = Callable[[_Array, _Array], _Array]


@dataclass(frozen=True)
class Scenery:
    """The possible content of clips.

    Args:
        patterns: names of textures, for the background and for the shapes.
        corners: exponents n of the shapes' outlines ``|x|^n + |y|^n = 1``; 2 is an ellipse.
        sizes: ranges of half a shape's side, in pixels.
        speeds: ranges in pixels per frame.
        hues: ranges on the colour circle, 0 to 1.
    """

    patterns: tuple[str, ...]
    corners: tuple[float, ...]
    sizes: tuple[tuple[float, float], ...]
    speeds: tuple[tuple[float, float], ...]
    hues: tuple[tuple[float, float], ...]


# FITTED and UNSEEN share no texture, outline, size, speed or colour. The shape in the example's
# video has a size of 17 x 17 and a speed of 1.5.
FITTED = Scenery(
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
    count: int, *, seed: int, start: int = 0, scenery: Scenery = FITTED
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Render clips, with the motions in turn.

    Args:
        count: the number of clips.
        seed: 0 or more; the same clips for the same seed.
        start: the number of the first clip, to render many clips in parts.
        scenery: the possible content.

    Returns:
        Clips, uint8 ``[count, 16, 112, 112, 3]`` RGB, and each one's index in :data:`MOTIONS`,
        int64 ``[count]``.
    """
    clips = np.empty((count, *CLIP_SHAPE), np.uint8)
    motions = np.arange(start, start + count) % len(MOTIONS)
    for index, motion in enumerate(motions):
        rng = np.random.Generator(np.random.PCG64([seed, start + index]))
        clips[index] = _clip(rng, MOTIONS[motion], scenery)
    return clips, motions


def _clip(rng: np.random.Generator, motion: str, scenery: Scenery) -> npt.NDArray[np.uint8]:
    forward = np.array(_DIRECTIONS[motion], np.float32)
    # Not exactly straight: up to a fifth of the motion is to the side.
    heading = forward + forward[::-1] * rng.uniform(-0.2, 0.2)
    times = np.arange(CLIP_FRAMES) - (CLIP_FRAMES - 1) / 2
    offsets = np.outer(times, heading * _uniform(rng, scenery.speeds)).astype(np.float32)
    positions = np.arange(CROP_SIZE, dtype=np.float32)
    rows, columns = positions[None, :, None], positions[None, None, :]
    # The coordinates of each frame's pixels in the moving scene: [16, 112, 1] and [16, 1, 112].
    y, x = rows - offsets[:, 0, None, None], columns - offsets[:, 1, None, None]
    background_moves = rng.random() < 0.3
    background = _paint(rng, scenery, (0.05, 0.45))
    clip = np.empty(CLIP_SHAPE, np.float32)
    clip[:] = background(y, x) if background_moves else background(rows, columns)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.uniform(20, CROP_SIZE - 20, 2)
        half = _uniform(rng, scenery.sizes), _uniform(rng, scenery.sizes)
        corner = rng.choice(scenery.corners)
        distance = (
            np.abs((y - top) / half[0]) ** corner + np.abs((x - left) / half[1]) ** corner
        ) ** (1 / corner)
        # One inside the shape, and falling to zero within about a pixel at its outline.
        cover = np.clip(0.5 + (1 - distance) * min(half), 0, 1)[..., None]
        shape = _paint(rng, scenery, (0.55, 1.0))
        clip += cover * (shape(y - top, x - left) - clip)
    if rng.random() < 0.5:
        clip = 1 - clip  # dark shapes on a bright background
    # Camera noise, different in each frame; equally strong in still clips.
    noise = rng.standard_normal(clip.shape, np.float32) * np.float32(rng.uniform(0, 3))
    return np.clip(np.rint(clip * 255 + noise), 0, 255).astype(np.uint8)


def _uniform(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> float:
    """Return a random number from one of the ranges."""
    low, high = ranges[rng.integers(len(ranges))]
    return float(rng.uniform(low, high))


def _paint(rng: np.random.Generator, scenery: Scenery, values: tuple[float, float]) -> _Pattern:
    """Return a texture of two colours: a function of rows and columns to RGB from 0 to 1."""
    colours = [_colour(rng, scenery, values) for _ in range(2)]
    pattern = _PATTERNS[scenery.patterns[rng.integers(len(scenery.patterns))]](rng)

    def paint(y: _Array, x: _Array) -> _Array:
        return colours[0] + pattern(y, x)[..., None] * (colours[1] - colours[0])

    return paint


def _colour(rng: np.random.Generator, scenery: Scenery, values: tuple[float, float]) -> _Array:
    phase = _uniform(rng, scenery.hues) + np.arange(CHANNELS) / CHANNELS
    value, saturation = rng.uniform(*values), rng.uniform(0, 0.8)
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * phase)
    return np.asarray(value * (1 - saturation * (1 - tint)), np.float32)


# Textures: functions of rows and columns to values from 0 to 1.


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
    """Return a texture of squares of random greys."""
    greys, side = rng.random((64, 64), np.float32), float(rng.uniform(5, 14))

    def cells(coordinates: _Array) -> npt.NDArray[np.int64]:
        return np.asarray(np.floor(coordinates / side) % 64, np.int64)

    return lambda y, x: greys[cells(y), cells(x)]


def _ramp(rng: np.random.Generator) -> _Pattern:
    step, angle = float(np.pi / rng.uniform(150, 300)), float(rng.uniform(0, 2 * np.pi))
    sine, cosine = math.sin(angle) * step, math.cos(angle) * step
    return lambda y, x: 0.5 + 0.5 * np.sin(sine * y + cosine * x)


def _plain(rng: np.random.Generator) -> _Pattern:
    return lambda y, x: np.zeros_like(y)


def _edge(height: _Array) -> _Array:
    """Return a step from 0 to 1 where the height is zero, about a pixel wide."""
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
