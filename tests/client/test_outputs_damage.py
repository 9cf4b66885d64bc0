"""Files that are damaged, cut short, or something else: one error, in every format."""

import contextlib
import shutil
import zipfile

import numpy as np
import pytest
from c3d_client.core.errors import OutputError
from c3d_client.outputs import FORMATS, NPZ_KEYS, read_features, read_provenance, write_features
from support.sample_features import sample_features


@pytest.fixture
def path(request, tmp_path):
    """Where features go in the format that the test has as its parameter ``name``."""
    return tmp_path / f"film.mp4{FORMATS[request.getfixturevalue('name')].suffix}"


every_format = pytest.mark.parametrize("name", FORMATS)


def fails_to_read(path, words):
    for read in (read_features, read_provenance):
        with pytest.raises(OutputError, match=words) as caught:
            read(path)
        assert caught.value.path == str(path)
        assert "\n" not in str(caught.value)


class TestReading:
    @every_format
    def test_what_is_not_there(self, path, name):
        fails_to_read(path, "no such file")

    @every_format
    def test_a_folder_of_other_things(self, path, name):
        path.mkdir()
        (path / "notes.txt").touch()
        fails_to_read(path, f"holds no C3D features that can be read as {name}")

    @every_format
    @pytest.mark.parametrize(
        "content", [b"", b"text\n", b"PK\x03\x04 and then", b"\x89HDF\r\n\x1a\n", b"PAR1", b"\xff"]
    )
    def test_another_kind_of_file(self, path, name, content):
        path.write_bytes(content)
        if name == "sultani":  # whose provenance is beside it, and needs not be
            with pytest.raises(OutputError, match="holds no C3D features that can be read as"):
                read_features(path)
        else:
            words = "is missing" if name == "npy" else "holds no C3D features that can be read as"
            fails_to_read(path, words)

    @every_format
    def test_a_result_of_another_format(self, path, name):
        for other in FORMATS.values():
            if other.name == name:
                continue
            write_features(path, sample_features(), format=other.name)
            with pytest.raises(OutputError):
                read_features(path)
            for left in path.parent.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    @pytest.mark.parametrize("name", [name for name in FORMATS if name != "caffe"])
    def test_a_result_cut_short_anywhere(self, path, name):
        write_features(path, sample_features(40))
        content = path.read_bytes()
        for part in (0.999, 0.9, 0.5, 0.1, 0.001):
            path.write_bytes(content[: int(len(content) * part)])
            with pytest.raises(OutputError):
                read_features(path)
        path.write_bytes(content[:-1])
        with pytest.raises(OutputError):
            read_features(path)

    def test_a_folder_with_a_file_cut_short(self, tmp_path):
        write_features(tmp_path / "film.fc6", sample_features())
        blob = tmp_path / "film.fc6" / "000008.fc6-1"
        content = blob.read_bytes()
        for size in (0, 3, 20, 16_000):
            blob.write_bytes(content[:size])
            with pytest.raises(OutputError, match=f"000008.fc6-1 has {size} bytes"):
                read_features(tmp_path / "film.fc6")

    @pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("caffe", "sultani")])
    def test_a_result_with_one_wrong_bit_among_the_clips(self, path, name):
        write_features(path, sample_features(40))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(OutputError):
            read_features(path)

    @pytest.mark.parametrize("name", ["npz", "h5", "parquet", "activitynet"])
    def test_bytes_wrong_anywhere_never_raise_anything_else(self, path, name):
        write_features(path, sample_features())
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        ends = np.r_[0:4096, len(content) - 4096 : len(content)]  # where the structure is
        for place in rng.choice(ends, 60, replace=False):
            damaged = bytearray(content)
            damaged[place] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            for read in (read_features, read_provenance):
                with contextlib.suppress(OutputError):
                    read(path)

    @pytest.mark.parametrize("name", ["npy", "sultani"])
    def test_a_file_that_is_not_its_sidecars(self, path, name):
        write_features(path, sample_features(seed=1))
        older = path.read_bytes()
        write_features(path, sample_features(seed=2))
        path.write_bytes(older)  # as if the power failed between the two
        with pytest.raises(OutputError, match="not those that its .json was written for|bytes"):
            read_features(path)

    def test_an_array_without_its_sidecar(self, tmp_path):
        np.save(tmp_path / "film.npy", np.ones((3, 4096), np.float32))
        fails_to_read(tmp_path / "film.npy", "film.npy.json, which belongs to it, is missing")

    @pytest.mark.parametrize("wrong", ["", "[]", "{}", "not JSON", '{"bytes": 49280}'])
    @pytest.mark.parametrize("name", ["npy", "sultani"])
    def test_a_sidecar_that_is_none(self, path, name, wrong):
        write_features(path, sample_features())
        path.with_name(path.name + ".json").write_text(wrong)
        fails_to_read(path, "holds no C3D features")


class TestNpz:
    def test_with_arrays_of_other_names_is_none(self, tmp_path):
        np.savez(tmp_path / "film.npz", features=np.zeros(4096))
        fails_to_read(tmp_path / "film.npz", "clip_features")

    @pytest.mark.parametrize("provenance", ["not JSON", 1.5j, [1, 2], "[1]", "", "[" * 100_000])
    def test_with_provenance_that_is_not_json_is_none(self, tmp_path, provenance):
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        np.savez(tmp_path / "film.npz", **arrays, provenance=provenance)
        fails_to_read(tmp_path / "film.npz", "holds no C3D features")

    def test_with_pickles_in_it_is_never_opened(self, tmp_path):
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        with (tmp_path / "film.npz").open("wb") as file:
            np.savez(file, **arrays, provenance=np.array({"a": 1}, object))
        fails_to_read(tmp_path / "film.npz", "allow_pickle")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda clips: clips + b"more", "goes on after its 3 rows"),
            (lambda clips: clips[:-16384], "cut short: ends before the last of 3 rows"),
        ],
    )
    def test_whose_clips_are_not_as_many_as_it_says_is_none(self, tmp_path, change, words):
        path = tmp_path / "film.npz"
        write_features(path, sample_features())
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["clip_features.npy"] = change(members["clip_features.npy"])
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(OutputError, match=words):
            read_features(path)

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((3, 500), np.float32), r"float32 \[3, 500\]; expected float32 \[n, 4096\]"),
            (np.zeros((3, 4096)), r"float64 \[3, 4096\]"),
            (np.asfortranarray(np.ones((3, 4096), np.float32)), "Fortran order"),
            (np.zeros((0, 4096), np.float32), "no clips"),
            (np.zeros(4096, np.float32), r"float32 \[4096\]"),
            (np.zeros((2, 4096), np.float32), r"expected float32 \[3, 4096\]"),
        ],
    )
    def test_with_clips_of_another_kind_is_none(self, tmp_path, array, words):
        arrays = {key: getattr(sample_features(), key) for key in NPZ_KEYS[:-1]}
        arrays["clip_features"] = array
        np.savez(tmp_path / "film.npz", **arrays, provenance="{}")
        with pytest.raises(OutputError, match=words):
            read_features(tmp_path / "film.npz")
