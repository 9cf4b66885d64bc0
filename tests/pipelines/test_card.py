"""The cards of a dataset: dataset.json, README.md, and the check of further numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import Provenance
from c3d_pipelines.dataset.card import read_card, require_same_dataset
from c3d_pipelines.dataset.index import INDEX_SCHEMA
from c3d_pipelines.errors import ShardError
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import clip_schema, report_file, video_schema
from c3d_pipelines.storage import Storage
from support.sample_shards import LABELS, NEWER, OTHER, PROVENANCE, A, B, commit, settings, to_do


def published(out: Path, provenance=PROVENANCE, **kind) -> str:
    """Publish a dataset with one ok video of two and return its README."""
    job = settings(out, provenance=provenance, **kind)
    commit(job, [A, B], statuses={"b.mp4": "corrupt"})
    publish(job, to_do(A, B))
    return (out / "README.md").read_text("utf-8")


class TestForPrograms:
    def test_card_is_read_as_it_was_written(self, tmp_path):
        published(tmp_path, answer="classes")
        card = read_card(Storage(tmp_path))
        assert card.answer == "classes"
        assert card.labels == LABELS
        assert card.size == 3
        assert card.videos["ok"] == 1
        assert json.loads((tmp_path / "dataset.json").read_text()) == json.loads(card.to_json())

    def test_folder_without_a_card_has_none(self, tmp_path):
        assert read_card(Storage(tmp_path)) is None

    @pytest.mark.parametrize("text", ["", "[]", '{"answer": "features"}', "\xff", "FORMAT 2"])
    def test_invalid_card_is_one_line(self, tmp_path, text):
        published(tmp_path)
        path = tmp_path / "dataset.json"
        if text == "FORMAT 2":
            text = path.read_text().replace('"format": 1', '"format": 2')
        path.write_text(text, "latin-1")
        with pytest.raises(
            ShardError, match="dataset.json: is not the card of a dataset"
        ) as caught:
            read_card(Storage(tmp_path))
        assert "\n" not in str(caught.value)

    def test_shards_with_different_labels_are_refused(self, tmp_path):
        job = settings(tmp_path, answer="classes")
        commit(job, [A])
        commit(job, [B], index=1, labels=["archery", "bowling", "cricket"])
        with pytest.raises(ProvenanceError, match="class 1 is '.*' against '.*'"):
            publish(job, [*to_do(A), *to_do(B, shard=1)])
        assert not (tmp_path / "index.parquet").exists()


class TestVersions:
    def test_card_of_release_0_1_0_has_those_of_its_provenance(self, tmp_path):
        publish(settings(tmp_path), [])
        values = json.loads((tmp_path / "dataset.json").read_text())
        assert values.pop("software") == {}  # no numbers yet
        (tmp_path / "dataset.json").write_text(json.dumps(values))
        card = read_card(Storage(tmp_path))
        assert card.versions == {name: [each] for name, each in PROVENANCE["software"].items()}

    def test_versions_of_shards_that_are_gone_stay_listed(self, tmp_path):
        report = commit(settings(tmp_path), [A])
        publish(settings(tmp_path), to_do(A))
        (tmp_path / report_file(report.name)).unlink()
        job = settings(tmp_path, "run-2", provenance=NEWER)
        commit(job, [B])
        publish(job, to_do(B))
        assert read_card(Storage(tmp_path)).versions["opencv"] == ["5.0.0", "5.1.0"]


class TestRequireSameDataset:
    @pytest.mark.parametrize("finished", [True, False])
    def test_only_numbers_made_the_same_way_are_accepted(self, tmp_path, finished):
        job = settings(tmp_path)
        commit(job, [A])
        if finished:
            publish(job, to_do(A))
        storage = Storage(tmp_path)
        require_same_dataset(storage, answer="features", provenance=Provenance(PROVENANCE))
        with pytest.raises(ProvenanceError, match="model.precision: .* give another out"):
            require_same_dataset(storage, answer="features", provenance=Provenance(OTHER))
        require_same_dataset(storage, answer="features", provenance=Provenance(NEWER))
        with pytest.raises(ProvenanceError, match="answer: 'features' against 'classes'"):
            require_same_dataset(storage, answer="classes", provenance=Provenance(PROVENANCE))

    def test_empty_folder_accepts_all_numbers(self, tmp_path):
        require_same_dataset(Storage(tmp_path), answer="classes", provenance=Provenance(OTHER))


class TestForPeople:
    def test_front_matter_lists_the_files(self, tmp_path):
        text = published(tmp_path / 'videos: "new" & more')
        _, front, _ = text.split("---\n", 2)
        metadata = yaml.safe_load(front)
        assert metadata["pretty_name"] == 'videos: "new" & more'
        files = {config["config_name"]: config["data_files"] for config in metadata["configs"]}
        assert files == {
            "index": "index.parquet",
            "videos": "shards/*.parquet",
            "clips": "clips/*.parquet",
        }
        defaults = [config.get("default", False) for config in metadata["configs"]]
        assert defaults == [True, False, False]

    def test_missing_files_are_not_listed(self, tmp_path):
        text = published(tmp_path / "a", clip_rows=False)
        assert "config_name: clips" not in text
        assert "this dataset stores none" in text
        publish(settings(tmp_path / "b"), to_do(A))
        assert "config_name: videos" not in (tmp_path / "b/README.md").read_text()

    def test_readme_has_counts_and_provenance(self, tmp_path):
        text = published(tmp_path)
        assert "C3D features of 2 videos" in text
        assert "| `ok` | 1 |" in text
        assert "| `corrupt` | 1 |" in text
        assert "| `failed` | 0 |" in text
        assert "float32 `[4096]`, fc6 after ReLU" in text
        assert "C3D of Sports-1M" in text
        block = re.search(r"```json\n(.*?)```", text, re.DOTALL)
        assert json.loads(block[1]) == PROVENANCE

    def test_readme_lists_every_column(self, tmp_path):
        text = published(tmp_path)
        names = {*INDEX_SCHEMA.names, *video_schema("features").names}
        names |= set(clip_schema("features").names)
        assert [name for name in names if f"`{name}`" not in text] == []

    def test_readme_describes_the_clips(self, tmp_path):
        for number, (clips, sentence) in enumerate(
            (
                ({}, "A clip is 16 frames: consecutive frames, each frame of the file."),
                ({"stride": 4}, "the next clip starts 4 frames later"),
                ({"frame_step": 2, "fps": 12.5}, "one frame in 2, sampled at 12.5 frames per seco"),
                ({"tail": "loop"}, "get one that repeats its frames from the first on"),
                ({"short": "pad"}, "fewer frames than one clip gets one that repeats its last fr"),
                ({}, "fewer frames than one clip is `too_short`"),
            )
        ):
            changed = {**PROVENANCE, "clips": {**PROVENANCE["clips"], **clips}}
            assert sentence in published(tmp_path / str(number), changed), clips

    def test_random_weights_are_marked(self, tmp_path):
        weights = {"source": "seed 7", "random": True, "sha256": "00" * 32}
        changed = {**PROVENANCE, "model": {**PROVENANCE["model"], "weights": weights}}
        assert "**the numbers mean nothing**" in published(tmp_path, changed)
