"""Write the reference of each command from the command itself: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

_FOLDER = Path(__file__).parent
_WIDTH = 96

_HEAD = """# The command `{name}`

Made from the commands themselves by `make docs`; a test fails where it is not fresh.
"""


def _c3d() -> click.Group:
    from c3d_client.cli import cli

    return cli


def _c3d_pipelines() -> click.Group:
    from c3d_pipelines.cli import cli

    return cli


PAGES: dict[str, tuple[str, Callable[[], click.Group]]] = {
    "cli.md": ("c3d", _c3d),
    "cli-pipelines.md": ("c3d-pipelines", _c3d_pipelines),
}


def reference(page: str) -> str:
    """One page: what `--help` says of each command."""
    name, load = PAGES[page]
    cli = load()
    parent = _context(cli, name, None)
    parts = [_HEAD.format(name=name), _section(name, parent)]
    for verb in sorted(cli.commands):
        parts.append(_section(f"{name} {verb}", _context(cli.commands[verb], verb, parent)))
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
    if sys.argv[1:]:
        sys.stdout.write(reference(sys.argv[1]))
    else:
        for page in PAGES:
            (_FOLDER / page).write_text(reference(page), encoding="utf-8")
