"""Ceilings: what a view would bring if its exact second-order law were known, as from any number of files.

Let p, the estimate from everything, be the truth, q full-only's estimate from n samples of p, and q' the distribution
nearest to q whose view y = A x has exactly the mean and covariance that it has under p: q' = p(y) q(x | y). By the
chain rule, and by I-MMSE (Guo, Shamai, Verdu 2005; mismatched: Verdu 2010),

    KL(p || q) - KL(p || q') = KL(p_y || q_y) = 1/2 int (L_q - L_q') d gamma,      L the expected squared error under p,

is what a perfect model of the view saves: nothing that its files can tell saves more. Several views are imposed in
turn (`moment_matching`). Here n is the number of samples of the trials' estimates, and L is the mean over data sets
drawn from p, with the best alpha per noise level; the integral runs over the given noise levels.

A ceiling of second-order statistics only: networks also learn what lies beyond means and covariances. After training,
two denoisers of the view measure it (`evaluation.ceilings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bootdiff.forecast.cross_validation import ALPHAS, WORTH, Curve, expected
from bootdiff.forecast.explained_variance import nats
from bootdiff.moments.moment_matching import impose, pooled
from bootdiff.moments.shrinkage import Coordinates, Estimate, shrunk
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["Ceiling", "Ceilings", "known_exactly"]

_FILES = 1e12  # so many that nothing is shrunk


@dataclass(frozen=True)
class Ceiling:
    """What views are worth at most.

    Attributes:
        loss: with their exact second-order law, per noise level; gain: how much lower that is than without.
        nats: saved over the range of the noise levels.
        samples: full samples that would lower the loss as much, at the noise levels where the views help.
        beyond: more than that: the curve of full-only's loss ends there.
        share: of the loss that everything known would save, in the mean over the noise levels.
    """

    loss: list[float]
    gain: list[float]
    nats: float
    samples: float
    beyond: bool
    share: float


def known_exactly(truth: Estimate, view: ViewMoments) -> ViewMoments:
    """The view with the moments that any number of its files would have under `truth`."""
    mean, cov = pooled(truth, view)
    return replace(view, mean=mean, cov=cov + view.tau**2 * torch.eye(view.size, dtype=cov.dtype), count=_FILES)


class Ceilings:
    """Ceilings of any set of views.

    Args:
        truth: the estimate from everything.
        coordinates: of the full samples.
        levels: noise levels.
        curve: full-only's losses, from its first number of samples on.
    """

    def __init__(self, truth: Estimate, coordinates: Coordinates, levels: Sequence[float], curve: Curve) -> None:
        self.truth, self.coordinates, self.levels, self.curve = truth, coordinates, levels, curve
        self._starts = [shrunk(coordinates, found, ALPHAS) for found in curve.first]
        self._without = curve.loss[0]
        self._known = expected(truth, truth, coordinates, levels)

    def of(self, views: Sequence[ViewMoments], helps: Sequence[bool]) -> Ceiling:
        """The ceiling of these views together, in full samples at the levels where they help (nowhere: where their
        exact law would)."""
        loss = self._losses([known_exactly(self.truth, view) for view in views])
        gain = (self._without - loss).clamp_min(0)
        on = torch.tensor(list(helps))
        if not bool(on.any()):
            on = gain > WORTH * self._without
        samples, beyond = self.curve.samples(torch.where(on, gain, 0.0).mean(), on)
        gap = float((self._without - self._known).clamp_min(0).mean())
        return Ceiling(
            loss.tolist(), gain.tolist(), nats(gain, self.coordinates, self.levels), samples, beyond,
            min(float(gain.mean()) / gap, 1.0) if gap > 0 else 0.0,
        )  # fmt: skip

    def _losses(self, views: Sequence[ViewMoments]) -> Tensor:
        """(levels,): with the best alpha at each, mean over the data sets."""
        each = [
            torch.stack([expected(impose(e, views), self.truth, self.coordinates, self.levels) for e in starts])
            for starts in self._starts
        ]
        return torch.stack(each).mean(0).amin(0)
