"""Options that several commands share, derived from the declaration of a run's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from c3d_client.commands.options import adding
from c3d_client.core.completion import PATH_OR_URL

from c3d_pipelines.parameters import PARAMETERS

# The commands' own program name, for lines on standard error.
PROGRAM = "c3d-pipelines"


def parameter_option(name: str, *flags: str, **changes: Any) -> Callable[[Any], Any]:
    """Return the click option of a parameter: its name, type, range, default and help.

    Args:
        name: the parameter's name.
        flags: how the option is written; by default as its name with dashes.
        changes: arguments of ``click.option`` that differ from the declaration.
    """
    parameter = PARAMETERS[name]
    settings: dict[str, Any] = {
        "default": parameter.default,
        "show_default": True,
        "help": f"{parameter.help[0].upper()}{parameter.help[1:]}.",
    }
    if parameter.type is bool:
        settings |= {"is_flag": True, "show_default": False}
    elif parameter.choices:
        settings["type"] = click.Choice(parameter.choices)
    elif parameter.type is int:
        bounds = (parameter.low, parameter.high)
        low, high = (None if bound is None else int(bound) for bound in bounds)
        settings["type"] = click.IntRange(min=low, max=high)
    else:
        settings["type"] = parameter.type
    return click.option(*(flags or (f"--{name.replace('_', '-')}",)), name, **settings | changes)


videos_option = click.option(
    "--videos",
    required=True,
    type=PATH_OR_URL,
    metavar="FOLDER|PATTERN|FILE",
    help="A folder, a pattern, s3:// or gs://, or a manifest (CSV, JSONL or Parquet).",
)

any_option = parameter_option("any_file", "--any")

kind_options = adding(
    (
        click.option(
            "--classify", is_flag=True, help="Class probabilities instead of fc6 features."
        ),
        parameter_option("retry_failed"),
    )
)

shard_options = adding(
    (
        parameter_option("keys"),
        parameter_option("shard_mb", metavar="MB"),
        parameter_option("shard_minutes", metavar="MINUTES"),
        parameter_option("max_shards", metavar="N"),
    )
)
