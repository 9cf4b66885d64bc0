"""The command and its videos: what it prints and writes, and how it ends where one is bad."""

import csv
import io
import json

import numpy as np
import pytest
from c3d_client.outputs import read_features, read_npz
from support.fake_serving import signature_defs
from support.films import noise, write_film, write_sound

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
    def test_writes_each_videos_features_under_its_own_path(
        self, run, narrow_server, carphone, film, monkeypatch
    ):
        monkeypatch.chdir(film.parent)
        (film.parent / "sub").mkdir()
        (film.parent / "sub" / "film.mp4").write_bytes(film.read_bytes())
        code, told, errors = run(
            *("extract", "film.mp4", "sub/film.mp4", carphone),
            *("--out", "features/new", "--server", narrow_server.target),
        )
        assert (code, told) == (0, "")
        assert errors[0].startswith(NOTE)
        assert errors[1:] == ["c3d: 3 videos done, 18 clips"]
        out = film.parent / "features" / "new"
        assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
            "carphone_pristine.mp4.npz",
            "film.mp4.npz",
            "sub/film.mp4.npz",
        ]
        content = read_npz(out / "film.mp4.npz")
        assert content["clip_starts"].tolist() == [0, 8]
        assert np.linalg.norm(content["video_feature"]) == pytest.approx(1, abs=1e-5)
        assert content["provenance"]["video"]["source"] == "film.mp4"

    def test_cuts_as_it_is_told(self, run, narrow_server, film):
        code, _, _ = run(
            *("extract", film, "--out", film.parent, "--server", narrow_server.target),
            *("--stride", 5, "--batch-size", 3, "--frame-step", 1, "--tail", "pad"),
        )
        assert code == 0
        content = read_npz(film.with_name("film.mp4.npz"))
        assert content["clip_starts"].tolist() == [0, 5, 10]  # the last one is padded
        assert content["provenance"]["clips"]["tail"] == "pad"

    def test_takes_a_list_on_standard_input(self, run, fake_serving, film, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"# mine\n\n{film}\n"))
        code, _, errors = run(
            *("extract", "-", "--out", film.parent, "--server", fake_serving().target)
        )
        assert (code, errors) == (0, ["c3d: 1 videos done, 2 clips"])

    def test_takes_the_server_from_the_environment(self, run, fake_serving, film, monkeypatch):
        monkeypatch.setenv("C3D_SERVER", fake_serving().target)
        assert run("extract", film, "--out", film.parent, "--quiet") == (0, "", [])

    def test_sends_the_token_of_a_file(self, run, fake_serving, film, tmp_path):
        (tmp_path / "token").write_text("secret-17\n")
        seen = []
        server = fake_serving(
            lambda _q, _r, context: seen.append(dict(context.invocation_metadata()))
        )
        code, _, errors = run(
            *("extract", film, "--out", tmp_path, "--server", server.target),
            *("--token-file", tmp_path / "token"),
        )
        assert code == 0
        assert seen[0]["authorization"] == "Bearer secret-17"
        assert "secret-17" not in "".join(errors)

    @pytest.mark.parametrize("format", ["npy", "h5", "parquet"])
    def test_writes_other_formats(self, run, fake_serving, film, tmp_path, format):
        code, _, _ = run(
            *("extract", film, "--out", tmp_path, "--server", fake_serving().target),
            *("--format", format),
        )
        assert code == 0
        found = read_features(tmp_path / f"film.mp4.{format}")
        assert found.clip_features.shape == (2, 4096)

    def test_does_the_same_video_once(self, run, fake_serving, film):
        server = fake_serving()
        code, _, errors = run(
            "extract", film, film, "--out", film.parent, "--server", server.target
        )
        assert (code, errors) == (0, ["c3d: 1 videos done, 2 clips"])
        assert len(server.requests) == 1

    def test_goes_on_after_videos_that_fail_and_again_does_only_what_is_left(
        self, run, fake_serving, film, tmp_path
    ):
        short, absent, out = short_film(tmp_path), tmp_path / "absent.mp4", tmp_path / "out"
        command = ("extract", short, film, absent, "--out", out, "--server", fake_serving().target)
        code, _, errors = run(*command)
        assert code == 1
        assert sorted(p.name for p in out.iterdir()) == ["failures.csv", "film.mp4.npz"]
        too_short = f"c3d: {short}: has 15 frames; a clip needs 16"
        missing = f"c3d: {absent}: no such file"
        listed = f"listed in {out / 'failures.csv'}"
        assert sorted(errors[:2]) == sorted([too_short, missing])
        assert errors[2:] == [f"c3d: 1 videos done, 2 clips; 2 failed, {listed}"]

        code, _, errors = run(*command)
        assert code == 1
        again = f"{too_short} (failed before; --retry-failed tries again)"
        assert sorted(errors[:2]) == sorted([again, missing])
        assert errors[2] == (
            f"c3d: 0 videos done, 0 clips; 1 skipped, done before; 2 failed, {listed}"
        )

    def test_refuses_two_videos_of_one_name_before_any_work(self, run, nobody, tmp_path):
        code, told, errors = run(
            *("extract", "/a/film.mp4", "/b/film.mp4"),
            *("--out", tmp_path / "out", "--server", nobody),
        )
        assert (code, told, len(errors)) == (2, "", 1)
        assert "/a/film.mp4" in errors[0]
        assert "/b/film.mp4" in errors[0]
        assert "--root" in errors[0]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("bad", BAD_VIDEOS, ids=lambda bad: bad.__name__)
    def test_of_a_bad_video_ends_with_2_and_its_reason(self, run, fake_serving, tmp_path, bad):
        video, out = bad(tmp_path), tmp_path / "out"
        code, told, errors = run("extract", video, "--out", out, "--server", fake_serving().target)
        assert (code, told, len(errors)) == (2, "", 2)
        assert errors[0].startswith(f"c3d: {video}: ")
        assert BAD_VIDEOS[bad] in errors[0]
        assert [p.name for p in out.iterdir()] == ["failures.csv"]

    def test_into_a_file_ends_with_2_before_any_request(self, run, fake_serving, film):
        server = fake_serving()
        code, told, errors = run("extract", film, "--out", film, "--server", server.target)
        assert (code, told) == (2, "")
        assert str(film) in errors[-1]
        assert server.requests == []

    def test_over_a_folder_ends_with_2_and_leaves_no_rest(self, run, fake_serving, film, tmp_path):
        (tmp_path / "out" / "film.mp4.npz").mkdir(parents=True)
        code, told, errors = run(
            "extract", film, "--out", tmp_path / "out", "--server", fake_serving().target
        )
        assert (code, told) == (2, "")
        assert errors[0].startswith(f"c3d: {tmp_path / 'out' / 'film.mp4.npz'}: ")
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "failures.csv",
            "film.mp4.npz",
        ]


class TestClassify:
    def test_names_the_best_classes_of_each_video(self, run, fake_serving, film):
        code, told, errors = run("classify", film, "--top", 2, "--server", fake_serving().target)
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

    def test_names_each_clips_best_classes(self, run, fake_serving, film):
        _, told, _ = run(
            "classify", film, "--top", 2, "--per-clip", "--server", fake_serving().target
        )
        assert [line.split() for line in told.splitlines()[3:]] == [
            [*("0.00", "to", "0.64", "s"), *("50.0%", "archery,", "25.0%", "bowling")],
            [*("0.32", "to", "0.96", "s"), *("50.0%", "archery,", "25.0%", "bowling")],
        ]

    def test_prints_json_lines_in_the_order_of_the_videos(self, run, fake_serving, film, carphone):
        code, told, errors = run(
            "classify", carphone, film, "--json", "--top", 1, "--server", fake_serving().target
        )
        assert (code, errors) == (0, [])
        first, second = (json.loads(line) for line in told.splitlines())
        assert [first["video"], second["video"]] == [str(carphone), str(film)]
        assert second["top"][0]["label"] == "archery"
        assert [clip["start_frame"] for clip in second["clips"]] == [0, 8]

    def test_prints_one_table_for_all_videos(self, run, fake_serving, film, carphone):
        code, told, _ = run(
            "classify", film, carphone, "--csv", "--top", 1, "--server", fake_serving().target
        )
        assert code == 0
        rows = list(csv.DictReader(io.StringIO(told)))
        assert {row["video"] for row in rows} == {str(film), str(carphone)}
        assert len(rows) == (1 + 2) + (1 + 14)

    def test_draws_and_writes_a_page(self, run, fake_serving, film, tmp_path):
        code, _, errors = run(
            *("classify", film, "--server", fake_serving().target),
            *("--timeline", tmp_path / "t.png", "--html", tmp_path / "pages"),
        )
        assert (code, errors) == (0, [])
        assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
        assert "archery" in (tmp_path / "pages" / "film.mp4.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize("option", ["--timeline=all.png", "--html=all.html"])
    def test_refuses_one_picture_for_several_videos(self, run, nobody, film, carphone, option):
        code, _, errors = run("classify", film, carphone, option, "--server", nobody)
        assert (code, len(errors)) == (2, 1)
        assert "is one file for several videos; name a folder" in errors[0]

    def test_refuses_two_kinds_of_output_for_machines(self, run, nobody, film):
        code, _, errors = run("classify", film, "--json", "--csv", "--server", nobody)
        assert (code, len(errors)) == (2, 1)
        assert "give one of them" in errors[0]

    def test_of_a_model_of_features_alone_ends_with_2(self, run, fake_serving, film):
        signatures = signature_defs()
        del signatures["classify"]
        code, told, errors = run(
            "classify", film, "--server", fake_serving(signatures=signatures).target
        )
        assert (code, told, len(errors)) == (2, "", 1)
        assert "no signature 'classify'" in errors[0]

    @pytest.mark.parametrize("bad", BAD_VIDEOS, ids=lambda bad: bad.__name__)
    def test_of_a_bad_video_ends_with_2_and_one_line(self, run, fake_serving, tmp_path, bad):
        code, told, errors = run("classify", bad(tmp_path), "--server", fake_serving().target)
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

    def test_does_without_a_health_service(self, run, fake_serving):
        code, told, errors = run("status", "--server", fake_serving().target)
        assert (code, errors) == (0, [])
        assert "UNIMPLEMENTED" in told.splitlines()[0]


class TestConvert:
    @pytest.fixture
    def features(self, run, fake_serving, film, carphone, tmp_path):
        out = tmp_path / "features"
        assert (
            run("extract", film, carphone, "--out", out, "--server", fake_serving().target)[0] == 0
        )
        return out

    def test_writes_every_file_in_the_other_format(self, run, features, tmp_path):
        code, told, errors = run("convert", features, "--to", "h5", "--out", tmp_path / "other")
        assert (code, errors) == (0, [])
        assert len(told.splitlines()) == 2
        found = read_features(tmp_path / "other" / "film.mp4.h5")
        assert np.array_equal(
            found.clip_features, read_features(features / "film.mp4.npz").clip_features
        )

    def test_names_what_it_cannot_read_and_converts_the_rest(self, run, features, tmp_path):
        (features / "broken.mp4.npz").write_bytes(b"PK nonsense")
        code, told, errors = run("convert", features, "--to", "npy", "--out", tmp_path / "other")
        assert code == 1
        assert len(told.splitlines()) == 2
        assert "broken.mp4.npz" in errors[0]
        assert errors[1] == "c3d: 1 of 3 files failed"

    def test_of_nothing_ends_with_2(self, run, tmp_path):
        code, _, errors = run(
            "convert", tmp_path / "absent", "--to", "npy", "--out", tmp_path / "other"
        )
        assert code == 2
        assert "absent" in errors[0]
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(run, shell):
    code, told, errors = run("completion", shell)
    assert (code, errors) == (0, [])
    assert "_C3D_COMPLETE" in told
