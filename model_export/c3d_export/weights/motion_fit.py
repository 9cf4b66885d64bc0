"""The demo's last layer: ridge regression of the motion on fc7 of synthetic clips, in closed form.

``python -m c3d_export.weights.motion_fit`` fits it for the full width and stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_export.architecture import build_c3d, features_extractor, set_weights
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.weights.demo import FULL_WIDTH, demo_filters, store_fc8
from c3d_export.weights.motion_clips import MOTIONS, motion_clips

_FULL_WIDTH_CLIPS = 800
_SEED = 1
_BATCH = 10

# Relative to the mean of the rows' products' eigenvalues; the best one is chosen.
_RIDGES = 10.0 ** np.arange(-5, 1)
# What fc8 is multiplied by, so that the softmax gives probabilities; the likeliest one is chosen.
_SCALES = np.geomspace(0.5, 40, 60)


def fit_fc8(
    filters: Mapping[str, npt.NDArray[np.float32]], *, clips: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fit fc8 to the motions of synthetic clips.

    Args:
        filters: from :func:`demo_filters`.
        clips: how many to fit on.

    Returns:
        The kernel, float32 ``[4096, 5]``, and the bias, float32 ``[5]``.
    """
    features, motions = [], []
    network = build_c3d(width=filters["conv1/bias"].shape[0], classes=len(MOTIONS))
    set_weights(network, filters)
    fc7 = features_extractor(network, "fc7")
    mean = read_mean(SPORTS1M_SCALARS).bgr
    for start in range(0, clips, _BATCH):
        pixels, moving = motion_clips(min(_BATCH, clips - start), seed=_SEED, start=start)
        centred = pixels[..., ::-1].astype(np.float32) - mean  # the filters are for BGR
        features.append(np.asarray(fc7(centred, training=False), np.float64))
        motions.append(moving)
    return ridge_classifier(np.concatenate(features), np.concatenate(motions))


def ridge_classifier(
    features: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Regress the classes' indicators on features; closed form, nothing is iterated.

    The ridge is the one with the least squared error when each row is left out in turn, and the
    scale the one with the greatest likelihood of those left out: so that a softmax of the outputs
    is as sure as it has a right to be.

    Args:
        features: float64 ``[n, features]``; n may be smaller than the features.
        classes: int64 ``[n]``, all of 0 to the largest.

    Returns:
        The kernel, float32 ``[features, classes]``, and the bias, float32 ``[classes]``.
    """
    wanted = np.eye(classes.max() + 1)[classes]
    centre, share = features.mean(axis=0), wanted.mean(axis=0)
    rows, targets = features - centre, wanted - share
    # By the rows' products, n x n: far fewer than the features' 4096 x 4096.
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values = np.maximum(values, 0)
    turned = vectors.T @ targets
    best: tuple[float, Any, Any] = (np.inf, None, None)
    for ridge in _RIDGES * values.mean():
        kept = values / (values + ridge)
        residual = targets - vectors @ (kept[:, None] * turned)
        # A row's weight on its own fit; one more 1/n for the mean, which it took part in.
        own = np.einsum("ij,j,ij->i", vectors, kept, vectors) + 1 / len(rows)
        left_out = wanted - residual / (1 - own)[:, None]
        error = float(np.square(left_out - wanted).mean())
        if error < best[0]:
            best = error, left_out, ridge
    _, left_out, ridge = best
    kernel = rows.T @ (vectors @ (turned / (values + ridge)[:, None]))
    scale = max(_SCALES, key=lambda scale: _log_likelihood(scale * left_out, classes))
    bias = share - centre @ kernel
    return (scale * kernel).astype(np.float32), (scale * bias).astype(np.float32)


def _log_likelihood(outputs: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]) -> float:
    outputs = outputs - outputs.max(axis=1, keepdims=True)
    own = outputs[np.arange(len(outputs)), classes]
    return float((own - np.log(np.exp(outputs).sum(axis=1))).mean())


def main() -> None:
    """Fit the full width's fc8 and store it; takes minutes."""
    filters = demo_filters(FULL_WIDTH)
    path = store_fc8(filters, *fit_fc8(filters, clips=_FULL_WIDTH_CLIPS))
    print(f"{path}: fitted on {_FULL_WIDTH_CLIPS} clips")


if __name__ == "__main__":
    main()
