"""The compiled bulk pipelines under kfp.local, with real videos and a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_pipelines import dataset
from c3d_pipelines.kubeflow.compile import compiled_path
from c3d_pipelines.reports.summary import RunSummary
from support.videos import write_video

# A separate process, because kfp.local leaves print and logging patched.
_RUN = """
import json, sys, warnings
from kfp import components, local

local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
# About images whose names do not contain "python", and about settings for pods.
warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
pipeline = components.load_component_from_file(sys.argv[1])
graph = pipeline.component_spec.implementation.graph
for part in (graph.root, *graph.components.values()):
    for task in part.dag.tasks.values():
        task.ClearField("retry_policy")  # they wait for minutes
pipeline(**json.loads(sys.argv[3]))
"""


def run(name: str, folder: Path, **arguments) -> subprocess.CompletedProcess:
    """Run a compiled pipeline of the package."""
    return run_file(compiled_path(name), folder, **arguments)


def run_file(path: Path, folder: Path, **arguments) -> subprocess.CompletedProcess:
    """Run a compiled pipeline."""
    values = [str(path), str(folder / "root"), json.dumps(arguments)]
    return subprocess.run(
        [sys.executable, "-c", _RUN, *values], capture_output=True, text=True, cwd=folder
    )


def summaries(out: Path) -> list[RunSummary]:
    """Return the summaries of a dataset's runs, the newest last."""
    paths = sorted(out.glob("runs/*/summary.json"), key=lambda path: path.stat().st_mtime)
    return [RunSummary.from_json(path.read_text()) for path in paths]


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two videos and a file that is not a video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", 32)
    write_video(folder / "b.mp4", 24)
    (folder / "broken.mp4").write_bytes(b"no video" * 200)
    return folder


def pods(done: subprocess.CompletedProcess) -> list[str]:
    """Return the tasks that would have had a pod, a shard's once for each shard."""
    return sorted(re.findall(r"Executing task \S*'([\w-]+)'", done.stdout))


@pytest.mark.long
def test_extraction_fails_at_its_gate_and_the_next_run_has_nothing_to_do(
    tmp_path, videos, narrow_server
):
    out = tmp_path / "out"
    arguments = {"videos": str(videos), "out": str(out), "server": narrow_server.target}
    arguments["keys"] = "content"
    done = run("c3d-bulk-extraction", tmp_path, **arguments, shard_mb=0.001)
    assert done.returncode != 0
    (first,) = summaries(out)
    assert (first.state, first.ok, first.unsuccessful) == ("FAILED", 2, 1)
    assert first.message.startswith("gate: 1 video did not end ok; 0 allowed")
    assert len(first.shards) == 3
    # The reason is one line in the log, and no traceback.
    assert "c3d-pipelines: 1 video did not end ok" in done.stdout
    assert "Traceback" not in done.stdout
    assert sorted(dataset.open(str(out)).ids()) == ["a.mp4", "b.mp4"]
    assert pods(done) == ["extract", "extract", "extract", "plan", "publish", "report"]

    # With nothing to do there are two pods, and the last one publishes: a new duplicate too.
    (videos / "copy of a.mp4").hardlink_to(videos / "a.mp4")
    done = run("c3d-bulk-extraction", tmp_path, **arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    second = summaries(out)[-1]
    assert (second.state, second.processed, second.ok, second.inputs) == ("SUCCEEDED", 0, 3, 4)
    assert pods(done) == ["plan", "report"]


@pytest.mark.long
def test_classification_runs_with_the_same_steps(tmp_path, videos, narrow_server):
    out = tmp_path / "out"
    arguments = {"videos": str(videos / "a.mp4"), "out": str(out), "server": narrow_server.target}
    done = run("c3d-bulk-classification", tmp_path, **arguments, clip_rows=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = summaries(out)
    assert (summary.answer, summary.ok) == ("classes", 1)
    assert not (out / "clips").exists()


@pytest.mark.long
def test_run_that_cannot_begin_is_reported(tmp_path, videos, narrow_server):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(
        "c3d-bulk-extraction", tmp_path, videos=str(empty), out=str(out), server="localhost:1"
    )
    assert done.returncode != 0
    (summary,) = summaries(out)
    assert summary.state == "FAILED"
    assert summary.message.startswith("plan: ")
    assert str(empty) in summary.message
    assert "Traceback" not in done.stdout
