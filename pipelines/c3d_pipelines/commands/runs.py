"""`c3d-pipelines status`, `logs`, `terminate` and `retry`: runs on a cluster."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from c3d_client.commands.options import adding
from c3d_client.core.cli import print_error

from c3d_pipelines.commands.cluster import access_options, open_backend
from c3d_pipelines.commands.options import PROGRAM
from c3d_pipelines.errors import RunError

if TYPE_CHECKING:  # kfp is loaded only when it is needed
    from c3d_pipelines.kubeflow.api import SentRun
    from c3d_pipelines.kubeflow.diagnosis import Diagnosis

_LABEL = 8  # columns before the text of a line of `status`

_run_options = adding(
    (
        click.argument("run", metavar="RUN"),
        click.option(
            "--experiment", default="c3d", show_default=True, help="Where latest is looked for."
        ),
        access_options,
    )
)


@click.command()
@_run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(run: str, experiment: str, as_json: bool, **given: Any) -> int:
    """Print the state of RUN, and why it failed or does not go on.

    RUN is an id, the beginning of an id, a name, or latest. The reason is from the first that has
    one: the dataset, if this machine can read it; Kubeflow's API, with the ends of the steps' logs;
    Kubernetes' API, if there is a kubeconfig.

    Exit code: 0 succeeded or goes on; 1 failed; 2 there is no such run, or its state is unknown.
    """
    from c3d_pipelines.kubeflow.diagnosis import Inspector

    with open_backend(given) as backend, Inspector(backend) as inspector:
        found = inspector.diagnose(backend.find_run(run, experiment=experiment))
    if as_json:
        click.echo(json.dumps(_as_json(found)))
    else:
        for line in _lines(found):
            click.echo(line)
    return found.exit_code


@click.command()
@_run_options
@click.argument("step", required=False)
def logs(run: str, experiment: str, step: str | None, **given: Any) -> int:
    """Print the logs of the steps of RUN: of those that failed, or of all if none did.

    STEP is one of them: plan, extract-3 for shard 3, extract for all shards, publish, report. The
    logs are from Kubeflow's API, or from Kubernetes' API, if there is a kubeconfig.

    Exit code: 0 printed; 1 no log is left; 2 there is no such run or step.
    """
    from c3d_pipelines.kubeflow.diagnosis import Inspector

    printed = 0
    with open_backend(given) as backend, Inspector(backend) as inspector:
        target = backend.find_run(run, experiment=experiment)
        for shown, text, problem in inspector.logs(target, step or ""):
            if text is None:
                print_error(PROGRAM, f"{shown.title}: {problem}")
                continue
            printed += 1
            click.echo(f"==> {shown.title} ({shown.pod})")
            click.echo(text, nl=not text.endswith("\n"))
    return 0 if printed else 1


@click.command()
@_run_options
def terminate(run: str, experiment: str, **given: Any) -> None:
    """End RUN: its pods are killed within seconds, its report step too.

    Finished videos stay in the dataset; the next run does the rest and reports on this one.
    """
    with open_backend(given) as backend:
        target = backend.find_run(run, experiment=experiment)
        if target.ended:
            raise RunError(f"{target.name} ({target.run_id}): has ended already as {target.state}")
        backend.terminate(target.run_id)
    click.echo(f"{target.name}: is being ended; its state becomes FAILED")


@click.command()
@_run_options
def retry(run: str, experiment: str, **given: Any) -> None:
    """Start the failed steps of RUN again, under the same id; steps that succeeded stay."""
    with open_backend(given) as backend:
        target = backend.find_run(run, experiment=experiment)
        if not target.ended or target.succeeded:
            raise RunError(
                f"{target.name} ({target.run_id}): is {target.state}; only a run that failed can "
                "be retried"
            )
        backend.retry(target.run_id)
    click.echo(f"{target.name}: its failed steps are started again")


def print_end(found: Diagnosis) -> None:
    """Print how a run that was waited for ended, if it did not succeed."""
    run = found.run
    if run.succeeded:
        return
    why = f": {'; '.join(found.reasons)}" if found.reasons else ""
    print_error(PROGRAM, f"{run.name} ended as {run.state}{why}; {run.address}")
    if not found.reasons:
        for line in (*found.tried, *(f"look with: {command}" for command in found.commands)):
            print_error(PROGRAM, line)


def _lines(found: Diagnosis) -> Iterator[str]:
    """Yield the lines of `status`, wrapped to the terminal's width."""
    from c3d_pipelines.kubeflow.workflow import step_counts

    run = found.run
    yield run.name
    yield from _line("id", run.run_id)
    yield from _line("state", run.state)
    if steps := step_counts(found.steps):
        yield from _line("steps", steps)
    for reason in found.reasons:
        yield from _line("why", reason)
    if found.source:
        yield from _line("from", found.source)
    if not found.reasons and run.ended and not run.succeeded:
        yield from _line("why", "not known")
    for tried in found.tried:
        yield from _line("tried", tried)
    # Commands and addresses stay whole, so that they can be copied.
    for command in found.commands:
        yield f"{'look':<{_LABEL}}{command}"
    if run.url:
        yield f"{'link':<{_LABEL}}{run.url}"


def _line(label: str, text: str) -> list[str]:
    start = f"{label:<{_LABEL}}"
    if not sys.stdout.isatty():
        return [start + text]
    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _as_json(found: Diagnosis) -> dict[str, Any]:
    run: SentRun = found.run
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state,
        "url": run.url,
        "steps": [asdict(step) for step in found.steps],
        "reasons": list(found.reasons),
        "source": found.source,
        "tried": list(found.tried),
        "commands": list(found.commands),
        "lost": found.lost,
    }
