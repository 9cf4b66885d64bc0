"""Resident memory of this process."""

from __future__ import annotations

from collections.abc import Callable


def memory_mb(field: str) -> float:
    """Return a field of /proc/self/status, such as ``VmHWM`` or ``RssFile``, in MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024 / 1e6


def peak_growth_mb(action: Callable[[], object]) -> float:
    """Return by how much the peak of the resident memory exceeds what is resident before."""
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # resets the peak
    before = memory_mb("VmRSS")
    action()
    return memory_mb("VmHWM") - before
