"""Kubeflow's cache knows a shard by all that its result hangs on, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

from c3d_client import ClipWindow
from c3d_pipelines.run.cache_key import digest_of_model, earlier_runs, shard_index, shard_word
from c3d_pipelines.storage import Storage
from support.sample_shards import OTHER, PROVENANCE, settings, to_do, video

PLANNED = [*to_do(video("a.mp4"), video("b.mp4")), *to_do(video("c.mp4"), shard=1)]


def word(job, planned=PLANNED, index=0, earlier=("run-0",)) -> str:
    return shard_word(job, planned, index, earlier=earlier)


def test_two_runs_that_began_alike_know_a_shard_by_the_same_word(tmp_path):
    assert word(settings(tmp_path)) == word(settings(tmp_path, run="run-2"))


def test_a_word_begins_with_the_shards_number(tmp_path):
    assert [shard_index(word(settings(tmp_path), index=n)) for n in (0, 1)] == [0, 1]


def test_whatever_changes_a_shards_result_changes_its_word(tmp_path):
    job = settings(tmp_path)
    other_videos = [*to_do(video("a.mp4"), video("x.mp4"))]
    changed = [*to_do(video("a.mp4", "sha256:changed"), video("b.mp4"))]
    moved = [*to_do(video("a.mp4", uri="/elsewhere/a.mp4"), video("b.mp4"))]
    words = [
        word(job),
        word(job, index=1),
        word(job, other_videos),
        word(job, changed),
        word(job, moved),
        word(replace(job, answer="classes")),
        word(replace(job, window=ClipWindow(stride=16))),
        word(replace(job, clip_rows=False)),
        word(replace(job, model_version="2")),
        word(replace(job, server="elsewhere:8500")),
        word(replace(job, out=f"{tmp_path}-2")),
    ]
    assert len(set(words)) == len(words)


def test_videos_that_are_tried_again_are_not_taken_from_the_cache(tmp_path):
    job = settings(tmp_path)
    assert word(job, earlier=["run-0"]) != word(job, earlier=["run-0", "run-1"])


def test_a_dataset_that_was_emptied_is_not_taken_from_the_cache(tmp_path):
    first, later = settings(tmp_path, run="run-1"), settings(tmp_path, run="run-5")
    assert word(first, earlier=[]) != word(later, earlier=[])


def test_the_runs_that_a_dataset_has_seen_are_all_but_this_one(tmp_path):
    storage = Storage(str(tmp_path))
    assert earlier_runs(storage, "run-2") == []
    for name in ("run-1/plan.parquet", "run-1/settings.json", "run-2/settings.json"):
        storage.write(f"runs/{name}", "x")
    assert earlier_runs(storage, "run-2") == ["run-1"]


def test_a_models_digest_is_of_its_weights_mean_and_precision():
    named = {**PROVENANCE, "model": {**PROVENANCE["model"], "name": "mine", "version": 9}}
    clips = {**PROVENANCE, "clips": {}}
    assert digest_of_model(named) == digest_of_model(clips) == digest_of_model(PROVENANCE)
    assert digest_of_model(OTHER) != digest_of_model(PROVENANCE)
