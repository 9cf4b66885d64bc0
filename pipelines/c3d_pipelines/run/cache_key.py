"""What Kubeflow's cache knows a shard's step by.

Kubeflow gives an earlier step's results again where image, code and parameters are the same. It
does not look into artifacts, so all that a shard's result hangs on has to be in two parameters: a
digest of the model, and a word for the shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from c3d_pipelines.inputs.plan import PlannedRow, shard_rows
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import Storage

_ANY_RUN = "any"


def digest_of_model(provenance: Mapping[str, Any]) -> str:
    """What tells a served model from another: of its card's weights, mean and precision."""
    model = provenance.get("model", {})
    told = {name: model.get(name) for name in ("weights", "mean", "precision")}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def earlier_runs(storage: Storage, run: str) -> list[str]:
    """The names of the runs that the dataset has seen, all but this one."""
    return sorted({name.split("/")[1] for name in storage.names("runs")} - {run})


def shard_index(word: str) -> int:
    """The number in a shard's word."""
    return int(word.split("-")[0])


def shard_word(
    settings: JobSettings, planned: Sequence[PlannedRow], index: int, *, earlier: Sequence[str]
) -> str:
    """What Kubeflow knows a shard by: its number, and a digest of all that its content hangs on.

    That is its videos and their keys, the settings, and the runs that the dataset had seen. Videos
    that failed and are tried again are the same videos after one more run; and a dataset that was
    emptied has seen no run, for which this run's own name stands. What is left for the cache are
    runs that were started twice at the same time; all else the dataset's own resume has done.
    """
    sha = hashlib.sha256(replace(settings, run=_ANY_RUN).to_json().encode())
    for text in earlier or [settings.run]:
        sha.update(b"\0run" + text.encode())
    for row in shard_rows(planned, index):
        for text in (row.video_id, row.uri, row.key):
            sha.update(b"\0row" + text.encode("utf-8", "surrogateescape"))
    return f"{index}-{sha.hexdigest()[:16]}"
