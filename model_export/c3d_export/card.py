"""The model card of a version on disk, read without TensorFlow.

The card is a constant in the graph, so that a server can answer with it. It is found here in
`saved_model.pb` within a millisecond. Loading the graph takes seconds, and half a gigabyte of
memory, which the step that publishes a version does not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c3d_export.errors import VerificationError
from c3d_export.weights.caffe import BlobError, message_fields

# Field numbers from saved_model.proto down to tensor.proto: SavedModel.meta_graphs,
# MetaGraphDef.graph_def, GraphDef.library, FunctionDefLibrary.function, FunctionDef.node_def, each
# of which is the body of a signature; then NodeDef.attr, the value of that map's entry,
# AttrValue.tensor and TensorProto.string_val.
_STRINGS = (2, 2, 2, 1, 3, 5, 2, 8, 8)


def stored_card(version: Path) -> dict[str, Any]:
    """Return the model card of a version, of this release or an earlier one.

    Args:
        version: the version's folder.

    Raises:
        VerificationError: the version has no card, or several, or cannot be read.
    """
    file = version / "saved_model.pb"
    try:
        content = memoryview(file.read_bytes())
        texts = {bytes(text) for text in _strings(content, _STRINGS)}
        cards = [card for card in map(_card, texts) if card is not None]
    except OSError as error:
        raise VerificationError(f"{file}: cannot be read ({error.strerror})") from error
    except BlobError as error:
        raise VerificationError(f"{file}: damaged; it is not a SavedModel ({error})") from error
    if len(cards) != 1:
        raise VerificationError(f"{file}: has {len(cards) or 'no'} model cards, expected one")
    return cards[0]


def _strings(content: memoryview, path: tuple[int, ...]) -> Iterator[memoryview]:
    """Yield the values at a path of field numbers, in every repetition of each field."""
    if not path:
        yield content
        return
    for number, value in message_fields(content):
        if number == path[0] and not isinstance(value, int):
            yield from _strings(value, path[1:])


def _card(text: bytes) -> dict[str, Any] | None:
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(card, dict) or not isinstance(card.get("weights"), dict):
        return None
    return card if "contract_version" in card else None
