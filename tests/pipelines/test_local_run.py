"""A run on this machine: the compiled pipeline, this process left as it was, and every way to stop.

The server is the real network, narrow, or a slow one where a run must last.
"""

import builtins
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines import dataset
from c3d_pipelines.local.child import step_command
from c3d_pipelines.local.folder import LocalFolder
from c3d_pipelines.local.run import run_local
from support.fake_serving import FakeServing
from support.films import write_film

_LIBRARY = """
import json, sys
from c3d_pipelines.local.run import run_local
run_local(json.loads(sys.argv[1]))
"""
_COMMAND = """
import sys
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.run import run
run_command(run, None, name="c3d-pipelines", interrupted="")
"""


def make_films(folder, count, frames=24):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"film {number}.mp4"
        write_film(path, frames, width=64, height=48, options={"crf": str(20 + number)})
    return folder


def started(script, *arguments, **changes):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **changes,
    )


def processes_of(root):
    """The processes whose command lines name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(root) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(true, *, within_s=30.0):
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def lasting(films, out, server):
    """Arguments of a run that takes some fifteen seconds a film of 400 frames."""
    given = {"videos": str(films), "out": str(out), "server": server.target}
    return {**given, "batch_size": 1, "max_in_flight": 1}


def temporary_folder(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".c3d-")]


@pytest.fixture
def slow_server():
    """Takes a third of a second for each request."""

    def slow(request, rows, context):
        time.sleep(0.3)

    server = FakeServing(slow)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three films and a file that is none."""
    folder = make_films(tmp_path_factory.mktemp("films") / "vi de'os python3 \u00e9\u00df", 3)
    (folder / "broken.mp4").write_text("no film at all\n" * 100)
    return folder


def test_a_run_makes_the_dataset_and_leaves_this_process_as_it_was(
    films, narrow_server, tmp_path, monkeypatch
):
    temporary = temporary_folder(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    root = logging.getLogger()
    before = builtins.print, root.level, root.handlers[:], dict(os.environ)
    states = []
    out = tmp_path / 'out "put" python3 \u65e5\u672c'
    ended = run_local(
        {
            "videos": str(films),
            "out": str(out),
            "server": narrow_server.target,
            "max_failed": 1,
            "shard_mb": 0.005,
        },
        show=states.append,
    )
    assert before == (builtins.print, root.level, root.handlers[:], dict(os.environ))
    assert ended.succeeded, ended
    assert (ended.error, ended.exit_code) == ("", 0)
    assert (ended.summary.ok, ended.summary.inputs, ended.summary.unsuccessful) == (3, 4, 1)
    rows = {row.video_id: row for row in dataset.open(out)}
    assert {row.uri for row in rows.values()} == {str(path) for path in films.iterdir()}
    assert rows["broken.mp4"].status == "corrupt"
    assert ended.log == ended.file("local.log") == str(out / "runs" / ended.run / "local.log")
    assert "Got executor_input" in Path(ended.log).read_text()
    assert list(temporary.iterdir()) == []
    last = states[-1]
    assert (last.videos, last.done, last.ok, last.failed) == (4, 4, 3, 1)
    assert last.shards == last.shards_done > 1
    assert "extract" in {state.step for state in states}
    assert last.clips == sum(row.n_clips for row in rows.values() if row.n_clips)


def test_an_interpreter_below_any_folder_runs_the_steps(films, narrow_server, tmp_path):
    home = tmp_path / "my python3's"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in here]
    (site / "theirs.pth").write_text("".join(lines))
    done = subprocess.run(
        [home / "bin" / "python", "-c", _COMMAND, "--videos", films, "--out", tmp_path / "out"]
        + ["--server", narrow_server.target, "--max-failed", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(dataset.open(tmp_path / "out").ids()) == 3


def test_only_the_script_of_a_step_is_changed(tmp_path):
    folder = LocalFolder(tmp_path / "a b")
    given = ["sh", "-ec", 'x; python3 -m kfp.dsl.executor_main "$@"', "code python3", "/a/python3"]
    changed = step_command(given, folder)
    assert changed[:2] + changed[3:] == given[:2] + given[3:]
    assert "python3 -m kfp" not in changed[2]
    assert f"-m c3d_pipelines.local.step '{tmp_path}/a b' \"$@\"" in changed[2]
    with pytest.raises(RuntimeError, match="version"):
        step_command(["sh", "-c", "python3 -m other"], folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"videos": "s3://bucket/{{$.inputs}}"}, r"videos: .* holds '\{\{\$'"),
        ({"out": "/data/kfp-workspace/out"}, "out: .* holds '/kfp-workspace'"),
        ({"out": "  "}, "out is empty"),
        ({"videos": "/data/\udcff"}, "not valid UTF-8"),
        ({"model": "a\udcff"}, "model: .* not valid UTF-8"),
    ],
)
def test_what_cannot_be_handed_to_the_steps_is_refused(tmp_path, changes, words):
    given = {"videos": str(tmp_path), "out": str(tmp_path / "out"), **changes}
    with pytest.raises(UsageError, match=words):
        run_local(given)
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_an_address_are_kept_nowhere(tmp_path):
    address = "https://me:hidden-word@127.0.0.1:1/list.csv?token=hidden-word"
    ended = run_local({"videos": address, "out": str(tmp_path / "out"), "server": "localhost:1"})
    assert ended.exit_code == 2
    assert "hidden-word" not in ended.error
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert Path(ended.log) in files
    assert not [path for path in files if b"hidden-word" in path.read_bytes()]


def test_a_parameter_that_the_pipeline_has_not_is_named(tmp_path):
    given = {"videos": str(tmp_path), "out": str(tmp_path / "out"), "strode": 4}
    ended = run_local(given)
    assert ended.exit_code == 2
    assert "strode" in ended.error
    log = Path(ended.log)
    assert log.is_file()
    for path in sorted(log.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    log.parent.rmdir()


@pytest.mark.faults
def test_a_server_that_goes_away_fails_the_run_at_once_and_nothing_is_lost(tmp_path):
    films = make_films(tmp_path / "videos", 1)
    here = []

    def gone(request, rows, context):
        here.append(len(rows))
        if 1 < len(here) < 100:  # the preflight's clip is answered
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server = FakeServing(gone)
    given = {"videos": str(films), "out": str(tmp_path / "out"), "server": server.target}
    try:
        began = time.monotonic()
        ended = run_local({**given, "patience_s": 0.1})
        assert time.monotonic() - began < 50  # a pod would be tried again after a minute
        assert ended.error.startswith("extract: shard 0: the server did not come back")
        assert (ended.succeeded, ended.refused, ended.exit_code) == (False, False, 2)
        assert ended.summary.missing_shards
        here += range(100)
        again = run_local(given)
    finally:
        server.stop()
    assert again.succeeded, again
    assert again.summary.processed == again.summary.ok == 1


@pytest.mark.faults
def test_a_run_whose_process_is_killed_says_so_and_leaves_none_behind(
    slow_server, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(temporary_folder(tmp_path)))
    films = make_films(tmp_path / "videos", 2, frames=400)

    def kill(state):
        if state.clips:
            (root,) = (tmp_path / "temporary").iterdir()
            for child in processes_of(f"c3d_pipelines.local.child\0{root}"):
                os.kill(child, signal.SIGKILL)

    ended = run_local(
        lasting(films, tmp_path / "out", slow_server),
        show=kill,
    )
    assert ended.exit_code == 2
    assert "was killed (SIGKILL)" in ended.error
    wait_until(lambda: not processes_of(tmp_path / "temporary"), within_s=10)


@pytest.mark.faults
def test_a_killed_command_leaves_no_process_and_no_half_written_file(slow_server, tmp_path):
    temporary = temporary_folder(tmp_path)
    films = make_films(tmp_path / "videos", 2, frames=400)
    given = lasting(films, tmp_path / "out", slow_server)
    with started(
        _LIBRARY, json.dumps(given), env={**os.environ, "TMPDIR": str(temporary)}
    ) as command:
        wait_until(lambda: answered(temporary))
        command.kill()
    wait_until(lambda: not processes_of(temporary), within_s=10)
    assert leftovers(tmp_path) == []
    assert list(temporary.iterdir()) == []


def answered(temporary):
    """Whether the server has answered for a clip of the run that has its files here."""
    for path in temporary.glob("*/progress/[!.]*.json"):
        if json.loads(path.read_text())["clips"]:
            return True
    return False


@pytest.mark.faults
def test_what_was_killed_at_any_moment_goes_on_with_what_is_left(slow_server, tmp_path):
    temporary = temporary_folder(tmp_path)
    films = make_films(tmp_path / "videos", 8, frames=24)
    out = tmp_path / "out"
    given = {
        "videos": str(films),
        "out": str(out),
        "server": slow_server.target,
        "workers": 1,
        "shard_mb": sum(path.stat().st_size for path in films.iterdir()) / 3e6,
    }
    with started(
        _LIBRARY,
        json.dumps(given),
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    ) as command:
        wait_until(lambda: list(out.glob("shards/*.json")))
        for process in processes_of(temporary):
            os.kill(process, signal.SIGKILL)
        command.kill()
    done = len(list(out.glob("shards/*.json")))
    assert 1 <= done < 3
    ended = run_local(given)
    assert ended.succeeded, ended
    rows = list(dataset.open(out))
    assert sorted(row.video_id for row in rows) == sorted(path.name for path in films.iterdir())
    assert {row.status for row in rows} == {"ok"}
    # Shards that were done are not done again, in their videos either.
    first = [row for row in rows if row.run != ended.run]
    assert first
    assert ended.summary.processed == len(rows) - len(first)
