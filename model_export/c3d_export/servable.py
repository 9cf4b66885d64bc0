"""Export of network, preprocessing and signatures as a version folder for TensorFlow Serving.

The graph converts uint8 RGB clips to float, subtracts the mean cube's crop, and runs the network.
The conversion from RGB to Caffe's BGR costs nothing in the graph: conv1's kernel and the mean are
converted to RGB here, once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    CONTRACT_VERSION,
    DEFAULT_SIGNATURE,
    FC6_FEATURES,
    FC6_FEATURES_HALVES,
    FC7_FEATURES,
    FEATURES_ONLY_SIGNATURES,
    LAYERS,
    LAYERS_SIGNATURE,
    MODEL_CARD,
    PREPROCESSING,
    SIGNATURES,
    Signature,
)
from c3d_client.core.errors import UsageError
from c3d_client.core.files import cleaned_up

from c3d_export.architecture import build_c3d, set_weights, variables
from c3d_export.cpu import slow_reason
from c3d_export.disk import FULL
from c3d_export.mean import Mean
from c3d_export.store import (
    check_not_over_trained,
    check_space,
    give_number,
    unfinished_version,
    writing,
)
from c3d_export.verify import REDUCED, Verification, has_gpu, is_slow, verify
from c3d_export.warmup import write_warmup
from c3d_export.weights import Weights, arrays_sha256
from c3d_export.weights.canonical import swap_red_and_blue
from c3d_export.winograd import features_function, transformed_bytes, transformed_kernels

PRECISIONS = ("float32", "bfloat16", "float16")
TARGETS = ("cpu", "gpu")
CONVOLUTIONS = ("auto", "direct", "winograd")
# Measured with `python -m benchmarks.bfloat16` in tests/, full width: see docs/servable.md.
_NO_WINOGRAD = {
    "bfloat16": (
        "on a CPU with AMX it had 0.3 to 0.8 of the speed of direct convolution in bfloat16, and "
        "1.4 to 2.7 times the difference of fc6 from float32"
    ),
    "float16": "float16 is for GPUs, whose library chooses the method by itself",
}

# The layer of the only output of a signature; the outputs of `layers` have their layers' names.
_LAYER_OF = {
    CLASSIFY: "softmax",
    FC6_FEATURES: "fc6",
    FC6_FEATURES_HALVES: "fc6",
    FC7_FEATURES: "fc7",
}
# saved_model.pb with a card of 487 labels has 0.4 MB, and the other files a few kilobytes.
_GRAPH_BYTES = 1 << 20


@dataclass(frozen=True)
class ServableSpec:
    """The inputs of a build.

    Args:
        weights: the network's weights, BGR.
        mean: the mean to subtract, BGR.
        labels: one for each class; empty for weights without fc8.
        precision: dtype of the stored weights and of the arithmetic: one of :data:`PRECISIONS`.
        batch_sizes: the batch sizes of the warm-up requests, ascending; :mod:`c3d_export.warmup`
            has a request of fc6_features for each.
        target: what the servers compute on, one of :data:`TARGETS`. One for ``gpu`` also has the
            signature ``fc6_features_halves``. The target itself is no part of the digest; what it
            decides is.
        convolution: the form of the convolutions: one of :data:`CONVOLUTIONS`. ``auto`` is
            ``winograd`` in float32 for CPUs, and otherwise ``direct``. ``winograd`` needs float32.

    Raises:
        UsageError: a value is not valid, or the labels' count is not the number of classes.
    """

    weights: Weights
    mean: Mean
    labels: Sequence[str]
    precision: str = "float32"
    batch_sizes: Sequence[int] = BATCH_SIZES
    target: str = "cpu"
    convolution: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}; choose {', '.join(PRECISIONS)}")
        if self.target not in TARGETS:
            raise UsageError(f"target is {self.target!r}; choose {', '.join(TARGETS)}")
        if self.convolution not in CONVOLUTIONS:
            raise UsageError(
                f"convolution is {self.convolution!r}; choose {', '.join(CONVOLUTIONS)}"
            )
        if self.convolution == "winograd" and self.precision != "float32":
            raise UsageError(
                f"convolution winograd needs precision float32, not {self.precision}: "
                f"{_NO_WINOGRAD[self.precision]}; choose direct or auto"
            )
        sizes = list(self.batch_sizes)
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise UsageError(f"batch sizes are {sizes}; give ascending numbers of 1 or more")
        classes = self.weights.classes or 0
        if len(self.labels) != classes:
            raise UsageError(f"{len(self.labels)} labels, and the network has {classes} classes")

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The signatures of the servable, without the default one."""
        names = {*FEATURES_ONLY_SIGNATURES}
        if self.layers:
            names.add(LAYERS_SIGNATURE.name)
        if self.weights.classes is not None:
            names.add(CLASSIFY.name)
        if self.target == "gpu":
            names.add(FC6_FEATURES_HALVES.name)
        return tuple(s for s in SIGNATURES.values() if s.name in names)

    @property
    def layers(self) -> tuple[str, ...]:
        """The outputs of the signature ``layers``: all but fc8 where the weights have no fc8."""
        return tuple(name for name in LAYERS if name != "fc8" or self.weights.classes is not None)

    @property
    def resolved_convolution(self) -> str:
        """The form of the convolutions: ``direct`` or ``winograd``."""
        if self.convolution != "auto":
            return self.convolution
        return "winograd" if self.target == "cpu" and self.precision == "float32" else "direct"

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
            "signatures": [signature.name for signature in self.signatures],
            "convolution": self.resolved_convolution,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class _Servable(tf.Module):  # type: ignore[misc]
    """Tracks the variables only.

    Tracking the Keras model instead would export a servable that fails on every call in the server,
    and Keras's ExportArchive writes every weight twice.
    """

    def __init__(
        self,
        parameters: dict[str, tf.Variable],
        mean: tf.Variable,
        winograd: dict[str, tf.Variable],
    ) -> None:
        super().__init__(name="c3d")
        self.parameters = parameters
        self.mean = mean
        self.winograd = winograd


def build(
    spec: ServableSpec,
    base: Path,
    *,
    over_trained: bool = False,
    elsewhere: bool = False,
    notify: Callable[[str], None] | None = None,
) -> tuple[Path, Verification]:
    """Build, verify and publish the next version.

    The version gets its number only when it is complete and its answers match the Keras model's.
    Until then it is a hidden folder that servers ignore; a failure removes the folder.

    The verification is reduced to one clip for each signature where this machine computes the
    precision slowly, and for target ``gpu`` on a machine without a GPU; the model card then has
    ``verified: reduced``.

    Args:
        spec: the inputs.
        base: the model's folder, e.g. ``models/c3d``; created if missing.
        over_trained: build from demo or random weights also where the model has trained ones.
        elsewhere: build for target ``cpu`` also if this machine's CPU computes the precision
            slowly, because the servers have other CPUs.
        notify: called with one line where the verification takes long; see
            :func:`c3d_export.verify.verify`.

    Returns:
        The version's folder, e.g. ``models/c3d/1``, and the results of its verification.

    Raises:
        UsageError: the target is ``cpu``, this CPU computes the precision slowly, and `elsewhere`
            is false.
        TrainedVersionError: see :func:`c3d_export.store.check_not_over_trained`.
        VerificationError: the verification failed.
        ExportError: the folder cannot be read or written, or its disk is full.
    """
    _check_target(spec, elsewhere=elsewhere)
    untrained = spec.weights.random and not over_trained
    if untrained:
        check_not_over_trained(base, spec.weights.source)
    reduced = is_slow(spec.precision) or (spec.target == "gpu" and not has_gpu())
    needed = _bytes_of(spec)
    check_space(base, needed)
    with unfinished_version(base) as unfinished:
        with writing(base, needed), _os_errors():
            save(spec, unfinished, reduced=reduced)
            write_warmup(
                unfinished,
                batch_sizes=spec.batch_sizes,
                signatures=spec.signatures,
                layers=spec.layers,
            )
        verification = verify(
            unfinished, weights=spec.weights, mean=spec.mean, reduced=reduced, notify=notify
        )
        if untrained:  # another program may have published during the build
            check_not_over_trained(base, spec.weights.source)
        with writing(base, needed):
            return give_number(unfinished, base, digest=spec.digest), verification


def _check_target(spec: ServableSpec, *, elsewhere: bool) -> None:
    reason = slow_reason(spec.precision)
    if spec.target == "cpu" and reason and not elsewhere:
        raise UsageError(
            f"--precision {spec.precision} for --target cpu: {reason}; give --precision float32, "
            "or --target gpu if the servers have GPUs, or --elsewhere if they have other CPUs"
        )


def _bytes_of(spec: ServableSpec) -> int:
    """Return about the size of a version: its variables, and the graph with the card and labels."""
    per_number = 4 if spec.precision == "float32" else 2
    variables = per_number * spec.weights.parameters + 4 * spec.mean.bgr.size
    if spec.resolved_convolution == "winograd":
        variables += transformed_bytes(spec.weights.arrays)
    return variables + _GRAPH_BYTES


def save(spec: ServableSpec, folder: Path, *, reduced: bool = False) -> None:
    """Write a SavedModel, unverified and without warm-up requests.

    Args:
        spec: the inputs.
        folder: the version's folder.
        reduced: write in the model card that the version's verification is reduced.
    """
    network = build_c3d(
        width=spec.weights.width, classes=spec.weights.classes, precision=spec.precision
    )
    set_weights(network, swap_red_and_blue(spec.weights.arrays))
    card = json.dumps(_card(spec, network, reduced=reduced), sort_keys=True)
    mean_rgb = tf.Variable(spec.mean.bgr[..., ::-1], trainable=False, name="mean")
    parameters = {key.replace("/", "_"): v for key, v in variables(network).items()}
    kernels = transformed_kernels(network) if spec.resolved_convolution == "winograd" else {}
    module = _Servable(parameters, mean_rgb, kernels)
    signatures = _signatures(spec, network, mean_rgb, kernels, card)
    with _removed_temporary_files():
        tf.saved_model.save(module, str(folder), signatures=signatures)


@contextlib.contextmanager
def _removed_temporary_files() -> Iterator[None]:
    """Remove the Python files that AutoGraph makes, and else removes when the interpreter ends."""
    former = tempfile.tempdir
    with (
        tempfile.TemporaryDirectory(prefix="c3d-") as folder,
        cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True)),
    ):
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = former


def _signatures(
    spec: ServableSpec,
    network: keras.Model,
    mean_rgb: tf.Variable,
    kernels: Mapping[str, tf.Variable],
    card: str,
) -> dict[str, Any]:
    compute = network.input.dtype

    def centred(clips: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(clips, tf.float32) - mean_rgb, compute)

    to_conv5b = features_function(network, kernels, centred)
    names = [layer.name for layer in network.layers]

    def over(signature: Signature, layers: Mapping[str, str]) -> Any:
        """Return a signature's function; the layers are those of its outputs, by their names."""
        outputs = {name: network.get_layer(layer).output for name, layer in layers.items()}
        part = keras.Model(network.input, outputs)
        last = max(names.index(layer) for layer in layers.values())
        after_conv5b = network.layers[names.index("conv5b") + 1 : last + 1]

        def answer(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            clips = rows
            if signature is FC6_FEATURES_HALVES:
                # Converted before halves become clips: GPUs have no kernel that rolls uint8.
                halves = tf.cast(rows, tf.float32)
                clips = tf.concat([halves, tf.roll(halves, -1, axis=0)], axis=1)
            if kernels:
                x = to_conv5b(clips)
                computed = {"conv5b": x}
                for layer in after_conv5b:
                    x = computed[layer.name] = layer(x, training=False)
                results = {name: computed[layer] for name, layer in layers.items()}
            else:
                results = part(centred(clips), training=False)
            return {name: tf.cast(result, tf.float32) for name, result in results.items()}

        rows = tf.TensorSpec([None, *signature.input.shape], tf.uint8, name=signature.input.name)
        return tf.function(answer, input_signature=[rows])

    def model_card(n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {MODEL_CARD.output.name: tf.fill(tf.shape(n), card)}

    number = tf.TensorSpec([None], tf.int32, name=MODEL_CARD.input.name)
    signatures = {
        s.name: over(s, {s.output.name: _LAYER_OF[s]}) for s in spec.signatures if s in _LAYER_OF
    }
    if spec.layers:
        layers = {layer: layer for layer in spec.layers}
        signatures[LAYERS_SIGNATURE.name] = over(LAYERS_SIGNATURE, layers)
    signatures[MODEL_CARD.name] = tf.function(model_card, input_signature=[number])
    default = CLASSIFY if CLASSIFY in spec.signatures else FC6_FEATURES
    return {**signatures, DEFAULT_SIGNATURE: signatures[default.name]}


def _card(spec: ServableSpec, network: keras.Model, *, reduced: bool) -> dict[str, Any]:
    return {
        "contract_version": CONTRACT_VERSION,
        "architecture": "C3D (Tran et al., ICCV 2015)",
        "precision": spec.precision,
        "convolution": spec.resolved_convolution,
        "weights": {
            **spec.weights.describe(),
            "served_sha256": served_sha256(network),
        },
        "mean": spec.mean.describe(),
        "labels": list(spec.labels),
        "layers": list(spec.layers),
        "preprocessing": dict(PREPROCESSING),
        "batch_sizes": list(spec.batch_sizes),
        **({"verified": REDUCED} if reduced else {}),
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
def _os_errors() -> Iterator[None]:
    """Raise TensorFlow's errors of a file system as OSError; a full disk keeps its number."""
    try:
        yield
    except tf.errors.OpError as error:
        message = str(error.message)
        number = next((number for number in FULL if os.strerror(number) in message), errno.EIO)
        raise OSError(number, message) from error
