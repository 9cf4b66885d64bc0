"""Results on disk, in every format: complete, readable, and never a half of one."""

import sys
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.outputs import (
    FORMATS,
    NPZ_KEYS,
    format_of,
    prepare_folder,
    read_features,
    read_npz,
    read_provenance,
    write_features,
    write_npz,
)
from support.sample_features import PROVENANCE, full_disk, names_in, same, sample_features

LOSSLESS = [name for name, known in FORMATS.items() if known.lossless]


@pytest.fixture
def path(request, tmp_path):
    """Where features go in the format that the test has as its parameter ``name``."""
    return tmp_path / f"film.mp4{FORMATS[request.getfixturevalue('name')].suffix}"


every_format = pytest.mark.parametrize("name", FORMATS)


def content_of(path):
    """All bytes of a file with what is beside it, or of a folder."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return {file.name: file.read_bytes() for file in sorted(files)}


class TestWriting:
    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize("clips", [1, 3, 600])
    def test_and_reading_gives_the_same_to_the_bit(self, path, name, clips):
        features = sample_features(clips)
        write_features(path, features)
        assert same(read_features(path), features)

    @pytest.mark.parametrize("name", LOSSLESS)
    def test_and_reading_keeps_unknown_times(self, path, name):
        features = sample_features(clip_times_s=np.full((3, 2), np.nan))
        write_features(path, features)
        assert same(read_features(path), features)

    @every_format
    def test_gives_the_provenance_back_without_the_clips(self, path, name):
        write_features(path, sample_features())
        assert read_provenance(path) == PROVENANCE

    @every_format
    def test_goes_by_the_ending_or_by_the_name_of_the_format(self, path, name):
        other = path.with_name("features.of-a-film")
        write_features(path, sample_features())
        write_features(other, sample_features(), format=name)
        assert same(
            replace(read_features(path), provenance={}),
            replace(read_features(other, format=name), provenance={}),
        )
        assert format_of(path) is FORMATS[name]

    @every_format
    def test_leaves_nothing_but_what_was_asked_for(self, path, name):
        write_features(path, sample_features())
        beside = FORMATS[name].beside
        assert names_in(path.parent) == [path.name, *([path.name + beside] if beside else [])]

    @every_format
    def test_replaces_an_earlier_result(self, path, name):
        write_features(path, sample_features(40, seed=1))
        write_features(path, sample_features(seed=2))
        again = path.with_name(f"again{FORMATS[name].suffix}")
        write_features(again, sample_features(seed=2))
        if name != "parquet":  # which may differ in bytes
            assert list(content_of(path).values()) == list(content_of(again).values())
        assert len(read_features(path).clip_starts) == (32 if name == "sultani" else 3)

    @every_format
    @pytest.mark.parametrize("size", [0, 10_000, 300_000])
    def test_to_a_full_disk_is_an_error_that_leaves_the_earlier_result(self, path, name, size):
        if name == "caffe" and size > 16_404:
            pytest.skip("its files are smaller")
        write_features(path, sample_features(40))
        before = content_of(path)
        with full_disk(size), pytest.raises(OutputError, match="too large") as caught:
            write_features(path, sample_features(40, seed=1))
        assert caught.value.path == str(path)
        assert content_of(path) == before
        beside = FORMATS[name].beside
        assert names_in(path.parent) == [path.name, *([path.name + beside] if beside else [])]

    @every_format
    def test_over_another_folder_is_an_error_that_leaves_it_as_it_was(self, path, name):
        path.mkdir()
        (path / "notes.txt").touch()
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_features(path, sample_features())
        assert names_in(path.parent) == [path.name]
        assert names_in(path) == ["notes.txt"]
        assert "None" not in str(caught.value)

    def test_of_a_folder_over_a_file_is_an_error_that_leaves_it(self, tmp_path):
        (tmp_path / "film.fc6").write_bytes(b"a file")
        with pytest.raises(OutputError, match="Not a directory"):
            write_features(tmp_path / "film.fc6", sample_features())
        assert names_in(tmp_path) == ["film.fc6"]

    @every_format
    def test_into_a_folder_that_is_not_there_is_an_error(self, path, name):
        with pytest.raises(OutputError, match="No such file or directory"):
            write_features(path.parent / "absent" / path.name, sample_features())

    @every_format
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"clip_features": np.zeros((3, 4096))}, r"clip_features is float64 \[3, 4096\]"),
            ({"clip_features": np.zeros((2, 4096), np.float32)}, r"expected float32 \[3, 4096\]"),
            ({"clip_times_s": np.zeros((3, 3))}, r"clip_times_s is float64 \[3, 3\]"),
            ({"clip_starts": np.zeros(3, np.int32)}, "clip_starts is int32"),
            ({"clip_starts": np.zeros(0, np.int64)}, "no clips"),
            ({"video_feature": np.zeros(500, np.float32)}, r"video_feature is float32 \[500\]"),
            ({"provenance": {"when": object()}}, "provenance is not JSON"),
            ({"provenance": {"fps": float("nan")}}, "provenance is not JSON"),
        ],
    )
    def test_what_are_not_features_is_an_error_that_leaves_nothing(
        self, path, name, changes, words
    ):
        with pytest.raises(OutputError, match=words):
            write_features(path, sample_features(**changes))
        assert names_in(path.parent) == []

    @every_format
    def test_by_several_threads_at_a_time_is_as_by_one(self, path, name):
        paths = [path.with_name(f"{n}{path.name}") for n in range(6)]
        threads = [
            threading.Thread(target=write_features, args=(path, sample_features(20, seed=n)))
            for n, path in enumerate(paths)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one = path.with_name("one")
        for n, written in enumerate(paths):
            write_features(one, sample_features(20, seed=n), format=name)
            assert np.array_equal(
                read_features(written).clip_features, read_features(one, format=name).clip_features
            )


class TestAFormat:
    def test_shares_its_ending_with_no_other(self):
        suffixes = [known.suffix for known in FORMATS.values()]
        for suffix in suffixes:
            assert [other for other in suffixes if suffix.endswith(other)] == [suffix]

    def test_an_unknown_ending_or_format(self, tmp_path):
        with pytest.raises(UsageError, match=r"film.mp4: its name does not tell.*\.npz \(npz\)"):
            read_features(tmp_path / "film.mp4")
        with pytest.raises(UsageError, match="no format 'mat'; choose one of npz, npy, h5"):
            write_features(tmp_path / "film.mat", sample_features(), format="mat")

    @pytest.mark.parametrize("name", [n for n, known in FORMATS.items() if known.extra])
    def test_without_the_library_names_the_extra(self, path, name, monkeypatch):
        module = {"h5": "h5py", "parquet": "pyarrow"}[FORMATS[name].extra]
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, f"{module}.parquet", None)
        words = rf"{module} is not installed.*c3d-client\[{FORMATS[name].extra}\]"
        with pytest.raises(UsageError, match=words):
            write_features(path, sample_features())
        with pytest.raises(UsageError, match=words):
            read_features(path)
        assert names_in(path.parent) == []


class TestNpz:
    def test_by_name_gives_arrays_and_provenance_by_key(self, tmp_path):
        features = sample_features()
        write_npz(tmp_path / "film.features", features)
        content = read_npz(tmp_path / "film.features")
        assert tuple(content) == NPZ_KEYS
        assert all(content[key] is not None for key in NPZ_KEYS)
        assert content["provenance"] == PROVENANCE
        assert np.array_equal(content["clip_features"], features.clip_features)

    def test_of_the_same_features_has_the_same_bytes(self, tmp_path):
        for name in ("one.npz", "two.npz"):
            write_npz(tmp_path / name, sample_features())
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
        with zipfile.ZipFile(tmp_path / "one.npz") as archive:  # and at any other time of day
            assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


class TestTheFolder:
    def test_is_made_with_those_above_it_and_left_empty(self, tmp_path):
        assert prepare_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
        assert names_in(tmp_path / "a" / "b") == []

    def test_may_be_there_with_files_in_it(self, tmp_path):
        (tmp_path / "kept").touch()
        prepare_folder(tmp_path)
        assert names_in(tmp_path) == ["kept"]

    def test_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OutputError, match="results cannot be written there"):
                prepare_folder(folder)
