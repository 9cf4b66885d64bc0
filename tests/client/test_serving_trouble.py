"""The conversation in trouble: lost requests, servers that die, a client that is closed."""

import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from c3d_client.core.contract import CLIP_SHAPE, FC6_FEATURES
from c3d_client.core.errors import ServingError
from c3d_client.serving.client import ServingClient
from c3d_client.serving.options import ServingOptions
from support.fake_serving import Trouble, clips_of
from support.measures import relative
from support.relay import Relay

WAIT_S = 30  # for what happens at once unless the code is wrong


@pytest.fixture
def connect():
    """A ServingClient of a target, closed after the test."""
    opened = []

    def open_client(target, **changes):
        opened.append(ServingClient(ServingOptions(target, **changes)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


CLIPS = np.random.default_rng(5).integers(0, 256, (35, *CLIP_SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference(narrow_server):
    """The features of CLIPS, one request a clip."""
    with ServingClient(ServingOptions(narrow_server.target)) as client:
        return np.concatenate(
            [client.predict(FC6_FEATURES, CLIPS[n : n + 1]).output for n in range(len(CLIPS))]
        )


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_neither_batches_nor_lost_requests_change_an_answer(
    connect, narrow_server, reference, size
):
    trouble = Trouble(narrow_server.target, seed=size, share=0.4)
    client = connect(trouble.target, retries=30)
    batches = (CLIPS[n : n + size] for n in range(0, len(CLIPS), size))
    try:
        found = np.concatenate([a.output for a in client.stream(FC6_FEATURES, batches)])
    finally:
        trouble.stop()
    assert trouble.lost > 0
    assert found.shape == reference.shape
    assert relative(found, reference) <= 1e-6


class TestSeveralServers:
    def test_share_the_requests(self, connect, fake_serving):
        servers = [fake_serving(), fake_serving()]
        client = connect(f"ipv4:{servers[0].target},{servers[1].target}")
        # The first one that is connected may be alone for a while.
        sent = 0
        while min(len(server.requests) for server in servers) < 8 and sent < 4000:
            answers = client.stream(FC6_FEATURES, map(clips_of, range(40)))
            assert [answer.output[0, 0] for answer in answers] == [n + 1 for n in range(40)]
            sent += 40
        shares = [len(server.requests) for server in servers]
        assert sum(shares) == sent
        assert min(shares) >= 8

    def test_one_of_which_dies_lose_no_answer_and_give_none_twice(self, connect, fake_serving):
        def die(*_):
            if len(dying.requests) == 5:
                relay.cut()

        dying, living = fake_serving(die), fake_serving()
        relay = Relay(dying.target)
        client = connect(f"ipv4:{relay.target},{living.target}", retries=10)
        found = []
        # The living one may be connected first, and be alone for a while.
        while not relay.is_cut and len(found) < 4000:
            answers = client.stream(FC6_FEATURES, map(clips_of, range(60)))
            found += [answer.output[0, 0] - 1 for answer in answers]
        assert relay.is_cut
        assert found == [*range(60)] * (len(found) // 60)
        # What was on its way was asked again.
        assert len(dying.requests) + len(living.requests) > len(found)


class TestClosing:
    def test_ends_what_every_thread_waits_for_with_one_clear_error(self, fake_serving, monkeypatch):
        # One is refused and pauses, two are with the server, three wait for a slot.
        monkeypatch.setattr("c3d_client.serving.channel._FIRST_BACKOFF_S", 60)
        monkeypatch.setattr("c3d_client.serving.channel.random.uniform", lambda _low, high: high)
        let_go, ended = threading.Event(), []

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            let_go.wait(WAIT_S)

        server = fake_serving(on_predict)
        client = ServingClient(ServingOptions(server.target, max_in_flight=2))

        def one(number):
            with pytest.raises(ServingError, match="the connection was closed") as caught:
                client.predict(FC6_FEATURES, clips_of(number))
            ended.append((type(caught.value), caught.value.code))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        threads[0].start()
        wait_until(lambda: len(server.requests) == 1 and client.concurrency.in_flight == 0)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(server.requests) == 3)
        started = time.monotonic()
        client.close()
        for thread in threads:
            thread.join(WAIT_S)
        let_go.set()
        assert time.monotonic() - started < 20
        assert ended == [(ServingError, "CANCELLED")] * 6
        assert len(server.requests) == 3
        assert client.concurrency.in_flight == 0

    def test_is_remembered_and_may_be_repeated(self, fake_serving):
        client = ServingClient(ServingOptions(fake_serving().target))
        client.predict(FC6_FEATURES, clips_of(0))
        client.close()
        client.close()
        for ask in (client.versions, lambda: client.predict(FC6_FEATURES, clips_of(0))):
            with pytest.raises(ServingError, match="the connection was closed"):
                ask()
        assert client.concurrency.in_flight == 0

    def test_a_forked_process_is_told_to_connect_itself(self, fake_serving):
        code = f"""
import os
from c3d_client import ServingOptions, UsageError
from c3d_client.serving.client import ServingClient
client = ServingClient(ServingOptions({fake_serving().target!r}))
client.versions()
if os.fork() == 0:
    try:
        client.versions()
    except UsageError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.wait()
print(len(client.versions()))
"""
        told = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
        child, parent = told.stdout.splitlines()
        assert "before this process was forked; make a client in each process" in child
        assert parent == "1"


def wait_until(condition):
    """Wait for what happens at once unless the code is wrong."""
    ends = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)
