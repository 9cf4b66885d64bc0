"""A run's summary as one page that needs nothing else: no network, no server, no scripts but one.

Its parts are `report.html` and `report.js` beside this file, and the sections of
`failures.py` and `py`. Names of videos and messages are somebody else's
text: all of it is escaped, and the page's security policy runs no script but its own.
`markdown.py` is the short form.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from statistics import median
from typing import Any

from c3d_client.core.text import weights_text

from c3d_pipelines.inputs.plan import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.reports.advice import KINDS, MISSING, STATUS_WORDS, Advice, advice, kind_of
from c3d_pipelines.reports.markdown import to_markdown
from c3d_pipelines.reports.markup import (
    block,
    text,
    verbatim,
)
from c3d_pipelines.reports.summary import (
    PARTS,
    SUCCEEDED,
    Bin,
    Failure,
    Histogram,
    RunSummary,
    ShardSummary,
)
from c3d_pipelines.shards.schema import FAILED, OK, STATUSES
from c3d_pipelines.storage import PLAN, SETTINGS, SUMMARY, run_file
from c3d_pipelines.text import count, instant, length, share, significant, size, was

__all__ = ["to_html", "to_markdown"]

_TASKS = {"features": "extraction", "classes": "classification"}


def to_html(summary: RunSummary) -> str:
    """One self-contained HTML page about a run.

    It shows without JavaScript too; that only filters, sorts and turns pages. Its links lead to the
    dataset's files when it lies in ``runs/<run>/`` there.
    """
    script = _part("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    _, note = weights_text(summary.provenance)
    parts = {
        "verdict": text(summary.verdict),
        "run": text(summary.run),
        "task": _TASKS.get(summary.answer, "run"),
        "state": text(summary.state.capitalize()),
        "tone": _tone(summary),
        "where": _where(summary),
        "notice": _notice(summary),
        "note": f'<p class="notice warn" role="note">Weights: {text(note)}</p>' if note else "",
        "status_bar": _status_bar(summary),
        "tiles": _tiles(summary),
        "sections": "\n".join(
            (
                failures(summary),
                accounting(summary),
                time(summary),
                histograms(summary),
                shards(summary),
                provenance(summary),
                files(summary),
            )
        ),
        "script": script,
        "script_hash": f"sha256-{digest}",
    }
    # In one go: what is filled in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("report.html"))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _tone(summary: RunSummary) -> str:
    if summary.state != SUCCEEDED:
        return "bad"
    return "warn" if summary.failures else "good"


def _where(summary: RunSummary) -> str:
    said = [f"Dataset <code>{text(summary.out)}</code>"]
    if summary.started_at is not None and summary.ended_at is not None:
        begun, ended = instant(summary.started_at), instant(summary.ended_at)
        if begun[:10] == ended[:10]:
            ended = ended[11:]
        said.append(f'<span class="num">{begun} – {ended} UTC</span>')
    return " · ".join(said)


def _notice(summary: RunSummary) -> str:
    if summary.state == SUCCEEDED:
        return ""
    ended = {"FAILED": "failed", "CANCELLED": "was cancelled", "CANCELED": "was cancelled"}
    said = f"<strong>The run {ended.get(summary.state, 'did not succeed')}.</strong>"
    if summary.inputs and summary.ok:
        said += " What was done is kept; the next run does what is left."
    why = f'<div class="text">{block(summary.message)}</div>' if summary.message.strip() else ""
    return f'<div class="notice bad" role="alert">{said}{why}</div>'


def _status_bar(summary: RunSummary) -> str:
    ended = {status: summary.ended(status) for status in STATUSES if summary.ended(status)}
    if not ended:
        return ""
    parts = "".join(
        f'<i style="flex: {number} 0 0; background: var(--{status})"></i>'
        for status, number in ended.items()
    )
    keys = "".join(
        f'<li><span class="dot" style="background: var(--{status})"></span>'
        f"{STATUS_WORDS[status]} <strong>{count(number)}</strong>"
        f' <span class="soft">{share(number, summary.inputs)}</span></li>'
        for status, number in ended.items()
    )
    return (
        f'<div class="stack" aria-hidden="true">{parts}</div>\n'
        f'<ul class="legend num" aria-label="Inputs by status">{keys}</ul>'
    )


def _tiles(summary: RunSummary) -> str:
    """The numbers that people look for first; those of work only where some was done."""
    do, earlier = summary.decided(DO), summary.decided(DONE)
    tiles = [("Inputs", count(summary.inputs), f"{count(earlier)} done earlier" if earlier else "")]
    if do:
        tiles.append(("Done in this run", count(summary.counts[DO][OK]), f"of {count(do)} to do"))
    wall_s = summary.wall_s
    if summary.shards:
        missing = len(summary.missing_shards)
        tiles.append(
            ("Shards", count(len(summary.shards)), f"{count(missing)} missing" if missing else "")
        )
    if wall_s:
        rates = (summary.processed / wall_s, summary.clips / wall_s, summary.video_s / wall_s)
        tiles += [
            ("Time", length(wall_s), "from first shard to last"),
            ("Videos", f"{significant(rates[0])} / s", f"{significant(rates[0] * 3600)} an hour"),
            ("Clips", f"{significant(rates[1])} / s", f"{count(summary.clips)} in all"),
            (
                "Hours of video an hour",
                significant(rates[2]),
                f"{length(summary.video_s)} in all",
            ),
            ("Read", size(summary.bytes_in), "of videos"),
            ("Written", size(summary.bytes_out), "of shards"),
            ("Tried again", count(summary.retries, "video"), "server or store was away"),
        ]
    return (
        '<dl class="tiles">'
        + "".join(
            f'<div class="tile"><dt>{name}</dt><dd class="value num">{value}</dd>'
            f'<dd class="soft small num">{more}</dd></div>'
            for name, value, more in tiles
        )
        + "</dl>"
        if summary.inputs
        else ""
    )


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


MOST_FAILURES = 1000
_TAGS = {KNOWN_FAILURE: "since an earlier run", DUPLICATE: "the same as another input"}


def failures(summary: RunSummary) -> str:
    """What failed, what to do about each kind, and the videos themselves."""
    if not summary.failures:
        return ""
    shown = chosen(summary.failures)
    total = count(len(summary.failures), "video")
    which = f"All {total}" if len(summary.failures) > 1 else "The one video"
    if len(shown) < len(summary.failures):
        which = (
            f"{count(len(shown))} of {total}, some of every kind; "
            "all of them are in summary.json and index.parquet"
        )
    kinds = Counter(kind_of(one) for one in shown)
    choices = "".join(
        f'<option value="{kind}">{STATUS_WORDS[kind]} ({count(kinds[kind])})</option>'
        for kind in KINDS
        if kinds[kind]
    )
    return f"""<section aria-labelledby="failed">
<h2 id="failed">What failed, and how to try it again</h2>
<p class="soft">The same run again does only what is left: here with these commands, on a cluster \
with the same parameters (in Kubeflow: Clone run).</p>
<div class="kinds">
{"".join(map(_kind, advice(summary)))}</div>
<div class="tools" id="tools" hidden>
<label>Filter <input id="filter" type="search" placeholder="part of a name or reason" \
autocomplete="off" spellcheck="false"></label>
<label>Status <select id="kind"><option value="">All ({count(len(shown))})</option>{choices}\
</select></label>
</div>
<div class="long">
<table id="failures">
<caption>{which}</caption>
<thead><tr><th scope="col" class="video">Video</th><th scope="col" class="status">Status</th>\
<th scope="col">Reason</th></tr></thead>
<tbody>
{"".join(map(_failure, shown))}</tbody>
</table>
</div>
<nav class="pager" id="pager" aria-label="Pages of failures" hidden>
<button type="button" id="back">Previous</button>
<button type="button" id="on">Next</button>
<span class="num soft" id="shown" role="status"></span>
</nav>
</section>"""


def chosen(all_of_them: tuple[Failure, ...]) -> list[Failure]:
    """The failures that are shown: of every kind some, in the plan's order."""
    if len(all_of_them) <= MOST_FAILURES:
        return list(all_of_them)
    seen: Counter[tuple[str, str]] = Counter()
    ranks = []
    for place, failure in enumerate(all_of_them):
        kind = failure.status, failure.error_type
        ranks.append((seen[kind], place))
        seen[kind] += 1
    kept = (place for _, place in heapq.nsmallest(MOST_FAILURES, ranks))
    return [all_of_them[place] for place in sorted(kept)]


def _kind(one: Advice) -> str:
    types = ", ".join(f"{text(name, longest=80)} {count(number)}" for name, number in one.types[:8])
    known = ""
    if one.known:
        known = f" {count(one.known)} failed in an earlier run and {was(one.known)} left alone."
    colour = FAILED if one.kind == MISSING else one.kind
    return f"""<article class="kind" style="border-left-color: var(--{colour})">
<h3>{STATUS_WORDS[one.kind]}: {count(one.count, "video")}</h3>
<p>{one.meaning}{known}</p>
<p class="soft small any">{types}</p>
<p>{one.remedy}</p>
<code class="command" tabindex="0">{verbatim(one.command)}</code>
</article>
"""


def _failure(one: Failure) -> str:
    kind = kind_of(one)
    reason = one.error_message.removeprefix(f"{one.uri}: ")
    where = f'<br><bdi class="soft small">{text(one.uri, longest=500)}</bdi>'
    if one.uri == one.video_id:
        where = ""
    tag = f' <span class="tag">{_TAGS[one.decision]}</span>' if one.decision in _TAGS else ""
    colour = FAILED if kind == MISSING else kind
    return (
        f'<tr data-kind="{kind}">'
        f'<th scope="row"><bdi>{text(one.video_id, longest=500)}</bdi>{where}</th>'
        f'<td><span class="dot" style="background: var(--{colour})"></span>'
        f"{STATUS_WORDS[kind]}</td>"
        f'<td class="any"><bdi>{text(reason, longest=1000)}</bdi> '
        f'<span class="type small">{text(one.error_type, longest=80)}</span>{tag}</td></tr>\n'
    )
