"""Where a training computes: accelerate's Accelerator for a device by name, on one process or several.

accelerate takes several processes without a GPU for several trainings, unless it is told that the CPU is meant; so
"auto" says so where there is nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.processes import end_with_launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["DEVICES", "device_name", "make_accelerator"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def device_name(device: torch.device) -> str:
    """What a device is, for provenance."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def make_accelerator(device: str, precision: str, **options: Any) -> Accelerator:
    """The Accelerator of this process.

    Args:
        device: one of `DEVICES`; auto: a GPU where there is one.
        precision: accelerate's `mixed_precision`.
        options: further arguments of Accelerator.

    Raises:
        ValueError: no such device.
        BootdiffError: a device that torch does not find here.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise BootdiffError(f"device: {device}: torch finds none here; write `device: auto` (or cpu)")
    from accelerate import Accelerator

    end_with_launcher()
    alone = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    return Accelerator(cpu=alone, mixed_precision=precision, **options)
