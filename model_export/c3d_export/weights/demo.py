"""``demo``: weights for a first run without a download: random filters and a fitted last layer.

Nothing is trained on video. The filters are the random ones of `seeded.py`, arranged so that motion
passes through eight layers of them. fc8 classifies whether the visible motion is left, right, up,
down or none; `tools/fit_demo_weights.py` fitted it in closed form on synthetic clips. It is stored
next to this file, for the full width only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import FULL_WIDTH, LAYERS, Weights
from c3d_export.weights.seeded import random_weights

DEMO = "demo"
# fc8's outputs, in order. The motion is that of the image: it moves left when the camera turns
# right.
DEMO_LABELS = ("moving left", "moving right", "moving up", "moving down", "still")
_NOTE = (
    "a demonstration, not Sports-1M: random filters and a last layer that tells which way things "
    "move; its features mean nothing"
)

# Fitted on 800 clips; correct for 99 % of 300 clips that were not fitted on.
STORED_FC8 = Path(__file__).with_name("demo_fc8.npz")

_FILTERS_SEED = 0
# Random layers alone drown motion, and layers that only pass their input on blur it. Correct on
# unseen clips, with 16 filters in conv1 and 500 clips to fit on: 91 % with random filters alone,
# 84 % with passing on alone, 96 to 98 % for random shares of 0.3 and 0.4.
_RANDOM_SHARE = 0.4
_BLUR = np.array([0.25, 0.5, 0.25])

_Arrays = dict[str, npt.NDArray[np.float32]]


def demo_weights(*, width: int = FULL_WIDTH) -> Weights:
    """Return the demo's weights, of five classes: :data:`DEMO_LABELS`.

    The network needs the mean :data:`~c3d_export.mean.SPORTS1M_SCALARS`.

    Args:
        width: conv1's filters; 64, as the stored fc8 is fitted for them.

    Raises:
        WeightsError: another width, or the stored fc8 was fitted for filters other than those that
            this machine's NumPy creates.
    """
    if width != FULL_WIDTH:
        raise WeightsError(
            f"{DEMO}: width is {width}; its last layer is fitted for {FULL_WIDTH} alone: leave the "
            "width out, or use random:SEED"
        )
    filters = demo_filters(width)
    with np.load(STORED_FC8, allow_pickle=False) as stored:
        # NumPy guarantees its random numbers only within a release. Other filters than those that
        # fc8 was fitted for would make its answers nonsense, without an error.
        if not np.allclose(stored["sample"], filters_sample(filters), rtol=1e-4):
            raise WeightsError(
                f"{DEMO}: NumPy {np.__version__} makes other random numbers than the demo's fc8 "
                "was fitted on; fit it again with python tools/fit_demo_weights.py"
            )
        arrays = {**filters, "fc8/kernel": stored["kernel"], "fc8/bias": stored["bias"]}
    # Marked as random: one layer of eleven is fitted, and the features are not C3D features.
    return Weights(
        arrays=arrays, source=DEMO, format=DEMO, random=True, note=_NOTE, labels=DEMO_LABELS
    )


def demo_filters(width: int) -> _Arrays:
    """Return all layers, with fc8 zero: random filters that let motion through.

    conv1 is random less its means over time and over space, so that neither static content nor an
    even grey has a response, except at the clip's ends. The other convolutions pass on each
    channel, blurred, and add random filters to it. fc6 and fc7 are random.

    Raises:
        WeightsError: the width is below 1.
    """
    arrays = dict(random_weights(_FILTERS_SEED, width=width, classes=len(DEMO_LABELS)).arrays)
    kernel = arrays["conv1/kernel"]
    kernel = kernel - kernel.mean(axis=(1, 2), keepdims=True)
    arrays["conv1/kernel"] = kernel - kernel.mean(axis=0, keepdims=True)
    blur = np.einsum("d,h,w->dhw", _BLUR, _BLUR, _BLUR)
    for layer in LAYERS:
        if not layer.startswith("conv") or layer == "conv1":
            continue
        kernel = arrays[f"{layer}/kernel"]
        channels, filters = kernel.shape[-2:]
        same_channel = np.eye(channels)[:, np.arange(filters) % channels]
        passing = blur[..., None, None] * same_channel
        arrays[f"{layer}/kernel"] = (passing + _RANDOM_SHARE * kernel).astype(np.float32)
    for part in ("kernel", "bias"):
        arrays[f"fc8/{part}"] = np.zeros_like(arrays[f"fc8/{part}"])
    return arrays


def filters_sample(filters: _Arrays) -> npt.NDArray[np.float32]:
    """Return four numbers of each layer but fc8, to compare filters by: float32 ``[10, 4]``."""
    kernels = [filters[f"{layer}/kernel"] for layer in LAYERS if layer != "fc8"]
    return np.stack([kernel.reshape(-1)[-4:] for kernel in kernels])
