"""Checks of a cluster before a run is sent: what a backend accepts and then never starts.

The API of Kubeflow Pipelines accepts a run whose namespace, service account or claims do not exist,
and does not report it later. Where a kubeconfig or a pod's account gives access to the Kubernetes
API of the same cluster, the objects are looked up there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from c3d_pipelines.kubeflow.api import Backend
from c3d_pipelines.kubeflow.kube import Kube, KubeError, open_kube
from c3d_pipelines.kubeflow.pods import QUEUE_LABEL
from c3d_pipelines.kubeflow.submit import Package, RunOptions

# The accounts that Kubeflow brings for runs: of its own namespace, and of a user's profile.
SINGLE_USER_ACCOUNT, PROFILE_ACCOUNT = "pipeline-runner", "default-editor"
# Of k8s/pipelines up to release 0.1.0; it mounts no token, which each pod of a run needs.
_OLD_ACCOUNT = "c3d-pipelines"
_SERVICE = "ml-pipeline"  # of the API server of Kubeflow Pipelines
_USUAL_NAMESPACE = "kubeflow"
# Where the claims that the pipelines use by default come from.
_SETUPS = {"c3d-pipelines-data": "pipelines-data", "c3d-models": "pipelines-models"}
_PROFILE_LABEL = "pipelines.kubeflow.org/enabled"  # of the namespace of a user's profile
_KUEUE, _KUEUE_VERSIONS = "kueue.x-k8s.io", ("v1beta2", "v1beta1")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        text: one line.
        prevents: the run cannot work; otherwise it is a note.
    """

    text: str
    prevents: bool = False


def before_sending(
    backend: Backend, package: Package, options: RunOptions, *, kubernetes: bool = True
) -> list[Finding]:
    """Check namespace, service account, claims, secrets and queue of a run, in this order.

    The objects are looked up only where the Kubernetes API shows Kubeflow Pipelines, because a
    kubeconfig may be for another cluster; otherwise a note names the reason.

    Args:
        backend: of the cluster.
        package: the compiled pipeline.
        options: how the run is started.
        kubernetes: use the Kubernetes API where there is access to it.

    Raises:
        RunError: the API of Kubeflow Pipelines does not answer.
    """
    reason, home, kube = "there is no kubeconfig", None, None
    with contextlib.ExitStack() as stack:
        if kubernetes:
            try:
                kube = open_kube()
                if kube is not None:
                    stack.enter_context(kube)
                    home = _home(backend, kube)
                    reason = f"{kube.name} shows no Kubeflow Pipelines"
            except KubeError as error:
                reason = str(error)
        findings = [*_namespace(backend, home), *_old_account(options)]
        if kube is None or home is None:
            return [*findings, _not_checked(reason)] if kubernetes else findings
        if not home.exists:
            return findings
        try:
            for finding in _objects(backend, package, options, kube, home.namespace):
                findings.append(finding)
        except KubeError as error:
            findings.append(_not_checked(str(error)))
    return findings


@dataclass(frozen=True)
class _Home:
    """The namespace of the runs, on the cluster that the Kubernetes API is of."""

    namespace: str
    exists: bool = True


def _home(backend: Backend, kube: Kube) -> _Home | None:
    """Return where the runs are; None where the Kubernetes API may be of another cluster.

    Kubeflow Pipelines with a single user runs everything in its own namespace, which has its
    Service. With several users, the profile's namespace has a label or an account of Kubeflow, or
    else the usual namespace has the Service.
    """
    wanted = backend.access.namespace
    if not backend.multi_user:
        candidates = dict.fromkeys((wanted, kube.namespace, _USUAL_NAMESPACE))
        for namespace in filter(None, candidates):
            if _service(kube, namespace):
                return _Home(namespace)
        return None
    found, allowed = _read(kube, kube.core.read_namespace, name=wanted)
    labels = (found and found.metadata.labels) or {}
    account, _ = _read(
        kube, kube.core.read_namespaced_service_account, name=PROFILE_ACCOUNT, namespace=wanted
    )
    if _PROFILE_LABEL in labels or account:
        return _Home(wanted)
    if _service(kube, _USUAL_NAMESPACE):
        return _Home(wanted, exists=found is not None or not allowed)
    return None


def _service(kube: Kube, namespace: str) -> bool:
    return bool(
        _read(kube, kube.core.read_namespaced_service, name=_SERVICE, namespace=namespace)[0]
    )


def _objects(
    backend: Backend, package: Package, options: RunOptions, kube: Kube, namespace: str
) -> Iterator[Finding]:
    """Yield what the objects that the pods use lack."""
    pods = package.pods
    yield from _account(kube, namespace, options.service_account, multi_user=backend.multi_user)
    for name in _names(pods, "pvcMount", "constant"):
        yield from _claim(kube, namespace, name)
    volumes = [secret for pod in pods for secret in pod.get("secretAsVolume", ())]
    required = {secret["secretName"] for secret in volumes if not secret.get("optional")}
    for name in _names(pods, "secretAsVolume", "secretName"):
        yield from _secret(kube, namespace, name, "", prevents=name in required)
    for name in _names(pods, "secretAsEnv", "secretName"):
        yield from _secret(kube, namespace, name, "; its variables stay unset")
    for name in _names(pods, "imagePullSecret", "secretName"):
        yield from _secret(kube, namespace, name, "; images are pulled without it")
    labels = [pod.get("podMetadata", {}).get("labels", {}) for pod in pods]
    for name in sorted({found[QUEUE_LABEL] for found in labels if QUEUE_LABEL in found}):
        yield from _queue(kube, namespace, name)


def _namespace(backend: Backend, home: _Home | None) -> Iterator[Finding]:
    wanted = backend.access.namespace
    if home is not None and not home.exists:
        yield Finding(f"namespace {wanted}: does not exist", prevents=True)
    elif not backend.multi_user and wanted and (home is None or home.namespace != wanted):
        place = home.namespace if home else "its own namespace"
        yield Finding(
            f"namespace {wanted}: not used; this Kubeflow Pipelines has a single user and runs "
            f"everything in {place}"
        )


def _old_account(options: RunOptions) -> Iterator[Finding]:
    if options.service_account == _OLD_ACCOUNT:
        yield Finding(
            f"service account {_OLD_ACCOUNT}: of k8s/pipelines up to 0.1.0, cannot run a pipeline; "
            f"leave out --service-account, or give Kubeflow's own: {SINGLE_USER_ACCOUNT}, or "
            f"{PROFILE_ACCOUNT} in a user's namespace"
        )


def _account(
    kube: Kube, namespace: str, given: str | None, *, multi_user: bool
) -> Iterator[Finding]:
    usual = PROFILE_ACCOUNT if multi_user else SINGLE_USER_ACCOUNT
    name = given or usual
    what = f"service account {name}"
    found, allowed = _read(
        kube, kube.core.read_namespaced_service_account, name=name, namespace=namespace
    )
    if not allowed:
        yield _forbidden(what)
    elif found is None and given:
        yield Finding(
            f"{what}: does not exist in {namespace}; leave out --service-account to use "
            "Kubeflow's own",
            prevents=True,
        )
    elif found is None:
        # An installation may use another account by default.
        yield Finding(
            f"{what}: does not exist in {namespace}; if the run fails at once, give "
            "--service-account"
        )
    elif found.automount_service_account_token is False:
        yield Finding(
            f"{what}: mounts no token (automountServiceAccountToken: false), and each pod of a run "
            f"needs one; give --service-account {usual}",
            prevents=True,
        )


def _claim(kube: Kube, namespace: str, name: str) -> Iterator[Finding]:
    what = f"claim {name}"
    found, allowed = _read(
        kube, kube.core.read_namespaced_persistent_volume_claim, name=name, namespace=namespace
    )
    if not allowed:
        yield _forbidden(what)
        return
    if found is None:
        setup = _SETUPS.get(name)
        remedy = f"kubectl apply --namespace {namespace} -k k8s/setup/{setup}" if setup else ""
        yield Finding(
            f"{what}: does not exist in {namespace}; {remedy or 'create it, or give --pvc'}",
            prevents=True,
        )
        return
    phase, modes = found.status.phase, found.spec.access_modes or []
    if found.metadata.deletion_timestamp is not None or phase == "Lost":
        reason = "has lost its volume" if phase == "Lost" else "is being deleted"
        yield Finding(f"{what}: {reason}; create it again", prevents=True)
    elif modes == ["ReadOnlyMany"]:
        yield Finding(f"{what}: ReadOnlyMany, so the pods cannot write to it")
    elif modes == ["ReadWriteOncePod"]:
        yield Finding(f"{what}: ReadWriteOncePod, so the pods of the run wait for each other")
    elif modes == ["ReadWriteOnce"]:
        yield Finding(f"{what}: ReadWriteOnce, so all pods of the run must be on one node")
    elif phase == "Pending":
        yield Finding(f"{what}: has no volume yet; the pods wait until it has one")


def _secret(
    kube: Kube, namespace: str, name: str, effect: str, *, prevents: bool = False
) -> Iterator[Finding]:
    what = f"secret {name}"
    found, allowed = _read(kube, kube.core.read_namespaced_secret, name=name, namespace=namespace)
    if not allowed:
        yield _forbidden(what)
    elif found is None:
        yield Finding(f"{what}: does not exist in {namespace}{effect}", prevents)


def _queue(kube: Kube, namespace: str, name: str) -> Iterator[Finding]:
    where = {"group": _KUEUE, "plural": "localqueues", "namespace": namespace, "name": name}
    for version in _KUEUE_VERSIONS:
        found, allowed = _read(
            kube, kube.custom.get_namespaced_custom_object, version=version, **where
        )
        if not allowed:
            yield _forbidden(f"queue {name}")
        if found or not allowed:
            return
    yield Finding(f"queue {name}: there is no such LocalQueue in {namespace}")


def _read(kube: Kube, method: Callable[..., Any], **arguments: Any) -> tuple[Any | None, bool]:
    """Return an object, or None where there is none, and whether the user may read it."""
    try:
        return kube.found(method, **arguments), True
    except KubeError as error:
        if error.status != 403:
            raise
        return None, False


def _names(pods: Iterable[Mapping[str, Any]], field: str, key: str) -> list[str]:
    """Return the names of the objects that any of the pods uses."""
    return sorted({used[key] for pod in pods for used in pod.get(field, ()) if used.get(key)})


def _forbidden(what: str) -> Finding:
    return Finding(f"{what}: not checked, because the user may not read it")


def _not_checked(reason: str) -> Finding:
    return Finding(f"service account, claims and secrets: not checked, because {reason}")
