"""Experiment 9: the same curves with small networks on a mixture, where the best denoiser is known."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bootdiff.distributions.exact import Mixture
from bootdiff.views import Crop, View
from experiments.theory.claims.base import Curve, Done, Panel, Result, seeded, silent
from experiments.theory.information import log_ratio

__all__ = ["networks_on_a_mixture"]

SHAPE, D, SIGMA = (1, 2, 4), 8, 0.5
HALVES: list[View] = [Crop((2, 2), offset=(0, 0)), Crop((2, 2), offset=(0, 2))]
Weights = list[Tensor]


def _law() -> Mixture:
    means = 1.5 * torch.randn(6, *SHAPE, generator=seeded(3), dtype=torch.float64)
    return Mixture([1.0] * 6, means, [0.15] * 6)


def _views(law: Mixture, x: Tensor) -> Tensor:
    """V of two exact halves with unit gains, (R, n, d) -> (R, n, d)."""
    flat = x.reshape(-1, *SHAPE)
    sigma = torch.full((len(flat),), SIGMA)
    return sum(v.lift(law.marginal(v)(v(flat), sigma), SHAPE) for v in HALVES).reshape(x.shape)  # type: ignore[union-attr]


def _best(law: Mixture, x: Tensor) -> Tensor:
    flat = x.reshape(-1, *SHAPE)
    return law(flat, torch.full((len(flat),), SIGMA)).reshape(x.shape)


def _start(inputs: int, count: int, width: int, g: Generator) -> Weights:
    """Weights of `count` perceptrons side by side; the last layer starts at zero, as the library's residual does."""
    sizes = [inputs, width, width, D]
    out: Weights = []
    for i in range(3):
        std = 0.0 if i == 2 else (2 / sizes[i]) ** 0.5
        out.append(std * torch.randn(count, sizes[i], sizes[i + 1], generator=g))
        out.append(torch.zeros(count, 1, sizes[i + 1]))
    return [w.requires_grad_() for w in out]


def _net(w: Weights, x: Tensor) -> Tensor:
    """(R, n, inputs) -> (R, n, d), each replicate by its own weights."""
    for i in (0, 2):
        x = torch.nn.functional.silu(torch.baddbmm(w[i + 1], x, w[i]))
    return torch.baddbmm(w[5], x, w[4])


def _train(
    law: Mixture, x0: Tensor, held: Tensor, test: Tensor, on_views: bool, steps: int, g: Generator
) -> dict[str, float]:
    """Excess risks of one arm, mean over replicates: what it stands on, its last step, and stopped and shrunk.

    x0 (R, n, d), held (R, m, d): training and held-out samples; test (1, t, d): noisy points for the excess risk.
    """
    R, n, _ = x0.shape
    repeats = max(1, 256 // held.shape[1])
    held = held.repeat(1, repeats, 1)

    def base(x: Tensor) -> Tensor:
        return _views(law, x) if on_views else x * (var / (var + SIGMA**2))

    def inputs(x: Tensor, V: Tensor) -> Tensor:
        return torch.cat([x, V], 2) if on_views else x

    var = float(x0.square().mean())
    noisy = held + SIGMA * torch.randn(held.shape, generator=g)
    V_held, V_test, best = base(noisy), base(test), _best(law, test)
    scale = (held - V_held).square().mean((1, 2), keepdim=True).sqrt()
    weights = _start(2 * D if on_views else D, R, 64, g)
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    least = (held - V_held).square().mean((1, 2))
    r_held, r_test = torch.zeros_like(V_held), torch.zeros(R, *test.shape[1:])
    last = r_test
    for step in range(steps):
        pick = torch.randint(n, (R, 64), generator=g)
        clean = x0.gather(1, pick[..., None].expand(-1, -1, D))
        x = clean + SIGMA * torch.randn(clean.shape, generator=g)
        V = base(x)
        loss = ((V + scale * _net(weights, inputs(x, V)) - clean) ** 2).mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24 or step == steps - 1:
            with torch.no_grad():
                r = scale * _net(weights, inputs(noisy, V_held))
                now = (V_held + r - held).square().mean((1, 2))
                last = scale * _net(weights, inputs(test.expand(R, -1, -1), V_test.expand(R, -1, -1)))
                better = (now < least)[:, None, None]
                least = torch.minimum(least, now)
                r_held, r_test = torch.where(better, r, r_held), torch.where(better, last, r_test)
    energy = r_held.square().sum((1, 2))
    kappa = ((held - V_held) * r_held).sum((1, 2)) / energy.clamp_min(1e-12)
    stopped = V_test + kappa.clamp(0, 1)[:, None, None] * r_test

    def excess(estimate: Tensor) -> float:
        return float((estimate - best).square().sum(2).mean())

    return {"alone": excess(V_test), "last": excess(V_test + last), "stopped": excess(stopped)}


def networks_on_a_mixture(fast: bool = False, done: Done = silent) -> Result:
    """Excess risk against n of small networks: views + regularized residual, without regularization, full-only."""
    law = _law().float()
    ns = [20, 320] if fast else [10, 20, 40, 80, 160, 320, 640, 1280]
    replicates, steps = (2, 300) if fast else (6, 3000)
    test = law.sample(1000 if fast else 4000, seeded(1)).reshape(1, -1, D)
    test = test + SIGMA * torch.randn(test.shape, generator=seeded(2))
    rows: list[list[str | float]] = []
    for i, n in enumerate(ns):
        g = seeded(n)
        m = max(2, n // 5)
        samples = law.sample(replicates * n, g).reshape(replicates, n, D)
        held, x0 = samples[:, :m], samples[:, m:]
        ours = _train(law, x0, held, test, True, steps, g)
        done(2 * i + 1, 2 * len(ns))
        full = _train(law, x0, held, test, False, steps, g)
        done(2 * i + 2, 2 * len(ns))
        rows.append([n, full["last"], full["stopped"], ours["last"], ours["stopped"], ours["alone"]])
    x = [float(r[0]) for r in rows]
    columns = [[float(r[k]) for r in rows] for k in range(6)]
    names = [
        "full-only, last step", "full-only, stopped and shrunk", "residual, last step", "residual, stopped and shrunk",
        "views alone",
    ]  # fmt: skip
    curves = [Curve(name, x, columns[k + 1], "dashes" if k == 4 else "line") for k, name in enumerate(names)]
    gain = max(a / b for a, b in zip(columns[4], columns[2]))
    over = max(a / b for a, b in zip(columns[4], columns[5]))
    spoiled = columns[3][0] / columns[4][0]
    information = log_ratio(_law(), HALVES, 100_000, seeded(5)).nats
    return Result(
        "Small networks on a mixture",
        f"Perceptrons on a mixture of six Gaussians in {D} dimensions (sigma = {SIGMA}, exact halves as views): views "
        "+ regularized residual (stopped and shrunk on held-out samples) is better than full-only with the same care "
        "at every n, at most 10 % above the views alone; without regularization it is worse than the views at small n.",
        gain < 1 and over <= 1.1 and spoiled > 1 and columns[3][0] > columns[5][0],
        {
            "largest_risk_over_full_only": gain,
            "largest_risk_over_views_alone": over,
            "unregularized_over_regularized_at_the_least_n": spoiled,
            "information_between_the_halves_nats": information,
            "equivalent_full_samples_at_the_least_n": _needed(columns[4][0], x, columns[2]),
        },
        ["n", *names],
        rows,
        [Panel("full samples n", "excess risk", curves, "xy")],
        [
            "Networks are not linear denoisers: the unregularized residual is about as bad as full-only training where "
            "full samples are few, as theory has it, but better where they are many: seeing the views' estimates helps "
            "a network of limited size and training even without regularization.",
        ],
    )


def _needed(risk: float, ns: list[float], full: list[float]) -> float:
    """The n at which full-only reaches this risk, by interpolation; the last n where it does not."""
    for i in range(1, len(ns)):
        if full[i] <= risk:
            t = (math.log(full[i - 1]) - math.log(risk)) / (math.log(full[i - 1]) - math.log(full[i]))
            return ns[i - 1] * (ns[i] / ns[i - 1]) ** min(max(t, 0.0), 1.0)
    return ns[-1]
