"""The page of one film in a real browser: what it shows, how it moves, and that it asks nobody."""

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import OutputError, UsageError, VideoDecodeError
from c3d_client.video.decode import Frame
from c3d_client.views.page import write_page
from c3d_client.views.thumbnails import FilmStrip, film_strip
from support import browser as browsers
from support.films import noise
from support.sample_classification import HOSTILE, NOTE, classified, random_probabilities


@pytest.fixture(scope="module")
def browser():
    command = browsers.find()
    if command is None:
        pytest.skip("no Chromium: pages not looked at in a browser")
    with browsers.browser(command) as running:
        yield running


@pytest.fixture(scope="module")
def real(narrow_server, bikes, tmp_path_factory):
    """The page of a real film, its classification and its strip."""
    with C3DClient(f"localhost:{narrow_server.port}") as c3d:
        answer = c3d.classify(bikes)
    path = tmp_path_factory.mktemp("page") / "bikes.html"
    write_page(path, answer, source=bikes)
    return path, answer, film_strip(bikes)


def strip_of(seconds, *, pictures=60, draw=None):
    strip = FilmStrip()
    for index in range(pictures):
        pixels = draw(index) if draw else np.full((90, 160, 3), index, np.uint8)
        time_s = index * seconds / pictures
        list(strip.watch([Frame.from_pixels(index, time_s, seconds / pictures, pixels)]))
    return strip


def shown(answer, clip, top_k=5):
    """The best classes of a clip as the page writes them."""
    row = answer.clip_probabilities[clip]
    best = np.argsort(-row, kind="stable")[:top_k]
    return [(answer.labels[i], float(row[i])) for i in best]


def read_out(browser):
    labels = browser.texts("#bars .label")
    shares = [float(text.rstrip("%")) / 100 for text in browser.texts("#bars .num")]
    return labels, pytest.approx(shares, abs=6e-4)


def test_a_real_film_shows_all_there_is_without_complaint_or_request(browser, real):
    path, answer, strip = real
    browser.show(width=1280)
    browser.open(path)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.value("document.title") == "bikes.mp4"
    assert len(browser.texts("#strip img")) == len(strip.stills) > 20
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert len(browser.texts("#plot polyline")) == 5
    assert browser.texts("#best tbody .name") == [best.label for best in answer.top]
    assert len(browser.texts("#rows tr")) == 25
    assert browser.texts("#shown") == ["1 – 25 of 30"]
    assert "bikes.mp4" in browser.texts("details")[0]
    places = "[...document.querySelectorAll('#strip img:not(.spare)')].map(i => +i.dataset.time)"
    times = browser.value(places)
    assert len(times) == 8
    assert times == sorted(times)


def test_the_keys_move_the_cursor_and_the_read_out_with_it(browser, real):
    path, answer, strip = real
    browser.open(path)
    browser.value("document.getElementById('plot').focus()")
    clip = 0
    last = len(answer.clip_starts) - 1
    moves = {
        "ArrowRight": 1,
        "PageUp": 10,
        "End": 99,
        "ArrowLeft": -1,
        "PageDown": -10,
        "Home": -99,
    }
    for key, step in moves.items():
        browser.press(key)
        clip = min(max(clip + step, 0), last)
        middle = float(answer.clip_times_s[clip].mean())
        assert browser.texts("#now") == [f"{middle:.2f} s, clip {clip + 1} of {last + 1}"]
        labels, shares = read_out(browser)
        assert labels == [label for label, _ in shown(answer, clip)]
        assert [share for _, share in shown(answer, clip)] == shares
        nearest = min(strip.stills, key=lambda still: abs(still.time_s - middle))
        assert browser.texts("#frame-text") == [f"Frame {nearest.index} at {nearest.time_s:.2f} s"]
        source = f"document.querySelector('#strip [data-index=\"{nearest.index}\"]').src"
        assert browser.value(f"document.getElementById('frame').src === {source}")
        assert browser.texts("#rows [aria-current] button") == [str(clip + 1)]
        said = browser.value("document.getElementById('plot').getAttribute('aria-valuetext')")
        assert said.startswith(f"{middle:.2f} s, clip {clip + 1}: {labels[0]} ")
    assert browser.complaints == []


def test_the_mouse_drags_the_cursor_over_curves_and_frames(browser, real):
    path, answer, _ = real
    browser.show(width=1280, height=900)
    browser.open(path)
    box = browser.value("document.getElementById('plot').getBoundingClientRect().toJSON()")
    for part in (0.25, 0.8, 1.5):
        for y in (box["top"] + 20, box["bottom"] - 20):
            start = (box["left"] + box["width"] / 2, y)
            browser.drag(start, (box["left"] + box["width"] * part, y))
            time_s = min(part, 1) * 10  # the film's ten seconds
            clip = int(np.abs(answer.clip_times_s.mean(axis=1) - time_s).argmin())
            assert browser.texts("#now")[0] == f"{time_s:.2f} s, clip {clip + 1} of 30"
            assert read_out(browser)[0] == [label for label, _ in shown(answer, clip)]
            left = browser.value("document.getElementById('cursor').style.left")
            assert float(left.rstrip("%")) == pytest.approx(min(part, 1) * 100, abs=0.1)


def test_a_row_of_the_table_moves_the_cursor_and_pages_turn(browser, tmp_path):
    film = classified(random_probabilities(1003, 20))
    write_page(tmp_path / "film.html", film, source="", strip=strip_of(321))
    browser.open(tmp_path / "film.html")
    assert len(browser.texts("#plot polygon")) == 5
    assert browser.texts("#shown") == ["1 – 25 of 1003"]
    browser.value("document.getElementById('on').click()")
    assert browser.texts("#shown") == ["26 – 50 of 1003"]
    assert browser.texts("#now")[0].endswith("clip 1 of 1003")  # turning leaves the cursor
    browser.value("document.querySelector('#rows tr:nth-child(3) button').click()")
    assert browser.texts("#now") == ["0:09.0, clip 28 of 1003"]
    labels = [label for label, _ in shown(film, 27)]
    assert read_out(browser)[0] == labels
    row = browser.texts("#rows tr:nth-child(3) td")
    assert row[0] == "0:08.6 – 0:09.3"
    assert [part.rsplit(" ", 1)[0] for part in row[1].split(" · ")] == labels
    browser.value("document.getElementById('plot').focus()")
    browser.press("End")
    assert browser.texts("#shown") == ["1001 – 1003 of 1003"]
    assert browser.value("document.getElementById('on').disabled")
    assert browser.complaints == []


def test_hostile_labels_and_names_are_text(browser, tmp_path):
    film = classified(random_probabilities(3, len(HOSTILE)), labels=HOSTILE, note=HOSTILE[1])
    film.provenance["video"]["source"] = HOSTILE[0]
    film.provenance[HOSTILE[1]] = HOSTILE[3]
    name = f"{HOSTILE[0]}{HOSTILE[1]}{HOSTILE[3]}\udcff.mp4"
    path = tmp_path / "film.html"
    write_page(path, film, source="", name=name, strip=strip_of(2), top_k=len(HOSTILE))
    browser.open(path)
    assert browser.complaints == []
    assert browser.value("window.hacked") is None
    assert browser.value("document.scripts.length") == 2
    assert browser.value("document.querySelectorAll('b, #best img, h1 *, .note *').length") == 0
    as_shown = {" ".join(label.split()) or "class 9" for label in HOSTILE}
    assert set(browser.texts("#best .name")) == as_shown
    assert set(browser.texts("#bars .label")) == as_shown
    assert browser.texts("h1") == [name.replace("\udcff", "?")]
    assert browser.texts(".note") == [f"Weights: {HOSTILE[1]}"]
    assert {HOSTILE[0], HOSTILE[3]} <= set(browser.texts("details td"))


def test_a_script_that_got_in_would_not_run(browser, real, tmp_path):
    path = tmp_path / "film.html"
    text = real[0].read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", "<script>window.hacked = 1</script></main>"), "utf-8")
    browser.open(path)
    assert browser.value("window.hacked") is None
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone_and_follows_the_colour_scheme(browser, tmp_path, dark):
    labels = ["W" * 60, *HOSTILE]
    film = classified(random_probabilities(40, len(labels)), labels=labels)
    path = tmp_path / "film.html"
    write_page(path, film, source="n" * 200 + ".mp4", strip=strip_of(13))
    browser.show(width=400, dark=dark)
    browser.open(path)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    visible = "[...document.querySelectorAll('#strip img')].filter(i => i.offsetWidth).length"
    assert browser.value(visible) == 4
    browser.show(width=1280)


@pytest.mark.parametrize("clips", [1, 2])
def test_a_short_film_and_one_without_pictures_have_a_page_too(browser, tmp_path, clips):
    film = classified(random_probabilities(clips, 3), note="")
    write_page(tmp_path / "film.html", film, source="", strip=FilmStrip())
    browser.open(tmp_path / "film.html")
    assert browser.complaints == []
    assert browser.value("document.getElementById('figure').hidden")
    assert browser.value("document.getElementById('pager').hidden")
    assert len(browser.texts("#rows tr")) == clips
    assert len(browser.texts("#plot polyline")) == 3
    assert browser.texts(".note") == []


def test_ten_minutes_take_less_than_two_megabytes(tmp_path):
    # Blocks of noise: harder to compress than any film.
    strip = strip_of(600, draw=lambda index: noise(index, width=320, height=176))
    film = classified(random_probabilities(1875, 487))
    write_page(tmp_path / "film.html", film, source="", strip=strip)
    assert (tmp_path / "film.html").stat().st_size < 2_000_000
    assert len(strip.stills) == 60


def test_the_file_names_nothing_outside_itself_and_allows_its_own_script_alone(real):
    text = real[0].read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|@import|url\(|https?://""", text)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f"default-src 'none'; {sources}; base-uri" in text
    assert "{{" not in text.replace(script[0], "")


def test_the_data_holds_only_labels_that_are_ever_among_the_best(tmp_path):
    rows = random_probabilities(50, 300)
    rows[:, 100:] /= 1000
    write_page(tmp_path / "film.html", classified(rows), source="", strip=FilmStrip(), top_k=3)
    text = (tmp_path / "film.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert max(map(int, data["labels"])) < 100
    assert [index for index, _ in data["top"][7]] == np.argsort(-rows[7])[:3].tolist()
    assert data["clips"][7] == [56, 2.24, 2.88]
    assert html.escape(NOTE) in text


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    film = classified([[1.0]])
    with pytest.raises(OutputError, match="missing/film.html: cannot be written"):
        write_page(tmp_path / "missing" / "film.html", film, source="", strip=FilmStrip())
    with pytest.raises(VideoDecodeError, match="no.mp4"):
        write_page(tmp_path / "film.html", film, source=tmp_path / "no.mp4")
    with pytest.raises(UsageError, match="top_k is 0"):
        write_page(tmp_path / "film.html", film, source="", top_k=0)
    assert list(tmp_path.iterdir()) == []
