"""The images, built once, and folders that their user may write to."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from c3d_pipelines.kubeflow.cluster import EXPORT_IMAGE, WORKER_IMAGE
from images.containers import Engine, find_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The container engine that answers; or skip."""
    command = find_engine()
    if command is None:
        pytest.skip("no container engine answers (docker or podman): the images are not tested")
    return Engine(command)


@pytest.fixture(scope="session")
def images(engine) -> list[str]:
    """Both images, built from this tree."""
    done = subprocess.run(
        ["make", "build", f"ENGINE={engine.command}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return [EXPORT_IMAGE, WORKER_IMAGE]


@pytest.fixture(scope="session")
def export_image(images) -> str:
    """The image of c3d-export."""
    return images[0]


@pytest.fixture(scope="session")
def worker_image(images) -> str:
    """The image of c3d-pipelines."""
    return images[1]


@pytest.fixture(scope="session")
def writable(engine, worker_image, tmp_path_factory) -> Iterator[Path]:
    """A folder that all users may write to, as a volume with fsGroup."""
    folder = tmp_path_factory.mktemp("writable")
    folder.chmod(0o777)
    yield folder
    # Its files are of the containers' user, whose files this process may not be able to remove.
    engine(
        *("run", "--rm", "--network", "none", "--user", "0", "--volume", f"{folder}:/folder"),
        *("--entrypoint", "find", worker_image, "/folder", "-mindepth", "1", "-delete"),
    )


@pytest.fixture(scope="session")
def store(engine, export_image, writable) -> Path:
    """A model store with version 1 of the narrow network, exported with the strictest umask."""
    folder = writable / "store"
    folder.mkdir()
    folder.chmod(0o777)
    done = engine.run(
        export_image,
        *("-c", 'umask 077 && exec c3d-export "$@"', "sh", "build", "--weights", "random:7"),
        *("--width", "4", "--batch-sizes", "1,8", "--out", "/models/c3d"),
        entrypoint="sh",
        volumes={"/models": folder},
    )
    assert done.stdout.startswith("/models/c3d/1: "), done.stdout
    return folder


@pytest.fixture(scope="session")
def pod(engine, export_image, store) -> Iterator[str]:
    """A container with the local server, in a network of its own without a way out.

    Another container with the network `container:NAME` is in the same pod.
    """
    options = ("serve", "/models/c3d", "--host", "0.0.0.0", "--port", "8500")
    with engine.started(export_image, *options, volumes={"/models": store}) as name:
        end = time.monotonic() + 180
        while "8500" not in engine.logs(name):
            assert engine.state(name, "Running") == "true", engine.logs(name)
            assert time.monotonic() < end, engine.logs(name)
            time.sleep(0.2)
        yield name
