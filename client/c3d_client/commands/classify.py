"""`c3d classify`: the best classes of videos as text, JSON, CSV, timelines and pages."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_client.commands.options import (
    check_frames,
    clip_options,
    left_out_note,
    make_client,
    print_weights_note,
    request_options,
    server_options,
    source_options,
    stream_option,
)
from c3d_client.commands.progress import run_progress, terminal_columns
from c3d_client.core.cli import error_line, print_error
from c3d_client.core.completion import PATH_OR_URL
from c3d_client.core.errors import UsageError, reason_of
from c3d_client.core.text import escape_controls, shortened_middle

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification
    from c3d_client.video.sources import Source
    from c3d_client.views.thumbnails import Thumbnails

_BAR_WIDTH, _SHORTEST_BAR = 30, 5
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=PATH_OR_URL)
@click.option("--top", "top_k", type=int, default=5, show_default=True, help="Classes to name.")
@click.option("--per-clip", is_flag=True, help="Name the best classes of each clip too.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each video.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV row for each named class.")
@click.option(
    "--timeline",
    type=_PATH,
    metavar="PNG|DIR",
    help="Draw the best classes over time, with frames of the video.",
)
@click.option(
    "--html",
    type=_PATH,
    metavar="HTML|DIR",
    help="Write an HTML page of frames, curves and a table, in one file.",
)
@source_options
@clip_options
@stream_option
@request_options
@server_options
def classify(
    inputs: tuple[str, ...],
    top_k: int,
    per_clip: bool,
    as_json: bool,
    as_csv: bool,
    timeline: Path | None,
    html: Path | None,
    any_file: bool,
    frames: bool,
    frames_fps: float | None,
    root: str | None,
    workers: int | None,
    **client: Any,
) -> int:
    """Name the most probable classes of videos.

    The classes are those of all clips together and, with --per-clip, of each clip. INPUT is as for
    extract, also with --frames. Results are printed in the order of the videos.

    Exit code: 0 all done, 1 some videos failed, 2 nothing could be done.
    """
    from c3d_client.core.uri import Uri
    from c3d_client.parallel import map_parallel, share_cores
    from c3d_client.video.sources import Scan, expand

    if as_json and as_csv:
        raise UsageError("--json and --csv both take standard output; give one of them")
    check_frames(frames, frames_fps=frames_fps, any_file=any_file, **client)
    for option, path in (("--timeline", timeline), ("--html", html)):
        if frames and path is not None and frames_fps is None:
            raise UsageError(f"{option} draws over time; give the frames' rate, --frames-fps")
    scan = Scan(any_file=any_file, frames=frames)
    sources = expand(inputs, root=root, scan=scan)
    views = _Views(timeline, html, top_k=top_k, several_videos=len(sources) > 1)
    print_result = _printer(as_json=as_json, as_csv=as_csv, per_clip=per_clip, top_k=top_k)
    count, threads = share_cores(workers, videos=len(sources))
    failed = 0
    with make_client(**client) as c3d:
        print_weights_note(c3d)

        def classify_video(source: Source, cancel: threading.Event) -> VideoClassification:
            thumbnails = views.thumbnails()
            result = c3d.classify(
                source.uri,
                top_k=top_k,
                frames_fps=frames_fps,
                threads=threads,
                cancel=cancel,
                watch=thumbnails.watch if thumbnails else None,
            )
            if thumbnails:
                views.write(source, result, thumbnails)
            return result

        with run_progress(len(sources), c3d, quiet=len(sources) == 1) as progress:
            for outcome in map_parallel(classify_video, sources, workers=count, in_order=True):
                name = str(Uri.of(outcome.source.uri))
                if outcome.error is not None:
                    failed += 1
                    progress.print(error_line("c3d", f"{name}: {reason_of(outcome.error)}"))
                else:
                    result = outcome.unwrap()
                    with progress.hidden():
                        print_result(name, result)
                    video = result.provenance["video"]
                    note = left_out_note(
                        frames=video.get("frames_left_out", 0),
                        clips=video.get("clips_left_out", 0),
                    )
                    if note:
                        progress.print(error_line("c3d", f"{name}: {note}"))
                progress.advance(failed=outcome.error is not None)
    if failed and len(sources) > 1:
        print_error("c3d", f"{failed} of {len(sources)} videos failed")
    if scan.left_out:
        print_error("c3d", str(scan))
    return 2 if failed == len(sources) else 1 if failed else 0


def bars(classification: VideoClassification, *, columns: int | None = None) -> str:
    """Return the best classes as lines of a bar, a percentage and a label.

    Args:
        classification: of a video.
        columns: the width of the terminal: the bars and then the labels become shorter, so that no
            line wraps; None for lines of any length.
    """
    names = [f"{score.label} ({score.index})" for score in classification.top]
    # Around bar and label are 12 characters: three gaps and the percentage.
    spare = _BAR_WIDTH if columns is None else columns - 13 - max(map(len, names))
    width = min(spare, _BAR_WIDTH) if spare >= _SHORTEST_BAR else 0
    lines = []
    for score, name in zip(classification.top, names, strict=True):
        filled = round(score.probability * width)
        bar = "█" * filled + "░" * (width - filled) + " " * bool(width)
        start = f"  {bar}{score.probability:7.2%}  "
        longest = len(name) if columns is None else columns - 1 - len(start)
        lines.append(start + shortened_middle(name, longest))
    return "\n".join(lines)


def clip_lines(classification: VideoClassification, *, top_k: int) -> str:
    """Return a line for each clip: its times in seconds, then percentages and labels.

    Where times are not known, its first frame.
    """
    from c3d_client.core.files import iter_rows
    from c3d_client.results import top_classes

    lines = []
    for start, (start_s, end_s), row in zip(
        classification.clip_starts,
        classification.clip_times_s,
        iter_rows(classification.clip_probabilities),
        strict=True,
    ):
        scores = top_classes(row, classification.labels, top_k=top_k)
        best = ", ".join(f"{score.probability:.1%} {score.label}" for score in scores)
        times = f"{start_s:8.2f} to {end_s:8.2f} s"
        lines.append(f"  {f'frame {start:8}' if math.isnan(start_s) else times}  {best}")
    return "\n".join(lines)


def _printer(
    *, as_json: bool, as_csv: bool, per_clip: bool, top_k: int
) -> Callable[[str, VideoClassification], None]:
    """Return a function that prints a video's name and classification in the chosen form."""
    from c3d_client.views.tables import write_csv, write_csv_header, write_json

    if as_json:
        return lambda name, result: write_json(sys.stdout, name, result, top_k=top_k)
    if as_csv:
        write_csv_header(sys.stdout)
        return lambda name, result: write_csv(sys.stdout, name, result, top_k=top_k)

    def print_text(name: str, result: VideoClassification) -> None:
        columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
        click.echo(f"{escape_controls(name)}: {len(result.clip_starts)} clips")
        click.echo(bars(result, columns=columns))
        if per_clip:
            click.echo(clip_lines(result, top_k=top_k))

    return print_text


class _Views:
    """The requested timelines and pages.

    Args:
        timeline, html: the file to write, or a folder for files of several videos; None for none.
        top_k: number of classes.
        several_videos: whether there is more than one video.

    Raises:
        UsageError: one file is named for several videos, or matplotlib is not installed.
    """

    def __init__(
        self, timeline: Path | None, html: Path | None, *, top_k: int, several_videos: bool
    ) -> None:
        self._requested = [
            (kind, path, suffix)
            for kind, path, suffix in (("timeline", timeline, ".png"), ("html", html, ".html"))
            if path is not None
        ]
        self._top_k = top_k
        for kind, path, suffix in self._requested:
            if several_videos and path.suffix.lower() == suffix:
                raise UsageError(f"--{kind} {path} is one file for several videos; name a folder")
        if timeline is not None:
            from c3d_client.views.timeline import require_matplotlib

            require_matplotlib()

    def thumbnails(self) -> Thumbnails | None:
        """Return an empty collection of thumbnails for a video; None where there is no view."""
        if not self._requested:
            return None
        from c3d_client.views.thumbnails import Thumbnails

        return Thumbnails()

    def write(self, source: Source, result: VideoClassification, thumbnails: Thumbnails) -> None:
        """Write the views of one video.

        Raises:
            OutputError: a file cannot be written.
        """
        from c3d_client.outputs import prepare_folder, result_path
        from c3d_client.views.page import write_page
        from c3d_client.views.timeline import write_timeline

        for kind, path, suffix in self._requested:
            if path.suffix.lower() != suffix:
                path = result_path(path, source.name, suffix)
            prepare_folder(path.parent)
            write = write_timeline if kind == "timeline" else write_page
            write(
                path,
                result,
                source=source.uri,
                top_k=self._top_k,
                name=source.name,
                strip=thumbnails,
            )
