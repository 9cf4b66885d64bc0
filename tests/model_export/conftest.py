"""What the exporter's tests share: servable parts, clips, and an oracle that knows no product code.

The oracle is C3D written a second time from Caffe's definition, out of plain convolutions and
maxima, so that a mistake in the network and in the verification alike is still seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import tensorflow as tf
from c3d_export.cli import main
from c3d_export.download import Patience, download
from c3d_export.errors import AssetError
from c3d_export.mean import Mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import Weights, random_weights
from support.http_faults import CONTENT, KNOWN, FileServer, file_server

_CONVS_BEFORE_POOL = {
    "pool1": ("conv1",),
    "pool2": ("conv2",),
    "pool3": ("conv3a", "conv3b"),
    "pool4": ("conv4a", "conv4b"),
    "pool5": ("conv5a", "conv5b"),
}


class CaffeAnswer(NamedTuple):
    """What the oracle says of some clips."""

    fc6: np.ndarray
    fc7: np.ndarray
    probabilities: np.ndarray


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ServableSpec]:
    """Make a servable's parts; the mean differs in its channels and places, so mistakes show."""

    def make(weights: Weights, **changes) -> ServableSpec:
        parts = {
            "weights": weights,
            "mean": position_mean(),
            "labels": [f"label {n}" for n in range(weights.classes)],
            "batch_sizes": (1,),
        }
        return ServableSpec(**{**parts, **changes})

    return make


def position_mean() -> Mean:
    """A mean cube, BGR, that no turn or shift of it equals."""
    frames, rows, columns = np.meshgrid(
        np.arange(16), np.arange(112), np.arange(112), indexing="ij"
    )
    return Mean(np.stack([60.0 + rows, 150.0 - columns, 90.0 + frames], -1).astype("f4"), "cube")


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    """The least network: one filter in conv1, three classes; fc7 is as large as ever."""
    return random_weights(3, width=1, classes=3)


@pytest.fixture(scope="session")
def tiny_base(tiny_weights, make_spec, tmp_path_factory) -> Path:
    """A model folder with version 1 of the least network. Do not write to it: copy it."""
    base = tmp_path_factory.mktemp("tiny") / "c3d"
    build(make_spec(tiny_weights), base)
    return base


@pytest.fixture(scope="session")
def clips() -> np.ndarray:
    """Three clips of noise, uint8 RGB ``[3, 16, 112, 112, 3]``."""
    return np.random.default_rng(42).integers(0, 256, (3, 16, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def caffe_answer() -> Callable[[Mapping, np.ndarray, np.ndarray], CaffeAnswer]:
    """The oracle: canonical arrays, mean (both BGR) and RGB clips to fc6, fc7, probabilities."""

    def answer(arrays: Mapping, mean_bgr: np.ndarray, rgb: np.ndarray) -> CaffeAnswer:
        x = rgb[..., ::-1].astype(np.float32) - mean_bgr
        for pool, convs in _CONVS_BEFORE_POOL.items():
            for conv in convs:
                x = tf.nn.conv3d(x, arrays[f"{conv}/kernel"], [1] * 5, "SAME").numpy()
                x = np.maximum(x + arrays[f"{conv}/bias"], 0)
            x = x if pool == "pool1" else _caffe_pool(x, 1)
            x = _caffe_pool(_caffe_pool(x, 2), 3)
        x = x.reshape(len(x), -1)
        fc6 = np.maximum(x @ arrays["fc6/kernel"] + arrays["fc6/bias"], 0)
        fc7 = np.maximum(fc6 @ arrays["fc7/kernel"] + arrays["fc7/bias"], 0)
        fc8 = fc7 @ arrays["fc8/kernel"] + arrays["fc8/bias"]
        powers = np.exp(fc8 - fc8.max(axis=1, keepdims=True))
        return CaffeAnswer(fc6, fc7, powers / powers.sum(axis=1, keepdims=True))

    return answer


@pytest.fixture(scope="session")
def narrow_channel(narrow_server) -> Iterator[grpc.Channel]:
    """A connection to the small network's server, for messages of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(narrow_server.target, options=options) as channel:
        yield channel


@pytest.fixture(scope="session")
def refusal() -> Callable[..., tuple[grpc.StatusCode, str]]:
    """Make a call that must be refused: its code and its words."""

    def refusal(call, message):
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=60)
        return caught.value.code(), caught.value.details()

    return refusal


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    """A web server with one file, which misbehaves when it is told to."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as site:
        yield site


@pytest.fixture
def target(tmp_path) -> Iterator[Path]:
    """Where to download to; nothing else is there, and no half file ever has the name."""
    path = tmp_path / "weights.h5"
    yield path
    if path.is_file():
        assert path.read_bytes() in (CONTENT, b"other")


@pytest.fixture
def get(server, target) -> Callable[..., bool]:
    """Download the server's file, without much patience."""

    def get(known=KNOWN, *, url=server.url, **options):
        patience = Patience(timeout_s=0.3, attempts=4, backoff_s=0.001)
        return download(url, target, known=known, **{"patience": patience, **options})

    return get


@pytest.fixture
def refused(get, target) -> Callable[..., str]:
    """Download what must fail: its one line; nothing has the name."""

    def refused(*arguments, **options):
        with pytest.raises(AssetError) as caught:
            get(*arguments, **options)
        assert not target.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def _caffe_pool(x: np.ndarray, axis: int) -> np.ndarray:
    """Maxima of pairs along one axis; an odd one at the end is a window of its own, as in Caffe."""
    return np.maximum.reduceat(x, np.arange(0, x.shape[axis], 2), axis=axis)


@pytest.fixture
def run(capfd):
    """Run the command in this process: its exit code, and what it wrote to either stream.

    The streams are the process's, so that TensorFlow's and gRPC's own lines are seen too.
    """

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return (caught.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def refuses(run, tmp_path):
    """Run the command on what it must refuse, and give its one line."""

    def refuses(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("c3d-export: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return refuses
