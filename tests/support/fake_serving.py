"""gRPC servers with faults: overload, delays, other models, invalid answers, lost requests."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from c3d_client.core.contract import (
    CLIP_SHAPE,
    CONTRACT_VERSION,
    FC6_FEATURES_HALVES,
    FEATURE_SIZE,
    LAYERS,
    LAYERS_SIGNATURE,
    MODEL_NAME,
    SIGNATURES,
)
from c3d_export import serving_api
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

LABELS = ["archery", "bowling", "curling"]
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def model_card(**changes) -> bytes:
    """Return the JSON of a model card, with changes."""
    card = {
        "contract_version": CONTRACT_VERSION,
        "precision": "float32",
        "weights": {"source": "trained.h5", "sha256": "ab" * 32, "random": False},
        "mean": {"source": "mean.npy", "sha256": "cd" * 32},
        "labels": LABELS,
    }
    return json.dumps({**card, **changes}).encode()


def signature_defs(*, halves=False, layers=()) -> dict:
    """Return the signatures of a valid servable, which a test may change.

    Args:
        halves: with the signature that only servables for GPUs have.
        layers: the outputs of the signature that servables of release 0.1.0 do not have.
    """
    optional = {FC6_FEATURES_HALVES.name: halves, LAYERS_SIGNATURE.name: bool(layers)}
    return {
        name: meta_graph_pb2.SignatureDef(
            inputs={signature.input.name: _info(signature.input)},
            outputs={
                output.name: _info(output)
                for output in signature.outputs
                if signature is not LAYERS_SIGNATURE or output.name in layers
            },
            method_name="tensorflow/serving/predict",
        )
        for name, signature in SIGNATURES.items()
        if optional.get(name, True)
    }


def _info(spec):
    info = meta_graph_pb2.TensorInfo(name=f"{spec.name}:0")
    info.dtype = types_pb2.DataType.Value(f"DT_{spec.dtype}")
    for size in (-1, *spec.shape):
        info.tensor_shape.dim.add(size=size)
    return info


class FakeServing(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """TensorFlow Serving's API on a free loopback port, with answers that a test decides.

    Requests that TensorFlow Serving refuses are refused, with its codes and messages.

    Args:
        on_predict: called with the request, its rows and the gRPC context; returns the output, or
            outputs by name; the whole response; or None for :func:`plain_output`. Not called for
            the model card.
        card: the model card, JSON text.
        signatures: name -> official SignatureDef.
        version: the model's version; may be changed while the server runs.
        port: the port, for a server that is restarted; 0 for a free one.
        credentials: gRPC's server credentials, for TLS.
        options: gRPC's server options; messages of any size by default.

    Attributes:
        requests: the PredictRequests so far, without those for the model card.
        specs: the ModelSpecs of the requests about the model: its card, metadata and status.
        metadata: the metadata of the last request of any kind, as a dict.
        in_flight: the number of PredictRequests that are being answered.
        statuses: a GetModelStatusResponse to send instead of the default one.
        has_invalid_signatures: whether the signatures are sent as bytes that cannot be parsed.
        as_content: whether tensors are sent as with --enable_serialization_as_tensor_content.
        most_at_once: the highest number of PredictRequests in flight.
    """

    def __init__(
        self,
        on_predict=None,
        *,
        card=None,
        signatures=None,
        version=1,
        port=0,
        credentials=None,
        options=_ANY_SIZE,
    ):
        self.on_predict = on_predict
        self.card = model_card() if card is None else card
        self.signatures = signature_defs() if signatures is None else signatures
        self.version = version
        self.statuses = None
        self.has_invalid_signatures = False
        self.as_content = False
        self.requests = []
        self.specs = []
        self.metadata = {}
        self.most_at_once = 0
        self.in_flight = 0
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            options=options,
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        self.target = f"127.0.0.1:{self.port}"
        _keep_port(self, self.port)
        self._server.start()

    def stop(self):
        """Stop the server and end every request; another server may be started on its port."""
        self._server.stop(None).wait()

    def number(self, request):
        """Return the number of a request that is being answered: 1 for the first, and so on.

        Of requests that are answered at a time, each may find all of them in ``requests``.
        """
        return 1 + next(n for n, other in enumerate(self.requests) if other is request)

    def respond(self, request, output):
        """Return a response with this output, or these by name, as the server would send it."""
        name = request.model_spec.signature_name
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = name
        outputs = output if isinstance(output, dict) else {SIGNATURES[name].output.name: output}
        for alias, array in outputs.items():
            proto = _as_content(array) if self.as_content else tf.make_tensor_proto(array)
            response.outputs[alias].CopyFrom(proto)
        return response

    def find(self, spec):
        """Return the version that a ModelSpec names; ``stable`` is a label of it."""
        labels = {"stable": self.version}
        version = serving_api.requested_version(
            spec, [self.version], model=MODEL_NAME, labels=labels
        )
        return version, self

    # The methods of the services, by the names that gRPC requires.

    def Predict(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        _answer(context, self.find, request.model_spec)
        name, inputs, wanted = _answer(
            context, serving_api.checked_inputs, request, self.signatures
        )
        (rows,) = inputs.values()
        if name == "model_card":
            self.specs.append(request.model_spec)
            return self.respond(request, np.array([self.card] * len(rows), object))
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.most_at_once = max(self.most_at_once, self.in_flight)
        try:
            output = self.on_predict(request, rows, context) if self.on_predict else None
        finally:
            with self._lock:
                self.in_flight -= 1
        if isinstance(output, predict_pb2.PredictResponse):
            return output
        return self.respond(request, plain_output(name, rows, wanted) if output is None else output)

    def GetModelMetadata(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        self.specs.append(request.model_spec)
        response = _answer(context, serving_api.model_metadata, request, self.find)
        if self.has_invalid_signatures:
            response.metadata["signature_def"].value = b"\xff\xff\xff"
        return response

    def GetModelStatus(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        self.specs.append(request.model_spec)
        if self.statuses is not None:
            return self.statuses
        version = get_model_status_pb2.ModelVersionStatus(version=self.version, state=30)
        return _answer(
            context,
            serving_api.model_status,
            request,
            lambda model: [version] if model == MODEL_NAME else [],
        )


def _keep_port(owner, port):
    """Keep other programs from a port while its server is stopped, as long as the owner exists.

    gRPC's servers share a port with a socket that allows it; nothing is accepted there.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", port))
    weakref.finalize(owner, os.close, kept.detach())


class LossyProxy(grpc.GenericRpcHandler):
    """A proxy that loses some requests and some answers of a server.

    Args:
        target: the server.
        seed: decides which requests are lost.
        share: the part of the requests that fail, half of them after the server's answer.

    Attributes:
        lost: how many requests failed so far.
    """

    CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

    def __init__(self, target, *, seed=0, share=0.3):
        self.lost = 0
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target, options=_ANY_SIZE)
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self], options=_ANY_SIZE)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self):
        """Stop the proxy and end every request."""
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, details):
        def forward(request, context):
            with self._lock:
                fails = self._random.random() < self._share
                code, before = self._random.choice(self.CODES), self._random.random() < 0.5
                self.lost += fails
            if fails and before:
                context.abort(code, "request lost")
            answer = self._channel.unary_unary(details.method)(request, timeout=60)
            if fails:
                context.abort(code, "answer lost")
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)


def _answer(context, function, *args):
    try:
        return function(*args)
    except serving_api.Rejection as rejection:
        context.abort(rejection.code, rejection.message)


def _as_content(array):
    proto = tf.make_tensor_proto(array)
    proto.ClearField("string_val")
    proto.ClearField("float_val")
    if array.dtype != object:
        proto.tensor_content = array.tobytes()
        return proto
    for string in array:
        size = len(string)
        while size >= 0x80:
            proto.tensor_content += bytes([size & 0x7F | 0x80])
            size >>= 7
        proto.tensor_content += bytes([size])
    proto.tensor_content += b"".join(array)
    # TensorFlow itself decodes the same strings.
    assert tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy().tolist() == [*array]
    return proto


def plain_output(name, rows, wanted=()):
    """Return an output whose rows differ: each is filled with its clip's first pixel plus one.

    Of the signature ``layers``, return the wanted outputs by name, of a network of width 1; the
    second layer of :data:`LAYERS` has twice the numbers, the third three times, and so on.
    """
    first = rows.reshape(len(rows), -1)[:, :1].astype(np.float32) + 1
    if name == "classify":
        return np.tile(np.array([0.5, 0.25, 0.25], np.float32), (len(rows), 1))
    if name == LAYERS_SIGNATURE.name:
        shapes = {layer: LAYERS[layer].shape for layer in wanted}
        return {
            layer: np.float32(1 + list(LAYERS).index(layer))
            * np.ones((len(rows), *(8 if size == -1 else size for size in shape)), np.float32)
            * first.reshape(-1, *[1] * len(shape))
            for layer, shape in shapes.items()
        }
    return np.repeat(first, FEATURE_SIZE, axis=1)


def clips_of(*firsts):
    """Return a batch of clips, each filled with one number, so that their answers differ."""
    return np.stack([np.full(CLIP_SHAPE, first, np.uint8) for first in firsts])
