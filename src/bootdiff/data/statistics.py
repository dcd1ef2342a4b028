"""What a source holds, before anything is trained on it: its moments, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, spaced_indices
from bootdiff.errors import BootdiffError

__all__ = ["measure", "report_problems"]

_VALUES = 1 << 22  # values looked at in one go


def measure(
    source: Dataset, scale: float = 1.0, limit: int | None = None, mask: Tensor | None = None, batch_size: int = 256
) -> dict[str, Any]:
    """Moments of a source in view coordinates, over its observed coordinates only (its own masks', else ``mask``'s).

    Returns mean (list, per channel), sigma_data (standard deviation about the channels' means), rms (root mean square
    about zero), min, max, count (samples seen: all, or ``limit`` evenly spaced ones). Sums run in float64 over one
    batch at a time. Raises BootdiffError where the data do not vary at all.
    """
    if len(source) == 0:
        raise BootdiffError(f"{source.where}: no samples to measure")
    chosen = spaced_indices(len(source), limit)
    channels = source.shape[0]
    total, square, weight = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    low, high = math.inf, -math.inf
    step = max(1, min(batch_size, _VALUES // math.prod(source.shape)))
    for start in range(0, len(chosen), step):
        x, _, masks = source.batch(chosen[start : start + step])
        x = x.double().mul_(scale)
        masks = mask if masks is None else masks
        axes = [axis for axis in range(x.ndim) if axis != 1]
        observed = x
        if masks is None:
            total += x.sum(axes)
            square += x.square().sum(axes)
            weight += x.numel() // channels
        else:
            seen = masks.double().expand_as(x)
            total += (x * seen).sum(axes)
            square += (x.square() * seen).sum(axes)
            weight += seen.sum(axes)
            observed = x[seen > 0]
        if observed.numel():
            low, high = min(low, observed.min().item()), max(high, observed.max().item())
    if weight.max() == 0:
        raise BootdiffError(f"{source.where}: the masks hide every pixel of the samples. White (255) means observed.")
    mean = total / weight.clamp_min(1)  # a channel that is hidden in every sample
    variance = ((square - total * mean).sum() / weight.sum()).item()
    if variance <= 1e-12 * scale**2:
        raise BootdiffError(
            f"{source.where}: all {len(chosen)} samples hold one and the same value ({low / scale:.6g} in [-1, 1]): "
            "there is nothing to learn. Check the path and, for float arrays, the declared range."
        )
    return {
        "mean": mean.tolist(),
        "sigma_data": math.sqrt(variance),
        "rms": math.sqrt(square.sum().item() / weight.sum().item()),
        "min": low,
        "max": high,
        "count": len(chosen),
    }


def report_problems(sources: Mapping[str, Dataset]) -> list[dict[str, str]]:
    """Problems of named sources as rows {"data", "file", "reason"} for the run directory, each source's once."""
    rows, seen = [], set()
    for name, source in sources.items():
        for problem in source.problems:
            # Parts of one source share its problems.
            if (source.where, problem) not in seen:
                seen.add((source.where, problem))
                rows.append({"data": name, "file": problem.file, "reason": problem.reason})
    return rows
