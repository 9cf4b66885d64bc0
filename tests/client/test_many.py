"""Many videos side by side: bounded, accounted for, and stopped when there is no use."""

import itertools
import threading
import time

import pytest
from c3d_client.core.errors import (
    ContractMismatch,
    ModelNotFound,
    OutputError,
    ServingUnavailable,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
)
from c3d_client.parallel import core_count, map_parallel


def double(item, cancel):
    return 2 * item


def failing(error, *, at):
    """Work that fails for one item and doubles the others."""

    def work(item, cancel):
        if item == at:
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


def test_outcomes_come_as_they_are_done_or_in_the_order_of_the_items():
    slow_is_done = threading.Event()

    def work(item, cancel):
        if item == 0:
            assert slow_is_done.wait(10)
        return item

    arriving = map_parallel(work, range(4), workers=2)
    assert next(arriving).source != 0
    slow_is_done.set()
    assert {o.source for o in arriving} >= {0}
    assert [o.source for o in map_parallel(work, range(9), workers=3, in_order=True)] == [*range(9)]


@pytest.mark.parametrize("in_order", [False, True])
def test_items_are_taken_only_as_there_is_room(in_order):
    taken = itertools.count()
    most = 0
    for done, _outcome in enumerate(
        map_parallel(double, (next(taken) for _ in range(200)), workers=2, in_order=in_order)
    ):
        begun = taken.__reduce__()[1][0]
        most = max(most, begun - done)
    assert done == 199
    assert most <= 2 * 2 + 1


def test_in_order_an_outcome_comes_as_soon_as_those_before_it_have():
    taken = threading.Event()

    def work(item, cancel):
        assert item == 0 or taken.wait(10)
        return item

    outcomes = map_parallel(work, range(4), workers=2, in_order=True)
    assert next(outcomes).source == 0
    taken.set()
    assert [o.source for o in outcomes] == [1, 2, 3]


def test_a_slow_first_item_does_not_let_the_others_pile_up_when_order_is_asked_for():
    release, begun = threading.Event(), []

    def work(item, cancel):
        begun.append(item)
        if item == 0:
            assert release.wait(10)
        return item

    outcomes = map_parallel(work, itertools.count(), workers=2, in_order=True)
    threading.Timer(0.2, release.set).start()
    assert next(outcomes).source == 0
    assert len(begun) <= 4
    outcomes.close()


def test_no_more_than_the_workers_work_at_a_time():
    lock, here, most = threading.Lock(), 0, 0

    def work(item, cancel):
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.01)
        with lock:
            here -= 1

    list(map_parallel(work, range(30), workers=3))
    assert most == 3


@pytest.mark.parametrize(
    "error",
    [
        VideoDecodeError("a.mp4", "is damaged"),
        VideoTooShortError("a.mp4", "has 3 frames"),
        OutputError("a.npz", "no room"),
        ServingUnavailable("localhost:1", "nobody"),
    ],
)
def test_an_error_of_one_video_is_its_outcome_and_the_others_go_on(error):
    outcomes = list(map_parallel(failing(error, at=2), range(6), workers=2, in_order=True))
    assert [o.result for o in outcomes] == [0, 2, None, 6, 8, 10]
    assert outcomes[2].error is error
    with pytest.raises(type(error)):
        outcomes[2].unwrap()


@pytest.mark.parametrize(
    "error",
    [ContractMismatch("t", "another model"), ModelNotFound("t", "none"), ZeroDivisionError()],
)
def test_errors_that_every_video_would_meet_end_it_all(error):
    begun = []

    def work(item, cancel):
        begun.append(item)
        return failing(error, at=2)(item, cancel)

    with pytest.raises(type(error)):
        list(map_parallel(work, range(10_000), workers=2))
    assert len(begun) < 12


def test_a_server_that_is_gone_is_not_asked_for_every_video():
    gone = ServingUnavailable("localhost:1", "nobody answers")
    begun, outcomes = [], []

    def work(item, cancel):
        begun.append(item)
        raise gone

    with pytest.raises(ServingUnavailable):
        outcomes.extend(map_parallel(work, range(10_000), workers=1))
    assert len(begun) <= 5


def test_a_server_that_fails_now_and_then_does_not_end_it():
    def work(item, cancel):
        if item % 3:
            raise ServingUnavailable("localhost:1", "restarting")
        return item

    outcomes = list(map_parallel(work, range(30), workers=1))
    assert sum(o.error is not None for o in outcomes) == 20


def test_halting_finishes_what_has_begun_and_begins_nothing():
    halt, waiting, begun = threading.Event(), threading.Event(), []

    def items():
        for number in itertools.count():
            if number == 3:
                waiting.set()  # two at work and two that wait for their turn
            yield number

    def work(item, cancel):
        begun.append(item)
        assert waiting.wait(10)
        halt.set()
        time.sleep(0.05)
        return item

    outcomes = list(map_parallel(work, items(), workers=2, stop=halt))
    assert sorted(o.source for o in outcomes) == sorted(begun) == [0, 1]


def test_leaving_early_tells_the_work_that_it_is_unwanted():
    gave_up, begun = [], threading.Event()

    def work(item, cancel):
        if item == 0:
            assert begun.wait(10)
            return item
        begun.set()
        gave_up.append(cancel.wait(10))
        return item

    outcomes = map_parallel(work, range(2), workers=2)
    assert next(outcomes).source == 0
    outcomes.close()
    assert gave_up == [True]


def test_no_threads_are_left_behind():
    # Its own threads alone: those of other tests' servers come and go meanwhile.
    seen = set()

    def work(item, cancel):
        seen.add(threading.current_thread())

    list(map_parallel(work, range(10), workers=4))
    assert seen
    assert not any(thread.is_alive() for thread in seen)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers):
    with pytest.raises(UsageError, match="workers is"):
        list(map_parallel(double, range(3), workers=workers))


def test_the_cores_are_those_that_this_process_may_use():
    assert core_count() >= 1
