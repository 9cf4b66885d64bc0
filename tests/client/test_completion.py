"""Completion of file names in a real bash, and with click's classes for zsh."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client.cli import cli
from c3d_client.core.completion import PATH_OR_URL
from click.shell_completion import get_completion_class
from support.processes import LONG_S

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "inner.mp4").touch()
    (tmp_path / "etc").mkdir()
    for name in ("first.mp4", "my video.mp4", "weights.npz", "a=b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def bash(folder):
    """Return a function: the words of a line after the Tab key in an interactive bash."""
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")

    def complete(line, *, program="c3d", script=None):
        terminal, end = pty.openpty()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BASH")},
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PS1": "",
            "TERM": "dumb",
            "INPUTRC": os.devnull,
        }
        script = script or f"source <({program} completion bash)"
        with subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=end,
            stdout=end,
            stderr=end,
            cwd=folder,
            env=environment,
            start_new_session=True,
        ) as process:
            os.close(end)
            os.write(terminal, f"{script}; echo re''ady\n".encode())
            _read_until(terminal, "ready")
            # Ctrl-A goes to the start of the line, so that the completed words become arguments.
            os.write(terminal, f"{program} {line}\t".encode() + b"\x01printf '<%s>' \n")
            os.write(terminal, b"echo; echo do''ne; exit\n")
            text = _read_until(terminal, "done")
            os.close(terminal)
            process.wait(LONG_S)
        printed = [found for found in re.findall(r"(?:<[^<>\r\n]*>)+", text) if "%s" not in found]
        assert printed, text
        words = re.findall("<([^<>]*)>", printed[-1])
        assert words[0] == program
        return words[1:]

    return complete


def _read_until(terminal, mark):
    text = ""
    while not re.search(rf"(?m)^{mark}", text.replace("\r", "\n")):
        part = os.read(terminal, 4096)
        assert part, text
        text += part.decode()
    return text


@pytest.mark.long
def test_bash_completes_files_and_folders(bash):
    for line, expected in (
        ("extract fir", ["extract", "first.mp4"]),
        ("extract first.mp4 my", ["extract", "first.mp4", "my video.mp4"]),
        ('extract "my', ["extract", "my video.mp4"]),
        ("extract films/in", ["extract", "films/inner.mp4"]),
        ("extract fi", ["extract", "fi"]),  # films/ and first.mp4
        ("extract first.mp4 --out fi", ["extract", "first.mp4", "--out", "films/"]),
        ("extract first.mp4 --out=fi", ["extract", "first.mp4", "--out=films/"]),
        ("extract --root=fi", ["extract", "--root=films/"]),
        ("extract ./fir", ["extract", "./first.mp4"]),
        ("bench fir", ["bench", "first.mp4"]),
        ("convert wei", ["convert", "weights.npz"]),
        ("classify x --timeline fir", ["classify", "x", "--timeline", "first.mp4"]),
        ("status --ca wei", ["status", "--ca", "weights.npz"]),
        ("extract --overw", ["extract", "--overwrite"]),
        ("extract --tail lo", ["extract", "--tail", "loop"]),
        ("extract --tail=lo", ["extract", "--tail=loop"]),
        ("extr", ["extract"]),
    ):
        assert bash(line) == expected, line


@pytest.mark.long
def test_bash_leaves_urls_as_they_are(bash, folder):
    for url in ("s3://etc", "https://host/fir", "file:///et", "gs://b/fi", "S3://fi"):
        assert bash(f"extract {url}") == ["extract", url], url
        assert bash(f"extract first.mp4 {url}") == ["extract", "first.mp4", url], url
    assert bash("extract --root s3://et") == ["extract", "--root", "s3://et"]
    assert bash("extract --root=s3://et") == ["extract", "--root=s3://et"]
    # The script that release 0.1.0 printed has no line, only the words that bash has split.
    old = folder / "old.sh"
    script = subprocess.run(
        [PROGRAMS / "c3d", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    old.write_text(script.replace('COMP_LINE="${COMP_LINE:0:COMP_POINT}" ', ""))
    assert old.read_text() != script
    assert bash("extract s3://et", script=f"source {old}") == ["extract", "s3://et"]
    assert bash("extract fir", script=f"source {old}") == ["extract", "first.mp4"]


@pytest.mark.long
def test_the_other_commands_complete_too(bash):
    for program, line, expected in (
        ("c3d-pipelines", "run --videos fi", ["run", "--videos", "fi"]),
        ("c3d-pipelines", "run --videos fir", ["run", "--videos", "first.mp4"]),
        ("c3d-pipelines", "run --out fi", ["run", "--out", "films/"]),
        ("c3d-pipelines", "run --out s3://fi", ["run", "--out", "s3://fi"]),
        ("c3d-pipelines", "merge fil", ["merge", "films/"]),
        ("c3d-pipelines", "neighbours fil", ["neighbours", "films/"]),
        ("c3d-export", "inspect wei", ["inspect", "weights.npz"]),
        ("c3d-export", "build --weights wei", ["build", "--weights", "weights.npz"]),
    ):
        assert bash(line, program=program) == expected, (program, line)


def test_zsh_completes_files_and_leaves_urls(monkeypatch):
    complete = get_completion_class("zsh")(cli, {}, "c3d", "_C3D_COMPLETE")
    for words, expected in (
        ("c3d extract fir", "file\nfir\n_"),
        ("c3d extract a.mp4 --root fi", "dir\nfi\n_"),
        ("c3d extract a.mp4 --out fi", "dir\nfi\n_"),
        ("c3d extract s3://bucket/fi", ""),
        ("c3d extract --root s3://bucket/fi", ""),
        ("c3d bench fi", "file\nfi\n_"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert complete.complete() == expected, words
    # The value of --option=value; tried in zsh 5.9.
    assert "compset -P 1 '*='" in complete.source()
    assert 'compadd -U -i "$IPREFIX" -V' in complete.source()


def test_every_argument_and_option_that_names_a_file_completes():
    from c3d_export.cli import cli as export
    from c3d_pipelines.cli import cli as pipelines

    named = re.compile(r"FILE|FOLDER|DIR|PATH|PEM|PNG|HTML|INPUT|DATASET|YAML")
    # Paths in pods are not those of this machine.
    elsewhere = {("submit", "videos"), ("submit", "out"), ("schedule", "videos")}
    elsewhere |= {("schedule", "out")}
    checked = 0
    for group in (cli, export, pipelines):
        for command in group.commands.values():
            context = command.make_context(command.name, [], resilient_parsing=True)
            for parameter in command.params:
                metavar = parameter.metavar or ""
                is_pair = "=" in metavar or ":" in metavar  # such as CLAIM=PATH, local:DIR
                is_elsewhere = (command.name, parameter.name) in elsewhere
                if not named.search(metavar) or is_pair or is_elsewhere:
                    continue
                kinds = {item.type for item in parameter.shell_complete(context, "x")}
                assert kinds <= {"file", "dir"}, (command.name, parameter.name)
                assert kinds, (command.name, parameter.name)
                checked += 1
    assert checked > 30
    assert PATH_OR_URL.convert("a b", None, None) == "a b"
