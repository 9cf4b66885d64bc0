"""What release 0.1.0 left on people's disks is read and gone on with, and nothing is done twice.

The files are those that the release's own code wrote: see fixtures/release-0.1.0/README.md.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import c3d_pipelines
import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client import mean_feature, provenance_digest, read_features, require_same
from c3d_pipelines import JobSettings, RunSummary
from support.fake_serving import FakeServing

FOLDER = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
LISTING = json.loads((FOLDER / "listing.json").read_text(encoding="utf-8"))
# Where the release's commands ran: its data sets hold their videos' absolute paths.
ROOT = Path(LISTING["root"])
LABELS = ("abseiling", "bowling", "curling", "diving", "épée")
EXTRA = "of_a_later_release"
MAIN = {
    "c3d": "from c3d_client.cli import main; main()",
    "c3d-export": "from c3d_export.cli import main; main()",
    "c3d-pipelines": "from c3d_pipelines.cli import main; main()",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """All files of the release, unpacked and checked. Not to be written to."""
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(LISTING["files"])
    for name, known in LISTING["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == known["sha256"], name
    yield folder
    shutil.rmtree(folder)  # 77 MB, and pytest keeps the folders of three sessions


@pytest.fixture(scope="module")
def call(tmp_path_factory, released):
    """Runs a command, in an environment where the decoder has the version that the files name.

    Versions of OpenCV, PyAV and libavcodec are part of what makes features comparable. With the
    tested versions they are those of the files. With others, which would rightly be refused, the
    commands are made to report the files' versions: these tests are about files.
    """
    sidecar = released / "formats" / "features" / "film.mp4.npy.json"
    then = json.loads(sidecar.read_text())["provenance"]["software"]
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if (then["opencv"], then["pyav"], then["libavcodec"]) != (
        cv2.__version__,
        av.__version__,
        libavcodec,
    ):
        folder = tmp_path_factory.mktemp("versions")
        parts = tuple(map(int, then["libavcodec"].split(".")))
        (folder / "sitecustomize.py").write_text(
            "import av, cv2\n"
            f"cv2.__version__, av.__version__ = {then['opencv']!r}, {then['pyav']!r}\n"
            f"av.library_versions = {{**av.library_versions, 'libavcodec': {parts!r}}}\n"
        )
        paths = (str(folder), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def called(name, *arguments):
        return subprocess.run(
            [sys.executable, "-c", MAIN[name], *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )

    return called


@pytest.fixture(scope="module")
def server(released):
    """The release's servable, served by this code; gives the address."""
    command = [sys.executable, "-c", MAIN["c3d-export"], "serve", released / "model" / "c3d"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("ready: c3d version 1 at ")
            yield ready.split(" at ")[1].split(",")[0]
        finally:
            process.terminate()


@contextlib.contextmanager
def release_in_place(released):
    """The release's files, with their times, where the release wrote them; for one at a time."""
    lock = ROOT.parent.with_name(ROOT.parent.name + ".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shutil.rmtree(ROOT, ignore_errors=True)
        try:
            for name, known in LISTING["files"].items():
                if not name.startswith("model/"):
                    target = ROOT / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(released / name, target)
                    os.utime(target, ns=(known["mtime_ns"], known["mtime_ns"]))
            yield ROOT
        finally:
            shutil.rmtree(ROOT, ignore_errors=True)


@pytest.fixture
def place(released):
    """The release's files where it wrote them, for one test to change."""
    with release_in_place(released) as root:
        yield root


def state(folder, *patterns):
    """The bytes and times of files, by name."""
    paths = [path for one in patterns for path in folder.glob(one) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def as_released(name):
    """The state of a file of the release, its bytes by their digest."""
    known = LISTING["files"][name]
    return known["sha256"], known["mtime_ns"]


def numbers(folder):
    """The state of all files of a data set that hold what was computed."""
    return state(folder, "shards/*", "clips/*")


def rows(folder, *, own=("run",)):
    """The published rows by id. A duplicate's is written by each run, so its run's name differs."""
    table = c3d_pipelines.dataset.open(folder).table().to_pylist()
    for row in table:
        if row["duplicate_of"]:
            row.update(dict.fromkeys(own))
    return {row["video_id"]: row for row in table}


def features_of(folder):
    """The numbers of all videos that are ok, by id."""
    ids, matrix = c3d_pipelines.dataset.open(folder).matrix()
    return dict(zip(ids, matrix, strict=True))


def edit_json(path, change):
    """Rewrite a JSON file with what a later release might add."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def with_column(path):
    """Rewrite a Parquet file with one column more, all else as it was."""
    with pq.ParquetFile(path) as file:
        table, said = file.read(), file.metadata.metadata
    extra = pa.array([f"row {n}" for n in range(len(table))])
    table = table.append_column(EXTRA, extra)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        # What the file says of itself beside its schema.
        known = {b"ARROW:schema", *(table.schema.metadata or {})}
        writer.add_key_value_metadata({key: said[key] for key in said if key not in known})


def test_the_files_are_put_where_they_were_as_they_were(place):
    for name in LISTING["files"]:
        if not name.startswith("model/"):
            content = (place / name).read_bytes()
            found = hashlib.sha256(content).hexdigest(), (place / name).stat().st_mtime_ns
            assert found == as_released(name), name


def test_the_servable_is_verified_known_again_and_served(released, server, call):
    version = released / "model" / "c3d" / "1"
    verified = call("c3d-export", "verify", version)
    assert verified.returncode == 0, verified.stderr
    assert "fc6_features" in verified.stdout
    published = call("c3d-export", "publish", version, "--to", version.parent)
    assert published.returncode == 0, published.stderr
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    status = call("c3d", "status", "--server", server)
    assert status.returncode == 0, status.stderr
    for told in ("weights.npz from random:7, rounded", "100.6,108.1,107.8", "float32"):
        assert told in status.stdout, told


def test_a_folder_of_features_half_done_is_ended_and_nothing_of_it_done_again(place, server, call):
    videos, out = place / "extract" / "videos", place / "extract" / "features"
    before = state(out, "**/*.npz")
    assert sorted(before) == ["a.mp4.npz", "sub/b.mkv.npz"]
    failed_before = (out / "failures.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed_before[1:]] == [
        "broken.mp4",
        "late.mp4",
        "short.mp4",
    ]

    done = call("c3d", "extract", videos, "--out", out, "--server", server)
    assert done.returncode == 1, done.stderr
    # What was damaged is not tried again; what was not there then is.
    assert done.stderr.count("failed before") == 2
    failed = (out / "failures.csv").read_text().splitlines()
    assert failed == [line for line in failed_before if not line.startswith("late.mp4,")]
    after = state(out, "**/*.npz")
    assert before.items() <= after.items()
    assert sorted(set(after) - set(before)) == ["late.mp4.npz", "left.mp4.npz", "sub/left.avi.npz"]
    found = {name: read_features(out / name).provenance for name in after}
    # The digest that the release gave to what was made in this way.
    card = json.loads((place / "bulk" / "features" / "dataset.json").read_text())
    digests = {name: provenance_digest(one) for name, one in found.items()}
    assert digests == dict.fromkeys(found, card["provenance_digest"])
    require_same(found.values())

    again = call("c3d", "extract", videos, "--out", out, "--server", server)
    assert again.returncode == 1, again.stderr
    assert state(out, "**/*.npz") == after
    tried = call("c3d", "extract", videos, "--out", out, "--server", server, "--retry-failed")
    assert "failed before" not in tried.stderr
    assert state(out, "**/*.npz") == after


def test_every_format_is_read_converted_and_mixed_with_new_features(place, server, call, tmp_path):
    old = place / "formats" / "features"
    known = read_features(old / "film.mp4.npz")
    assert known.clip_features.shape == (3, 4096)
    assert known.clip_features.any(axis=1).all()
    video = place / "formats" / "film.mp4"
    made = call("c3d", "extract", video, "--out", tmp_path / "new", "--server", server)
    assert made.returncode == 0, made.stderr
    new = read_features(tmp_path / "new" / "film.mp4.npz")
    np.testing.assert_allclose(new.video_feature @ known.video_feature, 1, atol=1e-4)

    lossless = ("film.mp4.npz", "film.mp4.npy", "film.mp4.h5", "film.mp4.parquet")
    for name in (*lossless, "film.mp4.fc6", "films.hdf5", "film.mp4_C.txt"):
        features = read_features(old / name)
        require_same([features.provenance, new.provenance])
        pairs = [(one.video_feature, one.provenance) for one in (features, new)]
        assert mean_feature(pairs) @ new.video_feature > 0.99, name
        if name in lossless:
            for part in ("clip_features", "video_feature", "clip_starts", "clip_times_s"):
                found, expected = getattr(features, part), getattr(known, part)
                np.testing.assert_array_equal(found, expected, err_msg=f"{name}: {part}")
            assert features.provenance["video"]["source"] == str(video), name
        elif name != "film.mp4_C.txt":  # its lines are means of clips
            np.testing.assert_array_equal(features.clip_features, known.clip_features, name)

        to = "sultani" if name == "film.mp4_C.txt" else "npz"
        target = tmp_path / "converted" / name
        converted = call("c3d", "convert", old / name, "--to", to, "--out", target)
        assert converted.returncode == 0, f"{name}: {converted.stderr}"
        (path,) = target.glob("*.npz" if to == "npz" else "*_C.txt")
        written = read_features(path)
        if to == "npz":
            np.testing.assert_array_equal(written.clip_features, features.clip_features, name)
        assert written.clip_features.shape == features.clip_features.shape, name
        require_same([written.provenance, new.provenance])


def test_data_sets_and_what_their_runs_left_are_read(place, call):
    statuses = {
        "deep/two.mkv": "ok",
        "four.mp4": "ok",
        "none.mp4": "corrupt",
        "one.mp4": "ok",
        "short.mp4": "too_short",
        "the same.mp4": "ok",
        "three.avi": "ok",
    }
    for name, size in (("features", 4096), ("classes", len(LABELS))):
        folder = place / "bulk" / name
        videos = c3d_pipelines.dataset.open(folder)
        assert {row.video_id: row.status for row in videos} == statuses, name
        ids, matrix = videos.matrix()
        assert ids == [one for one, status in statuses.items() if status == "ok"], name
        assert matrix.shape == (5, size), name
        assert (matrix > 0).any(axis=1).all(), name
        assert videos.labels == (LABELS if name == "classes" else ()), name
        assert videos.clips("deep/two.mkv").clip_times_s.shape == (4, 2), name
        runs = sorted(folder.glob("runs/*"))
        assert len(runs) == (2 if name == "features" else 1), name
        for run in runs:
            summary = RunSummary.from_json((run / "summary.json").read_bytes())
            assert (summary.run, summary.answer) == (run.name, name)
            settings = JobSettings.from_json((run / "settings.json").read_bytes())
            assert (settings.run, settings.out) == (run.name, str(folder))
            arguments = ("--plan", run / "plan.parquet", "--clips-per-s", "9")
            estimated = call("c3d-pipelines", "estimate", *arguments, "--frames-per-core-s", "9")
            assert estimated.returncode == 0, estimated.stderr
    features = c3d_pipelines.dataset.open(place / "bulk" / "features")
    assert [near.video_id for near in features.nearest("one.mp4", k=1)] == ["the same.mp4"]
    assert rows(place / "bulk" / "features")["the same.mp4"]["duplicate_of"] == "one.mp4"


def test_a_run_over_the_same_inputs_does_nothing_and_publishes_the_same(place, server, call):
    videos, out = place / "bulk" / "videos", place / "bulk" / "features"
    files, published, vectors = numbers(out), rows(out), features_of(out)
    options = ("--videos", videos, "--out", out, "--keys", "content", "--shard-mb", "0.012")
    again = call("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert not any(summary["counts"]["do"].values())
    assert summary["processed"] == summary["clips"] == 0
    assert summary["shards"] == []
    assert numbers(out) == files
    assert rows(out) == published
    found = features_of(out)
    assert set(found) == set(vectors)
    for video_id, vector in vectors.items():
        np.testing.assert_array_equal(found[video_id], vector, video_id)
    assert len(list(out.glob("runs/*/summary.json"))) == 3


def test_one_new_video_is_all_that_the_next_run_does(place, server, call):
    videos, out = place / "bulk" / "videos", place / "bulk" / "classes"
    files, published = numbers(out), rows(out)
    shutil.copy(place / "stopped" / "videos" / "1.mp4", videos / "new.mp4")
    options = ("--videos", videos, "--out", out, "--classify")
    done = call("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sum(summary["counts"]["do"].values()) == summary["counts"]["do"]["ok"] == 1
    assert summary["processed"] == 1
    assert files.items() <= numbers(out).items()
    found = rows(out)
    assert found.pop("new.mp4")["status"] == "ok"
    assert found == published
    assert c3d_pipelines.dataset.open(out).labels == LABELS


def test_a_run_that_was_killed_is_gone_on_with_and_keeps_the_shards_that_were_done(
    place, server, call
):
    videos, out = place / "stopped" / "videos", place / "stopped" / "features"
    files = numbers(out)
    committed = list(out.glob("shards/*.json"))
    already = sum(json.loads(path.read_text())["videos"] for path in committed)
    names = sorted(path.name for path in videos.iterdir())
    assert 0 < already < len(names)
    assert not (out / "dataset.json").exists()

    options = ("--shard-mb", "0.001", "--workers", "1", "--max-failed", "-1")
    arguments = ("--videos", videos, "--out", out, "--server", server, *options)
    done = call("c3d-pipelines", "run", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["processed"] == len(names) - already
    assert summary["counts"]["done"]["ok"] == already
    assert files.items() <= numbers(out).items()
    # A shard that is done takes the place that the release would have given it.
    assert sorted(path.stem for path in out.glob("shards/*.json")) == LISTING["stopped_shards"]
    found = rows(out)
    assert sorted(found) == names
    assert {name: row["status"] for name, row in found.items() if row["status"] != "ok"} == {
        "none.mp4": "corrupt"
    }
    _, matrix = c3d_pipelines.dataset.open(out).matrix()
    assert matrix.shape == (5, 4096)


def test_what_a_later_release_may_add_to_features_is_passed_over_and_kept(
    place, server, call, tmp_path
):
    old = place / "formats" / "features"
    known = read_features(old / "film.mp4.npz")

    def add(values):
        values["provenance"][EXTRA] = {"note": 1}
        values["provenance"]["model"][EXTRA] = values["provenance"]["clips"].get("stride")
        values[EXTRA] = [2]

    edit_json(old / "film.mp4.npy.json", add)
    for name in ("npz", "h5", "parquet", "npy"):
        converted = call("c3d", "convert", old / "film.mp4.npy", "--to", name, "--out", tmp_path)
        assert converted.returncode == 0, f"{name}: {converted.stderr}"
        features = read_features(tmp_path / f"film.mp4.{name}")
        assert features.provenance[EXTRA] == {"note": 1}, name
        assert features.provenance["model"][EXTRA] == 8, name
        require_same([features.provenance, known.provenance])
        # A run takes it for what it is: done, and not to be done again.
        before = state(tmp_path, f"film.mp4.{name}")
        arguments = ("--format", name, "--out", tmp_path, "--server", server)
        again = call("c3d", "extract", place / "formats" / "film.mp4", *arguments)
        assert again.returncode == 0, f"{name}: {again.stderr}"
        assert state(tmp_path, f"film.mp4.{name}") == before, name


def test_more_arrays_and_columns_in_files_of_features_are_passed_over(place):
    old = place / "formats" / "features"
    known = read_features(old / "film.mp4.npz")
    with np.load(old / "film.mp4.npz") as archive:
        arrays = dict(archive)
    np.savez(old / "film.mp4.npz", **arrays, **{EXTRA: np.arange(3)})
    with h5py.File(old / "film.mp4.h5", "a") as file:
        file[EXTRA] = np.arange(3)
        file.attrs[EXTRA] = "more"
    with h5py.File(old / "films.hdf5", "a") as file:
        for group in file.values():
            group[EXTRA] = np.arange(3)
            group.attrs[EXTRA] = "more"
    for name in ("film.mp4.npz", "film.mp4.h5", "films.hdf5"):
        features = read_features(old / name)
        np.testing.assert_array_equal(features.clip_features, known.clip_features, name)
        require_same([features.provenance, known.provenance])


def test_one_more_column_in_a_parquet_file_of_features_is_passed_over(place):
    old = place / "formats" / "features"
    with_column(old / "film.mp4.parquet")
    known = read_features(old / "film.mp4.npz")
    found = read_features(old / "film.mp4.parquet")
    np.testing.assert_array_equal(found.clip_features, known.clip_features)


def more_in_failures(folder):
    """failures.csv with a column more, which a reader of the old ones does not know."""
    path = folder / "failures.csv"
    with path.open(newline="") as file:
        content = list(csv.DictReader(file))
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, [*content[0], EXTRA])
    writer.writeheader()
    writer.writerows({**row, EXTRA: f"of {row['video']}"} for row in content)
    path.write_text(made.getvalue(), newline="")


def test_one_more_column_in_failures_csv_is_passed_over(place, server, call):
    videos, out = place / "extract" / "videos", place / "extract" / "features"
    more_in_failures(out)
    done = call("c3d", "extract", videos, "--out", out, "--server", server)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("failed before") == 2
    assert len(list(out.rglob("*.npz"))) == 5


def test_one_more_column_in_failures_csv_is_kept(place, server, call):
    videos, out = place / "extract" / "videos", place / "extract" / "features"
    more_in_failures(out)
    call("c3d", "extract", videos, "--out", out, "--server", server)
    with (out / "failures.csv").open(newline="") as file:
        found = {row["video"]: row.get(EXTRA) for row in csv.DictReader(file)}
    assert found == {"broken.mp4": "of broken.mp4", "short.mp4": "of short.mp4"}


def test_one_more_field_in_a_shards_report_does_not_make_the_shard_undone(place, call):
    for name, keys in (("features", "content"), ("classes", "quick")):
        out = place / "bulk" / name
        for path in out.glob("shards/*.json"):
            edit_json(path, lambda values: values.update({EXTRA: {"a": 1}}))
        kind = ("--classify",) if name == "classes" else ()
        arguments = ("--videos", place / "bulk" / "videos", "--out", out, "--keys", keys)
        planned = call("c3d-pipelines", "plan", *arguments, *kind)
        assert planned.returncode == 0, planned.stderr
        assert "to do           0 videos" in planned.stdout, name


def test_one_more_field_in_a_data_sets_card_is_passed_over(place):
    for name in ("features", "classes"):
        out = place / "bulk" / name
        known = rows(out)
        edit_json(out / "dataset.json", lambda values: values.update({EXTRA: {"a": 1}}))
        assert rows(out) == known, name


def test_one_more_column_in_a_data_sets_index_is_passed_over(place):
    for name in ("features", "classes"):
        out = place / "bulk" / name
        known = set(features_of(out))
        with_column(out / "index.parquet")
        videos = c3d_pipelines.dataset.open(out)
        assert set(features_of(out)) == known, name
        assert sum(1 for _ in videos) == 7, name


def test_what_a_later_release_added_to_card_and_index_is_kept_by_the_next_run(place, server, call):
    videos, out = place / "bulk" / "videos", place / "bulk" / "features"
    edit_json(out / "dataset.json", lambda values: values.update({EXTRA: {"a": 1}}))
    with_column(out / "index.parquet")
    column = pq.read_table(out / "index.parquet", columns=["video_id", EXTRA]).to_pylist()
    options = ("--videos", videos, "--out", out, "--keys", "content", "--shard-mb", "0.012")
    done = call("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert done.returncode == 0, done.stderr
    assert not any(json.loads(done.stdout)["counts"]["do"].values())
    assert json.loads((out / "dataset.json").read_text())[EXTRA] == {"a": 1}
    # A duplicate's row is made anew from its original's.
    own = {row["video_id"] for row in rows(out).values() if not row["duplicate_of"]}
    table = pq.read_table(out / "index.parquet", columns=["video_id", EXTRA]).to_pylist()
    assert [row for row in table if row["video_id"] in own] == [
        row for row in column if row["video_id"] in own
    ]


def test_more_fields_in_a_runs_summary_are_passed_over(place):
    for path in sorted(place.glob("bulk/*/runs/*/summary.json")):
        known = RunSummary.from_json(path.read_bytes())

        def add(values):
            values[EXTRA] = 1
            for part in ("durations", "clip_counts", *range(len(values["shards"]))):
                inner = values["shards"][part] if isinstance(part, int) else values[part]
                inner[EXTRA] = 2
            for failure in values["failures"]:
                failure[EXTRA] = "more"

        edit_json(path, add)
        found = RunSummary.from_json(path.read_bytes())
        assert (found.verdict, found.failures) == (known.verdict, known.failures), path
        assert (found.shards, found.durations) == (known.shards, known.durations), path


def test_more_fields_in_a_runs_settings_are_passed_over(place):
    for path in sorted(place.glob("bulk/*/runs/*/settings.json")):
        known = JobSettings.from_json(path.read_bytes())

        def add(values):
            values[EXTRA] = 1
            values["window"][EXTRA] = 2

        edit_json(path, add)
        found = JobSettings.from_json(path.read_bytes())
        assert (found.out, found.run, found.window) == (known.out, known.run, known.window), path


def test_one_more_column_in_the_files_of_a_shard_is_passed_over(place, call):
    out = place / "bulk" / "features"
    known = features_of(out)
    for path in out.glob("shards/*.json"):
        videos, clips = (out / part / f"{path.stem}.parquet" for part in ("shards", "clips"))
        with_column(videos)
        with_column(clips)
        sizes = {"video_bytes": videos.stat().st_size, "clip_bytes": clips.stat().st_size}
        edit_json(path, lambda values, sizes=sizes: values.update(sizes))
    found = features_of(out)
    for video_id, vector in known.items():
        np.testing.assert_array_equal(found[video_id], vector, video_id)
    assert len(c3d_pipelines.dataset.open(out).clips("deep/two.mkv").clip_features) == 4
    arguments = ("--videos", place / "bulk" / "videos", "--out", out, "--keys", "content")
    planned = call("c3d-pipelines", "plan", *arguments)
    assert "to do           0 videos" in planned.stdout, planned.stderr


def test_one_more_column_in_a_runs_plan_is_passed_over(place, call):
    for path in place.glob("bulk/*/runs/*/plan.parquet"):
        with_column(path)
        speeds = ("--clips-per-s", "9", "--frames-per-core-s", "9")
        estimated = call("c3d-pipelines", "estimate", "--plan", path, *speeds)
        assert estimated.returncode == 0, estimated.stderr


def card_in(graph):
    """Each place in a SavedModel's graph that holds the model card."""
    for meta in graph.meta_graphs:
        nodes = [
            *meta.graph_def.node,
            *(n for f in meta.graph_def.library.function for n in f.node_def),
        ]
        for node in nodes:
            tensor = node.attr["value"].tensor if "value" in node.attr else None
            if tensor is not None and any(b"contract_version" in one for one in tensor.string_val):
                yield tensor


def test_more_fields_in_a_model_card_are_passed_over(released, place, call, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    version = tmp_path / "c3d" / "1"
    shutil.copytree(released / "model" / "c3d" / "1", version, copy_function=os.link)
    graph = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    cards = list(card_in(graph))
    assert cards
    for tensor in cards:
        card = json.loads(tensor.string_val[0])
        for part in (card, card["weights"], card["mean"], card["preprocessing"], card["software"]):
            part[EXTRA] = {"a": 1}
        tensor.string_val[0] = json.dumps(card, sort_keys=True).encode()
    (version / "saved_model.pb").unlink()  # which is a link
    (version / "saved_model.pb").write_bytes(graph.SerializeToString())
    verified = call("c3d-export", "verify", version)
    shutil.rmtree(version)
    assert verified.returncode == 0, verified.stderr

    # What was made with the model as it was is done, and not to be done again.
    server = FakeServing(card=json.dumps(card).encode())
    try:
        status = call("c3d", "status", "--server", server.target)
        assert status.returncode == 0, status.stderr
        assert "weights.npz from random:7, rounded" in status.stdout
        out = place / "extract" / "features"
        arguments = ("--root", place / "extract" / "videos", "--out", out)
        before = state(out, "**/*.npz")
        video = place / "extract" / "videos" / "a.mp4"
        again = call("c3d", "extract", video, *arguments, "--server", server.target)
        assert again.returncode == 0, again.stderr
        assert state(out, "**/*.npz") == before
    finally:
        server.stop()
