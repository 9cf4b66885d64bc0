"""Fit the last layer of the demo's weights: ``python tools/fit_demo_weights.py``.

fc8 is fitted by ridge regression, in closed form, on fc7 of synthetic clips whose motion is known.
The result for the full width is `model_export/c3d_export/weights/demo_fc8.npz`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
from c3d_export.architecture import build_c3d, features_extractor, set_weights
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.weights.canonical import FULL_WIDTH
from c3d_export.weights.demo import STORED_FC8, demo_filters, filters_sample
from motion_clips import MOTIONS, motion_clips

_CLIPS = 800
_SEED = 1
_BATCH = 10

# Ridges to try, relative to the mean eigenvalue of the rows' inner products.
_RIDGES = 10.0 ** np.arange(-5, 1)
# Factors of fc8 to try, which decide how certain the softmax is.
_SCALES = np.geomspace(0.5, 40, 60)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit fc8 and store it; the full width takes minutes."""
    parser = argparse.ArgumentParser(description="Fit the last layer of the demo's weights.")
    parser.add_argument("--width", type=int, default=FULL_WIDTH, help="conv1's filters")
    parser.add_argument("--clips", type=int, default=_CLIPS, help="synthetic clips to fit on")
    parser.add_argument("--out", type=Path, default=STORED_FC8, help="the .npz file to write")
    options = parser.parse_args(arguments)
    filters = demo_filters(options.width)
    kernel, bias = fit_fc8(filters, clips=options.clips)
    np.savez(options.out, kernel=kernel, bias=bias, sample=filters_sample(filters))
    print(f"{options.out}: fitted on {options.clips} clips")


def fit_fc8(
    filters: Mapping[str, npt.NDArray[np.float32]], *, clips: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fit fc8 to the motions of synthetic clips.

    Args:
        filters: from :func:`c3d_export.weights.demo.demo_filters`.
        clips: the number of clips to fit on.

    Returns:
        The kernel, float32 ``[4096, 5]``, and the bias, float32 ``[5]``.
    """
    features, motions = [], []
    network = build_c3d(width=filters["conv1/bias"].shape[0], classes=len(MOTIONS))
    set_weights(network, filters)
    fc7 = features_extractor(network, "fc7")
    mean = read_mean(SPORTS1M_SCALARS).bgr
    for start in range(0, clips, _BATCH):
        pixels, batch_motions = motion_clips(min(_BATCH, clips - start), seed=_SEED, start=start)
        centred = pixels[..., ::-1].astype(np.float32) - mean  # the filters are for BGR
        features.append(np.asarray(fc7(centred, training=False), np.float64))
        motions.append(batch_motions)
    return ridge_classifier(np.concatenate(features), np.concatenate(motions))


def ridge_classifier(
    features: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fit a linear classifier by ridge regression of the class indicators, in closed form.

    The ridge is chosen by the squared error of the rows that are left out in turn, and the scale of
    the outputs by their likelihood, so that a softmax of the outputs is well calibrated.

    Args:
        features: float64 ``[n, features]``; n may be smaller than the number of features.
        classes: int64 ``[n]``, with every number from 0 to the largest.

    Returns:
        The kernel, float32 ``[features, classes]``, and the bias, float32 ``[classes]``.
    """
    indicators = np.eye(classes.max() + 1)[classes]
    centre, share = features.mean(axis=0), indicators.mean(axis=0)
    rows, targets = features - centre, indicators - share
    # The rows' inner products are n x n, far smaller than the features' 4096 x 4096.
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values = np.maximum(values, 0)
    rotated = vectors.T @ targets
    best: tuple[float, Any, Any] = (np.inf, None, None)
    for ridge in _RIDGES * values.mean():
        shrinkage = values / (values + ridge)
        residual = targets - vectors @ (shrinkage[:, None] * rotated)
        # A row's leverage; 1/n is its part in the mean.
        leverage = np.einsum("ij,j,ij->i", vectors, shrinkage, vectors) + 1 / len(rows)
        left_out = indicators - residual / (1 - leverage)[:, None]
        error = float(np.square(left_out - indicators).mean())
        if error < best[0]:
            best = error, left_out, ridge
    _, left_out, ridge = best
    kernel = rows.T @ (vectors @ (rotated / (values + ridge)[:, None]))
    scale = max(_SCALES, key=lambda scale: _log_likelihood(scale * left_out, classes))
    bias = share - centre @ kernel
    return (scale * kernel).astype(np.float32), (scale * bias).astype(np.float32)


def _log_likelihood(outputs: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]) -> float:
    outputs = outputs - outputs.max(axis=1, keepdims=True)
    own = outputs[np.arange(len(outputs)), classes]
    return float((own - np.log(np.exp(outputs).sum(axis=1))).mean())


if __name__ == "__main__":
    main()
