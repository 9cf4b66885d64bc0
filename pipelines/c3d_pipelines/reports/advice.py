"""Advice on failures: what each kind means, whether it is retried, and the command that retries it.

The command repeats the run with its own parameters. Where the inputs of a run on one machine are
not known, or have credentials in their address, it repeats the run from its plan, which is a
manifest too. A plan has the keys that the videos had then, also of those that were replaced.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c3d_client.core.contract import (
    CLIP_FRAMES,
    DEFAULT_TARGET,
    MODEL_NAME,
    PREPROCESSING,
)
from c3d_client.core.errors import VideoTooLarge

from c3d_pipelines.errors import WorkerDied
from c3d_pipelines.inputs.plan import KNOWN_FAILURE
from c3d_pipelines.parameters import NO_PCA, PARAMETERS, PIPELINES
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

MISSING, TOO_LARGE = "missing", "too_large"
KINDS = (FAILED, TOO_LARGE, MISSING, UNREADABLE, CORRUPT, TOO_SHORT)
STATUS_WORDS = {
    OK: "Ok",
    TOO_SHORT: "Too short",
    CORRUPT: "Corrupt",
    UNREADABLE: "Unreadable",
    FAILED: "Failed",
    TOO_LARGE: "Too large",
    MISSING: "Not done",
}
_ON_CLUSTER = (
    "The commands send the run again with its parameters; add the options that it was sent with, "
    "such as --host, --namespace and --settings. Or clone the run in Kubeflow and change its "
    "parameters there. The next run of a schedule retries all but corrupt and too short videos."
)
_HERE = "Running the same run again does only the rest, here with these commands."
# The parameters of a pipeline that are options of submit; all others are --param.
_OF_SUBMIT = ("videos", "out", "server", "model_digest")
# Types of errors for which the memory of a worker is, or is likely to be, the reason.
_OF_MEMORY = (VideoTooLarge.__name__, WorkerDied.__name__)
# Parameters that are settings of clips in a provenance.
_WINDOW = ("stride", "frame_step", "tail", "short", "fps")
# The options of run that are not named after their parameters, those without a value, and the
# parameters that the command has in any case, or with another default.
_OPTIONS = {"timeout_s": "--timeout", "patience_s": "--patience"}
_FLAGS = {"any_file": "--any", "clip_rows": "--no-clips", "retry_failed": "--retry-failed"}
_WRITTEN = ("videos", "out", "server")


@dataclass(frozen=True)
class Advice:
    """Advice on one kind of failure.

    Args:
        kind: a status, ``missing`` for videos whose shard is missing, or ``too_large`` for failed
            videos that need more memory than a worker has.
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
    """Return a failure's status, or the narrower kind that :class:`Advice` has."""
    if failure.error_type in (SHARD_MISSING, ROW_MISSING):
        return MISSING
    return TOO_LARGE if failure.error_type in _OF_MEMORY else failure.status


def advice(summary: RunSummary) -> list[Advice]:
    """Return advice on each kind of failure in a run, first on those that are retried anyway."""
    run_again = retry_command(summary)
    retry_failed = retry_command(summary, retry_failed=True)
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
        TOO_LARGE: (
            "They need more memory than a worker may use, or killed two workers, most likely by "
            "their memory.",
            "Give the workers more memory"
            + (" (--memory-limit)" if summary.on_cluster else ", or start fewer (--workers 1)")
            + ", or convert the videos to smaller pictures. Then run again: they are retried.",
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
            retry_command(summary, short="loop", out=f"{summary.out.rstrip('/')}-loop")
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


def how_to_retry(summary: RunSummary) -> str:
    """Return what the commands of a run's advice do, and what they need, as text."""
    return _ON_CLUSTER if summary.on_cluster else _HERE


def retry_command(
    summary: RunSummary, *, retry_failed: bool = False, short: str = "", out: str = ""
) -> str:
    """Return the command that runs the same inputs again in the same way, quoted for a shell.

    Args:
        summary: of the run to repeat.
        retry_failed: retry the videos that failed for good too.
        short: another value of this parameter; empty for the run's own.
        out: another dataset; empty for the run's own.
    """
    changes = {"retry_failed": retry_failed, "short": short, "out": out}
    changes = {name: value for name, value in changes.items() if value}
    arguments = _submit(summary, changes) if summary.on_cluster else _run(summary, changes)
    return shlex.join(["c3d-pipelines", *arguments])


def _submit(summary: RunSummary, changes: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ``submit`` with the run's parameters."""
    arguments = ["submit", PIPELINES[summary.answer]]
    values = {**(summary.sent or {}), **changes}
    for name in _OF_SUBMIT:
        if name in values:
            arguments += [f"--{name.replace('_', '-')}", str(values.pop(name))]
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        arguments += ["--param", f"{name}={text}"]
    return arguments


def _run(summary: RunSummary, changes: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ``run`` with the run's inputs and its parameters."""
    known = _of_provenance(summary) if summary.given is None else summary.given
    values = {**known, **changes}
    plan = f"{summary.out.rstrip('/')}/{run_file(summary.run, PLAN)}"
    arguments = ["run", "--videos", str(values.get("videos", plan))]
    arguments += ["--out", changes.get("out", summary.out)]
    if summary.answer == "classes":
        arguments.append("--classify")
    if summary.server not in ("", DEFAULT_TARGET):
        arguments += ["--server", summary.server]
    for name in PARAMETERS:
        if name in _WRITTEN or name not in values or values[name] == PARAMETERS[name].default:
            continue
        if name in _FLAGS:
            arguments.append(_FLAGS[name])
        else:
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            arguments += [option, str(values[name])]
    return arguments


def _of_provenance(summary: RunSummary) -> dict[str, Any]:
    """Return the parameters that show in a run's provenance, as far as they are known."""
    provenance = summary.provenance
    values = {name: provenance.clips[name] for name in _WINDOW if provenance.clips.get(name)}
    values["model"] = str(provenance.model.get("name", MODEL_NAME))
    exact = PREPROCESSING["resize"]
    if provenance.preprocessing.get("resize", exact) != exact:
        values["resize"] = "fast"
    values["damage"] = str(provenance.get("damage", "error"))
    return {**values, "pca": summary.pca or NO_PCA}
