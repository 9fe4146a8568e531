"""Where it was measured."""

from __future__ import annotations

import os
import platform
import sysconfig
from pathlib import Path

__all__ = ["environment"]


def environment() -> dict[str, str]:
    """Return what a figure is worth nothing without."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"configured {'with' if optimized else 'without'} --enable-optimizations",
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} usable",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
