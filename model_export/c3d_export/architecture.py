"""The Keras C3D: eight 3x3x3 convolutions, five max pools, fc6, fc7, fc8 and a softmax.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015, section
3.3; layer names as in the Keras port of the Sports-1M weights. The full network has 79,991,015
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import CLIP_SHAPE, FEATURE_SIZE, SPORTS1M_CLASSES
from c3d_client.core.errors import UsageError
from keras import layers

from c3d_export.weights.canonical import FULL_WIDTH


def build_c3d(
    *,
    width: int = FULL_WIDTH,
    classes: int | None = SPORTS1M_CLASSES,
    precision: str = "float32",
) -> keras.Model:
    """Build the network, without weights.

    Args:
        width: conv1's filters: 64 in C3D. The other convolutions have multiples of it: 128, 256,
            256, 512, 512, 512, 512. A narrow network for tests has the same 4096 features.
        classes: outputs of fc8; None for a network that ends at fc7, for features alone.
        precision: dtype of the weights and of the arithmetic: ``float32``, ``bfloat16`` or
            ``float16``. The softmax is float32 in any case.

    Returns:
        A functional model from clips less their mean, ``[n, 16, 112, 112, 3]``, to
        probabilities, float32 ``[n, classes]``; without classes, to fc7 ``[n, 4096]``.

    Raises:
        UsageError: width or classes below 1.
    """
    if width < 1 or (classes is not None and classes < 1):
        raise UsageError(f"width is {width} and classes {classes}; both must be 1 or more")

    def conv(name: str, filters: int) -> layers.Layer:
        return layers.Conv3D(
            filters, 3, padding="same", activation="relu", dtype=precision, name=name
        )

    def pool(name: str, size: tuple[int, int, int]) -> layers.Layer:
        # TensorFlow has no 3-D max pool of float16 for CPUs. A maximum is exact in any dtype.
        dtype = "float32" if precision == "float16" else precision
        return layers.MaxPooling3D(size, size, dtype=dtype, name=name)

    clips = keras.Input(CLIP_SHAPE, dtype=precision, name="clips")  # 16, 112, 112, 3
    x = conv("conv1", width)(clips)  # 16, 112, 112, 64
    x = pool("pool1", (1, 2, 2))(x)  # 16, 56, 56, 64
    x = conv("conv2", 2 * width)(x)  # 16, 56, 56, 128
    x = pool("pool2", (2, 2, 2))(x)  # 8, 28, 28, 128
    x = conv("conv3a", 4 * width)(x)  # 8, 28, 28, 256
    x = conv("conv3b", 4 * width)(x)
    x = pool("pool3", (2, 2, 2))(x)  # 4, 14, 14, 256
    x = conv("conv4a", 8 * width)(x)  # 4, 14, 14, 512
    x = conv("conv4b", 8 * width)(x)
    x = pool("pool4", (2, 2, 2))(x)  # 2, 7, 7, 512
    x = conv("conv5a", 8 * width)(x)
    x = conv("conv5b", 8 * width)(x)
    # Caffe rounds a pool's output size up and clips the last window: {0,1} {2,3} {4,5} {6}. conv5b
    # is never negative, so a zero row at the bottom and a zero column at the right are equivalent.
    # Padding on both sides, as in some ports, moves every window.
    x = layers.ZeroPadding3D(((0, 0), (0, 1), (0, 1)), dtype=precision, name="pad5")(x)
    x = pool("pool5", (2, 2, 2))(x)  # 1, 4, 4, 512
    x = layers.Flatten(dtype=precision, name="flatten")(x)  # 8192
    # Dropout, 0.5 after fc6 and fc7 in training, has no effect in inference and is left out.
    x = layers.Dense(FEATURE_SIZE, activation="relu", dtype=precision, name="fc6")(x)
    x = layers.Dense(FEATURE_SIZE, activation="relu", dtype=precision, name="fc7")(x)
    if classes is None:
        return keras.Model(clips, x, name="c3d")
    x = layers.Dense(classes, dtype=precision, name="fc8")(x)
    probabilities = layers.Softmax(dtype="float32", name="softmax")(x)
    return keras.Model(clips, probabilities, name="c3d")


def features_extractor(model: keras.Model, layer: str = "fc6") -> keras.Model:
    """Return the network up to a named layer; the weights are shared.

    Args:
        model: from :func:`build_c3d`.
        layer: any layer's name; fc6 and fc7 are read after their ReLU, as in Caffe.

    Raises:
        UsageError: the network has no such layer.
    """
    names = [candidate.name for candidate in model.layers]
    if layer not in names:
        raise UsageError(f"no layer {layer!r}; the layers are {', '.join(names)}")
    return keras.Model(model.input, model.get_layer(layer).output, name=f"c3d_{layer}")


def set_weights(network: keras.Model, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Set a network's weights by layer name, rounded to its precision.

    Args:
        network: from :func:`build_c3d`.
        arrays: ``conv1/kernel``, ``conv1/bias`` … in Keras's layout.
    """
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([arrays[f"{layer.name}/kernel"], arrays[f"{layer.name}/bias"]])


def variables(network: keras.Model) -> dict[str, tf.Variable]:
    """Return a network's TensorFlow variables, by the keys of :func:`set_weights`."""
    return {
        f"{layer.name}/{variable.name}": variable.value
        for layer in network.layers
        for variable in layer.weights
    }
