"""Errors of the exporter, all under C3DError."""

from __future__ import annotations

from c3d_client.core.errors import C3DError


class ExportError(C3DError):
    """The servable cannot be built or served."""


class WeightsError(ExportError):
    """The weights cannot be read, or are not C3D's."""


class AssetError(ExportError):
    """A published file cannot be fetched or read, or does not fit the network."""


class VerificationError(ExportError):
    """The servable is damaged, or its answers differ from the network's."""
