"""The names of :mod:`c3d_client.video.sources`, at the path that earlier releases documented."""

from __future__ import annotations

from c3d_client.core.uri import redact as display
from c3d_client.video.sources import VIDEO_SUFFIXES, Source, expand, fingerprint, open_source

__all__ = ["VIDEO_SUFFIXES", "Source", "display", "expand", "fingerprint", "open_source"]
