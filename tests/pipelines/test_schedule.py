"""Schedules on a cluster: created, listed, paused, replaced and removed; six fields of time."""

from __future__ import annotations

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_client.core.errors import UsageError
from c3d_pipelines.commands.cluster import schedule as command
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.submit import RunOptions, check_cron, schedule, schedules
from support.fake_kfp import fails, no_fault, page

NIGHTLY = "0 0 2 * * *"
PARAMETERS = {"videos": "s3://bucket/in", "out": "s3://bucket/out"}


@pytest.fixture
def backend(kfp):
    with Backend(ClusterAccess(host=kfp.url)) as backend:
        yield backend


def test_schedule_starts_one_run_at_a_time_without_catch_up(kfp, backend, bulk):
    created = schedule(
        backend, bulk, {**PARAMETERS, "stride": "4"}, cron="0  0 2 * * *", name="nightly"
    )
    (body,) = kfp.schedules.values()
    assert body["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert (body["max_concurrency"], body["no_catchup"], body["mode"]) == ("1", True, "ENABLE")
    assert body["runtime_config"] == {"parameters": {**PARAMETERS, "stride": 4}}
    assert (created.name, created.cron, created.enabled) == ("nightly", NIGHTLY, True)
    assert created.url == f"{kfp.url}/#/recurringrun/details/{created.schedule_id}"


def test_schedule_may_begin_paused_with_a_service_account(kfp, backend, bulk):
    options = RunOptions(service_account="runner", pipeline_root="s3://a/b", cached=False)
    created = schedule(backend, bulk, PARAMETERS, cron="@daily", enabled=False, options=options)
    (body,) = kfp.schedules.values()
    assert (body["mode"], body["service_account"]) == ("DISABLE", "runner")
    assert body["runtime_config"]["pipeline_root"] == "s3://a/b"
    assert "enableCache" not in str(body["pipeline_spec"])
    assert (created.enabled, created.name, created.cron) == (False, EXTRACTION, "@daily")


def test_existing_schedule_is_kept_unless_it_is_replaced(kfp, backend, bulk):
    first = schedule(backend, bulk, PARAMETERS, cron=NIGHTLY)
    with pytest.raises(RunError, match=r"has a schedule 'c3d-bulk-extraction' already, at '0 0 2"):
        schedule(backend, bulk, PARAMETERS, cron="0 0 3 * * *")
    assert list(kfp.schedules) == [first.schedule_id]
    second = schedule(backend, bulk, PARAMETERS, cron="0 0 3 * * *", replace=True)
    assert list(kfp.schedules) == [second.schedule_id]
    # A schedule that cannot be created replaces none.
    kfp.faults = [no_fault, no_fault, fails(500)]
    with pytest.raises(RunError, match="HTTP 500"):
        schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, replace=True)
    assert list(kfp.schedules) == [second.schedule_id]


def test_schedules_of_all_pages_are_listed(kfp, backend, bulk):
    assert schedules(backend, experiment="c3d") == []
    assert kfp.experiments == {}
    kfp.page_size = 2
    created = [schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, name=f"s{n}") for n in range(5)]
    assert schedules(backend, experiment="c3d") == created
    assert schedules(backend, "s3", experiment="c3d") == [created[3]]
    assert schedules(backend, experiment="another") == []


def test_login_page_is_not_a_schedule(kfp, backend, bulk):
    kfp.faults = [no_fault, no_fault, no_fault, page("Sign in")]
    with pytest.raises(RunError, match="without the schedule's id"):
        schedule(backend, bulk, PARAMETERS, cron=NIGHTLY)


# The command


@pytest.fixture
def c3d_pipelines(kfp, capsys, monkeypatch):
    """Run the command as a shell does; return its exit code, stdout and stderr."""
    for name in ("UI_ENDPOINT", "TOKEN", "COOKIE"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)

    def run(*arguments: object) -> tuple[int, str, str]:
        group = click.Group(commands={"schedule": command})
        texts = ["schedule", *(str(argument) for argument in arguments)]
        with pytest.raises(SystemExit) as ended:
            run_command(group, texts, name="c3d-pipelines", interrupted="")
        return ended.value.code, *capsys.readouterr()

    return run


PACKAGE = ("--package", compiled_path(EXTRACTION))


def test_command_creates_lists_pauses_resumes_and_deletes(kfp, c3d_pipelines):
    code, out, err = c3d_pipelines("--cron", NIGHTLY, "--name", "nightly", *PACKAGE)
    (schedule_id,) = kfp.schedules
    line = f"nightly: {NIGHTLY}  {kfp.url}/#/recurringrun/details/{schedule_id}\n"
    assert (code, out, err) == (0, line, "")
    assert c3d_pipelines("--list") == (0, line, "")
    assert c3d_pipelines("--pause", "nightly") == (0, "nightly: disabled\n", "")
    assert c3d_pipelines("--list")[1] == line.replace("  ", " (paused)  ")
    assert c3d_pipelines("--resume", "nightly") == (0, "nightly: enabled\n", "")
    assert c3d_pipelines("--list") == (0, line, "")
    assert c3d_pipelines("--cron", NIGHTLY, "--name", "nightly", *PACKAGE)[0] == 2
    code, out, _ = c3d_pipelines(
        "--cron", "@daily", "--name", "nightly", "--replace", "--paused", *PACKAGE
    )
    assert (code, out.startswith("nightly: @daily (paused)  ")) == (0, True)
    assert c3d_pipelines("--delete", "nightly") == (0, "nightly: deleted\n", "")
    assert c3d_pipelines("--list") == (0, "", "")
    code, out, err = c3d_pipelines("--delete", "nightly")
    assert (code, out) == (2, "")
    assert err == f"c3d-pipelines: {kfp.url}: has no schedule 'nightly' in 'c3d'\n"


def test_unusable_arguments_are_one_line_and_no_request_is_sent(kfp, c3d_pipelines):
    for arguments, message in (
        ([], "give one of --cron, --list, --delete, --pause and --resume"),
        (["--cron", NIGHTLY, "--list"], "give one of --cron"),
        (["--delete", "a", "--pause", "b"], "give one of --cron"),
        (["--cron", "0 2 * * *", *PACKAGE], "the seconds first: '0 0 2 * * *'"),
        (["--cron", NIGHTLY, "--param", "x=1", *PACKAGE], "there is no parameter 'x'"),
        (["--cron", NIGHTLY, "--out", "out", *PACKAGE], "out is 'out', a path that the pods"),
    ):
        code, out, err = c3d_pipelines(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert message in err
        assert kfp.requests == [], arguments


# Times


def test_six_fields_are_passed_on():
    for text in (
        "0 0 2 * * *",
        "0 30 1-5 ? * MON-FRI",
        "*/10 0,30 */2 1,15 JAN,jul sun",
        "0 0/15 9-17/2 31 12 0-6",
        "@daily",
        "@every 1h30m",
    ):
        assert check_cron(text) == text
        assert check_cron(f"  {text.replace(' ', '   ')}\t") == text


def test_five_fields_are_refused_with_the_form_of_six():
    with pytest.raises(UsageError, match=r"five fields; .* seconds first: '0 0 2 \* \* \*'$"):
        check_cron("0 2 * * *")
    with pytest.raises(UsageError, match="give six fields: seconds, minutes"):
        check_cron(" ")


def test_other_mistakes_are_refused_by_the_backend(kfp, backend, bulk):
    with pytest.raises(RunError, match=r"HTTP 400: End of range \(60\) above maximum"):
        schedule(backend, bulk, PARAMETERS, cron="60 0 2 * * *")
    with pytest.raises(RunError, match="HTTP 400: .*Expected 6 fields, found 7"):
        schedule(backend, bulk, PARAMETERS, cron="0 0 2 * * * 2030")
    assert kfp.schedules == {}
