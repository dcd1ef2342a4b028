"""Experiment 8: the bounds against measured risks on random problems."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Generator, Tensor

from bootdiff.moments.wishart import wishart
from bootdiff.views import Crop, Downsample, Mask, View
from experiments.theory.bounds import full_only, regularized, selection_gap, views_energy
from experiments.theory.claims.base import Curve, Done, Panel, Result, seeded, silent, uniform
from experiments.theory.claims.kernels import Outcome, feature_problems
from experiments.theory.linear import (
    box_minimum,
    composite,
    energy_strength,
    evidence,
    excess,
    gain_moments,
    rows,
    wiener,
)

__all__ = ["bounds_hold"]


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


def _linear_problems(count: int, draws: int, done: Done) -> tuple[list[Outcome], dict[str, int]]:
    """Of each problem, by bound: its value, the mean excess risk over draws and its standard error; and which bound of
    full-only was the least, how often."""
    g = seeded(0)
    out: list[Outcome] = []
    which: dict[str, int] = {}
    for k in range(count):
        height, width = (2 * int(torch.randint(1, 3, (), generator=g)) for _ in range(2))
        shape, d = (1, height, width), height * width
        if (height, width) == (2, 2) and k % 2:
            height, width, shape, d = 4, 6, (1, 4, 6), 24
        Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
        lam = torch.arange(1, d + 1, dtype=torch.float64) ** -uniform(0, 3, g)
        rank = d if k % 5 else max(1, d // 2)
        lam[rank:] = 0
        S = (Q * lam) @ Q.T * (d / lam.sum())
        n, N, m = (round(uniform(1, high, g, log=True)) for high in (1000, 10_000, 300))
        sigma = uniform(0.05, 6.4, g, log=True)
        b, (_, views) = 1 / (1 + sigma**2), _views(width, height, g)
        best = wiener(S, sigma)
        exact = [rows(v, shape) @ S @ rows(v, shape).T for v in views]
        finite, fitted = k % 3 > 0, k % 2 > 0

        W = wiener(wishart(S, n, draws, g), sigma)
        alone = excess(W, S, sigma, best)
        bound_full = full_only(S, n, sigma)
        which[bound_full.which] = which.get(bound_full.which, 0) + 1

        J0 = evidence(exact, views, shape, sigma, b)
        gains = box_minimum(*gain_moments(J0, S, sigma, b)) if fitted else torch.ones(len(views), dtype=torch.float64)
        J = evidence([wishart(s, N, draws, g) for s in exact], views, shape, sigma, b) if finite else J0
        errors = [full_only(s, N, sigma).best if finite else 0.0 for s in exact]
        # the best gains are at least as good as any fixed ones: these may lean less on poorly trained views
        shares = (0.0, 0.25, 0.5, 0.75, 1.0) if fitted and finite else (1.0,)
        tried = [gains * torch.tensor(t, dtype=torch.float64) for t in itertools.product(shares, repeat=len(views))]
        rho = excess(torch.stack([composite(J0, t, b) for t in tried]), S, sigma, best).tolist()
        energy = min(views_energy(e, t.tolist(), errors) for e, t in zip(rho, tried, strict=True))
        used = gains
        if fitted:
            used = box_minimum(*_gains(J, wishart(S, m, draws, g), sigma, b)).T
            energy += float(selection_gap(J, b * torch.eye(d, dtype=torch.float64), S, sigma, m).mean())
        V = composite(J, used, b).expand_as(W)
        bound = regularized(energy, bound_full)
        kappa = energy_strength(V, W, S, sigma)
        reached = excess(V + kappa[:, None, None] * (W - V), S, sigma, best)
        chosen = energy_strength(V, W, wishart(S, m, draws, g), sigma)
        held = excess(V + chosen[:, None, None] * (W - V), S, sigma, best)
        gap = float(selection_gap((W - V)[None], V, S, sigma, m).mean())
        out.append(
            {
                name: (limit, float(values.mean()), float(values.std()) / math.sqrt(draws))
                for name, values, limit in (
                    ("full-only", alone, bound_full.best),
                    ("views + residual", reached, bound),
                    ("held-out kappa", held, bound + gap),
                )
            }
        )
        done(k + 1, count)
    return out, which


def bounds_hold(fast: bool = False, done: Done = silent) -> Result:
    """Every bound on at least 1,000 random problems, against the mean over draws."""
    linear, features = (60, 12) if fast else (1200, 300)
    total = linear + features
    found, which = _linear_problems(linear, 150 if fast else 400, lambda n, _: done(n, total))
    other = feature_problems(
        features, 24 if fast else 48, 2000 if fast else 4000, done=lambda n, _: done(linear + n, total)
    )
    table: list[list[str | float]] = []
    figures: dict[str, float] = {"problems": total}
    curves, ok = [], True
    for name in (*found[0], *other[0]):
        outcomes = [o[name] for o in (found if name in found[0] else other)]
        ordered = sorted(limit / max(mean, 1e-300) for limit, mean, _ in outcomes)
        broken = sum(limit < mean * (1 - 1e-9) - 4 * error - 1e-12 for limit, mean, error in outcomes)
        quantiles = [ordered[round(q * (len(ordered) - 1))] for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)]
        above = sum(limit < mean * (1 - 1e-9) for limit, mean, _ in outcomes)
        table.append([name, len(ordered), *quantiles, above, broken])
        figures[f"median bound / risk, {name}"] = quantiles[3]
        figures[f"broken, {name}"] = broken
        curves.append(Curve(name, ordered, [(i + 1) / len(ordered) for i in range(len(ordered))]))
        ok = ok and not broken and quantiles[3] <= 3
    return Result(
        "Bounds against measured risk",
        f"On {linear} random problems of linear denoisers (dimension, spectrum, rank, views, their samples, gains, n, "
        f"noise level) and {features} of random-feature denoisers (Gaussians and mixtures, features, views, their "
        "samples, n, strength, noise level) no bound is below the measured risk by more than four standard errors of "
        "the measurement, and the median of bound / risk is at most 3.",
        ok,
        figures,
        ["bound", "problems", "least", "5 %", "25 %", "median", "75 %", "95 %", "largest", "below the mean", "broken"],
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
