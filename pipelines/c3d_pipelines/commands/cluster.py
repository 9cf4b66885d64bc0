"""`c3d-pipelines compile`, `upload`, `submit`, `schedule`: pipelines for Kubeflow on a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from c3d_client.commands.options import adding
from c3d_client.core.cli import print_error
from c3d_client.core.completion import PATH_OR_URL
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.signals import exit_code

from c3d_pipelines.commands.options import PROGRAM
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.cluster import ClusterSettings

if TYPE_CHECKING:  # kfp is loaded only when it is needed
    from c3d_pipelines.kubeflow.api import Backend, Schedule, SentRun
    from c3d_pipelines.kubeflow.schedules import RunEnd
    from c3d_pipelines.kubeflow.submit import Package, RunOptions

_ACCESS = ("host", "namespace", "token_file", "pod_token", "ca", "ui")


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
            help="API of Kubeflow Pipelines: the part before /apis/v2beta1.",
        ),
        click.option(
            "--ui",
            envvar="KF_PIPELINES_UI_ENDPOINT",
            show_envvar=True,
            metavar="URL",
            help="Its web interface, for links: the part before /#/ of the address in a browser.",
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

package_options = adding(
    (
        click.argument("pipeline", default="c3d-bulk-extraction"),
        click.option(
            "--package",
            "package_path",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="YAML",
            help="A file that compile wrote, instead of PIPELINE and the settings below.",
        ),
    )
)

run_options = adding(
    (
        click.option(
            "--videos", metavar="PATH|URL", help="As the pods see it: s3://, gs://, or a path."
        ),
        click.option("--out", metavar="PATH|URL", help="The dataset, as the pods see it."),
        click.option("--server", metavar="HOST:PORT", help="gRPC address, as the pods see it."),
        click.option(
            "--model-digest",
            metavar="DIGEST",
            help="Refuse another model. ask: the model that --server serves now; this machine must "
            "reach that address too.",
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
        click.option(
            "--service-account", metavar="NAME", help="Of the pods; Kubeflow's own by default."
        ),
        # For scripts written for release 0.1.0.
        click.option("--no-cache", is_flag=True, hidden=True),
        click.option(
            "--no-check", is_flag=True, help="Send without a look at the cluster's objects."
        ),
    )
)


every_option = click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look at the run that is waited for.",
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
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(out, f"no folder can be made there ({error.strerror})") from error
            path = out / f"{name}.yaml"
        compile_pipeline(name, path, settings)
        image = settings.export_image if name == EXPORT else settings.image
        click.echo(f"{path}: {name}, image {image}")


@click.command()
@package_options
@run_options
@click.option(
    "--name", default="", help="Name of the run; the pipeline's name and the time by default."
)
@click.option("--wait", "waits", is_flag=True, help="Wait for the end: 0 succeeded, 1 failed.")
@every_option
@access_options
@cluster_options
def submit(name: str, waits: bool, every_s: float, **given: Any) -> int:
    """Start a run of PIPELINE on a cluster.

    PIPELINE is c3d-bulk-extraction, c3d-bulk-classification or c3d-export-and-verify; it is
    compiled with the settings given. Checks namespace, service account, claims and secrets first,
    where a kubeconfig gives access to them. Prints the run's id, or with --ui its address.

    Exit code: 0 sent, or with --wait succeeded; 1 the run failed; 2 it could not be sent, or it
    was sent, as the message says, and its end is not known.
    """
    from c3d_pipelines.commands.runs import print_end
    from c3d_pipelines.kubeflow import submit as library
    from c3d_pipelines.kubeflow.diagnosis import Inspector, Watch

    package, parameters, options = read_run(given)  # before any request
    with open_backend(given) as backend:
        check_cluster(backend, package, options, given.pop("no_check"))
        sent = library.submit(backend, package, parameters, name=name, options=options)
        click.echo(sent.address)
        if not waits:
            return 0
        with Inspector(backend) as inspector:
            watch = Watch(inspector, lambda line: print_error(PROGRAM, f"{sent.name}: {line}"))
            try:
                ended = library.wait(
                    backend, sent, every_s=every_s, on_state=_print_state, on_look=watch.look
                )
            except KeyboardInterrupt:
                print_error(PROGRAM, f"interrupted; the run goes on: {sent.address}")
                return exit_code(signal.SIGINT)
            print_end(inspector.diagnose(ended))
    return 0 if ended.succeeded else 1


@click.command()
@package_options
@run_options
@click.option(
    "--cron",
    metavar="'S M H DAY MONTH WEEKDAY'",
    help="When: six fields, seconds first, in the cluster's time zone (usually UTC).",
)
@click.option(
    "--name", default="", help="Name of the schedule; the pipeline's name is put before it."
)
@click.option("--replace", is_flag=True, help="Replace the schedule of this name.")
@click.option("--paused", is_flag=True, help="Start no run until --resume.")
@click.option("--list", "lists", is_flag=True, help="List the schedules.")
@click.option("--delete", metavar="NAME", help="Remove a schedule; its runs stay.")
@click.option("--pause", metavar="NAME", help="Have a schedule start no runs.")
@click.option(
    "--resume", metavar="NAME", help="Have a paused schedule start runs; finish a --replace."
)
@click.option("--wait", "waits", is_flag=True, help="Wait for the end of a run in progress.")
@click.option("--now", is_flag=True, help="End a run in progress.")
@every_option
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
    waits: bool,
    now: bool,
    every_s: float,
    **given: Any,
) -> int:
    """Have a cluster run PIPELINE at set times, one run at a time.

    Each run does what is new or changed since the last. Times that were missed are not made up
    for: the next run does their work too.

    Kubeflow removes a run in progress together with its schedule. So --delete and --replace first
    disable the schedule, and remove it when it has no run in progress: give --wait to wait for the
    end of one, or --now to end it.

    Exit code: 0 done; 1 a run is in progress, and the schedule is disabled and still there; 2
    nothing was changed, or the last step failed as the message says.
    """
    from c3d_pipelines.kubeflow import schedules as library

    changes = {"delete": delete, "pause": pause, "resume": resume}
    changes_given = {change: target for change, target in changes.items() if target is not None}
    if (cron is not None) + lists + len(changes_given) != 1:
        raise UsageError("give one of --cron, --list, --delete, --pause and --resume")
    if (waits or now) and not (replace or delete is not None or resume is not None):
        raise UsageError("--wait and --now are for --replace, --delete and --resume")
    run_end = library.RunEnd(waits=waits, now=now, every_s=every_s, on_wait=_print_wait)
    if cron is None:
        with open_backend(given) as backend, _watching(backend, run_end) as watching:
            experiment = given["experiment"]
            if lists:
                _print_schedules(library.schedules(backend, experiment=experiment))
                return 0
            ((change, target),) = changes_given.items()
            with _unfinished(f"{target}: give --{change} {shlex.quote(target)} again"):
                return _change_schedule(backend, change, target, experiment, watching)

    library.check_cron(cron)  # before any request
    package, parameters, options = read_run(given)
    with open_backend(given) as backend, _watching(backend, run_end) as watching:
        check_cluster(backend, package, options, given.pop("no_check"))
        full = library.full_name(package.name, name)
        with _unfinished(f"{full}: if --list has it twice, --resume {shlex.quote(full)} goes on"):
            try:
                created = library.schedule(
                    backend,
                    package,
                    parameters,
                    cron=cron,
                    name=name,
                    enabled=not paused,
                    replace=replace,
                    run_end=watching,
                    options=options,
                )
            except library.RunInProgress as error:
                print_error(PROGRAM, str(error))
                return 1
        _print_schedules([created])
        wanted = backend.access.namespace
        if wanted and created.namespace and created.namespace != wanted:
            print_error(PROGRAM, f"{created.name}: its runs are in {created.namespace}")
    return 0


@click.command()
@package_options
@click.option("--name", default="", help="Its name on the cluster; its own by default.")
@access_options
@cluster_options
def upload(name: str, **given: Any) -> None:
    """Make PIPELINE a named pipeline of a cluster, to start runs in its web interface.

    PIPELINE is compiled with the settings given. Each content becomes one version, named after the
    version of this package and a digest; the same content again changes nothing. Prints pipeline
    and version, and with --ui its address.

    Exit code: 0 the cluster has the version; 2 it could not be uploaded.
    """
    from c3d_pipelines.kubeflow import upload as library

    package = read_package(given)  # before any request
    with open_backend(given) as backend:
        uploaded = library.upload(backend, package, name=name)
    state = "uploaded" if uploaded.is_new else "unchanged"
    line = f"{uploaded.pipeline} {uploaded.version}: {state}"
    click.echo(f"{line}  {uploaded.url}" if uploaded.url else line)


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
    if given.pop("no_cache"):
        click.echo(
            f"{PROGRAM}: --no-cache has no effect: no task uses Kubeflow's cache; the next release "
            "refuses it",
            err=True,
        )
    options = RunOptions(
        experiment=given.pop("experiment"),
        pipeline_root=given.pop("pipeline_root"),
        service_account=given.pop("service_account"),
    )
    package = read_package(given)
    package.arguments(parameters)
    return package, parameters, options


def read_package(given: dict[str, Any]) -> Package:
    """Return the pipeline.

    Args:
        given: the command's options; those of the pipeline are removed.

    Raises:
        UsageError: an option cannot be used.
        RunError: the file is not a pipeline.
    """
    others = (*_ACCESS, "any_version", "no_check")
    return _package(**{name: given.pop(name) for name in list(given) if name not in others})


def check_cluster(backend: Backend, package: Package, options: RunOptions, no_check: bool) -> None:
    """Print what the checks of the cluster find, one line each.

    Raises:
        RunError: the run cannot work.
    """
    from c3d_pipelines.kubeflow.checks import before_sending

    findings = before_sending(backend, package, options, kubernetes=not no_check)
    for finding in findings:
        print_error(PROGRAM, finding.text)
    if any(finding.prevents for finding in findings):
        raise RunError(
            "nothing was sent; if the kubeconfig is of another cluster, --no-check sends without "
            "these checks"
        )


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


def _change_schedule(
    backend: Backend, change: str, name: str, experiment: str, run_end: RunEnd
) -> int:
    """Change the schedules of a name and print them; return the exit code."""
    from c3d_pipelines.kubeflow import schedules as library

    existing = library.find_schedules(backend, name, experiment=experiment)
    code = 0
    try:
        if change == "resume":
            for target in library.resume_schedule(backend, existing, run_end=run_end):
                click.echo(f"{target.name}: enabled")
        for target in existing:
            if change == "pause":
                backend.change_schedule(target.schedule_id, "disable")
                click.echo(f"{target.name}: disabled")
            elif change == "delete":
                library.delete_schedule(backend, target, run_end=run_end)
                click.echo(f"{target.name}: deleted")
    except library.RunInProgress as error:
        print_error(PROGRAM, str(error))
        code = 1
    return code


@contextlib.contextmanager
def _watching(backend: Backend, run_end: RunEnd) -> Iterator[RunEnd]:
    """Have a run that is waited for watched: print why its pods do not start."""
    from c3d_pipelines.kubeflow.diagnosis import Inspector, Watch

    if not run_end.waits:
        yield run_end
        return
    with Inspector(backend) as inspector:
        watch = Watch(inspector, lambda line: print_error(PROGRAM, line))
        yield dataclasses.replace(run_end, on_look=watch.look)


@contextlib.contextmanager
def _unfinished(remedy: str) -> Iterator[None]:
    """Print what to do after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print_error(PROGRAM, f"interrupted; {remedy}")
        sys.exit(exit_code(signal.SIGINT))


def _print_state(run: SentRun) -> None:
    click.echo(f"{PROGRAM}: {run.name} {run.state}", err=True)


def _print_wait(run: SentRun) -> None:
    print_error(PROGRAM, f"waiting for the end of {run.name} ({run.address})")


def _print_schedules(shown: Sequence[Schedule]) -> None:
    ids = {schedule.schedule_id for schedule in shown}
    for schedule in shown:
        state = "" if schedule.enabled else " (paused)"
        if ids & set(schedule.replaces):
            state += f" (replaces another; --resume {shlex.quote(schedule.name)} goes on)"
        line = f"{schedule.name}: {schedule.cron}{state}"
        click.echo(f"{line}  {schedule.url}" if schedule.url else line)
