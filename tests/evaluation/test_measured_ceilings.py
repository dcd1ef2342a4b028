"""Measured ceilings where the laws are known: the integral of the losses is a difference of KL divergences."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.cli.report.ceilings import sentences
from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.evaluation.ceilings import against_run, ceiling
from bootdiff.evaluation.evaluate import information
from bootdiff.method.validation import SampleSet
from bootdiff.noise import precondition
from bootdiff.views import Crop, Downsample, Mask
from experiments.theory.information import gaussian_energy

SHAPE = (1, 4, 4)
FINE = torch.logspace(-3.5, 2.5, 121, dtype=torch.float64).tolist()
VIEWS = {"small": Downsample(2), "left": Crop((4, 2), (0, 0)), "band": Mask(band=("top", 1))}


def law():
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    return Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.exp(-torch.cdist(pixels, pixels) / 2))


def learned(n, shrinkage=0.2, seed=0):
    """The law as n samples of it teach it: their mean and shrunk covariance."""
    x = law().sample(n, torch.Generator().manual_seed(seed)).flatten(1)
    cov = (1 - shrinkage) * torch.cov(x.T, correction=0) + shrinkage * torch.eye(16, dtype=torch.float64)
    return Gaussian(x.mean(0).reshape(SHAPE), cov)


@pytest.mark.parametrize("n", [8, 40, 400])
@pytest.mark.parametrize("view", [VIEWS["small"], VIEWS["left"]], ids=str)
def test_the_integral_of_expected_losses_is_the_divergence_of_the_laws_of_the_view(view, n):
    """KL(p || q) = 1/2 int E|D_p - D_q|^2 d gamma (Verdu 2010), to 1 %: the true law against that of n samples."""
    p, q = law().marginal(view), learned(n).marginal(view)
    base = IsotropicGaussian(p.shape, [0.0], 1.0)
    unit = p.dim * precondition(torch.tensor(FINE, dtype=torch.float64), 1.0).c_out ** 2
    energy = torch.tensor([gaussian_energy(p, q, s) for s in FINE], dtype=torch.float64)
    losses = {"from_full": (energy / unit)[:, None], "from_files": torch.zeros(len(FINE), 1, dtype=torch.float64)}
    got = information(losses, FINE, base, "from_full", "from_files")
    assert got["nats"] == pytest.approx(p.kl(q), rel=0.01)


@pytest.mark.parametrize("name", VIEWS)
def test_a_measured_ceiling_is_the_difference_of_divergences(name):
    """From n and from N samples, by noisy samples; where the view hides something, of what it shows."""
    view, levels = VIEWS[name], torch.logspace(-1.5, 1, 26, dtype=torch.float64).tolist()
    p, few, many = (one.marginal(view) for one in (law(), learned(12), learned(600, 0.0)))
    x = view(law().sample(1500, torch.Generator().manual_seed(5)))
    mask = view.mask(SHAPE)
    samples = SampleSet(x, None, None if mask is None else mask.expand(len(x), *mask.shape).to(x))
    base = IsotropicGaussian(p.shape, [0.0], 1.0)
    got = ceiling(few, many, samples, levels, base, draws=2)
    at_low, at_high = (_divergence(p, few, s, mask) - _divergence(p, many, s, mask) for s in (levels[0], levels[-1]))
    assert abs(got["nats"] - (at_low - at_high)) < 4 * got["stderr"] + got["quadrature"]
    assert got["stderr"] < 0.15 * got["nats"]
    assert len(got["losses"]["from_full"]) == len(levels)


def _divergence(p, q, sigma, mask):
    """KL of what the view shows, with noise there."""
    on = torch.ones(p.dim, dtype=torch.bool) if mask is None else mask.expand(p.shape).flatten() > 0
    a, b = (Gaussian(v.mu[on], v.dense()[on][:, on]) for v in (p, q))
    return a.kl(b, sigma)


def arms(**losses):
    """Losses of arms on 50 samples at three levels, equal on all."""
    return {arm: torch.full((3, 50), loss, dtype=torch.float64) for arm, loss in losses.items()}


def view(nats, stderr=0.1):
    spread = {"nats": [nats - 2 * stderr, nats + 2 * stderr]}
    return {
        "nats": nats, "stderr": stderr, "bits_per_dim": nats / 4 / math.log(2), "interval": spread, "files": 900,
        "full": 100, "remarks": [],
    }  # fmt: skip


def test_shares_are_of_the_runs_own_integrals():
    levels, base = [0.1, 0.4, 1.6], IsotropicGaussian(SHAPE, [0.0], 1.0)
    losses = arms(full_only=0.5, bootdiff=0.4, oracle=0.3)
    gap = information(losses, levels, base, "full_only", "oracle")["nats"]
    found = against_run({"small": view(gap * 0.5), "other": view(-1.0)}, losses, levels, base, 100, 10_000)
    assert found["together"]["sum"] == found["together"]["least"] == pytest.approx(gap / 2)
    assert found["run"]["share"] == pytest.approx(1)
    assert found["views"]["small"]["share_of_gap"] == pytest.approx(0.5)
    assert found["views"]["small"]["equivalent_samples"] == pytest.approx(900)
    assert found["views"]["other"]["share_of_gap"] == 0
    said = sentences(found)
    assert "50 % of what everything in full saves, as about 900 more full samples would" in said[0]
    assert "nothing beyond the error" in said[1]
    assert "the run got 100 % of it" in said[-1]


def test_the_learning_curve_is_not_read_beyond_the_oracle():
    levels, base = [0.1, 0.4, 1.6], IsotropicGaussian(SHAPE, [0.0], 1.0)
    losses = arms(full_only=0.5, bootdiff=0.4, oracle=0.3)
    gap = information(losses, levels, base, "full_only", "oracle")["nats"]
    found = against_run({"small": view(1.5 * gap)}, losses, levels, base, 100, 10_000)
    assert found["views"]["small"]["equivalent_samples"] is None
    assert "150 % of what everything in full saves: the oracle has not learned all" in sentences(found)[0]


def test_what_is_not_known_is_not_said():
    levels, base = [0.1, 0.4, 1.6], IsotropicGaussian(SHAPE, [0.0], 1.0)
    losses = arms(full_only=0.5, bootdiff=0.4)
    found = against_run({"small": view(3.0)}, losses, levels, base, 100)
    assert found["gap"] is None
    assert found["views"]["small"]["share_of_gap"] is None
    assert not any("everything in full" in text or "full samples would" in text for text in sentences(found))
    assert against_run({"small": view(3.0)}, arms(views_only=0.4), levels, base, 100)["run"] is None
    assert "other: no ceiling, it has no files." in sentences(found | {"not_measured": {"other": "it has no files"}})
    nothing = against_run({"small": view(0.1)}, losses, levels, base, 100)
    assert nothing["run"]["share"] is None
    assert "no share" in sentences(nothing)[-1]
    more = against_run({"small": view(found["run"]["nats"] / 2)}, losses, levels, base, 100)
    assert "200 % of that ceiling" in sentences(more)[-1]
