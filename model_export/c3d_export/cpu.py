"""The precisions that this machine's CPU computes fast, from its flags in /proc/cpuinfo.

TensorFlow computes every precision on every CPU. Where the CPU lacks the instructions, it converts
each number, and a layer takes up to 33 times as long as in float32.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""The file of the CPU's flags; Linux has it, macOS does not."""

# The flags of bfloat16 arithmetic, the fastest first, with the names that people know: of x86, and
# at last of Arm. TensorFlow has no float16 convolution that is faster than float32 on any CPU: on
# one with avx512_fp16 the network took 4.3 times as long as in float32.
_BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "BF16 of Arm"}
# The clips per second relative to float32 as it is built for CPUs, with Winograd's convolution: the
# full network, batches of 8, two cores (docs/servable.md).
_SPEEDS = {"AMX": "about 4 times", "AVX512-BF16": "about 1.4 times"}
_FC6_COSINE = "0.99998"  # of bfloat16 with float32, the lowest of a video: docs/fidelity.md


def slow_reason(precision: str) -> str | None:
    """Return why this CPU computes a precision slowly; None where it is fast.

    A CPU whose flags cannot be read counts as one without bfloat16.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``.
    """
    if precision == "float32":
        return None
    if precision == "float16":
        return "TensorFlow computes float16 slowly on every CPU"
    flags = _flags()
    if flags is None:
        return (
            f"{CPU_INFO} cannot be read, so this CPU counts as one without arithmetic for bfloat16"
        )
    if _native_bfloat16(flags):
        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
            return "TF_ENABLE_ONEDNN_OPTS=0 turns off oneDNN, without which bfloat16 is slow"
        return None
    return f"this CPU has no arithmetic for bfloat16 ({CPU_INFO} lacks {', '.join(_BFLOAT16)})"


def bfloat16_note() -> str | None:
    """Return a line on the speed and the cost of bfloat16 here; None where it is not fast."""
    name = _native_bfloat16(_flags() or frozenset())
    if name is None or slow_reason("bfloat16"):
        return None
    speed = _SPEEDS.get(name)
    gain = f"{speed} as fast" if speed else "perhaps faster (not measured)"
    return (
        f"this CPU has {name}: a version with --precision bfloat16 is {gain} here, and costs an "
        f"fc6 cosine of {_FC6_COSINE} with float32's"
    )


def _native_bfloat16(flags: frozenset[str]) -> str | None:
    return next((name for flag, name in _BFLOAT16.items() if flag in flags), None)


def _flags() -> frozenset[str] | None:
    """Return the flags of the first processor; None where they cannot be read."""
    try:
        text = CPU_INFO.read_text("utf-8", "replace")
    except OSError:
        return None
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return None if line is None else frozenset(line[1].split())
