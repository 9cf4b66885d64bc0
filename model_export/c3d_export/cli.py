"""The command `c3d-export`: arguments, output and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from c3d_client.core.cli import CommandGroup, error_line, run_command
from c3d_client.core.completion import PATH_OR_URL, completion_command
from c3d_client.core.contract import BATCH_SIZES, GRPC_PORT, MODEL_NAME, SPORTS1M_CLASSES
from c3d_client.core.errors import UsageError
from c3d_client.core.files import clean_up
from c3d_client.core.limits import core_count
from c3d_client.core.signals import exit_code, interrupted_by, signal_event
from c3d_client.core.text import one_line

from c3d_export.errors import (
    AssetError,
    NetworkError,
    TrainedVersionError,
    VerificationError,
)

if TYPE_CHECKING:
    from c3d_client.core.provenance import ModelCard

    from c3d_export.verify import Verification

_NAME = "c3d-export"
_NOTHING_LEFT = "no incomplete file or version is left"
_REDUCED_NOTE = "its build verified one clip for each signature"
_DRAIN_S = 30.0
# Kubernetes kills a container 30 s after its SIGTERM. Removing 320 MB takes less than one.
_INTERRUPT_GRACE_S = 5.0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit.

    A C3DError is printed as one line on standard error, and its `exit_code` is the exit code.
    SIGTERM ends a command as Ctrl-C does, with exit code 143 instead of 130, also in a container
    where it is process 1.
    """
    # Must be set before TensorFlow is loaded, which logs an error on a machine without a GPU.
    # TensorFlow raises real errors as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The same. Without it TensorFlow uses oneDNN only on CPUs with AVX512-VNNI, and is slower on
    # others; docs/servable.md has the measurement.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # By default TensorFlow has as many threads as there are processors, whatever the CPU limit is.
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, str(core_count()))
    with interrupted_by(
        signal.SIGTERM, signal.SIGINT, grace_s=_INTERRUPT_GRACE_S, late=_end_at_once
    ) as signals:
        try:
            run_command(cli, arguments, name=_NAME, interrupted=_NOTHING_LEFT)
        except SystemExit:
            if signals:
                # An interrupt may have cut short the removal of something unfinished.
                clean_up()
                sys.stdout.flush()
                # Not sys.exit: TensorFlow's threads may still compute, and its end waits for them.
                os._exit(exit_code(signals[0]))
            raise


def _end_at_once(number: int) -> NoReturn:
    """End the process where the main thread does not end: in C++ code that runs for minutes."""
    clean_up()
    os.write(2, f"{error_line(_NAME, f'interrupted; {_NOTHING_LEFT}')}\n".encode())
    os._exit(exit_code(number))


def _end_with_input() -> NoReturn:
    """End the process when its standard input ends, also while the main thread runs C++ code."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os._exit(0)


def _checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that weights in a TensorFlow checkpoint need."""
    rows = click.option(
        "--fc6-rows",
        type=click.Choice(("chw", "hwc")),
        default=None,
        help="For a TensorFlow checkpoint: the order of wd1's rows. chw, as in Caffe, in the files "
        "that the port trained; hwc in its files converted from Caffe.",
    )
    channels = click.option(
        "--channels",
        type=click.Choice(("bgr", "rgb")),
        default=None,
        help="For a TensorFlow checkpoint: the channels that it was trained on. The port trains on "
        "rgb; bgr in its files converted from Caffe.",
    )
    return channels(rows(command))


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="c3d-export", prog_name="c3d-export")
def cli() -> None:
    """C3D as a verified SavedModel for TensorFlow Serving, and a local server for it.

    Exit code: 0 done; 2 wrong input or result, a full disk, or a folder that cannot be read or
    written; 75 network errors that a later try may not have; 130 Ctrl-C, 143 SIGTERM.
    """


cli.add_command(completion_command(_NAME))


_over_trained_option = click.option(
    "--over-trained",
    is_flag=True,
    help="Publish demo or random weights also where the model's folder has trained ones, which "
    "is refused otherwise.",
)


@cli.command()
@click.option(
    "--weights",
    "weights_spec",
    required=True,
    type=PATH_OR_URL,
    metavar="FILE|demo|random:SEED",
    help="The network's weights: any published C3D file, the demo's, or seeded ones.",
)
@_checkpoint_options
@click.option(
    "--mean",
    "mean_spec",
    default=None,
    type=PATH_OR_URL,
    metavar="FILE|B,G,R",
    help="Mean cube (.binaryproto, .npy, .npy.bz2) or three numbers; Sports-1M's by default.",
)
@click.option(
    "--labels",
    "labels_path",
    default=None,
    type=PATH_OR_URL,
    metavar="FILE",
    help="Class names, one per line; numbers by default.",
)
@click.option(
    "--precision",
    type=click.Choice(("float32", "bfloat16", "float16")),
    default="float32",
    show_default=True,
    help="Dtype of the stored weights and the arithmetic; input is uint8, output float32.",
)
@click.option(
    "--target",
    type=click.Choice(("cpu", "gpu")),
    default="cpu",
    show_default=True,
    help="What the servers compute on. For gpu, a machine without a GPU verifies one clip for each "
    "signature.",
)
@click.option(
    "--elsewhere",
    is_flag=True,
    help="With --target cpu, build also in a precision that this machine's CPU computes slowly, "
    "which is refused otherwise; one clip for each signature is verified then.",
)
@click.option(
    "--convolution",
    type=click.Choice(("auto", "direct", "winograd")),
    default="auto",
    show_default=True,
    help="Form of the convolutions: winograd is faster on CPUs and needs float32; auto chooses it "
    "there.",
)
@click.option(
    "--batch-sizes",
    default=",".join(map(str, BATCH_SIZES)),
    show_default=True,
    help="Batch sizes of the warm-up requests.",
)
@click.option(
    "--width",
    type=int,
    default=64,
    show_default=True,
    help="conv1's filters, for random:SEED alone; C3D has 64.",
)
@click.option(
    "--out",
    "base",
    type=click.Path(path_type=Path),
    default=Path("models") / MODEL_NAME,
    show_default=True,
    metavar="DIR",
    help="The model's folder; the next number becomes the version.",
)
@click.option(
    "--unless-in",
    "existing",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Build nothing, and exit with 0, if this model's folder has a version with the same "
    "inputs, or if the build needs --over-trained.",
)
@_over_trained_option
def build(
    weights_spec: str,
    channels: str | None,
    fc6_rows: str | None,
    mean_spec: str | None,
    labels_path: str | None,
    precision: str,
    target: str,
    elsewhere: bool,
    convolution: str,
    batch_sizes: str,
    width: int,
    base: Path,
    existing: Path | None,
    over_trained: bool,
) -> None:
    """Build, verify and publish the next version of the servable.

    The first line printed begins with the version's folder and a colon.
    """
    sizes = _numbers(batch_sizes, "--batch-sizes")
    from c3d_export.labels import numbered_labels, read_labels
    from c3d_export.mean import SPORTS1M_SCALARS, UCF101, read_mean
    from c3d_export.weights import read_weights

    weights = read_weights(weights_spec, width=width, channels=channels, fc6_rows=fc6_rows)
    mean = read_mean(mean_spec or SPORTS1M_SCALARS)
    classes = weights.classes or 0
    labels = (
        read_labels(labels_path, classes=classes)
        if labels_path
        else list(weights.labels) or numbered_labels(classes)
    )
    from c3d_export.card import stored_card
    from c3d_export.servable import ServableSpec
    from c3d_export.servable import build as build_servable
    from c3d_export.store import check_not_over_trained, version_made_of
    from c3d_export.verify import REDUCED

    spec = ServableSpec(
        weights=weights,
        mean=mean,
        labels=labels,
        precision=precision,
        batch_sizes=sizes,
        target=target,
        convolution=convolution,
    )
    same = version_made_of(existing, spec.digest) if existing else None
    if same is not None:
        click.echo(f"{same}: has the same inputs ({spec.digest}); nothing to build")
        with contextlib.suppress(VerificationError):  # a damaged version is not this build's error
            if stored_card(same).get("verified") == REDUCED:
                click.echo(f"note: {_REDUCED_NOTE}; c3d-export verify {same} runs all")
        return
    try:
        if weights.random and not over_trained:
            for folder in filter(None, (existing, base)):
                check_not_over_trained(folder, weights.source)
        path, verification = build_servable(
            spec, base, over_trained=over_trained, elsewhere=elsewhere, notify=_notify
        )
    except TrainedVersionError as error:
        if existing is None:
            raise
        # A job that is repeated after its model was replaced by a trained one is not an error.
        click.echo(one_line(str(error)))
        return
    click.echo(
        f"{path}: C3D {weights.source}, {weights.parameters:,} parameters, {precision}, "
        f"{len(labels)} classes, mean {mean.source}"
    )
    _print_verification(verification)
    if target == "cpu":
        _print_faster_precision(verification.card)
    if weights.note:
        click.echo(f"note: {weights.source} is {weights.note}")
    if weights.classes is None:
        click.echo(f"note: {weights.source} has no fc8: features only, and no signature classify")
    if mean.known_as == UCF101 and weights.classes == SPORTS1M_CLASSES:
        click.echo(
            f"warning: {mean.source} is {UCF101}, and the weights have Sports-1M's classes; "
            f"their own mean is sport1m_train16_128_mean.binaryproto"
        )


@cli.command()
@click.argument("version", type=click.Path(path_type=Path), metavar="models/c3d/1")
def verify(version: Path) -> None:
    """Load a version as TensorFlow Serving does, run all of it, compare it with the Keras model.

    In a precision that this machine computes slowly, one clip for each signature is run.
    """
    from c3d_export.graph import weights_note
    from c3d_export.verify import REDUCED
    from c3d_export.verify import verify as verify_servable

    verification = verify_servable(version, notify=_notify)
    click.echo(f"{version}: verified, {weights_note(verification.card)}")
    _print_verification(verification)
    if verification.card.data.get("verified") == REDUCED and not verification.reduced:
        click.echo(f"note: verified in full now; {_REDUCED_NOTE}")


@cli.command()
@click.argument("version", type=click.Path(path_type=Path), metavar="BUILT/1")
@click.option(
    "--to",
    "base",
    type=click.Path(path_type=Path),
    default=Path("models") / MODEL_NAME,
    show_default=True,
    metavar="DIR",
    help="The model's folder; the next number becomes the version.",
)
@_over_trained_option
def publish(version: Path, base: Path, over_trained: bool) -> None:
    """Copy a version that was built elsewhere to a model's folder, whole or not at all.

    Nothing is copied if the folder has a version with the same inputs.
    """
    from c3d_export.store import publish as publish_version

    path, new = publish_version(version, base, over_trained=over_trained)
    click.echo(f"{path}: {'published' if new else 'not copied; it has the same inputs'}")


@cli.command()
@click.argument("base", type=click.Path(path_type=Path), metavar="models/c3d")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=GRPC_PORT,
    show_default=True,
    help="0 for any free one.",
)
@click.option("--host", default="localhost", show_default=True, help="Address to listen at.")
@click.option("--model", default=MODEL_NAME, show_default=True, help="The served model's name.")
@click.option(
    "--until-eof",
    is_flag=True,
    help="End at once when standard input ends: with the program that started the server.",
)
def serve(base: Path, port: int, host: str, model: str, until_eof: bool) -> None:
    """Serve the newest version over TensorFlow Serving's gRPC API, on this machine.

    Given the folder of one version, such as models/c3d/1, it serves that one.

    For trying and testing on one machine; use TensorFlow Serving itself in production. It refuses
    what the server of the Kubernetes bundle refuses, such as more than 32 clips in a request.
    """
    from c3d_export.store import served_version

    if until_eof:
        threading.Thread(target=_end_with_input, name="c3d-input", daemon=True).start()
    served_version(base)  # a wrong path is an error before TensorFlow is loaded
    with signal_event(signal.SIGTERM, signal.SIGINT) as stopping:
        from c3d_export.graph import weights_note
        from c3d_export.local_server import LocalServer

        server = LocalServer(base, port=port, host=host, model=model)
        server.start()
        click.echo(
            f"ready: {model} version {server.version} at {server.target}, "
            f"{weights_note(server.card)}, for this machine only"
        )
        _print_faster_precision(server.card)
        stopping.wait()
        click.echo("draining: no new requests, those running finish")
        server.stop(_DRAIN_S)
        click.echo("stopped")


@cli.command()
@click.argument("source", metavar="IN", type=PATH_OR_URL)
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.npz")
@_checkpoint_options
def convert(source: str, target: Path, channels: str | None, fc6_rows: str | None) -> None:
    """Convert any published weight file, or random:SEED, to the project's own .npz.

    Its keys are conv1/kernel, conv1/bias ... fc8/bias, in Keras's layout, conv1's input BGR.
    """
    from c3d_export.weights import npz, read_weights

    weights = read_weights(source, channels=channels, fc6_rows=fc6_rows)
    npz.write(target, weights)
    click.echo(
        f"{target}: {weights.parameters:,} parameters from {weights.source}, {weights.format}"
    )
    click.echo(f"  sha256 {weights.sha256}")


@cli.command()
@click.argument("source", metavar="FILE", type=PATH_OR_URL)
@_checkpoint_options
def inspect(source: str, channels: str | None, fc6_rows: str | None) -> None:
    """Show a weight file's format, layers, shapes, digests and classes, and what is missing."""
    from c3d_export.weights import read_weights

    weights = read_weights(source, channels=channels, fc6_rows=fc6_rows)
    click.echo(f"{weights.source}: {weights.format}")
    if weights.file_sha256:
        click.echo(f"  file sha256    {weights.file_sha256}")
    click.echo(f"  arrays sha256  {weights.sha256}")
    for key, layer in weights.layers().items():
        click.echo(f"  {key:14} {layer['shape']!s:22} {layer['sha256'][:16]}")
    click.echo(f"  parameters     {weights.parameters:,}")
    given = weights.source_channel_order
    click.echo(f"  channels       BGR{f', from {given} as given' if given else ''}")
    if weights.source_fc6_rows:
        click.echo(f"  fc6 rows       from ({weights.source_fc6_rows}) as given")
    click.echo(f"  classes        {weights.classes or 'none: fc8 is missing, so features only'}")
    if weights.note:
        click.echo(f"  note           {weights.note}")


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    metavar="DIR",
    help="The target folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is not the published one.")
def fetch(names: tuple[str, ...], folder: Path, overwrite: bool) -> None:
    """Download published files by NAME and check them; weights, mean and labels by default.

    For a file that cannot be downloaded, the output says where to get it by hand and where to put
    it.
    """
    from c3d_export.assets import licence_note
    from c3d_export.fetch import ProgressLine, by_hand
    from c3d_export.fetch import fetch as fetch_files

    click.echo(licence_note())
    line, failed = ProgressLine(sys.stderr), []
    for result in fetch_files(names, folder, overwrite=overwrite, progress=line):
        line.clear()
        click.echo(str(result))
        if result.outcome == "failed":
            failed.append(result)
    if failed:
        assets = [result.asset for result in failed]
        click.echo(by_hand(assets, folder))
        missing = ", ".join(asset.name for asset in assets)
        # A later try mends nothing where one of the files cannot be fetched at all.
        kind = NetworkError if all(result.may_pass for result in failed) else AssetError
        raise kind(f"{len(failed)} not fetched: {missing}; see above")


def _print_verification(verification: Verification) -> None:
    for name, difference in verification.differences.items():
        click.echo(f"  {name:16} {difference:.1e} from the Keras model")
    click.echo(f"  warm-up          {verification.warmup_run} requests run")
    if verification.reduced:
        click.echo(
            f"  warm-up          {verification.warmup_left} requests NOT run, one clip for each "
            "signature instead; verify again on a machine like the servers'"
        )


def _print_faster_precision(card: ModelCard) -> None:
    """Print that this CPU computes another precision faster, where that was measured."""
    from c3d_export.cpu import bfloat16_note
    from c3d_export.verify import has_gpu
    from c3d_export.weights.canonical import FULL_WIDTH

    if card.precision != "float32" or card.weights.get("width") != FULL_WIDTH or has_gpu():
        return
    if note := bfloat16_note():
        click.echo(f"note: {note}")


def _notify(line: str) -> None:
    click.echo(line, err=True)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}; give whole numbers like 1,8,32") from error
