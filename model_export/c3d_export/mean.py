"""The mean that is subtracted from clips: a cube with the clip's axes, or one number per channel.

Caffe subtracts the whole 16x128x171 cube and crops afterwards; cropping the cube once, with the
same crop, is equivalent. Files hold BGR.
"""

from __future__ import annotations

import bz2
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import (
    CHANNELS,
    CLIP_FRAMES,
    CLIP_SHAPE,
    CROP_LEFT,
    CROP_SIZE,
    CROP_TOP,
    RESIZE_HEIGHT,
    RESIZE_WIDTH,
)
from c3d_client.core.file_kinds import explain_path

from c3d_export.disk import unreadable_text
from c3d_export.errors import AssetError
from c3d_export.weights.caffe import BlobError, read_blob

_CUBE = (CLIP_FRAMES, RESIZE_HEIGHT, RESIZE_WIDTH, CHANNELS)
_CUBE_CHANNELS_FIRST = (CHANNELS, CLIP_FRAMES, RESIZE_HEIGHT, RESIZE_WIDTH)

SPORTS1M_SCALARS = "100.6,108.1,107.8"
"""The average of the Sports-1M mean cube's crop, BGR; the mean where no cube is available."""

# Known cubes by the SHA-256 of their crop's float32 values, which no file format changes.
UCF101 = "the UCF101 mean (train01_16_128_171_mean)"
_KNOWN = {"f50a6e7e84ac772a20c870857709e29c03326b4d0174b1a7f15d86ceb0cfefbe": UCF101}


@dataclass(frozen=True)
class Mean:
    """The mean that is subtracted from a clip's pixels.

    Args:
        bgr: float32 ``[16, 112, 112, 3]``, BGR, with the clips' crop.
        source: a file's name, or the three numbers.
        file_sha256: the file's digest; None for numbers.
    """

    bgr: npt.NDArray[np.float32]
    source: str
    file_sha256: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of the crop's values, independent of the file format."""
        return hashlib.sha256(np.ascontiguousarray(self.bgr).tobytes()).hexdigest()

    @property
    def known_as(self) -> str:
        """The name of a known cube, recognised by its digest; empty for other means."""
        return _KNOWN.get(self.sha256, "")

    def describe(self) -> dict[str, Any]:
        """Return the model card's entry for the mean."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "known_as": self.known_as,
            "file_sha256": self.file_sha256,
            # A float32 sum of so many values is wrong in the second decimal.
            "crop_means_bgr": [round(x, 2) for x in self.bgr.mean((0, 1, 2), np.float64).tolist()],
        }


def read_mean(spec: str) -> Mean:
    """Read a mean.

    Args:
        spec: three numbers ``B,G,R``, or the path of a C3D-v1.0 ``.binaryproto``, or of an
            ``.npy`` or ``.npy.bz2`` of shape ``[16, 128, 171, 3]`` or ``[3, 16, 128, 171]``, BGR.

    Raises:
        AssetError: the file cannot be read, or the mean fits no clip.
    """
    numbers = spec.split(",")
    if len(numbers) == CHANNELS:
        try:
            scalars = np.array([float(number) for number in numbers], np.float32)
        except ValueError as error:
            raise AssetError(f"mean {spec!r}: three numbers B,G,R expected") from error
        return Mean(_check_range(np.broadcast_to(scalars, CLIP_SHAPE).copy(), spec), source=spec)
    path = Path(spec)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = explain_path(path, wanted="mean") or unreadable_text(path, error)
        raise AssetError(f"{spec}: {reason}") from error
    digest = hashlib.sha256(content).hexdigest()
    if content.startswith(b"BZh"):
        try:
            content = bz2.decompress(content)
        except (OSError, ValueError) as error:
            raise AssetError(f"{spec}: a damaged bzip2 file ({error})") from error
    cube = _npy(content, spec) if content.startswith(b"\x93NUMPY") else _binaryproto(content, spec)
    return Mean(_check_range(_crop(cube, spec), spec), source=path.name, file_sha256=digest)


def _crop(cube: npt.NDArray[Any], spec: str) -> npt.NDArray[np.float32]:
    if cube.shape == (1, *_CUBE_CHANNELS_FIRST):
        cube = cube[0]
    if cube.shape == _CUBE_CHANNELS_FIRST:
        cube = cube.transpose(1, 2, 3, 0)
    if cube.shape != _CUBE:
        raise AssetError(
            f"{spec}: a mean of shape {list(cube.shape)} fits no C3D clip; "
            f"expected {list(_CUBE)} or {list(_CUBE_CHANNELS_FIRST)}"
        )
    rows = slice(CROP_TOP, CROP_TOP + CROP_SIZE)
    columns = slice(CROP_LEFT, CROP_LEFT + CROP_SIZE)
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which the caller refuses
        return np.ascontiguousarray(cube[:, rows, columns], np.float32)


def _check_range(mean: npt.NDArray[np.float32], spec: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(mean).all() or mean.min() < 0 or mean.max() > 255:
        raise AssetError(f"{spec}: a mean of pixels must lie between 0 and 255")
    return mean


def _npy(content: bytes, spec: str) -> npt.NDArray[Any]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise AssetError(f"{spec}: a damaged .npy file ({error})") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise AssetError(f"{spec}: an array of {array.dtype}, expected floating point")
    return np.asarray(array)


def _binaryproto(content: bytes, spec: str) -> npt.NDArray[Any]:
    try:
        return read_blob(memoryview(content))
    except BlobError as error:
        explained = explain_path(spec, wanted="mean", expects_text=True)
        raise AssetError(
            f"{spec}: not a mean: {explained}"
            if explained
            else f"{spec}: not a mean ({error}); expected .npy, or .binaryproto as C3D-v1.0's "
            "Caffe writes it"
        ) from error
