"""Where a video's features go."""

import os

import pytest
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.outputs import FORMATS, output_path, read_provenance, write_features
from support.sample_features import PROVENANCE, names_in, sample_features


@pytest.mark.parametrize("name", FORMATS)
def test_the_whole_name_is_kept_and_the_formats_ending_added(tmp_path, name):
    suffix = FORMATS[name].suffix
    assert output_path(tmp_path, "a/b.mp4", name) == tmp_path / "a" / f"b.mp4{suffix}"
    assert output_path(str(tmp_path), "b.avi", name) == tmp_path / f"b.avi{suffix}"
    assert output_path(tmp_path, "b.mp4", name) != output_path(tmp_path, "b.avi", name)


@pytest.mark.parametrize("name", ["", ".", "/a/b.mp4", "../b.mp4", "a/../b.mp4", "a/..", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="give a relative path"):
        output_path(tmp_path, name, "npz")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no format 'mat'"):
        output_path(tmp_path, "b.mp4", "mat")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("letter", "length"), [("x", 80), ("é", 240), ("影", 251), ("x", 255)])
def test_names_as_long_as_they_can_be_are_written_and_read(tmp_path, name, letter, length):
    stem = letter * ((length - 4) // len(letter.encode()))
    path = output_path(tmp_path, f"{stem}.mp4", name)
    write_features(path, sample_features())
    assert read_provenance(path) == PROVENANCE
    beside = FORMATS[name].beside
    assert names_in(tmp_path) == [path.name, *([path.name + beside] if beside else [])]
    if length == 80:
        assert path.name == f"{stem}.mp4{FORMATS[name].suffix}"


def test_names_that_differ_only_where_they_are_cut_stay_apart(tmp_path):
    one, other = (output_path(tmp_path, "x" * 250 + end, "npz") for end in ("a.mp4", "b.mp4"))
    assert one != other
    assert len(os.fsencode(one.name)) == len(os.fsencode(other.name)) == 255
    assert output_path(tmp_path, "x" * 250 + "a.mp4", "npz") == one


def test_folders_with_names_too_long_are_cut_too(tmp_path):
    path = output_path(tmp_path, f"{'f' * 300}/b.mp4", "npz")
    path.parent.mkdir()
    assert path.name == "b.mp4.npz"


def test_a_path_longer_than_the_system_allows_is_an_error(tmp_path):
    path = output_path(tmp_path, "/".join(["f" * 200] * 30), "npz")
    with pytest.raises(OutputError, match="File name too long"):
        write_features(path, sample_features())
