"""The export Job's script: its settings, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.processes import LONG_S, wait_until

from k8s.objects import get, of_kind
from k8s.render import K8S, objects_of

SCRIPT = K8S / "jobs" / "export-model" / "export.sh"
SETTINGS = dict(
    line.split("=", 1)
    for line in SCRIPT.with_name("settings.env").read_text().splitlines()
    if line and not line.startswith("#")
)
# A process number of its own, as in a container: process 1 ignores signals without a handler.
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def run(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the script where c3d-export prints its arguments."""
    command = folder / "c3d-export"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    env = {**SETTINGS, "PATH": f"{folder}:{os.environ['PATH']}", **changes}
    return subprocess.run(["sh", str(SCRIPT)], env=env, capture_output=True, text=True, check=False)


def test_settings_become_options(tmp_path):
    store = "--out /models/c3d --unless-in /models/c3d"
    expected = f"build --weights demo --precision float32 --target cpu {store}\n"
    assert run(tmp_path).stdout == expected
    options = "--weights /weights/own.npz --precision bfloat16 --target gpu"
    options += " --mean 1,2,3 --convolution direct --over-trained"
    changes = {"WEIGHTS": "/weights/own.npz", "PRECISION": "bfloat16", "MEAN": "1,2,3"}
    changes |= {"TARGET": "gpu", "CONVOLUTION": "direct"}
    lines = run(tmp_path, **changes, OVER_TRAINED="yes").stdout.splitlines()
    assert lines[1:] == ["fetch --models /weights own.npz", f"build {options} {store}"]


class TestTarget:
    """The servers' device, from the settings, from component gpu, or as earlier releases meant."""

    @pytest.fixture
    def options(self, tmp_path):
        def options(**changes: str) -> str:
            done = run(tmp_path, **changes)
            assert (done.returncode, done.stderr) == (0, ""), changes
            line = done.stdout.splitlines()[-1]
            return line.partition(" --out ")[0].partition("--precision ")[2]

        return options

    @pytest.fixture(params=["gpu", "gke", "eks"])
    def from_gpu(self, request) -> dict[str, str]:
        """The variables that the Job gets from an overlay with component gpu."""
        (job,) = of_kind(objects_of("jobs/export-model"), "Job")
        (container,) = get(job, "spec.template.spec.containers")
        references = [source["configMapRef"] for source in container["envFrom"]]
        optional = [reference["name"] for reference in references if reference.get("optional")]
        maps = of_kind(objects_of(f"overlays/{request.param}"), "ConfigMap")
        (found,) = [obj for obj in maps if obj["metadata"]["name"] in optional]
        assert found["metadata"]["namespace"] == job["metadata"]["namespace"]
        return found["data"]

    def test_without_a_target_every_precision_is_built_as_before(self, options):
        before = {name: value for name, value in SETTINGS.items() if name != "TARGET"}
        assert {*SETTINGS} - {*before} == {"TARGET"}
        assert SETTINGS["TARGET"] == ""
        assert options(PRECISION="float32") == "float32 --target cpu"
        assert options(PRECISION="float16") == "float16 --target gpu"
        assert options(PRECISION="bfloat16") == "bfloat16 --target cpu --elsewhere"

    def test_settings_of_an_earlier_release_are_read(self, options, monkeypatch):
        monkeypatch.delitem(SETTINGS, "TARGET")
        assert options(PRECISION="float16") == "float16 --target gpu"

    def test_servers_with_gpus_get_a_version_for_gpus(self, options, from_gpu):
        for precision in ("float32", "bfloat16", "float16"):
            assert options(PRECISION=precision, **from_gpu) == f"{precision} --target gpu"

    def test_a_target_in_the_settings_comes_first(self, options, from_gpu):
        assert options(PRECISION="bfloat16", TARGET="cpu", **from_gpu) == "bfloat16 --target cpu"
        assert options(PRECISION="float16", TARGET="cpu") == "float16 --target cpu"
        assert options(PRECISION="float32", TARGET="gpu") == "float32 --target gpu"


def test_every_setting_is_used():
    assert {*SETTINGS} <= {*re.findall(r"\$\{?([A-Z0-9_]+)", SCRIPT.read_text())}


def test_unclear_answer_is_an_error_before_anything_runs(tmp_path):
    refused = run(tmp_path, OVER_TRAINED="true", WEIGHTS="/weights/own.npz")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "OVER_TRAINED is 'true': expected yes, or nothing\n"


def test_failed_download_ends_the_script_with_its_exit_code(tmp_path):
    command = tmp_path / "c3d-export"
    command.write_text('#!/bin/sh\n[ "$1" = build ] || exit 75\n')
    command.chmod(0o755)
    env = {**SETTINGS, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LABELS": "/weights/labels.txt"}
    assert subprocess.run(["sh", str(SCRIPT)], env=env, check=False).returncode == 75


@pytest.fixture
def downloading(tmp_path):
    """Start the script in a namespace of processes, with a download that does not end."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no new namespaces of process numbers here")
    command = tmp_path / "c3d-export"
    command.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/started\n"
        f"sleep ${{WAIT_S:-3600}}\n[ -e {tmp_path}/sent ] || kill -TERM $PPID\nsleep 3600\n"
    )
    command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    processes = []

    def start(*options: str, **changes: str) -> subprocess.Popen[bytes]:
        env = {**SETTINGS, "PATH": path, "MEAN": "/weights/mean.npy", **changes}
        processes.append(subprocess.Popen([*NAMESPACE, "sh", *options, str(SCRIPT)], env=env))
        return processes[0]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_sigterm_ends_a_download_at_once(tmp_path, downloading):
    process = downloading()
    wait_until((tmp_path / "started").exists, "the download has not started")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert process.wait(timeout=LONG_S) == 128 + signal.SIGTERM


def test_sigterm_ends_a_download_that_has_just_started(tmp_path, downloading):
    """The shell, process 1, gets the signal from a hook, which it runs before each command."""
    hook = tmp_path / "hook"
    hook.write_text(
        '#!/bin/sh\n[ "$PPID" = 1 ] || exit 0\nsleep 0.03\n'
        f"[ -e {tmp_path}/started ] && [ ! -e {tmp_path}/sent ] || exit 0\n"
        f"touch {tmp_path}/sent\nkill -TERM 1\n"
    )
    hook.chmod(0o755)
    # After WAIT_S the download sends it, where it started later than the last hook ran.
    process = downloading("-x", PS4="$(hook)", WAIT_S="5")
    assert process.wait(timeout=LONG_S) == 128 + signal.SIGTERM
