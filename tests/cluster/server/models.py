"""The versions of a model: found on disk, loaded, warmed up, served, and unloaded.

The states and their order are those of TensorFlow Serving 2.20: its FileSystemStoragePathSource
names the aspired versions, and its AvailabilityPreservingPolicy loads before it unloads.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from c3d_export.serving_api import Rejection, requested_version
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.status_pb2 import StatusProto


def log(message: str) -> None:
    """Write a line to standard error, where TensorFlow Serving logs."""
    print(message, file=sys.stderr, flush=True)


def _status(error: Exception | None) -> StatusProto:
    """Return the status of a load: the code is the kernel's, where the error came from one."""
    if error is None:
        return StatusProto()
    code = grpc.StatusCode.UNKNOWN.value[0]
    if isinstance(error, Rejection):
        code = error.code.value[0]
    elif isinstance(error.__cause__, tf.errors.OpError):
        code = error.__cause__.error_code
    elif isinstance(error.__cause__, OSError):
        code = grpc.StatusCode.NOT_FOUND.value[0]
    return StatusProto(error_code=code, error_message=str(error))


@dataclass
class Version:
    """One version: its state, and the error that ended it."""

    number: int
    state: int = ModelVersionStatus.START
    aspired: bool = True
    servable: Any = None
    users: int = 0
    error: Exception | None = None


@dataclass(frozen=True)
class Retries:
    """How a version that does not load is tried again."""

    number: int
    interval_s: float


class Model:
    """A model of the configuration; ``start`` begins to look for versions.

    Args:
        config: a tensorflow.serving.ModelConfig.
        load: loads and warms up the version in a folder; raises any exception.
        retries: of a load that fails.
        poll_s: seconds between two looks at the folder; 0 for a single look.
    """

    def __init__(
        self, config: Any, load: Callable[[Path, Any], Any], *, retries: Retries, poll_s: float
    ) -> None:
        self.name = config.name
        self._labels = dict(config.version_labels)
        self.versions: dict[int, Version] = {}
        self._config, self._load = config, load
        self._retries, self._poll_s = retries, poll_s
        self._base = Path(config.base_path)
        self._changed = threading.Condition()
        self._was_empty = False

    def start(self) -> None:
        """Start the threads that look for versions, and that load and unload them."""
        threading.Thread(target=self._poll_forever, daemon=True).start()
        threading.Thread(target=self._change_forever, daemon=True).start()

    def wait(self) -> None:
        """Wait until a version is available.

        Raises:
            RuntimeError: all of the model's versions failed.
        """
        with self._changed:
            while not any(v.state == ModelVersionStatus.AVAILABLE for v in self.versions.values()):
                failed = [v for v in self.versions.values() if v.aspired and v.error is not None]
                if failed and len(failed) == sum(v.aspired for v in self.versions.values()):
                    reasons = ", ".join(
                        f"{{{{name: {self.name} version: {v.number}}} due to error: {v.error}}}"
                        for v in failed
                    )
                    raise RuntimeError(
                        f"{len(failed)} servable(s) did not become available: {{{reasons}}}"
                    )
                self._changed.wait()

    # ---- requests

    @contextlib.contextmanager
    def use(self, spec: Any) -> Iterator[Version]:
        """Keep the version that a ModelSpec names loaded while a request uses it.

        Raises:
            Rejection: it is not available.
        """
        with self._changed:
            available = [
                n for n, v in self.versions.items() if v.state == ModelVersionStatus.AVAILABLE
            ]
            number = requested_version(spec, available, model=self.name, labels=self._labels)
            version = self.versions[number]
            version.users += 1
        try:
            yield version
        finally:
            with self._changed:
                version.users -= 1
                self._changed.notify_all()

    def statuses(self) -> list[Any]:
        """Return a ModelVersionStatus for every version that was ever seen."""
        with self._changed:
            return [
                ModelVersionStatus(
                    version=version.number, state=version.state, status=_status(version.error)
                )
                for version in self.versions.values()
            ]

    # ---- versions on disk

    def _poll_forever(self) -> None:
        while True:
            self._poll()
            if not self._poll_s:
                return
            threading.Event().wait(self._poll_s)

    def _poll(self) -> None:
        aspired = self._aspired()
        if not aspired and not self._was_empty:
            log(f"No versions of servable {self.name} found under base path {self._base}")
        self._was_empty = not aspired
        with self._changed:
            for number in aspired:
                known = self.versions.get(number)
                # A version that failed is not tried again until it has been away from the disk.
                if known is None or (not known.aspired and known.state == ModelVersionStatus.END):
                    self.versions[number] = Version(number)
            for number, version in self.versions.items():
                version.aspired = number in aspired
            self._changed.notify_all()

    def _aspired(self) -> set[int]:
        found = set()
        with contextlib.suppress(OSError):
            found = {
                int(path.name)
                for path in self._base.iterdir()
                if path.name.isascii() and path.name.isdecimal() and path.is_dir()
            }
        policy = self._config.model_version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return found
        if choice == "specific":
            return found & set(policy.specific.versions)
        return set(sorted(found)[-(policy.latest.num_versions or 1) :])

    # ---- loading and unloading

    def _change_forever(self) -> None:
        while True:
            with self._changed:
                while (action := self._next_action()) is None:
                    self._changed.wait()
            action()

    def _next_action(self) -> Callable[[], None] | None:
        """Return what to do next: unload where that leaves a version available, else load."""
        versions = sorted(self.versions.values(), key=lambda v: -v.number)
        aspired = [v for v in versions if v.aspired]
        served = [v for v in aspired if v.state == ModelVersionStatus.AVAILABLE]
        if served or not aspired:
            for version in versions:
                if not version.aspired and version.state == ModelVersionStatus.AVAILABLE:
                    return functools.partial(self._unload, version)
        for version in versions:
            if version.aspired and version.state == ModelVersionStatus.START:
                return functools.partial(self._load_version, version)
        return None

    def _load_version(self, version: Version) -> None:
        self._set(version, ModelVersionStatus.LOADING)
        path = self._base / str(version.number)
        for attempt in range(1 + self._retries.number):
            if attempt:
                log(
                    f"Retrying of loading servable version: {{name: {self.name} version: "
                    f"{version.number}}} retry: {attempt}"
                )
            try:
                servable = self._load(path, version.number)
            except Exception as error:  # whatever a damaged file leads to
                log(
                    f"Loading servable: {{name: {self.name} version: {version.number}}} failed: "
                    f"{error}"
                )
                failure = error
            else:
                log(
                    "Successfully loaded servable version "
                    f"{{name: {self.name} version: {version.number}}}"
                )
                version.servable = servable
                self._set(version, ModelVersionStatus.AVAILABLE)
                return
            if attempt < self._retries.number:
                with self._changed:
                    self._changed.wait_for(
                        lambda: not version.aspired, timeout=self._retries.interval_s
                    )
                    if not version.aspired:
                        break
        version.error = failure
        self._set(version, ModelVersionStatus.END)

    def _unload(self, version: Version) -> None:
        self._set(version, ModelVersionStatus.UNLOADING)
        with self._changed:
            self._changed.wait_for(lambda: not version.users)
        servable, version.servable = version.servable, None
        servable.close()
        log(f"Done unloading servable version {{name: {self.name} version: {version.number}}}")
        self._set(version, ModelVersionStatus.END)

    def _set(self, version: Version, state: int) -> None:
        with self._changed:
            version.state = state
            self._changed.notify_all()
