"""`make pipeline-example` with the narrow network; CI runs it with the whole network."""

import sys
from pathlib import Path

import pytest
from c3d_client import VideoDecodeError, decode_frames

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import pipeline_run

    yield pipeline_run
    for name in ("pipeline_run", "first_run", "moving_square"):
        sys.modules.pop(name)


@pytest.mark.parametrize("with_real_videos", [True, False])
def test_four_of_the_six_videos_decode_and_two_do_not(
    example, tmp_path, monkeypatch, with_real_videos
):
    if not with_real_videos:
        monkeypatch.setattr(example, "real_videos", lambda: [])
    folder = tmp_path / "videos"
    example.make_videos(folder)
    frames = {}
    for path in folder.iterdir():
        try:
            frames[path.name] = sum(1 for _ in decode_frames(path))
        except VideoDecodeError:
            frames[path.name] = 0
    assert len(frames) == 6
    assert [name for name, count in frames.items() if count >= 48] == [
        name for name, count in frames.items() if count
    ]
    assert {name for name, count in frames.items() if not count} == {
        "cut short.mkv",
        "not a video.mp4",
    }
    assert ("bikes.mp4" in frames) == with_real_videos
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


@pytest.mark.long
def test_example_shows_each_video_and_a_second_run_has_nothing_to_do(
    example, narrow_server, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(example, "ROOT", tmp_path)
    videos, out = tmp_path / "videos", tmp_path / "dataset"
    monkeypatch.setattr(example, "real_videos", lambda: [])
    example.make_videos(videos)
    assert example.run(videos, out, narrow_server.target) == 0
    output = capfd.readouterr().out
    assert "$ c3d-pipelines run --videos videos --out dataset" in output
    assert "4 of 6 videos have features; 2 do not. (4 ok, 2 corrupt)" in output
    assert "cut short.mkv: is cut short: it says 3.84 s" in output
    (report,) = out.glob("runs/*/report.html")
    assert str(report) in output

    example.show(out)
    rows = capfd.readouterr().out.splitlines()
    assert sum(" ok " in row and "[4096], norm 1.000" in row for row in rows) == 4
    assert sum("VideoDecodeError" in row for row in rows) == 2
    assert rows[-1].startswith("  square")

    assert example.run(videos, out, narrow_server.target) == 0
    assert "there was nothing left to do." in capfd.readouterr().out
