"""Videos for measurements: real H.264, so long that the time to open them does not matter."""

from __future__ import annotations

from pathlib import Path

import av
from c3d_client.bench import repeat_video
from support.videos import h264_sample


def large(folder: Path, *, times: int = 8) -> Path:
    """Write bigbuckbunny, 1280x720 and 132 frames, this many times."""
    return repeat_video(h264_sample("bigbuckbunny"), folder / f"720p-{times}.mp4", times=times)


def small(folder: Path, *, times: int = 8) -> Path:
    """Write bikes, ten seconds and 250 frames encoded as 320x240, this many times."""
    once = folder / "bikes-320x240.mp4"
    if not once.exists():
        with av.open(str(h264_sample("bikes"))) as container, av.open(str(once), "w") as target:
            video = container.streams.video[0]
            stream = target.add_stream("libx264", rate=video.average_rate)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for frame in container.decode(video):
                target.mux(stream.encode(frame.reformat(320, 240, "yuv420p")))
            target.mux(stream.encode())
    return repeat_video(once, folder / f"320x240-{times}.mp4", times=times)
