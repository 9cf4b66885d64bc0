"""`c3d bench`: what it measures adds up, and what it prints can be read by people and programs."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import av
import grpc
import pytest
from c3d_client import C3DClient, ServingOptions, VideoTooShortError, decode_frames
from c3d_client.bench import (
    batch_sizes,
    batch_speed,
    bottleneck,
    decode_speed,
    extract_speed,
    message_speed,
    repeat,
    write_film,
)
from c3d_client.results import Timings
from support.films import write_film as write_index_film

QUICK_S = 0.05
TABLES = {
    "film": str,
    "decode": dict,
    "messages": dict,
    "server": dict,
    "extract": dict,
}


def positive(values):
    return all(math.isfinite(value) and value > 0 for value in values)


class TestDecodeSpeed:
    def test_measures_a_short_film_on_frames_enough(self, film):
        speed = decode_speed(film, seconds=QUICK_S)
        assert (speed.width, speed.height) == (320, 240)
        assert speed.frames >= 64
        assert positive((speed.decode, speed.exact, speed.fast))


class TestMessageSpeed:
    def test_both_ways_take_as_long_as_each_together_at_least(self):
        speed = message_speed(seconds=QUICK_S)
        assert speed.clips == 32
        assert positive((speed.make_gb_per_s, speed.parse_gb_per_s))
        together = 1 / (1 / speed.make_gb_per_s + 1 / speed.parse_gb_per_s)
        assert 0 < speed.gb_per_s <= together * (1 + 1e-9)


class TestBatchSpeed:
    def test_asks_with_batches_of_the_size_alone(self, fake_serving):
        sizes = []
        server = fake_serving(lambda request, rows, context: sizes.append(len(rows)))
        speed = batch_speed(ServingOptions(target=server.target), 8, seconds=0.5)
        assert set(sizes) == {1, 8}
        assert speed.requests == sizes.count(8) - 1  # one was alone
        assert speed.requests > 1
        assert speed.batch_size == 8
        assert positive((speed.clips_per_s, speed.alone_s))
        assert 0 < speed.p50_s <= speed.p95_s <= speed.p99_s
        assert speed.window >= 4
        assert speed.push_backs == 0

    def test_asks_a_slow_server_once(self, fake_serving):
        server = fake_serving()
        speed = batch_speed(ServingOptions(target=server.target), 8, seconds=1e-9)
        assert speed.requests == 1
        assert len(server.requests) == 2
        assert speed.p50_s == speed.p99_s == speed.alone_s
        assert speed.clips_per_s <= 8 / speed.alone_s

    def test_counts_what_is_pushed_back(self, fake_serving):
        def refuse_once(request, rows, context):
            if len(server.requests) == 2:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")

        server = fake_serving(refuse_once)
        options = ServingOptions(target=server.target)
        assert batch_speed(options, 1, seconds=QUICK_S).push_backs == 1

    @pytest.mark.parametrize(
        ("card", "sizes"),
        [
            ({"batch_sizes": [1, 8]}, (1, 8)),
            ({"batch_sizes": [4]}, (1,)),
            ({"batch_sizes": [1, 64]}, (1, 8, 32)),
            ({}, (1, 8, 32)),
        ],
    )
    def test_knows_from_the_card_what_the_servable_was_made_for(self, card, sizes):
        assert batch_sizes(SimpleNamespace(card=card)) == sizes


class TestExtractSpeed:
    def test_a_whole_film_adds_up(self, narrow_server, film):
        with C3DClient(narrow_server.target) as c3d:
            speed = extract_speed(c3d, film, seconds=60)
        assert speed.clips == 2
        assert speed.clips_per_s == pytest.approx(2 / speed.wall_s)
        assert speed.frames_per_s == pytest.approx(24 / speed.wall_s)
        assert speed.wall_s == speed.timings.wall_s
        assert speed.timings.compute_s > 0

    def test_a_long_film_is_left_when_the_time_is_over(self, fake_serving, film):
        server = fake_serving()
        long_film = repeat(film, film.with_name("long.mp4"), times=20)
        assert sum(1 for _ in decode_frames(long_film)) == 480
        options = ServingOptions(target=server.target, batch_size=1, max_in_flight=1)
        with C3DClient(options=options) as c3d:
            speed = extract_speed(c3d, long_film, seconds=1e-9)
        assert speed.clips == 2
        assert speed.frames_per_s == pytest.approx(24 / speed.wall_s)
        assert len(server.requests) < 6

    def test_a_film_too_short_for_a_clip_says_so(self, narrow_server, tmp_path):
        short = write_index_film(tmp_path / "short.mp4", 15)
        with (
            C3DClient(narrow_server.target) as c3d,
            pytest.raises(VideoTooShortError, match="has 15 frames; a clip needs 16"),
        ):
            extract_speed(c3d, short, seconds=QUICK_S)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"decode_s": 6.0}, "decoding"),
        ({"queue_s": 5.0}, "the server"),
        ({"compute_s": 5.0}, "the server"),
        ({"wire_s": 9.0}, "the network"),
        ({"queue_s": None, "compute_s": None}, "the server or the network"),
    ],
)
def test_the_bottleneck_is_what_the_others_waited_for(changes, names):
    timings = Timings(wall_s=10.0, decode_s=1.0, wire_s=1.0, queue_s=0.0, compute_s=0.0)
    assert bottleneck(replace(timings, **changes)) == names


class TestCommand:
    def test_prints_every_table_for_people(self, run, narrow_server, film):
        code, told, errors = run(
            *("bench", film, "--seconds", QUICK_S, "--server", narrow_server.target)
        )
        assert (code, errors) == (0, [])
        starts = [line.split()[0] for line in told.splitlines() if line]
        assert starts == [
            *("film", "decode", "+", "+", "messages"),
            *("server", "batch", "1", "8", "decoding", "extract", "spent", "bottleneck:"),
        ]

    def test_json_has_the_headlines_of_its_tables(self, run, narrow_server, film):
        code, told, _ = run(
            *("bench", film, "--seconds", QUICK_S, "--server", narrow_server.target),
            *("--json", "--resize", "fast"),
        )
        found = json.loads(told)
        assert code == 0
        assert [*found] == ["frames_per_core_s", "clips_per_s", "batch_size", "cores", *TABLES]
        assert all(isinstance(found[name], kind) for name, kind in TABLES.items())
        assert found["frames_per_core_s"] == found["decode"]["fast"]
        assert found["film"] == str(film)
        best = max(found["server"]["batches"], key=lambda row: row["clips_per_s"])
        assert (found["clips_per_s"], found["batch_size"]) == (
            best["clips_per_s"],
            best["batch_size"],
        )
        assert [row["batch_size"] for row in found["server"]["batches"]] == [1, 8]
        assert found["extract"]["clips"] == 2

    def test_measures_this_machine_alone(self, run, nobody, film):
        code, told, errors = run(
            *("bench", film, "--seconds", QUICK_S, "--no-server", "--json", "--server", nobody)
        )
        found = json.loads(told)
        assert (code, errors) == (0, [])
        assert found["frames_per_core_s"] == found["decode"]["exact"] > 0
        assert found["clips_per_s"] is found["server"] is found["extract"] is None

    @pytest.mark.parametrize("as_json", [True, False])
    def test_without_a_server_says_what_it_measured_and_that(self, run, nobody, film, as_json):
        code, told, errors = run(
            *("bench", film, "--seconds", QUICK_S, "--server", nobody),
            *(("--json",) if as_json else ()),
        )
        assert code == 2
        assert len(errors) == 1
        assert errors[0].startswith(f"c3d: {nobody}: no server answers")
        if as_json:
            assert json.loads(told)["decode"]["exact"] > 0
            assert json.loads(told)["server"] is None
        else:
            assert "frames/s" in told

    def test_a_film_that_is_not_there_is_one_line(self, run, tmp_path):
        code, told, errors = run("bench", tmp_path / "absent.mp4", "--json")
        assert (code, told) == (2, "")
        assert errors == [f"c3d: {tmp_path / 'absent.mp4'}: no such file"]


def test_the_film_that_is_made_is_a_minute_of_720p(tmp_path):
    film = write_film(tmp_path)
    assert [*tmp_path.iterdir()] == [film]
    frame = next(decode_frames(film))
    assert (frame.picture.width, frame.picture.height) == (1280, 720)
    with av.open(str(film)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 60 * 25
        assert container.duration == 60 * av.time_base
