"""The verbs: listed, runnable, and honest where something is missing."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERBS = [
    "help",
    "install",
    "example",
    "test",
    "torch",
    "fidelity",
    "bench-client",
    "bench-estimate",
    "pipeline-example",
    "debian",
    "manifests",
    "serve-docker",
    "test-faults",
    "test-k8s",
    "docs",
    "lint",
    "format",
    "typecheck",
    "protos",
    "export",
    "serve",
    "weights",
    "build",
    "clean",
]


def make(*arguments):
    # These tests may run under make themselves, which tells its children so.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=clean)


def test_plain_make_lists_every_verb_with_a_word_on_it():
    done = make()
    assert done.returncode == 0
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert sorted(listed) == sorted(VERBS)
    assert all(len(text) > 10 for text in listed.values())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_planned(verb):
    done = make("--dry-run", verb)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["", "false"])
def test_build_says_so_where_no_engine_answers(engine):
    done = make("build", f"ENGINE={engine}")
    assert done.returncode != 0
    assert "no container engine answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfit_python_is_named_before_anything_is_made():
    done = make(".venv/bin/absent", "PYTHON=false", "VENV=build/none", "build/none/bin/python")
    assert done.returncode != 0
    assert not (ROOT / "build" / "none").exists()


@pytest.mark.parametrize("room", ["model_export", "pipelines"])
def test_what_the_images_copy_and_start_exists(room):
    lines = (ROOT / room / "Dockerfile").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} does not reach the engine"
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    command = entry.split('"')[1]
    assert f"{command} = " in (ROOT / room / "pyproject.toml").read_text()
    assert "USER 65532:65532" in lines
