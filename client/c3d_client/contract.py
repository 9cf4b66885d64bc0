"""The names of :mod:`c3d_client.core.contract`, at the path that earlier releases documented."""

from __future__ import annotations

from c3d_client.core.contract import *  # noqa: F403
