"""The served model, and the check of its signatures against the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from c3d_client.core.contract import (
    BATCH_SIZES,
    DEFAULT_LAYER,
    FC7_FEATURES,
    LAYERS_SIGNATURE,
    REQUIRED_SIGNATURES,
    SIGNATURES,
    Signature,
    TensorSpec,
)
from c3d_client.serving import wire_pb2 as wire

_INIT_OP = "__saved_model_init_op"


@dataclass(frozen=True)
class ModelInfo:
    """The served model.

    Args:
        version: the version number that answers.
        signatures: the names of its signatures, sorted.
        card: its model card, as the servable contains it.
    """

    version: int
    signatures: tuple[str, ...]
    card: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each class; empty where the model has no classes."""
        return tuple(self.card.get("labels", ()))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that can be requested; fc6 and fc7 of a servable of an earlier release."""
        if LAYERS_SIGNATURE.name in self.signatures:
            return tuple(self.card.get("layers", ()))
        has_fc7 = FC7_FEATURES.name in self.signatures
        return (DEFAULT_LAYER, "fc7") if has_fc7 else (DEFAULT_LAYER,)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes for which the servable is warmed up, ascending."""
        return tuple(self.card.get("batch_sizes") or BATCH_SIZES)


def signature_names(served: wire.SignatureDefMap) -> tuple[str, ...]:
    """Return the names of the signatures that can be requested, sorted.

    TensorFlow Serving also lists ``__saved_model_init_op``, which only the load of a model runs.

    Args:
        served: from GetModelMetadata.
    """
    return tuple(sorted(name for name in served.signature_def if name != _INIT_OP))


def signature_problem(
    signatures: wire.SignatureDefMap, also_required: Iterable[str] = ()
) -> str | None:
    """Return what is wrong with the signatures of a served model, or None.

    Args:
        signatures: from GetModelMetadata.
        also_required: names that are required in addition to those of every C3D servable.
    """
    for name in dict.fromkeys((*REQUIRED_SIGNATURES, *also_required)):
        problem = _problem(SIGNATURES[name], signatures)
        if problem:
            return problem
    return None


def _problem(expected: Signature, served: wire.SignatureDefMap) -> str | None:
    if expected.name not in served.signature_def:
        names = ", ".join(signature_names(served)) or "none"
        return f"it has no signature {expected.name!r} (it has: {names})"
    signature = served.signature_def[expected.name]
    for side, spec, tensors in (
        ("input", expected.input, signature.inputs),
        ("output", expected.output, signature.outputs),
    ):
        if not _fits(spec, tensors):
            observed = "; ".join(_describe(n, t) for n, t in sorted(tensors.items())) or "none"
            return (
                f"signature {expected.name!r} has {side} {observed}, "
                f"expected {spec.name} {spec.dtype} {shape_text((-1, *spec.shape))}"
            )
    return None


def _fits(spec: TensorSpec, tensors: Any) -> bool:
    """Whether this tensor is the only one, with a first dimension of any size."""
    if set(tensors) != {spec.name}:
        return False
    info = tensors[spec.name]
    return (
        info.dtype == wire.DataType.Value(f"DT_{spec.dtype}")
        and not info.tensor_shape.unknown_rank
        and spec.fits([dim.size for dim in info.tensor_shape.dim])
    )


def _describe(name: str, info: wire.TensorInfo) -> str:
    shape = shape_text([dim.size for dim in info.tensor_shape.dim])
    return f"{name} {dtype_text(info.dtype)} {shape}"


def dtype_text(number: int) -> str:
    """Return a dtype as the contract writes it, e.g. ``FLOAT``; its number if it is unknown."""
    try:
        return wire.DataType.Name(number).removeprefix("DT_")
    except ValueError:
        return f"dtype {number}"


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as text: ``[n,16,112,112,3]``, with ``n`` for -1."""
    return "[" + ",".join("n" if size == -1 else str(size) for size in shape) + "]"
