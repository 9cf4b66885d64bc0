"""Options that several commands share, and the client for their values."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from c3d_client.core.completion import FOLDER_OR_URL, PATH_OR_URL
from c3d_client.core.contract import (
    CLIP_STRIDE,
    DEFAULT_LAYER,
    DEFAULT_TARGET,
    MAX_BATCH_SIZE,
    MODEL_NAME,
)
from c3d_client.core.errors import UsageError
from c3d_client.core.files import read_token

if TYPE_CHECKING:  # decoder and gRPC are loaded when a command runs, not for its help
    from c3d_client.client import C3DClient

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)

_SERVER = (
    click.option(
        "--server",
        default=DEFAULT_TARGET,
        show_default=True,
        envvar="C3D_SERVER",
        show_envvar=True,
        metavar="HOST:PORT|local:DIR",
        help="gRPC address of TensorFlow Serving; dns:///HOST:PORT uses all its pods; local:DIR "
        "serves the model in DIR with c3d-export while the command runs.",
    ),
    click.option("--model", default=MODEL_NAME, show_default=True, help="Name of the model."),
    click.option("--model-version", type=int, help="Version of the model; the newest by default."),
    click.option("--model-label", help="Version of the model by its label, such as stable."),
    click.option(
        "--timeout",
        "timeout_s",
        type=float,
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Timeout of one request.",
    ),
    click.option(
        "--patience",
        "patience_s",
        type=float,
        metavar="SECONDS",
        help="How long to wait for a server that is away or full; 0 for one attempt. By default "
        "300 once the server has answered, 20 before.",
    ),
    # Replaced by --patience; 0 is --patience 0, and other numbers have no effect.
    click.option("--retries", type=click.IntRange(min=0), hidden=True),
    click.option("--tls", is_flag=True, help="Use TLS; --ca, --cert and --key imply it."),
    click.option("--ca", type=_FILE, metavar="PEM", help="CA certificates to trust."),
    click.option("--cert", type=_FILE, metavar="PEM", help="Certificate of this client."),
    click.option("--key", type=_FILE, metavar="PEM", help="Private key of --cert."),
    click.option("--override-name", help="Name in the server's certificate, if not its host name."),
    click.option(
        "--token-file",
        type=_FILE,
        envvar="C3D_TOKEN_FILE",
        show_envvar=True,
        help="File of a bearer token, which is sent over TLS only.",
    ),
)

_REQUESTS = (
    click.option(
        "--batch-size",
        type=int,
        default=8,
        show_default=True,
        help=f"Clips in a request, 1 to {MAX_BATCH_SIZE}; does not change results.",
    ),
    click.option(
        "--max-in-flight",
        type=int,
        default=16,
        show_default=True,
        help="Maximum of concurrent requests; fewer while the server is overloaded.",
    ),
)

_CLIPS = (
    click.option(
        "--stride",
        type=int,
        default=CLIP_STRIDE,
        show_default=True,
        help="Frames from one clip's start to the next.",
    ),
    click.option(
        "--frame-step",
        type=int,
        default=1,
        show_default=True,
        help="Frames from one frame of a clip to its next one.",
    ),
    click.option(
        "--tail",
        type=click.Choice(["drop", "pad", "loop"]),
        default="drop",
        show_default=True,
        help="What to do with frames at the end that fill no clip.",
    ),
    click.option(
        "--short",
        type=click.Choice(["error", "pad", "loop"]),
        default="error",
        show_default=True,
        help="What to do with a video shorter than one clip.",
    ),
    click.option("--fps", type=float, help="Frames per second to use; all frames by default."),
    click.option(
        "--resize",
        type=click.Choice(["exact", "fast"]),
        default="exact",
        show_default=True,
        help="exact: OpenCV's pixels; fast: nearly the same pixels in less time.",
    ),
    click.option(
        "--damage",
        type=click.Choice(["error", "skip"]),
        default="error",
        show_default=True,
        help="What to do with a video that has damaged pictures; skip leaves out their clips.",
    ),
)

# Not among the options of clips: the streams of a data set's videos need not have the same order.
stream_option = click.option(
    "--stream",
    type=click.IntRange(min=0),
    metavar="INDEX",
    help="Video stream, by its index in ffprobe; chosen for each video by default.",
)

pca_option = click.option(
    "--pca",
    type=PATH_OR_URL,
    metavar="NPZ",
    help="Reduce the features with this PCA, which c3d pca fit wrote.",
)

_SOURCES = (
    click.option(
        "--any",
        "any_file",
        is_flag=True,
        help="Take the files of every suffix in folders and patterns.",
    ),
    click.option(
        "--frames",
        is_flag=True,
        help="Take folders of images, each as one video: DIR, DIR/*/img_%05d.jpg.",
    ),
    click.option(
        "--frames-fps",
        type=float,
        metavar="FPS",
        help="Frames per second of --frames; clips have no times without it.",
    ),
    click.option(
        "--root",
        type=FOLDER_OR_URL,
        metavar="DIR",
        help="Outputs are named by the videos' paths below this folder.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Videos at a time; as many as there are cores by default.",
    ),
)


def adding(options: Sequence[Callable[[Any], Any]]) -> Callable[[_Function], _Function]:
    """Return a decorator that adds these options to a command, in their order."""

    def add(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


server_options = adding(_SERVER)
request_options = adding(_REQUESTS)
clip_options = adding(_CLIPS)
source_options = adding(_SOURCES)


@contextlib.contextmanager
def make_client(
    *,
    server: str,
    model: str,
    model_version: int | None,
    model_label: str | None,
    timeout_s: float,
    patience_s: float | None,
    retries: int | None,
    tls: bool,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    override_name: str | None,
    token_file: Path | None,
    batch_size: int = 8,
    max_in_flight: int = 16,
    longest_patience_s: float = math.inf,
    quiet: bool = False,
    layers: Sequence[str] = (DEFAULT_LAYER,),
    pca: str | None = None,
    **window: Any,
) -> Iterator[C3DClient]:
    """Open a client for the values of the options; its waits for the server are printed.

    Args:
        longest_patience_s: the command waits for the server no longer than this, in seconds.
        quiet: print nothing about waits.
        layers: the layers of features.
        pca: path or address of the PCA that reduces features.

    Raises:
        UsageError: a value is out of its range, or a file cannot be read.
        OutputError: the PCA cannot be read.
    """
    from c3d_client.client import C3DClient
    from c3d_client.commands.waits import printed_waits
    from c3d_client.serving.options import ServingOptions
    from c3d_client.video.clips import ClipWindow

    if patience_s is None and retries == 0:
        patience_s = 0.0
    options = ServingOptions(
        target=server,
        model=model,
        version=model_version,
        label=model_label,
        timeout_s=timeout_s,
        patience_s=patience_s,
        tls=tls,
        ca=ca,
        cert=cert,
        key=key,
        override_name=override_name,
        token=None if token_file is None else read_token(token_file),
        batch_size=batch_size,
        max_in_flight=max_in_flight,
    )
    if options.patience(answered=True) > longest_patience_s:
        options = replace(options, patience_s=longest_patience_s)
    c3d = C3DClient(window=ClipWindow(**window), options=options, layers=layers, pca=pca)
    with printed_waits(quiet=quiet), c3d:
        yield c3d


def check_frames(
    frames: bool,
    *,
    frames_fps: float | None,
    any_file: bool,
    fps: float | None,
    stream: int | None,
    **others: Any,
) -> None:
    """Check the options about frames before anything is read.

    Args:
        frames: whether inputs are folders of images.
        frames_fps, any_file, fps, stream: the values of the options with these names.
        others: all other options.

    Raises:
        UsageError: two options exclude each other, or one needs another.
    """
    if not frames:
        if frames_fps is not None:
            raise UsageError("--frames-fps is the rate of --frames; videos have times of their own")
        return
    import cv2

    from c3d_client.video.clips import check_fps

    if frames_fps is not None:
        check_fps(frames_fps, "--frames-fps")
    # The error of an image is one line of this command, without OpenCV's own lines before it.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if any_file:
        raise UsageError("--any takes videos of every suffix, and --frames takes no videos")
    if stream is not None:
        raise UsageError(f"--stream {stream} is for videos; images have no streams")
    if fps is not None and frames_fps is None:
        raise UsageError(f"--fps {fps:g} needs the times of the frames; give --frames-fps too")


def left_out_note(*, frames: int, clips: int) -> str:
    """Return what is left out of a video, for a line after its name; empty for nothing.

    Args:
        frames: pictures before the first one that can be decoded.
        clips: clips that touch damaged pictures.
    """
    parts = []
    if frames:
        parts.append(f"{frames} pictures before the first keyframe")
    if clips:
        parts.append(f"{clips} clips with damaged pictures")
    return f"left out: {', '.join(parts)}" if parts else ""


def print_weights_note(c3d: C3DClient) -> None:
    """Print the model card's note about its weights, if there is one, on standard error."""
    weights = c3d.model_info().card["weights"]
    if weights.get("note"):
        about = f"the served weights, {weights['source']}: {weights['note']}"
        click.echo(f"c3d: note: {about}", err=True)
