"""Export of network, preprocessing and signatures as a version folder for TensorFlow Serving.

The graph converts uint8 RGB clips to float, subtracts the mean cube's crop, and runs the network.
The conversion from RGB to Caffe's BGR costs nothing in the graph: conv1's kernel and the mean are
converted to RGB here, once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from c3d_client.core.contract import (
    BATCH_SIZES,
    CLASSIFY,
    CLIP_SHAPE,
    CONTRACT_VERSION,
    DEFAULT_SIGNATURE,
    FC6_FEATURES,
    FC7_FEATURES,
    FEATURES_ONLY_SIGNATURES,
    MODEL_CARD,
    PREPROCESSING,
    SIGNATURES,
)
from c3d_client.core.errors import UsageError

from c3d_export.architecture import build_c3d, features_extractor, set_weights, variables
from c3d_export.errors import ExportError
from c3d_export.mean import Mean
from c3d_export.store import give_number, unfinished_version
from c3d_export.verify import Verification, verify
from c3d_export.warmup import write_warmup
from c3d_export.weights import Weights, arrays_sha256
from c3d_export.weights.canonical import swap_red_and_blue

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ServableSpec:
    """The inputs of a build.

    Args:
        weights: the network's weights, BGR.
        mean: the mean to subtract, BGR.
        labels: one for each class; empty for weights without fc8.
        precision: dtype of the stored weights and of the arithmetic: one of :data:`PRECISIONS`.
        batch_sizes: the batch sizes of the warm-up requests, ascending.

    Raises:
        UsageError: a value is not valid, or the labels' count is not the number of classes.
    """

    weights: Weights
    mean: Mean
    labels: Sequence[str]
    precision: str = "float32"
    batch_sizes: Sequence[int] = BATCH_SIZES

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}; choose {', '.join(PRECISIONS)}")
        sizes = list(self.batch_sizes)
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise UsageError(f"batch sizes are {sizes}; give ascending numbers of 1 or more")
        classes = self.weights.classes or 0
        if len(self.labels) != classes:
            raise UsageError(f"{len(self.labels)} labels, and the network has {classes} classes")

    @property
    def digest(self) -> str:
        """Digest of the inputs and the release: 16 hexadecimal digits.

        Builds with the same digest have the same result.
        """
        parts = {
            "c3d_export": version("c3d-export"),
            "contract_version": CONTRACT_VERSION,
            "weights": self.weights.sha256,
            "mean": self.mean.sha256,
            "labels": list(self.labels),
            "precision": self.precision,
            "batch_sizes": list(self.batch_sizes),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class _Servable(tf.Module):  # type: ignore[misc]
    """Tracks the variables only.

    Tracking the Keras model instead would export a servable that fails on every call in the server,
    and Keras's ExportArchive writes every weight twice.
    """

    def __init__(self, parameters: dict[str, tf.Variable], mean: tf.Variable) -> None:
        super().__init__(name="c3d")
        self.parameters = parameters
        self.mean = mean


def build(spec: ServableSpec, base: Path) -> tuple[Path, Verification]:
    """Build, verify and publish the next version.

    The version gets its number only when it is complete and its answers match the Keras model's.
    Until then it is a hidden folder that servers ignore; a failure removes the folder.

    Args:
        spec: the inputs.
        base: the model's folder, e.g. ``models/c3d``; created if missing.

    Returns:
        The version's folder, e.g. ``models/c3d/1``, and the results of its verification.

    Raises:
        VerificationError: the verification failed.
        ExportError: the folder cannot be written.
    """
    with unfinished_version(base) as unfinished:
        with _writing(base):
            save(spec, unfinished)
            signatures = FEATURES_ONLY_SIGNATURES if spec.weights.classes is None else SIGNATURES
            write_warmup(unfinished, batch_sizes=spec.batch_sizes, signatures=signatures.values())
        verification = verify(unfinished, weights=spec.weights, mean=spec.mean)
        with _writing(base):
            return give_number(unfinished, base, digest=spec.digest), verification


def save(spec: ServableSpec, folder: Path) -> None:
    """Write a SavedModel, unverified and without warm-up requests."""
    network = build_c3d(
        width=spec.weights.width, classes=spec.weights.classes, precision=spec.precision
    )
    set_weights(network, swap_red_and_blue(spec.weights.arrays))
    card = json.dumps(_card(spec, network), sort_keys=True)
    mean_rgb = tf.Variable(spec.mean.bgr[..., ::-1], trainable=False, name="mean")
    parameters = {key.replace("/", "_"): v for key, v in variables(network).items()}
    module = _Servable(parameters, mean_rgb)
    signatures = _signatures(network, mean_rgb, card)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _signatures(network: keras.Model, mean_rgb: tf.Variable, card: str) -> dict[str, Any]:
    compute = network.input.dtype

    def over_clips(part: keras.Model, output: str) -> Any:
        def answer(clips: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = tf.cast(clips, tf.float32) - mean_rgb
            result = part(tf.cast(pixels, compute), training=False)
            return {output: tf.cast(result, tf.float32)}

        spec = tf.TensorSpec([None, *CLIP_SHAPE], tf.uint8, name=CLASSIFY.input.name)
        return tf.function(answer, input_signature=[spec])

    def model_card(n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {MODEL_CARD.output.name: tf.fill(tf.shape(n), card)}

    number = tf.TensorSpec([None], tf.int32, name=MODEL_CARD.input.name)
    fc6 = over_clips(features_extractor(network, "fc6"), FC6_FEATURES.output.name)
    signatures = {
        DEFAULT_SIGNATURE: fc6,
        FC6_FEATURES.name: fc6,
        FC7_FEATURES.name: over_clips(features_extractor(network, "fc7"), FC7_FEATURES.output.name),
        MODEL_CARD.name: tf.function(model_card, input_signature=[number]),
    }
    if network.layers[-1].name != "fc7":
        classify = over_clips(network, CLASSIFY.output.name)
        signatures |= {CLASSIFY.name: classify, DEFAULT_SIGNATURE: classify}
    return signatures


def _card(spec: ServableSpec, network: keras.Model) -> dict[str, Any]:
    return {
        "contract_version": CONTRACT_VERSION,
        "architecture": "C3D (Tran et al., ICCV 2015)",
        "precision": spec.precision,
        "weights": {
            **spec.weights.describe(),
            "served_sha256": served_sha256(network),
        },
        "mean": spec.mean.describe(),
        "labels": list(spec.labels),
        "preprocessing": dict(PREPROCESSING),
        "batch_sizes": list(spec.batch_sizes),
        "software": {
            "c3d_export": version("c3d-export"),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def served_sha256(network: keras.Model) -> str:
    """Return a digest of a network's weights as they are served: RGB, in the network's dtype."""
    return arrays_sha256({key: np.asarray(v) for key, v in variables(network).items()})


@contextlib.contextmanager
def _writing(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
        raise ExportError(f"{base}: the servable cannot be written ({reason})") from error
