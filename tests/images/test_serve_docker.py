"""`make serve-docker` with a stand-in for the server: where it listens, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from images.conftest import ROOT
from k8s.render import objects_of

pytestmark = pytest.mark.images

# Without a handler of SIGTERM, as the real server.
_RUNNING = '#!/bin/sh\necho "arguments: $*"\nexec sleep 300\n'
# The real server's exit code where a file or the only version is wrong.
_FAILING = "#!/bin/sh\nexit 255\n"


@pytest.fixture
def wrapper(engine, worker_image, tmp_path) -> Iterator[Path]:
    """An engine that runs the stand-in, without the ports that `make serve-docker` publishes.

    Publishing needs a bridge, which not every machine of tests has.
    """
    name = f"c3d-images-{uuid.uuid4().hex[:8]}"
    server = tmp_path / "tensorflow_model_server"
    server.write_text(_RUNNING)
    server.chmod(0o755)
    path = tmp_path / "engine"
    path.write_text(
        f"""#!/usr/bin/env bash
[ "$1" = run ] || exec {engine.command} "$@"
arguments=(run --network none --volume {server}:/usr/bin/tensorflow_model_server:ro)
shift
while [ $# -gt 0 ]; do
    case $1 in
        --name) arguments+=(--name {name}); shift ;;
        --publish) echo "$2" >>{tmp_path}/published; shift ;;
        docker.io/tensorflow/serving:*) echo "$1" >{tmp_path}/image; arguments+=({worker_image}) ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
exec {engine.command} "${{arguments[@]}}"
"""
    )
    path.chmod(0o755)
    yield path
    engine("rm", "--force", name, check=False)


@contextlib.contextmanager
def started(wrapper: Path, *settings: str) -> Iterator[subprocess.Popen]:
    """Start `make serve-docker` in a process group of its own, which is killed at the end."""
    (ROOT / "models").mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    process = subprocess.Popen(
        ["make", "serve-docker", f"ENGINE={wrapper}", *settings],
        cwd=ROOT,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(f"{text!r} was not printed; exit code {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_ends_at_ctrl_c_and_at_sigterm(wrapper, tmp_path, number):
    with started(wrapper, "PORT=8510") as process:
        wait_for(process, "arguments: --port=8500 ")
        os.killpg(process.pid, number)
        # A signal that the server ignores would leave it running for 300 s.
        process.communicate(timeout=60)
    # On loopback alone: the server authenticates no client.
    published = (tmp_path / "published").read_text().split()
    assert published == ["127.0.0.1:8510:8500", "127.0.0.1:8501:8501"]


def test_exit_code_of_the_server_is_reported(wrapper, tmp_path):
    (tmp_path / "tensorflow_model_server").write_text(_FAILING)
    with started(wrapper) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Error 255" in output


def test_other_address_is_published_when_it_is_asked_for(tmp_path):
    done = subprocess.run(
        ["make", "--dry-run", "serve-docker", "ENGINE=true", "ADDRESS=0.0.0.0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--publish 0.0.0.0:8500:8500" in done.stdout
    # The Deployment's image, with the registry.
    (deployment,) = [o for o in objects_of("overlays/cpu-dev") if o["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    version = container["image"].rpartition("/")[2]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert f" --env TF_ENABLE_ONEDNN_OPTS={environment['TF_ENABLE_ONEDNN_OPTS']} " in done.stdout
    assert re.search(rf" docker\.io/tensorflow/{re.escape(version)} ", done.stdout)
