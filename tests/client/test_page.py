"""The page of one video in a real browser: its content, the cursor, and that it loads nothing."""

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
from c3d_client.views.thumbnails import Thumbnails, read_thumbnails
from support import browser as browsers
from support.sample_classification import HOSTILE, NOTE, classified, random_probabilities
from support.videos import noise


@pytest.fixture(scope="module")
def browser():
    command = browsers.find()
    if command is None:
        pytest.skip("Chromium is not installed: pages were not tested in a browser")
    with browsers.browser(command) as running:
        yield running


@pytest.fixture(scope="module")
def real(narrow_server, bikes, tmp_path_factory):
    """The page of a real video, its classification and its thumbnails."""
    with C3DClient(f"localhost:{narrow_server.port}") as c3d:
        answer = c3d.classify(bikes)
    path = tmp_path_factory.mktemp("page") / "bikes.html"
    write_page(path, answer, source=bikes)
    return path, answer, read_thumbnails(bikes)


def make_strip(seconds, *, frames=60, draw=None):
    """Thumbnails of a video of this length."""
    strip = Thumbnails()
    for index in range(frames):
        pixels = draw(index) if draw else np.full((90, 160, 3), index, np.uint8)
        time_s = index * seconds / frames
        list(strip.watch([Frame.from_pixels(index, time_s, seconds / frames, pixels)]))
    return strip


def best_classes(answer, clip, top_k=5):
    """The labels and probabilities of a clip's best classes."""
    row = answer.clip_probabilities[clip]
    best = np.argsort(-row, kind="stable")[:top_k]
    return [(answer.labels[i], float(row[i])) for i in best]


def displayed_classes(browser):
    """The labels and probabilities that the page shows next to the frame."""
    labels = browser.texts("#bars .label")
    shares = [float(text.rstrip("%")) / 100 for text in browser.texts("#bars .num")]
    return labels, pytest.approx(shares, abs=6e-4)


def test_page_of_a_real_video_is_complete_and_loads_nothing(browser, real):
    path, answer, strip = real
    browser.show(width=1280)
    browser.open(path)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.value("document.title") == "bikes.mp4"
    assert len(browser.texts("#strip img")) == len(strip.all) > 20
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert len(browser.texts("#plot polyline")) == 5
    assert browser.texts("#best tbody .name") == [best.label for best in answer.top]
    assert len(browser.texts("#rows tr")) == 25
    assert browser.texts("#shown") == ["1 – 25 of 30"]
    assert "bikes.mp4" in browser.texts("details")[0]
    visible = "[...document.querySelectorAll('#strip img:not(.spare)')]"
    times = browser.value(f"{visible}.map(i => +i.dataset.time)")
    assert len(times) == 8
    assert times == sorted(times)


def test_keys_move_the_cursor_and_update_the_page(browser, real):
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
        labels, shares = displayed_classes(browser)
        assert labels == [label for label, _ in best_classes(answer, clip)]
        assert [share for _, share in best_classes(answer, clip)] == shares
        nearest = min(strip.all, key=lambda thumbnail: abs(thumbnail.time_s - middle))
        assert browser.texts("#frame-text") == [f"Frame {nearest.index} at {nearest.time_s:.2f} s"]
        source = f"document.querySelector('#strip [data-index=\"{nearest.index}\"]').src"
        assert browser.value(f"document.getElementById('frame').src === {source}")
        assert browser.texts("#rows [aria-current] button") == [str(clip + 1)]
        text = browser.value("document.getElementById('plot').getAttribute('aria-valuetext')")
        assert text.startswith(f"{middle:.2f} s, clip {clip + 1}: {labels[0]} ")
    assert browser.complaints == []


def test_mouse_drags_the_cursor_over_curves_and_thumbnails(browser, real):
    path, answer, _ = real
    browser.show(width=1280, height=900)
    browser.open(path)
    box = browser.value("document.getElementById('plot').getBoundingClientRect().toJSON()")
    for part in (0.25, 0.8, 1.5):
        for y in (box["top"] + 20, box["bottom"] - 20):
            start = (box["left"] + box["width"] / 2, y)
            browser.drag(start, (box["left"] + box["width"] * part, y))
            time_s = min(part, 1) * 10  # the video has ten seconds
            clip = int(np.abs(answer.clip_times_s.mean(axis=1) - time_s).argmin())
            assert browser.texts("#now")[0] == f"{time_s:.2f} s, clip {clip + 1} of 30"
            assert displayed_classes(browser)[0] == [
                label for label, _ in best_classes(answer, clip)
            ]
            left = browser.value("document.getElementById('cursor').style.left")
            assert float(left.rstrip("%")) == pytest.approx(min(part, 1) * 100, abs=0.1)


def test_table_rows_move_the_cursor_and_buttons_turn_pages(browser, tmp_path):
    answer = classified(random_probabilities(1003, 20))
    write_page(tmp_path / "page.html", answer, source="", strip=make_strip(321))
    browser.open(tmp_path / "page.html")
    assert len(browser.texts("#plot polygon")) == 5
    assert browser.texts("#shown") == ["1 – 25 of 1003"]
    browser.value("document.getElementById('next').click()")
    assert browser.texts("#shown") == ["26 – 50 of 1003"]
    assert browser.texts("#now")[0].endswith("clip 1 of 1003")  # the cursor does not move
    browser.value("document.querySelector('#rows tr:nth-child(3) button').click()")
    assert browser.texts("#now") == ["0:09.0, clip 28 of 1003"]
    labels = [label for label, _ in best_classes(answer, 27)]
    assert displayed_classes(browser)[0] == labels
    row = browser.texts("#rows tr:nth-child(3) td")
    assert row[0] == "0:08.6 – 0:09.3"
    assert [part.rsplit(" ", 1)[0] for part in row[1].split(" · ")] == labels
    browser.value("document.getElementById('plot').focus()")
    browser.press("End")
    assert browser.texts("#shown") == ["1001 – 1003 of 1003"]
    assert browser.value("document.getElementById('next').disabled")
    assert browser.complaints == []


def test_hostile_labels_and_names_are_displayed_as_text(browser, tmp_path):
    answer = classified(random_probabilities(3, len(HOSTILE)), labels=HOSTILE, note=HOSTILE[1])
    answer.provenance["video"]["source"] = HOSTILE[0]
    answer.provenance[HOSTILE[1]] = HOSTILE[3]
    name = f"{HOSTILE[0]}{HOSTILE[1]}{HOSTILE[3]}\udcff.mp4"
    path = tmp_path / "page.html"
    write_page(path, answer, source="", name=name, strip=make_strip(2), top_k=len(HOSTILE))
    browser.open(path)
    assert browser.complaints == []
    assert browser.value("window.hacked") is None
    assert browser.value("document.scripts.length") == 2
    assert browser.value("document.querySelectorAll('b, #best img, h1 *, .note *').length") == 0
    labels = {" ".join(label.split()) or "class 9" for label in HOSTILE}
    assert set(browser.texts("#best .name")) == labels
    assert set(browser.texts("#bars .label")) == labels
    assert browser.texts("h1") == [name.replace("\udcff", r"\xff")]
    assert browser.texts(".note") == [f"Weights: {HOSTILE[1]}"]
    assert {HOSTILE[0], HOSTILE[3]} <= set(browser.texts("details td"))


def test_injected_script_does_not_run(browser, real, tmp_path):
    path = tmp_path / "page.html"
    text = real[0].read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", "<script>window.hacked = 1</script></main>"), "utf-8")
    browser.open(path)
    assert browser.value("window.hacked") is None
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_page_fits_a_phone_and_follows_the_colour_scheme(browser, tmp_path):
    labels = ["W" * 60, *HOSTILE]
    answer = classified(random_probabilities(40, len(labels)), labels=labels)
    path = tmp_path / "page.html"
    write_page(path, answer, source="n" * 200 + ".mp4", strip=make_strip(13))
    for dark, colour in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 24, 29)")):
        browser.show(width=400, dark=dark)
        browser.open(path)
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), dark
        assert browser.value("getComputedStyle(document.body).backgroundColor") == colour
        visible = "[...document.querySelectorAll('#strip img')].filter(i => i.offsetWidth).length"
        assert browser.value(visible) == 4, dark
    browser.show(width=1280)


def test_short_video_without_thumbnails_has_a_page(browser, tmp_path):
    for clips in (1, 2):
        answer = classified(random_probabilities(clips, 3), note="")
        write_page(tmp_path / "page.html", answer, source="", strip=Thumbnails())
        browser.open(tmp_path / "page.html")
        assert browser.complaints == []
        assert browser.value("document.getElementById('figure').hidden"), clips
        assert browser.value("document.getElementById('pager').hidden"), clips
        assert len(browser.texts("#rows tr")) == clips
        assert len(browser.texts("#plot polyline")) == 3
        assert browser.texts(".note") == []


def test_page_of_ten_minutes_is_smaller_than_two_megabytes(tmp_path):
    # Blocks of noise are harder to compress than any real video.
    strip = make_strip(600, draw=lambda index: noise(index, width=320, height=176))
    answer = classified(random_probabilities(1875, 487))
    write_page(tmp_path / "page.html", answer, source="", strip=strip)
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    assert len(strip.all) == 60


def test_page_refers_to_no_other_file_and_allows_only_its_script(real):
    text = real[0].read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|@import|url\(|https?://""", text)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f"default-src 'none'; {sources}; base-uri" in text
    assert "{{" not in text.replace(script[0], "")


def test_data_has_only_labels_that_are_among_the_best_of_a_clip(tmp_path):
    rows = random_probabilities(50, 300)
    rows[:, 100:] /= 1000
    write_page(tmp_path / "page.html", classified(rows), source="", strip=Thumbnails(), top_k=3)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert max(map(int, data["labels"])) < 100
    assert [index for index, _ in data["top"][7]] == np.argsort(-rows[7])[:3].tolist()
    assert data["clips"][7] == [56, 2.24, 2.88]
    assert html.escape(NOTE) in text


def test_failed_page_leaves_no_file(tmp_path):
    answer = classified([[1.0]])
    with pytest.raises(OutputError, match="missing/page.html: cannot be written"):
        write_page(tmp_path / "missing" / "page.html", answer, source="", strip=Thumbnails())
    with pytest.raises(VideoDecodeError, match="no.mp4"):
        write_page(tmp_path / "page.html", answer, source=tmp_path / "no.mp4")
    with pytest.raises(UsageError, match="top_k is 0"):
        write_page(tmp_path / "page.html", answer, source="", top_k=0)
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_script_are_whole(browser, tmp_path):
    # Chinese, Arabic, Hindi with a joiner, Persian with a non-joiner, and an emoji of three.
    names = [
        "\u4f60\u597d",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u0915\u094d\u200d\u0937",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 surfing",
    ]
    answer = classified(random_probabilities(3, len(names)), labels=names, note=names[0])
    name = " ".join(names)
    write_page(tmp_path / "a.html", answer, source="", name=f"{name}.mp4", strip=Thumbnails())
    browser.show(width=1280)
    browser.open(tmp_path / "a.html")
    assert browser.complaints == []
    assert browser.texts("h1") == [f"{name}.mp4"]
    assert browser.value("document.title") == f"{name}.mp4"
    assert sorted(browser.texts("#best tbody .name")) == sorted(names)
    assert sorted(displayed_classes(browser)[0]) == sorted(names)
    assert names[0] in browser.texts(".note")[0]
