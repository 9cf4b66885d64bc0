"""Weights without fc8, such as mmaction2's: a servable without the signature `classify`."""

import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import UsageError
from c3d_export.graph import GraphServable, read_card
from c3d_export.local_server import LocalServer
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import Weights


@pytest.fixture(scope="module")
def weights(narrow_weights):
    arrays = {key: a for key, a in narrow_weights.arrays.items() if not key.startswith("fc8/")}
    return Weights(arrays=arrays, source="no-fc8.pth", format="torch")


@pytest.fixture(scope="module")
def base(weights, tmp_path_factory):
    base = tmp_path_factory.mktemp("features") / "c3d"
    spec = ServableSpec(weights=weights, mean=read_mean(SPORTS1M_SCALARS), labels=[])
    path, verification = build(spec, base)
    assert set(verification.differences) == {
        *("fc6_features", "fc7_features", "layers", "serving_default")
    }
    assert path.name == "1"
    return base


@pytest.mark.long
def test_fc6_is_the_default_signature_and_classify_is_missing(base, narrow_base):
    clips = np.random.default_rng(0).integers(0, 256, (2, 16, 112, 112, 3), np.uint8)
    with GraphServable(base / "1") as servable, GraphServable(narrow_base / "1") as with_fc8:
        assert set(servable.signatures) == {
            "serving_default",
            "fc6_features",
            "fc7_features",
            "layers",
            "model_card",
            "__saved_model_init_op",
        }
        fc6 = servable.run("fc6_features", {"clips": clips})["features"]
        assert np.array_equal(servable.run("serving_default", {"clips": clips})["features"], fc6)
        layers = servable.run("layers", {"clips": clips})
        assert sorted(layers) == ["conv5b", "fc6", "fc7", "pool5"]
        assert read_card(servable).layers == ("conv5b", "pool5", "fc6", "fc7")
        assert np.array_equal(layers["fc6"], fc6)
        expected = with_fc8.run("fc6_features", {"clips": clips})["features"]
        assert fc6 == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_client_extracts_and_explains_why_it_cannot_classify(base, carphone):
    server = LocalServer(base)
    server.start()
    try:
        with C3DClient(server.target) as c3d:
            assert c3d.extract(carphone).clip_features.shape == (14, 4096)
            with pytest.raises(UsageError, match="no signature 'classify'"):
                c3d.classify(carphone)
        with C3DClient(server.target, layers=["fc7", "pool5"]) as c3d:
            assert c3d.extract(carphone).layers["pool5"].shape == (14, 1, 4, 4, 32)
        with (
            C3DClient(server.target, layers=["fc8"]) as c3d,
            pytest.raises(UsageError, match=r"no layer fc8 \(.*fc7\): its weights end at fc7"),
        ):
            c3d.extract(carphone)
    finally:
        server.stop(5)


def test_labels_are_refused(weights):
    with pytest.raises(UsageError, match="3 labels, and the network has 0 classes"):
        ServableSpec(weights=weights, mean=read_mean(SPORTS1M_SCALARS), labels=["a", "b", "c"])
