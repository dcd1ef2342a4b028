"""Classifier-free guidance: a class-conditional denoiser, sharpened toward its class.

A network that was trained with labels, some of them dropped, gives both D(x, sigma, c) and D(x, sigma, none).  Guidance
of weight w extrapolates from the latter through the former (Ho, Salimans 2022, arXiv 2207.12598, equation 6),

    D_w = D(none) + w (D(c) - D(none)),

so w = 0 ignores the class, w = 1 is the class's own distribution, and w > 1 sharpens it, at the cost of diversity.  It
can be limited to an interval of noise levels, where it helps (Kynkaanniemi et al. 2024, arXiv 2404.07724); outside,
w = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser
from bootdiff.noise import noted, on_host, some_rows

__all__ = ["GuidedDenoiser"]


class GuidedDenoiser(Denoiser):
    """D_w of a class-conditional denoiser.

    Args:
        denoiser: D; evaluated twice where there is a class and w is neither 0 nor 1, else once.
        weight: w >= 0.
        interval: [lowest, highest] noise level with guidance, both included; None: all.

    Raises:
        ValueError: a weight that is negative or not finite, an invalid interval.
    """

    def __init__(self, denoiser: Denoiser, weight: float, interval: Sequence[float] | None = None) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"guidance must be a weight >= 0 (1: none), got {weight}")
        if interval is not None and (len(interval) != 2 or not 0 <= interval[0] < interval[1]):
            raise ValueError(f"guidance interval must be [low, high], 0 <= low < high, got {list(interval)}")
        self.denoiser, self.shape, self.weight = denoiser, denoiser.shape, float(weight)
        self.noise_shift = getattr(denoiser, "noise_shift", 0.0)
        self.interval = None if interval is None else [float(v) for v in interval]
        self.config = {"denoiser": denoiser, "weight": self.weight, "interval": self.interval}

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D_w(x, sigma), (B, *shape); rows whose label is -1 (all, without labels) are D(none)."""
        if label is None or self.weight == 1:
            return self.denoiser(x, sigma, label, context)
        low, high = self.interval or (0.0, math.inf)
        levels = on_host(sigma)
        guided = (on_host(label) >= 0) & (levels >= low) & (levels <= high)
        if self.weight == 0:
            rest = torch.where(guided, -1, on_host(label))
            return self.denoiser(x, sigma, noted(rest.to(label.device), rest), context)
        d = self.denoiser(x, sigma, label, context)
        if not bool(guided.any()):
            return d
        # Usually all rows are guided, as they share one noise level: no copies then.
        if bool(guided.all()):
            free = self.denoiser(x, sigma, _no_class(label), context)
            return free + self.weight * (d - free)
        rows = guided.nonzero()[:, 0]
        pick = rows.to(x.device)
        part = None if context is None else context[pick]
        free = self.denoiser(x[pick], some_rows(sigma, rows), _no_class(label[pick]), part)
        return torch.index_copy(d, 0, pick, free + self.weight * (d[pick] - free))


def _no_class(label: Tensor) -> Tensor:
    return noted(torch.full_like(label, -1), torch.full(label.shape, -1))
