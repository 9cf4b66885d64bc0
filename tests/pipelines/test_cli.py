"""`c3d-pipelines plan`: its output, the manifest it writes, and errors in one line."""

import pytest
from c3d_pipelines.cli import main
from c3d_pipelines.inputs.listing import list_inputs
from c3d_pipelines.inputs.manifest import read_manifest
from c3d_pipelines.run.plan import make_plan
from support import sample_shards


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes(name.encode() * 300_000)
    return folder


def test_plan_shows_what_a_run_would_do_and_does_nothing(videos, tmp_path, capsys):
    assert run("plan", "--videos", videos, "--shard-mb", 2) == 0
    output = capsys.readouterr()
    assert [line.split(maxsplit=1) for line in output.out.splitlines() if line[0] not in "dk"] == [
        ["inputs", "3 videos, 4.5 MB"],
        ["to", "do           3 videos, 4.5 MB"],
        ["shards", "3"],
    ]
    assert output.err == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["videos"]


def test_plan_shows_what_the_dataset_has_and_duplicates(videos, tmp_path, capsys):
    (videos / "d.mp4").write_bytes(b"a.mp4" * 300_000)
    out = tmp_path / "out"
    job = sample_shards.settings(out)
    rows = list_inputs(str(videos), keys="content")[:2]
    sample_shards.commit(job, rows, statuses={"b.mp4": "corrupt"})
    assert run("plan", "--videos", videos, "--out", out, "--keys", "content") == 0
    assert capsys.readouterr().out.splitlines() == [
        "inputs          4 videos, 6.0 MB",
        "done            1",
        "known failures  1 (--retry-failed tries them again)",
        "duplicates      1",
        "to do           1 videos, 1.5 MB",
        "shards          1",
    ]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_manifest_that_plan_writes_is_accepted_as_videos(videos, tmp_path, capsys, name):
    manifest = tmp_path / name
    assert run("plan", "--videos", videos, "--manifest", manifest) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"manifest        {manifest}"
    assert read_manifest(manifest) == list_inputs(str(videos))
    assert make_plan(str(manifest), "") == make_plan(str(videos), "")


def test_plan_shows_of_how_many_videos_size_or_length_is_unknown(tmp_path, capsys):
    manifest = tmp_path / "m.csv"
    manifest.write_text("uri,size_bytes,duration_s\n/a,5000000,3600\n/b,0,7200\n/c,,\n")
    assert run("plan", "--videos", manifest) == 0
    expected = "3 videos, 5.0 MB (size unknown of 2), 3.0 hours (length unknown of 1)"
    assert expected in capsys.readouterr().out


def test_unusable_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "a.mp4").touch()
    (tmp_path / "bad.csv").write_text("uri\n\n,\n")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        ("plan",),
        ("plan", "--videos", "absent"),
        ("plan", "--videos", "empty"),
        ("plan", "--videos", "full", "--shard-mb", "0"),
        ("plan", "--videos", "full", "--keys", "slow"),
        ("plan", "--videos", "full", "--stride", "0"),
        ("plan", "--videos", "full", "--manifest", "list.txt"),
        ("plan", "--videos", "full", "--manifest", "full/a.mp4/list.csv"),
        ("plan", "--videos", "bad.csv"),
        ("plan", "--videos", "full", "--out", "https://host/out"),
    ):
        assert run(*arguments) == 2, arguments
        output = capsys.readouterr()
        assert output.out == "", arguments
        assert output.err.startswith("c3d-pipelines: "), arguments
        assert output.err.count("\n") == 1, arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments
