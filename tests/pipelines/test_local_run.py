"""A run on this machine: its result, the calling process unchanged, and every way to stop it."""

import builtins
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import UsageError
from c3d_client.core.provenance import Provenance
from c3d_client.parallel import core_count, share_cores
from c3d_export.local_server import LocalServer
from c3d_pipelines import dataset, run_local
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.local_runner import step_command
from c3d_pipelines.run.processes import RunFolder
from c3d_pipelines.run.steps import digest_of_model
from support.fake_serving import FakeServing
from support.processes import LONG_S, kill_all, processes_of, servers_of, wait_until
from support.videos import write_video

_LIBRARY = """
import json, sys
from c3d_pipelines import run_local
run_local(json.loads(sys.argv[1]), **json.loads(sys.argv[2]))
"""
_COMMAND = """
import sys
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.run import run
run_command(run, None, name="c3d-pipelines", interrupted="")
"""
_SHARD = "c3d_pipelines.run.shard_process"


def make_videos(folder, count, frames=24):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"video {number}.mp4"
        write_video(path, frames, width=64, height=48, options={"crf": str(20 + number)})
    return folder


def start_library(arguments, temporary, **options):
    """Start a process that calls run_local."""
    return subprocess.Popen(
        [sys.executable, "-c", _LIBRARY, json.dumps(arguments), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )


def arguments_for(videos, out, server):
    """Arguments of a run whose requests have a clip each, one at a time for each shard."""
    arguments = {"videos": str(videos), "out": str(out), "server": server.target}
    return {**arguments, "batch_size": 1, "max_in_flight": 1, "timeout_s": 2 * LONG_S}


def temporary_files(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".c3d-")]


def has_answers(temporary):
    """Return whether the server has answered for a clip of a run with this TMPDIR."""
    for path in temporary.glob("*/progress/[!.]*.json"):
        if json.loads(path.read_text())["clips"]:
            return True
    return False


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which runs of this process make their folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


class HoldingServer(FakeServing):
    """A server that answers some requests, and the others only when it is released.

    Attributes:
        holds: called with the rows of a request; returns whether to hold its answer back.
        has_held: set when it has held an answer back.
    """

    def __init__(self):
        self.has_held, self._released = threading.Event(), threading.Event()
        # The preflight's clip and two more are answered.
        self.holds = lambda rows: len(self.requests) > 3
        super().__init__(self._answer)

    def release(self):
        """Answer all requests, also those to come."""
        self._released.set()

    def _answer(self, request, rows, context):
        if not self._released.is_set() and self.holds(rows):
            self.has_held.set()
            assert self._released.wait(3 * LONG_S)


@pytest.fixture
def holding_server():
    """A server that answers three requests, and the others when it is released."""
    server = HoldingServer()
    yield server
    server.release()
    server.stop()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos and a file that is not a video."""
    folder = tmp_path_factory.mktemp("videos") / "vi de'os python3 \u00e9\u00df"
    make_videos(folder, 3)
    (folder / "broken.mp4").write_text("no video at all\n" * 100)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("compiled", [False, True], ids=["steps", "compiled"])
def test_run_makes_the_dataset_and_leaves_the_process_unchanged(
    videos, narrow_server, tmp_path, temporary, compiled
):
    root = logging.getLogger()

    def process_state():
        loggers = root.level, root.handlers[:], logging.getLogger("c3d_pipelines").handlers[:]
        return builtins.print, sys.excepthook, sys.stdout, loggers, dict(os.environ)

    before = process_state()
    states = []
    out = tmp_path / 'out "put" python3 \u65e5\u672c'
    result = run_local(
        {
            "videos": str(videos),
            "out": str(out),
            "server": narrow_server.target,
            "max_failed": 1,
            "shard_mb": 0.005,
        },
        show=states.append,
        pipeline=compiled_path(EXTRACTION) if compiled else None,
    )
    assert process_state() == before
    assert result.succeeded, result
    assert (result.error, result.exit_code) == ("", 0)
    summary = result.summary
    assert (summary.ok, summary.inputs, summary.unsuccessful) == (3, 4, 1)
    rows = {row.video_id: row for row in dataset.open(out)}
    assert {row.uri for row in rows.values()} == {str(path) for path in videos.iterdir()}
    assert rows["broken.mp4"].status == "corrupt"
    log = out / "runs" / result.run / "local.log"
    assert result.log == result.file("local.log") == str(log)
    assert "shard 0: 1 of " in log.read_text()
    assert list(temporary.iterdir()) == []
    last = states[-1]
    assert (last.videos, last.done, last.ok, last.failed) == (4, 4, 3, 1)
    assert last.shards > 1
    assert last.clips == sum(row.n_clips for row in rows.values() if row.n_clips)
    if not compiled:
        steps = list(dict.fromkeys(state.step for state in states))
        assert steps == ["plan", "preflight", "extract", "publish", "gate", "report"]
        assert last.shards_done == last.shards
        states.clear()
        again = {"videos": str(videos), "out": str(out), "server": narrow_server.target}
        second = run_local(again, show=states.append)
        assert second.succeeded, second
        assert (second.summary.ok, second.summary.processed) == (3, 0)
        assert {state.step for state in states} == {"plan", "preflight", "report"}


@pytest.mark.long
def test_data_set_of_direct_convolution_is_continued_with_winograds(
    narrow_gpu_base, narrow_server, tmp_path
):
    videos = make_videos(tmp_path / "videos", 1)
    arguments = {"videos": str(videos), "out": str(tmp_path / "out")}
    direct = LocalServer(narrow_gpu_base)
    direct.start()
    try:
        first = run_local({**arguments, "server": direct.target})
    finally:
        direct.stop(5)
    assert first.succeeded, first
    write_video(videos / "second.mp4", 24, width=64, height=48)
    second = run_local({**arguments, "server": narrow_server.target})
    assert second.succeeded, second
    assert (second.summary.ok, second.summary.processed) == (2, 1)
    features = dataset.open(tmp_path / "out")
    assert len(list(features)) == 2
    # Of the run that began the data set.
    assert features.card.provenance.model["convolution"] == "direct"


@pytest.mark.long
def test_run_has_one_server_of_its_own_for_all_shards(videos, narrow_base, tmp_path):
    base = tmp_path / "models"
    shutil.copytree(narrow_base, base, copy_function=os.link)
    target, out, servers, shards = f"local:{base}", tmp_path / "out", set(), set()

    def show(state):
        servers.update(servers_of(base))
        shards.update(processes_of(_SHARD))

    result = run_local(
        {"videos": str(videos), "out": str(out), "server": target}
        | {"max_failed": 1, "shard_mb": 0.005},
        show=show,
    )
    assert result.succeeded, result
    assert result.summary.server == target
    assert (result.summary.ok, result.summary.unsuccessful) == (3, 1)
    assert len(servers) == 1
    assert len(shards) > 1
    assert not servers_of(base)
    with C3DClient.local(narrow_base) as c3d:
        digest = digest_of_model(Provenance(c3d.provenance()))
    assert digest in (out / "runs" / result.run / "local.log").read_text()


def test_server_of_its_own_that_does_not_start_is_one_line(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, problem in (("absent", "no folder of a model"), ("empty", "no model version there")):
        target = f"local:{tmp_path / path}"
        result = run_local({"videos": str(videos), "out": str(tmp_path / "out"), "server": target})
        assert result.exit_code == 2
        assert result.error.startswith(f"preflight: {target}: {problem}"), result.error
        assert result.summary.message == result.error


@pytest.mark.long
def test_python_in_a_folder_with_special_characters_runs_the_steps(videos, narrow_server, tmp_path):
    home = tmp_path / "my python3's"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in packages]
    (site / "packages.pth").write_text("".join(lines))
    out = tmp_path / "out"
    for number, options in enumerate(({}, {"pipeline": str(compiled_path(EXTRACTION))})):
        arguments = {"videos": str(videos), "out": str(out / str(number)), "max_failed": 1}
        arguments["server"] = narrow_server.target
        done = subprocess.run(
            [home / "bin" / "python", "-c", _LIBRARY, json.dumps(arguments), json.dumps(options)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (options, done.stderr)
        assert len(dataset.open(out / str(number)).ids()) == 3, options


def test_only_the_script_in_a_steps_command_is_changed(tmp_path):
    folder = RunFolder(tmp_path / "a b")
    command = [
        "sh",
        "-ec",
        'x; python3 -m kfp.dsl.executor_main "$@"',
        "code python3",
        "/a/python3",
    ]
    changed = step_command(command, folder)
    assert changed[:2] + changed[3:] == command[:2] + command[3:]
    assert "python3 -m kfp" not in changed[2].replace(sys.executable, "")
    assert f"exec >>'{tmp_path}/a b/local.log' 2>&1\n" in changed[2]
    assert changed[2].endswith('-m kfp.dsl.executor_main "$@"')
    with pytest.raises(RuntimeError, match="version"):
        step_command(["sh", "-c", "python3 -m other"], folder)


def test_unusable_arguments_are_refused(tmp_path):
    compiled = {"pipeline": compiled_path(EXTRACTION)}
    cases = [
        ({"videos": "s3://bucket/{{$.inputs}}"}, compiled, r"videos: .* holds '\{\{\$'"),
        ({"out": "/data/kfp-workspace/out"}, compiled, "out: .* holds '/kfp-workspace'"),
        ({"out": "  "}, {}, "out is empty"),
        ({"out": "/data/\udcff"}, {}, r"/data/\\xff is not valid UTF-8"),
        ({"model": "a\udcff"}, {}, "model: .* not valid UTF-8"),
    ]
    for changes, options, message in cases:
        arguments = {"videos": str(tmp_path), "out": str(tmp_path / "out"), **changes}
        with pytest.raises(UsageError, match=message):
            run_local(arguments, **options)
        assert list(tmp_path.iterdir()) == [], changes


@pytest.mark.long
def test_credentials_in_an_address_are_stored_nowhere(tmp_path):
    address = "https://me:secret17@127.0.0.1:1/list.csv?token=secret17"
    for number, options in enumerate(({}, {"pipeline": compiled_path(EXTRACTION)})):
        out = tmp_path / str(number)
        arguments = {"videos": address, "out": str(out), "server": "localhost:1"}
        result = run_local(arguments, **options)
        assert result.exit_code == 2
        assert "secret17" not in result.error
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert Path(result.log) in files
        assert not [path for path in files if b"secret17" in path.read_bytes()]


def test_unknown_parameter_is_named(tmp_path):
    arguments = {"videos": str(tmp_path), "out": str(tmp_path / "out"), "strode": 4}
    for options in ({}, {"pipeline": compiled_path(EXTRACTION)}):
        result = run_local(arguments, **options)
        assert result.exit_code == 2
        assert "strode" in result.error, options
        if options:
            assert Path(result.log).is_file()
            shutil.rmtree(Path(result.log).parent)
    assert list(tmp_path.iterdir()) == []


def test_decoder_threads_of_a_shard_are_at_most_its_cores():
    for arguments, shares in (
        ((None, {"cores": 3}), (3, 1)),
        ((None, {"videos": 1, "cores": 4}), (1, 4)),
        ((2, {"videos": 9, "cores": 5}), (2, 2)),
    ):
        workers, options = arguments
        assert share_cores(workers, **options) == shares, arguments


@pytest.mark.faults
def test_server_that_goes_away_fails_the_run_at_once_and_nothing_is_lost(tmp_path):
    videos = make_videos(tmp_path / "videos", 1)
    requests = []

    def vanish(request, rows, context):
        requests.append(len(rows))
        if 1 < len(requests) < 100:  # the preflight's clip is answered
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    server = FakeServing(vanish)
    arguments = {"videos": str(videos), "out": str(tmp_path / "out"), "server": server.target}
    try:
        result = run_local({**arguments, "patience_s": 0.1})
        # A pod would be retried.
        assert Path(result.log).read_text().count("c3d-pipelines: shard 0: the server did not") == 1
        assert result.error.startswith("extract: shard 0: the server did not come back")
        assert (result.succeeded, result.refused, result.exit_code) == (False, False, 2)
        assert result.summary.missing_shards
        requests += range(100)
        second = run_local(arguments)
    finally:
        server.stop()
    assert second.succeeded, second
    assert second.summary.processed == second.summary.ok == 1


@pytest.mark.faults
def test_killed_shard_process_fails_its_shard_and_the_others_continue(
    holding_server, tmp_path, temporary
):
    videos = make_videos(tmp_path / "videos", 3, frames=100)
    killed, cores = [], []

    def kill(state):
        if state.clips and not killed:
            (folder,) = temporary.iterdir()
            killed.extend(processes_of(f"{_SHARD}\0{folder}\0" + "0\0"))
            for process in killed:
                arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                cores.append(int(arguments[-2]))
            kill_all(killed)
            if killed:
                holding_server.release()

    arguments = {**arguments_for(videos, tmp_path / "out", holding_server), "shard_mb": 0.001}
    result = run_local(arguments, show=kill)
    assert len(killed) == 1
    assert cores == [max(1, core_count() // 2)]  # two shards share the cores
    message = "shard 0: its process was killed (SIGKILL); there may be too little memory"
    assert result.error == f"extract: {message}"
    assert result.exit_code == 2
    assert (result.summary.ok, result.summary.state) == (2, "FAILED")
    assert message in result.summary.message
    wait_until(lambda: not processes_of(str(temporary)))
    assert list(temporary.iterdir()) == []
    second = run_local(arguments)
    assert (second.summary.ok, second.summary.processed) == (3, 1), second


@pytest.mark.faults
def test_video_that_kills_its_worker_in_two_runs_fails_in_the_third_and_is_tried_by_the_fourth(
    holding_server, tmp_path, temporary
):
    videos, out = make_videos(tmp_path / "videos", 3), tmp_path / "out"
    white = np.full((240, 320, 3), 255, np.uint8)
    write_video(videos / "killer.mp4", 24, draw=lambda number: white)
    holding_server.holds = lambda rows: rows.min() > 200  # the answers to the killer's clips
    arguments = {**arguments_for(videos, out, holding_server), "workers": 2}
    in_hand, former = out / "in_hand", set()

    def kill(state):
        """Kill the process that has the video in hand, as the kernel does for want of memory."""
        with contextlib.suppress(FileNotFoundError):  # a worker that ends removes its file
            for file in in_hand.glob("*.json"):
                if file.name not in former and b"killer.mp4" in file.read_bytes():
                    (folder,) = temporary.iterdir()
                    shard = file.name.rsplit("-", 2)[1]
                    kill_all(processes_of(f"{_SHARD}\0{folder}\0{shard}\0"))

    first = run_local(arguments, show=kill)
    assert "was killed (SIGKILL)" in first.error
    former |= {file.name for file in in_hand.iterdir()}
    second = run_local(arguments, show=kill)
    assert "was killed (SIGKILL)" in second.error
    assert second.summary.ok == 3, "all others are done"
    former |= {file.name for file in in_hand.iterdir()}
    third = run_local(arguments, show=kill)
    assert third.exit_code == 1
    (failure,) = third.summary.failures
    assert (failure.video_id, failure.error_type) == ("killer.mp4", "WorkerDied")
    assert "workers were killed 2 times" in failure.error_message
    wait_until(lambda: not processes_of(str(temporary)))
    holding_server.release()
    fourth = run_local(arguments)
    assert (fourth.summary.ok, fourth.summary.processed) == (4, 1)
    assert not in_hand.exists() or not list(in_hand.iterdir())


@pytest.mark.faults
def test_killed_process_of_a_compiled_pipeline_ends_the_run(holding_server, tmp_path, temporary):
    videos = make_videos(tmp_path / "videos", 2, frames=400)

    def kill(state):
        if state.clips:
            kill_all(processes_of(f"c3d_pipelines.kubeflow.local_runner\0{temporary}/"))

    result = run_local(
        arguments_for(videos, tmp_path / "out", holding_server),
        show=kill,
        pipeline=compiled_path(EXTRACTION),
    )
    assert result.exit_code == 2
    assert "was killed (SIGKILL)" in result.error
    wait_until(lambda: not processes_of(str(temporary)))


@pytest.mark.faults
@pytest.mark.parametrize("compiled", [False, True], ids=["steps", "compiled"])
def test_killed_run_leaves_no_process_and_no_half_written_file(
    holding_server, tmp_path, temporary, compiled
):
    videos = make_videos(tmp_path / "videos", 2, frames=400)
    arguments = arguments_for(videos, tmp_path / "out", holding_server)
    options = {"pipeline": str(compiled_path(EXTRACTION))} if compiled else {}
    with start_library({**arguments, "shard_mb": 0.001}, temporary, **options) as run:
        try:
            wait_until(lambda: has_answers(temporary))
        finally:
            run.kill()
    wait_until(lambda: not processes_of(str(temporary)))
    assert temporary_files(tmp_path) == []
    assert list(temporary.iterdir()) == []


def test_folder_of_a_run_without_any_process_is_removed_by_the_next_run(tmp_path, temporary):
    script = (
        "import os, signal\n"
        "from c3d_pipelines.run.processes import RunFolder\n"
        "with RunFolder.create(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    (abandoned,) = temporary.iterdir()
    with RunFolder.create() as current:
        assert not abandoned.exists()
        with RunFolder.create() as another:
            assert current.root.exists()
        # The folder of a run that has ended is not removed.
        assert another.root.exists()
        with RunFolder.create():
            assert another.root.exists()


@pytest.mark.faults
def test_run_killed_at_any_moment_continues_with_what_is_left(holding_server, tmp_path, temporary):
    videos = make_videos(tmp_path / "videos", 8)
    out = tmp_path / "out"
    arguments = {
        "videos": str(videos),
        "out": str(out),
        "server": holding_server.target,
        "workers": 1,
        "timeout_s": 2 * LONG_S,
        "shard_mb": sum(path.stat().st_size for path in videos.iterdir()) / 3e6,
    }
    # Two shards are done at a time: when one of them has ended, the third cannot.
    holding_server.holds = lambda rows: list(out.glob("shards/*.json"))
    with start_library(arguments, temporary) as run:
        try:
            wait_until(lambda: list(out.glob("shards/*.json")))
        finally:
            run.kill()
        kill_all(processes_of(str(temporary)))
    wait_until(lambda: not processes_of(str(temporary)))
    holding_server.release()
    done = len(list(out.glob("shards/*.json")))
    assert 1 <= done < 3
    result = run_local(arguments)
    assert result.succeeded, result
    rows = list(dataset.open(out))
    assert sorted(row.video_id for row in rows) == sorted(path.name for path in videos.iterdir())
    assert {row.status for row in rows} == {"ok"}
    # Shards that were done are not done again, and neither are their videos.
    first = [row for row in rows if row.run != result.run]
    assert first
    assert result.summary.processed == len(rows) - len(first)


@pytest.mark.faults
@pytest.mark.parametrize("compiled", [False, True], ids=["steps", "compiled"])
def test_keyboard_interrupt_ends_the_processes_and_is_raised(
    holding_server, tmp_path, temporary, compiled
):
    videos = make_videos(tmp_path / "videos", 2, frames=400)
    notes = []

    def interrupt(state):
        if state.clips:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_local(
            arguments_for(videos, tmp_path / "out", holding_server),
            show=interrupt,
            note=notes.append,
            pipeline=compiled_path(EXTRACTION) if compiled else None,
        )
    assert time.monotonic() - began < 2 * LONG_S  # before the deadline of a request
    assert notes == ["stopping; what is done stays done; press Ctrl-C again to kill"]
    assert not processes_of(str(temporary))
    assert temporary_files(tmp_path) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.faults
def test_second_ctrl_c_kills_the_processes(tmp_path, temporary):
    videos = make_videos(tmp_path / "videos", 1)
    server = HoldingServer()
    server.holds = lambda rows: len(server.requests) > 1  # all but the preflight's
    # Processes that cannot end tidily are killed after this time even without a second Ctrl-C.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from c3d_pipelines.run import processes\n"
        f"processes.GRACE_S = {2 * LONG_S}\n"
    ) + _COMMAND
    command = [sys.executable, "-c", script, "--videos", videos, "--out", tmp_path / "out"]
    run = subprocess.Popen(
        [*map(str, command), "--server", server.target, "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        assert server.has_held.wait(LONG_S)
        (shard,) = processes_of(_SHARD + "\0" + str(temporary))
        os.kill(shard, signal.SIGSTOP)  # it cannot end tidily
        run.send_signal(signal.SIGINT)
        assert "press Ctrl-C again to kill" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        assert run.wait(LONG_S) == 130
        assert "interrupted" in run.stderr.read()
    finally:
        run.kill()
        run.wait()
        run.stderr.close()
        server.release()
        server.stop()
    assert not processes_of(str(temporary))
    assert list(temporary.iterdir()) == []
