"""Many videos side by side: so many at a time, whatever their number, and each accounted for."""

from __future__ import annotations

import os
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

Item = TypeVar("Item")
Result = TypeVar("Result")

# One video after the other that the server did not answer for: it is gone, and asking it for ten
# thousand more would take hours to say so.
_MOST_UNSERVED = 3
_WAKE_S = 0.2


class _NotBegun(Exception):
    """The work was halted before this item's turn."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one input: a result or an error, never both, never neither.

    Args:
        index: its place among the inputs, from 0.
        source: the input, as it was given.
        result: what it gave, or None.
        error: why it gave nothing, or None.
    """

    index: int
    source: Item
    result: Result | None
    error: C3DError | None

    def unwrap(self) -> Result:
        """The result.

        Raises:
            C3DError: there is none; this is why.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(
    workers: int | None, *, videos: int | None = None, cores: int | None = None
) -> tuple[int, int]:
    """How many videos at a time, and how many decoder threads each has.

    Args:
        workers: as asked for; None for as many as there are cores.
        videos: in all, where that is known: more workers would have nothing to do.
        cores: to share; all that this process may use by default.
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
    halt: threading.Event | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Do the same work for many items, in threads.

    Items are taken from their iterable as there is room: at most twice as many as there are
    workers are begun and not yet yielded, so memory does not grow with their number.

    Args:
        work: called with an item and an event, which is set when nobody wants the result any more.
        items: any number, taken one by one.
        workers: how many at a time, 1 or more.
        in_order: yield in the order of the items; otherwise as they are done.
        halt: set to take no further item; what has begun is finished.

    Yields:
        One outcome an item. Errors of the video, of its output, and of the server that passed by
        are outcomes.

    Raises:
        UsageError: workers is below 1.
        ContractMismatch, ModelNotFound: the model is not what it should be; no video will fare
            better. What had begun is given up.
        ServingError: the server answered for none of several videos in a row.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give 1 or more")

    def begin(item: Item) -> Result:
        if halt is not None and halt.is_set():
            raise _NotBegun
        return work(item, cancel)

    numbered = enumerate(items)
    pending: dict[Future[Result], tuple[int, Item]] = {}
    done: dict[int, Outcome[Item, Result]] = {}
    following = unserved = 0
    cancel = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="c3d-video")
    try:
        while True:
            while len(pending) + len(done) < 2 * workers and not (halt and halt.is_set()):
                numbered_item = next(numbered, None)
                if numbered_item is None:
                    break
                pending[pool.submit(begin, numbered_item[1])] = numbered_item
            if not pending:
                break
            # A signal may be taken by any thread; the main one sees it when it next wakes up.
            completed = wait(pending, _WAKE_S, return_when=FIRST_COMPLETED).done
            for future in sorted(completed, key=lambda future: pending[future][0]):
                index, item = pending.pop(future)
                try:
                    outcome = _outcome(index, item, future)
                except _NotBegun:
                    continue
                unserved = unserved + 1 if isinstance(outcome.error, ServingError) else 0
                if in_order:
                    done[index] = outcome
                else:
                    yield outcome
                if unserved >= _MOST_UNSERVED and outcome.error is not None:
                    raise outcome.error
            while following in done:
                yield done.pop(following)
                following += 1
    finally:
        cancel.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(index: int, item: Item, future: Future[Result]) -> Outcome[Item, Result]:
    try:
        return Outcome(index, item, future.result(), None)
    except (ContractMismatch, ModelNotFound):
        raise
    except (VideoError, OutputError, ServingError) as error:
        return Outcome(index, item, None, error)
