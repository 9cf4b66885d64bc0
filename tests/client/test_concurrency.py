"""The limit: how it moves, and where it settles against real servers."""

import threading
import time

import grpc
import pytest
from c3d_client.core.contract import FC6_FEATURES
from c3d_client.core.errors import RequestRejected, ServingError, ServingOverloaded, ServingTimeout
from c3d_client.serving.client import ServingClient
from c3d_client.serving.concurrency import ConcurrencyLimit, Feedback
from c3d_client.serving.options import ServingOptions
from support.fake_serving import clips_of

WAIT_S = 30  # for what happens at once unless the code is wrong
ACCEPTED, REJECTED, UNKNOWN = Feedback


def fill(limit):
    """Take every slot that is free."""
    tickets = []
    while (ticket := limit.try_acquire()) is not None:
        tickets.append(ticket)
    return tickets


def round_trip(limit, outcome):
    """As many requests as the limit holds leave together; each ends and is followed by one."""
    for ticket in fill(limit):
        limit.release(ticket, outcome)
        limit.acquire()
    for _ in range(limit.in_flight):
        limit.release(0, UNKNOWN)


class TestItself:
    def test_starts_small_within_the_largest(self):
        assert ConcurrencyLimit(16).limit == 4
        assert ConcurrencyLimit(2).limit == 2
        assert ConcurrencyLimit(16, start=2).limit == 2

    def test_gives_a_slot_only_when_there_is_one(self):
        limit = ConcurrencyLimit(2)
        first, _ = fill(limit)
        assert (limit.in_flight, limit.try_acquire()) == (2, None)
        limit.release(first, UNKNOWN)
        assert limit.try_acquire() is not None

    def test_lets_a_thread_wait_for_a_slot(self):
        limit = ConcurrencyLimit(1)
        ticket = limit.acquire()
        waiting = threading.Thread(target=limit.acquire)
        waiting.start()
        waiting.join(0.02)
        assert waiting.is_alive()
        limit.release(ticket, UNKNOWN)
        waiting.join(WAIT_S)
        assert not waiting.is_alive()
        assert limit.in_flight == 1

    def test_grows_by_about_one_in_a_round_trip_up_to_the_largest(self):
        limit = ConcurrencyLimit(8)
        sizes = []
        for _ in range(6):
            round_trip(limit, ACCEPTED)
            sizes.append(limit.limit)
        assert sizes[0] in (4, 5)
        assert sizes[-1] == 8
        assert all(b - a in (0, 1) for a, b in zip(sizes, sizes[1:], strict=False))

    def test_does_not_grow_while_it_is_not_full(self):
        limit = ConcurrencyLimit(8)
        for _ in range(100):
            limit.acquire()
            limit.release(limit.acquire(), ACCEPTED)
            limit.release(0, ACCEPTED)
        assert limit.limit == 4

    def test_stays_as_it_is_where_the_end_of_a_request_says_nothing(self):
        limit = ConcurrencyLimit(8)
        round_trip(limit, UNKNOWN)
        assert (limit.limit, limit.rejected) == (4, 0)

    def test_shrinks_once_for_all_the_requests_that_left_before(self):
        limit = ConcurrencyLimit(10, start=10)
        for ticket in fill(limit):
            limit.release(ticket, REJECTED)
        assert (limit.limit, limit.rejected) == (7, 10)
        limit.release(limit.acquire(), REJECTED)
        assert (limit.limit, limit.rejected) == (4, 11)

    def test_never_shrinks_below_one(self):
        limit = ConcurrencyLimit(3)
        for _ in range(20):
            limit.release(limit.acquire(), REJECTED)
        assert limit.limit == 1

    def test_tries_the_step_that_was_refused_more_carefully(self):
        def answers_to_grow(limit):
            size, count = limit.limit, 0
            while limit.limit == size:
                fill(limit)
                limit.release(0, ACCEPTED)
                count += 1
            for _ in range(limit.in_flight):
                limit.release(0, UNKNOWN)
            return count

        limit = ConcurrencyLimit(16)
        freely = answers_to_grow(limit)
        ticket = fill(limit)[0]
        limit.release(ticket, REJECTED)
        for _ in range(limit.in_flight):
            limit.release(0, UNKNOWN)
        assert limit.limit == 3
        assert answers_to_grow(limit) <= freely
        assert limit.limit == 4
        assert answers_to_grow(limit) > 6 * freely


@pytest.fixture
def connect():
    """A ServingClient of a target, closed after the test."""
    opened = []

    def open_client(target, **changes):
        opened.append(ServingClient(ServingOptions(target, **changes)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


def numbers(answers):
    return [int(answer.output[0, 0]) - 1 for answer in answers]


class TestAgainstAServer:
    def test_with_room_for_six_it_settles_around_six(self, connect, fake_serving):
        def on_predict(_request, _rows, context):
            server.requests.clear()
            if server.here > 6:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            time.sleep(0.012)

        server = fake_serving(on_predict)
        client = connect(server.target, retries=20)
        sizes, found = [], []
        for answer in client.stream(FC6_FEATURES, (clips_of(n % 256) for n in range(300))):
            found += numbers([answer])
            sizes.append(client.concurrency.limit)
        assert found == [n % 256 for n in range(300)]
        settled = sizes[100:]
        assert min(settled) >= 4
        assert max(settled) <= 8
        assert 5 <= sum(settled) / len(settled) <= 7
        assert 1 <= client.concurrency.rejected <= 15
        assert client.concurrency.in_flight == 0

    def test_that_takes_any_number_it_reaches_the_largest(self, connect, fake_serving):
        def on_predict(*_):
            server.requests.clear()
            time.sleep(0.01)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=8)
        assert numbers(client.stream(FC6_FEATURES, map(clips_of, range(100)))) == [*range(100)]
        assert (client.concurrency.limit, client.concurrency.rejected) == (8, 0)
        assert server.most_at_once == 8

    def test_that_takes_one_at_a_time_waiting_is_not_overload(self, connect, fake_serving):
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

    def test_that_comes_near_its_deadline_it_does_not_grow(self, connect, fake_serving):
        server = fake_serving(lambda *_: time.sleep(0.02))
        client = connect(server.target, timeout_s=0.079, retries=20)
        client.predict(FC6_FEATURES, clips_of(0))  # the connection takes a moment of its own
        list(client.stream(FC6_FEATURES, map(clips_of, range(40))))
        assert client.concurrency.limit <= 4

    def test_a_slow_maker_of_batches_does_not_let_it_grow(self, connect, fake_serving):
        def batches():
            for number in range(40):
                time.sleep(0.004)
                yield clips_of(number)

        client = connect(fake_serving().target)
        list(client.stream(FC6_FEATURES, batches()))
        assert client.concurrency.limit == 4

    @pytest.mark.parametrize(
        ("code", "details", "shrinks"),
        [
            ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted", True),
            ("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full",
             True),
            ("UNAVAILABLE", "Connection reset by peer", False),
            ("INVALID_ARGUMENT", "no", False),
        ],
    )  # fmt: skip
    def test_pushes_back_by_these_codes_and_words(
        self, connect, fake_serving, code, details, shrinks
    ):
        def on_predict(_request, _rows, context):
            context.abort(grpc.StatusCode[code], details)

        client = connect(fake_serving(on_predict).target, retries=1)
        with pytest.raises(ServingError):
            client.predict(FC6_FEATURES, clips_of(0))
        assert client.concurrency.rejected == (2 if shrinks else 0)
        assert (client.concurrency.limit < 4) is shrinks

    def test_that_does_not_answer_in_time_pushes_back(self, connect, fake_serving):
        let_go = threading.Event()
        client = connect(
            fake_serving(lambda *_: let_go.wait(WAIT_S) and None).target, timeout_s=0.1, retries=1
        )
        try:
            with pytest.raises(ServingTimeout):
                list(client.stream(FC6_FEATURES, map(clips_of, range(8))))
        finally:
            let_go.set()
        assert client.concurrency.limit < 4

    def test_with_a_full_queue_for_good_it_fails_as_overloaded(self, connect, fake_serving):
        def on_predict(_request, _rows, context):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

        client = connect(fake_serving(on_predict).target, retries=2)
        with pytest.raises(ServingOverloaded):
            list(client.stream(FC6_FEATURES, map(clips_of, range(20))))
        assert client.concurrency.in_flight == 0


class TestSharedByThreads:
    def test_it_bounds_their_requests_together(self, connect, fake_serving):
        def on_predict(*_):
            server.requests.clear()
            time.sleep(0.002)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=3)
        found = {}

        def one(film):
            batches = (clips_of(20 * film + n) for n in range(20))
            found[film] = numbers(client.stream(FC6_FEATURES, batches))

        threads = [threading.Thread(target=one, args=(film,)) for film in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert found == {film: [20 * film + n for n in range(20)] for film in range(6)}
        assert server.most_at_once <= 3
        assert client.concurrency.in_flight == 0

    def test_streams_whose_answers_nobody_reads_hold_up_no_other(self, connect, fake_serving):
        client = connect(fake_serving().target, max_in_flight=2)
        streams = [client.stream(FC6_FEATURES, map(clips_of, range(10))) for _ in range(4)]
        for stream in streams:
            assert numbers([next(stream)]) == [0]
        for stream in reversed(streams):
            assert numbers(stream) == [*range(1, 10)]

    def test_one_stream_holds_no_more_than_the_largest(self, connect, fake_serving):
        made = []
        first_may_go = threading.Event()

        def on_predict(_request, rows, _context):
            if rows[0, 0, 0, 0, 0] == 0:
                first_may_go.wait(WAIT_S)

        def batches():
            for number in range(20):
                made.append(number)
                if number == 6:  # one more than there is room for
                    first_may_go.set()
                yield clips_of(number)

        client = connect(fake_serving(on_predict).target, max_in_flight=6)
        answers = client.stream(FC6_FEATURES, batches())
        next(answers)
        assert made == [*range(7)]
        answers.close()

    def test_every_slot_comes_back_after_a_failure(self, connect, fake_serving):
        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 3:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")

        client = connect(fake_serving(on_predict).target)
        with pytest.raises(RequestRejected):
            list(client.stream(FC6_FEATURES, map(clips_of, range(20))))
        ends = time.monotonic() + WAIT_S
        while client.concurrency.in_flight and time.monotonic() < ends:
            time.sleep(0.001)
        assert client.concurrency.in_flight == 0
