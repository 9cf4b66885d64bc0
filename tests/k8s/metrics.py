"""Metric names that exist: TensorFlow Serving's at 2.20, and those of what runs beside it."""

from __future__ import annotations

_SERVING = ":tensorflow:serving:"
_SERVING_COUNTERS = ("request_count", "request_example_count_total")
_SERVING_HISTOGRAMS = (
    "request_latency",
    "runtime_latency",
    "request_example_counts",
    "model_warmup_latency",
    "batching_session:queuing_latency",
    "batching_session:input_batch_size",
    "batching_session:processed_batch_size",
    "batching_session:padding_size",
)
_OTHERS = (
    ":tensorflow:cc:saved_model:load_attempt_count",
    ":tensorflow:cc:saved_model:load_latency",
    ":tensorflow:core:graph_runs",
    # Prometheus' own.
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
    # The kubelet's (cAdvisor).
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
KNOWN = frozenset(
    [
        *_OTHERS,
        *(_SERVING + counter for counter in _SERVING_COUNTERS),
        *(
            f"{_SERVING}{h}_{part}"
            for h in _SERVING_HISTOGRAMS
            for part in ("bucket", "sum", "count")
        ),
    ]
)
# Labels that TensorFlow Serving puts on a metric, by its name's end. Prometheus adds the others.
SERVING_LABELS = {
    "request_count": {"model_name", "status"},
    "request_latency": {"model_name", "API", "entrypoint"},
    "runtime_latency": {"model_name", "API", "runtime"},
    "queuing_latency": {"thread_pool_name"},
    "model_warmup_latency": {"model_path", "status"},
}
TARGET_LABELS = frozenset(
    {"namespace", "pod", "service", "job", "container", "endpoint", "instance", "node", "le"}
)
