"""What the documents tell people to type works as it stands there."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Started by the test itself, elsewhere, or by an engine that is not here.
_ELSEWHERE = ("make example", "make test")


def blocks(document, language):
    found = [code for kind, code in _BLOCK.findall(document.read_text()) if kind == language]
    return [pytest.param(code, id=f"{document.name}-{n}") for n, code in enumerate(found)]


def commands(code):
    return [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture
def workplace(tmp_path, monkeypatch, narrow_copy, carphone):
    """A folder with a video and a model, as the documents assume."""
    shutil.copy(carphone, tmp_path / "video.mp4")
    (tmp_path / "videos" / "a").mkdir(parents=True)
    shutil.copy(carphone, tmp_path / "videos" / "a" / "b.mp4")
    (tmp_path / "models").mkdir()
    shutil.move(narrow_copy, tmp_path / "models" / "c3d")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [p for d in DOCUMENTS for p in blocks(d, "python")])
def test_python_blocks_run(code, workplace, narrow_server):
    assert "localhost:8500" in code
    program = code.replace("localhost:8500", narrow_server.target)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("code", [p for d in DOCUMENTS for p in blocks(d, "bash")])
def test_shell_blocks_run(code, workplace, narrow_server):
    for command in commands(code):
        if command.startswith(_ELSEWHERE):
            continue
        words = shlex.split(command, comments=True)
        words = [word.replace("localhost:8500", narrow_server.target) for word in words]
        if words[:2] == ["c3d-export", "serve"]:
            serve(words)
            continue
        if words[:2] == ["c3d-export", "build"]:
            words += ["--width", "4", "--batch-sizes", "1"]  # the same, small and quick
        done = subprocess.run(in_environment(words), capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def serve(words):
    words = [str(free_port()) if word == "8500" else word for word in words]
    process = subprocess.Popen(
        in_environment(words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout.readline().startswith("ready: c3d version")
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        process.stdout.close()


def in_environment(words):
    """The command as installed beside this Python, on whatever path the test was started."""
    installed = Path(sys.executable).parent / words[0]
    assert installed.exists(), f"{words[0]} is not installed"
    return [str(installed), *words[1:]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_named_in_documents_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for path in re.findall(
        r"`((?:client|model_export|pipelines|k8s|tests|examples|docs)/[\w./]+)`", text
    ):
        assert (ROOT / path).exists(), path


def test_the_reference_of_the_command_is_what_the_command_says():
    done = subprocess.run(
        [sys.executable, "-c", "import generate_cli; print(generate_cli.reference(), end='')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "docs",
    )
    fresh = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == done.stdout
    assert fresh, "docs/cli.md is not fresh; run `make docs`"


def test_every_make_verb_in_the_documents_exists():
    verbs = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
        assert named <= verbs, f"{document.name}: {named - verbs}"
