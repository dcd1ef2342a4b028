"""What a session of a run was: versions, machine, threads, processes. A run goes on to the same weights, bit by bit,
only where what sums are computed with stays the same; what differs is said when it goes on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bootdiff.training.lock import command_line, now

__all__ = ["changes", "session_of"]

_PACKAGES = ("bootdiff", "torch", "numpy", "diffusers", "accelerate", "safetensors")
_SAME = {
    "threads": "{} thread(s)",
    "processes": "{} process(es)",
    "device": "device {}",
    "precision": "mixed precision {}",
    "machine": "{}",
    "processor": "{}",
    "instructions": "{} instructions",
}
"""What sums depend on by rounding, beside the versions of these: how their order is chosen."""
_COMPUTING = ("torch", "numpy")


def session_of(seed: int | None, processes: int, device: str, precision: str = "no") -> dict[str, Any]:
    """The entry of provenance.json for this session."""
    return {
        "started": now(),
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": device,
        "precision": precision,
        "seed": seed,
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes results differ by rounding between two sessions, as phrases; what an entry does not say is unknown.

    >>> changes({"threads": 1, "versions": {"torch": "2.6"}}, {"threads": 2, "device": "cpu", "versions": {}})
    ['1 thread(s) before, 2 thread(s) now']
    """
    found = [
        f"{text.format(before[key])} before, {text.format(after[key])} now"
        for key, text in _SAME.items()
        if key in before and key in after and before[key] != after[key]
    ]
    then, now_ = (entry.get("versions") for entry in (before, after))
    if isinstance(then, Mapping) and isinstance(now_, Mapping):
        found += [
            f"{name} {then[name]} before, {now_[name]} now"
            for name in _COMPUTING
            if name in then and name in now_ and then[name] != now_[name]
        ]
    return found


def _processor() -> str:
    """The name of the processor's model; "" where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
