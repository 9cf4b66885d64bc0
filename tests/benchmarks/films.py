"""Films to measure with: real H.264, as long as it takes for starting up not to count."""

from __future__ import annotations

from pathlib import Path

import av
from c3d_client.bench import repeat
from support.films import h264_sample


def large(folder: Path, *, times: int = 8) -> Path:
    """1280x720, 132 frames at a time: bigbuckbunny."""
    return repeat(h264_sample("bigbuckbunny"), folder / f"720p-{times}.mp4", times=times)


def small(folder: Path, *, times: int = 8) -> Path:
    """320x240, ten seconds and 250 frames at a time: bikes, made small by libx264 as it is."""
    once = folder / "bikes-320x240.mp4"
    if not once.exists():
        with av.open(str(h264_sample("bikes"))) as container, av.open(str(once), "w") as target:
            video = container.streams.video[0]
            stream = target.add_stream("libx264", rate=video.average_rate)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for frame in container.decode(video):
                target.mux(stream.encode(frame.reformat(320, 240, "yuv420p")))
            target.mux(stream.encode())
    return repeat(once, folder / f"320x240-{times}.mp4", times=times)
