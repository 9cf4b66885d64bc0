"""The walk of one video through a real server: the numbers, and what is said about them."""

import av
import cv2
import numpy as np
import pytest
from c3d_client import C3DClient, ClipWindow, ServingOptions
from c3d_client.core.errors import UsageError, VideoDecodeError, VideoTooShortError
from c3d_client.video.sources import fingerprint
from support.films import noise, write_film

FRAMES = {"bikes": 250, "bunny": 132, "carphone": 120}
TOLERANCE = 1e-6


def clips_by_hand(path, stride=8):
    """The clips of a film, made here with PyAV and OpenCV alone."""
    with av.open(str(path)) as film:
        frames = [
            cv2.resize(frame.to_ndarray(format="rgb24"), (171, 128), None, 0, 0, cv2.INTER_LINEAR)
            for frame in film.decode(video=0)
        ]
    prepared = np.stack(frames)[:, 8:120, 29:141]
    return np.stack([prepared[s : s + 16] for s in range(0, len(prepared) - 15, stride)])


@pytest.fixture(scope="session")
def direct(narrow_server):
    """Run a signature of the served graph on a film's clips, one at a time, without the wire."""

    def run(path, signature, output):
        return np.concatenate(
            [
                narrow_server.servable.run(signature, {"clips": clip[None]})[output]
                for clip in clips_by_hand(path)
            ]
        )

    return run


@pytest.fixture
def c3d(narrow_server):
    with C3DClient(narrow_server.target) as client:
        yield client


@pytest.mark.parametrize("name", FRAMES)
class TestRealFilms:
    def test_features_are_the_graphs_own_on_the_same_clips(self, request, c3d, direct, name):
        path = request.getfixturevalue(name)
        expected = direct(path, "fc6_features", "features")
        found = c3d.extract(path)
        clips = (FRAMES[name] - 16) // 8 + 1
        assert found.clip_features.shape == expected.shape == (clips, 4096)
        assert found.clip_features.dtype == np.float32
        assert found.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)
        # Films and clips differ: agreement on constants would show nothing.
        assert found.clip_features.std(axis=0).max() > 0.01

    def test_the_videos_feature_is_the_clips_mean_scaled_to_length_one(self, request, c3d, name):
        found = c3d.extract(request.getfixturevalue(name))
        mean = found.clip_features.astype(np.float64).mean(axis=0)
        assert found.video_feature.shape == (4096,)
        assert found.video_feature.dtype == np.float32
        assert found.video_feature == pytest.approx(mean / np.linalg.norm(mean), abs=TOLERANCE)

    def test_clips_start_every_8_frames_and_last_16(self, request, c3d, name):
        found = c3d.extract(request.getfixturevalue(name))
        assert found.clip_starts.dtype == np.int64
        assert found.clip_starts.tolist() == list(range(0, FRAMES[name] - 15, 8))
        rate = 30000 / 1001 if name == "carphone" else 25
        starts, ends = found.clip_times_s.T
        assert found.clip_times_s.dtype == np.float64
        assert starts == pytest.approx(found.clip_starts / rate, abs=2e-3)
        assert ends == pytest.approx((found.clip_starts + 16) / rate, abs=2e-3)

    def test_classes_are_the_mean_of_the_clips_probabilities(self, request, c3d, direct, name):
        path = request.getfixturevalue(name)
        expected = direct(path, "classify", "probabilities")
        found = c3d.classify(path, top_k=3)
        assert found.clip_probabilities.dtype == np.float32
        assert found.clip_probabilities == pytest.approx(expected, rel=1e-4, abs=TOLERANCE)
        mean = found.clip_probabilities.astype(np.float64).mean(axis=0)
        assert found.probabilities == pytest.approx(mean, abs=1e-12)
        assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        best = np.argsort(-mean, kind="stable")[:3]
        assert [score.index for score in found.top] == best.tolist()
        assert [score.label for score in found.top] == [f"label {n}" for n in best]
        assert [score.probability for score in found.top] == pytest.approx(mean[best])
        assert found.labels == tuple(f"label {n}" for n in range(487))
        assert len(found.clip_starts) == len(found.clip_times_s) == len(expected)


@pytest.fixture(scope="module")
def reference(narrow_server, bunny):
    """A video's features as the client gives them by default."""
    with C3DClient(narrow_server.target) as client:
        return client.extract(bunny)


class TestTheAnswerDoesNotDependOn:
    @pytest.mark.parametrize(
        "changes",
        [
            {"batch_size": 1},
            {"batch_size": 3},
            {"batch_size": 8, "max_in_flight": 1},
            {"batch_size": 2, "max_in_flight": 8},
            {"batch_size": 32},
        ],
        ids=str,
    )
    def test_batches_and_requests_in_flight(self, narrow_server, bunny, reference, changes):
        options = ServingOptions(narrow_server.target, **changes)
        with C3DClient(options=options) as client:
            found = client.extract(bunny)
        assert found.video_feature == pytest.approx(reference.video_feature, abs=TOLERANCE)
        assert found.clip_features == pytest.approx(
            reference.clip_features, rel=1e-5, abs=10 * TOLERANCE
        )
        assert np.array_equal(found.clip_starts, reference.clip_starts)
        assert np.array_equal(found.clip_times_s, reference.clip_times_s)

    def test_the_run(self, c3d, bunny, reference):
        assert np.array_equal(c3d.extract(bunny).clip_features, reference.clip_features)

    def test_the_path_being_text_or_not(self, c3d, bunny, reference):
        found = c3d.extract(str(bunny))
        assert np.array_equal(found.video_feature, reference.video_feature)
        assert found.provenance == reference.provenance


class TestTheStride:
    @pytest.mark.parametrize("stride", [16, 20, 117])
    def test_is_the_clients(self, narrow_server, narrow_base, bunny, stride):
        with C3DClient(narrow_server.target, stride=stride) as client:
            found = client.extract(bunny)
        assert found.clip_starts.tolist() == list(range(0, 117, stride))
        assert found.provenance["clips"]["stride"] == stride
        by_hand = clips_by_hand(bunny, stride)
        expected = narrow_server.servable.run("fc6_features", {"clips": by_hand})["features"]
        assert found.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("stride", [0, -1])
    def test_below_one_is_refused_before_anything_is_asked(self, nobody, stride):
        with pytest.raises(UsageError, match="stride is"):
            C3DClient(nobody, stride=stride)


class TestTheWindow:
    @pytest.mark.parametrize(("short", "last"), [("pad", 8), ("loop", 6)])
    def test_lets_short_films_be_one_clip(self, narrow_server, tmp_path, short, last):
        film = write_film(tmp_path / "nine.mp4", 9)
        with C3DClient(narrow_server.target, window=ClipWindow(short=short)) as client:
            found = client.extract(film)
        with av.open(str(film)) as file:
            frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
        prepared = [cv2.resize(f, (171, 128))[8:120, 29:141] for f in frames]
        order = [min(n, 8) if short == "pad" else n % 9 for n in range(16)]
        assert order[-1] == last
        clip = np.stack([prepared[n] for n in order])[None]
        expected = narrow_server.servable.run("fc6_features", {"clips": clip})["features"]
        assert found.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert found.provenance["clips"]["short"] == short
        assert found.provenance["video"]["frames"] == 9

    def test_takes_frames_at_a_rate(self, narrow_server, bikes):
        with C3DClient(narrow_server.target, window=ClipWindow(fps=10)) as client:
            found = client.extract(bikes)  # 10 s at 25 frames a second
        assert found.provenance["video"]["frames"] == 100
        assert len(found.clip_starts) == (100 - 16) // 8 + 1
        assert found.clip_times_s[0].tolist() == pytest.approx([0, 1.6])

    def test_quick_pixels_are_nearly_the_exact_ones_and_said(self, narrow_server, bikes):
        found = {}
        for resize in ("exact", "fast"):
            with C3DClient(narrow_server.target, window=ClipWindow(resize=resize)) as client:
                found[resize] = client.extract(bikes)
        cosine = found["exact"].video_feature @ found["fast"].video_feature
        assert cosine > 0.999
        assert not np.array_equal(found["exact"].clip_features, found["fast"].clip_features)
        said = {name: f.provenance["preprocessing"]["resize"] for name, f in found.items()}
        assert said["exact"] != said["fast"]

    def test_and_a_stride_go_together(self, nobody):
        client = C3DClient(nobody, stride=4, window=ClipWindow(stride=16, tail="pad"))
        assert client.window == ClipWindow(stride=4, tail="pad")
        client.close()


class TestShortFilms:
    @pytest.mark.parametrize("ask", ["extract", "classify"])
    def test_of_15_frames_are_too_short(self, c3d, tmp_path, ask):
        film = write_film(tmp_path / "fifteen.mp4", 15)
        with pytest.raises(VideoTooShortError, match="has 15 frames; a clip needs 16") as caught:
            getattr(c3d, ask)(film)
        assert caught.value.source == str(film)

    def test_of_16_frames_are_one_clip(self, c3d, sixteen):
        found = c3d.extract(sixteen)
        assert found.clip_starts.tolist() == [0]
        assert found.clip_times_s.tolist() == [pytest.approx([0.0, 0.64], abs=1e-3)]
        assert found.clip_features.shape == (1, 4096)


class TestProvenance:
    def test_says_what_made_the_numbers(self, c3d, narrow_server, narrow_weights, carphone):
        said = c3d.extract(carphone).provenance
        assert said["contract_version"] == "1"
        assert said["model"]["name"] == "c3d"
        assert said["model"]["version"] == narrow_server.version
        assert said["model"]["precision"] == "float32"
        assert said["model"]["weights"]["source"] == "random:7"
        assert said["model"]["weights"]["random"] is True
        assert said["model"]["weights"]["sha256"] == narrow_weights.sha256
        assert said["model"]["mean"]["source"]
        assert said["preprocessing"]["crop"] == "rows 8:120, columns 29:141"
        assert said["clips"] == {
            **{"frames": 16, "stride": 8, "frame_step": 1},
            **{"tail": "drop", "short": "error", "fps": None},
        }
        assert said["software"]["pyav"] == av.__version__
        assert said["software"]["opencv"] == cv2.__version__
        assert {"c3d_client", "libavcodec"} <= set(said["software"])
        assert said["video"] == {
            "source": str(carphone),
            "fingerprint": fingerprint(str(carphone)),
            "frames": 120,
            "duration_s": pytest.approx(120 * 1001 / 30000, abs=1e-3),
            "fps": pytest.approx(30000 / 1001, abs=1e-2),
            "width": 176,
            "height": 144,
            "interlaced": False,
        }
        assert said == {**c3d.provenance(), "video": said["video"]}

    def test_of_classes_is_that_of_features(self, c3d, carphone):
        assert c3d.classify(carphone).provenance == c3d.extract(carphone).provenance


def test_a_server_that_sends_contents_instead_of_values_gives_the_same(fake_serving, sixteen):
    server = fake_serving()
    answers = []
    for server.as_content in (False, True):
        with C3DClient(server.target) as client:
            answers.append(client.extract(sixteen))
    assert np.array_equal(answers[0].clip_features, answers[1].clip_features)
    assert answers[0].provenance == answers[1].provenance


class TestTimings:
    def test_of_our_server_have_every_part(self, c3d, carphone):
        timings = c3d.extract(carphone).timings
        assert timings.wall_s >= timings.decode_s > 0
        assert timings.compute_s > 0
        assert timings.queue_s >= 0
        assert timings.wire_s > 0

    def test_of_a_server_that_does_not_tell_leave_out_its_parts(self, fake_serving, sixteen):
        with C3DClient(fake_serving().target) as client:
            timings = client.extract(sixteen).timings
        assert (timings.queue_s, timings.compute_s) == (None, None)
        assert timings.wire_s > 0


class TestFailures:
    def test_of_one_video_leave_the_client_usable(self, c3d, tmp_path, carphone):
        before = c3d.extract(carphone)
        whole = write_film(tmp_path / "film.mkv", 80, draw=noise)
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
        with pytest.raises(VideoDecodeError, match="is cut short"):
            c3d.extract(cut)
        assert np.array_equal(c3d.extract(carphone).clip_features, before.clip_features)

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_of_arguments_come_before_any_work(self, nobody, top_k):
        with C3DClient(nobody) as client, pytest.raises(UsageError, match="top_k"):
            client.classify("film.mp4", top_k=top_k)

    def test_the_target_wins_over_the_one_in_the_options(self, narrow_server, nobody):
        with C3DClient(narrow_server.target, options=ServingOptions(nobody, timeout_s=9)) as c:
            assert [version.state for version in c.versions()] == ["AVAILABLE"]
            assert c.serving.options.timeout_s == 9
