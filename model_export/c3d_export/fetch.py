"""Published files into models/: each checked, each with what became of it, and in words by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from c3d_export.assets import DEFAULT_NAMES, Asset, check, find_assets
from c3d_export.download import Patience, download, part_path
from c3d_export.errors import AssetError

AssetProgress = Callable[[Asset, int, "int | None"], None]
"""Called with the asset, the bytes of it that are here, and of how many (None: not known)."""

_REFRESH_S = 0.25
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Fetched:
    """What became of one file.

    Args:
        asset: which.
        path: where it is, or should be.
        outcome: fetched now, there before, or failed.
        said: what is known of it, or why it failed; one line.
    """

    asset: Asset
    path: Path
    outcome: Literal["fetched", "there", "failed"]
    said: str

    def __str__(self) -> str:
        return f"{self.outcome:8} {self.path}: {self.said}"


def fetch(
    names: Sequence[str],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: AssetProgress | None = None,
    patience: Patience | None = None,
) -> Iterator[Fetched]:
    """Fetch published files, one after the other; one that fails does not stop the next.

    Args:
        names: as published; none for what a full servable needs.
        folder: where to put them; made where it is missing.
        overwrite: fetch over a file that has the name and is not the right one.
        progress: is told how far each is.
        patience: with the connection.

    Returns:
        What became of each, as it does.

    Raises:
        AssetError: the folder cannot be made.
        UsageError: a name that no published file has.
    """
    chosen = find_assets(tuple(names) or DEFAULT_NAMES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(f"{folder}: cannot be made ({error.strerror})") from error
    return (_fetch(asset, folder, overwrite, progress, patience) for asset in chosen)


def _fetch(
    asset: Asset,
    folder: Path,
    overwrite: bool,
    progress: AssetProgress | None,
    patience: Patience | None,
) -> Fetched:
    path = folder / asset.name
    try:
        if not asset.urls or (path.is_file() and not overwrite):
            return _without_network(asset, path)
        fetched = _from_any(asset, path, overwrite, progress, patience)
    except AssetError as error:
        return Fetched(asset, path, "failed", str(error))
    return Fetched(asset, path, "fetched" if fetched else "there", asset.verified)


def _without_network(asset: Asset, path: Path) -> Fetched:
    if not path.is_file():
        return Fetched(asset, path, "failed", "it cannot be fetched without a browser")
    try:
        fits, said = check(asset, path)
    except OSError as error:
        return Fetched(asset, path, "failed", f"cannot be read ({error.strerror})")
    if not fits:
        said += "; it was left: move it away, or overwrite it"
    return Fetched(asset, path, "there" if fits else "failed", said)


def _from_any(
    asset: Asset,
    path: Path,
    overwrite: bool,
    progress: AssetProgress | None,
    patience: Patience | None,
) -> bool:
    """From the first address that gives it; the errors of all where none does."""
    errors: list[str] = []
    for url in asset.urls:
        try:
            return download(
                url,
                path,
                known=asset.known,
                progress=(lambda *far: progress(asset, *far)) if progress else None,
                overwrite=overwrite,
                patience=patience,
            )
        except AssetError as error:
            errors.append(str(error))
            # Half of it is here: the other half is nearer than all of it from elsewhere.
            if part_path(path).exists():
                break
    raise AssetError("; ".join(errors))


def by_hand(assets: Sequence[Asset], folder: Path) -> str:
    """What to fetch with a browser, from where, to where, and how to know it; many lines."""
    lines = ["To fetch by hand, on a machine with a network:"]
    for asset in assets:
        lines += ["", f"  {asset.name}", f"    what     {asset.about}"]
        lines += [f"    from     {place}" for place in (*asset.urls, asset.page) if place]
        lines += [f"    to       {folder / asset.name}"]
        if asset.known.size is not None:
            lines.append(f"    size     {asset.known.size:,} bytes")
        for name in ("md5", "sha256"):
            if digits := getattr(asset.known, name):
                lines.append(f"    {name:8} {digits}{'...' if len(digits) not in (32, 64) else ''}")
        lines.append(f"    licence  {asset.licence}")
    return "\n".join(lines)


class ProgressLine:
    """One line on a terminal that says how far a file is; nothing where it is no terminal.

    Args:
        stream: usually standard error.
        clock: seconds, for the tests.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._next = clock()
        self._width = 0
        self._shown = stream.isatty()

    def __call__(self, asset: Asset, done: int, total: int | None) -> None:
        """Say how far it is, a few times a second at most."""
        if not self._shown or self._clock() < self._next:
            return
        self._next = self._clock() + _REFRESH_S
        line = f"{asset.name}: {done / _MEGABYTE:.1f} MB"
        if total:
            line += f" of {total / _MEGABYTE:.1f} MB, {done / total:.0%}"
        self._write(line)

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self._width:
            self._write("")
            self._write("")

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)
