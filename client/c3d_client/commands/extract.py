"""`c3d extract`: features of many videos into a folder."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from c3d_client.commands.options import (
    check_frames,
    clip_options,
    left_out_note,
    make_client,
    pca_option,
    print_weights_note,
    request_options,
    server_options,
    source_options,
    stream_option,
)
from c3d_client.core.arguments import layer_names
from c3d_client.core.cli import print_error
from c3d_client.core.completion import PATH_OR_URL
from c3d_client.core.contract import DEFAULT_LAYER, LAYERS
from c3d_client.core.errors import C3DError, ProvenanceError
from c3d_client.core.signals import exit_code, handled
from c3d_client.core.text import escape_controls


class _FormatOption(click.Option):
    """Option whose help lists the formats of the registry, which is loaded for that help alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from c3d_client.outputs import FORMATS

        *names, last = FORMATS
        self.help = (
            f"{', '.join(names)} or {last}; by default that of the suffix of --name, or npz."
        )
        return super().get_help_record(ctx)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=PATH_OR_URL)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    metavar="DIR",
    help="Folder for features: DIR/a/b.mp4.npz for a/b.mp4.",
)
@click.option("--format", cls=_FormatOption, metavar="FORMAT")
@click.option(
    "--name",
    metavar="PATTERN",
    help="Names of outputs, such as '{stem}.npy', with the fields {stem}, {suffix}, {name}, "
    "{parent} and {relative}.",
)
@click.option(
    "--layer",
    default=DEFAULT_LAYER,
    show_default=True,
    metavar="NAME[,NAME...]",
    help=f"Layers to write, of {', '.join(LAYERS)}; the first is that of the video's feature.",
)
@click.option(
    "--shard",
    metavar="N/COUNT",
    help="The share of the videos to do, such as 2/16, in one of so many processes.",
)
@click.option("--overwrite", is_flag=True, help="Extract videos again that are done.")
@click.option("--retry-failed", is_flag=True, help="Try damaged videos of earlier runs again.")
@click.option("--quiet", "-q", is_flag=True, help="Print failures only.")
@pca_option
@source_options
@clip_options
@stream_option
@request_options
@server_options
def extract(
    inputs: tuple[str, ...],
    folder: Path,
    format: str | None,
    name: str | None,
    layer: str,
    shard: str | None,
    overwrite: bool,
    retry_failed: bool,
    quiet: bool,
    any_file: bool,
    frames: bool,
    frames_fps: float | None,
    root: str | None,
    workers: int | None,
    **client: Any,
) -> int:
    """Write the features of videos: fc6, or other layers.

    One file for each video: a row for each clip, and their L2-normalised mean. INPUT is a video, a
    folder of videos, a pattern, an s3://, gs:// or https:// address, or - for a list on standard
    input. With --frames it is a folder of images, a folder of such folders, or a pattern. Videos
    that are done already are skipped; if they were made with another model or with other clips,
    nothing is done. Videos that fail are reported with their reasons, as they fail and in
    DIR/failures.csv, or with --shard 2/16 in DIR/failures.2-of-16.csv.

    Exit code: 0 all done, 1 some videos failed, 2 nothing could be done.
    """
    from c3d_client.commands.convert import sultani_note
    from c3d_client.commands.progress import run_progress
    from c3d_client.job import (
        DONE,
        FAILED,
        SKIPPED,
        ExtractJob,
        list_name,
        listed_name,
        require_own_outputs,
        shard_of,
    )
    from c3d_client.outputs import output_format, usable_format
    from c3d_client.outputs.sultani import ORIGINAL_STRIDE
    from c3d_client.shard import Shard
    from c3d_client.video.sources import Scan, expand, new_suffixes_text

    check_frames(frames, frames_fps=frames_fps, any_file=any_file, **client)
    format = output_format(format, name)
    layers = layer_names(part.strip() for part in layer.split(","))
    usable_format(format, layers=layers)
    share = None if shard is None else Shard.parse(shard)
    scan = Scan(any_file=any_file, frames=frames)
    sources = expand(inputs, root=root, scan=scan)
    if name is not None:  # refused before the server is asked for anything
        require_own_outputs(sources, folder, format=format, name=name, layers=layers)
    own_sources = shard_of(sources, share)
    if not own_sources:
        if not quiet:
            print_error("c3d", f"shard {share} has none of the {len(sources)} videos")
        return 0
    known: list[str] = []  # the names of videos that an earlier run took
    new: list[str] = []
    counts = {"done": 0, "skipped": 0, "failed": 0}
    clips = 0
    fatal_error: C3DError | None = None
    with make_client(**client, layers=layers, quiet=quiet) as c3d:
        job = ExtractJob(
            c3d,
            folder,
            format=format,
            name=name,
            shard=share,
            overwrite=overwrite,
            retry_failed=retry_failed,
            frames_fps=frames_fps,
        )
        if not quiet:
            print_weights_note(c3d)
            if format == "sultani" and c3d.window.stride != ORIGINAL_STRIDE:
                print_error("c3d", sultani_note(c3d.window.stride))
        with (
            run_progress(len(own_sources), c3d, quiet=quiet) as progress,
            _stop_on_signal(progress.print) as (stop, signals),
        ):

            def print_note(line: str) -> None:
                if not quiet:
                    progress.print(f"c3d: note: {line}")

            try:
                for row in job.run(sources, workers=workers, stop=stop, note=print_note):
                    counts[row.status] += 1
                    clips += row.clips
                    is_new = row.status == DONE or (row.status == FAILED and row.tried)
                    (new if is_new else known).append(row.source.name)
                    video = escape_controls(listed_name(row.source))
                    if row.status == FAILED:
                        note = "" if row.tried else " (failed before; --retry-failed tries again)"
                        progress.print(f"c3d: {video}: {row.reason}{note}")
                    note = left_out_note(frames=row.frames_left_out, clips=row.clips_left_out)
                    if note and not quiet:
                        progress.print(f"c3d: {video}: {note}")
                    if row.clips_kept and not quiet:
                        kept = f"{row.clips_kept} of {row.clips} clips kept from an earlier run"
                        progress.print(f"c3d: {video}: {kept}")
                    progress.advance(failed=row.status == FAILED)
            except ProvenanceError:  # before any work
                raise
            except C3DError as error:
                fatal_error = error
    left = len(own_sources) - sum(counts.values())
    if fatal_error is not None:
        print_error("c3d", str(fatal_error))
    if not quiet or left:
        click.echo(
            escape_controls(_summary(counts, clips, left, folder / list_name(share))), err=True
        )
    if not quiet:
        # Only where a run of release 0.1.0 is continued, and by its next run no longer.
        if known and not new_suffixes_text(known) and (note := new_suffixes_text(new)):
            print_error("c3d", f"note: {note}")
        if scan.left_out:
            print_error("c3d", str(scan))
    if signals and left:
        print_error("c3d", "interrupted; the same command continues with what is left")
        return exit_code(signals[0])
    if not counts["done"] and not counts[SKIPPED]:
        return 2
    return 1 if counts[FAILED] or left else 0


def _summary(counts: dict[str, int], clips: int, left: int, failures: Path) -> str:
    parts = [f"{counts['done']} videos done, {clips} clips"]
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped, done before")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed, listed in {failures}")
    if left:
        parts.append(f"{left} not started")
    return f"c3d: {'; '.join(parts)}"


@contextlib.contextmanager
def _stop_on_signal(
    print_line: Callable[[str], None],
) -> Iterator[tuple[threading.Event, list[int]]]:
    """On the first Ctrl-C or SIGTERM finish the videos in progress; the second ends the command.

    Yields:
        The event that stops the run, and a list to which the first signal is added.
    """
    stop = threading.Event()
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        stop.set()
        print_line("c3d: finishing the videos in progress; press Ctrl-C again to cancel them")

    with handled(on_signal, signal.SIGINT, signal.SIGTERM, once=True):
        yield stop, signals
