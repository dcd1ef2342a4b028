"""Experiment 1: the integrated energy of the exact residual is the information that the views leave over."""

from __future__ import annotations

from functools import partial

import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Distribution, Gaussian, Mixture
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.views import ChannelMix, Crop, View
from experiments.theory.claims.base import Curve, Done, Panel, Result, picture_cov, seeded, silent
from experiments.theory.information import (
    gaussian_energy,
    integrated_energy,
    log_ratio,
    monte_carlo_energy,
    total_correlation,
)

__all__ = ["information_identity"]

SHAPE = (3, 4, 4)
_GRAY = (3**-0.5, 3**-0.5, 3**-0.5)
TILINGS: dict[str, list[View]] = {
    "halves": [Crop((4, 2), offset=(0, 0)), Crop((4, 2), offset=(0, 2))],
    "quarters": [Crop((2, 2), offset=(t, l)) for t in (0, 2) for l in (0, 2)],
    "lightness and colour": [
        ChannelMix(rows=(_GRAY,)),
        ChannelMix(rows=((2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))),
    ],
}


def _composite(law: Distribution, views: list[View]) -> CompositeDenoiser:
    named = {str(i): view for i, view in enumerate(views)}
    base = IsotropicGaussian(law.shape, [0.0] * law.shape[0], 1.0)
    return CompositeDenoiser({n: (v, law.marginal(v)) for n, v in named.items()}, base, [1.0])


def information_identity(fast: bool = False, done: Done = silent) -> Result:
    """1/2 int E|r|^2 d gamma = total correlation of the views, of Gaussians (1e-6) and mixtures (1 %)."""
    lengths = (0.5, 4.0) if fast else (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    rows: list[list[str | float]] = []
    worst, curves = 0.0, []
    mixtures = _mixtures()[:1] if fast else _mixtures()
    steps = len(TILINGS) * len(lengths) + len(mixtures)
    for name, views in TILINGS.items():
        exact, measured = [], []
        for length in lengths:
            # channels of unequal variance, so that lightness and colour are not independent
            weight = torch.tensor([1.0, 0.7, 1.4], dtype=torch.float64).repeat_interleave(16)
            S = weight[:, None] * picture_cov(SHAPE, length, channels=0.6) * weight
            law = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), S)
            lam = law.lam.sqrt()
            V = _composite(law, views)
            found = integrated_energy(
                partial(gaussian_energy, law, V),
                law.dim,
                (float(lam.min()), float(lam.max())),
                decades=(4, 8),
            )
            truth = total_correlation(law, views)
            error = abs(found.nats / truth.nats - 1)
            worst = max(worst, error)
            rows.append([name, f"Gaussian, length {length:g}", truth.nats, found.nats, truth.bits_per_dim, error])
            exact.append(truth.nats)
            measured.append(found.nats)
            done(len(rows), steps)
        curves.append(Curve(f"{name}: closed form", list(lengths), exact))
        curves.append(Curve(f"{name}: integrated energy", list(lengths), measured, "dots"))
    sampled = 0.0
    for k, (name, mixture, views) in enumerate(mixtures):
        g = seeded(k)
        n = 4_000 if fast else 80_000
        direct = log_ratio(mixture, views, 25 * n, g)
        V = _composite(mixture, views)
        found = integrated_energy(
            partial(monte_carlo_energy, mixture, V, n=n, generator=g),
            mixture.dim, (0.4, 2.0), step=0.5, decades=(2.5, 3.0),
        )  # fmt: skip
        error = abs(found.nats / direct.nats - 1)
        sampled = max(sampled, error)
        rows.append([name, f"mixture, ±{found.stderr:.1g}", direct.nats, found.nats, direct.bits_per_dim, error])
        done(len(rows), steps)
    allowed = 0.04 if fast else 0.01
    return Result(
        "Information identity",
        "The energy of the exact residual, integrated over the signal-to-noise ratio, is the mutual information (total "
        f"correlation) between the views: within 1e-6 for Gaussians, within {allowed:.0%} by sampling for mixtures.",
        worst <= 1e-6 and sampled <= allowed,
        {"worst_gaussian": worst, "worst_mixture": sampled},
        ["views", "law", "information, nats", "integrated energy", "bits/dim", "relative error"],
        rows,
        [Panel("correlation length, pixels", "nats", curves, "xy")],
    )


def _mixtures() -> list[tuple[str, Mixture, list[View]]]:
    two = torch.tensor([[-1.2, -1.2], [1.2, 1.2]], dtype=torch.float64).reshape(2, 1, 1, 2)
    pair: list[View] = [Crop((1, 1), offset=(0, 0)), Crop((1, 1), offset=(0, 1))]
    means = 1.2 * torch.randn(4, 1, 2, 2, generator=seeded(7), dtype=torch.float64)
    covs = []
    for k in range(4):
        factor = torch.randn(4, 6, generator=seeded(k), dtype=torch.float64)
        covs.append(0.3 * factor @ factor.T / 6 + 0.1 * torch.eye(4, dtype=torch.float64))
    left: list[View] = [Crop((2, 1), offset=(0, 0)), Crop((2, 1), offset=(0, 1))]
    return [
        ("two pixels", Mixture([0.5, 0.5], two, [0.3, 0.5]), pair),
        ("halves", Mixture([0.1, 0.2, 0.3, 0.4], means, torch.stack(covs)), left),
    ]
