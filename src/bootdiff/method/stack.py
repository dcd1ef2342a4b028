"""The stack: the finished denoiser, experts weighed against each other per noise level.

    D(x, sigma) = V + sum_k kappa_k(sigma) (D_k - V),     kappa_k >= 0 fitted on held-out samples (`weights`),

with the composite V and experts D_k trained separately: residual experts, and denoisers of the full samples alone.  A
single expert's kappa is the closed-form shrinkage of the residual.  Where a weight is 0, its expert is not evaluated.
An expert is several snapshots of one training, each noise level using the one that held-out samples chose for it.
Sources: stacking: Wolpert 1992, Breiman 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.denoise import Denoiser, expand
from bootdiff.method.composite import CompositeDenoiser, Estimates, takes_classes
from bootdiff.method.residual import ResidualExpert
from bootdiff.noise import in_one_graph, interpolate, nearest_level, on_host, some_rows

__all__ = ["SnapshotsByNoiseLevel", "StackedDenoiser", "ask"]


class SnapshotsByNoiseLevel(Denoiser):
    """Several snapshots of one expert; each noise level uses the one that held-out samples chose for it.

    Args:
        members: the snapshots, alike but for their networks' weights.
        levels: noise levels, ascending; in between, the nearest in ln sigma counts.
        choice: index into `members` for each level.
    """

    def __init__(self, members: Sequence[ResidualExpert], levels: Sequence[float], choice: Sequence[int]) -> None:
        super().__init__()
        self.members, self.shape = nn.ModuleList(members), members[0].shape
        self.levels, self.choice = list(levels), list(choice)

    @property
    def config(self) -> dict[str, Any]:
        return {"members": list(self.members), "levels": self.levels, "choice": self.choice}

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        at: Estimates | None = None,
    ) -> Tensor:
        """D_k(x, sigma), (B, *shape); `at`: the composite's estimates at x, where they are there already."""
        if in_one_graph():
            chosen = torch.tensor(self.choice, device=x.device)[nearest_level(sigma, self.levels)]
            every = {k: self.members[k](x, sigma, label, context, at=at) for k in sorted(set(self.choice))}
            return sum((expand(chosen == k, x) * part for k, part in every.items()), torch.zeros_like(x))
        chosen = torch.tensor(self.choice)[nearest_level(on_host(sigma), self.levels)]
        used = chosen.unique().tolist()
        if len(used) == 1:
            return self.members[used[0]](x, sigma, label, context, at=at)
        out = torch.zeros_like(x)
        for k in used:
            rows = (chosen == k).nonzero()[:, 0]
            there = rows.to(x.device)
            its = None if context is None else context[there]
            part = self.members[k](x[there], some_rows(sigma, rows), some_rows(label, rows), its, at=_rows(at, there))
            out = out.index_copy(0, there, part.to(x.dtype))
        return out


class StackedDenoiser(Denoiser):
    """D: the composite and experts on it, weighed.

    Where views were trained with classes and no expert was, D(c) is D(none) with the views' own estimates for the class
    in their row spaces: the weights, fitted on samples of no class, would all but silence them.

    Args:
        composite: V (without views: the prior).
        experts: D_k; experts that take the composite's estimates, or any other denoisers of the full samples.
        levels: noise levels of `weights`, ascending.
        weights: kappa_k at each level, (levels, experts); None stands for 1 / experts.
        noise_shift: share by which samplers understate the noise to it (`noise_shift`).
    """

    def __init__(
        self,
        composite: CompositeDenoiser,
        experts: Sequence[Denoiser],
        levels: Sequence[float],
        weights: Sequence[Sequence[float]] | None = None,
        noise_shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.noise_shift = float(noise_shift)
        if not -1 < self.noise_shift < 1:
            raise ValueError(f"noise_shift must be above -1 and below 1, got {noise_shift}")
        self.composite, self.experts, self.shape = composite, nn.ModuleList(experts), composite.shape
        count = len(experts)
        values = torch.full((len(levels), count), 1 / max(count, 1)) if weights is None else torch.tensor(weights)
        # They stay on the CPU, where it is decided what is evaluated, without waiting for a device.
        self.levels = torch.tensor(list(levels), dtype=torch.float64)
        self.weights = values.double().reshape(len(levels), count)
        self._weighed = (self.weights > 0).any(0).tolist()  # anywhere
        self._classed_by_views = (
            count > 0 and not any(map(_own_classes, experts)) and any(map(takes_classes, composite.denoisers.values()))
        )

    @property
    def config(self) -> dict[str, Any]:
        return {
            "composite": self.composite,
            "experts": list(self.experts),
            "levels": self.levels.tolist(),
            "weights": self.weights.tolist(),
            "noise_shift": self.noise_shift,
        }

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, *shape)."""
        if label is None or not self._classed_by_views:
            return self._stacked(x, sigma, label, context)
        return self.composite.of_class(self._stacked(x, sigma, None, context), x, sigma, label)

    def _stacked(self, x: Tensor, sigma: Tensor, label: Tensor | None, context: Tensor | None) -> Tensor:
        at = self.composite.estimate(x, sigma, label)
        kappa = interpolate(on_host(sigma), self.levels, self.weights)
        out = at.mean
        for k, expert in enumerate(self.experts):
            active = kappa[:, k] > 0
            if in_one_graph():
                if self._weighed[k]:
                    found = ask(expert, x, sigma, label, context, at)
                    out = out + expand(kappa[:, k].to(x.dtype), x) * (found - at.mean)
                continue
            if not bool(active.any()):
                continue
            if bool(active.all()):
                found = ask(expert, x, sigma, label, context, at)
                out = out + expand(kappa[:, k].to(x.dtype), x) * (found - at.mean)
                continue
            rows = active.nonzero()[:, 0]
            there = rows.to(x.device)
            its = None if context is None else context[there]
            found = ask(expert, x[there], some_rows(sigma, rows), some_rows(label, rows), its, _rows(at, there))
            r = expand(kappa[rows, k].to(x.dtype), x) * (found - at.mean[there])
            out = out.index_add(0, there, r.to(out.dtype))
        return out


def ask(
    expert: nn.Module, x: Tensor, sigma: Tensor, label: Tensor | None, context: Tensor | None, at: Estimates | None
) -> Tensor:
    """D_k(x, sigma), given the composite's estimates at x, which residual experts need not compute again."""
    shared = {"at": at} if isinstance(expert, ResidualExpert | SnapshotsByNoiseLevel) else {}
    return expert(x, sigma, label, context, **shared)


def _own_classes(expert: Denoiser) -> bool:
    """Whether an expert's networks take classes; its composite's do not count."""
    if isinstance(expert, SnapshotsByNoiseLevel):
        return any(map(_own_classes, expert.members))  # type: ignore[arg-type]
    return takes_classes(expert.net if isinstance(expert, ResidualExpert) else expert)


def _rows(at: Estimates | None, rows: Tensor) -> Estimates | None:
    if at is None:
        return None
    return Estimates(*(None if v is None else v[rows] for v in at))  # type: ignore[arg-type]
