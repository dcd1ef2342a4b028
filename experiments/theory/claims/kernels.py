"""Experiment 8, second part: the bound for random-feature denoisers on random Gaussians and mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bootdiff.distributions.base import Distribution
from bootdiff.distributions.exact import Gaussian, Mixture
from bootdiff.views import Crop, Downsample, View
from experiments.theory.bounds import best_strength, feature_ridge
from experiments.theory.claims.base import Done, silent, uniform
from experiments.theory.kernel import Moments, RandomFeatures, posterior_variance, ridge
from experiments.theory.linear import box_minimum

__all__ = ["Outcome", "feature_problems"]

Outcome = dict[str, tuple[float, float, float]]
"""name of the bound -> its value, measured mean excess risk, standard error of that"""

STRENGTHS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0, math.inf]
_NAMES = ("features, full-only", "features, views + residual")


def _law(shape: tuple[int, ...], g: Generator) -> Distribution:
    """A Gaussian or a mixture of 2 to 5, of mean 0 and mean variance about 1."""
    d = math.prod(shape)
    count = int(torch.randint(1, 6, (), generator=g)) if torch.rand((), generator=g) < 0.6 else 1
    Q = torch.linalg.qr(torch.randn(count, d, d, generator=g, dtype=torch.float64))[0]
    lam = torch.arange(1, d + 1, dtype=torch.float64) ** -uniform(0, 2, g)
    within = 1.0 if count == 1 else uniform(0.05, 0.6, g)
    S = (Q * lam) @ Q.mT * (within * d / lam.sum())
    if count == 1:
        return Gaussian(torch.zeros(shape, dtype=torch.float64), S[0])
    means = torch.randn(count, *shape, generator=g, dtype=torch.float64)
    means = means - means.mean(0)
    return Mixture([1.0] * count, means * ((1 - within) / means.square().mean()).sqrt(), S)


def _views(shape: tuple[int, int, int], g: Generator) -> list[View]:
    _, height, width = shape
    left, right = (Crop((height, width // 2), offset=(0, k * width // 2)) for k in range(2))
    kinds: list[list[View]] = [[left], [left, right], [Downsample(2)], [Downsample(2), left]]
    return kinds[int(torch.randint(len(kinds), (), generator=g))]


@dataclass(frozen=True, eq=False)
class _Arm:
    """A denoiser b x + T phi(x) of a law seen through a view (or not): its features, moments and variance."""

    law: Distribution
    features: RandomFeatures
    moments: Moments
    variance: Tensor

    @classmethod
    def of(cls, law: Distribution, x: Tensor, sigma: float, p: int, length: float, b: float, g: Generator) -> _Arm:
        features = RandomFeatures.draw(law.dim, p, length * math.sqrt(law.dim), g)
        r = _denoise(law, x, sigma) - b * x
        v = posterior_variance(law, x.reshape(-1, *law.shape), sigma)
        return cls(law, features, Moments.of(r, features(x)), v)

    def fit(self, n: int, draws: int, sigma: float, b: float, strength: float, g: Generator) -> Tensor:
        """T^ of `draws` data sets of n samples on the white base, (draws, d, p)."""
        x0, x = _pairs(self.law, n, draws, sigma, g)
        return ridge(self.features(x), x0 - b * x, strength)


def _denoise(law: Distribution, x: Tensor, sigma: float) -> Tensor:
    """D*(x), (..., d) -> (..., d)."""
    flat = x.reshape(-1, *law.shape)
    return law(flat, torch.full((len(flat),), sigma, dtype=x.dtype)).reshape(x.shape)


def _pairs(law: Distribution, n: int, draws: int, sigma: float, g: Generator) -> tuple[Tensor, Tensor]:
    """x0 and x0 + sigma n, (draws, n, d)."""
    x0 = law.sample(draws * n, g).reshape(draws, n, law.dim)
    return x0, x0 + sigma * torch.randn(x0.shape, generator=g, dtype=x0.dtype)


def _see(view: View, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return view(x.reshape(-1, *shape)).reshape(*x.shape[:-1], -1)


def _lift(view: View, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    return view.lift(y.reshape(-1, *view.shape(shape)), shape).reshape(*y.shape[:-1], -1)


def _least(risks: list[Tensor]) -> Tensor:
    """Those of the strength with the least mean."""
    return min(risks, key=lambda values: float(values.mean()))


def _evidence(law: Distribution, views: Sequence[View], x: Tensor, sigma: float, b: float) -> Tensor:
    """A_i^T (d_i(A_i x) - b A_i x) of exact views, (K, ..., d), of x (..., d)."""
    seen = [_see(view, x, law.shape) for view in views]
    exact = [_denoise(law.marginal(view), y, sigma) - b * y for view, y in zip(views, seen, strict=True)]
    return torch.stack([_lift(view, e, law.shape) for view, e in zip(views, exact, strict=True)])


def feature_problems(
    count: int, draws: int, points: int = 4000, p: int = 64, done: Done = silent, seed: int = 1
) -> list[Outcome]:
    """For each problem and arm: bound, measured mean excess risk over draws and its standard error.

    In every other problem the strength is random; in the others the least bound over all strengths is held against the
    least measured risk over strengths. In every third one the views' denoisers are themselves random-feature denoisers
    of N samples.
    """
    g = torch.Generator().manual_seed(seed)
    out: list[Outcome] = []
    for k in range(count):
        shape = ((1, 2, 2), (1, 2, 4))[int(torch.randint(2, (), generator=g))]
        law, views = _law(shape, g), _views(shape, g)
        sigma, length = uniform(0.15, 4, g, log=True), uniform(0.7, 4, g, log=True)
        n, N = round(uniform(1, 2000, g, log=True)), round(uniform(10, 2000, g, log=True))
        b, strength = 1 / (1 + sigma**2), uniform(0.3, 300, g, log=True)
        tuned, finite = k % 2 == 0, k % 3 == 0
        x = _pairs(law, points, 1, sigma, g)[1][0]
        full = _Arm.of(law, x, sigma, p, length, b, g)
        best = _denoise(law, x, sigma)

        J = _evidence(law, views, x, sigma, b)
        gains = box_minimum(torch.einsum("iab,jab->ij", J, J), torch.einsum("iab,ab->i", J, best - b * x))
        V = b * x + torch.einsum("i,iab->ab", gains, J)
        phi = full.features(x)
        onto = Moments.of(best - V, phi)

        off = 0.0
        parts: list[_Arm] = []
        lifted: list[Tensor] = []
        for gain, view in zip(gains.tolist(), views, strict=True):
            if finite:
                y = _see(view, x, shape)
                part = _Arm.of(law.marginal(view), y, sigma, p, length, b, g)
                own, error = best_strength(part.moments, N, part.variance)
                off += gain * math.sqrt(error)
                T = part.fit(N, draws, sigma, b, own, g)
                parts.append(part)
                lifted.append(gain * _lift(view, T.mT, shape).mT)

        tried = [strength]
        if tuned:
            tried = STRENGTHS
            bound_full, bound = (
                best_strength(m, n, full.variance, e)[1] for m, e in ((full.moments, 0.0), (onto, off))
            )
        else:
            bound_full, bound = (
                feature_ridge(m, n, strength, full.variance, e) for m, e in ((full.moments, 0.0), (onto, off))
            )
        x0, x_n = _pairs(law, n, draws, sigma, g)
        phi_n, target = full.features(x_n), x0 - b * x_n
        risk_full = _least([full.moments.excess(ridge(phi_n, target, s)) for s in tried])
        if finite:  # b x + all of the views' features, and the residual's, as one feature vector
            seen = [part.features(_see(v, x_n, shape)) for part, v in zip(parts, views, strict=True)]
            target = target - sum(s @ T.mT for s, T in zip(seen, lifted, strict=True))
            everything = [part.features(_see(v, x, shape)) for part, v in zip(parts, views, strict=True)]
            joint = Moments.of(best - b * x, torch.cat([phi, *everything], 1))
            risk = _least([joint.excess(torch.cat([ridge(phi_n, target, s), *lifted], 2)) for s in tried])
        else:
            target = target - torch.einsum("i,i...->...", gains, _evidence(law, views, x_n, sigma, b))
            risk = _least([onto.excess(ridge(phi_n, target, s)) for s in tried])
        out.append(
            {
                name: (limit, float(values.mean()), float(values.std()) / math.sqrt(draws))
                for name, limit, values in zip(_NAMES, (bound_full, bound), (risk_full, risk), strict=True)
            }
        )
        done(k + 1, count)
    return out
