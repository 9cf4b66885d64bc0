"""kubectl: run it, read objects, and wait for what they show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]
_T = TypeVar("_T")

# The documents' namespace, and those of the other files of tests.
DOCUMENTS = "c3d"
SERVING = "c3d-test-serving"
JOBS = "c3d-test-jobs"
STRICT, APPLY, UPGRADE = "c3d-test-strict", "c3d-test-apply", "c3d-test-upgrade"
PIPELINES = "c3d-test-pipelines"
IMAGES, DIAGNOSIS, CHECKS = "c3d-test-images", "c3d-test-diagnosis", "c3d-test-checks"
NAMESPACES = (DOCUMENTS, SERVING, JOBS, STRICT, APPLY, UPGRADE, PIPELINES, IMAGES)
NAMESPACES += (DIAGNOSIS, CHECKS)
# Kinds without a namespace that the components and the tests have objects of.
CLUSTER_KINDS = (
    "nodes",
    "priorityclasses.scheduling.k8s.io",
    "clusterqueues.kueue.x-k8s.io",
    "resourceflavors.kueue.x-k8s.io",
)
SERVERS = "app.kubernetes.io/name=c3d-serving"
BIN = Path(sys.executable).parent
_POLL_S = 1.0


class KubectlError(AssertionError):
    """kubectl failed; the message has the command and what kubectl printed."""


def kubectl(
    *arguments: str,
    namespace: str | None = None,
    stdin: str | None = None,
    timeout_s: float = 120,
) -> str:
    """Run kubectl and return its standard output.

    Raises:
        KubectlError: kubectl failed.
    """
    done = try_kubectl(*arguments, namespace=namespace, stdin=stdin, timeout_s=timeout_s)
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout}")
    return done.stdout


def try_kubectl(
    *arguments: str,
    namespace: str | None = None,
    stdin: str | None = None,
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl and return what it printed and its exit code."""
    return subprocess.run(
        command(*arguments, namespace=namespace),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def command(*arguments: str, namespace: str | None = None) -> list[str]:
    """Return the command line of kubectl, from this Python's environment where it has one."""
    installed = BIN / "kubectl"
    program = str(installed) if installed.exists() else "kubectl"
    return [program, *(("--namespace", namespace) if namespace else ()), *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which `kubectl` and `c3d` are this Python's."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def get(kind: str, name: str = "", *, namespace: str | None = None, labels: str = "") -> Any:
    """Return an object, or the list of objects where no name is given."""
    selector = ("--selector", labels) if labels else ()
    text = kubectl("get", kind, *filter(None, [name]), *selector, "-o", "json", namespace=namespace)
    found = json.loads(text)
    return found if name else found["items"]


def pods(namespace: str, labels: str = SERVERS) -> list[Object]:
    """Return the pods that are not being deleted, oldest first."""
    found = get("pods", namespace=namespace, labels=labels)
    alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return sorted(alive, key=lambda pod: pod["metadata"]["creationTimestamp"])


def is_ready(pod: Object) -> bool:
    """Return whether a pod passes its readiness probe."""
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ready_pods(namespace: str) -> list[str]:
    """Return the names of the servers that are ready and stay."""
    return [pod["metadata"]["name"] for pod in pods(namespace) if is_ready(pod)]


def condition(obj: Object, kind: str) -> Object | None:
    """Return an object's condition that is true, or None."""
    for found in obj.get("status", {}).get("conditions", ()):
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None


def wait_until(what: str, check: Callable[[], _T], *, timeout_s: float) -> _T:
    """Return the first true value of a check.

    Raises:
        AssertionError: there was none in time.
    """
    end = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(_POLL_S)


def existing_namespaces() -> set[str]:
    """Return those of the tests' namespaces that exist."""
    names = kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()
    return set(NAMESPACES) & set(names)


def cluster_objects() -> set[str]:
    """Return the names, with their kinds, of the project's objects that are in no namespace."""
    found: set[str] = set()
    for kind in CLUSTER_KINDS:
        # A kind whose CRD is absent is an error, and has no objects.
        listed = try_kubectl("get", kind, "-l", "app.kubernetes.io/part-of=c3d", "-o", "name")
        found.update(listed.stdout.split())
    return found


def remove(namespaces: Iterable[str], objects: Iterable[str] = ()) -> None:
    """Delete namespaces with all that is in them, at once, and other objects."""
    namespaces = sorted(namespaces)
    for namespace in namespaces:
        # Without the servers' drain, which takes up to 80 s.
        kill = ("--all", "--force", "--grace-period=0", "--ignore-not-found")
        for kind in ("deployments,jobs,horizontalpodautoscalers", "pods"):
            try_kubectl("delete", kind, *kill, "--wait=false", namespace=namespace)
    if namespaces:
        kubectl("delete", "namespace", *namespaces, "--ignore-not-found", timeout_s=300)
    for name in sorted(objects):
        kubectl("delete", name, "--ignore-not-found")
