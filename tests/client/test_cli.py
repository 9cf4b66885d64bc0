"""The command and its videos: what it prints and writes, and how it ends where one is bad."""

import numpy as np
import pytest
from c3d_client.outputs import read_npz
from films import noise, write_film, write_sound
from stand_in import signature_defs

NOTE = "c3d: note: the served weights, random:7: not a trained network"


def short_film(folder):
    return write_film(folder / "short.mp4", 15)


def missing_file(folder):
    return folder / "absent.mp4"


def not_a_video(folder):
    (folder / "notes.mp4").write_text("no pictures here\n" * 2000)
    return folder / "notes.mp4"


def sound_alone(folder):
    return write_sound(folder / "song.m4a")


def truncated_file(folder):
    whole = write_film(folder / "whole.mkv", 60, draw=noise)
    (folder / "cut.mkv").write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    return folder / "cut.mkv"


BAD_VIDEOS = {
    missing_file: "no such file",
    not_a_video: "cannot be opened as a video",
    sound_alone: "has no video stream",
    short_film: "has 15 frames; a clip needs 16",
    truncated_file: "is cut short",
}


class TestExtract:
    def test_writes_each_videos_features_and_says_where(self, run, narrow_server, carphone, film):
        out = film.parent / "features" / "new"
        code, told, errors = run(
            *("extract", film, carphone, "--out", out, "--server", narrow_server.target)
        )
        assert code == 0
        assert told.splitlines() == [
            f"{out / 'film.npz'}: 2 clips x 4096, video feature [4096]",
            f"{out / 'carphone_pristine.npz'}: 14 clips x 4096, video feature [4096]",
        ]
        assert len(errors) == 1
        assert errors[0].startswith(NOTE)
        assert sorted(p.name for p in out.iterdir()) == ["carphone_pristine.npz", "film.npz"]
        content = read_npz(out / "film.npz")
        assert content["clip_starts"].tolist() == [0, 8]
        assert np.linalg.norm(content["video_feature"]) == pytest.approx(1, abs=1e-5)
        assert content["provenance"]["video"]["source"] == str(film)

    def test_cuts_as_it_is_told(self, run, narrow_server, film):
        code, _, _ = run(
            *("extract", film, "--out", film.parent, "--server", narrow_server.target),
            *("--stride", 1, "--batch-size", 3),
        )
        assert code == 0
        assert read_npz(film.with_suffix(".npz"))["clip_starts"].tolist() == list(range(9))

    def test_of_trained_weights_has_nothing_to_note(self, run, stand_in, film):
        code, _, errors = run("extract", film, "--out", film.parent, "--server", stand_in().target)
        assert (code, errors) == (0, [])

    def test_of_the_same_video_twice_does_it_once(self, run, stand_in, film):
        server = stand_in()
        code, told, _ = run("extract", film, film, "--out", film.parent, "--server", server.target)
        assert code == 0
        assert len(told.splitlines()) == 1
        assert len(server.requests) == 1

    def test_goes_on_after_a_video_that_fails(self, run, stand_in, film, tmp_path):
        short, out = short_film(tmp_path), tmp_path / "out"
        code, told, errors = run(
            *("extract", short, film, tmp_path / "absent.mp4"),
            *("--out", out, "--server", stand_in().target),
        )
        assert code == 1
        assert [p.name for p in out.iterdir()] == ["film.npz"]
        assert told.startswith(f"{out / 'film.npz'}: ")
        assert errors == [
            f"c3d: {short}: has 15 frames; a clip needs 16",
            f"c3d: {tmp_path / 'absent.mp4'}: no such file",
            "c3d: 2 of 3 videos failed",
        ]

    def test_refuses_two_videos_for_one_name_before_any_work(self, run, nobody, tmp_path):
        code, told, errors = run(
            *("extract", "a/film.mp4", "b/film.avi"),
            *("--out", tmp_path / "out", "--server", nobody),
        )
        assert (code, told, len(errors)) == (2, "", 1)
        assert "a/film.mp4 and b/film.avi would both be written to" in errors[0]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("bad", BAD_VIDEOS, ids=lambda bad: bad.__name__)
    def test_of_a_bad_video_ends_with_2_and_one_line(self, run, stand_in, tmp_path, bad):
        video, out = bad(tmp_path), tmp_path / "out"
        code, told, errors = run("extract", video, "--out", out, "--server", stand_in().target)
        assert (code, told, len(errors)) == (2, "", 1)
        assert errors[0].startswith(f"c3d: {video}: ")
        assert BAD_VIDEOS[bad] in errors[0]
        assert list(out.iterdir()) == []

    def test_into_a_file_ends_with_2_before_any_request(self, run, stand_in, film):
        server = stand_in()
        code, told, errors = run("extract", film, "--out", film, "--server", server.target)
        assert (code, told, len(errors)) == (2, "", 1)
        assert errors[0].startswith(f"c3d: {film}: results cannot be written there")
        assert server.requests == []

    def test_over_a_folder_ends_with_2_and_leaves_no_rest(self, run, stand_in, film, tmp_path):
        (tmp_path / "out" / "film.npz").mkdir(parents=True)
        code, told, errors = run(
            "extract", film, "--out", tmp_path / "out", "--server", stand_in().target
        )
        assert (code, told, len(errors)) == (2, "", 1)
        assert errors[0].startswith(f"c3d: {tmp_path / 'out' / 'film.npz'}: cannot be written")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["film.npz"]


class TestClassify:
    def test_names_the_best_classes_of_each_video(self, run, stand_in, film):
        code, told, errors = run("classify", film, "--top", 2, "--server", stand_in().target)
        assert (code, errors) == (0, [])
        assert told.splitlines() == [
            f"{film}: 2 clips",
            "  " + "█" * 15 + "░" * 15 + "  50.00%  archery (0)",
            "  " + "█" * 8 + "░" * 22 + "  25.00%  bowling (1)",
        ]

    def test_names_five_and_notes_weights_that_nobody_trained(self, run, narrow_server, film):
        code, told, errors = run("classify", film, "--server", narrow_server.target)
        assert code == 0
        assert len(told.splitlines()) == 1 + 5
        assert len(errors) == 1
        assert errors[0].startswith(NOTE)

    def test_of_a_model_of_features_alone_ends_with_2(self, run, stand_in, film):
        signatures = signature_defs()
        del signatures["classify"]
        code, told, errors = run(
            "classify", film, "--server", stand_in(signatures=signatures).target
        )
        assert (code, told, len(errors)) == (2, "", 1)
        assert "no signature 'classify'" in errors[0]

    @pytest.mark.parametrize("bad", BAD_VIDEOS, ids=lambda bad: bad.__name__)
    def test_of_a_bad_video_ends_with_2_and_one_line(self, run, stand_in, tmp_path, bad):
        code, told, errors = run("classify", bad(tmp_path), "--server", stand_in().target)
        assert (code, told, len(errors)) == (2, "", 1)
        assert BAD_VIDEOS[bad] in errors[0]


class TestStatus:
    def test_shows_health_versions_and_the_card(self, run, narrow_server, narrow_weights):
        code, told, errors = run("status", "--server", narrow_server.target)
        assert code == 0
        shown = dict(line.split(maxsplit=1) for line in told.splitlines())
        assert shown["server"] == f"{narrow_server.target}  SERVING"
        assert shown["version"] == "1  AVAILABLE"
        assert shown["model"] == "c3d version 1"
        assert shown["contract"] == "1"
        assert shown["precision"] == "float32"
        assert shown["weights"] == f"random:7  sha256 {narrow_weights.sha256}"
        assert shown["labels"] == "487"
        assert "fc6_features" in shown["signatures"]
        assert len(errors) == 1
        assert errors[0].startswith(NOTE)

    def test_does_without_a_health_service(self, run, stand_in):
        code, told, errors = run("status", "--server", stand_in().target)
        assert (code, errors) == (0, [])
        assert "UNIMPLEMENTED" in told.splitlines()[0]
