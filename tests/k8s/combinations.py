"""The combinations of overlays and components that the matrix in `k8s/README.md` allows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from k8s.objects import NAMESPACE
from k8s.render import (
    K8S,
    Object,
    RenderError,
    needed_by,
    parse,
    render,
    render_combination,
)

INCLUDED, ALLOWED, USELESS = "+", "o", "-"
SCALERS = {"autoscaling-hpa", "autoscaling-keda"}  # the later one is used
_WITHOUT_CLAIM = {"model-bucket", "model-oci"}
_MATRIX = re.compile(r"^\| \|(.+)\|\n\|[-|]+\|\n((?:\|.+\|\n)+)", re.MULTILINE)
_EXCLUSIONS = re.compile(r"^\| not together \|.+\n\|[-|]+\|\n((?:\|.+\|\n)+)", re.MULTILINE)
_NAME = re.compile(r"`([a-z0-9-]+)`")
_REMARK = re.compile(r", (?:each|takes) .*")


@dataclass(frozen=True)
class Matrix:
    """What the README says: a cell for each component and overlay, and what is not together."""

    setups: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    exclusions: frozenset[frozenset[str]] = frozenset()

    @property
    def overlays(self) -> list[str]:
        return list(self.setups)

    @property
    def components(self) -> list[str]:
        return list(dict.fromkeys(component for component, _ in self.cells))

    def marked(self, overlay: str, mark: str) -> list[str]:
        """Return the components that have a mark in an overlay's column."""
        return [name for name in self.components if self.cells.get((name, overlay)) == mark]

    def is_excluded(self, components: Sequence[str]) -> bool:
        """Return whether two of the components are not together."""
        return any(frozenset(pair) in self.exclusions for pair in combinations(components, 2))


@dataclass(frozen=True)
class Combination:
    """An overlay (or the base) with components in their order."""

    overlay: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return " + ".join((self.overlay.removeprefix("overlays/"), *self.components))

    def render(self) -> str:
        """Return the YAML of an overlay of the user.

        Raises:
            RenderError: kustomize refuses the combination.
        """
        paths = tuple(f"components/{component}" for component in self.components)
        return render_combination(self.overlay, paths, namespace=NAMESPACE)


def read_matrix(readme: str) -> Matrix:
    """Return the matrix of a README's text.

    Raises:
        ValueError: a table is missing, a row has another number of cells, or a cell is unknown.
    """
    table, exclusions = _MATRIX.search(readme), _EXCLUSIONS.search(readme)
    if table is None or exclusions is None:
        raise ValueError("no matrix, or no table of what is not together")
    overlays = [cell.strip() for cell in table[1].split("|")]
    matrix = Matrix(exclusions=frozenset(_excluded_pairs(exclusions[1])))
    for row in table[2].splitlines():
        first, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != len(overlays):
            raise ValueError(f"{first}: {len(cells)} cells for {len(overlays)} overlays")
        if first == "setup":
            matrix.setups.update(zip(overlays, cells, strict=True))
            continue
        for component in _NAME.findall(_REMARK.sub("", first)):
            for overlay, cell in zip(overlays, cells, strict=True):
                if cell not in (INCLUDED, ALLOWED, USELESS):
                    raise ValueError(f"{component}, {overlay}: {cell!r} is not +, o or -")
                matrix.cells[component, overlay] = cell
    return matrix


def _excluded_pairs(rows: str) -> Iterator[frozenset[str]]:
    for row in rows.splitlines():
        yield from map(frozenset, combinations(_NAME.findall(row.split("|")[1]), 2))


def with_needed(components: Sequence[str], included: Sequence[str] = ()) -> tuple[str, ...]:
    """Return components with those that they need in front, as far as these are not included."""
    names: list[str] = []
    for component in components:
        needed = [path.rpartition("/")[2] for path in needed_by(f"components/{component}")]
        names += [name for name in (*needed, component) if name not in (*names, *included)]
    return tuple(names)


def included_components(bundle: str) -> set[str]:
    """Return the components that a bundle's kustomizations name, at any depth."""
    (kustomization,) = parse((K8S / bundle / "kustomization.yaml").read_text())
    names: set[str] = set()
    for key in ("resources", "components"):
        for target in kustomization.get(key) or ():
            folder = (K8S / bundle / target).resolve()
            if folder.is_dir():
                path = folder.relative_to(K8S.resolve()).as_posix()
                names |= included_components(path)
                if path.startswith("components/"):
                    names.add(folder.name)
    return names


# ---- which combinations


def single(matrix: Matrix) -> list[Combination]:
    """Return every overlay with each component that may be added to it."""
    found = []
    for overlay in matrix.overlays:
        included = matrix.marked(overlay, INCLUDED)
        for component in matrix.marked(overlay, ALLOWED):
            names = with_needed([component], included)
            found.append(Combination(f"overlays/{overlay}", names))
    return found


def largest(matrix: Matrix) -> list[Combination]:
    """Return every overlay with all components that may be added to it together.

    Where some exclude each other, there is a combination for each choice among them. A component
    in front of one that needs it is a choice too: `gpu` alone, `gpu-mig` or `gpu-timeslice`.
    """
    found = []
    for overlay in matrix.overlays:
        included = matrix.marked(overlay, INCLUDED)
        allowed = matrix.marked(overlay, ALLOWED)
        choices = [_choices(group, included) for group in _groups(matrix, allowed)]
        for choice in product(*choices):
            names = with_needed([name for names in choice for name in names], included)
            found.append(Combination(f"overlays/{overlay}", names))
    return found


def _groups(matrix: Matrix, components: Sequence[str]) -> list[list[str]]:
    """Return components in groups of which at most one is chosen."""
    alternatives = [set(pair) for pair in matrix.exclusions] + [SCALERS]
    alternatives += [{name, *with_needed([name])} for name in components if with_needed([name])[1:]]
    groups: list[list[str]] = []
    for component in components:
        for group in groups:
            if any({component, other} <= pair for pair in alternatives for other in group):
                group.append(component)
                break
        else:
            groups.append([component])
    return groups


def _choices(group: list[str], included: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what may be chosen of a group; nothing, where the overlay has an alternative."""
    has_other = any(with_needed([name])[1:] for name in group)
    has_other = has_other or bool(SCALERS.intersection(group) and SCALERS.intersection(included))
    none: list[tuple[str, ...]] = [()] if has_other else []
    return [*none, *((name,) for name in group)]


def pairs(matrix: Matrix) -> list[tuple[str, str]]:
    """Return all pairs of components."""
    return list(combinations(matrix.components, 2))


# ---- rendering


def render_all(wanted: Sequence[Combination]) -> dict[Combination, str | RenderError]:
    """Render combinations, several at a time; a combination that is refused has its error."""

    def attempt(combination: Combination) -> str | RenderError:
        try:
            return combination.render()
        except RenderError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(wanted, pool.map(attempt, wanted), strict=True))


def objects_with_setup(matrix: Matrix, combination: Combination, text: str) -> list[Object]:
    """Return the objects of a rendered combination, its set-up and, with a claim, its Job."""
    overlay = combination.overlay.removeprefix("overlays/")
    setup = matrix.setups.get(overlay, "one-node")
    if _WITHOUT_CLAIM & {*combination.components}:
        return [*parse(render("setup/namespace")), *parse(text)]
    job = "jobs/export-model"
    texts = [render(f"setup/{setup}"), text]
    texts.append(render(f"{job}/kueue" if "kueue" in combination.components else job))
    return [obj for text in texts for obj in parse(text)]


def unordered(value: Any) -> Any:
    """Return a value with its lists sorted: what kustomize appends is in the components' order."""
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(unordered, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
