"""Other people's text made harmless for a page and for Markdown: names, messages, addresses."""

from __future__ import annotations

import html
import re

from c3d_client.core.text import one_line

LONGEST = 4000  # characters of one text; a message may hold a whole log
# What Markdown reads as more than a letter, and what makes an address into a link.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$^:@.=-])")


def text(value: object, *, longest: int = LONGEST) -> str:
    """Anything as one line between tags or in a quoted attribute."""
    return html.escape(shortened(one_line(str(value)), longest))


def block(value: str) -> str:
    """A text of several lines, to stand between tags."""
    lines = shortened(value.strip("\r\n"), LONGEST).expandtabs(4).splitlines()
    return "\n".join(html.escape(visible(line.rstrip())) for line in lines)


def verbatim(value: str) -> str:
    """A command between tags: not a blank is changed."""
    return html.escape(visible(value))


def visible(value: str) -> str:
    """A text with a mark for each character that cannot be seen, line ends among them."""
    value = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def markdown(value: object, *, longest: int = 300) -> str:
    """Anything as one line of plain text in Markdown, in a table too."""
    plain = shortened(one_line(str(value)), longest)
    return html.escape(_SPECIAL.sub(r"\\\1", plain), quote=False)


def shortened(value: str, longest: int) -> str:
    """A text cut where it is too long, and marked so."""
    return value if len(value) <= longest else value[: longest - 1] + "…"
