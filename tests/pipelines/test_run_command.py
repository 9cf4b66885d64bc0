"""`c3d-pipelines run`: options of the pipelines' parameters, output, exit codes, interruption."""

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from c3d_client.core.text import escape_bytes
from c3d_client.core.uri import Uri
from c3d_pipelines.commands.run import Display, run
from c3d_pipelines.parameters import PARAMETERS
from c3d_pipelines.run.local import RunState
from support.fake_serving import FakeServing
from support.processes import LONG_S, wait_until
from support.terminals import run_in_terminal
from support.videos import write_video

_COMMAND = """
import sys
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.run import Display, run
run_command(run, None, name="c3d-pipelines", interrupted="")
"""
# Options that are not parameters of a run.
_OWN = {"classify", "as_json", "quiet", "keep_logs"}


def command(*arguments):
    return [sys.executable, "-c", _COMMAND, *map(str, arguments)]


def call(*arguments, **changes):
    return subprocess.run(command(*arguments), capture_output=True, text=True, **changes)


@contextlib.contextmanager
def serving(server):
    try:
        yield server
    finally:
        server.stop()


def make_video(path, *, frames=24, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, frames, width=64, height=48, **changes)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos, one too short, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "one.mp4")
    make_video(folder / "two.mkv", options={"crf": "30"})
    make_video(folder / "short.mp4", frames=5)
    (folder / "none.mp4").write_text("no video at all\n" * 100)
    return folder


def test_every_parameter_is_an_option_with_its_default():
    values = run.make_context("run", ["--videos", "here", "--out", "there"]).params
    assert set(values) - _OWN == set(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        if name not in ("videos", "out", "server"):  # the defaults of a cluster differ
            default = 0.0 if name == "fps" and values[name] is None else values[name]
            assert (default, type(default)) == (parameter.default, parameter.type), name


@pytest.mark.long
def test_failures_are_listed_with_reasons_and_how_to_retry(videos, narrow_server, tmp_path):
    out = tmp_path / "out"
    done = call("--videos", videos, "--out", out, "--server", narrow_server.target)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "2 of 4 videos have features; 2 do not; this run added 2. (2 ok, 1 too_short, 1 corrupt)"
    )
    assert re.fullmatch(r"this run    4 videos, 4 clips in [\d.]+ s, [\d.]+ clips/s", lines[1])
    assert any(
        re.fullmatch(r"  corrupt     none\.mp4: .*cannot be opened.*", line) for line in lines
    )
    assert any(re.fullmatch(r"  too_short   short\.mp4: .*5 frames.*", line) for line in lines)
    assert lines[lines.index(f"dataset     {out}") + 1] == "            2 of 4 videos with features"
    (report,) = (line.split(maxsplit=1)[1] for line in lines if line.startswith("report"))
    assert Path(report).read_text().startswith("<!DOCTYPE html>")
    assert "--retry-failed" in lines[-1]
    errors = done.stderr.splitlines()
    assert errors[0] == "c3d-pipelines: 4 videos to do in 1 shard"
    assert errors[-1].startswith("c3d-pipelines: gate: 2 videos did not end ok; 0 allowed")
    assert "limit       2 of 4 videos of this run did not end ok; 0 allowed" in lines
    assert len(errors) < 15
    assert "\x1b" not in done.stdout + done.stderr

    second = call("--videos", videos, "--out", out, "--server", narrow_server.target, "--json")
    assert second.returncode == 0  # damaged videos are known by now
    summary = json.loads(second.stdout)
    assert summary["processed"] == 0
    assert summary["counts"]["known_failure"]["corrupt"] == 1
    assert "0 videos to do, 4 done or known before" in second.stderr


@pytest.mark.long
def test_names_of_any_bytes_have_one_row_each(narrow_server, tmp_path):
    from c3d_pipelines import dataset

    folder = tmp_path / os.fsdecode(b"v\xeddeos")
    good = make_video(folder / "ok.mp4", frames=17).read_bytes()
    names = {
        "ok.mp4": "ok.mp4",
        os.fsdecode(b"d\xff/in\xe9.mp4"): r"d\xff/in\xe9.mp4",
        "two\nlines.mp4": r"two\nlines.mp4",
        "caf\u00e9.mp4": "caf\u00e9.mp4",
        "cafe\u0301.mp4": "cafe\u0301.mp4",
        "what? #1 100%41.mp4": "what? #1 100%41.mp4",
        "n" * 251 + ".mp4": "n" * 251 + ".mp4",
    }
    damaged = {
        os.fsdecode(b"caf\xe9.mp4"): r"caf\xe9.mp4",
        "lost\nred\x1b[31m\u202e.mp4": r"lost\nred\x1b[31m\u202e.mp4",
        "quote\",'.mp4": "quote\",'.mp4",
    }
    for name in (*names, *damaged):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(good if name in names else good[:900])
    (folder / "a.bin").touch()
    out = tmp_path / "out"
    for code in (1, 0):  # damaged videos are known to the second run
        done = call("--videos", folder, "--out", out, "--server", narrow_server.target)
        assert done.returncode == code, done.stderr
        lines = done.stdout.splitlines()
        shown = [line.split(": is cut")[0] for line in lines if line.startswith("  c")]
        assert sorted(shown) == sorted(f"  corrupt     {text}" for text in damaged.values())
        assert lines[-1] == "note        1 file left out: 1 .bin; --any takes all"
        assert all(line.isprintable() for line in lines)
    assert "0 videos to do, 10 done or known before" in done.stderr
    rows = {row.video_id: row for row in dataset.open(out)}
    assert rows.keys() == {escape_bytes(name) for name in (*names, *damaged)}
    for name in (*names, *damaged):
        row = rows[escape_bytes(name)]
        assert row.status == ("ok" if name in names else "corrupt")
        assert Uri(row.uri).local_path == str(folder / name)
    for page in (*out.glob("runs/*/report.html"), *out.glob("runs/*/report.md")):
        text = page.read_text("utf-8")
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "xe9" in text


@pytest.mark.long
def test_newly_taken_suffixes_are_noted_by_the_first_run_that_takes_them(narrow_server, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    options = ("--videos", folder, "--out", out, "--server", narrow_server.target, "--quiet")
    make_video(folder / "a.mp4", frames=17)
    note = "note        1 video has a suffix that release 0.1.0 left out: 1 .nut"
    assert note not in call(*options).stdout
    make_video(folder / "b.nut", frames=17, codec="mpeg4")
    assert note in call(*options).stdout.splitlines()
    assert note not in call(*options).stdout


@pytest.mark.long
def test_classes_are_made_from_any_folder(videos, narrow_server, tmp_path):
    """Relative paths start at the current folder; modules there are not the program's."""
    from c3d_pipelines import dataset

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    (here / "pyarrow.py").write_text("raise SystemExit('not this module')")
    (here / "one.mp4").symlink_to(videos / "one.mp4")
    done = subprocess.run(
        [Path(sys.executable).with_name("c3d-pipelines"), "run", "--server", narrow_server.target]
        + ["--videos", "one.mp4", "--out", "../out", "--classify", "--no-clips"]
        + ["--stride", "4", "--keep-logs", "--quiet"],
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The one video is classified.")
    assert f"dataset     {tmp_path / 'out'}\n" in done.stdout
    (kept,) = temporary.iterdir()
    assert done.stderr == f"c3d-pipelines: kept: {kept}\n"
    assert (kept / "local.log").is_file()
    (row,) = dataset.open(tmp_path / "out")
    assert row.n_clips == 3
    assert row.uri == str(here / "one.mp4")
    assert row.top_label.startswith("label ")
    assert not list((tmp_path / "out").glob("shards/*.clips.parquet"))


@pytest.mark.long
def test_run_that_cannot_begin_is_one_line_and_exit_code_2(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").symlink_to(videos)
    for arguments, message in (
        (["--videos", "empty"], r"plan: .*/empty.*no videos"),
        (["--videos", "videos", "--server", "localhost:1"], r"preflight: localhost:1: "),
        (["--videos", "videos", "--stride", "0"], r"plan: stride is 0"),
        (["--videos", ""], r"videos is empty"),
    ):
        done = call(*arguments, "--out", "out", "--quiet", "--patience", "0.1", cwd=tmp_path)
        assert done.returncode == 2, arguments
        (line,) = done.stderr.splitlines()
        assert re.match(f"c3d-pipelines: {message}", line), line
        assert "Traceback" not in done.stdout, arguments
        if "the log is" in line:
            reason, _, log = line.removeprefix("c3d-pipelines: ").partition("; the log is ")
            assert reason in Path(log).read_text(), arguments


@pytest.mark.long
def test_output_of_native_libraries_goes_to_the_log(videos, narrow_server, tmp_path):
    """Also the output of this process, in which most steps run."""
    script = (
        "import os\n"
        "from c3d_pipelines.run import steps\n"
        "gate = steps.gate_step\n"
        "def noisy(**given):\n"
        "    os.write(1, b'native \\xff one\\n'); os.write(2, b'native two\\n'); print('three')\n"
        "    gate(**given)\n"
        "steps.gate_step = noisy\n"
    )
    arguments = ["--videos", videos / "one.mp4", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", script + _COMMAND, *map(str, arguments)]
        + ["--server", narrow_server.target],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "out").glob("runs/*/local.log")
    for text in ("native two", "three", "one"):
        assert text.encode() in log.read_bytes()
    for text in ("native two", "three"):
        assert text not in done.stdout + done.stderr


@pytest.mark.parametrize("moment", ["import", "run", "output"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_at_any_moment_is_one_line(monkeypatch, capfd, number, code, moment):
    def interrupt(*_arguments, **_options):
        signal.raise_signal(number)

    class Module:
        def __getattr__(self, name):
            if moment == "import":
                interrupt()
            return interrupt if moment == "run" else lambda *_, **__: result

    result = SimpleNamespace(summary="some", error="", log="", exit_code=0)
    monkeypatch.setitem(sys.modules, "c3d_pipelines.run.local", Module())
    monkeypatch.setattr("c3d_pipelines.commands.run.result_lines", interrupt)
    arguments = ["--videos", "here", "--out", "there", "--quiet"]
    assert run.main(arguments, standalone_mode=False) == code
    assert capfd.readouterr().err == (
        "c3d-pipelines: interrupted; the same command goes on with what is left\n"
    )


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_everything_and_the_same_command_continues(tmp_path, number, code):
    make_video(tmp_path / "videos" / "done.mp4")
    white = np.full((48, 64, 3), 255, np.uint8)
    make_video(tmp_path / "videos" / "in progress.mp4", draw=lambda number: white)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    out = tmp_path / "out"
    arguments = ["--videos", tmp_path / "videos", "--out", out, "--workers", "1", "--batch-size"]
    arguments += ["1", "--shard-mb", "0.000001", "--timeout", str(2 * LONG_S)]
    held, released = threading.Event(), threading.Event()

    def on_predict(request, rows, context):
        if rows.min() > 200:
            held.set()
            assert released.wait(3 * LONG_S)

    # Processes that do not end tidily are killed after this time.
    program = f"from c3d_pipelines.run import processes\nprocesses.GRACE_S = {2 * LONG_S}\n"
    with serving(FakeServing(on_predict)) as server, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(released.set)
        arguments += ["--server", server.target]
        running = subprocess.Popen(
            [sys.executable, "-c", program + _COMMAND, *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        at_the_end.callback(running.kill)
        # One shard is done, and the only other one has a request that is not answered.
        wait_until(lambda: list(out.glob("shards/*.json")))
        assert held.wait(LONG_S)
        running.send_signal(number)
        _, errors = running.communicate(timeout=LONG_S)
        assert running.returncode == code
        assert errors.splitlines()[-2:] == [
            "c3d-pipelines: stopping; what is done stays done; press Ctrl-C again to kill",
            "c3d-pipelines: interrupted; the same command goes on with what is left",
        ]
        assert list(temporary.iterdir()) == []
        assert not [path for path in tmp_path.rglob(".c3d-*")]
        done = set(out.glob("shards/*"))
        assert done
        released.set()
        second = call(*arguments, "--json")
    assert second.returncode == 0, second.stderr
    summary = json.loads(second.stdout)
    assert sum(counts["ok"] for counts in summary["counts"].values()) == 2
    assert summary["processed"] == 1
    assert done <= set(out.glob("shards/*"))


@pytest.mark.long
def test_live_line_fits_every_terminal(videos, tmp_path):
    are_shown = threading.Event()

    def on_predict(*_):
        if next(requests) >= 2:  # the preflight's, and that of one clip
            are_shown.wait(LONG_S)

    with serving(FakeServing(on_predict)) as server:
        rates = 0
        for columns in (40, 60, 80, 200):
            out = tmp_path / str(columns)
            arguments = ("--videos", videos, "--out", out, "--server", server.target)
            more = ("--max-failed", "2", "--batch-size", "1", "--workers", "1")
            requests = itertools.count()
            are_shown.clear()
            # The second clip is answered when the line has been drawn; a narrow terminal may have
            # no place for the rate.
            line = rb"extract \d/4 videos" + rb"[^\r\n]*\d clips/s" * (columns >= 80)

            def look(output, line=line):
                if re.search(line, output):
                    are_shown.set()

            code, lines = run_in_terminal(
                command(*arguments, *more), columns=columns, on_output=look
            )
            assert code == 0, columns
            assert "c3d-pipelines: 4 videos to do in 1 shard" in lines, columns
            # A line ends with what there is place for: its times, the shards or the rate.
            drawn = [line.rstrip() for line in lines if re.match(r"\w+( \d/4 videos|  ━)", line)]
            assert max(map(len, drawn)) < columns, columns
            assert drawn[0].startswith("starting"), columns
            # A step that ends before the line is drawn again is not visible.
            extracting = [line for line in drawn if line.startswith("extract")]
            assert re.match(r"extract [0-4]/4 videos", extracting[-1]), columns
            assert all(re.search(r"[\d-]:[\d-]{2}:[\d-]{2} left", line) for line in extracting)
            rates += sum(bool(re.search(r"\d+\.\d clips/s", line)) for line in drawn)
            assert not any("begins" in line for line in lines), columns  # a line of the log
        assert rates


class RecordingStream(io.StringIO):
    """A stream that records what each call writes."""

    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, text):
        self.written.append(text)
        return super().write(text)


def test_elsewhere_a_plain_line_has_counts_and_the_time_left(monkeypatch):
    monkeypatch.setattr("c3d_client.commands.progress.PLAIN_EVERY_S", 0.05)
    stream = RecordingStream()
    pattern = (
        r"c3d-pipelines: extract, 2 of 4 videos, 1 ok, 1 failed, [\d.]+ clips/s, 0:00:\d\d left"
    )
    with Display(stream).shown(quiet=False) as display:
        wait_until(stream.getvalue)
        display.show(RunState(step="plan", videos=4, skipped=1, shards=2))
        display.show(RunState(step="extract", videos=4, skipped=1, shards=2))
        display.show(RunState("extract", 4, 1, 2, 0, done=2, ok=1, failed=1, clips=9))
        wait_until(lambda: len(re.findall(pattern, stream.getvalue())) >= 2)
        display.print("a note")
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"c3d-pipelines: starting, 0:00:\d\d elapsed", lines[0])
    assert "c3d-pipelines: 4 videos to do in 2 shards, 1 done or known before" in lines
    assert sum(bool(re.fullmatch(pattern, line)) for line in lines) >= 2
    assert "a note" in lines
    # Two threads write: a line that was written in parts could be cut in two.
    assert [text for text in stream.written if not text.endswith("\n")] == []


def test_quiet_shows_notes_only(monkeypatch):
    monkeypatch.setattr("c3d_client.commands.progress.PLAIN_EVERY_S", 0.01)
    stream = io.StringIO()
    with Display(stream).shown(quiet=True) as display:
        display.show(RunState(step="extract", videos=4, shards=2))
        time.sleep(0.05)  # for lines that must not come
        display.print("a note")
    assert stream.getvalue() == "a note\n"
