"""Checks of the types of arguments, for errors of one line that say what to give."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import UsageError

Item = TypeVar("Item")


def kind_of(value: object) -> str:
    """Return what a value is: ``None``, ``bytes``, ``an array of shape [2, 3]`` or ``a list``."""
    if value is None or isinstance(value, (bytes, bytearray)):
        return "None" if value is None else "bytes"
    if isinstance(value, memoryview):  # which has a shape
        return "a memoryview"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"an array of shape {list(shape)}"
    name = type(value).__name__
    return f"a{'n' * (name[0] in 'aeiouAEIO')} {name}"


def path_text(value: Any, name: str) -> str:
    """Return a path or URL as text.

    Args:
        value: a ``str`` or ``os.PathLike``.
        name: the argument's name, for the message.

    Raises:
        UsageError: it is of another type.
    """
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    hint = " (os.fsdecode returns the str of a path in bytes)" if kind_of(value) == "bytes" else ""
    raise UsageError(f"{name} is {kind_of(value)}; give a path or URL, a str or os.PathLike{hint}")


def require_several(values: Iterable[Item], name: str, *, each: str) -> Iterable[Item]:
    """Return the values, unless they are one path, file or video, or not iterable.

    Args:
        values: the argument.
        name: its name, for the message.
        each: what each of the values is, in the plural.

    Raises:
        UsageError: it is a ``str``, ``bytes``, an ``os.PathLike``, an open file, an array of three
            or more dimensions, all of which are iterable too, or not iterable.
    """
    if isinstance(values, (str, os.PathLike)):
        raise UsageError(f"{name} is one path, {os.fspath(values)!r}; give a list of {each}")
    is_one = isinstance(values, (bytes, bytearray, memoryview)) or hasattr(values, "read")
    if is_one or len(getattr(values, "shape", ())) > 2 or not isinstance(values, Iterable):
        raise UsageError(f"{name} is {kind_of(values)}; give a list of {each}")
    return values


def layer_names(layers: Iterable[str]) -> tuple[str, ...]:
    """Return the names of layers, in their order.

    Args:
        layers: one or more of :data:`c3d_client.core.contract.LAYERS`, each once.

    Raises:
        UsageError: they are something else.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        observed = repr(layers) if isinstance(layers, str) else kind_of(layers)
        raise UsageError(f"layers is {observed}; give a list of names, such as ['fc6', 'pool5']")
    names = tuple(map(str, layers))
    if not names or not set(names) <= set(LAYERS) or len(set(names)) < len(names):
        raise UsageError(
            f"the layers are {', '.join(names) or 'none'}; choose one or more of "
            f"{', '.join(LAYERS)}, each once"
        )
    return names


def require_each(values: Sequence[Item], kind: type, name: str, *, made_by: str) -> None:
    """Check that all values of a sequence are of a type.

    Args:
        values: the argument.
        kind: the type of its values.
        name: its name, for the message.
        made_by: what makes such values, for the message.

    Raises:
        UsageError: it is not a sequence of them.
    """
    for number, value in enumerate(require_several(values, name, each=made_by)):
        if not isinstance(value, kind):
            raise UsageError(f"{name}[{number}] is {kind_of(value)}; give a list of {made_by}")
