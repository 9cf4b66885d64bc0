"""A long shard is stored in parts, and a shard that is done again starts from them."""

from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import ContractMismatch
from c3d_pipelines.dataset.index import load_index
from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.shards import worker
from c3d_pipelines.shards.commits import name_of, part_name, read_parts, read_report
from c3d_pipelines.shards.in_hand import InHand, VideoInHand, read_in_hand
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage, temporary_prefix
from support.fake_serving import model_card
from support.shard_runs import after, files_in, job, read_clips, read_videos
from support.videos import write_video

TRIED = ["a.mp4", "short.mp4", "b.mp4", "damaged.mp4", "c.mp4", "missing.mp4", "z.mp4"]


@pytest.fixture
def commits(monkeypatch):
    """Store each video as soon as it is done."""
    monkeypatch.setattr(worker, "_COMMIT_EVERY_S", -1.0)
    monkeypatch.setattr(worker, "_COMMIT_SHARE", 0.0)


@pytest.fixture
def tried(monkeypatch):
    """The names of the videos whose processing began, in order."""
    names = []

    def recording(method):
        def record(self, source, **options):
            names.append(source.rpartition("/")[2])
            return method(self, source, **options)

        return record

    monkeypatch.setattr(C3DClient, "extract", recording(C3DClient.extract))
    monkeypatch.setattr(C3DClient, "classify", recording(C3DClient.classify))
    return names


class Killed(BaseException):
    """Ends a shard without an error of its own."""


def stop_after(count):
    def stop():
        raise Killed

    return after(count, stop)


def stored(out):
    """Return the rows of the index, without times and places, by video."""
    varying = {"wall_s", "decode_s", "wire_s", "queue_s", "compute_s"}
    varying |= {"shard", "row", "first_clip_row", "run"}
    table = load_index(Storage(out)).table
    return {
        row["video_id"]: {name: value for name, value in row.items() if name not in varying}
        for row in table.to_pylist()
    }


def numbers(out, column="feature"):
    """Return the numbers of the videos and of their clips, by video."""
    storage, found = Storage(out), {}
    for name in storage.names("shards"):
        if not name.endswith(".parquet"):
            continue
        clips = pq.read_table(out / name.replace("shards/", "clips/")).to_pylist()
        for row in pq.read_table(out / name).to_pylist():
            first = row["first_clip_row"] or 0
            own = clips[first : first + (row["n_clips"] or 0)]
            assert {clip["video_id"] for clip in own} <= {row["video_id"]}
            assert row["video_id"] not in found
            found[row["video_id"]] = (row[column], [clip[column] for clip in own])
    return found


def dead_attempt(out, *videos, run="run-1", shard=0, attempt="0", written_at=0.0):
    """Write what an attempt leaves that was killed with videos in hand."""
    listed = tuple(VideoInHand(row.video_id, row.uri, row.key) for row in videos)
    record = InHand(run, shard, attempt, False, listed, written_at)
    Storage(out).write(record.file, record.to_json())
    return record


@pytest.mark.parametrize("answer", ["features", "classes"])
def test_parts_have_the_rows_and_the_numbers_of_one_shard(
    narrow_server, server, rows, tmp_path, monkeypatch, answer
):
    target = (narrow_server if answer == "features" else server).target
    settings = job(tmp_path / "whole", target, answer=answer)
    whole = do_shard(settings, rows, 2)
    monkeypatch.setattr(worker, "_COMMIT_EVERY_S", -1.0)
    monkeypatch.setattr(worker, "_COMMIT_SHARE", 0.0)
    settings = replace(settings, out=str(tmp_path / "parts"))
    report = do_shard(settings, rows, 2)
    parts = read_parts(Storage(tmp_path / "parts"), whole.name)
    assert [part.name for part in parts[::-1]] == [
        part_name(settings, whole.name, [row]) for row in rows
    ]
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")
    column = "feature" if answer == "features" else "probabilities"
    assert numbers(tmp_path / "parts", column) == numbers(tmp_path / "whole", column)
    for name in ("name", "run", "index", "answer", "videos", "clips", "counts", "clips_answered"):
        assert getattr(report, name) == getattr(whole, name), name
    assert report.provenance == whole.provenance
    for name in ("videos", "clips", "video_bytes", "clip_bytes", "clips_answered", "retries"):
        assert getattr(report, name) == sum(getattr(part, name) for part in parts), name
    assert report.started_at == min(part.started_at for part in parts)
    assert report.ended_at == max(part.ended_at for part in parts)
    for part, later in zip(parts[:0:-1], parts[-2::-1], strict=True):
        assert part.ended_at == later.started_at
    assert files_in(tmp_path / "parts") == sorted(
        file(part.name) for part in parts for file in (video_file, clip_file, report_file)
    )


def test_shard_in_parts_is_not_done_again(server, rows, out, commits):
    settings = job(out, server.target)
    report = do_shard(settings, rows, 0)
    before = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    requests, reported = len(server.requests), []
    assert do_shard(settings, rows, 0, on_progress=reported.append) == report
    assert len(server.requests) == requests
    assert {name: (out / name).stat().st_mtime_ns for name in files_in(out)} == before
    assert [(item.state, item.done, item.ok) for item in reported] == [("done", 7, 4)]


@pytest.mark.parametrize("clip_rows", [True, False])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_next_attempt_does_the_rest(server, rows, out, commits, tried, count, clip_rows):
    settings = job(out, server.target, workers=1, clip_rows=clip_rows)
    with pytest.raises(Killed):
        do_shard(settings, rows, 0, on_progress=stop_after(count))
    name = name_of(settings, rows)
    # The last of the videos has its row, and is not stored.
    done = [part.name for part in read_parts(Storage(out), name)]
    assert done[::-1] == [part_name(settings, name, [row]) for row in rows[: count - 1]]
    tried.clear()
    reported = []
    report = do_shard(settings, rows, 0, on_progress=reported.append)
    assert tried == TRIED[count - 1 :]
    assert report.counts == {"ok": 4, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 0}
    assert (report.name, report.videos, report.clips) == (name, 7, 13 if clip_rows else 0)
    assert [item.done for item in reported] == [*range(count, 8), 7]
    assert Counter(row["status"] for row in stored(out).values()) == Counter(
        {status: number for status, number in report.counts.items() if number}
    )
    assert not [name for name in files_in(out) if name.startswith("in_hand")]


def test_shard_that_ends_before_the_first_commit_is_one_file(server, rows, out, tried):
    settings = job(out, server.target, workers=1)
    with pytest.raises(Killed):
        do_shard(settings, rows, 0, on_progress=stop_after(4))
    assert files_in(out) == []
    report = do_shard(settings, rows, 0)
    assert files_in(out) == [
        clip_file(report.name),
        report_file(report.name),
        video_file(report.name),
    ]
    assert report == read_report(Storage(out), name_of(settings, rows))


@pytest.mark.parametrize(
    ("elapsed_s", "pause_s"), [(0, 300), (6000, 300), (12_000, 600), (86_400, 4320)]
)
def test_parts_are_stored_every_five_minutes_and_less_often_later(elapsed_s, pause_s):
    assert worker._commit_after(elapsed_s) == pause_s


def test_another_run_takes_from_parts_what_is_ok_and_has_its_key(server, rows, out, commits, tried):
    rows = [replace(rows[0], key=""), *rows[1:]]
    settings = job(out, server.target, workers=1)
    with pytest.raises(Killed):
        do_shard(settings, rows, 0, on_progress=stop_after(6))
    tried.clear()
    report = do_shard(replace(settings, run="run-2"), rows, 5)
    # Without a key; too short and damaged, which this run planned again; not stored.
    assert tried == ["a.mp4", "short.mp4", "damaged.mp4", "missing.mp4", "z.mp4"]
    assert report.counts == {"ok": 4, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 0}
    assert (report.run, report.index, report.clips) == ("run-2", 5, 13)
    assert len(stored(out)) == 7
    assert {row["run"] for row in load_index(Storage(out)).table.to_pylist()} == {"run-1", "run-2"}


def test_parts_replace_the_shard_that_another_run_stored_as_a_whole(
    server, rows, out, commits, monkeypatch
):
    settings, rows = job(out, server.target), [replace(row, key="") for row in rows]
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_COMMIT_EVERY_S", 300.0)
        whole = do_shard(settings, rows, 0)
    write_video(rows[0].uri, 48)
    report = do_shard(replace(settings, run="run-2"), rows, 0)
    assert read_report(Storage(out), whole.name) is None
    assert (report.name, report.run, report.videos) == (whole.name, "run-2", 7)
    # The names of the plan's shards count as the newest when the run is published.
    table = load_index(Storage(out), first={whole.name}).table
    assert {row["run"] for row in table.to_pylist()} == {"run-2"}
    assert stored(out)["a.mp4"]["n_frames"] == 48


def test_shard_that_another_run_stored_is_replaced_also_after_a_kill(
    server, rows, out, commits, tried
):
    settings, rows = job(out, server.target, workers=1), [replace(row, key="") for row in rows]
    whole = name_of(settings, rows)
    report = replace(do_shard(settings, rows, 0), name=whole, run="run-0")
    # A worker was killed after the last part, and before it removed the other run's report.
    storage = Storage(out)
    parts = read_parts(storage, whole)
    for file in (video_file, clip_file):
        storage.write(file(whole), storage.read(file(parts[0].name)))
    former = replace(parts[0], name=whole, run="run-0")
    storage.write(report_file(whole), former.to_json())
    tried.clear()
    assert do_shard(settings, rows, 0) == replace(report, run="run-1")
    assert tried == []
    assert read_report(storage, whole) is None


def test_video_that_was_replaced_after_its_part_was_stored_is_done_again(
    server, rows, out, commits, tried
):
    settings = job(out, server.target, workers=1)
    rows = [rows[0], rows[2]]
    write_video(rows[0].uri, 48)  # replaced after the plan: stored with another key
    with pytest.raises(Killed):
        do_shard(settings, rows, 0, on_progress=stop_after(2))
    tried.clear()
    do_shard(replace(settings, run="run-2"), rows, 0)
    assert tried == ["a.mp4", "b.mp4"]


def test_damaged_part_is_done_again(server, rows, out, commits, tried):
    settings = job(out, server.target, workers=1)
    report = do_shard(settings, rows, 0)
    expected = stored(out)
    parts = [part_name(settings, report.name, [row]) for row in rows]
    (out / video_file(parts[0])).write_bytes(bytes((out / video_file(parts[0])).stat().st_size))
    (out / clip_file(parts[2])).unlink()
    (out / report_file(parts[4])).write_text("{")
    content = bytearray((out / video_file(parts[6])).read_bytes())
    content[4:40] = bytes(36)  # the pages; the footer is intact
    (out / video_file(parts[6])).write_bytes(content)
    tried.clear()
    assert do_shard(settings, rows, 0).counts == report.counts
    assert tried == ["a.mp4", "b.mp4", "c.mp4", "z.mp4"]
    assert stored(out) == expected


def test_part_is_not_stored_when_the_model_has_changed(server, rows, out, commits):
    settings = job(out, server.target, workers=1)
    card = server.card

    def change():
        server.card = model_card(weights={"source": "other", "sha256": "ef" * 32, "random": False})

    with pytest.raises(ContractMismatch):
        do_shard(settings, rows, 0, on_progress=after(3, change))
    assert len(read_parts(Storage(out), name_of(settings, rows))) == 2
    server.card = card
    assert do_shard(settings, rows, 0).videos == 7


def test_error_of_a_server_that_is_gone_counts_what_is_stored(
    server, rows, out, commits, short_pauses
):
    settings = job(out, server.target, workers=1, patience_s=0.5)
    # The third video is done, and cannot be stored any more: the model cannot be checked.
    with pytest.raises(ShardError, match="; 2 of its 7 videos are stored; start the run again"):
        do_shard(settings, rows, 0, on_progress=after(3, server.stop))


def test_videos_of_a_killed_attempt_come_last_and_one_at_a_time(server, rows, out, tried):
    settings = job(out, server.target, workers=2)
    undisturbed = stored_alone(settings, rows, out)
    tried.clear()
    dead_attempt(out, rows[0], rows[4])
    name, at_a_time = name_of(settings, rows), []

    def on_progress(progress):
        at_a_time.append((progress.done, len(read_parts(Storage(out), name))))

    report = do_shard(settings, rows, 0, on_progress=on_progress)
    assert sorted(tried[:5]) == sorted(
        ["short.mp4", "b.mp4", "damaged.mp4", "missing.mp4", "z.mp4"]
    )
    assert tried[5:] == ["a.mp4", "c.mp4"]
    # What is done is stored before each of them.
    assert at_a_time == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (7, 2), (7, 3)]
    assert report.counts["ok"] == 4
    assert report.name == name
    assert stored(out) == undisturbed
    assert read_in_hand(Storage(out)) == []


def stored_alone(settings, rows, out):
    other = out.with_name("undisturbed")
    do_shard(replace(settings, out=str(other)), rows, 0)
    return stored(other)


@pytest.mark.parametrize("row", [0, 6])
def test_video_of_two_deaths_fails_and_the_others_are_done(server, rows, out, tried, row):
    settings = job(out, server.target)
    dead_attempt(out, rows[row], rows[2])
    dead_attempt(out, rows[row], attempt="1")
    report = do_shard(settings, rows, 0)
    assert rows[row].video_id not in tried
    assert report.counts == {"ok": 3, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 1}
    failed = stored(out)[rows[row].video_id]
    assert (failed["status"], failed["error_type"]) == ("failed", "WorkerDied")
    assert "killed 2 times" in failed["error_message"]
    assert (failed["key"], failed["size_bytes"]) == (rows[row].key, rows[row].size_bytes)
    assert files_in(out / "in_hand") == []
    # The next run tries it again.
    report = do_shard(replace(settings, run="run-2"), rows, 0)
    assert report.counts["ok"] == 4


@pytest.mark.parametrize(
    ("change", "comes_last"),
    [
        ({}, True),
        ({"written_at": 1e12}, True),  # the former attempt is dead, however new its file is
        ({"shard": 1}, False),
        ({"run": "run-0"}, False),  # the plan counts the deaths of other runs
        ({"run": "run-1-0", "shard": 0}, False),
    ],
)
def test_only_attempts_at_the_same_shard_in_the_same_run_count(
    server, rows, out, tried, change, comes_last
):
    settings = job(out, server.target, workers=1)
    record = dead_attempt(out, rows[0], rows[1], **change)
    dead_attempt(out, rows[2], rows[4], attempt="1", **change)
    do_shard(settings, rows, 0)
    assert (tried != TRIED) == comes_last
    assert sorted(tried) == sorted(TRIED)
    # Files of other shards stay, until publishing finds newer rows of their videos.
    is_own = (record.run, record.shard) == ("run-1", 0)
    assert (out / record.file).exists() != is_own


def test_video_with_another_key_is_no_suspect(server, rows, out, tried):
    dead_attempt(out, replace(rows[0], key="other"))
    dead_attempt(out, replace(rows[0], key="other"), attempt="1")
    do_shard(job(out, server.target, workers=1), rows, 0)
    assert tried == TRIED


def test_video_that_the_plan_hands_over_as_dead_is_not_tried(server, rows, out, tried):
    report = do_shard(job(out, server.target), rows[:1], 0, deaths={"a.mp4": 3, "x": 2})
    assert tried == []
    [row] = read_videos(out, report)
    assert (row["status"], row["error_type"]) == ("failed", "WorkerDied")
    assert "killed 3 times" in row["error_message"]
    assert row["feature"] is None
    assert read_clips(out, report) == []


def test_file_of_the_videos_in_hand_is_there_while_a_video_is_read(server, rows, out, monkeypatch):
    lists = []
    extract = C3DClient.extract

    def record(self, source, **options):
        [attempt] = read_in_hand(Storage(out))
        lists.append((source, attempt))
        return extract(self, source, **options)

    monkeypatch.setattr(C3DClient, "extract", record)
    do_shard(job(out, server.target, workers=2), rows, 3)
    do_shard(job(out, server.target, run="run-2"), rows[:1], 0)
    assert len(lists) == 8
    for source, attempt in lists:
        assert source in [video.uri for video in attempt.videos]
        assert 1 <= len(attempt.videos) <= 2
    assert [(attempt.run, attempt.shard, attempt.is_only_video) for _, attempt in lists] == [
        ("run-1", 3, False)
    ] * 7 + [("run-2", 0, True)]
    assert read_in_hand(Storage(out)) == []


def test_storage_that_takes_no_list_of_videos_in_hand_stops_no_shard(
    server, rows, out, monkeypatch, caplog
):
    def fail(self, name, text, **_):
        raise StorageError(name, "cannot be written (slow down)")

    monkeypatch.setattr(Storage, "write_small", fail)
    report = do_shard(job(out, server.target), rows, 0)
    assert report.counts["ok"] == 4
    lines = [line for line in caplog.messages if "if this worker is killed" in line]
    assert len(lines) == 1
    assert "slow down" in lines[0]


def test_half_written_files_of_the_killed_attempt_are_removed(server, rows, out):
    settings = job(out, server.target)
    left = []
    for shard in (0, 1):
        for folder in ("shards", "clips", "in_hand"):
            (out / folder).mkdir(exist_ok=True)
            left.append(out / folder / f"{temporary_prefix('run-1', shard)}0123")
            left[-1].touch()
    do_shard(settings, rows, 0)
    assert [path.exists() for path in left] == [False] * 3 + [True] * 3


def test_temporary_files_carry_the_run_and_the_shard(server, rows, out):
    found = []

    def look(_):
        found.extend(name for name in files_in(out) if "/." in name)

    do_shard(job(out, server.target), rows, 12, on_progress=look)
    assert found
    for name in found:
        assert name.partition("/")[2].startswith(".c3d-run-1~12~"), name
