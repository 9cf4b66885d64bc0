"""Apply cluster settings to the tasks of a pipeline, with kfp's own Kubernetes extension."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from c3d_pipelines.kubeflow.cluster import ClusterSettings, amount

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class Size(enum.Enum):
    """Resources that a step needs.

    A SMALL step lists inputs, counts rows or fetches files.
    """

    SMALL = enum.auto()
    WORKER = enum.auto()
    EXPORT = enum.auto()


def configure_pod(
    task: Any, cluster: ClusterSettings, *, size: Size, image: str, mounts: Mapping[str, str]
) -> None:
    """Set image, resources, user, volumes, secrets and labels of a task's pod.

    The pod gets a user that is not root. With what Kubeflow itself sets (no privileges, no
    capabilities, the runtime's seccomp profile) it passes the Pod Security Standard "restricted".
    Kubeflow cannot set ``fsGroup``, so the volumes must let that user write.

    Args:
        task: a kfp task that is not compiled yet.
        cluster: the settings.
        size: the resources that the step needs.
        image: of the pod's container.
        mounts: claim to path.
    """
    from kfp import kubernetes

    task.set_container_image(image)
    cpu, memory = _resources(cluster, size)
    task.set_cpu_request(cpu[0]).set_cpu_limit(cpu[1])
    task.set_memory_request(memory[0]).set_memory_limit(memory[1])
    if size is Size.EXPORT and cluster.accelerator:
        task.set_accelerator_type(cluster.accelerator)
        task.set_accelerator_limit(cluster.accelerator_count)
    for variable, value in cluster.env.items():
        task.set_env_variable(variable, value)

    kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))
    kubernetes.set_security_context(
        task,
        run_as_user=cluster.run_as_user,
        run_as_group=cluster.run_as_user,
        run_as_non_root=True,
    )
    if cluster.node_selector:
        kubernetes.add_node_selector_json(task, dict(cluster.node_selector))
    if cluster.tolerations:
        kubernetes.add_toleration_json(task, list(map(dict, cluster.tolerations)))
    _add_volumes(task, cluster, mounts)
    for name, keys in cluster.secret_env.items():
        kubernetes.use_secret_as_env(task, name, dict(keys), optional=True)
    for name, keys in cluster.config_map_env.items():
        kubernetes.use_config_map_as_env(task, name, dict(keys), optional=True)
    queue = {QUEUE_LABEL: cluster.queue} if cluster.queue else {}
    for label, value in {**cluster.pod_labels, **queue}.items():
        kubernetes.add_pod_label(task, label, value)
    if cluster.timeout_s:
        kubernetes.set_timeout(task, cluster.timeout_s)


def pipeline_config(cluster: ClusterSettings) -> Any:
    """Return how long a run may take."""
    from kfp import dsl

    return dsl.PipelineConfig(active_deadline_seconds=cluster.active_deadline_seconds or None)


def set_retries(task: Any, cluster: ClusterSettings) -> None:
    """Have Kubeflow retry a task whose pod was lost.

    Which pods Kubeflow retries depends on its configuration. That of Kubeflow Pipelines 2.17
    retries deleted and evicted pods, and not those that end with an exit code; without it, it is
    the reverse. So each step also retries by itself.
    """
    if cluster.retries:
        task.set_retry(
            cluster.retries,
            backoff_duration=cluster.retry_backoff,
            backoff_factor=2.0,
            # Always given: the default of kfp is an hour, from the first attempt's start.
            backoff_max_duration=f"{cluster.retry_s}s",
        )


def _resources(cluster: ClusterSettings, size: Size) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return request and limit of CPU, and of memory."""
    if size is Size.EXPORT:
        cpu = cluster.export_cpu_request, cluster.export_cpu_limit
        return cpu, (cluster.export_memory_request, cluster.export_memory_limit)
    request = cluster.cpu_request
    if size is Size.SMALL:
        # A pod whose request exceeds its limit is refused.
        request = min(cluster.small_cpu_request, cluster.cpu_limit, key=amount)
    return (request, cluster.cpu_limit), (cluster.memory_request, cluster.memory_limit)


def _add_volumes(task: Any, cluster: ClusterSettings, mounts: Mapping[str, str]) -> None:
    from kfp import kubernetes

    for claim, path in mounts.items():
        kubernetes.mount_pvc(task, claim, path)
    for name, path in cluster.secret_volumes.items():
        kubernetes.use_secret_as_volume(task, name, path)
    # A file is written here before it is sent to a bucket.
    kubernetes.empty_dir_mount(
        task, volume_name="scratch", mount_path="/tmp", size_limit=cluster.scratch_size
    )
