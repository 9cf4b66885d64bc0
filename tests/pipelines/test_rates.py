"""Rates from `c3d bench`: for the batches of the run, and for films of other sizes."""

import json
import math

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimates.footage import RESOLUTIONS
from c3d_pipelines.estimates.rates import Bench, read_bench

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


class TestBench:
    def test_gives_the_rates_of_the_run_s_batches(self):
        found = read_bench(json.dumps(BENCH), batch_size=8)
        assert (found.film.width, found.cores, found.frames_per_core_s) == (1280, 6, 400)
        rates = found.rates
        assert rates.video_s == 0.04
        for size, clips_per_s in ((8, 200), (1, 50)):
            assert rates.request_s + size / rates.clips_per_s == pytest.approx(size / clips_per_s)

    def test_a_server_that_joins_requests_itself_has_no_cost_a_request(self):
        batches = [{**row, "clips_per_s": 200.0} for row in BENCH["server"]["batches"]]
        bench = {**BENCH, "server": {"batches": batches}}
        rates = read_bench(json.dumps(bench), batch_size=8).rates
        assert rates.request_s == pytest.approx(0, abs=1e-12)
        assert rates.clips_per_s == pytest.approx(200)

    def test_without_a_server_has_frames_alone(self):
        assert read_bench(json.dumps({**BENCH, "server": None}), batch_size=8).rates is None

    def test_frames_of_other_sizes_are_within_what_was_measured(self):
        # us a frame, of two films: see FRAME_PIXELS.
        measured = {
            "240p": (386, 437),
            "360p": (650, 707),
            "480p": (1226, 1275),
            "1080p": (5723, 5437),
            "4k": (24826, 22754),
        }
        for at_720p, which in ((2439, 0), (2722, 1)):
            bench = Bench(None, 1e6 / at_720p, RESOLUTIONS["720p"], 1)
            for name, times in measured.items():
                reckoned = 1e6 / bench.frames_at(RESOLUTIONS[name])
                assert reckoned == pytest.approx(times[which], rel=0.2), name

    @pytest.mark.parametrize(
        "text",
        [
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
            json.dumps({**BENCH, "server": {"batches": []}}),
            json.dumps({**BENCH, "server": {"batches": [{"batch_size": 0, "clips_per_s": 1}]}}),
            json.dumps({**BENCH, "server": {"batches": [{"batch_size": 8, "clips_per_s": -1}]}}),
        ],
    )
    def test_what_is_none_is_refused_in_one_line(self, text):
        with pytest.raises(
            UsageError, match="file: is not what `c3d bench --json` prints"
        ) as caught:
            read_bench(text, batch_size=8, source="file")
        assert "\n" not in str(caught.value)
