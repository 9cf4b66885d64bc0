"""Grafana dashboards: JSON in a ConfigMap, panels that ask something and do not overlap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from k8s.bundle import Object
from k8s.objects import of_kind, where


def dashboards(objects: list[Object]) -> list[str]:
    """Dashboards are JSON, with titled panels that have queries, and no panel upon another."""
    found = []
    for subject, text in dashboard_texts(objects):
        try:
            board = json.loads(text)
        except ValueError as error:
            found.append(f"{subject}: no JSON: {error}")
            continue
        found += [
            f"{subject}: no {key}" for key in ("title", "uid", "panels") if not board.get(key)
        ]
        shown = panels(board)
        seen: dict[Any, str] = {}
        for panel in shown:
            title = panel.get("title") or f"panel {panel.get('id')}"
            if not panel.get("title"):
                found.append(f"{subject}: {title} has no title")
            if panel.get("id") in seen:
                found.append(f"{subject}: {title} and {seen[panel['id']]} have one id")
            seen[panel.get("id")] = title
            if panel.get("type") not in ("row", "text") and not panel.get("targets"):
                found.append(f"{subject}: {title} asks nothing")
        for first, second in _overlaps(shown):
            found.append(f"{subject}: {first} lies upon {second}")
    return found


def dashboard_texts(objects: list[Object]) -> Iterator[tuple[str, str]]:
    for found in of_kind(objects, "ConfigMap"):
        for key, text in (found.get("data") or {}).items():
            if key.endswith(".json"):
                yield f"{where(found)}: {key}", text


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for top in board.get("panels") or () for p in (top, *(top.get("panels") or ()))]


def _overlaps(shown: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    boxes = [(p.get("title", ""), p["gridPos"]) for p in shown if "gridPos" in p]
    for n, (title, a) in enumerate(boxes):
        for other, b in boxes[n + 1 :]:
            beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
            if not beside and not above:
                yield other, title
