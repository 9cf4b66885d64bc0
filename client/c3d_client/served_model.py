"""The model behind a client: asked about once, and remembered until another one answers."""

from __future__ import annotations

import threading
from typing import Any

from c3d_client.clips import ClipWindow
from c3d_client.contract import Signature
from c3d_client.errors import ContractMismatch, ServingError, UsageError
from c3d_client.model_info import ModelInfo
from c3d_client.provenance import differences, made_by
from c3d_client.serving import ServingClient


class ServedModel:
    """What a server serves. Threads may share it.

    Args:
        serving: the connection.
        window: how clips are made, for provenance.
    """

    def __init__(self, serving: ServingClient, window: ClipWindow) -> None:
        self._serving = serving
        self._window = window
        self._info: ModelInfo | None = None
        self._lock = threading.Lock()

    @property
    def target(self) -> str:
        """The server's address."""
        return self._serving.options.target

    def info(self, signature: Signature | None = None) -> ModelInfo:
        """The model, held against the contract on first use and remembered.

        Args:
            signature: one that it must have.

        Raises:
            UsageError: it does not have the signature.
            ContractMismatch: it is not the C3D servable that this client speaks to.
            ServingError: the server cannot be asked.
        """
        with self._lock:
            if self._info is None:
                self._info = self._serving.model_info()
            info = self._info
        if signature is not None and signature.name not in info.signatures:
            raise UsageError(
                f"the model at {self.target} has no signature {signature.name!r}: "
                "its weights give features only; use extract"
            )
        return info

    def forget(self, info: ModelInfo) -> None:
        """Ask anew at the next use, unless somebody did so since."""
        with self._lock:
            if self._info is info:
                self._info = None

    def made_by(self, info: ModelInfo) -> dict[str, Any]:
        """What a result of this model says of how it was made, all but the video."""
        return made_by(self._serving.options.model, info, self._window)

    def require_unchanged(self, expected: dict[str, Any], provenance: dict[str, Any]) -> None:
        """See that a result belongs to the run that it was made in.

        Raises:
            ContractMismatch: the model became another one since the run began.
        """
        changed = differences(expected, provenance)
        if changed:
            raise ContractMismatch(
                self.target,
                f"the model became another one during the run ({'; '.join(changed)}); "
                "start a run of its own for the new model",
            )

    def unusable(self, name: str, error: ValueError) -> ServingError:
        """The error for an answer that is no feature and no probability."""
        return ServingError(
            self.target,
            f"the model's answer for {name} cannot be used: {error}; "
            "check the servable with c3d-export verify",
        )
