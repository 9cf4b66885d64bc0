"""The steps of the pipeline c3d-export-and-verify; each calls the command ``c3d-export``.

A command and not an import, because this package works without TensorFlow. A version is built and
verified outside the model store and gets its number there by a rename, so that a server never sees
half a version. The same inputs give one version, also when the pipeline runs twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

from c3d_client.core.retry import retry

from c3d_pipelines.errors import RunError
from c3d_pipelines.run.errors import one_line_errors

# The value of mean and labels that leaves the choice to c3d-export.
DEFAULT = "default"
# The options where no target is given, as by pipelines compiled by earlier releases: float16 has
# always been for GPUs, and bfloat16 may be for servers on other nodes than the build's pod.
_DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "float16": ("--target", "gpu"),
    "bfloat16": ("--target", "cpu", "--elsewhere"),
}
# The file, in the folder of the build step, with the path of the version that was built or found.
_VERSION = "version"
FULL_WIDTH = 64
# A pod may start before its network does, and Kubeflow may not retry a step that fails. With pauses
# of 2, 4, 8, 16 and then 30 s these attempts take 2.5 minutes, besides those of c3d-export.
_ATTEMPTS, _FIRST_PAUSE_S = 9, 2.0
_OVER_TRAINED = {True: ("--over-trained",), False: ()}


def fetch_step(*, weights: str, mean: str, labels: str, files_path: str) -> list[str]:
    """Fetch files that are given by a published name; c3d-export checks their checksums.

    Errors of the network that a later try may not have are retried for 2.5 minutes.

    Args:
        weights: ``demo``, ``random:SEED``, a published name, or a path in the pod that starts
            with ``/``.
        mean: ``default``, numbers ``B,G,R``, a published name or a path.
        labels: ``default``, a published name or a path.
        files_path: the folder for the files.

    Returns:
        The names that were fetched.

    Raises:
        RunError: a file cannot be fetched.
    """
    with one_line_errors():
        Path(files_path).mkdir(parents=True, exist_ok=True)
        # An artifact must not be empty.
        (Path(files_path) / "README").write_text("what c3d-export fetch fetched\n")
        names = [value for value in (weights, mean, labels) if _is_published(value)]
        if names:
            retry(
                lambda: _export("fetch", "--models", files_path, *names),
                attempts=_ATTEMPTS,
                is_transient=lambda error: isinstance(error, _MayPassError),
                first_pause_s=_FIRST_PAUSE_S,
            )
        return names


def build_step(
    *,
    weights: str,
    mean: str,
    labels: str,
    precision: str,
    width: float,
    store: str,
    files_path: str,
    built_path: str,
    channels: str = DEFAULT,
    fc6_rows: str = DEFAULT,
    over_trained: bool = False,
    target: str = DEFAULT,
) -> None:
    """Build and verify a version, unless the store has a version of the same inputs.

    Args:
        weights, mean, labels: as for :func:`fetch_step`.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        width: filters of conv1, only for demo and random:SEED; C3D has 64.
        store: the model's folder in the model store.
        files_path: the folder of the fetched files.
        built_path: the folder to build in.
        channels: ``bgr`` or ``rgb``, for a TensorFlow checkpoint, which does not record it.
        fc6_rows: ``chw`` or ``hwc``, in the same case.
        over_trained: build from demo or random weights also where the store has trained ones.
        target: what the servers compute on: ``cpu``, which refuses a precision that this pod's CPU
            computes slowly, or ``gpu``. ``default``: ``gpu`` for float16; otherwise ``cpu``, and
            bfloat16 on any CPU.

    Raises:
        RunError: the version cannot be built, its results differ from the network's, or its weights
            are not trained and the store has trained ones.
    """
    with one_line_errors():
        built = Path(built_path)
        built.mkdir(parents=True, exist_ok=True)
        files = Path(files_path)
        options = ["--weights", _export_value(weights, files), "--precision", precision]
        if target == DEFAULT:
            options += _DEFAULT_TARGETS.get(precision, ())
        else:
            options += ["--target", target]
        if int(width) != FULL_WIDTH:
            options += ["--width", str(int(width))]
        for option, value in (("--channels", channels), ("--fc6-rows", fc6_rows)):
            if value != DEFAULT:
                options += [option, value]
        for option, value in (("--mean", mean), ("--labels", labels)):
            if value != DEFAULT:
                options += [option, _export_value(value, files)]
        options += ["--out", str(built), "--unless-in", store, *_OVER_TRAINED[over_trained]]
        output = _export("build", *options)
        version = _version(output)
        path = version.name if version.parent == built else str(version.absolute())
        (built / _VERSION).write_text(path, encoding="utf-8")


def verify_step(*, built_path: str, text_path: str) -> None:
    """Load the version as TensorFlow Serving does, run all of it, compare it with the network.

    This step has a separate pod, so that it verifies the files that the artifact store returns.

    Args:
        built_path: the folder of the build step.
        text_path: where to write the result as Markdown.

    Raises:
        RunError: the version's results differ from the network's.
    """
    with one_line_errors():
        output = _export("verify", str(_built(Path(built_path))))
        lines = "".join(f"    {line}\n" for line in output.splitlines())
        Path(text_path).parent.mkdir(parents=True, exist_ok=True)
        Path(text_path).write_text(f"# Verified\n\n{lines}", encoding="utf-8")


def publish_step(*, store: str, built_path: str, over_trained: bool = False) -> str:
    """Give the version its number in the store, by a rename, unless the store has it already.

    Args:
        store: the model's folder in the model store.
        built_path: the folder of the build step.
        over_trained: as for :func:`build_step`.

    Returns:
        The version's folder.

    Raises:
        RunError: the store cannot be written, or has trained weights and the version has not.
    """
    with one_line_errors():
        version = str(_built(Path(built_path)))
        return str(
            _version(_export("publish", version, "--to", store, *_OVER_TRAINED[over_trained]))
        )


class _MayPassError(RunError):
    """c3d-export failed for a reason that a later try may not have."""


def _is_published(value: str) -> bool:
    """Return whether the value is the name of a file that c3d-export fetches."""
    plain = value in (DEFAULT, "demo") or value.startswith(("random:", "/"))
    return not plain and not all(_is_number(part) for part in value.split(","))


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


def _export_value(value: str, files: Path) -> str:
    """Return the value for c3d-export: for a published name, the path of the fetched file."""
    return str(files / value) if _is_published(value) else value


def _version(output: str) -> Path:
    """Return the folder with which c3d-export's first line begins."""
    match = re.match(r"(.*?/\d+): ", output)
    if match is None:  # build leaves out what --over-trained allows, and prints why
        raise RunError(f"c3d-export built no version: {output}")
    return Path(match[1])


def _built(folder: Path) -> Path:
    """Return the folder of the version that the build step made or found."""
    version = folder / (folder / _VERSION).read_text("utf-8")
    if not version.is_dir():
        raise RunError(f"{version}: the version is gone; run the pipeline again")
    return version


def _export(*arguments: str) -> str:
    """Run c3d-export, print its output and return it.

    Raises:
        RunError: c3d-export failed; the message is the command's own.
    """
    done = subprocess.run(
        [sys.executable, "-m", "c3d_export", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    print(done.stderr, end="", file=sys.stderr, flush=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        kind = _MayPassError if done.returncode == os.EX_TEMPFAIL else RunError
        raise kind(f"c3d-export {arguments[0]}: {last.removeprefix('c3d-export: ')}")
    return done.stdout.strip()
