"""Files for published code: written as that code expects them, and read as its authors wrote."""

import json
from decimal import ROUND_HALF_UP, Decimal

import h5py
import numpy as np
import pytest
from c3d_client.core.errors import OutputError, ProvenanceError, UsageError
from c3d_client.outputs import read_features, read_provenance, write_features
from c3d_client.outputs.activitynet import new_collection, video_id
from c3d_client.outputs.sultani import segment_means
from support.sample_features import PROVENANCE, names_in, sample_features


@pytest.fixture
def features():
    return sample_features(600)


def read_binary_blob(path):
    """As the reader in MATLAB that comes with C3D-v1.0 does it."""
    with open(path, "rb") as file:
        shape = np.fromfile(file, np.int32, 5)
        values = np.fromfile(file, np.float32, int(np.prod(shape)))
        assert file.read() == b""
    return shape, values


class TestCaffe:
    def test_is_a_folder_of_blobs_named_by_start_frame(self, tmp_path):
        features = sample_features(clip_starts=np.array([0, 16, 1_000_000]))
        write_features(tmp_path / "film.fc6", features)
        names = ["000000.fc6-1", "000016.fc6-1", "1000000.fc6-1"]
        assert names_in(tmp_path / "film.fc6") == [*names, "provenance.json"]
        for name, row in zip(names, features.clip_features, strict=True):
            shape, values = read_binary_blob(tmp_path / "film.fc6" / name)
            assert shape.tolist() == [1, 4096, 1, 1, 1]
            assert np.array_equal(values, row)

    def test_is_read_in_the_order_of_frames(self, tmp_path):
        features = sample_features(clip_starts=np.array([999_992, 1_000_000, 1_000_008]))
        write_features(tmp_path / "film.fc6", features)
        read = read_features(tmp_path / "film.fc6")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert np.array_equal(read.clip_starts, features.clip_starts)
        assert np.isnan(read.clip_times_s).all()
        assert read.video_feature == pytest.approx(features.video_feature, abs=1e-7)
        note = {"format": "caffe", "name": "film.fc6"}
        assert read.provenance == {**PROVENANCE, "converted_from": note}

    def test_of_the_original_is_read_with_layers_beside(self, tmp_path):
        folder = tmp_path / "v_ApplyEyeMakeup_g01_c01"
        folder.mkdir()
        for start in (0, 16):
            header = np.array([1, 4096, 1, 1, 1], np.int32).tobytes()
            values = np.full(4096, start + 1, np.float32)
            (folder / f"{start:06d}.fc6-1").write_bytes(header + values.tobytes())
            (folder / f"{start:06d}.prob").write_bytes(b"another layer")
        read = read_features(folder, format="caffe")
        assert read.clip_features[:, 0].tolist() == [1, 17]
        assert read.clip_starts.tolist() == [0, 16]
        assert list(read.provenance) == ["converted_from"]
        assert read_provenance(folder, format="caffe") == {}

    @pytest.mark.parametrize(
        ("starts", "words"), [([0, 8, 8], "same frame"), ([0, -1, 8], "not known")]
    )
    def test_cannot_name_clips_that_have_no_start_of_their_own(self, tmp_path, starts, words):
        with pytest.raises(OutputError, match=words):
            write_features(tmp_path / "film.fc6", sample_features(clip_starts=np.array(starts)))
        assert names_in(tmp_path) == []

    def test_with_a_file_of_another_name_is_an_error(self, tmp_path):
        write_features(tmp_path / "film.fc6", sample_features())
        (tmp_path / "film.fc6" / "000016.fc6-1").rename(tmp_path / "film.fc6" / "last.fc6-1")
        with pytest.raises(OutputError, match="last.fc6-1 is not named by a frame"):
            read_features(tmp_path / "film.fc6")


class TestActivityNet:
    def test_is_read_as_its_users_do(self, tmp_path):
        films = {f"v_{n}": sample_features(n + 1, seed=n) for n in range(3)}
        with new_collection(tmp_path / "all.hdf5") as collection:
            for name, features in films.items():
                collection.add(name, features)
        with h5py.File(tmp_path / "all.hdf5", "r") as file:
            assert list(file.keys()) == ["v_0", "v_1", "v_2"]
            for name, features in films.items():
                rows = file[name]["c3d_features"][:]
                assert rows.dtype == np.float32
                assert np.array_equal(rows, features.clip_features)
                assert json.loads(file[name].attrs["provenance"]) == PROVENANCE

    def test_of_one_video_has_its_id_and_is_read_back(self, tmp_path):
        features = sample_features()
        write_features(tmp_path / "film.hdf5", features)
        with h5py.File(tmp_path / "film.hdf5", "r") as file:
            assert list(file) == ["zwölf"]
        read = read_features(tmp_path / "film.hdf5")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert read.clip_starts.tolist() == [-1] * 3
        assert np.isnan(read.clip_times_s).all()
        assert read.provenance["converted_from"] == {"format": "activitynet", "name": "film.hdf5"}

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("train/v_QOl.mp4", "v_QOl"), ("v_QOl", "v_QOl"), ("a.b/c.d.mkv", "c.d"), (".x", ".x")],
    )
    def test_ids_are_names_without_folders_and_endings(self, name, expected):
        assert video_id(name) == expected

    def test_of_many_is_not_one(self, tmp_path):
        with new_collection(tmp_path / "all.hdf5") as collection:
            collection.add("one", sample_features())
            collection.add("two", sample_features())
        for read in (read_features, read_provenance):
            with pytest.raises(OutputError, match="2 videos, not one; convert it"):
                read(tmp_path / "all.hdf5")

    @pytest.mark.parametrize(
        ("name", "error", "changes"),
        [
            ("one", UsageError, {}),
            ("", UsageError, {}),
            ("a/b", UsageError, {}),
            ("..", UsageError, {}),
            ("two", ProvenanceError, {"provenance": {**PROVENANCE, "contract_version": "0"}}),
        ],
    )
    def test_refuses_what_cannot_be_beside_the_first(self, tmp_path, name, error, changes):
        def write():
            with new_collection(tmp_path / "all.hdf5") as collection:
                collection.add("one", sample_features())
                collection.add(name, sample_features(**changes))

        with pytest.raises(error):
            write()
        assert names_in(tmp_path) == []

    def test_of_500_numbers_a_row_as_published_is_told_from_ours(self, tmp_path):
        with h5py.File(tmp_path / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:
            file["v_QOl/c3d_features"] = np.ones((3, 500), np.float32)
        with pytest.raises(OutputError, match=r"float32 \[3, 500\]; expected float32 \[n, 4096\]"):
            read_features(tmp_path / "sub_activitynet_v1-3.c3d.hdf5")

    def test_of_another_layout_is_an_error(self, tmp_path):
        with h5py.File(tmp_path / "flat.hdf5", "w") as file:
            file["v_QOl"] = np.ones((3, 4096), np.float32)
        with pytest.raises(OutputError, match="v_QOl is a dataset; expected groups"):
            read_features(tmp_path / "flat.hdf5")


def segments_as_the_script_makes_them(rows):
    """`Save_C3DFeatures_32Segments.m` line by line, in exact decimals where it rounds."""
    n = len(rows)
    shots = []
    for k in range(33):  # linspace(1, n, 33), then round, which takes halves away from zero
        shots.append(int((1 + Decimal(n - 1) * k / 32).quantize(Decimal(1), ROUND_HALF_UP)))
    segments = []
    for i in range(32):
        ss, ee = shots[i], shots[i + 1] - 1  # from 1, both included
        if ee < ss:
            vector = rows[ss - 1].astype(float)
        else:
            vector = rows[ss - 1 : ee].astype(float).mean(axis=0)
        segments.append(vector / np.sqrt((vector**2).sum()))
    return np.array(segments)


class TestSultani:
    @pytest.mark.parametrize("clips", [1, 2, 3, 16, 17, 31, 32, 33, 34, 48, 49, 65, 97, 300, 1025])
    def test_segments_are_those_of_the_script(self, clips):
        rows = np.random.default_rng(clips).random((clips, 40), np.float32)
        expected = segments_as_the_script_makes_them(rows)
        assert segment_means(rows) == pytest.approx(expected, abs=1e-12)

    def test_is_text_as_the_detector_reads_it(self, tmp_path, features):
        write_features(tmp_path / "Abuse001_x264.mp4_C.txt", features)
        text = (tmp_path / "Abuse001_x264.mp4_C.txt").read_text("ascii")
        lines = text.split("\n")
        assert len(lines) == 33
        assert lines[32] == ""
        words = text.split()  # and now as its load_dataset_One_Video_Features
        assert len(words) == 32 * 4096
        rows = [np.float32(words[n * 4096 : n * 4096 + 4096]) for n in range(32)]
        expected = segments_as_the_script_makes_them(features.clip_features)
        assert np.vstack(rows) == pytest.approx(expected, abs=5.1e-7)
        assert lines[0].startswith(" ".join(f"{value:.6f}" for value in expected[0, :3]))
        assert all(line.endswith(" ") for line in lines[:32])

    def test_leaves_out_the_last_clip_of_a_long_film_as_the_script_does(self):
        rows = np.ones((100, 8), np.float32)
        with_another_end = rows.copy()
        with_another_end[-1] = [8, 0, 0, 0, 0, 0, 0, 0]
        assert np.array_equal(segment_means(rows), segment_means(with_another_end))

    @pytest.mark.parametrize("wrong", [0, np.nan, np.inf, -np.inf])
    def test_refuses_a_clip_that_the_script_refuses(self, tmp_path, wrong):
        rows = sample_features(300).clip_features
        rows[299] = wrong
        with pytest.raises(OutputError, match="clip 299 is zero everywhere or not finite"):
            write_features(tmp_path / "film_C.txt", sample_features(300, clip_features=rows))
        assert names_in(tmp_path) == []

    def test_of_the_original_is_read_without_a_sidecar(self, tmp_path, features):
        write_features(tmp_path / "film_C.txt", features)
        (tmp_path / "film_C.txt.json").unlink()
        read = read_features(tmp_path / "film_C.txt")
        assert read.clip_features.shape == (32, 4096)
        assert read.clip_starts.tolist() == [-1] * 32
        assert list(read.provenance) == ["converted_from"]
        assert read_provenance(tmp_path / "film_C.txt") == {}

    def test_with_other_words_or_too_many_is_an_error(self, tmp_path):
        for text in ("1 " * 4096, "x " * (32 * 4096), "1 " * (33 * 4096), "ü", "0 " * (32 * 4096)):
            (tmp_path / "film_C.txt").write_text(text)
            with pytest.raises(OutputError, match="holds no C3D features"):
                read_features(tmp_path / "film_C.txt")
