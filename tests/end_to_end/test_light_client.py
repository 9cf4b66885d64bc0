"""Wheels are complete, and the client wheel alone extracts a video without TensorFlow."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "client": "c3d_client",
    "model_export": "c3d_export",
    "pipelines": "c3d_pipelines",
}
_CHECK_ABSENT = """
import importlib.util
for name in ("tensorflow", "keras", "kfp", "c3d_export", "c3d_pipelines", "tensorflow_serving"):
    assert importlib.util.find_spec(name) is None, name
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheel of each package, by its folder."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*build, "--no-deps", "--wheel-dir", folder, *(ROOT / source for source in PACKAGES)],
        check=True,
    )
    return {source: next(folder.glob(f"{name}-*.whl")) for source, name in PACKAGES.items()}


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheels):
    """The `bin` folder of a virtual environment that has the client's wheel and nothing else."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [folder / "bin/python", *install, "-c", ROOT / "constraints.txt", wheels["client"]],
        check=True,
    )
    return folder / "bin"


def test_wheels_contain_every_file_of_their_package_and_complete_metadata(wheels):
    for source, name in PACKAGES.items():
        with zipfile.ZipFile(wheels[source]) as wheel:
            content = set(wheel.namelist())
            (metadata,) = [entry for entry in content if entry.endswith(".dist-info/METADATA")]
            headers, _, description = wheel.read(metadata).decode().partition("\n\n")
        files = {
            path.relative_to(ROOT / source).as_posix()
            for path in (ROOT / source / name).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files <= content, f"{name}: {files - content}"
        assert any(entry.endswith(".dist-info/licenses/LICENSE") for entry in content), name
        assert any(entry.endswith(".dist-info/entry_points.txt") for entry in content), name
        for header in ("License-Expression: Apache-2.0", "Author: ", "Classifier: ", "Summary: "):
            assert f"\n{header}" in headers, f"{name}: {header}"
        assert description == (ROOT / source / "README.md").read_text(), name


def test_client_alone_extracts_a_video_without_tensorflow(
    environment, narrow_server, carphone, tmp_path
):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run(
        [environment / "python", "-c", _CHECK_ABSENT], check=True, cwd=tmp_path, env=clean
    )
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


def test_client_wheel_has_the_data_files_of_the_classify_page(
    environment, narrow_server, carphone, tmp_path
):
    page = tmp_path / "page.html"
    subprocess.run(
        [environment / "c3d", "classify", carphone, "--server", narrow_server.target]
        + ["--html", page],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert "</html>" in page.read_text()


def test_client_has_only_small_dependencies(environment):
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


def test_client_needs_at_most_90_mb_when_imported(environment):
    # The peak memory in kilobytes, with everything imported that extract() needs.
    code = (
        "from c3d_client import C3DClient\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [environment / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 90 * 1024


def test_missing_exporter_is_named_in_the_error(environment, narrow_base, carphone, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [environment / "c3d", "extract", carphone, "--server", f"local:{narrow_base}"]
        + ["--out", tmp_path / "features"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"c3d-export is not installed for {environment / 'python'}" in done.stderr


def test_missing_extra_is_named_in_the_error(environment, narrow_server, carphone, tmp_path):
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
