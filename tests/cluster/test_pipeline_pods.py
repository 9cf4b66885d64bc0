"""The compiled pipelines' steps as pods: their commands, limits, signals and volumes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from c3d_pipelines import dataset
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import EXTRACTION, PIPELINES, compile_pipeline, compiled_path
from c3d_pipelines.reports.summary import RunSummary
from support.videos import write_video

from cluster import kube, pipeline_pods, serving
from cluster.images import PIPELINES as IMAGE
from cluster.images import SERVER
from cluster.kube import BIN, kubectl, wait_until
from cluster.kube import PIPELINES as NAMESPACE

pytestmark = pytest.mark.cluster

DATA = serving.DATA
_CLAIM = "c3d-pipelines-data"
_RUN_S = 300
# Other tests use the node at the same time; the scheduler's test takes the defaults.
_SMALL = {"cpu_request": "50m", "memory_request": "128Mi"}
_SERVER = "model-server"
_SETUP = [
    {
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    },
    {
        "kind": "Service",
        "metadata": {"name": _SERVER, "namespace": NAMESPACE},
        "spec": {"selector": {"app": _SERVER}, "ports": [{"port": 8500}]},
    },
    {
        "kind": "ConfigMap",
        "metadata": {"name": "c3d-pipelines-config", "namespace": NAMESPACE},
        "data": {"target": f"{_SERVER}.{NAMESPACE}.svc.cluster.local:8500"},
    },
]
_SERVER_CONTAINER = {
    "name": "server",
    "image": SERVER,
    "args": [
        *("--port=8500", "--rest_api_port=8501", "--model_name=c3d"),
        *("--model_base_path=/models/c3d", "--file_system_poll_wait_seconds=1"),
    ],
    "readinessProbe": {
        "httpGet": {"path": "/v1/models/c3d/metadata", "port": 8501},
        "periodSeconds": 1,
    },
    "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
    "volumeMounts": [{"name": "data", "mountPath": "/models", "subPath": "models"}],
}
# What a module does in the process of a step, before the step.
_IN_STEPS = """
import sys
if sys.orig_argv[1:3] == ["-m", "kfp.dsl.executor_main"]:
    {}
"""
# A video whose first picture takes all memory that there is.
_BOMB = """
    import av
    av_open = av.open
    def opened(file, *arguments, **options):
        if str(getattr(file, "name", file)).endswith("bomb.mp4"):
            taken = []
            while True:
                taken.append(bytearray(b"x" * (16 << 20)))
        return av_open(file, *arguments, **options)
    av.open = opened
"""


@pytest.fixture(scope="module", autouse=True)
def namespace(permission, tmp_path_factory) -> None:
    """A namespace that enforces "restricted", with a model server, its address and a volume."""
    with ThreadPoolExecutor() as pool:
        building = pool.submit(serving.build_version, tmp_path_factory.mktemp("version"), seed=1)
        for obj in _SETUP:
            kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", **obj}))
        serving.claim(NAMESPACE, _CLAIM)
        serving.start_toolbox(NAMESPACE, _CLAIM)
        serving.shell(NAMESPACE, f"cd {DATA}; mkdir -p models/c3d {pipeline_pods.FOLDER}")
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": _CLAIM}}
        create(serving.restricted_pod(_SERVER, _SERVER_CONTAINER, volumes=[volume]))
        serving.upload(NAMESPACE, building.result(), f"{DATA}/models/c3d/.copy")
    serving.shell(NAMESPACE, f"cd {DATA}/models/c3d; mv .copy 1")
    wait_for_pod(_SERVER, "condition=Ready", timeout_s=180)


def create(pod: kube.Object) -> None:
    kubectl("create", "-f", "-", namespace=NAMESPACE, stdin=json.dumps(pod))


def wait_for_pod(name: str, what: str, *, timeout_s: int = 60) -> None:
    kubectl(
        *("wait", f"pod/{name}", f"--for={what}", f"--timeout={timeout_s}s"),
        namespace=NAMESPACE,
        timeout_s=timeout_s + 30,
    )


@pytest.fixture(scope="module")
def server_address(namespace) -> Iterator[str]:
    """The model server's address on this machine."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    forward = kube.command("port-forward", f"pod/{_SERVER}", f"{port}:8500", namespace=NAMESPACE)
    with subprocess.Popen(forward, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "Forwarding from" in process.stdout.readline()
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


class Work:
    """Videos and a data set in the volume, and the pipeline's runs over them.

    Args:
        name: of the folder in the volume, and the first part of the runs' names.
        folder: on this machine.
        in_steps: what the processes of the steps do first, in Python.
        settings: of the pods.
    """

    def __init__(self, name: str, folder: Path, *, in_steps: str = "", **settings: Any) -> None:
        self.name, self._folder, self._runs = name, folder, 0
        self._pipeline = folder / "pipeline.yaml"
        self.videos, self.out = folder / "videos", f"{DATA}/{name}/features"
        self.videos.mkdir()
        serving.shell(NAMESPACE, f"mkdir -p {DATA}/{name}/videos")
        if in_steps:
            module = folder / "sitecustomize.py"
            module.write_text(_IN_STEPS.format(in_steps.strip()))
            serving.upload(NAMESPACE, module, f"{DATA}/{name}/{module.name}")
            settings["env"] = {"PYTHONPATH": f"{DATA}/{name}"}
        compile_pipeline(EXTRACTION, self._pipeline, ClusterSettings(**{**_SMALL, **settings}))

    def upload(self, name: str = "") -> None:
        """Copy the videos to the volume, or one of them; each copy has a new time."""
        target = f"{DATA}/{self.name}/videos/{name}" if name else f"{DATA}/{self.name}"
        serving.upload(NAMESPACE, self.videos / name, target)

    def start(self, *, process_1: str = "dies", **arguments: Any) -> Run:
        """Start a run of the pipeline over the videos.

        Args:
            process_1: as of `pipeline_pods.Executors.pod`.
            arguments: of the pipeline.
        """
        self._runs += 1
        name = f"{self.name}-{self._runs}"
        given = {"videos": f"{DATA}/{self.name}/videos", "out": self.out, **arguments}
        process = pipeline_pods.start(
            *(self._pipeline, name, given),
            namespace=NAMESPACE,
            folder=self._folder,
            process_1=process_1,
        )
        return Run(name, process)

    def run(self, **arguments: Any) -> Run:
        """Run the pipeline over the videos to its end; the arguments are those of `start`."""
        run = self.start(**arguments)
        run.end()
        return run

    def data(self) -> Path:
        """Return a copy of the data set on this machine."""
        copy = self._folder / f"features-{self._runs}"
        kubectl("cp", f"{NAMESPACE}/{serving.TOOLBOX}:{self.out}", str(copy))
        return copy

    def rows(self) -> dict[str, dataset.DatasetRow]:
        """Return the data set's rows, of which every video has one."""
        rows = list(dataset.open(str(self.data())))
        counts = Counter(row.video_id for row in rows)
        assert set(counts.values()) == {1}, counts
        return {row.video_id: row for row in rows}

    def files(self, pattern: str) -> list[str]:
        """Return the files of the data set that match a pattern, hidden ones too."""
        find = f"find . -type f -path './{pattern}' -printf '%P\\n'"
        return serving.shell(NAMESPACE, f"cd {self.out} 2>/dev/null || exit 0; {find}").split()

    def summary(self) -> RunSummary:
        """Return the summary of the newest run."""
        newest = f"cat $(ls -t {self.out}/runs/*/summary.json | head -n 1)"
        return RunSummary.from_json(serving.shell(NAMESPACE, newest))


class Run:
    """A run of the pipeline.

    Args:
        name: as its pods' label has it.
        process: runs it.

    Attributes:
        log: what the process and the steps printed, once the run has ended.
        code: of the process; not 0 where a step failed.
    """

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name, self._process = name, process
        self.log = ""
        self.code: int | None = None

    def end(self) -> None:
        """Wait for the run's end."""
        try:
            self.log, _ = self._process.communicate(timeout=_RUN_S)
        finally:
            self._process.kill()
        self.code = self._process.returncode

    def terminate(self) -> None:
        """End the run as Kubeflow does: the pod is deleted, and no step follows."""
        self._process.kill()
        self._process.communicate()
        label = f"{pipeline_pods.RUN_LABEL}={self._name}"
        kubectl("delete", "pods", "--selector", label, namespace=NAMESPACE)

    def pods(self, step: str = "") -> list[kube.Object]:
        """Return the run's pods in their order, or those of one step."""
        labels = f"{pipeline_pods.RUN_LABEL}={self._name}"
        labels += f",{pipeline_pods.STEP_LABEL}={step}" if step else ""
        return sorted(kube.pods(NAMESPACE, labels), key=lambda pod: pod["metadata"]["name"])

    def steps(self) -> list[str]:
        """Return the steps of the run's pods, in their order."""
        return [pod["metadata"]["labels"][pipeline_pods.STEP_LABEL] for pod in self.pods()]

    def succeeded(self) -> Run:
        """Check that all steps succeeded; return this run.

        Raises:
            AssertionError: a step failed; the message has the last lines of the log.
        """
        assert self.code == 0, self.log[-5000:]
        return self


def features(folder: Path) -> dict[str, np.ndarray]:
    """Return the features of a data set's videos, each with a row for a clip."""
    opened = dataset.open(str(folder))
    return {video: opened.features(video).clip_features for video in opened.ids()}


def grey_video(path: Path, *, frames: int, size: int) -> None:
    """Write a grey video of a few KB, with square pictures."""
    picture = av.VideoFrame(size, size, "yuv420p")
    for plane in picture.planes:
        plane.update(bytes([90]) * plane.buffer_size)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
        for picture.pts in range(frames):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_pods_of_all_steps_are_accepted_by_a_restricted_namespace():
    pods = []
    for name in PIPELINES:
        executors = pipeline_pods.Executors(compiled_path(name))
        for step in executors.steps:
            pod = executors.pod(pipeline_pods.command(step))
            pod["metadata"]["name"] = f"{name}-{step}".replace("_", "-")
            pods.append(pod)
    objects = {"apiVersion": "v1", "kind": "List", "items": pods}
    printed = kubectl(
        *("create", "--dry-run=server", "--validate=strict", "-f", "-"),
        namespace=NAMESPACE,
        stdin=json.dumps(objects),
    )
    assert printed.count(" created") == len(pods) > 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Work:
    """Two videos and a file that is not a video."""
    work = Work("whole", tmp_path_factory.mktemp("whole"))
    write_video(work.videos / "a.mp4", 40)
    write_video(work.videos / "b.mp4", 24)
    (work.videos / "broken.mp4").write_bytes(b"no video" * 200)
    work.upload()
    return work


def test_run_in_pods_has_the_features_of_a_local_run(whole, server_address, tmp_path):
    done = whole.run(shard_mb=0.001, max_failed=1).succeeded()
    assert len(done.pods("extract")) == 3
    # The same files, read on this machine, and the same server.
    local = tmp_path / "local"
    command = [str(BIN / "c3d-pipelines"), "run", "--videos", str(whole.videos)]
    command += ["--out", str(local), "--server", server_address, "--max-failed", "1"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    expected, found = features(local), features(whole.data())
    assert sorted(found) == sorted(expected) == ["a.mp4", "b.mp4"]
    for video, values in expected.items():
        np.testing.assert_array_equal(found[video], values, err_msg=video, strict=True)
    assert whole.rows()["broken.mp4"].status == "corrupt"


def test_next_run_does_the_changed_video_alone_and_the_one_after_it_nothing(whole):
    before = features(whole.data())
    write_video(whole.videos / "b.mp4", 40)
    whole.upload("b.mp4")
    whole.run().succeeded()
    summary = whole.summary()
    assert (summary.processed, summary.ok) == (1, 2), summary
    after = features(whole.data())
    np.testing.assert_array_equal(after["a.mp4"], before["a.mp4"], strict=True)
    assert len(after["b.mp4"]) > len(before["b.mp4"])

    done = whole.run().succeeded()
    summary = whole.summary()
    assert (summary.processed, summary.ok, summary.inputs) == (0, 2, 3), summary
    assert done.steps() == ["plan", "report"]


def test_folder_that_the_pods_user_may_not_write_is_in_the_logs_last_line(whole):
    serving.shell(NAMESPACE, f"mkdir {DATA}/closed; chmod 555 {DATA}/closed")
    done = whole.run(out=f"{DATA}/closed/features")
    assert done.code != 0
    (pod,) = done.pods("plan")
    last = kubectl("logs", pod["metadata"]["name"], namespace=NAMESPACE).splitlines()[-1]
    assert f"{DATA}/closed/features" in last
    assert "65532" in last


def test_threads_and_workers_follow_the_pods_cpu_limit():
    """The node has at least two cores."""
    script = (
        "from c3d_client import parallel; "
        "print(parallel.core_count(), *parallel.share_cores(None, videos=9))"
    )
    expected = {"500m": "1 1 1", "1": "1 1 1", "1500m": "2 2 1"}
    containers = [
        {
            "name": f"cpu-{limit}",
            "image": IMAGE,
            "command": ["python3", "-c", script],
            "resources": {"limits": {"cpu": limit}, "requests": {"cpu": "10m"}},
        }
        for limit in expected
    ]
    pod = serving.restricted_pod("limits", *containers)
    pod["spec"]["restartPolicy"] = "Never"
    create(pod)
    wait_for_pod("limits", "jsonpath={.status.phase}=Succeeded")
    for limit, line in expected.items():
        log = kubectl("logs", "limits", "--container", f"cpu-{limit}", namespace=NAMESPACE)
        assert log.split() == line.split(), limit


def test_video_too_large_for_the_pods_memory_fails_alone(tmp_path):
    work = Work("large", tmp_path, memory_limit="640Mi")
    for name in "abdef":
        write_video(work.videos / f"{name}.mp4", 24)
    grey_video(work.videos / "c.mp4", frames=17, size=8192)
    work.upload()
    done = work.run(max_failed=1).succeeded()
    assert len(done.pods("extract")) == 1
    rows = work.rows()
    large = rows.pop("c.mp4")
    assert large.status == "failed"
    assert re.search(r"needs about \d+ MiB of the \d+ MiB", large.error_message), large
    assert [row.status for row in rows.values()] == ["ok"] * 5


def test_video_that_kills_its_worker_twice_fails_alone(tmp_path):
    work = Work("kill", tmp_path, in_steps=_BOMB, memory_limit="400Mi", cpu_limit="1")
    for name in ("a", "bomb", "c"):
        write_video(work.videos / f"{name}.mp4", 24)
    work.upload()
    first = work.run()
    assert exit_codes(first) == [137]
    assert len(work.files("in_hand/*")) == 1
    # In the next run the video is in a shard of its own, whose worker is killed too.
    age_in_hand(work)
    second = work.run()
    assert sorted(exit_codes(second)) == [0, 137]
    age_in_hand(work)
    third = work.run(max_failed=1).succeeded()
    assert exit_codes(third) == [0]
    rows = work.rows()
    assert {video: row.status for video, row in rows.items()} == {
        "a.mp4": "ok",
        "bomb.mp4": "failed",
        "c.mp4": "ok",
    }
    assert rows["bomb.mp4"].error_type == "WorkerDied"
    assert not work.files("in_hand/*")


def exit_codes(run: Run) -> list[int]:
    """Return the exit codes of a run's shards, in their order."""
    states = [pod["status"]["containerStatuses"][0]["state"] for pod in run.pods("extract")]
    return [state["terminated"]["exitCode"] for state in states]


def age_in_hand(work: Work) -> None:
    """Change the time of the lists of videos in hand, so that their workers count as dead."""
    change = r"s/(\"written_at\": ?)[0-9.e+]+/\11.0/"
    serving.shell(NAMESPACE, f"sed -E -i '{change}' {work.out}/in_hand/*")


def test_run_after_a_termination_goes_on_from_what_was_committed(tmp_path):
    commit_soon = "from c3d_pipelines.shards import worker; worker._COMMIT_EVERY_S = 1.0"
    works = {}
    for process_1 in ("dies", "waits"):
        folder = tmp_path / process_1
        folder.mkdir()
        # Half a core: slow enough to be ended in the middle.
        work = Work(process_1, folder, in_steps=commit_soon, cpu_limit="500m")
        for name in "abcdef":
            write_video(work.videos / f"{name}.mp4", 600)
        work.upload()
        works[work] = work.start(process_1=process_1)
    committed = {}
    for work, run in works.items():
        wait_until("a part of the shard", partial(work.files, "shards/*.json"), timeout_s=120)
        run.terminate()
        committed[work] = set(work.files("shards/*.json"))
        # With half a core one video is in hand. An end that is waited for leaves nothing behind.
        assert len(work.files("in_hand/*")) == (work.name == "dies"), work.name
        assert work.name == "dies" or not work.files("*/.*")

    works = {work: work.start(process_1=work.name) for work in works}
    for work, run in works.items():
        run.end()
        run.succeeded()
        assert committed[work] <= set(work.files("shards/*.json"))
        assert 0 < work.summary().processed < 6
        assert [row.status for row in work.rows().values()] == ["ok"] * 6


@pytest.fixture
def node() -> Iterator[dict[str, str]]:
    """The label of a node of 2 cores and 8 GiB, which no machine is behind, with kubeadm's pods."""
    name = "c3d-test-node"
    label = {"c3d-test/node": name}
    obj = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**label, "app.kubernetes.io/part-of": "c3d"}},
        "spec": {"taints": [{"key": "c3d-test/node", "effect": "NoSchedule"}]},
    }
    capacity = {"cpu": "2", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
    status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
    kubectl("create", "-f", "-", stdin=json.dumps(obj))
    try:
        patch = json.dumps({"status": status})
        kubectl("patch", "node", name, "--subresource=status", f"--patch={patch}")
        yield label
    finally:
        pods = ("--selector", "c3d-test/scheduled", "--force", "--grace-period=0")
        kubectl("delete", "pods", *pods, "--ignore-not-found", namespace=NAMESPACE)
        kubectl("delete", "node", name)


def test_default_requests_fit_a_node_of_two_cores_with_the_clusters_own_pods(node, tmp_path):
    tolerations = ({"key": "c3d-test/node", "operator": "Exists"},)
    settings = ClusterSettings(node_selector=node, tolerations=tolerations)
    compile_pipeline(EXTRACTION, tmp_path / "pipeline.yaml", settings)
    executors = pipeline_pods.Executors(tmp_path / "pipeline.yaml")

    def schedule(pod: kube.Object, name: str) -> None:
        pod["metadata"] |= {"name": name, "labels": {"c3d-test/scheduled": ""}}
        create(pod)
        wait = ("wait", f"pod/{name}", "--for=condition=PodScheduled", "--timeout=30s")
        if kube.try_kubectl(*wait, namespace=NAMESPACE).returncode:
            raise AssertionError(kube.get("pod", name, namespace=NAMESPACE)["status"])

    own = executors.pod(pipeline_pods.command("plan"))
    # The sum for a single node of kubeadm's with kindnet.
    requests = {"cpu": "950m", "memory": "290Mi"}
    own["spec"]["containers"][0]["resources"] = {"requests": requests}
    schedule(own, "kubeadm")
    for step in ("plan", "extract", "publish"):
        schedule(executors.pod(pipeline_pods.command(step)), f"default-{step}")
        force = ("--force", "--grace-period=0")
        kubectl("delete", "pod", f"default-{step}", *force, namespace=NAMESPACE)
