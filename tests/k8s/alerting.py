"""Alerts that a person can act on, and scaling by what there is to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import of_kind, where
from k8s.promql import queries, rules

_RUNBOOK = re.compile(r"(k8s/[A-Z]+\.md#[a-z0-9-]+)$")
_SEVERITIES = ("critical", "warning", "info")
_GPU_LOAD = ("GPU_UTIL", "GR_ENGINE_ACTIVE", "gpu_busy", "duty_cycle")


def alerts(objects: list[Object], headings: frozenset[str]) -> list[str]:
    """Every alert waits, has a severity, a summary, a description and a runbook that is written."""
    found = []
    for subject, rule in rules(objects):
        if "alert" in rule:
            found += (f"{subject}: {problem}" for problem in _alert(rule, headings))
    return found


def autoscaling(objects: list[Object], given: frozenset[str]) -> list[str]:
    """Scaling is by requests in flight, a metric that something gives, never by GPU load."""
    found = []
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"].get("metrics") or ({"type": "nothing"},):
            source = metric.get("pods") or metric.get("external") or metric.get("object")
            if source is None:
                found.append(f"{where(scaler)}: scales by {metric['type']}, not requests in flight")
            elif source["metric"]["name"] not in given:
                found.append(f"{where(scaler)}: nothing gives a metric {source['metric']['name']}")
            elif "in_flight" not in source["metric"]["name"]:
                found.append(f"{where(scaler)}: {source['metric']['name']} is not in flight")
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [s["spec"]["scaleTargetRef"]["name"] for s in scalers]
    for target in sorted({t for t in targets if targets.count(t) > 1}):
        found.append(f"{target}: {targets.count(target)} autoscalers, which would fight")
    for subject, query in queries(of_kind(objects, "ScaledObject")):
        if any(load in query for load in _GPU_LOAD):
            found.append(f"{subject}: scales by GPU load: a duty cycle is not work")
        elif "request_latency_sum" not in query and "in_flight" not in query:
            found.append(f"{subject}: {query!r} is not requests in flight")
    return found


def _alert(rule: Object, headings: frozenset[str]) -> Iterator[str]:
    if "for" not in rule:
        yield "no `for`: one bad scrape would wake somebody"
    if (rule.get("labels") or {}).get("severity") not in _SEVERITIES:
        yield "no severity"
    notes = rule.get("annotations") or {}
    yield from (f"no {note}" for note in ("summary", "description") if not notes.get(note))
    runbook = _RUNBOOK.search(notes.get("runbook_url") or notes.get("runbook") or "")
    if not runbook:
        yield "no runbook line like k8s/ALERTS.md#heading"
    elif runbook[1] not in headings:
        yield f"runbook {runbook[1]} is no heading"
