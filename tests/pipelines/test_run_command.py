"""`c3d-pipelines run`: options are the pipeline's, words are few, exit codes mean something."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from c3d_pipelines.commands.run import run
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION, compiled_path
from support.fake_serving import FakeServing
from support.films import write_film

_COMMAND = """
import sys
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.run import run
run_command(run, None, name="c3d-pipelines", interrupted="")
"""
# Not the pipeline's: for this command alone.
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


def film(path, *, frames=24, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_film(path, frames, width=64, height=48, **changes)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two films, one too short, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    film(folder / "one.mp4")
    film(folder / "two.mkv", options={"crf": "30"})
    film(folder / "short.mp4", frames=5)
    (folder / "none.mp4").write_text("no film at all\n" * 100)
    return folder


@pytest.mark.parametrize("name", [EXTRACTION, CLASSIFICATION])
def test_every_parameter_of_the_pipeline_is_an_option_with_its_default(name):
    specification = next(yaml.safe_load_all(compiled_path(name).read_text()))
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    given = run.make_context("run", ["--videos", "here", "--out", "there"]).params
    assert set(given) - _OWN == set(parameters)
    for one, told in parameters.items():
        if one not in ("videos", "out", "server"):  # those of a cluster are other ones
            default = 0.0 if one == "fps" and given[one] is None else given[one]
            assert default == told["defaultValue"], one


def test_failures_are_named_with_their_reasons_and_how_to_go_on(videos, narrow_server, tmp_path):
    out = tmp_path / "out"
    done = call("--videos", videos, "--out", out, "--server", narrow_server.target)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == ("2 of 4 videos have features; 2 do not. (2 ok, 1 too_short, 1 corrupt)")
    assert re.fullmatch(r"this run    4 videos, 4 clips in [\d.]+ s, [\d.]+ clips/s", lines[1])
    assert any(re.fullmatch(r"  corrupt     none\.mp4: .*cannot be opened.*", one) for one in lines)
    assert any(re.fullmatch(r"  too_short   short\.mp4: .*5 frames.*", one) for one in lines)
    assert f"dataset     {out}" in lines
    (report,) = (one.split(maxsplit=1)[1] for one in lines if one.startswith("report"))
    assert Path(report).read_text().startswith("<!DOCTYPE html>")
    assert "--retry-failed" in lines[-1]
    told = done.stderr.splitlines()
    assert told[0] == "c3d-pipelines: 4 videos to do in 1 shard"
    assert told[-1].startswith("c3d-pipelines: gate: 2 videos did not end ok")
    assert len(told) < 15
    assert "\x1b" not in done.stdout + done.stderr

    again = call("--videos", videos, "--out", out, "--server", narrow_server.target, "--json")
    assert again.returncode == 0  # what is damaged is no news
    summary = json.loads(again.stdout)
    assert summary["processed"] == 0
    assert summary["counts"]["known_failure"]["corrupt"] == 1
    assert "0 videos to do, 4 done or known before" in again.stderr


def test_classes_go_through_the_other_pipeline_from_any_folder(videos, narrow_server, tmp_path):
    """Relative places are meant from there; modules that lie there are not the program's."""
    from c3d_pipelines import dataset

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    (here / "kfp.py").write_text("raise SystemExit('not this one')")
    (here / "one.mp4").symlink_to(videos / "one.mp4")
    done = call(
        *("--videos", "one.mp4", "--out", "../out", "--server", narrow_server.target),
        *("--classify", "--no-clips", "--stride", "4", "--keep-logs", "--quiet"),
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--videos", "empty"], r"plan: .*/empty.*no videos"),
        (["--videos", "videos", "--server", "localhost:1"], r"preflight: localhost:1: "),
        (["--videos", "videos", "--stride", "0"], r"plan: stride is 0"),
        (["--videos", ""], r"videos is empty"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(videos, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").symlink_to(videos)
    done = call(*arguments, "--out", "out", "--quiet", "--patience", "0.1", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(f"c3d-pipelines: {words}", line), line
    assert "Traceback" not in done.stdout
    if "the log is" in line:
        assert "Error: " in Path(line.rpartition("the log is ")[2]).read_text()


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_everything_and_the_same_command_goes_on(tmp_path, number, code):
    for one in range(4):
        film(tmp_path / "videos" / f"{one}.mp4", options={"crf": str(20 + one)})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    out = tmp_path / "out"
    arguments = ["--videos", tmp_path / "videos", "--out", out, "--workers", "1", "--batch-size"]
    arguments += ["1", "--shard-mb", "0.003"]

    def slow(request, rows, context):
        time.sleep(0.3)

    with serving(FakeServing(slow)) as server:
        arguments += ["--server", server.target]
        running = subprocess.Popen(
            command(*arguments),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        end = time.monotonic() + 30
        while not list(out.glob("shards/*.json")) and time.monotonic() < end:
            time.sleep(0.02)
        running.send_signal(number)
        asked = time.monotonic()
        _, told = running.communicate(timeout=60)
        assert time.monotonic() - asked < 12  # or it was given its grace and killed
        assert running.returncode == code
        assert told.splitlines()[-2:] == [
            "c3d-pipelines: stopping; what is done stays done; press Ctrl-C again to kill",
            "c3d-pipelines: interrupted; the same command goes on with what is left",
        ]
        assert list(temporary.iterdir()) == []
        assert not [path for path in tmp_path.rglob(".c3d-*")]
        kept = set(out.glob("shards/*"))
        assert kept
        on = call(*arguments, "--json")
    assert on.returncode == 0, on.stderr
    summary = json.loads(on.stdout)
    assert sum(summary["counts"][one]["ok"] for one in summary["counts"]) == 4
    assert 0 < summary["processed"] < 4
    assert kept <= set(out.glob("shards/*"))


def test_on_a_terminal_a_line_lives_and_leaves_only_the_verdict(videos, narrow_server, tmp_path):
    main, other = pty.openpty()
    running = subprocess.Popen(
        command(
            *("--videos", videos, "--out", tmp_path / "out", "--server", narrow_server.target),
            *("--max-failed", "2"),
        ),
        stdout=other,
        stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "140"},
    )
    os.close(other)
    drawn = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(main, 4096):
            drawn += part
    os.close(main)
    assert running.wait() == 0
    text = drawn.decode()
    assert "4 videos to do in 1 shard" in text
    # A step that is over before the line is drawn again is not seen.
    assert any(step in text for step in ("preflight", "extract", "publish"))
    for words in ("starting", "/4", "clips/s"):
        assert words in text
    assert "KFP" not in text
