"""Bulk runs that reduce features by a PCA, and PCAs of datasets."""

import shutil
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from c3d_client import PCA, C3DClient, fit_pca
from c3d_client.core.errors import ContractMismatch, OutputError, ProvenanceError, UsageError
from c3d_pipelines import dataset
from c3d_pipelines.cli import main
from c3d_pipelines.dataset.export import export_dataset
from c3d_pipelines.dataset.merge import merge
from c3d_pipelines.run.local import run_local
from c3d_pipelines.run.publish import publish
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import clip_file
from c3d_pipelines.shards.worker import do_shard
from support.errors import error_of
from support.sample_dataset import OK, two_runs
from support.sample_shards import to_do
from support.shard_runs import job, plain_job, row
from support.videos import moving_texture, noise, write_video


def code_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of different pictures, and one that is too short."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 40)
    write_video(folder / "b.mp4", 40, draw=moving_texture, width=176, height=144)
    write_video(folder / "c.mp4", 32, draw=noise)
    write_video(folder / "short.mp4", 9)
    return folder


@pytest.fixture(scope="module")
def pca_file(narrow_server, videos, tmp_path_factory):
    """A PCA of the videos' clips in a file."""
    with C3DClient(narrow_server.target) as c3d:
        features = [c3d.extract(videos / f"{name}.mp4") for name in "abc"]
    path = tmp_path_factory.mktemp("pca") / "pca.npz"
    fit_pca(features, dim=3).save(path)
    return path


@pytest.fixture
def rows(videos):
    return [row(path) for path in sorted(videos.iterdir())]


def test_dataset_of_reduced_features_is_read_as_any_other(
    narrow_server, videos, rows, pca_file, tmp_path
):
    out, fitted = tmp_path / "out", PCA.load(pca_file)
    run = job(out, narrow_server.target, pca=str(pca_file))
    report = do_shard(run, rows, 0)
    assert report.provenance["pca"] == fitted.identity
    assert pq.read_schema(out / clip_file(report.name)).field("feature").type.list_size == 3
    publish(run, to_do(*rows))
    opened = dataset.open(out)
    assert opened.card.size == 3
    ids, matrix = opened.matrix()
    assert (ids, matrix.shape) == (["a.mp4", "b.mp4", "c.mp4"], (3, 3))
    with C3DClient(narrow_server.target, pca=fitted) as c3d:
        for video_id in ids:
            features = c3d.extract(videos / video_id)
            stored = opened.features(video_id)
            assert np.array_equal(stored.clip_features, features.clip_features)
            assert np.array_equal(stored.video_feature, features.video_feature)
            assert np.array_equal(stored.clip_starts, features.clip_starts)
        assert opened.nearest(features, k=1)[0].video_id == "c.mp4"
    assert opened.nearest(matrix[0], k=1)[0].video_id == "a.mp4"
    with pytest.raises(UsageError, match=r"a feature of shape \[3\]"):
        opened.nearest(np.ones(4096))
    readme = (out / "README.md").read_text()
    assert f"float32 `[3]`, fc6 after ReLU reduced by PCA (sha256 `{fitted.sha256}`)" in readme
    merged = merge([out], tmp_path / "merged")
    assert np.array_equal(merged.matrix()[1], matrix)
    error = error_of(UsageError, export_dataset, opened, tmp_path / "files", to="caffe")
    assert "caffe holds rows of 4096 numbers, and these have 3 after PCA" in str(error)
    assert not (tmp_path / "files").exists()


def test_run_is_continued_with_the_same_pca_only(narrow_server, rows, pca_file, tmp_path):
    out, fitted, target = tmp_path / "out", PCA.load(pca_file), narrow_server.target
    copy = tmp_path / "copy.npz"
    shutil.copy(pca_file, copy)
    run = job(out, target, pca=str(copy))
    report = do_shard(run, rows[:3], 0)
    publish(run, to_do(*rows[:3]))
    again = job(out, target, pca=str(pca_file), run="run-2")
    assert do_shard(again, rows[:3], 0) == report
    replace(fitted, whiten=True).save(copy)
    for pca, expected in (
        (str(copy), "pca.whiten: False against True"),
        ("", f"pca: {fitted.sha256[:12]} against none"),
    ):
        error = error_of(ProvenanceError, job, out, target, pca=pca, run="run-3")
        assert expected in str(error), pca
    plain = job(tmp_path / "plain", target)
    do_shard(plain, rows[:1], 0)
    publish(plain, to_do(*rows[:1]))
    with pytest.raises(ProvenanceError, match="were made differently"):
        merge([out, tmp_path / "plain"], tmp_path / "merged")


def test_pca_that_is_replaced_during_a_run_stops_it(narrow_server, rows, pca_file, tmp_path):
    copy = tmp_path / "copy.npz"
    shutil.copy(pca_file, copy)
    run = job(tmp_path / "out", narrow_server.target, pca=str(copy))
    replace(PCA.load(pca_file), whiten=True).save(copy)
    with pytest.raises(ContractMismatch, match=r"pca\.whiten"):
        do_shard(run, rows, 0)
    assert not list((tmp_path / "out").glob("shards/*"))


def test_settings_with_a_pca_that_cannot_be_used_are_refused(server, pca_file, tmp_path):
    for changes, expected in (
        ({"answer": "classes", "pca": "pca.npz"}, "the answer classes; leave out pca"),
        ({"pca": "https://me:secret@host/pca.npz"}, "holds credentials"),
    ):
        error = error_of(UsageError, plain_job, tmp_path / "out", server.target, **changes)
        assert expected in str(error)
        assert "secret" not in str(error)
    settings = plain_job("out", server.target, pca=str(pca_file))
    assert JobSettings.from_json(settings.to_json()) == settings
    given = {"videos": "in", "out": "out", "pca": "none"}
    assert JobSettings.from_parameters(given, run="r", answer="features").pca == ""
    absent = str(tmp_path / "absent.npz")
    error = error_of(OutputError, job, tmp_path / "out", server.target, pca=absent)
    assert "absent.npz: no such file" in str(error)
    # The fake server has another model.
    with pytest.raises(ContractMismatch, match="was fitted on other features: model"):
        job(tmp_path / "out", server.target, pca=str(pca_file))
    assert not list((tmp_path / "out").glob("shards/*"))


def test_pca_is_read_from_the_store_of_the_data(narrow_server, pca_file, tmp_path):
    with fsspec.open("memory://bucket/pca.npz", "wb") as file:
        file.write(pca_file.read_bytes())
    run = job(tmp_path / "out", narrow_server.target, pca="memory://bucket/pca.npz")
    assert run.provenance["pca"] == PCA.load(pca_file).identity
    error = error_of(OutputError, PCA.load, "memory://bucket/absent.npz")
    assert str(error).startswith("memory://bucket/absent.npz: no such file")


def test_local_run_takes_a_relative_path(narrow_server, videos, pca_file, tmp_path, monkeypatch):
    monkeypatch.chdir(pca_file.parent)
    out = tmp_path / "out"
    result = run_local(
        {
            **{"videos": str(videos), "out": str(out), "server": narrow_server.target},
            **{"pca": "pca.npz", "max_failed": 1},
        }
    )
    assert result.succeeded, result.error
    opened = dataset.open(out)
    assert opened.card.provenance["pca"] == PCA.load(pca_file).identity
    report = (out / "runs" / result.run / "report.md").read_text()
    assert f"--pca {pca_file}" in report


class TestFitOfADataset:
    @pytest.fixture
    def published(self, tmp_path):
        two_runs(tmp_path / "dataset")
        return tmp_path / "dataset"

    def test_fit_is_that_of_the_features_without_duplicates(self, published, tmp_path, capsys):
        pca = tmp_path / "pca.npz"
        assert code_of("pca", "fit", published, "--dim", 4, "--out", pca) == 0
        opened = dataset.open(published)
        ids = opened.ids_by_shard([name for name in OK if name != "twin.mp4"])
        expected = fit_pca([opened.features(video_id) for video_id in ids], dim=4)
        read = PCA.load(pca)
        assert read.sha256 == expected.sha256
        assert (read.clips, read.videos) == (2 * (len(OK) - 1), len(OK) - 1)
        assert capsys.readouterr().out == f"{pca}: {expected.summary()}\n"

    def test_dataset_that_cannot_be_fitted_is_one_line(self, tmp_path, capsys):
        two_runs(tmp_path / "classes", answer="classes")
        two_runs(tmp_path / "videos", clip_rows=False)
        pca = tmp_path / "pca.npz"
        for name, expected in (
            ("classes", "holds classes, and no features"),
            ("videos", "its clips are not stored"),
            ("absent", "is not a dataset"),
        ):
            assert code_of("pca", "fit", tmp_path / name, "--dim", 4, "--out", pca) == 2, name
            [line] = capsys.readouterr().err.splitlines()
            assert expected in line, name
        assert not pca.exists()
