"""Files that are damaged, cut short, or of another kind are one error, in every format."""

import contextlib
import shutil
import zipfile

import numpy as np
from c3d_client.core.errors import OutputError
from c3d_client.outputs import FORMATS, NPZ_KEYS, read_features, read_provenance, write_features
from support.errors import error_of
from support.sample_features import format_path, sample_features

NOT_FEATURES = "holds no C3D features that can be read as"


def assert_unreadable(path, expected, *case, readers=(read_features, read_provenance)):
    """Check the error of each reader: its text, its path, and that it is one line."""
    for reader in readers:
        error = error_of(OutputError, reader, path)
        assert expected in str(error), (path, reader, *case)
        assert error.path == str(path)
        assert "\n" not in str(error), (path, *case)


class TestReading:
    def test_missing_file(self, tmp_path):
        for name in FORMATS:
            assert_unreadable(format_path(tmp_path, name), "no such file")

    def test_folder_of_other_files(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            path.mkdir()
            (path / "notes.txt").touch()
            assert_unreadable(path, f"{NOT_FEATURES} {name}")

    def test_file_of_another_kind(self, tmp_path):
        contents = (b"", b"text\n", b"PK\x03\x04 and then", b"\x89HDF\r\n\x1a\n", b"PAR1", b"\xff")
        for name in FORMATS:
            path = format_path(tmp_path, name)
            for content in contents:
                path.write_bytes(content)
                if name == "sultani":  # a file without a sidecar has an empty provenance
                    assert_unreadable(path, NOT_FEATURES, content, readers=(read_features,))
                else:
                    expected = "is missing" if name == "npy" else NOT_FEATURES
                    assert_unreadable(path, expected, content)

    def test_result_in_another_format(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            for other in FORMATS.keys() - {name}:
                write_features(path, sample_features(), format=other)
                error_of(OutputError, read_features, path)
                for file in path.parent.iterdir():
                    shutil.rmtree(file) if file.is_dir() else file.unlink()

    def test_result_that_is_cut_short(self, tmp_path):
        for name in FORMATS.keys() - {"caffe"}:
            path = format_path(tmp_path, name)
            write_features(path, sample_features(40))
            content = path.read_bytes()
            sizes = [int(len(content) * part) for part in (0.999, 0.9, 0.5, 0.1, 0.001)]
            for size in (*sizes, len(content) - 1):
                path.write_bytes(content[:size])
                error_of(OutputError, read_features, path)

    def test_folder_with_a_file_that_is_cut_short(self, tmp_path):
        write_features(tmp_path / "video.fc6", sample_features())
        blob = tmp_path / "video.fc6" / "000008.fc6-1"
        content = blob.read_bytes()
        for size in (0, 3, 20, 16_000):
            blob.write_bytes(content[:size])
            message = str(error_of(OutputError, read_features, tmp_path / "video.fc6"))
            assert f"000008.fc6-1 has {size} bytes" in message

    def test_one_wrong_bit_among_the_clips(self, tmp_path):
        for name in FORMATS.keys() - {"caffe", "sultani"}:
            path = format_path(tmp_path, name)
            write_features(path, sample_features(40))
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            error_of(OutputError, read_features, path)

    def test_wrong_bytes_anywhere_raise_no_other_error(self, tmp_path):
        for name in ("npz", "h5", "parquet", "activitynet"):
            path = format_path(tmp_path, name)
            write_features(path, sample_features())
            content = path.read_bytes()
            rng = np.random.default_rng(0)
            structure = np.r_[0:4096, len(content) - 4096 : len(content)]
            for index in rng.choice(structure, 60, replace=False):
                damaged = bytearray(content)
                damaged[index] ^= int(rng.integers(1, 256))
                path.write_bytes(damaged)
                for reader in (read_features, read_provenance):
                    with contextlib.suppress(OutputError):
                        reader(path)

    def test_file_that_its_sidecar_does_not_describe(self, tmp_path):
        for name in ("npy", "sultani"):
            path = format_path(tmp_path, name)
            write_features(path, sample_features(seed=1))
            older = path.read_bytes()
            write_features(path, sample_features(seed=2))
            path.write_bytes(older)  # as after a power cut between the two files
            message = str(error_of(OutputError, read_features, path))
            assert "not those that its .json was written for" in message or "bytes" in message

    def test_array_without_a_sidecar(self, tmp_path):
        np.save(tmp_path / "video.npy", np.ones((3, 4096), np.float32))
        expected = "video.npy.json, which belongs to it, is missing"
        assert_unreadable(tmp_path / "video.npy", expected)

    def test_sidecar_of_another_kind(self, tmp_path):
        for name in ("npy", "sultani"):
            path = format_path(tmp_path, name)
            for content in ("", "[]", "{}", "not JSON", '{"bytes": 49280}'):
                write_features(path, sample_features())
                path.with_name(path.name + ".json").write_text(content)
                assert_unreadable(path, "holds no C3D features", content)


class TestNpz:
    def test_arrays_of_other_names(self, tmp_path):
        np.savez(tmp_path / "video.npz", features=np.zeros(4096))
        assert_unreadable(tmp_path / "video.npz", "clip_features")

    def test_provenance_that_is_not_json(self, tmp_path):
        path = tmp_path / "video.npz"
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        for provenance in ("not JSON", 1.5j, [1, 2], "[1]", "", "[" * 100_000):
            np.savez(path, **arrays, provenance=provenance)
            assert_unreadable(path, "holds no C3D features", provenance)

    def test_pickles_are_never_loaded(self, tmp_path):
        path = tmp_path / "video.npz"
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        with path.open("wb") as file:
            np.savez(file, **arrays, provenance=np.array({"a": 1}, object))
        assert_unreadable(path, "allow_pickle")

    def test_more_or_fewer_clips_than_the_header_gives(self, tmp_path):
        path = tmp_path / "video.npz"
        for change, expected in (
            (lambda clips: clips + b"more", "goes on after its 3 rows"),
            (lambda clips: clips[:-16384], "cut short: ends before the last of 3 rows"),
        ):
            write_features(path, sample_features())
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            members["clip_features.npy"] = change(members["clip_features.npy"])
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            assert_unreadable(path, expected, readers=(read_features,))

    def test_clips_of_another_shape_or_dtype(self, tmp_path):
        path = tmp_path / "video.npz"
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        for array, expected in (
            (np.zeros((3, 500), np.float32), "float32 [3, 500]; expected float32 [n, 4096]"),
            (np.zeros((3, 4096)), "float64 [3, 4096]"),
            (np.asfortranarray(np.ones((3, 4096), np.float32)), "Fortran order"),
            (np.zeros((0, 4096), np.float32), "no clips"),
            (np.zeros(4096, np.float32), "float32 [4096]"),
            (np.zeros((2, 4096), np.float32), "expected float32 [3, 4096]"),
        ):
            np.savez(path, **{**arrays, "clip_features": array}, provenance="{}")
            assert_unreadable(path, expected, array.shape, readers=(read_features,))
