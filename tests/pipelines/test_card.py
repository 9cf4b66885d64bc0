"""A dataset says what it is, to programs and to people, and is held against it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from c3d_client.core.errors import ProvenanceError
from c3d_pipelines.dataset.card import read_card, require_same_dataset
from c3d_pipelines.dataset.index import INDEX_SCHEMA
from c3d_pipelines.errors import ShardError
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import clip_schema, video_schema
from c3d_pipelines.storage import Storage
from support.sample_shards import LABELS, OTHER, PROVENANCE, commit, settings, to_do, video

A, B = video("a.mp4"), video("b.mp4")


def published(out: Path, provenance=PROVENANCE, **kind) -> str:
    """A dataset's README; one video of two is ok."""
    job = settings(out, provenance=provenance, **kind)
    commit(job, [A, B], statuses={"b.mp4": "corrupt"})
    publish(job, to_do(A, B))
    return (out / "README.md").read_text("utf-8")


class TestForPrograms:
    def test_what_was_written_is_read(self, tmp_path):
        published(tmp_path, answer="classes")
        card = read_card(Storage(tmp_path))
        assert card.answer == "classes"
        assert card.labels == LABELS
        assert card.size == 3
        assert card.videos["ok"] == 1
        assert json.loads((tmp_path / "dataset.json").read_text()) == json.loads(card.to_json())

    def test_where_there_is_none_there_is_none(self, tmp_path):
        assert read_card(Storage(tmp_path)) is None

    @pytest.mark.parametrize("text", ["", "[]", '{"answer": "features"}', "\xff", "FORMAT 2"])
    def test_what_is_none_is_one_clear_line(self, tmp_path, text):
        published(tmp_path)
        path = tmp_path / "dataset.json"
        if text == "FORMAT 2":
            text = path.read_text().replace('"format": 1', '"format": 2')
        path.write_text(text, "latin-1")
        with pytest.raises(ShardError, match="dataset.json: is not the card of a dataset") as told:
            read_card(Storage(tmp_path))
        assert "\n" not in str(told.value)

    def test_classes_with_other_labels_never_come_together(self, tmp_path):
        job = settings(tmp_path, answer="classes")
        commit(job, [A])
        commit(job, [B], index=1, labels=["archery", "bowling", "cricket"])
        with pytest.raises(ProvenanceError, match="class 1 is '.*' against '.*'"):
            publish(job, [*to_do(A), *to_do(B, shard=1)])
        assert not (tmp_path / "index.parquet").exists()


class TestWhatMayJoin:
    @pytest.mark.parametrize("finished", [True, False])
    def test_numbers_made_the_same_way_may_and_others_may_not(self, tmp_path, finished):
        job = settings(tmp_path)
        commit(job, [A])
        if finished:
            publish(job, to_do(A))
        storage = Storage(tmp_path)
        require_same_dataset(storage, answer="features", provenance=PROVENANCE)
        with pytest.raises(ProvenanceError, match="model.precision: .* give another out"):
            require_same_dataset(storage, answer="features", provenance=OTHER)
        with pytest.raises(ProvenanceError, match="answer: 'features' against 'classes'"):
            require_same_dataset(storage, answer="classes", provenance=PROVENANCE)

    def test_into_an_empty_place_all_may(self, tmp_path):
        require_same_dataset(Storage(tmp_path), answer="classes", provenance=OTHER)


class TestForPeople:
    def test_its_front_matter_names_the_parts(self, tmp_path):
        text = published(tmp_path / 'films: "new" & more')
        _, front, _ = text.split("---\n", 2)
        said = yaml.safe_load(front)
        assert said["pretty_name"] == 'films: "new" & more'
        files = {one["config_name"]: one["data_files"] for one in said["configs"]}
        assert files == {
            "index": "index.parquet",
            "videos": "shards/*.parquet",
            "clips": "clips/*.parquet",
        }
        assert [one.get("default", False) for one in said["configs"]] == [True, False, False]

    def test_parts_that_are_not_there_are_not_named(self, tmp_path):
        text = published(tmp_path / "a", clip_rows=False)
        assert "config_name: clips" not in text
        assert "this dataset keeps none" in text
        publish(settings(tmp_path / "b"), to_do(A))
        assert "config_name: videos" not in (tmp_path / "b/README.md").read_text()

    def test_it_counts_and_names_what_made_the_numbers(self, tmp_path):
        text = published(tmp_path)
        assert "C3D features of 2 videos" in text
        assert "| `ok` | 1 |" in text
        assert "| `corrupt` | 1 |" in text
        assert "| `failed` | 0 |" in text
        assert "float32 `[4096]`, fc6 after ReLU" in text
        assert "C3D of Sports-1M" in text
        shown = re.search(r"```json\n(.*?)```", text, re.DOTALL)
        assert json.loads(shown[1]) == PROVENANCE

    def test_it_names_every_column(self, tmp_path):
        text = published(tmp_path)
        names = {*INDEX_SCHEMA.names, *video_schema("features").names}
        names |= set(clip_schema("features").names)
        assert [name for name in names if f"`{name}`" not in text] == []

    @pytest.mark.parametrize(
        ("clips", "said"),
        [
            ({}, "A clip is 16 frames: consecutive frames, each frame of the file."),
            ({"stride": 4}, "the next clip starts 4 frames later"),
            ({"frame_step": 2, "fps": 12.5}, "one frame in 2, taken at 12.5 frames a second"),
            ({"tail": "loop"}, "get one that repeats its frames from the first on"),
            ({"short": "pad"}, "fewer frames than one clip gets one that repeats its last frame"),
            ({}, "fewer frames than one clip is `too_short`"),
        ],
    )
    def test_it_says_what_a_clip_is(self, tmp_path, clips, said):
        made = {**PROVENANCE, "clips": {**PROVENANCE["clips"], **clips}}
        assert said in published(tmp_path, made)

    def test_random_weights_are_called_so(self, tmp_path):
        weights = {"source": "seed 7", "random": True, "sha256": "00" * 32}
        made = {**PROVENANCE, "model": {**PROVENANCE["model"], "weights": weights}}
        assert "**the numbers mean nothing**" in published(tmp_path, made)
