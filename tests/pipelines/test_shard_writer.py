"""The writer of a shard: row groups, checksums, and nulls where there are no numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.core.provenance import Provenance
from c3d_client.results import Timings, VideoFeatures
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards import writer as shard_writer
from c3d_pipelines.shards.schema import clip_file, clip_schema, video_file, video_schema
from c3d_pipelines.shards.writer import key_when_read, writing_shard
from c3d_pipelines.storage import Storage

NAME = "0123456789abcdef"
PROVENANCE = {"clips": {"stride": 8}}
OPTIONS = {"answer": "features", "size": 4096, "provenance": Provenance(PROVENANCE)}


def features(clips, seed=0):
    numbers = np.random.default_rng(seed).random((clips, 4096), np.float32)
    starts = np.arange(clips, dtype=np.int64) * 8
    video = {"fingerprint": {"size": 9, "mtime_ns": 7}, "frames": 16, "fps": 25.0}
    video |= {"duration_s": 0.64, "width": 320, "height": 240, "interlaced": False}
    return VideoFeatures(
        clip_starts=starts,
        clip_times_s=np.stack([starts / 25, (starts + 16) / 25], axis=1),
        clip_features=numbers,
        video_feature=numbers.mean(axis=0),
        provenance={**PROVENANCE, "video": video},
        timings=Timings(1.0, 0.5, 0.25, None, None),
    )


def planned_row(number):
    return ManifestRow(f"video {number}", f"/videos/{number}.mp4", 5, 0.0, "stat:5-7")


def test_any_message_is_one_row_and_loses_no_other(tmp_path):
    messages = ["\udce9", "\ud800", "a\0b", "two\r\nlines", '"', "m" * 10**6, "\x1b[31m\u202e", ""]
    with writing_shard(Storage(tmp_path), NAME, **OPTIONS) as writer:
        for number, message in enumerate(messages):
            writer.add_failed(planned_row(number), VideoDecodeError(f"{message}.mp4", message))
        writer.add(planned_row(len(messages)), features(1))
    rows = pq.read_table(tmp_path / video_file(NAME)).to_pylist()
    assert [row["status"] for row in rows] == ["corrupt"] * len(messages) + ["ok"]
    assert rows[0]["error_message"] == r"\xe9.mp4: \xe9"
    assert rows[3]["error_message"] == r"two\r\nlines.mp4: two lines"
    for row in rows:
        assert len(row["error_message"]) <= 500
        assert row["error_message"].isprintable()


def test_numbers_are_bit_exact_whatever_the_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_CLIP_GROUP_ROWS", 100)
    monkeypatch.setattr(shard_writer, "_VIDEO_GROUP_ROWS", 3)
    storage = Storage(tmp_path)
    lengths = [1, 250, 0, 99, 64, 65, 0, 3]
    originals = [features(count, seed) if count else None for seed, count in enumerate(lengths)]
    with writing_shard(storage, NAME, **OPTIONS) as writer:
        for number, result in enumerate(originals):
            if result is None:
                writer.add_failed(planned_row(number), VideoDecodeError("a", "is damaged"))
            else:
                writer.add(planned_row(number), result)
    videos = pq.read_table(tmp_path / video_file(NAME))
    clips = pq.read_table(tmp_path / clip_file(NAME))
    ok_results = [result for result in originals if result is not None]
    assert np.array_equal(
        clips["feature"].combine_chunks().flatten().to_numpy().reshape(-1, 4096),
        np.concatenate([result.clip_features for result in ok_results]),
    )
    for name, column in (("start_frame", "clip_starts"), ("start_s", None)):
        expected = [
            getattr(result, column) if column else result.clip_times_s[:, 0]
            for result in ok_results
        ]
        assert np.array_equal(clips[name].to_numpy(), np.concatenate(expected))
    assert videos["feature"].is_null().to_pylist() == [result is None for result in originals]
    stored = videos["feature"].drop_null().combine_chunks().flatten().to_numpy().reshape(-1, 4096)
    assert np.array_equal(stored, np.stack([result.video_feature for result in ok_results]))
    assert videos["first_clip_row"].to_pylist() == [0, 1, None, 251, 350, 414, None, 479]
    assert (writer.videos, writer.clips) == (8, sum(lengths))
    assert dict(writer.counts) == {"ok": 6, "corrupt": 2}
    assert writer.timings == {
        "wall_s": 6.0,
        "decode_s": 3.0,
        "wire_s": 1.5,
        "queue_s": 0.0,
        "compute_s": 0.0,
    }
    assert writer.video_bytes == storage.size(video_file(NAME))
    assert writer.clip_bytes == storage.size(clip_file(NAME))


def test_columns_are_those_of_the_schema(tmp_path):
    with writing_shard(Storage(tmp_path), NAME, **OPTIONS) as writer:
        writer.add(planned_row(0), features(2))
    for file, schema in (
        (video_file(NAME), video_schema("features")),
        (clip_file(NAME), clip_schema("features")),
    ):
        stored = pq.read_schema(tmp_path / file)
        assert stored.names == schema.names
        for field, expected in zip(stored, schema, strict=True):
            assert field.nullable == expected.nullable
            assert field.type == expected.type or pa.types.is_list(field.type)


def test_row_groups_are_bounded_compressed_and_have_checksums(tmp_path):
    with writing_shard(Storage(tmp_path), NAME, **OPTIONS) as writer:
        for number in range(130):
            writer.add(planned_row(number), features(5, number))
    for file, most in ((video_file(NAME), 128), (clip_file(NAME), 256 + 63)):
        with pq.ParquetFile(tmp_path / file) as parquet:
            meta = parquet.metadata
            groups = [meta.row_group(index) for index in range(meta.num_row_groups)]
            assert len(groups) > 1
            assert max(group.num_rows for group in groups) <= most
            columns = {
                groups[0].column(index).path_in_schema: groups[0].column(index)
                for index in range(5)
            }
            numbers = groups[0].column(meta.num_columns - 1)
            assert numbers.compression == "ZSTD"
            assert not numbers.is_stats_set
            assert "DICTIONARY" not in str(numbers.encodings)
            assert columns["video_id"].is_stats_set
    path = tmp_path / clip_file(NAME)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises((OSError, pa.ArrowException)),
        pq.ParquetFile(path, page_checksum_verification=True) as parquet,
    ):
        parquet.read()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, VideoDecodeError("a", "b")])
def test_error_while_writing_leaves_no_file(tmp_path, error):
    def write_and_fail():
        with writing_shard(Storage(tmp_path), NAME, **OPTIONS) as writer:
            writer.add(planned_row(0), features(600))
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_and_fail()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_appear_when_the_block_ends(tmp_path):
    storage = Storage(tmp_path)
    with writing_shard(storage, NAME, **OPTIONS) as writer:
        writer.add(planned_row(0), features(600))
        assert storage.names() == []
    assert storage.names() == [clip_file(NAME), video_file(NAME)]


def test_key_is_of_the_video_when_it_was_read():
    for planned, properties, recorded in [
        ("stat:5-1", {"size": 5, "mtime_ns": 1}, "stat:5-1"),
        ("stat:5-1", {"size": 6, "mtime_ns": 2}, "stat:6-2"),
        ("", {"size": 6, "mtime_ns": 2}, "stat:6-2"),
        ("sha256:ab", {"size": 6, "mtime_ns": 2}, "sha256:ab"),
        ("etag:a", {"size": 6, "etag": '"b"'}, "etag:b"),
        ("edition 7", {"size": 6, "etag": '"b"'}, "edition 7"),
        ("etag:a", {}, "etag:a"),
        ("", {}, ""),
    ]:
        assert key_when_read(ManifestRow("a", "a.mp4", 0, 0.0, planned), properties) == recorded, (
            planned,
            properties,
            recorded,
        )
