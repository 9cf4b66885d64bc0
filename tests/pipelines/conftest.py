"""Fixtures of the pipelines' tests: servers, datasets, and short pauses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from c3d_client.serving import patience
from c3d_pipelines import dataset
from c3d_pipelines.dataset import Dataset
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.submit import Package
from c3d_pipelines.shards import retry
from support.fake_kfp import fake_kfp
from support.fake_serving import FakeServing
from support.sample_dataset import two_runs
from support.shard_runs import mixed_rows


@pytest.fixture
def started() -> Iterator:
    """Start a :class:`fake_serving.FakeServing`, which is stopped after the test."""
    servers = []

    def start(*args, **kwargs):
        servers.append(FakeServing(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(started) -> FakeServing:
    """A fake server that answers at once."""
    return started()


@pytest.fixture
def out(tmp_path) -> Path:
    """The folder of a dataset that does not exist yet."""
    return tmp_path / "out"


@pytest.fixture
def rows(tmp_path) -> list[ManifestRow]:
    """Seven planned videos: four ok, one too short, one damaged, one missing."""
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def short_pauses(monkeypatch):
    """Shorten the pauses before retries."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_S", 0.2)


@pytest.fixture(scope="session")
def features_dataset(tmp_path_factory) -> Path:
    """A dataset of features that two runs wrote. Do not write to it."""
    folder = tmp_path_factory.mktemp("features") / "my videos"
    two_runs(folder)
    return folder


@pytest.fixture
def opened(features_dataset) -> Dataset:
    """The dataset of features, opened."""
    return dataset.open(features_dataset)


@pytest.fixture(scope="session")
def classes_dataset(tmp_path_factory) -> Path:
    """A dataset of classes that two runs wrote. Do not write to it."""
    folder = tmp_path_factory.mktemp("classes") / "my videos"
    two_runs(folder, answer="classes")
    return folder


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment without Kubeflow and Kubernetes, and a home folder that stays empty."""
    for name in ("ENDPOINT", "UI_ENDPOINT", "TOKEN", "COOKIE", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    handlers = list(logging.getLogger().handlers)
    yield
    assert not (tmp_path / "home").exists()
    assert logging.getLogger().handlers == handlers


@pytest.fixture
def kfp():
    """A fake Kubeflow Pipelines API."""
    with fake_kfp() as server:
        yield server


@pytest.fixture(scope="session")
def bulk() -> Package:
    """The compiled pipeline c3d-bulk-extraction."""
    return Package(compiled_path(EXTRACTION))
