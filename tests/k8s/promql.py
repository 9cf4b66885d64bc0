"""PromQL wherever it stands: rules, autoscalers, the adapter's rules and dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as prom
import yaml

from k8s.bundle import Object
from k8s.dashboards import dashboard_texts, panels
from k8s.metrics import KNOWN, SERVING_LABELS, TARGET_LABELS
from k8s.objects import matches, name, of_kind, where

ADAPTER = "k8s/components/autoscaling-hpa/prometheus-adapter-values.yaml"
# Grafana's, put in before Prometheus sees the query.
_GRAFANA = (
    (re.compile(r"\$\{?__(rate_interval|interval|range)\}?"), "5m"),
    (re.compile(r"\$\{[a-zA-Z_]+(:[a-z]+)?\}|\$[a-zA-Z_]+"), "x"),
)
# The Prometheus adapter's templates.
_TEMPLATES = (("<<.Series>>", "up"), ("<<.LabelMatchers>>", 'pod="x"'), ("<<.GroupBy>>", "pod"))


def promql(objects: list[Object]) -> list[str]:
    """Every query parses, asks for metrics that exist and are scraped, by labels that they have."""
    recorded = {r["record"] for _, r in rules(objects) if "record" in r}
    scraped = _jobs(objects)
    found: dict[str, None] = {}
    for subject, query in queries(objects):
        for problem in query_problems(query, recorded):
            found[f"{subject}: {problem}"] = None
        for selector in _selectors(query):
            for problem in _scrape(selector, scraped):
                found[f"{subject}: {problem}"] = None
    return list(found)


def adapter(texts: dict[str, str]) -> list[str]:
    """The queries that the adapter is given parse and ask for metrics that exist."""
    return [
        f"{ADAPTER}: {key}: {problem}"
        for rule in adapter_rules(texts[ADAPTER])
        for key in ("seriesQuery", "metricsQuery")
        for problem in query_problems(_filled(rule[key]), set())
    ]


def adapter_rules(text: str) -> list[dict[str, Any]]:
    """The custom rules of the adapter's Helm values."""
    return list(yaml.safe_load(text)["rules"]["custom"])


def query_problems(query: str, recorded: set[str]) -> Iterator[str]:
    """What is wrong with one query by itself."""
    try:
        prom.parse(query)
    except ValueError as error:
        yield f"{query!r}: {error}"
        return
    for selector in _selectors(query):
        if selector.name not in KNOWN | recorded:
            yield f"no metric {selector.name}"
        yield from _labels(selector)


def queries(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """(where, query) of everything that Prometheus will be asked."""
    for subject, rule in rules(objects):
        yield subject, str(rule["expr"])
    for scaler in of_kind(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if "query" in trigger["metadata"]:
                yield where(scaler), trigger["metadata"]["query"]
    for subject, text in dashboard_texts(objects):
        try:
            board = json.loads(text)
        except ValueError:
            continue
        for panel in panels(board):
            for target in panel.get("targets") or ():
                query = target.get("expr", "")
                for pattern, value in _GRAFANA:
                    query = pattern.sub(value, query)
                yield f"{subject}: {panel.get('title')}", query


def rules(objects: list[Object]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, rule) of every alert and record."""
    for found in of_kind(objects, "PrometheusRule"):
        for group in found["spec"]["groups"]:
            for rule in group["rules"]:
                yield f"{where(found)}: {rule.get('alert') or rule.get('record')}", rule


def _filled(query: str) -> str:
    for template, value in _TEMPLATES:
        query = query.replace(template, value)
    return query


def _selectors(query: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, prom.VectorSelector):
            found.append(node)
        elif isinstance(node, prom.MatrixSelector):
            found.append(node.vector_selector)
        return True

    try:
        prom.walk(prom.parse(query), visit)
    except ValueError:
        return []
    return found


def _labels(selector: Any) -> Iterator[str]:
    stem = re.sub(r"_(bucket|sum)$|(?<!request)_count$", "", selector.name or "")
    labels = SERVING_LABELS.get(stem.rpartition(":")[2])
    if not stem.startswith(":tensorflow:serving:") or labels is None:
        return
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels | TARGET_LABELS:
            yield f"{selector.name} has no label {matcher.name}"


def _jobs(objects: list[Object]) -> dict[str, Object]:
    """The monitors by the value that their targets' label `job` has."""
    found = {}
    for monitor in of_kind(objects, "ServiceMonitor"):
        for service in of_kind(objects, "Service"):
            labels = service["metadata"].get("labels") or {}
            if matches(monitor["spec"]["selector"], labels):
                key = monitor["spec"].get("jobLabel")
                found[labels.get(key, name(service)) if key else name(service)] = monitor
    return found


def _scrape(selector: Any, scraped: dict[str, Object]) -> Iterator[str]:
    """What the server's metrics lose on their way to Prometheus."""
    is_servers = (selector.name or "").startswith(":tensorflow:")
    if not scraped or not (is_servers or selector.name == "up"):
        return
    for matcher in selector.matchers.matchers:
        is_equal = matcher.op == prom.MatchOp.Equal
        if matcher.name == "job" and is_equal and matcher.value not in scraped:
            yield f'job="{matcher.value}", and the ServiceMonitor makes {sorted(scraped)}'
    for monitor in scraped.values() if is_servers else ():
        for endpoint in monitor["spec"]["endpoints"]:
            for rule in endpoint.get("metricRelabelings") or ():
                by_name = rule.get("sourceLabels") == ["__name__"]
                hit = re.fullmatch(rule.get("regex", ".*"), selector.name) is not None
                if by_name and (rule["action"], hit) in (("keep", False), ("drop", True)):
                    yield f"{where(monitor)} drops {selector.name}"
