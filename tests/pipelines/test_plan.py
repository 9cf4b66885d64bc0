"""Plans: every input once, and only the work that no earlier run has done."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import time

import pytest
from c3d_client import ClipWindow
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.listing import list_inputs
from c3d_pipelines.inputs.manifest import ManifestRow, write_manifest
from c3d_pipelines.inputs.plan import read_notes, read_plan, write_plan
from c3d_pipelines.run.plan import make_plan
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.in_hand import InHand, VideoInHand
from c3d_pipelines.shards.schema import report_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support import sample_shards
from support.videos import write_video

SHA = [f"sha256:{n}" for n in range(9)]


@pytest.fixture
def manifest(tmp_path):
    """Write rows as a manifest and return its path."""

    def write(*rows, name="m.jsonl"):
        write_manifest(tmp_path / name, rows)
        return str(tmp_path / name)

    return write


def row(name, key=SHA[0], *, uri="", size=1000):
    return ManifestRow(name, uri or f"/videos/{name}", size, 0.0, key)


def decisions(planned):
    """Return the decision by id, with the original of a duplicate."""
    return {item.row.video_id: f"{item.decision} {item.duplicate_of}".strip() for item in planned}


def duplicates(planned):
    """Return the decision by id of all inputs that are not to do."""
    return {name: decision for name, decision in decisions(planned).items() if decision != "do"}


def publish_dataset(out, rows, *, published=True, **kind):
    """Make the dataset of an earlier run."""
    job = sample_shards.settings(out, **kind.pop("job", {}))
    sample_shards.commit(job, rows, **kind)
    if published:
        publish(job, sample_shards.to_do(*rows))


def test_every_input_is_planned_once_in_order_with_shards_for_those_to_do(manifest, out):
    rows = [row(f"v{n}", SHA[n], size=3_000_000) for n in range(6)]
    planned = make_plan(manifest(*rows), str(out), shard_mb=6)
    assert [item.row for item in planned] == rows
    assert [item.shard for item in planned] == [0, 0, 1, 1, 2, 2]
    assert set(decisions(planned).values()) == {"do"}
    assert [item.shard for item in make_plan(manifest(*rows), "", max_shards=1)] == [0] * 6
    assert not out.exists()


@pytest.mark.parametrize("published", [True, False], ids=["published", "killed before"])
def test_done_videos_are_not_done_again(manifest, out, published):
    rows = [row(f"v{n}", SHA[n]) for n in range(5)]
    statuses = {"v1": "too_short", "v2": "corrupt", "v3": "unreadable", "v4": "failed"}
    publish_dataset(out, rows, statuses=statuses, published=published)
    videos = manifest(*rows, row("new", SHA[7]))
    expected = {
        "v0": "done",
        "v1": "known_failure",
        "v2": "known_failure",
        "v3": "do",
        "v4": "do",
        "new": "do",
    }
    planned = make_plan(videos, str(out))
    assert decisions(planned) == expected
    assert [item.shard for item in planned] == [-1, -1, -1, 0, 0, 0]
    repeated = make_plan(videos, str(out), retry_failed=True)
    assert decisions(repeated) == {**expected, "v1": "do", "v2": "do"}


def test_changed_videos_are_done_again(manifest, out):
    publish_dataset(
        out, [row("a", SHA[1]), row("b", SHA[2]), row("c", SHA[3]), row("d", "", uri="rtsp://h/d")]
    )
    changed = [
        row("a", SHA[8]),
        row("b", SHA[2], uri="/moved/b"),
        row("e", SHA[3], uri="/videos/c"),
        row("d", "", uri="rtsp://h/d"),
    ]
    assert set(decisions(make_plan(manifest(*changed), str(out))).values()) == {"do"}


def test_url_with_a_new_signature_is_the_same_video(manifest, out):
    uri = "https://me:pw@host/a.mp4?token="
    publish_dataset(out, [row("a", uri=uri + "1")])
    assert decisions(make_plan(manifest(row("a", uri=uri + "2")), str(out))) == {"a": "done"}


def test_same_uri_twice_is_one_video(manifest):
    rows = [
        row("a", "", uri="/videos/a.mp4"),
        row("b", "", uri="/videos/x/../a.mp4"),
        row("c", "", uri="file:///videos/a.mp4"),
        row("d", "", uri="rtsp://h/d"),
        row("e", "", uri="rtsp://h/d"),
        row("f", "version 1", uri="/videos/f.mp4"),
        row("g", "version 2", uri="/videos/f.mp4"),
        row("h", "v", uri="s3://bucket/h.mp4"),
        row("i", "v", uri="s3a://bucket/h.mp4"),
        row("j", "v", uri="https://host/a.mp4?part=1"),
        row("k", "v", uri="https://host/a.mp4?part=2"),
    ]
    planned = make_plan(manifest(*rows), "")
    assert duplicates(planned) == {
        "b": "duplicate a",
        "c": "duplicate a",
        "e": "duplicate d",
        "i": "duplicate h",
    }


def test_same_content_is_one_video_where_keys_show_it(manifest):
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    rows = [
        row("sha", SHA[1]),
        row("sha again", SHA[1], size=0),
        row("stat", "stat:5-7"),
        row("stat other", "stat:5-7"),
        row("etag", "etag:x", uri="s3://bucket/1.mp4"),
        row("etag again", "etag:x", uri="s3a://bucket/deep/2.mp4"),
        row("etag longer", "etag:x", uri="s3://bucket/3.mp4", size=1001),
        row("etag elsewhere", "etag:x", uri="s3://tekcub/1.mp4"),
        row("etag of gs", "etag:x", uri="gs://bucket/1.mp4"),
        row("etag of gs other", "etag:x", uri="gs://bucket/2.mp4"),
        row("etag of web", "etag:x", uri="https://host/1.mp4"),
        row("etag of web other", "etag:x", uri="https://host/2.mp4"),
        row("md5", "checksum:x", uri="gs://bucket/3.mp4"),
        row("md5 again", "checksum:x", uri="gs://tekcub/3.mp4"),
        row("edition", "version 1"),
        row("edition other", "version 1"),
        row("nothing", empty, size=0),
        row("nothing other", empty, size=0),
        row("no etag", "etag:y", uri="s3://bucket/4.mp4", size=0),
        row("no etag other", "etag:y", uri="s3://bucket/5.mp4", size=0),
    ]
    planned = make_plan(manifest(*rows), "")
    assert duplicates(planned) == {
        "sha again": "duplicate sha",
        "etag again": "duplicate etag",
        "md5 again": "duplicate md5",
    }
    assert all((item.shard == -1) == (item.decision == "duplicate") for item in planned)


def test_duplicates_are_in_no_shard(manifest):
    rows = [row("a", SHA[1], size=3_000_000), row("b", SHA[1], size=3_000_000)]
    rows.append(row("c", SHA[2], size=3_000_000))
    planned = make_plan(manifest(*rows), "", shard_mb=3)
    assert [item.shard for item in planned] == [0, -1, 1]


def test_duplicate_refers_to_the_done_video_and_stays_so(manifest, out):
    rows = [row("a", SHA[1]), row("b", SHA[1]), row("c", SHA[1])]
    assert decisions(make_plan(manifest(*rows), str(out))) == {
        "a": "do",
        "b": "duplicate a",
        "c": "duplicate a",
    }
    publish_dataset(out, [rows[1]])
    for _ in range(2):
        planned = make_plan(manifest(*rows), str(out))
        expected = {"a": "duplicate b", "b": "done", "c": "duplicate b"}
        assert decisions(planned) == expected
        publish(sample_shards.settings(out), planned)


def test_duplicate_without_its_original_is_done(manifest, out):
    rows = [row("a", SHA[1]), row("b", SHA[1])]
    publish_dataset(out, rows[:1])
    publish(sample_shards.settings(out), make_plan(manifest(*rows), str(out)))
    assert decisions(make_plan(manifest(rows[1]), str(out))) == {"b": "do"}


@pytest.mark.parametrize("published", [True, False], ids=["published", "killed before"])
def test_dataset_that_was_made_differently_is_refused(manifest, out, published):
    rows = [row("a")]
    publish_dataset(out, rows, published=published)
    videos = manifest(*rows)
    for requested, message in (
        ({"answer": "classes"}, "answer: 'features' there, 'classes' requested"),
        ({"window": ClipWindow(stride=16)}, "clips.stride: 8 there, 16 requested"),
        ({"window": ClipWindow(frame_step=2)}, "clips.frame_step: 1 there, 2 requested"),
        ({"window": ClipWindow(tail="pad")}, "clips.tail: 'drop' there, 'pad' requested"),
        ({"window": ClipWindow(short="loop")}, "clips.short: 'error' there, 'loop' requested"),
        ({"window": ClipWindow(fps=12.5)}, "clips.fps: None there, 12.5 requested"),
        ({"window": ClipWindow(resize="fast")}, "preprocessing.resize: '171x128 opencv-linear' th"),
    ):
        with pytest.raises(ProvenanceError) as caught:
            make_plan(videos, str(out), **requested)
        assert message in str(caught.value), message
        assert str(caught.value).startswith(f"{out}: "), message
        assert "\n" not in str(caught.value), message


def test_dataset_of_the_same_window_is_accepted(manifest, out):
    window = ClipWindow(fps=25)
    provenance = sample_shards.PROVENANCE
    provenance = {**provenance, "clips": {**provenance["clips"], "fps": 25.0}}
    publish_dataset(out, [row("a")], job={"provenance": provenance, "window": window})
    assert decisions(make_plan(manifest(row("a")), str(out), window=window)) == {"a": "done"}


def test_dataset_of_other_versions_is_continued(manifest, out):
    publish_dataset(out, [row("a")], job={"provenance": sample_shards.NEWER})
    assert decisions(make_plan(manifest(row("a")), str(out))) == {"a": "done"}


def test_wrong_arguments_are_refused_before_listing():
    for wrong, message in (
        ({"answer": "colours"}, "answer is 'colours'"),
        ({"keys": "slow"}, "keys is 'slow'"),
        ({"shard_mb": 0}, "shard_mb is 0"),
        ({"shard_minutes": float("nan")}, "shard_minutes is nan"),
        ({"max_shards": 0}, "max_shards is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            make_plan("/absent", "", **wrong)


def test_plan_without_inputs_is_refused(tmp_path, out):
    with pytest.raises(ManifestError, match="no videos there"):
        make_plan(str(tmp_path), str(out))
    assert not out.exists()


@pytest.mark.long
def test_hundred_thousand_inputs_are_planned_in_seconds(manifest):
    videos = manifest(*(row(f"v{n}", f"etag:{n}", uri=f"s3://b/{n}") for n in range(100_000)))
    began = time.process_time()  # another process takes none of it
    planned = make_plan(videos, "", shard_mb=1)
    assert time.process_time() - began < 20
    assert len({item.shard for item in planned}) == 100


@pytest.mark.parametrize("keys", ["quick", "content"])
def test_second_and_third_run_do_only_new_videos(narrow_server, tmp_path, out, keys):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 20)
    write_video(videos / "short.mp4", 5)
    (videos / "broken.mp4").write_bytes(b"not a video")
    shutil.copy2(videos / "a.mp4", videos / "copy.mp4")

    def run(name):
        planned = make_plan(str(videos), str(out), keys=keys)
        settings = sample_shards.settings(out, name, server=narrow_server.target, workers=1)
        with settings.client() as c3d:
            settings = dataclasses.replace(settings, provenance=c3d.provenance())
        rows = [item.row for item in planned if item.decision == "do"]
        if rows:
            do_shard(settings, rows, 0)
        publish(settings, planned)
        return decisions(planned)

    copy = "duplicate a.mp4" if keys == "content" else "do"
    assert run("one") == {"a.mp4": "do", "broken.mp4": "do", "copy.mp4": copy, "short.mp4": "do"}
    failures = {"broken.mp4": "known_failure", "short.mp4": "known_failure"}
    copy = copy.replace("do", "done") if copy == "do" else copy
    assert run("two") == {"a.mp4": "done", "copy.mp4": copy, **failures}
    write_video(videos / "b.mp4", 16)
    os.replace(videos / "b.mp4", videos / "short.mp4")
    write_video(videos / "new.mp4", 17)
    after = {"a.mp4": "done", "copy.mp4": copy, **failures, "short.mp4": "do", "new.mp4": "do"}
    assert run("three") == after
    assert [row.video_id for row in list_inputs(str(videos))] == sorted(after)


def test_notes_count_what_was_left_out_and_are_read_back_from_the_plan(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "videos" / "out"
    out.mkdir(parents=True)
    for path in (videos / "a.mp4", videos / "b.gif", videos / "c.bin", out / "of_the_data_set.bin"):
        path.write_bytes(b"x")
    notes: list[str] = []
    planned = make_plan(str(videos), str(out), notes=notes)
    assert [item.row.video_id for item in planned] == ["a.mp4", "b.gif"]
    assert notes == ["1 file left out: 1 .bin; --any takes all"]
    write_plan(tmp_path / "plan", planned, notes=notes)
    assert read_notes(tmp_path / "plan") == notes
    assert read_plan(tmp_path / "plan") == planned
    write_plan(tmp_path / "plan", planned)
    assert read_notes(tmp_path / "plan") == []
    notes = []
    everything = make_plan(str(videos), str(out), any_file=True, notes=notes)
    assert [item.row.video_id for item in everything] == ["a.mp4", "b.gif", "c.bin"]
    assert notes == []


class TestVideosWithWhichWorkersDied:
    def dead(self, out, *rows, run="run-0", at=sample_shards.START) -> None:
        """Write what a worker leaves that is killed with these videos in hand."""
        videos = tuple(VideoInHand(item.video_id, item.uri, item.key) for item in rows)
        attempt = secrets.token_hex(4)
        record = InHand(run, 0, attempt, False, videos, at)
        Storage(out).write(record.file, record.to_json())

    def shards(self, planned) -> list[str]:
        """Return the videos of each shard, with the deaths."""
        texts: dict[int, list[str]] = {}
        for item in planned:
            name = item.row.video_id + (f" died {item.deaths}" if item.deaths else "")
            texts.setdefault(item.shard, []).append(name)
        return [" ".join(texts[number]) for number in sorted(texts) if number >= 0]

    def test_each_gets_a_shard_of_its_own(self, manifest, out):
        rows = [row(name, f"sha256:{name}") for name in "abcdef"]
        self.dead(out, rows[1], rows[4])
        videos = manifest(*rows)
        assert self.shards(make_plan(videos, str(out))) == ["a c d f", "b", "e"]
        # A second death together with others proves nothing.
        self.dead(out, *rows[1:4], run="run-1")
        assert self.shards(make_plan(videos, str(out))) == ["a f", "b", "c", "d", "e"]

    def test_two_deaths_of_which_one_alone_are_handed_to_the_worker(self, manifest, out, tmp_path):
        rows = [row(name, f"sha256:{name}") for name in "abc"]
        self.dead(out, rows[0], rows[1])
        self.dead(out, rows[1], run="run-1")
        notes: list[str] = []
        planned = make_plan(manifest(*rows), str(out), notes=notes)
        assert self.shards(planned) == ["b died 2 c", "a"]
        assert notes == [
            "1 video was in hand when a worker was killed: it is a shard by itself",
            "1 video was in hand when a worker was killed, twice or more: recorded as failed, and "
            "tried again by the run after this one",
        ]
        write_plan(tmp_path / "plan", planned)
        assert read_plan(tmp_path / "plan") == planned

    def test_half_of_the_shards_stay_for_the_others(self, manifest, out):
        rows = [row(f"v{number}", f"sha256:{number}") for number in range(9)]
        self.dead(out, *rows[:6])
        self.dead(out, rows[3], rows[5], run="run-1")
        for most, expected in (
            (5, ["v0 v1 v2 v4 v6 v7 v8", "v3", "v5"]),
            (1, ["v0 v1 v2 v3 v4 v5 v6 v7 v8"]),
        ):
            assert self.shards(make_plan(manifest(*rows), str(out), max_shards=most)) == expected

    def test_videos_of_living_workers_and_of_other_content_are_not_suspect(self, manifest, out):
        rows = [row(name, f"sha256:{name}") for name in "abc"]
        self.dead(out, rows[0], at=time.time())
        self.dead(out, row("b", "sha256:before"))
        videos = manifest(*rows)
        assert self.shards(make_plan(videos, str(out))) == ["a b c"]
        assert self.shards(make_plan(videos, str(out), ended_runs=["run-0"])) == ["b c", "a"]

    def test_worker_of_a_run_that_has_reported_its_end_is_dead_at_once(self, manifest, out):
        rows = [row(name, f"sha256:{name}") for name in "ab"]
        self.dead(out, rows[0], at=time.time() - 1)
        summary = out / "runs/run-0/summary.json"
        summary.parent.mkdir(parents=True)
        summary.write_text("{}")
        videos = manifest(*rows)
        assert self.shards(make_plan(videos, str(out))) == ["b", "a"]
        # The run is continued: its report is older than the worker's last sign of life.
        os.utime(summary, (time.time() - 60,) * 2)
        assert self.shards(make_plan(videos, str(out))) == ["a b"]

    def test_video_with_a_newer_row_has_a_clean_record(self, manifest, out):
        rows = [row(name, f"sha256:{name}") for name in "abc"]
        self.dead(out, rows[0], rows[1])
        self.dead(out, rows[0], run="run-1")
        publish_dataset(
            out,
            rows[:1],
            statuses={"a": "failed"},
            done_at=sample_shards.START + 9,
            published=False,
        )
        assert self.shards(make_plan(manifest(*rows), str(out))) == ["a c", "b"]


class TestTimeOfAShard:
    """A shard should take no more than half of the time that its pod may run."""

    HOUR = 3600.0

    def note(self, videos, out, *, hours=12.0, **limits) -> str:
        notes: list[str] = []
        make_plan(videos, str(out), pod_timeout_s=hours * self.HOUR, notes=notes, **limits)
        assert len(notes) < 2
        return "".join(notes)

    def measured(self, out, *, seconds: float) -> None:
        """Make the dataset of a run whose shards took so many seconds for 2 MB, in two parts."""
        job = sample_shards.settings(out)
        for number, name in enumerate("xy"):
            start, took = sample_shards.START + number * seconds, seconds / 2
            report = sample_shards.commit(job, [row(name, SHA[number], size=1_000_000)])
            report = dataclasses.replace(report, started_at=start, ended_at=start + took)
            (out / report_file(report.name)).write_text(report.to_json())

    def test_speed_of_earlier_shards_decides(self, manifest, out):
        self.measured(out, seconds=1000)  # 2 kB/s: six hours for 43.2 MB
        videos = manifest(*(row(f"v{n}", f"sha256:n{n}", size=4_000_000) for n in range(30)))
        assert self.note(videos, out, shard_mb=40) == ""
        assert self.note(videos, out, shard_mb=1000) == (
            "a shard takes about 16 h 40 min (at 2.00 kB/s, as in earlier runs), more than half "
            "of the 12 h that its pod may run; 3 shards would fit: give shard_mb=43"
        )
        assert self.note(videos, out, shard_mb=40, max_shards=2).endswith(
            "3 shards would fit: give shard_mb=43 max_shards=3"
        )
        assert self.note(videos, out, shard_mb=1000, hours=0) == ""

    def test_shards_that_do_not_fit_into_one_run_are_of_several(self, manifest, out):
        self.measured(out, seconds=1000)
        videos = manifest(*(row(f"v{n}", f"sha256:n{n}", size=40_000_000) for n in range(450)))
        assert self.note(videos, out, max_shards=200).endswith(
            "450 shards would fit, and a run has at most 200: make 3 runs, each of a part of the "
            "videos, or compile with a longer --pod-timeout"
        )

    def test_video_that_takes_too_long_by_itself_needs_more_time(self, manifest, out):
        self.measured(out, seconds=1000)
        videos = manifest(row("v", SHA[8], size=400_000_000))
        assert self.note(videos, out).endswith(
            "one video alone takes too long: compile with a longer --pod-timeout"
        )

    def test_first_run_is_at_least_as_slow_as_its_decoder(self, manifest, out):
        videos = manifest(
            *(row(f"v{n}", f"sha256:n{n}", size=2_000_000_000) for n in range(100)),
            row("x", size=0),
        )
        assert self.note(videos, out, shard_mb=100_000) == ""
        assert self.note(videos, out, shard_mb=1_000_000, hours=6) == (
            "a shard takes at least 3 h 8 min (at 17.9 MB/s, the speed of decoding alone), more "
            "than half of the 6 h that its pod may run; 2 shards would fit: give shard_mb=192970"
        )

    def test_lengths_decide_where_all_are_known(self, manifest, out):
        self.measured(out, seconds=1000)
        hour = self.HOUR
        videos = manifest(*(ManifestRow(f"v{n}", f"/v{n}", 0, hour, SHA[n]) for n in range(8)))
        # 1.92 seconds of video in 1000 seconds.
        assert "one video alone" in self.note(videos, out)
        assert self.note(videos, "") == ""
        assert self.note(videos, "", hours=0.25, shard_minutes=600).endswith(
            "2 shards would fit: give shard_minutes=397"
        )

    def test_videos_of_which_nothing_is_known_have_no_estimate(self, manifest, out):
        videos = manifest(*(row(f"v{n}", f"sha256:n{n}", size=0) for n in range(9)))
        assert self.note(videos, out) == ""
