"""Write docs/cli.md from the commands themselves: `make docs`."""

from __future__ import annotations

from pathlib import Path

import click
from c3d_client.cli import cli

PAGE = Path(__file__).parent / "cli.md"
_WIDTH = 96

_HEAD = """# The command `c3d`

Made from the commands themselves by `make docs`; a test fails where it is not fresh.
"""


def reference() -> str:
    """The page: what `--help` says of each command."""
    parent = _context(cli, "c3d", None)
    parts = [_HEAD, _section("c3d", parent)]
    for name in sorted(cli.commands):
        parts.append(_section(f"c3d {name}", _context(cli.commands[name], name, parent)))
    return "\n".join(parts)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        **command.context_settings,
    )


def _section(title: str, context: click.Context) -> str:
    return f"## {title}\n\n```text\n{context.get_help().strip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
