"""The components compile for a backend and run as they would in a pod."""

import subprocess
import sys

import pytest
import yaml

_RUN = """
import sys
from kfp import local
from c3d_pipelines.components import plan
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
task = plan(videos=sys.argv[1], shard_bytes=10)
print("SHARDS", [int(n) for n in task.outputs["Output"]])
print("MANIFEST", open(task.outputs["manifest"].path).read().count("\\n"))
"""


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes(b"x" * 6)
    return folder


def test_plan_runs_locally_through_kfp(videos, tmp_path):
    # In a process of its own: kfp.local leaves print and logging patched.
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(videos), str(tmp_path / "root")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SHARDS [0, 1, 2]" in done.stdout
    assert "MANIFEST 4" in done.stdout


def test_plan_compiles_and_installs_nothing_in_the_pod(tmp_path):
    from c3d_pipelines.components import WORKER_IMAGE, plan
    from kfp import compiler

    path = tmp_path / "plan.yaml"
    compiler.Compiler().compile(plan, str(path))
    container = yaml.safe_load(path.read_text())["deploymentSpec"]["executors"]["exec-plan"][
        "container"
    ]
    assert container["image"] == WORKER_IMAGE
    assert "pip install" not in " ".join(container["command"])
