"""Progress of a run: a line that fits the terminal, and plain lines elsewhere."""

import io
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from c3d_client import ClassScore
from c3d_client.commands import progress
from c3d_client.commands.classify import bars
from c3d_client.commands.progress import BAR, Pace, Part, fitting
from support.processes import LONG_S
from support.terminals import run_in_terminal
from support.videos import write_video

WIDTHS = (40, 60, 80, 200)


@pytest.fixture
def videos(tmp_path):
    """Four videos of four clips, and one that is too short."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        write_video(tmp_path / "in" / f"{number}.mp4", 40)
    write_video(tmp_path / "in" / "short.mp4", 5)
    return tmp_path / "in"


@pytest.fixture
def slow(fake_serving):
    return fake_serving(lambda *_: time.sleep(0.15))


def command(*arguments):
    return [sys.executable, "-m", "c3d_client", *map(str, arguments)]


def live(lines):
    """Return the drawn lines of the display."""
    return [line.rstrip() for line in lines if re.match(r"\d+/\d+ videos", line)]


@pytest.mark.long
def test_live_line_of_extract_fits_every_terminal(videos, slow, tmp_path):
    for columns in WIDTHS:
        code, lines = run_in_terminal(
            command("extract", videos, "--workers", 2, "--server", slow.target)
            + ["--batch-size", "1", "--out", str(tmp_path / str(columns))],
            columns=columns,
        )
        drawn = live(lines)
        assert code == 1, columns
        assert len(drawn) > 3, columns
        assert max(map(len, drawn)) < columns, columns
        assert all(re.search(r"[\d-]:[\d-]{2}:[\d-]{2} left", line) for line in drawn), columns
        assert any(re.search(r"\d/5 videos", line) for line in drawn), columns
        assert any(re.search(r"\d+\.\d clips/s", line) for line in drawn) or columns == 40
        if columns >= 80:
            assert any(re.search(r"\d of \d+ in flight", line) for line in drawn), columns
        if columns == 200:
            assert any(re.search("[━╸]{20}.* 1 failed, .* elapsed$", line) for line in drawn), (
                drawn[-3:]
            )
        assert any(line.startswith("c3d: ") and "short.mp4" in line for line in lines), columns


@pytest.mark.long
def test_results_of_classify_are_printed_without_the_live_line(videos, slow):
    arguments = command("classify", videos, "--server", slow.target, "--batch-size", "1")
    code, lines = run_in_terminal(arguments, columns=60)
    assert code == 1
    assert len(live(lines)) > 3
    assert max(map(len, live(lines))) < 60
    assert sum(": 4 clips" in line for line in lines) == 4
    # In a file the lines are those without a terminal.
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        expected, errors = process.communicate(timeout=LONG_S)
    out = videos.parent / "out.txt"
    with out.open("wb") as file:
        run_in_terminal(arguments, columns=60, stdout=file)
    assert out.read_bytes() == expected
    assert errors.decode().splitlines()[-1] == "c3d: 1 of 5 videos failed"


@pytest.mark.long
def test_elsewhere_a_plain_line_has_counts_and_the_time_left(
    videos, slow, tmp_path, run, monkeypatch
):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.2)
    code, _, lines = run(
        "extract", videos, "--workers", 1, "--batch-size", 1, "--max-in-flight", 1,
        "--server", slow.target, "--out", tmp_path / "out",
    )  # fmt: skip
    plain = [line for line in lines if " of 5 videos" in line]
    assert code == 1
    assert len(plain) > 3
    pattern = r"c3d: \d of 5 videos(, 1 failed)?, \d+\.\d clips/s, [\d-]:[\d-]{2}:[\d-]{2} left"
    for line in plain:
        assert re.fullmatch(pattern, line), line
    assert re.search(r"\d:\d{2}:\d{2} left", plain[-1])
    quiet = run("extract", videos, "-q", "--server", slow.target, "--out", tmp_path / "quiet")[2]
    assert all("short.mp4" in line for line in quiet)
    assert not [t for t in threading.enumerate() if t.name == "c3d-progress"]


def test_plain_lines_come_every_30_seconds():
    assert progress.PLAIN_EVERY_S == 30


def test_least_important_parts_are_left_out_first():
    parts = [Part("12/400 videos", 0), BAR, Part("", 2), Part("3.1 clips/s", 3), Part("left", 1)]
    assert fitting(parts, 100) == [parts[0], BAR, *parts[3:]]
    assert fitting(parts, 40) == [parts[0], *parts[3:]]
    assert fitting(parts, 31) == [parts[0], parts[4]]
    assert fitting(parts, 13) == [parts[0]]
    assert [part.text for part in fitting(parts, 8)] == ["12/4…eos"]


def test_time_left_follows_the_rate_of_the_last_minutes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(1000)
    assert pace.text() == "-:--:-- left"
    now[0] += 1
    pace.reach(500)  # done before, and skipped within a second
    for done in range(501, 561):
        now[0] += 10
        pace.reach(done)
    # 440 videos at 10 s each.
    assert pace.text() == "1:13:20 left"
    pace.restart()
    assert pace.text() == "-:--:-- left"


def test_width_of_a_file_is_80():
    assert progress.terminal_columns(io.TextIOWrapper(io.BytesIO())) == 80


@pytest.mark.long
def test_lines_of_bench_fit_the_terminal_and_hold_every_value(videos, fake_serving):
    arguments = command("bench", videos / "0.mp4", "--seconds", 0.05, "--server", "SERVER")
    arguments[arguments.index("SERVER")] = fake_serving().target
    for columns in (40, 60, 80, 200):
        code, lines = run_in_terminal(arguments, columns=columns, cwd=videos)
        assert code == 0, lines
        too_long = [line for line in lines if len(line) >= columns and "/" not in line]
        assert not too_long, (columns, too_long)
        text = " ".join(" ".join(lines).split())
        for part in ("clips/s", "alone", "p50", "p95", "p99", "in flight", "pushed back"):
            assert part in text, (columns, part)
        assert ("batch clips/s alone p50" in text) == (columns >= 80), columns


def test_bars_and_labels_become_shorter_on_a_narrow_terminal():
    score = ClassScore(index=12, label="a label of " + "many words " * 5 + "end", probability=0.5)
    small = ClassScore(index=3, label="surfing", probability=0.25)
    for columns in (40, 60, 80, 200):
        for top in ((score, small), (small,)):
            lines = bars(SimpleNamespace(top=top), columns=columns).splitlines()
            assert max(map(len, lines)) < columns
            assert lines[-1].endswith("25.00%  surfing (3)")
            if score in top and columns < 80:
                assert re.search(r" 50\.00%  a label .*….*end \(12\)$", lines[0])
    wide = bars(SimpleNamespace(top=(small,)))
    assert wide == "  " + "█" * 8 + "░" * 22 + "  25.00%  surfing (3)"
    assert bars(SimpleNamespace(top=(small,)), columns=80) == wide
