"""The command: a manifest, or one clear line."""

import pytest
from c3d_pipelines import read_manifest
from c3d_pipelines.cli import main


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_plan_writes_the_manifest_and_says_what_is_in_it(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"x" * 1000)
    (tmp_path / "b.mp4").write_bytes(b"x" * 1000)
    out = tmp_path / "manifest.csv"
    assert run("plan", tmp_path, "--out", out) == 0
    assert [row.video_id for row in read_manifest(out)] == ["a.mp4", "b.mp4"]
    assert "2 videos, 0.0 MB, 1 shards" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [("plan", "absent"), ("plan",), ("plan", ".", "--shard-mb", "0")]
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    if "." in arguments:
        (tmp_path / "a.mp4").touch()
    before = sorted(tmp_path.iterdir())
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("c3d-pipelines: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
