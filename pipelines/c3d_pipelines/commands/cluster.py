"""`c3d-pipelines compile`, `submit` and `schedule`: pipelines for Kubeflow on a cluster."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from c3d_client.commands.options import adding
from c3d_client.core.cli import print_error
from c3d_client.core.completion import PATH_OR_URL
from c3d_client.core.errors import UsageError
from c3d_client.core.signals import exit_code

from c3d_pipelines.commands.options import PROGRAM
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.cluster import ClusterSettings

if TYPE_CHECKING:  # kfp is loaded only when it is needed
    from c3d_pipelines.kubeflow.api import Backend, Schedule, SentRun
    from c3d_pipelines.kubeflow.submit import Package, RunOptions

_ACCESS = ("host", "namespace", "token_file", "pod_token", "ca")


def _cluster_option(setting: Field[Any]) -> Callable[[Any], Any]:
    """Return the click option of a setting of the pods, as its declaration describes it."""
    declared = setting.metadata
    kind: Any = int if setting.type == "int" else str
    if declared["choices"]:
        kind = click.Choice(declared["choices"])
    return click.option(
        declared["option"] or f"--{setting.name.replace('_', '-')}",
        setting.name,
        type=kind,
        multiple=not str(setting.type).startswith(("str", "int")),
        metavar=declared["metavar"],
        help=declared["help"],
    )


# Settings of the pods; read_cluster takes them.
cluster_options = adding(
    (
        click.option(
            "--settings",
            "settings_path",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="YAML",
            help="Settings of the pods; each setting that the file lacks has its default.",
        ),
        *(
            _cluster_option(setting)
            for setting in fields(ClusterSettings)
            if setting.metadata["option"] != ""
        ),
    )
)

access_options = adding(
    (
        click.option(
            "--host",
            envvar="KF_PIPELINES_ENDPOINT",
            show_envvar=True,
            metavar="URL",
            help="Kubeflow Pipelines: the part before /#/ of the address in a browser.",
        ),
        click.option(
            "--namespace", metavar="NAME", help="Of your profile, if Kubeflow has several users."
        ),
        click.option(
            "--token-file",
            type=PATH_OR_URL,
            metavar="FILE",
            help="A bearer token; or give it in the variable KF_PIPELINES_TOKEN.",
        ),
        click.option(
            "--pod-token",
            is_flag=True,
            help="Use the token that Kubeflow mounts into a notebook's pod.",
        ),
        click.option(
            "--ca", type=PATH_OR_URL, metavar="PEM", help="CAs to trust instead of the usual ones."
        ),
        click.option("--any-version", is_flag=True, help="Try an older Kubeflow Pipelines too."),
    )
)

run_options = adding(
    (
        click.argument("pipeline", default="c3d-bulk-extraction"),
        click.option(
            "--package",
            "package_path",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="YAML",
            help="A file that compile wrote, instead of PIPELINE and the settings below.",
        ),
        click.option(
            "--videos", metavar="PATH|URL", help="As the pods see it: s3://, gs://, or a path."
        ),
        click.option("--out", metavar="PATH|URL", help="The dataset, as the pods see it."),
        click.option("--server", metavar="HOST:PORT", help="gRPC address, as the pods see it."),
        click.option(
            "--model-digest",
            metavar="DIGEST",
            help="Refuse another model; ask uses the model that --server serves now.",
        ),
        click.option(
            "--param",
            "params",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any parameter of the pipeline; may be repeated.",
        ),
        click.option("--experiment", default="c3d", show_default=True, help="Groups runs."),
        click.option("--pipeline-root", metavar="URL", help="Where artifacts are stored."),
        click.option("--service-account", metavar="NAME", help="Of the pods."),
        click.option("--no-cache", is_flag=True, help="Use no earlier result of any task."),
    )
)


@click.command("compile")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="NAME.yaml in this folder, by default.",
)
@cluster_options
def compile_command(
    names: tuple[str, ...], out: Path | None, settings_path: Path | None, **cluster: Any
) -> None:
    """Write pipelines as YAML for Kubeflow; all of them by default.

    The pipelines: c3d-bulk-extraction, c3d-bulk-classification, c3d-export-and-verify.
    """
    from c3d_pipelines.kubeflow.compile import EXPORT, PIPELINES, compile_pipeline

    settings = read_cluster(settings_path, **cluster)
    names = names or PIPELINES
    is_file = out is not None and out.suffix in (".yaml", ".yml") and not out.is_dir()
    if is_file and len(names) != 1:
        raise UsageError(f"{out}: is one file for {len(names)} pipelines; give a folder or a NAME")
    for name in names:
        if out is None or is_file:
            path = out or Path(f"{name}.yaml")
        else:
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{name}.yaml"
        compile_pipeline(name, path, settings)
        image = settings.export_image if name == EXPORT else settings.image
        click.echo(f"{path}: {name}, image {image}")


@click.command()
@run_options
@click.option(
    "--name", default="", help="Name of the run; the pipeline's name and the time by default."
)
@click.option("--wait", "waits", is_flag=True, help="Wait for the end: 0 succeeded, 1 failed.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look at the run.",
)
@access_options
@cluster_options
def submit(name: str, waits: bool, every_s: float, **given: Any) -> int:
    """Start a run of PIPELINE on a cluster.

    PIPELINE is c3d-bulk-extraction, c3d-bulk-classification or c3d-export-and-verify; it is
    compiled with the settings given. Prints the run's address.

    Exit code: 0 sent, or with --wait succeeded; 1 the run failed; 2 it could not be sent.
    """
    from c3d_pipelines.kubeflow import submit as library

    package, parameters, options = read_run(given)  # before any request
    with open_backend(given) as backend:
        sent = library.submit(backend, package, parameters, name=name, options=options)
        click.echo(sent.url)
        if not waits:
            return 0
        try:
            ended = library.wait(backend, sent, every_s=every_s, on_state=_print_state)
        except KeyboardInterrupt:
            print_error(PROGRAM, f"interrupted; the run goes on: {sent.url}")
            return exit_code(signal.SIGINT)
    if not ended.succeeded:
        why = f": {ended.message}" if ended.message else ""
        print_error(PROGRAM, f"{ended.name} ended as {ended.state}{why}; {ended.url}")
    return 0 if ended.succeeded else 1


@click.command()
@run_options
@click.option(
    "--cron",
    metavar="'S M H DAY MONTH WEEKDAY'",
    help="When: six fields, seconds first, in the cluster's time zone (usually UTC).",
)
@click.option("--name", default="", help="Name of the schedule; the pipeline's name by default.")
@click.option("--replace", is_flag=True, help="Replace the schedule of this name.")
@click.option("--paused", is_flag=True, help="Start no run until --resume.")
@click.option("--list", "lists", is_flag=True, help="List the schedules.")
@click.option("--delete", metavar="NAME", help="Remove a schedule; its runs stay.")
@click.option("--pause", metavar="NAME", help="Have a schedule start no runs.")
@click.option("--resume", metavar="NAME", help="Have a paused schedule start runs again.")
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
    """Have a cluster run PIPELINE at set times, one run at a time.

    Each run does what is new or changed since the last. Times that were missed are not made up
    for: the next run does their work too.
    """
    from c3d_pipelines.kubeflow import submit as library

    changes = {"delete": delete, "disable": pause, "enable": resume}
    changes_given = {change: target for change, target in changes.items() if target is not None}
    if (cron is not None) + lists + len(changes_given) != 1:
        raise UsageError("give one of --cron, --list, --delete, --pause and --resume")
    if cron is None:
        with open_backend(given) as backend:
            for change, target in changes_given.items():
                _change_schedule(backend, change, target, given["experiment"])
            if lists:
                for existing in library.schedules(backend, experiment=given["experiment"]):
                    _print_schedule(existing)
        return

    library.check_cron(cron)  # before any request
    package, parameters, options = read_run(given)
    with open_backend(given) as backend:
        created = library.schedule(
            backend,
            package,
            parameters,
            cron=cron,
            name=name,
            enabled=not paused,
            replace=replace,
            options=options,
        )
    _print_schedule(created)


def read_cluster(settings_path: Path | None, **options: Any) -> ClusterSettings:
    """Return the settings of a file, overridden by those of the options.

    Raises:
        UsageError: a value cannot be used.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in ("node_selector", "pvc_mounts", "secret_volumes", "env"):
        if name in given:
            given[name] = dict(_pair(name, text) for text in given[name])
    if "secret_env" in given:
        given["secret_env"] = _secret_env(given["secret_env"])
    if "tolerations" in given:
        given["tolerations"] = tuple(_toleration(text) for text in given["tolerations"])
    if settings_path is not None:
        return ClusterSettings.read(settings_path, **given)
    return ClusterSettings(**given)


@contextlib.contextmanager
def open_backend(given: dict[str, Any]) -> Iterator[Backend]:
    """Open and check the cluster's API within the block.

    Args:
        given: the command's options; those of the API are removed.

    Raises:
        UsageError: no API is named.
        RunError: it is not a Kubeflow Pipelines API that this package can use.
    """
    from c3d_pipelines.kubeflow.api import Backend, find_access

    any_version = given.pop("any_version")
    with Backend(find_access(**{name: given.pop(name) for name in _ACCESS})) as backend:
        backend.check(any_version=any_version)
        yield backend


def read_run(given: dict[str, Any]) -> tuple[Package, dict[str, str], RunOptions]:
    """Return the pipeline, its parameters, and how to start a run of it.

    Args:
        given: the command's options; those of the run are removed.

    Raises:
        UsageError: an option cannot be used.
        RunError: the file is not a pipeline, or the parameters do not fit it.
    """
    from c3d_pipelines.kubeflow.submit import RunOptions

    named = {name: given.pop(name) for name in ("videos", "out", "server", "model_digest")}
    parameters = _parameters(given.pop("params"), **named)
    options = RunOptions(
        experiment=given.pop("experiment"),
        pipeline_root=given.pop("pipeline_root"),
        service_account=given.pop("service_account"),
        cached=not given.pop("no_cache"),
    )
    access = (*_ACCESS, "any_version")
    package = _package(**{name: given.pop(name) for name in list(given) if name not in access})
    package.arguments(parameters)
    return package, parameters, options


def _parameters(params: Sequence[str], **named: str | None) -> dict[str, str]:
    """Return the pipeline's parameters by name, from --param and the options with a name."""
    parameters = {name: value for name, value in named.items() if value is not None}
    for text in params:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--param is {text!r}; give NAME=VALUE")
        if name in parameters:
            raise UsageError(f"{name} is given twice")
        parameters[name] = value
    return parameters


def _package(
    pipeline: str, package_path: Path | None, settings_path: Path | None, **cluster: Any
) -> Package:
    from c3d_pipelines.kubeflow.compile import compile_pipeline
    from c3d_pipelines.kubeflow.submit import Package

    if package_path is not None:
        given = [name for name, value in cluster.items() if value not in (None, ())]
        if settings_path is not None or given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--settings"
            raise UsageError(f"--package and {flags}: {package_path} was compiled with its own")
        return Package(package_path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        compile_pipeline(pipeline, path, read_cluster(settings_path, **cluster))
        return Package(path)


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--{option.replace('_', '-')} is {text!r}; give NAME=VALUE")
    return name, value


def _secret_env(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    secrets: dict[str, dict[str, str]] = {}
    for text in texts:
        source, variable = _pair("secret_env", text)
        secret, dot, key = source.rpartition(".")
        if not dot:
            raise UsageError(f"--secret-env is {text!r}; give SECRET.KEY=VARIABLE")
        secrets.setdefault(secret, {})[key] = variable
    return secrets


def _toleration(text: str) -> dict[str, str]:
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    toleration = {"key": key, "operator": "Equal" if equals else "Exists"}
    if equals:
        toleration["value"] = value
    return {**toleration, "effect": effect} if colon else toleration


def _change_schedule(backend: Backend, change: str, name: str, experiment: str) -> None:
    from c3d_pipelines.kubeflow import submit as library

    existing = library.schedules(backend, name, experiment=experiment)
    if not existing:
        raise RunError(f"{backend.access.host}: has no schedule {name!r} in {experiment!r}")
    for target in existing:
        backend.change_schedule(target.schedule_id, change)
        click.echo(f"{target.name}: {change}d")


def _print_state(run: SentRun) -> None:
    click.echo(f"{PROGRAM}: {run.name} {run.state}", err=True)


def _print_schedule(shown: Schedule) -> None:
    paused = "" if shown.enabled else " (paused)"
    click.echo(f"{shown.name}: {shown.cron}{paused}  {shown.url}")
