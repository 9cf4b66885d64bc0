"""The timeline: positions, colours, texts and fonts in the PNG."""

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import OutputError, UsageError, VideoDecodeError
from c3d_client.core.text import one_line
from c3d_client.video.decode import Frame
from c3d_client.views import timeline
from c3d_client.views.curves import LIGHT, best_curves
from c3d_client.views.thumbnails import Thumbnails
from c3d_client.views.timeline import write_timeline
from support.sample_classification import HOSTILE, classified, random_probabilities
from support.videos import write_video

matplotlib = pytest.importorskip("matplotlib")
from fontTools.fontBuilder import FontBuilder  # noqa: E402  matplotlib needs it
from fontTools.pens.ttGlyphPen import TTGlyphPen  # noqa: E402
from matplotlib import font_manager  # noqa: E402
from matplotlib.text import Text  # noqa: E402

# The left and right end of the plot in pixels.
LEFT, RIGHT = 90, 1404
PARTS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def coloured_strip(*, seconds=12.0, width=320, height=180):
    """Thumbnails of a video whose thirds are red, green and blue."""
    times = np.linspace(0, seconds, 60, endpoint=False)
    strip = Thumbnails()
    for index, time_s in enumerate(times):
        pixels = np.full((height, width, 3), PARTS[int(3 * time_s / seconds)], np.uint8)
        list(strip.watch([Frame.from_pixels(index, time_s, seconds / 60, pixels)]))
    return strip


def draw(folder, classification, **options):
    """Write the timeline and return its pixels, uint8 [height, 1440, 3] RGB."""
    options = {"source": "video.mp4", "strip": coloured_strip(), **options}
    write_timeline(folder / "video.png", classification, **options)
    return cv2.cvtColor(cv2.imread(str(folder / "video.png")), cv2.COLOR_BGR2RGB)


def has_colour(pixels, colour):
    """Return a mask of the pixels that have nearly this colour."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels.astype(int) - colour).max(axis=2) < 24


def test_timeline_of_a_real_video(narrow_server, bikes, tmp_path):
    with C3DClient(f"localhost:{narrow_server.port}") as c3d:
        answer = c3d.classify(bikes)
    write_timeline(tmp_path / "bikes.png", answer, source=bikes)
    pixels = cv2.cvtColor(cv2.imread(str(tmp_path / "bikes.png")), cv2.COLOR_BGR2RGB)
    assert pixels.shape[1] == 1440
    assert 600 < pixels.shape[0] < 900
    for hue in LIGHT[:5]:
        assert has_colour(pixels, hue).sum() > 200
    assert [path.name for path in tmp_path.iterdir()] == ["bikes.png"]


def test_curves_and_thumbnails_are_at_their_times(tmp_path):
    # 36 clips over 12 seconds: the first class has probability 1 until the middle.
    rows = np.repeat([[1.0, 0.0], [0.0, 1.0]], [20, 16], axis=0)
    pixels = draw(tmp_path, classified(rows))
    for part, colour in enumerate(PARTS):
        columns = np.nonzero(has_colour(pixels, colour).sum(axis=0) > 40)[0]
        third = (RIGHT - LEFT) / 3
        assert columns.min() == pytest.approx(LEFT + part * third, abs=third / 6)
        assert columns.max() == pytest.approx(LEFT + (part + 1) * third, abs=third / 6)
    top, bottom = 240, 560  # within the plot
    first = has_colour(pixels, LIGHT[0])
    high = np.nonzero(first[: (top + bottom) // 2].any(axis=0) & (np.arange(1440) > 150))[0]
    assert high.max() == pytest.approx(LEFT + (RIGHT - LEFT) * 6.5 / 12, abs=25)
    assert len(high) > 0.95 * (high.max() - high.min())  # a line, not only the dots of the clips


def test_note_about_the_weights_is_drawn(tmp_path):
    rows = random_probabilities(5, 6)
    with_note = draw(tmp_path, classified(rows, note="the weights are random"))
    without_note = draw(tmp_path, classified(rows, note=""))
    assert has_colour(with_note[:130], timeline._WARNING).sum() > 300
    assert not has_colour(without_note[:130], timeline._WARNING).any()


@pytest.mark.parametrize(
    ("clips", "width", "height"),
    [(1, 320, 180), (2, 101, 180), (37, 320, 16), (10_000, 320, 180), (100_000, 101, 180)],
)
def test_texts_do_not_overlap_and_stay_inside_the_figure(clips, width, height):
    wide = "A label of sixty characters, wide: WWWW" * 2
    labels = [f"{number} {wide}"[: 60 if number % 2 else 4] for number in range(30)]
    rows = random_probabilities(clips, 30)
    classification = classified(rows, labels=labels, note="a long note " * 30)
    for top_k in (1, 24):
        curves = best_curves(classification, top_k=top_k)
        strip = coloured_strip(seconds=clips * 0.32 + 0.32, width=width, height=height)
        figure = timeline._draw(classification, curves, strip, title="film " * 80)
        figure.canvas.draw()
        bounds = figure.bbox
        boxes = []
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text():
                boxes.append(text.get_window_extent())
                assert bounds.x0 <= boxes[-1].x0 < boxes[-1].x1 <= bounds.x1
                assert bounds.y0 <= boxes[-1].y0 < boxes[-1].y1 <= bounds.y1
        assert len(boxes) > top_k + 8
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_labels_and_names_are_drawn_literally_and_not_as_formulas(tmp_path):
    classification = classified(
        random_probabilities(3, len(HOSTILE)), labels=HOSTILE, note="$note$ \n \N{SURFER}"
    )
    draw(tmp_path, classification, top_k=len(HOSTILE), name="$film$_\udcff\n<b>.mp4")
    curves = best_curves(classification, top_k=10)
    figure = timeline._draw(classification, curves, coloured_strip(), title="$film$")
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "$film$"
    assert not any(text.get_parse_math() for text in figure.texts)
    assert any("$x^2$ and _under_ \\frac" in text for text in texts)
    assert any("two lines and a tab" in text for text in texts)
    assert any("катание" in text for text in texts)


def test_other_installed_fonts_provide_missing_characters():
    # STIX, a part of matplotlib, has the second character; no font has the last, private one.
    families, missing = timeline._fonts("a\u1d84\U0010fffd")
    assert families[0] == "DejaVu Sans"
    assert len(families) == 2
    assert missing["normal"] == {"\U0010fffd"}
    # The bold font of STIX has neither.
    assert missing["bold"] == {"\u1d84", "\U0010fffd"}


@pytest.fixture
def square_font(tmp_path):
    """Install a font, for matplotlib alone, in which U+4F60 and U+597D are black squares."""
    builder = FontBuilder(1000, isTTF=True)
    pen = TTGlyphPen(None)
    for move, point in zip(
        (pen.moveTo, pen.lineTo, pen.lineTo, pen.lineTo),
        ((0, 0), (0, 1000), (1000, 1000), (1000, 0)),
        strict=True,
    ):
        move(point)
    pen.closePath()
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({0x4F60: "square", 0x597D: "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "C3D Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    manager = font_manager.fontManager
    manager.addfont(str(tmp_path / "squares.ttf"))
    yield tmp_path
    manager.ttflist = [entry for entry in manager.ttflist if entry.name != "C3D Squares"]
    manager._findfont_cached.cache_clear()


def dark(pixels):
    """Return how many pixels of the title are black."""
    return int((pixels[:60].max(axis=2) < 60).sum())


def test_names_that_another_font_has_are_drawn_with_it(square_font):
    # Missing glyphs are warnings of matplotlib, and warnings are errors of this test.
    answer = classified(random_probabilities(3, 2), labels=["\u4f60\u597d", "\u4f60 surfing"])
    squares = dark(draw(square_font, answer, name="\u4f60\u597d\u4f60\u597d", top_k=2))
    # Four squares of 14 points at 120 dots per inch.
    assert squares == pytest.approx(4 * (14 / 72 * 120) ** 2, rel=0.15)


def texts_of(title, labels):
    answer = classified(random_probabilities(3, len(labels)), labels=labels)
    curves = best_curves(answer, top_k=len(labels))
    figure = timeline._draw(answer, curves, coloured_strip(), title=title)
    title, *rest = (text.get_text() for text in figure.texts)
    return title, {text.partition("  ")[2] for text in rest}


def test_characters_that_no_font_has_are_written_as_escapes(tmp_path):
    answer = classified(random_probabilities(3, 2))
    for name, expected in (
        ("\U0010fffd a", "\\U0010fffd a"),
        ("a\ue123b", "a\\ue123b"),
    ):
        assert texts_of(name, ["x", "y"])[0] == expected
        draw(tmp_path, answer, name=name)
    many = "\ue123" * 300
    shortened = texts_of(many, ["x", "y"])[0]
    assert shortened.startswith("\\ue123\\ue123")
    assert "\N{HORIZONTAL ELLIPSIS}" in shortened


def test_bold_title_has_no_missing_characters(tmp_path):
    # The normal DejaVu Sans has the first character, the bold one does not; and the reverse.
    answer = classified(random_probabilities(3, 2), labels=["\U0001d5a0", "\U0001d5d4"])
    for character in ("\U0001d5a0", "\U0001d5d4", "\u1d84"):
        draw(tmp_path, answer, name=character, top_k=2)


def test_joiners_are_kept_in_names_and_are_not_drawn(tmp_path):
    name = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert one_line(f" {name}\u200d\n") == name
    assert one_line("a\u202eb") == "a b"  # turns the text around it
    assert texts_of(name, ["x", "y"])[0] == name.replace("\u200c", "")
    draw(tmp_path, classified(random_probabilities(3, 2)), name=f"{name} \u2640\ufe0f")


def test_settings_of_matplotlib_change_nothing(tmp_path):
    classification = classified(random_probabilities(5, 6))
    expected = draw(tmp_path, classification)
    settings = {
        **matplotlib.style.library["dark_background"],
        **{"text.usetex": True, "savefig.bbox": "tight", "figure.autolayout": True},
        **{"axes.grid": True, "axes.spines.top": True, "lines.marker": "x", "font.size": 30},
        **{
            "xtick.top": True,
            "xtick.minor.visible": True,
            "axes.xmargin": 0.5,
            "image.cmap": "hot",
        },
    }
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(draw(tmp_path, classification), expected)
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_loaded(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from support.sample_classification import *;"
        "from c3d_client.views.timeline import *;"
        "from c3d_client.views.thumbnails import Thumbnails;"
        f"path = {str(tmp_path / 'a.png')!r};"
        "write_timeline(path, classified([[1.0]]), source='', strip=Thumbnails());"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert completed.stdout == "False\n"


def test_without_thumbnails_only_the_curves_are_drawn(tmp_path):
    height = draw(tmp_path, classified([[1.0]])).shape[0]
    assert draw(tmp_path, classified([[1.0]]), strip=Thumbnails()).shape[0] < height - 50


def test_missing_matplotlib_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UsageError, match=r"pip install 'c3d-client\[plot\]'"):
        write_timeline(tmp_path / "video.png", classified([[1.0]]), source="video.mp4")


def test_failed_timeline_leaves_no_file(tmp_path):
    classification = classified([[1.0]])
    missing = tmp_path / "missing" / "video.png"
    with pytest.raises(OutputError, match="missing/video.png: cannot be written"):
        write_timeline(missing, classification, source="", strip=coloured_strip())
    with pytest.raises(VideoDecodeError, match="no.mp4"):
        write_timeline(tmp_path / "video.png", classification, source=tmp_path / "no.mp4")
    cut = write_video(tmp_path / "cut.mkv", 200)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(VideoDecodeError, match="cut.mkv"):
        write_timeline(tmp_path / "video.png", classification, source=cut)
    with pytest.raises(UsageError, match="top_k is 0"):
        write_timeline(tmp_path / "video.png", classification, source=cut, top_k=0)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mkv"]
