"""Each format as other programs see it: read by their code, and files of theirs read here."""

import json
from decimal import ROUND_HALF_UP, Decimal

import duckdb
import h5py
import numpy as np
import pandas
import pyarrow.parquet
import pytest
from c3d_client.core.errors import OutputError, ProvenanceError, UsageError
from c3d_client.outputs import read_features, read_provenance, write_features
from c3d_client.outputs.activitynet import new_collection, video_id
from c3d_client.outputs.sultani import segment_means
from support.errors import error_of
from support.sample_features import PROVENANCE, names_in, same_features, sample_features

ARRAYS = ("clip_features", "video_feature", "clip_starts", "clip_times_s")
DTYPES = ["float32", "float32", "int64", "float64"]


@pytest.fixture
def features():
    return sample_features(600)


class TestNpz:
    def test_numpy_alone_reads_it(self, tmp_path, features):
        write_features(tmp_path / "video.npz", features)
        with np.load(tmp_path / "video.npz", allow_pickle=False) as file:
            assert sorted(file.files) == sorted([*ARRAYS, "provenance"])
            assert [file[key].dtype.name for key in ARRAYS] == DTYPES
            assert all(np.array_equal(file[key], getattr(features, key)) for key in ARRAYS)
            assert json.loads(file["provenance"].item()) == PROVENANCE

    def test_file_of_numpy_is_read(self, tmp_path, features):
        arrays = {key: getattr(features, key) for key in ARRAYS}
        np.savez_compressed(tmp_path / "video.npz", **arrays, provenance=json.dumps(PROVENANCE))
        read = read_features(tmp_path / "video.npz")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert read.provenance == PROVENANCE


class TestNpy:
    def test_numpy_alone_reads_it(self, tmp_path, features):
        write_features(tmp_path / "video.npy", features)
        rows = np.load(tmp_path / "video.npy", mmap_mode="r")
        assert rows.dtype == np.float32
        assert np.array_equal(rows, features.clip_features)

    def test_sidecar_is_json(self, tmp_path):
        features = sample_features(clip_times_s=np.array([[0, 0.5], [np.nan, 1], [1, 1.5]]))
        write_features(tmp_path / "video.npy", features)
        content = json.loads((tmp_path / "video.npy.json").read_text())
        assert content["provenance"] == PROVENANCE
        assert content["clip_starts"] == [0, 8, 16]
        assert content["clip_times_s"] == [[0, 0.5], [None, 1], [1, 1.5]]
        assert np.array_equal(np.float32(content["video_feature"]), features.video_feature)


class TestH5:
    def test_h5py_alone_reads_it(self, tmp_path, features):
        write_features(tmp_path / "video.h5", features)
        with h5py.File(tmp_path / "video.h5", "r") as file:
            assert sorted(file) == sorted(ARRAYS)
            assert [file[key].dtype.name for key in ARRAYS] == DTYPES
            assert all(np.array_equal(file[key], getattr(features, key)) for key in ARRAYS)
            assert json.loads(file.attrs["provenance"]) == PROVENANCE

    def test_file_of_h5py_is_read(self, tmp_path, features):
        with h5py.File(tmp_path / "video.h5", "w") as file:
            for key in ARRAYS:
                file[key] = getattr(features, key)
            file.attrs["provenance"] = json.dumps(PROVENANCE)
        assert np.array_equal(
            read_features(tmp_path / "video.h5").clip_features, features.clip_features
        )

    def test_long_provenance_is_stored(self, tmp_path):
        provenance = {"labels": ["x" * 100] * 1000}
        write_features(tmp_path / "video.h5", sample_features(provenance=provenance))
        assert read_provenance(tmp_path / "video.h5") == provenance

    def test_missing_dataset_and_group_of_its_name_are_errors(self, tmp_path):
        path = tmp_path / "video.h5"
        for key in ARRAYS:
            write_features(path, sample_features())
            with h5py.File(path, "a") as file:
                del file[key]
            for _ in range(2):
                for reader in (read_features, read_provenance):
                    assert f"no dataset {key}" in str(error_of(OutputError, reader, path))
                with h5py.File(path, "a") as file:
                    file.require_group(key)


class TestParquet:
    def test_pandas_reads_it_as_a_table(self, tmp_path, features):
        write_features(tmp_path / "video.parquet", features)
        table = pandas.read_parquet(tmp_path / "video.parquet")
        names = ["video", "clip", "start_frame", "start_s", "end_s", "feature"]
        assert list(table) == names
        assert set(table["video"]) == {"a/zwölf.mp4"}
        assert list(table["clip"]) == list(range(600))
        assert np.array_equal(table["start_frame"], features.clip_starts)
        assert np.array_equal(table[["start_s", "end_s"]], features.clip_times_s)
        assert np.array_equal(np.stack(table["feature"]), features.clip_features)

    def test_duckdb_reads_it_as_a_table(self, tmp_path, features):
        for number in range(2):
            write_features(tmp_path / f"{number}.parquet", features)
        with duckdb.connect() as database:
            rows = database.execute(
                "select video, count(*), max(start_s), sum(list_sum(feature)), "
                f"min(len(feature)) from '{tmp_path}/*.parquet' group by video"
            ).fetchall()
            metadata = database.execute(
                f"select key::varchar from parquet_kv_metadata('{tmp_path}/0.parquet')"
            ).fetchall()
        [(video, clips, last, total, size)] = rows
        assert (video, clips, size) == ("a/zwölf.mp4", 1200, 4096)
        assert last == features.clip_times_s[-1, 0]
        assert total == pytest.approx(2 * features.clip_features.sum(dtype=np.float64), rel=1e-4)
        assert {("provenance",), ("video_feature",)} <= set(metadata)

    def test_types_row_groups_and_metadata(self, tmp_path, features):
        write_features(tmp_path / "video.parquet", features)
        with pyarrow.parquet.ParquetFile(tmp_path / "video.parquet") as file:
            assert [str(kind) for kind in file.schema_arrow.types] == [
                *("string", "int64", "int64", "double", "double"),
                "fixed_size_list<element: float>[4096]",
            ]
            groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            assert [group.num_rows for group in groups] == [256, 256, 88]
            assert json.loads(file.schema_arrow.metadata[b"provenance"]) == PROVENANCE
            mean = np.float32(json.loads(file.metadata.metadata[b"video_feature"]))
        assert np.array_equal(mean, features.video_feature)

    def test_video_without_a_name_is_written(self, tmp_path):
        write_features(tmp_path / "video.parquet", sample_features(provenance={}))
        assert list(pandas.read_parquet(tmp_path / "video.parquet")["video"]) == [""] * 3

    def test_columns_of_later_releases_are_ignored(self, tmp_path):
        path = tmp_path / "video.parquet"
        features = sample_features()
        write_features(path, features)
        with pyarrow.parquet.ParquetFile(path) as file:
            table, metadata = file.read(), file.metadata.metadata
        table = table.append_column("future", pyarrow.array(["a", None, "c"]))
        table = table.select(["future", *reversed(table.column_names[:-1])])
        with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"video_feature": metadata[b"video_feature"]})
        assert same_features(read_features(path), features)
        assert read_provenance(path) == PROVENANCE

    def test_missing_columns_and_other_order_of_rows_are_errors(self, tmp_path):
        path = tmp_path / "video.parquet"
        write_features(path, sample_features())
        table = pyarrow.parquet.read_table(path)
        empty = table.set_column(4, "end_s", [pyarrow.array([0.5, None, 1])])
        for other, expected in (
            (table.drop(["clip"]), "its columns are video, start_frame"),
            (table.append_column("clip", table["clip"]), "its columns are video, clip"),
            (table.set_column(1, "clip", table["end_s"]), "in their types"),
            (table.take([1, 0, 2]), "not those of one video in order"),
            (pyarrow.concat_tables([table, table]), "not those of one video in order"),
            (empty, "empty cells"),
            (table.replace_schema_metadata(None), "provenance|NoneType"),
        ):
            pyarrow.parquet.write_table(other, path)
            with pytest.raises(OutputError, match=expected):
                read_features(path)


def read_binary_blob(path):
    """Read a blob like `read_binary_blob.m` of C3D-v1.0."""
    with open(path, "rb") as file:
        shape = np.fromfile(file, np.int32, 5)
        values = np.fromfile(file, np.float32, int(np.prod(shape)))
        assert file.read() == b""
    return shape, values


class TestCaffe:
    def test_folder_has_blobs_named_by_start_frame(self, tmp_path):
        features = sample_features(clip_starts=np.array([0, 16, 1_000_000]))
        write_features(tmp_path / "video.fc6", features)
        names = ["000000.fc6-1", "000016.fc6-1", "1000000.fc6-1"]
        assert names_in(tmp_path / "video.fc6") == [*names, "provenance.json"]
        for name, row in zip(names, features.clip_features, strict=True):
            shape, values = read_binary_blob(tmp_path / "video.fc6" / name)
            assert shape.tolist() == [1, 4096, 1, 1, 1]
            assert np.array_equal(values, row)

    def test_blobs_are_read_in_the_order_of_frames(self, tmp_path):
        features = sample_features(clip_starts=np.array([999_992, 1_000_000, 1_000_008]))
        write_features(tmp_path / "video.fc6", features)
        read = read_features(tmp_path / "video.fc6")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert np.array_equal(read.clip_starts, features.clip_starts)
        assert np.isnan(read.clip_times_s).all()
        assert read.video_feature == pytest.approx(features.video_feature, abs=1e-7)
        note = {"format": "caffe", "name": "video.fc6"}
        assert read.provenance == {**PROVENANCE, "converted_from": note}

    def test_folder_of_the_original_is_read_with_files_of_other_layers(self, tmp_path):
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

    def test_clips_without_different_starts_are_refused(self, tmp_path):
        for starts, expected in (([0, 8, 8], "same frame"), ([0, -1, 8], "not known")):
            features = sample_features(clip_starts=np.array(starts))
            error = error_of(OutputError, write_features, tmp_path / "video.fc6", features)
            assert expected in str(error)
        assert names_in(tmp_path) == []

    def test_blob_of_another_name_is_an_error(self, tmp_path):
        write_features(tmp_path / "video.fc6", sample_features())
        (tmp_path / "video.fc6" / "000016.fc6-1").rename(tmp_path / "video.fc6" / "last.fc6-1")
        with pytest.raises(OutputError, match="last.fc6-1 is not named by a frame"):
            read_features(tmp_path / "video.fc6")


class TestActivityNet:
    def test_published_readers_code_reads_it(self, tmp_path):
        videos = {f"v_{n}": sample_features(n + 1, seed=n) for n in range(3)}
        with new_collection(tmp_path / "all.hdf5") as collection:
            for name, features in videos.items():
                collection.add(name, features)
        with h5py.File(tmp_path / "all.hdf5", "r") as file:
            assert list(file.keys()) == ["v_0", "v_1", "v_2"]
            for name, features in videos.items():
                rows = file[name]["c3d_features"][:]
                assert rows.dtype == np.float32
                assert np.array_equal(rows, features.clip_features)
                assert json.loads(file[name].attrs["provenance"]) == PROVENANCE

    def test_single_video_is_read_under_its_id(self, tmp_path):
        features = sample_features()
        write_features(tmp_path / "video.hdf5", features)
        with h5py.File(tmp_path / "video.hdf5", "r") as file:
            assert list(file) == ["zwölf"]
        read = read_features(tmp_path / "video.hdf5")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert read.clip_starts.tolist() == [-1] * 3
        assert np.isnan(read.clip_times_s).all()
        assert read.provenance["converted_from"] == {"format": "activitynet", "name": "video.hdf5"}

    def test_ids_are_names_without_folders_and_suffixes(self):
        for name, expected in (
            ("train/v_QOl.mp4", "v_QOl"),
            ("v_QOl", "v_QOl"),
            ("a.b/c.d.mkv", "c.d"),
            (".x", ".x"),
        ):
            assert video_id(name) == expected

    def test_collection_is_not_read_as_one_video(self, tmp_path):
        with new_collection(tmp_path / "all.hdf5") as collection:
            collection.add("one", sample_features())
            collection.add("two", sample_features())
        for reader in (read_features, read_provenance):
            error = error_of(OutputError, reader, tmp_path / "all.hdf5")
            assert "2 videos, not one; convert it" in str(error)

    def test_bad_ids_and_other_provenance_are_refused(self, tmp_path):
        def write(name, features):
            with new_collection(tmp_path / "all.hdf5") as collection:
                collection.add("one", sample_features())
                collection.add(name, features)

        for name in ("one", "", "a/b", ".."):
            error_of(UsageError, write, name, sample_features())
        other = sample_features(provenance={**PROVENANCE, "contract_version": "0"})
        error_of(ProvenanceError, write, "two", other)
        assert names_in(tmp_path) == []

    def test_published_rows_of_500_numbers_are_refused(self, tmp_path):
        with h5py.File(tmp_path / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:
            file["v_QOl/c3d_features"] = np.ones((3, 500), np.float32)
        with pytest.raises(OutputError, match=r"float32 \[3, 500\]; expected float32 \[n, 4096\]"):
            read_features(tmp_path / "sub_activitynet_v1-3.c3d.hdf5")

    def test_file_of_another_layout_is_an_error(self, tmp_path):
        with h5py.File(tmp_path / "flat.hdf5", "w") as file:
            file["v_QOl"] = np.ones((3, 4096), np.float32)
        with pytest.raises(OutputError, match="v_QOl is a dataset; expected groups"):
            read_features(tmp_path / "flat.hdf5")


def segments_of_the_script(rows):
    """`Save_C3DFeatures_32Segments.m` line by line, in exact decimals where it rounds."""
    n = len(rows)
    shots = []
    for k in range(33):  # linspace(1, n, 33), then round, which rounds halves up
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
    def test_segments_are_those_of_the_script(self):
        for clips in (1, 2, 3, 16, 17, 31, 32, 33, 34, 48, 49, 65, 97, 300, 1025):
            rows = np.random.default_rng(clips).random((clips, 40), np.float32)
            expected = segments_of_the_script(rows)
            assert segment_means(rows) == pytest.approx(expected, abs=1e-12), clips

    def test_detectors_code_reads_the_text(self, tmp_path, features):
        write_features(tmp_path / "Abuse001_x264.mp4_C.txt", features)
        text = (tmp_path / "Abuse001_x264.mp4_C.txt").read_text("ascii")
        lines = text.split("\n")
        assert len(lines) == 33
        assert lines[32] == ""
        numbers = text.split()  # like the detector's load_dataset_One_Video_Features
        assert len(numbers) == 32 * 4096
        rows = [np.float32(numbers[n * 4096 : n * 4096 + 4096]) for n in range(32)]
        expected = segments_of_the_script(features.clip_features)
        assert np.vstack(rows) == pytest.approx(expected, abs=5.1e-7)
        assert lines[0].startswith(" ".join(f"{value:.6f}" for value in expected[0, :3]))
        assert all(line.endswith(" ") for line in lines[:32])

    def test_last_clip_of_a_long_video_is_left_out_like_in_the_script(self):
        rows = np.ones((100, 8), np.float32)
        other_end = rows.copy()
        other_end[-1] = [8, 0, 0, 0, 0, 0, 0, 0]
        assert np.array_equal(segment_means(rows), segment_means(other_end))

    def test_clips_that_the_script_refuses_are_refused(self, tmp_path):
        for value in (0, np.nan, np.inf, -np.inf):
            rows = sample_features(300).clip_features
            rows[299] = value
            features = sample_features(300, clip_features=rows)
            error = error_of(OutputError, write_features, tmp_path / "video_C.txt", features)
            assert "clip 299 is zero everywhere or not finite" in str(error), value
        assert names_in(tmp_path) == []

    def test_file_of_the_original_is_read_without_a_sidecar(self, tmp_path, features):
        write_features(tmp_path / "video_C.txt", features)
        (tmp_path / "video_C.txt.json").unlink()
        read = read_features(tmp_path / "video_C.txt")
        assert read.clip_features.shape == (32, 4096)
        assert read.clip_starts.tolist() == [-1] * 32
        assert list(read.provenance) == ["converted_from"]
        assert read_provenance(tmp_path / "video_C.txt") == {}

    def test_other_text_or_another_count_of_numbers_is_an_error(self, tmp_path):
        for text in ("1 " * 4096, "x " * (32 * 4096), "1 " * (33 * 4096), "ü", "0 " * (32 * 4096)):
            (tmp_path / "video_C.txt").write_text(text)
            error = error_of(OutputError, read_features, tmp_path / "video_C.txt")
            assert "holds no C3D features" in str(error), text[:10]
