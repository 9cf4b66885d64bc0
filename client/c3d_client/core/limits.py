"""The processor time and the memory that this process may use.

A container's limits are those of its control group (cgroup), which neither the number of processors
nor the size of the machine's memory shows. Version 1, version 2 and both at once (hybrid) are read,
as they are mounted in the container.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# Version 1 writes the largest multiple of a page, about 2**63, where there is no limit.
_NO_LIMIT_BYTES = 1 << 60


class _Group(NamedTuple):
    """A folder of this process's group, or of a group above it.

    Args:
        folder: of the group's files.
        version: of the cgroup's interface, 1 or 2.
    """

    folder: Path
    version: int


def core_count() -> int:
    """Return the number of cores that this process may use.

    It is the number of processors that it may run on, or its CPU limit rounded up where that is
    less.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def cpu_limit(*, root: str | os.PathLike[str] = "/") -> float | None:
    """Return the CPU limit of this process in cores, such as 1.5.

    Args:
        root: the folder that contains ``proc`` and the mounted cgroups.

    Returns:
        The smallest limit of this process's cgroup and of those above it that are visible; None
        where there is no limit or it cannot be read.
    """
    limits = [_cpu_limit(group) for group in _groups("cpu", Path(root))]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_limit(*, root: str | os.PathLike[str] = "/") -> int | None:
    """Return the memory limit of this process in bytes, above which the kernel kills it.

    Args:
        root: the folder that contains ``proc`` and the mounted cgroups.

    Returns:
        The smallest limit of this process's cgroup and of those above it that are visible; None
        where there is no limit or it cannot be read.
    """
    limits = [limit for group in _groups("memory", Path(root)) for limit in _memory_limits(group)]
    return min(limits, default=None)


def machine_memory() -> int | None:
    """Return the size of the machine's memory in bytes; None where it is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def memory_in_use(*, root: str | os.PathLike[str] = "/") -> int:
    """Return the memory in bytes that only this process uses; 0 where it is not known.

    Pages of files, such as those of libraries, are not counted: the kernel can drop them.
    """
    status = _read(Path(root) / "proc/self/status")
    found = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _cpu_limit(group: _Group) -> float | None:
    if group.version == 2:
        quota, _, period = _read(group.folder / "cpu.max").partition(" ")
    else:
        quota = _read(group.folder / "cpu.cfs_quota_us")
        period = _read(group.folder / "cpu.cfs_period_us")
    # No limit is the word "max" in version 2, and -1 in version 1.
    quota_us, period_us = _whole(quota), _whole(period)
    return quota_us / period_us if quota_us and period_us else None


def _memory_limits(group: _Group) -> Iterator[int]:
    if group.version == 2:
        texts = [_read(group.folder / "memory.max")]
    else:
        # The statistics have the smallest limit of all groups above, also of invisible ones.
        statistics = _read(group.folder / "memory.stat")
        texts = re.findall(r"^hierarchical_memory_limit (\d+)$", statistics, re.MULTILINE)
        texts.append(_read(group.folder / "memory.limit_in_bytes"))
    for text in texts:
        limit = _whole(text)
        if limit and limit < _NO_LIMIT_BYTES:
            yield limit


def _groups(controller: str, root: Path) -> Iterator[_Group]:
    """Yield this process's groups for a controller, and those above each as far as mounted."""
    paths: dict[int, PurePosixPath] = {}  # version -> path in its hierarchy
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            paths[2] = PurePosixPath(path)
        elif controller in controllers.split(","):
            paths[1] = PurePosixPath(path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(" "), kind.split(" ")
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kinds[0] == "cgroup2" else 1
        if version not in paths or (version == 1 and controller not in kinds[2].split(",")):
            continue
        top = root / _unescaped(fields[4]).lstrip("/")
        for folder in _upwards(top, _unescaped(fields[3]), paths[version]):
            yield _Group(folder, version)


def _upwards(top: Path, mounted: str, path: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to the folder of the mount.

    Args:
        top: where the hierarchy is mounted.
        mounted: the group that is mounted there; in a container usually its own.
        path: of this process's group in the hierarchy.
    """
    below: tuple[str, ...] = ()
    if path.is_relative_to(mounted):
        below = path.relative_to(mounted).parts
    # A container may see the path of the host's hierarchy, of which it has its own group only; a
    # group outside the namespace's root begins with "..".
    if ".." in below or not os.path.isdir(top.joinpath(*below)):
        below = ()
    for count in range(len(below), -1, -1):
        yield top.joinpath(*below[:count])


def _unescaped(text: str) -> str:
    r"""Return a path of mountinfo, where a space is written as ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""
