"""The models behind both interfaces, gRPC and REST: load, predict, find and status."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import grpc
from c3d_export.graph import GraphServable
from c3d_export.serving_api import Rejection, Servable, predict_with, requested_version
from c3d_export.warmup import read_warmup
from tensorflow_serving.apis import predict_pb2

from cluster.server.metrics import Metrics
from cluster.server.models import Model, Retries


class Service:
    """What both interfaces answer from.

    Args:
        config: a tensorflow.serving.ModelServerConfig.
        flags: the server's flags.
        batching: a BatchingParameters; None without batching.
    """

    def __init__(self, config: Any, flags: Mapping[str, Any], batching: Any) -> None:
        self.metrics = Metrics()
        self._queues = Queues(batching, self.metrics)
        self._max_batch_size = self._queues.max_batch_size
        self._warm_up = flags.get("enable_model_warmup", True)
        self.models = {
            model.name: Model(
                model,
                self._load,
                # The defaults of TensorFlow Serving's main.cc.
                retries=Retries(
                    flags.get("max_num_load_retries", 5),
                    flags.get("load_retry_interval_micros", 60_000_000) / 1e6,
                ),
                poll_s=flags.get("file_system_poll_wait_seconds", 1),
            )
            for model in config.model_config_list.config
        }

    def _load(self, path: Path, number: int) -> GraphServable:
        labels = {"model_path": str(path)}
        try:
            servable = GraphServable(path)
        except Exception:
            self.metrics.count("cc:saved_model:load_attempt_count", **labels, status="fail")
            raise
        self.metrics.count("cc:saved_model:load_attempt_count", **labels, status="success")
        started_s, status = time.perf_counter(), "INTERNAL"
        try:
            for request in read_warmup(path) if self._warm_up else ():
                self._predict(request, servable, number)
            status = "OK"
        except Rejection as rejection:
            status = rejection.code.name
            raise
        finally:
            self.metrics.observe_since(
                started_s, "serving:model_warmup_latency", **labels, status=status
            )
            if status != "OK":
                servable.close()
        return servable

    def predict(self, request: Any) -> predict_pb2.PredictResponse:
        """Answer a PredictRequest.

        Raises:
            Rejection: it is refused.
        """
        arrived_s = time.perf_counter()
        name, status = request.model_spec.name, "OK"
        try:
            with self._model(request.model_spec).use(request.model_spec) as version:
                response = self._predict(request, version.servable, version.number)
        except Rejection as rejection:
            status = rejection.code.name
            raise
        finally:
            self.metrics.count("serving:request_count", model_name=name, status=status)
        self.metrics.observe_since(
            arrived_s,
            "serving:request_latency",
            model_name=name,
            API="Predict",
            entrypoint="GRPC",
        )
        return response

    def _predict(
        self, request: Any, servable: Servable, number: int
    ) -> predict_pb2.PredictResponse:
        return predict_with(
            request,
            _Queued(servable, self._queues),
            version=number,
            max_batch_size=self._max_batch_size,
        )

    def find(self, spec: Any) -> tuple[int, Servable]:
        """Return the version that a ModelSpec names, and its number.

        Raises:
            Rejection: no such model, version or label is available.
        """
        with self._model(spec).use(spec) as version:
            return version.number, version.servable

    def statuses(self, model: str) -> list[Any]:
        """Return the states of a model's versions; none for an unknown model."""
        return self.models[model].statuses() if model in self.models else []

    def _model(self, spec: Any) -> Model:
        if spec.name not in self.models:
            requested_version(spec, (), model=spec.name)  # refuses
        return self.models[spec.name]


class Queues:
    """One request is computed at a time, with all cores; the others wait, up to a limit.

    TensorFlow Serving would merge waiting requests of a queue to batches, which changes only the
    speed.

    Args:
        batching: a BatchingParameters; None without batching, which has no limit.
        metrics: gets the wait.
    """

    def __init__(self, batching: Any, metrics: Metrics) -> None:
        self.max_batch_size = batching.max_batch_size.value if batching else None
        self._max_enqueued_batches = batching.max_enqueued_batches.value if batching else None
        self._metrics = metrics
        self._computing = Lock()
        self._counting = Lock()
        self._waiting: defaultdict[Any, int] = defaultdict(int)

    def run(self, servable: Servable, signature: str, inputs: Any, outputs: tuple[str, ...]) -> Any:
        """Compute one request.

        Raises:
            Rejection: the queue of its signature and outputs is full.
        """
        arrived_s = time.perf_counter()
        queue = (id(servable), signature, outputs)
        rows = len(next(iter(inputs.values()))) if self.max_batch_size else 0
        self._enqueue(queue, rows)
        with self._computing:
            with self._counting:
                self._waiting[queue] -= rows
            self._metrics.observe_since(arrived_s, "serving:batching_session:queuing_latency")
            return servable.run(signature, inputs, outputs)

    def waiting(self) -> int:
        """Return the rows that wait in all queues."""
        with self._counting:
            return sum(self._waiting.values())

    def _enqueue(self, queue: Any, rows: int) -> None:
        with self._counting:
            if self.max_batch_size:
                batches = -(-self._waiting[queue] // self.max_batch_size)
                full = self._max_enqueued_batches * self.max_batch_size
                if self._waiting[queue] + rows > full:
                    raise Rejection(
                        grpc.StatusCode.UNAVAILABLE,
                        "The batch scheduling queue to which this task was submitted is full; "
                        f"currently {batches} batches enqueued and max_enqueued_batches is "
                        f"{self._max_enqueued_batches}",
                    )
            self._waiting[queue] += rows


class _Queued:
    """A servable whose requests wait in the queues."""

    def __init__(self, servable: Servable, queues: Queues) -> None:
        self.signatures = servable.signatures
        self._servable, self._queues = servable, queues

    def run(self, signature: str, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> Any:
        return self._queues.run(self._servable, signature, inputs, outputs)
