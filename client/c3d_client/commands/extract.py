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
    clip_options,
    make_client,
    request_options,
    say_note,
    server_options,
    source_options,
)
from c3d_client.core.cli import print_error
from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code, handled


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    metavar="DIR",
    help="Where features go: DIR/a/b.mp4.npz for a/b.mp4.",
)
@click.option(
    "--format",
    default="npz",
    show_default=True,
    help="npz, npy, h5, parquet, caffe, activitynet or sultani.",
)
@click.option("--overwrite", is_flag=True, help="Do again what is done.")
@click.option("--retry-failed", is_flag=True, help="Try damaged videos of earlier runs again.")
@click.option("--quiet", "-q", is_flag=True, help="Say only what failed.")
@source_options
@clip_options
@request_options
@server_options
def extract(
    inputs: tuple[str, ...],
    folder: Path,
    format: str,
    overwrite: bool,
    retry_failed: bool,
    quiet: bool,
    root: str | None,
    workers: int | None,
    **client: Any,
) -> int:
    """Write the fc6 features of videos.

    A file a video: one row a clip, and their L2-normalised mean. INPUT is a video, a folder of
    videos, a pattern, an s3://, gs:// or https:// address, or - for a list on standard input. What
    is done already is skipped. Videos that fail are named with their reasons, as they fail and in
    DIR/failures.csv.

    Exit code: 0 all done, 1 some videos failed, 2 nothing could be done.
    """
    from c3d_client.commands.progress import run_progress
    from c3d_client.job import FAILED, SKIPPED, ExtractJob
    from c3d_client.video.sources import expand

    sources = list(expand(inputs, root=root))
    counts = {"done": 0, "skipped": 0, "failed": 0}
    clips = 0
    ended: C3DError | None = None
    with make_client(**client) as c3d:
        job = ExtractJob(c3d, folder, format=format, overwrite=overwrite, retry_failed=retry_failed)
        if not quiet:
            say_note(c3d)
        with (
            run_progress(len(sources), c3d, quiet=quiet) as show,
            _halting_when_told(show.say) as (halt, told),
        ):
            try:
                for row in job.run(sources, workers=workers, halt=halt):
                    counts[row.status] += 1
                    clips += row.clips
                    if row.status == FAILED:
                        again = "" if row.tried else " (failed before; --retry-failed tries again)"
                        show.say(f"c3d: {row.error}{again}")
                    show.advance()
            except C3DError as error:
                ended = error
    left = len(sources) - sum(counts.values())
    if ended is not None:
        print_error("c3d", str(ended))
    if not quiet or left:
        click.echo(_summary(counts, clips, left, folder), err=True)
    if told and left:
        print_error("c3d", "interrupted; the same command goes on with what is left")
        return exit_code(told[0])
    if not counts["done"] and not counts[SKIPPED]:
        return 2
    return 1 if counts[FAILED] or left else 0


def _summary(counts: dict[str, int], clips: int, left: int, folder: Path) -> str:
    from c3d_client.job import FILE_NAME

    parts = [f"{counts['done']} videos done, {clips} clips"]
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped, done before")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed, listed in {folder / FILE_NAME}")
    if left:
        parts.append(f"{left} not begun")
    return f"c3d: {'; '.join(parts)}"


@contextlib.contextmanager
def _halting_when_told(
    say: Callable[[str], None],
) -> Iterator[tuple[threading.Event, list[int]]]:
    """The first Ctrl-C finishes the videos in hand and begins no other; the second ends it all.

    SIGTERM, with which machines and supervisors say that they want to go, is heard likewise.

    Yields:
        The event that halts the work, and the signal that set it, once there was one.
    """
    halt = threading.Event()
    told: list[int] = []

    def on_signal(number: int) -> None:
        told.append(number)
        halt.set()
        say("c3d: finishing the videos in hand; press Ctrl-C again to give them up")

    with handled(on_signal, signal.SIGINT, signal.SIGTERM, once=True):
        yield halt, told
