"""What the documents tell people to type works as it stands there."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from c3d_pipelines.inputs.plan import shard_rows
from c3d_pipelines.run.plan import make_plan
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.run.publish import publish
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from support.fake_kfp import fake_kfp
from support.films import write_film

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


@pytest.fixture(scope="module")
def sample_dataset(tmp_path_factory, narrow_server, carphone):
    """A dataset of two videos that are ok, made as a run makes it, step by step."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "videos" / "a").mkdir(parents=True)
    write_film(folder / "videos" / "c.mp4", 40)
    shutil.copy(carphone, folder / "videos" / "a" / "b.mp4")
    out = folder / "dataset"
    settings = preflight(JobSettings(out=str(out), run="first", server=narrow_server.target))
    planned = make_plan(str(folder / "videos"), str(out))
    do_shard(settings, shard_rows(planned, 0), 0)
    publish(settings, planned)
    return out


@pytest.fixture
def assumed(workplace, request):
    """Has what a block takes as given: a dataset, for those that read one."""

    def has(code):
        if re.search(r"[\"'/ ]dataset\b(?!s)", code) and "--out dataset" not in code:
            shutil.copytree(request.getfixturevalue("sample_dataset"), workplace / "dataset")

    return has


@pytest.fixture(scope="module")
def kubeflow():
    """Kubeflow Pipelines as far as the documents talk to it."""
    with fake_kfp() as server:
        yield server.url


@pytest.mark.parametrize("code", [p for d in DOCUMENTS for p in blocks(d, "python")])
def test_python_blocks_run(code, workplace, narrow_server, assumed):
    assert "localhost:8500" in code or '"dataset' in code or "'dataset" in code
    assumed(code)
    program = code.replace("localhost:8500", narrow_server.target)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("code", [p for d in DOCUMENTS for p in blocks(d, "bash")])
def test_shell_blocks_run(code, workplace, narrow_server, assumed, kubeflow):
    assumed(code)
    for command in commands(code):
        if command.startswith(_ELSEWHERE):
            continue
        words = shlex.split(command, comments=True)
        words = [word.replace("localhost:8500", narrow_server.target) for word in words]
        words = [word.replace("http://localhost:8888", kubeflow) for word in words]
        into = Path(words.pop()) if words[-2:-1] == [">"] else None
        words = words[:-1] if into else words
        if words[:2] == ["c3d-export", "serve"]:
            serve(words)
            continue
        if words[:2] == ["c3d-export", "build"]:
            words += ["--width", "4", "--batch-sizes", "1"]  # the same, small and quick
        if words[:2] == ["c3d", "bench"]:
            words += ["--seconds", "0.2"]
        done = subprocess.run(in_environment(words), capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if into:
            into.write_text(done.stdout)


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


@pytest.mark.parametrize("page", ["cli.md", "cli-pipelines.md"])
def test_the_reference_of_a_command_is_what_the_command_says(page):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate_cli.py", page],
        capture_output=True,
        text=True,
        check=True,
    )
    fresh = (ROOT / "docs" / page).read_text(encoding="utf-8") == done.stdout
    assert fresh, f"docs/{page} is not fresh; run `make docs`"


def test_diagram_has_every_step_of_the_compiled_pipeline():
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/bulk.md").read_text(), re.DOTALL)
    compiled = ROOT / "pipelines/c3d_pipelines/kubeflow/compiled/c3d-bulk-extraction.yaml"
    executors = next(yaml.safe_load_all(compiled.read_text()))["deploymentSpec"]["executors"]
    for executor in executors:
        assert executor.removeprefix("exec-") in diagram, executor


def test_every_make_verb_in_the_documents_exists():
    verbs = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
        assert named <= verbs, f"{document.name}: {named - verbs}"
