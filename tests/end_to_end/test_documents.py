"""The documents: their code blocks run, their links resolve, and generated parts are up to date."""

import html
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import c3d_client
import cv2
import pytest
from c3d_client.cli import cli as c3d
from c3d_export.cli import cli as c3d_export
from c3d_pipelines.cli import cli as c3d_pipelines
from c3d_pipelines.inputs.plan import shard_rows
from c3d_pipelines.run.plan import make_plan
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.run.publish import publish
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from support.fake_kfp import fake_kfp
from support.processes import LONG_S
from support.videos import index_frame, write_video

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "model_export", "pipelines")
DOCUMENTS = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / package / "README.md" for package in PACKAGES),
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ]
)
# The tests of k8s/ check the commands of these documents.
KUBERNETES = sorted((ROOT / "k8s").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# CI runs these two.
_NOT_RUN_HERE = ("make example", "make test")


def blocks(language):
    # Each block starts commands: those of the README run in `make test`, the others in
    # `make test-long`.
    return [
        pytest.param(
            code,
            id=f"{document.relative_to(ROOT)}-{index}",
            marks=[pytest.mark.long] if document.parent != ROOT else [],
        )
        for document in DOCUMENTS
        for index, code in enumerate(
            code for kind, code in _BLOCK.findall(document.read_text()) if kind == language
        )
    ]


def command_lines(code):
    return [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def working_folder(tmp_path, monkeypatch, narrow_copy, carphone):
    """A working folder with a video, folders of videos and frames, and a model.

    The documents assume these.
    """
    shutil.copy(carphone, tmp_path / "video.mp4")
    (tmp_path / "videos" / "a").mkdir(parents=True)
    shutil.copy(carphone, tmp_path / "videos" / "a" / "b.mp4")
    write_video(tmp_path / "videos" / "c.mp4", 40)
    (tmp_path / "dumps" / "a").mkdir(parents=True)
    for number in range(24):
        cv2.imwrite(str(tmp_path / "dumps" / "a" / f"{number:06d}.png"), index_frame(number))
    (tmp_path / "models").mkdir()
    shutil.move(narrow_copy, tmp_path / "models" / "c3d")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sample_dataset(tmp_path_factory, narrow_server, carphone):
    """A dataset of two videos with status ok, made with the steps of a run."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "videos" / "a").mkdir(parents=True)
    write_video(folder / "videos" / "c.mp4", 40)
    shutil.copy(carphone, folder / "videos" / "a" / "b.mp4")
    out = folder / "dataset"
    settings = preflight(JobSettings(out=str(out), run="first", server=narrow_server.target))
    planned = make_plan(str(folder / "videos"), str(out))
    do_shard(settings, shard_rows(planned, 0), 0)
    publish(settings, planned)
    return out


@pytest.fixture
def add_dataset(working_folder, request):
    """Return a function that adds a dataset to the folder if the code reads one."""

    def add(code):
        if re.search(r"[\"'/ ]dataset\b(?!s)", code) and "--out dataset" not in code:
            shutil.copytree(request.getfixturevalue("sample_dataset"), working_folder / "dataset")

    return add


@pytest.fixture(scope="module")
def kubeflow():
    """The URL of a server with the part of Kubeflow Pipelines' API that the documents use."""
    with fake_kfp() as server:
        yield server.url


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, working_folder, narrow_server, add_dataset):
    assert any(name in code for name in ("localhost:8500", '"dataset', "'dataset", "models/c3d"))
    add_dataset(code)
    program = code.replace("localhost:8500", narrow_server.target)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_python_blocks_pass_mypy(tmp_path):
    # With no settings but these, as in a user's project. pandas and datasets have no types.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\ndisable_error_code = import-untyped\n"
    )
    names = []
    for number, block in enumerate(blocks("python")):
        names.append(f"block_{number}.py")
        (tmp_path / names[-1]).write_text(f"# {block.id}\n{block.values[0]}")
    assert len(names) > 8
    cache = ROOT / ".mypy_cache" / "documents"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", cache, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_blocks_run(code, working_folder, narrow_server, add_dataset, kubeflow):
    add_dataset(code)
    for line in command_lines(code):
        if line.startswith(_NOT_RUN_HERE):
            continue
        arguments = [
            argument.replace("localhost:8500", narrow_server.target).replace(
                "http://localhost:8888", kubeflow
            )
            for argument in shlex.split(line, comments=True)
        ]
        output_file = Path(arguments.pop()) if arguments[-2:-1] == [">"] else None
        arguments = arguments[:-1] if output_file else arguments
        if arguments[:2] == ["c3d-export", "serve"]:
            start_and_stop_server(arguments)
            continue
        if arguments[:2] == ["c3d-export", "build"]:
            arguments += ["--width", "4", "--batch-sizes", "1"]  # a small network builds quickly
        if arguments[:2] == ["c3d", "bench"]:
            arguments += ["--seconds", "0.2"]
        done = subprocess.run(installed_command(arguments), capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if output_file:
            output_file.write_text(done.stdout)


def start_and_stop_server(arguments):
    arguments = ["0" if argument == "8500" else argument for argument in arguments]  # a free one
    process = subprocess.Popen(
        installed_command(arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout.readline().startswith("ready: c3d version")
    finally:
        process.terminate()
        assert process.wait(timeout=LONG_S) == 0
        process.stdout.close()


def installed_command(arguments):
    """Return the command with the path of this Python's environment, whatever PATH is."""
    installed = Path(sys.executable).parent / arguments[0]
    assert installed.exists(), f"{arguments[0]} is not installed"
    return [str(installed), *arguments[1:]]


def test_links_and_paths_in_documents_exist():
    for document in [*DOCUMENTS, *KUBERNETES]:
        text = document.read_text()
        name = document.relative_to(ROOT)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{name}: {target}"
        for path in re.findall(
            r"`((?:client|model_export|pipelines|k8s|tests|examples|docs)/[\w./]+)`", text
        ):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_make_verbs_in_documents_exist():
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    for document in [*DOCUMENTS, *KUBERNETES]:
        named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
        assert named <= verbs, f"{document.relative_to(ROOT)}: {named - verbs}"


def test_command_references_are_up_to_date():
    for page in ("cli.md", "cli-export.md", "cli-pipelines.md"):
        done = subprocess.run(
            [sys.executable, ROOT / "docs" / "generate_cli.py", page],
            capture_output=True,
            text=True,
            check=True,
        )
        up_to_date = (ROOT / "docs" / page).read_text(encoding="utf-8") == done.stdout
        assert up_to_date, f"docs/{page} is out of date; run `make docs`"


def test_help_fits_a_terminal_of_60_and_80_columns(monkeypatch):
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        for name, text in (
            item for group in (c3d, c3d_export, c3d_pipelines) for item in helps(group)
        ):
            for line in text.splitlines():
                case = f"{name} at {columns}: {line}"
                assert len(line) <= columns, case
                assert not re.search(r"\w-$", line), f"a word is broken: {case}"


def test_help_lists_each_command_with_its_whole_first_sentence(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for group in (c3d, c3d_export, c3d_pipelines):
        listed = " ".join(helps(group)[0][1].split())
        for name, command in group.commands.items():
            first = " ".join(command.help.partition("\n\n")[0].split())
            assert f"{name} {first.rstrip('.')}" in listed, name


def helps(command, name=None, parent=None):
    """Return the names and help texts of a command and of all its subcommands."""
    context = command.context_class(
        command, info_name=name or command.name, parent=parent, **command.context_settings
    )
    found = [(context.command_path, context.get_help())]
    for subcommand in getattr(command, "commands", {}):
        found += helps(command.commands[subcommand], subcommand, context)
    return found


def test_api_page_lists_every_public_name_once():
    listed = re.findall(
        r"^::: c3d_client\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(c3d_client.__all__)


def test_diagram_shows_the_steps_of_the_compiled_pipeline():
    compiled = ROOT / "pipelines/c3d_pipelines/kubeflow/compiled/c3d-bulk-extraction.yaml"
    steps = re.findall(r"^  comp-([a-z]+):", compiled.read_text(), re.MULTILINE)
    names = set(re.findall(r"\w+", diagram_of_bulk_run()))
    assert len(steps) == 4
    assert set(steps) <= names


def test_diagram_image_is_up_to_date():
    image = (ROOT / "docs/img/bulk-run.svg").read_text()
    (drawn,) = re.findall(r"<desc>(.*?)</desc></svg>", image, re.DOTALL)
    up_to_date = html.unescape(drawn) == diagram_of_bulk_run()
    assert up_to_date, "docs/img/bulk-run.svg is out of date; run `make docs-pictures`"


def diagram_of_bulk_run():
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/bulk.md").read_text(), re.DOTALL)
    return diagram


def test_packages_have_the_licence_of_the_project():
    licence = (ROOT / "LICENSE").read_text()
    for package in PACKAGES:
        assert (ROOT / package / "LICENSE").read_text() == licence, package


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
