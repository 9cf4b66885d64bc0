"""`c3d bench`: measurements are consistent, and are printed as tables or JSON."""

import itertools
import json
import math
from dataclasses import replace

import av
import grpc
import pytest
from c3d_client import C3DClient, ServingOptions, VideoTooShortError, bench, decode_frames
from c3d_client.bench import (
    batch_sizes,
    batch_speed,
    bottleneck,
    decode_speed,
    extract_speed,
    generate_video,
    message_speed,
    repeat_video,
)
from c3d_client.results import Timings
from c3d_client.serving.model_info import ModelInfo
from support.processes import LONG_S
from support.videos import write_video

QUICK_S = 0.05
TABLES = {
    "film": str,
    "decode": dict,
    "messages": dict,
    "server": dict,
    "extract": dict,
}


def all_positive(values):
    return all(math.isfinite(value) and value > 0 for value in values)


class TestDecodeSpeed:
    def test_short_video_is_repeated(self, video):
        speed = decode_speed(video, seconds=QUICK_S)
        assert (speed.width, speed.height) == (320, 240)
        assert speed.frames >= 64
        assert all_positive((speed.decode, speed.exact, speed.fast))


class TestMessageSpeed:
    def test_both_directions_take_at_least_the_time_of_each(self):
        speed = message_speed(seconds=QUICK_S)
        assert speed.clips == 32
        assert all_positive((speed.make_gb_per_s, speed.parse_gb_per_s))
        fastest = 1 / (1 / speed.make_gb_per_s + 1 / speed.parse_gb_per_s)
        assert 0 < speed.gb_per_s <= fastest * (1 + 1e-9)


class TestBatchSpeed:
    def test_only_batches_of_the_size_are_sent(self, fake_serving, monkeypatch):
        # As many as fit into the time depends on the machine.
        monkeypatch.setattr(bench, "_repeat_until", lambda end, clips: itertools.repeat(clips, 9))
        sizes = []
        server = fake_serving(lambda request, rows, context: sizes.append(len(rows)))
        speed = batch_speed(ServingOptions(target=server.target), 8, seconds=LONG_S)
        assert sizes == [1] + [8] * 10  # the second is measured alone
        assert speed.requests == 9
        assert speed.batch_size == 8
        assert all_positive((speed.clips_per_s, speed.alone_s))
        assert 0 < speed.p50_s <= speed.p95_s <= speed.p99_s
        assert speed.window >= 4
        assert speed.push_backs == 0

    def test_slow_server_gets_one_request(self, fake_serving):
        server = fake_serving()
        speed = batch_speed(ServingOptions(target=server.target), 8, seconds=1e-9)
        assert speed.requests == 1
        assert len(server.requests) == 2
        assert speed.p50_s == speed.p99_s == speed.alone_s
        assert speed.clips_per_s <= 8 / speed.alone_s

    def test_rejected_requests_are_counted(self, fake_serving):
        def refuse_once(request, rows, context):
            if len(server.requests) == 2:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")

        server = fake_serving(refuse_once)
        options = ServingOptions(target=server.target)
        assert batch_speed(options, 1, seconds=QUICK_S).push_backs == 1

    def test_batch_sizes_are_those_of_the_model_card(self):
        for card, sizes in (
            ({"batch_sizes": [1, 8]}, (1, 8)),
            ({"batch_sizes": [4]}, (1,)),
            ({"batch_sizes": [1, 64]}, (1, 8, 32)),
            ({}, (1, 8, 32)),
        ):
            assert batch_sizes(ModelInfo(1, (), card)) == sizes, card


@pytest.mark.long
class TestExtractSpeed:
    def test_numbers_of_a_whole_video_are_consistent(self, narrow_server, video):
        with C3DClient(narrow_server.target) as c3d:
            speed = extract_speed(c3d, video, seconds=60)
        assert speed.clips == 2
        assert speed.clips_per_s == pytest.approx(2 / speed.wall_s)
        assert speed.frames_per_s == pytest.approx(24 / speed.wall_s)
        assert speed.wall_s == speed.timings.wall_s
        assert speed.timings.compute_s > 0

    def test_long_video_ends_with_the_time(self, fake_serving, video):
        server = fake_serving()
        long_video = repeat_video(video, video.with_name("long.mp4"), times=20)
        assert sum(1 for _ in decode_frames(long_video)) == 480
        options = ServingOptions(target=server.target, batch_size=1, max_in_flight=1)
        with C3DClient(options=options) as c3d:
            speed = extract_speed(c3d, long_video, seconds=1e-9)
        assert speed.clips == 2
        assert speed.frames_per_s == pytest.approx(24 / speed.wall_s)
        assert len(server.requests) < 6

    def test_video_shorter_than_a_clip_is_an_error(self, narrow_server, tmp_path):
        short = write_video(tmp_path / "short.mp4", 15)
        with (
            C3DClient(narrow_server.target) as c3d,
            pytest.raises(VideoTooShortError, match="has 15 frames; a clip needs 16"),
        ):
            extract_speed(c3d, short, seconds=QUICK_S)


def test_bottleneck_is_the_part_that_the_others_waited_for():
    timings = Timings(wall_s=10.0, decode_s=1.0, wire_s=1.0, queue_s=0.0, compute_s=0.0)
    for changes, expected in (
        ({"decode_s": 6.0}, "decoding"),
        ({"queue_s": 5.0}, "the server"),
        ({"compute_s": 5.0}, "the server"),
        ({"wire_s": 9.0}, "the network"),
        ({"queue_s": None, "compute_s": None}, "the server or the network"),
    ):
        assert bottleneck(replace(timings, **changes)) == expected, changes


@pytest.mark.long
class TestCommand:
    def test_every_table_is_printed(self, run, narrow_server, video):
        code, stdout, stderr = run(
            *("bench", video, "--seconds", QUICK_S, "--server", narrow_server.target)
        )
        assert (code, stderr) == (0, [])
        starts = [line.split()[0] for line in stdout.splitlines() if line]
        assert starts == [
            *("video", "decode", "+", "+", "messages"),
            *("server", "batch", "1", "8", "decoding", "extract", "spent", "bottleneck:"),
        ]

    def test_json_has_the_main_numbers_and_the_tables(self, run, narrow_server, video):
        code, stdout, _ = run(
            *("bench", video, "--seconds", QUICK_S, "--server", narrow_server.target),
            *("--json", "--resize", "fast"),
        )
        results = json.loads(stdout)
        assert code == 0
        assert [*results] == ["frames_per_core_s", "clips_per_s", "batch_size", "cores", *TABLES]
        assert all(isinstance(results[name], kind) for name, kind in TABLES.items())
        assert results["frames_per_core_s"] == results["decode"]["fast"]
        assert results["film"] == str(video)
        best = max(results["server"]["batches"], key=lambda row: row["clips_per_s"])
        assert (results["clips_per_s"], results["batch_size"]) == (
            best["clips_per_s"],
            best["batch_size"],
        )
        assert [row["batch_size"] for row in results["server"]["batches"]] == [1, 8]
        assert results["extract"]["clips"] == 2

    def test_no_server_measures_this_machine_alone(self, run, closed_port, video):
        code, stdout, stderr = run(
            *("bench", video, "--seconds", QUICK_S, "--server", closed_port),
            *("--no-server", "--json"),
        )
        results = json.loads(stdout)
        assert (code, stderr) == (0, [])
        assert results["frames_per_core_s"] == results["decode"]["exact"] > 0
        assert results["clips_per_s"] is results["server"] is results["extract"] is None

    def test_missing_server_is_an_error_after_the_other_results(self, run, closed_port, video):
        for options in ((), ("--json",)):
            code, stdout, stderr = run(
                *("bench", video, "--seconds", QUICK_S, "--server", closed_port), *options
            )
            assert (code, len(stderr)) == (2, 1)
            assert stderr[0].startswith(f"c3d: {closed_port}: no server answers")
            if options:
                assert json.loads(stdout)["decode"]["exact"] > 0
                assert json.loads(stdout)["server"] is None
            else:
                assert "frames/s" in stdout

    def test_missing_video_is_one_line(self, run, tmp_path):
        code, stdout, stderr = run("bench", tmp_path / "absent.mp4", "--json")
        assert (code, stdout) == (2, "")
        assert stderr == [f"c3d: {tmp_path / 'absent.mp4'}: no such file"]


@pytest.mark.long
def test_generated_video_is_a_minute_of_720p(tmp_path):
    video = generate_video(tmp_path)
    assert [*tmp_path.iterdir()] == [video]
    frame = next(decode_frames(video))
    assert (frame.picture.width, frame.picture.height) == (1280, 720)
    with av.open(str(video)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 60 * 25
        assert container.duration == 60 * av.time_base
