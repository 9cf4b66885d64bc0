"""HTML page of one video's classification: frames, curves, clips and provenance.

The page is one file that needs no server and loads nothing. Its template is `page.html`, its script
`page.js`. Labels and file names are untrusted: Jinja2 escapes them in the template, the script
inserts them as text, and the page's security policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import OutputError
from c3d_client.core.files import atomic_file, row_chunks
from c3d_client.core.text import one_line, weights_text
from c3d_client.results import top_classes
from c3d_client.views.curves import (
    DARK,
    LIGHT,
    Curve,
    axis_end_s,
    axis_maximum,
    best_curves,
    clips_per_point,
    label_text,
    time_text,
    time_ticks,
    video_title,
)
from c3d_client.views.thumbnails import Thumbnail, Thumbnails, read_thumbnails

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification
    from c3d_client.video.frames import VideoSource

# Probabilities are embedded as integers, in units of 1/10000.
_PROBABILITY_UNITS = 10_000
_JPEG_QUALITY = 75
# The size in pixels of the row of thumbnails on a wide screen, which sets the number of its cells.
_ROW_WIDTH, _ROW_HEIGHT = 1100, 76
# The width and height of the coordinate system that the curves are drawn in.
_DRAWING_SIZE = 1000


def write_page(
    path: str | os.PathLike[str],
    classification: VideoClassification,
    *,
    source: VideoSource,
    top_k: int = 5,
    name: str | None = None,
    strip: Thumbnails | None = None,
) -> None:
    """Write one self-contained HTML page about a video.

    Args:
        path: the file to write; it appears when complete.
        classification: the classification of the video.
        source: the video, which is read a second time for its thumbnails.
        top_k: how many classes to name for the video and for each clip; at most 24 are drawn.
        name: the title of the page; the last part of ``source`` by default.
        strip: thumbnails that were collected before; ``source`` is not opened then.

    Raises:
        UsageError: the clips have no times, or top_k is below 1.
        VideoDecodeError: the video cannot be read a second time.
        OutputError: the file cannot be written.
    """
    curves = best_curves(classification, top_k=top_k)
    strip = strip or read_thumbnails(source, video=classification.provenance.get("video"))
    title = one_line(name) if name else video_title(source)
    text = _render(classification, curves, strip, title=title, top_k=top_k)
    try:
        with atomic_file(path, text=True) as file:
            file.write(text)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _render(
    classification: VideoClassification,
    curves: Sequence[Curve],
    strip: Thumbnails,
    *,
    title: str,
    top_k: int,
) -> str:
    import jinja2  # loaded late: most commands write no page

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["one_line"] = lambda value: one_line(str(value))
    template = environment.from_string(_resource("page.html"))

    end_s = axis_end_s(classification, strip.end_s)
    maximum = axis_maximum(curves)
    source, note = weights_text(classification.provenance)
    count = len(classification.clip_starts)
    clips = f"{count} clip{'s' if count > 1 else ''}"
    about = [time_text(end_s, end_s=end_s, digits=2 if end_s < 120 else 0), clips]
    if source:
        about.append(f"weights {one_line(source)}")
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        title=title,
        about=" · ".join(about),
        note=note,
        light=LIGHT,
        dark=DARK,
        ticks=[(f"{time_s / end_s:.4%}", text) for time_s, text in time_ticks(end_s)],
        levels=[(f"{step * 20}%", f"{maximum * step * 20:g}%") for step in range(6)],
        size=_DRAWING_SIZE,
        # Reversed: the curve of the best class is drawn last, on top.
        curves=[_curve(curve, end_s=end_s, maximum=maximum) for curve in reversed(curves)],
        aspect_ratio=_aspect_ratio(strip),
        thumbnails=_thumbnails(strip, end_s=end_s),
        clips=clips,
        clips_per_point=clips_per_point(count),
        best=_best_classes(classification, curves, top_k=top_k),
        provenance=[
            *_leaves(classification.provenance, ""),
            *_leaves(asdict(classification.timings), "timings"),
        ],
        data=_json(_script_data(classification, end_s=end_s, top_k=top_k)),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON for a script element: without ``<``, no text in it can end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script_data(
    classification: VideoClassification, *, end_s: float, top_k: int
) -> dict[str, Any]:
    """Return what the script reads: times and best classes of each clip, and their labels."""
    best = [_best(chunk, top_k=top_k) for chunk in row_chunks(classification.clip_probabilities)]
    order, shares = map(np.concatenate, zip(*best, strict=True))
    return {
        "end": end_s,
        "parts": _PROBABILITY_UNITS,
        "clips": [
            [int(start), round(float(start_s), 3), round(float(clip_end_s), 3)]
            for start, (start_s, clip_end_s) in zip(
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


def _best(
    probabilities: npt.NDArray[np.float32], *, top_k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the best classes of some clips, best first, and their probabilities in units."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(probabilities, order, axis=1)
    # A copy: the rest of the order is freed.
    return order.copy(), np.rint(best * _PROBABILITY_UNITS).astype(int)


def _curve(curve: Curve, *, end_s: float, maximum: float) -> dict[str, Any]:
    """Return a curve in the drawing's coordinates; its band only where it has a height."""
    across = curve.times_s / end_s * _DRAWING_SIZE

    def points(heights: Any) -> list[str]:
        return [
            f"{x:.1f},{_DRAWING_SIZE * (1 - height / maximum):.1f}"
            for x, height in zip(across, heights, strict=True)
        ]

    has_band = (curve.high > curve.low).any()
    return {
        "hue": curve.hue,
        "dash": " ".join(map(str, curve.dash)),
        "line": " ".join(points(curve.mean)),
        "band": " ".join([*points(curve.high), *points(curve.low)[::-1]]) if has_band else "",
    }


def _best_classes(
    classification: VideoClassification, curves: Sequence[Curve], *, top_k: int
) -> list[dict[str, Any]]:
    """Return the rows of the table of the whole video."""
    drawn = {curve.score.index: curve for curve in curves}
    rows = []
    scores = top_classes(classification.probabilities, classification.labels, top_k=top_k)
    for score in scores:
        curve = drawn.get(score.index)
        rows.append(
            {
                "index": score.index,
                "label": label_text(score.label, score.index),
                "probability": f"{score.probability:.2%}",
                "drawn": curve is not None,
                "hue": curve.hue if curve else None,
                "dash": " ".join(map(str, curve.dash)) if curve else "",
            }
        )
    return rows


def _aspect_ratio(strip: Thumbnails) -> str:
    """Return width over height of the video's frames."""
    if not strip.all:
        return "1"
    height, width = strip.all[0].pixels.shape[:2]
    return f"{width / height:.4f}"


def _thumbnails(strip: Thumbnails, *, end_s: float) -> list[dict[str, Any]]:
    """Return all thumbnails in order; those for which the row has no cell are hidden."""
    row = strip.row(width=_ROW_WIDTH, height=_ROW_HEIGHT, end_s=end_s)
    cells = {thumbnail.index: cell for cell, thumbnail in enumerate(row)}

    def style(thumbnail: Thumbnail) -> str:
        cell = cells.get(thumbnail.index)
        return "spare" if cell is None else "odd" if cell % 2 else "even"

    return [
        {
            "style": style(thumbnail),
            "index": thumbnail.index,
            "time": f"{thumbnail.time_s:.3f}",
            "jpeg": _jpeg(thumbnail),
        }
        for thumbnail in strip.all
    ]


def _jpeg(thumbnail: Thumbnail) -> str:
    """Return a thumbnail as JPEG in base64."""
    success, jpeg = cv2.imencode(
        ".jpg",
        cv2.cvtColor(thumbnail.pixels, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
    )
    assert success
    return base64.b64encode(jpeg.tobytes()).decode()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested dict, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif value is not None and value != "":
        yield path, f"{value:.3f}" if isinstance(value, float) else value
