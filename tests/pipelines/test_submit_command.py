"""`c3d-pipelines submit`: output and exit codes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_pipelines.commands import cluster as command
from c3d_pipelines.kubeflow import submit as library
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path

pytestmark = pytest.mark.usefixtures("bare")

SECRET = "hush-hush-token"


def c3d_pipelines(*arguments: object) -> int:
    """Run the command as a shell does; return its exit code."""
    group = click.Group(commands={"submit": command.submit})
    with pytest.raises(SystemExit) as ended:
        run_command(
            group, [str(argument) for argument in arguments], name="c3d-pipelines", interrupted=""
        )
    return ended.value.code


def output_of(capsys) -> tuple[list[str], list[str]]:
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert "Traceback" not in err
    return out.splitlines(), err.splitlines()


@pytest.fixture
def fast(monkeypatch):
    """Use the package's compiled pipelines instead of compiling them again."""

    def copy(name: str, path: Path, cluster) -> None:
        Path(path).write_bytes(compiled_path(name).read_bytes())

    monkeypatch.setattr("c3d_pipelines.kubeflow.compile.compile_pipeline", copy)


def test_command_sends_a_run_and_prints_only_its_address(kfp, capsys, fast):
    given = ["--videos", "s3://a/in", "--out", "s3://a/out", "--server", "c3d:8500"]
    more = ["--param", "stride=4", "--param", "fps=12.5", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *given, *more) == 0
    assert output_of(capsys) == ([f"{kfp.url}/#/runs/details/{next(iter(kfp.runs))}"], [])
    assert kfp.bodies[-1]["runtime_config"]["parameters"] == {
        "videos": "s3://a/in",
        "out": "s3://a/out",
        "server": "c3d:8500",
        "stride": 4,
        "fps": 12.5,
    }


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_command_waits_and_prints_how_the_run_ended(kfp, capsys, state, code):
    kfp.states, kfp.failure = ["PENDING", "RUNNING", state], {"gate": "9 failed"}
    package = ["--package", compiled_path(EXTRACTION), "--every", "0.01", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, "--wait") == code
    out, err = output_of(capsys)
    assert err[:2] == ["c3d-pipelines: one RUNNING", f"c3d-pipelines: one {state}"]
    why = ": gate: 9 failed" if state == "FAILED" else ""
    ended = [f"c3d-pipelines: one ended as {state}{why}; {out[0]}"]
    assert (len(out), err[2:]) == (1, ended if code else [])


def test_settings_of_the_cluster_are_compiled(kfp, capsys):
    image = f"registry.example/c3d@sha256:{'0' * 64}"
    given = ["--videos", "/videos/in", "--out", "/videos/out", "--pvc", "videos=/videos"]
    assert c3d_pipelines("submit", "--host", kfp.url, *given, "--image", image) == 0
    spec = str(kfp.bodies[-1]["pipeline_spec"])
    assert image in spec
    assert "'mountPath': '/videos'" in spec
    assert output_of(capsys)[1] == []


def test_unusable_arguments_are_one_line_and_no_request_is_sent(kfp, capsys, fast):
    for arguments, message in (
        (["--param", "stride"], "--param is 'stride'; give NAME=VALUE"),
        (["--param", "videos=s3://b", "--videos", "s3://a"], "videos is given twice"),
        (["--param", "stirde=4"], "did you mean stride?"),
        (["--videos", "/home/me/videos"], "a path that the pods do not see"),
        (["c3d-nothing"], "c3d-nothing: no such pipeline; there are c3d-bulk-extraction"),
        (["--package", "gone.yaml"], "gone.yaml: cannot be read"),
        (["--package", "p.yaml", "--image", "x"], "--package and --image"),
        (["--token-file", "/gone"], "/gone: the token cannot be read"),
        (["--every", "0"], "0.0 is not in the range"),
        (["--namespace", "Team A"], "namespace is 'Team A'"),
    ):
        assert c3d_pipelines("submit", "--host", kfp.url, *arguments) == 2, arguments
        out, err = output_of(capsys)
        assert (out, len(err)) == ([], 1), arguments
        assert message in err[0]
        assert kfp.requests == [], arguments


def test_missing_host_is_one_line(capsys, fast):
    assert c3d_pipelines("submit") == 2
    assert output_of(capsys)[1] == [
        "c3d-pipelines: no Kubeflow Pipelines named; give --host URL or set KF_PIPELINES_ENDPOINT"
    ]


def test_token_of_the_environment_is_sent_and_not_printed(kfp, capsys, fast, monkeypatch):
    kfp.tokens = {"another": set()}
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
    assert c3d_pipelines("submit") == 2
    assert "HTTP 401" in output_of(capsys)[1][0]
    kfp.tokens = {SECRET: set()}
    assert c3d_pipelines("submit") == 0
    assert output_of(capsys)[1] == []


def test_ctrl_c_ends_the_wait_and_not_the_run(kfp, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "wait", interrupted)
    package = ["--package", compiled_path(EXTRACTION)]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, "--wait") == 130
    out, err = output_of(capsys)
    assert err == [f"c3d-pipelines: interrupted; the run goes on: {out[0]}"]
