"""The mean that is subtracted: a cube with the clip's axes, or one number a channel.

Caffe subtracts the whole 16x128x171 cube and crops afterwards; cropping the cube in the same place
once is the same. Files hold BGR.
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
from c3d_client.contract import (
    CHANNELS,
    CLIP_FRAMES,
    CLIP_SHAPE,
    CROP_LEFT,
    CROP_SIZE,
    CROP_TOP,
    RESIZE_HEIGHT,
    RESIZE_WIDTH,
)
from c3d_client.errors import AssetError

from c3d_export.digest import file_sha256

_CUBE = (CLIP_FRAMES, RESIZE_HEIGHT, RESIZE_WIDTH, CHANNELS)
_CUBE_CHANNELS_FIRST = (CHANNELS, CLIP_FRAMES, RESIZE_HEIGHT, RESIZE_WIDTH)

# The crop's average of the Sports-1M mean cube, BGR: what to subtract where no cube is at hand.
SPORTS1M_SCALARS = "100.6,108.1,107.8"

# BlobProto of C3D-v1.0's Caffe: num, channels, length, height, width are fields 1-5, data is 6.
_DIMENSION_FIELDS = (1, 2, 3, 4, 5)
_DATA_FIELD = 6


@dataclass(frozen=True)
class Mean:
    """What is subtracted from a clip's pixels.

    Args:
        bgr: float32 ``[16, 112, 112, 3]``, BGR, cropped as the clips are.
        source: a file's name, or the three numbers.
        file_sha256: the file's digest; None for numbers.
    """

    bgr: npt.NDArray[np.float32]
    source: str
    file_sha256: str | None = None

    def describe(self) -> dict[str, Any]:
        """What the model card says of it."""
        return {
            "source": self.source,
            "sha256": hashlib.sha256(np.ascontiguousarray(self.bgr).tobytes()).hexdigest(),
            "file_sha256": self.file_sha256,
            # In float64: a float32 sum of so many values is off in the second decimal.
            "crop_means_bgr": [round(x, 2) for x in self.bgr.mean((0, 1, 2), np.float64).tolist()],
        }


def read_mean(spec: str) -> Mean:
    """Read a mean.

    Args:
        spec: three numbers ``B,G,R``, or the path of a C3D-v1.0 ``.binaryproto``, or of an
            ``.npy`` or ``.npy.bz2`` of shape ``[16, 128, 171, 3]`` or ``[3, 16, 128, 171]``, BGR.

    Raises:
        AssetError: it cannot be read, or fits no clip.
    """
    numbers = spec.split(",")
    if len(numbers) == CHANNELS:
        try:
            scalars = np.array([float(number) for number in numbers], np.float32)
        except ValueError as error:
            raise AssetError(f"mean {spec!r}: three numbers B,G,R expected") from error
        return Mean(_checked(np.broadcast_to(scalars, CLIP_SHAPE).copy(), spec), source=spec)
    path = Path(spec)
    try:
        content = path.read_bytes()
        digest = file_sha256(path)
    except OSError as error:
        raise AssetError(f"{spec}: cannot be read ({error.strerror})") from error
    if content.startswith(b"BZh"):
        try:
            content = bz2.decompress(content)
        except (OSError, ValueError) as error:
            raise AssetError(f"{spec}: a damaged bzip2 file ({error})") from error
    cube = _npy(content, spec) if content.startswith(b"\x93NUMPY") else _binaryproto(content, spec)
    return Mean(_checked(_crop(cube, spec), spec), source=path.name, file_sha256=digest)


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
    with np.errstate(over="ignore"):  # infinity then, and refused as such
        return np.ascontiguousarray(cube[:, rows, columns], np.float32)


def _checked(mean: npt.NDArray[np.float32], spec: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(mean).all() or mean.min() < 0 or mean.max() > 255:
        raise AssetError(f"{spec}: a mean of pixels must lie between 0 and 255")
    return mean


def _npy(content: bytes, spec: str) -> npt.NDArray[Any]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AssetError(f"{spec}: a damaged .npy file ({error})") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise AssetError(f"{spec}: an array of {array.dtype}, expected floating point")
    return np.asarray(array)


def _binaryproto(content: bytes, spec: str) -> npt.NDArray[Any]:
    """Parse one bare BlobProto: varint dimensions and packed floats, nothing else."""
    dimensions = dict.fromkeys(_DIMENSION_FIELDS, 0)
    data = b""
    position = 0
    try:
        while position < len(content):
            tag, position = _varint(content, position)
            number, wire_type = tag >> 3, tag & 7
            value, position = _varint(content, position)
            if wire_type == 0 and number in dimensions:
                dimensions[number] = value
            elif wire_type == 2 and number == _DATA_FIELD:
                data = content[position : position + value]
                position += value
                if position > len(content):
                    raise AssetError(f"{spec}: a mean file that ends early; fetch it again")
            else:
                raise IndexError
    except IndexError as error:
        raise AssetError(
            f"{spec}: not a mean: expected .npy, or .binaryproto as C3D-v1.0's Caffe writes it"
        ) from error
    shape = tuple(dimensions.values())
    count = int(np.prod(shape, dtype=object))
    if count * 4 != len(data) or not count:
        raise AssetError(
            f"{spec}: {len(data)} bytes of numbers where its shape {list(shape)} needs {count * 4}"
        )
    return np.frombuffer(data, "<f4").reshape(shape)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError
