"""A loss in which noise levels count as much as samples need them, beside the plain mean over the levels.

The mean denoising loss weights all levels alike, and samples do not: replaced by a better denoiser at 0.4 to 3, a model
draws much better ones, below 0.1 hardly any.  With weights w_l of the levels s_l,

    L_w  =  sum_l w_l L(s_l) / sum_l w_l.

The weights were measured once and are the same for all data and arms: weights measured on the arms under test would
only repeat their FID.  `SHARES` says how much of the difference in FID between bootdiff's and the oracle's samples goes
where at the noise levels of one range the oracle's denoiser is asked in place of bootdiff's (`evaluation.swap`).  A
range's share is divided among the levels of `noise.LEVELS` in it, low <= s < high; what lies between is linear in ln s,
and the ends are constant (`noise.interpolate`).  So the weights are for levels about a factor of two apart, as those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bootdiff.noise import LEVELS, interpolate

__all__ = ["SAMPLE_WEIGHTS", "SHARES", "weighted_loss", "weighted_mean", "weights_at"]

SHARES: dict[tuple[float, float], float] = {
    (0.0, 0.1): 0.04,
    (0.1, 0.4): 0.18,
    (0.4, 1.0): 0.49,
    (1.0, 3.0): 0.75,
    (3.0, math.inf): 0.21,
}
"""(low, high) sigma -> share of the FID between bootdiff (4.49) and the oracle (2.52) that swapping there closes.

Measured on the demo's digits (8 x 8, 80 in full, seed 0) with 400 samples of 25 steps: FID 4.42, 4.13, 3.53, 3.01 and
4.08.  Ranges are swapped one at a time, so their shares need not add up to 1 (here: to 1.67).
"""


def _divided() -> dict[float, float]:
    within = {r: [s for s in LEVELS if r[0] <= s < r[1]] for r in SHARES}
    return {s: SHARES[r] / len(levels) for r, levels in within.items() for s in levels}


SAMPLE_WEIGHTS: dict[float, float] = _divided()
"""Noise level -> its weight, not normalized: a range's share divided among its levels."""


def weights_at(levels: Sequence[float]) -> Tensor:
    """The weights of these noise levels, (L,) float64, of sum 1.

    Raises:
        ValueError: no levels, or one that is not above 0.

    >>> [round(float(w), 3) for w in weights_at([0.1, 0.4, 1.6])]
    [0.083, 0.226, 0.691]
    """
    sigma = torch.tensor([float(s) for s in levels], dtype=torch.float64)
    if not len(sigma) or not bool((sigma > 0).all()):
        raise ValueError(f"sample weights need noise levels above 0, got {list(levels)}")
    known = torch.tensor(list(SAMPLE_WEIGHTS.items()), dtype=torch.float64)
    weights = interpolate(sigma, known[:, 0], known[:, 1])
    return weights / weights.sum()


def weighted_loss(per_level: Sequence[float], levels: Sequence[float]) -> float:
    """The sample-weighted loss of the losses at each level.

    Args:
        per_level: loss at each level, or the difference of two arms'.
        levels: their noise levels, all above 0.

    Raises:
        ValueError: as many losses as levels are not given; as `weights_at`.

    >>> weighted_loss([0.5, 0.5, 0.5], [0.05, 0.3, 20.0])
    0.5
    """
    if len(per_level) != len(levels):
        raise ValueError(f"weighted_loss needs one loss for each level, got {len(per_level)} of {len(levels)} levels")
    return float(weights_at(levels) @ torch.tensor(list(per_level), dtype=torch.float64))


def weighted_mean(entry: Mapping[str, Any]) -> float:
    """The sample-weighted loss of an arm's entry in a table of losses: of {"per_level": {"0.05": {"mean"}, ...}}."""
    rows = entry["per_level"]
    return weighted_loss([row["mean"] for row in rows.values()], [float(s) for s in rows])
