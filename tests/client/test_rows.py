"""Rows of clip features: in memory while they are few, in a file without a name beyond that."""

import os
import tracemalloc

import numpy as np
import pytest
from c3d_client.core.errors import OutputError
from c3d_client.core.files import CHUNK_ROWS, row_chunks
from c3d_client.results import RowStore


def batches(count, *, size=8, width=64):
    for number in range(count):
        yield np.arange(
            number * size * width, (number + 1) * size * width, dtype=np.float32
        ).reshape(size, width)


@pytest.mark.parametrize("most", [1, 7, 8, 100, 10_000])
def test_rows_come_back_as_they_were_added_wherever_they_were_kept(most):
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


def test_many_rows_leave_no_name_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = RowStore(most_in_memory=8)
    for batch in batches(10):
        store.add(batch)
    rows = store.array()
    assert os.listdir(tmp_path) == []
    assert rows[79, 63] == 80 * 64 - 1


def test_memory_does_not_grow_with_the_rows():
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


def test_chunks_are_all_rows_in_order():
    store = RowStore(most_in_memory=8)
    for batch in batches(100):
        store.add(batch)
    for rows in (store.array(), np.concatenate(list(batches(100)))):
        chunks = list(row_chunks(rows, 33))
        assert [len(chunk) for chunk in chunks] == [33] * 24 + [8]
        assert np.array_equal(np.concatenate(chunks), np.concatenate(list(batches(100))))


def test_a_folder_without_room_is_named(monkeypatch):
    def no_room(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_room)
    store = RowStore(most_in_memory=8)
    (batch,) = batches(1, size=9)
    with pytest.raises(OutputError, match=r"No space left on device.*TMPDIR"):
        store.add(batch)
