"""The report of a run as one HTML page that needs nothing else: no network and no server.

The page is `templates/report.html` with `templates/report.js`. All text is escaped by the template,
and the page's security policy allows its own script only. :mod:`c3d_pipelines.reports.markdown` is
the short form.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from statistics import median
from typing import Any

from c3d_client.core.text import one_line, weights_text
from c3d_client.core.uri import Uri
from jinja2 import Environment, PackageLoader, StrictUndefined

from c3d_pipelines.inputs.plan import DO, DONE, DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.reports.advice import KINDS, STATUS_WORDS, advice, how_to_retry, kind_of
from c3d_pipelines.reports.markdown import to_markdown
from c3d_pipelines.reports.summary import SUCCEEDED, Bin, Failure, RunSummary
from c3d_pipelines.shards.schema import FAILED, OK, STATUSES
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, SUMMARY, TEXT, run_file
from c3d_pipelines.text import (
    LONGEST,
    count,
    instant,
    length,
    share,
    shortened,
    significant,
    size,
    visible,
    was,
)

__all__ = ["report_files", "to_html", "to_markdown"]

MOST_FAILURES = 1000  # in the table of failures
_OPEN_SHARDS = 24  # a table of more shards is collapsed
_TASKS = {"features": "extraction", "classes": "classification"}
_ENDED = {"FAILED": "failed", "CANCELLED": "was cancelled", "CANCELED": "was cancelled"}
_DECISION_WORDS = {
    DO: "To do in this run",
    DONE: "Done in an earlier run",
    KNOWN_FAILURE: "Failed in an earlier run, unchanged since",
    DUPLICATE: "The same video as another input",
}
_TAGS = {KNOWN_FAILURE: "since an earlier run", DUPLICATE: "the same as another input"}
_PART_WORDS = {
    "decode_s": ("Decode", "reading, decoding, resizing and cropping, here"),
    "wire_s": ("Wire", "requests and responses on the network"),
    "queue_s": ("Queue", "requests waiting in the server"),
    "compute_s": ("Compute", "the network, in the server"),
}


def report_files(summary: RunSummary) -> dict[str, str]:
    """Return the contents of a run's report by the names of its files in the run's folder."""
    return {SUMMARY: summary.to_json(), PAGE: to_html(summary), TEXT: to_markdown(summary)}


def to_html(summary: RunSummary) -> str:
    """Return a self-contained HTML page about a run.

    The page is readable without JavaScript, which only filters, sorts and pages the failures. Its
    links lead to the dataset's files when the page is in ``runs/<run>/`` there.
    """
    script = resources.files(__package__).joinpath("templates/report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    failures = chosen(summary.failures)
    kinds = Counter(map(kind_of, failures))
    done = [shard for shard in summary.shards if shard.seconds is not None]
    return (
        _environment()
        .get_template("report.html")
        .render(
            summary=summary,
            task=_TASKS.get(summary.answer, "run"),
            tone=_tone(summary),
            period=_period(summary),
            ended=_ENDED.get(summary.state, "did not succeed"),
            note=weights_text(summary.provenance)[1],
            statuses=[status for status in STATUSES if summary.ended(status)],
            columns=[status for status in STATUSES if status == OK or summary.ended(status)],
            tiles=_tiles(summary),
            advice=advice(summary),
            how_to_retry=how_to_retry(summary),
            in_volume=summary.on_cluster and Uri(summary.out).is_local,
            failures=failures,
            kinds=[(kind, kinds[kind]) for kind in KINDS if kinds[kind]],
            caption=_caption(summary, failures),
            seconds=summary.known_seconds,
            missing=summary.missing_shards,
            times=[shard.seconds for shard in done],
            slowest=max(done, key=lambda shard: (shard.seconds or 0.0, shard.index), default=None),
            provenance=_groups(summary.provenance),
            files=_files(summary),
            script=script,
            script_hash=f"sha256-{digest}",
        )
    )


def chosen(failures: tuple[Failure, ...]) -> list[Failure]:
    """Return the failures to show: some of every kind, in the plan's order."""
    if len(failures) <= MOST_FAILURES:
        return list(failures)
    seen: Counter[tuple[str, str]] = Counter()
    ranks = []
    for index, failure in enumerate(failures):
        kind = failure.status, failure.error_type
        ranks.append((seen[kind], index))
        seen[kind] += 1
    return [
        failures[index] for index in sorted(i for _, i in heapq.nsmallest(MOST_FAILURES, ranks))
    ]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("c3d_pipelines.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        line=lambda value, longest=LONGEST: shortened(one_line(str(value)), longest),
        block=_block,
        visible=visible,
        count=count,
        duration=length,
        size=size,
        was=was,
        extract=lambda key, mapping: mapping[key],
        call=lambda value, function: function(value),
    )
    environment.globals.update(
        SUCCEEDED=SUCCEEDED,
        STATUS_WORDS=STATUS_WORDS,
        DECISION_WORDS=_DECISION_WORDS,
        PART_WORDS=_PART_WORDS,
        TAGS=_TAGS,
        OPEN_SHARDS=_OPEN_SHARDS,
        kind_of=kind_of,
        colour=lambda kind: kind if kind in STATUSES else FAILED,
        share=share,
        median=median,
        count=count,
        count_clips=lambda number: count(number, "clip"),
        duration=length,
        duration_bin=_duration_bin,
        clip_bin=_clip_bin,
    )
    return environment


def _block(value: str) -> str:
    """Return a text of several lines without characters that cannot be seen."""
    lines = shortened(value.strip("\r\n"), LONGEST).expandtabs(4).splitlines()
    return "\n".join(visible(line.rstrip()) for line in lines)


def _tone(summary: RunSummary) -> str:
    if summary.state != SUCCEEDED:
        return "bad"
    return "warn" if summary.failures else "good"


def _period(summary: RunSummary) -> str:
    if summary.started_at is None or summary.ended_at is None:
        return ""
    started, ended = instant(summary.started_at), instant(summary.ended_at)
    if started[:10] == ended[:10]:
        ended = ended[11:]
    return f"{started} – {ended}"


def _tiles(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Return the most important numbers; numbers of work only where there was work."""
    do, earlier = summary.decided(DO), summary.decided(DONE)
    tiles = [("Inputs", count(summary.inputs), f"{count(earlier)} done earlier" if earlier else "")]
    if do:
        tiles.append(("Done in this run", count(summary.ok_of_run), f"of {count(do)} to do"))
    if summary.shards:
        missing = len(summary.missing_shards)
        tiles.append(
            ("Shards", count(len(summary.shards)), f"{count(missing)} missing" if missing else "")
        )
    if wall_s := summary.wall_s:
        videos, clips, hours = (
            number / wall_s for number in (summary.processed, summary.clips, summary.video_s)
        )
        tiles += [
            ("Time", length(wall_s), "from first shard to last"),
            ("Videos", f"{significant(videos)} / s", f"{significant(videos * 3600)} an hour"),
            ("Clips", f"{significant(clips)} / s", f"{count(summary.clips)} in all"),
            ("Hours of video an hour", significant(hours), f"{length(summary.video_s)} in all"),
            ("Read", size(summary.bytes_in), "of videos"),
            ("Written", size(summary.bytes_out), "of shards"),
            ("Retried", count(summary.retries, "video"), "server was away or full"),
        ]
    return tiles


def _caption(summary: RunSummary, failures: list[Failure]) -> str:
    total = count(len(summary.failures), "video")
    if len(failures) < len(summary.failures):
        return (
            f"{count(len(failures))} of {total}, some of every kind; "
            "all of them are in summary.json and index.parquet"
        )
    return f"All {total}" if len(failures) > 1 else "The one video"


def _groups(provenance: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Return the provenance as groups of names and values, values without a group first."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for path, value in _leaves(provenance, ()):
        group, names = (path[0], path[1:]) if len(path) > 1 else ("", path)
        groups.setdefault(group, []).append((" · ".join(names).replace("_", " "), value))
    return sorted(groups.items(), key=lambda item: bool(item[0]))


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a nested mapping that are not empty, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif value is not None and value != "":
        yield path, value


def _files(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Return name, link and description of the dataset's files and the run's."""
    files = [
        ("index.parquet", "../../index.parquet", "one row for every input, the newest result"),
        ("dataset.json", "../../dataset.json", "what the dataset is and how it was made"),
        ("README.md", "../../README.md", "its description, for people"),
        (run_file(summary.run, PLAN), PLAN, "what this run was to do"),
        (run_file(summary.run, SETTINGS), SETTINGS, "the settings of this run"),
        (run_file(summary.run, SUMMARY), SUMMARY, "this page for programs"),
    ]
    return files if summary.inputs else files[-1:]


def _duration_bin(bin_: Bin) -> str:
    if bin_.high is None:
        return f"{' '.join(_edge(bin_.low))} or more"
    low, high = _edge(bin_.low), _edge(bin_.high)
    if not bin_.low:
        return f"under {' '.join(high)}"
    return f"{' '.join(low[: 1 if low[1] == high[1] else 2])} – {' '.join(high)}"


def _edge(seconds: float) -> tuple[str, str]:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g}", name
    return f"{seconds:g}", "s"


def _clip_bin(bin_: Bin) -> str:
    if bin_.high is None:
        return f"{count(bin_.low)} or more"
    last = bin_.high - 1
    return count(bin_.low) if last == bin_.low else f"{count(bin_.low)} – {count(last)}"
