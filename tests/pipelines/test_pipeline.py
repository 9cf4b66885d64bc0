"""The compiled bulk pipelines run as they are: real videos, a real server, kfp's own runner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from c3d_pipelines import dataset
from c3d_pipelines.kubeflow.compile import compiled_path
from c3d_pipelines.reports.summary import RunSummary
from support.films import write_film

# In a process of its own: kfp.local leaves print and logging patched.
_RUN = """
import json, sys, warnings
from kfp import components, local

local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
# Of images whose names do not say that there is Python in them, and of what needs a cluster.
warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[3]))
"""


def run(name: str, folder: Path, **arguments) -> subprocess.CompletedProcess:
    """Run a compiled pipeline as it is in the package."""
    import json

    given = [str(compiled_path(name)), str(folder / "root"), json.dumps(arguments)]
    return subprocess.run(
        [sys.executable, "-c", _RUN, *given], capture_output=True, text=True, cwd=folder
    )


def summaries(out: Path) -> list[RunSummary]:
    """Of the runs that a dataset has seen, the newest last."""
    found = sorted(out.glob("runs/*/summary.json"), key=lambda path: path.stat().st_mtime)
    return [RunSummary.from_json(path.read_text()) for path in found]


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two that are well, and one that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_film(folder / "a.mp4", 32)
    write_film(folder / "b.mp4", 24)
    (folder / "broken.mp4").write_bytes(b"no video" * 200)
    return folder


def test_extraction_fails_at_its_gate_with_everything_done_and_the_next_run_has_nothing_to_do(
    tmp_path, videos, narrow_server
):
    out = tmp_path / "out"
    given = {"videos": str(videos), "out": str(out), "server": narrow_server.target}
    done = run("c3d-bulk-extraction", tmp_path, **given, shard_mb=0.001)
    assert done.returncode != 0
    (first,) = summaries(out)
    assert (first.state, first.ok, first.unsuccessful) == ("FAILED", 2, 1)
    assert first.message.startswith("gate: 1 videos did not end ok")
    assert len(first.shards) == 3
    # The reason is one line in the log, and no traceback.
    assert "c3d-pipelines: 1 videos did not end ok" in done.stdout
    assert "Traceback" not in done.stdout
    assert sorted(dataset.open(str(out)).ids()) == ["a.mp4", "b.mp4"]

    done = run("c3d-bulk-extraction", tmp_path, **given)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    second = summaries(out)[-1]
    assert (second.state, second.processed, second.ok, second.inputs) == ("SUCCEEDED", 0, 2, 3)


def test_classification_runs_by_the_same_steps(tmp_path, videos, narrow_server):
    out = tmp_path / "out"
    given = {"videos": str(videos / "a.mp4"), "out": str(out), "server": narrow_server.target}
    done = run("c3d-bulk-classification", tmp_path, **given, clip_rows=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = summaries(out)
    assert (summary.answer, summary.ok) == ("classes", 1)
    assert not (out / "clips").exists()


def test_a_run_that_cannot_begin_is_reported_too(tmp_path, videos, narrow_server):
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
