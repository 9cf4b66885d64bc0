"""A run over many videos into one folder: each accounted for, done once, and resumed."""

import os
import shutil
import threading

import grpc
import numpy as np
import pytest
from c3d_client import C3DClient, ServingOptions, read_features
from c3d_client.core.errors import (
    ContractMismatch,
    OutputError,
    ServingUnavailable,
    UsageError,
)
from c3d_client.job import ExtractJob, read_failures
from c3d_client.video.sources import Source, expand
from support.fake_serving import model_card
from support.films import write_film


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Videos: two good ones of one name, one in a folder, one too short, one damaged."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "day 1").mkdir()
    write_film(folder / "a.mp4", 24)
    write_film(folder / "a.avi", 32, codec="mpeg4")
    write_film(folder / "day 1" / "b.mp4", 40)
    write_film(folder / "short.mp4", 9)
    (folder / "torn.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    return folder


@pytest.fixture
def videos(library, tmp_path):
    """A copy of the library for a test to change."""
    return shutil.copytree(library, tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def rows_of(target, videos, out, *, workers=2, halt=None, stride=8, **how):
    """Run a job; its rows by the video's name."""
    with C3DClient(target, stride=stride) as c3d:
        job = ExtractJob(c3d, out, **how)
        rows = list(job.run(list(expand([videos])), workers=workers, halt=halt))
    assert len({row.source.name for row in rows}) == len(rows)
    return {row.source.name: row for row in rows}


def statuses(rows):
    return {name: row.status for name, row in rows.items()}


ALL = {
    "a.mp4": "done",
    "a.avi": "done",
    "day 1/b.mp4": "done",
    "short.mp4": "failed",
    "torn.mp4": "failed",
}


def files_below(folder):
    return sorted(
        os.path.relpath(os.path.join(path, name), folder)
        for path, _, names in os.walk(folder)
        for name in names
    )


class TestRun:
    def test_every_video_ends_as_one_row_and_one_file_or_failure(self, narrow_server, library, out):
        rows = rows_of(narrow_server.target, library, out)
        assert statuses(rows) == ALL
        assert files_below(out) == [
            "a.avi.npz",
            "a.mp4.npz",
            "day 1/b.mp4.npz",
            "failures.csv",
        ]
        assert {name: row.clips for name, row in rows.items()} == {
            **{"a.mp4": 2, "a.avi": 3, "day 1/b.mp4": 4},
            **{"short.mp4": 0, "torn.mp4": 0},
        }
        failures = read_failures(out)
        assert set(failures) == {"short.mp4", "torn.mp4"}
        assert failures["short.mp4"].error_type == "VideoTooShortError"
        assert "has 9 frames; a clip needs 16" in failures["short.mp4"].error
        assert failures["torn.mp4"].error_type == "VideoDecodeError"

    def test_features_are_those_of_the_video_alone(self, narrow_server, library, out):
        rows_of(narrow_server.target, library, out, workers=3)
        with C3DClient(narrow_server.target) as c3d:
            alone = c3d.extract(library / "day 1" / "b.mp4")
        found = read_features(out / "day 1" / "b.mp4.npz")
        assert found.clip_features == pytest.approx(alone.clip_features, rel=1e-6, abs=1e-6)
        assert np.array_equal(found.clip_starts, alone.clip_starts)

    def test_another_format_has_another_suffix(self, narrow_server, library, out):
        rows_of(narrow_server.target, library, out, format="npy")
        assert {"a.mp4.npy", "a.avi.npy", "day 1/b.mp4.npy"} <= set(files_below(out))
        assert np.load(out / "a.mp4.npy").shape == (2, 4096)

    def test_halting_leaves_the_rest_for_the_next_run(self, narrow_server, library, out):
        halt = threading.Event()
        with C3DClient(narrow_server.target) as c3d:
            job = ExtractJob(c3d, out)
            begun = {}
            for row in job.run(list(expand([library])), workers=1, halt=halt):
                begun[row.source.name] = row.status
                halt.set()
        assert len(begun) < len(ALL)
        again = statuses(rows_of(narrow_server.target, library, out))
        assert again == {
            name: "skipped" if begun.get(name) == "done" else status for name, status in ALL.items()
        }


class TestAgain:
    @pytest.fixture
    def done(self, narrow_server, videos, out):
        rows_of(narrow_server.target, videos, out)
        return {path: (out / path).stat().st_mtime_ns for path in files_below(out)}

    def test_what_is_done_is_skipped_and_what_is_damaged_not_tried(
        self, narrow_server, videos, out, done
    ):
        rows = rows_of(narrow_server.target, videos, out)
        assert statuses(rows) == {
            name: "skipped" if status == "done" else status for name, status in ALL.items()
        }
        assert [row.tried for row in rows.values() if row.status == "failed"] == [False, False]
        assert "a clip needs 16" in rows["short.mp4"].error
        assert {n: (out / n).stat().st_mtime_ns for n in done if n.endswith(".npz")} == {
            n: t for n, t in done.items() if n.endswith(".npz")
        }
        assert set(read_failures(out)) == {"short.mp4", "torn.mp4"}

    def test_failed_videos_are_tried_when_that_is_asked_for(self, narrow_server, videos, out, done):
        rows = rows_of(narrow_server.target, videos, out, retry_failed=True)
        assert rows["torn.mp4"].status == "failed"
        assert rows["torn.mp4"].tried

    def test_a_mended_video_is_done_and_leaves_the_list(self, narrow_server, videos, out, done):
        shutil.copy(videos / "a.mp4", videos / "torn.mp4")
        rows = rows_of(narrow_server.target, videos, out)
        assert rows["torn.mp4"].status == "done"
        assert set(read_failures(out)) == {"short.mp4"}

    def test_a_video_that_was_put_back_is_done_and_leaves_the_list(
        self, narrow_server, videos, out, done
    ):
        sound = shutil.copy2(videos / "a.mp4", videos.parent / "sound")
        shutil.copy2(videos / "torn.mp4", videos / "a.mp4")
        assert rows_of(narrow_server.target, videos, out)["a.mp4"].status == "failed"
        assert "a.mp4" in read_failures(out)
        shutil.copy2(sound, videos / "a.mp4")
        assert rows_of(narrow_server.target, videos, out)["a.mp4"].status == "skipped"
        assert "a.mp4" not in read_failures(out)

    def test_everything_is_done_again_when_that_is_asked_for(
        self, narrow_server, videos, out, done
    ):
        rows = rows_of(narrow_server.target, videos, out, overwrite=True)
        assert statuses(rows) == ALL

    def test_a_video_that_changed_is_done_again_alone(self, narrow_server, videos, out, done):
        write_film(videos / "a.mp4", 48)
        rows = rows_of(narrow_server.target, videos, out)
        assert rows["a.mp4"].status == "done"
        assert rows["a.avi"].status == "skipped"
        assert read_features(out / "a.mp4.npz").clip_starts.tolist() == [0, 8, 16, 24, 32]

    def test_features_made_another_way_are_made_again(self, narrow_server, videos, out, done):
        rows = rows_of(narrow_server.target, videos, out, stride=16)
        assert rows["a.avi"].status == "done"
        assert read_features(out / "a.avi.npz").clip_starts.tolist() == [0, 16]

    def test_a_failure_of_a_video_that_is_not_in_this_run_stays_listed(
        self, narrow_server, videos, out, done
    ):
        with C3DClient(narrow_server.target) as c3d:
            list(ExtractJob(c3d, out).run([Source(str(videos / "a.mp4"), "a.mp4")]))
        assert set(read_failures(out)) == {"short.mp4", "torn.mp4"}


class TestOthersFiles:
    def test_another_videos_features_are_not_written_over(self, narrow_server, library, out):
        with C3DClient(narrow_server.target) as c3d:
            first = Source(str(library / "a.mp4"), "same")
            other = Source(str(library / "day 1" / "b.mp4"), "same")
            assert [row.status for row in ExtractJob(c3d, out).run([first])] == ["done"]
            (row,) = ExtractJob(c3d, out).run([other])
            assert row.status == "failed"
            assert f"holds the features of {library / 'a.mp4'}" in row.error
            assert len(read_features(out / "same.npz").clip_starts) == 2
            # The video is sound: it is tried again, and --overwrite has its way.
            (row,) = ExtractJob(c3d, out, overwrite=True).run([other])
            assert row.status == "done"

    def test_a_file_that_is_no_features_is_not_written_over(self, narrow_server, library, out):
        out.mkdir()
        (out / "a.mp4.npz").write_text("my notes")
        rows = rows_of(narrow_server.target, library, out)
        assert rows["a.mp4"].status == "failed"
        assert "is in the way of a.mp4" in rows["a.mp4"].error
        assert (out / "a.mp4.npz").read_text() == "my notes"


class TestServers:
    def test_a_server_that_goes_away_ends_the_run_and_the_next_goes_on(
        self, fake_serving, library, tmp_path
    ):
        (tmp_path / "in").mkdir()
        for number in range(12):
            write_film(tmp_path / "in" / f"{number:02}.mp4", 16)
        out = tmp_path / "out"

        def on_predict(_request, _rows, context):
            if len(server.requests) > 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

        server = fake_serving(on_predict)
        options = ServingOptions(server.target, retries=0)
        rows = []
        sources = list(expand([tmp_path / "in"]))
        with C3DClient(options=options) as c3d, pytest.raises(ServingUnavailable):
            rows.extend(ExtractJob(c3d, out).run(sources, workers=1))
        assert len(list(out.glob("*.npz"))) == 3
        assert {f.error_type for f in read_failures(out).values()} == {"ServingUnavailable"}

        server.on_predict = None
        again = rows_of(server.target, tmp_path / "in", out)
        assert sorted(statuses(again).values()) == ["done"] * 9 + ["skipped"] * 3
        assert not (out / "failures.csv").exists()

    def test_another_model_on_the_way_is_never_mixed_in(self, fake_serving, library, out):
        def on_predict(_request, _rows, _context):
            if len(server.requests) == 2:
                server.version = 2
                server.card = model_card(precision="bfloat16")

        server = fake_serving(on_predict)
        with (
            C3DClient(server.target) as c3d,
            pytest.raises(
                ContractMismatch, match=r"became another one during the run \(model.precision"
            ),
        ):
            list(ExtractJob(c3d, out).run(list(expand([library])), workers=1))
        precisions = {
            read_features(path).provenance["model"]["precision"] for path in out.rglob("*.npz")
        }
        assert precisions == {"float32"}

    def test_the_same_model_under_a_new_version_goes_on(self, fake_serving, library, out):
        def on_predict(_request, _rows, _context):
            if len(server.requests) == 2:
                server.version = 2

        server = fake_serving(on_predict)
        assert statuses(rows_of(server.target, library, out)) == ALL

    @pytest.mark.parametrize("workers", [0, -3])
    def test_no_workers_are_refused(self, narrow_server, library, out, workers):
        with pytest.raises(UsageError, match="workers is"):
            rows_of(narrow_server.target, library, out, workers=workers)

    def test_a_folder_that_is_a_file_is_refused_before_any_work(self, fake_serving, library, out):
        server = fake_serving()
        out.write_text("in the way")
        with pytest.raises(OutputError, match="results cannot be written there"):
            rows_of(server.target, library, out)
        assert server.requests == []
