"""The worker: one row per video, in order, and no shard done twice."""

import json
import logging
import os
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient, ClipWindow
from c3d_client.core.errors import UsageError
from c3d_pipelines.errors import StorageError
from c3d_pipelines.shards import progress as shard_progress
from c3d_pipelines.shards.commits import name_of, names_of, read_report
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.fake_serving import LABELS
from support.processes import LONG_S
from support.shard_runs import (
    files_in,
    job,
    plain_job,
    read_clips,
    read_videos,
    row,
    run_python,
    stable_content,
)
from support.videos import write_video

STATUSES = ["ok", "too_short", "ok", "corrupt", "ok", "unreadable", "ok"]


def test_every_video_is_one_row_in_the_order_of_the_plan(narrow_server, rows, out):
    settings = job(out, narrow_server.target)
    report = do_shard(settings, rows, 3)
    stored = read_videos(out, report)
    assert [item["video_id"] for item in stored] == [item.video_id for item in rows]
    assert [item["status"] for item in stored] == STATUSES
    assert [item["n_frames"] for item in stored] == [40, None, 24, None, 16, None, 56]
    assert [item["n_clips"] for item in stored] == [4, None, 2, None, 1, None, 6]
    assert [item["first_clip_row"] for item in stored] == [0, None, 4, None, 6, None, 7]
    assert [item["error_type"] for item in stored if item["status"] != "ok"] == [
        "VideoTooShortError",
        "VideoDecodeError",
        "VideoUnreadableError",
    ]
    for item, planned in zip(stored, rows, strict=True):
        for name in ("uri", "key", "size_bytes"):
            assert item[name] == getattr(planned, name)
        is_ok = item["status"] == "ok"
        assert (item["feature"] is not None) == is_ok
        assert (item["error_message"] == "") == is_ok
        reported = [item[name] for name in ("fps", "width", "height", "interlaced", "duration_s")]
        if is_ok:
            assert reported == pytest.approx([25, 320, 240, False, item["n_frames"] / 25])
            assert item["wall_s"] > 0
            assert item["compute_s"] > 0
        else:
            assert reported + [item["wall_s"], item["compute_s"]] == [None] * 7
    assert report == read_report(Storage(out), report.name)
    assert report.name == name_of(settings, rows)
    assert (report.run, report.index, report.answer) == ("run-1", 3, "features")
    assert (report.videos, report.clips, report.clips_answered, report.retries) == (7, 13, 13, 0)
    assert report.counts == {"ok": 4, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 0}
    assert report.started_at <= report.ended_at
    for name, seconds in report.timings.items():
        assert seconds == pytest.approx(sum(item[name] or 0 for item in stored))
    assert files_in(out) == sorted(
        [clip_file(report.name), report_file(report.name), video_file(report.name)]
    )


def test_numbers_are_those_of_the_client(narrow_server, rows, out):
    settings = job(out, narrow_server.target, batch_size=3)
    report = do_shard(settings, rows, 0)
    videos, clips = read_videos(out, report), read_clips(out, report)
    with C3DClient(narrow_server.target) as c3d:
        for item in videos:
            if item["status"] != "ok":
                continue
            result = c3d.extract(item["uri"])
            stored_clips = clips[item["first_clip_row"] : item["first_clip_row"] + item["n_clips"]]
            assert {clip["video_id"] for clip in stored_clips} == {item["video_id"]}
            assert [clip["clip"] for clip in stored_clips] == list(range(item["n_clips"]))
            assert [clip["start_frame"] for clip in stored_clips] == result.clip_starts.tolist()
            assert [
                [c["start_s"], c["end_s"]] for c in stored_clips
            ] == result.clip_times_s.tolist()
            np.testing.assert_allclose(
                [clip["feature"] for clip in stored_clips],
                result.clip_features,
                rtol=1e-4,
                atol=1e-5,
            )
            np.testing.assert_allclose(item["feature"], result.video_feature, rtol=1e-4, atol=1e-6)


def test_files_have_the_provenance(server, rows, out):
    settings = job(out, server.target, window=ClipWindow(stride=16))
    report = do_shard(settings, rows, 0)
    assert report.provenance == settings.provenance
    for file in (video_file(report.name), clip_file(report.name)):
        parquet = pq.ParquetFile(out / file, page_checksum_verification=True)
        stored_metadata = json.loads(parquet.schema_arrow.metadata[b"provenance"])
        parquet.close()
        assert stored_metadata == settings.provenance
        assert stored_metadata["clips"]["stride"] == 16
        assert "video" not in stored_metadata


def test_classes_have_labels_and_the_best_class(server, rows, out):
    settings = job(out, server.target, answer="classes")
    report = do_shard(settings, rows, 0)
    videos = read_videos(out, report)
    assert [item["top_label"] for item in videos if item["status"] == "ok"] == ["archery"] * 4
    assert videos[0]["top_probability"] == 0.5
    assert videos[0]["probabilities"] == [0.5, 0.25, 0.25]
    assert videos[1]["probabilities"] is None
    assert read_clips(out, report)[-1]["probabilities"] == [0.5, 0.25, 0.25]
    stored_metadata = pq.read_schema(out / video_file(report.name)).metadata[b"labels"]
    assert json.loads(stored_metadata) == LABELS


def test_clips_are_not_stored_without_clip_rows(server, rows, out):
    report = do_shard(job(out, server.target, clip_rows=False), rows, 0)
    assert (report.clips, report.clip_bytes, report.clips_answered) == (0, 0, 13)
    assert files_in(out) == [report_file(report.name), video_file(report.name)]
    assert {item["first_clip_row"] for item in read_videos(out, report)} == {None}


def test_shard_without_ok_videos_has_files_and_a_report(server, rows, out):
    report = do_shard(job(out, server.target), [rows[1], rows[3], rows[5]], 0)
    assert (report.videos, report.clips, report.counts["ok"]) == (3, 0, 0)
    assert read_clips(out, report) == []
    assert read_report(Storage(out), report.name) == report


def test_empty_shard_has_a_report_and_no_files(out):
    settings = replace(plain_job(out, "localhost:1"), provenance={"clips": {"stride": 8}})
    report = do_shard(settings, [], 0)
    assert (report.videos, report.clips, report.video_bytes) == (0, 0, 0)
    assert not out.exists()


def test_settings_without_provenance_are_refused(rows, out):
    with pytest.raises(UsageError, match="have no provenance; run the preflight"):
        do_shard(plain_job(out, "localhost:1"), rows, 0)


def test_done_shard_is_not_done_again(server, rows, out):
    settings = job(out, server.target)
    report = do_shard(settings, rows, 0)
    before = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    requests = len(server.requests)
    reported = []
    assert do_shard(settings, rows, 0, on_progress=reported.append) == report
    assert len(server.requests) == requests
    assert {name: (out / name).stat().st_mtime_ns for name in files_in(out)} == before
    assert [(item.state, item.done, item.ok) for item in reported] == [("done", 7, 4)]


def test_another_run_repeats_videos_without_a_key(server, rows, out):
    rows = [replace(rows[0], key=""), rows[2]]
    settings = job(out, server.target)
    first = do_shard(settings, rows, 0)
    assert first.counts["ok"] == 2
    assert do_shard(settings, rows, 0) == first
    repeated = do_shard(replace(settings, run="run-2"), rows, 0)
    assert (repeated.name, repeated.run) == (first.name, "run-2")


def test_another_run_repeats_failures(server, rows, out):
    settings = job(out, server.target)
    ok_rows = [rows[0], rows[2]]
    all_ok, mixed = do_shard(settings, ok_rows, 0), do_shard(settings, rows, 1)
    write_video(out.parent / "videos" / "missing.mp4", 16)
    settings = replace(settings, run="run-2")
    assert do_shard(settings, ok_rows, 0) == all_ok
    repeated = do_shard(settings, rows, 1)
    assert (repeated.name, repeated.run, repeated.counts["ok"]) == (mixed.name, "run-2", 5)
    assert read_videos(out, repeated)[5]["status"] == "ok"


def test_shard_that_release_0_1_0_named_is_not_done_again(server, rows, out):
    settings, rows = job(out, server.target), [rows[0], rows[2]]
    done = do_shard(settings, rows, 0)
    former = replace(done, name=names_of(settings, rows)[1])
    for file in (video_file, clip_file, report_file):
        (out / file(done.name)).rename(out / file(former.name))
    (out / report_file(former.name)).write_text(former.to_json())
    before = files_in(out)
    requests = len(server.requests)
    for run in ("run-1", "run-2"):  # the same run, and another one: all videos are ok
        assert do_shard(replace(settings, run=run), rows, 0) == former
    assert len(server.requests) == requests
    assert files_in(out) == before
    # With failures, another run does it again.
    former = replace(former, counts={**former.counts, "ok": 1, "failed": 1})
    (out / report_file(former.name)).write_text(former.to_json())
    assert do_shard(settings, rows, 0) == former
    again = do_shard(replace(settings, run="run-2"), rows, 0)
    assert (again.name, again.counts["ok"]) == (done.name, 2)


def test_shard_records_the_versions_of_its_own_process(server, rows, out, monkeypatch):
    settings = job(out, server.target)
    monkeypatch.setattr("c3d_client.client.decoder_versions", lambda: {"pyav": "99.0"})
    report = do_shard(settings, rows[:1], 0)
    assert report.counts["ok"] == 1
    assert report.name == name_of(settings, rows[:1])
    assert report.provenance["software"]["pyav"] == "99.0"
    metadata = pq.read_metadata(out / video_file(report.name)).metadata
    assert json.loads(metadata[b"provenance"]) == report.provenance


def test_earlier_report_is_removed_before_its_files_are_replaced(server, rows, out, monkeypatch):
    settings = job(out, server.target)
    earlier = do_shard(settings, rows[5:6], 0)
    reports = []

    def fail(self, name, *args, **kwargs):
        reports.append(read_report(self, earlier.name))
        raise StorageError(name, "cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", fail)
        with pytest.raises(StorageError):
            do_shard(replace(settings, run="run-2"), rows[5:6], 0)
    # The earlier report is removed even though it would fit the new files: the rows are the same.
    assert reports == [None]
    assert do_shard(replace(settings, run="run-2"), rows[5:6], 0).run == "run-2"


@pytest.mark.parametrize("damage", ["report", "videos", "clips", "no clips", "longer", "no videos"])
def test_shard_whose_files_do_not_fit_its_report_is_done_again(server, rows, out, damage):
    settings = job(out, server.target)
    report = do_shard(settings, rows[:3], 0)
    expected = stable_content(out, report)
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
    repeated = do_shard(settings, rows[:3], 0)
    assert stable_content(out, repeated) == expected
    assert read_report(Storage(out), report.name) == repeated


def test_row_has_the_key_of_the_content_that_was_read(server, tmp_path, out):
    path = write_video(tmp_path / "a.mp4", 16)
    planned = row(path)
    write_video(path, 32)
    os.utime(path, ns=(5, 5))
    digest = replace(planned, video_id="digest", key="sha256:" + "ab" * 32)
    keyless = replace(planned, video_id="keyless", key="")
    edition = replace(planned, video_id="edition", key="edition 7")
    rows, settings = [planned, digest, keyless, edition], job(out, server.target)
    report = do_shard(settings, rows, 0)
    replaced = row(path)
    assert replaced.key != planned.key
    videos = read_videos(out, report)
    assert [video["key"] for video in videos] == [
        replaced.key,
        digest.key,
        replaced.key,
        "edition 7",
    ]
    assert {video["size_bytes"] for video in videos} == {replaced.size_bytes}
    assert report.name == name_of(settings, rows)


def test_progress_is_reported_for_each_video(server, rows, out):
    reported = []
    do_shard(job(out, server.target), rows, 4, on_progress=reported.append)
    assert [item.done for item in reported] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [item.state for item in reported] == ["running"] * 7 + ["done"]
    assert {(item.shard, item.videos) for item in reported} == {(4, 7)}
    assert (reported[-1].ok, reported[-1].failed, reported[-1].clips) == (4, 3, 13)
    assert all(item.ok + item.failed == item.done for item in reported)


def test_log_has_a_line_for_each_twentieth(server, rows, out, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "c3d_pipelines.shards.worker")
    do_shard(job(out, server.target), rows, 4)
    lines = caplog.messages
    assert lines[2].startswith("shard 4: 3 of 7 videos (2 ok, 1 too_short), ")
    assert lines[2].endswith(" clips/s")
    assert len(lines) == 7
    caplog.clear()
    monkeypatch.setattr(shard_progress, "_LINES_PER_SHARD", 2)
    do_shard(job(out, server.target, clip_rows=False), rows, 4)
    assert [line.split(" (")[0] for line in caplog.messages] == [
        "shard 4: 4 of 7 videos",
        "shard 4: 7 of 7 videos",
    ]


def test_progress_file_is_complete_at_any_time(server, rows, out, tmp_path, monkeypatch):
    folder = tmp_path / "progress"
    folder.mkdir()
    monkeypatch.setenv("C3D_PROGRESS_FOLDER", str(folder))
    monkeypatch.setattr(shard_progress, "_FILE_EVERY_S", 0.01)
    states = []

    def read_state(progress):
        states.append(json.loads((folder / "run-1-2.json").read_text())["state"])

    do_shard(job(out, server.target), rows, 2, on_progress=read_state)
    assert set(states[:-1]) == {"running"}
    assert states[-1] == "done"
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
    do_shard(job(out, server.target), rows, 2)  # a shard that was done before is reported too
    assert json.loads((folder / "run-1-2.json").read_text())["done"] == 7


def test_missing_progress_folder_is_ignored(server, rows, out, monkeypatch):
    monkeypatch.setenv("C3D_PROGRESS_FOLDER", str(out / "missing"))
    assert do_shard(job(out, server.target), rows, 2).videos == 7


def test_number_of_videos_at_a_time_is_the_workers_setting(server, tmp_path, out, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 32)
    rows = [row(path, str(number)) for number in range(12)]
    reading, most, are_three = set(), [], threading.Event()
    extract = C3DClient.extract

    def counted(self, source, **options):
        reading.add(threading.get_ident())
        most.append(len(reading))
        if len(reading) == 3:
            are_three.set()
        assert are_three.wait(LONG_S)
        try:
            return extract(self, source, **options)
        finally:
            reading.discard(threading.get_ident())

    monkeypatch.setattr(C3DClient, "extract", counted)
    report = do_shard(job(out, server.target, workers=3, batch_size=1), rows, 0)
    assert report.counts["ok"] == 12
    assert max(most) == 3
    assert [item["video_id"] for item in read_videos(out, report)] == [str(n) for n in range(12)]


def test_model_without_classes_is_refused_before_any_video(server, rows, out):
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

out, target, long, short = sys.argv[1:]
settings = job(out, target, workers=2, window=ClipWindow(stride=1))

def answers(self, requests, *, cancel=None):
    # Without the network, so that many videos take little time.
    for _, rows in requests:
        features = np.random.default_rng(0).random((len(rows), 4096), np.float32)
        yield Answer(features, version=1, latency_s=0.0, queue_s=None, compute_s=None)

ServingClient.stream_requests = answers

def peak():  # of this process alone; getrusage includes its parent
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024

def videos(path, count, name):
    return [row(path, f"{name} {number}") for number in range(count)]

peaks = []
for rows in (
    videos(short, 100, "few"),
    videos(short, 600, "many"),
    videos(long, 1, "long"),
):
    do_shard(settings, rows, 0)
    peaks.append(peak())
print(json.dumps(peaks))
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_or_length_of_videos(server, tmp_path, out):
    # In MB: the features of 100 videos of 12 clips are 21, of 600 are 128, of the long video 82.
    short = write_video(tmp_path / "short.mp4", 27, width=64, height=48)
    long = write_video(tmp_path / "long.mp4", 5_015, width=64, height=48)
    with run_python(MEMORY, out, server.target, long, short) as process:
        output = process.communicate(timeout=LONG_S)[0]
    assert process.returncode == 0
    few, many, longest = json.loads(output)
    # The moment when a row group is written differs from run to run.
    assert many - few <= 40, (few, many)
    assert longest - few <= 40, (few, longest)
