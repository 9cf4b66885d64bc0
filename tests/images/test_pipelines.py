"""Every step of the compiled pipelines in containers, restricted, with real artifacts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from c3d_pipelines import dataset
from c3d_pipelines.kubeflow.compile import compiled_path
from images import run_pipeline
from pipelines.test_pipeline import summaries
from support.videos import write_video

pytestmark = pytest.mark.images


def run(engine, name: str, folder: Path, *, claims, network: str, **arguments):
    """Run a compiled pipeline, each step in a container."""
    pipeline = compiled_path(name)
    options = [*engine.restrictions(network), *run_pipeline.pod_options(pipeline, claims)]
    job = {
        "pipeline": str(pipeline),
        "root": str(folder / "root"),
        "command": [engine.command, "run", "--rm", *options],
        "arguments": arguments,
    }
    return subprocess.run(
        [sys.executable, run_pipeline.__file__, json.dumps(job)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def steps(name: str) -> set[str]:
    """Return the image and the function of each step of a compiled pipeline."""
    specification = next(yaml.safe_load_all(compiled_path(name).read_text()))
    executors = specification["deploymentSpec"]["executors"].values()
    return {f"{e['container']['image']}: {e['container']['args'][-1]}" for e in executors}


def steps_run(done) -> set[str]:
    """Return the same of the steps that succeeded in containers."""
    return set(re.findall(r"container of (.*) ended with 0\b", done.stdout))


@pytest.fixture(scope="module")
def data(writable) -> Path:
    """The claim c3d-pipelines-data with two videos and a file that is not a video."""
    folder = writable / "data"
    (folder / "videos").mkdir(parents=True)
    folder.chmod(0o777)
    write_video(folder / "videos" / "a.mp4", 32)
    write_video(folder / "videos" / "b.mp4", 24)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video" * 200)
    return folder


def test_extraction_runs_in_the_workers_image(engine, images, pod, data, writable):
    arguments = {"videos": "/data/videos", "server": "localhost:8500"}
    done = run(
        *(engine, "c3d-bulk-extraction", writable),
        claims={"c3d-pipelines-data": str(data)},
        network=f"container:{pod}",
        **arguments,
        shard_mb=0.001,
        max_failed=1,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = summaries(data / "features")
    assert (summary.state, summary.ok, summary.unsuccessful) == ("SUCCEEDED", 2, 1)
    assert len(summary.shards) == 3
    features = dataset.open(str(data / "features"))
    assert sorted(features.ids()) == ["a.mp4", "b.mp4"]
    assert steps_run(done) == steps("c3d-bulk-extraction")


def test_classification_runs_in_the_workers_image(engine, images, pod, data, writable):
    done = run(
        *(engine, "c3d-bulk-classification", writable),
        claims={"c3d-pipelines-data": str(data)},
        network=f"container:{pod}",
        videos="/data/videos/a.mp4",
        server="localhost:8500",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert steps_run(done) == steps("c3d-bulk-classification")
    (summary,) = summaries(data / "classes")
    assert (summary.answer, summary.state, summary.ok) == ("classes", "SUCCEEDED", 1)


def test_export_runs_in_the_exporters_image(engine, images, store, writable):
    numbers = {entry.name for entry in (store / "c3d").iterdir()}
    done = run(
        *(engine, "c3d-export-and-verify", writable),
        claims={"c3d-models": str(store)},
        network="none",
        weights="random:3",
        width=4,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert steps_run(done) == steps("c3d-export-and-verify")
    (new,) = {entry.name for entry in (store / "c3d").iterdir()} - numbers
    assert f"/models/c3d/{new}: " in done.stdout
