"""Errors of the exporter, all under C3DError."""

from __future__ import annotations

import os
from typing import ClassVar

from c3d_client.core.errors import C3DError


class ExportError(C3DError):
    """The servable cannot be built or served."""


class TrainedVersionError(ExportError):
    """Demo or random weights would become the newest version over trained weights."""


class WeightsError(ExportError):
    """The weights cannot be read, or are not C3D's."""


class AssetError(ExportError):
    """A published file cannot be fetched or read, or does not fit the network."""


class NetworkError(AssetError):
    """A download failed for a reason that may be gone at a later try."""

    # sysexits.h: "temporary failure; the user is invited to retry".
    exit_code: ClassVar[int] = os.EX_TEMPFAIL


class VerificationError(ExportError):
    """The servable is damaged, or its answers differ from the network's."""
