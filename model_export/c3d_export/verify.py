"""Verification of a version: load it as TensorFlow Serving does, run all of it, compare.

Three checks: every warm-up request runs; the stored weights are those of the model card (and of the
source, where it is given); every signature matches the contract, and its answers match the Keras
model's for the same clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import (
    CLASSIFY,
    CLIP_SHAPE,
    DEFAULT_SIGNATURE,
    FC6_FEATURES,
    FC7_FEATURES,
    FEATURES_ONLY_SIGNATURES,
    MODEL_CARD,
    Signature,
)
from c3d_client.core.provenance import ModelCard
from tensorflow.core.framework import types_pb2

from c3d_export.architecture import build_c3d, set_weights
from c3d_export.errors import VerificationError
from c3d_export.graph import GraphServable, read_card
from c3d_export.mean import Mean
from c3d_export.warmup import read_warmup
from c3d_export.weights import Weights, arrays_sha256
from c3d_export.weights.canonical import swap_red_and_blue

TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
"""The relative difference allowed from the float32 Keras network with the stored weights.

The graph optimiser fuses and reorders sums, so float32's last digits differ; the short formats also
round between layers. Measured on random weights at full width: see docs/servable.md.
"""
# A softmax multiplies the difference by the size of fc8's values, which is about 10.
_SOFTMAX_FACTOR = 10
_CLIPS = 2
_SEED = 20151207  # arbitrary: the day ICCV 2015 began


@dataclass(frozen=True)
class Verification:
    """The results of a verification.

    Args:
        card: the model card.
        differences: for each signature its :func:`relative_difference` from the Keras network.
        warmup_run: the number of warm-up requests that were run.
        warmup_left: the number of warm-up requests that were not run, because this machine has no
            GPU and TensorFlow has no fast float16 for CPUs: a clip of the full network takes about
            a minute. Every signature has computed one clip nevertheless.
    """

    card: ModelCard
    differences: dict[str, float]
    warmup_run: int
    warmup_left: int


def verify(
    version: Path, *, weights: Weights | None = None, mean: Mean | None = None
) -> Verification:
    """Check one version.

    Args:
        version: the version's folder.
        weights: the weights that the version was built from, to compare with the stored ones.
        mean: the mean that the version was built from; needed with the weights.

    Raises:
        VerificationError: a check failed; the message names the signature and the difference.
    """
    with GraphServable(version) as servable:
        _check_signatures(servable, FEATURES_ONLY_SIGNATURES)
        card = read_card(servable)
        # Without labels there is no fc8: features only, and fc6 as the default.
        default = CLASSIFY if card.labels else FC6_FEATURES
        _check_signatures(servable, {default.name: default, DEFAULT_SIGNATURE: default})
        slow = card.precision == "float16" and not tf.config.list_physical_devices("GPU")
        # Before the weights are compared: for a version that cannot run, that is the better error.
        required = {*FEATURES_ONLY_SIGNATURES, default.name}
        run, left = _run_warmup(servable, version, required, with_clips=not slow)
        stored = _stored_arrays(version)
        _check_stored(version, stored, card)
        if weights is not None and mean is not None:
            _check_source(version, stored, weights, mean)
        differences = _compare(servable, stored, card.precision, clips=1 if slow else _CLIPS)
    return Verification(card, differences, run, left)


def relative_difference(answer: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Return the length of the difference over the reference's length, for the worst row."""
    lengths = np.linalg.norm(reference, axis=1)
    return float((np.linalg.norm(answer - reference, axis=1) / lengths).max())


def _check_signatures(servable: GraphServable, signatures: Mapping[str, Signature]) -> None:
    for name, expected in signatures.items():
        if name not in servable.signatures:
            raise VerificationError(f"{servable.path}: has no signature {name!r}")
        served = servable.signatures[name]
        if served.method_name != "tensorflow/serving/predict":
            raise VerificationError(f"{servable.path}: {name} is for {served.method_name!r}")
        for spec, tensors in ((expected.input, served.inputs), (expected.output, served.outputs)):
            observed = {
                alias: (
                    tf.as_dtype(info.dtype).name,
                    [d.size for d in info.tensor_shape.dim],
                )
                for alias, info in tensors.items()
            }
            dtype = tf.as_dtype(types_pb2.DataType.Value(f"DT_{spec.dtype}"))
            if (
                list(observed) != [spec.name]
                or observed[spec.name][0] != dtype.name
                or not spec.fits(observed[spec.name][1])
            ):
                raise VerificationError(
                    f"{servable.path}: {name} has {observed}, expected {spec.name} "
                    f"{dtype.name} {[-1, *spec.shape]}"
                )


def _stored_arrays(version: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the variables on disk: ``conv1/kernel`` … RGB, and ``mean``."""
    checkpoint = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for key in checkpoint.get_variable_to_shape_map():
        path = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        if path.startswith("parameters/"):
            layer, part = path.removeprefix("parameters/").rsplit("_", 1)
            arrays[f"{layer}/{part}"] = checkpoint.get_tensor(key)
        elif path == "mean":
            arrays["mean"] = checkpoint.get_tensor(key)
    return arrays


def _check_stored(version: Path, stored: Mapping[str, npt.NDArray[Any]], card: ModelCard) -> None:
    weights = {key: array for key, array in stored.items() if key != "mean"}
    observed, expected = arrays_sha256(weights), str(card.weights.get("served_sha256"))
    if observed != expected:
        raise VerificationError(
            f"{version}: the stored weights have digest {observed[:12]}…, the model card has "
            f"{expected[:12]}…; build it again"
        )


def _check_source(
    version: Path, stored: Mapping[str, npt.NDArray[Any]], weights: Weights, mean: Mean
) -> None:
    """Check that the stored arrays are the source's, converted to RGB and rounded."""
    expected = {**swap_red_and_blue(weights.arrays), "mean": mean.bgr[..., ::-1]}
    for key, array in expected.items():
        if not np.array_equal(stored[key], array.astype(stored[key].dtype)):
            raise VerificationError(f"{version}: {key} differs from the source")


def _reference(stored: Mapping[str, npt.NDArray[Any]]) -> keras.Model:
    """Return the float32 Keras network, BGR, with the stored weights; outputs by layer name."""
    classes = stored["fc8/bias"].shape[0] if "fc8/bias" in stored else None
    network = build_c3d(width=stored["conv1/bias"].shape[0], classes=classes)
    arrays = {key: array.astype(np.float32) for key, array in stored.items()}
    set_weights(network, swap_red_and_blue(arrays))
    outputs = {name: network.get_layer(name).output for name in ("fc6", "fc7")}
    if classes is not None:
        outputs["softmax"] = network.output
    return keras.Model(network.input, outputs)


def _compare(
    servable: GraphServable,
    stored: Mapping[str, npt.NDArray[Any]],
    precision: str,
    *,
    clips: int,
) -> dict[str, float]:
    pixels = np.random.default_rng(_SEED).integers(0, 256, (clips, *CLIP_SHAPE), dtype=np.uint8)
    centred = pixels[..., ::-1].astype(np.float32) - stored["mean"][..., ::-1]
    answers = _reference(stored)(centred, training=False)
    references = {name: np.asarray(answer) for name, answer in answers.items()}
    expected: dict[str, tuple[Signature, npt.NDArray[np.float32]]] = {
        FC6_FEATURES.name: (FC6_FEATURES, references["fc6"]),
        FC7_FEATURES.name: (FC7_FEATURES, references["fc7"]),
        DEFAULT_SIGNATURE: (FC6_FEATURES, references["fc6"]),
    }
    if "softmax" in references:
        expected[CLASSIFY.name] = expected[DEFAULT_SIGNATURE] = (CLASSIFY, references["softmax"])
    differences: dict[str, float] = {}
    for name, (signature, reference) in expected.items():
        answer = _run(servable, name, {signature.input.name: pixels})[signature.output.name]
        if not np.isfinite(answer).all():
            raise VerificationError(f"{servable.path}: {name} returns NaN or infinity")
        difference = relative_difference(answer, reference)
        tolerance = TOLERANCES[precision] * (_SOFTMAX_FACTOR if signature is CLASSIFY else 1)
        if not difference <= tolerance:
            raise VerificationError(
                f"{servable.path}: {name} differs from the Keras model by {difference:.2e} "
                f"of its length, more than {tolerance:.0e}"
            )
        differences[name] = difference
    return differences


def _run_warmup(
    servable: GraphServable, version: Path, required: set[str], *, with_clips: bool
) -> tuple[int, int]:
    names: set[str] = set()
    run = left = 0
    for request in read_warmup(version):
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        names.add(name)
        if not with_clips and name != MODEL_CARD.name:
            left += 1
            continue
        try:
            inputs = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
        except (TypeError, ValueError) as error:
            raise VerificationError(
                f"{version}: a warm-up request for {name} holds a damaged tensor ({error})"
            ) from error
        _run(servable, name, inputs)
        run += 1
    missing = sorted(required - names)
    if missing:
        raise VerificationError(f"{version}: no warm-up request for {', '.join(missing)}")
    return run, left


def _run(
    servable: GraphServable, name: str, inputs: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    try:
        return servable.run(name, inputs)
    except (tf.errors.OpError, KeyError) as error:
        message = str(getattr(error, "message", error)).strip().splitlines()[0]
        raise VerificationError(f"{servable.path}: {name} fails: {message}") from error
