"""Features of a dataset as files, and what `c3d convert` answers to a dataset."""

import re
import shlex

import numpy as np
import pytest
from c3d_client import UsageError, read_features
from c3d_client.cli import main as c3d
from c3d_client.outputs import FORMATS
from c3d_client.outputs.activitynet import video_ids
from c3d_pipelines import dataset
from c3d_pipelines.cli import main
from support.sample_dataset import OK, two_runs
from support.sample_shards import PROVENANCE


def code_of(command, *arguments):
    with pytest.raises(SystemExit) as ended:
        command([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def published(tmp_path):
    two_runs(tmp_path / "my dataset")
    return tmp_path / "my dataset"


def test_every_format_has_the_features_of_the_videos_that_are_ok(published, tmp_path, capsys):
    opened = dataset.open(published)
    for name, entry in FORMATS.items():
        out = tmp_path / name / "all.hdf5" if entry.many_videos else tmp_path / name
        assert code_of(main, "export", published, "--to", name, "--out", out) == 0, name
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == len(OK), name
        if entry.many_videos:
            assert len(video_ids(out)) == len(OK)
            continue
        paths = sorted(path for path in out.iterdir() if path.suffix != ".json")
        assert [path.name for path in paths] == [f"{video}{entry.suffix}" for video in OK], name
        for path, video in zip(paths, OK, strict=True):
            features, clips = read_features(path, format=name), opened.clips(video)
            if name == "sultani":
                continue
            assert np.array_equal(features.clip_features, clips.clip_features), name
            if entry.lossless:
                assert np.array_equal(features.video_feature, opened.row(video).feature), name
                assert np.array_equal(features.clip_starts, clips.clip_starts), name
                assert features.provenance["model"] == PROVENANCE["model"], name
                assert features.provenance["video"]["key"] == opened.row(video).key, name


def test_convert_names_the_command_for_a_dataset(published, tmp_path, capsys):
    shard = next((published / "shards").glob("*.parquet"))
    clips = next((published / "clips").glob("*.parquet"))
    for given in (published, tmp_path, shard, clips, published / "index.parquet"):
        out = tmp_path / "out"
        assert code_of(c3d, "convert", given, "--to", "npz", "--out", out) == 2, given
        [line] = capsys.readouterr().err.splitlines()
        named = re.fullmatch(
            r"c3d: (.*): is a data set of c3d-pipelines; write its features as files with "
            r"c3d-pipelines (export .*) --to FORMAT --out DIR",
            line,
        )
        assert named, line
        assert named[1] == str(published), line
        assert not out.exists()
    assert code_of(main, *shlex.split(named[2]), "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == len(OK)


def test_folder_that_only_looks_like_a_dataset_is_converted(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dataset.json").write_text("{}")
    assert code_of(c3d, "convert", tmp_path / "in", "--to", "npz", "--out", tmp_path / "out") == 2
    assert "no features in" in capsys.readouterr().err


def test_dataset_of_classes_or_without_clips_is_refused(tmp_path, capsys):
    two_runs(tmp_path / "classes", answer="classes")
    out = tmp_path / "out"
    assert code_of(main, "export", tmp_path / "classes", "--out", out) == 2
    assert "holds classes, and no features" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds classes, and no features"):
        dataset.open(tmp_path / "classes").features(OK[0])
    two_runs(tmp_path / "videos", clip_rows=False)
    assert code_of(main, "export", tmp_path / "videos", "--out", out) == 2
    assert "its clips are not stored" in capsys.readouterr().err
    assert not list(out.glob("*"))
