"""Client of TensorFlow Serving over gRPC.

Start with :class:`~c3d_client.serving.client.ServingClient`. Its connection, with retries, is
:mod:`~c3d_client.serving.channel`; :mod:`~c3d_client.serving.concurrency` limits the requests in
flight; :mod:`~c3d_client.serving.messages` encodes and decodes tensors;
:mod:`~c3d_client.serving.options` are its settings and :mod:`~c3d_client.serving.model_info` the
served model. ``wire_pb2`` is generated from ``wire.proto``.
"""
