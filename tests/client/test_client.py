"""C3DClient: features and classes of one video and of many, through real servers."""

import gc
import itertools
import threading
import tracemalloc

import av
import cv2
import numpy as np
import pytest
from c3d_client import C3DClient, Cancelled, ClipWindow, ServingOptions
from c3d_client.core.contract import CLASSIFY
from c3d_client.core.errors import (
    ContractMismatch,
    ServingError,
    ServingUnavailable,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
)
from c3d_client.inference import VideoInference
from c3d_client.serving.client import Answer
from c3d_client.video.frames import open_input
from c3d_client.video.sources import fingerprint
from support.fake_serving import LABELS, model_card, signature_defs
from support.processes import LONG_S
from support.videos import noise, write_video
from support.web_server import web_server

FRAMES = {"bikes": 250, "bunny": 132, "carphone": 120}
TOLERANCE = 1e-6


def reference_clips(path, stride=8):
    """Return the clips of a video, cut with PyAV and OpenCV only."""
    with av.open(str(path)) as video:
        frames = [
            cv2.resize(frame.to_ndarray(format="rgb24"), (171, 128), None, 0, 0, cv2.INTER_LINEAR)
            for frame in video.decode(video=0)
        ]
    prepared = np.stack(frames)[:, 8:120, 29:141]
    return np.stack([prepared[s : s + 16] for s in range(0, len(prepared) - 15, stride)])


@pytest.fixture(scope="session")
def run_graph(narrow_server):
    """Run a signature of the served graph on a video's clips, one at a time, without gRPC."""

    def run(path, signature, output):
        return np.concatenate(
            [
                narrow_server.servable.run(signature, {"clips": clip[None]})[output]
                for clip in reference_clips(path)
            ]
        )

    return run


@pytest.fixture
def c3d(narrow_server):
    with C3DClient(narrow_server.target) as client:
        yield client


@pytest.mark.parametrize("name", FRAMES)
class TestRealVideos:
    def test_features_equal_those_of_the_graph_on_the_same_clips(
        self, request, c3d, run_graph, name
    ):
        path = request.getfixturevalue(name)
        expected = run_graph(path, "fc6_features", "features")
        result = c3d.extract(path)
        clips = (FRAMES[name] - 16) // 8 + 1
        assert result.clip_features.shape == expected.shape == (clips, 4096)
        assert result.clip_features.dtype == np.float32
        assert result.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)
        # Videos and clips differ: equal constants would prove nothing.
        assert result.clip_features.std(axis=0).max() > 0.01

    def test_video_feature_is_the_normalised_mean_of_the_clips(self, request, c3d, name):
        result = c3d.extract(request.getfixturevalue(name))
        mean = result.clip_features.astype(np.float64).mean(axis=0)
        assert result.video_feature.shape == (4096,)
        assert result.video_feature.dtype == np.float32
        assert result.video_feature == pytest.approx(mean / np.linalg.norm(mean), abs=TOLERANCE)

    def test_clips_start_every_8_frames_and_last_16(self, request, c3d, name):
        result = c3d.extract(request.getfixturevalue(name))
        assert result.clip_starts.dtype == np.int64
        assert result.clip_starts.tolist() == list(range(0, FRAMES[name] - 15, 8))
        rate = 30000 / 1001 if name == "carphone" else 25
        starts, ends = result.clip_times_s.T
        assert result.clip_times_s.dtype == np.float64
        assert starts == pytest.approx(result.clip_starts / rate, abs=2e-3)
        assert ends == pytest.approx((result.clip_starts + 16) / rate, abs=2e-3)

    @pytest.mark.long
    def test_probabilities_are_the_mean_over_the_clips(self, request, c3d, run_graph, name):
        path = request.getfixturevalue(name)
        expected = run_graph(path, "classify", "probabilities")
        result = c3d.classify(path, top_k=3)
        assert result.clip_probabilities.dtype == np.float32
        assert result.clip_probabilities == pytest.approx(expected, rel=1e-4, abs=TOLERANCE)
        mean = result.clip_probabilities.astype(np.float64).mean(axis=0)
        assert result.probabilities == pytest.approx(mean, abs=1e-12)
        assert result.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        best = np.argsort(-mean, kind="stable")[:3]
        assert [score.index for score in result.top] == best.tolist()
        assert [score.label for score in result.top] == [f"label {n}" for n in best]
        assert [score.probability for score in result.top] == pytest.approx(mean[best])
        assert result.labels == tuple(f"label {n}" for n in range(487))
        assert len(result.clip_starts) == len(result.clip_times_s) == len(expected)


@pytest.fixture(scope="module")
def default_features(narrow_server, bunny):
    """A video's features with default options."""
    with C3DClient(narrow_server.target) as client:
        return client.extract(bunny)


class TestFeaturesDoNotDependOn:
    @pytest.mark.long
    def test_batch_size_and_requests_in_flight(self, narrow_server, bunny, default_features):
        for changes in (
            {"batch_size": 1},
            {"batch_size": 3},
            {"batch_size": 8, "max_in_flight": 1},
            {"batch_size": 2, "max_in_flight": 8},
            {"batch_size": 32},
        ):
            options = ServingOptions(narrow_server.target, **changes)
            with C3DClient(options=options) as client:
                result = client.extract(bunny)
            assert result.video_feature == pytest.approx(
                default_features.video_feature, abs=TOLERANCE
            ), changes
            assert result.clip_features == pytest.approx(
                default_features.clip_features, rel=1e-5, abs=10 * TOLERANCE
            ), changes
            assert np.array_equal(result.clip_starts, default_features.clip_starts), changes
            assert np.array_equal(result.clip_times_s, default_features.clip_times_s), changes

    def test_the_run(self, c3d, bunny, default_features):
        assert np.array_equal(c3d.extract(bunny).clip_features, default_features.clip_features)

    def test_the_type_of_the_path(self, c3d, bunny, default_features):
        result = c3d.extract(str(bunny))
        assert np.array_equal(result.video_feature, default_features.video_feature)
        assert result.provenance == default_features.provenance

    def test_the_encoding_of_the_answers(self, fake_serving, sixteen):
        server = fake_serving()
        answers = []
        for server.as_content in (False, True):
            with C3DClient(server.target) as client:
                answers.append(client.extract(sixteen))
        assert np.array_equal(answers[0].clip_features, answers[1].clip_features)
        assert answers[0].provenance == answers[1].provenance


class TestWindow:
    @pytest.mark.parametrize("stride", [16, 20, 117])
    def test_stride(self, narrow_server, narrow_base, bunny, stride):
        with C3DClient(narrow_server.target, stride=stride) as client:
            result = client.extract(bunny)
        assert result.clip_starts.tolist() == list(range(0, 117, stride))
        assert result.provenance["clips"]["stride"] == stride
        clips = reference_clips(bunny, stride)
        expected = narrow_server.servable.run("fc6_features", {"clips": clips})["features"]
        assert result.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)

    def test_stride_below_1_is_an_error_before_any_request(self, closed_port):
        for stride in (0, -1):
            with pytest.raises(UsageError, match="stride is"):
                C3DClient(closed_port, stride=stride)

    def test_stride_overrides_the_one_in_the_window(self, closed_port):
        client = C3DClient(closed_port, stride=4, window=ClipWindow(stride=16, tail="pad"))
        assert client.window == ClipWindow(stride=4, tail="pad")
        client.close()

    @pytest.mark.parametrize(("short", "last"), [("pad", 8), ("loop", 6)])
    def test_short_video_can_be_one_clip(self, narrow_server, tmp_path, short, last):
        path = write_video(tmp_path / "nine.mp4", 9)
        with C3DClient(narrow_server.target, window=ClipWindow(short=short)) as client:
            result = client.extract(path)
        with av.open(str(path)) as file:
            frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
        prepared = [cv2.resize(f, (171, 128))[8:120, 29:141] for f in frames]
        order = [min(n, 8) if short == "pad" else n % 9 for n in range(16)]
        assert order[-1] == last
        clip = np.stack([prepared[n] for n in order])[None]
        expected = narrow_server.servable.run("fc6_features", {"clips": clip})["features"]
        assert result.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert result.provenance["clips"]["short"] == short
        assert result.provenance["video"]["frames"] == 9

    def test_video_is_resampled_to_fps_once(self, narrow_server, bikes):
        with C3DClient(narrow_server.target, window=ClipWindow(fps=10)) as client:
            result = client.extract(bikes)  # 10 s at 25 frames a second
        assert result.provenance["video"]["frames"] == 100
        assert result.provenance["clips"]["fps"] == 10
        assert len(result.clip_starts) == (100 - 16) // 8 + 1
        assert result.clip_times_s[0].tolist() == pytest.approx([0, 1.6])

    def test_fast_resize_is_nearly_exact_and_in_the_provenance(self, narrow_server, bikes):
        results = {}
        for resize in ("exact", "fast"):
            with C3DClient(narrow_server.target, window=ClipWindow(resize=resize)) as client:
                results[resize] = client.extract(bikes)
        cosine = results["exact"].video_feature @ results["fast"].video_feature
        assert cosine > 0.999
        assert not np.array_equal(results["exact"].clip_features, results["fast"].clip_features)
        texts = {name: r.provenance["preprocessing"]["resize"] for name, r in results.items()}
        assert texts["exact"] != texts["fast"]


class TestShortVideos:
    @pytest.mark.parametrize("method", ["extract", "classify"])
    def test_15_frames_are_too_short(self, c3d, tmp_path, method):
        path = write_video(tmp_path / "fifteen.mp4", 15)
        with pytest.raises(VideoTooShortError, match="has 15 frames; a clip needs 16") as caught:
            getattr(c3d, method)(path)
        assert caught.value.source == str(path)

    def test_16_frames_are_one_clip(self, c3d, sixteen):
        result = c3d.extract(sixteen)
        assert result.clip_starts.tolist() == [0]
        assert result.clip_times_s.tolist() == [pytest.approx([0.0, 0.64], abs=1e-3)]
        assert result.clip_features.shape == (1, 4096)


class TestProvenance:
    def test_has_model_preprocessing_clips_software_and_video(
        self, c3d, narrow_server, narrow_weights, carphone
    ):
        provenance = c3d.extract(carphone).provenance
        assert provenance["contract_version"] == "1"
        assert provenance["model"]["name"] == "c3d"
        assert provenance["model"]["version"] == narrow_server.version
        assert provenance["model"]["precision"] == "float32"
        assert provenance["model"]["weights"]["source"] == "random:7"
        assert provenance["model"]["weights"]["random"] is True
        assert provenance["model"]["weights"]["sha256"] == narrow_weights.sha256
        assert provenance["model"]["mean"]["source"]
        assert provenance["preprocessing"]["crop"] == "rows 8:120, columns 29:141"
        assert provenance["clips"] == {
            **{"frames": 16, "stride": 8, "frame_step": 1},
            **{"tail": "drop", "short": "error", "fps": None},
        }
        assert provenance["software"]["pyav"] == av.__version__
        assert provenance["software"]["opencv"] == cv2.__version__
        assert {"c3d_client", "libavcodec"} <= set(provenance["software"])
        assert provenance["video"] == {
            "source": str(carphone),
            "fingerprint": fingerprint(str(carphone)),
            "frames": 120,
            "duration_s": pytest.approx(120 * 1001 / 30000, abs=1e-3),
            "fps": pytest.approx(30000 / 1001, abs=1e-2),
            "width": 176,
            "height": 144,
            "interlaced": False,
            "stream": 0,
        }
        assert provenance == {**c3d.provenance(), "video": provenance["video"]}

    def test_is_the_same_for_classes_and_features(self, c3d, carphone):
        assert c3d.classify(carphone).provenance == c3d.extract(carphone).provenance


class TestFingerprint:
    @pytest.fixture
    def web(self, sixteen):
        pytest.importorskip("aiohttp", reason="aiohttp is not installed: remote videos not run")
        with web_server() as server:
            server.files["/a.mp4"] = sixteen.read_bytes()
            yield server

    def heads(self, web):
        return [method for method, _, _ in web.requests].count("HEAD")

    def test_of_a_remote_video_costs_one_head_request_in_all(self, c3d, web, sixteen):
        result = c3d.extract(f"{web.url}/a.mp4?token=secret")
        assert self.heads(web) == 1
        assert np.array_equal(result.clip_features, c3d.extract(sixteen).clip_features)
        video = result.provenance["video"]
        assert video["source"] == f"{web.url}/a.mp4?token=***"
        assert video["fingerprint"] == {"size": sixteen.stat().st_size, "etag": '"one"'}

    def test_that_the_caller_knows_is_not_requested_again(self, c3d, web):
        url = f"{web.url}/a.mp4"
        known = fingerprint(url)
        result = c3d._extract(url, fingerprint=known)
        assert self.heads(web) == 1
        assert result.provenance["video"]["fingerprint"] == known
        assert result.provenance == c3d.extract(url).provenance


class TestTimings:
    def test_of_the_local_server_have_every_part(self, c3d, carphone):
        timings = c3d.extract(carphone).timings
        assert timings.wall_s >= timings.decode_s > 0
        assert timings.compute_s > 0
        assert timings.queue_s >= 0
        assert timings.wire_s > 0

    def test_of_a_server_that_reports_no_times_have_no_queue_and_compute(
        self, fake_serving, sixteen
    ):
        with C3DClient(fake_serving().target) as client:
            timings = client.extract(sixteen).timings
        assert (timings.queue_s, timings.compute_s) == (None, None)
        assert timings.wire_s > 0


class TestMemory:
    def test_clip_costs_little_besides_its_rows(self):
        """Its first frame, start and end are 24 bytes; as objects of Python they would be 150."""

        class Server:
            options = ServingOptions(batch_size=32)

            def stream_requests(self, requests, *, cancel):
                for _, pixels in requests:
                    rows = np.ones((len(pixels), 1), np.float32)
                    yield Answer(rows, version=1, latency_s=0.0, queue_s=None, compute_s=None)

        clips, window = 1600, ClipWindow(stride=1)
        frames = (np.zeros((16, 16, 3), np.uint8) for _ in range(clips + 15))
        source = open_input(frames, window=window, channel_order="rgb", frames_fps=25)
        source.prepare()
        inference = VideoInference(source, window)
        tracemalloc.start()
        inference.run(Server(), CLASSIFY, version=1)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert inference.clip_starts().tolist() == list(range(clips))
        times_s = inference.clip_times_s()
        assert times_s == pytest.approx(np.arange(clips)[:, None] / 25 + [0, 16 / 25])
        assert kept < 80 * clips


class TestErrors:
    def test_failed_video_does_not_affect_the_next(self, c3d, tmp_path, carphone):
        before = c3d.extract(carphone)
        whole = write_video(tmp_path / "video.mkv", 80, draw=noise)
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
        with pytest.raises(VideoDecodeError, match="is cut short"):
            c3d.extract(cut)
        assert np.array_equal(c3d.extract(carphone).clip_features, before.clip_features)

    def test_wrong_arguments_are_errors_before_any_request(self, closed_port):
        for top_k in (0, -1):
            with C3DClient(closed_port) as client, pytest.raises(UsageError, match="top_k"):
                client.classify("video.mp4", top_k=top_k)

    def test_target_overrides_the_one_in_the_options(self, narrow_server, closed_port):
        with C3DClient(narrow_server.target, options=ServingOptions(closed_port, timeout_s=9)) as c:
            assert [version.state for version in c.versions()] == ["AVAILABLE"]
            assert c.serving.options.timeout_s == 9


class TestCancel:
    def long_video(self, tmp_path):
        return write_video(tmp_path / "long.mp4", 200)

    def slow_client(self, server):
        return C3DClient(options=ServingOptions(server.target, batch_size=1, max_in_flight=1))

    def test_ends_the_video_at_the_next_batch(self, fake_serving, tmp_path):
        path = self.long_video(tmp_path)
        cancel = threading.Event()
        server = fake_serving(lambda *_: cancel.set())
        with self.slow_client(server) as c3d, pytest.raises(Cancelled, match="long.mp4"):
            c3d.extract(path, cancel=cancel)
        assert len(server.requests) < 5

    def test_ends_the_video_within_a_request_too(self, fake_serving, sixteen):
        cancel, raised = threading.Event(), threading.Event()

        def on_predict(*_):
            cancel.set()
            raised.wait(LONG_S)

        server = fake_serving(on_predict)
        with self.slow_client(server) as c3d:
            try:
                with pytest.raises(Cancelled, match="sixteen.mp4: was cancelled"):
                    c3d.extract(sixteen, cancel=cancel)
            finally:
                raised.set()
        assert len(server.requests) == 1

    @pytest.mark.parametrize("method", ["extract", "classify"])
    def test_former_keyword_still_works_and_warns(self, fake_serving, tmp_path, method):
        path = self.long_video(tmp_path)
        cancel = threading.Event()
        server = fake_serving(lambda *_: cancel.set())
        with (
            self.slow_client(server) as c3d,
            pytest.warns(DeprecationWarning, match="unwanted is called cancel now") as warned,
            pytest.raises(Cancelled),
        ):
            getattr(c3d, method)(path, unwanted=cancel)
        assert len(server.requests) < 5
        assert [warning.filename for warning in warned] == [__file__]


class TestModels:
    def test_model_is_requested_once_for_all_videos(self, fake_serving, sixteen):
        server = fake_serving()
        with C3DClient(server.target) as client:
            info = client.model_info()
            client.extract(sixteen)
            assert client.model_info() is info
        assert [r.model_spec.signature_name for r in server.requests] == ["fc6_features"]

    def test_model_without_classes_extracts_only(self, fake_serving, sixteen):
        signatures = signature_defs()
        del signatures["classify"]
        server = fake_serving(signatures=signatures)
        with C3DClient(server.target) as client:
            with pytest.raises(UsageError, match="no signature 'classify'.*use extract"):
                client.classify(sixteen)
            assert client.extract(sixteen).clip_features.shape == (1, 4096)

    def test_video_starts_again_when_the_version_changes(self, fake_serving, sixteen, tmp_path):
        path = write_video(tmp_path / "long.mp4", 40)

        def on_predict(_request, rows, _context):
            if len(server.requests) == 2:
                server.version, server.card = 2, model_card(precision="bfloat16")
            return np.full((len(rows), 4096), server.version, np.float32)

        server = fake_serving(on_predict)
        with C3DClient(options=ServingOptions(server.target, batch_size=1, max_in_flight=1)) as c:
            result = c.extract(path)
            assert c.extract(sixteen).provenance["model"]["version"] == 2
        # All features are those of the second version.
        assert result.clip_features.tolist() == np.full((4, 4096), 2.0).tolist()
        assert result.provenance["model"]["version"] == 2
        assert result.provenance["model"]["precision"] == "bfloat16"

    def test_versions_that_answer_in_turn_are_a_mismatch(self, fake_serving, sixteen):
        def on_predict(*_):
            server.version += 1

        server = fake_serving(on_predict)
        with (
            C3DClient(server.target) as c,
            pytest.raises(
                ContractMismatch, match=r"versions 1, 2, 3, 4 of the model answer in turn"
            ),
        ):
            c.extract(sixteen)

    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0.0, "zero everywhere")],
    )
    def test_features_without_a_direction_fail_the_video(
        self, fake_serving, sixteen, value, message
    ):
        server = fake_serving(lambda _q, rows, _c: np.full((len(rows), 4096), value, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ServingError, match=message) as e:
            client.extract(sixteen)
        assert str(sixteen) in str(e.value)
        # A run continues with the next video, because half precision may overflow for one video.
        assert not isinstance(e.value, ContractMismatch)
        assert e.value.target == server.target

    def test_probabilities_that_are_nan_fail_the_video(self, fake_serving, sixteen):
        server = fake_serving(lambda _q, rows, _c: np.full((len(rows), 3), np.nan, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ServingError, match="NaN"):
            client.classify(sixteen)

    @pytest.mark.parametrize("labels", [LABELS[:2], [*LABELS, "more"], []])
    def test_another_number_of_labels_than_classes_is_a_mismatch(
        self, fake_serving, sixteen, labels
    ):
        server = fake_serving(card=model_card(labels=labels))
        message = f"returns 3 probabilities and names {len(labels)} labels"
        with C3DClient(server.target) as client, pytest.raises(ContractMismatch, match=message):
            client.classify(sixteen)


class TestExtractMany:
    def test_results_equal_those_of_single_videos(
        self, narrow_server, bikes, carphone, sixteen, tmp_path
    ):
        sources = [bikes, tmp_path / "absent.mp4", carphone, sixteen]
        with C3DClient(narrow_server.target) as c3d:
            outcomes = list(c3d.extract_many(sources, workers=3, in_order=True))
            single = c3d.extract(carphone)
            assert {o.source for o in c3d.extract_many(sources)} == set(sources)
        assert [outcome.source for outcome in outcomes] == sources
        assert [outcome.error is None for outcome in outcomes] == [True, False, True, True]
        assert isinstance(outcomes[1].error, VideoDecodeError)
        assert outcomes[2].unwrap().clip_features == pytest.approx(
            single.clip_features, rel=1e-6, abs=1e-6
        )
        assert outcomes[2].unwrap().provenance == single.provenance

    def test_the_sources_may_be_endless(self, narrow_server, sixteen):
        with C3DClient(narrow_server.target) as c3d:
            outcomes = c3d.extract_many(itertools.repeat(sixteen), workers=2)
            assert all(outcome.error is None for outcome in itertools.islice(outcomes, 10))
            outcomes.close()

    def test_without_a_server_no_video_is_started(self, closed_port, sixteen):
        options = ServingOptions(closed_port, patience_s=0)
        with C3DClient(options=options) as c3d, pytest.raises(ServingUnavailable):
            c3d.extract_many([sixteen])

    def test_another_model_during_the_run_is_a_mismatch(self, fake_serving, sixteen):
        def on_predict(*_):
            if len(server.requests) == 3:
                server.version, server.card = 2, model_card(precision="float16")

        server = fake_serving(on_predict)
        outcomes = []
        with (
            C3DClient(server.target) as c3d,
            pytest.raises(
                ContractMismatch, match=r"another one during the run \(model.precision: 'float32'"
            ),
        ):
            outcomes.extend(c3d.extract_many([sixteen] * 10, workers=1))
