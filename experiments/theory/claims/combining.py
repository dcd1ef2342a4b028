"""Experiments 5 to 7: what kinds of views are worth, dissimilar views, several and overlapping and nested views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.moments.wishart import wishart
from bootdiff.views import ChannelMix, Crop, Downsample, Mask, View
from experiments.theory.bounds import worth
from experiments.theory.claims.base import Curve, Done, Panel, Result, picture_cov, seeded, silent, views_matrix
from experiments.theory.linear import (
    composite,
    energy_fit,
    energy_strength,
    evidence,
    excess,
    inner,
    optimal_gains,
    view_moment,
    wiener,
)

__all__ = ["dissimilar_view", "equivalent_samples", "several_views"]

SHAPE = (3, 4, 4)
KINDS: dict[str, list[View]] = {
    "thumbnails": [Downsample(2)],
    "left half": [Crop((4, 2), offset=(0, 0))],
    "both halves": [Crop((4, 2), offset=(0, 0)), Crop((4, 2), offset=(0, 2))],
    "crops anywhere": [Crop((2, 2), stride=(1, 1))],
    "masked band": [Mask(band=("bottom", 1))],
    "gray": [ChannelMix.gray()],
}


def _matching(risk: float, ns: Sequence[int], full: Sequence[float]) -> float:
    """The n at which full-only has this excess risk, by interpolation in ln n and ln risk; as 1/n beyond the end."""
    if risk >= full[0]:
        return float(ns[0])
    for i in range(1, len(ns)):
        if full[i] <= risk:
            t = math.log(full[i - 1] / risk) / math.log(full[i - 1] / full[i])
            return ns[i - 1] * (ns[i] / ns[i - 1]) ** t
    return ns[-1] * full[-1] / risk


def _reached(V: Tensor, W: Tensor, S: Tensor, sigma: float, best: Tensor) -> float:
    """Mean excess risk of V + kappa (W - V), one best kappa for all draws: what the theorem speaks of."""
    error = W - V
    kappa = float(inner(error, best - V, S, sigma).mean() / inner(error, error, S, sigma).mean())
    return float(excess(V + min(max(kappa, 0.0), 1.0) * error, S, sigma, best).mean())


def equivalent_samples(fast: bool = False, done: Done = silent) -> Result:
    """How many full samples full-only needs for the risk that n full samples and a view of each kind reach.

    The opponent is full-only regularized in the same way towards the white base, at its best strength.
    """
    S = picture_cov(SHAPE)
    levels = (0.8,) if fast else (0.2, 0.8, 3.2)
    grid = [2**k for k in range(0, 13, 3 if fast else 1)]
    ns, count = ([8, 512] if fast else [2, 8, 32, 128, 512, 2048]), (40 if fast else 300)
    rows: list[list[str | float]] = []
    panels, steps = [], len(levels) * (len(grid) + len(KINDS))
    off = worse = 0.0
    at = 0
    for sigma in levels:
        best = wiener(S, sigma)
        full, drawn = [], {}
        base = torch.eye(48, dtype=torch.float64) / (1 + sigma**2)
        value_of_base = worth(base, S, sigma).samples
        for n in grid:
            drawn[n] = wishart(S, n, count, seeded(n))
            full.append(_reached(base, wiener(drawn[n], sigma), S, sigma, best))
            done(at := at + 1, steps)
        curves = []
        for kind, views in KINDS.items():
            V, _ = views_matrix(S, views, SHAPE, sigma)
            value = worth(V, S, sigma)
            needed = []
            for n in ns:
                S_hat = drawn[n] if n in drawn else wishart(S, n, count, seeded(n))
                W = wiener(S_hat, sigma)
                reached, opponent = (_reached(on, W, S, sigma, best) for on in (V, base))
                alone = float(excess(W, S, sigma, best).mean())
                worse = max(worse, reached / opponent)
                needed.append(_matching(reached, grid, full))
                if n == ns[-1]:
                    off = max(off, abs(n * alone / reached / (n + value.samples) - 1))
            extra = ns[-1] * (alone / reached - 1)
            rows.append([f"{sigma:g}", kind, value.energy, *needed, extra, value.samples, value_of_base])
            curves.append(Curve(kind, [float(n) for n in ns], needed))
            done(at := at + 1, steps)
        curves.append(Curve("without views", [float(n) for n in ns], [float(n) for n in ns], "dashes"))
        panels.append(Panel("full samples n", "full-only needs", curves, "xy", f"sigma = {sigma:g}"))
    return Result(
        "Equivalent full samples",
        "Full-only, regularized towards the base, needs at least as many full samples as views + regularized residual "
        "for the same risk, for every kind of view. Plain full-only needs n + n0 with n0 = (a - c)^2 / (a rho): "
        f"forecast within 10 % of n + n0 at n = {ns[-1]}.",
        worse <= 1 + 1e-9 and off <= 0.1,
        {"worst_risk_over_full_only": worse, "worst_forecast_error": off},
        [
            "sigma",
            "view",
            "residual energy",
            *(f"n = {n}" for n in ns),
            "n0, measured",
            "n0, forecast",
            "n0 of the base",
        ],
        rows,
        panels,
        [
            "The columns n = ... say how many full samples the opponent needs for the same risk: full-only, "
            "regularized towards the white base with its own best strength. n0 is against plain least squares; the "
            "base alone is worth its own n0, so the views' advantage over the opponent is about the difference.",
            "The gain is additive, not a factor: a view is worth n0 full samples whatever n is (once n is well above "
            "n0), so its relative value vanishes like n0 / n. Large factors appear only where n is far below n0.",
        ],
    )


def dissimilar_view(fast: bool = False, done: Done = silent) -> Result:
    """A view of other data: harmless with gains, harmful without."""
    shape, sigma, count = (1, 4, 4), 0.5, (100 if fast else 400)
    S, view = picture_cov(shape, 3.0), Crop((4, 2), offset=(0, 0))
    ns, m = ([8, 64, 512] if fast else [4, 8, 16, 32, 64, 128, 256, 512, 1024]), 50
    best, b = wiener(S, sigma), 1 / (1 + sigma**2)
    other = {
        # what the view was trained on: no correlations, ten times the size: it lets the noise through
        "white, large": 100 * torch.eye(8, dtype=torch.float64),
        # neighbours with opposite signs: it takes the picture for noise
        "checkerboard": _checkerboard(),
        # almost constant data: it answers 0
        "constant": 1e-4 * torch.eye(8, dtype=torch.float64),
    }
    rows: list[list[str | float]] = []
    harm = after = math.inf
    loss, curves = 0.0, []
    for i, (name, moment) in enumerate(other.items()):
        J = evidence([moment], [view], shape, sigma, b)
        unit = composite(J, torch.ones(1), b)
        base = composite(J, torch.zeros(1), b)
        ours, theirs, worst = [], [], 0.0
        for n in ns:
            S_hat = wishart(S, n, count, seeded(n))
            W = wiener(S_hat, sigma)
            # gains fitted on m separate samples, one for each draw
            S_m = wishart(S, m, count, seeded(n + 1))
            fitted = torch.stack([optimal_gains(J, one, sigma, b) for one in S_m])
            V = composite(J, fitted.T, b)
            risks = []
            for on, hat in ((V, W), (base, W), (unit, W)):
                kappa = energy_strength(on, hat, S, sigma)
                risks.append(float(excess(on + kappa[:, None, None] * (hat - on), S, sigma, best).mean()))
            plain = float(excess(W, S, sigma, best).mean())
            alone = float(excess(unit, S, sigma, best))
            loss, harm = max(loss, risks[0] / risks[1]), min(harm, alone / float(excess(base, S, sigma, best)))
            worst = max(worst, risks[2] / risks[1])
            rows.append([name, n, plain, risks[1], risks[0], risks[2], alone, float(fitted.mean())])
            ours.append(risks[0])
            theirs.append(risks[2])
        after = min(after, worst)
        x = [float(n) for n in ns]
        curves += [Curve(f"{name}: gains", x, ours), Curve(f"{name}: gain 1", x, theirs, "dots")]
        done(i + 1, len(other))
    curves.append(Curve("full-only over the base", x, [float(r[3]) for r in rows[-len(ns) :]], "dashes"))
    return Result(
        "A dissimilar view",
        f"A view trained on other data: with gains fitted on {m} full samples the risk is full-only's (regularized "
        "towards the white base) or less, within 2 %; without gains (1 instead) the view alone is worse than the base, "
        "and the residual on top of it is worse than full-only by more than 2 % at some n.",
        loss <= 1.02 and harm > 1 and after > 1.02,
        {"worst_risk_over_full_only": loss, "least_harm_of_unit_gain": harm, "harm_after_the_residual": after},
        [
            "view's data",
            "n",
            "full-only",
            "full-only to base",
            "with gains",
            "gain 1",
            "gain 1, views alone",
            "mean gain",
        ],
        rows,
        [Panel("full samples n", "excess risk", curves, "xy")],
        [
            "A regularized residual repairs a useless view by itself once there are full samples enough: the harm of "
            "gain 1 is a matter of few full samples, and with many of them gain 1 can even come out a little ahead by "
            "chance of the direction it adds."
        ],
    )


def _checkerboard() -> Tensor:
    sign = torch.tensor([(-1.0) ** (i + j) for i in range(4) for j in range(2)], dtype=torch.float64)
    return 0.01 * torch.eye(8, dtype=torch.float64) + torch.outer(sign, sign)


def several_views(fast: bool = False, done: Done = silent) -> Result:
    """Overlapping views share, nested ones add nothing false, every further view helps or is left out."""
    S, sigma_data = picture_cov(SHAPE), 1.0
    levels = (0.2, 0.8) if fast else (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    left, right = Crop((4, 2), offset=(0, 0)), Crop((4, 2), offset=(0, 2))
    sets: dict[str, list[View]] = {
        "left half": [left],
        "disjoint halves": [left, right],
        "overlapping 3/4": [Crop((4, 3), offset=(0, 0)), Crop((4, 3), offset=(0, 1))],
        "the same twice": [left, left],
        "nested thumbnails 2, 4": [Downsample(2), Downsample(4)],
        "thumbnails, gray": [Downsample(2), ChannelMix.gray()],
        "thumbnails, gray, halves": [Downsample(2), ChannelMix.gray(), left, right],
    }
    rows: list[list[str | float]] = []
    n, count = 32, (30 if fast else 200)
    ok, unit_ok, double = True, 0.0, math.inf
    energies: dict[str, list[float]] = {name: [] for name in sets}
    for i, sigma in enumerate(levels):
        best, b = wiener(S, sigma), sigma_data**2 / (sigma_data**2 + sigma**2)
        S_hat = wishart(S, n, count, seeded(3))
        W = wiener(S_hat, sigma)
        base = float(excess(b * torch.eye(48, dtype=torch.float64), S, sigma, best))
        for name, views in sets.items():
            J = evidence([view_moment(S, v, SHAPE) for v in views], views, SHAPE, sigma, b)
            gains = optimal_gains(J, S, sigma, b)
            V, unit = composite(J, gains, b), composite(J, torch.ones(len(J)), b)
            rho, rho_unit = float(excess(V, S, sigma, best)), float(excess(unit, S, sigma, best))
            alone = [composite(j[None], optimal_gains(j[None], S, sigma, b), b) for j in J]
            is_fixed = [float(excess(one, S, sigma, best)) for one in alone]
            ok &= rho <= min(is_fixed) * (1 + 1e-9) and rho <= base * (1 + 1e-9)
            if name in ("left half", "disjoint halves"):
                unit_ok = max(unit_ok, float((gains - 1).abs().max()))
            if name == "the same twice":
                double = min(double, rho_unit / rho)
                unit_ok = max(unit_ok, float((gains.sum() - 1).abs()))
            kappa = energy_strength(V, W, S, sigma)
            reached = float(excess(energy_fit(V, S_hat, sigma, kappa), S, sigma, best).mean())
            energies[name].append(rho / base)
            listed = "  ".join(f"{g:.2f}" for g in gains.tolist())
            rows.append([f"{sigma:g}", name, listed, rho / base, rho_unit / base, min(is_fixed) / base, reached])
        done(i + 1, len(levels))
    curves = [Curve(name, list(levels), values) for name, values in energies.items()]
    return Result(
        "Several, overlapping and nested views",
        "With the best gains the residual energy of several views is never above that of the best of them, nor the "
        "base's; exact disjoint views get gain 1; a view given twice shares a gain of 1, unit gains count it twice.",
        ok and unit_ok < 1e-6 and double > 1,
        {"largest_deviation_from_gain_1": unit_ok, "unit_gains_over_best_gains_for_a_view_given_twice": double},
        [
            "sigma",
            "views",
            "gains",
            "energy / base",
            "unit gains / base",
            "best single / base",
            f"excess risk, n = {n}",
        ],
        rows,
        [Panel("sigma", "residual energy / base's", curves, "xy")],
    )
