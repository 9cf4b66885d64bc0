"""Run a compiled pipeline on a cluster without Kubeflow: each step is a plain pod.

kfp.local follows the pipeline's graph. For each task this makes the pod that Kubeflow's driver and
compiler would make of the executor and its settings for Kubernetes. Differences: there is no
launcher, so the artifacts are in a folder of the data's claim, and process 1 is `_PROCESS_1`.

Arguments of the process, which is separate because kfp.local leaves print and logging patched: a
JSON text, made by `start`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from images.run_pipeline import run_pipeline, step_of
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2

Object = dict[str, Any]
Container = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec

RUN_LABEL, STEP_LABEL = "c3d-test/run", "c3d-test/step"
# Where the artifacts are in the pods, and in the claim: a folder that uid 65532 may write to.
_ROOT, FOLDER = "/artifacts", "artifacts"
_POD_S = 300
# What a pod is made of; other settings are an error.
_SETTINGS = {
    *("pvc_mount", "empty_dir_mounts", "secret_as_volume", "pod_metadata", "image_pull_policy"),
    *("secret_as_env", "config_map_as_env", "active_deadline_seconds", "security_context"),
    *("node_selector", "tolerations"),
}
# Starts a step in a process group of its own, and ends with its exit code and, as the container's
# message, the files of its result and its output parameters. At SIGTERM the group gets the signal;
# "dies" then ends at once, as Argo's executor does when Kubeflow's launcher is gone, and "waits"
# first waits for the processes.
_PROCESS_1 = """
import contextlib, json, os, pathlib, signal, subprocess, sys
how, names, *command = sys.argv[1:]
files = list(map(pathlib.Path, json.loads(names)))
for file in files:
    file.unlink(missing_ok=True)
step = subprocess.Popen(command, start_new_session=True)
def stop(number, frame):
    os.killpg(step.pid, signal.SIGTERM)
    if how == "dies":
        os._exit(128 + number)
signal.signal(signal.SIGTERM, stop)
code = step.wait()
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()
texts = {str(file): file.read_text() for file in files if file.exists()}
pathlib.Path("/dev/termination-log").write_text(json.dumps(texts))
sys.exit(code if code >= 0 else 128 - code)
"""


class Executors:
    """The executors of a compiled pipeline, as Kubeflow's messages.

    Args:
        path: the compiled file.
    """

    def __init__(self, path: Path) -> None:
        document, platform_document = yaml.safe_load_all(path.read_text())
        spec = json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())
        deployment = json_format.ParseDict(
            json_format.MessageToDict(spec.deployment_spec),
            pipeline_spec_pb2.PipelineDeploymentConfig(),
        )
        platform = json_format.ParseDict(platform_document, pipeline_spec_pb2.PlatformSpec())
        settings = platform.platforms["kubernetes"].deployment_spec.executors
        self._of: dict[str, tuple[Container, KubernetesExecutorConfig]] = {}
        for label, executor in deployment.executors.items():
            config = json_format.ParseDict(
                json_format.MessageToDict(settings[label]), KubernetesExecutorConfig()
            )
            step = step_of(list(executor.container.args))
            assert step not in self._of, f"{path}: two executors of {step}"
            self._of[step] = executor.container, config

    @property
    def steps(self) -> list[str]:
        """The names of the steps."""
        return list(self._of)

    def pod(self, command: list[str], *, process_1: str = "dies") -> Object:
        """Return the pod of a task, without a name.

        Args:
            command: of the task, with its input.
            process_1: what the pod's first process does at SIGTERM, `dies` or `waits`.

        Raises:
            ValueError: the executor has a setting that no pod is made of here.
        """
        step = step_of(command)
        container, config = self._of[step]
        if other := {field.name for field, _ in config.ListFields()} - _SETTINGS:
            raise ValueError(f"{step}: no pod is made of {', '.join(sorted(other))}")
        outputs = json.loads(command[command.index("--executor_input") + 1])["outputs"]
        parameters = outputs.get("parameters", {}).values()
        files = [each["outputFile"] for each in (outputs, *parameters)]
        resources = container.resources
        main: Object = {
            "name": "main",
            "image": container.image,
            "command": ["python3", "-c", _PROCESS_1, process_1, json.dumps(files)],
            "args": command,
            "env": [{"name": variable.name, "value": variable.value} for variable in container.env],
            "resources": {
                "requests": {
                    "cpu": resources.resource_cpu_request,
                    "memory": resources.resource_memory_request,
                },
                "limits": {
                    "cpu": resources.resource_cpu_limit,
                    "memory": resources.resource_memory_limit,
                },
            },
            # The first three are the compiler's own.
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
                "runAsUser": config.security_context.run_as_user,
                "runAsGroup": config.security_context.run_as_group,
                "runAsNonRoot": config.security_context.run_as_non_root,
            },
        }
        if config.image_pull_policy:
            main["imagePullPolicy"] = config.image_pull_policy
        spec: Object = {"restartPolicy": "Never", "containers": [main]}
        if config.active_deadline_seconds:
            spec["activeDeadlineSeconds"] = config.active_deadline_seconds
        if config.HasField("node_selector"):
            spec["nodeSelector"] = _constant(config.node_selector.node_selector_json)
        spec["tolerations"] = list(map(json_format.MessageToDict, config.tolerations))
        main["env"] += _variables(config)
        spec["volumes"], main["volumeMounts"] = _volumes(config)
        metadata = {
            "labels": {**config.pod_metadata.labels, STEP_LABEL: step},
            "annotations": dict(config.pod_metadata.annotations),
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def command(step: str) -> list[str]:
    """Return a task's command, which does nothing, for a pod that is not to run."""
    given = json.dumps({"outputs": {"outputFile": f"{_ROOT}/output"}})
    return ["true", "--executor_input", given, "--function_to_execute", step]


def _constant(parameter: Any) -> Any:
    assert parameter.HasField("runtime_value"), f"not a constant: {parameter}"
    return json_format.MessageToDict(parameter.runtime_value.constant)


def _variables(config: KubernetesExecutorConfig) -> list[Object]:
    variables = []
    for source in config.config_map_as_env:
        for pair in source.key_to_env:
            name = _constant(source.config_map_name_parameter)
            key = {"name": name, "key": pair.config_map_key, "optional": source.optional}
            variables.append({"name": pair.env_var, "valueFrom": {"configMapKeyRef": key}})
    for source in config.secret_as_env:
        for pair in source.key_to_env:
            name = _constant(source.secret_name_parameter)
            key = {"name": name, "key": pair.secret_key, "optional": source.optional}
            variables.append({"name": pair.env_var, "valueFrom": {"secretKeyRef": key}})
    return variables


def _volumes(config: KubernetesExecutorConfig) -> tuple[list[Object], list[Object]]:
    """Return the pod's volumes and the container's mounts."""
    volumes, mounts = [], []
    for mount in config.pvc_mount:
        claim = _constant(mount.pvc_name_parameter)
        volumes.append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": claim, "mountPath": mount.mount_path})
    # In place of the launcher, which copies artifacts from and to a bucket.
    for volume in volumes[:1]:
        mounts.append({"name": volume["name"], "mountPath": _ROOT, "subPath": FOLDER})
    for mount in config.empty_dir_mounts:
        empty: Object = {"sizeLimit": mount.size_limit} if mount.size_limit else {}
        if mount.medium:
            empty["medium"] = mount.medium
        volumes.append({"name": mount.volume_name, "emptyDir": empty})
        mounts.append({"name": mount.volume_name, "mountPath": mount.mount_path})
    for mount in config.secret_as_volume:
        name = _constant(mount.secret_name_parameter)
        secret = {"secretName": name, "optional": mount.optional}
        volumes.append({"name": name, "secret": secret})
        mounts.append({"name": name, "mountPath": mount.mount_path})
    return volumes, mounts


class _Pods:
    """Runs tasks as pods, one at a time, and prints their logs."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        from kubernetes import client, config

        config.load_kube_config()
        self._api = client.CoreV1Api()
        self._job = job
        self._executors = Executors(Path(job["pipeline"]))
        self._numbers = itertools.count(1)
        self._one_at_a_time = threading.Lock()

    def run(self, task: Any) -> int:
        """Run a task and return the exit code of its pod; 1 if the pod is deleted."""
        with self._one_at_a_time:
            command = [word.replace(task.pipeline_root, _ROOT) for word in task.full_command]
            pod = self._executors.pod(command, process_1=self._job["process_1"])
            name = f"{self._job['name']}-{next(self._numbers):02}-{step_of(command)}"
            pod["metadata"]["name"] = name
            pod["metadata"]["labels"][RUN_LABEL] = self._job["name"]
            namespace = self._job["namespace"]
            self._api.create_namespaced_pod(namespace, pod)
            state = self._end(name)
            if state is None:
                print(f"pod {name} is gone")
                return 1
            # As bytes: the client would turn a text that looks like JSON into Python's repr.
            log = self._api.read_namespaced_pod_log(name, namespace, _preload_content=False)
            print(log.data.decode(errors="replace"))
            # Where kfp.local looks for them.
            for name, text in json.loads(state.message or "{}").items():
                file = Path(name.replace(_ROOT, task.pipeline_root))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text.replace(_ROOT, task.pipeline_root))
            return int(state.exit_code)

    def _end(self, name: str) -> Any:
        """Return how a pod's container ended; None if the pod was deleted."""
        from kubernetes import watch

        watched = watch.Watch().stream(
            self._api.list_namespaced_pod,
            self._job["namespace"],
            field_selector=f"metadata.name={name}",
            timeout_seconds=_POD_S,
        )
        for event in watched:
            status = event["object"].status
            if event["type"] == "DELETED":
                return None
            if status.phase in ("Succeeded", "Failed") and status.container_statuses:
                return status.container_statuses[0].state.terminated
        raise TimeoutError(f"pod {name} did not end within {_POD_S} s")


def start(
    pipeline: Path,
    name: str,
    arguments: Mapping[str, Any],
    *,
    namespace: str,
    folder: Path,
    process_1: str = "dies",
) -> subprocess.Popen[str]:
    """Start a process that runs a compiled pipeline; its output has the logs of the steps.

    Args:
        pipeline: the compiled file.
        name: of the run, the first part of its pods' names and their label `RUN_LABEL`.
        arguments: of the pipeline.
        namespace: has the claims, and in the first claim of the steps the folder `FOLDER`.
        folder: for kfp.local's files on this machine.
        process_1: as of `Executors.pod`.
    """
    job = {
        "pipeline": str(pipeline),
        "name": name,
        "arguments": dict(arguments),
        "namespace": namespace,
        "root": str(folder / name),
        "process_1": process_1,
    }
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.pipeline_pods", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def main(text: str) -> None:
    """Run a pipeline.

    Raises:
        RuntimeError: a step failed.
    """
    job = json.loads(text)
    run_pipeline(Path(job["pipeline"]), job["root"], job["arguments"], _Pods(job).run)


if __name__ == "__main__":
    main(sys.argv[1])
