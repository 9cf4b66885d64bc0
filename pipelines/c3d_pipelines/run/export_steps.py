"""The steps of the pipeline c3d-export-and-verify; each calls the command ``c3d-export``.

A command and not an import, because this package works without TensorFlow. A version is built and
verified outside the model store and gets its number there by a rename, so that a server never sees
half a version. The same inputs give one version, also when the pipeline runs twice.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

from c3d_pipelines.errors import RunError
from c3d_pipelines.run.errors import one_line_errors

# The value of mean and labels that leaves the choice to c3d-export.
DEFAULT = "default"
# The file, in the folder of the build step, with the path of the version that was built or found.
_VERSION = "version"
FULL_WIDTH = 64


def fetch_step(*, weights: str, mean: str, labels: str, files_path: str) -> list[str]:
    """Fetch files that are given by a published name; c3d-export checks their checksums.

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
            _export("fetch", "--models", files_path, *names)
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

    Raises:
        RunError: the version cannot be built, or its results differ from the network's.
    """
    with one_line_errors():
        built = Path(built_path)
        built.mkdir(parents=True, exist_ok=True)
        files = Path(files_path)
        options = ["--weights", _export_value(weights, files), "--precision", precision]
        if int(width) != FULL_WIDTH:
            options += ["--width", str(int(width))]
        for option, value in (("--channels", channels), ("--fc6-rows", fc6_rows)):
            if value != DEFAULT:
                options += [option, value]
        for option, value in (("--mean", mean), ("--labels", labels)):
            if value != DEFAULT:
                options += [option, _export_value(value, files)]
        output = _export("build", *options, "--out", str(built), "--unless-in", store)
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


def publish_step(*, store: str, built_path: str) -> str:
    """Give the version its number in the store, by a rename, unless the store has it already.

    Returns:
        The version's folder.

    Raises:
        RunError: the store cannot be written.
    """
    with one_line_errors():
        return str(_version(_export("publish", str(_built(Path(built_path))), "--to", store)))


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
    if match is None:
        raise RunError(f"c3d-export printed {output!r}; a version's folder and a colon expected")
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
        raise RunError(f"c3d-export {arguments[0]}: {last.removeprefix('c3d-export: ')}")
    return done.stdout.strip()
