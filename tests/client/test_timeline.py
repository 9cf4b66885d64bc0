"""The timeline: what is where in the picture, and what it is drawn with."""

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import OutputError, UsageError, VideoDecodeError
from c3d_client.video.decode import Frame
from c3d_client.views import timeline
from c3d_client.views.curves import LIGHT, best_curves
from c3d_client.views.thumbnails import FilmStrip
from c3d_client.views.timeline import write_timeline
from support.films import write_film
from support.sample_classification import HOSTILE, classified, random_probabilities

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.text import Text  # noqa: E402

# Inches of the picture as pixels.
LEFT, RIGHT = 90, 1404
PARTS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def film_of(*, seconds=12.0, width=320, height=180):
    """Pictures of a film whose thirds are red, green and blue."""
    times = np.linspace(0, seconds, 60, endpoint=False)
    strip = FilmStrip()
    for index, time_s in enumerate(times):
        pixels = np.full((height, width, 3), PARTS[int(3 * time_s / seconds)], np.uint8)
        list(strip.watch([Frame.from_pixels(index, time_s, seconds / 60, pixels)]))
    return strip


def drawn(path, film, **options):
    """Write the timeline and read it back: uint8 [height, 1440, 3] RGB."""
    options = {"source": "film.mp4", "strip": film_of(), **options}
    write_timeline(path / "film.png", film, **options)
    return cv2.cvtColor(cv2.imread(str(path / "film.png")), cv2.COLOR_BGR2RGB)


def close(picture, colour):
    """Where the picture has this colour, nearly."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(picture.astype(int) - colour).max(axis=2) < 24


def test_a_real_film_with_its_frames(narrow_server, bikes, tmp_path):
    with C3DClient(f"localhost:{narrow_server.port}") as c3d:
        answer = c3d.classify(bikes)
    write_timeline(tmp_path / "bikes.png", answer, source=bikes)
    picture = cv2.imread(str(tmp_path / "bikes.png"))
    assert picture.shape[1] == 1440
    assert 600 < picture.shape[0] < 900
    for hue in LIGHT[:5]:
        assert close(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), hue).sum() > 200
    assert [path.name for path in tmp_path.iterdir()] == ["bikes.png"]


def test_curves_and_frames_stand_where_their_times_are(tmp_path):
    # 36 clips over 12 seconds: the first class is sure of itself until the middle.
    rows = np.repeat([[1.0, 0.0], [0.0, 1.0]], [20, 16], axis=0)
    picture = drawn(tmp_path, classified(rows))
    for part, colour in enumerate(PARTS):
        columns = np.nonzero(close(picture, colour).sum(axis=0) > 40)[0]
        third = (RIGHT - LEFT) / 3
        assert columns.min() == pytest.approx(LEFT + part * third, abs=third / 6)
        assert columns.max() == pytest.approx(LEFT + (part + 1) * third, abs=third / 6)
    top, bottom = 240, 560  # within the plot
    first = close(picture, LIGHT[0])
    high = np.nonzero(first[: (top + bottom) // 2].any(axis=0) & (np.arange(1440) > 150))[0]
    assert high.max() == pytest.approx(LEFT + (RIGHT - LEFT) * 6.5 / 12, abs=25)
    assert len(high) > 0.95 * (high.max() - high.min())  # a line, not the clips' dots alone


def test_what_people_must_know_of_the_weights_is_in_the_picture(tmp_path):
    rows = random_probabilities(5, 6)
    said = drawn(tmp_path, classified(rows, note="the weights are random"))
    unsaid = drawn(tmp_path, classified(rows, note=""))
    assert close(said[:130], timeline._WARNING).sum() > 300
    assert not close(unsaid[:130], timeline._WARNING).any()


@pytest.mark.parametrize(
    ("clips", "width", "height"),
    [(1, 320, 180), (2, 101, 180), (37, 320, 16), (10_000, 320, 180), (100_000, 101, 180)],
)
def test_nothing_written_overlaps_or_leaves_the_picture(clips, width, height):
    wide = "A label of sixty characters, wide: WWWW" * 2
    labels = [f"{number} {wide}"[: 60 if number % 2 else 4] for number in range(30)]
    film = classified(random_probabilities(clips, 30), labels=labels, note="a long note " * 30)
    for top_k in (1, 24):
        curves = best_curves(film, top_k=top_k)
        strip = film_of(seconds=clips * 0.32 + 0.32, width=width, height=height)
        figure = timeline._draw(film, curves, strip, title="film " * 80)
        figure.canvas.draw()
        page = figure.bbox
        boxes = []
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text():
                boxes.append(text.get_window_extent())
                assert page.x0 <= boxes[-1].x0 < boxes[-1].x1 <= page.x1
                assert page.y0 <= boxes[-1].y0 < boxes[-1].y1 <= page.y1
        assert len(boxes) > top_k + 8
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_labels_and_names_are_drawn_as_they_are_and_never_read_as_formulas(tmp_path):
    film = classified(
        random_probabilities(3, len(HOSTILE)), labels=HOSTILE, note="$note$ \n \N{SURFER}"
    )
    drawn(tmp_path, film, top_k=len(HOSTILE), name="$film$_\udcff\n<b>.mp4")
    figure = timeline._draw(film, best_curves(film, top_k=10), film_of(), title="$film$")
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "$film$"
    assert not any(text.get_parse_math() for text in figure.texts)
    assert any("$x^2$ and _under_ \\frac" in text for text in texts)
    assert any("two lines and a tab" in text for text in texts)
    assert any("катание" in text for text in texts)


def test_another_installed_font_helps_where_the_first_has_no_such_character():
    # STIX comes with matplotlib and has what DejaVu has not; no font has the last private one.
    families, unknown = timeline._fonts("a\u1d84\U0010fffd")
    assert families[0] == "DejaVu Sans"
    assert len(families) == 2
    assert unknown == {"\U0010fffd"}


def test_the_users_own_settings_of_matplotlib_change_nothing(tmp_path):
    film = classified(random_probabilities(5, 6))
    plain = drawn(tmp_path, film)
    theirs = {
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
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(drawn(tmp_path, film), plain)
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_loaded(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from support.sample_classification import *;"
        "from c3d_client.views.timeline import *; from c3d_client.views.thumbnails import FilmStrip;"
        f"path = {str(tmp_path / 'a.png')!r};"
        "write_timeline(path, classified([[1.0]]), source='', strip=FilmStrip());"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert told.stdout == "False\n"


def test_a_film_of_which_no_picture_was_kept_has_curves_alone(tmp_path):
    tall = drawn(tmp_path, classified([[1.0]])).shape[0]
    assert drawn(tmp_path, classified([[1.0]]), strip=FilmStrip()).shape[0] < tall - 50


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UsageError, match=r"pip install 'c3d-client\[plot\]'"):
        write_timeline(tmp_path / "film.png", classified([[1.0]]), source="film.mp4")


def test_what_cannot_be_drawn_or_written_leaves_nothing(tmp_path):
    film = classified([[1.0]])
    with pytest.raises(OutputError, match="missing/film.png: cannot be written"):
        write_timeline(tmp_path / "missing" / "film.png", film, source="", strip=film_of())
    with pytest.raises(VideoDecodeError, match="no.mp4"):
        write_timeline(tmp_path / "film.png", film, source=tmp_path / "no.mp4")
    cut = write_film(tmp_path / "cut.mkv", 200)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(VideoDecodeError, match="cut.mkv"):
        write_timeline(tmp_path / "film.png", film, source=cut)
    with pytest.raises(UsageError, match="top_k is 0"):
        write_timeline(tmp_path / "film.png", film, source=cut, top_k=0)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mkv"]
