"""Results on disk: complete, readable, and never a half of one."""

import errno

import numpy as np
import pytest
from c3d_client import outputs
from c3d_client.errors import OutputError
from c3d_client.extract import Timings, VideoFeatures
from c3d_client.outputs import NPZ_KEYS, prepare_folder, read_npz, write_npz

PROVENANCE = {"model": {"name": "c3d", "version": 3}, "video": {"source": "zwölf.mp4"}}


@pytest.fixture
def features():
    values = np.random.default_rng(0).random((3, 4096), np.float32)
    return VideoFeatures(
        clip_starts=np.array([0, 8, 16], np.int64),
        clip_times_s=np.array([[0.0, 0.64], [0.32, 0.96], [0.64, 1.28]]),
        clip_features=values,
        video_feature=values[0],
        provenance=PROVENANCE,
        timings=Timings(1.0, 0.5, 0.1, None, None),
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWriting:
    def test_and_reading_gives_the_same(self, tmp_path, features):
        write_npz(tmp_path / "film.npz", features)
        content = read_npz(tmp_path / "film.npz")
        assert tuple(content) == NPZ_KEYS
        assert content["provenance"] == PROVENANCE
        for key in NPZ_KEYS[:-1]:
            expected = getattr(features, key)
            assert content[key].dtype == expected.dtype
            assert np.array_equal(content[key], expected)

    def test_gives_a_file_that_numpy_alone_can_read(self, tmp_path, features):
        write_npz(tmp_path / "film.npz", features)
        with np.load(tmp_path / "film.npz", allow_pickle=False) as file:
            assert sorted(file.files) == sorted(NPZ_KEYS)
            assert {key: file[key].dtype.name for key in NPZ_KEYS[:-1]} == {
                "clip_features": "float32",
                "video_feature": "float32",
                "clip_starts": "int64",
                "clip_times_s": "float64",
            }
            assert "zw" in file["provenance"].item()

    def test_leaves_one_file_of_exactly_that_name(self, tmp_path, features):
        write_npz(str(tmp_path / "film.features"), features)
        assert names_in(tmp_path) == ["film.features"]

    def test_replaces_an_earlier_result(self, tmp_path, features):
        (tmp_path / "film.npz").write_bytes(b"old")
        write_npz(tmp_path / "film.npz", features)
        assert read_npz(tmp_path / "film.npz")["provenance"] == PROVENANCE

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
            (OSError("the disk went away"), "the disk went away"),
        ],
    )
    def test_that_fails_half_way_leaves_the_earlier_result(
        self, tmp_path, features, monkeypatch, error, words
    ):
        def half(file, **_arrays):
            file.write(b"PK half of a file")
            raise error

        write_npz(tmp_path / "film.npz", features)
        before = (tmp_path / "film.npz").read_bytes()
        monkeypatch.setattr(outputs.np, "savez", half)
        with pytest.raises(OutputError, match=words) as caught:
            write_npz(tmp_path / "film.npz", features)
        assert caught.value.path == str(tmp_path / "film.npz")
        assert (tmp_path / "film.npz").read_bytes() == before
        assert names_in(tmp_path) == ["film.npz"]

    def test_over_a_folder_is_an_error_that_leaves_nothing(self, tmp_path, features):
        (tmp_path / "film.npz").mkdir()
        with pytest.raises(OutputError, match="cannot be written"):
            write_npz(tmp_path / "film.npz", features)
        assert names_in(tmp_path) == ["film.npz"]

    def test_into_a_folder_that_is_not_there_is_an_error(self, tmp_path, features):
        with pytest.raises(OutputError, match="No such file or directory"):
            write_npz(tmp_path / "absent" / "film.npz", features)


class TestReading:
    def fails(self, path, words):
        with pytest.raises(OutputError, match=words) as caught:
            read_npz(path)
        assert caught.value.path == str(path)

    def test_what_is_not_there(self, tmp_path):
        self.fails(tmp_path / "absent.npz", "no such file")

    def test_a_folder(self, tmp_path):
        self.fails(tmp_path, "is not a file of C3D features")

    @pytest.mark.parametrize("content", [b"", b"text\n", b"PK\x03\x04 and then nothing"])
    def test_another_kind_of_file(self, tmp_path, content):
        (tmp_path / "film.npz").write_bytes(content)
        self.fails(tmp_path / "film.npz", "is not a file of C3D features")

    def test_a_result_cut_short(self, tmp_path, features):
        write_npz(tmp_path / "film.npz", features)
        content = (tmp_path / "film.npz").read_bytes()
        (tmp_path / "film.npz").write_bytes(content[: len(content) // 2])
        self.fails(tmp_path / "film.npz", "is not a file of C3D features")

    def test_a_single_array(self, tmp_path):
        np.save(tmp_path / "film.npy", np.zeros(4096, np.float32))
        self.fails(tmp_path / "film.npy", "is not a file of C3D features")

    def test_arrays_of_other_names(self, tmp_path):
        np.savez(tmp_path / "film.npz", features=np.zeros(4096))
        self.fails(tmp_path / "film.npz", "clip_features")

    @pytest.mark.parametrize("provenance", ["not JSON", 1.5j, [1, 2]])
    def test_provenance_that_is_not_json(self, tmp_path, provenance):
        arrays = dict.fromkeys(NPZ_KEYS[:-1], np.zeros(3))
        np.savez(tmp_path / "film.npz", **arrays, provenance=provenance)
        self.fails(tmp_path / "film.npz", "is not a file of C3D features")

    def test_pickles_are_never_opened(self, tmp_path):
        arrays = dict.fromkeys(NPZ_KEYS[:-1], np.zeros(3))
        with (tmp_path / "film.npz").open("wb") as file:
            np.savez(file, **arrays, provenance=np.array({"a": 1}, object))
        self.fails(tmp_path / "film.npz", "allow_pickle")


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
