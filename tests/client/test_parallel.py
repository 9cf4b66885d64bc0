"""map_parallel: one outcome for each item, bounded memory, cancelling and stopping."""

import itertools
import threading

import pytest
from c3d_client.core.errors import (
    Cancelled,
    ContractMismatch,
    ModelNotFound,
    OutputError,
    ServingUnavailable,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
)
from c3d_client.parallel import map_parallel

WAIT_S = 120  # a timeout that passes only if the code is wrong


def double(item, cancel):
    return 2 * item


def failing(error, *, fails_at):
    """Return work that fails for one item and doubles the others."""

    def work(item, cancel):
        if item == fails_at:
            raise error
        return 2 * item

    return work


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_has_exactly_one_outcome(in_order, workers):
    outcomes = list(map_parallel(double, range(50), workers=workers, in_order=in_order))
    assert sorted((o.index, o.source, o.result) for o in outcomes) == [
        (n, n, 2 * n) for n in range(50)
    ]
    assert all(o.error is None and o.unwrap() == 2 * o.source for o in outcomes)


def test_outcomes_are_in_order_only_if_requested():
    release_first = threading.Event()

    def work(item, cancel):
        if item == 0:
            assert release_first.wait(WAIT_S)
        return item

    arriving = map_parallel(work, range(4), workers=2)
    assert next(arriving).source != 0
    release_first.set()
    assert {o.source for o in arriving} >= {0}
    assert [o.source for o in map_parallel(work, range(9), workers=3, in_order=True)] == [*range(9)]


@pytest.mark.parametrize("in_order", [False, True])
def test_items_are_read_only_as_workers_become_free(in_order):
    counter = itertools.count()
    highest = 0
    for done, _outcome in enumerate(
        map_parallel(double, (next(counter) for _ in range(200)), workers=2, in_order=in_order)
    ):
        started = counter.__reduce__()[1][0]
        highest = max(highest, started - done)
    assert done == 199
    assert highest <= 2 * 2 + 1


def test_ordered_outcome_is_yielded_before_later_items_are_done():
    counter = threading.Event()

    def work(item, cancel):
        assert item == 0 or counter.wait(WAIT_S)
        return item

    outcomes = map_parallel(work, range(4), workers=2, in_order=True)
    assert next(outcomes).source == 0
    counter.set()
    assert [o.source for o in outcomes] == [1, 2, 3]


def test_slow_first_item_bounds_the_items_in_memory():
    release, started = threading.Event(), []

    def work(item, cancel):
        started.append(item)
        if item == 0:
            assert release.wait(WAIT_S)
        return item

    outcomes = map_parallel(work, itertools.count(), workers=2, in_order=True)
    threading.Timer(0.2, release.set).start()
    assert next(outcomes).source == 0
    assert len(started) <= 4
    outcomes.close()


def test_at_most_as_many_items_run_as_there_are_workers():
    lock, running, highest = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def work(item, cancel):
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
        together.wait(WAIT_S)
        with lock:
            running -= 1

    list(map_parallel(work, range(30), workers=3))
    assert highest == 3


@pytest.mark.parametrize(
    "error",
    [
        VideoDecodeError("a.mp4", "is damaged"),
        VideoTooShortError("a.mp4", "has 3 frames"),
        OutputError("a.npz", "disk is full"),
        ServingUnavailable("localhost:1", "no answer"),
    ],
)
def test_error_of_one_video_is_its_outcome_and_the_others_continue(error):
    outcomes = list(map_parallel(failing(error, fails_at=2), range(6), workers=2, in_order=True))
    assert [o.result for o in outcomes] == [0, 2, None, 6, 8, 10]
    assert outcomes[2].error is error
    with pytest.raises(type(error)):
        outcomes[2].unwrap()


@pytest.mark.parametrize(
    "error",
    [ContractMismatch("t", "another model"), ModelNotFound("t", "none"), ZeroDivisionError()],
)
def test_error_that_concerns_every_video_ends_the_work(error):
    started = []

    def work(item, cancel):
        started.append(item)
        if item > 2:  # however late the error of the other thread is
            assert cancel.wait(WAIT_S)
        return failing(error, fails_at=2)(item, cancel)

    with pytest.raises(type(error)):
        list(map_parallel(work, range(10_000), workers=2))
    assert len(started) <= 6  # those that were read before the error


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a defect"), ContractMismatch("host", "another model")]
)
def test_outcomes_of_the_other_items_are_yielded_before_the_error(in_order, error):
    together = threading.Barrier(4, timeout=WAIT_S)

    def work(item, cancel):
        together.wait()
        if item == 1:
            raise error
        assert cancel.wait(WAIT_S)
        if item == 2:
            raise VideoDecodeError("two", "is damaged")
        if item == 3:
            raise Cancelled
        return item

    outcomes = []
    with pytest.raises(type(error)):
        outcomes.extend(map_parallel(work, range(4), workers=4, in_order=in_order))
    assert {outcome.index for outcome in outcomes} == {0, 2}
    assert {outcome.index for outcome in outcomes if outcome.error is not None} == {2}


def test_serving_errors_in_a_row_end_the_work():
    gone = ServingUnavailable("localhost:1", "no server answers")
    started, outcomes = [], []

    def work(item, cancel):
        started.append(item)
        raise gone

    with pytest.raises(ServingUnavailable):
        outcomes.extend(map_parallel(work, range(10_000), workers=1))
    assert len(started) <= 5


def test_serving_errors_with_successes_between_do_not_end_the_work():
    def work(item, cancel):
        if item % 3:
            raise ServingUnavailable("localhost:1", "restarting")
        return item

    outcomes = list(map_parallel(work, range(30), workers=1))
    assert sum(o.error is not None for o in outcomes) == 20


def test_stop_finishes_started_items_and_starts_no_other():
    stop, waiting, started = threading.Event(), threading.Event(), []
    both = threading.Barrier(2)

    def items():
        for number in itertools.count():
            if number == 3:
                waiting.set()  # two are running and two are waiting
            yield number

    def work(item, cancel):
        started.append(item)
        both.wait(WAIT_S)
        assert waiting.wait(WAIT_S)
        stop.set()
        return item

    outcomes = list(map_parallel(work, items(), workers=2, stop=stop))
    assert sorted(o.source for o in outcomes) == sorted(started) == [0, 1]


def test_closing_the_iterator_cancels_running_items():
    cancelled, started = [], threading.Event()

    def work(item, cancel):
        if item == 0:
            assert started.wait(WAIT_S)
            return item
        started.set()
        cancelled.append(cancel.wait(WAIT_S))
        return item

    outcomes = map_parallel(work, range(2), workers=2)
    assert next(outcomes).source == 0
    outcomes.close()
    assert cancelled == [True]


def test_threads_end_with_the_work():
    # Only the threads of this call, because servers of other tests start and end threads too.
    seen = set()

    def work(item, cancel):
        seen.add(threading.current_thread())

    list(map_parallel(work, range(10), workers=4))
    assert seen
    assert not any(thread.is_alive() for thread in seen)


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_an_error(workers):
    with pytest.raises(UsageError, match="workers is"):
        list(map_parallel(double, range(3), workers=workers))
