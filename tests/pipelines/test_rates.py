"""Rates from `c3d bench`: for the batch size of the run, and for other resolutions."""

import json
import math

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimate.rates import Bench, read_bench
from c3d_pipelines.estimate.video_stats import RESOLUTIONS

BENCH = {
    "frames_per_core_s": 400.0,
    "clips_per_s": 320.0,
    "batch_size": 32,
    "cores": 6,
    "film": None,
    "decode": {"width": 1280, "height": 720, "frames": 200},
    "messages": {},
    "server": {
        "target": "localhost:8500",
        "batches": [
            {"batch_size": 1, "clips_per_s": 50.0, "alone_s": 0.02},
            {"batch_size": 8, "clips_per_s": 200.0, "alone_s": 0.04},
            {"batch_size": 32, "clips_per_s": 320.0, "alone_s": 0.1},
        ],
    },
    "extract": None,
}


def test_rates_are_those_of_the_runs_batch_size():
    bench = read_bench(json.dumps(BENCH), batch_size=8)
    assert (bench.resolution.width, bench.cores, bench.frames_per_core_s) == (1280, 6, 400)
    rates = bench.rates
    assert rates.video_s == 0.04
    for size, clips_per_s in ((8, 200), (1, 50)):
        assert rates.request_s + size / rates.clips_per_s == pytest.approx(size / clips_per_s)


def test_server_that_merges_requests_has_no_cost_per_request():
    batches = [{**row, "clips_per_s": 200.0} for row in BENCH["server"]["batches"]]
    bench = {**BENCH, "server": {"batches": batches}}
    rates = read_bench(json.dumps(bench), batch_size=8).rates
    assert rates.request_s == pytest.approx(0, abs=1e-12)
    assert rates.clips_per_s == pytest.approx(200)


def test_bench_without_a_server_has_frames_alone():
    assert read_bench(json.dumps({**BENCH, "server": None}), batch_size=8).rates is None


def test_frames_at_other_resolutions_are_as_measured():
    # us per frame of two videos: see FRAME_PIXELS.
    measured = {
        "240p": (386, 437),
        "360p": (650, 707),
        "480p": (1226, 1275),
        "1080p": (5723, 5437),
        "4k": (24826, 22754),
    }
    for index, at_720p in enumerate((2439, 2722)):
        bench = Bench(None, 1e6 / at_720p, RESOLUTIONS["720p"], 1)
        for name, times in measured.items():
            scaled = 1e6 / bench.frames_at(RESOLUTIONS[name])
            assert scaled == pytest.approx(times[index], rel=0.2), name


def test_other_text_is_refused_in_one_line():
    for text in (
        "",
        "[]",
        "{}",
        "null",
        "3",
        "\xff",
        json.dumps({**BENCH, "frames_per_core_s": None}),
        json.dumps({**BENCH, "frames_per_core_s": 0}),
        json.dumps({**BENCH, "frames_per_core_s": math.nan}),
        json.dumps({**BENCH, "decode": None}),
        json.dumps({**BENCH, "decode": {"width": 0, "height": 5}}),
        json.dumps({**BENCH, "server": {"batches": []}}),
        json.dumps({**BENCH, "server": {"batches": [{"batch_size": 0, "clips_per_s": 1}]}}),
        json.dumps({**BENCH, "server": {"batches": [{"batch_size": 8, "clips_per_s": -1}]}}),
    ):
        with pytest.raises(UsageError) as caught:
            read_bench(text, batch_size=8, source="file")
        message = str(caught.value)
        assert message.startswith("file: is not what `c3d bench --json` prints"), text
        assert "\n" not in message, text
