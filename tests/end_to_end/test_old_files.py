"""Files of release 0.1.0: they are read, its runs are continued, and nothing is done twice.

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
# The folder where the release's commands ran: its data sets hold absolute paths of videos.
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
    """All files of the release, unpacked and checked. Do not write to them."""
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == set(LISTING["files"])
    for name, entry in LISTING["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
    yield folder
    shutil.rmtree(folder)  # 77 MB, and pytest keeps the folders of three sessions


@pytest.fixture(scope="module")
def run_command(tmp_path_factory, released):
    """Run a command in a process that reports the files' versions of OpenCV, PyAV and libavcodec.

    Features of other versions are not comparable, so the commands would refuse the files. The
    versions are replaced only where the installed ones differ.
    """
    sidecar = released / "formats" / "features" / "film.mp4.npy.json"
    recorded = json.loads(sidecar.read_text())["provenance"]["software"]
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if (recorded["opencv"], recorded["pyav"], recorded["libavcodec"]) != (
        cv2.__version__,
        av.__version__,
        libavcodec,
    ):
        folder = tmp_path_factory.mktemp("versions")
        parts = tuple(map(int, recorded["libavcodec"].split(".")))
        (folder / "sitecustomize.py").write_text(
            "import av, cv2\n"
            f"cv2.__version__, av.__version__ = {recorded['opencv']!r}, {recorded['pyav']!r}\n"
            f"av.library_versions = {{**av.library_versions, 'libavcodec': {parts!r}}}\n"
        )
        paths = (str(folder), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, "-c", MAIN[name], *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )

    return run


@pytest.fixture(scope="module")
def server(released):
    """The address of this release's local server with release 0.1.0's servable."""
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
def copied_to_root(released):
    """Copy the release's files, with their times, to the paths where the release wrote them.

    A lock admits one test at a time.
    """
    lock = ROOT.parent.with_name(ROOT.parent.name + ".lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shutil.rmtree(ROOT, ignore_errors=True)
        try:
            for name, entry in LISTING["files"].items():
                if not name.startswith("model/"):
                    target = ROOT / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(released / name, target)
                    os.utime(target, ns=(entry["mtime_ns"], entry["mtime_ns"]))
            yield ROOT
        finally:
            shutil.rmtree(ROOT, ignore_errors=True)


@pytest.fixture
def root(released):
    """The folder of the release's files at their original path, for one test to change."""
    with copied_to_root(released) as folder:
        yield folder


def state(folder, *patterns):
    """Return the bytes and times of files, by name."""
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def as_released(name):
    """Return the digest and the time of a file of the release."""
    entry = LISTING["files"][name]
    return entry["sha256"], entry["mtime_ns"]


def numbers(folder):
    """Return the state of a data set's files that hold features."""
    return state(folder, "shards/*", "clips/*")


def rows(folder):
    """Return the published rows by id, without the run of duplicates, which each run writes."""
    table = c3d_pipelines.dataset.open(folder).table().to_pylist()
    for row in table:
        if row["duplicate_of"]:
            row["run"] = None
    return {row["video_id"]: row for row in table}


def features_of(folder):
    """Return the features of all videos with status ok, by id."""
    ids, matrix = c3d_pipelines.dataset.open(folder).matrix()
    return dict(zip(ids, matrix, strict=True))


def edit_json(path, change):
    """Rewrite a JSON file with changed values."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def with_column(path):
    """Rewrite a Parquet file with one more column and the same metadata."""
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), file.metadata.metadata
    extra = pa.array([f"row {n}" for n in range(len(table))])
    table = table.append_column(EXTRA, extra)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        in_schema = {b"ARROW:schema", *(table.schema.metadata or {})}
        writer.add_key_value_metadata({k: v for k, v in metadata.items() if k not in in_schema})


def test_files_are_at_their_original_paths_with_their_times(root):
    for name in LISTING["files"]:
        if not name.startswith("model/"):
            content = (root / name).read_bytes()
            actual = hashlib.sha256(content).hexdigest(), (root / name).stat().st_mtime_ns
            assert actual == as_released(name), name


def test_servable_is_verified_recognised_and_served(released, server, run_command):
    version = released / "model" / "c3d" / "1"
    verified = run_command("c3d-export", "verify", version)
    assert verified.returncode == 0, verified.stderr
    assert "fc6_features" in verified.stdout
    published = run_command("c3d-export", "publish", version, "--to", version.parent)
    assert published.returncode == 0, published.stderr
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    status = run_command("c3d", "status", "--server", server)
    assert status.returncode == 0, status.stderr
    for text in ("weights.npz from random:7, rounded", "100.6,108.1,107.8", "float32"):
        assert text in status.stdout, text


def test_interrupted_extraction_is_continued_and_nothing_is_extracted_twice(
    root, server, run_command
):
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    before = state(out, "**/*.npz")
    assert sorted(before) == ["a.mp4.npz", "sub/b.mkv.npz"]
    failed_before = (out / "failures.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed_before[1:]] == [
        "broken.mp4",
        "late.mp4",
        "short.mp4",
    ]

    done = run_command("c3d", "extract", videos, "--out", out, "--server", server)
    assert done.returncode == 1, done.stderr
    # Damaged videos are not tried again; the video that was missing is.
    assert done.stderr.count("failed before") == 2
    failed = (out / "failures.csv").read_text().splitlines()
    assert failed == [line for line in failed_before if not line.startswith("late.mp4,")]
    after = state(out, "**/*.npz")
    assert before.items() <= after.items()
    assert sorted(set(after) - set(before)) == ["late.mp4.npz", "left.mp4.npz", "sub/left.avi.npz"]
    provenances = {name: read_features(out / name).provenance for name in after}
    # The digest that the release computed for features made in this way.
    card = json.loads((root / "bulk" / "features" / "dataset.json").read_text())
    digests = {name: provenance_digest(provenance) for name, provenance in provenances.items()}
    assert digests == dict.fromkeys(provenances, card["provenance_digest"])
    require_same(provenances.values())

    second = run_command("c3d", "extract", videos, "--out", out, "--server", server)
    assert second.returncode == 1, second.stderr
    assert state(out, "**/*.npz") == after
    tried = run_command(
        "c3d", "extract", videos, "--out", out, "--server", server, "--retry-failed"
    )
    assert "failed before" not in tried.stderr
    assert state(out, "**/*.npz") == after


def test_every_format_is_read_converted_and_averaged_with_new_features(
    root, server, run_command, tmp_path
):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")
    assert expected.clip_features.shape == (3, 4096)
    assert expected.clip_features.any(axis=1).all()
    video = root / "formats" / "film.mp4"
    done = run_command("c3d", "extract", video, "--out", tmp_path / "new", "--server", server)
    assert done.returncode == 0, done.stderr
    new = read_features(tmp_path / "new" / "film.mp4.npz")
    np.testing.assert_allclose(new.video_feature @ expected.video_feature, 1, atol=1e-4)

    lossless = ("film.mp4.npz", "film.mp4.npy", "film.mp4.h5", "film.mp4.parquet")
    for name in (*lossless, "film.mp4.fc6", "films.hdf5", "film.mp4_C.txt"):
        features = read_features(old / name)
        require_same([features.provenance, new.provenance])
        pairs = [(each.video_feature, each.provenance) for each in (features, new)]
        assert mean_feature(pairs) @ new.video_feature > 0.99, name
        if name in lossless:
            for part in ("clip_features", "video_feature", "clip_starts", "clip_times_s"):
                np.testing.assert_array_equal(
                    getattr(features, part), getattr(expected, part), err_msg=f"{name}: {part}"
                )
            assert features.provenance["video"]["source"] == str(video), name
        elif name != "film.mp4_C.txt":  # its lines are means of clips
            np.testing.assert_array_equal(features.clip_features, expected.clip_features, name)

        to = "sultani" if name == "film.mp4_C.txt" else "npz"
        target = tmp_path / "converted" / name
        converted = run_command("c3d", "convert", old / name, "--to", to, "--out", target)
        assert converted.returncode == 0, f"{name}: {converted.stderr}"
        (path,) = target.glob("*.npz" if to == "npz" else "*_C.txt")
        written = read_features(path)
        if to == "npz":
            np.testing.assert_array_equal(written.clip_features, features.clip_features, name)
        assert written.clip_features.shape == features.clip_features.shape, name
        require_same([written.provenance, new.provenance])


def test_data_sets_and_the_files_of_their_runs_are_read(root, run_command):
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
        folder = root / "bulk" / name
        videos = c3d_pipelines.dataset.open(folder)
        assert {row.video_id: row.status for row in videos} == statuses, name
        ids, matrix = videos.matrix()
        assert ids == [video_id for video_id, status in statuses.items() if status == "ok"], name
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
            estimated = run_command(
                "c3d-pipelines", "estimate", *arguments, "--frames-per-core-s", "9"
            )
            assert estimated.returncode == 0, estimated.stderr
    features = c3d_pipelines.dataset.open(root / "bulk" / "features")
    assert [near.video_id for near in features.nearest("one.mp4", k=1)] == ["the same.mp4"]
    assert rows(root / "bulk" / "features")["the same.mp4"]["duplicate_of"] == "one.mp4"


def test_run_with_the_same_inputs_does_nothing_and_publishes_the_same(root, server, run_command):
    videos, out = root / "bulk" / "videos", root / "bulk" / "features"
    files, published, vectors = numbers(out), rows(out), features_of(out)
    options = ("--videos", videos, "--out", out, "--keys", "content", "--shard-mb", "0.012")
    done = run_command("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert not any(summary["counts"]["do"].values())
    assert summary["processed"] == summary["clips"] == 0
    assert summary["shards"] == []
    assert numbers(out) == files
    assert rows(out) == published
    features = features_of(out)
    assert set(features) == set(vectors)
    for video_id, vector in vectors.items():
        np.testing.assert_array_equal(features[video_id], vector, video_id)
    assert len(list(out.glob("runs/*/summary.json"))) == 3


def test_next_run_processes_only_the_new_video(root, server, run_command):
    videos, out = root / "bulk" / "videos", root / "bulk" / "classes"
    files, published = numbers(out), rows(out)
    shutil.copy(root / "stopped" / "videos" / "1.mp4", videos / "new.mp4")
    options = ("--videos", videos, "--out", out, "--classify")
    done = run_command("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sum(summary["counts"]["do"].values()) == summary["counts"]["do"]["ok"] == 1
    assert summary["processed"] == 1
    assert files.items() <= numbers(out).items()
    new_rows = rows(out)
    assert new_rows.pop("new.mp4")["status"] == "ok"
    assert new_rows == published
    assert c3d_pipelines.dataset.open(out).labels == LABELS


def test_killed_run_is_continued_and_keeps_its_complete_shards(root, server, run_command):
    videos, out = root / "stopped" / "videos", root / "stopped" / "features"
    files = numbers(out)
    committed = list(out.glob("shards/*.json"))
    earlier = sum(json.loads(path.read_text())["videos"] for path in committed)
    names = sorted(path.name for path in videos.iterdir())
    assert 0 < earlier < len(names)
    assert not (out / "dataset.json").exists()

    options = ("--shard-mb", "0.001", "--workers", "1", "--max-failed", "-1")
    arguments = ("--videos", videos, "--out", out, "--server", server, *options)
    done = run_command("c3d-pipelines", "run", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["processed"] == len(names) - earlier
    assert summary["counts"]["done"]["ok"] == earlier
    assert files.items() <= numbers(out).items()
    # Shards have the names that the release would have given them.
    assert sorted(path.stem for path in out.glob("shards/*.json")) == LISTING["stopped_shards"]
    new_rows = rows(out)
    assert sorted(new_rows) == names
    assert {name: row["status"] for name, row in new_rows.items() if row["status"] != "ok"} == {
        "none.mp4": "corrupt"
    }
    _, matrix = c3d_pipelines.dataset.open(out).matrix()
    assert matrix.shape == (5, 4096)


def test_unknown_fields_of_features_are_ignored_and_written_again(
    root, server, run_command, tmp_path
):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")

    def add(values):
        values["provenance"][EXTRA] = {"note": 1}
        values["provenance"]["model"][EXTRA] = values["provenance"]["clips"].get("stride")
        values[EXTRA] = [2]

    edit_json(old / "film.mp4.npy.json", add)
    for name in ("npz", "h5", "parquet", "npy"):
        converted = run_command(
            "c3d", "convert", old / "film.mp4.npy", "--to", name, "--out", tmp_path
        )
        assert converted.returncode == 0, f"{name}: {converted.stderr}"
        features = read_features(tmp_path / f"film.mp4.{name}")
        assert features.provenance[EXTRA] == {"note": 1}, name
        assert features.provenance["model"][EXTRA] == 8, name
        require_same([features.provenance, expected.provenance])
        # The video is done: a run skips it.
        before = state(tmp_path, f"film.mp4.{name}")
        arguments = ("--format", name, "--out", tmp_path, "--server", server)
        second = run_command("c3d", "extract", root / "formats" / "film.mp4", *arguments)
        assert second.returncode == 0, f"{name}: {second.stderr}"
        assert state(tmp_path, f"film.mp4.{name}") == before, name


def test_unknown_arrays_in_files_of_features_are_ignored(root):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")
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
        np.testing.assert_array_equal(features.clip_features, expected.clip_features, name)
        require_same([features.provenance, expected.provenance])


def test_unknown_column_in_a_parquet_file_of_features_is_ignored(root):
    old = root / "formats" / "features"
    with_column(old / "film.mp4.parquet")
    expected = read_features(old / "film.mp4.npz")
    features = read_features(old / "film.mp4.parquet")
    np.testing.assert_array_equal(features.clip_features, expected.clip_features)


def add_column_to_failures(folder):
    """Add a column of a later release to failures.csv."""
    path = folder / "failures.csv"
    with path.open(newline="") as file:
        content = list(csv.DictReader(file))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*content[0], EXTRA])
    writer.writeheader()
    writer.writerows({**row, EXTRA: f"of {row['video']}"} for row in content)
    path.write_text(text.getvalue(), newline="")


def test_unknown_column_in_failures_csv_is_ignored(root, server, run_command):
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    add_column_to_failures(out)
    done = run_command("c3d", "extract", videos, "--out", out, "--server", server)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("failed before") == 2
    assert len(list(out.rglob("*.npz"))) == 5


def test_unknown_column_in_failures_csv_is_written_again(root, server, run_command):
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    add_column_to_failures(out)
    run_command("c3d", "extract", videos, "--out", out, "--server", server)
    with (out / "failures.csv").open(newline="") as file:
        values = {row["video"]: row.get(EXTRA) for row in csv.DictReader(file)}
    assert values == {"broken.mp4": "of broken.mp4", "short.mp4": "of short.mp4"}


def test_unknown_field_in_the_report_of_a_shard_is_ignored(root, run_command):
    for name, keys in (("features", "content"), ("classes", "quick")):
        out = root / "bulk" / name
        for path in out.glob("shards/*.json"):
            edit_json(path, lambda values: values.update({EXTRA: {"a": 1}}))
        kind = ("--classify",) if name == "classes" else ()
        arguments = ("--videos", root / "bulk" / "videos", "--out", out, "--keys", keys)
        planned = run_command("c3d-pipelines", "plan", *arguments, *kind)
        assert planned.returncode == 0, planned.stderr
        assert "to do           0 videos" in planned.stdout, name


def test_unknown_field_in_the_card_of_a_data_set_is_ignored(root):
    for name in ("features", "classes"):
        out = root / "bulk" / name
        expected = rows(out)
        edit_json(out / "dataset.json", lambda values: values.update({EXTRA: {"a": 1}}))
        assert rows(out) == expected, name


def test_unknown_column_in_the_index_of_a_data_set_is_ignored(root):
    for name in ("features", "classes"):
        out = root / "bulk" / name
        expected = set(features_of(out))
        with_column(out / "index.parquet")
        videos = c3d_pipelines.dataset.open(out)
        assert set(features_of(out)) == expected, name
        assert sum(1 for _ in videos) == 7, name


def test_next_run_writes_unknown_fields_of_card_and_index_again(root, server, run_command):
    videos, out = root / "bulk" / "videos", root / "bulk" / "features"
    edit_json(out / "dataset.json", lambda values: values.update({EXTRA: {"a": 1}}))
    with_column(out / "index.parquet")
    column = pq.read_table(out / "index.parquet", columns=["video_id", EXTRA]).to_pylist()
    options = ("--videos", videos, "--out", out, "--keys", "content", "--shard-mb", "0.012")
    done = run_command("c3d-pipelines", "run", *options, "--server", server, "--json")
    assert done.returncode == 0, done.stderr
    assert not any(json.loads(done.stdout)["counts"]["do"].values())
    assert json.loads((out / "dataset.json").read_text())[EXTRA] == {"a": 1}
    # The row of a duplicate is written from its original's row by each run.
    originals = {row["video_id"] for row in rows(out).values() if not row["duplicate_of"]}
    table = pq.read_table(out / "index.parquet", columns=["video_id", EXTRA]).to_pylist()
    assert [row for row in table if row["video_id"] in originals] == [
        row for row in column if row["video_id"] in originals
    ]


def test_unknown_fields_in_the_summary_of_a_run_are_ignored(root):
    for path in sorted(root.glob("bulk/*/runs/*/summary.json")):
        expected = RunSummary.from_json(path.read_bytes())

        def add(values):
            values[EXTRA] = 1
            for part in ("durations", "clip_counts", *range(len(values["shards"]))):
                inner = values["shards"][part] if isinstance(part, int) else values[part]
                inner[EXTRA] = 2
            for failure in values["failures"]:
                failure[EXTRA] = "more"

        edit_json(path, add)
        summary = RunSummary.from_json(path.read_bytes())
        assert (summary.verdict, summary.failures) == (expected.verdict, expected.failures), path
        assert (summary.shards, summary.durations) == (expected.shards, expected.durations), path


def test_unknown_fields_in_the_settings_of_a_run_are_ignored(root):
    for path in sorted(root.glob("bulk/*/runs/*/settings.json")):
        expected = JobSettings.from_json(path.read_bytes())

        def add(values):
            values[EXTRA] = 1
            values["window"][EXTRA] = 2

        edit_json(path, add)
        settings = JobSettings.from_json(path.read_bytes())
        for field in ("out", "run", "window"):
            assert getattr(settings, field) == getattr(expected, field), (path, field)


def test_unknown_column_in_the_files_of_a_shard_is_ignored(root, run_command):
    out = root / "bulk" / "features"
    expected = features_of(out)
    for path in out.glob("shards/*.json"):
        videos, clips = (out / part / f"{path.stem}.parquet" for part in ("shards", "clips"))
        with_column(videos)
        with_column(clips)
        sizes = {"video_bytes": videos.stat().st_size, "clip_bytes": clips.stat().st_size}
        edit_json(path, lambda values, sizes=sizes: values.update(sizes))
    features = features_of(out)
    for video_id, vector in expected.items():
        np.testing.assert_array_equal(features[video_id], vector, video_id)
    assert len(c3d_pipelines.dataset.open(out).clips("deep/two.mkv").clip_features) == 4
    arguments = ("--videos", root / "bulk" / "videos", "--out", out, "--keys", "content")
    planned = run_command("c3d-pipelines", "plan", *arguments)
    assert "to do           0 videos" in planned.stdout, planned.stderr


def test_unknown_column_in_the_plan_of_a_run_is_ignored(root, run_command):
    for path in root.glob("bulk/*/runs/*/plan.parquet"):
        with_column(path)
        speeds = ("--clips-per-s", "9", "--frames-per-core-s", "9")
        estimated = run_command("c3d-pipelines", "estimate", "--plan", path, *speeds)
        assert estimated.returncode == 0, estimated.stderr


def card_tensors(graph):
    """Yield each tensor of a SavedModel's graph that holds the model card."""
    for meta in graph.meta_graphs:
        nodes = [
            *meta.graph_def.node,
            *(n for f in meta.graph_def.library.function for n in f.node_def),
        ]
        for node in nodes:
            tensor = node.attr["value"].tensor if "value" in node.attr else None
            if tensor is not None and any(
                b"contract_version" in text for text in tensor.string_val
            ):
                yield tensor


def test_unknown_fields_in_a_model_card_are_ignored(released, root, run_command, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    version = tmp_path / "c3d" / "1"
    shutil.copytree(released / "model" / "c3d" / "1", version, copy_function=os.link)
    graph = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    cards = list(card_tensors(graph))
    assert cards
    for tensor in cards:
        card = json.loads(tensor.string_val[0])
        for part in (card, card["weights"], card["mean"], card["preprocessing"], card["software"]):
            part[EXTRA] = {"a": 1}
        tensor.string_val[0] = json.dumps(card, sort_keys=True).encode()
    (version / "saved_model.pb").unlink()  # it is a link to the fixture
    (version / "saved_model.pb").write_bytes(graph.SerializeToString())
    verified = run_command("c3d-export", "verify", version)
    shutil.rmtree(version)
    assert verified.returncode == 0, verified.stderr

    # Features of the model without these fields are done: a run skips them.
    server = FakeServing(card=json.dumps(card).encode())
    try:
        status = run_command("c3d", "status", "--server", server.target)
        assert status.returncode == 0, status.stderr
        assert "weights.npz from random:7, rounded" in status.stdout
        out = root / "extract" / "features"
        arguments = ("--root", root / "extract" / "videos", "--out", out)
        before = state(out, "**/*.npz")
        video = root / "extract" / "videos" / "a.mp4"
        second = run_command("c3d", "extract", video, *arguments, "--server", server.target)
        assert second.returncode == 0, second.stderr
        assert state(out, "**/*.npz") == before
    finally:
        server.stop()
