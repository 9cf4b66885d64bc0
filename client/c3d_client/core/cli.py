"""How every command of this project ends: an error is one line and an exit code."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code
from c3d_client.core.text import escape_controls


def run_command(
    group: click.Group, arguments: Sequence[str] | None, *, name: str, interrupted: str
) -> NoReturn:
    """Run a command and exit the process.

    The exit code is the one that the command returned, 2 after a C3DError or a wrong argument, 130
    after Ctrl-C. Other exceptions are defects and propagate with their traceback.

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
