"""Runs that a cluster starts at times: made once, listed, paused, replaced and removed."""

from __future__ import annotations

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_client.core.errors import UsageError
from c3d_pipelines.commands.cluster import schedule as command
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.submit import RunOptions, schedule, schedules
from support.fake_kfp import errs, page, well

NIGHTLY = "0 0 2 * * *"
GIVEN = {"videos": "s3://films/in", "out": "s3://films/out"}


@pytest.fixture
def backend(kfp):
    with Backend(ClusterAccess(host=kfp.url)) as opened:
        yield opened


def test_a_schedule_starts_one_run_at_a_time_and_makes_up_for_none(kfp, backend, bulk):
    made = schedule(backend, bulk, {**GIVEN, "stride": "4"}, cron="0  0 2 * * *", name="nightly")
    (body,) = kfp.schedules.values()
    assert body["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert (body["max_concurrency"], body["no_catchup"], body["mode"]) == ("1", True, "ENABLE")
    assert body["runtime_config"] == {"parameters": {**GIVEN, "stride": 4}}
    assert (made.name, made.cron, made.enabled) == ("nightly", NIGHTLY, True)
    assert made.url == f"{kfp.url}/#/recurringrun/details/{made.schedule_id}"


def test_a_schedule_may_begin_paused_with_its_own_account(kfp, backend, bulk):
    options = RunOptions(service_account="runner", pipeline_root="s3://a/b", cached=False)
    made = schedule(backend, bulk, GIVEN, cron="@daily", enabled=False, options=options)
    (body,) = kfp.schedules.values()
    assert (body["mode"], body["service_account"]) == ("DISABLE", "runner")
    assert body["runtime_config"]["pipeline_root"] == "s3://a/b"
    assert "enableCache" not in str(body["pipeline_spec"])
    assert (made.enabled, made.name, made.cron) == (False, EXTRACTION, "@daily")


def test_a_schedule_is_not_made_twice_unless_it_is_replaced(kfp, backend, bulk):
    first = schedule(backend, bulk, GIVEN, cron=NIGHTLY)
    with pytest.raises(RunError, match=r"has a schedule 'c3d-bulk-extraction' already, at '0 0 2"):
        schedule(backend, bulk, GIVEN, cron="0 0 3 * * *")
    assert list(kfp.schedules) == [first.schedule_id]
    second = schedule(backend, bulk, GIVEN, cron="0 0 3 * * *", replace=True)
    assert list(kfp.schedules) == [second.schedule_id]
    # What cannot be made takes no one's place.
    kfp.faults = [well, well, errs(500)]
    with pytest.raises(RunError, match="HTTP 500"):
        schedule(backend, bulk, GIVEN, cron=NIGHTLY, replace=True)
    assert list(kfp.schedules) == [second.schedule_id]


def test_five_fields_and_bad_parameters_are_refused_before_anyone_is_asked(kfp, backend, bulk):
    with pytest.raises(UsageError, match="the seconds first: '0 0 2 "):
        schedule(backend, bulk, GIVEN, cron="0 2 * * *")
    with pytest.raises(RunError, match="did you mean videos"):
        schedule(backend, bulk, {"vidoes": "x"}, cron=NIGHTLY)
    assert kfp.requests == []


def test_schedules_are_listed_whole_though_they_come_in_pages(kfp, backend, bulk):
    assert schedules(backend, experiment="c3d") == []
    assert kfp.experiments == {}
    kfp.page_size = 2
    made = [schedule(backend, bulk, GIVEN, cron=NIGHTLY, name=f"s{n}") for n in range(5)]
    assert schedules(backend, experiment="c3d") == made
    assert schedules(backend, "s3", experiment="c3d") == [made[3]]
    assert schedules(backend, experiment="another") == []


def test_a_login_page_is_no_schedule(kfp, backend, bulk):
    kfp.faults = [well, well, well, page("Sign in")]
    with pytest.raises(RunError, match="without saying which schedule it is"):
        schedule(backend, bulk, GIVEN, cron=NIGHTLY)


# The command


@pytest.fixture
def c3d_pipelines(kfp, capsys, monkeypatch):
    """The command, as a shell would run it; gives its exit code and what it says."""
    for name in ("UI_ENDPOINT", "TOKEN", "COOKIE"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)

    def run(*arguments: object) -> tuple[int, str, str]:
        group = click.Group(commands={"schedule": command})
        words = ["schedule", *(str(a) for a in arguments)]
        with pytest.raises(SystemExit) as ended:
            run_command(group, words, name="c3d-pipelines", interrupted="")
        return ended.value.code, *capsys.readouterr()

    return run


PACKAGE = ("--package", compiled_path(EXTRACTION))


def test_the_command_makes_lists_pauses_resumes_and_deletes(kfp, c3d_pipelines):
    code, out, err = c3d_pipelines("--cron", NIGHTLY, "--name", "nightly", *PACKAGE)
    (made,) = kfp.schedules
    line = f"nightly: {NIGHTLY}  {kfp.url}/#/recurringrun/details/{made}\n"
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --cron, --list, --delete, --pause and --resume"),
        (["--cron", NIGHTLY, "--list"], "give one of --cron"),
        (["--delete", "a", "--pause", "b"], "give one of --cron"),
        (["--cron", "0 2 * * *", *PACKAGE], "the seconds first: '0 0 2 * * *'"),
        (["--cron", NIGHTLY, "--param", "x=1", *PACKAGE], "there is no parameter 'x'"),
        (["--cron", NIGHTLY, "--out", "out", *PACKAGE], "out is 'out', a path that the pods"),
    ],
)
def test_what_cannot_be_scheduled_is_one_line_and_nothing_is_asked(
    kfp, c3d_pipelines, arguments, said
):
    code, out, err = c3d_pipelines(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert kfp.requests == []
