"""`c3d-pipelines compile`: pipelines as YAML for Kubeflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from c3d_client.errors import UsageError

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.kubeflow.cluster import ClusterSettings

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
