"""Make the pictures of the documents: `make docs-pictures`.

- img/classify.png: the page that `c3d classify --html` writes for the video of `make example`,
  photographed by headless Chromium.
- img/bulk-run.svg: the Mermaid diagram of bulk.md, drawn by Mermaid (from npm) in Chromium. The SVG
  holds the diagram's text, and a test compares the text with the document.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "img"
MERMAID = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
_MERMAID_VERSION = "11.17.2"
_WIDTH, _HEIGHT = 1000, 765

_DIAGRAM_PAGE = """<!doctype html><script src="{script}"></script><body><script>
mermaid.initialize({{
  startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {{htmlLabels: false}}
}});
mermaid.render("bulk-run", {text}).then(result => document.body.innerHTML = result.svg);
</script></body>"""


def diagram_text() -> str:
    """Return the Mermaid text of bulk.md."""
    found = MERMAID.search((ROOT / "docs" / "bulk.md").read_text(encoding="utf-8"))
    assert found, "docs/bulk.md has no Mermaid block"
    return found.group(1)


def classify_page(folder: Path) -> Path:
    """Classify the example's video with the demo weights and write the HTML page."""
    sys.path.insert(0, str(ROOT / "examples"))
    import first_run
    import moving_square

    os.chdir(folder)
    first_run.OUT.mkdir(parents=True, exist_ok=True)
    moving_square.render(folder / "film.mp4")
    target = f"local:{ROOT / first_run.servable()}"
    command = [str(Path(sys.executable).with_name("c3d")), "classify", "film.mp4"]
    subprocess.run([*command, "--top", "3", "--html", "page.html", "--server", target], check=True)
    return folder / "page.html"


def chromium(*options: str) -> str:
    """Run headless Chromium and return its standard output."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    return subprocess.run([*command, *options], check=True, text=True, capture_output=True).stdout


def draw_diagram(folder: Path) -> str:
    """Return the diagram of bulk.md as SVG."""
    package = f"mermaid@{_MERMAID_VERSION}"
    subprocess.run(
        ["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(folder), package],
        check=True,
    )
    text = diagram_text()
    script = (folder / "node_modules/mermaid/dist/mermaid.min.js").as_uri()
    page = folder / "diagram.html"
    page.write_text(_DIAGRAM_PAGE.format(script=script, text=json.dumps(text)), encoding="utf-8")
    dom = chromium("--virtual-time-budget=20000", "--dump-dom", page.as_uri())
    drawing = re.search(r"<svg.*</svg>", dom, re.DOTALL)
    assert drawing, "Mermaid drew nothing"
    source = f"<desc>{html.escape(text)}</desc></svg>"
    return drawing.group().removesuffix("</svg>") + source + "\n"


def main() -> None:
    """Make both pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = classify_page(folder)
        chromium(
            f"--screenshot={IMAGES / 'classify.png'}",
            f"--window-size={_WIDTH},{_HEIGHT}",
            page.as_uri(),
        )
        if shutil.which("npm"):
            (IMAGES / "bulk-run.svg").write_text(draw_diagram(folder), encoding="utf-8")
        else:
            print("no npm: docs/img/bulk-run.svg is not drawn", file=sys.stderr)


if __name__ == "__main__":
    main()
