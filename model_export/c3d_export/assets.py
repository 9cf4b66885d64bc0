"""The published weight files that can be used, where to put them, and how to know them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownWeights:
    """One published file of C3D weights.

    Args:
        name: the file's name, as published.
        about: where it comes from.
        md5: the digest that it is known by; None where nobody published one.
    """

    name: str
    about: str
    md5: str | None = None


# Sources: the Keras ports of the C3D authors' Sports-1M network.
KNOWN_WEIGHTS = (
    KnownWeights(
        "C3D_Sport1M_weights_keras_2.2.4.h5",
        "Sports-1M weights for Keras 2.2.4, TensorFlow layout",
    ),
    KnownWeights(
        "sports1M_weights_tf.h5",
        "Sports-1M weights for Keras 2, TensorFlow layout",
        md5="b7a93b2f9156ccbebe3ca24b41fc5402",
    ),
)

# Beside them, best first: the Sports-1M mean, then the UCF101 one that most ports use.
MEAN_FILES = (
    "sport1m_train16_128_mean.binaryproto",
    "train01_16_128_171_mean.binaryproto",
    "train01_16_128_171_mean.npy",
    "c3d_mean.npy",
)
LABELS_FILE = "sports1M_classes.txt"


def found_weights(folder: Path) -> dict[KnownWeights, str]:
    """The known files that are in a folder, each with what its digest says, best first."""
    found: dict[KnownWeights, str] = {}
    for known in KNOWN_WEIGHTS:
        path = folder / known.name
        if not path.is_file():
            continue
        if known.md5 is None:
            found[known] = "no published checksum to compare with"
        else:
            same = _md5(path) == known.md5
            found[known] = "checksum right" if same else "checksum WRONG: fetch it again"
    return found


def licence_note() -> str:
    """What people must know before they fetch the weights."""
    return (
        "The published weights are for non-commercial use (CC BY-NC 3.0). "
        "Put a file into models/ under the name above; make example then uses it."
    )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
