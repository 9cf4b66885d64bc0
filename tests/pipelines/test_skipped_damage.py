"""Bulk runs that leave out the clips of damaged pictures, and data sets of older releases."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient, ClipWindow
from c3d_client.core.errors import ProvenanceError
from c3d_pipelines import dataset
from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.dataset.merge import merge
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.sample_shards import A, B, C, commit, settings, to_do
from support.shard_runs import job, read_clips, read_videos, row
from support.videos import changed, edit_packets, moving_texture, write_video

COLUMN = "clips_left_out"
X264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0", "bf": "0"}


@pytest.fixture
def rows(tmp_path):
    """Sound; with one damaged picture of 60; and with one in each group of pictures."""

    sound = write_video(
        tmp_path / "sound.mp4", 60, draw=moving_texture, width=176, height=144, options=X264
    )
    edit_packets(sound, tmp_path / "damaged.mp4", changed(26))
    edit_packets(sound, tmp_path / "hopeless.mp4", changed(6, 18, 30, 42, 54))
    return [row(tmp_path / f"{name}.mp4") for name in ("sound", "damaged", "hopeless")]


def test_shard_leaves_out_the_clips_that_touch_damage(narrow_server, rows, tmp_path):
    out = tmp_path / "out"
    run = job(out, narrow_server.target, window=ClipWindow(damage="skip"))
    report = do_shard(run, rows, 0)
    assert report.provenance["damage"] == "skip"
    columns = ("status", "n_frames", "n_clips", "first_clip_row", COLUMN)
    assert [tuple(item[name] for name in columns) for item in read_videos(out, report)] == [
        ("ok", 60, 6, 0, 0),
        ("ok", 60, 3, 6, 3),
        ("corrupt", None, None, None, None),
    ]
    assert read_videos(out, report)[2]["error_message"].endswith(
        "is damaged: 5 of 60 pictures could not be decoded; no clip is left of 6"
    )
    clips = read_clips(out, report)
    starts = [item["start_frame"] for item in clips]
    assert starts == [0, 8, 16, 24, 32, 40, 0, 8, 40]
    # The clips that are left have the sound video's numbers.
    for position, same in ((6, 0), (7, 1), (8, 5)):
        assert np.array_equal(clips[position]["feature"], clips[same]["feature"])
    publish(run, to_do(*rows))
    published = dataset.open(out)
    assert [published.row(f"{name}.mp4").clips_left_out for name in ("sound", "damaged")] == [0, 3]
    assert published.row("hopeless.mp4").clips_left_out is None
    assert "clips that touch damaged pictures are left out" in (out / "README.md").read_text()


def test_damaged_videos_are_corrupt_by_default(narrow_server, rows, tmp_path):
    out = tmp_path / "out"
    report = do_shard(job(out, narrow_server.target), rows, 0)
    assert "damage" not in report.provenance
    videos = read_videos(out, report)
    assert [item["status"] for item in videos] == ["ok", "corrupt", "corrupt"]
    assert [item[COLUMN] for item in videos] == [None, None, None]
    assert "1 of 60 pictures could not be decoded" in videos[1]["error_message"]
    with C3DClient(narrow_server.target, window=ClipWindow(damage="skip")) as c3d:
        other = c3d.provenance()
    assert report.provenance.digest() != type(report.provenance)(other).digest()


class TestOlderDataSets:
    """Files without the column, as releases before it wrote them, are read, published, merged."""

    def without_column(self, folder):
        for path in (*folder.glob("shards/*.parquet"), *folder.glob("index.parquet")):
            table = pq.read_table(path)
            if COLUMN in table.column_names:
                metadata = table.schema.metadata
                table = table.drop_columns([COLUMN]).replace_schema_metadata(metadata)
                pq.write_table(table, path)

    def published(self, folder, rows, run, *, old):
        changed = settings(folder, run)
        report = commit(changed, rows)
        publish(changed, to_do(*rows))
        if old:
            self.without_column(folder)
            size = (folder / "shards" / f"{report.name}.parquet").stat().st_size
            text = (folder / "shards" / f"{report.name}.json").read_text()
            text = text.replace(f'"video_bytes": {report.video_bytes}', f'"video_bytes": {size}')
            (folder / "shards" / f"{report.name}.json").write_text(text)
        return folder

    def test_old_files_are_read_and_continued(self, tmp_path):
        folder = self.published(tmp_path / "one", [A, B], "run-1", old=True)
        assert COLUMN not in pq.read_schema(folder / "index.parquet").names
        table = read_index(Storage(folder))
        assert table.schema.field(COLUMN).type == pa.int64()
        assert table[COLUMN].null_count == len(table) == 2
        assert dataset.open(folder).row("a.mp4").clips_left_out is None
        newer = settings(folder, "run-2")
        commit(newer, [C])
        publish(newer, to_do(C))
        assert dataset.open(folder).ids() == ["a.mp4", "b.mp4", "c.mp4"]
        assert len(dataset.open(folder).matrix()[0]) == 3

    @pytest.mark.parametrize("old", [(True, False), (False, True), (True, True)])
    def test_old_and_new_files_are_merged(self, tmp_path, old):
        folders = [
            self.published(tmp_path / "one", [A, B], "run-1", old=old[0]),
            self.published(tmp_path / "two", [C], "run-2", old=old[1]),
        ]
        merged = merge(folders, tmp_path / "merged")
        assert merged.ids() == ["a.mp4", "b.mp4", "c.mp4"]
        assert merged.table()[COLUMN].null_count == 3
        assert len(merged.matrix()[1]) == 3

    def test_other_policies_are_not_mixed(self, tmp_path):
        one = self.published(tmp_path / "one", [A], "run-1", old=False)
        other = settings(tmp_path / "two", "run-2")
        skipping = type(other.provenance)({**other.provenance, "damage": "skip"})
        other = other.with_provenance(skipping)
        commit(other, [B])
        publish(other, to_do(B))
        with pytest.raises(ProvenanceError, match="damage: 'error' against 'skip'"):
            merge([one, tmp_path / "two"], tmp_path / "merged")
