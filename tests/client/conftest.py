"""Servers and addresses for the client's tests, and the command with a film for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from c3d_client import cli
from c3d_client.serving import channel
from support.fake_serving import FakeServing
from support.films import write_film


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    """Retries follow each other at once; how many there are is what the tests look at."""
    monkeypatch.setattr(channel, "_FIRST_BACKOFF_S", 0.001)


@pytest.fixture
def fake_serving() -> Iterator:
    """Start a :class:`fake_serving.FakeServing` with the arguments given; stopped after the test."""
    started = []

    def start(*args, **kwargs):
        started.append(FakeServing(*args, **kwargs))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections: the port is taken and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def run(capsys):
    """Run the command; gives the exit code, standard output, and standard error's lines."""

    def run_command(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err.splitlines()

    return run_command


@pytest.fixture
def film(tmp_path):
    """A film of two clips."""
    return write_film(tmp_path / "film.mp4", 24)


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory):
    """A film of exactly one clip."""
    return write_film(tmp_path_factory.mktemp("films") / "sixteen.mp4", 16)
