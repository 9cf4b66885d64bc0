"""The model card inside a servable: what it is made of, as anyone who can ask it can read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf
from c3d_client.core.contract import CONTRACT_VERSION, MODEL_CARD

from c3d_export.errors import VerificationError
from c3d_export.graph import GraphServable


def read_card(servable: GraphServable) -> dict[str, Any]:
    """Ask a loaded servable for its card.

    Raises:
        VerificationError: it has none, or one of another contract version.
    """
    one_row = {MODEL_CARD.input.name: np.zeros(1, np.int32)}
    try:
        answer = servable.run(MODEL_CARD.name, one_row)
        card = json.loads(answer[MODEL_CARD.output.name][0])
    except (KeyError, ValueError, tf.errors.OpError) as error:
        raise VerificationError(
            f"{servable.path}: has no readable {MODEL_CARD.name} ({error}); "
            "it was not made by c3d-export build"
        ) from error
    version = card.get("contract_version") if isinstance(card, dict) else None
    if version != CONTRACT_VERSION:
        raise VerificationError(
            f"{servable.path}: contract version {version!r}, this release's is {CONTRACT_VERSION!r}"
        )
    return dict(card)


def weights_note(card: dict[str, Any]) -> str:
    """The weights' source, and in plain words what people must know of them."""
    weights = card["weights"]
    note = f" ({weights['note']})" if weights["note"] else ""
    return f"weights {weights['source']}{note}"
