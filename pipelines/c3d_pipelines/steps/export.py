"""What the pods of c3d-export-and-verify do: each step calls the command ``c3d-export``.

A command and not an import: this package does without TensorFlow. A version is built and verified
apart from the model store and takes its number there by a rename, so that a server never sees half
of one. What it was made of is noted in it, as k8s/jobs/export-model does, so that the same inputs
make one version and not two.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from c3d_client.atomic import TEMPORARY_PREFIX, sync
from c3d_client.errors import ExportError, UsageError

from c3d_pipelines.steps.errors import in_one_line

# Of mean and labels: c3d-export's own choice.
DEFAULT = "default"
MADE_OF = "made-of"
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
        ExportError: one cannot be fetched.
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
) -> str:
    """Build and verify a version, unless the store has one that is made of the same.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``.
        width: conv1's filters, for demo and random:SEED alone; C3D has 64.
        store: the model's folder.
        files_path: what was fetched.
        built_path: the folder to build in; it gets ``1/``, or nothing to serve.

    Returns:
        The digest of what it is made of.

    Raises:
        ExportError: it cannot be built, or does not answer as the network does.
    """
    with in_one_line():
        built = Path(built_path)
        built.mkdir(parents=True, exist_ok=True)
        given = [_value(value, Path(files_path)) for value in (weights, mean, labels)]
        digest = _digest(given, precision=precision, width=int(width))
        (built / MADE_OF).write_text(digest + "\n")
        there = _version_made_of(Path(store), digest)
        if there is not None:
            print(f"{there}: made of the same inputs ({digest}); nothing to build")
            return digest
        options = ["--weights", given[0], "--precision", precision, "--out", str(built)]
        if int(width) != FULL_WIDTH:
            options += ["--width", str(int(width))]
        for option, value in (("--mean", given[1]), ("--labels", given[2])):
            options += [option, value] if value else []
        _export("build", *options)
        return digest


def verify_step(*, store: str, digest: str, built_path: str, text_path: str) -> None:
    """Load the version as TensorFlow Serving does, run all of it, compare it with the network.

    In a pod of its own: what is verified is what came out of the artifact store.

    Args:
        text_path: for what was found, as Markdown.

    Raises:
        ExportError: it does not answer as the network does.
    """
    with in_one_line():
        said = _export("verify", str(_built_or_there(Path(store), digest, Path(built_path))))
        lines = "".join(f"    {line}\n" for line in said.splitlines())
        Path(text_path).parent.mkdir(parents=True, exist_ok=True)
        Path(text_path).write_text(f"# Verified\n\n{lines}", encoding="utf-8")


def publish_step(*, store: str, digest: str, built_path: str) -> str:
    """Give the version its number in the store, by a rename; nothing where it is there already.

    Returns:
        The version's folder.

    Raises:
        ExportError: the store cannot be written.
    """
    with in_one_line():
        base = Path(store)
        there = _version_made_of(base, digest)
        if there is not None:
            print(f"{there}: there already")
            return str(there)
        made = base / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            base.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(built_path) / "1", made)
            (made / MADE_OF).write_text(digest + "\n")
            for path in [*made.rglob("*"), made]:
                sync(path)
            version = _take_number(made, base)
            sync(base)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(made, ignore_errors=True)
            raise ExportError(f"{base}: the version cannot be published ({error})") from error
        print(f"{version}: published")
        return str(version)


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


def _digest(given: list[str], *, precision: str, width: int) -> str:
    """Of the exporter and what it is given; the same as k8s/jobs/export-model/export.sh makes."""
    lines = [_export("--version")]
    for value in given:
        if not value.startswith("/"):
            lines.append(value)
            continue
        try:
            lines.append(f"{_sha256(value)}  -")
        except OSError as error:
            raise UsageError(f"{value}: cannot be read ({error.strerror})") from error
    lines.append(precision)
    if width != FULL_WIDTH:
        lines.append(f"width {width}")
    text = "".join(f"{line}\n" for line in lines)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sha256(path: str) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    return sha.hexdigest()


def _version_made_of(store: Path, digest: str) -> Path | None:
    for note in sorted(store.glob(f"[0-9]*/{MADE_OF}")):
        with contextlib.suppress(OSError):
            if note.read_text().strip() == digest:
                return note.parent
    return None


def _built_or_there(store: Path, digest: str, built: Path) -> Path:
    if (built / "1").is_dir():
        return built / "1"
    there = _version_made_of(store, digest)
    if there is None:
        raise ExportError(f"{store}: the version made of {digest} is gone; run the pipeline again")
    return there


def _take_number(made: Path, base: Path) -> Path:
    """Rename to the next number; when another run takes it first, to the one after."""
    while True:
        numbers = [int(entry.name) for entry in base.iterdir() if entry.name.isdecimal()]
        version = base / str(max(numbers, default=0) + 1)
        try:
            os.rename(made, version)
        except OSError:
            if version.exists():
                continue
            raise
        return version


def _export(*arguments: str) -> str:
    """Run c3d-export, show what it says and give that back.

    Raises:
        ExportError: it did not end well; the message is its own.
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
        raise ExportError(f"c3d-export {arguments[0]}: {last.removeprefix('c3d-export: ')}")
    return done.stdout.strip()
