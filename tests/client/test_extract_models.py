"""The walk of one video where the model is another, changes, or answers what is no answer."""

import numpy as np
import pytest
from c3d_client import C3DClient, ServingOptions
from c3d_client.errors import ContractMismatch, UsageError
from films import write_film
from stand_in import LABELS, model_card, signature_defs


class TestModels:
    def test_are_asked_about_once_however_many_videos_there_are(self, stand_in, sixteen):
        server = stand_in()
        with C3DClient(server.target) as client:
            info = client.model_info()
            client.extract(sixteen)
            assert client.model_info() is info
        assert [r.model_spec.signature_name for r in server.requests] == ["fc6_features"]

    def test_that_give_features_only_do_not_classify(self, stand_in, sixteen):
        signatures = signature_defs()
        del signatures["classify"]
        server = stand_in(signatures=signatures)
        with C3DClient(server.target) as client:
            with pytest.raises(UsageError, match="no signature 'classify'.*use extract"):
                client.classify(sixteen)
            assert client.extract(sixteen).clip_features.shape == (1, 4096)

    def test_that_change_on_the_way_are_a_mismatch_and_the_next_video_starts_afresh(
        self, stand_in, sixteen, tmp_path
    ):
        long = write_film(tmp_path / "long.mp4", 40)

        def on_predict(*_):
            if len(server.requests) == 2:
                server.version = 2

        server = stand_in(on_predict)
        with C3DClient(options=ServingOptions(server.target, batch_size=1, max_in_flight=1)) as c:
            with pytest.raises(
                ContractMismatch, match=r"changed from version 1 to 2 during .*long\.mp4"
            ):
                c.extract(long)
            assert c.extract(sixteen).provenance["model"]["version"] == 2

    @pytest.mark.parametrize(
        ("value", "words"),
        [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0.0, "zero everywhere")],
    )
    def test_whose_features_are_none_are_a_mismatch(self, stand_in, sixteen, value, words):
        server = stand_in(lambda _q, rows, _c: np.full((len(rows), 4096), value, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ContractMismatch, match=words) as e:
            client.extract(sixteen)
        assert str(sixteen) in str(e.value)
        assert e.value.target == server.target

    def test_whose_probabilities_are_none_are_a_mismatch(self, stand_in, sixteen):
        server = stand_in(lambda _q, rows, _c: np.full((len(rows), 3), np.nan, np.float32))
        with C3DClient(server.target) as client, pytest.raises(ContractMismatch, match="NaN"):
            client.classify(sixteen)

    @pytest.mark.parametrize("labels", [LABELS[:2], [*LABELS, "more"], []])
    def test_with_other_labels_than_classes_are_a_mismatch(self, stand_in, sixteen, labels):
        server = stand_in(card=model_card(labels=labels))
        words = f"gives 3 probabilities and names {len(labels)} labels"
        with C3DClient(server.target) as client, pytest.raises(ContractMismatch, match=words):
            client.classify(sixteen)
