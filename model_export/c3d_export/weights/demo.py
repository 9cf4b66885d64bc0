"""Weights for a first run without any download: random filters, and a last layer that tells motion.

Nothing is trained on video. The filters are `seeded.py`'s random ones, arranged so that motion gets
through eight layers of them; fc8 is fitted in closed form, by ridge regression on fc7 of synthetic
clips, to say whether what is seen moves left, right, up or down or stands still. For the full width
it lies beside this file, so that the first run is quick and the same everywhere; it is made by
``python -m c3d_export.weights.motion_fit``. For other widths it is fitted when asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import LAYERS, Weights
from c3d_export.weights.motion_clips import MOTIONS
from c3d_export.weights.seeded import random_weights

DEMO = "demo"
# fc8's outputs, in its order, which is that of MOTIONS: what is seen, not the camera, moves.
DEMO_LABELS = ("moving left", "moving right", "moving up", "moving down", "still")
_NOTE = (
    "a demonstration, not Sports-1M: random filters and a last layer that tells which way things "
    "move; its features mean nothing"
)

# Fitted on 800 clips; right for 99 % of 300 unseen ones.
_FULL_WIDTH_FC8 = Path(__file__).with_name("demo_fc8.npz")
FULL_WIDTH = 64

_FILTERS_SEED = 0
# Clips to fit on: 13 seconds' work at width 16, and 94 % right on unseen ones.
_NARROW_CLIPS = 300

# Random layers alone drown motion, and layers that only hand on blur it away. Right on unseen
# clips, with 16 filters in conv1 and 500 clips to fit on: 91 % random alone, 84 % handing on alone,
# 96 to 98 % for shares of 0.3 and 0.4.
_RANDOM_SHARE = 0.4
_BLUR = np.array([0.25, 0.5, 0.25])

_Arrays = dict[str, npt.NDArray[np.float32]]


def demo_weights(*, width: int = FULL_WIDTH) -> Weights:
    """Make the demo's weights: five classes, :data:`DEMO_LABELS`.

    They want the mean :data:`~c3d_export.mean.SPORTS1M_SCALARS`.

    Args:
        width: conv1's filters. 64 takes two seconds; others take ten or more, to fit fc8, and are
            right less often: 94 % of unseen clips at 16, under 90 % at 4.

    Raises:
        WeightsError: the width is below 1, or the stored fc8 is not for the filters that this
            machine makes.
    """
    filters = demo_filters(width)
    if width == FULL_WIDTH:
        kernel, bias = _stored_fc8(filters)
    else:
        # Here: Keras takes seconds to load, and who reads the stored fc8 need not wait.
        from c3d_export.weights.motion_fit import fit_fc8

        kernel, bias = fit_fc8(filters, clips=_NARROW_CLIPS)
    arrays = {**filters, "fc8/kernel": kernel, "fc8/bias": bias}
    # Random, for what is learned is one layer in eleven, and the features are nobody's.
    return Weights(
        arrays=arrays, source=DEMO, format=DEMO, random=True, note=_NOTE, labels=DEMO_LABELS
    )


def demo_filters(width: int) -> _Arrays:
    """All layers, fc8 still zero: random filters that let motion through.

    conv1 is random less its means over time and over space, so that neither what stands still nor
    an even grey says anything, but for the clip's ends. The other convolutions hand on each
    channel, blurred, and add random filters to it. fc6 and fc7 are random.

    Raises:
        WeightsError: the width is below 1.
    """
    arrays = dict(random_weights(_FILTERS_SEED, width=width, classes=len(MOTIONS)).arrays)
    kernel = arrays["conv1/kernel"]
    kernel = kernel - kernel.mean(axis=(1, 2), keepdims=True)
    arrays["conv1/kernel"] = kernel - kernel.mean(axis=0, keepdims=True)
    blur = np.einsum("d,h,w->dhw", _BLUR, _BLUR, _BLUR)
    for layer in LAYERS:
        if not layer.startswith("conv") or layer == "conv1":
            continue
        kernel = arrays[f"{layer}/kernel"]
        channels, filters = kernel.shape[-2:]
        handed_on = np.eye(channels)[:, np.arange(filters) % channels]
        passing = blur[..., None, None] * handed_on
        arrays[f"{layer}/kernel"] = (passing + _RANDOM_SHARE * kernel).astype(np.float32)
    for part in ("kernel", "bias"):
        arrays[f"fc8/{part}"] = np.zeros_like(arrays[f"fc8/{part}"])
    return arrays


def store_fc8(
    filters: _Arrays, kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> Path:
    """Keep an fc8 for the full width's filters, beside this file."""
    np.savez(_FULL_WIDTH_FC8, kernel=kernel, bias=bias, sample=_sample(filters))
    return _FULL_WIDTH_FC8


def _stored_fc8(
    filters: _Arrays,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    with np.load(_FULL_WIDTH_FC8, allow_pickle=False) as stored:
        # NumPy promises its random numbers for no more than a release. Others here would make
        # nonsense of the answers, without a word.
        if not np.allclose(stored["sample"], _sample(filters), rtol=1e-4):
            raise WeightsError(
                f"{DEMO}: NumPy {np.__version__} makes other random numbers than the demo's fc8 "
                "was fitted on; fit it again with python -m c3d_export.weights.motion_fit"
            )
        return stored["kernel"], stored["bias"]


def _sample(filters: _Arrays) -> npt.NDArray[np.float32]:
    """A few numbers of each layer but fc8, to know the filters by: float32 ``[10, 4]``."""
    kernels = [filters[f"{layer}/kernel"] for layer in LAYERS if layer != "fc8"]
    return np.stack([kernel.reshape(-1)[-4:] for kernel in kernels])
