"""The isotropic Gaussian of a distribution: moments by hand and by samples."""

from __future__ import annotations

import pytest
import torch

from bootdiff.distributions.exact import Discrete, Gaussian, Mixture

MEAN = torch.tensor([[[1.0, 3.0]], [[-2.0, -2.0]]], dtype=torch.float64)  # channel means 2 and -2


def test_a_gaussians_by_hand():
    """Variance 0.5 of each coordinate, and 1 of the first channel's means about theirs: (4 * 0.5 + 2) / 4 = 1."""
    prior = Gaussian(MEAN, 0.5 * torch.eye(4, dtype=torch.float64)).isotropic()
    assert prior.shape == (2, 1, 2)
    assert prior.mean.flatten().tolist() == [2.0, -2.0]
    assert prior.sigma_data == pytest.approx(1.0)


def made():
    g = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, 1, 2, generator=g, dtype=torch.float64)
    factors = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    yield Gaussian(means[0], factors[0] @ factors[0].T)
    yield Mixture(weights, means, factors @ factors.mT)
    yield Discrete(means, weights)


@pytest.mark.parametrize("law", list(made()), ids=lambda law: type(law).__name__)
def test_moments_are_those_of_samples(law):
    x = law.sample(200_000, torch.Generator().manual_seed(1)).double()
    mean, variance = law.moments()
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.var(0), variance, atol=0.02, rtol=0.02)
    center = x.mean((0, 2, 3))
    spread = (x - center[:, None, None]).square().mean().sqrt()
    assert law.isotropic().sigma_data == pytest.approx(float(spread), rel=0.01)
