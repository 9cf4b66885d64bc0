"""Extraction of many videos: every video has an outcome, and a later run continues."""

import copy
import csv
import os
import shutil
import threading
from dataclasses import replace

import grpc
import numpy as np
import pytest
from c3d_client import C3DClient, ServingOptions, read_features, write_features
from c3d_client.core.errors import (
    ContractMismatch,
    OutputError,
    ProvenanceError,
    ServingUnavailable,
    UsageError,
)
from c3d_client.job import (
    ExtractJob,
    Failure,
    fingerprint_text,
    read_failures,
    write_failures,
)
from c3d_client.outputs import read_provenance
from c3d_client.video.decode import decode_source
from c3d_client.video.sources import Source, expand, fingerprint
from support.errors import error_of
from support.fake_serving import model_card
from support.processes import LONG_S
from support.videos import write_video


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Three good videos, two of them with the same stem, one too short, and one damaged."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "day 1").mkdir()
    write_video(folder / "a.mp4", 24)
    write_video(folder / "a.avi", 32, codec="mpeg4")
    write_video(folder / "day 1" / "b.mp4", 40)
    write_video(folder / "short.mp4", 9)
    (folder / "torn.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    return folder


@pytest.fixture
def videos(library, tmp_path):
    """A copy of the library that a test may change."""
    return shutil.copytree(library, tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run_job(target, videos, out, *, workers=2, stop=None, stride=8, **options):
    """Run a job and return its rows by the video's name."""
    with C3DClient(target, stride=stride) as c3d:
        job = ExtractJob(c3d, out, **options)
        rows = list(job.run(list(expand([videos])), workers=workers, stop=stop))
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
    def test_every_video_has_one_row_and_one_output_or_failure(self, narrow_server, library, out):
        rows = run_job(narrow_server.target, library, out)
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

    def test_features_are_those_of_a_single_extraction(self, narrow_server, library, out):
        run_job(narrow_server.target, library, out, workers=3)
        with C3DClient(narrow_server.target) as c3d:
            single = c3d.extract(library / "day 1" / "b.mp4")
        features = read_features(out / "day 1" / "b.mp4.npz")
        assert features.clip_features == pytest.approx(single.clip_features, rel=1e-6, abs=1e-6)
        assert np.array_equal(features.clip_starts, single.clip_starts)

    def test_outputs_of_another_format_have_its_suffix(self, narrow_server, library, out):
        run_job(narrow_server.target, library, out, format="npy")
        assert {"a.mp4.npy", "a.avi.npy", "day 1/b.mp4.npy"} <= set(files_below(out))
        assert np.load(out / "a.mp4.npy").shape == (2, 4096)

    def test_stopped_run_is_continued_by_the_next(self, narrow_server, library, out):
        stop = threading.Event()
        with C3DClient(narrow_server.target) as c3d:
            job = ExtractJob(c3d, out)
            started = {}
            for row in job.run(list(expand([library])), workers=1, stop=stop):
                started[row.source.name] = row.status
                stop.set()
        assert len(started) < len(ALL)
        second = statuses(run_job(narrow_server.target, library, out))
        assert second == {
            name: "skipped" if started.get(name) == "done" else status
            for name, status in ALL.items()
        }

    def test_each_video_is_fingerprinted_once(self, narrow_server, library, out, monkeypatch):
        calls = []

        def count(uri):
            calls.append(str(uri))
            return fingerprint(uri)

        monkeypatch.setattr("c3d_client.job.fingerprint", count)
        monkeypatch.setattr("c3d_client.video.frames.fingerprint", count)
        assert statuses(run_job(narrow_server.target, library, out)) == ALL
        assert sorted(calls) == sorted(str(library / name) for name in ALL)

    def test_cancelled_video_is_not_a_failure(self, fake_serving, library, out):
        release = threading.Event()

        def on_predict(_request, _rows, _context):
            if len(server.requests) > 2:  # the first video has two clips
                release.wait(LONG_S)

        server = fake_serving(on_predict)
        names = ("a.mp4", "day 1/b.mp4")
        sources = [Source(str(library / name), name) for name in names]
        options = ServingOptions(server.target, batch_size=1, max_in_flight=1)
        with C3DClient(options=options) as c3d:
            rows = ExtractJob(c3d, out).run(sources, workers=1)
            assert next(rows).status == "done"
            try:
                rows.close()  # cancels the second video, which has no answer
            finally:
                release.set()
        assert files_below(out) == ["a.mp4.npz"]


class TestSecondRun:
    @pytest.fixture
    def done(self, narrow_server, videos, out):
        """The outputs of a first run with their times of modification."""
        run_job(narrow_server.target, videos, out)
        return {path: (out / path).stat().st_mtime_ns for path in files_below(out)}

    def test_outputs_are_skipped_and_damaged_videos_not_tried(
        self, narrow_server, videos, out, done
    ):
        rows = run_job(narrow_server.target, videos, out)
        assert statuses(rows) == {
            name: "skipped" if status == "done" else status for name, status in ALL.items()
        }
        assert [row.tried for row in rows.values() if row.status == "failed"] == [False, False]
        assert "a clip needs 16" in rows["short.mp4"].error
        assert {n: (out / n).stat().st_mtime_ns for n in done if n.endswith(".npz")} == {
            n: t for n, t in done.items() if n.endswith(".npz")
        }
        assert set(read_failures(out)) == {"short.mp4", "torn.mp4"}

    def test_retry_failed_tries_failed_videos(self, narrow_server, videos, out, done):
        rows = run_job(narrow_server.target, videos, out, retry_failed=True)
        assert rows["torn.mp4"].status == "failed"
        assert rows["torn.mp4"].tried

    def test_video_that_changes_while_it_is_read_is_tried_again(
        self, narrow_server, videos, out, done, monkeypatch
    ):
        """Its last version may be complete when the failure is recorded."""
        path = videos / "a.mp4"
        write_video(path, 48)

        def decode_and_change(source, **options):
            for number, frame in enumerate(decode_source(source, **options)):
                if number == 3:
                    os.utime(path, ns=(1, 1))
                yield frame

        with monkeypatch.context() as patch:
            patch.setattr("c3d_client.video.frames.decode_source", decode_and_change)
            row = run_job(narrow_server.target, path, out)["a.mp4"]
        assert row.status == "failed"
        assert "was changed while it was read" in row.error
        assert read_failures(out)["a.mp4"].error_type == "VideoUnreadableError"
        assert run_job(narrow_server.target, path, out)["a.mp4"].status == "done"

    def test_video_without_enough_memory_is_tried_again(
        self, narrow_server, videos, out, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr("c3d_client.video.memory.memory_limit", lambda: 1 << 19)
            row = run_job(narrow_server.target, videos / "a.mp4", out)["a.mp4"]
        assert (row.status, row.tried) == ("failed", True)
        assert "MiB that this process may use" in row.error
        failure = read_failures(out)["a.mp4"]
        assert (failure.error_type, failure.fingerprint) == ("VideoTooLarge", "")
        assert run_job(narrow_server.target, videos / "a.mp4", out)["a.mp4"].status == "done"

    def test_repaired_video_is_done_and_no_longer_listed(self, narrow_server, videos, out, done):
        shutil.copy(videos / "a.mp4", videos / "torn.mp4")
        rows = run_job(narrow_server.target, videos, out)
        assert rows["torn.mp4"].status == "done"
        assert set(read_failures(out)) == {"short.mp4"}

    def test_restored_video_is_skipped_and_no_longer_listed(self, narrow_server, videos, out, done):
        original = shutil.copy2(videos / "a.mp4", videos.parent / "original")
        shutil.copy2(videos / "torn.mp4", videos / "a.mp4")
        assert run_job(narrow_server.target, videos, out)["a.mp4"].status == "failed"
        assert "a.mp4" in read_failures(out)
        shutil.copy2(original, videos / "a.mp4")
        assert run_job(narrow_server.target, videos, out)["a.mp4"].status == "skipped"
        assert "a.mp4" not in read_failures(out)

    def test_overwrite_extracts_everything(self, narrow_server, videos, out, done):
        rows = run_job(narrow_server.target, videos, out, overwrite=True)
        assert statuses(rows) == ALL

    def test_only_a_changed_video_is_extracted(self, narrow_server, videos, out, done):
        write_video(videos / "a.mp4", 48)
        rows = run_job(narrow_server.target, videos, out)
        assert rows["a.mp4"].status == "done"
        assert rows["a.avi"].status == "skipped"
        assert read_features(out / "a.mp4.npz").clip_starts.tolist() == [0, 8, 16, 24, 32]

    def test_failures_of_videos_of_other_runs_stay_listed(self, narrow_server, videos, out, done):
        with C3DClient(narrow_server.target) as c3d:
            list(ExtractJob(c3d, out).run([Source(str(videos / "a.mp4"), "a.mp4")]))
        assert set(read_failures(out)) == {"short.mp4", "torn.mp4"}


def rewrite_provenance(path, change, *, format="npz"):
    """Change the provenance of a file of features in place."""
    features = read_features(path)
    provenance = copy.deepcopy(features.provenance)
    change(provenance)
    write_features(path, replace(features, provenance=provenance), format=format)


def other_versions(provenance):
    provenance["software"] |= {"pyav": "14.0.0", "libavcodec": "61.1.100", "opencv": "4.9.0"}


def other_model(provenance):
    provenance["model"]["weights"]["sha256"] = "ef" * 32


class TestFilesThatWereMadeDifferently:
    """A folder of three files that exist: a.mp4, a.avi and day 1/b.mp4."""

    @pytest.fixture
    def make(self, library, out):
        """Return a function that makes the three files, in a format, and returns their server."""

        def make(server, format="npz", **window):
            with C3DClient(server.target, **window) as c3d:
                list(ExtractJob(c3d, out, format=format).run(list(expand([library]))))
            server.requests.clear()
            (out / "failures.csv").unlink()
            return {name: (out / name).read_bytes() for name in files_below(out)}

        return make

    def refused(self, server, library, out, **options):
        with pytest.raises(ProvenanceError) as error:
            run_job(server.target, library, out, **options)
        assert server.requests == []
        return str(error.value)

    def test_are_refused_before_any_request_with_counts(self, fake_serving, library, out, make):
        server = fake_serving()
        for format in ("npz", "npy", "h5"):
            before = make(server, format, stride=16)
            message = self.refused(server, library, out, format=format)
            assert message == (
                f"{out}: 3 of 3 done files were made with stride 16, not 8 (a.avi, a.mp4, "
                "day 1/b.mp4); nothing was done: use another folder, or --overwrite to extract "
                "them again"
            )
            assert {name: (out / name).read_bytes() for name in files_below(out)} == before
            shutil.rmtree(out)

    def test_are_replaced_with_overwrite_and_kept_in_another_folder(
        self, fake_serving, library, out, make, tmp_path
    ):
        server = fake_serving()
        make(server, stride=16)
        assert statuses(run_job(server.target, library, tmp_path / "other")) == ALL
        assert read_features(out / "a.avi.npz").clip_starts.tolist() == [0, 16]
        assert statuses(run_job(server.target, library, out, overwrite=True)) == ALL
        assert read_features(out / "a.avi.npz").clip_starts.tolist() == [0, 8, 16]

    def test_are_counted_by_their_difference_in_a_mixed_folder(
        self, fake_serving, library, out, make
    ):
        server = fake_serving()
        make(server)
        for name in ("a.mp4", "day 1/b.mp4"):
            rewrite_provenance(out / f"{name}.npz", other_model)
        message = self.refused(server, library, out)
        weights = f"weights {'ef' * 6}, not {'ab' * 6}"
        assert f"2 of 3 done files were made with {weights} (a.mp4, day 1/b.mp4);" in message
        rewrite_provenance(
            out / "a.avi.npz", lambda provenance: provenance["clips"].update(stride=4, tail="pad")
        )
        message = self.refused(server, library, out)
        assert (
            f"3 of 3 done files were made differently: 2 with {weights} "
            "(a.mp4, day 1/b.mp4); 1 with stride 4, not 8 and tail pad, not drop (a.avi);"
        ) in message

    def test_are_extracted_again_where_the_video_has_changed(
        self, fake_serving, videos, out, tmp_path
    ):
        server = fake_serving()
        run_job(server.target, videos, out, stride=16)
        for number, name in enumerate(("a.mp4", "a.avi", "day 1/b.mp4")):
            os.utime(videos / name, (number, number))
        server.requests.clear()
        assert statuses(run_job(server.target, videos, out)) == ALL
        assert read_features(out / "a.avi.npz").clip_starts.tolist() == [0, 8, 16]
        # One file that is not extracted again is enough to refuse.
        os.utime(videos / "a.mp4", (9, 9))
        os.utime(videos / "a.avi", (9, 9))
        server.requests.clear()
        message = self.refused(server, videos, out, stride=16)
        assert "1 of 1 done file was made with stride 8, not 16 (day 1/b.mp4)" in message

    def test_are_refused_where_the_video_is_away(self, fake_serving, videos, out):
        server = fake_serving()
        run_job(server.target, videos, out, stride=16)
        sources = list(expand([videos]))
        (videos / "a.mp4").unlink()
        server.requests.clear()
        with C3DClient(server.target) as c3d, pytest.raises(ProvenanceError, match="3 of 3 done"):
            list(ExtractJob(c3d, out).run(sources))

    def test_are_kept_and_noted_once_where_only_versions_differ(
        self, fake_serving, library, out, make
    ):
        server = fake_serving()
        before = make(server)
        for name in ("a.mp4", "a.avi"):
            rewrite_provenance(out / f"{name}.npz", other_versions)
            before[f"{name}.npz"] = (out / f"{name}.npz").read_bytes()
        notes = []
        with C3DClient(server.target) as c3d:
            rows = list(ExtractJob(c3d, out).run(list(expand([library])), note=notes.append))
            software = c3d.provenance()["software"]
        assert sorted(row.status for row in rows) == ["failed"] * 2 + ["skipped"] * 3
        (note,) = notes
        versions = " and ".join(
            f"{name} {old}, not {software[name]}"
            for name, old in (("libavcodec", "61.1.100"), ("opencv", "4.9.0"), ("pyav", "14.0.0"))
        )
        assert note == (
            f"2 of 3 done files were made with {versions} (a.avi, a.mp4); they stay as they are, "
            "and may be used together"
        )
        assert {name: (out / name).read_bytes() for name in before} == before

    def test_are_read_once(self, fake_serving, library, out, make, monkeypatch):
        server = fake_serving()
        make(server)
        paths = []

        def count(path, **options):
            paths.append(path.name)
            return read_provenance(path, **options)

        monkeypatch.setattr("c3d_client.job.read_provenance", count)
        run_job(server.target, library, out)
        assert sorted(paths) == ["a.avi.npz", "a.mp4.npz", "b.mp4.npz"]

    def test_are_no_error_once_the_run_is_stopped(
        self, fake_serving, library, out, make, monkeypatch
    ):
        server = fake_serving()
        make(server, stride=16)
        stop = threading.Event()

        def stop_here(path, **options):
            stop.set()
            return read_provenance(path, **options)

        monkeypatch.setattr("c3d_client.job.read_provenance", stop_here)
        assert run_job(server.target, library, out, stop=stop) == {}
        assert server.requests == []


class TestExistingFiles:
    def test_features_of_another_video_are_not_overwritten(self, narrow_server, library, out):
        with C3DClient(narrow_server.target) as c3d:
            first = Source(str(library / "a.mp4"), "same")
            other = Source(str(library / "day 1" / "b.mp4"), "same")
            assert [row.status for row in ExtractJob(c3d, out).run([first])] == ["done"]
            (row,) = ExtractJob(c3d, out).run([other])
            assert row.status == "failed"
            assert f"holds the features of {library / 'a.mp4'}" in row.error
            assert len(read_features(out / "same.npz").clip_starts) == 2
            # The video itself is good, so it is tried again; overwrite replaces the file.
            (row,) = ExtractJob(c3d, out, overwrite=True).run([other])
            assert row.status == "done"

    def test_file_of_another_kind_is_not_overwritten(self, narrow_server, library, out):
        out.mkdir()
        (out / "a.mp4.npz").write_text("my notes")
        rows = run_job(narrow_server.target, library, out)
        assert rows["a.mp4"].status == "failed"
        assert "is in the way of a.mp4" in rows["a.mp4"].error
        assert (out / "a.mp4.npz").read_text() == "my notes"


class TestServer:
    def test_lost_server_ends_the_run_and_the_next_run_continues(
        self, fake_serving, library, tmp_path
    ):
        (tmp_path / "in").mkdir()
        for number in range(12):
            write_video(tmp_path / "in" / f"{number:02}.mp4", 16)
        out = tmp_path / "out"

        def on_predict(_request, _rows, context):
            if len(server.requests) > 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

        server = fake_serving(on_predict)
        options = ServingOptions(server.target, patience_s=0)
        rows = []
        sources = list(expand([tmp_path / "in"]))
        with C3DClient(options=options) as c3d, pytest.raises(ServingUnavailable):
            rows.extend(ExtractJob(c3d, out).run(sources, workers=1))
        assert len(list(out.glob("*.npz"))) == 3
        assert {failure.error_type for failure in read_failures(out).values()} == {
            "ServingUnavailable"
        }

        server.on_predict = None
        second = run_job(server.target, tmp_path / "in", out)
        assert sorted(statuses(second).values()) == ["done"] * 9 + ["skipped"] * 3
        assert not (out / "failures.csv").exists()

    def test_features_of_a_replaced_model_are_not_mixed_in(self, fake_serving, library, out):
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

    def test_same_model_with_a_new_version_number_is_accepted(self, fake_serving, library, out):
        def on_predict(request, _rows, _context):
            if server.number(request) == 2:
                server.version = 2

        server = fake_serving(on_predict)
        assert statuses(run_job(server.target, library, out)) == ALL

    def test_fewer_than_one_worker_is_refused(self, narrow_server, library, out):
        for workers in (0, -3):
            with pytest.raises(UsageError, match="workers is"):
                run_job(narrow_server.target, library, out, workers=workers)

    def test_output_folder_that_is_a_file_is_refused_before_any_request(
        self, fake_serving, library, out
    ):
        server = fake_serving()
        out.write_text("in the way")
        with pytest.raises(OutputError, match="results cannot be written there"):
            run_job(server.target, library, out)
        assert server.requests == []


class TestFailuresFile:
    damaged = Failure(
        "a/b.mp4", "x/a/b.mp4", "VideoDecodeError", 'is damaged, at "0.5" s', '{"s": 1}'
    )
    late = Failure("ü, c.mp4", "ü, c.mp4", "ServingTimeout", "late\nby far", "")
    header = "video,uri,error_type,error,fingerprint"

    def write(self, folder, *failures):
        write_failures(folder, {failure.video: failure for failure in failures})

    def rows(self, folder):
        with (folder / "failures.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    def test_is_read_back_as_written(self, tmp_path):
        self.write(tmp_path, self.late, self.damaged)
        expected = {failure.video: failure for failure in (self.late, self.damaged)}
        assert read_failures(tmp_path) == expected

    def test_is_sorted_and_has_a_header(self, tmp_path):
        self.write(tmp_path, self.late, self.damaged)
        header, *rows = self.rows(tmp_path)
        assert ",".join(header) == self.header
        assert [row[0] for row in rows] == ["a/b.mp4", "ü, c.mp4"]

    def test_does_not_exist_without_failures(self, tmp_path):
        self.write(tmp_path, self.damaged)
        self.write(tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert read_failures(tmp_path) == {}
        self.write(tmp_path)

    def test_columns_of_later_releases_are_kept_in_any_order(self, tmp_path):
        (tmp_path / "failures.csv").write_text(
            "future,video,uri,error_type,error,fingerprint,other\n"
            "1,a/b.mp4,x/a/b.mp4,VideoDecodeError,is damaged,{},new\n"
        )
        failures = read_failures(tmp_path)
        assert failures["a/b.mp4"].error == "is damaged"
        self.write(tmp_path, self.late, *failures.values())
        assert self.rows(tmp_path) == [
            [*self.header.split(","), "future", "other"],
            ["a/b.mp4", "x/a/b.mp4", "VideoDecodeError", "is damaged", "{}", "1", "new"],
            ["ü, c.mp4", "ü, c.mp4", "ServingTimeout", "late\nby far", "", "", ""],
        ]

    def test_columns_of_later_releases_are_kept_by_a_run(self, narrow_server, library, out):
        run_job(narrow_server.target, library, out)
        header, *rows = self.rows(out)
        with (out / "failures.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*header, "future"])
            writer.writerows([*row, row[0].upper()] for row in rows)
        second = run_job(narrow_server.target, library, out)
        assert [row.tried for row in second.values() if row.status == "failed"] == [False] * 2
        assert self.rows(out) == [
            [*header, "future"],
            *([*row, row[0].upper()] for row in rows),
        ]

    def test_other_files_of_that_name_are_refused(self, tmp_path):
        too_many_cells = f"{self.header}\n1,2,3,4,5,6\n"
        for content in ("video,other\na,b\n", "video\n1,2,3\n", too_many_cells, "\x00", "\xff"):
            (tmp_path / "failures.csv").write_bytes(content.encode("latin-1"))
            message = str(error_of(OutputError, read_failures, tmp_path))
            assert "failures.csv: is not a run's list" in message, content

    def test_folder_that_cannot_be_written_is_named(self, tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            self.write(tmp_path / "missing", self.damaged)

    def test_fingerprints_with_keys_in_another_order_are_equal(self):
        one, other = {"size": 1, "mtime_ns": 2}, {"mtime_ns": 2, "size": 1}
        assert fingerprint_text(one) == fingerprint_text(other)
        assert fingerprint_text({}) == ""
