"""What failed, on a run's page: each kind with what to do about it, and the videos, in a table."""

from __future__ import annotations

import heapq
from collections import Counter

from c3d_pipelines.inputs.planned import DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.reports.advice import KINDS, MISSING, STATUS_WORDS, Advice, advice, kind_of
from c3d_pipelines.reports.figures import count, was
from c3d_pipelines.reports.markup import text, verbatim
from c3d_pipelines.reports.run_summary import Failure, RunSummary
from c3d_pipelines.shards.format import FAILED

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
