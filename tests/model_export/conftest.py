"""Fixtures of the exporter's tests: servables' inputs, clips, and the command in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from c3d_export.cli import main
from c3d_export.mean import Mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import Weights, random_weights
from support.http_faults import FileServer, file_server


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ServableSpec]:
    """Return a build's inputs; the mean differs by channel and position, so that mistakes show."""

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
    """Return a mean cube, BGR, that differs from all its mirrored, shifted or permuted versions."""
    frames, rows, columns = np.meshgrid(
        np.arange(16), np.arange(112), np.arange(112), indexing="ij"
    )
    return Mean(np.stack([60.0 + rows, 150.0 - columns, 90.0 + frames], -1).astype("f4"), "cube")


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    """The smallest network: one filter in conv1 and three classes; fc7 has its full size."""
    return random_weights(3, width=1, classes=3)


@pytest.fixture(scope="session")
def tiny_base(tiny_weights, make_spec, tmp_path_factory) -> Path:
    """A model folder with version 1 of the smallest network. Do not write to it: copy it."""
    base = tmp_path_factory.mktemp("tiny") / "c3d"
    build(make_spec(tiny_weights), base)
    return base


@pytest.fixture(scope="session")
def clips() -> np.ndarray:
    """Three clips of noise, uint8 RGB ``[3, 16, 112, 112, 3]``."""
    return np.random.default_rng(42).integers(0, 256, (3, 16, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def narrow_channel(narrow_server) -> Iterator[grpc.Channel]:
    """A connection to the narrow network's server, for messages of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(narrow_server.target, options=options) as channel:
        yield channel


@pytest.fixture(scope="session")
def refusal() -> Callable[..., tuple[grpc.StatusCode, str]]:
    """Make a call that must be refused, and return its status code and details."""

    def refusal(call, message):
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=60)
        return caught.value.code(), caught.value.details()

    return refusal


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    """A web server with one file and configurable faults."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as site:
        yield site


@pytest.fixture
def run(capfd):
    """Run the command in this process; return its exit code, standard output and standard error.

    The process's own streams are captured, with the lines of TensorFlow and gRPC.
    """

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return (caught.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must be refused; return its one line. No file may be written."""

    def refused(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("c3d-export: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return refused
