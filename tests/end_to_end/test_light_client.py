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
    with np.load(tmp_path / "features" / "carphone_pristine.mp4.npz") as file:
        assert file["clip_features"].shape == (14, 4096)
        assert np.linalg.norm(file["video_feature"]) == pytest.approx(1.0, abs=1e-6)


def test_the_page_of_a_classification_needs_no_extra(
    environment, narrow_server, carphone, tmp_path
):
    page = tmp_path / "page.html"
    done = subprocess.run(
        [environment / "c3d", "classify", carphone, "--server", narrow_server.target]
        + ["--html", page],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


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
        "jinja2",
        "markdown-it-py",
        "markupsafe",
        "mdurl",
        "numpy",
        "opencv-python-headless",
        "protobuf",
        "pygments",
        "rich",
        "typing_extensions",
    }


def test_it_is_light_in_memory_once_loaded(environment):
    # Everything that extracting needs, in kilobytes, at its highest.
    code = (
        "from c3d_client import C3DClient\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [environment / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 90 * 1024


def test_what_needs_an_extra_says_which(environment, narrow_server, carphone, tmp_path):
    for arguments, extra in (
        (["extract", carphone, "--out", tmp_path / "f", "--format", "parquet"], "parquet"),
        (["extract", carphone, "--out", tmp_path / "f", "--format", "h5"], "h5"),
        (["extract", "s3://bucket/key.mp4", "--out", tmp_path / "f"], "s3"),
        (["classify", carphone, "--timeline", tmp_path / "t.png"], "plot"),
    ):
        done = subprocess.run(
            [environment / "c3d", *arguments, "--server", narrow_server.target],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert f"c3d-client[{extra}]" in done.stderr
        assert not list(tmp_path.rglob("*.parquet"))
