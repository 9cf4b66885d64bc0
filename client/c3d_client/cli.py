"""The command `c3d`: arguments, printing and exit codes; the work is the library's.

Exit codes: 0 all done; 1 some videos failed; 2 nothing could be done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from c3d_client.command import complain, run_command
from c3d_client.contract import CLIP_STRIDE, DEFAULT_TARGET, MAX_BATCH_SIZE, MODEL_NAME
from c3d_client.errors import OutputError, UsageError, VideoError

if TYPE_CHECKING:  # the decoder and gRPC are loaded only when there is work for them
    from c3d_client.extract import C3DClient, VideoClassification, VideoFeatures

_NAME = "c3d"
_BAR_WIDTH = 30
_Function = TypeVar("_Function", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; an error of ours is one line on standard error and exit code 2."""
    run_command(cli, arguments, name=_NAME, interrupted="files already written are complete")


def _server_options(function: _Function) -> _Function:
    for option in reversed(
        (
            click.option(
                "--server",
                default=DEFAULT_TARGET,
                show_default=True,
                metavar="HOST:PORT",
                help="gRPC address of TensorFlow Serving; dns:///host:port spreads over its pods.",
            ),
            click.option("--model", default=MODEL_NAME, show_default=True, help="Served model."),
            click.option(
                "--model-version", type=int, default=None, help="A version; newest by default."
            ),
            click.option(
                "--timeout",
                "timeout_s",
                type=float,
                default=60.0,
                show_default=True,
                metavar="SECONDS",
                help="Deadline of one request.",
            ),
        )
    ):
        function = option(function)
    return function


def _clip_options(function: _Function) -> _Function:
    for option in reversed(
        (
            click.option(
                "--stride",
                type=int,
                default=CLIP_STRIDE,
                show_default=True,
                help="Frames from one clip's start to the next.",
            ),
            click.option(
                "--batch-size",
                type=int,
                default=8,
                show_default=True,
                help=f"Clips in a request, 1 to {MAX_BATCH_SIZE}.",
            ),
        )
    ):
        function = option(function)
    return function


def _client(
    *,
    server: str,
    model: str,
    model_version: int | None,
    timeout_s: float,
    stride: int = CLIP_STRIDE,
    batch_size: int = 8,
) -> C3DClient:
    from c3d_client.channel import ServingOptions
    from c3d_client.extract import C3DClient

    options = ServingOptions(
        target=server,
        model=model,
        version=model_version,
        timeout_s=timeout_s,
        batch_size=batch_size,
    )
    return C3DClient(stride=stride, options=options)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="c3d-client", prog_name="c3d")
def cli() -> None:
    """Videos to C3D features and Sports-1M labels, asked from a TensorFlow Serving server."""


@cli.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    metavar="DIR",
    help="Where VIDEO's features go, as VIDEO's name with .npz.",
)
@_clip_options
@_server_options
def extract(videos: tuple[str, ...], folder: Path, **connection: Any) -> int:
    """Write the fc6 features of each VIDEO: one row a clip, and the L2-normalised mean."""
    from c3d_client.outputs import prepare_folder, write_npz

    targets = _output_paths(videos, folder)
    with _client(**connection) as c3d:
        prepare_folder(folder)
        _say_note(c3d)

        def one(video: str) -> None:
            features = c3d.extract(video)
            write_npz(targets[video], features)
            click.echo(f"{targets[video]}: {_features_text(features)}")

        return _each(videos, one)


@cli.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option("--top", "top_k", type=int, default=5, show_default=True, help="Classes to name.")
@_clip_options
@_server_options
def classify(videos: tuple[str, ...], top_k: int, **connection: Any) -> int:
    """Name the most probable classes of each VIDEO, over all its clips."""
    with _client(**connection) as c3d:
        _say_note(c3d)

        def one(video: str) -> None:
            answer = c3d.classify(video, top_k=top_k)
            click.echo(f"{video}: {len(answer.clip_starts)} clips")
            click.echo(bars(answer))

        return _each(videos, one)


@cli.command()
@_server_options
def status(**connection: Any) -> int:
    """Show the server's health, the model's versions and its card."""
    with _client(**connection) as c3d:
        click.echo(f"server     {connection['server']}  {c3d.serving.health()}")
        for version in c3d.versions():
            problem = f"  {version.error}" if version.error else ""
            click.echo(f"version    {version.version}  {version.state}{problem}")
        info = c3d.model_info()
        weights = info.card["weights"]
        click.echo(f"model      {connection['model']} version {info.version}")
        click.echo(f"signatures {', '.join(info.signatures)}")
        click.echo(f"contract   {info.card['contract_version']}")
        click.echo(f"precision  {info.card['precision']}")
        click.echo(f"weights    {weights['source']}  sha256 {weights['sha256']}")
        click.echo(
            f"mean       {info.card['mean']['source']}  sha256 {info.card['mean']['sha256']}"
        )
        click.echo(f"labels     {len(info.labels)}")
        _say_note(c3d)
    return 0


def bars(answer: VideoClassification) -> str:
    """The best classes as lines of a bar, a percentage and a label."""
    lines = []
    for score in answer.top:
        filled = round(score.probability * _BAR_WIDTH)
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        lines.append(f"  {bar} {score.probability:7.2%}  {score.label} ({score.index})")
    return "\n".join(lines)


def _features_text(features: VideoFeatures) -> str:
    clips, size = features.clip_features.shape
    return f"{clips} clips x {size}, video feature [{len(features.video_feature)}]"


def _say_note(c3d: C3DClient) -> None:
    """Say what the model card says that people must know of its weights."""
    weights = c3d.model_info().card["weights"]
    if weights.get("note"):
        about = f"the served weights, {weights['source']}: {weights['note']}"
        click.echo(f"c3d: note: {about}", err=True)


def _output_paths(videos: Sequence[str], folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for video in videos:
        path = folder / f"{Path(video).stem}.npz"
        if path in taken and taken[path] != video:
            raise UsageError(
                f"{taken[path]} and {video} would both be written to {path}; "
                "extract them into different folders"
            )
        taken[path] = video
        paths[video] = path
    return paths


def _each(videos: Sequence[str], one: Callable[[str], None]) -> int:
    """Do every video; what is wrong with one does not stop the others."""
    failed = 0
    for video in dict.fromkeys(videos):
        try:
            one(video)
        except (VideoError, OutputError) as error:
            failed += 1
            complain(_NAME, str(error))
    total = len(dict.fromkeys(videos))
    if failed and total > 1:
        complain(_NAME, f"{failed} of {total} videos failed")
    return 2 if failed == total else 1 if failed else 0
