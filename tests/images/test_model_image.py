"""The documented recipe of a model's container image: it builds, and the server's user reads it."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from images.conftest import ROOT
from images.containers import USER

pytestmark = pytest.mark.images


def recipe() -> str:
    """Return the lines of k8s/README.md that build and push the image."""
    text = (ROOT / "k8s/README.md").read_text()
    (block,) = [b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "FROM scratch" in b]
    return block


@pytest.fixture
def model_image(engine, store, tmp_path):
    """The name of the image that the recipe builds from a version that only its owner can read."""
    version = Path(shutil.copytree(store / "c3d" / "1", tmp_path / "models/c3d/1"))
    for path in [version, *version.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    # Next to the repository's own .dockerignore, which excludes models/.
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$1" = push ] || exec {engine.command} "$@"\n')
    docker.chmod(0o755)
    name = "localhost/c3d-images/c3d-model:1"
    done = subprocess.run(
        ["sh", "-ec", recipe()],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{docker.parent}:{os.environ['PATH']}",
            "REGISTRY": "localhost/c3d-images",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield name
    engine("rmi", "--force", name, check=False)


def test_recipe_builds_an_image_of_the_version_that_the_servers_user_reads(
    engine, export_image, model_image, store, tmp_path
):
    container = engine("create", model_image, "/1").stdout.strip()
    try:
        archive = subprocess.run(
            [engine.command, "export", container], capture_output=True, check=True
        ).stdout
    finally:
        engine("rm", "--force", container)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        entries = {entry.name.strip("/"): entry for entry in tar if entry.name.startswith("1")}
    version = store / "c3d" / "1"
    files = {f"1/{p.relative_to(version).as_posix()}" for p in version.rglob("*") if p.is_file()}
    assert {name for name, entry in entries.items() if entry.isfile()} == files
    for name, entry in entries.items():
        assert f"{entry.uid}:{entry.gid}" == USER, name


def test_image_is_a_models_folder(engine, export_image, model_image):
    if Path(engine.command).name != "podman":
        pytest.skip("docker has no volumes of images: the model's image is not mounted")
    done = engine(
        *("run", "--rm", *engine.options()),
        *("--mount", f"type=image,source={model_image},destination=/models/c3d"),
        *(export_image, "verify", "/models/c3d/1"),
    )
    assert "/models/c3d/1" in done.stdout
