"""The signature `layers` behind a server: filters of outputs, batches of several clients."""

import threading

import numpy as np
import pytest
from c3d_client import ServingOptions
from c3d_client.core.contract import LAYERS, LAYERS_SIGNATURE
from c3d_client.core.errors import RequestRejected
from c3d_client.serving.client import ServingClient
from c3d_export.graph import GraphServable
from support.bounded_queue import bounded_server, run_together
from support.measures import relative
from support.processes import wait_until


@pytest.fixture(params=["cpu", "gpu"])
def servable(request, narrow_base, narrow_gpu_base):
    """The narrow network with Winograd's convolution, and with direct convolution."""
    base = {"cpu": narrow_base, "gpu": narrow_gpu_base}[request.param]
    with GraphServable(base / "1") as servable:
        yield servable


@pytest.mark.long
def test_each_layer_alone_is_that_of_all_layers(servable, clips):
    """A filter makes the server compute a smaller graph."""
    together = servable.run("layers", {"clips": clips})
    assert set(together) == set(LAYERS)
    for layer, rows in together.items():
        alone = servable.run("layers", {"clips": clips}, (layer,))
        assert list(alone) == [layer]
        assert np.array_equal(alone[layer], rows), layer


def test_rows_of_a_layer_do_not_depend_on_the_batch(servable, clips):
    """So a server may merge the requests of several clients."""
    together = servable.run("layers", {"clips": clips})
    alone = servable.run("layers", {"clips": clips[1:2]})
    for layer, rows in alone.items():
        assert rows.shape == (1, *together[layer].shape[1:])
        assert relative(rows.reshape(1, -1), together[layer][1:2].reshape(1, -1)) < 1e-5, layer


class TestServer:
    """Requests of several clients at the same time, which a queue merges as TensorFlow Serving."""

    @pytest.fixture
    def batches(self, monkeypatch):
        """The outputs and rows of the batches that a servable computes."""
        batches, run = [], GraphServable.run

        def recorded(servable, signature, inputs, outputs=()):
            if signature == "layers":
                batches.append((frozenset(outputs), len(inputs["clips"])))
                wait_until(self.all_sent)
            return run(servable, signature, inputs, outputs)

        monkeypatch.setattr(GraphServable, "run", recorded)
        return batches

    @pytest.fixture
    def server(self, narrow_base, monkeypatch, batches):
        self.all_sent = lambda: True
        server = bounded_server(narrow_base, monkeypatch, threads=1)
        server.start()
        batches.clear()  # those of the warm-up

        def sent():
            return sum(rows for _, rows in batches) + server.servable.waiting_rows()

        # The first batch is computed when every request is in it or in the queue.
        self.all_sent = lambda: sent() >= 4 * 8
        yield server
        server.stop(5)

    def ask(self, server, wanted):
        """Request layers of 4 clips from as many clients as there are entries, at the same time.

        Returns:
            For each client the clips and the answer.
        """
        clips = np.random.default_rng(5).integers(
            0, 256, (len(wanted), 4, 16, 112, 112, 3), np.uint8
        )

        def request(number):
            with ServingClient(ServingOptions(server.target)) as client:
                signature = LAYERS_SIGNATURE.reading(*wanted[number])
                answer = client.predict(signature, clips[number])
            return {wanted[number][0]: answer.output, **answer.further}

        return list(zip(clips, run_together(len(wanted), request), strict=True))

    def check(self, narrow_base, wanted, answers):
        """Check that each client has the rows of its own clips, as if it were alone."""
        with GraphServable(narrow_base / "1") as servable:
            for layers, (clips, answer) in zip(wanted, answers, strict=True):
                assert list(answer) == list(layers)
                expected = servable.run("layers", {"clips": clips})
                for layer, rows in answer.items():
                    flat = (array.reshape(4, -1) for array in (rows, expected[layer]))
                    assert relative(*flat) < 1e-5, (layers, layer)

    @pytest.mark.long
    def test_clients_that_want_different_layers_share_batches(self, server, batches, narrow_base):
        wanted = [("fc6", "pool5"), ("fc7", "fc6"), ("conv5b", "fc8"), tuple(LAYERS)] * 2
        answers = self.ask(server, wanted)
        self.observed(batches, {frozenset(LAYERS)})
        self.check(narrow_base, wanted, answers)

    @pytest.mark.long
    def test_clients_that_want_the_same_layer_share_batches(self, server, batches, narrow_base):
        wanted = [("pool5",)] * 8
        answers = self.ask(server, wanted)
        self.observed(batches, {frozenset({"pool5"})})
        self.check(narrow_base, wanted, answers)

    def observed(self, batches, outputs):
        assert {names for names, _ in batches} == outputs
        assert sum(rows for _, rows in batches) == 4 * 8
        assert len(batches) <= 2, batches

    @pytest.mark.long
    def test_requests_of_different_filters_are_never_in_one_batch(
        self, server, batches, narrow_base
    ):
        wanted = [("pool5",), ("fc7",), ("fc6", "fc7"), ("conv5b",)] * 2
        answers = self.ask(server, wanted)
        sets = {frozenset(layers) if len(layers) == 1 else frozenset(LAYERS) for layers in wanted}
        assert {names for names, _ in batches} == sets
        assert sum(rows for _, rows in batches) == 4 * len(wanted)
        self.check(narrow_base, wanted, answers)

    def test_unknown_layer_is_refused_as_by_tensorflow_serving(self, narrow_server):
        signature = LAYERS_SIGNATURE.reading("fc6")
        unknown = type(signature.output)("conv9", "FLOAT", (4096,))
        request = type(signature)("layers", signature.input, unknown, filtered=True)
        with (
            ServingClient(ServingOptions(narrow_server.target)) as client,
            pytest.raises(RequestRejected, match="output tensor alias not found.*conv9"),
        ):
            client.predict(request, np.zeros((1, 16, 112, 112, 3), np.uint8))


def test_threads_read_layers_of_one_connection(narrow_server, clips):
    """The answers of different sets of layers, over the same client, are not mixed up."""
    wanted = [("fc7",), ("pool5", "fc6"), ("conv5b",), ("fc8", "conv5b")]
    expected = narrow_server.servable.run("layers", {"clips": clips})
    failed = []
    with ServingClient(ServingOptions(narrow_server.target)) as client:

        def read(layers):
            for answer in client.stream(LAYERS_SIGNATURE.reading(*layers), [clips] * 3):
                rows = {layers[0]: answer.output, **answer.further}
                if list(rows) != list(layers) or any(
                    not np.array_equal(rows[layer], expected[layer]) for layer in layers
                ):
                    failed.append(layers)

        threads = [threading.Thread(target=read, args=(layers,)) for layers in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
