"""Winograd's convolution in ordinary TensorFlow operations.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: an F(m, 3) computes
m outputs of a 3-tap filter with m + 2 multiplications instead of 3 m. Here it is nested over
frames, rows and columns. A 3x3x3 convolution becomes one matrix multiplication of channels for each
point of the nested transform, between a transform of the input and one of the output, which are
matrix multiplications too. So the graph has no operation that TensorFlow Serving does not have.

The clips are computed in groups, in a loop: the transforms need several times the memory of the
activations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """One axis of a form: ``outputs = A ((G taps) * (B inputs))``, for a tile of outputs.

    Args:
        b: the transform of the input, ``[points, inputs]``.
        g: the transform of the kernel, ``[points, 3]``.
        a: the transform of the output, ``[outputs, points]``.
        before: the inputs of the tile before its first output: 1, or 0 where the only tile covers
            the axis, and its padding is left out.
    """

    b: Array
    g: Array
    a: Array
    before: int = 1

    @property
    def outputs(self) -> int:
        """The number of outputs of a tile."""
        return len(self.a)

    @property
    def points(self) -> int:
        """The number of multiplications of a tile."""
        return len(self.b)


def _transform(b: Any, g: Any, a: Any, *, before: int = 1) -> Transform:
    return Transform(
        np.array(b, np.float64), np.array(g, np.float64), np.array(a, np.float64), before
    )


# The matrices of Lavin and Gray, sections 4.1 and 4.3: interpolation at 0, 1, -1 (2, -2), infinity.
F2 = _transform(
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    [[1, 1, 1, 0], [0, 1, -1, -1]],
)
F4 = _transform(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
)
# Two frames between zeros, y0 = g1 x0 + g2 x1 and y1 = g0 x0 + g1 x1, with 3 multiplications:
# g1 (x0 + x1), (g2 - g1) x1, (g0 - g1) x0.
PAIR = _transform(
    [[1, 1], [0, 1], [1, 0]],
    [[0, 1, 0], [0, -1, 1], [1, -1, 0]],
    [[1, 1, 0], [1, 0, 1]],
    before=0,
)


@dataclass(frozen=True)
class Form:
    """The form of one layer's convolution.

    Args:
        frames: the transform of the frames.
        pixels: the transform of rows and of columns.
        tiles: the tiles of frames to compute together; None for all of a group of clips.
    """

    frames: Transform
    pixels: Transform
    tiles: int | None = None

    @property
    def points(self) -> int:
        """The number of matrices of a transformed kernel."""
        return self.frames.points * self.pixels.points**2

    @cached_property
    def kernel_matrix(self) -> Array:
        """The transform of a kernel, ``[points, 27]``; points and taps: rows, columns, frames."""
        return _kron(self.pixels.g, self.pixels.g, self.frames.g)

    def transformed(self, kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the transform of a kernel, computed in float64 and rounded once.

        Args:
            kernel: ``[3, 3, 3, inputs, outputs]``: frames, rows, columns, channels.

        Returns:
            ``[points, inputs, outputs]``.
        """
        taps = kernel.astype(np.float64).transpose(1, 2, 0, 3, 4)
        matrices = self.kernel_matrix @ taps.reshape(27, -1)
        return matrices.astype(np.float32).reshape(self.points, *kernel.shape[3:])

    def fits(self, kernel: npt.NDArray[np.float32], transformed: npt.NDArray[np.float32]) -> bool:
        """Return whether an array is the transform of a kernel, up to the last bit of float32."""
        expected = self.transformed(kernel)
        # Sums of float64 in another order can be rounded to the neighbouring float32.
        return transformed.shape == expected.shape and np.allclose(
            transformed, expected, rtol=2e-7, atol=1e-14 * float(np.abs(expected).max())
        )


# Which layer has which form, from `python -m benchmarks.convolution` in tests/. conv1 stays direct:
# it has only 3 input channels. Maps of 7x7 and 14x14 fit the tiles of F2; those of F4 would cover
# 8x8 and 16x16, and F4's kernels of conv4 would take 126 MB more.
FORMS: Mapping[str, Form] = {
    "conv2": Form(F2, F4, tiles=4),
    "conv3a": Form(F2, F4),
    "conv3b": Form(F2, F4),
    "conv4a": Form(F2, F2),
    "conv4b": Form(F2, F2),
    "conv5a": Form(PAIR, F2),
    "conv5b": Form(PAIR, F2),
}
# Clips in a group, of the layers up to pool3, whose transforms of the input are large, and of the
# others, whose kernels are large, which are read once for a group.
_FIRST_GROUP = 1
_SECOND_GROUP = 8


def transformed_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the size of the transformed kernels of a network with these arrays."""
    return sum(
        4 * arrays[f"{name}/kernel"].size // 27 * form.points for name, form in FORMS.items()
    )


def transformed_kernels(network: keras.Model) -> dict[str, tf.Variable]:
    """Return the transformed kernels of a network's layers, by layer name."""
    return {
        name: tf.Variable(
            form.transformed(np.asarray(network.get_layer(name).kernel)),
            trainable=False,
            name=f"winograd_{name}",
        )
        for name, form in FORMS.items()
    }


def features_function(
    network: keras.Model,
    kernels: Mapping[str, tf.Variable],
    centred: Callable[[tf.Tensor], tf.Tensor],
) -> Any:
    """Return all layers up to conv5b as a function, of which a graph has one copy.

    Args:
        network: the network.
        kernels: from :func:`transformed_kernels`.
        centred: the conversion of clips to the network's input.

    Returns:
        A ``tf.function`` from clips, ``[n, 16, 112, 112, 3]`` of a dtype that the conversion
        takes, to the output of the layer ``conv5b``, float32 ``[n, 2, 7, 7, 512]``.
    """
    layers = list(network.layers[1:])  # layer 0 is the input
    names = [layer.name for layer in layers]
    first, second = (
        layers[: names.index("pool3") + 1],
        layers[names.index("pool3") + 1 : names.index("conv5b") + 1],
    )

    def features(clips: tf.Tensor) -> tf.Tensor:
        x = in_groups(
            lambda part: _run(first, kernels, centred(part)),
            clips,
            _FIRST_GROUP,
            first[-1].output.shape[1:],
        )
        return in_groups(
            lambda part: _run(second, kernels, part),
            x,
            _SECOND_GROUP,
            second[-1].output.shape[1:],
        )

    return tf.function(features, autograph=False)


def _run(layers: Sequence[Any], kernels: Mapping[str, tf.Variable], x: tf.Tensor) -> tf.Tensor:
    for layer in layers:
        if layer.name in kernels:
            x = tf.nn.relu(
                tf.nn.bias_add(convolution(x, kernels[layer.name], FORMS[layer.name]), layer.bias)
            )
        else:
            x = layer(x, training=False)
    return x


def convolution(x: tf.Tensor, kernel: tf.Tensor, form: Form) -> tf.Tensor:
    """Return the convolution, zero-padded to the input's size.

    Args:
        x: ``[n, frames, rows, columns, inputs]``; all but ``n`` known. Its dtype is that of the
            transforms of input and output.
        kernel: ``[points, inputs, outputs]``, from :meth:`Form.transformed`. Its dtype is that of
            the multiplication. Servables have float32 for both; `benchmarks.bfloat16` compares.
        form: the form.

    Returns:
        ``[n, frames, rows, columns, outputs]``, of the dtype of ``x``.
    """
    frames, rows, columns, inputs = x.shape[1:]
    outputs = kernel.shape[-1]
    # The frames first: their transform of a small input is cheaper than one of the larger result.
    matrix, tiles = _frame_matrix(form.frames, frames)
    n = tf.shape(x)[0]
    x = tf.matmul(_constant(matrix, x), tf.reshape(x, [n, frames, rows * columns * inputs]))
    x = tf.reshape(x, [n * tiles, form.frames.points, rows, columns, inputs])
    y = in_groups(
        lambda part: _tiles(part, kernel, form),
        x,
        form.tiles,
        [form.frames.outputs, rows, columns, outputs],
    )
    return tf.reshape(y, [n, tiles * form.frames.outputs, rows, columns, outputs])[:, :frames]


def _frame_matrix(transform: Transform, frames: int) -> tuple[Array, int]:
    """Return the transform of all frames, without those of the padding, and the number of tiles."""
    if not transform.before and frames != transform.outputs:
        raise ValueError(f"{frames} frames for a transform of {transform.outputs}")
    tiles = -(-frames // transform.outputs)
    inputs = transform.b.shape[1]
    matrix = np.zeros((tiles, transform.points, frames + inputs))
    for tile in range(tiles):
        start = tile * transform.outputs
        matrix[tile, :, start : start + inputs] = transform.b
    unpadded = matrix[..., transform.before : transform.before + frames]
    return unpadded.reshape(-1, frames), tiles


def _tiles(x: tf.Tensor, kernel: tf.Tensor, form: Form) -> tf.Tensor:
    """Return the outputs of tiles of frames, ``[tiles, outputs of frames, rows, columns, k]``."""
    points, rows, columns, inputs = x.shape[1:]
    tiles, outputs = tf.shape(x)[0], kernel.shape[-1]
    pixels = form.pixels
    m, a = pixels.outputs, pixels.points
    down, across = -(-rows // m), -(-columns // m)
    # One tile more than needed: with rows and columns split by m, all inputs of the tiles that have
    # the same place in them are one slice.
    x = tf.pad(
        x,
        [
            [0, 0],
            [0, 0],
            [1, (down + 1) * m - rows - 1],
            [1, (across + 1) * m - columns - 1],
            [0, 0],
        ],
    )
    x = tf.reshape(x, [tiles, points, down + 1, m, across + 1, m, inputs])
    x = tf.transpose(x, [3, 5, 1, 0, 2, 4, 6])
    # Inputs 0 to m - 1 of a tile are its own part of the split, the others are in the next part.
    spans = ((0, range(m)), (1, range(m, a)))
    blocks = [
        x[: len(i), : len(j), :, :, below : below + down, right : right + across]
        for below, i in spans
        for right, j in spans
    ]
    x = tf.concat(
        [tf.reshape(block, [-1, tiles * points * down * across * inputs]) for block in blocks], 0
    )
    order = [row * a + column for _, i in spans for _, j in spans for row in i for column in j]
    x = tf.matmul(_constant(_kron(pixels.b, pixels.b)[:, order], x), x)
    products = tf.matmul(tf.cast(tf.reshape(x, [form.points, -1, inputs]), kernel.dtype), kernel)
    y = tf.cast(products, x.dtype)
    back = _kron(pixels.a, pixels.a, form.frames.a)
    y = tf.matmul(_constant(back, y), tf.reshape(y, [form.points, -1]))
    y = tf.reshape(y, [m, m, form.frames.outputs, tiles, down, across, outputs])
    y = tf.transpose(y, [3, 2, 4, 0, 5, 1, 6])
    y = tf.reshape(y, [tiles, form.frames.outputs, down * m, across * m, outputs])
    return y[:, :, :rows, :columns]


def in_groups(
    run: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    size: int | None,
    shape: Sequence[int],
) -> tf.Tensor:
    """Return ``run(x)``, computed for groups of rows, one group after the other.

    Args:
        run: a function of some rows of ``x``, to the dtype of ``x``; of integers, to float32.
        x: ``[n, ...]``.
        size: the rows of a group; the last one may have fewer. None for no groups.
        shape: the shape of an output row.
    """
    if size is None:
        return run(x)
    n = tf.shape(x)[0]
    count = -(-n // size)
    dtype = x.dtype if x.dtype.is_floating else tf.float32
    parts = tf.TensorArray(dtype, size=count, infer_shape=False, element_shape=[None, *shape])
    _, parts = tf.while_loop(
        lambda group, _parts: group < count,
        lambda group, parts: (
            group + 1,
            parts.write(group, run(x[group * size : (group + 1) * size])),
        ),
        (tf.constant(0), parts),
        parallel_iterations=1,
    )
    return tf.ensure_shape(parts.concat(), [None, *shape])


def _kron(*matrices: Array) -> Array:
    product: Array = functools.reduce(np.kron, matrices)  # type: ignore[arg-type]
    return product


def _constant(matrix: Array, x: tf.Tensor) -> tf.Tensor:
    return tf.constant(matrix, x.dtype)
