"""Write the reference page of each command from its click parser: `make docs`.

With a page's name as argument, print that page instead; the tests compare it with the file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

_FOLDER = Path(__file__).parent
_WIDTH = 96

# Page: the command, the module of its click group, and what the command is for.
PAGES = {
    "cli.md": (
        "c3d",
        "c3d_client.cli",
        "Extracts features and classifies videos, with a server that runs the network. "
        "[The client](client.md) explains its use.",
    ),
    "cli-export.md": (
        "c3d-export",
        "c3d_export.cli",
        "Builds, verifies and serves the model, and reads weight files. "
        "[The servable](servable.md) explains its output.",
    ),
    "cli-pipelines.md": (
        "c3d-pipelines",
        "c3d_pipelines.cli",
        "Extracts the features of many videos, on one machine or a cluster. "
        "[Bulk extraction](bulk.md) explains its use.",
    ),
}

_HEAD = """# The command `{name}`

{purpose}

This page is generated from the command's own help by `make docs`.
"""


def reference(page: str) -> str:
    """Return one page: the output of `--help` for the command and for each subcommand."""
    name, module, purpose = PAGES[page]
    group: click.Group = importlib.import_module(module).cli
    sections = [_HEAD.format(name=name, purpose=purpose), *_sections(group, name, None)]
    return "\n".join(sections)


def _sections(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    """Return the section of a command, then those of its subcommands."""
    context = _context(command, name, parent)
    sections = [_section(context.command_path, context)]
    if isinstance(command, click.Group):
        for subcommand in sorted(command.commands):
            sections += _sections(command.commands[subcommand], subcommand, context)
    return sections


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return command.context_class(
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
