"""`c3d-pipelines estimate`: its input, its output, and its one-line errors."""

import json
import time

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.commands.estimate import estimate as command
from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.manifest import ManifestRow, write_manifest
from click.testing import CliRunner
from pipelines.test_rates import BENCH

SPEEDS = ("--frames-per-core-s", "350", "--clips-per-s", "300")
WORK = ("--videos", "1000", "--mean-duration", "120")


def video(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


def output(*arguments):
    arguments = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def error(*arguments):
    """Return the message of the error that the command ends with."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if isinstance(result.exception, SystemExit):
        return result.stderr
    assert isinstance(result.exception, (UsageError, ManifestError)), result.exception
    return str(result.exception)


class TestOutput:
    def test_has_the_figures_and_the_bottleneck(self):
        text = output(*WORK, *SPEEDS, "--gpu-hour", "2", "--cpu-hour", "0.05")
        assert "1,000, 33.3 hours of video" in text
        for part in (
            "shards",
            "pods",
            "servers",
            "read ",
            "sent ",
            "written",
            "wall time",
            "GPU-hours",
            "CPU-hours",
            "cost",
            "starting pods",
            "to change",
            "assumed",
        ):
            assert part in text, part
        (row,) = (line for line in text.splitlines() if line.startswith("computing in the server"))
        assert row.rstrip().endswith("bottleneck")
        assert "\x1b" not in text

    def test_has_no_cost_without_prices_and_no_gpu_hours_without_gpus(self):
        text = output(*WORK, *SPEEDS, "--gpus-per-replica", "0")
        assert "cost" not in text
        assert "GPU-hours" not in text
        assert "1 replica, without GPUs" in text

    def test_json_has_all_of_it(self):
        result = json.loads(output(*WORK, *SPEEDS, "--json"))
        assert list(result) == [
            "videos",
            "too_short",
            "failed",
            "shards",
            "pods",
            "clips",
            "frames",
            "wall_h",
            "cpu_h",
            "gpu_h",
            "bytes_in",
            "bytes_wire",
            "bytes_out",
            "stages_h",
            "bottleneck",
            "starts_h",
            "tail_h",
            "server_busy",
            "preempted",
            "lost_shards",
            "cost",
            "to_change",
            "assumed",
        ]
        assert result["shards"] == 4
        assert result["pods"] == 3 * 4 + 10
        assert list(result["wall_h"]) == ["low", "likely", "high"]
        assert result["wall_h"]["low"] < result["wall_h"]["likely"] < result["wall_h"]["high"]
        assert list(result["stages_h"]) == ["decode", "storage", "wire", "server"]
        assert result["bottleneck"] == "server"
        assert result["to_change"]
        assert "log-normal" in result["assumed"][0]

    def test_is_the_same_every_time(self):
        assert output(*WORK, *SPEEDS, "--json") == output(*WORK, *SPEEDS, "--json")

    @pytest.mark.long
    def test_a_million_videos_take_seconds(self):
        million = ("--videos", "1000000", "--mean-duration", "120", "--pods", "50")
        started = time.process_time()  # other processes take none of it
        text = output(*million, "--replicas", "40", *SPEEDS)
        assert time.process_time() - started < 30  # about 1 s
        assert "pods at a time instead of 50" in text

    def test_on_one_machine_starts_are_short(self):
        result = json.loads(output(*WORK, *SPEEDS, "--one-machine", "--json"))
        assert result["starts_h"] * 3600 == pytest.approx(1 + 4)
        assert result["pods"] == 1 + 4
        text = output(*WORK, *SPEEDS, "--one-machine")
        assert "on the same machine" in text
        assert "starting processes" in text

    def test_pods_start_as_fast_as_measured_by_default(self):
        result = json.loads(output(*WORK, *SPEEDS, "--pods", "4", "--json"))
        assert result["starts_h"] * 3600 == pytest.approx(125 + 30)


class TestInput:
    def test_videos_of_a_manifest(self, tmp_path):
        write_manifest(tmp_path / "m.csv", [video(n, duration_s=60.0) for n in range(5)])
        result = json.loads(output("--plan", tmp_path / "m.csv", *SPEEDS, "--json"))
        assert (result["videos"], result["shards"]) == (5, 1)
        assert result["frames"] == pytest.approx(5 * 1500 * 0.995)

    def test_rates_of_a_bench_at_its_resolution(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        result = json.loads(output(*WORK, "--bench", tmp_path / "bench.json", "--json"))
        # 8 clips in 0.04 s; the last request of a video has the same cost with fewer clips.
        assert result["stages_h"]["server"] * 3600 == pytest.approx(result["clips"] / 200, rel=0.05)
        cores_s = result["frames"] / (400 * 0.9)
        assert result["stages_h"]["decode"] * 3600 > cores_s / 4 / 8
        assert not any("computed" in line for line in result["assumed"])

    def test_rates_at_another_resolution_are_computed_and_noted(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        bench = ("--bench", tmp_path / "bench.json", "--clips-per-s", "1e6", "--shard-mb", "1e6")
        same, larger = (
            json.loads(output(*WORK, *bench, "--json", "--resolution", name))
            for name in ("720p", "1080p")
        )
        ratio = larger["stages_h"]["decode"] / same["stages_h"]["decode"]
        assert ratio == pytest.approx(2.2, abs=0.1)
        assert "for 1920x1080 from the 1280x720" in larger["assumed"][-1]

    def test_given_speeds_replace_those_of_the_bench(self, tmp_path):
        (tmp_path / "bench.json").write_text(json.dumps(BENCH))
        bench = ("--bench", tmp_path / "bench.json", "--json")
        assert output(*WORK, *bench, *SPEEDS) != output(*WORK, *bench)
        result = json.loads(output(*WORK, *bench, *SPEEDS))
        assert result["stages_h"]["server"] * 3600 == pytest.approx(result["clips"] / 300)

    def test_invalid_input_is_one_clear_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_manifest("plan.csv", [video(0, duration_s=3.0)])
        (tmp_path / "bad.parquet").write_text("no")
        (tmp_path / "empty.csv").write_text("video_id,uri\n")
        mean = ("--mean-duration", "1", *SPEEDS)
        for arguments, text in (
            ((), "how fast are frames decoded"),
            (SPEEDS, "what is there to do"),
            (("--videos", "5", *SPEEDS), "what is there to do"),
            (("--mean-duration", "5", *SPEEDS), "what is there to do"),
            ((*WORK, "--frames-per-core-s", "3"), "how fast is the server"),
            ((*WORK, *SPEEDS, "--plan", "plan.csv"), "give it or --videos"),
            (("--videos", "0", *mean), "videos is 0; give 1 or more"),
            (("--videos", "-4", *mean), "videos is -4; give 1 or more"),
            (
                ("--videos", "9" * 15, *mean),
                "an estimate allows at most 1000000000000, 1e+09 and 4",
            ),
            (("--videos", "9" * 400, *mean), "videos is too large for an estimate"),
            (("--videos", "x", *mean), "not a valid integer"),
            (("--videos", "4", "--mean-duration", "nan", *SPEEDS), "mean_duration_s is nan"),
            (("--videos", "4", "--mean-duration", "0", *SPEEDS), "mean_duration_s is 0"),
            (("--videos", "4", "--mean-duration", "inf", *SPEEDS), "mean_duration_s is inf"),
            ((*WORK, "--frames-per-core-s", "nan", "--clips-per-s", "1"), "frames_per_core_s is"),
            ((*WORK, "--frames-per-core-s", "1", "--clips-per-s", "0"), "clips_per_s is 0"),
            ((*WORK, *SPEEDS, "--spread", "-1"), "spread is -1"),
            ((*WORK, *SPEEDS, "--spread", "9"), "an estimate allows at most"),
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
            ((*WORK, *SPEEDS, "--pods", "9" * 400), "pods is too large for an estimate"),
            ((*WORK, *SPEEDS, "--failure-rate", "2"), "failure_rate is 2"),
            ((*WORK, *SPEEDS, "--preemption-rate", "-1"), "preemptions_per_h is -1"),
            ((*WORK, *SPEEDS, "--gpus-per-replica", "-1"), "gpus_per_replica is -1"),
            ((*WORK, *SPEEDS, "--pod-start-s", "inf"), "pod_start_s is inf"),
            ((*WORK, *SPEEDS, "--network-gbit", "0"), "network_gbit is 0"),
            ((*WORK, *SPEEDS, "--storage-mb-per-s", "nan"), "storage_mb_per_s is nan"),
            ((*WORK, *SPEEDS, "--pca-dim", "0"), "pca_dim is 0; give 1 to 4096"),
            ((*WORK, *SPEEDS, "--gpu-hour", "-1"), "gpu_hour is -1"),
            ((*WORK, *SPEEDS, "--cpu-hour", "nan"), "cpu_hour is nan; give 0 or more"),
            ((*WORK, *SPEEDS, "--one-machine", "--pods", "3"), "one machine has 1 of each"),
            ((*WORK, "--bench", "plan.csv"), "is not what `c3d bench --json` prints"),
            ((*WORK, "--bench", "absent.json"), "does not exist"),
            (("--plan", "bad.parquet", *SPEEDS), "bad.parquet"),
            (("--plan", "empty.csv", *SPEEDS), "empty.csv"),
        ):
            message = error(*arguments)
            assert text in message, arguments
            assert "Traceback" not in message, arguments
