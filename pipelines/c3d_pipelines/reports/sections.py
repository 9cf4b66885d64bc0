"""The sections of a run's page, from a summary to HTML: each is a heading and a table or two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from c3d_pipelines.inputs.planned import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.reports.advice import STATUS_WORDS
from c3d_pipelines.reports.figures import count, length, share, size
from c3d_pipelines.reports.histogram import Bin, Histogram
from c3d_pipelines.reports.markup import text, verbatim
from c3d_pipelines.reports.run_summary import PARTS, RunSummary, ShardSummary
from c3d_pipelines.run_files import PLAN, SETTINGS, SUMMARY, run_file
from c3d_pipelines.shards.format import OK, STATUSES

_DECISION_WORDS = {
    DO: "To do in this run",
    DONE: "Done in an earlier run",
    KNOWN_FAILURE: "Failed in an earlier run, unchanged since",
    DUPLICATE: "The same video as another input",
}
_PART_WORDS = {
    "decode_s": ("Decode", "reading, decoding, resizing and cropping, here"),
    "wire_s": ("Wire", "requests and answers on their way"),
    "queue_s": ("Queue", "requests waiting in the server"),
    "compute_s": ("Compute", "the network, in the server"),
}
_OPEN_SHARDS = 24  # so many are shown without being asked for


def accounting(summary: RunSummary) -> str:
    """Inputs = rows: each input by what was decided and what became of it."""
    if not summary.inputs:
        return ""
    statuses = [status for status in STATUSES if status == OK or summary.ended(status)]
    heads = "".join(f'<th scope="col" class="num">{STATUS_WORDS[one]}</th>' for one in statuses)
    lines = [
        (_DECISION_WORDS[decision], [summary.counts[decision][status] for status in statuses])
        for decision in DECISIONS
        if summary.decided(decision)
    ]
    rows = "".join(
        f'<tr><th scope="row">{words}</th>{_cells(numbers)}</tr>\n' for words, numbers in lines
    )
    totals = [summary.ended(status) for status in statuses]
    return f"""<section aria-labelledby="counted">
<h2 id="counted">Every input, counted</h2>
<div class="scroll" role="region" aria-labelledby="counted" tabindex="0">
<table class="counted">
<thead><tr><th scope="col">Decided</th>{heads}<th scope="col" class="num">Inputs</th></tr></thead>
<tbody>
{rows}</tbody>
<tfoot><tr><th scope="row">All</th>{_cells(totals)}</tr></tfoot>
</table>
</div>
</section>"""


def time(summary: RunSummary) -> str:
    """Where the time went, summed over the videos."""
    told = {part: seconds for part in PARTS if (seconds := summary.seconds.get(part)) is not None}
    whole = sum(told.values())
    if not whole:
        return ""
    stack = "".join(
        f'<i style="flex: {seconds:.6f} 0 0; background: var(--{part[:-2]})"></i>'
        for part, seconds in told.items()
        if seconds
    )
    rows = "".join(
        f'<tr><th scope="row"><span class="dot" style="background: var(--{part[:-2]})"></span>'
        f'{_PART_WORDS[part][0]} <span class="soft small">{_PART_WORDS[part][1]}</span></th>'
        f'<td class="num">{length(seconds)}</td><td class="num">{share(seconds, whole)}</td>'
        f'<td class="num">{length(seconds / max(summary.processed, 1))}</td></tr>\n'
        for part, seconds in told.items()
    )
    silent = ""
    if "queue_s" not in told and "compute_s" not in told:
        silent = " The server does not tell how long requests waited and how long it computed: \
both are in the wire's time."
    return f"""<section aria-labelledby="time">
<h2 id="time">Where the time went</h2>
<p class="soft">Summed over {count(summary.processed, "video")}, which took \
{length(summary.video_wall_s)} from start to end, several at a time. The parts overlap.{silent}</p>
<div class="stack" aria-hidden="true">{stack}</div>
<table class="parts">
<thead><tr><th scope="col">Part</th><th scope="col" class="num">Time</th>\
<th scope="col" class="num">Share</th><th scope="col" class="num">A video</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</section>"""


def histograms(summary: RunSummary) -> str:
    """How long the videos are, and how many clips they have."""
    if not summary.durations.count and not summary.clip_counts.count:
        return ""
    made = (
        _histogram(summary.durations, "Length", _duration_bin, length, length),
        _histogram(summary.clip_counts, "Clips", _clip_bin, count, lambda n: count(n, "clip")),
    )
    return f"""<section aria-labelledby="sizes">
<h2 id="sizes">The videos</h2>
<div class="columns">
{"".join(made)}</div>
</section>"""


def shards(summary: RunSummary) -> str:
    """What each shard did; those that left nothing are named first."""
    if not summary.shards:
        return ""
    said = []
    missing = summary.missing_shards
    if missing:
        named = ", ".join(str(shard.index) for shard in missing[:50])
        more = f" and {count(len(missing) - 50)} more" if len(missing) > 50 else ""
        are = "is" if len(missing) == 1 else "are"
        said.append(
            f'<p class="notice bad">{count(len(missing))} of {count(len(summary.shards), "shard")}'
            f" {are} missing: {named}{more}. The next run does them.</p>"
        )
    times = [(shard.seconds, shard.index) for shard in summary.shards if shard.seconds is not None]
    longest = max(times, default=(0.0, 0))
    if len(times) > 1:
        said.append(
            f'<p class="soft">Half of them took {length(median(one for one, _ in times))} or less; '
            f"the slowest, number {longest[1]}, {length(longest[0])}.</p>"
        )
    rows = "".join(_shard(shard, longest[0]) for shard in summary.shards)
    table = f"""<div class="scroll" role="region" aria-labelledby="shards" tabindex="0">
<table class="shards">
<thead><tr><th scope="col">Shard</th><th scope="col" class="num">Videos</th>\
<th scope="col" class="num">Not ok</th><th scope="col" class="num">Clips</th>\
<th scope="col" class="num">Written</th><th scope="col" class="num">Tried again</th>\
<th scope="col" class="num time">Time</th><th scope="col">File</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>"""
    if len(summary.shards) > _OPEN_SHARDS:
        all_of_them = f"All {count(len(summary.shards))} shards"
        table = f"<details><summary>{all_of_them}</summary>{table}</details>"
    return f"""<section aria-labelledby="shards">
<h2 id="shards">Shards</h2>
{"".join(said)}
{table}
</section>"""


def provenance(summary: RunSummary) -> str:
    """What made the numbers, as keys and values."""
    if not summary.provenance:
        return ""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for path, value in _leaves(summary.provenance, ()):
        group, key = (path[0], path[1:]) if len(path) > 1 else ("", path)
        groups.setdefault(group, []).append((" · ".join(key).replace("_", " "), value))
    rows = []
    for group, pairs in sorted(groups.items(), key=lambda item: bool(item[0])):
        if group:
            rows.append(f'<tr class="group"><th colspan="2">{text(group.capitalize())}</th></tr>\n')
        rows += [
            f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>\n'
            for key, value in pairs
        ]
    return f"""<section aria-labelledby="made">
<h2 id="made">How the numbers were made</h2>
<p class="soft">The same in every row of the dataset; numbers made otherwise are refused.</p>
<table class="pairs">
<tbody>
{"".join(rows)}</tbody>
</table>
</section>"""


def files(summary: RunSummary) -> str:
    """Where the dataset and this run's files lie."""
    out = summary.out.rstrip("/")
    names = [
        ("index.parquet", "../../index.parquet", "one row for every input, the newest result"),
        ("dataset.json", "../../dataset.json", "what the dataset is and what made it"),
        ("README.md", "../../README.md", "its card, for people"),
        (run_file(summary.run, PLAN), PLAN, "what this run was to do"),
        (run_file(summary.run, SETTINGS), SETTINGS, "what it was asked"),
        (run_file(summary.run, SUMMARY), SUMMARY, "this page for programs"),
    ]
    if not summary.inputs:
        names = [one for one in names if one[1] == SUMMARY]
    rows = "".join(
        f'<tr><th scope="row"><a href="{link}">{text(name)}</a></th><td>{words}</td></tr>\n'
        for name, link, words in names
    )
    read = ""
    if summary.ok:
        call = verbatim(f"dataset.open({out!r})")
        read = f"""<p class="soft">To read it in Python:</p>
<code class="command" tabindex="0">from c3d_pipelines import dataset
films = {call}</code>"""
    return f"""<section aria-labelledby="files">
<h2 id="files">Files</h2>
<p class="soft any">Below <code>{text(out)}</code></p>
<table class="pairs"><tbody>
{rows}</tbody></table>
{read}
</section>"""


def _cells(numbers: list[int]) -> str:
    return "".join(
        f'<td class="num{"" if number else " none"}">{count(number)}</td>'
        for number in (*numbers, sum(numbers))
    )


def _histogram(histogram: Histogram, title: str, name: Any, one: Any, whole: Any) -> str:
    if not histogram.count:
        return ""
    most = max(bin_.count for bin_ in histogram.bins)
    rows = "".join(
        f'<tr><th scope="row" class="num">{name(bin_)}</th><td>{_bar(bin_.count / most)}</td>'
        f'<td class="num">{count(bin_.count)}</td></tr>\n'
        for bin_ in histogram.bins
    )
    said = (
        f"{title} of {count(histogram.count, 'video')}: median {one(histogram.median)}, "
        f"95 % up to {one(histogram.p95)}, the most {one(histogram.largest)}; "
        f"{whole(histogram.total)} in all"
    )
    return f"""<table class="histogram">
<caption>{said}</caption>
<tbody>
{rows}</tbody>
</table>
"""


def _bar(part: float) -> str:
    width = max(part * 100, 0.5 if part else 0)
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.2f}" height="10"/></svg>'
    )


def _duration_bin(one: Bin) -> str:
    if one.high is None:
        return f"{' '.join(_edge(one.low))} or more"
    low, high = _edge(one.low), _edge(one.high)
    if not one.low:
        return f"under {' '.join(high)}"
    return f"{' '.join(low[: 1 if low[1] == high[1] else 2])} – {' '.join(high)}"


def _edge(seconds: float) -> tuple[str, str]:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g}", name
    return f"{seconds:g}", "s"


def _clip_bin(one: Bin) -> str:
    if one.high is None:
        return f"{count(one.low)} or more"
    last = one.high - 1
    return count(one.low) if last == one.low else f"{count(one.low)} – {count(last)}"


def _shard(shard: ShardSummary, longest_s: float) -> str:
    if shard.missing or shard.seconds is None or shard.bytes is None:
        rest = '<td class="num none">–</td>' * 3 + '<td class="num time lost">missing</td><td></td>'
    else:
        bar = _bar(shard.seconds / longest_s if longest_s else 0)
        rest = (
            f'<td class="num">{count(shard.clips)}</td><td class="num">{size(shard.bytes)}</td>'
            f'<td class="num">{count(shard.retries)}</td>'
            f'<td class="num time">{length(shard.seconds)}{bar}</td>'
            f"<td><code>{text(shard.name)}</code></td>"
        )
    lost = shard.videos - shard.ok
    return (
        f'<tr><th scope="row">{shard.index}</th>'
        f'<td class="num">{count(shard.videos)}</td>'
        f'<td class="num{"" if lost else " none"}">{count(lost)}</td>{rest}</tr>\n'
    )


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of a nested mapping that say something, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif value is not None and value != "":
        yield path, value
