"""The export Job: what it publishes, what it refuses, and how it fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import kube, serving, tree
from cluster.kube import JOBS as NAMESPACE
from cluster.kube import kubectl, wait_until

pytestmark = pytest.mark.cluster

# Of the scenarios' requests only: several Jobs run at the same time. Limits are as shipped.
_SMALL: dict[str, Any] = {"requests": {"cpu": "50m", "memory": "256Mi"}}
_START_S = 240
_GIVEN = {"components": ["../jobs/export-model/given-weights"]}
# 1 MiB, less than any version; memory, so that it needs nothing of the cluster's storage.
_FULL_STORE = {"name": "models", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}


class Jobs:
    """Export Jobs with settings of their own, in one copy of the manifests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(
        self,
        name: str,
        settings: dict[str, str],
        *,
        volumes: list[dict[str, Any]] | None = None,
        env: dict[str, str] | None = None,
        **parts: Any,
    ) -> None:
        """Apply the export Job under a name of its own.

        Args:
            name: a suffix of the names, and the model store's folder unless the settings name one.
            settings: what differs from settings.env.
            volumes: volumes that replace those of the Job.
            env: more variables of the container.
            parts: more parts of the kustomization.
        """
        store = {"MODEL_STORE": f"{serving.MODELS}/{name}/c3d"}
        pairs = [f"{key}={value}" for key, value in {**store, **settings}.items()]
        container: dict[str, Any] = {"name": "export", "resources": _SMALL}
        container["env"] = [{"name": key, "value": value} for key, value in (env or {}).items()]
        spec: dict[str, Any] = {"containers": [container]}
        if volumes:
            # Without the source that they have, as component given-weights does it.
            spec["volumes"] = [{"persistentVolumeClaim": None, **volume} for volume in volumes]
        patch = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "c3d-export-model"},
            "spec": {"template": {"spec": spec}},
        }
        kustomization = {
            "namespace": NAMESPACE,
            "nameSuffix": f"-{name}",
            "resources": ["../jobs/export-model"],
            **parts,
            "configMapGenerator": [
                {"name": "c3d-export-model", "behavior": "merge", "literals": pairs}
            ],
            "patches": [{"patch": yaml.safe_dump(patch)}],
        }
        kubectl("apply", "-k", str(tree.bundle(self._folder, f"test-{name}", kustomization)))


class Job:
    """A Job of the cluster, by its suffix."""

    def __init__(self, suffix: str) -> None:
        self.name = f"c3d-export-model-{suffix}"

    def ended(self) -> kube.Object:
        """Return the condition with which the Job ended, once it has."""

        def end() -> kube.Object | None:
            job = kube.get("job", self.name, namespace=NAMESPACE)
            return kube.condition(job, "Complete") or kube.condition(job, "Failed")

        found = wait_until(f"the end of {self.name}", end, timeout_s=_START_S)
        assert found is not None
        return found

    def pods(self) -> list[kube.Object]:
        """Return the Job's pods, oldest first."""
        return kube.pods(NAMESPACE, f"batch.kubernetes.io/job-name={self.name}")

    def exit_codes(self) -> list[int]:
        """Return the exit codes of the pods that have ended."""
        states = [pod["status"].get("containerStatuses", [{}])[0] for pod in self.pods()]
        ended = [state.get("state", {}).get("terminated") for state in states]
        return [int(state["exitCode"]) for state in ended if state]

    def log(self) -> list[str]:
        """Return the lines of the oldest pod's log."""
        oldest = self.pods()[0]["metadata"]["name"]
        return kubectl("logs", oldest, namespace=NAMESPACE).splitlines()

    def failed_at_once(self) -> str:
        """Check that the Job failed with exit code 2 in its first pod; return the last line.

        Raises:
            AssertionError: it ended otherwise, or printed a traceback.
        """
        end = self.ended()
        log = self.log()
        assert (end["type"], end["reason"]) == ("Failed", "PodFailurePolicy"), (end, log)
        assert self.exit_codes() == [2]
        assert not [line for line in log if "Traceback" in line], log
        return log[-1]

    def succeeded(self) -> list[str]:
        """Check that the Job succeeded in its first pod; return the lines of its log.

        Raises:
            AssertionError: it failed, or was retried.
        """
        end = self.ended()
        log = self.log()
        assert end["type"] == "Complete", (end, log)
        assert self.exit_codes() == [0]
        return log


@pytest.fixture(scope="module")
def jobs(permission, tmp_path_factory) -> Jobs:
    """The namespace, its claims, and weight files; Jobs that need nothing more have started."""
    folder = tree.copy(tmp_path_factory.mktemp("jobs"))
    own = {"namespace": NAMESPACE, "resources": ["../setup/one-node"]}
    kubectl("apply", "-k", str(tree.bundle(folder, "test-setup", own)))
    jobs = Jobs(folder)
    # Not published: the network is asked for a published name only, through a proxy that is absent.
    jobs.start(
        "network",
        {"WEIGHTS": "/weights/conv3d_deepnetA_sport1m_iter_1900000"},
        env={"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"},
    )
    serving.claim(NAMESPACE, "c3d-weights")
    serving.start_toolbox(NAMESPACE, "c3d-models", "c3d-weights")
    trained = serving.narrow_weights(folder / "trained.npz", seed=0, trained=True)
    random = serving.narrow_weights(folder / "random.npz", seed=1, trained=False)
    (folder / "wrong.caffemodel").write_text("not weights\n")
    for file in (trained, random, folder / "wrong.caffemodel"):
        serving.upload(NAMESPACE, file, f"{serving.WEIGHTS}/{file.name}")
    serving.shell(NAMESPACE, f"mkdir -p {serving.MODELS}/closed/c3d/1")
    serving.shell(NAMESPACE, f"chmod 000 {serving.MODELS}/closed/c3d")
    jobs.start("trained", {"WEIGHTS": "/weights/trained.npz"}, **_GIVEN)
    jobs.start("wrong", {"WEIGHTS": "/weights/wrong.caffemodel"}, **_GIVEN)
    jobs.start("missing", {"WEIGHTS": "/weights/my-own.caffemodel"}, **_GIVEN)
    jobs.start("closed", {"WEIGHTS": "/weights/random.npz"}, **_GIVEN)
    jobs.start("full", {"WEIGHTS": "/weights/random.npz"}, volumes=[_FULL_STORE], **_GIVEN)
    return jobs


def versions(store: str) -> list[str]:
    """Return what a model store has, hidden folders too."""
    return serving.shell(NAMESPACE, f"ls -A {serving.MODELS}/{store}/c3d").split()


def test_wrong_weight_file_fails_at_once(jobs):
    line = Job("wrong").failed_at_once()
    assert "/weights/wrong.caffemodel" in line, line


def test_file_that_is_neither_there_nor_published_fails_at_once(jobs):
    job = Job("missing")
    job.failed_at_once()
    assert any("my-own.caffemodel" in line and "not there" in line for line in job.log()), job.log()


def test_full_store_fails_at_once_with_the_bytes_needed_and_free(jobs):
    line = Job("full").failed_at_once()
    assert re.search(r"needs [0-9,]+ bytes, and [0-9,]+ are free", line), line


def test_store_that_cannot_be_read_fails_at_once(jobs):
    line = Job("closed").failed_at_once()
    assert f"{serving.MODELS}/closed/c3d" in line, line


def test_job_leaves_a_store_with_trained_weights_as_it_is_unless_asked(jobs):
    Job("trained").succeeded()
    assert versions("trained") == ["1"]
    store = {"MODEL_STORE": f"{serving.MODELS}/trained/c3d"}
    settings = {**store, "WEIGHTS": "/weights/random.npz"}
    jobs.start("again", settings, **_GIVEN)
    log = Job("again").succeeded()
    assert "over-trained" in log[-1], log
    assert versions("trained") == ["1"]
    jobs.start("over", {**settings, "OVER_TRAINED": "yes"}, **_GIVEN)
    Job("over").succeeded()
    assert versions("trained") == ["1", "2"]


def test_network_failures_are_retried_three_times(jobs):
    job = Job("network")
    end = job.ended()
    assert (end["type"], end["reason"]) == ("Failed", "BackoffLimitExceeded"), (end, job.log())
    assert job.exit_codes() == [75] * 4
