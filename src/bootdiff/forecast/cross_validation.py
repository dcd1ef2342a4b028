"""Linear denoisers evaluated on held-out full samples: what views improve, and how many full samples that is worth.

An estimate N(m, S) is a denoiser, D(x) = m + W (x - m), W = S (S + sigma^2 I)^-1, whose risk on a sample c is, with the
noise averaged exactly,

    |(I - W)(c - m)|^2 + sigma^2 tr W^2 .

Its loss is that over the isotropic Gaussian base's, dim sigma^2 sigma_d^2 / (sigma^2 + sigma_d^2). Folds of the full
samples are held out in turn, nothing of a fold is in its estimate, and alpha is the best one per noise level and set of
views, as training stops at the best step per noise level. The K folds' estimates share samples, so that a mean over n
losses has the variance s^2 / n (1 + K / (K - 1)) (Nadeau and Bengio 2003, section 3: (1/J + n2/n1) s^2,
n2/n1 = 1 / (K - 1)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bootdiff.moments.moment_matching import impose
from bootdiff.moments.shrinkage import Coordinates, Estimate, Sampled, shrunk
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["ALPHAS", "WORTH", "Curve", "Gain", "Trials", "expected", "risks", "standard_error"]

ALPHAS = (0.01, 0.07, 0.25, 0.5, 0.75, 0.92)
_Z = 1.645  # 90 % interval
_SURE = 2.0  # standard errors, as the recipe's gains.prune is by default
WORTH = 0.002  # share of the loss below which an improvement does not count
_DOUBLINGS = 8  # of the number of full samples, to find as good a full-only estimate
_DRAWS = (4, 4, 2, 2)  # data sets drawn at the first of these numbers; then one


@dataclass(frozen=True)
class Gain:
    """What views improve, lists over the noise levels.

    Attributes:
        loss: with the views.
        raw: how much lower it is than without, negative where they are harmful; stderr of that.
        helps: whether it is lower by 0.2 % and by two standard errors on these samples, the test of training's
            screening. Elsewhere training ignores the views.
        mean: of the improvement where it helps, 0 elsewhere, over all levels; mean_stderr.
        samples: full samples that it is worth, per level; mean_samples: those of the mean; interval of these, 90 %.
    """

    loss: list[float]
    raw: list[float]
    stderr: list[float]
    helps: list[bool]
    mean: float
    mean_stderr: float
    samples: list[float] = field(default_factory=list)
    mean_samples: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)

    @property
    def gain(self) -> list[float]:
        """The improvement where it helps, 0 elsewhere."""
        return [raw if on else 0.0 for raw, on in zip(self.raw, self.helps, strict=True)]


def risks(estimate: Estimate, coordinates: Coordinates, c: Tensor, levels: Sequence[float]) -> Tensor:
    """Loss of the estimate's denoiser on each sample of coordinates c (n, d): (levels, n)."""
    lam, U = torch.linalg.eigh(estimate.cov)
    within = ((c[:, coordinates.kept] - estimate.mean) @ U).square()
    return _losses(estimate.rest, lam.clamp_min(0), within, c[:, coordinates.left].square(), coordinates, levels)


def _losses(rest: Tensor, lam: Tensor, within: Tensor, outside: Tensor, coordinates: Coordinates,
            levels: Sequence[float]) -> Tensor:  # fmt: skip
    """Losses (levels, n) from squares (or their means) along the eigenvectors and outside the dense coordinates."""
    out = []
    for s in levels:
        g, r = lam / (lam + s**2), rest / (rest + s**2)
        risk = within @ (1 - g) ** 2 + outside @ (1 - r) ** 2 + s**2 * (g.square().sum() + r.square().sum())
        out.append(risk / (coordinates.unit(s) * coordinates.dim))
    return torch.stack(out)


def standard_error(values: Tensor, folds: int | None) -> Tensor:
    """Of the mean over the last axis; of other data sets like this one where the number of folds is given."""
    return (values.var(-1) / values.shape[-1] * (1 if folds is None else 1 + folds / (folds - 1))).sqrt()


class Trials:
    """Cross-validated losses of any set of views, each computed once.

    Args:
        coordinates: of the full samples.
        c: `coordinates.analyze` of all n >= 2 full samples, (n, d).
        views: the moments of each view's files.
        levels: noise levels.
        folds: their number, at most n; or the samples of each, disjoint, at least two (some samples may be in none).
        seed: of the division into folds.
        progress: called with the number of sets done.
    """

    def __init__(self, coordinates: Coordinates, c: Tensor, views: dict[str, ViewMoments], levels: list[float],
                 folds: int | Sequence[Sequence[int]], seed: int, progress: Callable[[int], None]) -> None:  # fmt: skip
        self.coordinates, self.c, self.views, self.levels = coordinates, c, views, levels
        if isinstance(folds, int):
            order = torch.randperm(len(c), generator=torch.Generator().manual_seed(seed)).tolist()
            k = max(2, min(folds, len(c)))
            folds = [order[i::k] for i in range(k)]
        # samples that are in no fold overlap with some that are: they are left out
        used = sorted(i for part in folds for i in part)
        index = {i: k for k, i in enumerate(used)}
        self.c, self.folds = c[used], len(folds)
        self._parts = [torch.tensor([index[i] for i in part]) for part in folds]
        self._starts = []
        for part in self._parts:
            rest = torch.ones(len(used), dtype=torch.bool)
            rest[part] = False
            self._starts.append(shrunk(coordinates, Sampled.of(coordinates, self.c[rest]), ALPHAS))
        self._progress = progress
        self._known: dict[tuple[str, ...], tuple[Tensor, list[int]]] = {}

    def losses(self, names: Sequence[str]) -> Tensor:
        """Loss of every full sample, held out, at every level, with these views: (levels, n)."""
        return self._trial(names)[0]

    def alpha(self, names: Sequence[str]) -> float:
        """The median of the levels' choices."""
        chosen = sorted(self._trial(names)[1])
        return ALPHAS[chosen[len(chosen) // 2]]

    def _trial(self, names: Sequence[str]) -> tuple[Tensor, list[int]]:
        key = tuple(sorted(names))
        if key not in self._known:
            every = torch.zeros(len(ALPHAS), len(self.levels), len(self.c), dtype=torch.float64)
            for part, starts in zip(self._parts, self._starts, strict=True):
                for i, start in enumerate(starts):
                    estimate = impose(start, [self.views[v] for v in key])
                    every[i, :, part] = risks(estimate, self.coordinates, self.c[part], self.levels)
            best = every.mean(2).argmin(0)
            self._known[key] = every[best, torch.arange(len(self.levels))], best.tolist()
            self._progress(len(self._known))
        return self._known[key]

    def expected(self, names: Sequence[str], c: Tensor) -> Tensor:
        """Loss, at every level, of the folds' estimates on different samples of coordinates c: (levels,)."""
        best = self._trial(names)[1]
        views = [self.views[v] for v in sorted(names)]
        out = torch.zeros(len(self.levels), dtype=torch.float64)
        for starts in self._starts:
            each = {i: risks(impose(starts[i], views), self.coordinates, c, self.levels).mean(1) for i in set(best)}
            out += torch.stack([each[i][level] for level, i in enumerate(best)]) / len(self._starts)
        return out

    def z(self, names: Sequence[str], over: Sequence[str] = ()) -> list[float]:
        """Improvement of the views `names` over the views `over`, in standard errors on these samples, per level."""
        off = self.losses(over) - self.losses(names)
        return (off.mean(1) / standard_error(off, None).clamp_min(1e-300)).tolist()

    def gain(self, names: Sequence[str], over: Sequence[str] = ()) -> Gain:
        """Improvement of the views `names` over the views `over` (none: the full samples alone)."""
        with_, without = self.losses(names), self.losses(over)
        off = without - with_
        raw, stderr = off.mean(1), standard_error(off, self.folds)
        helps = (torch.tensor(self.z(names, over)) > _SURE) & (raw > WORTH * without.mean(1))
        on = torch.where(helps[:, None], off, 0.0).mean(0)
        return Gain(
            with_.mean(1).tolist(), raw.tolist(), stderr.tolist(), helps.tolist(), float(on.mean()),
            float(standard_error(on, self.folds)),
        )  # fmt: skip


class Curve:
    """Loss of the full-only estimate, at its best alpha, from n samples of a distribution, for doubling n.

    Args:
        truth: the estimate from everything.
        coordinates: of the full samples.
        levels: noise levels.
        start: the first n: as many samples as the trials' estimates had.
        progress: called with the share that is done.

    Attributes:
        loss: (doublings + 1, levels). first: the data sets of the first n.
    """

    def __init__(self, truth: Estimate, coordinates: Coordinates, levels: Sequence[float], start: int,
                 progress: Callable[[float], None]) -> None:  # fmt: skip
        self.start = start
        rng = torch.Generator().manual_seed(0)
        points = []
        for k in range(_DOUBLINGS + 1):
            draws = _DRAWS[k] if k < len(_DRAWS) else 1
            found = [Sampled.drawn(coordinates, truth, start * 2**k, rng) for _ in range(draws)]
            if k == 0:
                self.first = found
            each = [[expected(e, truth, coordinates, levels) for e in shrunk(coordinates, f, ALPHAS)] for f in found]
            points.append(torch.stack([torch.stack(one) for one in each]).mean(0).amin(0))
            progress((k + 1) / (_DOUBLINGS + 1))
        self.loss = torch.stack(points)

    def valued(self, gain: Gain, most: float) -> Gain:
        """The same gain with its full samples, at most `most`, the number of files: a file is worth one at most."""
        each = [self._samples(self.loss[:, i], g, most) for i, g in enumerate(gain.gain)]
        pooled = torch.where(torch.tensor(gain.helps), self.loss, 0.0).mean(1)
        spread = _Z * gain.mean_stderr
        low, middle, high = (self._samples(pooled, gain.mean + side * spread, most) for side in (-1, 0, 1))
        return replace(gain, samples=each, mean_samples=middle, interval=(low, high))

    def samples(self, gain: Tensor, on: Tensor) -> tuple[float, bool]:
        """Full samples more that lower the mean loss over the levels `on` by `gain`, and whether the curve ends before
        (then as many as it has)."""
        last = float(self.start * 2 ** (len(self.loss) - 1) - self.start)
        found = self._samples(torch.where(on, self.loss, 0.0).mean(1), float(gain), last)
        return found, found >= last

    def _samples(self, loss: Tensor, gain: float, most: float) -> float:
        """n' - n at which the curve has fallen by `gain`, along ln n between its points."""
        if not gain > 0:
            return 0.0
        before = 0.0
        for k, value in enumerate(loss[1:].tolist()):
            fallen = max(before, float(loss[0]) - value)
            if fallen >= gain:
                return min(most, self.start * 2 ** (k + (gain - before) / (fallen - before)) - self.start)
            before = fallen
        return most


def expected(estimate: Estimate, truth: Estimate, coordinates: Coordinates, levels: Sequence[float]) -> Tensor:
    """Loss of an estimate's denoiser under a distribution, (levels,)."""
    lam, U = torch.linalg.eigh(estimate.cov)
    within = ((truth.cov @ U) * U).sum(0) + ((truth.mean - estimate.mean) @ U).square()
    return _losses(estimate.rest, lam.clamp_min(0), within[None], truth.rest[None], coordinates, levels)[:, 0]
