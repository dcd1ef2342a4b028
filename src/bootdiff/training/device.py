"""Where a training computes: accelerate's Accelerator for a device by name, on one process or several.

accelerate takes several processes without a GPU for several trainings, unless it is told that the CPU is meant; so
"auto" says so where there is nothing else. And it keeps one precision and one device for the whole process; a training
that asks for others after an earlier one gets them all the same. What is not trained needs no Accelerator, only the
device (`chosen_device`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.processes import end_with_launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["DEVICES", "chosen_device", "chosen_precision", "device_name", "make_accelerator"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def device_name(device: torch.device) -> str:
    """What a device is, for provenance."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def chosen_device(device: str) -> torch.device:
    """The device of this name; auto: a GPU where there is one.

    Raises:
        ValueError: no such device.
        BootdiffError: a device that torch does not find here.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise BootdiffError(f"device: {device}: torch finds none here; write `device: auto` (or cpu)")
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(device)


def chosen_precision(precision: str, device: str) -> str:
    """The mixed precision of this name on a kind of device; auto: bf16 where it has units for it, else none.

    Such are GPUs since 2020 and processors with AMX (Intel's since 2023); others compute bf16 in float32, more slowly
    than float32 itself.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "no"


def make_accelerator(device: str, precision: str, **options: Any) -> Accelerator:
    """The Accelerator of this process; one that was made before for another device or precision is of no use then.

    Args:
        device: one of `DEVICES`; auto: a GPU where there is one.
        precision: accelerate's `mixed_precision`, or auto (`chosen_precision`).
        options: further arguments of Accelerator.

    Raises:
        ValueError: no such device.
        BootdiffError: a device that torch does not find here.
    """
    kind = chosen_device(device).type
    precision = chosen_precision(precision, kind)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    end_with_launcher()
    if AcceleratorState._shared_state:
        before = AcceleratorState()
        if before.mixed_precision != precision or before.device.type != kind:
            AcceleratorState._reset_state(reset_partial_state=before.num_processes == 1)
    return Accelerator(cpu=kind == "cpu", mixed_precision=precision, **options)
