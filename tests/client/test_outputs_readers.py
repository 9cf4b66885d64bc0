"""What others see in our files: read by NumPy, h5py, pandas, DuckDB and pyarrow alone."""

import json

import duckdb
import h5py
import numpy as np
import pandas
import pyarrow.parquet
import pytest
from c3d_client.core.errors import OutputError
from c3d_client.outputs import read_features, read_provenance, write_features
from support.sample_features import PROVENANCE, sample_features

ARRAYS = ("clip_features", "video_feature", "clip_starts", "clip_times_s")
DTYPES = ["float32", "float32", "int64", "float64"]


@pytest.fixture
def features():
    return sample_features(600)


class TestNpz:
    def test_is_read_by_numpy_alone(self, tmp_path, features):
        write_features(tmp_path / "film.npz", features)
        with np.load(tmp_path / "film.npz", allow_pickle=False) as file:
            assert sorted(file.files) == sorted([*ARRAYS, "provenance"])
            assert [file[key].dtype.name for key in ARRAYS] == DTYPES
            assert all(np.array_equal(file[key], getattr(features, key)) for key in ARRAYS)
            assert json.loads(file["provenance"].item()) == PROVENANCE

    def test_that_numpy_wrote_is_read(self, tmp_path, features):
        arrays = {key: getattr(features, key) for key in ARRAYS}
        np.savez_compressed(tmp_path / "film.npz", **arrays, provenance=json.dumps(PROVENANCE))
        read = read_features(tmp_path / "film.npz")
        assert np.array_equal(read.clip_features, features.clip_features)
        assert read.provenance == PROVENANCE


class TestNpy:
    def test_is_read_by_numpy_alone(self, tmp_path, features):
        write_features(tmp_path / "film.npy", features)
        rows = np.load(tmp_path / "film.npy", mmap_mode="r")
        assert rows.dtype == np.float32
        assert np.array_equal(rows, features.clip_features)

    def test_has_the_rest_as_json_beside_it(self, tmp_path):
        features = sample_features(clip_times_s=np.array([[0, 0.5], [np.nan, 1], [1, 1.5]]))
        write_features(tmp_path / "film.npy", features)
        content = json.loads((tmp_path / "film.npy.json").read_text())
        assert content["provenance"] == PROVENANCE
        assert content["clip_starts"] == [0, 8, 16]
        assert content["clip_times_s"] == [[0, 0.5], [None, 1], [1, 1.5]]
        assert np.array_equal(np.float32(content["video_feature"]), features.video_feature)


class TestH5:
    def test_is_read_by_h5py_alone(self, tmp_path, features):
        write_features(tmp_path / "film.h5", features)
        with h5py.File(tmp_path / "film.h5", "r") as file:
            assert sorted(file) == sorted(ARRAYS)
            assert [file[key].dtype.name for key in ARRAYS] == DTYPES
            assert all(np.array_equal(file[key], getattr(features, key)) for key in ARRAYS)
            assert json.loads(file.attrs["provenance"]) == PROVENANCE

    def test_that_h5py_wrote_is_read(self, tmp_path, features):
        with h5py.File(tmp_path / "film.h5", "w") as file:
            for key in ARRAYS:
                file[key] = getattr(features, key)
            file.attrs["provenance"] = json.dumps(PROVENANCE)
        assert np.array_equal(
            read_features(tmp_path / "film.h5").clip_features, features.clip_features
        )

    def test_keeps_a_long_provenance(self, tmp_path):
        long = {"labels": ["x" * 100] * 1000}
        write_features(tmp_path / "film.h5", sample_features(provenance=long))
        assert read_provenance(tmp_path / "film.h5") == long

    @pytest.mark.parametrize("key", ARRAYS)
    def test_without_a_dataset_or_with_a_group_for_it_is_an_error(self, tmp_path, key):
        path = tmp_path / "film.h5"
        write_features(path, sample_features())
        with h5py.File(path, "a") as file:
            del file[key]
        for _ in range(2):
            for read in (read_features, read_provenance):
                with pytest.raises(OutputError, match=f"no dataset {key}"):
                    read(path)
            with h5py.File(path, "a") as file:
                file.require_group(key)


class TestParquet:
    def test_is_a_table_for_pandas(self, tmp_path, features):
        write_features(tmp_path / "film.parquet", features)
        table = pandas.read_parquet(tmp_path / "film.parquet")
        names = ["video", "clip", "start_frame", "start_s", "end_s", "feature"]
        assert list(table) == names
        assert set(table["video"]) == {"a/zwölf.mp4"}
        assert list(table["clip"]) == list(range(600))
        assert np.array_equal(table["start_frame"], features.clip_starts)
        assert np.array_equal(table[["start_s", "end_s"]], features.clip_times_s)
        assert np.array_equal(np.stack(table["feature"]), features.clip_features)

    def test_is_a_table_for_duckdb(self, tmp_path, features):
        for n in range(2):
            write_features(tmp_path / f"{n}.parquet", features)
        with duckdb.connect() as database:
            said = database.execute(
                "select video, count(*), max(start_s), sum(list_sum(feature)), "
                f"min(len(feature)) from '{tmp_path}/*.parquet' group by video"
            ).fetchall()
            metadata = database.execute(
                f"select key::varchar from parquet_kv_metadata('{tmp_path}/0.parquet')"
            ).fetchall()
        [(video, clips, last, total, size)] = said
        assert (video, clips, size) == ("a/zwölf.mp4", 1200, 4096)
        assert last == features.clip_times_s[-1, 0]
        assert total == pytest.approx(2 * features.clip_features.sum(dtype=np.float64), rel=1e-4)
        assert {("provenance",), ("video_feature",)} <= set(metadata)

    def test_has_types_row_groups_and_metadata_as_said(self, tmp_path, features):
        write_features(tmp_path / "film.parquet", features)
        with pyarrow.parquet.ParquetFile(tmp_path / "film.parquet") as file:
            assert [str(kind) for kind in file.schema_arrow.types] == [
                *("string", "int64", "int64", "double", "double"),
                "fixed_size_list<element: float>[4096]",
            ]
            groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            assert [group.num_rows for group in groups] == [256, 256, 88]
            assert json.loads(file.schema_arrow.metadata[b"provenance"]) == PROVENANCE
            mean = np.float32(json.loads(file.metadata.metadata[b"video_feature"]))
        assert np.array_equal(mean, features.video_feature)

    def test_of_a_film_without_a_name_is_written(self, tmp_path):
        write_features(tmp_path / "film.parquet", sample_features(provenance={}))
        assert list(pandas.read_parquet(tmp_path / "film.parquet")["video"]) == [""] * 3

    def test_of_other_columns_or_order_is_an_error(self, tmp_path):
        path = tmp_path / "film.parquet"
        write_features(path, sample_features())
        table = pyarrow.parquet.read_table(path)
        empty = table.set_column(4, "end_s", [pyarrow.array([0.5, None, 1])])
        for other, words in (
            (table.drop(["clip"]), "its columns are video, start_frame"),
            (table.take([1, 0, 2]), "not those of one video in order"),
            (pyarrow.concat_tables([table, table]), "not those of one video in order"),
            (empty, "empty cells"),
            (table.replace_schema_metadata(None), "provenance|NoneType"),
        ):
            pyarrow.parquet.write_table(other, path)
            with pytest.raises(OutputError, match=words):
                read_features(path)
