"""Experiment 8: the bounds against measured risks on random problems."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bootdiff.theory.bounds import full_only, selection_gap, views_energy
from bootdiff.theory.experiments.base import Curve, Done, Panel, Result, silent
from bootdiff.theory.linear import composite, energy_strength, evidence, excess, gain_moments, rows, wiener, wishart
from bootdiff.views import Crop, Downsample, Mask, View

__all__ = ["bounds_hold"]


def _uniform(low: float, high: float, g: Generator, log: bool = False) -> float:
    t = float(torch.rand((), generator=g, dtype=torch.float64))
    return math.exp(math.log(low) + t * math.log(high / low)) if log else low + t * (high - low)


def _views(width: int, height: int, g: Generator) -> tuple[str, list[View]]:
    """Single-placement views of (1, height, width) pictures, both even."""
    half = width // 2
    kinds: list[tuple[str, list[View]]] = [
        ("thumbnails", [Downsample(2)]),
        ("half", [Crop((height, half), offset=(0, 0))]),
        ("halves", [Crop((height, half), offset=(0, 0)), Crop((height, width - half), offset=(0, half))]),
        ("overlap", [Crop((height, half + 1), offset=(0, 0)), Crop((height, half + 1), offset=(0, width - half - 1))]),
        ("band", [Mask(band=("top", 1))]),
        ("thumbnails and half", [Downsample(2), Crop((height, half), offset=(0, 0))]),
    ]
    return kinds[int(torch.randint(len(kinds), (), generator=g))]


def _boxed(G: Tensor, h: Tensor) -> Tensor:
    """argmin over [0, 1]^K of w'Gw - 2 h'w, batched, by coordinate descent; exact for K <= 2 up to rounding."""
    w = torch.zeros_like(h)
    for _ in range(200 if h.shape[-1] > 1 else 1):
        for k in range(h.shape[-1]):
            curvature = G[..., k, k]
            rest = h[..., k] - (G[..., k, :] * w).sum(-1) + curvature * w[..., k]
            w[..., k] = torch.where(curvature > 0, rest / torch.where(curvature > 0, curvature, 1.0), 0.0).clamp(0, 1)
    return w


def bounds_hold(fast: bool = False, done: Done = silent) -> Result:
    """Every bound on at least 1,000 random problems, against the mean over draws."""
    count, draws = (60 if fast else 1200), (150 if fast else 400)
    g = torch.Generator().manual_seed(0)
    ratios: dict[str, list[float]] = {"full-only": [], "views + residual": [], "held-out kappa": []}
    broken: dict[str, int] = dict.fromkeys(ratios, 0)
    least: list[float] = []
    which: dict[str, int] = {}
    for k in range(count):
        height, width = (2 * int(torch.randint(1, 3, (), generator=g)) for _ in range(2))
        shape, d = (1, height, width), height * width
        if (height, width) == (2, 2) and k % 2:
            height, width, shape, d = 4, 6, (1, 4, 6), 24
        Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
        lam = torch.arange(1, d + 1, dtype=torch.float64) ** -_uniform(0, 3, g)
        rank = d if k % 5 else max(1, d // 2)
        lam[rank:] = 0
        S = (Q * lam) @ Q.T * (d / lam.sum())
        n, N, m = (round(_uniform(1, high, g, log=True)) for high in (1000, 10_000, 300))
        sigma = _uniform(0.05, 6.4, g, log=True)
        b, (_, views) = 1 / (1 + sigma**2), _views(width, height, g)
        best = wiener(S, sigma)
        exact = [rows(v, shape) @ S @ rows(v, shape).T for v in views]
        finite, fitted = k % 3 > 0, k % 2 > 0

        W = wiener(wishart(S, n, draws, g), sigma)
        alone = excess(W, S, sigma, best)
        bound_full = full_only(S, n, sigma)
        which[bound_full.which] = which.get(bound_full.which, 0) + 1

        J0 = evidence(exact, views, shape, sigma, b)
        gains = _boxed(*gain_moments(J0, S, sigma, b)) if fitted else torch.ones(len(views), dtype=torch.float64)
        rho = float(excess(composite(J0, gains, b), S, sigma, best))
        J = evidence([wishart(s, N, draws, g) for s in exact], views, shape, sigma, b) if finite else J0
        errors = [full_only(s, N, sigma).best if finite else 0.0 for s in exact]
        bound = views_energy(rho, gains.tolist(), errors)
        used = gains
        if fitted:
            S_m = wishart(S, m, draws, g)
            moments = [_gains(J, S_m, sigma, b)]
            used = _boxed(*moments[0]).T
            bound += float(selection_gap(J, b * torch.eye(d, dtype=torch.float64), S, sigma, m).mean())
        V = composite(J, used, b).expand_as(W)
        bound = min(bound, bound_full.best)
        kappa = energy_strength(V, W, S, sigma)
        reached = excess(V + kappa[:, None, None] * (W - V), S, sigma, best)
        chosen = energy_strength(V, W, wishart(S, m, draws, g), sigma)
        held = excess(V + chosen[:, None, None] * (W - V), S, sigma, best)
        gap = float(selection_gap((W - V)[None], V, S, sigma, m).mean())
        for name, values, limit in (
            ("full-only", alone, bound_full.best),
            ("views + residual", reached, bound),
            ("held-out kappa", held, bound + gap),
        ):
            mean, error = float(values.mean()), float(values.std()) / math.sqrt(draws)
            ratios[name].append(limit / max(mean, 1e-300))
            broken[name] += limit < mean - 4 * error - 1e-12
        least.append(min(r[-1] for r in ratios.values()))
        done(k + 1, count)
    table: list[list[str | float]] = []
    figures: dict[str, float] = {"problems": count}
    curves = []
    for name, found in ratios.items():
        ordered = sorted(found)
        quantiles = [ordered[round(q * (count - 1))] for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)]
        table.append([name, *quantiles, sum(v < 1 for v in found), broken[name]])
        figures[f"median bound / risk, {name}"] = quantiles[3]
        figures[f"broken, {name}"] = broken[name]
        curves.append(Curve(name, ordered, [(i + 1) / count for i in range(count)]))
    ok = not any(broken.values()) and table[0][4] <= 3 and table[1][4] <= 3  # type: ignore[operator]
    return Result(
        "Bounds against measured risk",
        f"On {count} random problems (dimension, spectrum, rank, views, their samples, gains, n, noise level) no bound "
        "is below the measured risk by more than four standard errors of the measurement, and the median of bound / "
        "risk is at most 3 for full-only and for views + regularized residual.",
        ok,
        figures,
        ["bound", "least", "5 %", "25 %", "median", "75 %", "95 %", "largest", "below the mean", "broken"],
        table,
        [Panel("bound / measured risk", "share of problems", curves, "x")],
        [
            "'below the mean' counts measured means above the bound, as sampling error allows where a bound is tight.",
            "Which bound of full-only is the least: " + ", ".join(f"{k} {v}" for k, v in sorted(which.items())) + ".",
        ],
    )


def _gains(J: Tensor, S: Tensor, sigma: float, b: float) -> tuple[Tensor, Tensor]:
    """Moments of the gains for each draw: G (draws, K, K), h (draws, K)."""
    if J.ndim == 3:
        J = J[:, None].expand(len(J), *S.shape)
    G, h = gain_moments(J, S, sigma, b)
    return G.permute(2, 0, 1), h.T
