"""The bytes of a PredictRequest, made with one copy of the clips."""

from __future__ import annotations

import functools
from typing import Any

import numpy.typing as npt

from c3d_client import wire_pb2 as wire
from c3d_client.tensors import encode, varint

# Field number and wire type 2, "so many bytes follow": PredictRequest.inputs, and the key and the
# value of a map's entry.
_INPUTS, _KEY, _VALUE = (bytes([number << 3 | 2]) for number in (2, 1, 2))


def predict_request(spec: wire.ModelSpec, name: str, array: npt.NDArray[Any]) -> bytes:
    """A PredictRequest with one input, as protobuf would write it.

    Args:
        spec: the model and the signature.
        name: the input's name.
        array: its value; see :func:`c3d_client.tensors.encode`.

    Raises:
        TypeError: the array's dtype cannot be sent.
    """
    _keep_memory()
    head, content = encode(array)
    key = name.encode()
    entry = b"".join(
        (_KEY, varint(len(key)), key, _VALUE, varint(len(head) + content.nbytes), head)
    )
    start = wire.PredictRequest(model_spec=spec).SerializeToString()
    length = varint(len(entry) + content.nbytes)
    return b"".join((start, _INPUTS, length, entry, content.data))


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep the memory of one request for the next.

    glibc gives blocks as large as a batch back to the system and takes them anew, page by page,
    which costs several times the copy, until it has seen one of their size freed. This one, just
    below the 32 MiB up to which it learns, is never written to: it costs microseconds. Other C
    libraries do as they like.
    """
    bytes(2**25 - 2**16)
