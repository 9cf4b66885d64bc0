"""`c3d completion`: what a shell needs to complete this command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script that completes in your shell.

    For bash: c3d completion bash > ~/.local/share/bash-completion/completions/c3d
    """
    found = get_completion_class(shell)
    assert found is not None  # click has these three
    click.echo(found(context.find_root().command, {}, "c3d", "_C3D_COMPLETE").source())
    return 0
