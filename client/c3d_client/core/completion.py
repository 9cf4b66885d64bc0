"""Completion of commands, options, file names and folders in bash, zsh and fish."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)


class PathOrUrl(click.types.StringParamType):
    """Text that is a path or a URL: the shell completes paths, and leaves URLs as they are.

    Unlike :class:`click.Path` it checks nothing.

    Args:
        folder: only folders are completed.
    """

    def __init__(self, *, folder: bool = False) -> None:
        self._kind = "dir" if folder else "file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Return that the shell completes paths; nothing for a URL."""
        if "://" in incomplete:
            return []
        return [CompletionItem(incomplete, type=self._kind)]


PATH_OR_URL = PathOrUrl()
FOLDER_OR_URL = PathOrUrl(folder=True)


class _Bash(BashComplete):
    """Completion in bash, which splits words at ``:`` and ``=``.

    click's own script passes the words that bash has split, in which ``s3://bucket`` ends in the
    path ``//bucket``; this one passes the line.
    """

    source_template = BashComplete.source_template.replace(
        "$(env COMP_WORDS=", '$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDS='
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if line is None:  # a script of release 0.1.0
            args, incomplete = super().get_completion_args()
            is_url = args[-1:] == [":"] and incomplete.startswith("//")
            return (args[:-2], f"{args[-2]}:{incomplete}") if is_url else (args, incomplete)
        args = split_arg_string(line)[1:]
        incomplete = args.pop() if args and not line[-1].isspace() else ""
        return args, incomplete


class _Zsh(ZshComplete):
    """Completion in zsh, also of the value in ``--option=value``."""

    source_template = ZshComplete.source_template.replace(
        "    for type key descr",
        "    [[ $PREFIX == --*=* ]] && compset -P 1 '*='\n    for type key descr",
    ).replace("compadd -U -V", 'compadd -U -i "$IPREFIX" -V')


add_completion_class(_Bash)
add_completion_class(_Zsh)

_HELP = """Print a script that completes this command in your shell: file names too.

For bash, in ~/.bashrc; for zsh, into a folder of $fpath:

\b
source <({name} completion bash)
{name} completion zsh > ~/.zfunc/_{name}
"""


def completion_command(name: str) -> click.Command:
    """Return the command that prints a command's completion script.

    Args:
        name: the command's name as it is typed.
    """

    @click.command("completion", help=_HELP.format(name=name))
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> int:
        completion_class = get_completion_class(shell)
        assert completion_class is not None  # click has a class for each of the three shells
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        root: Any = context.find_root().command
        click.echo(completion_class(root, {}, name, variable).source())
        return 0

    return completion
