"""MkDocs hook: adds documents from outside docs/ to the site and adapts links between documents.

Documents link to each other by their paths in the repository, so that the links work in a checkout.
On the site those links go to pages. Links to files that are no pages become plain text.
"""

from __future__ import annotations

import os.path
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
# Pages of the site that are files elsewhere in the repository.
_PAGES = {
    "index.md": "README.md",
    "kubernetes.md": "k8s/README.md",
    "alerts.md": "k8s/ALERTS.md",
    "benchmarks.md": "BENCHMARKS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_INLINE_CODE = re.compile(r"<code>[^<>\n]*</code>")
# A browser breaks lines at the hyphens of --option and in {field}.
_WORD = re.compile(r"(?<![^\s>])(?=[^\s<]*[-{])[^\s<>]{2,28}(?![^\s<])")
_MERMAID = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the documents from outside docs/."""
    for page, source in _PAGES.items():
        content = (_ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the pages of the site, and show diagrams as images."""
    here = page.file.src_uri
    folder = posixpath.dirname(_PAGES.get(here, f"docs/{here}"))
    pages = {source: target for target, source in _PAGES.items()}

    def adapt(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        if "://" in target:
            return match.group()
        path = posixpath.normpath(posixpath.join(folder, target))
        name = pages.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name) is not None:
            return f"{mark}[{text}]({os.path.relpath(name, posixpath.dirname(here))}{anchor})"
        if not (_ROOT / path).exists():
            return match.group()  # MkDocs reports the dead link
        return text

    # A browser would need a script of another host to draw the diagram; the image is the same.
    markdown = _MERMAID.sub("![The steps of a bulk run](img/bulk-run.svg)", markdown)
    return _LINK.sub(adapt, markdown)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep each option, command and field in a text on one line."""
    return _INLINE_CODE.sub(
        lambda code: _WORD.sub(r'<span class="word">\g<0></span>', code.group()), html
    )
