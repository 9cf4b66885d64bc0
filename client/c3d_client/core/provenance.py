"""Model cards and provenance: how features were made, and whether they are comparable.

Features from different weights, means, precisions, crops, strides or decoders look alike but are
not comparable. The video and the version number of the served model are not compared.

Both types contain the mapping that they were read from. Fields that this release does not know are
ignored in comparisons and written again unchanged; fields that an older file lacks have the value
that the older release used (:data:`ADDED_FIELDS`).
"""

from __future__ import annotations

import copy
import enum
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from c3d_client.core.contract import CONTRACT_VERSION
from c3d_client.core.errors import ProvenanceError

FieldPath = tuple[str, ...]


class Severity(enum.Enum):
    """What a difference in a field means for two features."""

    MODEL = "another model"
    METHOD = "another way of making clips or features"
    SOFTWARE = "another version of a library that decodes or resizes"


# The fields that must be equal, each by its path in a provenance.
COMPARED_FIELDS: tuple[tuple[FieldPath, Severity], ...] = (
    (("contract_version",), Severity.MODEL),
    (("model", "weights", "sha256"), Severity.MODEL),
    (("model", "mean", "sha256"), Severity.MODEL),
    (("model", "precision"), Severity.MODEL),
    (("preprocessing",), Severity.METHOD),
    (("clips",), Severity.METHOD),
    (("software", "opencv"), Severity.SOFTWARE),
    (("software", "pyav"), Severity.SOFTWARE),
    (("software", "libavcodec"), Severity.SOFTWARE),
)

# Fields that are compared since a later release, and the value that applies to files without the
# field. A field with this value does not change a digest, so digests of older files stay valid.
ADDED_FIELDS: tuple[tuple[FieldPath, Any, Severity], ...] = (
    (("damage",), "error", Severity.METHOD),
    (("layer",), "fc6", Severity.METHOD),
    (("pca",), None, Severity.METHOD),
)

# The fields of a model card's weights and mean that are copied to every result.
_REPEATED = ("source", "format", "random", "note", "known_as", "sha256", "file_sha256")
_CARD_FIELDS = ("weights", "mean", "precision")


@dataclass(frozen=True)
class Difference:
    """A compared field in which two provenances differ.

    Args:
        field: the path of the field, e.g. ``"model.weights.sha256"``.
        one, other: the two values.
        severity: what the difference means for the numbers.
    """

    field: str
    one: Any
    other: Any
    severity: Severity

    def __str__(self) -> str:
        return f"{self.field}: {self.one!r} against {self.other!r}"


@dataclass(frozen=True)
class ModelCard:
    """The description that a servable carries: weights, mean, precision, labels.

    Args:
        data: the card as it was read, including fields that this release does not know.
    """

    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelCard:
        """Return the card in a mapping, which is copied.

        Raises:
            ValueError: the mapping is not a card of this contract version, or lacks a field.
        """
        if not isinstance(data, Mapping) or data.get("contract_version") != CONTRACT_VERSION:
            version = data.get("contract_version") if isinstance(data, Mapping) else None
            raise ValueError(
                f"its contract version is {version!r}, this client's is {CONTRACT_VERSION!r}"
            )
        missing = [key for key in _CARD_FIELDS if key not in data]
        if missing:
            raise ValueError(f"its model card lacks {', '.join(missing)}")
        return cls(copy.deepcopy(dict(data)))

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """Parse a card.

        Raises:
            ValueError: as :meth:`from_dict`, or the text is not JSON.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"its model card is not JSON ({error})") from error
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the card as a mapping, including unknown fields."""
        return copy.deepcopy(dict(self.data))

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each class; empty where the model has no classes."""
        return tuple(self.data.get("labels", ()))

    @property
    def weights(self) -> Mapping[str, Any]:
        """The weights: source, format, digests, and whether they are random."""
        return self.data["weights"] or {}

    @property
    def mean(self) -> Mapping[str, Any]:
        """The mean cube: source and digest."""
        return self.data["mean"] or {}

    @property
    def precision(self) -> str:
        """The dtype that the network computes in: ``float32``, ``bfloat16`` or ``float16``."""
        return str(self.data["precision"])

    def model(self) -> dict[str, Any]:
        """Return the part of every result's provenance that describes the model."""
        part: dict[str, Any] = {"precision": self.data["precision"]}
        for name, values in (("weights", self.weights), ("mean", self.mean)):
            part[name] = {key: values[key] for key in _REPEATED if key in values}
        return part


@dataclass(frozen=True, eq=False)
class Provenance(Mapping[str, Any]):
    """The record of how a result was made: model, preprocessing, clips, software, video.

    It is also a read-only mapping of the record's fields, equal to a mapping of the same fields.

    Args:
        data: the record as it was made or read, including fields that this release does not know.
    """

    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Provenance:
        """Return the provenance in a mapping, which is copied."""
        return cls(copy.deepcopy(dict(data)))

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the provenance as a mapping, including unknown fields."""
        return copy.deepcopy(dict(self.data))

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def model(self) -> Mapping[str, Any]:
        """The served model: name, version, precision, weights, mean."""
        return self._part("model")

    @property
    def weights(self) -> Mapping[str, Any]:
        """The model's weights: source and digests."""
        return self._get(("model", "weights")) or {}

    @property
    def clips(self) -> Mapping[str, Any]:
        """How clips were made: frames, stride, frame step, tail, short, fps."""
        return self._part("clips")

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How frames were resized and cropped."""
        return self._part("preprocessing")

    @property
    def software(self) -> Mapping[str, Any]:
        """The versions of the client, the decoder and OpenCV."""
        return self._part("software")

    @property
    def video(self) -> Mapping[str, Any]:
        """The video: source, fingerprint, frames, duration, size, stream; empty without a video."""
        return self._part("video")

    @property
    def video_name(self) -> str:
        """The video's address, redacted, for messages."""
        return str(self.video.get("source") or "an unnamed video")

    def with_video(self, video: Mapping[str, Any]) -> Provenance:
        """Return the same record for a video."""
        return Provenance({**self.data, "video": dict(video)})

    def differences(self, other: Provenance) -> list[Difference]:
        """Compare the fields of two records that must be equal.

        Returns:
            The differences in the order of the fields; empty where the features are comparable.
        """
        fields = [(path, None, severity) for path, severity in COMPARED_FIELDS]
        result = []
        for path, default, severity in (*fields, *ADDED_FIELDS):
            one, two = self._get(path, default), other._get(path, default)
            if one != two:
                result.append(Difference(".".join(path), one, two, severity))
        return result

    def digest(self) -> str:
        """Return the SHA-256 of all compared fields, 64 hex digits.

        Two records have the same digest if :meth:`differences` is empty.
        """
        values: list[Any] = [self._get(path) for path, _ in COMPARED_FIELDS]
        for path, default, _ in ADDED_FIELDS:
            value = self._get(path, default)
            if value != default:
                values.append({".".join(path): value})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def _part(self, name: str) -> Mapping[str, Any]:
        value = self.data.get(name)
        return value if isinstance(value, Mapping) else {}

    def _get(self, path: FieldPath, default: Any = None) -> Any:
        value: Any = self.data
        for key in path[:-1]:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value.get(path[-1], default) if isinstance(value, Mapping) else default


def provenance_digest(provenance: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all compared fields of a provenance, 64 hex digits.

    Features with the same digest may be averaged, merged and read from a cache.
    """
    return Provenance(provenance).digest()


def require_same(provenances: Iterable[Mapping[str, Any]]) -> None:
    """Check that results may be averaged or merged.

    Raises:
        ProvenanceError: two provenances differ; the message names the fields.
    """
    first: Provenance | None = None
    for data in provenances:
        provenance = Provenance(data)
        if first is None:
            first = provenance
        elif differing := first.differences(provenance):
            raise ProvenanceError(
                f"features of {first.video_name} and {provenance.video_name} were made "
                f"differently and cannot be mixed: {'; '.join(map(str, differing))}; "
                "extract them again the same way"
            )
