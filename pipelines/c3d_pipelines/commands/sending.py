"""What `submit` and `schedule` have in common: who asks where, and what is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from c3d_client.commands.options import adding
from c3d_client.errors import UsageError

from c3d_pipelines.commands.compile import read_cluster

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.sending.backend import Backend
    from c3d_pipelines.sending.package import Package
    from c3d_pipelines.sending.submit import RunOptions

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
    from c3d_pipelines.sending.backend import Backend
    from c3d_pipelines.sending.credentials import find_access

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
    from c3d_pipelines.sending.submit import RunOptions

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
    from c3d_pipelines.sending.package import Package

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
