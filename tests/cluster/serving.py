"""Models, videos, and a pod that has them: the store's writer and the place of the clients."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from c3d_export.weights import npz, random_weights
from support.videos import moving_texture, write_video

from cluster.images import PIPELINES
from cluster.kube import BIN, command, kubectl

TOOLBOX = "toolbox"
NARROW = 4  # conv1's filters: the same layers and features, 1/250 of the work
# Where the toolbox has its claims, and a folder to write to.
MODELS, WEIGHTS, DATA, WORK = "/models", "/weights", "/data", "/work"
_CLAIMS = {"c3d-models": MODELS, "c3d-weights": WEIGHTS, "c3d-pipelines-data": DATA}
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def build_version(folder: Path, *, seed: int) -> Path:
    """Build a version of the narrow network on this machine and return its folder."""
    base = folder / f"random-{seed}"
    build = [str(BIN / "c3d-export"), "build", "--weights", f"random:{seed}"]
    build += ["--width", str(NARROW), "--out", str(base)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return base / "1"


def narrow_weights(path: Path, *, seed: int, trained: bool) -> Path:
    """Write a weight file of the narrow network, marked as random unless it is to be trained."""
    weights = random_weights(seed, width=NARROW)
    if trained:
        weights = dataclasses.replace(weights, random=False, note="", source="trained")
    npz.write(path, weights)
    return path


def demo_video(path: Path) -> Path:
    """Write a video that moves to the left, of 68 frames."""
    return write_video(path, 68, width=176, height=144, draw=moving_texture)


def restricted_pod(
    name: str, *containers: dict[str, Any], volumes: Iterable[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return a pod that "restricted" accepts, whose containers have a writable /tmp."""
    each = [
        {
            "imagePullPolicy": "IfNotPresent",
            **container,
            "securityContext": _RESTRICTED,
            "volumeMounts": [
                *container.get("volumeMounts", ()),
                {"name": "scratch", "mountPath": "/tmp"},
            ],
        }
        for container in containers
    ]
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 65532),
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": each,
        "volumes": [*volumes, {"name": "scratch", "emptyDir": {}}],
    }
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def start_toolbox(namespace: str, *claims: str) -> None:
    """Start the toolbox with claims of the namespace, as a pod that "restricted" accepts."""
    mounts = [{"name": claim, "mountPath": _CLAIMS[claim]} for claim in claims]
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    container = {
        "name": TOOLBOX,
        "image": PIPELINES,
        "command": ["sleep", "infinity"],
        "env": [{"name": "HOME", "value": WORK}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "volumeMounts": [*mounts, {"name": "work", "mountPath": WORK}],
    }
    pod = restricted_pod(TOOLBOX, container, volumes=[*volumes, {"name": "work", "emptyDir": {}}])
    kubectl("apply", "-f", "-", namespace=namespace, stdin=yaml.safe_dump(pod))
    kubectl(
        "wait", f"pod/{TOOLBOX}", "--for=condition=Ready", "--timeout=120s", namespace=namespace
    )


def claim(namespace: str, name: str) -> None:
    """Make a claim of the default storage class, as for weights of the user's own."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    obj = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}}
    kubectl("apply", "-f", "-", namespace=namespace, stdin=yaml.safe_dump({**obj, "spec": spec}))


def shell(namespace: str, script: str, *, timeout_s: float = 120) -> str:
    """Run a shell script in the toolbox and return what it printed."""
    inside = ("exec", TOOLBOX, "--", "sh", "-euc", script)
    return kubectl(*inside, namespace=namespace, timeout_s=timeout_s)


def shell_process(namespace: str, script: str) -> subprocess.Popen[str]:
    """Start a shell script in the toolbox; its standard output is a pipe, errors included."""
    inside = ("exec", TOOLBOX, "--", "sh", "-euc", f"exec 2>&1; {script}")
    return subprocess.Popen(
        command(*inside, namespace=namespace), stdout=subprocess.PIPE, text=True
    )


def upload(namespace: str, source: Path, target: str) -> None:
    """Copy a file or folder into the toolbox."""
    kubectl("cp", str(source), f"{namespace}/{TOOLBOX}:{target}")


def add_version(namespace: str, version: Path, number: int) -> None:
    """Copy a version to the model store under a number, whole or not at all for the server."""
    shell(namespace, f"mkdir -p {MODELS}/c3d")
    upload(namespace, version, f"{MODELS}/c3d/.copy-{number}")
    shell(namespace, f"mv {MODELS}/c3d/.copy-{number} {MODELS}/c3d/{number}")
