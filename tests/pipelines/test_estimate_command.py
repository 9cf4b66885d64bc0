"""`c3d-pipelines estimate`: what it reads, what it says, what it refuses in one line."""

import json

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.commands.estimate import estimate as command
from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.manifest import ManifestRow, write_manifest
from click.testing import CliRunner
from pipelines.test_rates import BENCH

SPEEDS = ("--frames-per-core-s", "350", "--clips-per-s", "300")
WORK = ("--videos", "1000", "--mean-duration", "120")


def film(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


def told(*arguments):
    found = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def refused(*arguments):
    """The message of the error that the command ends with."""
    found = CliRunner().invoke(command, [str(one) for one in arguments])
    if isinstance(found.exception, SystemExit):
        return found.stderr
    assert isinstance(found.exception, (UsageError, ManifestError)), found.exception
    return str(found.exception)


class TestCommand:
    def test_says_what_it_takes_and_what_holds_it_up(self):
        text = told(*WORK, *SPEEDS, "--gpu-hour", "2", "--cpu-hour", "0.05")
        assert "1,000, 33 hours of film" in text
        for word in ("shards", "pods", "wall time", "GPU-hours", "CPU-hours", "cost", "to change"):
            assert word in text
        held = [line for line in text.splitlines() if "holds it up" in line][0]
        assert held.startswith("computing in the server")
        assert "\x1b" not in text

    def test_json_has_all_of_it(self):
        found = json.loads(told(*WORK, *SPEEDS, "--json"))
        assert found["shards"] == 11
        assert found["pods"] == 3 * 11 + 13
        assert found["wall_h"]["low"] < found["wall_h"]["likely"] < found["wall_h"]["high"]
        assert found["bottleneck"] == "server"
        assert found["to_change"]
        assert "log-normal" in found["assumed"][0]

    def test_takes_videos_from_a_manifest(self, tmp_path):
        write_manifest(tmp_path / "m.csv", [film(n, duration_s=60.0) for n in range(5)])
        found = json.loads(told("--plan", tmp_path / "m.csv", *SPEEDS, "--json"))
        assert (found["videos"], found["shards"]) == (5, 1)
        assert found["frames"] == pytest.approx(5 * 1500 * 0.995)

    def test_takes_rates_from_a_bench_for_films_of_its_size(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        found = json.loads(told(*WORK, "--bench", tmp_path / "bench.json", "--json"))
        # 8 clips in 0.04 s, and the last request of a video costs what it costs.
        assert found["stages_h"]["server"] * 3600 == pytest.approx(found["clips"] / 200, rel=0.05)
        cores_s = found["frames"] / (400 * 0.9)
        assert found["stages_h"]["decode"] * 3600 > cores_s / 4 / 8
        assert not any("reckoned" in line for line in found["assumed"])

    def test_reckons_rates_for_films_of_another_size_and_says_so(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        bench = (
            "--bench",
            tmp_path / "bench.json",
            "--clips-per-s",
            "1e6",
            "--shard-mb",
            "1e6",
            "--json",
        )
        same, larger = (
            json.loads(told(*WORK, *bench, "--resolution", name)) for name in ("720p", "1080p")
        )
        ratio = larger["stages_h"]["decode"] / same["stages_h"]["decode"]
        assert ratio == pytest.approx(2.2, abs=0.1)
        assert "for 1920x1080 from 1280x720" in larger["assumed"][-1]

    def test_what_is_given_wins_over_the_bench(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        bench = ("--bench", tmp_path / "bench.json", "--json")
        assert told(*WORK, *bench, *SPEEDS) != told(*WORK, *bench)
        given = json.loads(told(*WORK, *bench, *SPEEDS))
        assert given["stages_h"]["server"] * 3600 == pytest.approx(given["clips"] / 300)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "how fast are frames decoded"),
            (SPEEDS, "what is there to do"),
            (("--videos", "5", *SPEEDS), "what is there to do"),
            (("--mean-duration", "5", *SPEEDS), "what is there to do"),
            ((*WORK, "--frames-per-core-s", "3"), "how fast is the server"),
            ((*WORK, *SPEEDS, "--plan", "plan.csv"), "give it or --videos"),
            (("--videos", "0", "--mean-duration", "1", *SPEEDS), "videos is 0"),
            (("--videos", "-4", "--mean-duration", "1", *SPEEDS), "videos is -4"),
            (("--videos", "9" * 15, "--mean-duration", "1", *SPEEDS), "can be reckoned with"),
            (("--videos", "9" * 400, "--mean-duration", "1", *SPEEDS), "can be reckoned with"),
            (("--videos", "x", "--mean-duration", "1", *SPEEDS), "not a valid integer"),
            (("--videos", "4", "--mean-duration", "nan", *SPEEDS), "mean_duration_s is nan"),
            (("--videos", "4", "--mean-duration", "0", *SPEEDS), "mean_duration_s is 0"),
            (("--videos", "4", "--mean-duration", "inf", *SPEEDS), "mean_duration_s is inf"),
            ((*WORK, "--frames-per-core-s", "nan", "--clips-per-s", "1"), "frames_per_core_s is"),
            ((*WORK, "--frames-per-core-s", "1", "--clips-per-s", "0"), "clips_per_s is 0"),
            ((*WORK, *SPEEDS, "--spread", "-1"), "spread is -1"),
            ((*WORK, *SPEEDS, "--spread", "9"), "can be reckoned with"),
            ((*WORK, *SPEEDS, "--resolution", "8k"), "'8k' is not one of"),
            ((*WORK, *SPEEDS, "--bytes-per-s", "0"), "bytes_per_s is 0"),
            ((*WORK, *SPEEDS, "--fps", "-1"), "fps is -1"),
            ((*WORK, *SPEEDS, "--stride", "0"), "stride is 0"),
            ((*WORK, *SPEEDS, "--batch-size", "0"), "batch_size is 0"),
            ((*WORK, *SPEEDS, "--pods", "0"), "pods is 0"),
            ((*WORK, *SPEEDS, "--workers-per-pod", "0"), "cores is 0"),
            ((*WORK, *SPEEDS, "--replicas", "0"), "replicas is 0"),
            ((*WORK, *SPEEDS, "--shard-minutes", "0"), "shard_minutes is 0"),
            ((*WORK, *SPEEDS, "--shard-mb", "nan"), "shard_mb is nan"),
            ((*WORK, *SPEEDS, "--max-shards", "0"), "max_shards is 0"),
            ((*WORK, *SPEEDS, "--max-shards", "10001"), "max_shards is 10001"),
            ((*WORK, *SPEEDS, "--pods", "9" * 400), "pods is larger than can be reckoned with"),
            ((*WORK, *SPEEDS, "--failure-rate", "2"), "failure_rate is 2"),
            ((*WORK, *SPEEDS, "--preemption-rate", "-1"), "preemptions_per_h is -1"),
            ((*WORK, *SPEEDS, "--gpu-hour", "-1"), "gpu_hour is -1"),
            ((*WORK, *SPEEDS, "--one-machine", "--pods", "3"), "one machine has 1 of each"),
            ((*WORK, "--bench", "plan.csv"), "is not what `c3d bench --json` prints"),
            ((*WORK, "--bench", "absent.json"), "does not exist"),
            (("--plan", "bad.parquet", *SPEEDS), "bad.parquet"),
            (("--plan", "empty.csv", *SPEEDS), "empty.csv"),
        ],
    )
    def test_bad_input_is_one_clear_line(self, tmp_path, monkeypatch, arguments, words):
        monkeypatch.chdir(tmp_path)
        write_manifest("plan.csv", [film(0, duration_s=3.0)])
        (tmp_path / "bad.parquet").write_text("no")
        (tmp_path / "empty.csv").write_text("video_id,uri\n")
        message = refused(*arguments)
        assert words in message
        assert "Traceback" not in message
