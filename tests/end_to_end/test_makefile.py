"""The verbs of the Makefile: listed, valid, and with a clear error if something is missing."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
# Documents and CI use these names.
VERBS = [
    *("help", "example", "pipeline-example", "notebook", "install", "install-client", "develop"),
    *(
        "test",
        "test-long",
        "test-faults",
        "test-k8s",
        "test-images",
        "test-cluster",
        "lint",
        "format",
        "typecheck",
    ),
    *("docs", "docs-pictures", "dist", "weights", "export", "serve", "serve-docker", "build"),
    *("manifests", "protos", "fidelity", "torch", "debian"),
    *("bench", "bench-scale", "bench-peers", "bench-estimate"),
    "clean",
]


def make(*arguments):
    # make sets variables for its children, and these tests may be children of make.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=clean)


def test_make_without_arguments_lists_every_verb_in_80_columns():
    done = make()
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert sorted(listed) == sorted(VERBS)
    for line in lines:
        assert len(line) <= 80, line
    for verb, text in listed.items():
        assert len(text) > 10, verb


def test_every_verb_passes_a_dry_run():
    for verb in VERBS:
        done = make("--dry-run", verb)
        assert done.returncode == 0, f"{verb}: {done.stderr}"


def test_export_passes_the_target_that_a_precision_needs():
    for settings, expected in (
        ((), ""),
        (("PRECISION=bfloat16",), "--elsewhere"),
        (("PRECISION=float16",), "--target gpu"),
        (("PRECISION=bfloat16", "TARGET=cpu"), '--target "cpu"'),
        (("PRECISION=float32", "TARGET=gpu"), '--target "gpu"'),
    ):
        command = make("--dry-run", "export", *settings).stdout.replace("\\\n", "")
        options = command.partition('--out "models/c3d"')[2]
        assert " ".join(options.split()) == expected, settings


def test_only_developers_verbs_install_test_tools():
    examples = ("example", "pipeline-example", "notebook")
    for verb in ("install", "install-client", *examples, "docs", "dist"):
        assert "--group dev" not in make("--dry-run", "VENV=build/none", verb).stdout, verb
    assert "--group dev" in make("--dry-run", "VENV=build/none", "test").stdout


@pytest.mark.parametrize("engine", ["", "false"])
def test_build_without_a_container_engine_is_an_error(engine):
    done = make("build", f"ENGINE={engine}")
    assert done.returncode != 0
    assert "no container engine answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_unsupported_python_is_an_error_before_anything_is_created():
    done = make(".venv/bin/absent", "PYTHON=false", "VENV=build/none", "build/none/bin/python")
    assert done.returncode != 0
    assert not (ROOT / "build" / "none").exists()


@pytest.mark.parametrize("package", ["model_export", "pipelines"])
def test_files_and_command_of_the_images_exist(package):
    lines = (ROOT / package / "Dockerfile").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        folder = source.partition("/")[0]
        assert f"!{folder}" in ignored, f"{source} is not sent to the engine"
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    command = entry.split('"')[1]
    assert f"{command} = " in (ROOT / package / "pyproject.toml").read_text()
    assert "USER 65532:65532" in lines


def test_every_python_version_can_install_the_tested_versions():
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    checked = 0
    for pin in pins:
        try:
            found = distribution(pin.name)
        except PackageNotFoundError:  # of an optional extra
            continue
        assert pin.specifier.contains(found.version), f"{pin}: {found.version} is installed"
        versions = SpecifierSet(found.metadata.get("Requires-Python", ""))
        for python in ("3.10.0", "3.11.0", "3.12.0", "3.13.0"):
            assert versions.contains(python), f"{pin} needs Python {versions}"
        checked += 1
    assert checked > 100
