"""`c3d-pipelines upload`: a named pipeline with a version for each content."""

from __future__ import annotations

import re

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.cluster import upload as command
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import EXTRACTION, compile_pipeline, compiled_path
from c3d_pipelines.kubeflow.submit import Package
from c3d_pipelines.kubeflow.upload import upload
from support.fake_kfp import fails, no_fault

pytestmark = pytest.mark.usefixtures("bare")

VERSION = r"\d+\.\d+\.\d+\S*-[0-9a-f]{12}"
PACKAGE = ("--package", compiled_path(EXTRACTION))


@pytest.fixture
def backend(kfp):
    with Backend(ClusterAccess(host=kfp.url)) as backend:
        yield backend


@pytest.fixture
def c3d_pipelines(kfp, capsys):
    """Run the command as a shell does; return its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        group = click.Group(commands={"upload": command})
        texts = ["upload", "--host", kfp.url, *(str(argument) for argument in arguments)]
        with pytest.raises(SystemExit) as ended:
            run_command(group, texts, name="c3d-pipelines", interrupted="")
        return ended.value.code, *capsys.readouterr()

    return run


def test_each_content_is_one_version_of_one_pipeline(kfp, backend, bulk, tmp_path):
    first, again = upload(backend, bulk), upload(backend, bulk)
    assert (first.pipeline, first.is_new, again.is_new) == (EXTRACTION, True, False)
    assert first.version == again.version
    assert re.fullmatch(VERSION, first.version)
    assert first.url == ""
    path = tmp_path / "other.yaml"
    compile_pipeline(EXTRACTION, path, ClusterSettings(cpu_limit="3"))
    other = upload(backend, Package(path))
    assert other.is_new
    assert other.version != first.version
    (pipeline,) = kfp.uploads.pipelines.values()
    assert pipeline["description"].startswith("fc6 features of all videos")
    assert [v["name"] for v in kfp.uploads.versions.values()] == [first.version, other.version]
    assert {v["pipeline_id"] for v in kfp.uploads.versions.values()} == {pipeline["pipeline_id"]}


def test_same_content_in_another_file_is_the_same_version(backend, bulk, tmp_path):
    path = tmp_path / "copy.yaml"
    path.write_text("# A comment.\n" + bulk.text)
    assert Package(path).digest == bulk.digest
    assert upload(backend, bulk).is_new
    assert not upload(backend, Package(path)).is_new


def test_interrupted_upload_is_finished_by_the_next(kfp, backend, bulk):
    kfp.faults = [no_fault, no_fault, no_fault, fails(500)]
    with pytest.raises(RunError, match="HTTP 500"):
        upload(backend, bulk)
    assert (len(kfp.uploads.pipelines), kfp.uploads.versions) == (1, {})
    assert upload(backend, bulk).is_new
    assert (len(kfp.uploads.pipelines), len(kfp.uploads.versions)) == (1, 1)


def test_pipeline_that_another_client_creates_meanwhile_is_used(kfp, backend, bulk):
    def other_client(handler) -> bool:
        kfp.uploads.create({"name": EXTRACTION}, "")
        return False

    kfp.faults = [no_fault, other_client]
    assert upload(backend, bulk).is_new
    assert len(kfp.uploads.pipelines) == 1


def test_pipelines_of_users_are_apart(kfp, bulk):
    kfp.multi_user, kfp.tokens = True, {"t": {"team-a", "team-b"}}
    for namespace in ("team-a", "team-b"):
        with Backend(ClusterAccess(host=kfp.url, namespace=namespace, token="t")) as backend:
            assert upload(backend, bulk).is_new
            assert not upload(backend, bulk).is_new
    assert [p["namespace"] for p in kfp.uploads.pipelines.values()] == ["team-a", "team-b"]


def test_command_prints_pipeline_version_and_state(kfp, c3d_pipelines):
    code, out, err = c3d_pipelines(*PACKAGE, "--name", "my videos")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"my videos {VERSION}: uploaded\n", out)
    code, again, err = c3d_pipelines(*PACKAGE, "--name", "my videos", "--ui", "https://ui.example")
    ((version_id, version),) = kfp.uploads.versions.items()
    url = f"https://ui.example/#/pipelines/details/{version['pipeline_id']}/version/{version_id}"
    assert (code, err) == (0, "")
    assert again == out.replace(": uploaded\n", f": unchanged  {url}\n")


def test_mistakes_are_one_line_and_upload_nothing(kfp, c3d_pipelines):
    for arguments, message in (
        (["c3d-nothing"], "c3d-nothing: no such pipeline; there are c3d-bulk-extraction"),
        (["--package", "gone.yaml"], "gone.yaml: cannot be read"),
        ([*PACKAGE, "--image", "x"], "--package and --image"),
    ):
        code, out, err = c3d_pipelines(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert message in err
        assert kfp.requests == [], arguments
    kfp.faults = [no_fault, fails(403, "no permission")]
    code, out, err = c3d_pipelines(*PACKAGE)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "HTTP 403: no permission" in err
    assert kfp.uploads.pipelines == {}
