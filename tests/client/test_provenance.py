"""What made a feature goes with it, and features that were made differently do not mix."""

import copy
import json

import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    ProvenanceError,
    UsageError,
    mean_feature,
    provenance_digest,
    require_same,
)
from c3d_client.core.provenance import COMPARED, ModelCard, differences
from c3d_export.local_server import LocalServer
from c3d_export.servable import build
from conftest import spec


@pytest.fixture(scope="module")
def features(narrow_server, request):
    with C3DClient(narrow_server.target) as c3d:
        return c3d.extract(request.getfixturevalue("carphone"))


def changed(provenance, path, value):
    other = copy.deepcopy(provenance)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return other


def test_everything_that_must_agree_is_in_every_result(features):
    for path in COMPARED:
        value = features.provenance
        for key in path:
            value = value[key]
        assert value, path


@pytest.mark.parametrize("path", COMPARED, ids=".".join)
def test_a_difference_is_named(features, path):
    other = changed(features.provenance, path, "something else")
    (found,) = differences(features.provenance, other)
    assert found.startswith(f"{'.'.join(path)}: ")
    with pytest.raises(ProvenanceError, match=f"{'.'.join(path)}: .* against 'something else'"):
        require_same([features.provenance, features.provenance, other])


@pytest.mark.parametrize(
    "path", [("video", "source"), ("video", "frames"), ("model", "version"), ("model", "name")]
)
def test_the_video_and_the_servings_number_may_differ(features, path):
    other = changed(features.provenance, path, "something else")
    require_same([features.provenance, other])


@pytest.mark.parametrize("path", COMPARED, ids=".".join)
def test_a_difference_is_another_digest(features, path):
    other = changed(features.provenance, path, "something else")
    assert provenance_digest(other) != provenance_digest(features.provenance)


def test_the_digest_outlives_storage_and_leaves_out_the_video(features):
    digest = provenance_digest(features.provenance)
    assert len(bytes.fromhex(digest)) == 32
    stored = json.loads(json.dumps(features.provenance, sort_keys=True))
    assert provenance_digest(stored) == digest
    assert provenance_digest({**stored, "video": {"source": "another"}}) == digest


def test_the_mean_of_features_made_the_same_way_has_length_1(features):
    pairs = [(features.video_feature, features.provenance)] * 2
    pairs.append((np.roll(features.video_feature, 1), features.provenance))
    mean = mean_feature(pairs)
    assert mean.dtype == np.float32
    expected = 2 * features.video_feature + np.roll(features.video_feature, 1)
    assert mean == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_the_mean_of_none_is_refused():
    with pytest.raises(UsageError, match="the mean of no features"):
        mean_feature([])


def test_another_precision_behind_the_same_name_is_refused(
    narrow_weights, features, carphone, tmp_path
):
    build(spec(narrow_weights, precision="bfloat16", batch_sizes=(1,)), tmp_path / "c3d")
    server = LocalServer(tmp_path / "c3d")
    server.start()
    try:
        with C3DClient(server.target) as c3d:
            other = c3d.extract(carphone)
    finally:
        server.stop(5)
    with pytest.raises(ProvenanceError, match="model.precision: 'float32' against 'bfloat16'"):
        mean_feature([(f.video_feature, f.provenance) for f in (features, other)])


def test_a_cards_long_lists_are_not_repeated_in_every_file():
    card = {
        "precision": "float32",
        "weights": {"sha256": "ab", "source": "w.h5", "layers": {"conv1/kernel": {}}},
        "mean": {"sha256": "cd", "source": "m.npy", "crop_means_bgr": [1, 2, 3]},
        "labels": ["a"] * 487,
    }
    assert ModelCard(card).model() == {
        "precision": "float32",
        "weights": {"sha256": "ab", "source": "w.h5"},
        "mean": {"sha256": "cd", "source": "m.npy"},
    }
