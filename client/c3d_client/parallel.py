"""The same work for many videos in parallel, with one outcome for each video."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from c3d_client.core.errors import (
    C3DError,
    ContractMismatch,
    ModelNotFound,
    OutputError,
    ServingError,
    UsageError,
    VideoError,
)
from c3d_client.core.limits import core_count as core_count

Item = TypeVar("Item")
Result = TypeVar("Result")

# After serving errors of this many videos in a row the work ends, because the server is gone and
# trying ten thousand more videos would take hours.
_MAX_SERVING_ERRORS = 3
_WAKE_S = 0.2


class _NotStarted(Exception):
    """The work was stopped before it started this item."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The outcome of one input: either a result or an error.

    Args:
        index: the index of the input, from 0.
        source: the input.
        result: its result, or None.
        error: why there is no result, or None.
    """

    index: int
    source: Item
    result: Result | None
    error: C3DError | None

    def unwrap(self) -> Result:
        """Return the result.

        Raises:
            C3DError: the error of this input, where it has no result.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def share_cores(
    workers: int | None, *, videos: int | None = None, cores: int | None = None
) -> tuple[int, int]:
    """Return how many videos to process at a time, and the decoder threads of each.

    Args:
        workers: videos at a time; None for the number of cores.
        videos: the total number of videos, where it is known; more workers would be idle.
        cores: the cores to share; by default all that this process may use.
    """
    cores = core_count() if cores is None else cores
    workers = cores if workers is None else workers
    if videos is not None:
        workers = min(workers, max(1, videos))
    return workers, max(1, cores // max(1, workers))


def map_parallel(
    work: Callable[[Item, threading.Event], Result],
    items: Iterable[Item],
    *,
    workers: int,
    in_order: bool = False,
    stop: threading.Event | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Do the same work for many items, in threads.

    At most twice as many items as there are workers are read and not yet yielded, so memory does
    not grow with the number of items.

    Args:
        work: called with an item and an event, which is set when the work is cancelled.
        items: any number, read one by one.
        workers: how many at a time, 1 or more.
        in_order: yield in the order of the items; otherwise each as soon as it is done.
        stop: set to start no further item; items that have started are finished.

    Yields:
        One outcome for each item. Errors of a video and of its output are outcomes, and so are
        serving errors of a few videos.

    Raises:
        UsageError: workers is below 1.
        ContractMismatch, ModelNotFound: the model is not usable, so every video would fail. Items
            that have started are cancelled.
        ServingError: the server failed for several videos in a row.
        Exception: a defect in the work of one item. The outcomes that other items have by then are
            yielded first.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give 1 or more")

    def is_stopped() -> bool:
        return stop is not None and stop.is_set()

    def start(item: Item) -> Result:
        if is_stopped():
            raise _NotStarted
        return work(item, cancel)

    numbered = enumerate(items)
    pending: dict[Future[Result], tuple[int, Item]] = {}
    done: dict[int, Outcome[Item, Result]] = {}
    next_index = serving_errors = 0
    fatal: Exception | None = None  # ends the work
    cancel = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="c3d-video")
    try:
        while True:
            while len(pending) + len(done) < 2 * workers and not is_stopped():
                numbered_item = next(numbered, None)
                if numbered_item is None:
                    break
                pending[pool.submit(start, numbered_item[1])] = numbered_item
            if not pending:
                break
            # Another thread may receive a signal; the main thread handles it when it wakes up.
            completed = wait(pending, _WAKE_S, return_when=FIRST_COMPLETED).done
            for future in sorted(completed, key=lambda future: pending[future][0]):
                index, item = pending.pop(future)
                try:
                    outcome = _outcome(index, item, future)
                except _NotStarted:
                    continue
                except Exception as error:
                    fatal = fatal or error
                    continue
                is_serving_error = isinstance(outcome.error, ServingError)
                serving_errors = serving_errors + 1 if is_serving_error else 0
                if in_order:
                    done[index] = outcome
                else:
                    yield outcome
                if serving_errors >= _MAX_SERVING_ERRORS:
                    fatal = fatal or outcome.error
            while next_index in done:
                yield done.pop(next_index)
                next_index += 1
            if fatal is not None:
                cancel.set()
                done |= _ended(pending)
                for index in sorted(done):
                    yield done[index]
                raise fatal
    finally:
        cancel.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _ended(
    pending: dict[Future[Result], tuple[int, Item]],
) -> dict[int, Outcome[Item, Result]]:
    """Return the outcomes of cancelled work by index; none for items that have no outcome."""
    for future in pending:
        future.cancel()
    wait(pending)
    outcomes = {}
    for future, (index, item) in pending.items():
        # Cancelled and never started items have no outcome; another error that ends the work is
        # left out in favour of the first.
        with contextlib.suppress(Exception):
            outcomes[index] = _outcome(index, item, future)
    return outcomes


def _outcome(index: int, item: Item, future: Future[Result]) -> Outcome[Item, Result]:
    try:
        return Outcome(index, item, future.result(), None)
    except (ContractMismatch, ModelNotFound):
        raise
    except (VideoError, OutputError, ServingError) as error:
        return Outcome(index, item, None, error)
