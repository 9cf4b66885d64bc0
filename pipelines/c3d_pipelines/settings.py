"""All that one bulk run was asked to do, checked once and carried whole to every worker."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from c3d_client import C3DClient, ClipWindow, ServingOptions
from c3d_client.core.contract import DEFAULT_TARGET, MODEL_NAME
from c3d_client.core.errors import UsageError

from c3d_pipelines.records import values_of

ANSWERS = ("features", "classes")
NEWEST = "newest"
# What the workers find in their environment, from a Kubernetes Secret as a rule. Kubeflow prints
# every parameter, so secrets never are parameters.
ENVIRONMENT = ("C3D_TLS", "C3D_CA", "C3D_CERT", "C3D_KEY", "C3D_OVERRIDE_NAME", "C3D_TOKEN_FILE")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class JobSettings:
    """What one bulk run was asked to do.

    Args:
        out: the dataset's folder or bucket.
        run: this run's name in it.
        answer: ``features`` (fc6) or ``classes`` (probabilities).
        server: the gRPC address.
        model: the served model's name.
        model_version: ``newest``, a number, or ``label:NAME``.
        window: how clips are made of a film.
        clip_rows: keep each clip's answer, not only the video's.
        workers: videos at a time in one shard; 0 for as many as there are cores.
        batch_size: clips in a request.
        max_in_flight: the most requests on their way from one worker.
        timeout_s: the deadline of one request, in seconds.
        patience_s: how long a worker waits for a server or a store that went away, in seconds.
        provenance: what makes the numbers, as the server said before the run began; empty until
            then. Other numbers are refused.

    Raises:
        UsageError: a value is out of its range.
    """

    out: str
    run: str
    answer: str = "features"
    server: str = DEFAULT_TARGET
    model: str = MODEL_NAME
    model_version: str = NEWEST
    window: ClipWindow = field(default_factory=ClipWindow)
    clip_rows: bool = True
    workers: int = 0
    batch_size: int = 8
    max_in_flight: int = 16
    timeout_s: float = 60.0
    patience_s: float = 600.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.out.strip():
            raise UsageError("out is empty; give the dataset's folder or bucket")
        if not _RUN_NAME.fullmatch(self.run):
            raise UsageError(f"run is {self.run!r}; give letters, digits, '.', '_' and '-'")
        if self.answer not in ANSWERS:
            raise UsageError(f"answer is {self.answer!r}; give one of {', '.join(ANSWERS)}")
        if self.workers < 0:
            raise UsageError(f"workers is {self.workers}; give 1 or more, or 0 for one a core")
        if not 0 <= self.patience_s <= 86_400:
            raise UsageError(f"patience_s is {self.patience_s}; give 0 to 86400 seconds")
        self.serving()

    def serving(self) -> ServingOptions:
        """How to reach the server: these settings, and certificates and token of the environment.

        Raises:
            UsageError: they do not go together, or the token's file cannot be read.
        """
        version, label = _version(self.model_version)
        given = {name: os.environ.get(name) or None for name in ENVIRONMENT}
        return ServingOptions(
            target=self.server,
            model=self.model,
            version=version,
            label=label,
            timeout_s=self.timeout_s,
            batch_size=self.batch_size,
            max_in_flight=self.max_in_flight,
            tls=given["C3D_TLS"] in ("1", "true", "yes"),
            ca=given["C3D_CA"],
            cert=given["C3D_CERT"],
            key=given["C3D_KEY"],
            override_name=given["C3D_OVERRIDE_NAME"],
            token=_token(given["C3D_TOKEN_FILE"]),
        )

    def client(self) -> C3DClient:
        """A client that works as these settings say; close it."""
        return C3DClient(window=self.window, options=self.serving())

    def to_json(self) -> str:
        """As text, for :meth:`from_json`; nothing secret is in it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobSettings:
        """Read them back.

        Raises:
            UsageError: it is not what :meth:`to_json` wrote, or a value is out of its range.
        """
        try:
            values = values_of(text, cls)
            return cls(**{**values, "window": ClipWindow(**values["window"])})
        except (ValueError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"the run's settings cannot be read ({error})") from error


def _version(text: str) -> tuple[int | None, str | None]:
    if text == NEWEST:
        return None, None
    if text.startswith("label:"):
        return None, text.removeprefix("label:")
    if text.isdecimal():
        return int(text), None
    raise UsageError(f"model_version is {text!r}; give {NEWEST}, a number, or label:NAME")


def _token(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the token cannot be read ({error})") from error
