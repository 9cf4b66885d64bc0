"""The worker with a server that goes away, comes back, or refuses."""

import itertools
import threading
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest
from c3d_client.serving.patience import Patience
from c3d_export.local_server import LocalServer
from c3d_pipelines.errors import ShardError
from c3d_pipelines.shards.worker import do_shard
from support.fake_serving import LossyProxy
from support.ports import reserved_port
from support.shard_runs import after, files_in, job, read_videos, row, stable_content
from support.videos import write_video

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("short_pauses")]


def refuse(code, details="no"):
    def on_predict(request, rows, context):
        context.abort(code, details)

    return on_predict


def test_temporary_outage_costs_only_time(started, rows, out):
    expected = stable_content(out, do_shard(job(out, started().target), rows, 0))
    requests = itertools.count(1)

    def on_predict(request, clips, context):
        if 3 < next(requests) <= 23:  # more than the client's five attempts for each
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    server = started(on_predict)
    report = do_shard(job(out / "2", server.target, batch_size=1), rows, 0)
    assert stable_content(out / "2", report) == expected
    assert report.retries >= 1


def test_third_of_all_requests_may_fail(narrow_server, rows, out):
    expected = stable_content(out, do_shard(job(out, narrow_server.target), rows, 0))
    proxy = LossyProxy(narrow_server.target, seed=3, share=0.35)
    try:
        report = do_shard(job(out / "2", proxy.target, batch_size=2), rows, 0)
    finally:
        proxy.stop()
    assert proxy.lost > 5
    require_close(stable_content(out / "2", report), expected)


def test_killed_server_is_retried_until_it_restarts(narrow_base, rows, out):
    server = LocalServer(narrow_base, port=reserved_port())
    server.start()
    expected = stable_content(out, do_shard(job(out, server.target), rows, 0))
    settings = job(out / "2", server.target, workers=1)
    servers = []

    def start():
        servers.append(LocalServer(narrow_base, port=server.port))
        servers[0].start()

    starts = threading.Timer(0.5, start)

    def restart():
        server.stop(0)
        starts.start()

    report = do_shard(settings, rows, 0, on_progress=after(1, restart))
    starts.join()
    servers[0].stop(5)
    require_close(stable_content(out / "2", report), expected)
    assert report.retries >= 1


def require_close(stored, expected):
    """Compare content; numbers of batches that were cut differently differ in the last digits."""
    for items, expected_items in zip(stored, expected, strict=True):
        for item, expected_item in zip(items, expected_items, strict=True):
            feature, expected_feature = item.pop("feature"), expected_item.pop("feature")
            assert item == expected_item
            assert (feature is None) == (expected_feature is None)
            if feature is not None:
                np.testing.assert_allclose(feature, expected_feature, rtol=1e-4, atol=1e-5)


def test_lost_server_ends_the_shard_in_one_line_and_a_later_run_does_it(
    started, rows, out, monkeypatch
):
    ends = []  # of waits: when no answer had come for the whole patience, and since when
    failed_attempt = Patience.failed

    def failed_and_recorded(self, **attempt):
        away_s = failed_attempt(self, **attempt)
        if away_s >= 2.0:
            ends.append((self, self._away_since))
        return away_s

    monkeypatch.setattr(Patience, "failed", failed_and_recorded)
    server = started(port=reserved_port())
    settings = job(out, server.target, patience_s=2.0)
    began = time.monotonic()
    with pytest.raises(ShardError) as failed:
        do_shard(settings, rows, 7, on_progress=after(1, server.stop))
    assert time.monotonic() - began >= 2.0
    # The waits of the client and of the worker, or of several videos, do not add up: it is one, and
    # at its end each of up to four videos that have begun is tried once more.
    assert len(set(ends)) == 1
    assert len(ends) <= 4
    message = str(failed.value)
    assert message.startswith("shard 7: the server did not come back within 2 s (127.0.0.1:")
    assert server.target in message
    assert message.endswith(
        "start the run again when the server answers: shards that are done are not done again"
    )
    assert "\n" not in message
    assert files_in(out) == []
    started(port=server.port)
    assert do_shard(settings, rows, 7).counts["ok"] == 4


def test_server_that_is_away_at_the_start_is_retried(started, rows, out):
    server = started(port=reserved_port())
    settings = job(out, server.target)
    server.stop()
    timer = threading.Timer(0.4, lambda: started(port=server.port))
    timer.start()
    assert do_shard(settings, rows, 0).counts["ok"] == 4
    timer.join()


def test_server_that_is_loading_its_model_is_retried(server, rows, out):
    settings = job(out, server.target)
    requests = itertools.count()

    def on_predict(request, clips, context):
        if next(requests) < 3:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(c3d)")

    server.on_predict = on_predict
    report = do_shard(settings, rows, 0)
    assert report.counts["ok"] == 4
    assert report.retries >= 1


def test_server_that_refuses_the_client_is_not_retried(server, rows, out):
    settings = job(out, server.target)
    server.on_predict = refuse(grpc.StatusCode.UNAUTHENTICATED, "token expired")
    with pytest.raises(ShardError, match=r"^shard 0: the server refuses \(.*token expired"):
        do_shard(settings, rows, 0)
    # The preflight's, and one for each video that was begun: two at a time, and two more read.
    assert len(server.requests) <= 1 + 4
    assert files_in(out) == []


def test_rejected_videos_are_rows_however_many(server, rows, out):
    settings = job(out, server.target)
    for code, kind in (
        (grpc.StatusCode.INVALID_ARGUMENT, "RequestRejected"),
        (grpc.StatusCode.INTERNAL, "ServingError"),
    ):
        server.on_predict = refuse(code)
        report = do_shard(replace(settings, run=kind), rows, 0)
        counts = {"ok": 0, "too_short": 1, "corrupt": 1, "unreadable": 1, "failed": 4}
        assert report.counts == counts, kind
        failed = [item for item in read_videos(out, report) if item["status"] == "failed"]
        assert {item["error_type"] for item in failed} == {kind}
        assert server.target in failed[0]["error_message"]
        assert report.clips == 0


def test_answer_that_is_not_a_number_fails_only_its_video(server, rows, out):
    def on_predict(request, clips, context):
        if len(clips) == 2:  # b.mp4's
            return np.full((2, 4096), np.nan, np.float32)
        return None

    settings = job(out, server.target)
    server.on_predict = on_predict
    stored = read_videos(out, do_shard(settings, rows, 0))
    assert [item["status"] for item in stored].count("ok") == 3
    assert (stored[2]["status"], stored[2]["error_type"]) == ("failed", "ServingError")
    assert "cannot be used" in stored[2]["error_message"]


def test_server_that_rejects_one_video_is_not_lost(started, rows, out):
    def on_predict(request, clips, context):
        if len(clips) == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")

    server = started(on_predict)
    settings = job(out, server.target, patience_s=2.0)
    slow = [row(write_video(out.parent / f"{n}.mp4", 40)) for n in range(6)]
    stored = read_videos(out, do_shard(settings, [rows[2], *slow], 0))
    assert [item["status"] for item in stored] == ["failed", *["ok"] * 6]
    assert stored[0]["error_type"] == "ServingOverloaded"
