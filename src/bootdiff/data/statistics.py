"""What a data set holds, before anything is trained on it: its moments, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, spaced_indices
from bootdiff.errors import BootdiffError

__all__ = ["measure", "report_notes", "report_problems"]

_VALUES = 1 << 22  # values read at a time


def measure(
    dataset: Dataset, scale: float = 1.0, limit: int | None = None, mask: Tensor | None = None, batch_size: int = 256
) -> dict[str, Any]:
    """Moments of a data set in view coordinates, over its observed coordinates only (its own masks', else ``mask``'s).

    Returns mean (list, per channel), sigma_data (standard deviation about the channels' means), rms (root mean square
    about zero), min, max, observed (share of the values that masks leave), count (samples measured: all, or ``limit``
    evenly spaced ones). Sums run in float64 over one
    batch at a time. Raises BootdiffError where the data do not vary at all.
    """
    if len(dataset) == 0:
        raise BootdiffError(f"{dataset.where}: no samples to measure")
    chosen = spaced_indices(len(dataset), limit)
    channels = dataset.shape[0]
    total, square, weight = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    low, high = math.inf, -math.inf
    step = max(1, min(batch_size, _VALUES // math.prod(dataset.shape)))
    for start in range(0, len(chosen), step):
        x, _, masks = dataset.batch(chosen[start : start + step])
        x = x.double().mul_(scale)
        masks = mask if masks is None else masks
        axes = [axis for axis in range(x.ndim) if axis != 1]
        observed = x
        if masks is None:
            total += x.sum(axes)
            square += x.square().sum(axes)
            weight += x.numel() // channels
        else:
            weights = masks.double().expand_as(x)
            total += (x * weights).sum(axes)
            square += (x.square() * weights).sum(axes)
            weight += weights.sum(axes)
            observed = x[weights > 0]
        if observed.numel():
            low, high = min(low, observed.min().item()), max(high, observed.max().item())
    if weight.max() == 0:
        raise BootdiffError(f"{dataset.where}: the masks hide every pixel of the samples. White (255) means observed.")
    mean = total / weight.clamp_min(1)  # a channel that is hidden in every sample
    variance = ((square - total * mean).sum() / weight.sum()).item()
    if variance <= 1e-12 * scale**2:
        raise BootdiffError(
            f"{dataset.where}: all {len(chosen)} samples hold one and the same value ({low / scale:.6g} in [-1, 1]): "
            "there is nothing to learn. Check the path and, for float arrays, the declared range."
        )
    return {
        "mean": mean.tolist(),
        "sigma_data": math.sqrt(variance),
        "rms": math.sqrt(square.sum().item() / weight.sum().item()),
        "observed": (weight.sum() / (channels * len(chosen) * math.prod(dataset.shape[1:]))).item(),
        "min": low,
        "max": high,
        "count": len(chosen),
    }


def report_problems(datasets: Mapping[str, Dataset]) -> list[dict[str, str]]:
    """Problems of named data sets as rows {"data", "file", "reason"} for the run directory, each data set's once."""
    rows, reported = [], set()
    for name, dataset in datasets.items():
        for problem in dataset.problems:
            # Parts of one data set share its problems.
            if (dataset.where, problem) not in reported:
                reported.add((dataset.where, problem))
                rows.append({"data": name, "file": problem.file, "reason": problem.reason})
    return rows


def report_notes(datasets: Mapping[str, Dataset]) -> list[str]:
    """What was done to the files of named data sets, or passed over, a line each: "full: 412 resized"."""
    lines: dict[tuple[str, str], str] = {}
    for name, dataset in datasets.items():
        for note in dataset.notes:
            # Parts of one data set share its notes.
            lines.setdefault((dataset.where, note), f"{name}: {note}")
    return list(lines.values())
