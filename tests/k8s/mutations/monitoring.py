"""Mistakes in what is measured: queries, alerts, dashboards, autoscalers."""

from __future__ import annotations

from k8s.change import Mutation, drop, extra, put, swap
from k8s.mutations.places import MONITORING, RULES

M = Mutation

# fmt: off
QUERIES = (
    M("a metric's name misspelt", MONITORING,
      swap(RULES, "spec/groups/c3d-requests/rules/c3d:pod_requests:rate5m/expr",
           "request_count", "requests_count"),
      "promql", "no metric :tensorflow:serving:requests_count"),
    M("a query that is none", MONITORING,
      swap(RULES, "spec/groups/c3d-requests/rules/c3d:pod_requests:rate5m/expr", "[5m]", "[5m"),
      "promql", "c3d:pod_requests:rate5m"),
    M("a label that the metric has not", MONITORING,
      swap(RULES, "spec/groups/c3d-requests/rules/c3d:pod_requests:rate5m/expr",
           'model_name="c3d"', 'model="c3d"'),
      "promql", "has no label model"),
    M("a record that nobody makes", MONITORING,
      swap(RULES, "spec/groups/c3d-quality/rules/C3DErrorRatioHigh/expr", "ratio5m", "ratio10m"),
      "promql", "no metric c3d:request_errors:ratio10m"),
    M("a job of another name", MONITORING,
      swap(RULES, "spec/groups/c3d-requests/rules/c3d:pod_requests:rate5m/expr",
           'job="c3d-serving"', 'job="c3d-http"'),
      "promql", 'job="c3d-http", and the ServiceMonitor makes'),
    M("a metric that is dropped while scraping", MONITORING,
      put("ServiceMonitor/c3d-serving", "spec/endpoints/0/metricRelabelings/0/regex",
          ":tensorflow:serving:request_.+"),
      "promql", "drops :tensorflow:serving:batching_session:queuing_latency_sum"),
    M("KEDA asks for a metric that is not there", "components/autoscaling-keda",
      swap("ScaledObject/c3d-serving", "spec/triggers/0/metadata/query", "latency_sum", "time_sum"),
      "promql", "no metric :tensorflow:serving:request_time_sum"),
    M("a dashboard that asks for another metric", MONITORING,
      swap("ConfigMap/c3d-dashboard", "data/c3d.json", "c3d:pod_batch_rows:mean5m", "c3d:rows"),
      "promql", "no metric c3d:rows"),
)

ALERTS = (
    M("an alert without a runbook", MONITORING,
      drop(RULES, "spec/groups/c3d-quality/rules/C3DErrorRatioHigh/annotations/runbook"), "alerts",
      "C3DErrorRatioHigh: no runbook line"),
    M("a runbook that is not written", MONITORING,
      put(RULES, "spec/groups/c3d-quality/rules/C3DErrorRatioHigh/annotations/runbook",
          "k8s/ALERTS.md#errors"),
      "alerts", "runbook k8s/ALERTS.md#errors is no heading"),
    M("an alert that does not wait", MONITORING,
      drop(RULES, "spec/groups/c3d-quality/rules/C3DErrorRatioHigh/for"), "alerts", "no `for`"),
    M("an alert of no severity", MONITORING,
      drop(RULES, "spec/groups/c3d-quality/rules/C3DErrorRatioHigh/labels"), "alerts",
      "no severity"),
    M("a dashboard that is no JSON", MONITORING,
      swap("ConfigMap/c3d-dashboard", "data/c3d.json", '"panels": [', '"panels": [,'), "dashboards",
      "no JSON"),
    M("a dashboard without a name for links", MONITORING,
      swap("ConfigMap/c3d-dashboard", "data/c3d.json", '"uid": "c3d', '"id": "c3d'), "dashboards",
      "no uid"),
    M("scaling by GPU load", "components/autoscaling-keda",
      put("ScaledObject/c3d-serving", "spec/triggers/0/metadata/query",
          "avg(DCGM_FI_DEV_GPU_UTIL)"),
      "autoscaling", "a duty cycle is not work"),
    M("two autoscalers of one Deployment", "components/autoscaling-hpa",
      extra({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "c3d"},
             "spec": {"scaleTargetRef": {"name": "c3d-serving"}, "triggers": []}}),
      "autoscaling", "c3d-serving: 2 autoscalers"),
    M("scaling by CPU", "components/autoscaling-hpa",
      put("HorizontalPodAutoscaler/c3d-serving", "spec/metrics",
          [{"type": "Resource", "resource": {"name": "cpu", "target": {
              "type": "Utilization", "averageUtilization": 80}}}]),
      "autoscaling", "scales by Resource"),
    M("scaling by a metric that nothing gives", "components/autoscaling-hpa",
      put("HorizontalPodAutoscaler/c3d-serving", "spec/metrics/0/pods/metric/name",
          "c3d_in_flight"),
      "autoscaling", "nothing gives a metric c3d_in_flight"),
)
