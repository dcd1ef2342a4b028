"""What each view is worth, before anything is trained: linear denoisers of Gaussians, evaluated on full samples.

The distribution is estimated from the full samples alone (`shrinkage`) and with the views' moments imposed on it
(`moment_matching`), and

    what views improve              is measured on held-out full samples (`cross_validation`),
    what they explain, leave over   is measured with the denoisers of their own distributions, evaluated on full samples
                                    (`explained_variance`),
    the full samples they replace   are those that the full-only estimate would need in addition to be as good, if the
                                    estimate from everything were the truth (`cross_validation.Curve`),
    the most that they could be     is what their exact second-order laws would bring then (`ceiling`).

Kept are the views without which the others are worse at some noise level, beyond chance; the least needed is dropped
first. Training applies the same test to held-out samples (`method.stages`, screening): a view whose distribution is not
that of A x0 makes the estimate worse, and one that the full samples or other views imply does not make it better.

A Gaussian has second moments only, and nothing of the edges, classes and modes that networks learn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from bootdiff.forecast.ceiling import Ceiling, Ceilings
from bootdiff.forecast.cross_validation import Curve, Gain, Trials, standard_error
from bootdiff.forecast.explained_variance import between, shared, shares
from bootdiff.moments.moment_matching import impose
from bootdiff.moments.shrinkage import Coordinates, Sampled, shrunk
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["Forecast", "ViewForecast", "forecast"]

_MISFIT = 0.25  # relative misfit on full samples from which a view's distribution counts as a different one


@dataclass(frozen=True)
class ViewForecast:
    """One view.

    Attributes:
        count: its files that were read.
        alone: what it improves by itself. added: what it improves in addition to the other kept views.
        ceiling: what its exact second-order law would improve by itself.
        share: of what can be known, per noise level.
        left_over: nats. shared: nats of mutual information with the rest; None for a view of several placements.
        fit: loss of the view's own distribution on the view of full samples, over its loss on itself, with standard
            error: 1 where the recipe describes the view correctly. None with too few files for a distribution.
        verdict: "keep", "dissimilar" (not the distribution of the full samples' view), "redundant" (other views imply
            it), "nothing" (the full samples imply it, or the gain is too small to be significant).
    """

    name: str
    count: int
    alone: Gain
    added: Gain
    ceiling: Ceiling
    share: list[float]
    left_over: float
    shared: float | None
    fit: tuple[float, float] | None
    verdict: str

    @property
    def keep(self) -> bool:
        """Whether it should be trained."""
        return self.verdict == "keep"


@dataclass(frozen=True)
class Forecast:
    """Everything; lists run over `levels`.

    Attributes:
        count, shape: of the full samples; dense: dimension of the dense part of the distribution.
        full_only: loss of the full samples alone, held out, with standard errors.
        known: what can be known beyond the isotropic Gaussian base, in units of its loss.
        together: what the kept views improve; share: of what can be known. ceiling: what their exact second-order
            laws would improve.
        left_over: nats; everything: nats that the isotropic Gaussian base leaves over; total_correlation: nats between
            kept views, None where they overlap or have several placements.
    """

    levels: list[float]
    shape: tuple[int, ...]
    count: int
    dense: int
    full_only: list[float]
    full_only_stderr: list[float]
    known: list[float]
    views: dict[str, ViewForecast]
    kept: list[str]
    together: Gain
    ceiling: Ceiling
    share: list[float]
    left_over: float
    everything: float
    total_correlation: float | None


def forecast(
    full: Tensor,
    measure: Callable[[Coordinates], Mapping[str, ViewMoments]],
    levels: Sequence[float],
    *,
    size: int = 1024,
    folds: int | Sequence[Sequence[int]] = 5,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Forecast:
    """The forecast.

    Args:
        full: full samples, (n, *shape), n >= 2.
        measure: returns the moments of each view's files, by the view's name, in these coordinates (`ViewMoments.of`).
        levels: noise levels, ascending.
        size: dimension of the dense part of the distribution, at most. The time grows with its cube.
        folds: of the cross-validation: how many, or the samples of each (where samples overlap, as windows may).
        progress: called with the share of the work that is done.

    Raises:
        ValueError: n < 2, samples that are constant or not finite, no views, levels that are not positive, finite and
            ascending.
    """
    levels = [float(s) for s in levels]
    if not levels or not all(0 < s < math.inf for s in levels) or any(a >= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"noise levels must be positive, finite and ascending, got {levels}")
    coordinates = Coordinates.of(full, size)
    views = dict(measure(coordinates))
    if not views:
        raise ValueError("there is no view to forecast for")
    c = coordinates.analyze(full)
    sets = 2 * len(views) + 2 if len(views) > 1 else 2
    trials = Trials(coordinates, c, views, levels, folds, seed, lambda done: progress(min(0.7, 0.7 * done / sets)))
    base = trials.losses(())
    kept, dropped = _choose(trials, list(views))
    for name in views:
        trials.gain([name]), trials.gain([*_others(kept, name), name], _others(kept, name))

    start = shrunk(coordinates, Sampled.of(coordinates, c), [trials.alpha(kept)])[0]
    everything = impose(start, [views[v] for v in kept])
    trained = max(1, round(len(trials.c) * (1 - 1 / trials.folds)))
    curve = Curve(everything, coordinates, levels, trained, lambda done: progress(0.7 + 0.15 * done))
    ceilings = Ceilings(everything, coordinates, levels, curve)
    found = shares(full, views, kept, coordinates, levels, trials.losses(kept).mean(1).tolist())
    out = {}
    for name, moments in views.items():
        others = _others(kept, name)
        fit = _fit(c[:, coordinates.kept], moments, levels)
        verdict = dropped.get(name, "keep")
        # an estimate from few files overfits them: by about the ratio of directions to files
        beyond = max(_MISFIT, 2 * moments.size / moments.count)
        if verdict != "keep" and fit is not None and fit[0] - 1 > max(3 * fit[1], beyond):
            verdict = "dissimilar"
        out[name] = ViewForecast(
            name, round(moments.count), curve.valued(trials.gain([name]), moments.count),
            curve.valued(trials.gain([*others, name], others), moments.count),
            ceilings.of([moments], trials.gain([name]).helps), found.each[name], found.left_over[name],
            shared(everything, moments, levels[0]), fit, verdict,
        )  # fmt: skip
        progress(0.85 + 0.14 * len(out) / (len(views) + 1))
    together = curve.valued(trials.gain(kept), sum(views[v].count for v in kept))
    ceiling = ceilings.of([views[v] for v in kept], together.helps)
    progress(1.0)
    return Forecast(
        levels, coordinates.shape, len(c), len(coordinates.kept), base.mean(1).tolist(),
        standard_error(base, trials.folds).tolist(), found.known, out, kept, together, ceiling, found.together,
        found.left_together, found.everything, between(everything, [views[v] for v in kept], levels[0]),
    )  # fmt: skip


def _others(kept: Sequence[str], name: str) -> list[str]:
    return [v for v in kept if v != name]


def _choose(trials: Trials, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The views to keep, and why the others are dropped: backward elimination."""
    kept, dropped = list(names), {}
    # as improbable by chance at the best of all levels as two standard errors at a single one (Bonferroni)
    least = NormalDist().inv_cdf(1 - 0.0455 / 2 / len(trials.levels))
    while kept:
        scores = {}
        for name in kept:
            gain = trials.gain(kept, _others(kept, name))
            sure = [z for z, on in zip(trials.z(kept, _others(kept, name)), gain.helps, strict=True) if on]
            scores[name] = (max(sure, default=0.0), sum(gain.raw))
        worst = min(kept, key=scores.__getitem__)
        if scores[worst][0] > least:
            break
        known = len(kept) > 1 and any(trials.gain([worst]).helps)
        dropped[worst] = "redundant" if known else "nothing"
        kept.remove(worst)
    return kept, dropped


def _fit(c: Tensor, moments: ViewMoments, levels: Sequence[float]) -> tuple[float, float] | None:
    """Loss of the view's own distribution on the view of full samples, over its loss on itself; standard error.

    Mean over the noise levels from the files' own noise on; c are the dense coordinates of the full samples, (n, m).
    """
    levels = [s for s in levels if s >= moments.tau] or [levels[-1]]
    if (
        moments.size == 0 or moments.count < 2 or moments.denoiser is None
    ):  # constant files: the loss on itself would be rounding
        return None
    lam, V = torch.linalg.eigh(moments.cov - moments.tau**2 * torch.eye(moments.size, dtype=torch.float64))
    lam = lam.clamp_min(1e-8 * float(lam.abs().max()) + 1e-300)
    squares = torch.stack(
        [((c @ R.T + o - moments.mean) @ V).square() for R, o in zip(moments.rows, moments.offset)]
    ).mean(0)
    ratio = torch.zeros(len(c), dtype=torch.float64)
    for s in levels:
        g = lam / (lam + s**2)
        ratio += (squares @ (1 - g) ** 2 + s**2 * g.square().sum()) / (s**2 * g.sum()) / len(levels)
    return float(ratio.mean()), float(ratio.std() / math.sqrt(len(ratio)))
