"""The best classes over time as a picture: curves, and frames of the film under them.

The only file that knows matplotlib, which comes with the extra `plot`. Figures are made without
pyplot and do not follow matplotlib's settings: a picture looks the same wherever it is drawn.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.files import atomic_file
from c3d_client.core.text import one_line, weights_text
from c3d_client.views.curves import (
    LIGHT,
    Curve,
    best_curves,
    ceiling,
    clips_a_point,
    end_s,
    film_name,
    label_text,
    ticks,
)
from c3d_client.views.thumbnails import FilmStrip, film_strip

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from c3d_client.results import VideoClassification

_DPI = 120
# Inches.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 12.0, 0.75, 0.3, 0.42, 0.42
_PLOT, _STRIP, _MOST_STRIP, _GAP, _LINE = 3.2, 0.85, 1.4, 0.07, 0.24
_ACROSS = _WIDTH - _LEFT - _RIGHT
_INK, _GREY, _FAINT, _WARNING = "#1a1a1a", "#5a5a5a", "#e3e3e3", "#a33c00"
_GRID: Any = {"color": _FAINT, "linewidth": 0.8, "linestyle": "-", "marker": "", "zorder": 0}
_FONT = "DejaVu Sans"  # comes with matplotlib
_MARKED_CLIPS = 60  # up to so many clips, each is marked by a dot


def require_matplotlib() -> None:
    """See that pictures can be drawn, before any work is done.

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
    source: str | os.PathLike[str],
    top_k: int = 5,
    name: str | None = None,
    strip: FilmStrip | None = None,
) -> None:
    """Draw the probabilities of the best classes over time as PNG, 1440 pixels wide.

    Args:
        path: the file to write; it appears when complete.
        classification: of the film.
        source: the film, decoded a second time for its pictures.
        top_k: how many classes to draw, at most 24.
        name: what the picture calls the film; the last part of ``source`` by default.
        strip: pictures of the film that are there already; ``source`` is not opened then.

    Raises:
        UsageError: matplotlib is not installed, or top_k is below 1.
        VideoDecodeError: the film cannot be decoded a second time.
        OutputError: the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    curves = best_curves(classification, top_k=top_k)
    title = one_line(name) if name else film_name(source)
    figure = _draw(classification, curves, strip or film_strip(source), title=title)
    try:
        with atomic_file(path) as file:
            # Not savefig, which follows the settings of whoever uses matplotlib too.
            FigureCanvasAgg(figure).print_png(file, metadata={"Title": title})
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _draw(
    classification: VideoClassification, curves: Sequence[Curve], strip: FilmStrip, *, title: str
) -> Figure:
    from matplotlib.figure import Figure

    source, note = weights_text(classification.provenance)
    clips = len(classification.clip_starts)
    size = clips_a_point(clips)
    about = f"{clips} clip{'s' if clips > 1 else ''}"
    if size > 1:
        about += f"; a point is the mean of {size}, its band their lowest and highest"
    if source:
        about += f"; weights {one_line(source)}"
    notes = textwrap.wrap(f"Weights: {one_line(note)}", 135) if note else []
    scores = [curve.score for curve in curves]
    names = [f"{best.probability:.1%}  {label_text(best.label, best.index)}" for best in scores]
    families, unknown = _fonts(title + about + "".join(notes) + "".join(names))
    hidden = str.maketrans(dict.fromkeys(unknown, "\N{REPLACEMENT CHARACTER}"))

    figure = Figure(figsize=(_WIDTH, 1), dpi=_DPI, facecolor="white")
    figure.set_layout_engine("none")
    texts: list[Text] = []

    def write(text: str, *, width: float, **style: Any) -> Text:
        style = {"color": _INK, "fontsize": 10, "fontfamily": families, "va": "center", **style}
        made = figure.text(0, 0, text.translate(hidden), parse_math=False, usetex=False, **style)
        _shorten(made, width)
        texts.append(made)
        return made

    write(title, width=_ACROSS, fontsize=14, fontweight="bold")
    write(about, width=_ACROSS, color=_GREY)
    for line in notes:
        write(line, width=_ACROSS, color=_WARNING, fontweight="bold")
    heads = len(texts)
    for label in names:
        write(label, width=_ACROSS - 0.6)
    widest = max(_inches(text) for text in texts[heads:]) + 0.75
    columns = max(1, min(int(_ACROSS / widest), len(curves)))
    rows = -(-len(curves) // columns)

    until_s = end_s(classification, strip.end_s)
    cells, cell_height = _cells(strip, until_s)
    below = cell_height + _GAP if cells else 0
    height = _TOP + (heads + rows) * _LINE + 0.1 + _PLOT + below + _BOTTOM
    figure.set_size_inches(_WIDTH, height)
    for number, text in enumerate(texts):
        entry = number - heads  # of the legend; below 0 for what stands above it
        column, row = divmod(entry, rows) if entry >= 0 else (0, entry)
        gaps = 0.06 * ((number > 0) + (entry >= 0))
        y = 1 - (_TOP - 0.12 + (heads + row) * _LINE + gaps) / height
        left = _LEFT + column * _ACROSS / columns
        if entry >= 0:
            _key(figure, curves[entry], left / _WIDTH, y)
            left += 0.5
        text.set_position((left / _WIDTH, y))

    _plot(figure, curves, [_BOTTOM + below, _PLOT], until_s=until_s, marked=clips <= _MARKED_CLIPS)
    if cells:
        _show(figure, cells, [_BOTTOM, cell_height], until_s=until_s)
    _clock(figure, until_s=until_s)
    return figure


def _plot(
    figure: Figure, curves: Sequence[Curve], place: list[float], *, until_s: float, marked: bool
) -> None:
    axes = _axes(figure, place, until_s)
    top = ceiling(curves)
    axes.set_ylim(0, top * 1.02)
    heights = [top * part / 5 for part in range(6)]
    axes.set_yticks(heights, [f"{value * 100:g}%" for value in heights], **_small())
    for height in heights:
        axes.axhline(height, **_GRID)
    for time_s, _ in ticks(until_s):
        axes.axvline(time_s, **_GRID)
    for rank, curve in enumerate(curves):
        above = 3 + len(curves) - rank  # the best class lies on top
        if (curve.high > curve.low).any():
            band = {"facecolor": LIGHT[curve.hue], "alpha": 0.15, "linewidth": 0, "zorder": 1}
            axes.fill_between(curve.times_s, curve.low, curve.high, edgecolor="none", **band)
        axes.plot(curve.times_s, curve.mean, zorder=above, **_stroke(curve))
        if marked:
            dots = {"markersize": 4, "markeredgewidth": 0, "markerfacecolor": LIGHT[curve.hue]}
            middles = curve.times_s[1:-1], curve.mean[1:-1]
            axes.plot(*middles, linestyle="", marker="o", zorder=above, **dots)


def _show(figure: Figure, cells: list[Any], place: list[float], *, until_s: float) -> None:
    axes = _axes(figure, place, until_s)
    axes.set_yticks([])
    width_s = until_s / len(cells)
    for number, pixels in enumerate(cells):
        left = number * width_s
        extent = (left, left + width_s, 0, 1)
        axes.imshow(pixels, extent=extent, aspect="auto", origin="upper", interpolation="auto")
        if number:
            axes.axvline(left, color="white", linewidth=1.5, linestyle="-", marker="")
    axes.set(xlim=(0, until_s), ylim=(0, 1))


def _clock(figure: Figure, *, until_s: float) -> None:
    """The times, under the lowest axes."""
    axes, marks = figure.axes[-1], ticks(until_s)
    axes.set_xticks([time_s for time_s, _ in marks], [text for _, text in marks], **_small())
    axes.tick_params(axis="x", bottom=True, length=4, width=0.8, color=_GREY, direction="out")


def _axes(figure: Figure, place: list[float], until_s: float) -> Any:
    """Axes across the figure; ``place`` is where they begin and how high they are, in inches."""
    height = figure.get_figheight()
    bottom, tall = (inches / height for inches in place)
    axes = figure.add_axes((_LEFT / _WIDTH, bottom, _ACROSS / _WIDTH, tall), facecolor="white")
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=_GREY, linewidth=0.8)
    axes.tick_params(
        which="both", left=False, right=False, top=False, bottom=False, labelright=False
    )
    axes.set_xlim(0, until_s)
    axes.set_xticks([])
    return axes


def _key(figure: Figure, curve: Curve, left: float, y: float) -> None:
    from matplotlib.lines import Line2D

    across = (left, left + 0.38 / _WIDTH)
    figure.add_artist(Line2D(across, (y, y), transform=figure.transFigure, **_stroke(curve)))


def _stroke(curve: Curve) -> dict[str, Any]:
    return {
        "color": LIGHT[curve.hue],
        "linewidth": 2,
        "linestyle": (0, curve.dash) if curve.dash else "-",
        "dash_capstyle": "butt",
        "solid_capstyle": "butt",
        "marker": "",
    }


def _small() -> dict[str, Any]:
    return {"color": _GREY, "fontsize": 9, "fontfamily": _FONT, "usetex": False}


def _cells(strip: FilmStrip, until_s: float) -> tuple[list[Any], float]:
    """Pictures from along the film, cut to their places, and their height in inches."""
    stills = strip.row(across=_ACROSS, tall=_STRIP, end_s=until_s)
    if not stills:
        return [], 0.0
    height, width = stills[0].pixels.shape[:2]
    across = _ACROSS / len(stills)
    tall = min(_MOST_STRIP, across * height / width)
    return [_cut(still.pixels, across / tall) for still in stills], tall


def _cut(pixels: Any, shape: float) -> Any:
    """The middle of a picture, as wide for its height as ``shape`` says."""
    height, width = pixels.shape[:2]
    if width / height > shape:
        keep = max(1, round(height * shape))
        return pixels[:, (width - keep) // 2 :][:, :keep]
    keep = max(1, round(width / shape))
    return pixels[(height - keep) // 2 :][:keep]


def _inches(text: Text) -> float:
    return float(text.get_window_extent().width) / _DPI


def _shorten(text: Text, width: float) -> None:
    """Leave out the middle of what is wider than so many inches."""
    whole = text.get_text()
    keep = len(whole)
    while _inches(text) > width and keep > 2:
        keep = min(keep - 1, int(keep * width / _inches(text)))
        head = (keep + 1) // 2
        text.set_text(f"{whole[:head]}…{whole[len(whole) - (keep - head) :]}")


def _fonts(text: str) -> tuple[list[str], set[str]]:
    """The font families that have a text's characters, and the characters that none has."""
    from matplotlib import font_manager

    def has(path: str, character: str) -> bool:
        font = font_manager.get_font(path)
        return bool(font.scalable and font.get_char_index(ord(character)))

    own = font_manager.findfont(_FONT)
    families, missing = [_FONT], {character for character in text if not has(own, character)}
    for entry in font_manager.fontManager.ttflist if missing else ():
        try:
            found = {character for character in missing if has(entry.fname, character)}
        except (OSError, RuntimeError):  # listed, and gone or not readable
            continue
        if found:
            families.append(entry.name)
            missing -= found
    return families, missing
