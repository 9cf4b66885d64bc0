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
    texts = [*(str(argument) for argument in arguments), "--no-check"]
    with pytest.raises(SystemExit) as ended:
        run_command(group, texts, name="c3d-pipelines", interrupted="")
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


def test_command_sends_a_run_and_prints_only_its_id_or_its_address(kfp, capsys, fast):
    given = ["--videos", "s3://a/in", "--out", "s3://a/out", "--server", "c3d:8500"]
    more = ["--param", "stride=4", "--param", "fps=12.5", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *given, *more) == 0
    assert output_of(capsys) == (list(kfp.runs), [])
    assert kfp.bodies[-1]["runtime_config"]["parameters"] == {
        "videos": "s3://a/in",
        "out": "s3://a/out",
        "server": "c3d:8500",
        "stride": 4,
        "fps": 12.5,
    }
    assert c3d_pipelines("submit", "--host", kfp.url, "--ui", "https://ui.example/p/") == 0
    assert output_of(capsys) == ([f"https://ui.example/p/#/runs/details/{list(kfp.runs)[1]}"], [])


def test_option_that_has_no_effect_any_more_is_accepted_with_a_note(kfp, capsys, fast):
    assert c3d_pipelines("submit", "--host", kfp.url, "--no-cache") == 0
    out, (note,) = output_of(capsys)
    assert (len(out), len(kfp.runs)) == (1, 1)
    assert note.startswith("c3d-pipelines: --no-cache has no effect")
    assert "enableCache" not in str(kfp.bodies[-1]["pipeline_spec"])
    text = click.Context(command.submit).get_help()
    assert "--no-cache" not in text
    assert "must reach that address too" in " ".join(text.split())


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_command_waits_and_prints_how_the_run_ended(kfp, capsys, state, code):
    kfp.states = ["PENDING", "RUNNING", state]
    kfp.steps = {"plan": ("Failed", "OOMKilled (exit code 137)")}
    package = ["--package", compiled_path(EXTRACTION), "--every", "0.01", "--name", "one"]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, "--wait") == code
    out, err = output_of(capsys)
    assert err[0] == "c3d-pipelines: one RUNNING"
    why = "plan failed: OOMKilled (exit code 137)"
    assert err[1] == f"c3d-pipelines: one: {why}"  # named while waiting
    assert err[2] == f"c3d-pipelines: one {state}"
    ended = [f"c3d-pipelines: one ended as {state}: {why}; {out[0]}"]
    assert (len(out), err[3:]) == (1, ended if code else [])


def test_command_lists_what_it_tried_for_a_reason(kfp, capsys):
    kfp.states = ["PENDING", "FAILED"]
    package = ["--package", compiled_path(EXTRACTION), "--every", "0.01", "--name", "one"]
    out = ["--param", "out=/data/out"]
    assert c3d_pipelines("submit", "--host", kfp.url, *package, *out, "--wait") == 1
    printed, err = output_of(capsys)
    (run_id,) = kfp.runs
    pods = f"-n kubeflow -l pipeline/runid={run_id}"
    assert err == [
        "c3d-pipelines: one FAILED",
        f"c3d-pipelines: one ended as FAILED; {printed[0]}",
        "c3d-pipelines: dataset /data/out: this machine does not have the run's folder",
        f"c3d-pipelines: {kfp.url}: returns no workflow of the run",
        "c3d-pipelines: Kubernetes: no kubeconfig here",
        f"c3d-pipelines: look with: kubectl describe pods {pods}",
        f"c3d-pipelines: look with: kubectl logs {pods} -c main --prefix --tail 20",
    ]


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
