"""ConcurrencyLimit: how it adapts, and where it settles with real servers."""

import threading
import time
from collections import deque

import grpc
import pytest
from c3d_client.core.contract import FC6_FEATURES
from c3d_client.core.errors import RequestRejected, ServingError, ServingOverloaded, ServingTimeout
from c3d_client.serving import channel
from c3d_client.serving.concurrency import ConcurrencyLimit, Feedback
from support.fake_serving import clips_of
from support.processes import LONG_S, wait_until

ACCEPTED, REJECTED, UNKNOWN = Feedback


def fill(limit):
    """Acquire every free slot and return the tickets."""
    tickets = []
    while (ticket := limit.try_acquire()) is not None:
        tickets.append(ticket)
    return tickets


def round_trip(limit, feedback):
    """Send as many requests as the limit allows; each is released and followed by another."""
    for ticket in fill(limit):
        limit.release(ticket, feedback)
        limit.acquire()
    for _ in range(limit.in_flight):
        limit.release(0, UNKNOWN)


class TestLimit:
    def test_starts_at_4_or_the_maximum(self):
        assert ConcurrencyLimit(16).limit == 4
        assert ConcurrencyLimit(2).limit == 2
        assert ConcurrencyLimit(16, start=2).limit == 2

    def test_slot_can_be_acquired_only_if_one_is_free(self):
        limit = ConcurrencyLimit(2)
        first, _ = fill(limit)
        assert (limit.in_flight, limit.try_acquire()) == (2, None)
        limit.release(first, UNKNOWN)
        assert limit.try_acquire() is not None

    def test_acquire_waits_for_a_slot(self):
        limit = ConcurrencyLimit(1)
        ticket = limit.acquire()
        waiting = threading.Thread(target=limit.acquire)
        waiting.start()
        waiting.join(0.02)
        assert waiting.is_alive()
        limit.release(ticket, UNKNOWN)
        waiting.join(LONG_S)
        assert not waiting.is_alive()
        assert limit.in_flight == 1

    def test_grows_by_about_1_in_a_round_trip_up_to_the_maximum(self):
        limit = ConcurrencyLimit(8)
        sizes = []
        for _ in range(6):
            round_trip(limit, ACCEPTED)
            sizes.append(limit.limit)
        assert sizes[0] in (4, 5)
        assert sizes[-1] == 8
        assert all(b - a in (0, 1) for a, b in zip(sizes, sizes[1:], strict=False))

    def test_does_not_grow_while_it_is_not_reached(self):
        limit = ConcurrencyLimit(8)
        for _ in range(100):
            limit.acquire()
            limit.release(limit.acquire(), ACCEPTED)
            limit.release(0, ACCEPTED)
        assert limit.limit == 4

    def test_unknown_feedback_does_not_change_it(self):
        limit = ConcurrencyLimit(8)
        round_trip(limit, UNKNOWN)
        assert (limit.limit, limit.rejected) == (4, 0)

    def test_shrinks_once_for_all_requests_sent_before(self):
        limit = ConcurrencyLimit(10, start=10)
        for ticket in fill(limit):
            limit.release(ticket, REJECTED)
        assert (limit.limit, limit.rejected) == (7, 10)
        limit.release(limit.acquire(), REJECTED)
        assert (limit.limit, limit.rejected) == (4, 11)

    def test_never_shrinks_below_1(self):
        limit = ConcurrencyLimit(3)
        for _ in range(20):
            limit.release(limit.acquire(), REJECTED)
        assert limit.limit == 1

    def test_approaches_the_rejected_limit_slowly(self):
        def answers_until_growth(limit):
            before, count = limit.limit, 0
            while limit.limit == before:
                fill(limit)
                limit.release(0, ACCEPTED)
                count += 1
            for _ in range(limit.in_flight):
                limit.release(0, UNKNOWN)
            return count

        limit = ConcurrencyLimit(16)
        usual = answers_until_growth(limit)
        ticket = fill(limit)[0]
        limit.release(ticket, REJECTED)
        for _ in range(limit.in_flight):
            limit.release(0, UNKNOWN)
        assert limit.limit == 3
        assert answers_until_growth(limit) <= usual
        assert limit.limit == 4
        assert answers_until_growth(limit) > 6 * usual


def numbers(answers):
    return [int(answer.output[0, 0]) - 1 for answer in answers]


class Reached:
    """Answers a request when as many wait as the client's limit allows, or the last one has come.

    So the limit is reached with every answer, however fast client and server are. After a rejection
    the client waits for its first request before it sends others; then it is answered after a
    moment.

    Args:
        total: the number of requests that are answered.
    """

    def __init__(self, total):
        self._total = total
        self._changed = threading.Condition()
        self._waiting = deque()
        self._came = 0
        self._changed_at = 0.0

    def wait(self, limit):
        """Wait until the request that called this may be answered; the oldest one is the first."""
        request = object()
        with self._changed:
            self._came += 1
            self._waiting.append(request)
            self._notify()
            while not (self._waiting[0] is request and self._may_answer(limit)):
                self._changed.wait(0.02)
            self._waiting.popleft()
            self._notify()

    def _may_answer(self, limit):
        is_reached = len(self._waiting) >= limit.limit or self._came >= self._total
        return is_reached or time.monotonic() - self._changed_at > 0.5

    def _notify(self):
        self._changed_at = time.monotonic()
        self._changed.notify_all()


class TestWithServers:
    @pytest.mark.long
    def test_settles_near_the_capacity_of_the_server(self, connect, fake_serving):
        reached = Reached(300)

        def on_predict(_request, _rows, context):
            server.requests.clear()
            if server.in_flight > 6:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            reached.wait(client.concurrency)

        server = fake_serving(on_predict)
        client = connect(server.target)
        limits, received = [], []
        for answer in client.stream(FC6_FEATURES, (clips_of(n % 256) for n in range(300))):
            received += numbers([answer])
            limits.append(client.concurrency.limit)
        assert received == [n % 256 for n in range(300)]
        settled = limits[100:]
        assert min(settled) >= 4
        assert max(settled) <= 8
        assert 5 <= sum(settled) / len(settled) <= 7
        assert 1 <= client.concurrency.rejected <= 15
        assert client.concurrency.in_flight == 0

    def test_reaches_the_maximum_if_nothing_is_rejected(self, connect, fake_serving):
        reached = Reached(100)

        def on_predict(*_):
            server.requests.clear()
            reached.wait(client.concurrency)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=8)
        assert numbers(client.stream(FC6_FEATURES, map(clips_of, range(100)))) == [*range(100)]
        assert (client.concurrency.limit, client.concurrency.rejected) == (8, 0)
        assert server.most_at_once == 8

    def test_queueing_server_is_not_overloaded(self, connect, fake_serving):
        turns = threading.Lock()

        def on_predict(*_):
            with turns:
                time.sleep(0.004)

        client = connect(fake_serving(on_predict).target, max_in_flight=8)
        sizes = []
        for _ in client.stream(FC6_FEATURES, map(clips_of, range(60))):
            sizes.append(client.concurrency.limit)
        assert sizes == sorted(sizes)
        assert client.concurrency.rejected == 0

    def test_answers_near_the_timeout_do_not_raise_it(self, connect, fake_serving, monkeypatch):
        # All answers take more than 0.06 ms, and those of a fast server 0.25 of its timeout.
        monkeypatch.setattr(channel, "_FAST_ANSWER", 1e-6)
        reached = Reached(40)

        def on_predict(*_):
            time.sleep(0.001)
            reached.wait(client.concurrency)

        client = connect(fake_serving(on_predict).target, timeout_s=60)
        list(client.stream(FC6_FEATURES, map(clips_of, range(40))))
        assert (client.concurrency.limit, client.concurrency.rejected) == (4, 0)

    def test_slow_client_does_not_raise_it(self, connect, fake_serving):
        def batches():
            for number in range(40):
                wait_until(lambda: not client.concurrency.in_flight)
                yield clips_of(number)

        client = connect(fake_serving().target)
        list(client.stream(FC6_FEATURES, batches()))
        assert client.concurrency.limit == 4

    @pytest.mark.parametrize(
        ("code", "details", "is_rejected"),
        [
            ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted", True),
            ("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full",
             True),
            ("UNAVAILABLE", "Connection reset by peer", False),
            ("INVALID_ARGUMENT", "no", False),
        ],
    )  # fmt: skip
    def test_codes_and_messages_that_count_as_rejected(
        self, connect, fake_serving, code, details, is_rejected
    ):
        def on_predict(_request, _rows, context):
            context.abort(grpc.StatusCode[code], details)

        client = connect(fake_serving(on_predict).target, patience_s=0.4)
        # Now the patience begins with the first failure, and there is a second attempt.
        client.versions()
        with pytest.raises(ServingError):
            client.predict(FC6_FEATURES, clips_of(0))
        assert (client.concurrency.rejected > 1) is is_rejected
        assert (client.concurrency.limit < 4) is is_rejected

    def test_timeout_counts_as_rejected(self, connect, fake_serving):
        release = threading.Event()
        server = fake_serving(lambda *_: release.wait(LONG_S) and None)
        client = connect(server.target, timeout_s=0.1, patience_s=0.4)
        try:
            with pytest.raises(ServingTimeout):
                list(client.stream(FC6_FEATURES, map(clips_of, range(8))))
        finally:
            release.set()
        assert client.concurrency.limit < 4

    def test_queue_that_stays_full_is_overloaded(self, connect, fake_serving):
        def on_predict(_request, _rows, context):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

        client = connect(fake_serving(on_predict).target, patience_s=0.4)
        with pytest.raises(ServingOverloaded):
            list(client.stream(FC6_FEATURES, map(clips_of, range(20))))
        wait_until(lambda: client.concurrency.in_flight == 0, "a slot is not released")


class TestThreads:
    def test_limit_applies_to_all_threads_together(self, connect, fake_serving):
        def on_predict(*_):
            server.requests.clear()
            time.sleep(0.002)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=3)
        received = {}

        def stream(thread):
            batches = (clips_of(20 * thread + n) for n in range(20))
            received[thread] = numbers(client.stream(FC6_FEATURES, batches))

        threads = [threading.Thread(target=stream, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        assert received == {thread: [20 * thread + n for n in range(20)] for thread in range(6)}
        assert server.most_at_once <= 3
        assert client.concurrency.in_flight == 0

    def test_unread_answers_do_not_block_other_streams(self, connect, fake_serving):
        client = connect(fake_serving().target, max_in_flight=2)
        streams = [client.stream(FC6_FEATURES, map(clips_of, range(10))) for _ in range(4)]
        for stream in streams:
            assert numbers([next(stream)]) == [0]
        for stream in reversed(streams):
            assert numbers(stream) == [*range(1, 10)]

    def test_stream_has_at_most_the_maximum_in_flight(self, connect, fake_serving):
        read = []
        release_first = threading.Event()

        def on_predict(_request, rows, _context):
            if rows[0, 0, 0, 0, 0] == 0:
                release_first.wait(LONG_S)

        def batches():
            for number in range(20):
                read.append(number)
                if number == 6:  # one more than can be in flight
                    release_first.set()
                yield clips_of(number)

        client = connect(fake_serving(on_predict).target, max_in_flight=6)
        answers = client.stream(FC6_FEATURES, batches())
        next(answers)
        assert read == [*range(7)]
        answers.close()

    def test_every_slot_is_released_after_a_failure(self, connect, fake_serving):
        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 3:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")

        client = connect(fake_serving(on_predict).target)
        with pytest.raises(RequestRejected):
            list(client.stream(FC6_FEATURES, map(clips_of, range(20))))
        wait_until(lambda: client.concurrency.in_flight == 0, "a slot is not released")
