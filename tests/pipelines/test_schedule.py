"""Schedules on a cluster: created, listed, paused, replaced and removed; six fields of time."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time

import click
import pytest
from c3d_client.core.cli import run_command
from c3d_client.core.errors import UsageError
from c3d_pipelines.commands.cluster import schedule as command
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.schedules import (
    RunEnd,
    RunInProgress,
    check_cron,
    delete_schedule,
    find_schedules,
    resume_schedule,
    schedule,
    schedules,
)
from c3d_pipelines.kubeflow.submit import Package, RunOptions
from support.fake_kfp import fails, no_fault, page

NIGHTLY = "0 0 2 * * *"
NAME = f"{EXTRACTION}-nightly"
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
    assert (created.name, created.cron, created.enabled) == (NAME, NIGHTLY, True)
    assert (created.url, created.namespace) == ("", "kubeflow")


def test_schedule_may_begin_paused_with_a_service_account(kfp, backend, bulk):
    options = RunOptions(service_account="runner", pipeline_root="s3://a/b")
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
    assert schedules(backend, f"{EXTRACTION}-s3", experiment="c3d") == [created[3]]
    assert schedules(backend, experiment="another") == []


def test_login_page_is_not_a_schedule(kfp, backend, bulk):
    kfp.faults = [no_fault, no_fault, no_fault, page("Sign in")]
    with pytest.raises(RunError, match="without the schedule's id"):
        schedule(backend, bulk, PARAMETERS, cron=NIGHTLY)


# The command


@pytest.fixture
def c3d_pipelines(kfp, capsys, monkeypatch, bare):
    """Run the command as a shell does; return its exit code, stdout and stderr."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)

    def run(*arguments: object) -> tuple[int, str, str]:
        group = click.Group(commands={"schedule": command})
        texts = ["schedule", *(str(argument) for argument in arguments)]
        with pytest.raises(SystemExit) as ended:
            run_command(group, [*texts, "--no-check"], name="c3d-pipelines", interrupted="")
        return ended.value.code, *capsys.readouterr()

    return run


PACKAGE = ("--package", compiled_path(EXTRACTION))


def test_command_creates_lists_pauses_resumes_and_deletes(kfp, c3d_pipelines):
    code, out, err = c3d_pipelines("--cron", NIGHTLY, "--name", "nightly", *PACKAGE)
    line = f"{NAME}: {NIGHTLY}\n"
    assert (code, out, err) == (0, line, "")
    assert c3d_pipelines("--list") == (0, line, "")
    assert c3d_pipelines("--pause", "nightly") == (0, f"{NAME}: disabled\n", "")
    assert c3d_pipelines("--list")[1] == f"{NAME}: {NIGHTLY} (paused)\n"
    assert c3d_pipelines("--resume", NAME) == (0, f"{NAME}: enabled\n", "")
    ((schedule_id, _),) = kfp.schedules.items()
    url = f"https://ui.example/#/recurringrun/details/{schedule_id}"
    shown = c3d_pipelines("--list", "--ui", "https://ui.example/")
    assert shown == (0, f"{NAME}: {NIGHTLY}  {url}\n", "")
    assert c3d_pipelines("--cron", NIGHTLY, "--name", "nightly", *PACKAGE)[0] == 2
    replaced = c3d_pipelines("--cron", "@daily", "--name", NAME, "--replace", "--paused", *PACKAGE)
    assert replaced == (0, f"{NAME}: @daily (paused)\n", "")
    assert c3d_pipelines("--delete", "nightly") == (0, f"{NAME}: deleted\n", "")
    assert c3d_pipelines("--list") == (0, "", "")
    code, out, err = c3d_pipelines("--delete", "nightly")
    assert (code, out) == (2, "")
    assert err == f"c3d-pipelines: {kfp.url}: has no schedule 'nightly' in 'c3d'\n"


def test_unusable_arguments_are_one_line_and_no_request_is_sent(kfp, c3d_pipelines):
    for arguments, message in (
        ([], "give one of --cron, --list, --delete, --pause and --resume"),
        (["--cron", NIGHTLY, "--list"], "give one of --cron"),
        (["--delete", "a", "--pause", "b"], "give one of --cron"),
        (["--delete", "a", "--wait", "--now"], "--wait and --now; give one of them"),
        (["--pause", "a", "--wait"], "--wait and --now are for --replace, --delete and --resume"),
        (["--cron", "0 2 * * *", *PACKAGE], "the seconds first: '0 0 2 * * *'"),
        (["--cron", NIGHTLY, "--param", "x=1", *PACKAGE], "there is no parameter 'x'"),
        (["--cron", NIGHTLY, "--out", "out", *PACKAGE], "out is 'out', a path that the pods"),
    ):
        code, out, err = c3d_pipelines(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert message in err
        assert kfp.requests == [], arguments


# Names


def test_names_of_runs_begin_with_the_pipelines_name(kfp, backend, bulk):
    for name in ("", "nightly", NAME):
        created = schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, name=name, replace=True)
        run = kfp.runs[kfp.start_scheduled(created.schedule_id, ["SUCCEEDED"])]
        assert run["display_name"].startswith(EXTRACTION), name


def test_schedule_is_found_by_its_whole_or_its_short_name(kfp, backend, bulk):
    created = schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, name="nightly")
    for name in ("nightly", NAME):
        assert find_schedules(backend, name, experiment="c3d") == [created]
    for schedule_id, name in (("old", "nightly"), ("other", "c3d-bulk-classification-weekly")):
        kfp.schedules[schedule_id] = {
            **kfp.schedules[created.schedule_id],
            "recurring_run_id": schedule_id,
            "display_name": name,
        }
    (found,) = find_schedules(backend, "nightly", experiment="c3d")
    assert found.schedule_id == "old"
    schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, name="weekly")
    message = "'weekly' is c3d-bulk-classification-weekly and c3d-bulk-extraction-weekly; give"
    with pytest.raises(RunError, match=message):
        find_schedules(backend, "weekly", experiment="c3d")


def test_schedule_of_an_earlier_release_is_replaced_by_its_name(kfp, backend, bulk):
    old = schedule(backend, bulk, PARAMETERS, cron=NIGHTLY, name="nightly")
    kfp.schedules[old.schedule_id]["display_name"] = "nightly"
    new = schedule(backend, bulk, PARAMETERS, cron="@daily", name="nightly", replace=True)
    assert list(kfp.schedules) == [new.schedule_id]


# Runs in progress

AT_ONCE = RunEnd(now=True, every_s=0.01)
AT_ITS_END = RunEnd(waits=True, every_s=0.01)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Package:
    """A pipeline without steps, which takes little time to send."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    spec = {"pipelineInfo": {"name": EXTRACTION}, "root": {"dag": {}}, "schemaVersion": "2.1.0"}
    path.write_text(json.dumps(spec))
    return Package(path)


@pytest.fixture
def running(kfp, backend, small):
    """The id of a run in progress of the schedule `nightly`."""
    created = schedule(backend, small, {}, cron=NIGHTLY, name="nightly")
    return kfp.start_scheduled(created.schedule_id, ["RUNNING"] * 4 + ["SUCCEEDED"])


@pytest.fixture
def replace(backend, small):
    """Replace the schedule `nightly` by one of other times."""

    def replaced(run_end=None, **more):
        name = {"name": "nightly", "replace": True}
        return schedule(backend, small, {}, cron="@daily", run_end=run_end, **name, **more)

    return replaced


def test_replacement_of_an_earlier_releases_schedule_goes_on_by_the_new_name(
    kfp, backend, running, replace
):
    old = kfp.runs[running]["recurring_run_id"]
    kfp.schedules[old]["display_name"] = "nightly"  # as release 0.1.0 named it
    with pytest.raises(RunInProgress, match=f"--resume {NAME}, or now"):
        replace()
    pair = find_schedules(backend, NAME, experiment="c3d")
    assert {target.name for target in pair} == {NAME, "nightly"}
    with pytest.raises(RunInProgress):
        resume_schedule(backend, pair)
    assert {each["mode"] for each in kfp.schedules.values()} == {"DISABLE"}
    (resumed,) = resume_schedule(backend, pair, run_end=AT_ITS_END)
    assert list(kfp.schedules) == [resumed.schedule_id] != [old]
    assert (kfp.schedules[resumed.schedule_id]["mode"], kfp.destroyed) == ("ENABLE", [])


def test_fake_backend_destroys_a_run_with_its_schedule(kfp, running):
    """As the real one does by default, which the other tests rely on."""
    kfp.delete_schedule(kfp.runs[running]["recurring_run_id"], {}, {})
    assert kfp.destroyed == [running]
    assert [kfp.get_run(running, {})["state"] for _ in range(9)] == ["RUNNING"] * 9


def test_schedule_with_a_run_in_progress_is_not_deleted(kfp, c3d_pipelines, running):
    name = kfp.runs[running]["display_name"]
    code, out, err = c3d_pipelines("--delete", "nightly")
    assert (code, out) == (1, "")
    assert err == (
        f"c3d-pipelines: {NAME}: disabled and not deleted; its run {name} ({running}) is in "
        "progress; --wait waits for its end, --now ends it\n"
    )
    (kept,) = kfp.schedules.values()
    assert kept["mode"] == "DISABLE"
    assert kfp.progress[running].state == "RUNNING"
    code, out, err = c3d_pipelines("--delete", "nightly", "--wait", "--every", "0.01")
    assert (code, out) == (0, f"{NAME}: deleted\n")
    assert err == f"c3d-pipelines: waiting for the end of {name} ({running})\n"
    assert (kfp.schedules, kfp.destroyed) == ({}, [])
    assert kfp.progress[running].state == "SUCCEEDED"


def test_pods_that_do_not_start_are_named_while_their_run_is_waited_for(
    kfp, c3d_pipelines, running
):
    kfp.steps = {"plan": ("Pending", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")}
    code, _, err = c3d_pipelines("--delete", "nightly", "--wait", "--every", "0.01")
    assert code == 0
    assert "c3d-pipelines: plan cannot start: Unschedulable: 0/1 nodes are available" in err


def test_run_in_progress_is_ended_before_its_schedule_is_deleted(kfp, c3d_pipelines, running):
    code, out, _ = c3d_pipelines("--delete", "nightly", "--now", "--every", "0.01")
    assert (code, out) == (0, f"{NAME}: deleted\n")
    assert (kfp.schedules, kfp.destroyed) == ({}, [])
    assert kfp.progress[running].state == "FAILED"


def test_run_that_starts_while_the_schedule_is_disabled_is_waited_for_too(kfp, backend, running):
    schedule_id = kfp.runs[running]["recurring_run_id"]
    later: list[str] = []

    def started(run) -> None:
        if not later:
            kfp.schedules[schedule_id]["mode"] = "ENABLE"
            later.append(kfp.start_scheduled(schedule_id, ["RUNNING"] * 3 + ["SUCCEEDED"]))

    (target,) = schedules(backend, experiment="c3d")
    delete_schedule(backend, target, run_end=RunEnd(waits=True, every_s=0.01, on_wait=started))
    assert kfp.progress[later[0]].state == "SUCCEEDED"
    assert (kfp.schedules, kfp.destroyed) == ({}, [])


def test_run_that_starts_unseen_survives_its_schedule(kfp, backend, bulk):
    created = schedule(backend, bulk, PARAMETERS, cron=NIGHTLY)

    def start(handler) -> bool:
        kfp.schedules[created.schedule_id]["mode"] = "ENABLE"
        kfp.start_scheduled(created.schedule_id, ["RUNNING"])
        return False

    kfp.faults = [no_fault, no_fault, start]
    delete_schedule(backend, created)
    assert (kfp.schedules, kfp.destroyed, len(kfp.runs)) == ({}, [], 1)


def test_run_whose_workflow_is_lost_does_not_keep_its_schedule(kfp, backend, running):
    kfp.progress[running].states[:] = ["RUNNING"]  # for ever
    (target,) = schedules(backend, experiment="c3d")
    lost = fails(500, 'Failed to terminate: workflows.argoproj.io "x" not found')
    kfp.faults = [no_fault, no_fault, lost]
    delete_schedule(backend, target, run_end=AT_ONCE)
    assert kfp.schedules == {}


def test_run_that_does_not_end_keeps_its_schedule(kfp, backend, running, monkeypatch):
    monkeypatch.setattr("c3d_pipelines.kubeflow.schedules._TERMINATION_S", 0.05)
    monkeypatch.setattr(kfp, "terminate_run", lambda run_id, headers: {})
    kfp.progress[running].states[:] = ["RUNNING"]
    (target,) = schedules(backend, experiment="c3d")
    with pytest.raises(RunError, match="has not ended 0 s after its termination; try again"):
        delete_schedule(backend, target, run_end=AT_ONCE)
    assert (list(kfp.schedules), kfp.destroyed) == ([target.schedule_id], [])


def test_replacement_waits_paused_for_the_run_of_the_old_schedule(kfp, c3d_pipelines, running):
    (old,) = kfp.schedules
    name = kfp.runs[running]["display_name"]
    command = ("--cron", "@daily", "--name", "nightly", "--replace", *PACKAGE)
    code, out, err = c3d_pipelines(*command)
    assert (code, out) == (1, "")
    assert err == (
        f"c3d-pipelines: {NAME}: the old schedule is disabled and the new one paused; its run "
        f"{name} ({running}) is in progress; after its end give --resume {NAME}, or now with "
        "--wait or --now\n"
    )
    assert [found["mode"] for found in kfp.schedules.values()] == ["DISABLE", "DISABLE"]
    lines = c3d_pipelines("--list")[1].splitlines()
    assert lines == [
        f"{NAME}: {NIGHTLY} (paused)",
        f"{NAME}: @daily (paused) (replaces another; --resume {NAME} goes on)",
    ]
    assert c3d_pipelines("--resume", "nightly")[0] == 1
    code, out, _ = c3d_pipelines("--resume", "nightly", "--wait", "--every", "0.01")
    assert (code, out) == (0, f"{NAME}: enabled\n")
    ((new, found),) = kfp.schedules.items()
    assert new != old
    assert (found["mode"], found["trigger"]) == ("ENABLE", {"cron_schedule": {"cron": "@daily"}})
    assert kfp.progress[running].state == "SUCCEEDED"
    assert c3d_pipelines("--list")[1] == f"{NAME}: @daily\n"


def test_advised_options_work_for_a_name_with_spaces_and_quotes(kfp, c3d_pipelines):
    name = f"{EXTRACTION}-it's at night"
    assert c3d_pipelines("--cron", NIGHTLY, "--name", name, *PACKAGE)[0] == 0
    ((old, _),) = kfp.schedules.items()
    kfp.start_scheduled(old, ["RUNNING", "SUCCEEDED"])
    _, _, err = c3d_pipelines("--cron", "@daily", "--name", name, "--replace", *PACKAGE)
    for text, ends in ((err, ", or now with"), (c3d_pipelines("--list")[1], " goes on)")):
        advised = text.partition("--resume ")[2].partition(ends)[0]
        assert shlex.split(advised) == [name]
    wait = ("--wait", "--every", "0.01")
    resumed = c3d_pipelines("--resume", *shlex.split(advised), *wait)
    assert resumed[:2] == (0, f"{name}: enabled\n")


def test_replacement_waits_for_the_run_or_ends_it(kfp, backend, running, replace):
    created = replace(AT_ITS_END)
    assert (list(kfp.schedules), created.enabled) == ([created.schedule_id], True)
    assert kfp.progress[running].state == "SUCCEEDED"
    second = kfp.start_scheduled(created.schedule_id, ["RUNNING"])
    created = replace(AT_ONCE, enabled=False)
    assert (list(kfp.schedules), created.enabled) == ([created.schedule_id], False)
    assert kfp.progress[second].state == "FAILED"
    assert kfp.destroyed == []


@pytest.mark.parametrize(
    ("how", "finish"),
    [("before", "resume"), ("after", "resume"), ("refused", "resume"), ("after", "replace")],
)
def test_replacement_that_stops_at_any_request_loses_nothing_and_can_be_finished(
    kfp, backend, small, replace, monkeypatch, how, finish
):
    """Each request in turn is refused, or is the last one, sent or not, of a killed command."""

    class Killed(BaseException):
        pass

    call = Backend._call
    requests: list[str] = []
    stop = 0

    def interrupted(self, method, **arguments):
        requests.append(method.__name__.partition("_service_")[2])
        if len(requests) == stop and how == "before":
            raise Killed
        answer = call(self, method, **arguments)
        if len(requests) == stop and how == "after":
            raise Killed
        return answer

    def replace_and_stop() -> bool:
        """Return whether the command was stopped."""
        requests.clear()
        kfp.faults = [no_fault] * (stop - 1) + [fails(400)] if how == "refused" else []
        with monkeypatch.context() as patched:
            patched.setattr(Backend, "_call", interrupted)
            try:
                replace(AT_ITS_END)
            except (Killed, RunError):
                return True
            finally:
                kfp.faults = []
        return False

    steps = set()
    while True:
        stop += 1
        for state in (kfp.schedules, kfp.runs, kfp.progress):
            state.clear()
        old = schedule(backend, small, {}, cron=NIGHTLY, name="nightly")
        run_id = kfp.start_scheduled(old.schedule_id, ["RUNNING"] * 2 + ["SUCCEEDED"])
        if not replace_and_stop():
            break
        case = f"{stop}: {requests[-1]}"
        steps.add(requests[-1])
        modes = {key: found["mode"] for key, found in kfp.schedules.items()}
        # Both schedules, or one that is enabled.
        assert len(modes) == 2 or list(modes.values()) == ["ENABLE"], case
        was_created = list(modes) != [old.schedule_id]
        if finish == "replace":
            replace(AT_ITS_END)
        else:
            existing = find_schedules(backend, "nightly", experiment="c3d")
            resume_schedule(backend, existing, run_end=AT_ITS_END)
        ((key, found),) = kfp.schedules.items()
        assert (key != old.schedule_id) == (was_created or finish == "replace"), case
        assert found["mode"] == "ENABLE", case
        assert kfp.destroyed == [], case
        assert key == old.schedule_id or kfp.progress[run_id].state == "SUCCEEDED", case
    assert steps == {
        "list_experiments",
        "list_recurring_runs",
        "create_recurring_run",
        "disable_recurring_run",
        "list_runs",
        "get_run",
        "enable_recurring_run",
        "delete_recurring_run",
    }


def test_killed_replacement_is_finished_by_resume(kfp, c3d_pipelines, running, small, tmp_path):
    kfp.progress[running].states[:] = ["RUNNING"]
    path = tmp_path / "small.yaml"
    path.write_text(small.text)
    command = ("schedule", "--no-check", "--package", str(path))
    times = ("--cron", "@daily", "--name", "nightly", "--replace", "--wait", "--every", "0.05")
    program = "from c3d_pipelines.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", program, *command, *times]) as process:
        while f"GET /apis/v2beta1/runs/{running}" not in kfp.requests:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    modes = [found["mode"] for found in kfp.schedules.values()]
    assert modes == ["DISABLE", "DISABLE"]
    assert (kfp.destroyed, kfp.progress[running].state) == ([], "RUNNING")
    assert c3d_pipelines("--resume", "nightly", "--now", "--every", "0.01")[0] == 0
    ((_, found),) = kfp.schedules.items()
    assert (found["mode"], found["trigger"]) == ("ENABLE", {"cron_schedule": {"cron": "@daily"}})
    assert (kfp.destroyed, kfp.progress[running].state) == ([], "FAILED")


def test_ctrl_c_while_waiting_prints_how_to_go_on(kfp, c3d_pipelines, running, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("c3d_pipelines.kubeflow.schedules.wait", interrupted)
    code, _, err = c3d_pipelines("--delete", "nightly", "--wait")
    assert code == 130
    assert err.splitlines()[1] == "c3d-pipelines: interrupted; nightly: give --delete nightly again"
    command = ("--cron", "@daily", "--name", "nightly", "--replace", "--wait", *PACKAGE)
    code, _, err = c3d_pipelines(*command)
    assert code == 130
    assert err.splitlines()[1] == (
        f"c3d-pipelines: interrupted; {NAME}: if --list has it twice, --resume {NAME} goes on"
    )
    assert kfp.destroyed == []


def test_library_raises_for_a_run_in_progress(kfp, backend, running, replace):
    with pytest.raises(RunInProgress):
        replace()
    with pytest.raises(RunInProgress):
        resume_schedule(backend, find_schedules(backend, "nightly", experiment="c3d"))


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
