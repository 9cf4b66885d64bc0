"""Independent C3D in plain NumPy, from decoded frames to the softmax, computed as by Caffe.

The oracle shares no code with the product, so that an agreement of the two is evidence. Every stage
can be called separately, to find where outputs differ. Axes are Caffe's (channel, time, row,
column) throughout. ``MISTAKES`` are known errors of C3D ports, each as a variant of the
computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

Net = dict[str, tuple[np.ndarray, np.ndarray]]


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield each field's number, wire type and value: an int for varints, otherwise its bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            yield number, wire_type, varint()
            continue
        if wire_type not in (1, 2, 5):
            raise ValueError(f"field {number} has wire type {wire_type}: not a Caffe file")
        size = varint() if wire_type == 2 else {1: 8, 5: 4}[wire_type]
        left = len(data) - position
        if size > left:
            raise ValueError(f"field {number} needs {size} bytes, {left} are left")
        yield number, wire_type, data[position : position + size]
        position += size


def parse_blob(data: bytes | memoryview) -> np.ndarray:
    """Parse a BlobProto of C3D-v1.0, the content of a mean file: float32 of five axes.

    Raises:
        ValueError: sizes and data do not fit, for example in a file of the later dialect.
    """
    shape, pieces = [1] * 5, []
    for number, wire_type, value in _fields(memoryview(data)):
        if number == 6:
            pieces.append(value)
        elif number <= 5:
            if wire_type != 0:
                raise ValueError(f"field {number} is not a size: not C3D-v1.0's BlobProto")
            shape[number - 1] = value
    values = np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), "<f4")
    if values.size != np.prod(shape):
        raise ValueError(f"{values.size} numbers for a blob of shape {shape}")
    return values.reshape(shape)


def parse_net(data: bytes) -> Net:
    """Parse a NetParameter of C3D-v1.0: layer -> (kernel, bias), for the layers with blobs."""
    net = {}
    for layer in [value for number, _, value in _fields(memoryview(data)) if number == 2]:
        fields = list(_fields(layer))
        names = [bytes(value).decode() for number, _, value in fields if number == 4]
        blobs = [parse_blob(value) for number, _, value in fields if number == 6]
        if blobs:
            net[names[-1]] = tuple(blobs)
    if not net:
        raise ValueError("no layer has blobs: not C3D-v1.0's NetParameter")
    return net


def parse_mean(data: bytes) -> np.ndarray:
    """Parse a mean file: float32 (3, 16, 128, 171), BGR."""
    blob = parse_blob(data)
    if blob.shape != (1, 3, 16, 128, 171):
        raise ValueError(f"a mean of shape {blob.shape}")
    return blob[0]


def _another_mean(cube: np.ndarray) -> np.ndarray:
    """Return a mean as far from the cube as UCF101's mean is from Sports-1M's.

    Most ports subtract UCF101's mean. The crop's averages differ by (95.1 - 100.6, 102.9 - 108.1,
    0) and the pixels by 5.8 on average.
    """
    levels = np.array([-5.5, -5.2, 0.0]).reshape(3, 1, 1, 1)
    return cube + levels + np.linspace(-9.6, 9.6, 128).reshape(1, 1, 128, 1)


@dataclass(frozen=True)
class Variant:
    """One way to compute C3D; the fields' defaults are those of Caffe."""

    frames_bgr: bool = True
    mean_bgr: bool = True
    interpolation: int = cv2.INTER_LINEAR
    mean: Callable[[np.ndarray], np.ndarray] = lambda cube: cube
    crop: tuple[int, int] = (8, 29)  # first row, first column
    mean_crop: tuple[int, int] | None = None  # None: the frames' crop
    kernels_flipped: bool = False
    pool5_symmetric: bool = False
    fc6_channels_last: bool = False
    fc6_rectified: bool = True


CAFFE = Variant()

MISTAKES: dict[str, Variant] = {
    "BGR/RGB swapped": Variant(frames_bgr=False),
    "BGR/RGB swapped in the mean": Variant(mean_bgr=False),
    "BGR/RGB swapped in the first kernel": Variant(frames_bgr=False, mean_bgr=False),
    "symmetric pool5 padding": Variant(pool5_symmetric=True),
    "crop at 30": Variant(crop=(8, 30)),
    "kernels flipped": Variant(kernels_flipped=True),
    "fc6 not reordered": Variant(fc6_channels_last=True),
    "fc6 before ReLU": Variant(fc6_rectified=False),
    "wrong mean": Variant(mean=_another_mean),
    "no mean": Variant(mean=np.zeros_like),
    "mean not cropped the same way": Variant(mean_crop=(0, 0)),
    "resize not OpenCV's": Variant(interpolation=cv2.INTER_NEAREST),
    # As in libraries that antialias; it has an effect only on frames much larger than 171x128.
    "resize by area": Variant(interpolation=cv2.INTER_AREA),
}


def decode(path: Path | str, *, count: int | None = None) -> list[np.ndarray]:
    """Decode all frames of a video, or the first ``count``: uint8 (rows, columns, 3), RGB."""
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), count)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def resize(frame: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize uint8 (rows, columns, 3) to uint8 (128, 171, 3); OpenCV's result is the definition."""
    return cv2.resize(frame, (171, 128), interpolation=interpolation)


def wire_frame(frame: np.ndarray) -> np.ndarray:
    """Return the expected pixels of a decoded frame in a request: uint8 (112, 112, 3), RGB."""
    return resize(frame)[8:120, 29:141]


def preprocess(
    frames: Sequence[np.ndarray], mean: np.ndarray, *, variant: Variant = CAFFE
) -> np.ndarray:
    """Compute the network's input from 16 decoded RGB frames.

    Args:
        frames: uint8 (rows, columns, 3), RGB.
        mean: the mean cube (3, 16, 128, 171), BGR.

    Returns:
        float32 (3, 16, 112, 112), BGR: pixels less the mean, subtracted before the crop.
    """
    if len(frames) != 16:
        raise ValueError(f"{len(frames)} frames; a clip has 16")
    order = slice(None, None, -1 if variant.frames_bgr else 1)
    ordered = [np.ascontiguousarray(frame[:, :, order]) for frame in frames]
    resized = np.stack([resize(frame, variant.interpolation) for frame in ordered])
    volume = resized.transpose(3, 0, 1, 2).astype(np.float32)
    cube = variant.mean(mean) if variant.mean_bgr else variant.mean(mean)[::-1]
    row, column = variant.crop
    if variant.mean_crop is not None:
        # The crop follows the subtraction, so another crop of the mean is a shift before it.
        shift = row - variant.mean_crop[0], column - variant.mean_crop[1]
        cube = np.roll(cube, shift, (2, 3))
    volume = volume - np.asarray(cube, np.float32)
    return np.ascontiguousarray(volume[:, :, row : row + 112, column : column + 112])


def conv3d(volume: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Cross-correlate with stride 1 and one zero of padding: (in, T, H, W) -> (out, T, H, W).

    The kernel is (out, in, 3, 3, 3), the bias has ``out`` numbers in any shape.
    """
    channels, steps, rows, columns = volume.shape
    padded = np.pad(volume, ((0, 0), (1, 1), (1, 1), (1, 1)))
    matrix = kernel.reshape(len(kernel), channels * 27)
    out = np.empty((len(kernel), steps, rows, columns), volume.dtype)
    # One step in time after the other: all neighbourhoods at once would need 27 times the memory.
    for step in range(steps):
        near = np.lib.stride_tricks.sliding_window_view(padded[:, step : step + 3], (3, 3), (2, 3))
        # (in, 3, H, W, 3, 3) -> (in, 3, 3, 3, H, W): the kernel's order, then positions.
        near = near.transpose(0, 1, 4, 5, 2, 3).reshape(channels * 27, rows * columns)
        out[:, step] = (matrix @ near).reshape(len(kernel), rows, columns)
    return out + bias.reshape(-1, 1, 1, 1)


def relu(array: np.ndarray) -> np.ndarray:
    """Replace negative numbers by zero."""
    return np.maximum(array, 0)


def max_pool(volume: np.ndarray, window: tuple[int, int, int]) -> np.ndarray:
    """Pool adjacent windows over (T, H, W): ceil(size / window) of them, the last one clipped."""
    for axis, size in enumerate(window, 1):
        starts = range(0, volume.shape[axis], size)
        # reduceat ends a window where the next starts, and the last one at the edge.
        volume = np.maximum.reduceat(volume, starts, axis=axis)
    return volume


def inner_product(array: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Multiply the flattened array, channels slowest in Caffe, by a (1, 1, 1, out, in) kernel."""
    return kernel.reshape(kernel.shape[-2:]) @ array.reshape(-1) + bias.reshape(-1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of scores."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


_STAGES = (
    *("conv1", "pool1", "conv2", "pool2", "conv3a", "conv3b", "pool3"),
    *("conv4a", "conv4b", "pool4", "conv5a", "conv5b", "pool5"),
)


def _weights(net: Net, stage: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    name = {"conv1": "conv1a", "conv2": "conv2a"}.get(stage, stage)
    kernel, bias = net[name] if name in net else net[f"{name}-1"]  # Sports-1M: fc6-1, UCF101: fc6
    return kernel.astype(dtype, copy=False), bias.astype(dtype, copy=False)


def stages(
    clip: np.ndarray, net: Net, *, dtype: type = np.float32, variant: Variant = CAFFE
) -> dict[str, np.ndarray]:
    """Compute every layer's output for one preprocessed clip.

    Args:
        clip: (3, 16, 112, 112), from :func:`preprocess`.
        net: with Caffe's names and layout, from :func:`parse_net`.
        dtype: the dtype of all arithmetic; float64 is for small networks.

    Returns:
        The outputs by name, in order. conv1 ... conv5b (after ReLU), pool1 ... pool5: (C, T, H, W);
        fc6, fc7 (after ReLU): (4096,); fc8, prob: (classes,).
    """
    out, top = {}, clip.astype(dtype)
    for stage in _STAGES:
        if stage.startswith("conv"):
            kernel, bias = _weights(net, stage, dtype)
            if variant.kernels_flipped:
                kernel = kernel[:, :, ::-1, ::-1, ::-1]
            top = relu(conv3d(top, kernel, bias))
        elif stage == "pool5" and variant.pool5_symmetric:
            # A zero before the first row shifts the windows: {., 0} {1, 2} {3, 4} {5, 6}.
            top = max_pool(np.pad(top, ((0, 0), (0, 0), (1, 0), (1, 0))), (2, 2, 2))
        else:
            top = max_pool(top, (1, 2, 2) if stage == "pool1" else (2, 2, 2))
        out[stage] = top
    flat = top.transpose(1, 2, 3, 0) if variant.fc6_channels_last else top
    sums = inner_product(flat, *_weights(net, "fc6", dtype))
    out["fc6"] = relu(sums) if variant.fc6_rectified else sums
    out["fc7"] = relu(inner_product(relu(sums), *_weights(net, "fc7", dtype)))
    out["fc8"] = inner_product(out["fc7"], *_weights(net, "fc8", dtype))
    out["prob"] = softmax(out["fc8"])
    return out


def layers(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the layers that a servable gives, from :func:`stages`, with channels as the last axis.

    conv5b (2, 7, 7, C), pool5 (1, 4, 4, C): time, row, column, channel; fc6, fc7, fc8: vectors.
    """
    return {
        name: outputs[name] if outputs[name].ndim == 1 else outputs[name].transpose(1, 2, 3, 0)
        for name in ("conv5b", "pool5", "fc6", "fc7", "fc8")
    }


def video_layers(
    frames: Sequence[np.ndarray], net: Net, mean: np.ndarray, *, stride: int = 8
) -> dict[str, np.ndarray]:
    """Compute :func:`layers` of the 16-frame clips every ``stride`` frames, one row for each."""
    starts = range(0, len(frames) - 15, stride)
    clips = [layers(stages(preprocess(frames[s : s + 16], mean), net)) for s in starts]
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def video_fc6(
    frames: Sequence[np.ndarray],
    net: Net,
    mean: np.ndarray,
    *,
    mistake: str | None = None,
    dtype: type = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute fc6 of the 16-frame clips every 8 frames, and their average with length 1.

    Args:
        frames: decoded RGB, uint8.
        net: from :func:`parse_net`.
        mean: float (3, 16, 128, 171), BGR.
        mistake: a key of ``MISTAKES``, to compute the features of a port with that mistake.
        dtype: the dtype of all arithmetic.

    Returns:
        clip features ``dtype`` [floor((N - 16) / 8) + 1, 4096]; video feature float64 [4096].

    Raises:
        ValueError: fewer than 16 frames, or features that have no direction.
    """
    if len(frames) < 16:
        raise ValueError(f"too short: {len(frames)} frames, 16 needed")
    variant = CAFFE if mistake is None else MISTAKES[mistake]
    starts = range(0, len(frames) - 15, 8)
    clips = (preprocess(frames[s : s + 16], mean, variant=variant) for s in starts)
    features = np.stack([stages(c, net, dtype=dtype, variant=variant)["fc6"] for c in clips])
    average = features.mean(0, dtype=np.float64)
    norm = np.linalg.norm(average)
    if not np.isfinite(norm) or norm == 0:
        raise ValueError(f"the average's length is {norm}")
    return features, average / norm
