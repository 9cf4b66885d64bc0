"""`c3d status`: health of the server, versions of the model, and its card."""

from __future__ import annotations

from typing import Any

import click

from c3d_client.commands.options import make_client, print_weights_note, server_options

_LONGEST_WAIT_S = 5.0


@click.command()
@server_options
def status(**client: Any) -> int:
    """Show the server's health and the model's versions and card.

    It waits for a server that is away or full for at most 5 seconds.
    """
    with make_client(**client, longest_patience_s=_LONGEST_WAIT_S) as c3d:
        click.echo(f"server     {c3d.serving.options.target}  {c3d.serving.health()}")
        for version in c3d.versions():
            error = f"  {version.error}" if version.error else ""
            click.echo(f"version    {version.version}  {version.state}{error}")
        info = c3d.model_info()
        weights, mean = info.card["weights"], info.card["mean"]
        click.echo(f"model      {client['model']} version {info.version}")
        click.echo(f"signatures {', '.join(info.signatures)}")
        click.echo(f"contract   {info.card['contract_version']}")
        click.echo(f"precision  {info.card['precision']}")
        if info.card.get("verified") == "reduced":
            click.echo("verified   reduced: one clip for each signature")
        click.echo(f"weights    {weights['source']}  sha256 {weights['sha256']}")
        click.echo(f"mean       {mean['source']}  sha256 {mean['sha256']}")
        click.echo(f"labels     {len(info.labels)}")
        click.echo(f"layers     {', '.join(info.layers)}")
        print_weights_note(c3d)
    return 0
