"""Peak memory of a part of a program: of the device on CUDA, elsewhere the resident memory of the whole process.

Linux and CUDA let the peak be forgotten, so that each stage has its own; elsewhere it is that of the process so far.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

__all__ = ["forget_peak", "peak_memory"]


def forget_peak(device: torch.device) -> None:
    """Let the peak count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets the peak resident set size


def peak_memory(device: torch.device) -> int:
    """The largest memory, in bytes, since `forget_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
