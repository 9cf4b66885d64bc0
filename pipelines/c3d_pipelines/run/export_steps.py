"""What the pods of c3d-export-and-verify do: each step calls the command ``c3d-export``.

A command and not an import: this package does without TensorFlow. A version is built and verified
apart from the model store and takes its number there by a rename, so that a server never sees half
of one. The same inputs make one version and not two.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

from c3d_pipelines.errors import RunError
from c3d_pipelines.run.errors import in_one_line

# Of mean and labels: c3d-export's own choice.
DEFAULT = "default"
# Beside a version that was built, or alone: where the version is, from here.
_VERSION = "version"
FULL_WIDTH = 64


def fetch_step(*, weights: str, mean: str, labels: str, files_path: str) -> list[str]:
    """Fetch what is named by a published name; c3d-export checks it against its checksum.

    Args:
        weights: ``demo``, ``random:SEED``, a published name, or a path in the pod that starts
            with ``/``.
        mean: ``default``, numbers ``B,G,R``, a published name or a path.
        labels: ``default``, a published name or a path.
        files_path: the folder to put them in.

    Returns:
        The names that were fetched.

    Raises:
        RunError: one cannot be fetched.
    """
    with in_one_line():
        Path(files_path).mkdir(parents=True, exist_ok=True)
        # An artifact may not be empty.
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
) -> None:
    """Build and verify a version, unless the store has one that is made of the same.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``.
        width: conv1's filters, for demo and random:SEED alone; C3D has 64.
        store: the model's folder.
        files_path: what was fetched.
        built_path: the folder to build in.

    Raises:
        RunError: it cannot be built, or does not answer as the network does.
    """
    with in_one_line():
        built = Path(built_path)
        built.mkdir(parents=True, exist_ok=True)
        given = [_value(value, Path(files_path)) for value in (weights, mean, labels)]
        options = ["--weights", given[0], "--precision", precision]
        if int(width) != FULL_WIDTH:
            options += ["--width", str(int(width))]
        for option, value in (("--mean", given[1]), ("--labels", given[2])):
            options += [option, value] if value else []
        said = _export("build", *options, "--out", str(built), "--unless-in", store)
        version = _version(said)
        where = version.name if version.parent == built else str(version.absolute())
        (built / _VERSION).write_text(where, encoding="utf-8")


def verify_step(*, built_path: str, text_path: str) -> None:
    """Load the version as TensorFlow Serving does, run all of it, compare it with the network.

    In a pod of its own: what is verified is what came out of the artifact store.

    Args:
        built_path: the folder that it was built in.
        text_path: for what was found, as Markdown.

    Raises:
        RunError: it does not answer as the network does.
    """
    with in_one_line():
        said = _export("verify", str(_built(Path(built_path))))
        lines = "".join(f"    {line}\n" for line in said.splitlines())
        Path(text_path).parent.mkdir(parents=True, exist_ok=True)
        Path(text_path).write_text(f"# Verified\n\n{lines}", encoding="utf-8")


def publish_step(*, store: str, built_path: str) -> str:
    """Give the version its number in the store, by a rename; nothing where it is there already.

    Returns:
        The version's folder.

    Raises:
        RunError: the store cannot be written.
    """
    with in_one_line():
        return str(_version(_export("publish", str(_built(Path(built_path))), "--to", store)))


def _is_published(value: str) -> bool:
    """Whether it is the name of a file that c3d-export fetches."""
    plain = value in (DEFAULT, "demo") or value.startswith(("random:", "/"))
    return not plain and not all(_is_number(part) for part in value.split(","))


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


def _value(value: str, files: Path) -> str:
    """What c3d-export is given: a path for a fetched file, nothing for its own choice."""
    if value == DEFAULT:
        return ""
    return str(files / value) if _is_published(value) else value


def _version(said: str) -> Path:
    """The folder with which c3d-export's first line begins."""
    found = re.match(r"(.*?/\d+): ", said)
    if found is None:
        raise RunError(f"c3d-export said {said!r}; a version's folder and a colon expected")
    return Path(found[1])


def _built(folder: Path) -> Path:
    """The version that the build step made or found."""
    version = folder / (folder / _VERSION).read_text("utf-8")
    if not version.is_dir():
        raise RunError(f"{version}: the version is gone; run the pipeline again")
    return version


def _export(*arguments: str) -> str:
    """Run c3d-export, show what it says and give that back.

    Raises:
        RunError: it did not end well; the message is its own.
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
