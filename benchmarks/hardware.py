"""Names the processor on which a benchmark ran."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What makes matrix products fast, as Linux names it."""


def describe_processor() -> str:
    """Return the name of the processor, with its units for vectors and matrices where the system tells them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    units = [name for name in _UNITS if name in found.get("flags", "").split()]
    return found.get("model name", platform.processor()) + (f" ({', '.join(units)})" if units else "")


def memory_gib() -> float:
    """Return the memory of the machine in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
