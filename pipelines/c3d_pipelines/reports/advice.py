"""Advice on failures: what each kind means, whether it is retried, and the command that retries it.

A plan is a manifest too, so the command repeats a run from its plan.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass

from c3d_client.core.contract import (
    CLIP_FRAMES,
    CLIP_STRIDE,
    DEFAULT_TARGET,
    MODEL_NAME,
    PREPROCESSING,
)

from c3d_pipelines.inputs.plan import KNOWN_FAILURE
from c3d_pipelines.reports.summary import Failure, RunSummary
from c3d_pipelines.shards.schema import (
    CORRUPT,
    FAILED,
    OK,
    ROW_MISSING,
    SHARD_MISSING,
    TOO_SHORT,
    UNREADABLE,
)
from c3d_pipelines.storage import PLAN, run_file

MISSING = "missing"
KINDS = (FAILED, MISSING, UNREADABLE, CORRUPT, TOO_SHORT)
STATUS_WORDS = {
    OK: "Ok",
    TOO_SHORT: "Too short",
    CORRUPT: "Corrupt",
    UNREADABLE: "Unreadable",
    FAILED: "Failed",
    MISSING: "Not done",
}
# The settings of clips in a provenance that have a command option.
_WINDOW = ("stride", "frame_step", "tail", "short", "fps")
_DEFAULTS = {"stride": CLIP_STRIDE, "frame_step": 1, "tail": "drop", "short": "error", "fps": None}


@dataclass(frozen=True)
class Advice:
    """Advice on one kind of failure.

    Args:
        kind: a status, or ``missing`` for videos whose shard is missing.
        count: inputs of this kind.
        known: those of them that this run did not retry, because they failed before and have not
            changed.
        types: the number of inputs by type of error, most frequent first.
        meaning: what happened, as text.
        remedy: what to do, as text.
        command: a shell command that retries them.
    """

    kind: str
    count: int
    known: int
    types: tuple[tuple[str, int], ...]
    meaning: str
    remedy: str
    command: str


def kind_of(failure: Failure) -> str:
    """Return a failure's status, or ``missing`` for a video without a result."""
    return MISSING if failure.error_type in (SHARD_MISSING, ROW_MISSING) else failure.status


def advice(summary: RunSummary) -> list[Advice]:
    """Return advice on each kind of failure in a run, first on those that are retried anyway."""
    run_again = retry_command(summary)
    retry_failed = retry_command(summary, "--retry-failed")
    clips = summary.provenance.clips
    policy = clips.get("short", "error")
    span = (CLIP_FRAMES - 1) * int(clips.get("frame_step") or 1) + 1
    texts = {
        FAILED: (
            "The server did not answer for these, or something else went wrong that is not the "
            "video's fault.",
            "Check that the server is up and not overloaded, then run again: they are retried.",
            run_again,
        ),
        MISSING: (
            "Their shard did not end: the run failed first, its pod was stopped, or its disk or "
            "bucket failed.",
            "Run again: the missing videos are done, and nothing is done twice.",
            run_again,
        ),
        UNREADABLE: (
            "They could not be read: moved, forbidden, or the store was away.",
            "Fix the access or restore them, then run again: they are retried.",
            run_again,
        ),
        CORRUPT: (
            "They were read and are damaged, cut short, or not videos.",
            "Replace them by complete files, then run again. They are not retried until they "
            "change, except with this command:",
            retry_failed,
        ),
        TOO_SHORT: (
            f"They have fewer frames than the {span} that one clip spans.",
            "They are not retried until they change. To fill up short videos by repeating their "
            "frames, make another dataset of all videos:"
            if policy == "error"
            else "They have no frames to fill a clip with, and are not retried until they change. "
            "To retry them nevertheless:",
            retry_command(summary, "--short", "loop", out=f"{summary.out}-loop")
            if policy == "error"
            else retry_failed,
        ),
    }
    types: dict[str, Counter[str]] = {}
    known: Counter[str] = Counter()
    for failure in summary.failures:
        kind = kind_of(failure)
        types.setdefault(kind, Counter())[failure.error_type] += 1
        known[kind] += failure.decision == KNOWN_FAILURE
    return [
        Advice(
            kind, types[kind].total(), known[kind], tuple(types[kind].most_common()), *texts[kind]
        )
        for kind in KINDS
        if kind in types
    ]


def retry_command(summary: RunSummary, *more: str, out: str = "") -> str:
    """Return the command that runs the same inputs again in the same way, with further options."""
    folder = summary.out.rstrip("/")
    arguments = ["c3d-pipelines", "run", "--videos", f"{folder}/{run_file(summary.run, PLAN)}"]
    arguments += ["--out", out or summary.out]
    if summary.answer == "classes":
        arguments.append("--classify")
    if summary.server not in ("", DEFAULT_TARGET):
        arguments += ["--server", summary.server]
    model = summary.provenance.model
    if model.get("name", MODEL_NAME) != MODEL_NAME:
        arguments += ["--model", str(model["name"])]
    clips = summary.provenance.clips
    for name in _WINDOW:
        if clips.get(name, _DEFAULTS[name]) != _DEFAULTS[name]:
            arguments += [f"--{name.replace('_', '-')}", str(clips[name])]
    exact = PREPROCESSING["resize"]
    if summary.provenance.preprocessing.get("resize", exact) != exact:
        arguments += ["--resize", "fast"]
    if summary.provenance.get("damage", "error") != "error":
        arguments += ["--damage", str(summary.provenance["damage"])]
    return shlex.join([*arguments, *more])
