"""Servers for the tests of the pipelines, and short pauses for those of their faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from c3d_client import channel
from c3d_pipelines.shards import patience
from stand_in import StandIn


@pytest.fixture
def started() -> Iterator:
    """Start a :class:`stand_in.StandIn` with the arguments given; stopped after the test."""
    servers = []

    def start(*args, **kwargs):
        servers.append(StandIn(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def short_pauses(monkeypatch):
    """Pauses are short; how often and whether there are any is what the tests look at."""
    monkeypatch.setattr(channel, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.2)
