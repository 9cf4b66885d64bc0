"""The diagram is of the compiled pipeline: its tasks, their order, what is special about them."""

from __future__ import annotations

import pytest
import yaml
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.compile import PIPELINES, compiled_path
from c3d_pipelines.kubeflow.diagram import to_mermaid

BULK = """\
flowchart LR
  subgraph exit-handler-1["the run"]
    direction LR
    plan["<b>plan</b>"]:::task
    preflight["<b>preflight</b>"]:::task
    subgraph for-loop-2["for each shard, 20 at a time"]
      direction LR
      extract["<b>extract</b><br/><small>cached by model_digest, shard</small>\
<br/><small>3 retries</small>"]:::cached
    end
"""


@pytest.fixture
def spec():
    return next(yaml.safe_load_all(compiled_path(PIPELINES[0]).read_text()))


def drawn(tmp_path, spec) -> str:
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(spec))
    return to_mermaid(path)


def test_the_bulk_pipeline_is_drawn_with_its_loop_and_its_last_step():
    text = to_mermaid(compiled_path(PIPELINES[0]))
    assert text.startswith(BULK)
    arrows = [line.strip() for line in text.splitlines() if "-->" in line or ".->" in line]
    assert arrows == [
        "plan --> preflight",
        "preflight --> for-loop-2",
        "for-loop-2 --> publish",
        "publish --> gate",
        "exit-handler-1 -. in any case .-> report",
    ]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_is_drawn_once(name):
    steps = {
        executor.removeprefix("exec-")
        for executor in next(yaml.safe_load_all(compiled_path(name).read_text()))["deploymentSpec"][
            "executors"
        ]
    }
    text = to_mermaid(compiled_path(name))
    assert all(text.count(f"<b>{step}</b>") == 1 for step in steps)


def test_a_step_that_is_added_is_drawn(tmp_path, spec):
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    tasks["again"] = {"componentRef": {"name": "comp-gate"}, "dependentTasks": ["gate", "plan"]}
    text = drawn(tmp_path, spec)
    assert 'again["<b>again</b>"]' in text
    assert "gate --> again" in text
    assert "plan --> again" not in text  # it is implied


def test_what_is_no_compiled_pipeline_is_refused(tmp_path):
    for text in ("", "a: 1\n", "- 1\n", "a: [\n"):
        path = tmp_path / "one.yaml"
        path.write_text(text)
        with pytest.raises(UsageError, match="one.yaml"):
            to_mermaid(path)
    with pytest.raises(UsageError, match="none.yaml: cannot be read"):
        to_mermaid(tmp_path / "none.yaml")


def test_tasks_that_wait_for_each_other_are_refused(tmp_path, spec):
    spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["plan"]["dependentTasks"] = ["gate"]
    with pytest.raises(UsageError, match="wait for each other"):
        drawn(tmp_path, spec)
