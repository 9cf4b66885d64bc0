"""Which machine and which code a benchmark has measured."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from c3d_client.parallel import core_count

ROOT = Path(__file__).resolve().parents[2]
# The instructions that convolutions and matrix products use.
FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
)
PACKAGES = (
    *("c3d-client", "c3d-export", "tensorflow", "keras", "numpy", "opencv-python-headless"),
    *("av", "grpcio"),
)
# The files that a run writes, so their changes do not count.
WRITTEN = ("BENCHMARKS.json", "BENCHMARKS.md", "README.md")


@functools.cache
def machine() -> dict[str, Any]:
    """Return the CPU, its flags that matter, the cores that may be used, and the memory."""
    cpu = Path("/proc/cpuinfo").read_text()
    found = {key: re.search(rf"^{key}\s*:\s*(.*)$", cpu, re.M) for key in ("model name", "flags")}
    name, flags = (found[key][1] if found[key] else "" for key in ("model name", "flags"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": name.strip() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags.split()],
        "cores": core_count(),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
    }


def has_bfloat16() -> bool:
    """Return whether the CPU computes in bfloat16."""
    return bool({"avx512_bf16", "amx_bf16"} & set(machine()["flags"]))


def provenance() -> dict[str, Any]:
    """Return machine, date, commit and versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": machine(),
        "versions": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    excluded = [f":!{name}" for name in WRITTEN]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")
