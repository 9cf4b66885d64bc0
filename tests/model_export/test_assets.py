"""The published files: which are here, whether they are what was published, and their licence."""

import hashlib

import pytest
from c3d_export import assets
from c3d_export.assets import KNOWN_WEIGHTS, KnownWeights, found_weights, licence_note

UNCHECKED, CHECKED = KNOWN_WEIGHTS


def test_an_empty_folder_or_none_has_none(tmp_path):
    assert found_weights(tmp_path) == {}
    assert found_weights(tmp_path / "absent") == {}


def test_a_file_of_that_name_and_other_content_is_called_wrong(tmp_path):
    (tmp_path / "sports1M_weights_tf.h5").write_bytes(b"not these")
    assert found_weights(tmp_path) == {CHECKED: "checksum WRONG: fetch it again"}


def test_a_file_without_a_published_checksum_says_so(tmp_path):
    (tmp_path / "C3D_Sport1M_weights_keras_2.2.4.h5").write_bytes(b"anything")
    assert found_weights(tmp_path) == {UNCHECKED: "no published checksum to compare with"}


@pytest.mark.parametrize("length", [0, 5, 3_000_001])
def test_a_file_with_the_published_checksum_is_called_right(tmp_path, monkeypatch, length):
    content = b"x" * length  # the longest is read in more than one block
    known = KnownWeights("w.h5", "somebody's", md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(assets, "KNOWN_WEIGHTS", (known,))
    (tmp_path / "w.h5").write_bytes(content)
    assert found_weights(tmp_path) == {known: "checksum right"}


def test_a_folder_of_that_name_is_no_file(tmp_path):
    (tmp_path / CHECKED.name).mkdir()
    assert found_weights(tmp_path) == {}


def test_the_best_comes_first(tmp_path):
    for known in reversed(KNOWN_WEIGHTS):
        (tmp_path / known.name).touch()
    assert list(found_weights(tmp_path)) == list(KNOWN_WEIGHTS)


def test_the_sports1m_mean_comes_before_the_ucf101_one():
    assert assets.MEAN_FILES[0].startswith("sport1m_")
    assert assets.MEAN_FILES[1].startswith("train01_")


def test_people_are_told_of_the_licence():
    assert "non-commercial use (CC BY-NC 3.0)" in licence_note()
