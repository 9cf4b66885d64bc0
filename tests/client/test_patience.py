"""Waiting for a server that is away or full: how long, at what pace, together, and with a line."""

import logging
import re
import threading
import time
from types import SimpleNamespace

import grpc
import pytest
from c3d_client import C3DClient
from c3d_client.core.contract import FC6_FEATURES
from c3d_client.core.errors import (
    Cancelled,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
)
from c3d_client.serving import channel, options, patience
from c3d_client.serving.channel import failure_of
from c3d_client.serving.options import ServingOptions
from c3d_client.serving.patience import Patience
from support.bounded_queue import bounded_server, run_together
from support.fake_serving import clips_of
from support.processes import wait_until
from support.videos import write_video
from support.web_page import WebPage

WAIT_S = 120  # a timeout that passes only if the code is wrong
LOGGER = "c3d_client.serving.patience"


@pytest.fixture
def brisk(monkeypatch):
    """Pauses of 0.05 to 0.2 s, and a notice after 0.2 s."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(patience, "NOTICE_S", 0.2)


class Clock:
    """The clock of the waits, which does not run: ``now`` is what a test sets.

    Args:
        step_s: by how many seconds each look at the clock moves it.
    """

    def __init__(self, step_s=0.0):
        self.now = 1000.0
        self._step_s = step_s
        self._lock = threading.Lock()

    def perf_counter(self):
        with self._lock:
            self.now += self._step_s
            return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves, and no pauses: how many requests are sent does not depend on load.

    Its steps are multiples of 1/4 s, so that sums are exact.
    """
    return use_clock(monkeypatch, Clock(), pauses_s=0.0)


@pytest.fixture
def stepping(monkeypatch, brisk):
    """A clock that moves by 0.02 s with each look at it, so that no moment of a wait is missed."""
    return use_clock(monkeypatch, Clock(0.02))


def use_clock(monkeypatch, clock, *, pauses_s=None):
    for module in (channel, patience):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    if pauses_s is not None:
        monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", pauses_s)
    return clock


@pytest.fixture
def failures(monkeypatch):
    """Of each recorded failure: since when the server has been away."""
    recorded = []
    failed = Patience.failed

    def record(self, *, done_at, **arguments):
        away_s = failed(self, done_at=done_at, **arguments)
        recorded.append(done_at - away_s)
        return away_s

    monkeypatch.setattr(Patience, "failed", record)
    return recorded


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_video(tmp_path / "in" / f"{number}.mp4", 24)
    return tmp_path / "in"


def failing(code, details="no", *, clock=None):
    """Return an ``on_predict`` that fails; with a clock each request takes 1/4 s of it."""

    def on_predict(_request, _rows, context):
        if clock is not None:
            clock.now += 0.25
        context.abort(grpc.StatusCode[code], details)

    return on_predict


def seconds(function, *arguments):
    """Call a function that raises a ServingError; return how long it took, and the error."""
    began = time.monotonic()
    with pytest.raises(ServingError) as caught:
        function(*arguments)
    return time.monotonic() - began, caught.value


def failure(server, client):
    """Send a request that fails; return how often the server got it, and the error."""
    server.requests.clear()
    _, error = seconds(client.predict, FC6_FEATURES, clips_of(0))
    return len(server.requests), error


class TestHowLong:
    def test_shorter_before_the_first_answer_than_after_it(
        self, connect, fake_serving, clock, monkeypatch
    ):
        monkeypatch.setattr(options, "FIRST_PATIENCE_S", 0.5)
        monkeypatch.setattr(options, "PATIENCE_S", 1.25)
        server = fake_serving()
        client = connect(server.target)
        client.predict(FC6_FEATURES, clips_of(0))
        server.on_predict = failing("UNAVAILABLE", clock=clock)
        # From the first failure on, and before the first answer from the first request on.
        assert failure(server, client)[0] == 1 + 5
        assert failure(server, connect(server.target))[0] == 2

    def test_server_that_is_gone_is_waited_for(self, connect, fake_serving, brisk, failures):
        server = fake_serving()
        client = connect(server.target, patience_s=0.5)
        client.predict(FC6_FEATURES, clips_of(0))
        server.stop()
        took_s, error = seconds(client.predict, FC6_FEATURES, clips_of(0))
        assert took_s >= 0.5
        assert type(error) is ServingUnavailable
        assert len(failures) >= 2

    def test_defaults_are_20_and_300_seconds_and_a_number_replaces_both(self, monkeypatch):
        monkeypatch.undo()
        assert ServingOptions().patience(answered=False) == 20
        assert ServingOptions().patience(answered=True) == 300
        for answered in (False, True):
            assert ServingOptions(patience_s=7).patience(answered=answered) == 7
            assert ServingOptions(retries=0).patience(answered=answered) == 0
            with pytest.warns(DeprecationWarning, match="patience_s says how long"):
                assert ServingOptions(retries=4, patience_s=7).patience(answered=answered) == 7
        with pytest.warns(DeprecationWarning, match="retries has no effect"):
            assert ServingOptions(retries=9).patience_s is None

    @pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"])
    def test_request_ends_with_its_last_error(self, connect, fake_serving, clock, code):
        server = fake_serving(failing(code, "for now", clock=clock))
        requests, error = failure(server, connect(server.target, patience_s=0.75))
        assert requests == 3
        assert error.code == code

    @pytest.mark.long
    def test_request_that_always_times_out_ends_though_others_are_answered(
        self, connect, fake_serving, brisk
    ):
        release = threading.Event()

        def on_predict(_request, rows, _context):
            if rows[0, 0, 0, 0, 0] == 9:
                release.wait(WAIT_S)

        client = connect(fake_serving(on_predict).target, timeout_s=1.0, patience_s=1.5)
        stop = threading.Event()

        def others():
            while not stop.is_set():
                client.predict(FC6_FEATURES, clips_of(1))
                time.sleep(0.02)

        other = threading.Thread(target=others)
        other.start()
        try:
            took_s, error = seconds(client.predict, FC6_FEATURES, clips_of(9))
        finally:
            stop.set()
            release.set()
            other.join(WAIT_S)
        assert type(error) is ServingTimeout
        assert 2.0 <= took_s < WAIT_S
        # The server was not away.
        assert not client.patience.is_over

    def test_model_that_is_loaded_again_is_waited_for_only_if_it_was_seen(
        self, connect, fake_serving, brisk
    ):
        server = fake_serving()
        client = connect(server.target, patience_s=WAIT_S)
        client.predict(FC6_FEATURES, clips_of(0))
        loads = []

        def on_predict(_request, _rows, context):
            loads.append(1)
            if len(loads) < 4:
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")

        server.on_predict = on_predict
        client.predict(FC6_FEATURES, clips_of(0))
        assert len(loads) == 4
        server.on_predict = failing("NOT_FOUND")
        server.requests.clear()
        _, error = seconds(
            connect(server.target, patience_s=WAIT_S).predict, FC6_FEATURES, clips_of(0)
        )
        assert type(error) is ModelNotFound
        assert len(server.requests) == 1

    def test_unknown_host_and_refused_client_are_never_waited_for(
        self, connect, fake_serving, brisk
    ):
        for code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"):
            server = fake_serving(failing(code))
            seconds(connect(server.target, patience_s=WAIT_S).predict, FC6_FEATURES, clips_of(0))
            assert len(server.requests) == 1, code
        client = connect("no-such-host.invalid:8500", patience_s=WAIT_S)
        took_s, error = seconds(client.versions)
        assert took_s < WAIT_S / 2
        assert "cannot be resolved; check its spelling" in str(error)

    def test_name_that_was_resolved_before_is_waited_for(self):
        details = "errors resolving c3d:8500: [lookup error:Domain name not found]"
        for has_answered, expected_s in ((False, None), (True, 300)):
            _, patience_s = failure_of(
                "UNAVAILABLE", details, ServingOptions(), has_answered=has_answered
            )
            assert patience_s == expected_s

    def test_hang_up_is_waited_for_only_shortly_before_the_first_answer(self):
        details = (
            "connections to all backends failing; last error: UNAVAILABLE: ipv4:1.2.3.4:8500: "
            "Socket closed"
        )
        for has_answered, expected_s in ((False, 2), (True, 7)):
            error, patience_s = failure_of(
                "UNAVAILABLE", details, ServingOptions(patience_s=7), has_answered=has_answered
            )
            assert patience_s == expected_s
            assert "it may speak TLS at this port" in str(error)


class TestTogether:
    @pytest.mark.long
    def test_all_requests_and_videos_share_one_wait(self, fake_serving, videos, brisk, failures):
        """2 s for all, and not for each of the three videos after which the run ends."""
        for workers in (1, 2):
            server = fake_serving()
            with C3DClient(options=ServingOptions(server.target, patience_s=2.0)) as c3d:
                c3d.model_info()
                server.stop()
                began = time.monotonic()
                outcomes = []
                outcomes_of_all = c3d.extract_many(2 * [*videos.iterdir()], workers=workers)
                with pytest.raises(ServingUnavailable):
                    outcomes.extend(outcomes_of_all)
                assert time.monotonic() - began >= 2.0, workers
            # The time at which the server went away is the same for all.
            assert max(failures) == pytest.approx(min(failures), abs=1e-6), workers
            failures.clear()
            assert {type(outcome.error) for outcome in outcomes} == {ServingUnavailable}
            # Those that other threads have by then come first: of items that were read already.
            assert 3 <= len(outcomes) <= 2 + 2 * workers

    def test_videos_wait_for_a_server_that_comes_back(self, fake_serving, videos, brisk, failures):
        def come_back():
            wait_until(lambda: len(failures) >= 4)
            fake_serving(port=server.port)

        server = fake_serving()
        with C3DClient(server.target) as c3d:
            returns = threading.Thread(target=come_back)
            outcomes = []
            for outcome in c3d.extract_many(sorted(videos.iterdir()), workers=2):
                if not outcomes:
                    server.stop()
                    failures.clear()
                    returns.start()
                outcomes.append(outcome)
            returns.join()
        assert [outcome.error for outcome in outcomes] == [None] * 6
        assert max(outcome.result.timings.retries for outcome in outcomes) >= 1

    def test_pause_is_shared_and_ends_with_an_answer(self, monkeypatch):
        monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 1.0)
        shared = Patience(ServingOptions(patience_s=100))

        def fail(sent_at, done_at):
            shared.failed(sent_at=sent_at, done_at=done_at, patience_s=100, reason="away")
            return shared.pause_ends - done_at

        assert 0.5 <= fail(0, 10) <= 1
        ends = shared.pause_ends
        fail(5, 10.1)  # sent before the pause began
        assert shared.pause_ends == ends
        assert 1 <= fail(11, 11.1) <= 2
        assert 2 <= fail(13, 13.1) <= 4
        shared.answered(model=False)
        assert shared.pause_ends < 0
        assert 0.5 <= fail(20, 20.1) <= 1

    def test_pause_may_be_as_long_as_the_patience(self, monkeypatch):
        monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 1.0)
        shared = Patience(ServingOptions(patience_s=0.1))
        shared.assume_model()
        shared.failed(sent_at=0, done_at=10, patience_s=0.1, reason="away")
        assert shared.pause_ends == pytest.approx(10.1)
        assert not shared.is_over
        shared.failed(sent_at=10.15, done_at=10.16, patience_s=0.1, reason="away")
        assert shared.is_over

    def test_a_wait_that_is_over_does_not_begin_again_without_an_answer(
        self, connect, fake_serving, clock
    ):
        server = fake_serving()
        client = connect(server.target, patience_s=1.5)
        client.predict(FC6_FEATURES, clips_of(0))
        server.on_predict = failing("UNAVAILABLE", clock=clock)
        assert failure(server, client)[0] == 1 + 6
        assert client.patience.is_over
        assert failure(server, client)[0] == 1
        clock.now += 1.75  # nothing is known about this time
        assert failure(server, client)[0] == 1 + 6
        server.on_predict = None
        client.predict(FC6_FEATURES, clips_of(0))
        assert not client.patience.is_over


@pytest.mark.long
class TestFullQueue:
    def test_no_video_fails_and_the_queue_is_not_hammered(self, narrow_base, tmp_path, monkeypatch):
        """12 clients with 2 videos at a time, and a queue that holds a third of their batches."""
        monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.1)
        monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 1.0)
        video = write_video(tmp_path / "video.mp4", 120)
        server = bounded_server(narrow_base, monkeypatch, max_batches=4, rows=16, batch_s=0.1)
        server.start()
        server.servable.fill_first()

        def client(_number):
            with C3DClient(server.target) as c3d:
                return [outcome.error for outcome in c3d.extract_many([video] * 2, workers=2)]

        began = time.monotonic()
        try:
            errors = run_together(12, client)
        finally:
            server.stop(0)
        took_s = time.monotonic() - began
        assert errors == [[None] * 2] * 12
        queue = server.servable
        assert queue.most_waiting == 4
        assert queue.refused > 0
        # A client sends 4 requests at first, and then one in 0.5 s or more, after shorter pauses.
        assert queue.refused <= 12 * (4 + 8 + 2 * took_s)

    def test_refused_request_goes_before_later_batches(self, connect, fake_serving, brisk):
        numbers = []

        def on_predict(_request, rows, context):
            number = int(rows[0, 0, 0, 0, 0])
            numbers.append(number)
            if number:
                # The others are not all answered before the client has got the first refusal.
                wait_until(lambda: client.concurrency.rejected)
            elif numbers.count(0) < 4:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the batch scheduling queue is full")

        client = connect(fake_serving(on_predict).target, max_in_flight=64)
        answers = client.stream(FC6_FEATURES, map(clips_of, range(40)))
        assert [answer.output[0, 0] for answer in answers] == [n + 1 for n in range(40)]
        assert numbers.count(0) == 4
        # Those that were in flight with it, and not one for each of the 64.
        last = len(numbers) - 1 - numbers[::-1].index(0)
        assert last <= 12

    def test_full_server_is_there_and_gets_the_longer_patience(self):
        details = "The batch scheduling queue to which this task was submitted is full; currently"
        error, patience_s = failure_of("UNAVAILABLE", details, ServingOptions())
        assert (type(error), patience_s) == (ServingOverloaded, 300)


class TestCancel:
    def test_cancel_ends_a_wait_within_a_moment(self, connect, fake_serving, monkeypatch):
        """A wait of one's own request, and one for the pause of another's."""
        monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 600)
        monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 600)
        server = fake_serving(failing("UNAVAILABLE"))
        client = connect(server.target, patience_s=6000)
        cancel, ended = threading.Event(), []

        def stream():
            with pytest.raises(Cancelled):
                list(client.stream(FC6_FEATURES, map(clips_of, range(3)), cancel=cancel))
            ended.append("stream")

        def model_info():
            with pytest.raises(Cancelled):
                client.model_info(cancel=cancel)
            ended.append("model_info")

        threads = [threading.Thread(target=stream)]
        threads[0].start()
        wait_until(lambda: client.patience.pause_ends > 0)
        threads.append(threading.Thread(target=model_info))
        threads[1].start()
        cancel.set()
        for thread in threads:
            thread.join(WAIT_S)  # less than a pause
        assert sorted(ended) == ["model_info", "stream"]
        wait_until(lambda: not client.concurrency.in_flight)

    def test_cancel_ends_the_wait_for_another_thread_that_requests_the_model(
        self, fake_serving, monkeypatch
    ):
        monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 600)
        monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 600)
        server = fake_serving()
        with C3DClient(options=ServingOptions(server.target, patience_s=6000)) as c3d:
            server.stop()
            cancel, ended = threading.Event(), []

            def info():
                with pytest.raises(Cancelled):
                    c3d.model.info(cancel=cancel)
                ended.append(1)

            threads = [threading.Thread(target=info) for _ in range(3)]
            for thread in threads:
                thread.start()
            wait_until(lambda: c3d.serving.patience.pause_ends > 0)
            cancel.set()
            for thread in threads:
                thread.join(WAIT_S)  # less than a pause
            assert len(ended) == 3


class TestLines:
    def test_library_logs_a_wait_once_and_its_end(self, connect, fake_serving, brisk, caplog):
        caplog.set_level(logging.INFO, LOGGER)
        server = fake_serving()
        client = connect(server.target)
        client.predict(FC6_FEATURES, clips_of(0))
        server.stop()
        assert client.waiting is None

        def come_back():
            wait_until(lambda: caplog.records)
            fake_serving(port=server.port)

        returns = threading.Thread(target=come_back)
        returns.start()
        client.predict(FC6_FEATURES, clips_of(0))
        returns.join()
        assert client.waiting is None
        wait, end = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert wait[0] == "WARNING"
        assert re.fullmatch(
            rf"waiting for {server.target} \(\d+ s of 300\): no server answers", wait[1]
        )
        assert end[0] == "INFO"
        assert end[1].startswith(f"{server.target} answers again after ")

    def test_wait_is_shown_with_its_seconds(self, clock):
        shared = Patience(ServingOptions("gpu:8500"))
        now = clock.now
        shared.failed(sent_at=now - 13, done_at=now - 12.2, patience_s=300, reason="away")
        assert str(shared.waiting) == "waiting for gpu:8500 (13 s of 300)"
        shared.answered(model=True)
        shared.failed(sent_at=now - 13, done_at=now - 12.2, patience_s=300, reason="away")
        assert str(shared.waiting) == "waiting for gpu:8500 (12 s of 300)"

    @pytest.mark.long
    def test_command_prints_one_line_and_quiet_none(
        self, run, fake_serving, videos, stepping, monkeypatch
    ):
        monkeypatch.setattr(options, "FIRST_PATIENCE_S", 0.7)
        server = fake_serving()
        server.stop()
        for quiet in ((), ("--quiet",)):
            code, _, stderr = run(
                *("extract", videos, "--out", videos.parent / "out", "--server", server.target),
                *quiet,
            )
            assert code == 2
            waits = [line for line in stderr if line.startswith("c3d: waiting for ")]
            expected = f"c3d: waiting for {server.target} (0 s of 0.7): no server answers"
            assert waits == ([] if quiet else [expected])
            assert len(stderr) == len(waits) + 1
        for command in (("classify", videos), ("status",)):
            code, _, stderr = run(*command, "--server", server.target)
            assert (code, len(stderr)) == (2, 2), command
            assert stderr[0].startswith(f"c3d: waiting for {server.target} (0 s of "), command

    @pytest.mark.long
    def test_status_waits_at_most_5_seconds(self, run, closed_port):
        for option in ((), ("--patience", "60")):
            began = time.monotonic()
            code, _, stderr = run("status", "--server", closed_port, *option)
            assert time.monotonic() - began >= 5
            assert code == 2
            assert re.match(rf"c3d: waiting for {closed_port} \(\d s of 5\)", stderr[0])
            assert "no server answers" in stderr[1]
            assert len(stderr) == 2

    def test_retries_is_still_accepted(self, run, fake_serving, videos):
        for number in ("0", "4"):
            out = videos.parent / number
            target = fake_serving().target
            code, _, stderr = run(
                "extract", videos, "--out", out, "--server", target, "--retries", number
            )
            assert (code, stderr) == (0, ["c3d: 6 videos done, 12 clips"])
        assert "--retries" not in run("extract", "--help")[1]


class TestWebPages:
    @pytest.mark.parametrize(
        ("status", "kind", "advice", "retried"),
        [
            (413, RequestRejected, r"of this size \(HTTP 413\); give a smaller batch_size", 0),
            (429, ServingOverloaded, r"accepts no more requests for now \(HTTP 429\)", 1),
            (502, ServingUnavailable, r"answers and reaches no server \(HTTP 502\); is one", 1),
            (503, ServingUnavailable, r"answers and reaches no server \(HTTP 503\); is one", 1),
            (504, ServingUnavailable, r"answers and reaches no server \(HTTP 504\); is one", 1),
            (200, ServingError, r"a web page answers and not a gRPC server \(HTTP 200\)", 0),
            (302, ServingError, r"a web page answers and not a gRPC server \(HTTP 302\)", 0),
            (404, ServingError, r"a web page answers and not a gRPC server \(HTTP 404\)", 0),
            (500, ServingError, r"a web page answers and not a gRPC server \(HTTP 500\)", 0),
            (401, ServingError, "does not let this client in", 0),
        ],
    )  # fmt: skip
    def test_page_of_a_proxy_has_a_hint(self, connect, clock, status, kind, advice, retried):
        def take_time():
            clock.now += 0.25

        page = WebPage(status, on_request=take_time)
        client = connect(page.target, patience_s=0.5)
        with pytest.raises(kind, match=advice) as caught:
            client.predict(FC6_FEATURES, clips_of(*range(8)))
        page.close()
        assert "\n" not in str(caught.value)
        assert page.requests == 1 + retried


class TestAdvice:
    def test_fits_the_place(self, monkeypatch):
        def advice(target):
            return str(failure_of("UNAVAILABLE", "refused", ServingOptions(target))[0])

        assert "c3d-export serve starts one" in advice("localhost:8500")
        assert "is one running there" in advice("gpu.example:8500")
        in_cluster = "dns:///c3d-grpc.videos.svc.cluster.local:8500"
        expected = "is a pod ready? (kubectl get pods --namespace videos shows it)"
        assert expected in advice(in_cluster)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        assert "is a pod ready? (kubectl get pods shows it)" in advice("c3d-grpc:8500")
        assert expected in advice(in_cluster)
        error, _ = failure_of("UNAVAILABLE", "errors resolving x", ServingOptions(in_cluster))
        assert "kubectl get pods --namespace videos" in str(error)
