"""The walk of one video where the model is another, changes, or answers what is no answer."""

import itertools
import threading

import numpy as np
import pytest
from c3d_client import C3DClient, Cancelled, ServingOptions
from c3d_client.core.errors import (
    ContractMismatch,
    ServingError,
    ServingUnavailable,
    UsageError,
    VideoDecodeError,
)
from support.fake_serving import LABELS, model_card, signature_defs
from support.films import write_film


class TestModels:
    def test_are_asked_about_once_however_many_videos_there_are(self, fake_serving, sixteen):
        server = fake_serving()
        with C3DClient(server.target) as client:
            info = client.model_info()
            client.extract(sixteen)
            assert client.model_info() is info
        assert [r.model_spec.signature_name for r in server.requests] == ["fc6_features"]

    def test_that_give_features_only_do_not_classify(self, fake_serving, sixteen):
        signatures = signature_defs()
        del signatures["classify"]
        server = fake_serving(signatures=signatures)
        with C3DClient(server.target) as client:
            with pytest.raises(UsageError, match="no signature 'classify'.*use extract"):
                client.classify(sixteen)
            assert client.extract(sixteen).clip_features.shape == (1, 4096)

    def test_that_change_on_the_way_make_the_video_start_afresh(
        self, fake_serving, sixteen, tmp_path
    ):
        long = write_film(tmp_path / "long.mp4", 40)

        def on_predict(_request, rows, _context):
            if len(server.requests) == 2:
                server.version, server.card = 2, model_card(precision="bfloat16")
            return np.full((len(rows), 4096), server.version, np.float32)

        server = fake_serving(on_predict)
        with C3DClient(options=ServingOptions(server.target, batch_size=1, max_in_flight=1)) as c:
            found = c.extract(long)
            assert c.extract(sixteen).provenance["model"]["version"] == 2
        # No number of the first version is left.
        assert found.clip_features.tolist() == np.full((4, 4096), 2.0).tolist()
        assert found.provenance["model"]["version"] == 2
        assert found.provenance["model"]["precision"] == "bfloat16"

    def test_whose_versions_answer_in_turn_are_a_mismatch(self, fake_serving, sixteen):
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
        ("value", "words"),
        [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0.0, "zero everywhere")],
    )
    def test_whose_features_are_none_fail_the_video(self, fake_serving, sixteen, value, words):
        server = fake_serving(lambda _q, rows, _c: np.full((len(rows), 4096), value, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ServingError, match=words) as e:
            client.extract(sixteen)
        assert str(sixteen) in str(e.value)
        # A run goes on with the next video: half precision may overflow for one alone.
        assert not isinstance(e.value, ContractMismatch)
        assert e.value.target == server.target

    def test_whose_probabilities_are_none_fail_the_video(self, fake_serving, sixteen):
        server = fake_serving(lambda _q, rows, _c: np.full((len(rows), 3), np.nan, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ServingError, match="NaN"):
            client.classify(sixteen)

    @pytest.mark.parametrize("labels", [LABELS[:2], [*LABELS, "more"], []])
    def test_with_other_labels_than_classes_are_a_mismatch(self, fake_serving, sixteen, labels):
        server = fake_serving(card=model_card(labels=labels))
        words = f"gives 3 probabilities and names {len(labels)} labels"
        with C3DClient(server.target) as client, pytest.raises(ContractMismatch, match=words):
            client.classify(sixteen)


class TestManyVideos:
    def test_give_what_each_gives_alone(self, narrow_server, bikes, carphone, sixteen, tmp_path):
        sources = [bikes, tmp_path / "absent.mp4", carphone, sixteen]
        with C3DClient(narrow_server.target) as c3d:
            found = list(c3d.extract_many(sources, workers=3, in_order=True))
            alone = c3d.extract(carphone)
            assert {o.source for o in c3d.extract_many(sources)} == set(sources)
        assert [outcome.source for outcome in found] == sources
        assert [outcome.error is None for outcome in found] == [True, False, True, True]
        assert isinstance(found[1].error, VideoDecodeError)
        assert found[2].unwrap().clip_features == pytest.approx(
            alone.clip_features, rel=1e-6, abs=1e-6
        )
        assert found[2].unwrap().provenance == alone.provenance

    def test_may_be_without_end(self, narrow_server, sixteen):
        with C3DClient(narrow_server.target) as c3d:
            outcomes = c3d.extract_many(itertools.repeat(sixteen), workers=2)
            assert all(outcome.error is None for outcome in itertools.islice(outcomes, 10))
            outcomes.close()

    def test_are_not_begun_without_a_server(self, nobody, sixteen):
        options = ServingOptions(nobody, retries=0)
        with C3DClient(options=options) as c3d, pytest.raises(ServingUnavailable):
            c3d.extract_many([sixteen])

    def test_of_two_models_do_not_meet(self, fake_serving, sixteen):
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

    def test_that_are_given_up_end_at_the_next_batch(self, fake_serving, tmp_path):
        long = write_film(tmp_path / "long.mp4", 200)
        cancel = threading.Event()
        server = fake_serving(lambda *_: cancel.set())
        options = ServingOptions(server.target, batch_size=1, max_in_flight=1)
        with C3DClient(options=options) as c3d, pytest.raises(Cancelled):
            c3d.extract(long, cancel=cancel)
        assert len(server.requests) < 5
