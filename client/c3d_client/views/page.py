"""The classification of one film as a page to look at: frames, curves, clips and what made them.

One HTML file that needs nothing else: no network, no server. Its parts are `page.html` and
`page.js` beside this file. Labels and file names are somebody else's text: they are escaped here,
written as text there, and the page's security policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from c3d_client.core.errors import OutputError
from c3d_client.core.files import atomic_file
from c3d_client.core.text import one_line, weights_text
from c3d_client.results import top_classes
from c3d_client.views.curves import (
    DARK,
    LIGHT,
    Curve,
    best_curves,
    ceiling,
    clips_a_point,
    clock,
    end_s,
    film_name,
    label_text,
    ticks,
)
from c3d_client.views.thumbnails import FilmStrip, Still, film_strip

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification

_PARTS = 10_000  # probabilities are embedded as whole numbers of so many parts
_QUALITY = 75  # of the JPEGs
_ACROSS_PX, _STRIP_PX = 1100, 76  # the strip's width and height that the cells are chosen for
_UNIT = 1000  # the curves' drawing is so wide and high


def write_page(
    path: str | os.PathLike[str],
    classification: VideoClassification,
    *,
    source: str | os.PathLike[str],
    top_k: int = 5,
    name: str | None = None,
    strip: FilmStrip | None = None,
) -> None:
    """Write one self-contained HTML page about a film.

    Args:
        path: the file to write; it appears when complete.
        classification: of the film.
        source: the film, decoded a second time for its pictures.
        top_k: how many classes to name for the film and for each clip; at most 24 are drawn.
        name: what the page calls the film; the last part of ``source`` by default.
        strip: pictures of the film that are there already; ``source`` is not opened then.

    Raises:
        UsageError: top_k is below 1.
        VideoDecodeError: the film cannot be decoded a second time.
        OutputError: the file cannot be written.
    """
    curves = best_curves(classification, top_k=top_k)
    strip = strip or film_strip(source)
    title = one_line(name) if name else film_name(source)
    text = _page(classification, curves, strip, title=title, top_k=top_k)
    try:
        with atomic_file(path, text=True) as file:
            file.write(text)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _page(
    classification: VideoClassification,
    curves: Sequence[Curve],
    strip: FilmStrip,
    *,
    title: str,
    top_k: int,
) -> str:
    until_s = end_s(classification, strip.end_s)
    source, note = weights_text(classification.provenance)
    count = len(classification.clip_starts)
    clips = f"{count} clip{'s' if count > 1 else ''}"
    about = [clock(until_s, end_s=until_s, digits=2 if until_s < 120 else 0), clips]
    if source:
        about.append(f"weights {one_line(source)}")
    size = clips_a_point(count)
    points = f"; a curve's point is the mean of {size}, its band their lowest and highest"
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": _text(title),
        "about": _text(" · ".join(about)),
        "note": f'<p class="note" role="note">Weights: {_text(note)}</p>' if note else "",
        "light": _hues(LIGHT),
        "dark": _hues(DARK),
        "ticks": _ticks(until_s),
        "levels": _levels(ceiling(curves)),
        "curves": _curves(curves, until_s=until_s, top=ceiling(curves)),
        "shape": _shape(strip),
        "stills": _stills(strip, until_s=until_s),
        "clips": clips,
        "points": points if size > 1 else "",
        "best": _best(classification, curves, top_k=top_k),
        "provenance": _provenance(classification),
        "data": _json(_data(classification, until_s=until_s, top_k=top_k)),
        "script": script,
        "script_hash": f"sha256-{digest}",
    }
    # In one go: what is filled in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _text(text: object) -> str:
    """Anything as text between tags or in a quoted attribute."""
    return html.escape(one_line(str(text)))


def _json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _data(classification: VideoClassification, *, until_s: float, top_k: int) -> dict[str, Any]:
    """What the script reads: each clip's start and times, its best classes, and their labels."""
    probabilities = classification.clip_probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    shares = np.rint(np.take_along_axis(probabilities, order, axis=1) * _PARTS).astype(int)
    return {
        "end": until_s,
        "parts": _PARTS,
        "clips": [
            [int(start), round(float(begin), 3), round(float(end), 3)]
            for start, (begin, end) in zip(
                classification.clip_starts, classification.clip_times_s, strict=True
            )
        ],
        "top": [
            [[index, share] for index, share in zip(*row, strict=True)]
            for row in zip(order.tolist(), shares.tolist(), strict=True)
        ],
        "labels": {
            str(index): label_text(classification.labels[index], index)
            for index in np.unique(order).tolist()
        },
    }


def _hues(colours: Sequence[str]) -> str:
    return " ".join(f"--hue{number}: {colour};" for number, colour in enumerate(colours))


def _ticks(until_s: float) -> str:
    return "\n".join(
        f'<div class="tick{" odd" if number % 2 else ""}" style="left: {time_s / until_s:.4%}">'
        f"<span>{text}</span></div>"
        for number, (time_s, text) in enumerate(ticks(until_s))
    )


def _levels(top: float) -> str:
    return "\n".join(
        f'<div class="level" style="bottom: {part * 20}%"><span>{top * part * 20:g}%</span></div>'
        for part in range(6)
    )


def _curves(curves: Sequence[Curve], *, until_s: float, top: float) -> str:
    bands, lines = [], []
    for curve in reversed(curves):  # the best class lies on top
        across = curve.times_s / until_s * _UNIT

        def points(heights: Any, across: Any = across, order: slice = slice(None)) -> Iterator[str]:
            for x, y in zip(across[order], heights[order], strict=True):
                yield f"{x:.1f},{_UNIT * (1 - y / top):.1f}"

        hue = f"var(--hue{curve.hue})"
        if (curve.high > curve.low).any():
            around = [*points(curve.high), *points(curve.low, order=slice(None, None, -1))]
            bands.append(f'<polygon style="fill: {hue}" points="{" ".join(around)}"/>')
        line = " ".join(points(curve.mean))
        lines.append(f'<polyline style="stroke: {hue}"{_dash(curve)} points="{line}"/>')
    return (
        f'<svg viewBox="0 0 {_UNIT} {_UNIT}" preserveAspectRatio="none" aria-hidden="true">'
        + "\n".join((*bands, *lines))
        + "</svg>"
    )


def _dash(curve: Curve) -> str:
    return f' stroke-dasharray="{" ".join(map(str, curve.dash))}"' if curve.dash else ""


def _best(classification: VideoClassification, curves: Sequence[Curve], *, top_k: int) -> str:
    keys = {
        curve.score.index: f'<svg class="key" data-index="{curve.score.index}" width="26"'
        f' height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4"'
        f' style="stroke: var(--hue{curve.hue})"{_dash(curve)}/></svg>'
        for curve in curves
    }
    scores = top_classes(classification.probabilities, classification.labels, top_k=top_k)
    return "\n".join(
        f'<tr><td><div class="name">{keys.get(score.index, "")}'
        f"{_text(label_text(score.label, score.index))}</div></td>"
        f'<td class="num">{score.index}</td><td class="num">{score.probability:.2%}</td></tr>'
        for score in scores
    )


def _shape(strip: FilmStrip) -> str:
    """Width over height of the film's pictures."""
    if not strip.stills:
        return "1"
    height, width = strip.stills[0].pixels.shape[:2]
    return f"{width / height:.4f}"


def _stills(strip: FilmStrip, *, until_s: float) -> str:
    """All pictures in the film's order; those that the strip has no room for are not shown."""
    row = strip.row(across=_ACROSS_PX, tall=_STRIP_PX, end_s=until_s)
    places = {still.index: place for place, still in enumerate(row)}
    return "\n".join(_image(still, places.get(still.index)) for still in strip.stills)


def _image(still: Still, place: int | None) -> str:
    kind = "spare" if place is None else "odd" if place % 2 else "even"
    encoded, jpeg = cv2.imencode(
        ".jpg",
        cv2.cvtColor(still.pixels, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, _QUALITY],
    )
    assert encoded
    return (
        f'<img class="{kind}" alt="" data-index="{still.index}" data-time="{still.time_s:.3f}"'
        f' src="data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}">'
    )


def _provenance(classification: VideoClassification) -> str:
    rows = [
        *_flat(classification.provenance, ""),
        *_flat(asdict(classification.timings), "timings"),
    ]
    return "\n".join(
        f'<tr><th scope="row">{_text(key)}</th><td>{_text(value)}</td></tr>' for key, value in rows
    )


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dict, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif value is not None and value != "":
        yield path, f"{value:.3f}" if isinstance(value, float) else value
