"""Exact laws seen through every view, on every kind of data."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.distributions.exact import Discrete, Gaussian, Mixture
from view_cases import CASES


@pytest.mark.parametrize(("view", "full"), CASES, ids=[f"{len(f)}-{v}" for v, f in CASES])
def test_the_law_of_a_view_has_its_mean_and_covariance(view, full):
    """A m and A S A^T; so that the denoiser of view coordinates is exact at the same sigma."""
    n = math.prod(full)
    rng = torch.Generator().manual_seed(0)
    factor = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    mean = torch.randn(full, generator=rng, dtype=torch.float64)
    law = Gaussian.low_rank(mean, factor, 0.5)
    p = view.draw(full, rng)
    A = p(torch.eye(n, dtype=torch.float64).reshape(n, *full)).flatten(1).T
    seen = law.marginal(p)
    S = A @ (factor @ factor.T + 0.5 * torch.eye(n)) @ A.T
    torch.testing.assert_close(seen.mean, p(mean[None])[0])
    torch.testing.assert_close(seen.cov, S)
    y = torch.randn(3, *p.shape(full), generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    z = (y - seen.mean).flatten(1)
    wanted = [m @ torch.linalg.solve(S + s**2 * torch.eye(len(S)), S) for m, s in zip(z, sigma, strict=True)]
    torch.testing.assert_close((seen(y, sigma) - seen.mean).flatten(1), torch.stack(wanted))
    points = torch.randn(4, *full, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(Discrete(points).marginal(p).points, p(points))
    torch.testing.assert_close(Mixture([1, 1, 1, 1], points, [0.0] * 4).marginal(p).means, p(points))
