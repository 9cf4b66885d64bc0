"""The report of a run as short Markdown, which Kubeflow's page of a run shows."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from c3d_client.core.text import one_line, weights_text

from c3d_pipelines.inputs.plan import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.reports.advice import STATUS_WORDS, advice, how_to_retry, kind_of
from c3d_pipelines.reports.summary import SUCCEEDED, Failure, RunSummary
from c3d_pipelines.shards.schema import OK, STATUSES
from c3d_pipelines.text import (
    LONGEST,
    count,
    length,
    share,
    shortened,
    significant,
    size,
    visible,
)

MOST_FAILURES = 20
# Characters that Markdown interprets, or that turn an address into a link.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$^:@.=-])")
_DECISION_WORDS = {
    DO: "to do in this run",
    DONE: "done earlier",
    KNOWN_FAILURE: "failed earlier, unchanged",
    DUPLICATE: "same as another",
}


def to_markdown(summary: RunSummary) -> str:
    """Return a run's verdict, dataset, counts, failures with advice, and speed."""
    parts = [f"# {escape(summary.verdict)}"]
    state = f"Run {escape(summary.run)}: **{escape(summary.state.capitalize())}**"
    dataset = f"Dataset: {escape(summary.out, longest=LONGEST)}"
    dataset += f" ({escape(summary.dataset_text)})" if summary.dataset_text else ""
    parts.append(f"{state}. {dataset}")
    if summary.state != SUCCEEDED and summary.message.strip():
        parts.append(f"> {escape(summary.message, longest=LONGEST)}")
    _, note = weights_text(summary.provenance)
    if note:
        parts.append(f"**Weights: {escape(note)}**")
    if summary.versions_note:
        parts.append(f"Dataset {escape(summary.versions_note, longest=LONGEST)}")
    parts += [escape(note, longest=LONGEST) for note in summary.notes]
    if summary.inputs:
        parts.append(_counts(summary))
    if summary.gate_text:
        parts.append(escape(summary.gate_text))
    missing = summary.missing_shards
    if missing:
        parts.append(f"{count(len(missing))} of {count(len(summary.shards), 'shard')} missing")
    if summary.failures:
        parts.append(_failures(summary))
    parts += [_speed(summary)] if summary.wall_s else []
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(value: object, *, longest: int = 300) -> str:
    """Return any value as one line of plain text in Markdown, in a table too."""
    plain = shortened(one_line(str(value)), longest)
    return html.escape(_SPECIAL.sub(r"\\\1", plain), quote=False)


def _counts(summary: RunSummary) -> str:
    statuses = [status for status in STATUSES if status == OK or summary.ended(status)]
    lines = [
        (
            _DECISION_WORDS[decision],
            [summary.counts[decision][status] for status in statuses],
        )
        for decision in DECISIONS
        if summary.decided(decision)
    ]
    lines.append(("**all**", [summary.ended(status) for status in statuses]))
    heads = ["", *(status.replace("_", " ") for status in statuses), "inputs"]
    return _table(
        heads,
        [[name, *map(count, numbers), count(sum(numbers))] for name, numbers in lines],
    )


def _failures(summary: RunSummary) -> str:
    parts = ["## What failed, and how to retry it", escape(how_to_retry(summary), longest=LONGEST)]
    for item in advice(summary):
        heading = f"**{STATUS_WORDS[item.kind]}: {count(item.count, 'video')}.**"
        parts += [f"{heading} {item.meaning} {item.remedy}", _code(item.command)]
    first = summary.failures[:MOST_FAILURES]
    if len(first) < len(summary.failures):
        parts.append(f"The first {count(len(first))} of {count(len(summary.failures))}:")
    rows = [
        [
            escape(failure.video_id),
            STATUS_WORDS[kind_of(failure)].lower(),
            escape(_reason(failure)),
        ]
        for failure in first
    ]
    parts.append(_table(["video", "status", "reason"], rows, numbers=False))
    return "\n\n".join(parts)


def _reason(failure: Failure) -> str:
    return f"{failure.reason} ({failure.error_type})"


def _speed(summary: RunSummary) -> str:
    """Return the time, rates and parts of the time of a run with work."""
    wall_s = summary.wall_s or 0.0
    clips_per_s, hours = summary.rate(summary.clips) or 0.0, summary.rate(summary.video_s) or 0.0
    parts = [
        f"## Speed\n\n{count(summary.processed, 'video')} in {length(wall_s)}: "
        f"{significant(clips_per_s)} clips/s, {significant(hours)} hours of video an hour; "
        f"{size(summary.bytes_in)} read, {size(summary.bytes_out)} written."
    ]
    seconds = summary.known_seconds
    total = sum(seconds.values())
    if total:
        heads = ["", *(part.removesuffix("_s") for part in seconds)]
        times = ["time", *map(length, seconds.values())]
        shares = ["share", *(share(value, total) for value in seconds.values())]
        parts.append(_table(heads, [times, shares]))
    return "\n\n".join(parts)


def _code(command: str) -> str:
    """Return a command as a code block with a fence that the command does not contain."""
    command = visible(command)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}\n{command}\n{fence}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    rule = ["---"] + ["---:" if numbers else "---"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
