"""Verification of a version: load it as TensorFlow Serving does, run all of it, compare.

Three checks: every warm-up request runs; the stored weights are those of the model card (and of the
source, where it is given); every signature matches the contract, and its answers match the Keras
model's for the same clips, those of `layers` for each layer that the card lists.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
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
    FC6_FEATURES_HALVES,
    FC7_FEATURES,
    FEATURES_ONLY_SIGNATURES,
    HALF_SHAPE,
    LAYERS,
    LAYERS_SIGNATURE,
    MODEL_CARD,
    Signature,
)
from c3d_client.core.provenance import ModelCard
from tensorflow.core.framework import types_pb2

from c3d_export.architecture import build_c3d, set_weights
from c3d_export.cpu import slow_reason
from c3d_export.errors import VerificationError
from c3d_export.graph import GraphServable, read_card
from c3d_export.mean import Mean
from c3d_export.warmup import read_warmup
from c3d_export.weights import Weights, arrays_sha256
from c3d_export.weights.canonical import swap_red_and_blue
from c3d_export.winograd import FORMS

TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
"""The relative difference allowed from the float32 Keras network with the stored weights.

The graph optimiser fuses and reorders sums, so float32's last digits differ; the short formats also
round between layers. Measured on random weights at full width: see docs/servable.md.
"""
# Of bfloat16 where the CPU lacks it: TensorFlow rounds the sums themselves there. Measured: 3.2e-2.
_EMULATED_TOLERANCE = 6e-2
# A softmax multiplies the difference by the size of fc8's values, which is about 10. fc8 has no
# ReLU: its sums cancel, so the difference of fc7 is a larger part of what is left. Measured on the
# demo weights: 1.6e-5 of fc8's length.
_CLASSES_FACTOR = 10
_CLIPS = 2
_SEED = 20151207  # arbitrary: the day ICCV 2015 began
_SLOW_S = 10.0
Notify = Callable[[str], None]

REDUCED = "reduced"
"""The value of a model card's `verified` where the build verified one clip for each signature."""


@dataclass(frozen=True)
class Verification:
    """The results of a verification.

    Args:
        card: the model card.
        differences: for each signature its :func:`relative_difference` from the Keras network; for
            ``layers`` that of the worst layer.
        warmup_run: the number of warm-up requests that were run.
        warmup_left: the number of warm-up requests that were not run, because the verification was
            reduced. Every signature has computed one clip nevertheless.
    """

    card: ModelCard
    differences: dict[str, float]
    warmup_run: int
    warmup_left: int

    @property
    def reduced(self) -> bool:
        """Whether one clip for each signature was computed, and not every warm-up request."""
        return self.warmup_left > 0


def has_gpu() -> bool:
    """Return whether TensorFlow has a GPU on this machine."""
    return bool(tf.config.list_physical_devices("GPU"))


def is_slow(precision: str) -> bool:
    """Return whether this machine computes a precision slowly: its CPU does, and it has no GPU."""
    return slow_reason(precision) is not None and not has_gpu()


def verify(
    version: Path,
    *,
    weights: Weights | None = None,
    mean: Mean | None = None,
    reduced: bool = False,
    notify: Notify | None = None,
) -> Verification:
    """Check one version.

    Where this machine computes the version's precision slowly, the verification is reduced.

    Args:
        version: the version's folder.
        weights: the weights that the version was built from, to compare with the stored ones.
        mean: the mean that the version was built from; needed with the weights.
        reduced: compute one clip for each signature, and not the warm-up requests.
        notify: called with one line before a verification that is slow, and, in another thread,
            during each request that takes longer than 10 s.

    Raises:
        VerificationError: a check failed; the message names the signature and the difference.
    """
    with _readable(version), GraphServable(version) as servable:
        _check_signatures(servable, FEATURES_ONLY_SIGNATURES)
        card = read_card(servable)
        # Without labels there is no fc8: features only, and fc6 as the default.
        default = CLASSIFY if card.labels else FC6_FEATURES
        _check_signatures(servable, {default.name: default, DEFAULT_SIGNATURE: default})
        notify = notify or (lambda _line: None)
        if is_slow(card.precision):
            reduced = True
            notify(
                f"{slow_reason(card.precision)}: one clip for each signature is verified, which "
                "may take minutes"
            )
        required = {*FEATURES_ONLY_SIGNATURES, default.name}
        if FC6_FEATURES_HALVES.name in servable.signatures:
            required.add(FC6_FEATURES_HALVES.name)
            _check_signatures(servable, {FC6_FEATURES_HALVES.name: FC6_FEATURES_HALVES})
        if layers := _listed_layers(servable, card):
            required.add(LAYERS_SIGNATURE.name)
            signature = LAYERS_SIGNATURE.reading(*layers)
            _check_signatures(servable, {LAYERS_SIGNATURE.name: signature})
        # Before the weights are compared: for a version that cannot run, that is the better error.
        run, left = _run_warmup(servable, version, required, with_clips=not reduced, notify=notify)
        stored = _stored_arrays(version)
        _check_stored(version, stored, card)
        _check_transformed(version, stored, card)
        if weights is not None and mean is not None:
            _check_source(version, stored, weights, mean)
        tolerance = TOLERANCES[card.precision]
        if card.precision == "bfloat16" and is_slow(card.precision):
            tolerance = _EMULATED_TOLERANCE
        clips = 1 if reduced else _CLIPS
        differences = _compare(
            servable, stored, tolerance, clips=clips, layers=layers, notify=notify
        )
    return Verification(card, differences, run, left)


@contextlib.contextmanager
def _readable(version: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise VerificationError(f"{version}: cannot be read ({reason})") from error


def relative_difference(answer: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Return the length of the difference over the reference's length, for the worst row."""
    answer, reference = (rows.reshape(len(rows), -1) for rows in (answer, reference))
    lengths = np.linalg.norm(reference, axis=1)
    return float((np.linalg.norm(answer - reference, axis=1) / lengths).max())


def _listed_layers(servable: GraphServable, card: ModelCard) -> tuple[str, ...]:
    """Return the layers that the card lists; none where it is of an earlier release.

    Raises:
        VerificationError: the card lists a layer that the signature lacks or that is unknown, or
            the signature has layers that the card does not list.
    """
    name = LAYERS_SIGNATURE.name
    outputs = servable.signatures[name].outputs if name in servable.signatures else ()
    listed = card.layers
    if set(listed) != set(outputs) or not set(listed) <= set(LAYERS):
        raise VerificationError(
            f"{servable.path}: the model card lists the layers {', '.join(listed) or 'none'}, and "
            f"the signature {name} has {', '.join(sorted(outputs)) or 'none'}; of this release are "
            f"{', '.join(LAYERS)}: build it again"
        )
    return listed


def _check_signatures(servable: GraphServable, signatures: Mapping[str, Signature]) -> None:
    for name, expected in signatures.items():
        if name not in servable.signatures:
            raise VerificationError(f"{servable.path}: has no signature {name!r}")
        served = servable.signatures[name]
        if served.method_name != "tensorflow/serving/predict":
            raise VerificationError(f"{servable.path}: {name} is for {served.method_name!r}")
        for specs, tensors in (
            ((expected.input,), served.inputs),
            (expected.outputs, served.outputs),
        ):
            observed = {
                alias: (
                    tf.as_dtype(info.dtype).name,
                    [d.size for d in info.tensor_shape.dim],
                )
                for alias, info in tensors.items()
            }
            for spec in specs:
                dtype = tf.as_dtype(types_pb2.DataType.Value(f"DT_{spec.dtype}"))
                if (
                    set(observed) != {each.name for each in specs}
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


def _check_transformed(
    version: Path, stored: Mapping[str, npt.NDArray[Any]], card: ModelCard
) -> None:
    """Check that the kernels of the Winograd layers are the transforms of the stored kernels."""
    checkpoint = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    found = [key for key in checkpoint.get_variable_to_shape_map() if key.startswith("winograd/")]
    if bool(found) != (card.convolution == "winograd"):
        raise VerificationError(
            f"{version}: {len(found)} transformed kernels are stored, and the model card has "
            f"convolution {card.convolution!r}; build it again"
        )
    for key in found:
        name = key.split("/")[1]
        array = checkpoint.get_tensor(key)
        form = FORMS.get(name)
        if form is None or not form.fits(stored[f"{name}/kernel"], array):
            raise VerificationError(
                f"{version}: the transformed kernel of {name} is not that of the stored kernel; "
                "build it again"
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
    outputs = {
        name: network.get_layer(name).output
        for name in LAYERS
        if name != "fc8" or classes is not None
    }
    if classes is not None:
        outputs["softmax"] = network.output
    return keras.Model(network.input, outputs)


def _compare(
    servable: GraphServable,
    stored: Mapping[str, npt.NDArray[Any]],
    tolerance: float,
    *,
    clips: int,
    layers: tuple[str, ...],
    notify: Notify,
) -> dict[str, float]:
    pixels = np.random.default_rng(_SEED).integers(0, 256, (clips, *CLIP_SHAPE), dtype=np.uint8)
    halves = pixels.reshape(-1, *HALF_SHAPE)
    # The last clip is that of one half alone: the half is also the one that follows it.
    known = np.concatenate([pixels, np.concatenate([halves[:1], halves[:1]], axis=1)])
    centred = known[..., ::-1].astype(np.float32) - stored["mean"][..., ::-1]
    answers = _reference(stored)(centred, training=False)
    references = {name: np.asarray(answer)[:clips] for name, answer in answers.items()}
    alone = np.asarray(answers["fc6"])[clips:]
    expected: dict[str, tuple[Signature, npt.NDArray[np.float32]]] = {
        FC6_FEATURES.name: (FC6_FEATURES, references["fc6"]),
        FC7_FEATURES.name: (FC7_FEATURES, references["fc7"]),
        DEFAULT_SIGNATURE: (FC6_FEATURES, references["fc6"]),
    }
    if "softmax" in references:
        expected[CLASSIFY.name] = expected[DEFAULT_SIGNATURE] = (CLASSIFY, references["softmax"])
    differences: dict[str, float] = {}
    for name, (signature, reference) in expected.items():
        answer = _run(servable, name, {signature.input.name: pixels}, notify)[signature.output.name]
        allowed = tolerance * (_CLASSES_FACTOR if signature is CLASSIFY else 1)
        differences[name] = _checked_difference(
            servable, name, answer, reference, tolerance=allowed
        )
    if layers:
        name = LAYERS_SIGNATURE.name
        served = _run(servable, name, {LAYERS_SIGNATURE.input.name: pixels}, notify)
        differences[name] = max(
            _checked_difference(
                servable,
                f"{name}, {layer},",
                served[layer],
                references[layer],
                tolerance=tolerance * (_CLASSES_FACTOR if layer == "fc8" else 1),
            )
            for layer in layers
        )
    name = FC6_FEATURES_HALVES.name
    if name in servable.signatures:
        # The rows between are clips of two clips' halves, and the last row is of no clip.
        differences[name] = max(
            _checked_difference(servable, name, answer[::2], reference, tolerance=tolerance)
            for answer, reference in (
                (_halves_answer(servable, halves, notify), references["fc6"]),
                (_halves_answer(servable, halves[:1], notify), alone),
            )
        )
    return differences


def _halves_answer(
    servable: GraphServable, halves: npt.NDArray[np.uint8], notify: Notify
) -> npt.NDArray[np.float32]:
    name = FC6_FEATURES_HALVES.name
    answer = _run(servable, name, {FC6_FEATURES_HALVES.input.name: halves}, notify)
    rows: npt.NDArray[np.float32] = answer[FC6_FEATURES_HALVES.output.name]
    if len(rows) != len(halves):
        raise VerificationError(
            f"{servable.path}: {name} answers {len(halves)} halves with {len(rows)} rows"
        )
    return rows


def _checked_difference(
    servable: GraphServable,
    name: str,
    answer: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    *,
    tolerance: float,
) -> float:
    if not np.isfinite(answer).all():
        raise VerificationError(f"{servable.path}: {name} returns NaN or infinity")
    difference = relative_difference(answer, reference)
    if not difference <= tolerance:
        raise VerificationError(
            f"{servable.path}: {name} differs from the Keras model by {difference:.2e} "
            f"of its length, more than {tolerance:.0e}"
        )
    return difference


def _run_warmup(
    servable: GraphServable,
    version: Path,
    required: set[str],
    *,
    with_clips: bool,
    notify: Notify,
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
        _run(servable, name, inputs, notify, tuple(request.output_filter))
        run += 1
    missing = sorted(required - names)
    if missing:
        raise VerificationError(f"{version}: no warm-up request for {', '.join(missing)}")
    return run, left


def _run(
    servable: GraphServable,
    name: str,
    inputs: dict[str, npt.NDArray[Any]],
    notify: Notify,
    outputs: tuple[str, ...] = (),
) -> dict[str, npt.NDArray[Any]]:
    rows = next((array.shape[0] for array in inputs.values() if array.ndim), 0)
    line = f"verifying: {name} with {rows} rows takes more than {_SLOW_S:g} s"
    timer = threading.Timer(_SLOW_S, notify, (line,))
    timer.daemon = True
    timer.start()
    try:
        return servable.run(name, inputs, outputs)
    except (tf.errors.OpError, KeyError) as error:
        message = str(getattr(error, "message", error)).strip().splitlines()[0]
        raise VerificationError(f"{servable.path}: {name} fails: {message}") from error
    finally:
        timer.cancel()
