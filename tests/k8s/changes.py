"""Change one thing in rendered objects or in the texts of files, as a mistake would.

An object is named `Kind/name`. A path is a JSON pointer without its first slash; an element of a
list is named by its `name`, `alert` or `record`, by its index, or by the start of its text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k8s.files import Texts
from k8s.objects import ref
from k8s.render import Object

Change = Callable[[list[Object]], None]
TextChange = Callable[[Texts], None]


def put(target: str, path: str, value: Any) -> Change:
    """Set the value at a path."""

    def change(objects: list[Object]) -> None:
        parent, key = _find(objects, target, path)
        parent[key] = value

    return change


def drop(target: str, path: str) -> Change:
    """Remove the value at a path."""

    def change(objects: list[Object]) -> None:
        parent, key = _find(objects, target, path)
        del parent[key]

    return change


def append(target: str, path: str, value: Any) -> Change:
    """Append to the list at a path; a missing list is created."""

    def change(objects: list[Object]) -> None:
        parent, key = _find(objects, target, path)
        if isinstance(parent, dict):
            parent.setdefault(key, [])
        parent[key] = [*parent[key], value]

    return change


def replace(target: str, path: str, old: str, new: str) -> Change:
    """Replace a part, which must exist, of the text at a path."""

    def change(objects: list[Object]) -> None:
        parent, key = _find(objects, target, path)
        assert old in parent[key], f"{old!r} is not in {target} {path}"
        parent[key] = parent[key].replace(old, new)

    return change


def remove(target: str) -> Change:
    """Remove an object."""
    return lambda objects: objects.remove(_object(objects, target))


def create(obj: Object) -> Change:
    """Add an object."""
    return lambda objects: objects.append(obj)


def edit(path: str, old: str, new: str) -> TextChange:
    """Replace the first occurrence of a text, which must exist, in a file."""

    def change(texts: Texts) -> None:
        assert old in texts[path], f"{old!r} is not in {path}"
        texts[path] = texts[path].replace(old, new, 1)

    return change


def create_file(path: str, text: str) -> TextChange:
    """Add a file."""

    def change(texts: Texts) -> None:
        assert path not in texts
        texts[path] = text

    return change


def remove_file(path: str) -> TextChange:
    """Remove a file."""

    def change(texts: Texts) -> None:
        del texts[path]

    return change


def _object(objects: list[Object], target: str) -> Object:
    """Return an object by `Kind/name`; a ConfigMap's hash may be left out."""
    matching = [obj for obj in objects if ref(obj) == target]
    matching += [obj for obj in objects if ref(obj).startswith(f"{target}-")]
    assert matching, f"no {target} among {sorted(map(ref, objects))}"
    return matching[0]


def _find(objects: list[Object], target: str, path: str) -> tuple[Any, Any]:
    """Return the mapping or list that holds the end of a path, and the key or index in it."""
    parent: Any = _object(objects, target)
    *parts, last = [part.replace("~1", "/") for part in path.split("/")]
    for part in parts:
        if isinstance(parent, dict):
            parent.setdefault(part, {})
        parent = parent[_key(parent, part)]
    return parent, _key(parent, last)


def _key(parent: Any, part: str) -> Any:
    if isinstance(parent, dict):
        return part
    for index, element in enumerate(parent):
        if isinstance(element, str) and element.startswith(part):
            return index
        if isinstance(element, dict) and _name(element) == part:
            return index
    return int(part)


def _name(element: Object) -> Any:
    return element.get("name", element.get("alert", element.get("record")))
