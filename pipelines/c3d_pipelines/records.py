"""Dataclasses that are stored as JSON objects and read by older and newer releases.

A record keeps the fields that this release does not know and writes them again. A field that was
added after the first release (:func:`added`) may be missing from a file; its default is what the
releases without the field did. All other fields are required.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from c3d_client.core.errors import C3DError
from c3d_client.core.provenance import Provenance

AnyRecord = TypeVar("AnyRecord", bound="Record")

_ADDED = "added"
_TYPES: dict[type[Any], dict[str, Any]] = {}


def added(default: Any) -> Any:
    """Declare a field that older files lack.

    Args:
        default: the value that describes what the releases without the field did.
    """
    return field(default=default, metadata={_ADDED: True})


@dataclass(frozen=True)
class Record:
    """Base of a dataclass that is stored as one JSON object.

    Args:
        unknown: the fields of a file that this release does not know.
    """

    # What the object is, for the message of from_json, and the type of that error.
    _noun: ClassVar[str] = "a record"
    _error: ClassVar[type[C3DError]] = C3DError
    unknown: Mapping[str, Any] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, unknown fields included."""
        values = {name: _to_json(getattr(self, name)) for name in _fields(type(self))}
        return _merged(self.unknown, values)

    def to_json(self) -> str:
        """Return the record as text, for ``from_json``; nothing secret is in it."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls: type[AnyRecord], text: str | bytes) -> AnyRecord:
        """Read a record that :meth:`to_json` wrote, in this or another release.

        Raises:
            C3DError: the text is not such a record, or a value is out of its range. The type is
                UsageError for settings, ShardError for a shard's report, RunError for a summary.
        """
        try:
            return cls.from_dict(json.loads(text))
        except C3DError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise cls._error(f"{cls._noun} cannot be read ({error})") from error

    @classmethod
    def from_dict(cls: type[AnyRecord], values: Any) -> AnyRecord:
        """Read a record from JSON values.

        Raises:
            ValueError: a field is missing, or the values are not a JSON object.
            TypeError: a field has a value of another type.
        """
        types = _fields(cls)
        if not isinstance(values, Mapping):
            raise ValueError(f"expected an object with {', '.join(sorted(types))}")
        required = {
            field_.name for field_ in fields(cls) if field_.name in types and not field_.metadata
        }
        if missing := required - set(values):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        known = {name: _of_type(types[name], values[name]) for name in types if name in values}
        unknown = {name: value for name, value in values.items() if name not in types}
        for name, value in known.items():
            if is_dataclass(value) and not isinstance(value, Record | Provenance):
                names = {field_.name for field_ in fields(value)}
                if rest := {key: item for key, item in values[name].items() if key not in names}:
                    unknown[name] = rest
        return cls(**known, unknown=unknown)


def _fields(kind: type[Record]) -> dict[str, Any]:
    """Return the types of a record's known fields."""
    if kind not in _TYPES:
        hints = get_type_hints(kind)
        _TYPES[kind] = {
            field_.name: hints[field_.name] for field_ in fields(kind) if field_.name != "unknown"
        }
    return _TYPES[kind]


def _merged(unknown: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields with the unknown ones added, also those inside of a known field."""
    both = {
        name: {**unknown[name], **value}
        for name, value in known.items()
        if name in unknown and isinstance(value, dict)
    }
    return {**unknown, **known, **both}


def _to_json(value: Any) -> Any:
    if isinstance(value, Record | Provenance):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value


def _of_type(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_of_type(get_args(kind)[0], item) for item in value)
    if inspect.isclass(kind) and issubclass(kind, Record | Provenance):
        return kind.from_dict(value)
    if inspect.isclass(kind) and is_dataclass(kind):
        names = {field_.name for field_ in fields(kind)}
        return kind(**{name: item for name, item in value.items() if name in names})
    return value
