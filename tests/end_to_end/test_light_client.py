"""The client alone, in an environment of its own, extracts a video from the server."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
_PACKAGES = """
import importlib.util
for name in ("tensorflow", "keras", "kfp", "c3d_export", "c3d_pipelines", "tensorflow_serving"):
    assert importlib.util.find_spec(name) is None, name
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with `pip install ./client` and nothing else; gives its bin folder."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # A copy of the sources: the build may not leave anything beside the real ones.
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [folder / "bin/python", *install, "-c", ROOT / "constraints.txt", ROOT / "client"],
        check=True,
    )
    return folder / "bin"


def test_the_client_alone_extracts_a_video_without_tensorflow(
    environment, narrow_server, carphone, tmp_path
):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([environment / "python", "-c", _PACKAGES], check=True, cwd=tmp_path, env=clean)
    done = subprocess.run(
        [environment / "c3d", "extract", carphone, "--server", narrow_server.target]
        + ["--out", tmp_path / "features"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "features" / "carphone_pristine.npz") as file:
        assert file["clip_features"].shape == (14, 4096)
        assert np.linalg.norm(file["video_feature"]) == pytest.approx(1.0, abs=1e-6)


def test_only_small_packages_come_with_it(environment):
    done = subprocess.run(
        [environment / "python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split("==")[0].lower() for line in done.stdout.split()}
    assert names - {"pip", "setuptools"} == {
        "av",
        "c3d-client",
        "click",
        "grpcio",
        "numpy",
        "opencv-python-headless",
        "protobuf",
        "typing_extensions",
    }
