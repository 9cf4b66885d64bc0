"""`c3d bench`: speed of this machine and of a server, as tables or JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_client.commands.options import (
    clip_options,
    make_client,
    request_options,
    server_options,
    stream_option,
)
from c3d_client.commands.progress import terminal_columns
from c3d_client.core.completion import PATH_OR_URL

if TYPE_CHECKING:
    from c3d_client.bench import BatchSpeed, DecodeSpeed, ExtractSpeed, MessageSpeed
    from c3d_client.client import C3DClient

_TABLE_ROW = "{:>5} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}"
_HEADER = ("batch", "clips/s", "alone", "p50", "p95", "p99", "in flight", "pushed back")

# Lines that are longer than the terminal continue below the values.
_INDENT = " " * 12


@click.command()
@click.argument("video", required=False, type=PATH_OR_URL)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Duration of each measurement; longer with a slow server.",
)
@click.option("--no-server", is_flag=True, help="Measure this machine alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@clip_options
@stream_option
@request_options
@server_options
def bench(video: str | None, seconds: float, no_server: bool, as_json: bool, **client: Any) -> int:
    """Measure the speed of this machine and of a server.

    Measures decoding and messages on this machine; the server with batches of 1, 8 and 32 clips, as
    far as its model was exported for them; and extract as a whole. VIDEO is a video like those to
    be extracted; without it, one is generated.

    JSON has frames_per_core_s, frames decoded and prepared per second on one core; clips_per_s and
    batch_size, the server's best; cores and film, the video; and the tables decode, messages,
    server and extract. Values that were not measured are null.

    Exit code: 0 all measured; 2 not all, and what was measured is printed.
    """
    from c3d_client.bench import generate_video
    from c3d_client.core.uri import Uri

    results: dict[str, Any] = dict.fromkeys(
        ("frames_per_core_s", "clips_per_s", "batch_size", "cores", "film")
    )
    results |= dict.fromkeys(("decode", "messages", "server", "extract"))
    columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
    output = _Output(columns=columns, silent=as_json)
    with tempfile.TemporaryDirectory(prefix="c3d-bench-") as folder, make_client(**client) as c3d:
        try:
            path = video or str(generate_video(Path(folder)))
            name = str(Uri.of(video)) if video else None
            _measure_machine(results, output, c3d, path, name, seconds=seconds)
            if not no_server:
                _measure_server(results, output, c3d, path, seconds=seconds)
        finally:
            if as_json and results["decode"]:
                click.echo(json.dumps(results, indent=2))
    return 0


class _Output:
    """The measurements as text.

    Args:
        columns: the width of the terminal; None for lines of any length.
        silent: print nothing.
    """

    def __init__(self, *, columns: int | None, silent: bool) -> None:
        self._columns = columns
        self._silent = silent
        self._is_wide = columns is None or columns > len(_TABLE_ROW.format(*_HEADER))

    def text(self, text: str) -> None:
        """Print lines of a name and its values; a line that is too long continues below them."""
        for line in "" if self._silent else text.split("\n"):
            if self._columns is not None and len(line) >= self._columns:
                line = textwrap.fill(
                    line,
                    self._columns - 1,
                    subsequent_indent=_INDENT,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            click.echo(line)

    def header(self) -> None:
        """Print the header of the table of batches, where it fits."""
        if self._is_wide:
            self.text(_TABLE_ROW.format(*_HEADER))

    def batch(self, speed: BatchSpeed) -> None:
        """Print a row of the table of batches, or the same values with their names."""
        times = map(_duration, (speed.alone_s, speed.p50_s, speed.p95_s, speed.p99_s))
        size, clips = speed.batch_size, _number(speed.clips_per_s)
        values = (size, clips, *times, speed.window, speed.push_backs)
        if self._is_wide:
            self.text(_TABLE_ROW.format(*values))
        else:
            named = (f"{name} {value}" for name, value in zip(_HEADER[2:], values[2:], strict=True))
            self.text(f"  batch {size:<4}{clips} clips/s, {', '.join(named)}")


def _measure_machine(
    results: dict[str, Any],
    output: _Output,
    c3d: C3DClient,
    video: str,
    name: str | None,
    *,
    seconds: float,
) -> None:
    from c3d_client.bench import decode_speed, message_speed
    from c3d_client.core.limits import core_count

    decode = decode_speed(video, seconds=seconds, stream=c3d.window.stream)
    results["cores"] = core_count()
    results["film"] = name
    results["frames_per_core_s"] = decode.fast if c3d.window.resize == "fast" else decode.exact
    results["decode"] = asdict(decode)
    output.text(_decode_text(decode, name or "generated", results["cores"]))
    messages = message_speed(seconds=seconds / 3)
    results["messages"] = asdict(messages)
    output.text(_messages_text(messages))


def _measure_server(
    results: dict[str, Any],
    output: _Output,
    c3d: C3DClient,
    video: str,
    *,
    seconds: float,
) -> None:
    from c3d_client.bench import batch_sizes, batch_speed, extract_speed

    options, info = c3d.serving.options, c3d.model_info()
    rows: list[BatchSpeed] = []
    results["server"] = {
        "target": options.target,
        "model": options.model,
        "version": info.version,
        "batches": [],
    }
    output.text(f"\nserver      {options.target}, {options.model} version {info.version}")
    output.header()
    for size in batch_sizes(info):
        rows.append(batch_speed(options, size, seconds=seconds))
        results["server"]["batches"].append(asdict(rows[-1]))
        best = max(rows, key=lambda row: row.clips_per_s)
        results["clips_per_s"], results["batch_size"] = best.clips_per_s, best.batch_size
        output.batch(rows[-1])
    clips_per_s = results["clips_per_s"]
    cores = clips_per_s * c3d.window.stride / results["frames_per_core_s"]
    output.text(f"            decoding for {_number(clips_per_s)} clips/s takes {cores:.2f} cores")
    extract = extract_speed(c3d, video, seconds=seconds)
    results["extract"] = asdict(extract)
    output.text(_extract_text(extract))


def _decode_text(speed: DecodeSpeed, video: str, cores: int) -> str:
    return (
        f"video       {video}, {speed.width}x{speed.height}, {speed.frames} frames of it\n"
        f"decode      {_number(speed.decode)} frames/s on one of {cores} cores\n"
        f"  + exact   {_number(speed.exact)} frames/s, {speed.exact / speed.decode:.0%}\n"
        f"  + fast    {_number(speed.fast)} frames/s, {speed.fast / speed.decode:.0%}"
    )


def _messages_text(speed: MessageSpeed) -> str:
    return (
        f"messages    {speed.gb_per_s:.1f} GB/s for {speed.clips} clips, made at "
        f"{speed.make_gb_per_s:.1f} and read at {speed.parse_gb_per_s:.1f} GB/s"
    )


def _extract_text(speed: ExtractSpeed) -> str:
    parts = {
        "decode": speed.timings.decode_s,
        "wire": speed.timings.wire_s,
        "queue": speed.timings.queue_s,
        "compute": speed.timings.compute_s,
    }
    spent = ", ".join(f"{name} {_duration(s)}" for name, s in parts.items() if s is not None)
    return (
        f"\nextract     {_number(speed.clips_per_s)} clips/s, {_number(speed.frames_per_s)} "
        f"frames/s, {speed.clips} clips in {_duration(speed.wall_s)}\n"
        f"  spent     {spent}; they overlap\n"
        f"  bottleneck: {speed.bottleneck}"
    )


def _number(value: float) -> str:
    """Return a number with three digits: a measurement is not more precise."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
