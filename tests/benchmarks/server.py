"""Server with prepared answers in its own process, so that its CPU time is not measured.

It uses only the length of a request. `python -m benchmarks.server [CORE]` serves, on that core if
one is named, and prints its address.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from c3d_client.core.contract import (
    CLIP_BYTES,
    CONTRACT_VERSION,
    FC6_FEATURES,
    FEATURE_SIZE,
    MAX_BATCH_SIZE,
    MODEL_CARD,
)
from c3d_client.serving import wire_pb2 as wire

_CARD = {
    "contract_version": CONTRACT_VERSION,
    "precision": "float32",
    "weights": {"source": "none", "sha256": ""},
    "mean": {"source": "none", "sha256": ""},
}


class InstantServing(grpc.GenericRpcHandler):
    """TensorFlow Serving's API with prepared answers."""

    def __init__(self) -> None:
        features = np.random.default_rng(0).random((MAX_BATCH_SIZE, FEATURE_SIZE), np.float32)
        self._answers = [_features(features[:rows]) for rows in range(MAX_BATCH_SIZE + 1)]
        self._card, self._metadata = _card(), _metadata()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(
            self._predict if details.method.endswith("/Predict") else self._describe
        )

    def _predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return self._answers[len(request) // CLIP_BYTES] or self._card

    def _describe(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return self._metadata


def _features(rows: np.ndarray) -> bytes:
    """Return an answer with float_val, as TensorFlow Serving sends it by default."""
    if not len(rows):
        return b""
    response = wire.PredictResponse()
    response.model_spec.version.value = 1
    tensor = response.outputs[FC6_FEATURES.output.name]
    tensor.dtype = wire.DT_FLOAT
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(rows.ravel())
    return response.SerializeToString()


def _card() -> bytes:
    response = wire.PredictResponse()
    response.model_spec.version.value = 1
    tensor = response.outputs[MODEL_CARD.output.name]
    tensor.dtype = wire.DT_STRING
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(json.dumps(_CARD).encode())
    return response.SerializeToString()


def _metadata() -> bytes:
    signatures = wire.SignatureDefMap()
    for signature in (FC6_FEATURES, MODEL_CARD):
        definition = signatures.signature_def[signature.name]
        for spec, tensors in (
            (signature.input, definition.inputs),
            (signature.output, definition.outputs),
        ):
            tensors[spec.name].dtype = wire.DataType.Value(f"DT_{spec.dtype}")
            for size in (-1, *spec.shape):
                tensors[spec.name].tensor_shape.dim.add(size=size)
    response = wire.GetModelMetadataResponse()
    response.metadata["signature_def"].value = signatures.SerializeToString()
    return response.SerializeToString()


@contextlib.contextmanager
def server_process(*command: str) -> Iterator[str]:
    """Run a server that prints its address first; yields the address."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        target = process.stdout.readline().strip()
        if not target:
            raise RuntimeError(f"{' '.join(command)} ended before it printed an address")
        yield target
    finally:
        process.terminate()
        process.wait()


def instant_server(core: int | None = None) -> contextlib.AbstractContextManager[str]:
    """Run a server with prepared answers, on one core if one is named; yields its address."""
    return server_process(__file__, *([] if core is None else [str(core)]))


def main() -> None:
    if sys.argv[1:]:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    server = grpc.server(
        ThreadPoolExecutor(4),
        handlers=[InstantServing()],
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()  # blocks until the parent process has ended


if __name__ == "__main__":
    main()
