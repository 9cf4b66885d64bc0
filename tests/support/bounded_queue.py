"""The local server behind a bounded batching queue, as TensorFlow Serving has it."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import numpy as np
from c3d_export import local_server
from c3d_export.local_server import LocalServer, Rejection
from c3d_export.serving_api import check_rows

FULL = (
    "The batch scheduling queue to which this task was submitted is full; currently {0} batches "
    "enqueued and max_enqueued_batches is {0}"
)
SHAPES = (
    "Tensors with name '{}' from different tasks have different shapes and padding is turned off. "
    "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have "
    "equal dimensions starting with the first dim."
)


class _Anyone:
    """A lock that does not lock: the queue decides what is computed at a time."""

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class BoundedQueue:
    """A servable whose requests are merged to batches, which wait in a queue of limited length.

    Args:
        servable: computes the batches.
        max_batches: batches in the queue; a request beyond them is refused with UNAVAILABLE.
        rows: rows in a batch, at most; a request of more is refused with INVALID_ARGUMENT.
        threads: batches that are computed at a time.
        batch_s: how long a batch takes at least, in seconds.

    Attributes:
        refused: number of refused requests.
        most_waiting: most batches in the queue at a time.
    """

    def __init__(self, servable, *, max_batches=64, rows=32, threads=2, batch_s=0.0):
        self.signatures = servable.signatures
        self.refused = 0
        self.answered = 0
        self.most_waiting = 0
        self._servable = servable
        self._max_batches = max_batches
        self._rows = rows
        self._batch_s = batch_s
        self._is_held = False
        self._batches = deque()
        self._changed = threading.Condition()
        self._compute = threading.Lock()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def fill_first(self):
        """Compute nothing more until a request is refused, so that the queue is full once."""
        with self._changed:
            self._is_held = True

    def run(self, signature, inputs, outputs):
        """Compute a request as part of a batch, as :meth:`GraphServable.run` does."""
        if signature == "model_card":  # has a queue of its own, which is never full here
            with self._compute:
                return self._servable.run(signature, inputs, outputs)
        check_rows(inputs, self._rows)
        task = (inputs, Future())
        count = len(next(iter(inputs.values())))
        key = (signature, outputs)
        with self._changed:
            last = self._batches[-1] if self._batches else None
            if last is None or last[0] != key or last[1] + count > self._rows:
                if len(self._batches) >= self._max_batches:
                    self.refused += 1
                    self._is_held = False
                    self._changed.notify_all()
                    text = FULL.format(self._max_batches)
                    raise Rejection(grpc.StatusCode.UNAVAILABLE, text)
                last = [key, 0, []]
                self._batches.append(last)
                self.most_waiting = max(self.most_waiting, len(self._batches))
            last[1] += count
            last[2].append(task)
            self._changed.notify()
        answer = task[1].result()
        with self._changed:
            self.answered += 1
        return answer

    def waiting_rows(self):
        """Return the rows in the queue, without those of batches that are computed."""
        with self._changed:
            return sum(batch[1] for batch in self._batches)

    def close(self):
        """End the threads and close the servable."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._servable.close()

    def _merge(self, signature, tasks):
        merged = {}
        for name in tasks[0]:
            arrays = [inputs[name] for inputs in tasks]
            if len({array.shape[1:] for array in arrays}) > 1:
                feed = self.signatures[signature].inputs[name].name
                raise Rejection(grpc.StatusCode.FAILED_PRECONDITION, SHAPES.format(feed))
            merged[name] = np.concatenate(arrays)
        return merged

    def _work(self):
        while True:
            with self._changed:
                while (self._is_held or not self._batches) and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                (signature, outputs), _, tasks = self._batches.popleft()
            began = time.monotonic()
            try:
                merged = self._merge(signature, [inputs for inputs, _ in tasks])
                with self._compute:
                    answers = self._servable.run(signature, merged, outputs)
                time.sleep(max(0.0, self._batch_s - (time.monotonic() - began)))
                start = 0
                for inputs, future in tasks:
                    end = start + len(next(iter(inputs.values())))
                    future.set_result({name: rows[start:end] for name, rows in answers.items()})
                    start = end
            except Exception as error:  # the requests of the batch fail, and not this thread
                for _, future in tasks:
                    if not future.done():
                        future.set_exception(error)


def bounded_server(base, monkeypatch, **queue) -> LocalServer:
    """Return a local server with a :class:`BoundedQueue` as its ``servable``, not yet started."""
    # As TensorFlow Serving with --grpc_max_threads: the queue refuses requests, not the threads.
    monkeypatch.setattr(local_server, "_THREADS", 512)
    server = LocalServer(base)
    server.compute_lock = _Anyone()
    server.servable = BoundedQueue(server.servable, **queue)
    return server


def run_together(count, work):
    """Run ``work(number)`` in threads of their own at the same time; return the results."""
    together = threading.Barrier(count)

    def start(number):
        together.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
