"""``random:SEED``: an untrained network, the same for the same seed, with plausible activations.

For trying the whole system without the published weights. Its labels and features mean nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import SPORTS1M_CLASSES

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import FULL_WIDTH, LAYERS, Weights, expected_shapes

PREFIX = "random:"

# He's initialisation, sqrt(2 / fan_in), keeps every layer's output at a standard deviation of 1 to
# 1.6 on real video, once conv1 divides by the standard deviation of its input: pixels less their
# mean, about 60.
_INPUT_STD = 60.0
_BIAS_STD = 0.05
_NOTE = "not a trained network: labels and features mean nothing"


def random_weights(
    seed: int, *, width: int = FULL_WIDTH, classes: int = SPORTS1M_CLASSES
) -> Weights:
    """Create weights from a seed.

    Args:
        seed: 0 or more.
        width: conv1's filters.
        classes: fc8's outputs.

    Raises:
        WeightsError: the seed is negative, or the width or the classes are below 1.
    """
    if seed < 0:
        raise WeightsError(f"{PREFIX}{seed}: the seed must be 0 or more")
    if width < 1 or classes < 1:
        raise WeightsError(
            f"{PREFIX}{seed}: width is {width} and classes {classes}; both must be 1 or more"
        )
    shapes = expected_shapes(width, classes)
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for number, layer in enumerate(LAYERS):
        shape = shapes[f"{layer}/kernel"]
        generator = np.random.Generator(np.random.PCG64([seed, number]))
        scale = np.sqrt(2.0 / np.prod(shape[:-1])) / (_INPUT_STD if layer == "conv1" else 1.0)
        kernel = generator.standard_normal(shape, np.float32)
        kernel *= np.float32(scale)
        arrays[f"{layer}/kernel"] = kernel
        bias = generator.standard_normal(shape[-1:], np.float32)
        arrays[f"{layer}/bias"] = bias * np.float32(_BIAS_STD)
    return Weights(
        arrays=arrays, source=f"{PREFIX}{seed}", format="random", random=True, note=_NOTE
    )
