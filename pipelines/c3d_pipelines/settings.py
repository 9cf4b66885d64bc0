"""The settings of a bulk run that its workers receive."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from c3d_client import C3DClient, ClipWindow, ServingOptions
from c3d_client.core.arguments import path_text
from c3d_client.core.contract import DEFAULT_TARGET
from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.files import read_token
from c3d_client.core.provenance import Provenance
from c3d_client.core.uri import redact

from c3d_pipelines.parameters import (
    ANSWERS,
    LONGEST_PATIENCE_S,
    NEWEST,
    NO_PCA,
    PARAMETERS,
    JobParameters,
    allowed_failures,
    server_address,
)
from c3d_pipelines.records import Record, added

# Environment variables of the workers, usually set from a Kubernetes Secret. Kubeflow prints
# every parameter, so secrets are never parameters.
ENVIRONMENT = ("C3D_TLS", "C3D_CA", "C3D_CERT", "C3D_KEY", "C3D_OVERRIDE_NAME", "C3D_TOKEN_FILE")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class JobSettings(Record):
    """The settings of one bulk run, checked once and passed whole to every worker.

    Args:
        out: the dataset's folder or bucket.
        run: this run's name in it.
        answer: ``features`` (fc6) or ``classes`` (probabilities).
        server: the gRPC address.
        model: the served model's name.
        model_version: ``newest``, a number, or ``label:NAME``.
        window: how clips are made of a video.
        clip_rows: store each clip's numbers, not only the video's.
        workers: videos at a time in one shard; 0 for as many as there are cores.
        batch_size: clips in a request.
        max_in_flight: most concurrent requests of one worker.
        timeout_s: the deadline of one request, in seconds.
        patience_s: how long a worker waits for a server or a store that went away, in seconds.
        provenance: how the numbers are made, as the server reported before the run began; empty
            until then. Numbers that are made differently are refused.
        max_failed: as the parameter; None where it is not known, in runs of pipelines that release
            0.1.0 compiled.
        max_failed_share: as the parameter.
        pca: path or address of the PCA that reduces the features; empty for none.
        sent: for a run on a cluster, the parameters that it was sent with, without those that have
            their default, and without credentials in addresses; None for a run of
            ``c3d-pipelines run``.
        given: likewise the parameters of a run of ``c3d-pipelines run``, without ``videos`` where
            that address has credentials; None for a run on a cluster, and in settings of release
            0.1.0.

    Raises:
        UsageError: a value is out of its range.
    """

    _noun: ClassVar[str] = "the run's settings"
    _error: ClassVar[type[C3DError]] = UsageError
    out: str
    run: str
    answer: str = "features"
    server: str = DEFAULT_TARGET
    model: str = JobParameters.model
    model_version: str = JobParameters.model_version
    window: ClipWindow = field(default_factory=ClipWindow)
    clip_rows: bool = JobParameters.clip_rows
    workers: int = JobParameters.workers
    batch_size: int = JobParameters.batch_size
    max_in_flight: int = JobParameters.max_in_flight
    timeout_s: float = JobParameters.timeout_s
    patience_s: float = JobParameters.patience_s
    provenance: Provenance = field(default_factory=Provenance)
    max_failed: int | None = added(None)
    max_failed_share: float = added(0.0)
    sent: Mapping[str, Any] | None = added(None)
    pca: str = added("")
    given: Mapping[str, Any] | None = added(None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", path_text(self.out, "out"))
        if not self.out.strip():
            raise UsageError("out is empty; give the dataset's folder or bucket")
        if not _RUN_NAME.fullmatch(self.run):
            raise UsageError(f"run is {self.run!r}; give letters, digits, '.', '_' and '-'")
        if self.answer not in ANSWERS:
            raise UsageError(f"answer is {self.answer!r}; give one of {', '.join(ANSWERS)}")
        if self.pca and self.answer != "features":
            raise UsageError(f"pca is {self.pca!r} and the answer {self.answer}; leave out pca")
        if redact(self.pca) != self.pca:
            raise UsageError(
                f"pca, {redact(self.pca)}, holds credentials; give them in the environment"
            )
        if self.workers < 0:
            raise UsageError(f"workers is {self.workers}; give 1 or more, or 0 for one per core")
        if not 0 <= self.patience_s <= LONGEST_PATIENCE_S:
            raise UsageError(
                f"patience_s is {self.patience_s}; give 0 to {LONGEST_PATIENCE_S} seconds"
            )
        allowed_failures(
            max_failed=self.max_failed or 0, max_failed_share=self.max_failed_share, inputs=0
        )
        # A plain mapping is accepted too.
        object.__setattr__(self, "provenance", Provenance.from_dict(self.provenance))
        self.serving()

    @classmethod
    def from_parameters(
        cls,
        parameters: JobParameters | Mapping[str, Any],
        *,
        run: str,
        answer: str,
        on_cluster: bool = False,
    ) -> JobSettings:
        """Return the settings of a run with these parameters.

        Args:
            parameters: of the run, or a pipeline's arguments by name.
            run: the run's name.
            answer: ``features`` or ``classes``.
            on_cluster: whether the run was sent to a cluster, so that its report advises commands
                for that.

        Raises:
            UsageError: as :meth:`JobParameters.of`, or a value is out of its range.
        """
        if not isinstance(parameters, JobParameters):
            parameters = JobParameters.of(parameters)
        return cls(
            out=parameters.out,
            run=run,
            answer=answer,
            server=server_address(parameters.server),
            model=parameters.model,
            model_version=parameters.model_version,
            window=parameters.window,
            clip_rows=parameters.clip_rows,
            workers=parameters.workers,
            batch_size=parameters.batch_size,
            max_in_flight=parameters.max_in_flight,
            timeout_s=parameters.timeout_s,
            patience_s=parameters.patience_s,
            max_failed=parameters.max_failed,
            max_failed_share=parameters.max_failed_share,
            sent=_given(parameters) if on_cluster else None,
            pca="" if parameters.pca == NO_PCA else parameters.pca,
            given=None if on_cluster else _given_here(parameters),
        )

    def serving(self) -> ServingOptions:
        """Return how to reach the server, with the environment's certificates and token.

        Raises:
            UsageError: two values do not go together, or the token's file cannot be read.
        """
        version, label = _version(self.model_version)
        environment = {name: os.environ.get(name) or None for name in ENVIRONMENT}
        token_file = environment["C3D_TOKEN_FILE"]
        return ServingOptions(
            target=self.server,
            model=self.model,
            version=version,
            label=label,
            timeout_s=self.timeout_s,
            patience_s=self.patience_s,
            batch_size=self.batch_size,
            max_in_flight=self.max_in_flight,
            tls=_is_on("C3D_TLS", environment["C3D_TLS"]),
            ca=environment["C3D_CA"],
            cert=environment["C3D_CERT"],
            key=environment["C3D_KEY"],
            override_name=environment["C3D_OVERRIDE_NAME"],
            token=read_token(token_file) if token_file else None,
        )

    def client(self, options: ServingOptions | None = None) -> C3DClient:
        """Return a client with these settings, to be closed by the caller.

        Args:
            options: how to reach the server, in place of :meth:`serving`.

        Raises:
            OutputError: the PCA cannot be read.
        """
        return C3DClient(
            window=self.window, options=options or self.serving(), pca=self.pca or None
        )

    def with_provenance(self, provenance: Provenance) -> JobSettings:
        """Return the same settings with the provenance that the server reported."""
        return replace(self, provenance=provenance)


def _given(parameters: JobParameters) -> dict[str, Any]:
    """Return the parameters that differ from their defaults, and the folders in any case."""
    values = {name: getattr(parameters, name) for name in PARAMETERS}
    return {
        name: redact(value) if isinstance(value, str) else value
        for name, value in values.items()
        if name in ("videos", "out") or value != PARAMETERS[name].default
    }


def _given_here(parameters: JobParameters) -> dict[str, Any]:
    given = _given(parameters)
    if given["videos"] != parameters.videos:
        del given["videos"]
    return given


def _is_on(name: str, value: str | None) -> bool:
    text = (value or "").strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise UsageError(f"{name} is {value!r}; give 1 or 0")


def _version(text: str) -> tuple[int | None, str | None]:
    if text == NEWEST:
        return None, None
    if text.startswith("label:"):
        return None, text.removeprefix("label:")
    if text.isdecimal():
        return int(text), None
    raise UsageError(f"model_version is {text!r}; give {NEWEST}, a number, or label:NAME")
