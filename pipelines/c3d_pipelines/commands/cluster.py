"""`c3d-pipelines compile`: pipelines as YAML for Kubeflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from c3d_client.core.errors import UsageError

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.kubeflow.cluster import ClusterSettings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from c3d_client.commands.options import adding

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.kubeflow.api import Backend
    from c3d_pipelines.kubeflow.submit import Package, RunOptions
import signal
from typing import TYPE_CHECKING

from c3d_client.core.cli import print_error
from c3d_client.core.signals import exit_code

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.kubeflow.submit import SentRun
from typing import TYPE_CHECKING

from c3d_pipelines.errors import RunError

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.kubeflow.api import Backend
    from c3d_pipelines.kubeflow.submit import Schedule

_OPTIONS = (
    click.option(
        "--settings",
        "settings_path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="YAML",
        help="How the pods stand in the cluster; what it does not name has its default.",
    ),
    click.option("--image", help="Of the bulk pipelines' steps; NAME@sha256:... stays the same."),
    click.option("--export-image", help="Of the steps of c3d-export-and-verify."),
    click.option(
        "--image-pull-policy",
        type=click.Choice(["Always", "IfNotPresent", "Never"]),
        help="IfNotPresent by default.",
    ),
    click.option(
        "--image-pull-secret",
        "image_pull_secrets",
        multiple=True,
        metavar="SECRET",
        help="To pull images.",
    ),
    click.option("--cpu-request", metavar="CORES", help="Of a worker."),
    click.option("--cpu-limit", metavar="CORES", help="The most it may use."),
    click.option("--memory-request", metavar="BYTES", help="Of a worker, such as 2Gi."),
    click.option("--memory-limit", metavar="BYTES", help="The most it may use."),
    click.option("--accelerator", metavar="RESOURCE", help="For building models: nvidia.com/gpu."),
    click.option("--node-selector", multiple=True, metavar="LABEL=VALUE", help="Of nodes to use."),
    click.option(
        "--toleration",
        "tolerations",
        multiple=True,
        metavar="KEY[=VALUE][:EFFECT]",
        help="As kubectl taint writes a taint.",
    ),
    click.option(
        "--pvc",
        "pvc_mounts",
        multiple=True,
        metavar="CLAIM=PATH",
        help="Instead of the default one.",
    ),
    click.option(
        "--secret-env",
        multiple=True,
        metavar="SECRET.KEY=VARIABLE",
        help="A variable from a Secret, where there is one.",
    ),
    click.option(
        "--secret-volume",
        "secret_volumes",
        multiple=True,
        metavar="SECRET=PATH",
        help="Certificates and tokens as files.",
    ),
    click.option(
        "--env", multiple=True, metavar="VARIABLE=VALUE", help="No secrets: all may read it."
    ),
    click.option("--queue", metavar="NAME", help="Kueue's LocalQueue."),
    click.option("--scratch-size", metavar="BYTES", help="What a pod may write to /tmp."),
    click.option("--scratch-class", metavar="NAME", help="A StorageClass for /tmp."),
    click.option("--pod-timeout", "timeout_s", type=int, metavar="SECONDS", help="0 for any time."),
    click.option(
        "--run-timeout",
        "active_deadline_seconds",
        type=int,
        metavar="SECONDS",
        help="0 for any time.",
    ),
    click.option(
        "--keep",
        "ttl_seconds_after_finished",
        type=int,
        metavar="SECONDS",
        help="How long Kubernetes keeps a run's objects.",
    ),
    click.option("--parallelism", type=int, metavar="N", help="Shards at a time."),
    click.option("--retries", type=int, metavar="N", help="Of a shard that failed."),
)


def cluster_options(command: Any) -> Any:
    """Options that say how pods stand in the cluster; :func:`read_cluster` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_cluster(settings_path: Path | None, **options: Any) -> ClusterSettings:
    """The settings of a file, and those of the options before them.

    Raises:
        UsageError: a value cannot be right.
    """
    from c3d_pipelines.kubeflow.cluster import ClusterSettings

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


@click.command("compile")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="NAME.yaml in this folder, by default.",
)
@click.option("--diagram", is_flag=True, help="Print the tasks as Mermaid text; write no file.")
@cluster_options
def compile_command(
    names: tuple[str, ...],
    out: Path | None,
    diagram: bool,
    settings_path: Path | None,
    **cluster: Any,
) -> None:
    """Write pipelines as YAML for Kubeflow; all of them by default.

    The pipelines: c3d-bulk-extraction, c3d-bulk-classification, c3d-export-and-verify.
    """
    import tempfile

    from c3d_pipelines.kubeflow.compile import PIPELINES, compile_pipeline
    from c3d_pipelines.kubeflow.diagram import to_mermaid

    settings = read_cluster(settings_path, **cluster)
    wanted = names or PIPELINES
    if diagram:
        with tempfile.TemporaryDirectory() as folder:
            for name in wanted:
                path = Path(folder) / "pipeline.yaml"
                compile_pipeline(name, path, settings)
                click.echo(to_mermaid(path), nl=False)
        return
    is_file = out is not None and out.suffix in (".yaml", ".yml") and not out.is_dir()
    if is_file and len(wanted) != 1:
        raise UsageError(f"{out}: is one file for {len(wanted)} pipelines; give a folder or a NAME")
    for name in wanted:
        if out is None or is_file:
            path = out or Path(f"{name}.yaml")
        else:
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{name}.yaml"
        compile_pipeline(name, path, settings)
        click.echo(f"{path}: {name}, image {_image(name, settings)}")


def _image(name: str, settings: ClusterSettings) -> str:
    from c3d_pipelines.kubeflow.compile import EXPORT

    return settings.export_image if name == EXPORT else settings.image


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--{option.replace('_', '-')} is {text!r}; give NAME=VALUE")
    return name, value


def _secret_env(texts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        place, variable = _pair("secret_env", text)
        secret, dot, key = place.rpartition(".")
        if not dot:
            raise UsageError(f"--secret-env is {text!r}; give SECRET.KEY=VARIABLE")
        found.setdefault(secret, {})[key] = variable
    return found


def _toleration(text: str) -> dict[str, str]:
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    made = {"key": key, "operator": "Equal" if equals else "Exists"}
    if equals:
        made["value"] = value
    return {**made, "effect": effect} if colon else made


_Function = TypeVar("_Function", bound=Callable[..., Any])

_ACCESS = (
    click.option(
        "--host",
        envvar="KF_PIPELINES_ENDPOINT",
        show_envvar=True,
        metavar="URL",
        help="Kubeflow Pipelines: what stands before /#/ in the browser.",
    ),
    click.option("--namespace", metavar="NAME", help="Of your profile, where there are several."),
    click.option(
        "--token-file",
        metavar="FILE",
        help="A bearer token; or in the variable KF_PIPELINES_TOKEN.",
    ),
    click.option(
        "--pod-token",
        is_flag=True,
        help="The token that Kubeflow mounts into a notebook's pod.",
    ),
    click.option("--ca", metavar="PEM", help="CAs to trust instead of the usual ones."),
    click.option("--any-version", is_flag=True, help="Try an older Kubeflow Pipelines too."),
)
_WHAT = (
    click.argument("pipeline", default="c3d-bulk-extraction"),
    click.option(
        "--package",
        "package_path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="YAML",
        help="What compile wrote, instead of PIPELINE and the settings below.",
    ),
    click.option("--videos", metavar="PLACE", help="As the pods see it: s3://, gs://, or a path."),
    click.option("--out", metavar="PLACE", help="The dataset, as the pods see it."),
    click.option("--server", metavar="HOST:PORT", help="gRPC address, as the pods see it."),
    click.option(
        "--model-digest",
        metavar="DIGEST",
        help="Refuse another model; ask to take the one that --server serves now.",
    ),
    click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any parameter of the pipeline; can be given again.",
    ),
    click.option("--experiment", default="c3d", show_default=True, help="Groups runs."),
    click.option("--pipeline-root", metavar="URL", help="Where artifacts go."),
    click.option("--service-account", metavar="NAME", help="Of the pods."),
    click.option("--no-cache", is_flag=True, help="Have all tasks work."),
)


access_options = adding(_ACCESS)
what_options = adding(_WHAT)


def open_backend(given: dict[str, Any]) -> Backend:
    """The cluster's API, seen to be there; close it. Takes its options out of those given.

    Raises:
        UsageError: it is not named.
        RunError: it is not what it should be.
    """
    from c3d_pipelines.kubeflow.api import Backend, find_access

    any_version = given.pop("any_version")
    names = ("host", "namespace", "token_file", "pod_token", "ca")
    backend = Backend(find_access(**{name: given.pop(name) for name in names}))
    try:
        backend.check(any_version=any_version)
    except BaseException:
        backend.close()
        raise
    return backend


def read_what(given: dict[str, Any]) -> tuple[Package, dict[str, str], RunOptions]:
    """The pipeline, what it is given, and how it is started; takes these options out.

    Raises:
        UsageError: an option cannot be right.
        RunError: the file is no pipeline, or the parameters do not fit it.
    """
    from c3d_pipelines.kubeflow.submit import RunOptions

    named = {name: given.pop(name) for name in ("videos", "out", "server", "model_digest")}
    parameters = read_parameters(given.pop("params"), **named)
    options = RunOptions(
        experiment=given.pop("experiment"),
        pipeline_root=given.pop("pipeline_root"),
        service_account=given.pop("service_account"),
        cached=not given.pop("no_cache"),
    )
    access = ("host", "namespace", "token_file", "pod_token", "ca", "any_version")
    cluster = {name: given.pop(name) for name in list(given) if name not in access}
    package = _read_package(**cluster)
    package.arguments(parameters)
    return package, parameters, options


def read_parameters(params: tuple[str, ...], **named: str | None) -> dict[str, str]:
    """What the pipeline is given, by name.

    Raises:
        UsageError: one is not NAME=VALUE, or given twice.
    """
    found = {name: value for name, value in named.items() if value is not None}
    for text in params:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--param is {text!r}; give NAME=VALUE")
        if name in found:
            raise UsageError(f"{name} is given twice")
        found[name] = value
    return found


def _read_package(
    pipeline: str, package_path: Path | None, settings_path: Path | None, **cluster: Any
) -> Package:
    import tempfile

    from c3d_pipelines.kubeflow.compile import compile_pipeline
    from c3d_pipelines.kubeflow.submit import Package

    if package_path is not None:
        given = [name for name, value in cluster.items() if value not in (None, ())]
        if settings_path is not None or given:
            said = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--settings"
            raise UsageError(f"--package and {said}: {package_path} was compiled with its own")
        return Package(package_path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        compile_pipeline(pipeline, path, read_cluster(settings_path, **cluster))
        return Package(path)


_NAME = "c3d-pipelines"


@click.command()
@what_options
@click.option("--name", default="", help="The run's; the pipeline's with the time by default.")
@click.option("--wait", "waits", is_flag=True, help="Until it ends: 0 well, 1 failed.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to ask.",
)
@access_options
@cluster_options
def submit(name: str, waits: bool, every_s: float, **given: Any) -> int:
    """Start a run of PIPELINE on a cluster.

    PIPELINE is c3d-bulk-extraction, c3d-bulk-classification or c3d-export-and-verify; it is
    compiled with the settings given. Prints the run's address.

    Exit code: 0 sent, or with --wait ended well; 1 the run failed; 2 it could not be sent.
    """
    from c3d_pipelines.kubeflow import submit as library

    package, parameters, options = read_what(given)  # before anyone is asked
    with open_backend(given) as backend:
        sent = library.submit(backend, package, parameters, name=name, options=options)
        click.echo(sent.url)
        if not waits:
            return 0
        try:
            ended = library.wait(backend, sent, every_s=every_s, on_state=_say)
        except KeyboardInterrupt:
            print_error(_NAME, f"interrupted; the run goes on: {sent.url}")
            return exit_code(signal.SIGINT)
    if not ended.succeeded:
        why = f": {ended.message}" if ended.message else ""
        print_error(_NAME, f"{ended.name} ended as {ended.state}{why}; {ended.url}")
    return 0 if ended.succeeded else 1


def _say(run: SentRun) -> None:
    click.echo(f"{_NAME}: {run.name} {run.state}", err=True)


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
    from c3d_pipelines.kubeflow import submit as library
    from c3d_pipelines.kubeflow.submit import check_cron

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
                    _say_schedule(one)
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
    _say_schedule(made)


def _change(backend: Backend, what: str, name: str, experiment: str) -> None:
    from c3d_pipelines.kubeflow import submit as library

    found = library.schedules(backend, name, experiment=experiment)
    if not found:
        raise RunError(f"{backend.access.host}: has no schedule {name!r} in {experiment!r}")
    for one in found:
        backend.change_schedule(one.schedule_id, what)
        click.echo(f"{one.name}: {what}d")


def _say_schedule(one: Schedule) -> None:
    paused = "" if one.enabled else " (paused)"
    click.echo(f"{one.name}: {one.cron}{paused}  {one.url}")
