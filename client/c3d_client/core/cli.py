"""How every command of this project prints its help, and ends: one line and an exit code."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import click

from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code
from c3d_client.core.text import escape_controls

_HYPHEN, _UNBROKEN = "-", "\u2011"


class _HelpFormatter(click.HelpFormatter):
    """Help text whose lines are not broken within an option or a path, such as --over-trained."""

    def write_text(self, text: str) -> None:
        super().write_text(text.replace(_HYPHEN, _UNBROKEN))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        # In a narrow terminal a wide first column would leave three words a line for the second.
        col_max = min(col_max, max(20, self.width // 2 - 9))
        rows = [(first, second.replace(_HYPHEN, _UNBROKEN)) for first, second in rows]
        super().write_dl(rows, col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace(_UNBROKEN, _HYPHEN)


class _Context(click.Context):
    formatter_class = _HelpFormatter


class CommandGroup(click.Group):
    """Group of commands whose help is wrapped for terminals of 60 columns and more.

    The list of commands has the first sentence of each, as a whole.
    """

    context_class = _Context

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Register a command, and print its help as the group's."""
        cmd.context_class = _Context
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the commands, with what each does."""
        commands = sorted(self.commands.items())
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1000)) for name, command in commands]
            )


def run_command(
    group: click.Group, arguments: Sequence[str] | None, *, name: str, interrupted: str
) -> NoReturn:
    """Run a command and exit the process.

    The exit code is the one that the command returned, the `exit_code` of a C3DError, 2 after a
    wrong argument, 130 after Ctrl-C. Other exceptions are defects and propagate with their
    traceback.

    Args:
        group: the command.
        arguments: the command line; the process's arguments where None.
        name: the command's name, printed before each line on standard error.
        interrupted: the message after Ctrl-C about the state of the work.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name or label that the terminal's encoding lacks must not end a run.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    code: object = 2
    try:
        code = group.main(args=arguments, prog_name=name, standalone_mode=False)
    except C3DError as error:
        print_error(name, str(error))
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
    except click.ClickException as error:
        print_error(name, error.format_message())
    except (click.Abort, KeyboardInterrupt):
        print_error(name, f"interrupted; {interrupted}")
        code = exit_code(signal.SIGINT)
    sys.exit(code if isinstance(code, int) else 0)


def print_error(name: str, message: str) -> None:
    """Print a message on standard error as one line, without line breaks and control characters."""
    click.echo(error_line(name, message), err=True)


def error_line(name: str, message: str) -> str:
    """Return a message as one line, with the command's name, without control characters."""
    return f"{name}: {escape_controls(' '.join(message.split()))}"
