"""From channels-first layouts (Caffe, torch, Theano, Lasagne) to Keras's, one visible step each."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from c3d_export.errors import WeightsError

# pool5's output: 1 x 4 x 4 places.
_POOL5 = (1, 4, 4)


def conv_from_channels_first(kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``[out, in, length, height, width]`` to ``[length, height, width, in, out]``.

    Raises:
        WeightsError: it has not five dimensions.
    """
    if kernel.ndim != 5:
        raise WeightsError(
            f"a convolution kernel of shape {list(kernel.shape)}, expected five dimensions"
            + (": this is a network of 2-D convolutions, not C3D" if kernel.ndim == 4 else "")
        )
    return kernel.transpose(2, 3, 4, 1, 0)


def fc6_from_channels_first(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """fc6 ``[out, in]`` to ``[in, out]``, its inputs reordered.

    A channels-first network flattens pool5 as (channel, length, height, width), Keras as (length,
    height, width, channel).

    Raises:
        WeightsError: its inputs are not a whole number of pool5's places.
    """
    places = _POOL5[0] * _POOL5[1] * _POOL5[2]
    if matrix.ndim != 2 or matrix.shape[1] % places:
        raise WeightsError(f"fc6 has shape {list(matrix.shape)}, expected [4096, 8192]")
    outputs, inputs = matrix.shape
    blocks = matrix.reshape(outputs, inputs // places, *_POOL5)
    return blocks.transpose(2, 3, 4, 1, 0).reshape(inputs, outputs)
