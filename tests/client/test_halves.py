"""Halves of clips: each frame is sent once, and the features are those of the clips."""

import itertools
import shutil
from dataclasses import replace

import grpc
import numpy as np
import pytest
from c3d_client import C3DClient, ClipWindow, ServingOptions, read_features
from c3d_client.core.contract import (
    FC6_FEATURES,
    FC6_FEATURES_HALVES,
    HALF_SHAPE,
    MAX_BATCH_SIZE,
)
from c3d_client.core.errors import ContractMismatch, RequestRejected
from c3d_client.core.provenance import provenance_digest
from c3d_client.inference import halves_sizes
from c3d_client.serving.model_info import ModelInfo
from c3d_client.video.clips import iter_batches, iter_halves
from c3d_client.video.damage import DAMAGED
from c3d_client.video.decode import Frame
from c3d_export.graph import GraphServable
from c3d_export.local_server import LocalServer
from support.fake_serving import model_card, signature_defs
from support.measures import relative
from support.videos import write_video

SIZES = (1, 8, 16, 24, 32)


@pytest.fixture(scope="module")
def gpu_server(narrow_gpu_base):
    """The narrow network for GPUs behind a real gRPC port; it lists the rows of its requests."""
    server = LocalServer(narrow_gpu_base)
    server.start()
    server.rows = []
    predict = server.predict

    def recorded(request, servable):
        name = request.model_spec.signature_name
        (tensor,) = request.inputs.values()
        server.rows.append((name, tensor.tensor_shape.dim[0].size))
        return predict(request, servable)

    server.predict = recorded
    yield server
    server.stop(5)


@pytest.fixture
def sent(gpu_server):
    """The signatures and rows of the requests of this test, without those for the model card."""
    gpu_server.rows.clear()

    def sent():
        return [row for row in gpu_server.rows if row[0] != "model_card"]

    return sent


@pytest.fixture
def without_halves(monkeypatch):
    """Make the client send clips, as releases before this one."""

    def send_clips():
        monkeypatch.setattr("c3d_client.client.halves_sizes", lambda *_, **__: ())

    return send_clips


def numbered_frames(count, *, damaged=(), stretches=()):
    """Yield frames, each filled with its number, of which some are damaged or begin a stretch."""
    stretch = 0
    for number in range(count):
        stretch += number in stretches
        pixels = np.full((128, 171, 3), number % 256, np.uint8)
        frame = Frame.from_pixels(number, number / 25, 1 / 25, pixels)
        yield replace(frame, stretch=DAMAGED if number in damaged else stretch)


def clips_in(batch):
    """Return the clips of a batch, from its halves where it has halves."""
    if not batch.has_halves:
        return batch.pixels
    return np.concatenate([batch.pixels[:-1], batch.pixels[1:]], axis=1)


def info(*, batch_sizes=SIZES, signatures=(FC6_FEATURES.name, FC6_FEATURES_HALVES.name)):
    return ModelInfo(1, signatures, {"batch_sizes": list(batch_sizes)})


class TestRequests:
    @pytest.mark.parametrize("size", [2, 8, 16, 24, 32])
    def test_clips_of_the_halves_are_the_clips(self, size):
        for frames, tail in itertools.product((15, 16, 23, 24, 79, 80, 81, 300), ("drop", "loop")):
            window = ClipWindow(tail=tail)
            expected = list(iter_batches(numbered_frames(frames), window, size=1))
            batches = list(iter_halves(numbered_frames(frames), window, size=size))
            case = f"{frames} frames, tail {tail}"
            assert all(batch.has_halves for batch in batches), case
            observed = [clip for batch in batches for clip in clips_in(batch)]
            assert np.array_equal(observed, [clip.pixels[0] for clip in expected]), case
            for name in ("start_frames", "times_s"):
                assert [x for batch in batches for x in getattr(batch, name)] == [
                    x for clip in expected for x in getattr(clip, name)
                ], case
            assert [len(batch.pixels) for batch in batches[:-1]] == [size] * (len(batches) - 1)

    def test_following_requests_share_one_half(self):
        batches = list(iter_halves(numbered_frames(300), ClipWindow(), size=16))
        assert len(batches) == 3
        for first, second in itertools.pairwise(batches):
            assert np.array_equal(first.pixels[-1], second.pixels[0])

    @pytest.mark.long
    @pytest.mark.parametrize("size", [8, 16, 32])
    def test_no_request_has_one_row_more_than_the_server_computes_without_padding(self, size):
        for clips in range(1, 3 * MAX_BATCH_SIZE):
            frames = numbered_frames(8 * clips + 8)
            batches = list(iter_halves(frames, ClipWindow(), size=size, exact_sizes=SIZES))
            rows = [len(batch.pixels) for batch in batches]
            assert not {n + 1 for n in SIZES} & set(rows), f"{clips} clips: {rows}"
            assert sum(len(batch.start_frames) for batch in batches) == clips
            for batch in batches:
                spare = len(batch.pixels) - len(batch.start_frames)
                assert spare == batch.has_halves, f"{clips} clips: {rows}"

    def test_gap_of_clips_that_are_left_out_ends_a_request(self):
        """A row over the gap would be a clip of frames that do not follow each other."""
        for damaged, stretches in (({40}, {41}), ({60, 61}, {64}), ({7}, {8}), (set(), {50, 90})):
            for size in (4, 8, 32):
                changes = {"damaged": damaged, "stretches": stretches}
                expected = iter_batches(numbered_frames(150, **changes), ClipWindow(), size=1)
                left_out = []
                batches = list(
                    iter_halves(
                        numbered_frames(150, **changes),
                        ClipWindow(),
                        size=size,
                        exact_sizes=(1, 8),
                        on_left_out=lambda: left_out.append(1),  # noqa: B023
                    )
                )
                observed = [clip for batch in batches for clip in clips_in(batch)]
                assert np.array_equal(observed, [clip.pixels[0] for clip in expected])
                assert len(left_out) + len(observed) == ClipWindow().count(150)
                assert len(left_out) > 0
                for batch in batches:
                    steps = np.diff(batch.start_frames)
                    assert not batch.has_halves or set(steps) <= {8}, batch.start_frames

    def test_halves_are_sent_for_stride_8_and_every_frame_only(self):
        def sizes(**window):
            return halves_sizes(info(), FC6_FEATURES, ClipWindow(**window), batch_size=8)

        assert max(sizes()) == 16  # the bytes of 8 clips
        for window in ({"resize": "fast"}, {"fps": 10}, {"tail": "pad"}, {"damage": "skip"}):
            assert sizes(**window) == sizes(), window
        for window in ({"stride": 16}, {"stride": 4}, {"frame_step": 2}):
            assert sizes(**window) == (), window

    def test_request_has_a_size_of_the_model_and_at_most_the_bytes_of_its_clips(self):
        def largest(batch_size, **model):
            sizes = halves_sizes(info(**model), FC6_FEATURES, ClipWindow(), batch_size=batch_size)
            return max(sizes, default=0)

        new, old, large = SIZES, (1, 8, 32), (1, 64)
        for batch_size, batch_sizes, expected in (
            *((1, new, 0), (3, new, 0), (4, new, 8), (8, new, 16), (12, new, 24), (32, new, 32)),
            *((8, old, 8), (16, old, 32), (32, old, 32)),
            *((8, (1,), 0), (8, (1, 4), 0), (32, large, 0)),
        ):
            case = f"{batch_size} of {batch_sizes}"
            assert largest(batch_size, batch_sizes=batch_sizes) == expected, case
        assert largest(8, signatures=(FC6_FEATURES.name,)) == 0


class TestFeatures:
    @pytest.mark.parametrize("name", ["bikes", "bunny"])
    def test_features_are_those_of_clips(self, request, gpu_server, without_halves, sent, name):
        video = request.getfixturevalue(name)
        with C3DClient(gpu_server.target) as client:
            halves = client.extract(video)
            assert {name for name, _ in sent()} == {"fc6_features_halves"}
            without_halves()
            clips = client.extract(video)
        assert {name for name, _ in sent()} == {"fc6_features_halves", "fc6_features"}
        assert relative(halves.clip_features, clips.clip_features) < 1e-6
        assert clips.clip_features.std(axis=0).max() > 0.01
        assert halves.video_feature == pytest.approx(clips.video_feature, abs=1e-7)
        assert np.array_equal(halves.clip_starts, clips.clip_starts)
        assert np.array_equal(halves.clip_times_s, clips.clip_times_s)
        assert halves.provenance == clips.provenance

    def test_requests_have_half_the_frames(self, gpu_server, sent, bikes):
        with C3DClient(gpu_server.target) as client:
            features = client.extract(bikes)
        assert len(features.clip_features) == 30
        assert sent() == [("fc6_features_halves", 16)] * 2
        with C3DClient(gpu_server.target, options=ServingOptions(batch_size=4)) as client:
            client.extract(bikes)
        assert sorted(sent()[2:]) == [("fc6_features_halves", 3), *[("fc6_features_halves", 8)] * 4]

    def test_clips_that_fill_a_batch_without_halves_are_sent_as_clips(
        self, gpu_server, sent, tmp_path
    ):
        with C3DClient(gpu_server.target) as client:
            for clips, expected in (
                (1, [("fc6_features", 1)]),
                (2, [("fc6_features_halves", 3)]),
                (8, [("fc6_features", 8)]),
                (9, [("fc6_features_halves", 10)]),
                (16, [("fc6_features", 1), ("fc6_features_halves", 16)]),
            ):
                before = len(sent())
                video = write_video(tmp_path / f"{clips}.mp4", 8 * clips + 8)
                assert len(client.extract(video).clip_features) == clips
                assert sorted(sent()[before:]) == expected

    def test_classification_sends_clips(self, gpu_server, sent, carphone):
        with C3DClient(gpu_server.target) as client:
            client.classify(carphone)
        assert {name for name, _ in sent()} == {"classify"}

    def test_folder_made_from_clips_is_continued_with_halves(
        self, gpu_server, sent, tmp_path, carphone, run
    ):
        videos, features = tmp_path / "videos", tmp_path / "features"
        videos.mkdir()
        shutil.copy(carphone, videos / "a.mp4")
        arguments = ("extract", videos, "--server", gpu_server.target, "--out", features)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("c3d_client.client.halves_sizes", lambda *_, **__: ())
            assert run(*arguments)[0] == 0
        assert {name for name, _ in sent()} == {"fc6_features"}
        first = (features / "a.mp4.npz").stat().st_mtime_ns
        shutil.copy(carphone, videos / "b.mp4")
        before = len(sent())
        assert run(*arguments)[0] == 0
        assert sent()[before:] == [("fc6_features_halves", 15)]
        assert (features / "a.mp4.npz").stat().st_mtime_ns == first
        old, new = (read_features(features / f"{name}.mp4.npz") for name in "ab")
        assert relative(new.clip_features, old.clip_features) < 1e-6

    def test_folder_and_digest_of_direct_convolution_are_continued_with_winograds(
        self, gpu_server, narrow_server, sent, tmp_path, carphone, run
    ):
        models = []
        for server in (gpu_server, narrow_server):
            with C3DClient(server.target) as client:
                models.append(client.model_info().card)
        assert [card["convolution"] for card in models] == ["direct", "winograd"]
        videos, features = tmp_path / "videos", tmp_path / "features"
        videos.mkdir()
        shutil.copy(carphone, videos / "a.mp4")
        arguments = ("extract", videos, "--out", features, "--server")
        assert run(*arguments, gpu_server.target)[0] == 0
        first, before = (features / "a.mp4.npz").stat().st_mtime_ns, len(sent())
        shutil.copy(carphone, videos / "b.mp4")
        assert run(*arguments, narrow_server.target)[0] == 0
        assert (features / "a.mp4.npz").stat().st_mtime_ns == first
        assert sent()[before:] == []  # of the first server
        old, new = (read_features(features / f"{name}.mp4.npz") for name in "ab")
        assert 0 < relative(new.clip_features, old.clip_features) < 1e-5
        assert provenance_digest(new.provenance) == provenance_digest(old.provenance)


@pytest.fixture(scope="module")
def compute(narrow_gpu_base):
    """Run halves through the graph, without a server."""
    with GraphServable(narrow_gpu_base / "1") as servable:
        yield lambda halves: servable.run(FC6_FEATURES_HALVES.name, {"halves": halves})["features"]


class TestMerging:
    """TensorFlow Serving concatenates requests along dimension 0, pads, and cuts the answer."""

    def test_merged_requests_have_the_rows_that_each_has_alone(self, compute):
        random = np.random.default_rng(3)
        for counts in ((8, 8), (3, 5), (2, 1, 5), (1, 1)):
            requests = [random.integers(0, 256, (n, *HALF_SHAPE), np.uint8) for n in counts]
            merged = np.concatenate(requests)
            padded = np.concatenate([merged, np.repeat(merged[:1], -len(merged) % 8, axis=0)])
            answers = np.split(compute(padded)[: len(merged)], np.cumsum(counts)[:-1])
            for request, answer in zip(requests, answers, strict=True):
                assert len(answer) == len(request)
                if len(request) > 1:
                    assert relative(answer[:-1], compute(request)[:-1]) < 1e-6, counts
            # The last row is the clip of the last half and of what follows, so it is not used.
            assert relative(answers[0][-1:], compute(requests[0])[-1:]) > 1e-3, counts

    def test_requests_that_are_split_would_have_wrong_rows(self, compute):
        """Therefore large-batch splitting must be off in every batching configuration."""
        halves = np.random.default_rng(4).integers(0, 256, (8, *HALF_SHAPE), np.uint8)
        together = compute(halves)
        split = np.concatenate([compute(halves[:4]), compute(halves[4:])])
        differs = np.abs(split - together).max(axis=1) > 1e-3 * np.abs(together).max()
        assert np.flatnonzero(differs).tolist() == [3, 7]  # row 7 is not used

    def test_one_half_alone_is_answered(self, compute):
        half = np.random.default_rng(5).integers(0, 256, (1, *HALF_SHAPE), np.uint8)
        answer = compute(half)
        assert answer.shape == (1, 4096)
        assert np.isfinite(answer).all()


class TestOldAndNew:
    def test_old_client_uses_a_new_servable(self, gpu_server, narrow_server, sent, carphone):
        """A client of release 0.1.0 requires two signatures and ignores the others."""
        with C3DClient(gpu_server.target) as client:
            served = client.serving.model_info(("fc6_features", "fc7_features", "classify"))
            assert FC6_FEATURES_HALVES.name in served.signatures
            assert served.card["contract_version"] == "1"
            batches = iter_batches_of(carphone)
            new = np.concatenate(
                [a.output for a in client.serving.stream(FC6_FEATURES, iter(batches))]
            )
        assert {name for name, _ in sent()} == {"fc6_features"}
        with C3DClient(narrow_server.target) as client:
            old = np.concatenate(
                [a.output for a in client.serving.stream(FC6_FEATURES, iter(batches))]
            )
        assert relative(new, old) < 1e-5

    def test_new_client_sends_clips_to_a_servable_without_the_signature(
        self, fake_serving, carphone
    ):
        server = fake_serving()
        with C3DClient(server.target) as client:
            client.extract(carphone)
        assert {name for name, _ in sent_to(server)} == {"fc6_features"}

    def test_servable_for_1_8_and_32_clips_gets_8_halves(self, fake_serving, carphone):
        """A request of 16 halves would be padded to 32."""
        card = model_card(batch_sizes=[1, 8, 32])
        server = fake_serving(signatures=signature_defs(halves=True), card=card)
        with C3DClient(server.target) as client:
            features = client.extract(carphone)
        assert sent_to(server) == [("fc6_features_halves", 8)] * 2
        assert len(features.clip_features) == 14


class TestRollOut:
    """The signature is optional, so one version may have it and the next may not."""

    @pytest.fixture
    def server(self, fake_serving):
        return fake_serving(signatures=signature_defs(halves=True))

    def replaced(self, server, *, version, halves):
        server.version, server.signatures = version, signature_defs(halves=halves)

    @pytest.mark.parametrize("pin", [{}, {"label": "stable"}], ids=["newest", "label"])
    def test_video_starts_again_with_clips_where_the_new_version_lacks_the_signature(
        self, server, carphone, pin
    ):
        with C3DClient(server.target, options=ServingOptions(**pin)) as client:
            assert client.extract(carphone).provenance["model"]["version"] == 1
            assert {name for name, _ in sent_to(server)} == {"fc6_features_halves"}
            server.requests.clear()
            self.replaced(server, version=2, halves=False)
            features = client.extract(carphone)
        assert features.provenance["model"]["version"] == 2
        assert len(features.clip_features) == 14
        assert {name for name, _ in sent_to(server)} == {"fc6_features"}

    def test_video_starts_again_where_the_version_changes_between_two_requests(self, server, bikes):
        def change(request, rows, context):
            if server.number(request) == 2:
                self.replaced(server, version=2, halves=False)

        server.on_predict = change
        with C3DClient(server.target) as client:
            features = client.extract(bikes)
        assert features.provenance["model"]["version"] == 2
        assert len(features.clip_features) == 30

    def test_halves_are_used_where_the_new_version_has_the_signature(self, server, carphone):
        self.replaced(server, version=1, halves=False)
        with C3DClient(server.target) as client:
            client.extract(carphone)
            self.replaced(server, version=2, halves=True)
            server.requests.clear()
            client.extract(carphone)
        names = [name for name, _ in sent_to(server)]
        assert names[-1] == "fc6_features_halves"

    def test_signature_is_that_of_the_version_that_is_asked_for(self, server, carphone):
        with C3DClient(server.target, options=ServingOptions(version=1)) as client:
            client.extract(carphone)
        assert {spec.version.value for spec in server.specs} == {1}

    def test_versions_that_answer_in_turn_are_an_error_as_with_clips(self, server, carphone):
        def turn(request, rows, context):
            server.version += 1

        server.on_predict = turn
        with (
            C3DClient(server.target) as client,
            pytest.raises(ContractMismatch, match="answer in turn"),
        ):
            client.extract(carphone)

    def test_request_that_is_refused_as_clips_too_is_an_error(self, server, carphone):
        def refuse(request, rows, context):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

        server.on_predict = refuse
        with C3DClient(server.target) as client, pytest.raises(RequestRejected):
            client.extract(carphone)
        names = [name for name, _ in sent_to(server)]
        assert {"fc6_features", "fc6_features_halves"} == set(names)


def iter_batches_of(video):
    from c3d_client import decode_frames

    return [b.pixels for b in iter_batches(decode_frames(video), ClipWindow(), size=8)]


def sent_to(server):
    """Return the signatures and rows of the requests that a fake server got."""
    return [
        (request.model_spec.signature_name, tensor.tensor_shape.dim[0].size)
        for request in server.requests
        for tensor in request.inputs.values()
    ]
