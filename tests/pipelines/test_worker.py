"""A shard from its videos to its files: one row each, in order, and nothing done twice."""

import json
import logging
import os
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient, ClipWindow
from c3d_client.core.errors import UsageError
from c3d_pipelines.errors import StorageError
from c3d_pipelines.shards import progress as shard_progress
from c3d_pipelines.shards.commits import name_of, read_report
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.fake_serving import LABELS
from support.films import write_film
from support.shard_runs import (
    files_in,
    job,
    meaning,
    mixed_rows,
    plain_job,
    read_clips,
    read_videos,
    row,
    run_python,
)

STATUSES = ["ok", "too_short", "ok", "corrupt", "ok", "unreadable", "ok"]


@pytest.fixture
def server(started):
    return started()


@pytest.fixture
def rows(tmp_path):
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_every_video_ends_in_one_row_in_the_order_of_the_plan(narrow_server, rows, out):
    settings = job(out, narrow_server.target)
    report = do_shard(settings, rows, 3)
    found = read_videos(out, report)
    assert [one["video_id"] for one in found] == [one.video_id for one in rows]
    assert [one["status"] for one in found] == STATUSES
    assert [one["n_frames"] for one in found] == [40, None, 24, None, 16, None, 56]
    assert [one["n_clips"] for one in found] == [4, None, 2, None, 1, None, 6]
    assert [one["first_clip_row"] for one in found] == [0, None, 4, None, 6, None, 7]
    assert [one["error_type"] for one in found if one["status"] != "ok"] == [
        "VideoTooShortError",
        "VideoDecodeError",
        "VideoUnreadableError",
    ]
    for one, asked in zip(found, rows, strict=True):
        assert (one["uri"], one["key"], one["size_bytes"]) == (
            asked.uri,
            asked.key,
            asked.size_bytes,
        )
        well = one["status"] == "ok"
        assert (one["feature"] is not None) == well
        assert (one["error_message"] == "") == well
        told = [one[name] for name in ("fps", "width", "height", "interlaced", "duration_s")]
        if well:
            assert told == [pytest.approx(25), 320, 240, False, pytest.approx(one["n_frames"] / 25)]
            assert one["wall_s"] > 0
            assert one["compute_s"] > 0
        else:
            assert told + [one["wall_s"], one["compute_s"]] == [None] * 7
    assert report == read_report(Storage(out), report.name)
    assert report.name == name_of(settings, rows)
    assert (report.run, report.index, report.answer) == ("run-1", 3, "features")
    assert (report.videos, report.clips, report.clips_answered, report.retries) == (7, 13, 13, 0)
    assert report.counts == {"ok": 4, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 0}
    assert report.started_at <= report.ended_at
    for name, seconds in report.timings.items():
        assert seconds == pytest.approx(sum(one[name] or 0 for one in found))
    assert files_in(out) == sorted(
        [clip_file(report.name), report_file(report.name), video_file(report.name)]
    )


def test_the_numbers_are_the_clients_own(narrow_server, rows, out):
    settings = job(out, narrow_server.target, batch_size=3)
    report = do_shard(settings, rows, 0)
    videos, clips = read_videos(out, report), read_clips(out, report)
    with C3DClient(narrow_server.target) as c3d:
        for one in videos:
            if one["status"] != "ok":
                continue
            alone = c3d.extract(one["uri"])
            own = clips[one["first_clip_row"] : one["first_clip_row"] + one["n_clips"]]
            assert {clip["video_id"] for clip in own} == {one["video_id"]}
            assert [clip["clip"] for clip in own] == list(range(one["n_clips"]))
            assert [clip["start_frame"] for clip in own] == alone.clip_starts.tolist()
            assert [[c["start_s"], c["end_s"]] for c in own] == alone.clip_times_s.tolist()
            np.testing.assert_allclose(
                [clip["feature"] for clip in own], alone.clip_features, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(one["feature"], alone.video_feature, rtol=1e-4, atol=1e-6)


def test_the_files_say_what_made_them(server, rows, out):
    settings = job(out, server.target, window=ClipWindow(stride=16))
    report = do_shard(settings, rows, 0)
    assert report.provenance == settings.provenance
    for file in (video_file(report.name), clip_file(report.name)):
        parquet = pq.ParquetFile(out / file, page_checksum_verification=True)
        said = json.loads(parquet.schema_arrow.metadata[b"provenance"])
        parquet.close()
        assert said == settings.provenance
        assert said["clips"]["stride"] == 16
        assert "video" not in said


def test_classes_come_with_their_labels_and_the_best_of_them(server, rows, out):
    settings = job(out, server.target, answer="classes")
    report = do_shard(settings, rows, 0)
    videos = read_videos(out, report)
    assert [one["top_label"] for one in videos if one["status"] == "ok"] == ["archery"] * 4
    assert videos[0]["top_probability"] == 0.5
    assert videos[0]["probabilities"] == [0.5, 0.25, 0.25]
    assert videos[1]["probabilities"] is None
    assert read_clips(out, report)[-1]["probabilities"] == [0.5, 0.25, 0.25]
    said = pq.read_schema(out / video_file(report.name)).metadata[b"labels"]
    assert json.loads(said) == LABELS


def test_a_run_may_keep_no_clips(server, rows, out):
    report = do_shard(job(out, server.target, clip_rows=False), rows, 0)
    assert (report.clips, report.clip_bytes, report.clips_answered) == (0, 0, 13)
    assert files_in(out) == [report_file(report.name), video_file(report.name)]
    assert {one["first_clip_row"] for one in read_videos(out, report)} == {None}


def test_a_shard_in_which_nothing_is_well_is_a_shard_too(server, rows, out):
    report = do_shard(job(out, server.target), [rows[1], rows[3], rows[5]], 0)
    assert (report.videos, report.clips, report.counts["ok"]) == (3, 0, 0)
    assert read_clips(out, report) == []
    assert read_report(Storage(out), report.name) == report


def test_an_empty_shard_has_a_report_and_no_files(out):
    settings = replace(plain_job(out, "localhost:1"), provenance={"clips": {"stride": 8}})
    report = do_shard(settings, [], 0)
    assert (report.videos, report.clips, report.video_bytes) == (0, 0, 0)
    assert not out.exists()


def test_without_provenance_nothing_is_begun(rows, out):
    with pytest.raises(UsageError, match="hold no provenance; ask the server first"):
        do_shard(plain_job(out, "localhost:1"), rows, 0)


def test_what_is_done_is_not_done_again(server, rows, out):
    settings = job(out, server.target)
    report = do_shard(settings, rows, 0)
    before = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    asked = len(server.requests)
    told = []
    assert do_shard(settings, rows, 0, on_progress=told.append) == report
    assert len(server.requests) == asked
    assert {name: (out / name).stat().st_mtime_ns for name in files_in(out)} == before
    assert [(one.state, one.done, one.ok) for one in told] == [("done", 7, 4)]


def test_another_run_does_again_what_nobody_can_know_again(server, rows, out):
    rows = [replace(rows[0], key=""), rows[2]]
    settings = job(out, server.target)
    first = do_shard(settings, rows, 0)
    assert first.counts["ok"] == 2
    assert do_shard(settings, rows, 0) == first
    again = do_shard(replace(settings, run="run-2"), rows, 0)
    assert (again.name, again.run) == (first.name, "run-2")


def test_another_run_does_again_what_was_not_well(server, rows, out):
    settings = job(out, server.target)
    all_well = [rows[0], rows[2]]
    well, mixed = do_shard(settings, all_well, 0), do_shard(settings, rows, 1)
    write_film(out.parent / "videos" / "missing.mp4", 16)
    settings = replace(settings, run="run-2")
    assert do_shard(settings, all_well, 0) == well
    again = do_shard(settings, rows, 1)
    assert (again.name, again.run, again.counts["ok"]) == (mixed.name, "run-2", 5)
    assert read_videos(out, again)[5]["status"] == "ok"


def test_an_earlier_report_is_gone_before_other_files_take_their_names(
    server, rows, out, monkeypatch
):
    settings = job(out, server.target)
    earlier = do_shard(settings, rows[5:6], 0)
    write = Storage.write
    told = []

    def broken_off(self, name, *args, **kwargs):
        told.append(read_report(self, earlier.name))
        raise StorageError(name, "broken off")

    monkeypatch.setattr(Storage, "write", broken_off)
    with pytest.raises(StorageError):
        do_shard(replace(settings, run="run-2"), rows[5:6], 0)
    monkeypatch.setattr(Storage, "write", write)
    # Though these rows are the same, and the earlier report would fit them.
    assert told == [None]
    assert do_shard(replace(settings, run="run-2"), rows[5:6], 0).run == "run-2"


@pytest.mark.parametrize("damage", ["report", "videos", "clips", "no clips", "longer", "no videos"])
def test_a_shard_whose_files_do_not_fit_its_report_is_done_again(server, rows, out, damage):
    settings = job(out, server.target)
    report = do_shard(settings, rows[:3], 0)
    whole = meaning(out, report)
    videos, clips = out / video_file(report.name), out / clip_file(report.name)
    if damage == "report":
        (out / report_file(report.name)).write_text(report.to_json()[:-9])
    elif damage == "longer":
        videos.write_bytes(videos.read_bytes() + b"\0")
    elif damage.startswith("no "):
        (clips if damage == "no clips" else videos).unlink()
    else:
        path = clips if damage == "clips" else videos
        path.write_bytes(bytes(path.stat().st_size))
    assert read_report(Storage(out), report.name) is None
    again = do_shard(settings, rows[:3], 0)
    assert meaning(out, again) == whole
    assert read_report(Storage(out), report.name) == again


def test_the_row_tells_which_content_was_read(server, tmp_path, out):
    path = write_film(tmp_path / "a.mp4", 16)
    planned = row(path)
    write_film(path, 32)
    os.utime(path, ns=(5, 5))
    digest = replace(planned, video_id="digest", key="sha256:" + "ab" * 32)
    unasked = replace(planned, video_id="unasked", key="")
    own = replace(planned, video_id="own", key="edition 7")
    report = do_shard(job(out, server.target), [planned, digest, unasked, own], 0)
    now = row(path)
    assert now.key != planned.key
    keys = [one["key"] for one in read_videos(out, report)]
    assert keys == [now.key, digest.key, now.key, "edition 7"]
    assert {one["size_bytes"] for one in read_videos(out, report)} == {now.size_bytes}
    assert report.name == name_of(job(out, server.target), [planned, digest, unasked, own])


def test_progress_is_told_of_each_video(server, rows, out):
    told = []
    do_shard(job(out, server.target), rows, 4, on_progress=told.append)
    assert [one.done for one in told] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [one.state for one in told] == ["running"] * 7 + ["done"]
    assert {(one.shard, one.videos) for one in told} == {(4, 7)}
    assert (told[-1].ok, told[-1].failed, told[-1].clips) == (4, 3, 13)
    assert all(one.ok + one.failed == one.done for one in told)


def test_the_log_has_a_line_for_each_twentieth(server, rows, out, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "c3d_pipelines.shards.worker")
    do_shard(job(out, server.target), rows, 4)
    lines = caplog.messages
    assert lines[2].startswith("shard 4: 3 of 7 videos (2 ok, 1 too_short), ")
    assert lines[2].endswith(" clips/s")
    assert len(lines) == 7
    caplog.clear()
    monkeypatch.setattr(shard_progress, "_LINES_A_SHARD", 2)
    do_shard(job(out, server.target, clip_rows=False), rows, 4)
    assert [line.split(" (")[0] for line in caplog.messages] == [
        "shard 4: 4 of 7 videos",
        "shard 4: 7 of 7 videos",
    ]


def test_a_watcher_finds_a_file_that_is_whole_at_any_time(server, rows, out, tmp_path, monkeypatch):
    folder = tmp_path / "progress"
    folder.mkdir()
    monkeypatch.setenv("C3D_PROGRESS_FOLDER", str(folder))
    monkeypatch.setattr(shard_progress, "_FILE_EVERY_S", 0.01)
    seen = []

    def look(progress):
        seen.append(json.loads((folder / "run-1-2.json").read_text())["state"])

    do_shard(job(out, server.target), rows, 2, on_progress=look)
    assert set(seen[:-1]) == {"running"}
    assert seen[-1] == "done"
    assert [path.name for path in folder.iterdir()] == ["run-1-2.json"]
    assert json.loads((folder / "run-1-2.json").read_text()) == {
        "shard": 2,
        "videos": 7,
        "done": 7,
        "ok": 4,
        "failed": 3,
        "clips": 13,
        "state": "done",
    }
    do_shard(job(out, server.target), rows, 2)  # what was done before is told, too
    assert json.loads((folder / "run-1-2.json").read_text())["done"] == 7


def test_a_progress_folder_that_is_not_there_stops_nothing(server, rows, out, monkeypatch):
    monkeypatch.setenv("C3D_PROGRESS_FOLDER", str(out / "nowhere"))
    assert do_shard(job(out, server.target), rows, 2).videos == 7


def test_as_many_videos_are_in_flight_as_asked_for(server, tmp_path, out):
    path = write_film(tmp_path / "a.mp4", 32)
    rows = [row(path, str(number)) for number in range(12)]
    together = []

    def on_predict(*_):
        together.append(server.in_flight)
        time.sleep(0.02)

    settings = job(out, server.target, workers=3, batch_size=1)
    server.on_predict = on_predict
    report = do_shard(settings, rows, 0)
    assert report.counts["ok"] == 12
    assert max(together) >= 3
    assert [one["video_id"] for one in read_videos(out, report)] == [str(n) for n in range(12)]


def test_a_model_without_classes_is_named_before_any_video(server, rows, out):
    settings = job(out, server.target, answer="classes")
    del server.signatures["classify"]
    with pytest.raises(UsageError, match="no signature 'classify'"):
        do_shard(settings, rows, 0)
    assert files_in(out) == []


MEMORY = r"""
import json, re, sys
import numpy as np
from c3d_client import ClipWindow
from c3d_client.serving.client import Answer, ServingClient
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import job, row

out, target, film, short = sys.argv[1:]
settings = job(out, target, workers=2, window=ClipWindow(stride=1))

def answers(self, signature, batches):
    # Without the wire, which the client measures for itself: so there can be many.
    for rows in batches:
        features = np.random.default_rng(0).random((len(rows), 4096), np.float32)
        yield Answer(features, version=1, latency_s=0.0, queue_s=None, compute_s=None)

ServingClient.stream = answers

def peak():  # of this process alone; getrusage counts the one that started it, too
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024

def films(path, count, name):
    return [row(path, f"{name} {number}") for number in range(count)]

peaks = []
for rows in (
    films(short, 100, "few"),
    films(short, 600, "many"),
    films(film, 1, "long"),
):
    do_shard(settings, rows, 0)
    peaks.append(peak())
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_number_or_length_of_videos(server, tmp_path, out):
    # In MB: the features of 100 videos of 12 clips are 21, of 600 are 128, and of the long one 82.
    short = write_film(tmp_path / "short.mp4", 27, width=64, height=48)
    film = write_film(tmp_path / "long.mp4", 5_015, width=64, height=48)
    with run_python(MEMORY, out, server.target, film, short) as process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    few, many, long = json.loads(said)
    # Where a group of rows is written while two videos are read differs from run to run.
    assert many - few <= 40, (few, many)
    assert long - few <= 40, (few, long)
