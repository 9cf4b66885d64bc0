"""Griffe extension: adapts reStructuredText in docstrings, such as :class:`X`, to Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")
_CODE_FOLLOWS = re.compile(r"^(\s*)(\w[\w ]*)::$", re.MULTILINE)


class MarkdownDocstrings(griffe.Extension):
    """Replace roles and the marks of code blocks in every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _CODE_FOLLOWS.sub(r"\1*\2*", text)
