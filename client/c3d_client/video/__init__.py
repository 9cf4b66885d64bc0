"""Videos to frames and clips: sources, decoding, resizing, cropping, cutting.

The decoder is loaded on first use, so that listing videos does not need it.
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
