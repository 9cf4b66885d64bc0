"""``.parquet``: one row for each clip, for pandas, DuckDB and data lakes.

Columns: ``video`` (its source, text), ``clip`` int64 from 0, ``start_frame`` int64, ``start_s`` and
``end_s`` float64, ``feature`` fixed_size_list<float32>[4096], or [dim] after PCA. The file's
key-value metadata holds
``provenance`` and ``video_feature`` as JSON text, so that neither repeats in every row nor needs a
second file; ``provenance`` is also in the schema of the tables that pyarrow returns. Columns of
later releases are ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.files import atomic_file, row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.validation import (
    collect_rows,
    load_library,
    make_features,
    parse_provenance,
    provenance_json,
    video_source,
)
from c3d_client.results import VideoFeatures

# Clips in a row group, 4 MB: the unit in which readers load a file.
_GROUP_ROWS = 256
_EXTRA = "parquet"
_CLIP_COLUMNS = ("video", "clip", "start_frame", "start_s", "end_s")
_COLUMNS = (*_CLIP_COLUMNS, "feature")


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features, a row group of 256 clips at a time."""
    pyarrow, pq = _libraries()
    size = features.clip_features.shape[1]
    schema = _schema(pyarrow, size).with_metadata({"provenance": provenance_json(features)})
    source = video_source(features)
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            # Features hardly repeat, and their minimum and maximum are of no use to readers.
            use_dictionary=["video"],
            write_statistics=list(_CLIP_COLUMNS),
            write_page_checksum=True,
        ) as writer,
    ):
        start = 0
        for chunk in row_chunks(features.clip_features, _GROUP_ROWS):
            rows = slice(start, start + len(chunk))
            columns = [
                pyarrow.array([source] * len(chunk), pyarrow.string()),
                np.arange(rows.start, rows.stop),
                features.clip_starts[rows],
                features.clip_times_s[rows, 0],
                features.clip_times_s[rows, 1],
                pyarrow.FixedSizeListArray.from_arrays(
                    np.ascontiguousarray(chunk).reshape(-1), size
                ),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))
            start = rows.stop
        # Not in the schema, which the file has twice and of which pyarrow's tables have a copy.
        writer.add_key_value_metadata(
            {"video_feature": json.dumps(features.video_feature.tolist())}
        )


def read(path: Path) -> VideoFeatures:
    """Read a video's features."""
    with _open(path) as file:
        metadata = file.metadata.metadata
        columns: list[tuple[npt.NDArray[Any], ...]] = []
        rows = collect_rows(_feature_chunks(file, columns))
        clip, starts, start_s, end_s = map(np.concatenate, zip(*columns, strict=True))
        if not np.array_equal(clip, np.arange(len(rows))):
            raise ValueError("its clips are not those of one video in order")
        return make_features(
            clip_features=rows,
            provenance=parse_provenance(metadata[b"provenance"]),
            clip_starts=starts,
            clip_times_s=np.stack([start_s, end_s], axis=1),
            video_feature=np.array(json.loads(metadata[b"video_feature"]), np.float32),
        )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance from the end of the file."""
    with _open(path) as file:
        return parse_provenance(file.metadata.metadata[b"provenance"])


def _feature_chunks(
    file: Any, columns: list[tuple[npt.NDArray[Any], ...]]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield features in chunks, and append the other columns of each chunk to ``columns``."""
    # One group at a time: with all groups requested, pyarrow loads the whole file.
    for group in range(file.num_row_groups):
        # Without threads: one that still frees a part of the file when the process ends aborts it.
        for batch in file.iter_batches(
            _GROUP_ROWS, row_groups=[group], columns=list(_COLUMNS), use_threads=False
        ):
            feature = batch.column("feature")
            if feature.values.null_count or any(column.null_count for column in batch.columns):
                raise ValueError("it has empty cells")
            columns.append(tuple(batch.column(name).to_numpy() for name in _CLIP_COLUMNS[1:]))
            yield feature.flatten().to_numpy().reshape(-1, feature.type.list_size)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    pyarrow, pq = _libraries()
    # Opened here: pyarrow takes only paths that are UTF-8.
    with (
        path.open("rb") as raw,
        pq.ParquetFile(raw, page_checksum_verification=True, pre_buffer=False) as file,
    ):
        text = (file.metadata.metadata or {}).get(b"provenance", b"{}")
        size = parse_provenance(text).feature_size
        schema, expected = file.schema_arrow, _schema(pyarrow, size)
        if any(schema.names.count(name) != 1 for name in _COLUMNS) or any(
            not schema.field(name).equals(expected.field(name)) for name in _COLUMNS
        ):
            raise ValueError(
                f"its columns are {', '.join(schema.names)}; expected {', '.join(expected.names)}, "
                "in their types"
            )
        yield file


def _schema(pyarrow: Any, size: int) -> Any:
    types = (
        pyarrow.string(),
        pyarrow.int64(),
        pyarrow.int64(),
        pyarrow.float64(),
        pyarrow.float64(),
        pyarrow.list_(pyarrow.float32(), size),
    )
    return pyarrow.schema(list(zip(_COLUMNS, types, strict=True)))


def _libraries() -> tuple[Any, Any]:
    return (
        load_library("pyarrow", extra=_EXTRA),
        load_library("pyarrow.parquet", extra=_EXTRA),
    )
