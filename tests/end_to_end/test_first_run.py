"""`make example`: its errors, and the video it renders. CI runs the example itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def first_run(video):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "first_run.py", str(video)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", ["absent.mp4", "notes.txt"])
def test_file_that_is_not_a_video_is_a_one_line_error_before_the_build(tmp_path, name):
    path = tmp_path / name
    if name == "notes.txt":
        path.write_text("no pictures here\n" * 100)
    done = first_run(path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"example: {path}: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_rendered_square_moves_right_then_down_then_left():
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import moving_square
    finally:
        sys.path.pop(0)

    def centre(number):
        rows, columns = (moving_square.frame(number) == moving_square._COLOUR).all(axis=2).nonzero()
        return rows.mean(), columns.mean()

    last = moving_square.FPS * moving_square.SECONDS - 1
    start, corner, bottom, end = (centre(number) for number in (0, last // 3, 2 * last // 3, last))
    assert corner[1] > start[1] + 100
    assert abs(corner[0] - start[0]) < 5
    assert bottom[0] > corner[0] + 80
    assert abs(bottom[1] - corner[1]) < 10
    assert end[1] < bottom[1] - 100
    assert abs(end[0] - bottom[0]) < 10
