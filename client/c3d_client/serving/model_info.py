"""The model behind a target, held against the contract before it is asked for anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from c3d_client.core.contract import (
    REQUIRED_SIGNATURES,
    SIGNATURES,
    Signature,
    TensorSpec,
)
from c3d_client.serving import wire_pb2 as wire


@dataclass(frozen=True)
class ModelInfo:
    """The model behind a target: its version, its signatures' names and its model card."""

    version: int
    signatures: tuple[str, ...]
    card: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """One label a class; empty where the model does not classify."""
        return tuple(self.card.get("labels", ()))


def signature_problem(
    signatures: wire.SignatureDefMap, also_needed: Iterable[str] = ()
) -> str | None:
    """What is wrong with a served model's signatures, or None.

    Args:
        signatures: as GetModelMetadata gives them.
        also_needed: names that are needed beyond those that every C3D servable has.
    """
    for name in dict.fromkeys((*REQUIRED_SIGNATURES, *also_needed)):
        problem = _problem(SIGNATURES[name], signatures)
        if problem:
            return problem
    return None


def _problem(wanted: Signature, found: wire.SignatureDefMap) -> str | None:
    if wanted.name not in found.signature_def:
        has = ", ".join(sorted(found.signature_def)) or "none"
        return f"it has no signature {wanted.name!r} (it has: {has})"
    signature = found.signature_def[wanted.name]
    for side, spec, tensors in (
        ("input", wanted.input, signature.inputs),
        ("output", wanted.output, signature.outputs),
    ):
        if not _fits(spec, tensors):
            seen = "; ".join(_describe(n, t) for n, t in sorted(tensors.items())) or "none"
            return (
                f"signature {wanted.name!r} has {side} {seen}, "
                f"expected {spec.name} {spec.dtype} {shape_text((-1, *spec.shape))}"
            )
    return None


def _fits(spec: TensorSpec, tensors: Any) -> bool:
    """Whether exactly this tensor is there, with a free first dimension."""
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
    """A dtype as the contract writes it: ``FLOAT``; by its number where this client has no name."""
    try:
        return wire.DataType.Name(number).removeprefix("DT_")
    except ValueError:
        return f"dtype {number}"


def shape_text(shape: Iterable[int]) -> str:
    """A shape as people write it: ``[n,16,112,112,3]``; -1 is ``n``."""
    return "[" + ",".join("n" if size == -1 else str(size) for size in shape) + "]"
