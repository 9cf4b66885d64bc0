"""The images of the tests: built, and brought to the nodes with the command in LOAD_IMAGE."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from k8s.render import ROOT

from cluster.kube import IMAGES, Object, get, is_ready, kubectl, try_kubectl

EXPORT = "docker.io/library/c3d-export:dev"
PIPELINES = "docker.io/library/c3d-pipelines:dev"
SERVER = "docker.io/library/c3d-test-server:dev"
_SERVER_FOLDER = "tests/cluster/server"
# What was loaded to which nodes, so that an unchanged image is loaded once.
_LOADED = ROOT / "build" / "test-cluster-images.json"


class ImageError(Exception):
    """An image could not be built or loaded."""


def bring(load: str | None) -> None:
    """Build the images, load them to the nodes, and start a pod with each.

    The pods show that the nodes have the images, and keep them: a kubelet that needs space removes
    images that no pod uses.

    Args:
        load: the command that loads a docker-archive `{tar}` with the image `{name}`; None where
            the nodes have the images, or pull them.

    Raises:
        ImageError: a build or the command failed, or a pod does not start.
    """
    engine = os.environ.get("ENGINE", "")
    if load:
        _run(["make", "--no-print-directory", "build"], "make build")
        _run([engine, "build", "--tag", SERVER, _SERVER_FOLDER], f"the build of {SERVER}")
    nodes = get("nodes")
    machines = sorted(node["status"]["nodeInfo"]["machineID"] for node in nodes)
    loaded = json.loads(_LOADED.read_text()) if _LOADED.exists() else {}
    kubectl("create", "namespace", IMAGES)
    for name in (EXPORT, PIPELINES, SERVER):
        if load:
            inspect = [engine, "image", "inspect", "--format", "{{.Id}}", name]
            identity = [_run(inspect, name).strip(), *machines]
            if loaded.get(name) != identity or not all(_has(node, name) for node in nodes):
                _load(engine, load, name)
                loaded[name] = identity
                _LOADED.parent.mkdir(parents=True, exist_ok=True)
                _LOADED.write_text(json.dumps(loaded))
        _start_pod(name)
    ready = ("wait", "pods", "--all", "--for=condition=Ready", "--timeout=120s")
    if try_kubectl(*ready, namespace=IMAGES, timeout_s=150).returncode:
        pods = [pod for pod in get("pods", namespace=IMAGES) if not is_ready(pod)]
        names = ", ".join(pod["spec"]["containers"][0]["image"] for pod in pods)
        raise ImageError(f"no node starts a pod of {names}; set LOAD_IMAGE")


def _load(engine: str, load: str, name: str) -> None:
    print(f"loading {name}", flush=True)
    # Not in /tmp, which may be in memory: the exporter's has 2.5 GB.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        tar = str(Path(folder) / "image.tar")
        _run([engine, "save", *_archive(engine), "--output", tar, name], f"saving {name}")
        words = [word.format(tar=tar, name=name) for word in shlex.split(load)]
        _run(words, f"LOAD_IMAGE for {name}")


def _start_pod(name: str) -> None:
    pod_name = name.rpartition("/")[2].partition(":")[0]
    container = {
        "name": pod_name,
        "image": name,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name}, "spec": spec}
    kubectl("create", "-f", "-", namespace=IMAGES, stdin=json.dumps(pod))


def _has(node: Object, name: str) -> bool:
    return any(name in image["names"] for image in node["status"].get("images", ()))


def _archive(engine: str) -> tuple[str, ...]:
    """Return podman's option for the only format that Docker writes."""
    return ("--format", "docker-archive") if Path(engine).name == "podman" else ()


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ImageError(f"{what}: {command[0] or 'the container engine'}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        # make's own last line says only that a command failed.
        reasons = [line for line in lines if not line.startswith("make")] or lines
        raise ImageError(f"{what} failed: {reasons[-1] if reasons else f'exit {done.returncode}'}")
    return done.stdout
