"""Provenance: what is compared, what is stored, and that different features are not averaged."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    ClipWindow,
    ProvenanceError,
    UsageError,
    mean_feature,
    provenance_digest,
    require_same,
)
from c3d_client.core.provenance import (
    ADDED_FIELDS,
    COMPARED_FIELDS,
    REFUSED,
    Difference,
    ModelCard,
    Provenance,
    Severity,
    software_versions,
)
from c3d_export.local_server import LocalServer
from c3d_export.servable import build
from conftest import spec

COMPARED = tuple(path for path, severity in COMPARED_FIELDS if severity in REFUSED)
VERSIONS = tuple(("software", name) for name in ("c3d_client", "opencv", "pyav", "libavcodec"))
SEVERITIES = {
    "contract_version": Severity.MODEL,
    "model.weights.sha256": Severity.MODEL,
    "model.mean.sha256": Severity.MODEL,
    "model.precision": Severity.MODEL,
    "preprocessing": Severity.CLIPS,
    "clips": Severity.CLIPS,
}

# A provenance as release bca6d84 wrote it.
RELEASED = {
    "contract_version": "1",
    "model": {
        "name": "c3d",
        "version": 3,
        "precision": "float32",
        "weights": {
            "source": "sports1m.caffemodel",
            "format": "caffe",
            "random": False,
            "sha256": "ab" * 32,
        },
        "mean": {"source": "mean.binaryproto", "sha256": "cd" * 32},
    },
    "preprocessing": {
        "resize": "171x128 opencv-linear",
        "crop": "rows 8:120, columns 29:141",
        "wire": "RGB uint8",
    },
    "clips": {
        "frames": 16,
        "stride": 8,
        "frame_step": 1,
        "tail": "drop",
        "short": "error",
        "fps": None,
    },
    "software": {
        "c3d_client": "0.2.0",
        "opencv": "4.10.0",
        "pyav": "14.0.0",
        "libavcodec": "61.19.100",
    },
    "video": {"source": "a.mp4", "frames": 40},
}


def changed(provenance, path, value):
    """Return a copy of a provenance with another value in the field at a path."""
    copied = copy.deepcopy(provenance)
    part = copied
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return copied


class TestDifferences:
    def test_have_the_path_of_the_field_both_values_and_a_severity(self):
        assert [".".join(path) for path in COMPARED] == list(SEVERITIES)
        for path in COMPARED:
            other = changed(RELEASED, path, "something else")
            (difference,) = Provenance(RELEASED).differences(Provenance(other))
            field = ".".join(path)
            value = Provenance(RELEASED)._get(path)
            assert difference == Difference(field, value, "something else", SEVERITIES[field])
            shown = value[:12] if field.endswith("sha256") else repr(value)
            assert str(difference) == f"{field}: {shown} against 'something else'"

    def test_have_texts_without_whole_digests_and_mappings(self):
        reduced = {"sha256": "ab" * 32, "dim": 4, "whiten": False}
        (difference,) = Provenance({"pca": reduced}).differences(Provenance({}))
        assert str(difference) == "pca: abababababab against none"

    def test_are_errors_when_features_are_mixed(self):
        for path in COMPARED:
            other = changed(RELEASED, path, "something else")
            with pytest.raises(
                ProvenanceError, match=f"{'.'.join(path)}: .* against 'something else'"
            ):
                require_same([RELEASED, RELEASED, other])
            with pytest.raises(ProvenanceError, match="^features of a.npz and c.npz were made "):
                require_same([RELEASED, RELEASED, other], names=["a.npz", "b.npz", "c.npz"])

    def test_change_the_digest(self):
        for path in COMPARED:
            other = changed(RELEASED, path, "something else")
            assert provenance_digest(other) != provenance_digest(RELEASED), path

    def test_do_not_include_the_video_and_the_name_and_version_of_the_served_model(self):
        for path in (
            ("video", "source"),
            ("video", "frames"),
            ("model", "version"),
            ("model", "name"),
            ("model", "weights", "source"),
        ):
            other = changed(RELEASED, path, "something else")
            require_same([RELEASED, other])
            assert provenance_digest(other) == provenance_digest(RELEASED), path

    def test_of_a_part_have_the_path_of_each_key_that_differs(self):
        other = changed(RELEASED, ("clips", "stride"), 16)
        other["clips"] |= {"tail": "pad", "later": None}
        differences = Provenance(other).differences(Provenance(RELEASED))
        assert [(item.field, item.phrase) for item in differences] == [
            ("clips.stride", "stride 16, not 8"),
            ("clips.tail", "tail pad, not drop"),
            ("clips.later", "later none, not none"),
        ]

    def test_in_words_name_the_weights_by_the_beginning_of_their_digest(self):
        other = changed(RELEASED, ("model", "weights", "sha256"), "0f" * 32)
        (difference,) = Provenance(other).differences(Provenance(RELEASED))
        assert difference.phrase == f"weights {'0f' * 6}, not {'ab' * 6}"


class TestVersions:
    """Versions of the software are noted; they make no other features."""

    def test_are_accepted_whatever_their_number_and_do_not_change_the_digest(self):
        for path in VERSIONS:
            other = changed(RELEASED, path, "99.0")
            assert Provenance(RELEASED).differences(Provenance(other)) == []
            note = Difference(".".join(path), RELEASED["software"][path[1]], "99.0", Severity.NOTES)
            assert Provenance(RELEASED).notes(Provenance(other)) == [note]
            require_same([RELEASED, other])
            assert provenance_digest(other) == provenance_digest(RELEASED), path

    def test_of_a_library_that_the_other_file_does_not_name_are_noted(self):
        other = changed(RELEASED, ("software", "libswscale"), "9.0")
        (note,) = Provenance(other).notes(Provenance(RELEASED))
        assert note.phrase == "libswscale 9.0, not none"

    def test_of_several_results_are_listed_by_library(self):
        other = {**RELEASED, "software": {"pyav": "15.1.0", "opencv": "4.10.0"}}
        assert software_versions([RELEASED, other, RELEASED, {}]) == {
            "c3d_client": ["0.2.0"],
            "libavcodec": ["61.19.100"],
            "opencv": ["4.10.0"],
            "pyav": ["14.0.0", "15.1.0"],
        }

    def test_do_not_prevent_a_mean(self):
        feature = np.full(4096, 1 / 64, np.float32)
        other = changed(RELEASED, ("software", "pyav"), "15.1.0")
        assert mean_feature([(feature, RELEASED), (feature, other)]) == pytest.approx(feature)


class TestTableInTheDocuments:
    def test_is_the_table_of_the_code(self):
        text = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")
        rows = re.findall(r"^\| \*(\w+)\* \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
        parts = ClipWindow().provenance()
        expected = []
        for severity in Severity:
            names = []
            fields = [*COMPARED_FIELDS, *((path, kind) for path, _, kind in ADDED_FIELDS)]
            for path in [path for path, kind in fields if kind is severity]:
                part = parts.get(path[0]) if len(path) == 1 else None
                keys = [f".{key}" for key in part] if part else [""]
                names += [f"`{'.'.join(path)}{key}`" for key in keys]
            expected.append((severity.value, ", ".join(names)))
        assert [(name, fields) for name, fields, _ in rows] == expected
        refused = {name for name, _, consequence in rows if consequence.startswith("refused")}
        assert refused == {severity.value for severity in REFUSED}


class TestAddedFields:
    """Fields that later releases compare, and that older files lack."""

    DEFAULTS = {"damage": "error", "layer": "fc6", "pca": None}
    KINDS = {"damage": Severity.CLIPS, **dict.fromkeys(("layer", "pca"), Severity.MODEL)}
    OTHERS = {"damage": "skip", "layer": "fc7", "pca": "ef" * 32}

    def test_a_file_without_a_field_equals_one_with_the_default(self):
        assert {path: default for path, default, _ in ADDED_FIELDS} == {
            (name,): default for name, default in self.DEFAULTS.items()
        }
        for name, default in self.DEFAULTS.items():
            with_default = {**RELEASED, name: default}
            require_same([RELEASED, with_default])
            require_same([with_default, RELEASED])
            assert provenance_digest(with_default) == provenance_digest(RELEASED), name

    def test_another_value_is_a_difference_and_another_digest(self):
        digests = {provenance_digest(RELEASED)}
        for name, value in self.OTHERS.items():
            other = {**RELEASED, name: value}
            expected = Difference(name, self.DEFAULTS[name], value, self.KINDS[name])
            assert Provenance(RELEASED).differences(Provenance(other)) == [expected]
            digests.add(provenance_digest(other))
        assert len(digests) == 1 + len(self.OTHERS)


class TestDigest:
    def test_is_the_one_that_the_release_computed(self):
        # Computed by the code of release bca6d84.
        padded = changed(RELEASED, ("clips", "stride"), 16)
        padded["clips"] |= {"tail": "pad", "fps": 12.5}
        padded["preprocessing"]["resize"] = "171x128 opencv-linear on Y, U and V, then colours"
        incomplete = changed(RELEASED, ("model", "precision"), "bfloat16")
        del incomplete["software"]["pyav"]
        for provenance, digest in (
            (RELEASED, "bba8e29fe9661dbbec986c255534808827c29749499deb2355f516fe07d0fe62"),
            (padded, "f100984414ee23d26de4ef298cecc3287eef60b8096a6f9fa58ed4c802c66bca"),
            (incomplete, "4bee7721679b4754e2bedffbec44af069f757e56870910c763b4a24543d9b21c"),
        ):
            assert Provenance.from_dict(provenance).former_digest() == digest

    def test_of_the_release_covers_added_fields_as_the_digest_does(self):
        for name, default in TestAddedFields.DEFAULTS.items():
            plain = Provenance(RELEASED)
            same, other = Provenance({**RELEASED, name: default}), Provenance({**RELEASED, name: 1})
            assert same.former_digest() == plain.former_digest(), name
            assert other.former_digest() != plain.former_digest(), name

    def test_is_stable(self):
        # Names of shards depend on it.
        digest = "b6db2d6ff1d5aa8abd457bbc9685bed45b983fbc64ba0003a94434979a474b5f"
        assert provenance_digest(RELEASED) == Provenance.from_dict(RELEASED).digest() == digest

    def test_does_not_depend_on_the_order_of_keys_or_on_the_video(self):
        digest = provenance_digest(RELEASED)
        stored = json.loads(json.dumps(RELEASED, sort_keys=True))
        assert provenance_digest(stored) == digest
        assert provenance_digest({**stored, "video": {"source": "another"}}) == digest


class TestUnknownFields:
    def test_are_written_again_unchanged_and_not_compared(self):
        data = {**RELEASED, "later": {"a": [1, {"b": None}]}}
        data["model"] = {**RELEASED["model"], "also later": 1}
        provenance = Provenance.from_dict(data)
        assert provenance.to_dict() == data
        assert provenance.with_video({"source": "b.mp4"}).to_dict() == {
            **data,
            "video": {"source": "b.mp4"},
        }
        assert provenance.differences(Provenance(RELEASED)) == []
        assert provenance.digest() == provenance_digest(RELEASED)

    def test_of_a_card_are_written_again_unchanged(self):
        card = {
            "contract_version": "1",
            "weights": {"sha256": "ab", "later": 1},
            "mean": None,
            "precision": "float32",
            "later": [1, 2],
        }
        assert ModelCard.from_dict(card).to_dict() == card
        assert ModelCard.from_json(json.dumps(card)).to_dict() == card

    def test_the_mappings_are_copies(self):
        data = copy.deepcopy(RELEASED)
        provenance = Provenance.from_dict(data)
        data["clips"]["stride"] = 1
        provenance.to_dict()["clips"]["stride"] = 2
        assert provenance.clips["stride"] == 8


def test_a_provenance_without_parts_has_empty_parts():
    for data in ({}, {"model": None, "video": None, "software": "old"}):
        provenance = Provenance(data)
        assert (provenance.model, provenance.weights, provenance.software) == ({}, {}, {})
        assert provenance.video_name == "an unnamed video"
    assert not Provenance()
    assert Provenance(RELEASED).video_name == "a.mp4"


def test_a_card_repeats_only_short_fields_in_every_result():
    card = {
        "precision": "float32",
        "weights": {"sha256": "ab", "source": "w.h5", "layers": {"conv1/kernel": {}}},
        "mean": {"sha256": "cd", "source": "m.npy", "crop_means_bgr": [1, 2, 3]},
        "labels": ["a"] * 487,
    }
    assert ModelCard(card).model() == {
        "precision": "float32",
        "convolution": "direct",
        "weights": {"sha256": "ab", "source": "w.h5"},
        "mean": {"sha256": "cd", "source": "m.npy"},
    }
    assert ModelCard({**card, "convolution": "winograd"}).model()["convolution"] == "winograd"


@pytest.fixture(scope="module")
def features(narrow_server, request):
    with C3DClient(narrow_server.target) as c3d:
        return c3d.extract(request.getfixturevalue("carphone"))


class TestFeatures:
    def test_have_a_value_in_every_compared_field(self, features):
        for path in COMPARED:
            value = features.provenance
            for key in path:
                value = value[key]
            assert value, path

    def test_made_the_same_way_have_a_mean_of_length_1(self, features):
        pairs = [(features.video_feature, features.provenance)] * 2
        pairs.append((np.roll(features.video_feature, 1), features.provenance))
        mean = mean_feature(pairs)
        assert mean.dtype == np.float32
        expected = 2 * features.video_feature + np.roll(features.video_feature, 1)
        assert mean == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)

    def test_the_mean_of_none_is_an_error(self):
        with pytest.raises(UsageError, match="the mean of no features"):
            mean_feature([])

    @pytest.mark.long
    def test_of_another_precision_of_the_same_model_are_not_averaged(
        self, narrow_weights, features, carphone, tmp_path
    ):
        inputs = spec(narrow_weights, precision="bfloat16", batch_sizes=(1,))
        build(inputs, tmp_path / "c3d", elsewhere=True)
        server = LocalServer(tmp_path / "c3d")
        server.start()
        try:
            with C3DClient(server.target) as c3d:
                other = c3d.extract(carphone)
        finally:
            server.stop(5)
        with pytest.raises(ProvenanceError, match="model.precision: 'float32' against 'bfloat16'"):
            mean_feature([(f.video_feature, f.provenance) for f in (features, other)])
