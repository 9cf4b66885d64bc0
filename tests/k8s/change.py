"""Changing one thing in rendered objects or in source texts, so that a check must notice.

A path is a JSON pointer in which an element of a list goes by its name, by its number, or, for a
word such as `--port=8500`, by what it begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k8s.bundle import Object
from k8s.objects import where
from k8s.sources import Texts

Change = Callable[[list[Object]], None]
TextChange = Callable[[Texts], None]


@dataclass(frozen=True)
class Mutation:
    """One mistake: what it is, where it is made, who must catch it and by which words."""

    mistake: str
    bundle: str
    change: Change
    check: str
    words: str


@dataclass(frozen=True)
class TextMutation:
    """One mistake in the files themselves."""

    mistake: str
    change: TextChange
    check: str
    words: str


def put(target: str, path: str, value: Any) -> Change:
    """Set what is at a path, whether or not there is something."""

    def change(objects: list[Object]) -> None:
        holder, key = _holder(_object(objects, target), path)
        holder[key] = value

    return change


def drop(target: str, path: str) -> Change:
    """Remove what is at a path."""

    def change(objects: list[Object]) -> None:
        holder, key = _holder(_object(objects, target), path)
        del holder[key]

    return change


def add(target: str, path: str, value: Any) -> Change:
    """Append to the list at a path, made where it is missing."""

    def change(objects: list[Object]) -> None:
        holder, key = _holder(_object(objects, target), path)
        if isinstance(holder, dict):
            holder.setdefault(key, [])
        holder[key] = [*holder[key], value]

    return change


def swap(target: str, path: str, old: str, new: str) -> Change:
    """Replace words in the text at a path; they must be there."""

    def change(objects: list[Object]) -> None:
        holder, key = _holder(_object(objects, target), path)
        assert old in holder[key], f"{old!r} is not in {target} {path}"
        holder[key] = holder[key].replace(old, new)

    return change


def remove(target: str) -> Change:
    """Remove an object."""

    def change(objects: list[Object]) -> None:
        objects.remove(_object(objects, target))

    return change


def extra(found: Object) -> Change:
    """One object more."""

    def change(objects: list[Object]) -> None:
        objects.append(found)

    return change


def edit(path: str, old: str, new: str) -> TextChange:
    """Replace words in a file; they must be there."""

    def change(texts: Texts) -> None:
        assert old in texts[path], f"{old!r} is not in {path}"
        texts[path] = texts[path].replace(old, new, 1)

    return change


def write(path: str, text: str) -> TextChange:
    """One file more."""

    def change(texts: Texts) -> None:
        assert path not in texts
        texts[path] = text

    return change


def erase(path: str) -> TextChange:
    """One file less."""

    def change(texts: Texts) -> None:
        del texts[path]

    return change


def _object(objects: list[Object], target: str) -> Object:
    """By kind and name; a ConfigMap's hash is left out."""
    found = [o for o in objects if where(o) == target]
    found = found or [o for o in objects if where(o).startswith(f"{target}-")]
    assert found, f"no {target} among {sorted(where(o) for o in objects)}"
    return found[0]


def _holder(found: Object, path: str) -> tuple[Any, Any]:
    """What holds the end of a path, and its key or number there."""
    at: Any = found
    parts = [part.replace("~1", "/") for part in path.split("/")]
    for part in parts[:-1]:
        if isinstance(at, dict):
            at.setdefault(part, {})
        at = at[_key(at, part)]
    return at, _key(at, parts[-1])


def _key(at: Any, part: str) -> Any:
    if isinstance(at, dict):
        return part
    for number, element in enumerate(at):
        by_name = isinstance(element, dict) and _called(element) == part
        by_start = isinstance(element, str) and element.startswith(part)
        if by_name or by_start:
            return number
    return int(part)


def _called(element: Object) -> Any:
    return element.get("name", element.get("alert", element.get("record")))
