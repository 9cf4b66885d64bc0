"""A run's summary as one page that needs nothing else: no network, no server, no scripts but one.

Its parts are `report.html` and `report.js` beside this file, and the sections of
`failures.py` and `sections.py`. Names of videos and messages are somebody else's
text: all of it is escaped, and the page's security policy runs no script but its own.
`markdown.py` is the short form.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from c3d_client.curves import weights_text

from c3d_pipelines.inputs.planned import DO, DONE
from c3d_pipelines.reports import sections
from c3d_pipelines.reports.advice import STATUS_WORDS
from c3d_pipelines.reports.failures import failures
from c3d_pipelines.reports.figures import count, instant, length, share, significant, size
from c3d_pipelines.reports.markdown import to_markdown
from c3d_pipelines.reports.markup import block, text
from c3d_pipelines.reports.run_summary import SUCCEEDED, RunSummary
from c3d_pipelines.shards.format import OK, STATUSES

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
                sections.accounting(summary),
                sections.time(summary),
                sections.histograms(summary),
                sections.shards(summary),
                sections.provenance(summary),
                sections.files(summary),
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
