"""Real servables, real servers and real videos, created once per session and shared."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import caffe_bytes

# Must be set before TensorFlow is loaded, which logs an error on a machine without a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the command c3d-export and the manifests do.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from c3d_export.architecture import build_c3d, set_weights
from c3d_export.local_server import LocalServer
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import random_weights, read_weights
from c3d_export.weights.demo import DEMO_LABELS, demo_weights
from support.videos import h264_sample, restore_scheduling

# A shell's background jobs and their children ignore SIGINT, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NARROW = 4  # conv1's filters in the narrow network: the same layers and features, 1/250 of the work


# Tests of the full network: they take longest, so they start first.
_FULL_NETWORK = {
    *("test_architecture.py", "test_demo.py", "test_motion.py", "test_oracle_agreement.py"),
    *("test_served_network.py", "test_weights.py"),
}


def pytest_collection_modifyitems(items) -> None:
    """Run the tests of the full network first."""
    items.sort(key=lambda item: item.path.name not in _FULL_NETWORK)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each file to one process, and all tests of the full network to the same process.

    So the full network is built once per run. pytest-xdist's own marks for this have no effect with
    pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "full network" if Path(file).name in _FULL_NETWORK else file

    return ByFile(config, log)


def spec(weights, **changes) -> ServableSpec:
    """Return a build's inputs, with numbered labels and the Sports-1M mean's numbers."""
    parts = {
        "weights": weights,
        "mean": read_mean(SPORTS1M_SCALARS),
        "labels": [f"label {n}" for n in range(weights.classes)],
        "batch_sizes": (1, 8),
    }
    return ServableSpec(**{**parts, **changes})


@pytest.fixture(autouse=True)
def ordinary_scheduling():
    """Keep the tests' threads from being real-time after one of them has encoded AV1."""
    yield
    restore_scheduling()


@pytest.fixture(scope="session")
def narrow_weights():
    """Seeded weights of the narrow network."""
    return random_weights(7, width=NARROW)


@pytest.fixture(scope="session")
def narrow_base(narrow_weights, tmp_path_factory) -> Path:
    """A model folder with version 1 of the narrow network. Do not write to it: copy it."""
    base = tmp_path_factory.mktemp("narrow") / "c3d"
    build(spec(narrow_weights), base)
    return base


@pytest.fixture(scope="session")
def narrow_gpu_base(narrow_weights, tmp_path_factory) -> Path:
    """A model folder with version 1 of the narrow network for GPUs. Do not write to it."""
    base = tmp_path_factory.mktemp("narrow-gpu") / "c3d"
    build(spec(narrow_weights, target="gpu", batch_sizes=(1, 8, 16)), base)
    return base


@pytest.fixture
def narrow_copy(narrow_base, tmp_path) -> Path:
    """A copy of the narrow network's model folder, for one test to change."""
    return Path(shutil.copytree(narrow_base, tmp_path / "c3d"))


@pytest.fixture(scope="session")
def narrow_server(narrow_base) -> Iterator[LocalServer]:
    """The narrow network behind a real gRPC port."""
    server = LocalServer(narrow_base)
    server.start()
    yield server
    server.stop(5)


@pytest.fixture(scope="session")
def full_files(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """Random weights of the full network and a mean cube, as files of C3D-v1.0."""
    folder = tmp_path_factory.mktemp("caffe")
    files = {"weights": folder / "c3d.caffemodel", "mean": folder / "mean.binaryproto"}
    files["weights"].write_bytes(caffe_bytes.net_bytes(caffe_bytes.random_net(0)))
    files["mean"].write_bytes(caffe_bytes.blob_bytes(caffe_bytes.random_mean(0)[None]))
    yield files
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def full_weights(full_files):
    """The full network's 79,991,015 parameters, read from Caffe's bytes."""
    return read_weights(str(full_files["weights"]))


@pytest.fixture(scope="session")
def full_mean(full_files):
    """A mean cube that differs in every row, column and frame."""
    return read_mean(str(full_files["mean"]))


@pytest.fixture(scope="session")
def full_network(full_weights):
    """The full network in Keras, float32, with the weights as published: BGR input."""
    network = build_c3d()
    set_weights(network, full_weights.arrays)
    return network


@pytest.fixture(scope="session")
def full_base(full_weights, full_mean, tmp_path_factory) -> Iterator[Path]:
    """A model folder with version 1 of the full network, 320 MB."""
    base = tmp_path_factory.mktemp("full") / "c3d"
    build(spec(full_weights, mean=full_mean, batch_sizes=(1, 4)), base)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def full_server(full_base) -> Iterator[LocalServer]:
    """The full network behind a real gRPC port."""
    server = LocalServer(full_base)
    server.start()
    yield server
    server.stop(5)


@pytest.fixture(scope="session")
def demo_base(tmp_path_factory) -> Iterator[Path]:
    """A model folder with version 1 of the full network with the demo's weights."""
    base = tmp_path_factory.mktemp("demo") / "c3d"
    build(spec(demo_weights(), labels=DEMO_LABELS, batch_sizes=(1,)), base)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real mean cubes, labels and videos that may not be copied; or skip."""
    folder = os.environ.get("C3D_TEST_ASSETS")
    if not folder:
        pytest.skip("C3D_TEST_ASSETS is not set: real mean cubes, labels and UCF101 video not run")
    return Path(folder)


@pytest.fixture(scope="session")
def bikes() -> Path:
    """H.264, 640x272, 25 fps, 250 frames."""
    return h264_sample("bikes")


@pytest.fixture(scope="session")
def bunny() -> Path:
    """H.264, 1280x720, 25 fps, 132 frames."""
    return h264_sample("bigbuckbunny")


@pytest.fixture(scope="session")
def carphone() -> Path:
    """H.264, 176x144, 29.97 fps, 120 frames."""
    return h264_sample("carphone_pristine")


@pytest.fixture(scope="session")
def baseball(assets) -> Path:
    """UCF101: MPEG-4 with packed B-frames, 320x240, 29.97 fps, 107 frames."""
    return assets / "videos" / "v_BaseballPitch_g01_c01.avi"
