"""The report of a run in a real browser and as Markdown."""

import base64
import hashlib
import json
import re
import shlex
from dataclasses import replace

import pytest
from c3d_pipelines.reports.page import chosen, to_html, to_markdown
from markdown_it import MarkdownIt
from support import browser as browsers
from support.sample_classification import HOSTILE
from support.sample_shards import PROVENANCE
from support.sample_summary import index_row, plan_row, random_run, shard_report, summary

NAMES = (*HOSTILE, "\N{RIGHT-TO-LEFT OVERRIDE}4pm.exe", "a|b `code` [link](x)", "n" * 400)


@pytest.fixture(scope="module")
def browser():
    command = browsers.find()
    if command is None:
        pytest.skip("no Chromium: pages not looked at in a browser")
    with browsers.browser(command) as running:
        yield running


@pytest.fixture
def show_page(browser, tmp_path):
    """Write a summary's page to a dataset's folder, open it, and return the browser."""
    path = tmp_path / "runs" / "run-7" / "report.html"
    path.parent.mkdir(parents=True)

    def show(run, *, width=1280, dark=False):
        path.write_text(to_html(run), "utf-8")
        browser.show(width=width, dark=dark)
        browser.open(path)
        assert browser.complaints == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
        return browser

    return show


def mixed(**changes):
    statuses = ["ok"] * 190 + ["corrupt"] * 3 + ["failed"] * 2 + ["too_short", "unreadable"]
    return random_run(statuses, shards=4, earlier=13, **changes)


def choose(browser, *, search="", kind=""):
    """Fill in the filter and return the videos that are shown."""
    browser.value(
        f"""(() => {{
        document.getElementById("filter").value = {json.dumps(search)};
        document.getElementById("filter").dispatchEvent(new Event("input"));
        document.getElementById("kind").value = {json.dumps(kind)};
        document.getElementById("kind").dispatchEvent(new Event("change"));
        }})()"""
    )
    return browser.texts("#failures tbody th bdi:first-child")


def hostile_run():
    """Return a run whose names and messages try to inject markup."""
    safe_names = [name if name.strip() else f"blank{number}" for number, name in enumerate(NAMES)]
    rows = [
        index_row(
            name, "corrupt", uri=f"/videos/{name}", error_message=f"/videos/{name}: {name} broke"
        )
        for name in safe_names
    ]
    return summary(
        [plan_row(name) for name in safe_names],
        rows,
        [shard_report(0, ["corrupt"] * len(rows))],
        out=f"/data/{HOSTILE[1]}",
        state="FAILED",
        message="\n".join(NAMES),
        provenance={**PROVENANCE, HOSTILE[0]: HOSTILE[1], "note": {HOSTILE[2]: HOSTILE[3]}},
    )


def test_page_shows_the_run_without_console_errors_or_requests(show_page):
    run = mixed()
    page = show_page(run)
    assert page.texts("h1") == ["203 of 210 videos have features; 7 do not"]
    assert page.value("document.title").startswith("203 of 210 videos")
    assert page.texts(".state") == ["Succeeded"]
    assert [text.split()[-3] for text in page.texts(".legend li")] == ["203", "1", "3", "1", "2"]
    assert page.texts(".counted tfoot :is(th, td)") == ["All", "203", "1", "3", "1", "2", "210"]
    assert page.texts(".kind h3") == [
        "Failed: 2 videos",
        "Unreadable: 1 video",
        "Corrupt: 3 videos",
        "Too short: 1 video",
    ]
    assert len(page.texts("#failures tbody tr")) == 7
    assert len(page.texts(".parts tbody tr")) == 4
    assert len(page.texts(".shards tbody tr")) == 4
    for number, histogram in enumerate((run.durations, run.clip_counts), 1):
        counts = page.texts(f".histogram:nth-of-type({number}) tbody td.num")
        assert [int(text) for text in counts] == [bin_.count for bin_ in histogram.bins]
    assert PROVENANCE["model"]["weights"]["sha256"] in page.texts(".pairs td")
    tiles = dict(zip(page.texts(".tile dt"), page.texts(".tile .value"), strict=True))
    assert tiles["Inputs"] == "210"
    assert tiles["Done in this run"] == "190"
    assert not page.value("document.getElementById('tools').hidden")
    assert page.value("document.getElementById('on').hidden")  # all failures fit on one page


def test_bars_are_as_long_as_their_numbers(show_page):
    run = mixed()
    page = show_page(run)
    for index, numbers in (
        (
            0,
            [
                run.ended(status)
                for status in ("ok", "too_short", "corrupt", "unreadable", "failed")
            ],
        ),
        (1, list(run.seconds.values())),
    ):
        bar = f"document.querySelectorAll('.stack')[{index}]"
        widths = page.value(f"[...{bar}.children].map(i => i.offsetWidth)")
        wide = [width for width in widths if width > 4]
        expected = [number for number, width in zip(numbers, widths, strict=True) if width > 4]
        assert [width / sum(wide) for width in wide] == pytest.approx(
            [number / sum(expected) for number in expected], abs=0.02
        )


def test_failures_are_filtered_by_text_and_by_status(show_page):
    page = show_page(mixed())
    assert len(choose(page, search="MOOV class")) == 3
    assert choose(page, search="moov 00191") == ["class 2/video 00191.mp4"]
    assert page.texts("#shown") == ["1 – 1 of 1 (7 in the table)"]
    assert choose(page, kind="unreadable") == ["class 0/video 00196.mp4"]
    assert choose(page, search="moov", kind="failed") == []
    assert page.texts("#shown") == ["None of 7 match"]
    assert len(choose(page)) == 7
    assert page.texts("#kind option") == [
        "All (7)",
        "Failed (2)",
        "Unreadable (1)",
        "Corrupt (3)",
        "Too short (1)",
    ]


def test_failures_are_sorted_by_a_column_both_ways(show_page):
    page = show_page(mixed())
    names = choose(page)
    click = "document.querySelector('#failures thead th:nth-child({}) button').click()"
    page.value(click.format(1))
    assert choose(page) == sorted(names)
    assert page.value("document.querySelector('#failures th').ariaSort") == "ascending"
    page.value(click.format(1))
    assert choose(page) == sorted(names, reverse=True)
    page.value(click.format(2))
    statuses = page.texts("#failures tbody td:nth-child(2)")
    assert statuses == sorted(statuses)
    sorts = page.value("[...document.querySelectorAll('#failures thead th')].map(h => h.ariaSort)")
    assert sorts == ["none", "ascending", "none"]


def test_thousands_of_failures_are_paged_with_some_of_every_kind(show_page):
    statuses = ["corrupt"] * 1500 + ["failed"] * 500 + ["too_short"]
    run = random_run(statuses, shards=40, missing=(3,))
    assert len(run.failures) == 2001
    page = show_page(run)
    assert page.texts("#failures caption")[0].startswith("1,000 of 2,001 videos")
    assert "Too short (1)" in page.texts("#kind option")
    assert page.texts("#shown") == ["1 – 50 of 1,000"]
    page.value("document.getElementById('on').click()")
    assert page.texts("#shown") == ["51 – 100 of 1,000"]
    assert page.texts("#failures tbody th bdi:first-child")[0] == chosen(run.failures)[50].video_id
    assert len(choose(page, kind="too_short")) == 1
    assert page.texts(".shards tbody .lost") == ["missing"]
    assert page.texts("section > .notice")[0].startswith("1 of 40 shards is missing: 3.")
    assert not page.value("document.querySelector('details').open")
    kinds = {failure.status for failure in chosen(run.failures)}
    assert kinds == {"corrupt", "failed", "too_short"}
    indexes = [run.failures.index(failure) for failure in chosen(run.failures)]
    assert indexes == sorted(indexes)


def test_hostile_names_and_messages_are_text(show_page):
    run = hostile_run()
    page = show_page(run)
    assert page.value("window.hacked") is None
    assert page.value("document.scripts.length") == 1
    assert page.value("document.querySelectorAll('b, img, main script, h1 *').length") == 0
    videos = page.texts("#failures tbody th bdi:first-child")
    assert HOSTILE[0] in videos
    assert HOSTILE[1] in videos
    assert HOSTILE[3] in videos
    assert "4pm.exe" in videos  # without the character that reverses it
    assert HOSTILE[1] in page.texts(".notice .text")[0]
    assert page.texts("header code") == [run.out]
    assert HOSTILE[0] in page.texts(".pairs th")
    command = shlex.split(page.texts(".kind .command")[0])
    assert command[command.index("--out") + 1] == run.out


def test_names_of_any_script_are_whole(show_page):
    # Chinese, Arabic, Persian with a non-joiner, and an emoji of three.
    name = (
        "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 "
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 "
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4"
    )
    run = mixed()
    failure = replace(run.failures[0], video_id=name, error_message=f"{name}: is damaged")
    page = show_page(replace(run, failures=(failure, *run.failures[1:])))
    assert name in page.texts("#failures tbody th bdi:first-child")
    assert any(name in text for text in page.texts("#failures tbody td"))


def test_injected_script_does_not_run(browser, tmp_path):
    path = tmp_path / "report.html"
    injected = "</main><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    path.write_text(to_html(mixed()).replace("</main>", injected), "utf-8")
    browser.open(path)
    assert browser.value("window.hacked") is None
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("make", [mixed, hostile_run])
def test_page_fits_a_phone_and_follows_the_colour_scheme(show_page, make, dark):
    page = show_page(make(), width=360, dark=dark)
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    page.show(width=1280)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(show_page, dark):
    page = show_page(mixed(state="FAILED", message="why"), dark=dark)
    worst = page.value(
        """(() => {
        const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
        const light = (c) => [0, 1, 2].map((i) => c[i] / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => {
          for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] === 1) return c;
          }
        };
        let worst = [99, ""];
        for (const e of document.querySelectorAll("body *")) {
          if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
          if (!e.getClientRects().length) continue;
          const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 80)];
        }
        return worst;
        })()"""
    )
    assert worst[0] >= 4.5, worst


def test_tables_have_headers_and_fields_have_labels(show_page):
    page = show_page(mixed())
    headers = "[...document.querySelectorAll('thead th')].every(h => h.scope === 'col')"
    assert page.value(headers)
    assert page.value("[...document.querySelectorAll('input, select')].every(f => f.labels.length)")
    assert page.value("[...document.querySelectorAll('svg')].every(s => s.ariaHidden)")
    levels = page.value("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_links_lead_to_the_datasets_files_and_a_copy_has_none(show_page, browser, tmp_path):
    show_page(mixed())
    links = browser.value("[...document.querySelectorAll('a')].map(a => a.href)")
    assert links[0] == (tmp_path / "index.parquet").as_uri()
    assert links[-1] == (tmp_path / "runs" / "run-7" / "summary.json").as_uri()
    (tmp_path / "copy.html").write_text(to_html(mixed()), "utf-8")
    browser.open(tmp_path / "copy.html")
    assert browser.value("document.querySelectorAll('a[href]').length") == 0


def test_page_is_complete_without_javascript(browser, tmp_path):
    path = tmp_path / "report.html"
    run = random_run(["failed"] * 80, shards=2)
    path.write_text(to_html(run), "utf-8")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(path)
        assert len(browser.texts("#failures tbody tr")) == 80
        assert browser.value("getComputedStyle(document.getElementById('tools')).display") == "none"
        assert browser.value("getComputedStyle(document.getElementById('pager')).display") == "none"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_run_that_failed_in_its_plan_shows_the_reason(show_page):
    reason = "s3://videos/empty: no videos there\nlook again"
    page = show_page(summary([], [], state="FAILED", message=reason, provenance={}))
    assert page.texts("h1") == ["No videos were done: the run ended before there was a plan"]
    assert page.texts(".notice .text") == [reason]
    assert page.texts("h2") == ["Files"]
    assert page.value("document.querySelectorAll('.tile, .stack').length") == 0


def test_empty_sections_are_not_shown(show_page):
    page = show_page(random_run(["ok"] * 5, shards=1))
    assert "What failed, and how to retry it" not in page.texts("h2")
    assert page.texts(".notice") == []
    assert "good" in page.value("document.querySelector('.state').className")
    done = summary([plan_row("a", decision="done")], [index_row("a", run="run-1")])
    page = show_page(done)
    assert page.texts("h1") == ["The one video has features; there was nothing left to do"]
    assert page.texts("h2") == [
        "Every input, counted",
        "The videos",
        "How the numbers were made",
        "Files",
    ]
    assert page.texts(".tile dt") == ["Inputs"]


def test_server_that_reports_no_times_is_mentioned(show_page):
    silent = index_row("a", queue_s=None, compute_s=None)
    run = summary([plan_row("a")], [silent], [shard_report(0, ["ok"])], answer="classes")
    page = show_page(run)
    assert len(page.texts(".parts tbody tr")) == 2
    assert "server does not report" in page.texts("section[aria-labelledby=time] p")[0]
    assert page.texts(".over")[0].startswith("C3D bulk classification")
    assert "| time | 0.500 s | 0.250 s |" in to_markdown(run)


def test_note_on_the_weights_is_shown_first(show_page):
    weights = {**PROVENANCE["model"]["weights"], "note": "random, not Sports-1M"}
    noted = {**PROVENANCE, "model": {**PROVENANCE["model"], "weights": weights}}
    run = random_run(["ok"], shards=1, provenance=noted)
    assert show_page(run).texts("header .notice") == ["Weights: random, not Sports-1M"]
    assert "**Weights: random, not Sports\\-1M**" in to_markdown(run)


def test_page_refers_to_nothing_outside_and_allows_its_own_script_only():
    text = to_html(mixed())
    assert not re.findall(r"""src=["']|@import|url\(|https?://""", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f"default-src 'none'; {sources}; base-uri" in text
    assert "{{" not in text


def rendered(run):
    return (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(to_markdown(run))
    )


def test_markdown_has_verdict_counts_failures_and_times():
    run = mixed()
    text = rendered(run)
    assert "<h1>203 of 210 videos have features; 7 do not</h1>" in text
    assert "Dataset: s3://videos/c3d" in text
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells[:7] == ["to do in this run", "190", "1", "3", "1", "2", "197"]
    assert cells[14:21] == ["<strong>all</strong>", "203", "1", "3", "1", "2", "210"]
    assert "class 1/video 00190.mp4" in cells
    assert "moov atom not found; the file is damaged or cut short (VideoDecodeError)" in cells
    assert text.count("<pre>") == 4
    assert "--retry-failed" in text
    assert "clips/s" in text


def test_markdown_lists_few_of_thousands_of_failures_and_no_section_of_none():
    many = to_markdown(
        random_run(["failed"] * 2000, shards=2, missing=(1,), state="FAILED", message="x")
    )
    assert len(many) < 10_000
    assert "The first 20 of 2,000:" in many
    assert "1 of 2 shards missing" in many
    assert "> x" in many
    assert "failed" not in to_markdown(random_run(["ok"] * 3, shards=1))


def test_hostile_names_are_escaped_in_markdown():
    run = hostile_run()
    text = rendered(run)
    assert not re.findall(
        r"<(script|b|img|a|em|code|del)[ >](?!class)", text.replace("<pre><code>", "")
    )
    rows = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    assert {row.count("<td") for row in rows if "corrupt</td>" in row} == {3}
    assert len([row for row in rows if "corrupt</td>" in row]) == len(NAMES)
    assert "a|b `code` [link](x)" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_command_with_backticks_is_one_block():
    run = random_run(["failed"], shards=1, out="/data/```/x")
    assert "\n````\n" in to_markdown(run)  # some parsers end a block in the middle of a line
    assert rendered(run).count("<pre>") == 1
    assert "'/data/```/x'" in rendered(run)
