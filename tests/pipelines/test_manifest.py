"""The list of inputs: complete, stable, and checked before any work is done."""

import pytest
from c3d_client.errors import ManifestError
from c3d_pipelines import (
    ManifestRow,
    cut_into_shards,
    list_folder,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos with spaces"
    for name in ("b.mp4", "a.MKV", "deep/c.avi", "deep/é.webm", "notes.txt", ".hidden.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    (root / ".git").mkdir()
    (root / ".git" / "d.mp4").touch()
    (root / "folder.mp4").mkdir()
    return root


def test_a_folder_lists_each_video_once_by_path_and_nothing_else(folder):
    rows = list_folder(folder)
    assert [row.video_id for row in rows] == ["a.MKV", "b.mp4", "deep/c.avi", "deep/é.webm"]
    assert [row.uri for row in rows] == [str(folder / row.video_id) for row in rows]
    assert [row.size_bytes for row in rows] == [5, 5, 10, 11]


def test_the_manifest_reads_back_as_it_was_written(folder, tmp_path):
    rows = [*list_folder(folder), ManifestRow('a "b", c\nd', "s3://x/y,z.mp4", 0)]
    path = tmp_path / "manifest.csv"
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    assert [entry.name for entry in tmp_path.glob(".manifest*")] == []


def test_sizes_may_be_left_out(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("uri,video_id\nfile.mp4,one\n")
    assert read_manifest(path) == [ManifestRow("one", "file.mp4", 0)]


def test_all_bad_rows_are_named_at_once_with_their_lines(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("video_id,uri,size_bytes\na,a.mp4,1\n,b.mp4,1\nc,c.mp4,big\na,d.mp4,1\ne\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 4 rows cannot be used: ")
    for part in (
        "line 3:",
        "line 4: size_bytes is 'big'",
        "line 5: video_id 'a' comes twice",
        "line 6: fewer",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column uri, video_id"),
        (b"video_id,name\na,b\n", "no column uri"),
        (b"video_id,uri\n", "nothing to do"),
        (b"video_id,uri\n\xff\xfe,b\n", "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content, words):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=words):
        read_manifest(path)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such folder"):
        list_folder(tmp_path / "absent")
    with pytest.raises(ManifestError, match="no videos there"):
        list_folder(tmp_path)


def test_shards_hold_every_row_once_in_order_and_stay_below_their_size():
    sizes = [5, 5, 1, 20, 3, 3, 3, 3, 9]
    rows = [ManifestRow(f"v{n}", f"v{n}.mp4", size) for n, size in enumerate(sizes)]
    shards = cut_into_shards(rows, shard_bytes=10)
    assert [row for shard in shards for row in shard.rows] == rows
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [shard.size_bytes for shard in shards] == [10, 1, 20, 9, 3, 9]


def test_a_manifest_with_a_repeated_id_is_not_written(tmp_path):
    rows = [ManifestRow("a", "a.mp4", 1), ManifestRow("a", "b.mp4", 1)]
    with pytest.raises(ManifestError, match="row 2: video_id 'a' comes twice"):
        write_manifest(tmp_path / "manifest.csv", rows)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_the_manifest_cannot_be_written(tmp_path):
    (tmp_path / "manifest.csv").mkdir()
    with pytest.raises(ManifestError, match="cannot be written"):
        write_manifest(tmp_path / "manifest.csv", [ManifestRow("a", "a.mp4", 1)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.csv"]
