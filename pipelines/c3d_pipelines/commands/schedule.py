"""`c3d-pipelines schedule`: runs of a pipeline that a cluster starts at times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from c3d_client.errors import RunError, UsageError

from c3d_pipelines.commands.compile import cluster_options
from c3d_pipelines.commands.sending import access_options, open_backend, read_what, what_options

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.sending.backend import Backend
    from c3d_pipelines.sending.submit import Schedule


@click.command()
@what_options
@click.option(
    "--cron",
    metavar="'S M H DAY MONTH WEEKDAY'",
    help="When: six fields, seconds first, in the cluster's time (UTC as a rule).",
)
@click.option("--name", default="", help="The schedule's; the pipeline's by default.")
@click.option("--replace", is_flag=True, help="Take the place of the one with this name.")
@click.option("--paused", is_flag=True, help="Start no run until --resume.")
@click.option("--list", "lists", is_flag=True, help="Say what schedules there are.")
@click.option("--delete", metavar="NAME", help="Remove a schedule; its runs stay.")
@click.option("--pause", metavar="NAME", help="Have a schedule start no runs.")
@click.option("--resume", metavar="NAME", help="Have it start them again.")
@access_options
@cluster_options
def schedule(
    cron: str | None,
    name: str,
    replace: bool,
    paused: bool,
    lists: bool,
    delete: str | None,
    pause: str | None,
    resume: str | None,
    **given: Any,
) -> None:
    """Have a cluster run PIPELINE at times, one run at a time.

    Each run does what is new or changed since the last. Times that were missed are not made up
    for: the next run does their work too.
    """
    from c3d_pipelines.sending import submit as library
    from c3d_pipelines.sending.cron import check_cron

    changes = {"delete": delete, "disable": pause, "enable": resume}
    wanted = {what: named for what, named in changes.items() if named is not None}
    if (cron is not None) + lists + len(wanted) != 1:
        raise UsageError("give one of --cron, --list, --delete, --pause and --resume")
    if cron is None:
        with open_backend(given) as backend:
            for what, named in wanted.items():
                _change(backend, what, named, given["experiment"])
            if lists:
                for one in library.schedules(backend, experiment=given["experiment"]):
                    _say(one)
        return

    check_cron(cron)  # all of it before anyone is asked
    package, parameters, options = read_what(given)
    with open_backend(given) as backend:
        made = library.schedule(
            backend,
            package,
            parameters,
            cron=cron,
            name=name,
            enabled=not paused,
            replace=replace,
            options=options,
        )
    _say(made)


def _change(backend: Backend, what: str, name: str, experiment: str) -> None:
    from c3d_pipelines.sending import submit as library

    found = library.schedules(backend, name, experiment=experiment)
    if not found:
        raise RunError(f"{backend.access.host}: has no schedule {name!r} in {experiment!r}")
    for one in found:
        backend.change_schedule(one.schedule_id, what)
        click.echo(f"{one.name}: {what}d")


def _say(one: Schedule) -> None:
    paused = "" if one.enabled else " (paused)"
    click.echo(f"{one.name}: {one.cron}{paused}  {one.url}")
