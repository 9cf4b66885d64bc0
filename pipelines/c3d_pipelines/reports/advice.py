"""What each kind of failure means, whether it mends itself, and the command that tries it again.

Used by the reports. A plan is a manifest too, so a run can be repeated from what it left.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
# The window's settings in a provenance, and the option that brings each.
_WINDOW = ("stride", "frame_step", "tail", "short", "fps")
_USUAL = {"stride": CLIP_STRIDE, "frame_step": 1, "tail": "drop", "short": "error", "fps": None}


@dataclass(frozen=True)
class Advice:
    """What to do about one kind of failure.

    Args:
        kind: a status, or ``missing`` for videos whose shard left nothing.
        count: inputs of this kind.
        known: of those, left alone by this run because they failed before and are unchanged.
        types: how many of each type of error, the commonest first.
        meaning: what has happened, in words.
        remedy: what to do, in words.
        command: for a shell; tries them again.
    """

    kind: str
    count: int
    known: int
    types: tuple[tuple[str, int], ...]
    meaning: str
    remedy: str
    command: str


def kind_of(failure: Failure) -> str:
    """A failure's status; or ``missing`` where nobody came to look at the video."""
    return MISSING if failure.error_type in (SHARD_MISSING, ROW_MISSING) else failure.status


def advice(summary: RunSummary) -> list[Advice]:
    """One for each kind of failure that there is; first those that are tried again anyway."""
    again = retry_command(summary)
    harder = retry_command(summary, "--retry-failed")
    policy = _clips(summary).get("short", "error")
    words = {
        FAILED: (
            "The server did not answer for these, or something else went wrong that is not the "
            "video's fault.",
            "See that the server is up and has room, then run again: they are tried again.",
            again,
        ),
        MISSING: (
            "Their shard did not come to its end: its pod was stopped, or its disk or bucket "
            "failed.",
            "Run again: what is missing is done, and nothing is done twice.",
            again,
        ),
        UNREADABLE: (
            "They could not be read where they lie: moved, forbidden, or the store was away.",
            "Mend access or bring them back, then run again: they are tried again.",
            again,
        ),
        CORRUPT: (
            "They were read and are damaged, cut short, or no videos.",
            "Put whole files in their place, then run again. They are left alone until they "
            "change, unless asked for:",
            harder,
        ),
        TOO_SHORT: (
            f"They have fewer frames than the {_span(summary)} that one clip spans.",
            "They are left alone until they change. To fill up short videos by repeating them, "
            "make another dataset, of all videos alike:"
            if policy == "error"
            else "They hold no frames to fill a clip with, and are left alone until they change. "
            "To try them again all the same:",
            retry_command(summary, "--short", "loop", out=f"{summary.out}-loop")
            if policy == "error"
            else harder,
        ),
    }
    found: dict[str, Counter[str]] = {}
    known: Counter[str] = Counter()
    for failure in summary.failures:
        kind = kind_of(failure)
        found.setdefault(kind, Counter())[failure.error_type] += 1
        known[kind] += failure.decision == KNOWN_FAILURE
    return [
        Advice(
            kind, found[kind].total(), known[kind], tuple(found[kind].most_common()), *words[kind]
        )
        for kind in KINDS
        if kind in found
    ]


def retry_command(summary: RunSummary, *more: str, out: str = "") -> str:
    """The command that runs the same inputs again, made the same way, with further options."""
    folder = summary.out.rstrip("/")
    words = ["c3d-pipelines", "run", "--videos", f"{folder}/{run_file(summary.run, PLAN)}"]
    words += ["--out", out or summary.out]
    if summary.answer == "classes":
        words.append("--classify")
    if summary.server not in ("", DEFAULT_TARGET):
        words += ["--server", summary.server]
    model = summary.provenance.get("model") or {}
    if model.get("name", MODEL_NAME) != MODEL_NAME:
        words += ["--model", str(model["name"])]
    clips = _clips(summary)
    for name in _WINDOW:
        if clips.get(name, _USUAL[name]) != _USUAL[name]:
            words += [f"--{name.replace('_', '-')}", str(clips[name])]
    usual = PREPROCESSING["resize"]
    if (summary.provenance.get("preprocessing") or {}).get("resize", usual) != usual:
        words += ["--resize", "fast"]
    return shlex.join([*words, *more])


def _clips(summary: RunSummary) -> Mapping[str, Any]:
    clips: Mapping[str, Any] = summary.provenance.get("clips") or {}
    return clips


def _span(summary: RunSummary) -> int:
    return (CLIP_FRAMES - 1) * int(_clips(summary).get("frame_step") or 1) + 1
