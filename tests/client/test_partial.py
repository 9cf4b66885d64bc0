"""A long video that ended early keeps its answered rows: the next run sends only the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    ClipWindow,
    ServingOptions,
    expand,
    fit_pca,
    partial,
    read_features,
)
from c3d_client.core.errors import OutputError
from c3d_client.core.provenance import Provenance
from c3d_client.job import ExtractJob, read_failures
from c3d_client.outputs import FORMATS, convert, output_path, partial_path
from c3d_client.partial import PartialRows
from c3d_client.results import RowStore
from c3d_client.video.sources import Scan
from PIL import Image
from support.fake_serving import model_card, signature_defs
from support.processes import LONG_S
from support.sample_features import full_disk, sample_features
from support.videos import noise, write_video

CLIPS = 20
# The bytes of an answer of four clips: lengths and checksums, the outputs, and starts and rows.
RECORD = 12 + 8 + len('[["first", [4096]]]') + 4 * (8 + 4 * 4096)

# Runs `c3d` and ends it with SIGKILL in the middle of a write, the number of which is its argument.
KILLED = """
import os, signal, sys
from c3d_client import partial

partial.KEEP_AFTER_S = 0
write, left = partial.PartialRows._write, int(sys.argv.pop(1))

def write_or_die(self, data):
    global left
    left -= 1
    if not left:
        self._target.write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, data)

partial.PartialRows._write = write_or_die
from c3d_client.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def keep_all(monkeypatch):
    """Keep the rows of every video from its first answer on."""
    monkeypatch.setattr(partial, "KEEP_AFTER_S", 0)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory) -> Path:
    """A folder with a video of 20 clips that differ."""
    folder = tmp_path_factory.mktemp("long")
    write_noise(folder / "long.mp4", CLIPS)
    return folder


def write_noise(path, clips):
    def draw(number):
        return noise(number, width=64, height=48)

    return write_video(path, 8 * clips + 8, width=64, height=48, draw=draw)


@pytest.fixture
def server(fake_serving):
    """A server that answers as many requests as its attribute ``answers``, and no other."""

    def on_predict(_request, _rows, context):
        if server.answers is not None and len(server.requests) > server.answers:
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    server = fake_serving(on_predict)
    server.answers = None
    return server


def extract(
    server, videos, out, *, batch_size=4, window=None, notes=None, pca=None, scan=None, **options
):
    """Run a job; return its rows, and how many clips the server was sent."""
    server.requests.clear()
    serving = ServingOptions(server.target, batch_size=batch_size, max_in_flight=1, patience_s=0)
    with C3DClient(window=window, options=serving, pca=pca) as c3d:
        job = ExtractJob(c3d, out, **options)
        note = (lambda _: None) if notes is None else notes.append
        rows = list(job.run(expand([videos], scan=scan), workers=1, note=note))
    return rows, sum(clips_of(request) for request in server.requests)


def clips_of(request):
    (tensor,) = request.inputs.values()
    rows = tensor.tensor_shape.dim[0].size
    return rows - (request.model_spec.signature_name == "fc6_features_halves")


def interrupt(server, videos, out, *, answers=3, **options):
    """Run a job whose server goes away after so many answers; return the file of kept rows."""
    server.answers = answers
    (row,), _ = extract(server, videos, out, **options)
    server.answers = None
    assert row.status == "failed"
    (kept,) = out.rglob(".*.partial")
    return kept


def same(one: Path, other: Path) -> bool:
    """Return whether two files of features have the same numbers, to the bit."""
    a, b = read_features(one), read_features(other)
    return a.provenance == b.provenance and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in ("clip_features", "video_feature", "clip_starts", "clip_times_s")
    )


@pytest.fixture
def whole(server, long_video, tmp_path) -> Path:
    """The output of a run that was not interrupted."""
    (row,), sent = extract(server, long_video, tmp_path / "whole")
    assert (row.status, sent) == ("done", CLIPS)
    return row.path


class TestKilled:
    @pytest.mark.long
    def test_command_killed_while_it_writes_is_continued_to_the_same_bits(
        self, narrow_server, bikes, tmp_path, run
    ):
        arguments = ("extract", bikes, "--server", narrow_server.target, "--out")
        code, *_ = run(*arguments, tmp_path / "whole")
        assert code == 0
        out = tmp_path / "out"
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, "4", *map(str, arguments), str(out)], timeout=LONG_S
        )
        assert killed.returncode == -signal.SIGKILL
        (kept,) = out.iterdir()
        assert kept.name == ".bikes.mp4.npz.partial"
        code, _, lines = run(*arguments, out)
        assert code == 0
        # The header and the rows of two answers were written, and a half of the third answer.
        assert "c3d: bikes.mp4: 16 of 30 clips kept from an earlier run" in lines
        assert [path.name for path in out.iterdir()] == ["bikes.mp4.npz"]
        assert same(out / "bikes.mp4.npz", tmp_path / "whole" / "bikes.mp4.npz")

    def test_library_sends_only_the_clips_that_are_not_kept(self, narrow_server, bikes, tmp_path):
        arguments = ("extract", bikes, "--server", narrow_server.target, "--out", tmp_path)
        killed = subprocess.run([sys.executable, "-c", KILLED, "3", *map(str, arguments)])
        assert killed.returncode == -signal.SIGKILL
        with C3DClient(narrow_server.target) as c3d:
            (row,) = ExtractJob(c3d, tmp_path).run(expand([bikes]))
            assert c3d.clips_answered == 22
        assert (row.status, row.clips, row.clips_kept) == ("done", 30, 8)

    @pytest.mark.long
    def test_several_layers_are_continued_to_the_same_bits(
        self, narrow_server, bikes, tmp_path, run
    ):
        arguments = ("extract", bikes, "--server", narrow_server.target, "--layer", "pool5,fc6")
        assert run(*arguments, "--out", tmp_path / "whole")[0] == 0
        command = [*map(str, arguments), "--out", str(tmp_path / "out")]
        killed = subprocess.run([sys.executable, "-c", KILLED, "4", *command])
        assert killed.returncode == -signal.SIGKILL
        code, _, lines = run(*arguments, "--out", tmp_path / "out")
        assert code == 0
        assert "c3d: bikes.mp4: 16 of 30 clips kept from an earlier run" in lines
        one, other = (read_features(tmp_path / x / "bikes.mp4.npz") for x in ("out", "whole"))
        assert one.clip_features.shape[:4] == (30, 1, 4, 4)
        assert one.clip_features.tobytes() == other.clip_features.tobytes()
        assert one.video_feature.tobytes() == other.video_feature.tobytes()
        assert one.layers["fc6"].tobytes() == other.layers["fc6"].tobytes()

    @pytest.mark.parametrize("write", [1, 2])
    def test_kill_before_the_first_answer_is_kept_starts_from_the_beginning(
        self, fake_serving, server, long_video, tmp_path, whole, write
    ):
        out = tmp_path / "out"
        arguments = ("extract", long_video, "--server", server.target, "--out", out)
        killed = subprocess.run([sys.executable, "-c", KILLED, str(write), *map(str, arguments)])
        assert killed.returncode == -signal.SIGKILL
        # Requests of the killed process may still be on their way to the server.
        server.stop()
        server = fake_serving()
        notes = []
        (row,), sent = extract(server, long_video, out, notes=notes)
        assert (row.status, sent, row.clips_kept) == ("done", CLIPS, 0)
        assert len(notes) == (write == 1)
        assert same(row.path, whole)
        assert list(out.iterdir()) == [row.path]


@pytest.mark.usefixtures("keep_all")
class TestContinued:
    def test_server_that_goes_away_costs_only_the_clips_it_did_not_answer(
        self, server, long_video, tmp_path, whole
    ):
        out = tmp_path / "out"
        kept = interrupt(server, long_video, out)
        assert sorted(path.name for path in out.iterdir()) == [kept.name, "failures.csv"]
        (row,), sent = extract(server, long_video, out)
        assert (row.status, row.clips, row.clips_kept, sent) == ("done", CLIPS, 12, 8)
        assert same(row.path, whole)
        assert list(out.iterdir()) == [row.path]
        assert read_failures(out) == {}

    def test_every_run_goes_on_where_the_one_before_it_ended(
        self, server, long_video, tmp_path, whole
    ):
        out = tmp_path / "out"
        for answers in (2, 1, 0, 1):
            kept = interrupt(server, long_video, out, answers=answers)
            assert kept.exists()
        (row,), sent = extract(server, long_video, out)
        assert (row.status, row.clips_kept, sent) == ("done", 16, 4)
        assert same(row.path, whole)

    def test_folder_of_images_is_continued(self, server, tmp_path):
        folder = tmp_path / "in" / "shot.0001"
        folder.mkdir(parents=True)
        for number in range(168):
            Image.fromarray(noise(number, width=64, height=48)).save(folder / f"{number:06}.png")
        window, scan = ClipWindow(fps=10), Scan(frames=True)
        options = {"window": window, "scan": scan, "frames_fps": 10, "name": "{stem}.npz"}
        (row,), _ = extract(server, tmp_path / "in", tmp_path / "whole", **options)
        assert row.path.name == "shot.0001.npz"
        expected = row.path
        interrupt(server, tmp_path / "in", tmp_path / "out", **options)
        (row,), sent = extract(server, tmp_path / "in", tmp_path / "out", **options)
        assert (row.clips_kept, sent) == (12, 8)
        assert same(row.path, expected)
        row.path.unlink()
        # Another rate of the images gives clips of other frames.
        interrupt(server, tmp_path / "in", tmp_path / "out", **options)
        notes = []
        options["frames_fps"] = 20
        (row,), sent = extract(server, tmp_path / "in", tmp_path / "out", notes=notes, **options)
        assert (row.status, row.clips_kept, sent) == ("done", 0, 9)
        assert notes[0].endswith("is of another version, stream or frame rate of the video")

    def test_reduced_features_are_continued_and_those_of_another_pca_not(
        self, server, long_video, tmp_path, whole
    ):
        rows = np.random.default_rng(0).random((40, 4096), np.float32)
        with C3DClient(server.target) as c3d:
            provenance = c3d.provenance()
        features = [sample_features(40, clip_features=rows, provenance=provenance)]
        one, other = (fit_pca(features, dim=dim) for dim in (4, 5))
        (row,), _ = extract(server, long_video, tmp_path / "reduced", pca=one)
        expected = row.path
        interrupt(server, long_video, tmp_path / "out", pca=one)
        (row,), sent = extract(server, long_video, tmp_path / "out", pca=one)
        assert (row.clips_kept, sent) == (12, 8)
        assert same(row.path, expected)
        assert read_features(row.path).clip_features.shape == (CLIPS, 4)
        row.path.unlink()
        interrupt(server, long_video, tmp_path / "out", pca=one)
        (row,), sent = extract(server, long_video, tmp_path / "out", pca=other)
        assert (row.status, row.clips_kept, sent) == ("done", 0, CLIPS)

    def test_halves_are_continued_too(self, fake_serving, server, long_video, tmp_path):
        halves = fake_serving(
            server.on_predict,
            card=model_card(batch_sizes=[1, 8, 16]),
            signatures=signature_defs(halves=True),
        )
        halves.answers, server.requests = None, halves.requests
        (row,), _ = extract(halves, long_video, tmp_path / "whole")
        expected = row.path
        server.answers = 2
        (row,), _ = extract(halves, long_video, tmp_path / "out")
        server.answers = None
        assert row.status == "failed"
        (row,), sent = extract(halves, long_video, tmp_path / "out")
        assert (row.status, row.clips_kept, sent) == ("done", 14, CLIPS - 14)
        assert {r.model_spec.signature_name for r in halves.requests} == {"fc6_features_halves"}
        assert same(row.path, expected)

    def test_more_rows_than_are_held_in_memory_are_kept(self, server, tmp_path, monkeypatch):
        """They are kept from the 18th answer on, when 72 rows are in a temporary file."""
        (tmp_path / "in").mkdir()
        write_noise(tmp_path / "in" / "long.mp4", 100)
        (row,), _ = extract(server, tmp_path / "in", tmp_path / "whole")
        expected = row.path

        class Clock:
            @staticmethod
            def monotonic():
                return len(server.requests)

        monkeypatch.setattr(partial, "time", Clock)
        monkeypatch.setattr(partial, "KEEP_AFTER_S", 18)
        interrupt(server, tmp_path / "in", tmp_path / "out", answers=20)
        (row,), sent = extract(server, tmp_path / "in", tmp_path / "out")
        assert (row.clips, row.clips_kept, sent) == (100, 80, 20)
        assert same(row.path, expected)

    @pytest.mark.parametrize("batch_size", [1, 3, 5, 32])
    def test_another_batch_size_has_the_same_rows(
        self, server, long_video, tmp_path, whole, batch_size
    ):
        interrupt(server, long_video, tmp_path / "out")
        (row,), sent = extract(server, long_video, tmp_path / "out", batch_size=batch_size)
        kept = 12 // batch_size * batch_size
        assert (row.clips_kept, sent) == (kept, CLIPS - kept)
        assert same(row.path, whole)

    def test_rows_that_were_sent_again_with_another_batch_size_are_kept_once(
        self, server, long_video, tmp_path, whole
    ):
        out = tmp_path / "out"
        interrupt(server, long_video, out)
        interrupt(server, long_video, out, batch_size=5, answers=1)  # clips 10 to 14
        (row,), sent = extract(server, long_video, out, batch_size=3)
        assert (row.clips_kept, sent) == (15, 5)
        assert same(row.path, whole)

    def test_every_way_to_cut_clips_is_continued(self, server, long_video, tmp_path):
        for number, window in enumerate(
            (
                ClipWindow(stride=3, tail="pad"),
                ClipWindow(frame_step=2, tail="loop"),
                ClipWindow(fps=10),
                ClipWindow(damage="skip", resize="fast"),
            )
        ):
            folder = tmp_path / str(number)
            (row,), total = extract(server, long_video, folder / "whole", window=window)
            expected = row.path
            interrupt(server, long_video, folder / "out", window=window, answers=1)
            (row,), sent = extract(server, long_video, folder / "out", window=window)
            assert (row.clips_kept, sent) == (4, total - 4), window
            assert same(row.path, expected), window

    def test_cancelled_video_is_continued(self, server, long_video, tmp_path, whole):
        """As after a second Ctrl-C."""
        out = tmp_path / "out"
        write_video(tmp_path / "a.mp4", 16, width=64, height=48)
        sources = expand([tmp_path / "a.mp4", long_video])
        reached, release = threading.Event(), threading.Event()

        def on_predict(_request, _rows, context):
            if len(server.requests) == 4:
                context.add_callback(release.set)  # when the client has cancelled the request
                reached.set()
                assert release.wait(LONG_S)

        server.requests.clear()
        server.on_predict = on_predict
        options = ServingOptions(server.target, batch_size=4, max_in_flight=1)
        with C3DClient(options=options) as c3d:
            rows = ExtractJob(c3d, out).run(sources, workers=1)
            assert next(rows).status == "done"
            assert reached.wait(LONG_S)
            rows.close()
        server.on_predict = None
        (row,), sent = extract(server, long_video, out)
        assert (row.status, row.clips_kept, sent) == ("done", 8, CLIPS - 8)
        assert same(row.path, whole)

    def test_failed_output_is_written_without_a_request(self, server, long_video, tmp_path, whole):
        out = tmp_path / "out"
        path = output_path(out, "long.mp4", "npz")
        path.mkdir(parents=True)  # in the way
        (row,), _ = extract(server, long_video, out, overwrite=True)
        assert (row.status, row.path) == ("failed", path)
        path.rmdir()
        (row,), sent = extract(server, long_video, out)
        assert (row.status, row.clips_kept, sent) == ("done", CLIPS, 0)
        assert same(row.path, whole)

    def test_kept_rows_are_found_under_every_format_and_name(self, server, long_video, tmp_path):
        for number, options in enumerate(
            [{"format": format} for format in FORMATS]
            + [{"name": "{parent}/x/{stem}.npy"}, {"name": f"{'n' * 300}/{'n' * 300}.npz"}]
        ):
            out = tmp_path / str(number)
            kept = interrupt(server, long_video, out, **options)
            (row,), sent = extract(server, long_video, out, **options)
            assert (row.clips_kept, sent) == (12, 8), options
            assert kept == partial_path(row.path)
            assert not kept.exists()


@pytest.mark.usefixtures("keep_all")
class TestNotUsed:
    """Rows that are not of this video, model and clips are deleted, with the reason in a note."""

    def check(self, server, videos, out, whole, *, why, **options):
        notes = []
        (row,), sent = extract(server, videos, out, notes=notes, **options)
        assert (row.status, row.clips_kept) == ("done", 0)
        assert sent == row.clips
        (note,) = notes
        assert note.startswith("long.mp4: rows that an earlier run kept are not used: ")
        assert note.endswith(why), note
        assert whole is None or same(row.path, whole)
        assert list(out.iterdir()) == [row.path]

    def test_where_the_clips_are_cut_in_another_way(self, server, long_video, tmp_path):
        interrupt(server, long_video, tmp_path / "out", window=ClipWindow(stride=4))
        why = "was made with stride 4, not 8"
        self.check(server, long_video, tmp_path / "out", None, why=why)

    def test_where_the_model_is_another_one(self, server, long_video, tmp_path, whole):
        card = server.card
        for changes, why in (
            ({"precision": "bfloat16"}, "was made with precision bfloat16, not float32"),
            (
                {"weights": {"source": "x", "sha256": "ef" * 32}},
                f"weights {'ef' * 6}, not {'ab' * 6}",
            ),
        ):
            server.card = model_card(**changes)
            interrupt(server, long_video, tmp_path / "out")
            server.card = card
            self.check(server, long_video, tmp_path / "out", whole, why=why)
            (tmp_path / "out" / "long.mp4.npz").unlink()

    @pytest.mark.long
    def test_where_the_layers_are_others(self, narrow_server, bikes, tmp_path):
        arguments = ("extract", bikes, "--server", narrow_server.target, "--out", tmp_path)
        killed = subprocess.run([sys.executable, "-c", KILLED, "4", *map(str, arguments)])
        assert killed.returncode == -signal.SIGKILL
        notes = []
        with C3DClient(narrow_server.target, layers=["fc6", "fc7"]) as c3d:
            (row,) = ExtractJob(c3d, tmp_path).run(expand([bikes]), note=notes.append)
        assert (row.status, row.clips_kept) == ("done", 0)
        assert notes[0].endswith("was made with layer fc6, not fc6,fc7")

    def test_where_another_version_of_the_model_would_be_in_the_provenance(
        self, server, long_video, tmp_path
    ):
        interrupt(server, long_video, tmp_path / "out")
        server.version = 2
        why = "was made with another version of the model"
        self.check(server, long_video, tmp_path / "out", None, why=why)

    def test_where_other_versions_of_the_software_made_them(
        self, server, long_video, tmp_path, whole, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr("c3d_client.client.decoder_versions", lambda: {"pyav": "1.0"})
            interrupt(server, long_video, tmp_path / "out")
        with C3DClient(server.target) as c3d:
            pyav = c3d.provenance()["software"]["pyav"]
        notes = []
        extract(server, long_video, tmp_path / "out", notes=notes)
        assert f"pyav 1.0, not {pyav}" in notes[0]
        assert same(tmp_path / "out" / "long.mp4.npz", whole)

    def test_where_the_video_or_its_stream_is_another_one(self, server, long_video, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        video = folder / "long.mp4"
        video.write_bytes((long_video / "long.mp4").read_bytes())
        why = "is of another version, stream or frame rate of the video"
        interrupt(server, folder, tmp_path / "out")
        os.utime(video, ns=(1, 1))
        self.check(server, folder, tmp_path / "out", None, why=why)
        (tmp_path / "out" / "long.mp4.npz").unlink()
        interrupt(server, folder, tmp_path / "out")
        window = ClipWindow(stream=0)
        self.check(server, folder, tmp_path / "out", None, why=why, window=window)

    def test_where_the_file_is_of_another_program(self, server, long_video, tmp_path, whole):
        out = tmp_path / "out"
        path = partial_path(out / "long.mp4.npz")
        for content in (b"", b"c3d", b"my notes\n" * 99, bytes(99), partial._MARK):
            out.mkdir(exist_ok=True)
            path.write_bytes(content)
            self.check(server, long_video, out, whole, why="is damaged")
            (out / "long.mp4.npz").unlink()

    def test_where_the_rows_are_of_other_clips(self, server, long_video, tmp_path, whole):
        """With intact checksums, as if the decoder had found other frames."""
        out = tmp_path / "out"
        for starts in ([0, 8, 16, 25], [0, 8], [8, 16, 24, 32], list(range(0, 8 * 21, 8))):
            kept = interrupt(server, long_video, out)
            content = kept.read_bytes()
            header = content[: len(partial._MARK)]
            size = int.from_bytes(content[len(header) : len(header) + 4], "little")
            kept.write_bytes(content[: len(header) + 12 + size])
            rows = PartialRows(kept, video={}, note=lambda _: None)
            with kept.open("ab", buffering=0) as rows._target:
                rows._append(starts, {"first": np.full((len(starts), 4096), 7, np.float32)})
            notes = []
            (row,), sent = extract(server, long_video, out, notes=notes)
            is_prefix = starts == [0, 8]
            assert row.clips_kept == 0, starts
            assert (sent, len(notes)) == (CLIPS, 0 if is_prefix else 1), starts
            assert same(row.path, whole), starts
            row.path.unlink()

    def test_where_everything_is_to_be_overwritten(self, server, long_video, tmp_path):
        interrupt(server, long_video, tmp_path / "out")
        (row,), sent = extract(server, long_video, tmp_path / "out", overwrite=True)
        assert (row.clips_kept, sent) == (0, CLIPS)

    def test_damaged_rows_and_those_after_them_are_sent_again(
        self, server, long_video, tmp_path, whole
    ):
        out = tmp_path / "out"
        kept = interrupt(server, long_video, out)
        content = kept.read_bytes()
        record = RECORD
        assert (len(content) - len(partial._MARK)) > 3 * record
        for end in (1, record // 2, record - 1, record, record + 5, 2 * record + 1):
            kept.write_bytes(content[:-end])
            (row,), sent = extract(server, long_video, out)
            assert row.clips_kept == 4 * ((3 * record - end) // record), end
            assert row.clips_kept + sent == CLIPS, end
            assert same(row.path, whole), end
            row.path.unlink()
        for offset in (1, 5, 9, 13, 21, record - 1, record + 3, 3 * record - 1):
            damaged = bytearray(content)
            damaged[-offset] ^= 16
            kept.write_bytes(damaged)
            (row,), sent = extract(server, long_video, out)
            assert row.clips_kept == 4 * ((3 * record - offset) // record), offset
            assert row.clips_kept + sent == CLIPS, offset
            assert same(row.path, whole), offset
            row.path.unlink()

    def test_rows_after_damaged_ones_are_not_read_by_the_run_after_the_next(
        self, server, long_video, tmp_path, whole
    ):
        out = tmp_path / "out"
        kept = interrupt(server, long_video, out)
        damaged = bytearray(kept.read_bytes())
        damaged[-(2 * RECORD - 40)] ^= 1
        kept.write_bytes(damaged)
        interrupt(server, long_video, out, answers=1)
        (row,), sent = extract(server, long_video, out)
        assert (row.clips_kept, sent) == (8, 12)
        assert same(row.path, whole)


@pytest.mark.usefixtures("keep_all")
class TestRemoved:
    def test_video_that_is_damaged_itself_keeps_nothing(self, server, tmp_path):
        video = tmp_path / "in" / "torn.ts"
        video.parent.mkdir()
        write_noise(video, CLIPS)
        data = bytearray(video.read_bytes())
        data[len(data) * 3 // 4 : len(data) * 3 // 4 + 4000] = bytes(4000)
        video.write_bytes(data)
        (row,), sent = extract(server, video.parent, tmp_path / "out")
        assert row.status == "failed"
        assert sent > 4
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["failures.csv"]

    def test_rows_that_are_not_numbers_are_not_kept(self, server, long_video, tmp_path):
        server.on_predict = lambda _request, rows, _context: np.full(
            (len(rows), 4096), np.nan, np.float32
        )
        (row,), _ = extract(server, long_video, tmp_path / "out")
        assert "NaN" in row.error
        server.on_predict = None
        (row,), sent = extract(server, long_video, tmp_path / "out")
        assert (row.status, sent) == ("done", CLIPS)

    def test_new_version_that_is_rolled_out_gets_every_clip(self, server, long_video, tmp_path):
        def roll_out(*_):
            server.version = 1 if len(server.requests) < 4 else 2

        server.on_predict = roll_out
        (row,), _ = extract(server, long_video, tmp_path / "out")
        assert (row.status, row.clips_kept) == ("done", 0)
        assert read_features(row.path).provenance["model"]["version"] == 2
        assert list((tmp_path / "out").iterdir()) == [row.path]

    def test_full_disk_ends_the_keeping_and_not_the_video(
        self, server, long_video, tmp_path, whole, monkeypatch
    ):
        out, write = tmp_path / "out", PartialRows._write

        def write_on_full_disk(self, data):
            with full_disk(100_000):
                write(self, data)

        monkeypatch.setattr(PartialRows, "_write", write_on_full_disk)
        notes = []
        (row,), sent = extract(server, long_video, out, notes=notes)
        assert (row.status, sent) == ("done", CLIPS)
        (note,) = notes
        kept = partial_path(row.path)
        assert note.startswith(
            f"long.mp4: further rows of this video are not kept: {kept} cannot be written ("
        )
        assert same(row.path, whole)
        assert list(out.iterdir()) == [row.path]
        row.path.unlink()
        interrupt(server, long_video, out)  # the rows that found space are used
        (row,), sent = extract(server, long_video, out)
        assert (row.clips_kept, sent) == (4, 16)
        assert same(row.path, whole)


class TestFiles:
    def test_short_video_has_no_such_file(self, server, long_video, tmp_path):
        out = tmp_path / "out"
        seen = []
        server.on_predict = lambda *_: seen.extend(out.rglob("*"))
        (row,), _ = extract(server, long_video, out)
        assert row.status == "done"
        assert seen == []
        assert partial.KEEP_AFTER_S >= 30

    @pytest.mark.usefixtures("keep_all")
    def test_rows_of_another_process_are_not_written_to(self, server, long_video, tmp_path, whole):
        out = tmp_path / "out"
        path = partial_path(out / "long.mp4.npz")
        seen = []

        def on_predict(*_):
            if len(server.requests) == 1:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"of another process")
            seen.append(path.read_bytes())

        server.on_predict = on_predict
        notes = []
        (row,), sent = extract(server, long_video, out, notes=notes)
        assert (row.status, sent, notes) == ("done", CLIPS, [])
        assert seen == [b"of another process"] * 5
        assert same(row.path, whole)

    @pytest.mark.usefixtures("keep_all")
    def test_rows_that_the_temporary_folder_cannot_hold_are_not_taken_for_kept(self, tmp_path):
        store, rows = RowStore(most_in_memory=8), np.ones((8, 4096), np.float32)
        store.add(rows)
        store.add(rows[:1])
        store.add(rows[1:])
        kept = PartialRows(tmp_path / "one.partial", video={}, note=pytest.fail)
        kept.begin(Provenance({"model": "one"}))
        with full_disk(200_000), pytest.raises(OutputError, match="cannot be stored there"):
            kept.add(range(16), {"first": rows}, count=16, earlier=lambda: {"first": store.array()})
        kept.close()

    @pytest.mark.usefixtures("keep_all")
    def test_two_processes_of_one_video_keep_the_rows_of_both(self, tmp_path):
        path, provenance = tmp_path / "two.partial", Provenance({"model": "one"})
        starts = [8 * clip for clip in range(12)]

        def rows_of(first, end):
            return {"first": np.arange(first, end, dtype=np.float32)[:, None]}

        def begin():
            rows = PartialRows(path, video={}, note=pytest.fail)
            rows.begin(provenance)
            return rows

        def add(rows, first, end):
            rows.add(starts, rows_of(first, end), count=end, earlier=lambda: rows_of(0, end))

        one, other = begin(), begin()
        add(one, 0, 2)
        add(one, 2, 4)
        other.begin(provenance)
        assert other.take(starts[:4]) is not None
        assert other.take(starts[4:6]) is None
        add(one, 4, 6)  # before the other one's first answer, and after it
        add(other, 4, 6)
        add(one, 6, 8)
        add(other, 6, 8)
        add(other, 8, 10)
        add(one, 8, 10)
        one.close()
        other.close()
        third = begin()
        taken = third.take(starts[:10])
        assert taken is not None
        assert taken["first"].ravel().tolist() == list(range(10))
        third.require_all_taken()
        third.close()

    @pytest.mark.usefixtures("keep_all")
    def test_kept_rows_are_neither_videos_nor_features(self, server, long_video, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "long.mp4").write_bytes((long_video / "long.mp4").read_bytes())
        kept = interrupt(server, folder, folder)
        assert kept.parent == folder
        scan = Scan(any_file=True)
        assert [source.name for source in expand([folder], scan=scan)] == ["long.mp4"]
        assert not scan.left_out
        (row,), _ = extract(server, folder, folder)
        kept.write_bytes(b"of a video that was removed")
        assert [each.source for each in convert([folder], tmp_path / "npy", to="npy")] == [row.path]
