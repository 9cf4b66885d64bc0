"""Names and reports of shards, and the removal of stale files."""

import os
import time
from dataclasses import replace

import pytest
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.commits import name_of, read_report, remove_stale, remove_temporary
from c3d_pipelines.shards.schema import STATUSES, clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage, temporary_prefix
from support.shard_runs import job, plain_job, row
from support.videos import write_video

ROWS = [ManifestRow("a", "/videos/a.mp4", 5, 0.0, "stat:5-1"), ManifestRow("b", "/videos/b.mp4")]
PROVENANCE = {"model": {"weights": {"sha256": "ab" * 32}}, "clips": {"stride": 8}}
SETTINGS = replace(plain_job("out", "localhost:1"), provenance=PROVENANCE)


def test_name_depends_on_the_videos_and_the_settings_of_the_content():
    name = name_of(SETTINGS, ROWS)
    others = [
        name_of(SETTINGS, ROWS[::-1]),
        name_of(SETTINGS, ROWS[:1]),
        name_of(SETTINGS, [replace(ROWS[0], key="stat:5-2"), ROWS[1]]),
        name_of(SETTINGS, [replace(ROWS[0], uri="/videos/c.mp4"), ROWS[1]]),
        name_of(SETTINGS, [replace(ROWS[0], video_id="c"), ROWS[1]]),
        name_of(replace(SETTINGS, answer="classes"), ROWS),
        name_of(replace(SETTINGS, clip_rows=False), ROWS),
        name_of(replace(SETTINGS, provenance={**PROVENANCE, "clips": {"stride": 16}}), ROWS),
    ]
    assert len({name, *others}) == len(others) + 1


def test_name_does_not_depend_on_how_the_work_is_done():
    name = name_of(SETTINGS, ROWS)
    assert name_of(replace(SETTINGS, run="run-2", workers=7, server="other:8500"), ROWS) == name
    assert name_of(SETTINGS, [replace(ROWS[0], size_bytes=6), ROWS[1]]) == name
    rolled_out = {**PROVENANCE, "model": {**PROVENANCE["model"], "version": 9}}
    assert name_of(replace(SETTINGS, provenance=rolled_out), ROWS) == name


@pytest.fixture
def shard(started, tmp_path):
    """A dataset's storage and the report of its one shard."""
    path = write_video(tmp_path / "a.mp4", 24)
    settings = job(tmp_path / "out", started().target)
    report = do_shard(settings, [row(path, "a"), row(path, "b")], 0)
    return Storage(tmp_path / "out"), report


def test_report_that_fits_its_files_is_read(shard):
    storage, report = shard
    assert read_report(storage, report.name) == report
    assert read_report(storage, "0" * 16) is None


def test_report_that_does_not_fit_is_none(shard):
    storage, report = shard
    for change in [
        {"videos": 3, "counts": {**dict.fromkeys(STATUSES, 0), "ok": 3}},
        {"clips": 5},
        {"video_bytes": 1},
        {"clip_bytes": 1},
        {"name": "0" * 16},
    ]:
        storage.write(report_file(report.name), replace(report, **change).to_json())
        assert read_report(storage, report.name) is None, change


def test_invalid_report_is_none(shard):
    storage, report = shard
    for text in [b"", b"{}", b"[]", b"null", b'{"name": 3', b"\xff\xfe"]:
        storage.write(report_file(report.name), text)
        assert read_report(storage, report.name) is None, text


def test_unreadable_report_is_an_error(shard):
    storage, report = shard
    path = storage.path_of(report_file(report.name))
    os.unlink(path)
    os.symlink(path, path)
    with pytest.raises(StorageError, match="Too many levels of symbolic links"):
        read_report(storage, report.name)


def test_files_of_a_killed_worker_are_removed_after_a_day(shard):
    storage, report = shard
    hidden = f"{TEMPORARY_PREFIX}0123"
    stale = [storage.path_of(file("x")).with_name(hidden) for file in (video_file, clip_file)]
    for path in stale:
        with open(path, "w"):
            pass
        os.utime(path, (0, time.time() - 23 * 3600))
    remove_stale(storage)
    assert all(map(os.path.exists, stale))
    for path in stale:
        os.utime(path, (0, time.time() - 25 * 3600))
        os.utime(storage.path_of(video_file(report.name)), (0, 0))
    remove_stale(storage)
    assert not any(map(os.path.exists, stale))
    assert read_report(storage, report.name) == report


def test_files_of_a_run_that_was_killed_are_removed_by_its_name(shard):
    root = shard[0].path_of("")
    kept, removed = [], []
    for run, number in (("a", 1), ("a", 11), ("a-1", 1), ("ab", 1)):
        storage = Storage(root, temporary=temporary_prefix(run, number))
        for file in (video_file("x"), clip_file("x"), "in_hand/x.json"):
            with storage.writing(file) as path:
                os.link(path, path.with_name(f"{path.name}-left"))
            storage.remove(file)
            is_removed = (run, number) == ("a", 1)
            (removed if is_removed else kept).append(path.with_name(f"{path.name}-left"))
    remove_temporary(shard[0], "a", 1)
    assert not any(map(os.path.exists, removed))
    assert all(map(os.path.exists, kept))
    with Storage(root, temporary=temporary_prefix("a")).writing("runs/a/plan.parquet") as path:
        os.link(path, path.with_name(f"{path.name}-left"))
    remove_temporary(shard[0], "a")
    assert [path.exists() for path in kept] == [False] * 3 + [True] * 6
    assert os.listdir(root / "runs" / "a") == ["plan.parquet"]


def test_temporary_name_of_a_run_with_a_long_name_fits_a_file_system(tmp_path):
    run = "r" * 255
    with Storage(tmp_path, temporary=temporary_prefix(run, 10**9)).writing("shards/x") as path:
        assert len(path.name) < 255
        assert path.name.startswith(temporary_prefix(run))


def test_folder_without_shards_has_no_stale_files(tmp_path):
    remove_stale(Storage(tmp_path / "missing"))
    remove_stale(Storage("memory://nowhere/out"))
