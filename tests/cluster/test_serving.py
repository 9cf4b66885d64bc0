"""Servers with a client: replaced, scaled, evicted, killed, and given new and broken versions."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from cluster import kube, serving, tree
from cluster.kube import SERVING as NAMESPACE
from cluster.kube import kubectl, wait_until

pytestmark = pytest.mark.cluster

SERVER = f"dns:///c3d-grpc.{NAMESPACE}.svc.cluster.local:8500"
DEPLOYMENT = "deployment/c3d-serving"
# Narrow networks need little; the limits, and all times, are those of cpu-dev.
_SMALL = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "c3d-serving"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "server",
                        # As both autoscaling components have it: for several pods.
                        "env": [{"name": "MAX_CONNECTION_AGE_MS", "value": "30000"}],
                        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                    }
                ]
            }
        }
    },
}
# At this pause the client is never done before the last event, and always has work.
_VIDEOS, _PAUSE_S = 500, 0.5
# A pod starts in 15 s on an idle machine, and ends 35 s after it is deleted.
_START_S, _END_S = 180, 120


@pytest.fixture(scope="module")
def version(permission, tmp_path_factory) -> Path:
    """A version of the narrow network."""
    return serving.build_version(tmp_path_factory.mktemp("version"), seed=1)


@pytest.fixture(scope="module", autouse=True)
def service(version, tmp_path_factory) -> None:
    """One server with version 1, and the toolbox with a video."""
    folder = tree.copy(tmp_path_factory.mktemp("serving"), "cpu-dev")
    own = {"namespace": NAMESPACE}
    setup = tree.bundle(folder, "test-setup", {**own, "resources": ["../setup/one-node"]})
    patch = {"patch": yaml.safe_dump(_SMALL)}
    server = tree.bundle(
        folder, "test-server", {**own, "resources": ["../overlays/cpu-dev"], "patches": [patch]}
    )
    kubectl("apply", "-k", str(setup))
    kubectl("apply", "-k", str(server))
    serving.start_toolbox(NAMESPACE, "c3d-models")
    serving.add_version(NAMESPACE, version, 1)
    video = serving.demo_video(folder / "video.mp4")
    serving.upload(NAMESPACE, video, f"{serving.WORK}/video.mp4")
    serving.upload(NAMESPACE, Path(__file__).with_name("paced_site.py"), f"{serving.WORK}/site.py")
    rollout_status()


class Client:
    """A running `c3d extract` of paced videos in the toolbox.

    Args:
        name: of its folders in the toolbox.
        port: of its web server.
    """

    def __init__(self, name: str, port: int) -> None:
        self.folder = f"{serving.WORK}/{name}"
        script = f"""
            mkdir -p {self.folder}; cd {self.folder}
            python ../site.py {port} {_PAUSE_S} ../video.mp4 & trap "kill $!" EXIT
            seq -f 'http://127.0.0.1:{port}/%g.mp4' {_VIDEOS} >list
            rc=0; c3d extract - --out out --server {SERVER} <list || rc=$?
            echo "exit code $rc"
        """
        self._process = serving.shell_process(NAMESPACE, script)

    def done(self) -> int:
        """Return how many videos have a file."""
        count = f"find {self.folder}/out -name '*.npz' 2>/dev/null | wc -l"
        return int(serving.shell(NAMESPACE, count))

    def works(self, *, timeout_s: float = 60) -> None:
        """Wait until three more videos have a file.

        Raises:
            AssertionError: the client has ended, or makes no progress.
        """
        before = self.done()

        def progress() -> bool:
            assert self._process.poll() is None, f"ended early: {self._output()}"
            return self.done() >= before + 3

        wait_until("progress of the client", progress, timeout_s=timeout_s)

    def finish(self) -> str:
        """Let the client end, check that nothing is lost, and return what it printed.

        Raises:
            AssertionError: a video has no file, failures.csv has a line, or the exit code is not 0.
        """
        assert self._process.poll() is None, f"ended early: {self._output()}"
        serving.shell(NAMESPACE, f"touch {self.folder}/go")
        printed = self._output()
        assert printed.endswith("exit code 0\n"), printed
        assert self.done() == _VIDEOS, printed
        # The header alone, where the file exists.
        failures = serving.shell(NAMESPACE, f"cat {self.folder}/out/failures.csv || true")
        assert len(failures.splitlines()) <= 1, failures
        return printed

    def stop(self) -> None:
        """End the client, after a failure."""
        self._process.kill()
        self._process.wait()

    def _output(self) -> str:
        return self._process.communicate(timeout=180)[0]


@pytest.fixture
def client(request):
    """A client that has begun to write files."""
    name = request.node.name.removeprefix("test_")[:20]
    client = Client(name, 8000 + len(request.node.name))
    try:
        client.works(timeout_s=90)
        yield client
    finally:
        client.stop()


def rollout_status() -> None:
    kubectl(
        *("rollout", "status", DEPLOYMENT, f"--timeout={_START_S}s"),
        namespace=NAMESPACE,
        timeout_s=_START_S + 30,
    )


def scale(replicas: int) -> None:
    kubectl("scale", DEPLOYMENT, f"--replicas={replicas}", namespace=NAMESPACE)


def wait_for_servers(count: int) -> list[str]:
    """Return the ready servers' names once there are this many and no others."""

    def found() -> list[str]:
        everything = kube.get(
            "pods", namespace=NAMESPACE, labels="app.kubernetes.io/name=c3d-serving"
        )
        ready = kube.ready_pods(NAMESPACE)
        return ready if len(ready) == len(everything) == count else []

    return wait_until(f"{count} servers alone", found, timeout_s=_START_S + _END_S)


def evict(pod: str) -> str:
    """Ask for a pod's eviction, as `kubectl drain` does; return the answer, empty if accepted."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    done = kube.try_kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    return done.stderr if done.returncode else ""


def kill_server(pod: str) -> None:
    """Send SIGKILL to the server in a pod: the child of the container's process 1."""
    script = """
        for process in /proc/[0-9]*; do
            grep -q "^PPid:[[:space:]]*1$" $process/status && kill -9 ${process#/proc/}
        done
        true
    """
    kubectl("exec", pod, "--", "sh", "-c", script, namespace=NAMESPACE)


def restarts(pod: str) -> int:
    (status,) = kube.get("pod", pod, namespace=NAMESPACE)["status"]["containerStatuses"]
    return int(status["restartCount"])


def status_of_versions() -> dict[str, str]:
    """Return each version's state, from a server's REST API."""
    (pod,) = kube.ready_pods(NAMESPACE)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8501/proxy/v1/models/c3d"
    versions = json.loads(kubectl("get", "--raw", path))["model_version_status"]
    return {status["version"]: status["state"] for status in versions}


def test_roll_outs_scaling_and_evictions_lose_nothing(client):
    (first,) = wait_for_servers(1)
    kubectl("rollout", "restart", DEPLOYMENT, namespace=NAMESPACE)
    rollout_status()
    (second,) = wait_for_servers(1)
    assert second != first
    client.works()

    scale(2)
    pair = wait_for_servers(2)
    client.works()

    assert not evict(pair[0])
    refused = evict(pair[1])
    assert "disruption budget" in refused, "the second of two servers was evicted at once"
    client.works()
    wait_until(
        "a replacement of the evicted server",
        lambda: len(kube.ready_pods(NAMESPACE)) == 2 and pair[0] not in kube.ready_pods(NAMESPACE),
        timeout_s=_START_S,
    )
    assert not evict(pair[1]), "a replacement is ready"
    client.works()

    scale(1)
    (last,) = wait_for_servers(1)
    assert last not in (first, second, pair[0], pair[1])
    client.works()
    client.finish()


def test_client_waits_for_the_only_server_while_it_restarts(client, record_property):
    (pod,) = wait_for_servers(1)
    before = restarts(pod)
    killed = time.monotonic()
    kill_server(pod)
    wait_until("a restart", lambda: restarts(pod) > before, timeout_s=30)
    wait_until("ready again", lambda: kube.ready_pods(NAMESPACE) == [pod], timeout_s=_START_S)
    print(f"killed; ready again after {time.monotonic() - killed:.0f} s")
    client.works()
    # As component no-surge has it: the old pod ends before the new one starts.
    surge = {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    kubectl("patch", DEPLOYMENT, "--patch", json.dumps({"spec": surge}), namespace=NAMESPACE)
    kubectl("rollout", "restart", DEPLOYMENT, namespace=NAMESPACE)
    began = time.monotonic()
    rollout_status()
    print(f"rolled out without surge in {time.monotonic() - began:.0f} s")
    client.works()
    printed = client.finish()
    assert re.search(r"waiting for dns:///c3d-grpc\S+ \(", printed), printed


def test_a_new_version_is_served_and_a_broken_one_leaves_it_in_place(version):
    serving.add_version(NAMESPACE, version, 2)
    two_alone = {"2": "AVAILABLE"}
    wait_until(
        "version 2 in place of version 1",
        lambda: {v: s for v, s in status_of_versions().items() if s != "END"} == two_alone,
        timeout_s=90,
    )
    store = f"{serving.MODELS}/c3d"
    serving.shell(NAMESPACE, f"cp -r {store}/2 {store}/.3; : >{store}/.3/saved_model.pb")
    serving.shell(NAMESPACE, f"mv {store}/.3 {store}/3")
    # It is noticed within 30 s, and tried twice, 10 s apart.
    wait_until(
        "a failure of version 3", lambda: status_of_versions().get("3") == "END", timeout_s=90
    )
    assert status_of_versions()["2"] == "AVAILABLE"
    shown = serving.shell(NAMESPACE, f"c3d status --server {SERVER}")
    assert re.search(r"\b2\b.*AVAILABLE", shown), shown
    serving.shell(
        NAMESPACE,
        f"c3d extract {serving.WORK}/video.mp4 --out {serving.WORK}/after --server {SERVER}",
    )
