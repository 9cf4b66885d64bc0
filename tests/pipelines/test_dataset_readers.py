"""Other libraries read a dataset: the examples of its README, and its files."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from c3d_pipelines import dataset


class TestReadmeExamples:
    """The examples of the dataset's README."""

    @pytest.fixture(autouse=True)
    def _offline(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.setenv(name, str(tmp_path / name))

    def example(self, folder: Path, library: str, monkeypatch) -> dict:
        blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        [code] = [block for block in blocks if block.startswith(f"import {library}\n")]
        monkeypatch.chdir(folder)
        names: dict = {}
        exec(code, names)
        return names

    def expected(self, folder: Path) -> dict[str, np.ndarray]:
        return dict(zip(*dataset.open(folder).matrix(), strict=True))

    def require_same(self, loaded: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
        assert sorted(loaded) == sorted(expected)
        assert all(np.array_equal(loaded[name], expected[name]) for name in expected)

    @pytest.fixture(params=["features", "classes"])
    def folder(self, request) -> Path:
        return request.getfixturevalue(f"{request.param}_dataset")

    def column(self, folder: Path) -> str:
        return "feature" if "features" in str(folder) else "probabilities"

    def test_c3d_pipelines_reads_the_example(self, folder, monkeypatch):
        names = self.example(folder, "c3d_pipelines.dataset", monkeypatch)
        self.require_same(
            dict(zip(names["ids"], names["numbers"], strict=True)), self.expected(folder.resolve())
        )

    def test_pandas_reads_the_example(self, folder, monkeypatch):
        videos = self.example(folder, "pandas as pd", monkeypatch)["videos"]
        numbers = videos[self.column(folder)]
        self.require_same(
            dict(zip(videos["video_id"], numbers, strict=True)), self.expected(folder)
        )

    def test_duckdb_reads_the_example(self, folder, monkeypatch):
        try:
            loaded = self.example(folder, "duckdb", monkeypatch)["videos"].fetchall()
        finally:
            duckdb.default_connection().close()
        numbers = {name: np.array(values, np.float32) for name, values in loaded}
        self.require_same(numbers, self.expected(folder))

    def test_hugging_face_reads_the_example(self, folder, monkeypatch):
        hugging_face()
        videos = self.example(folder, "datasets", monkeypatch)["videos"].with_format("numpy")
        expected = self.expected(folder)
        del expected["twin.mp4"]  # its file has the original's row
        ids = list(videos["video_id"])
        assert len(ids) == len(expected) + 1
        numbers = np.asarray(videos[self.column(folder)][:], np.float32)
        self.require_same(dict(zip(ids, numbers, strict=True)), expected)

    def test_hugging_face_reads_files_and_file_rows(self, opened, tmp_path):
        datasets = hugging_face()
        loaded = datasets.load_dataset(
            "parquet", data_files=opened.files(), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(loaded) == 10  # all results, superseded ones included
        rows = loaded.select(opened.file_rows()).with_format("numpy")
        assert np.array_equal(np.asarray(rows["feature"][:]), opened.matrix()[1])

    def test_hugging_face_reads_the_configs_of_the_readme(self, features_dataset, tmp_path):
        datasets = hugging_face()
        for name, rows in (("index", 9), ("videos", 10), ("clips", 14)):
            loaded = datasets.load_dataset(
                str(features_dataset), name, split="train", cache_dir=str(tmp_path / "cache")
            )
            assert len(loaded) == rows, name


def hugging_face():
    return pytest.importorskip("datasets", reason="datasets is not installed: not read by it")
