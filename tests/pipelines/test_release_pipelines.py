"""Pipelines compiled by release 0.1.0, which clusters still run on a schedule, keep working.

The YAML files in tests/fixtures are as that release compiled them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from c3d_client import ClipWindow
from c3d_client.core.provenance import Provenance
from c3d_pipelines import dataset
from c3d_pipelines.inputs.plan import read_notes
from c3d_pipelines.parameters import MOST_SHARDS, PARAMETERS
from c3d_pipelines.run.steps import digest_of_model
from c3d_pipelines.steps.bulk import earlier_runs, plan_step, shard_text
from c3d_pipelines.storage import Storage
from pipelines.test_pipeline import run_file, summaries
from support.sample_shards import OTHER, PROVENANCE, settings, to_do, video
from support.videos import write_video

RELEASE = Path(__file__).parents[1] / "fixtures" / "release-0.1.0-pipelines"
PLANNED = [*to_do(video("a.mp4"), video("b.mp4")), *to_do(video("c.mp4"), shard=1)]


def step_calls(path: Path) -> dict[str, list[str]]:
    """Return the steps that a compiled pipeline calls, with the keywords of each call."""
    executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
    calls = {}
    for executor in executors.values():
        source = ast.parse(executor["container"]["command"][-1])
        imports = {
            name.name: node.module
            for node in ast.walk(source)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("c3d_pipelines")
            for name in node.names
        }
        for node in ast.walk(source):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in imports:
                assert not node.args
                step = f"{imports[node.func.id]}.{node.func.id}"
                calls[step] = [keyword.arg for keyword in node.keywords]
    return calls


def test_every_call_fits_the_current_functions():
    names = set()
    for path in sorted(RELEASE.glob("*.yaml")):
        for step, keywords in step_calls(path).items():
            module, _, name = step.rpartition(".")
            function = getattr(importlib.import_module(module), name)
            inspect.signature(function).bind(**dict.fromkeys(keywords))
            names.add(step.removeprefix("c3d_pipelines.steps."))
            if name == "plan_step":  # accepts any keyword and checks the names
                of_step = {"run", "answer", "plan_path", "settings_path"}
                assert set(keywords) - of_step <= set(PARAMETERS), path.name
    assert names == {
        *(f"bulk.{step}_step" for step in ("plan", "preflight", "extract", "publish", "gate")),
        *(f"export.{step}_step" for step in ("fetch", "build", "verify", "publish")),
        "exit.report_step",
    }


@pytest.mark.long
def test_bulk_pipeline_of_the_release_runs(tmp_path, narrow_server):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 24)
    out = tmp_path / "out"
    done = run_file(
        RELEASE / "c3d-bulk-extraction.yaml",
        tmp_path,
        videos=str(tmp_path / "videos"),
        out=str(out),
        server=narrow_server.target,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = summaries(out)
    assert (summary.state, summary.ok) == ("SUCCEEDED", 1)
    assert dataset.open(str(out)).ids() == ["a.mp4"]


def test_schedule_with_more_shards_than_kubernetes_stores_continues_with_fewer(tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    for number in range(201):
        (tmp_path / "videos" / f"{number}.mp4").write_bytes(b"x" * 1000)
    out = str(tmp_path / "out")
    step = {"plan_path": str(tmp_path / "plan"), "settings_path": str(tmp_path / "settings")}
    values = {"videos": str(tmp_path / "videos"), "shard_mb": 0.0005, "max_shards": 500.0}
    shards = plan_step(out=out, run="run-1", answer="features", **step, **values)
    assert 100 < len(shards) <= MOST_SHARDS
    (note,) = read_notes(step["plan_path"])
    assert note.startswith("max_shards is 500, and 200 are used: ")
    assert note in caplog.text


class TestShardText:
    """The text by which the cache of Kubeflow identifies a shard in these pipelines."""

    def text(self, job, planned=PLANNED, index=0, earlier=("run-0",)) -> str:
        return shard_text(job, planned, index, earlier=earlier)

    def test_text_is_the_same_for_two_runs_of_the_same_shard(self, tmp_path):
        assert self.text(settings(tmp_path)) == self.text(settings(tmp_path, run="run-2"))

    def test_text_begins_with_the_shards_index(self, tmp_path):
        texts = [self.text(settings(tmp_path), index=index) for index in (0, 1)]
        assert [text.split("-")[0] for text in texts] == ["0", "1"]

    def test_text_changes_with_everything_that_changes_the_shards_result(self, tmp_path):
        job = settings(tmp_path)
        texts = [
            self.text(job),
            self.text(job, index=1),
            self.text(job, to_do(video("a.mp4"), video("x.mp4"))),
            self.text(job, to_do(video("a.mp4", "sha256:changed"), video("b.mp4"))),
            self.text(job, to_do(video("a.mp4", uri="/elsewhere/a.mp4"), video("b.mp4"))),
            self.text(replace(job, answer="classes")),
            self.text(replace(job, window=ClipWindow(stride=16))),
            self.text(replace(job, clip_rows=False)),
            self.text(replace(job, model_version="2")),
            self.text(replace(job, server="elsewhere:8500")),
            self.text(replace(job, out=f"{tmp_path}-2")),
            # Videos that are retried, and a dataset that was emptied.
            self.text(job, earlier=("run-0", "run-1")),
            self.text(replace(job, run="run-1"), earlier=()),
            self.text(replace(job, run="run-5"), earlier=()),
        ]
        assert len(set(texts)) == len(texts)

    def test_earlier_runs_are_all_planned_runs_but_this_one(self, tmp_path):
        storage = Storage(str(tmp_path))
        assert earlier_runs(storage, "run-2") == []
        for name in ("run-1/plan.parquet", "run-1/settings.json", "run-2/settings.json"):
            storage.write(f"runs/{name}", "x")
        assert earlier_runs(storage, "run-2") == ["run-1"]


def test_digest_of_a_model_is_of_its_weights_mean_and_precision():
    named = {**PROVENANCE, "model": {**PROVENANCE["model"], "name": "other", "version": 9}}
    clips = {**PROVENANCE, "clips": {}}
    digests = [digest_of_model(Provenance(p)) for p in (PROVENANCE, named, clips, OTHER)]
    assert digests[0] == digests[1] == digests[2] != digests[3]
