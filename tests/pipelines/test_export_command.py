"""`c3d-pipelines export`: all or some videos as files, continued, with a line for each failure."""

import itertools

import h5py
import numpy as np
import pytest
from c3d_client import PCA, UsageError, fit_pca, read_features
from c3d_client.outputs import FORMATS, read_provenance
from c3d_pipelines import dataset
from c3d_pipelines.cli import main
from c3d_pipelines.dataset import reader
from c3d_pipelines.dataset.export import SKIPPED, WRITTEN, export_dataset
from c3d_pipelines.run.publish import publish
from support.errors import error_of
from support.sample_dataset import BAD, OK, ROWS, TWIN, two_runs
from support.sample_features import same_features
from support.sample_shards import START, commit, settings, to_do, video
from support.shard_runs import run_python

SUMMARY = "have no features (1 corrupt, 1 unreadable)"


@pytest.fixture
def run(capsys):
    """Run the command; returns the exit code, the lines of standard output and of error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["export", *(str(argument) for argument in arguments)])
        output = capsys.readouterr()
        return ended.value.code, output.out.splitlines(), output.err.splitlines()

    return call


@pytest.fixture
def published(tmp_path):
    two_runs(tmp_path / "dataset")
    return tmp_path / "dataset"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_videos_are_counted_and_those_without_features_are_listed(run, published, tmp_path):
    out = tmp_path / "out"
    code, printed, errors = run(published, "--to", "npy", "--out", out)
    assert code == 0
    assert sorted(printed) == [f"{name} -> {out / name}.npy" for name in OK]
    bad = {line.split(": ")[1]: line.split(": ")[2] for line in errors[:-1]}
    assert bad == BAD
    assert errors[-1] == f"c3d-pipelines: {len(OK)} videos written; 2 {SUMMARY}"
    assert names_in(out) == sorted(f"{name}.npy{end}" for name in OK for end in ("", ".json"))


def test_only_the_named_videos_are_written(run, published, tmp_path, monkeypatch):
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"3.mp4\r\n\n1.mp4\n3.mp4\n")
    out = tmp_path / "out"
    for given, expected in (
        (("--list", listed), ["1.mp4", "3.mp4"]),
        (("5.mp4", "twin.mp4"), ["5.mp4", "twin.mp4"]),
        (("0.mp4", "--list", listed), ["0.mp4", "1.mp4", "3.mp4"]),
    ):
        folder = out / "-".join(expected)
        code, printed, errors = run(published, *given, "--out", folder)
        assert (code, errors) == (0, [f"c3d-pipelines: {len(expected)} videos written"])
        assert names_in(folder) == [f"{name}.npz" for name in expected]
        assert len(printed) == len(expected)
    # A video that was named and has no features is a failure.
    code, _, errors = run(published, "2.mp4", "1.mp4", "--out", out / "bad")
    assert code == 1
    assert errors[0].startswith("c3d-pipelines: 2.mp4: corrupt: ")
    assert errors[1] == "c3d-pipelines: 1 videos written; 1 have no features (1 corrupt)"
    assert run(published, "2.mp4", "--out", out / "none")[0] == 2
    assert not (out / "none").exists()


def test_export_goes_on_where_it_was_interrupted(published, tmp_path):
    opened, out = dataset.open(published), tmp_path / "out"
    begun = export_dataset(opened, out, to="npz")
    written = [each for each in itertools.islice(begun, 4) if each.outcome == WRITTEN]
    begun.close()
    assert len(names_in(out)) == len(written) == 2
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    outcomes = {each.video_id: each.outcome for each in export_dataset(opened, out, to="npz")}
    assert outcomes.keys() == {*OK, *BAD}
    assert {name for name, outcome in outcomes.items() if outcome == SKIPPED} == {
        each.video_id for each in written
    }
    assert len(names_in(out)) == len(OK)
    for path, time in times.items():
        assert path.stat().st_mtime_ns == time
    assert [each.outcome for each in export_dataset(opened, out, to="npz", ids=OK)] == (
        [SKIPPED] * len(OK)
    )


@pytest.mark.long
def test_export_that_was_killed_is_continued_by_the_same_command(run, tmp_path):
    rows = [video(f"{number:02}.mp4") for number in range(60)]
    job, out = settings(tmp_path / "dataset"), tmp_path / "out"
    commit(job, rows)
    publish(job, to_do(*rows))
    arguments = ("export", tmp_path / "dataset", "--to", "npy", "--out", out)
    code = "import sys; from c3d_pipelines.cli import main; main(sys.argv[1:])"
    with run_python(code, *arguments) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        process.kill()
    assert lines[-1].startswith("04.mp4 -> ")
    code, printed, errors = run(*arguments[1:])
    assert code == 0
    assert len(printed) <= 55
    assert f"{60 - len(printed)} skipped, written before" in errors[-1]
    opened = dataset.open(tmp_path / "dataset")
    for row in rows:
        stored = opened.features(row.video_id)
        assert same_features(read_features(out / f"{row.video_id}.npy"), stored)


def test_every_format_is_continued(run, published, tmp_path):
    for name, entry in FORMATS.items():
        out = tmp_path / name / "all.hdf5" if entry.many_videos else tmp_path / name
        assert run(published, "--to", name, "--out", out)[0] == 0, name
        code, printed, errors = run(published, "--to", name, "--out", out)
        assert code == 0, name
        # A file of many videos is written as a whole.
        assert len(printed) == (len(OK) if entry.many_videos else 0), name
        assert (f"{len(OK)} skipped, written before" in errors[-1]) != entry.many_videos, name


def test_names_follow_a_pattern(run, published, tmp_path):
    out, given = tmp_path / "out", ("--to", "npy", "--name", "v_{stem}.npy")
    for skipped in (False, True):
        code, printed, errors = run(published, *given, "--out", out)
        assert (code, len(printed)) == (0, 0 if skipped else len(OK))
        assert ("skipped, written before" in errors[-1]) == skipped
        stems = [name.removesuffix(".mp4") for name in OK]
        assert [path.name for path in sorted(out.glob("*.npy"))] == [f"v_{s}.npy" for s in stems]
    assert run(published, "--name", "{stem}.h5", "--out", tmp_path / "h5")[0] == 0
    assert names_in(tmp_path / "h5") == [f"{stem}.h5" for stem in stems]
    for pattern in ("all.npy", "{stem}.h5", "{wrong}.npy"):
        code, _, errors = run(published, "--to", "npy", "--name", pattern, "--out", tmp_path / "no")
        assert (code, len(errors)) == (2, 1), pattern
        assert not (tmp_path / "no").exists(), pattern


def test_changed_video_is_written_again(run, published, tmp_path):
    out = tmp_path / "out"
    assert run(published, "--out", out)[0] == 0
    before = read_features(out / "3.mp4.npz")
    changed, job = video("3.mp4", "sha256:other"), settings(published, "run-3")
    commit(job, [changed], done_at=START + 99)
    publish(job, to_do(changed))
    code, printed, errors = run(published, "--out", out)
    assert (code, printed) == (0, [f"3.mp4 -> {out / '3.mp4.npz'}"])
    assert f"{len(OK) - 1} skipped" in errors[-1]
    after = read_features(out / "3.mp4.npz")
    assert after.provenance["video"]["key"] == "sha256:other"
    assert not np.array_equal(after.clip_features, before.clip_features)


def test_files_that_are_in_the_way_are_reported_and_not_replaced(run, published, tmp_path):
    out = tmp_path / "out"
    assert run(published, "--to", "sultani", "--stride", "16", "--out", out)[0] == 0
    code, printed, errors = run(published, "1.mp4", "--to", "sultani", "--out", out)
    assert (code, printed) == (2, [])
    assert "was made with stride 16, not 8; use another folder or --overwrite" in errors[0]
    (out / "1.mp4.npz").write_bytes(b"another program's")
    code, _, errors = run(published, "1.mp4", "3.mp4", "--out", out)
    assert code == 1
    assert "1.mp4.npz: is in the way" in errors[0]
    assert (out / "1.mp4.npz").read_bytes() == b"another program's"
    (out / "3.mp4.npz").replace(out / "1.mp4.npz")
    code, _, errors = run(published, "1.mp4", "--out", out)
    assert code == 2
    assert "1.mp4.npz: is of /videos/3.mp4; use another folder or --overwrite" in errors[0]
    code, printed, _ = run(published, "1.mp4", "--out", out, "--overwrite")
    assert (code, len(printed)) == (0, 1)
    assert read_provenance(out / "1.mp4.npz")["video"]["source"] == "/videos/1.mp4"


def test_hdf5_and_activitynet_are_the_files_that_their_readers_expect(run, published, tmp_path):
    assert run(published, "1.mp4", "--to", "hdf5", "--out", tmp_path / "out")[0] == 0
    opened = dataset.open(published)
    assert same_features(read_features(tmp_path / "out" / "1.mp4.h5"), opened.features("1.mp4"))
    one = tmp_path / "all.hdf5"
    assert run(published, "1.mp4", "7.mp4", "--to", "activitynet", "--out", one)[0] == 0
    with h5py.File(one) as file:
        assert sorted(file) == ["1", "7"]
        assert np.array_equal(file["7"]["c3d_features"][:], opened.clips("7.mp4").clip_features)


def test_export_reduces_features(run, published, tmp_path):
    opened = dataset.open(published)
    originals = [opened.features(name) for name in OK]
    fitted = fit_pca(originals, dim=4)
    fitted.save(tmp_path / "pca.npz")
    given = ("--pca", tmp_path / "pca.npz", "--out")
    assert run(published, *given, tmp_path / "out")[0] == 0
    for features, name in zip(originals, OK, strict=True):
        read = read_features(tmp_path / "out" / f"{name}.npz")
        assert same_features(read, PCA.load(tmp_path / "pca.npz").apply(features))
    assert f"{len(OK)} skipped" in run(published, *given, tmp_path / "out")[2][-1]
    code, _, errors = run(published, "--to", "caffe", *given, tmp_path / "caffe")
    assert code == 2
    assert "leave out the PCA" in errors[0]
    code, _, errors = run(published, "1.mp4", "--out", tmp_path / "out")
    assert code == 2
    assert f"was made with pca {fitted.sha256[:12]}, not none" in errors[0]


def test_wrong_arguments_are_one_line_and_write_nothing(run, published, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.mp4\n")
    out = tmp_path / "out"
    for given, expected in (
        (("9.mp4", "1.mp4"), "has no video '9.mp4'; index.parquet lists all videos"),
        (tuple("vwxyz"), "has no video 'v', 'w', 'x' and 2 more"),
        (("--list", tmp_path / "empty.txt"), "empty.txt: names no video"),
        (("--list", tmp_path / "latin.txt"), "latin.txt: cannot be read"),
        (("--list", tmp_path / "absent.txt"), "absent.txt"),
        (("--to", "mat"), "there is no format 'mat'"),
        (("--stride", "16"), "for sultani alone"),
        (("--pca", tmp_path / "absent.npz"), "absent.npz: no such file"),
        (("--name", "all.npz"), "all.npz; use a name with more fields"),
        (("--out", tmp_path / "latin.txt"), "latin.txt: is a file; give a folder to write to"),
        (("--to", "activitynet", "--out", tmp_path), "activitynet is one file of all videos"),
    ):
        code, printed, errors = run(published, "--out", out, *given)
        assert (code, printed, len(errors)) == (2, [], 1), given
        assert expected in errors[0], given
    assert not out.exists()


def test_ids_that_would_have_the_same_file_are_refused(tmp_path):
    rows = [video("/a/b.mp4"), video("a/b.mp4")]
    job = settings(tmp_path / "dataset")
    commit(job, rows)
    publish(job, to_do(*rows))
    error = error_of(
        UsageError, export_dataset, dataset.open(tmp_path / "dataset"), tmp_path / "out", to="npz"
    )
    assert "/a/b.mp4 and a/b.mp4 would be written to the same file" in str(error)


class TestEachFeatures:
    """The features of many videos, with each shard read once."""

    def test_features_are_those_of_single_videos(self, opened):
        found = dict(opened.each_features())
        assert sorted(found) == OK
        assert list(found) == opened.ids_by_shard()
        for name, features in found.items():
            clips, row = opened.clips(name), opened.row(name)
            assert np.array_equal(features.clip_features, clips.clip_features), name
            assert np.array_equal(features.clip_starts, clips.clip_starts), name
            assert np.array_equal(features.clip_times_s, clips.clip_times_s), name
            assert np.array_equal(features.video_feature, row.feature), name
            assert features.provenance["video"]["source"] == row.uri, name
            assert features.provenance["video"]["key"] == row.key, name
            assert same_features(features, opened.features(name)), name
        assert TWIN.video_id in found

    def test_row_groups_are_read_once(self, tmp_path, monkeypatch):
        job = settings(tmp_path / "dataset")
        commit(job, ROWS, clips=5)  # in row groups of 3
        publish(job, to_do(*ROWS))
        opened = dataset.open(tmp_path / "dataset")
        calls = []

        def counted(storage, name, rows, **more):
            calls.append(name)
            return numbers_of(storage, name, rows, **more)

        numbers_of = reader.numbers_of
        monkeypatch.setattr(reader, "numbers_of", counted)
        found = dict(opened.each_features())
        assert len(found) == len(ROWS)
        assert len(calls) == len(set(calls)) == 2
        assert all(len(features.clip_features) == 5 for features in found.values())

    def test_classes_and_videos_without_clips_are_refused(self, tmp_path, classes_dataset):
        with pytest.raises(UsageError, match="holds classes"):
            next(dataset.open(classes_dataset).each_features())
        two_runs(tmp_path / "videos", clip_rows=False)
        with pytest.raises(UsageError, match="its clips are not stored"):
            next(dataset.open(tmp_path / "videos").each_features())
