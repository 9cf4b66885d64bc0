"""A server that goes away, comes back, or refuses: the same rows, or one clear line."""

import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from c3d_export.local_server import LocalServer
from c3d_pipelines.errors import ShardError
from c3d_pipelines.shards.worker import do_shard
from support.fake_serving import LossyProxy
from support.films import write_film
from support.shard_runs import after, files_in, job, meaning, mixed_rows, read_videos, row

pytestmark = pytest.mark.faults

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def rows(tmp_path):
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refuse(code, details="no"):
    def on_predict(request, rows, context):
        context.abort(code, details)

    return on_predict


def test_a_server_that_is_away_for_a_while_costs_time_and_nothing_else(started, rows, out):
    whole = meaning(out, do_shard(job(out, started().target), rows, 0))
    lost = Counter()

    def on_predict(request, clips, context):
        lost["requests"] += 1
        if 3 < lost["requests"] <= 23:  # more than the client's own five tries for each
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone for a while")

    server = started(on_predict)
    report = do_shard(job(out / "2", server.target, batch_size=1), rows, 0)
    assert meaning(out / "2", report) == whole
    assert report.retries >= 1


def test_a_server_that_loses_a_third_of_all_requests_is_good_enough(narrow_server, rows, out):
    whole = meaning(out, do_shard(job(out, narrow_server.target), rows, 0))
    trouble = LossyProxy(narrow_server.target, seed=3, share=0.35)
    try:
        settings = job(out / "2", trouble.target, batch_size=2)
        report = do_shard(settings, rows, 0)
    finally:
        trouble.stop()
    assert trouble.lost > 5
    require_close(meaning(out / "2", report), whole)


def test_a_server_that_is_killed_and_started_again_is_waited_for(narrow_base, rows, out):
    server = LocalServer(narrow_base)
    server.start()
    whole = meaning(out, do_shard(job(out, server.target), rows, 0))
    settings = job(out / "2", server.target, workers=1)
    again = []

    def restart():
        port = server.port
        server.stop(0)

        def start():
            time.sleep(0.5)
            again.append(LocalServer(narrow_base, port=port))
            again[0].start()

        threading.Thread(target=start).start()

    report = do_shard(settings, rows, 0, on_progress=after(1, restart))
    again[0].stop(5)
    require_close(meaning(out / "2", report), whole)
    assert report.retries >= 1


def require_close(found, whole):
    """The same meaning; numbers of batches that were cut elsewhere differ in their last digits."""
    for mine, theirs in zip(found, whole, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            for name in one:
                if name == "feature" and one[name] is not None:
                    np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)
                else:
                    assert one[name] == other[name]


def test_a_server_that_stays_away_ends_the_shard_in_one_line_and_a_later_run_does_it(
    started, rows, out
):
    server = started()
    settings = job(out, server.target, patience_s=0.5)
    with pytest.raises(ShardError) as failed:
        do_shard(settings, rows, 7, on_progress=after(1, server.stop))
    said = str(failed.value)
    assert said.startswith("shard 7: the server did not come back within 0.5 s (127.0.0.1:")
    assert server.target in said
    assert said.endswith("start the run again when the server answers: shards that are done stay")
    assert "\n" not in said
    assert files_in(out) == []
    started(port=server.port)
    assert do_shard(settings, rows, 7).counts["ok"] == 4


def test_a_server_that_is_away_when_the_shard_begins_is_waited_for(started, rows, out):
    server = started()
    settings = job(out, server.target)
    server.stop()
    timer = threading.Timer(0.4, lambda: started(port=server.port))
    timer.start()
    assert do_shard(settings, rows, 0).counts["ok"] == 4
    timer.join()


def test_a_server_that_has_not_loaded_its_model_yet_is_waited_for(started, rows, out):
    server = started()
    settings = job(out, server.target)
    refused = []

    def on_predict(request, clips, context):
        if len(refused) < 3:
            refused.append(1)
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(c3d)")

    server.on_predict = on_predict
    report = do_shard(settings, rows, 0)
    assert report.counts["ok"] == 4
    assert report.retries >= 1


def test_a_server_that_lets_nobody_in_is_not_waited_for(started, rows, out):
    server = started()
    settings = job(out, server.target)
    server.on_predict = refuse(grpc.StatusCode.UNAUTHENTICATED, "token expired")
    began = time.monotonic()
    with pytest.raises(ShardError, match=r"^shard 0: the server refuses \(.*token expired"):
        do_shard(settings, rows, 0)
    assert time.monotonic() - began < 15
    assert files_in(out) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "RequestRejected"),
        (grpc.StatusCode.INTERNAL, "ServingError"),
    ],
)
def test_videos_that_the_server_refuses_are_rows_however_many(started, rows, out, code, kind):
    server = started()
    settings = job(out, server.target)
    server.on_predict = refuse(code)
    report = do_shard(settings, rows, 0)
    assert report.counts == {"ok": 0, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 4}
    failed = [one for one in read_videos(out, report) if one["status"] == "failed"]
    assert {one["error_type"] for one in failed} == {kind}
    assert server.target in failed[0]["error_message"]
    assert report.clips == 0


def test_an_answer_that_is_no_number_fails_its_video_alone(started, rows, out):
    def on_predict(request, clips, context):
        if len(clips) == 2:  # b.mp4's
            return np.full((2, 4096), np.nan, np.float32)
        return None

    server = started()
    settings = job(out, server.target)
    server.on_predict = on_predict
    found = read_videos(out, do_shard(settings, rows, 0))
    assert [one["status"] for one in found].count("ok") == 3
    assert (found[2]["status"], found[2]["error_type"]) == ("failed", "ServingError")
    assert "cannot be used" in found[2]["error_message"]


def test_a_server_that_answers_for_all_but_one_video_is_not_gone(started, rows, out):
    def on_predict(request, clips, context):
        if len(clips) == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for this")

    server = started(on_predict)
    settings = job(out, server.target, patience_s=2.0)
    slow = [row(write_film(out.parent / f"{n}.mp4", 40)) for n in range(6)]
    found = read_videos(out, do_shard(settings, [rows[2], *slow], 0))
    assert [one["status"] for one in found] == ["failed", *["ok"] * 6]
    assert found[0]["error_type"] == "ServingOverloaded"
