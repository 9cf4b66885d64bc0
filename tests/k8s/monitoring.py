"""Checks of monitoring: PromQL queries, alerts, dashboards and autoscalers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import promql_parser
import yaml

from k8s.files import Texts, headings, read_texts
from k8s.objects import SCALERS, get, labels, matches, name, of_kind, prefix, ref
from k8s.render import Object

ADAPTER = "k8s/components/autoscaling-hpa/prometheus-adapter-values.yaml"

# ---- metrics that exist, of TensorFlow Serving 2.20 and of the exporters of a cluster

_SERVING = ":tensorflow:serving:"
_COUNTERS = ("request_count", "request_example_count_total")
_HISTOGRAMS = (
    "request_latency",
    "runtime_latency",
    "request_example_counts",
    "model_warmup_latency",
    "batching_session:queuing_latency",
    "batching_session:input_batch_size",
    "batching_session:processed_batch_size",
    "batching_session:padding_size",
)
_OTHER_METRICS = (
    ":tensorflow:cc:saved_model:load_attempt_count",
    ":tensorflow:cc:saved_model:load_latency",
    ":tensorflow:core:graph_runs",
    # Prometheus.
    "up",
    "scrape_duration_seconds",
    # kube-state-metrics.
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas",
    "kube_deployment_status_replicas_available",
    "kube_deployment_status_replicas_ready",
    "kube_deployment_status_replicas_unavailable",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_job_status_failed",
    "kube_pod_container_resource_limits",
    "kube_pod_container_resource_requests",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_info",
    "kube_pod_labels",
    "kube_pod_status_phase",
    "kube_pod_status_ready",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "kubelet_volume_stats_used_bytes",
    # The kubelet (cAdvisor).
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_network_receive_bytes_total",
    "container_network_transmit_bytes_total",
    # NVIDIA's DCGM exporter.
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_MEM_COPY_UTIL",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_XID_ERRORS",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
)
_KNOWN_METRICS = {
    *_OTHER_METRICS,
    *(_SERVING + counter for counter in _COUNTERS),
    *(_SERVING + f"{h}_{part}" for h in _HISTOGRAMS for part in ("bucket", "sum", "count")),
}
# Labels that TensorFlow Serving puts on a metric, by the end of its name.
_SERVING_LABELS = {
    "request_count": {"model_name", "status"},
    "request_latency": {"model_name", "API", "entrypoint"},
    "runtime_latency": {"model_name", "API", "runtime"},
    "queuing_latency": {"thread_pool_name"},
    "model_warmup_latency": {"model_path", "status"},
}
# Labels that Prometheus adds, and the bounds of a histogram's buckets.
_TARGET_LABELS = frozenset(
    ("namespace", "pod", "service", "job", "container", "endpoint", "instance", "node", "le")
)


# ---- PromQL

# Grafana replaces these variables before Prometheus parses the query.
_GRAFANA_VARIABLES = (
    (re.compile(r"\$\{?__(rate_interval|interval|range)\}?"), "5m"),
    (re.compile(r"\$\{[a-zA-Z_]+(:[a-z]+)?\}|\$[a-zA-Z_]+"), "x"),
)
_ADAPTER_VARIABLES = (
    ("<<.Series>>", "up"),
    ("<<.LabelMatchers>>", 'pod="x"'),
    ("<<.GroupBy>>", "pod"),
)


def check_promql(objects: list[Object]) -> Iterator[str]:
    """Every query parses and uses metrics and labels that exist and are scraped."""
    recorded = {rule["record"] for _, rule in rules(objects) if "record" in rule}
    monitors = _monitors_by_job(objects)
    for subject, query in _queries(objects):
        problems = [*_query_problems(query, recorded)]
        for selector in _selectors(query):
            problems += _scrape_problems(selector, monitors)
        yield from prefix(subject, dict.fromkeys(problems))


def check_adapter(texts: Texts) -> Iterator[str]:
    """Every query of the Prometheus adapter's Helm values parses and uses metrics that exist."""
    for rule in _adapter_rules(texts):
        for key in ("seriesQuery", "metricsQuery"):
            query = rule[key]
            for variable, value in _ADAPTER_VARIABLES:
                query = query.replace(variable, value)
            yield from prefix(f"{ADAPTER}: {key}", _query_problems(query))


def rules(objects: list[Object]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (subject, rule) of every alert and recording rule."""
    for obj in of_kind(objects, "PrometheusRule"):
        for group in obj["spec"]["groups"]:
            for rule in group["rules"]:
                yield f"{ref(obj)}: {rule.get('alert') or rule.get('record')}", rule


def _adapter_rules(texts: Texts) -> list[dict[str, Any]]:
    return yaml.safe_load(texts[ADAPTER])["rules"]["custom"]


def _queries(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """Yield (subject, query) of every query that Prometheus will receive."""
    for subject, rule in rules(objects):
        yield subject, str(rule["expr"])
    yield from _scaler_queries(objects)
    for subject, text in _dashboards(objects):
        try:
            board = json.loads(text)
        except ValueError:
            continue  # check_dashboards reports it
        for panel in _panels(board):
            for target in get(panel, "targets", []):
                query = target.get("expr", "")
                for pattern, value in _GRAFANA_VARIABLES:
                    query = pattern.sub(value, query)
                yield f"{subject}: {panel.get('title')}", query


def _scaler_queries(objects: list[Object]) -> Iterator[tuple[str, str]]:
    for scaler in of_kind(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if "query" in trigger["metadata"]:
                yield ref(scaler), trigger["metadata"]["query"]


def _query_problems(query: str, recorded: Iterable[str] = ()) -> Iterator[str]:
    try:
        promql_parser.parse(query)
    except ValueError as error:
        yield f"{query!r}: {error}"
        return
    for selector in _selectors(query):
        if selector.name not in _KNOWN_METRICS.union(recorded):
            yield f"no metric {selector.name}"
        stem = re.sub(r"_(bucket|sum)$|(?<!request)_count$", "", selector.name or "")
        known_labels = _SERVING_LABELS.get(stem.rpartition(":")[2])
        if stem.startswith(_SERVING) and known_labels is not None:
            for matcher in selector.matchers.matchers:
                if matcher.name not in known_labels | _TARGET_LABELS:
                    yield f"{selector.name} has no label {matcher.name}"


def _selectors(query: str) -> list[Any]:
    """Return the vector selectors of a query, and none if it does not parse."""
    selectors: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            selectors.append(node.vector_selector)
        return True

    try:
        promql_parser.walk(promql_parser.parse(query), visit)
    except ValueError:
        return []
    return selectors


def _monitors_by_job(objects: list[Object]) -> dict[str, Object]:
    """Return the ServiceMonitors by the label `job` that their targets have."""
    monitors = {}
    for monitor in of_kind(objects, "ServiceMonitor"):
        for service in of_kind(objects, "Service"):
            if matches(monitor["spec"]["selector"], labels(service)):
                job = labels(service).get(monitor["spec"].get("jobLabel"), name(service))
                monitors[job] = monitor
    return monitors


def _scrape_problems(selector: Any, monitors: dict[str, Object]) -> Iterator[str]:
    """Yield why a metric of the server would not be in Prometheus, or not under that job."""
    is_servers = (selector.name or "").startswith(":tensorflow:")
    if not monitors or not (is_servers or selector.name == "up"):
        return
    for matcher in selector.matchers.matchers:
        is_equal = matcher.op == promql_parser.MatchOp.Equal
        if matcher.name == "job" and is_equal and matcher.value not in monitors:
            yield f'job="{matcher.value}", and the ServiceMonitor has {sorted(monitors)}'
    for monitor in monitors.values() if is_servers else ():
        for endpoint in monitor["spec"]["endpoints"]:
            for rule in get(endpoint, "metricRelabelings", []):
                by_name = rule.get("sourceLabels") == ["__name__"]
                hit = re.fullmatch(rule.get("regex", ".*"), selector.name) is not None
                if by_name and (rule["action"], hit) in (("keep", False), ("drop", True)):
                    yield f"{ref(monitor)} drops {selector.name}"


# ---- alerts and dashboards

_RUNBOOK = re.compile(r"(k8s/[A-Z]+\.md#[a-z0-9-]+)$")


def check_alerts(objects: list[Object]) -> Iterator[str]:
    """Every alert has a delay, a severity, a summary, a description and an existing runbook."""
    existing = headings(read_texts())
    for subject, rule in rules(objects):
        if "alert" in rule:
            yield from prefix(subject, _alert(rule, existing))


def _alert(rule: Object, existing: set[str]) -> Iterator[str]:
    if "for" not in rule:
        yield "no `for`: one failed scrape would send an alert"
    if get(rule, "labels.severity") not in ("critical", "warning", "info"):
        yield "no severity"
    annotations = get(rule, "annotations", {})
    for key in ("summary", "description"):
        if not annotations.get(key):
            yield f"no {key}"
    url = annotations.get("runbook_url") or annotations.get("runbook") or ""
    runbook = _RUNBOOK.search(url)
    if not runbook:
        yield "no runbook like k8s/ALERTS.md#heading"
    elif runbook[1] not in existing:
        yield f"runbook {runbook[1]} does not exist"


def check_dashboards(objects: list[Object]) -> Iterator[str]:
    """Every dashboard is JSON; its panels have titles, IDs and queries, and do not overlap."""
    for subject, text in _dashboards(objects):
        yield from prefix(subject, _dashboard(text))


def _dashboard(text: str) -> Iterator[str]:
    try:
        board = json.loads(text)
    except ValueError as error:
        yield f"not JSON: {error}"
        return
    yield from (f"no {key}" for key in ("title", "uid", "panels") if not board.get(key))
    panels = _panels(board)
    titles: dict[Any, str] = {}
    for panel in panels:
        title = panel.get("title") or f"panel {panel.get('id')}"
        if not panel.get("title"):
            yield f"{title} has no title"
        if panel.get("id") in titles:
            yield f"{title} and {titles[panel['id']]} have the same id"
        titles[panel.get("id")] = title
        if panel.get("type") not in ("row", "text") and not panel.get("targets"):
            yield f"{title} has no query"
    placed = [(panel.get("title", ""), panel["gridPos"]) for panel in panels if "gridPos" in panel]
    for (first, a), (second, b) in combinations(placed, 2):
        is_left_or_right = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_above_or_below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        if not is_left_or_right and not is_above_or_below:
            yield f"{second} overlaps {first}"


def _dashboards(objects: list[Object]) -> Iterator[tuple[str, str]]:
    for config_map in of_kind(objects, "ConfigMap"):
        for key, text in get(config_map, "data", {}).items():
            if key.endswith(".json"):
                yield f"{ref(config_map)}: {key}", text


def _panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for top in get(board, "panels", []) for p in (top, *get(top, "panels", []))]


# ---- autoscalers

_GPU_LOAD = ("GPU_UTIL", "GR_ENGINE_ACTIVE", "gpu_busy", "duty_cycle")


def check_autoscaling(objects: list[Object]) -> Iterator[str]:
    """Every autoscaler uses requests in flight, from a metric that exists, and never GPU load."""
    provided = {rule["name"]["as"] for rule in _adapter_rules(read_texts())}
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"].get("metrics") or ({"type": "nothing"},):
            source = metric.get("pods") or metric.get("external") or metric.get("object")
            metric_name = get(source, "metric.name")
            if source is None:
                yield f"{ref(scaler)}: scales by {metric['type']}, not requests in flight"
            elif metric_name not in provided:
                yield f"{ref(scaler)}: no adapter rule provides the metric {metric_name}"
            elif "in_flight" not in metric_name:
                yield f"{ref(scaler)}: {metric_name} is not requests in flight"
    targets = [get(s, "spec.scaleTargetRef.name") for s in of_kind(objects, *SCALERS)]
    for target in sorted({target for target in targets if targets.count(target) > 1}):
        yield f"{target}: {targets.count(target)} autoscalers, which would conflict"
    for subject, query in _scaler_queries(objects):
        if any(load in query for load in _GPU_LOAD):
            yield f"{subject}: scales by GPU load, which does not measure work"
        elif "request_latency_sum" not in query and "in_flight" not in query:
            yield f"{subject}: {query!r} is not requests in flight"
