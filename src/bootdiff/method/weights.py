"""Gains and stacking weights: a small regression per noise level, cross-validated over samples, smoothed over ln sigma.

Both are the same problem.  At noise level sigma a target t is explained by K candidate vectors e_k,

    w(sigma) = argmin  E | t - sum_k w_k e_k |^2 + rho tr(G)/K |w|^2,      G = E<e_j, e_k>,  h = E<e_k, t>;

* *gains* lambda: t = x0 - b, e_i = A_i^T [d_i(A_i x) - b(A_i x)], the lifted view evidence, on full samples that no
  view was trained on;
* *stacking weights* kappa >= 0: t = x0 - V, e_k = D_k - V, on held-out full samples (a single expert: the closed-form
  least-squares shrinkage of the residual).

All sums are kept per sample, so that the ridge rho and the width of the Gaussian smoothing of G and h over ln sigma
are chosen by cross-validation over *samples*, one choice for all levels.  A candidate whose out-of-sample improvement
at a level is not above `prune` standard errors gets exactly 0 there, and then its network is never evaluated: a
dissimilar view costs compute in training, and nothing in sampling.
Sources: ridge regression: Hoerl and Kennard 1970; stacking with non-negative weights: Wolpert 1992, Breiman 1996.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

__all__ = ["Moments", "Weights", "WeightsRecord", "fit_weights"]

RIDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
_NOTHING = 1e-12  # share of the target's energy below which a candidate's is rounding (float32 networks)
_TIE = 1e-3  # standard errors by which candidates that are as useful as one another may differ by rounding


@dataclass
class Moments:
    """Sums of inner products per level and sample, float64, means over coordinates (in units of c_out^2).

    gram: (levels, n, K, K); cross: (levels, n, K); power: (levels, n), the target's own energy.
    """

    gram: Tensor
    cross: Tensor
    power: Tensor

    @classmethod
    def empty(cls, levels: int, n: int, k: int) -> Moments:
        zeros = [torch.zeros(levels, n, *tail, dtype=torch.float64) for tail in ((k, k), (k,), ())]
        return cls(*zeros)

    def add(self, level: int, index: Tensor, target: Tensor, candidates: Sequence[Tensor], scale: Tensor) -> None:
        """Count a batch: target and candidates (B, ...), index (B,) of its samples, scale (B,) = 1 / c_out."""
        t = (target.flatten(1) * scale[:, None]).double()
        size = t.shape[1]
        e = torch.stack([c.flatten(1) * scale[:, None] for c in candidates], 1).double()
        index = index.to(t.device)
        for store, value in (
            (self.gram, torch.einsum("bkd,bjd->bkj", e, e)),
            (self.cross, torch.einsum("bkd,bd->bk", e, t)),
            (self.power, (t * t).sum(1)),
        ):
            store[level].index_add_(0, index.cpu(), (value / size).cpu())

    def loss(self, weights: Tensor) -> Tensor:
        """Energy left per level and sample, (levels, n), for weights (levels, K)."""
        w = weights.double()
        quadratic = torch.einsum("lk,lnkj,lj->ln", w, self.gram, w)
        return self.power - 2 * torch.einsum("lk,lnk->ln", w, self.cross) + quadratic

    def take(self, index: Tensor) -> Moments:
        """Only the samples of `index`."""
        return Moments(self.gram[:, index], self.cross[:, index], self.power[:, index])


@with_config(ConfigDict(strict=True, extra="forbid"))
class WeightsRecord(TypedDict):
    """`Weights.record`; what was not finite is None."""

    levels: list[float]
    names: list[str]
    values: list[list[float]]
    explained: list[float | None]
    significance: list[list[float | None]]
    ridge: float
    smooth: float


@dataclass
class Weights:
    """What a regression found.

    values: (levels, K).  explained: share of the target's energy explained out of sample, per level.  significance:
    out-of-sample improvement by each candidate in standard errors, (levels, K).  ridge, smooth: as cross-validated.
    """

    values: Tensor
    explained: Tensor
    significance: Tensor
    ridge: float
    smooth: float

    def record(self, levels: Sequence[float], names: Iterable[str]) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "levels": list(levels),
            "names": list(names),
            "values": self.values.tolist(),
            "explained": self.explained.tolist(),
            "significance": self.significance.tolist(),
            "ridge": self.ridge,
            "smooth": self.smooth,
        }


def _nnls(gram: Tensor, cross: Tensor) -> Tensor:
    """argmin_w>=0 w'Gw - 2 h'w, by Lawson and Hanson's method on the Cholesky factor of G."""
    from scipy.optimize import nnls

    factor = torch.linalg.cholesky(gram)
    right = torch.linalg.solve_triangular(factor, cross[:, None], upper=False)[:, 0]
    return torch.from_numpy(nnls(factor.T.numpy(), right.numpy())[0])


def _solve(m: Moments, log_levels: Tensor, active: Tensor, ridge: float, smooth: float, nonnegative: bool) -> Tensor:
    """Weights (levels, K) from the mean moments; candidates that are inactive or nothing but rounding get 0."""
    power = m.power.mean(1).clamp_min(1e-30)
    gram, cross = m.gram.mean(1) / power[:, None, None], m.cross.mean(1) / power[:, None]
    if smooth > 0:
        kernel = torch.exp(-0.5 * ((log_levels[:, None] - log_levels) / smooth) ** 2)
        kernel = kernel / kernel.sum(1, keepdim=True)
        gram, cross = torch.einsum("lm,mjk->ljk", kernel, gram), kernel @ cross
    levels, k = cross.shape
    out = torch.zeros(levels, k, dtype=torch.float64)
    for level in range(levels):
        on = (active[level] & (gram[level].diagonal() > _NOTHING)).nonzero()[:, 0]
        if not len(on):
            continue
        g, h = gram[level][on][:, on], cross[level][on]
        size = float(g.diagonal().mean())
        g = g + (ridge + 1e-9) * size * torch.eye(len(on), dtype=g.dtype)
        out[level, on] = _nnls(g, h) if nonnegative else torch.linalg.solve(g, h)
    return out


def fit_weights(
    moments: Moments,
    levels: Sequence[float],
    folds: int = 5,
    smooth: Sequence[float] = (0.0, 0.35, 0.7),
    nonnegative: bool = False,
    prune: float = 2.0,
    ridges: Sequence[float] = RIDGES,
    joint: bool = False,
) -> Weights:
    """Solve the regression of this file.

    Args:
        moments: per level and sample.
        levels: noise levels, ascending.
        folds: of the cross-validation over samples (at most as many as samples; one sample: no ridge, no pruning).
        smooth: widths of the smoothing over ln sigma to choose from, 0 for none.
        nonnegative: whether weights must be >= 0.
        prune: standard errors by which a candidate must improve the out-of-sample loss of a level to stay there.
        ridges: relative ridge strengths to choose from.
        joint: a candidate is judged once, by the mean over all levels, and stays or goes at all of them.

    Raises:
        ValueError: moments that are not finite; more candidates than 12.
    """
    count, n, k = moments.cross.shape
    if k > 12:
        raise ValueError(f"at most 12 views or experts can be weighed at once, got {k}")
    if not all(bool(v.isfinite().all()) for v in (moments.gram, moments.cross, moments.power)):
        raise ValueError("the estimates to be weighed contain NaN or infinity: a denoiser has diverged")
    log_levels = torch.tensor([math.log(s) for s in levels], dtype=torch.float64)
    active = torch.ones(count, k, dtype=torch.bool)
    nothing = torch.zeros(count, k, dtype=torch.float64)
    if k == 0 or n < 2:
        values = nothing if k == 0 else _solve(moments, log_levels, active, 0.0, 0.0, nonnegative)
        left = moments.loss(values).mean(1) / moments.power.mean(1).clamp_min(1e-30)
        return Weights(values, 1 - left, nothing, 0.0, 0.0)

    fold = torch.arange(n) % min(folds, n)
    parts = [(moments.take((fold != j).nonzero()[:, 0]), (fold == j).nonzero()[:, 0]) for j in range(min(folds, n))]

    def out_of_sample(active: Tensor, ridge: float, width: float) -> Tensor:
        loss = torch.zeros(count, n, dtype=torch.float64)
        for rest, at in parts:
            loss[:, at] = moments.take(at).loss(_solve(rest, log_levels, active, ridge, width, nonnegative))
        return loss

    power = moments.power.mean(1, keepdim=True).clamp_min(1e-30)
    options = [(float((out_of_sample(active, r, s) / power).mean()), r, s) for r in ridges for s in smooth]
    _, ridge, width = min(options)

    significance = torch.zeros(count, k, dtype=torch.float64)
    while True:
        # Backward elimination: at each level the least useful candidate goes first, then all are weighed anew.
        full = out_of_sample(active, ridge, width)
        worst = torch.full((count,), float("inf"), dtype=torch.float64)
        which = torch.zeros(count, dtype=torch.long)
        for i in range(k):
            without = active.clone()
            without[:, i] = False
            better = out_of_sample(without, ridge, width) - full
            better = better.mean(0, keepdim=True).expand(count, n) if joint else better
            error = (better.std(1) / math.sqrt(n)).clamp_min(1e-12 * power[:, 0])
            score = better.mean(1) / error
            significance[:, i] = torch.where(active[:, i], score, torch.zeros_like(score))
            lower = active[:, i] & (score < worst - _TIE)  # of equal ones the first
            worst, which = torch.where(lower, score, worst), torch.where(lower, i, which)
        drop = (worst < prune).nonzero()[:, 0]
        if not len(drop):
            break
        active[drop, which[drop]] = False
    values = _solve(moments, log_levels, active, ridge, width, nonnegative)
    values = torch.where(active, values, torch.zeros_like(values))
    explained = 1 - out_of_sample(active, ridge, width).mean(1) / power[:, 0]
    return Weights(values, explained, significance, ridge, width)
