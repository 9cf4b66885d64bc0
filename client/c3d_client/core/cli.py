"""How each of the project's commands ends: what went wrong is one line and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code


def run_command(
    group: click.Group, arguments: Sequence[str] | None, *, name: str, interrupted: str
) -> NoReturn:
    """Run a command and exit.

    The exit code is the command's own, 2 after an error of ours or a wrong argument, 130 after
    Ctrl-C. Other exceptions propagate: they are defects and want their traceback.

    Args:
        group: the command.
        arguments: as typed; the process's own where None.
        name: the command's name, before each line on standard error.
        interrupted: what Ctrl-C leaves, in words.
    """
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
    """Print one line on standard error, whatever line breaks the message has."""
    click.echo(f"{name}: {' '.join(message.split())}", err=True)
