"""Videos to frames and clips.

In the order of processing: :mod:`~c3d_client.video.sources` (what a user names to videos),
:mod:`~c3d_client.video.stores` (videos on S3, Google Cloud Storage and web servers),
:mod:`~c3d_client.video.decode` (video to frames) with :mod:`~c3d_client.video.timing` (time stamps
and rotation), :mod:`~c3d_client.video.frame` (frame to crop) with
:mod:`~c3d_client.video.fast_crop`, and :mod:`~c3d_client.video.clips` (frames to clips). Start with
:func:`~c3d_client.video.decode.decode_frames`. Videos that are given as frames, images, bytes or
open files come in at :mod:`~c3d_client.video.frames`, with :mod:`~c3d_client.video.images`.

The decoder is imported on first use, so that listing videos does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_client.video.decode import Frame, decode_frames, decoder_versions

__all__ = ["Frame", "decode_frames", "decoder_versions"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from c3d_client.video import decode

        return getattr(decode, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
