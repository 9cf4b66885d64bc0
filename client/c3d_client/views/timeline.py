"""PNG timeline of one video's best classes: curves over time, with thumbnails below.

Only this module imports matplotlib, which the extra `plot` installs. It uses no pyplot and ignores
matplotlib's settings, so that a timeline looks the same on every machine.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.files import atomic_file
from c3d_client.core.text import JOINERS, one_line, weights_text
from c3d_client.views.curves import (
    LIGHT,
    Curve,
    axis_end_s,
    axis_maximum,
    best_curves,
    clips_per_point,
    label_text,
    time_ticks,
    video_title,
)
from c3d_client.views.thumbnails import Thumbnails, read_thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from c3d_client.results import VideoClassification
    from c3d_client.video.frames import VideoSource

_DPI = 120
# Sizes in inches: the figure and its margins, then the plot, a cell of thumbnails, the largest
# cell, the gap between plot and thumbnails, and a line of text.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 12.0, 0.75, 0.3, 0.42, 0.42
_PLOT, _CELL, _MAX_CELL, _GAP, _LINE = 3.2, 0.85, 1.4, 0.07, 0.24
_PLOT_WIDTH = _WIDTH - _LEFT - _RIGHT
_INK, _GREY, _LIGHT_GREY, _WARNING = "#1a1a1a", "#5a5a5a", "#e3e3e3", "#a33c00"
_GRID: Any = {"color": _LIGHT_GREY, "linewidth": 0.8, "linestyle": "-", "marker": "", "zorder": 0}
_FONT = "DejaVu Sans"  # part of matplotlib
_WEIGHTS = ("normal", "bold")
# And the two selectors between the forms of an emoji.
_JOINERS = f"{JOINERS}\ufe0e\ufe0f"
_MAX_DOTS = 60  # up to this many clips, a dot marks each


def require_matplotlib() -> None:
    """Check that matplotlib can be imported.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib.backends.backend_agg  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a timeline needs matplotlib ({error}); pip install 'c3d-client[plot]'"
        ) from error


def write_timeline(
    path: str | os.PathLike[str],
    classification: VideoClassification,
    *,
    source: VideoSource,
    top_k: int = 5,
    name: str | None = None,
    strip: Thumbnails | None = None,
) -> None:
    """Draw the probabilities of the best classes over time as PNG, 1440 pixels wide.

    Args:
        path: the file to write; it appears when complete.
        classification: the classification of the video.
        source: the video, which is read a second time for its thumbnails.
        top_k: how many classes to draw, at most 24.
        name: the title of the timeline; the last part of ``source`` by default.
        strip: thumbnails that were collected before; ``source`` is not opened then.

    Raises:
        UsageError: matplotlib is not installed, the clips have no times, or top_k is below 1.
        VideoDecodeError: the video cannot be read a second time.
        OutputError: the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    curves = best_curves(classification, top_k=top_k)
    title = one_line(name) if name else video_title(source)
    strip = strip or read_thumbnails(source, video=classification.provenance.get("video"))
    figure = _draw(classification, curves, strip, title=title)
    try:
        with atomic_file(path) as file:
            # Not savefig, which follows matplotlib's settings.
            FigureCanvasAgg(figure).print_png(file, metadata={"Title": title})
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _draw(
    classification: VideoClassification, curves: Sequence[Curve], strip: Thumbnails, *, title: str
) -> Figure:
    from matplotlib.figure import Figure

    source, note = weights_text(classification.provenance)
    clips = len(classification.clip_starts)
    size = clips_per_point(clips)
    about = f"{clips} clip{'s' if clips > 1 else ''}"
    if size > 1:
        about += f"; a point is the mean of {size}, its band their lowest and highest"
    if source:
        about += f"; weights {one_line(source)}"
    notes = textwrap.wrap(f"Weights: {one_line(note)}", 135) if note else []
    scores = [curve.score for curve in curves]
    names = [f"{score.probability:.1%}  {label_text(score.label, score.index)}" for score in scores]
    families, missing = _fonts(_without_joiners(title + about + "".join(notes) + "".join(names)))
    escapes = {
        weight: str.maketrans({character: _escape(character) for character in characters})
        for weight, characters in missing.items()
    }

    figure = Figure(figsize=(_WIDTH, 1), dpi=_DPI, facecolor="white")
    figure.set_layout_engine("none")
    texts: list[Text] = []

    def write(text: str, *, width: float, **style: Any) -> Text:
        style = {"color": _INK, "fontsize": 10, "fontfamily": families, "va": "center", **style}
        drawn = figure.text(
            0,
            0,
            _without_joiners(text).translate(escapes[style.get("fontweight", "normal")]),
            parse_math=False,
            usetex=False,
            **style,
        )
        _shorten(drawn, width)
        texts.append(drawn)
        return drawn

    write(title, width=_PLOT_WIDTH, fontsize=14, fontweight="bold")
    write(about, width=_PLOT_WIDTH, color=_GREY)
    for line in notes:
        write(line, width=_PLOT_WIDTH, color=_WARNING, fontweight="bold")
    heading_lines = len(texts)
    for label in names:
        write(label, width=_PLOT_WIDTH - 0.6)
    widest = max(_inches(text) for text in texts[heading_lines:]) + 0.75
    columns = max(1, min(int(_PLOT_WIDTH / widest), len(curves)))
    rows = -(-len(curves) // columns)

    end_s = axis_end_s(classification, strip.end_s)
    cells, cell_height = _cells(strip, end_s)
    below = cell_height + _GAP if cells else 0
    height = _TOP + (heading_lines + rows) * _LINE + 0.1 + _PLOT + below + _BOTTOM
    figure.set_size_inches(_WIDTH, height)
    for number, text in enumerate(texts):
        entry = number - heading_lines  # index in the legend; negative for the heading
        column, row = divmod(entry, rows) if entry >= 0 else (0, entry)
        gaps = 0.06 * ((number > 0) + (entry >= 0))
        y = 1 - (_TOP - 0.12 + (heading_lines + row) * _LINE + gaps) / height
        left = _LEFT + column * _PLOT_WIDTH / columns
        if entry >= 0:
            _key(figure, curves[entry], left / _WIDTH, y)
            left += 0.5
        text.set_position((left / _WIDTH, y))

    _plot_curves(
        figure, curves, [_BOTTOM + below, _PLOT], end_s=end_s, with_dots=clips <= _MAX_DOTS
    )
    if cells:
        _show_thumbnails(figure, cells, [_BOTTOM, cell_height], end_s=end_s)
    _label_times(figure, end_s=end_s)
    return figure


def _plot_curves(
    figure: Figure,
    curves: Sequence[Curve],
    extent: list[float],
    *,
    end_s: float,
    with_dots: bool,
) -> None:
    axes = _axes(figure, extent, end_s)
    top = axis_maximum(curves)
    axes.set_ylim(0, top * 1.02)
    heights = [top * step / 5 for step in range(6)]
    axes.set_yticks(heights, [f"{value * 100:g}%" for value in heights], **_small_text())
    for height in heights:
        axes.axhline(height, **_GRID)
    for time_s, _ in time_ticks(end_s):
        axes.axvline(time_s, **_GRID)
    for rank, curve in enumerate(curves):
        zorder = 3 + len(curves) - rank  # the best class is drawn on top
        if (curve.high > curve.low).any():
            band = {"facecolor": LIGHT[curve.hue], "alpha": 0.15, "linewidth": 0, "zorder": 1}
            axes.fill_between(curve.times_s, curve.low, curve.high, edgecolor="none", **band)
        axes.plot(curve.times_s, curve.mean, zorder=zorder, **_stroke(curve))
        if with_dots:
            dots = {"markersize": 4, "markeredgewidth": 0, "markerfacecolor": LIGHT[curve.hue]}
            middles = curve.times_s[1:-1], curve.mean[1:-1]
            axes.plot(*middles, linestyle="", marker="o", zorder=zorder, **dots)


def _show_thumbnails(
    figure: Figure, cells: list[Any], extent: list[float], *, end_s: float
) -> None:
    axes = _axes(figure, extent, end_s)
    axes.set_yticks([])
    width_s = end_s / len(cells)
    for number, pixels in enumerate(cells):
        left = number * width_s
        axes.imshow(
            pixels,
            extent=(left, left + width_s, 0, 1),
            aspect="auto",
            origin="upper",
            interpolation="auto",
        )
        if number:
            axes.axvline(left, color="white", linewidth=1.5, linestyle="-", marker="")
    axes.set(xlim=(0, end_s), ylim=(0, 1))


def _label_times(figure: Figure, *, end_s: float) -> None:
    """Write the times under the lowest axes."""
    axes, ticks = figure.axes[-1], time_ticks(end_s)
    axes.set_xticks([time_s for time_s, _ in ticks], [text for _, text in ticks], **_small_text())
    axes.tick_params(axis="x", bottom=True, length=4, width=0.8, color=_GREY, direction="out")


def _axes(figure: Figure, extent: list[float], end_s: float) -> Any:
    """Add axes over the figure's width; ``extent`` is their bottom and height in inches."""
    figure_height = figure.get_figheight()
    bottom, height = (inches / figure_height for inches in extent)
    axes = figure.add_axes(
        (_LEFT / _WIDTH, bottom, _PLOT_WIDTH / _WIDTH, height), facecolor="white"
    )
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=_GREY, linewidth=0.8)
    axes.tick_params(
        which="both", left=False, right=False, top=False, bottom=False, labelright=False
    )
    axes.set_xlim(0, end_s)
    axes.set_xticks([])
    return axes


def _key(figure: Figure, curve: Curve, left: float, y: float) -> None:
    from matplotlib.lines import Line2D

    ends = (left, left + 0.38 / _WIDTH)
    figure.add_artist(Line2D(ends, (y, y), transform=figure.transFigure, **_stroke(curve)))


def _stroke(curve: Curve) -> dict[str, Any]:
    return {
        "color": LIGHT[curve.hue],
        "linewidth": 2,
        "linestyle": (0, curve.dash) if curve.dash else "-",
        "dash_capstyle": "butt",
        "solid_capstyle": "butt",
        "marker": "",
    }


def _small_text() -> dict[str, Any]:
    return {"color": _GREY, "fontsize": 9, "fontfamily": _FONT, "usetex": False}


def _cells(strip: Thumbnails, end_s: float) -> tuple[list[Any], float]:
    """Return the thumbnails of the row, cropped to their cells, and the height in inches."""
    row = strip.row(width=_PLOT_WIDTH, height=_CELL, end_s=end_s)
    if not row:
        return [], 0.0
    pixel_height, pixel_width = row[0].pixels.shape[:2]
    width = _PLOT_WIDTH / len(row)
    height = min(_MAX_CELL, width * pixel_height / pixel_width)
    return [_crop(thumbnail.pixels, width / height) for thumbnail in row], height


def _crop(pixels: Any, aspect_ratio: float) -> Any:
    """Return the middle of a frame with this ratio of width to height."""
    height, width = pixels.shape[:2]
    if width / height > aspect_ratio:
        keep = max(1, round(height * aspect_ratio))
        return pixels[:, (width - keep) // 2 :][:, :keep]
    keep = max(1, round(width / aspect_ratio))
    return pixels[(height - keep) // 2 :][:keep]


def _inches(text: Text) -> float:
    return float(text.get_window_extent().width) / _DPI


def _shorten(text: Text, width: float) -> None:
    """Leave out the middle of a text that is wider than ``width`` inches."""
    whole = text.get_text()
    keep = len(whole)
    while _inches(text) > width and keep > 2:
        keep = min(keep - 1, int(keep * width / _inches(text)))
        head = (keep + 1) // 2
        text.set_text(f"{whole[:head]}…{whole[len(whole) - (keep - head) :]}")


def _fonts(text: str) -> tuple[list[str], dict[str, set[str]]]:
    """Return font families for a text's characters, and the characters that no font has.

    Returns:
        The families, and for each weight the characters that none of their fonts has: a family's
        bold font may lack characters that its normal one has.
    """
    from matplotlib import font_manager

    def has(path: str, character: str) -> bool:
        font = font_manager.get_font(path)
        return bool(font.scalable and font.get_char_index(ord(character)))

    def found_in(family: str, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        paths = {
            weight: font_manager.findfont(
                font_manager.FontProperties(family=[family], weight=weight)
            )
            for weight in _WEIGHTS
        }
        return {(weight, character) for weight, character in pairs if has(paths[weight], character)}

    families = [_FONT]
    missing = {(weight, character) for weight in _WEIGHTS for character in text}
    missing -= found_in(_FONT, missing)
    for entry in font_manager.fontManager.ttflist if missing else ():
        try:
            if entry.name in families or not any(has(entry.fname, each) for _, each in missing):
                continue
            found = found_in(entry.name, missing)
        except (OSError, RuntimeError):  # a listed file that is deleted or not readable
            continue
        if found:
            families.append(entry.name)
            missing -= found
    return families, {
        weight: {character for of, character in missing if of == weight} for weight in _WEIGHTS
    }


def _without_joiners(text: str) -> str:
    """Return a text without the characters that only choose between forms of their neighbours.

    matplotlib draws each character by itself.
    """
    return "".join(character for character in text if character not in _JOINERS)


def _escape(character: str) -> str:
    """Return a character that no font has as in Python's source: ``\\u4f60``."""
    return character.encode("ascii", "backslashreplace").decode()
