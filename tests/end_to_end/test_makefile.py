"""The verbs of the Makefile: listed, valid, and with a clear error if something is missing."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Documents and CI use these names.
VERBS = [
    *("help", "example", "pipeline-example", "install", "install-client", "develop"),
    *("test", "test-faults", "test-k8s", "lint", "format", "typecheck"),
    *("docs", "docs-pictures", "dist", "weights", "export", "serve", "serve-docker", "build"),
    *("manifests", "protos", "fidelity", "bench-client", "bench-estimate", "torch", "debian"),
    "clean",
]


def make(*arguments):
    # make sets variables for its children, and these tests may be children of make.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
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


def test_only_developers_verbs_install_test_tools():
    for verb in ("install", "install-client", "example", "pipeline-example", "docs", "dist"):
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
        assert f"!{source}" in ignored, f"{source} is not sent to the engine"
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    command = entry.split('"')[1]
    assert f"{command} = " in (ROOT / package / "pyproject.toml").read_text()
    assert "USER 65532:65532" in lines
