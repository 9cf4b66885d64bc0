"""Files that release 0.1.0 wrote are read and continued, and no finished work is repeated.

The release's code wrote the files: see fixtures/release-0.1.0/README.md.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import c3d_pipelines
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client import mean_feature, provenance_digest, read_features, require_same
from c3d_client.core.provenance import Provenance
from c3d_client.job import read_failures
from c3d_client.shard import Shard
from c3d_pipelines import JobSettings, RunSummary
from c3d_pipelines.inputs.plan import read_plan, shard_rows
from c3d_pipelines.shards.commits import names_of
from c3d_pipelines.shards.worker import do_shard
from support.fake_serving import FakeServing
from support.processes import LONG_S

FOLDER = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
LISTING = json.loads((FOLDER / "listing.json").read_text(encoding="utf-8"))
# The folder in which the release wrote its files: its datasets hold absolute paths of videos.
ROOT = Path(LISTING["root"])
LABELS = ("abseiling", "bowling", "curling", "diving", "épée")
EXTRA = "of_a_later_release"  # a field or column that this release does not know
SPEEDS = ("--clips-per-s", "9", "--frames-per-core-s", "9")
MAIN = {
    "c3d": "from c3d_client.cli import main; main()",
    "c3d-export": "from c3d_export.cli import main; main()",
    "c3d-pipelines": "from c3d_pipelines.cli import main; main()",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The release's files, unpacked and verified. Do not write to them."""
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == set(LISTING["files"])
    for name, listed in LISTING["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == listed["sha256"], name
    yield folder
    shutil.rmtree(folder)  # 77 MB, and pytest keeps the folders of three sessions


def caller(**environment):
    """Return a function that runs a command in an environment and checks its exit code."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}

    def run(name, *arguments, exit_code=0):
        process = subprocess.run(
            [sys.executable, "-c", MAIN[name], *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=LONG_S,
        )
        assert process.returncode == exit_code, f"{name} {arguments}: {process.stderr}"
        return process

    return run


@pytest.fixture(scope="module")
def call():
    """Return a function that runs a command with the versions that are installed."""
    return caller()


@pytest.fixture(params=["installed versions", "released versions", "other versions"])
def any_call(request, tmp_path, released):
    """Return a function that runs a command, which may report other versions of its libraries."""
    if request.param == "installed versions":
        return caller()
    versions = {"opencv": "99.1.0", "pyav": "98.2.0", "libavcodec": "97.3.100"}
    if request.param == "released versions":
        sidecar = released / "formats" / "features" / "film.mp4.npy.json"
        versions = json.loads(sidecar.read_text())["provenance"]["software"]
    numbers = tuple(map(int, versions["libavcodec"].split(".")))
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import av, cv2\n"
        f"cv2.__version__, av.__version__ = {versions['opencv']!r}, {versions['pyav']!r}\n"
        f"av.library_versions = {{**av.library_versions, 'libavcodec': {numbers!r}}}\n"
    )
    paths = (str(folder), os.environ.get("PYTHONPATH", ""))
    return caller(PYTHONPATH=os.pathsep.join(filter(None, paths)))


@pytest.fixture(scope="module")
def server(released):
    """The address of a server with the release's servable."""
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


@pytest.fixture
def root(released):
    """The release's files, with their times, in the folder where the release wrote them.

    A test may change the files. A lock makes test processes use the folder in turn.
    """
    with ROOT.parent.with_name(ROOT.parent.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(ROOT, ignore_errors=True)
        try:
            for name, listed in LISTING["files"].items():
                if not name.startswith("model/"):
                    target = ROOT / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(released / name, target)
                    os.utime(target, ns=(listed["mtime_ns"], listed["mtime_ns"]))
            yield ROOT
        finally:
            shutil.rmtree(ROOT, ignore_errors=True)


def state(folder, *patterns):
    """Return the bytes and times of the files that match patterns, by name."""
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def shard_files(dataset):
    """Return the bytes and times of all shards of a dataset."""
    return state(dataset, "shards/*", "clips/*")


def rows(dataset):
    """Return the published rows by id. Every run writes the rows of duplicates, under its name."""
    table = c3d_pipelines.dataset.open(dataset).table().to_pylist()
    for row in table:
        if row["duplicate_of"]:
            row["run"] = None
    return {row["video_id"]: row for row in table}


def features_of(dataset):
    """Return the numbers of all videos with status ok, by id."""
    ids, matrix = c3d_pipelines.dataset.open(dataset).matrix()
    return dict(zip(ids, matrix, strict=True))


def run_arguments(root, name, *options):
    """Return the arguments of the run that the release did for a dataset of ``bulk/``."""
    kind = ("--classify",) if name == "classes" else ("--keys", "content", "--shard-mb", "0.012")
    folder = root / "bulk"
    return ("--videos", folder / "videos", "--out", folder / name, *kind, *options)


def edit_json(path, change):
    """Change the values of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def add_field(path):
    """Add a field to a JSON file, as a later release may."""
    edit_json(path, lambda values: values.update({EXTRA: {"a": 1}}))


def add_column(path):
    """Add a column to a Parquet file, as a later release may."""
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), file.metadata.metadata
    values = pa.array([f"row {number}" for number in range(len(table))])
    table = table.append_column(EXTRA, values)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        # The file's metadata that is not part of its schema.
        of_schema = {b"ARROW:schema", *(table.schema.metadata or {})}
        writer.add_key_value_metadata(
            {key: metadata[key] for key in metadata if key not in of_schema}
        )


def test_fixture_restores_bytes_and_times_of_the_files(root):
    for name, listed in LISTING["files"].items():
        if not name.startswith("model/"):
            digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
            assert digest == listed["sha256"], name
            assert (root / name).stat().st_mtime_ns == listed["mtime_ns"], name


@pytest.mark.long
def test_servable_is_verified_not_published_twice_and_served(released, server, call):
    version = released / "model" / "c3d" / "1"
    assert "fc6_features" in call("c3d-export", "verify", version).stdout
    call("c3d-export", "publish", version, "--to", version.parent)
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    status = call("c3d", "status", "--server", server).stdout
    for text in ("weights.npz from random:7, rounded", "100.6,108.1,107.8", "float32"):
        assert text in status, text


@pytest.mark.long
def test_servable_gives_fc7_and_names_the_layers_that_it_lacks(released, root, server, call):
    video, out = root / "extract" / "videos" / "a.mp4", root / "layers"
    extract = ("c3d", "extract", video, "--server", server, "--out", out, "--layer")
    call(*extract, "fc7")
    features = read_features(out / "a.mp4.npz")
    assert features.provenance["layer"] == "fc7"
    fc6 = read_features(root / "extract" / "features" / "a.mp4.npz")
    assert features.clip_features.shape == fc6.clip_features.shape
    assert not np.array_equal(features.clip_features, fc6.clip_features)
    for layers, problem in (
        ("pool5", "has no layer pool5 (it has: fc6, fc7)"),
        ("fc6,fc8", "has no layer fc8 (it has: fc6, fc7)"),
        ("fc6,fc7", "gives one of fc6, fc7 at a time, not several"),
    ):
        stderr = call(*extract, layers, exit_code=2).stderr
        advice = "export it again with this release's c3d-export build"
        assert stderr == f"c3d: the model 'c3d' at {server} {problem}: {advice}\n"


def test_models_card_is_read_without_tensorflow(released):
    program = (
        "import sys; from pathlib import Path; from c3d_export.store import stored_card\n"
        "print(stored_card(Path(sys.argv[1]))['weights']['random'], 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", program, released / "model" / "c3d" / "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True False\n", "")


@pytest.mark.long
def test_unfinished_folder_of_features_is_completed_and_nothing_is_repeated(root, server, any_call):
    call = any_call
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    before = state(out, "**/*.npz")
    assert sorted(before) == ["a.mp4.npz", "sub/b.mkv.npz"]
    failures_before = (out / "failures.csv").read_text().splitlines()
    failed = [line.split(",")[0] for line in failures_before[1:]]
    assert failed == ["broken.mp4", "late.mp4", "short.mp4"]

    extract = ("c3d", "extract", videos, "--out", out, "--server", server)
    # Damaged videos are not retried; a video that was missing is.
    assert call(*extract, exit_code=1).stderr.count("failed before") == 2
    failures = (out / "failures.csv").read_text().splitlines()
    assert failures == [line for line in failures_before if not line.startswith("late.mp4,")]
    after = state(out, "**/*.npz")
    assert before.items() <= after.items()
    assert sorted(set(after) - set(before)) == ["late.mp4.npz", "left.mp4.npz", "sub/left.avi.npz"]
    provenances = {name: read_features(out / name).provenance for name in after}
    # The release's digest of features that are made in this way can still be computed.
    card = json.loads((root / "bulk" / "features" / "dataset.json").read_text())
    for name in before:
        assert Provenance(provenances[name]).former_digest() == card["provenance_digest"], name
    assert len({provenance_digest(provenance) for provenance in provenances.values()}) == 1
    require_same(provenances.values())

    call(*extract, exit_code=1)
    assert state(out, "**/*.npz") == after
    assert "failed before" not in call(*extract, "--retry-failed", exit_code=1).stderr
    assert state(out, "**/*.npz") == after


def test_unfinished_folder_is_completed_in_shards_and_under_other_names(root, server, call):
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    before = state(out, "**/*.npz")
    good = ("a.mp4", "sub/b.mkv", "late.mp4", "left.mp4", "sub/left.avi")
    tried_before = 0
    for number in (1, 2):
        takes = Shard(number, 2).takes
        failed = [name for name in ("broken.mp4", "short.mp4") if takes(name)]
        code = (1 if any(map(takes, good)) else 2) if failed else 0
        arguments = ("extract", videos, "--out", out, "--server", server, "--shard", f"{number}/2")
        done = call("c3d", *arguments, "--name", "{parent}/{stem}.npz", exit_code=code)
        tried_before += done.stderr.count("failed before")
    assert tried_before == 2
    after = state(out, "**/*.npz")
    assert before.items() <= after.items()
    assert sorted(set(after) - set(before)) == ["late.npz", "left.npz", "sub/left.npz"]
    assert set(read_failures(out)) == {"broken.mp4", "short.mp4"}
    assert not (out / "failures.csv").exists()  # the shards' lists are newer


def test_every_format_is_read_converted_and_mixed_with_new_features(root, server, call, tmp_path):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")
    assert expected.clip_features.shape == (3, 4096)
    assert expected.clip_features.any(axis=1).all()
    video = root / "formats" / "film.mp4"
    call("c3d", "extract", video, "--out", tmp_path / "new", "--server", server)
    new = read_features(tmp_path / "new" / "film.mp4.npz")
    np.testing.assert_allclose(new.video_feature @ expected.video_feature, 1, atol=1e-4)

    lossless = ("film.mp4.npz", "film.mp4.npy", "film.mp4.h5", "film.mp4.parquet")
    for name in (*lossless, "film.mp4.fc6", "films.hdf5", "film.mp4_C.txt"):
        features = read_features(old / name)
        require_same([features.provenance, new.provenance])
        pairs = [(item.video_feature, item.provenance) for item in (features, new)]
        assert mean_feature(pairs) @ new.video_feature > 0.99, name
        if name in lossless:
            for array in ("clip_features", "video_feature", "clip_starts", "clip_times_s"):
                np.testing.assert_array_equal(
                    getattr(features, array), getattr(expected, array), f"{name}: {array}"
                )
            assert features.provenance["video"]["source"] == str(video), name
        elif name != "film.mp4_C.txt":  # its lines are means of clips
            np.testing.assert_array_equal(features.clip_features, expected.clip_features, name)

        to = "sultani" if name == "film.mp4_C.txt" else "npz"
        target = tmp_path / "converted" / name
        call("c3d", "convert", old / name, "--to", to, "--out", target)
        (path,) = target.glob("*.npz" if to == "npz" else "*_C.txt")
        converted = read_features(path)
        if to == "npz":
            np.testing.assert_array_equal(converted.clip_features, features.clip_features, name)
        assert converted.clip_features.shape == features.clip_features.shape, name
        require_same([converted.provenance, new.provenance])


def test_datasets_and_the_files_of_their_runs_are_read(root, call):
    statuses = {
        "deep/two.mkv": "ok",
        "four.mp4": "ok",
        "none.mp4": "corrupt",
        "one.mp4": "ok",
        "short.mp4": "too_short",
        "the same.mp4": "ok",
        "three.avi": "ok",
    }
    for name, size, run_count in (("features", 4096, 2), ("classes", len(LABELS), 1)):
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
        assert len(runs) == run_count, name
        for run in runs:
            summary = RunSummary.from_json((run / "summary.json").read_bytes())
            assert (summary.run, summary.answer) == (run.name, name)
            settings = JobSettings.from_json((run / "settings.json").read_bytes())
            assert (settings.run, settings.out) == (run.name, str(folder))
            call("c3d-pipelines", "estimate", "--plan", run / "plan.parquet", *SPEEDS)
    features = c3d_pipelines.dataset.open(root / "bulk" / "features")
    assert [near.video_id for near in features.nearest("one.mp4", k=1)] == ["the same.mp4"]
    assert rows(root / "bulk" / "features")["the same.mp4"]["duplicate_of"] == "one.mp4"


def test_run_over_the_same_inputs_does_nothing_and_publishes_the_same(root, server, any_call):
    call = any_call
    out = root / "bulk" / "features"
    shards, published, features = shard_files(out), rows(out), features_of(out)
    arguments = run_arguments(root, "features", "--server", server, "--json")
    summary = json.loads(call("c3d-pipelines", "run", *arguments).stdout)
    assert not any(summary["counts"]["do"].values())
    assert summary["processed"] == summary["clips"] == 0
    assert summary["shards"] == []
    assert shard_files(out) == shards
    assert rows(out) == published
    np.testing.assert_equal(features_of(out), features)
    assert len(list(out.glob("runs/*/summary.json"))) == 3


@pytest.mark.long
def test_next_run_does_only_the_new_video(root, server, call):
    out = root / "bulk" / "classes"
    shards, published = shard_files(out), rows(out)
    shutil.copy(root / "stopped" / "videos" / "1.mp4", root / "bulk" / "videos" / "new.mp4")
    arguments = run_arguments(root, "classes", "--server", server, "--json")
    summary = json.loads(call("c3d-pipelines", "run", *arguments).stdout)
    assert sum(summary["counts"]["do"].values()) == summary["counts"]["do"]["ok"] == 1
    assert summary["processed"] == 1
    assert shards.items() <= shard_files(out).items()
    rows_after = rows(out)
    assert rows_after.pop("new.mp4")["status"] == "ok"
    assert rows_after == published
    assert c3d_pipelines.dataset.open(out).labels == LABELS


@pytest.mark.long
def test_killed_run_is_continued_without_the_shards_that_are_done(root, server, any_call):
    call = any_call
    videos, out = root / "stopped" / "videos", root / "stopped" / "features"
    shards = shard_files(out)
    done = sum(json.loads(path.read_text())["videos"] for path in out.glob("shards/*.json"))
    names = sorted(path.name for path in videos.iterdir())
    assert 0 < done < len(names)
    assert not (out / "dataset.json").exists()

    options = ("--shard-mb", "0.001", "--workers", "1", "--max-failed", "-1", "--json")
    arguments = ("--videos", videos, "--out", out, "--server", server, *options)
    summary = json.loads(call("c3d-pipelines", "run", *arguments).stdout)
    assert summary["processed"] == len(names) - done
    assert summary["counts"]["done"]["ok"] == done
    assert shards.items() <= shard_files(out).items()
    # The shards that were done keep the names that the release gave them.
    stems = {path.stem for path in out.glob("shards/*.json")}
    assert {Path(name).stem for name in shards} <= stems & set(LISTING["stopped_shards"])
    assert len(stems) == len(LISTING["stopped_shards"])
    statuses = {name: row["status"] for name, row in rows(out).items()}
    assert statuses == {**dict.fromkeys(names, "ok"), "none.mp4": "corrupt"}
    _, matrix = c3d_pipelines.dataset.open(out).matrix()
    assert matrix.shape == (5, 4096)


def test_shards_of_a_run_that_the_release_began_are_looked_up_by_its_names(root):
    out = root / "stopped" / "features"
    (run,) = out.glob("runs/*")
    settings = JobSettings.from_json((run / "settings.json").read_bytes())
    planned = read_plan(run / "plan.parquet")
    shards = [shard_rows(planned, shard) for shard in sorted({row.shard for row in planned})]
    names = [names_of(settings, rows)[1] for rows in shards]
    assert sorted(names) == LISTING["stopped_shards"]
    done = {path.stem for path in out.glob("shards/*.json")}
    for index, (name, rows) in enumerate(zip(names, shards, strict=True)):
        if name in done:  # without a request: there is no server
            assert do_shard(settings, rows, index).name == name


@pytest.mark.long
def test_unknown_fields_of_features_are_ignored_and_kept(root, server, call, tmp_path):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")

    def add(values):
        values["provenance"][EXTRA] = {"note": 1}
        values["provenance"]["model"][EXTRA] = values["provenance"]["clips"].get("stride")
        values[EXTRA] = [2]

    edit_json(old / "film.mp4.npy.json", add)
    for name in ("npz", "h5", "parquet", "npy"):
        call("c3d", "convert", old / "film.mp4.npy", "--to", name, "--out", tmp_path)
        features = read_features(tmp_path / f"film.mp4.{name}")
        assert features.provenance[EXTRA] == {"note": 1}, name
        assert features.provenance["model"][EXTRA] == 8, name
        require_same([features.provenance, expected.provenance])
        # The command recognises the file as done.
        before = state(tmp_path, f"film.mp4.{name}")
        arguments = ("--format", name, "--out", tmp_path, "--server", server)
        call("c3d", "extract", root / "formats" / "film.mp4", *arguments)
        assert state(tmp_path, f"film.mp4.{name}") == before, name


def test_unknown_arrays_and_columns_of_features_are_ignored(root):
    old = root / "formats" / "features"
    expected = read_features(old / "film.mp4.npz")
    with np.load(old / "film.mp4.npz") as archive:
        arrays = dict(archive)
    np.savez(old / "film.mp4.npz", **arrays, **{EXTRA: np.arange(3)})
    with h5py.File(old / "film.mp4.h5", "a") as file, h5py.File(old / "films.hdf5", "a") as films:
        for group in (file, *films.values()):
            group[EXTRA] = np.arange(3)
            group.attrs[EXTRA] = "more"
    add_column(old / "film.mp4.parquet")
    for name in ("film.mp4.npz", "film.mp4.h5", "films.hdf5", "film.mp4.parquet"):
        features = read_features(old / name)
        np.testing.assert_array_equal(features.clip_features, expected.clip_features, name)
        require_same([features.provenance, expected.provenance])


def test_unknown_column_of_failures_csv_is_ignored_and_kept(root, server, call):
    videos, out = root / "extract" / "videos", root / "extract" / "features"
    path = out / "failures.csv"
    with path.open(newline="") as file:
        failures = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*failures[0], EXTRA])
        writer.writeheader()
        writer.writerows({**row, EXTRA: f"of {row['video']}"} for row in failures)
    extracted = call("c3d", "extract", videos, "--out", out, "--server", server, exit_code=1)
    assert extracted.stderr.count("failed before") == 2
    assert len(list(out.rglob("*.npz"))) == 5
    with path.open(newline="") as file:
        values = {row["video"]: row.get(EXTRA) for row in csv.DictReader(file)}
    assert values == {"broken.mp4": "of broken.mp4", "short.mp4": "of short.mp4"}


@pytest.mark.long
def test_shard_whose_report_has_an_unknown_field_is_done(root, call):
    for name in ("features", "classes"):
        for path in (root / "bulk" / name).glob("shards/*.json"):
            add_field(path)
        planned = call("c3d-pipelines", "plan", *run_arguments(root, name))
        assert "to do           0 videos" in planned.stdout, name


def test_unknown_fields_of_card_and_index_are_ignored(root):
    for name in ("features", "classes"):
        out = root / "bulk" / name
        expected, features = rows(out), features_of(out)
        add_field(out / "dataset.json")
        assert rows(out) == expected, name
        add_column(out / "index.parquet")
        assert set(features_of(out)) == set(features), name
        assert len(list(c3d_pipelines.dataset.open(out))) == 7, name


@pytest.mark.long
def test_next_run_keeps_unknown_fields_of_card_and_index(root, server, call):
    out = root / "bulk" / "features"
    index = out / "index.parquet"
    add_field(out / "dataset.json")
    add_column(index)
    # The rows of duplicates are written again from the rows of their originals.
    originals = {row["video_id"] for row in rows(out).values() if not row["duplicate_of"]}

    def extra_values():
        table = pq.read_table(index, columns=["video_id", EXTRA]).to_pylist()
        return [row for row in table if row["video_id"] in originals]

    expected = extra_values()
    arguments = run_arguments(root, "features", "--server", server, "--json")
    summary = json.loads(call("c3d-pipelines", "run", *arguments).stdout)
    assert not any(summary["counts"]["do"].values())
    assert json.loads((out / "dataset.json").read_text())[EXTRA] == {"a": 1}
    assert extra_values() == expected


def test_unknown_fields_of_summaries_and_settings_are_ignored(root):
    def add_to_summary(values):
        parts = (values["durations"], values["clip_counts"], *values["shards"], *values["failures"])
        for part in (values, *parts):
            part[EXTRA] = 2

    def add_to_settings(values):
        values[EXTRA] = 1
        values["window"][EXTRA] = 2

    for kind, name, change in (
        (RunSummary, "summary.json", add_to_summary),
        (JobSettings, "settings.json", add_to_settings),
    ):
        paths = sorted(root.glob(f"bulk/*/runs/*/{name}"))
        assert len(paths) == 3
        for path in paths:
            expected = kind.from_json(path.read_bytes())
            edit_json(path, change)
            assert kind.from_json(path.read_bytes()) == expected, path


@pytest.mark.long
def test_unknown_column_of_a_shards_files_is_ignored(root, call):
    out = root / "bulk" / "features"
    expected = features_of(out)
    for path in out.glob("shards/*.json"):
        videos, clips = (out / part / f"{path.stem}.parquet" for part in ("shards", "clips"))
        add_column(videos)
        add_column(clips)
        sizes = {"video_bytes": videos.stat().st_size, "clip_bytes": clips.stat().st_size}
        edit_json(path, lambda values, sizes=sizes: values.update(sizes))
    np.testing.assert_equal(features_of(out), expected)
    assert len(c3d_pipelines.dataset.open(out).clips("deep/two.mkv").clip_features) == 4
    planned = call("c3d-pipelines", "plan", *run_arguments(root, "features"))
    assert "to do           0 videos" in planned.stdout


@pytest.mark.long
def test_unknown_column_of_a_plan_is_ignored(root, call):
    for path in root.glob("bulk/*/runs/*/plan.parquet"):
        add_column(path)
        call("c3d-pipelines", "estimate", "--plan", path, *SPEEDS)


def model_cards(graph):
    """Yield the tensors of a SavedModel's graph that hold the model card."""
    for meta in graph.meta_graphs:
        functions = meta.graph_def.library.function
        for nodes in (meta.graph_def.node, *(function.node_def for function in functions)):
            for node in nodes:
                tensor = node.attr["value"].tensor if "value" in node.attr else None
                if tensor and any(b"contract_version" in text for text in tensor.string_val):
                    yield tensor


@pytest.mark.long
def test_unknown_fields_of_a_model_card_are_ignored(released, root, call, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    version = tmp_path / "c3d" / "1"
    shutil.copytree(released / "model" / "c3d" / "1", version, copy_function=os.link)
    graph = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    tensors = list(model_cards(graph))
    assert tensors
    for tensor in tensors:
        card = json.loads(tensor.string_val[0])
        for part in (card, card["weights"], card["mean"], card["preprocessing"], card["software"]):
            part[EXTRA] = {"a": 1}
        tensor.string_val[0] = json.dumps(card, sort_keys=True).encode()
    (version / "saved_model.pb").unlink()  # a link to the released file
    (version / "saved_model.pb").write_bytes(graph.SerializeToString())
    call("c3d-export", "verify", version)
    shutil.rmtree(version)

    # Features of the model without the unknown fields are recognised as done.
    server = FakeServing(card=json.dumps(card).encode())
    try:
        status = call("c3d", "status", "--server", server.target)
        assert "weights.npz from random:7, rounded" in status.stdout
        videos, out = root / "extract" / "videos", root / "extract" / "features"
        before = state(out, "**/*.npz")
        arguments = ("--root", videos, "--out", out, "--server", server.target)
        call("c3d", "extract", videos / "a.mp4", *arguments)
        assert state(out, "**/*.npz") == before
    finally:
        server.stop()
