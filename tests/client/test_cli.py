"""The command `c3d`: its output and files, and its exit codes for bad videos."""

import csv
import io
import json

import numpy as np
import pytest
from c3d_client.outputs import FORMATS, read_features, read_npz
from support.fake_serving import model_card, signature_defs
from support.videos import noise, write_sound, write_video

NOTE = "c3d: note: the served weights, random:7: not a trained network"


def short_video(folder):
    return write_video(folder / "short.mp4", 15)


def missing_file(folder):
    return folder / "absent.mp4"


def not_a_video(folder):
    (folder / "notes.mp4").write_text("no frames here\n" * 2000)
    return folder / "notes.mp4"


def audio_file(folder):
    return write_sound(folder / "song.m4a")


def truncated_file(folder):
    whole = write_video(folder / "whole.mkv", 60, draw=noise)
    (folder / "cut.mkv").write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    return folder / "cut.mkv"


BAD_VIDEOS = {
    missing_file: "no such file",
    not_a_video: "cannot be opened as a video",
    audio_file: "has no video stream",
    short_video: "has 15 frames; a clip needs 16",
    truncated_file: "is cut short",
}


class TestExtract:
    def test_features_are_written_under_the_path_of_the_video(
        self, run, narrow_server, carphone, video, monkeypatch
    ):
        monkeypatch.chdir(video.parent)
        (video.parent / "sub").mkdir()
        (video.parent / "sub" / "video.mp4").write_bytes(video.read_bytes())
        code, stdout, stderr = run(
            *("extract", "video.mp4", "sub/video.mp4", carphone),
            *("--out", "features/new", "--server", narrow_server.target),
        )
        assert (code, stdout) == (0, "")
        assert stderr[0].startswith(NOTE)
        assert stderr[1:] == ["c3d: 3 videos done, 18 clips"]
        out = video.parent / "features" / "new"
        assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
            "carphone_pristine.mp4.npz",
            "sub/video.mp4.npz",
            "video.mp4.npz",
        ]
        content = read_npz(out / "video.mp4.npz")
        assert content["clip_starts"].tolist() == [0, 8]
        assert np.linalg.norm(content["video_feature"]) == pytest.approx(1, abs=1e-5)
        assert content["provenance"]["video"]["source"] == "video.mp4"

    def test_clip_options_are_used(self, run, narrow_server, video):
        code, _, _ = run(
            *("extract", video, "--out", video.parent, "--server", narrow_server.target),
            *("--stride", 5, "--batch-size", 3, "--frame-step", 1, "--tail", "pad"),
        )
        assert code == 0
        content = read_npz(video.with_name("video.mp4.npz"))
        assert content["clip_starts"].tolist() == [0, 5, 10]  # the last clip is padded
        assert content["provenance"]["clips"]["tail"] == "pad"

    def test_list_is_read_from_standard_input(self, run, fake_serving, video, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"# comment\n\n{video}\n"))
        code, _, stderr = run(
            *("extract", "-", "--out", video.parent, "--server", fake_serving().target)
        )
        assert (code, stderr) == (0, ["c3d: 1 videos done, 2 clips"])

    def test_server_is_read_from_the_environment(self, run, fake_serving, video, monkeypatch):
        monkeypatch.setenv("C3D_SERVER", fake_serving().target)
        assert run("extract", video, "--out", video.parent, "--quiet") == (0, "", [])

    def test_token_of_a_file_is_sent(self, run, fake_serving, video, tmp_path):
        (tmp_path / "token").write_text("secret-17\n")
        metadata = []
        server = fake_serving(
            lambda _q, _r, context: metadata.append(dict(context.invocation_metadata()))
        )
        code, _, stderr = run(
            *("extract", video, "--out", tmp_path, "--server", server.target),
            *("--token-file", tmp_path / "token"),
        )
        assert code == 0
        assert metadata[0]["authorization"] == "Bearer secret-17"
        assert "secret-17" not in "".join(stderr)

    def test_other_formats_are_written_and_listed_in_the_help(
        self, run, fake_serving, video, tmp_path
    ):
        _, help_text, _ = run("extract", "--help")
        server = fake_serving()
        for name, format in FORMATS.items():
            code, _, _ = run(
                *("extract", video, "--out", tmp_path, "--server", server.target),
                *("--format", name),
            )
            assert code == 0, name
            features = read_features(tmp_path / f"video.mp4{format.suffix}")
            assert features.clip_features.shape == (32 if name == "sultani" else 2, 4096)
            assert name in help_text

    def test_repeated_video_is_extracted_once(self, run, fake_serving, video):
        server = fake_serving()
        code, _, stderr = run(
            "extract", video, video, "--out", video.parent, "--server", server.target
        )
        assert (code, stderr) == (0, ["c3d: 1 videos done, 2 clips"])
        assert len(server.requests) == 1

    def test_run_continues_after_failures_and_a_second_run_does_what_is_left(
        self, run, fake_serving, video, tmp_path
    ):
        short, absent, out = short_video(tmp_path), tmp_path / "absent.mp4", tmp_path / "out"
        command = ("extract", short, video, absent, "--out", out, "--server", fake_serving().target)
        code, _, stderr = run(*command)
        assert code == 1
        assert sorted(p.name for p in out.iterdir()) == ["failures.csv", "video.mp4.npz"]
        too_short = f"c3d: {short.name}: has 15 frames; a clip needs 16"
        missing = f"c3d: {absent.name}: no such file"
        listed = f"listed in {out / 'failures.csv'}"
        assert sorted(stderr[:2]) == sorted([too_short, missing])
        assert stderr[2:] == [f"c3d: 1 videos done, 2 clips; 2 failed, {listed}"]

        code, _, stderr = run(*command)
        assert code == 1
        repeated = f"{too_short} (failed before; --retry-failed tries again)"
        assert sorted(stderr[:2]) == sorted([repeated, missing])
        assert stderr[2] == (
            f"c3d: 0 videos done, 0 clips; 1 skipped, done before; 2 failed, {listed}"
        )

    def test_two_videos_of_one_name_are_refused_before_any_request(
        self, run, closed_port, tmp_path
    ):
        code, stdout, stderr = run(
            *("extract", "/a/video.mp4", "/b/video.mp4"),
            *("--out", tmp_path / "out", "--server", closed_port),
        )
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert "/a/video.mp4" in stderr[0]
        assert "/b/video.mp4" in stderr[0]
        assert "--root" in stderr[0]
        assert not (tmp_path / "out").exists()

    def test_bad_video_is_a_failure_with_its_reason(self, run, fake_serving, tmp_path):
        server = fake_serving()
        for make_video, reason in BAD_VIDEOS.items():
            video, out = make_video(tmp_path), tmp_path / make_video.__name__
            code, stdout, stderr = run("extract", video, "--out", out, "--server", server.target)
            assert (code, stdout, len(stderr)) == (2, "", 2), reason
            assert stderr[0].startswith(f"c3d: {video.name}: ")
            assert stderr[0].count(video.name) == 1
            assert reason in stderr[0]
            assert [path.name for path in out.iterdir()] == ["failures.csv"], reason

    def test_output_folder_that_is_a_file_is_refused_before_any_request(
        self, run, fake_serving, video
    ):
        server = fake_serving()
        code, stdout, stderr = run("extract", video, "--out", video, "--server", server.target)
        assert (code, stdout) == (2, "")
        assert str(video) in stderr[-1]
        assert server.requests == []

    def test_output_that_is_a_folder_is_a_failure(self, run, fake_serving, video, tmp_path):
        (tmp_path / "out" / "video.mp4.npz").mkdir(parents=True)
        code, stdout, stderr = run(
            "extract", video, "--out", tmp_path / "out", "--server", fake_serving().target
        )
        assert (code, stdout) == (2, "")
        path = tmp_path / "out" / "video.mp4.npz"
        assert stderr[0].startswith(f"c3d: video.mp4: {path}: ")
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "failures.csv",
            "video.mp4.npz",
        ]


class TestClassify:
    def test_best_classes_of_each_video_are_named(self, run, fake_serving, video):
        code, stdout, stderr = run("classify", video, "--top", 2, "--server", fake_serving().target)
        assert (code, stderr) == (0, [])
        assert stdout.splitlines() == [
            f"{video}: 2 clips",
            "  " + "█" * 15 + "░" * 15 + "  50.00%  archery (0)",
            "  " + "█" * 8 + "░" * 22 + "  25.00%  bowling (1)",
        ]

    def test_five_classes_and_the_note_about_random_weights(self, run, narrow_server, video):
        code, stdout, stderr = run("classify", video, "--server", narrow_server.target)
        assert code == 0
        assert len(stdout.splitlines()) == 1 + 5
        assert len(stderr) == 1
        assert stderr[0].startswith(NOTE)

    def test_best_classes_of_each_clip_are_named(self, run, fake_serving, video):
        _, stdout, _ = run(
            "classify", video, "--top", 2, "--per-clip", "--server", fake_serving().target
        )
        assert [line.split() for line in stdout.splitlines()[3:]] == [
            [*("0.00", "to", "0.64", "s"), *("50.0%", "archery,", "25.0%", "bowling")],
            [*("0.32", "to", "0.96", "s"), *("50.0%", "archery,", "25.0%", "bowling")],
        ]

    def test_json_lines_are_in_the_order_of_the_videos(self, run, fake_serving, video, carphone):
        code, stdout, stderr = run(
            "classify", carphone, video, "--json", "--top", 1, "--server", fake_serving().target
        )
        assert (code, stderr) == (0, [])
        first, second = (json.loads(line) for line in stdout.splitlines())
        assert [first["video"], second["video"]] == [str(carphone), str(video)]
        assert second["top"][0]["label"] == "archery"
        assert [clip["start_frame"] for clip in second["clips"]] == [0, 8]

    def test_csv_is_one_table_for_all_videos(self, run, fake_serving, video, carphone):
        code, stdout, _ = run(
            "classify", video, carphone, "--csv", "--top", 1, "--server", fake_serving().target
        )
        assert code == 0
        rows = list(csv.DictReader(io.StringIO(stdout)))
        assert {row["video"] for row in rows} == {str(video), str(carphone)}
        assert len(rows) == (1 + 2) + (1 + 14)

    def test_timeline_and_page_are_written(self, run, fake_serving, video, tmp_path):
        code, _, stderr = run(
            *("classify", video, "--server", fake_serving().target),
            *("--timeline", tmp_path / "t.png", "--html", tmp_path / "pages"),
        )
        assert (code, stderr) == (0, [])
        assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
        assert "archery" in (tmp_path / "pages" / "video.mp4.html").read_text(encoding="utf-8")

    def test_one_file_for_the_views_of_several_videos_is_refused(
        self, run, closed_port, video, carphone
    ):
        for option in ("--timeline=all.png", "--html=all.html"):
            code, _, stderr = run("classify", video, carphone, option, "--server", closed_port)
            assert (code, len(stderr)) == (2, 1), option
            assert "is one file for several videos; name a folder" in stderr[0]

    def test_json_and_csv_together_are_refused(self, run, closed_port, video):
        code, _, stderr = run("classify", video, "--json", "--csv", "--server", closed_port)
        assert (code, len(stderr)) == (2, 1)
        assert "give one of them" in stderr[0]

    def test_model_without_the_signature_is_an_error(self, run, fake_serving, video):
        signatures = signature_defs()
        del signatures["classify"]
        code, stdout, stderr = run(
            "classify", video, "--server", fake_serving(signatures=signatures).target
        )
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert "no signature 'classify'" in stderr[0]

    def test_bad_video_is_one_line_and_exit_code_2(self, run, fake_serving, tmp_path):
        server = fake_serving()
        for make_video, reason in BAD_VIDEOS.items():
            video = make_video(tmp_path)
            code, stdout, stderr = run("classify", video, "--server", server.target)
            assert (code, stdout, len(stderr)) == (2, "", 1), reason
            assert reason in stderr[0]


class TestStatus:
    def test_health_versions_and_card_are_shown(self, run, narrow_server, narrow_weights):
        code, stdout, stderr = run("status", "--server", narrow_server.target)
        assert code == 0
        fields = dict(line.split(maxsplit=1) for line in stdout.splitlines())
        assert fields["server"] == f"{narrow_server.target}  SERVING"
        assert fields["version"] == "1  AVAILABLE"
        assert fields["model"] == "c3d version 1"
        assert fields["contract"] == "1"
        assert fields["precision"] == "float32"
        assert fields["weights"] == f"random:7  sha256 {narrow_weights.sha256}"
        assert fields["labels"] == "487"
        assert "fc6_features" in fields["signatures"]
        assert len(stderr) == 1
        assert stderr[0].startswith(NOTE)

    @pytest.mark.parametrize("columns", [60, 80])
    def test_reduced_verification_is_shown(self, run, fake_serving, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        server = fake_serving(card=model_card(precision="float16", verified="reduced"))
        code, stdout, _ = run("status", "--server", server.target)
        assert code == 0
        lines = stdout.splitlines()
        (number,) = [n for n, line in enumerate(lines) if line.startswith("verified ")]
        assert lines[number - 1 : number + 1] == [
            "precision  float16",
            "verified   reduced: one clip for each signature",
        ]
        assert len(lines[number]) <= columns

    def test_full_verification_is_not_shown(self, run, fake_serving):
        for verified in ({}, {"verified": "full"}):
            server = fake_serving(card=model_card(**verified))
            assert "verified" not in run("status", "--server", server.target)[1], verified

    def test_server_without_a_health_service(self, run, fake_serving):
        code, stdout, stderr = run("status", "--server", fake_serving().target)
        assert (code, stderr) == (0, [])
        assert "UNIMPLEMENTED" in stdout.splitlines()[0]


class TestConvert:
    @pytest.fixture
    def features(self, run, fake_serving, video, carphone, tmp_path):
        out = tmp_path / "features"
        assert (
            run("extract", video, carphone, "--out", out, "--server", fake_serving().target)[0] == 0
        )
        return out

    def test_every_file_is_written_in_the_other_format(self, run, features, tmp_path):
        code, stdout, stderr = run("convert", features, "--to", "h5", "--out", tmp_path / "other")
        assert (code, stderr) == (0, [])
        assert len(stdout.splitlines()) == 2
        converted = read_features(tmp_path / "other" / "video.mp4.h5")
        expected = read_features(features / "video.mp4.npz")
        assert np.array_equal(converted.clip_features, expected.clip_features)

    def test_unreadable_files_are_named_and_the_rest_converted(self, run, features, tmp_path):
        (features / "broken.mp4.npz").write_bytes(b"PK nonsense")
        code, stdout, stderr = run("convert", features, "--to", "npy", "--out", tmp_path / "other")
        assert code == 1
        assert len(stdout.splitlines()) == 2
        assert "broken.mp4.npz" in stderr[0]
        assert stderr[1] == "c3d: 1 of 3 files failed"

    def test_missing_input_is_an_error(self, run, tmp_path):
        code, _, stderr = run(
            "convert", tmp_path / "absent", "--to", "npy", "--out", tmp_path / "other"
        )
        assert code == 2
        assert "absent" in stderr[0]
        assert not (tmp_path / "other").exists()


def test_completion_is_a_script_for_the_shell(run):
    for shell in ("bash", "zsh", "fish"):
        code, stdout, stderr = run("completion", shell)
        assert (code, stderr) == (0, []), shell
        assert "_C3D_COMPLETE" in stdout, shell
