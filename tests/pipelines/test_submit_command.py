"""The command that sends a run: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_pipelines.commands import cluster as command
from c3d_pipelines.kubeflow import submit as library
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path

pytestmark = pytest.mark.usefixtures("bare")

HUSH = "hush-hush-token"


def c3d_pipelines(*arguments: object) -> int:
    """The command, as a shell would run it; gives its exit code."""
    group = click.Group(commands={"submit": command.submit})
    with pytest.raises(SystemExit) as ended:
        run_command(group, [str(a) for a in arguments], name="c3d-pipelines", interrupted="")
    return ended.value.code


def said_by(capsys) -> tuple[list[str], list[str]]:
    out, err = capsys.readouterr()
    assert HUSH not in out + err
    assert "Traceback" not in err
    return out.splitlines(), err.splitlines()


@pytest.fixture
def fast(monkeypatch):
    """The package's own compiled pipeline, instead of compiling it again."""

    def copy(name: str, path: Path, cluster) -> None:
        Path(path).write_bytes(compiled_path(name).read_bytes())

    monkeypatch.setattr("c3d_pipelines.kubeflow.compile.compile_pipeline", copy)


def test_the_command_sends_a_run_and_prints_its_address_alone(kfp, capsys, fast):
    given = ["--videos", "s3://a/in", "--out", "s3://a/out", "--server", "c3d:8500"]
    more = ["--param", "stride=4", "--param", "fps=12.5", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *given, *more) == 0
    assert said_by(capsys) == ([f"{kfp.url}/#/runs/details/{next(iter(kfp.runs))}"], [])
    assert kfp.bodies[-1]["runtime_config"]["parameters"] == {
        "videos": "s3://a/in",
        "out": "s3://a/out",
        "server": "c3d:8500",
        "stride": 4,
        "fps": 12.5,
    }


@pytest.mark.parametrize(("course", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_the_command_waits_and_says_how_it_ended(kfp, capsys, course, code):
    kfp.course, kfp.failure = ["PENDING", "RUNNING", course], {"gate": "9 failed"}
    package = ["--package", compiled_path(EXTRACTION), "--every", "0.01", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, "--wait") == code
    out, err = said_by(capsys)
    assert err[:2] == ["c3d-pipelines: one RUNNING", f"c3d-pipelines: one {course}"]
    why = ": gate: 9 failed" if course == "FAILED" else ""
    ended = [f"c3d-pipelines: one ended as {course}{why}; {out[0]}"]
    assert (len(out), err[2:]) == (1, ended if code else [])


def test_settings_of_the_cluster_are_compiled_in(kfp, capsys):
    image = f"registry.example/c3d@sha256:{'0' * 64}"
    given = ["--videos", "/films/in", "--out", "/films/out", "--pvc", "films=/films"]
    assert c3d_pipelines("submit", "--host", kfp.url, *given, "--image", image) == 0
    spec = str(kfp.bodies[-1]["pipeline_spec"])
    assert image in spec
    assert "'mountPath': '/films'" in spec
    assert said_by(capsys)[1] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--param", "stride"], "--param is 'stride'; give NAME=VALUE"),
        (["--param", "videos=s3://b", "--videos", "s3://a"], "videos is given twice"),
        (["--param", "stirde=4"], "did you mean stride?"),
        (["--videos", "/home/me/films"], "a path that the pods do not see"),
        (["c3d-nothing"], "c3d-nothing: no such pipeline; there are c3d-bulk-extraction"),
        (["--package", "gone.yaml"], "gone.yaml: cannot be read"),
        (["--package", "p.yaml", "--image", "x"], "--package and --image"),
        (["--token-file", "/gone"], "/gone: the token cannot be read"),
        (["--every", "0"], "0.0 is not in the range"),
        (["--namespace", "Team A"], "namespace is 'Team A'"),
    ],
)
def test_what_cannot_be_sent_is_one_line_and_nothing_is_asked(kfp, capsys, fast, arguments, said):
    assert c3d_pipelines("submit", "--host", kfp.url, *arguments) == 2
    out, err = said_by(capsys)
    assert (out, len(err)) == ([], 1)
    assert said in err[0]
    assert kfp.requests == []


def test_no_host_is_one_line(capsys, fast):
    assert c3d_pipelines("submit") == 2
    assert said_by(capsys)[1] == [
        "c3d-pipelines: no Kubeflow Pipelines named; give --host URL or set KF_PIPELINES_ENDPOINT"
    ]


def test_the_token_of_the_environment_is_sent_and_not_said(kfp, capsys, fast, monkeypatch):
    kfp.tokens = {"another": set()}
    monkeypatch.setenv("KF_PIPELINES_TOKEN", HUSH)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
    assert c3d_pipelines("submit") == 2
    assert "HTTP 401" in said_by(capsys)[1][0]
    kfp.tokens = {HUSH: set()}
    assert c3d_pipelines("submit") == 0
    assert said_by(capsys)[1] == []


def test_interrupting_the_waiting_leaves_the_run(kfp, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "wait", interrupted)
    package = ["--package", compiled_path(EXTRACTION)]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, "--wait") == 130
    out, err = said_by(capsys)
    assert err == [f"c3d-pipelines: interrupted; the run goes on: {out[0]}"]
