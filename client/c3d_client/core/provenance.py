"""Model cards and provenance: how features were made, and whether they are comparable.

A difference between two provenances has a severity. Features of another model, or of clips that
were made in another way, look alike and are not comparable: they are refused. Other versions of the
software are only noted. The video and the version number of the served model are not compared.

Both types contain the mapping that they were read from. Fields that this release does not know are
ignored in comparisons and written again unchanged; fields that an older file lacks have the value
that the older release used (:data:`ADDED_FIELDS`).
"""

from __future__ import annotations

import copy
import enum
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from c3d_client.core.contract import CONTRACT_VERSION, DEFAULT_LAYER, FEATURE_SIZE
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.text import escape_bytes

FieldPath = tuple[str, ...]


class Severity(enum.Enum):
    """What a difference in a field means for two features."""

    MODEL = "model"  # features of another model; refused
    CLIPS = "clips"  # features of clips that were made in another way; refused
    NOTES = "notes"  # the same features up to rounding; noted and accepted


# The fields that are compared, each by its path in a provenance.
COMPARED_FIELDS: tuple[tuple[FieldPath, Severity], ...] = (
    (("contract_version",), Severity.MODEL),
    (("model", "weights", "sha256"), Severity.MODEL),
    (("model", "mean", "sha256"), Severity.MODEL),
    (("model", "precision"), Severity.MODEL),
    (("preprocessing",), Severity.CLIPS),
    (("clips",), Severity.CLIPS),
    (("software",), Severity.NOTES),
)

# Fields that are compared since a later release, and the value that applies to files without the
# field. A field with this value does not change a digest, so digests of older files stay valid.
ADDED_FIELDS: tuple[tuple[FieldPath, Any, Severity], ...] = (
    (("damage",), "error", Severity.CLIPS),
    (("layer",), DEFAULT_LAYER, Severity.MODEL),
    (("pca",), None, Severity.MODEL),
)

# Differences of these severities are refused; others are accepted and noted.
REFUSED = (Severity.MODEL, Severity.CLIPS)

# The versions that release 0.1.0 compared too, and that were part of its digests.
_FORMERLY_COMPARED: tuple[FieldPath, ...] = (
    ("software", "opencv"),
    ("software", "pyav"),
    ("software", "libavcodec"),
)
_SHOWN_DIGITS = 12  # of a SHA-256 in a message for people

# The fields of a model card's weights and mean that are copied to every result.
_REPEATED = (
    *("source", "format", "random", "note", "known_as", "sha256", "file_sha256"),
    *("source_channel_order", "source_fc6_rows"),  # of TensorFlow checkpoints only
)
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
        return f"{self.field}: {_quoted(self.one)} against {_quoted(self.other)}"

    @property
    def phrase(self) -> str:
        """The difference in words, such as ``stride 16, not 8`` for values 16 and 8."""
        names = self.field.split(".")
        name = names[-2] if names[-1] == "sha256" else names[-1]
        return f"{name} {_shown(self.one)}, not {_shown(self.other)}"


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
    def layers(self) -> tuple[str, ...]:
        """The outputs of the signature ``layers``; empty for a servable without the signature."""
        return tuple(self.data.get("layers", ()))

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

    @property
    def convolution(self) -> str:
        """The form of the convolutions: ``direct`` or ``winograd``, which differ in rounding."""
        return str(self.data.get("convolution", "direct"))

    def model(self) -> dict[str, Any]:
        """Return the part of every result's provenance that describes the model."""
        part: dict[str, Any] = {
            "precision": self.data["precision"],
            "convolution": self.convolution,
        }
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
    def layers(self) -> tuple[str, ...]:
        """The layers of the features, the first one that of ``clip_features``."""
        return tuple(str(self._get(("layer",), DEFAULT_LAYER)).split(","))

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
        return escape_bytes(str(self.video.get("source") or "an unnamed video"))

    @property
    def feature_size(self) -> int:
        """The numbers in a row of features: 4096, or the dimensions of the PCA that reduced it."""
        return int(self._part("pca").get("dim", FEATURE_SIZE))

    def with_video(self, video: Mapping[str, Any]) -> Provenance:
        """Return the same record for a video."""
        return Provenance({**self.data, "video": dict(video)})

    def differences(
        self, other: Provenance, *, severities: Collection[Severity] = REFUSED
    ) -> list[Difference]:
        """Compare two records.

        Args:
            other: the other record.
            severities: what to compare; by default the fields that must be equal.

        Returns:
            The differences in the order of the fields, those inside of a part key by key; empty
            where the features are comparable.
        """
        fields = [(path, None, severity) for path, severity in COMPARED_FIELDS]
        result = []
        for path, default, severity in (*fields, *ADDED_FIELDS):
            if severity not in severities:
                continue
            one, two = self._get(path, default), other._get(path, default)
            if isinstance(one, Mapping) and isinstance(two, Mapping):
                result += [
                    Difference(".".join((*path, key)), one.get(key), two.get(key), severity)
                    for key in dict.fromkeys((*one, *two))
                    if (key in one) != (key in two) or one.get(key) != two.get(key)
                ]
            elif one != two:
                result.append(Difference(".".join(path), one, two, severity))
        return result

    def notes(self, other: Provenance) -> list[Difference]:
        """Return the differences that are accepted: other versions of the software."""
        return self.differences(other, severities=(Severity.NOTES,))

    def digest(self) -> str:
        """Return the SHA-256 of all fields that must be equal, 64 hex digits.

        Two records have the same digest if :meth:`differences` is empty.
        """
        return self._digest([path for path, severity in COMPARED_FIELDS if severity in REFUSED])

    def former_digest(self) -> str:
        """Return the digest that release 0.1.0 computed, which depends on versions of software.

        Shards that were begun by that release are named by it, and its data sets record it.
        """
        paths = [path for path, severity in COMPARED_FIELDS if severity in REFUSED]
        return self._digest([*paths, *_FORMERLY_COMPARED])

    def _digest(self, paths: Iterable[FieldPath]) -> str:
        values: list[Any] = [self._get(path) for path in paths]
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
    """Return the SHA-256 of all fields of a provenance that must be equal, 64 hex digits.

    Features with the same digest may be averaged, merged and read from a cache. Versions of the
    software do not change it; they did in release 0.1.0, whose digests
    :meth:`Provenance.former_digest` computes.
    """
    return Provenance(provenance).digest()


def require_same(
    provenances: Iterable[Mapping[str, Any]], *, names: Sequence[str] | None = None
) -> None:
    """Check that results may be averaged or merged.

    Other versions of the software are accepted.

    Args:
        provenances: of the results.
        names: of the results, for the message, such as their files; None for their videos.

    Raises:
        ProvenanceError: two provenances differ; the message names the fields.
    """
    first: Provenance | None = None
    for index, data in enumerate(provenances):
        provenance = Provenance(data)
        if first is None:
            first = provenance
        elif differing := first.differences(provenance):
            one, other = (
                (names[0], names[index]) if names else (first.video_name, provenance.video_name)
            )
            raise ProvenanceError(
                f"features of {one} and {other} were made differently and cannot be mixed: "
                f"{'; '.join(map(str, differing))}; extract them again the same way"
            )


def software_versions(provenances: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return all versions of each library that made some results, both sorted."""
    versions: dict[str, set[str]] = {}
    for data in provenances:
        for name, version in Provenance(data).software.items():
            versions.setdefault(name, set()).add(str(version))
    return {name: sorted(versions[name]) for name in sorted(versions)}


def _quoted(value: Any) -> str:
    """Return a value as in code; a digest is shortened, and no value is ``none``."""
    shown = _shown(value)
    return repr(value) if shown == str(value) else shown


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "sha256" in value:
        value = value["sha256"]
    text = "none" if value is None else str(value)
    is_sha256 = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:_SHOWN_DIGITS] if is_sha256 else text
