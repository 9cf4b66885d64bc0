"""Results of a video: means, normalised features, top classes, and rows on disk."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.files import CHUNK_ROWS, row_chunks
from c3d_client.results import ClassScore, RowStore, RunningMean, l2_normalise, top_classes

# Reads the mapped rows of a long video in every way that is no output format: 2,000 rows, 33 MB.
READERS = """
import io, json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from support.resident import peak_growth_mb
from support.sample_classification import classified, random_probabilities
from c3d_client import partial
from c3d_client.commands.classify import clip_lines
from c3d_client.results import RowStore
from c3d_client.views.curves import best_curves
from c3d_client.views.page import write_page
from c3d_client.views.tables import write_csv, write_json
from c3d_client.views.thumbnails import Thumbnails

COUNT, SIZE = 2000, 4096
folder, partial.KEEP_AFTER_S = Path(sys.argv[1]), 0
few = classified(random_probabilities(100, SIZE))
starts = np.arange(COUNT) * 8
times_s = np.stack([starts, starts + 16], axis=1) / 25
strip = Thumbnails()
strip.end_s = times_s[-1, 1]

def keep(result, path):
    kept = partial.PartialRows(path, video={}, note=print)
    kept.begin(result.provenance)
    rows = {"first": result.clip_probabilities}
    kept.add(starts, {"first": rows["first"][-8:]}, count=len(rows["first"]), earlier=lambda: rows)
    kept.close()

readers = {
    "kept rows": keep,
    "CSV": lambda result, path: write_csv(path.open("w"), "video", result, top_k=1),
    "JSON": lambda result, path: write_json(path.open("w"), "video", result, top_k=1),
    "lines": lambda result, path: path.write_text(clip_lines(result, top_k=1)),
    "curves": lambda result, path: path.write_text(str(best_curves(result, top_k=1))),
    "page": lambda result, path: write_page(path, result, source="", strip=strip, top_k=1),
}
for name, read in readers.items():
    read(few, folder / f"{name} of few")  # loads the libraries
    store = RowStore()
    for _ in range(COUNT // 100):
        store.add(few.clip_probabilities)
    result = replace(
        few, clip_probabilities=store.array(), clip_starts=starts, clip_times_s=times_s
    )
    growth_mb = peak_growth_mb(lambda: read(result, folder / name))
    print(json.dumps([name, growth_mb, (folder / name).stat().st_size]))
"""

ROWS = np.random.default_rng(3).standard_normal((30, 50)).astype(np.float32) ** 2


def mean_in_batches(rows, size):
    mean = RunningMean()
    for start in range(0, len(rows), size):
        mean.add(rows[start : start + size])
    return mean


@pytest.mark.parametrize("size", [1, 3, 8, 29, 30])
def test_mean_does_not_depend_on_the_batch_size(size):
    mean = mean_in_batches(ROWS, size)
    assert mean.count == 30
    assert mean.value().dtype == np.float64
    assert mean.value() == pytest.approx(ROWS.astype(np.float64).mean(axis=0), rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_mean_is_exact_where_the_sums_are_exact(size):
    rows = np.arange(64, dtype=np.float32).reshape(16, 4)
    assert mean_in_batches(rows, size).value().tolist() == [30.0, 31.0, 32.0, 33.0]


def test_mean_is_summed_in_float64():
    # In float32, 2**24 + 1 is 2**24.
    rows = np.array([[2.0**24]] + [[1.0]] * 7, np.float32)
    assert mean_in_batches(rows, 1).value()[0] == (2.0**24 + 7) / 8


def test_mean_of_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        RunningMean().value()


def test_normalised_feature_is_float32_of_length_one():
    feature = l2_normalise(ROWS.astype(np.float64).mean(axis=0))
    assert feature.dtype == np.float32
    assert np.linalg.norm(feature.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)


def test_normalising_keeps_the_direction():
    assert l2_normalise(np.array([3.0, 4.0])) == pytest.approx([0.6, 0.8], abs=1e-7)


def test_large_float32_values_do_not_overflow():
    feature = l2_normalise(np.full(4, 1e30, np.float32))
    assert feature == pytest.approx([0.5] * 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan], "NaN or infinity"),
        ([1.0, np.inf], "NaN or infinity"),
        ([0.0, 0.0], "zero everywhere"),
    ],
)
def test_zero_nan_and_infinity_cannot_be_normalised(values, message):
    with pytest.raises(ValueError, match=message):
        l2_normalise(np.array(values))


class TestTopClasses:
    LABELS = ("a", "b", "c", "d")

    def test_most_probable_class_comes_first(self):
        top = top_classes(np.array([0.1, 0.4, 0.2, 0.3]), self.LABELS, top_k=3)
        assert top == (ClassScore(1, "b", 0.4), ClassScore(3, "d", 0.3), ClassScore(2, "c", 0.2))

    def test_of_equal_classes_the_lower_index_comes_first(self):
        # Many classes, because an unstable sort may still keep the order of a few.
        probabilities = np.tile([0.1, 0.4], 100)
        top = top_classes(probabilities, [""] * 200, top_k=200)
        assert [score.index for score in top] == [*range(1, 200, 2), *range(0, 200, 2)]

    def test_top_k_above_the_number_of_classes_returns_all(self):
        assert len(top_classes(np.full(4, 0.25), self.LABELS, top_k=100)) == 4

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_top_k_below_1_is_an_error(self, top_k):
        with pytest.raises(UsageError, match=f"top_k is {top_k}"):
            top_classes(np.full(4, 0.25), self.LABELS, top_k=top_k)


def batches(count, *, size=8, width=64):
    for number in range(count):
        yield np.arange(
            number * size * width, (number + 1) * size * width, dtype=np.float32
        ).reshape(size, width)


@pytest.mark.parametrize("most", [1, 7, 8, 100, 10_000])
def test_rows_are_the_same_from_memory_and_from_a_file(most):
    store = RowStore(most_in_memory=most)
    for batch in batches(20):
        store.add(batch)
    assert store.count == 160
    rows = store.array()
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.concatenate(list(batches(20))))


def test_few_rows_need_no_file(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    store = RowStore()
    for batch in batches(8):
        store.add(batch)
    assert store.array().shape == (CHUNK_ROWS, 64)


def test_temporary_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = RowStore(most_in_memory=8)
    for batch in batches(10):
        store.add(batch)
    rows = store.array()
    assert os.listdir(tmp_path) == []
    assert rows[79, 63] == 80 * 64 - 1


def test_memory_does_not_grow_with_the_number_of_rows():
    def peak(count):
        tracemalloc.start()
        store = RowStore(most_in_memory=64)
        for batch in batches(count, width=4096):
            store.add(batch)
        rows = store.array()
        for chunk in row_chunks(rows):
            assert len(chunk) <= CHUNK_ROWS
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(400) < 1.05 * peak(40) + 65536


@pytest.mark.long
def test_readers_of_mapped_rows_do_not_keep_their_pages(tmp_path):
    """2,000 rows are 33 MB; the peak of a process counts the pages of a map that it has read."""
    completed = subprocess.run(
        [sys.executable, "-c", READERS, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert completed.returncode == 0, completed.stderr
    read = [json.loads(line) for line in completed.stdout.splitlines()]
    assert [name for name, *_ in read] == ["kept rows", "CSV", "JSON", "lines", "curves", "page"]
    for name, growth_mb, written in read:
        assert growth_mb < 8, name
        assert written > 100, name
    assert read[0][2] > 2000 * 4096 * 4


def test_chunks_contain_all_rows_in_order():
    store = RowStore(most_in_memory=8)
    for batch in batches(100):
        store.add(batch)
    for rows in (store.array(), np.concatenate(list(batches(100)))):
        chunks = list(row_chunks(rows, 33))
        assert [len(chunk) for chunk in chunks] == [33] * 24 + [8]
        assert np.array_equal(np.concatenate(chunks), np.concatenate(list(batches(100))))


def test_full_disk_is_an_error_that_names_tmpdir(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    store = RowStore(most_in_memory=8)
    (batch,) = batches(1, size=9)
    with pytest.raises(OutputError, match=r"No space left on device.*TMPDIR"):
        store.add(batch)
