"""Fixtures of the client's tests: servers, addresses, the command `c3d` and small videos."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from c3d_client import cli
from c3d_client.serving import options, patience
from c3d_client.serving.client import ServingClient
from c3d_client.serving.options import ServingOptions
from support.fake_serving import FakeServing
from support.videos import write_video


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Shorten the pauses between retries and the wait for a server that never answers."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(options, "FIRST_PATIENCE_S", 0.2)
    # The advice for clients in a cluster has tests of its own.
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def fake_serving() -> Iterator:
    """Start :class:`FakeServing` servers with any arguments; they are stopped after the test."""
    started = []

    def start(*args, **kwargs):
        started.append(FakeServing(*args, **kwargs))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address that refuses connections: its port is bound but nothing listens there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def run(capsys):
    """Run `c3d`; returns the exit code, standard output and the lines of standard error."""

    def run_command(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return exit_info.value.code, output.out, output.err.splitlines()

    return run_command


@pytest.fixture
def video(tmp_path):
    """A video of two clips."""
    return write_video(tmp_path / "video.mp4", 24)


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory):
    """A video of exactly one clip."""
    return write_video(tmp_path_factory.mktemp("films") / "sixteen.mp4", 16)


@pytest.fixture
def connect():
    """Make ServingClients; they are closed after the test."""
    opened = []

    def open_client(target, **changes):
        opened.append(ServingClient(ServingOptions(target, **changes)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
