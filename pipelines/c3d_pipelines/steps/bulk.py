"""Bulk steps with the signatures that pipelines compiled by release 0.1.0 call.

That release passed a shard as text: its index, and a digest by which Kubeflow's cache identified
the shard's content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from c3d_pipelines.inputs.plan import PlannedRow, read_plan, shard_rows
from c3d_pipelines.parameters import MOST_SHARDS
from c3d_pipelines.run import steps
from c3d_pipelines.run.errors import recorded_failure
from c3d_pipelines.run.steps import gate_step, preflight_step, publish_step
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import Storage

__all__ = ["extract_step", "gate_step", "plan_step", "preflight_step", "publish_step"]

_ANY_RUN = "any"


def plan_step(
    *, out: str, run: str, plan_path: str, settings_path: str, **parameters: Any
) -> list[str]:
    """Plan as :func:`c3d_pipelines.run.steps.plan_step` does; return one text per shard.

    That release allowed any number of shards. A schedule with more continues, with larger shards.
    """
    notes = []
    if (given := parameters.get("max_shards", 0)) > MOST_SHARDS:
        parameters["max_shards"] = MOST_SHARDS
        notes.append(
            f"max_shards is {given:g}, and {MOST_SHARDS} are used: with more, the run's workflow "
            "is too large for Kubernetes; compile and schedule the pipeline again with "
            f"max_shards={MOST_SHARDS}"
        )
    indexes = steps.plan_step(
        out=out,
        run=run,
        plan_path=plan_path,
        settings_path=settings_path,
        notes=notes,
        **parameters,
    )
    with recorded_failure("plan", out=out, run=run):
        earlier = earlier_runs(Storage(out), run)
        planned = read_plan(plan_path)
        with open(settings_path, "rb") as file:
            settings = JobSettings.from_json(file.read())
        return [shard_text(settings, planned, index, earlier=earlier) for index in indexes]


def extract_step(*, shard: str, model_digest: str, plan_path: str, settings_path: str) -> str:
    """Do the shard whose index the text begins with; return its name in the data set."""
    return steps.extract_step(
        shard=int(shard.split("-")[0]),
        model_digest=model_digest,
        plan_path=plan_path,
        settings_path=settings_path,
    )


def earlier_runs(storage: Storage, run: str) -> list[str]:
    """Return the names of the runs that the data set has, except this one."""
    return sorted({name.split("/")[1] for name in storage.names("runs")} - {run})


def shard_text(
    settings: JobSettings, planned: Sequence[PlannedRow], index: int, *, earlier: Sequence[str]
) -> str:
    """Return a shard's index and the digest of all that its content depends on: ``INDEX-DIGEST``.

    The digest covers the shard's videos with their keys, the settings, and the earlier runs: a
    video that failed is retried after one more run. A data set that was emptied has no earlier
    runs; this run's own name takes their place.
    """
    sha = hashlib.sha256(replace(settings, run=_ANY_RUN).to_json().encode())
    for text in earlier or [settings.run]:
        sha.update(b"\0run" + text.encode())
    for row in shard_rows(planned, index):
        for text in (row.video_id, row.uri, row.key):
            sha.update(b"\0row" + text.encode("utf-8", "surrogateescape"))
    return f"{index}-{sha.hexdigest()[:16]}"
