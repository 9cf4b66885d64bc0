"""`c3d bench`: what to expect of this machine and of a server, in tables or as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_client.commands.options import (
    clip_options,
    make_client,
    request_options,
    server_options,
)

if TYPE_CHECKING:
    from c3d_client.bench import BatchSpeed, DecodeSpeed, ExtractSpeed, MessageSpeed
    from c3d_client.client import C3DClient

_BATCHES = "{:>6} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}"


@click.command()
@click.argument("video", required=False)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="For each measure; a slow server takes longer.",
)
@click.option("--no-server", is_flag=True, help="Measure this machine alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@clip_options
@request_options
@server_options
def bench(video: str | None, seconds: float, no_server: bool, as_json: bool, **client: Any) -> int:
    """Measure what to expect of this machine and of a server.

    Decoding and messages on this machine; the server with batches of 1, 8 and 32 clips, as far as
    it was made for them; and extract as a whole. VIDEO is a film like those to be extracted; one
    is made without it.

    JSON has frames_per_core_s, frames decoded and prepared in a second of one core; clips_per_s
    and batch_size, the server's best; cores and film; and the tables: decode, messages, server,
    extract. What was not measured is null.

    Exit code: 0 all measured; 2 not all, and what was measured is printed.
    """
    found: dict[str, Any] = dict.fromkeys(
        ("frames_per_core_s", "clips_per_s", "batch_size", "cores", "film")
    )
    found |= dict.fromkeys(("decode", "messages", "server", "extract"))
    say: Callable[[str], None] = (lambda line: None) if as_json else click.echo
    with tempfile.TemporaryDirectory(prefix="c3d-bench-") as folder, make_client(**client) as c3d:
        try:
            film = _measure_here(found, say, c3d, video, Path(folder), seconds=seconds)
            if not no_server:
                _measure_server(found, say, c3d, film, seconds=seconds)
        finally:
            if as_json and found["decode"]:
                click.echo(json.dumps(found, indent=2))
    return 0


def _measure_here(
    found: dict[str, Any],
    say: Callable[[str], None],
    c3d: C3DClient,
    video: str | None,
    folder: Path,
    *,
    seconds: float,
) -> str:
    from c3d_client.bench import decode_speed, message_speed, write_film
    from c3d_client.core.uri import redact
    from c3d_client.parallel import core_count

    film = video or str(write_film(folder))
    decode = decode_speed(film, seconds=seconds)
    found["cores"] = core_count()
    found["film"] = redact(video) if video else None
    found["frames_per_core_s"] = decode.fast if c3d.window.resize == "fast" else decode.exact
    found["decode"] = asdict(decode)
    say(_decode_text(decode, found["film"] or "made for this", found["cores"]))
    messages = message_speed(seconds=seconds / 3)
    found["messages"] = asdict(messages)
    say(_messages_text(messages))
    return film


def _measure_server(
    found: dict[str, Any],
    say: Callable[[str], None],
    c3d: C3DClient,
    film: str,
    *,
    seconds: float,
) -> None:
    from c3d_client.bench import batch_sizes, batch_speed, extract_speed

    options, info = c3d.serving.options, c3d.model_info()
    rows: list[BatchSpeed] = []
    found["server"] = {
        "target": options.target,
        "model": options.model,
        "version": info.version,
        "batches": [],
    }
    say(f"\nserver      {options.target}, {options.model} version {info.version}")
    say(
        _BATCHES.format(
            "batch", "clips/s", "alone", "p50", "p95", "p99", "in flight", "pushed back"
        )
    )
    for size in batch_sizes(info):
        rows.append(batch_speed(options, size, seconds=seconds))
        found["server"]["batches"].append(asdict(rows[-1]))
        best = max(rows, key=lambda row: row.clips_per_s)
        found["clips_per_s"], found["batch_size"] = best.clips_per_s, best.batch_size
        say(_batch_text(rows[-1]))
    cores = found["clips_per_s"] * c3d.window.stride / found["frames_per_core_s"]
    say(f"            decoding for {_number(found['clips_per_s'])} clips/s takes {cores:.2f} cores")
    extract = extract_speed(c3d, film, seconds=seconds)
    found["extract"] = asdict(extract)
    say(_extract_text(extract))


def _decode_text(speed: DecodeSpeed, film: str, cores: int) -> str:
    return (
        f"film        {film}, {speed.width}x{speed.height}, {speed.frames} frames of it\n"
        f"decode      {_number(speed.decode)} frames/s on one of {cores} cores\n"
        f"  + exact   {_number(speed.exact)} frames/s, {speed.exact / speed.decode:.0%}\n"
        f"  + fast    {_number(speed.fast)} frames/s, {speed.fast / speed.decode:.0%}"
    )


def _messages_text(speed: MessageSpeed) -> str:
    return (
        f"messages    {speed.gb_per_s:.1f} GB/s for {speed.clips} clips, made at "
        f"{speed.make_gb_per_s:.1f} and read at {speed.parse_gb_per_s:.1f} GB/s"
    )


def _batch_text(speed: BatchSpeed) -> str:
    times = (speed.alone_s, speed.p50_s, speed.p95_s, speed.p99_s)
    return _BATCHES.format(
        speed.batch_size,
        _number(speed.clips_per_s),
        *map(_time, times),
        speed.window,
        speed.push_backs,
    )


def _extract_text(speed: ExtractSpeed) -> str:
    parts = {
        "decode": speed.timings.decode_s,
        "wire": speed.timings.wire_s,
        "queue": speed.timings.queue_s,
        "compute": speed.timings.compute_s,
    }
    spent = ", ".join(f"{name} {_time(s)}" for name, s in parts.items() if s is not None)
    return (
        f"\nextract     {_number(speed.clips_per_s)} clips/s, {_number(speed.frames_per_s)} "
        f"frames/s, {speed.clips} clips in {_time(speed.wall_s)}\n"
        f"  spent     {spent}; they overlap\n"
        f"  bottleneck: {speed.bottleneck}"
    )


def _number(value: float) -> str:
    """Three digits are as much as a measure tells."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
