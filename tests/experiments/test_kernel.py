"""Random-feature denoisers: the fit by its normal equations, risks by points, the bound against measured risks."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.distributions.exact import Gaussian, Mixture
from experiments.theory.bounds import best_strength, feature_ridge
from experiments.theory.kernel import Moments, RandomFeatures, posterior_variance, ridge
from experiments.theory.linear import wiener

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(d=3):
    factor = torch.randn(d, d, generator=gen(4), dtype=F64)
    return Gaussian(torch.zeros(d, dtype=F64), factor @ factor.T / d)


def mixture():
    means = 2 * torch.randn(3, 3, generator=gen(2), dtype=F64)
    return Mixture([1.0, 2.0, 1.0], means - means.mean(0), [0.1, 0.2, 0.3])


def noisy(law, count, sigma, seed):
    x0 = law.sample(count, gen(seed))
    return x0, x0 + sigma * torch.randn(x0.shape, generator=gen(seed + 1), dtype=F64)


def best(law, x, sigma):
    return law(x.reshape(-1, 3), torch.full((x.numel() // 3,), sigma, dtype=F64)).reshape(x.shape)


def test_features_have_norm_one_and_the_kernel_as_limit():
    x = torch.randn(5, 4, generator=gen(), dtype=F64)
    phi = RandomFeatures.draw(4, 20_000, 1.5, gen(1))
    assert phi.count == phi(x).shape[-1] == 20_000
    torch.testing.assert_close(phi(x).square().sum(-1), torch.ones(5, dtype=F64))
    torch.testing.assert_close(phi(x) @ phi(x).T, torch.exp(-(torch.cdist(x, x) ** 2) / 4.5), atol=0.04, rtol=0)
    for wrong in ((0, 4, 1.0), (2, 3, 1.0), (2, 4, 0.0), (2, 4, math.inf)):
        with pytest.raises(ValueError, match="RandomFeatures"):
            RandomFeatures.draw(*wrong)


@pytest.mark.parametrize("n", [1, 7, 8, 30])
def test_ridge_solves_its_normal_equations(n):
    phi = torch.randn(2, n, 8, generator=gen(), dtype=F64)
    y = torch.randn(2, n, 3, generator=gen(1), dtype=F64)
    T = ridge(phi, y, 0.7)
    torch.testing.assert_close((y - phi @ T.mT).mT @ phi, 0.7 * T)
    assert not ridge(phi, y, math.inf).any()
    with pytest.raises(ValueError, match="strength"):
        ridge(phi, y, 0.0)


def test_moments_give_the_risk_at_the_points():
    law, sigma, phi = mixture(), 0.5, RandomFeatures.draw(3, 16, 2.0, gen(3))
    _, x = noisy(law, 500, sigma, 0)
    r = best(law, x, sigma) - 0.5 * x
    T = torch.randn(4, 3, 16, generator=gen(), dtype=F64)
    direct = (r - phi(x) @ T.mT).square().sum(-1).mean(-1)
    torch.testing.assert_close(Moments.of(r, phi(x)).excess(T), direct)


def test_posterior_variance():
    law, sigma = gaussian(), 0.6
    _, x = noisy(law, 7, sigma, 0)
    expected = sigma**2 * float(wiener(law.cov, sigma).trace())
    torch.testing.assert_close(posterior_variance(law, x, sigma), torch.full((7,), expected, dtype=F64))
    law = mixture()
    x0, x = noisy(law, 200_000, sigma, 0)
    v = posterior_variance(law, x[:20_000], sigma)
    error = (x0 - best(law, x, sigma)).square().sum(1).mean()
    assert float(v.mean()) == pytest.approx(float(error), rel=0.03)
    assert float(v.min()) >= 0
    with pytest.raises(ValueError, match="sigma"):
        posterior_variance(law, x[:2], 0.0)


@pytest.mark.parametrize("kind", [gaussian, mixture])
@pytest.mark.parametrize("n", [1, 10, 200])
def test_the_bound_holds_at_any_strength(kind, n):
    law, sigma, b = kind(), 0.5, 0.8
    phi = RandomFeatures.draw(3, 32, 2.0, gen(3))
    _, points = noisy(law, 20_000, sigma, 10)
    moments = Moments.of(best(law, points, sigma) - b * points, phi(points))
    v = posterior_variance(law, points, sigma)
    draws = 400
    x0, x = (y.reshape(draws, n, 3) for y in noisy(law, draws * n, sigma, 20))
    ratios = []
    for strength in (0.1, 1.0, 10.0, 100.0):
        risks = moments.excess(ridge(phi(x), x0 - b * x, strength))
        mean, error = float(risks.mean()), float(risks.std()) / draws**0.5
        bound = feature_ridge(moments, n, strength, v)
        assert bound >= mean - 4 * error
        ratios.append(bound / mean)
    assert min(ratios) < 2
    strength, value = best_strength(moments, n, v)
    assert value == feature_ridge(moments, n, strength, v) <= moments.energy * (1 + 1e-12)


def test_limits_of_the_bound():
    law, sigma = mixture(), 0.5
    phi = RandomFeatures.draw(3, 32, 2.0, gen(3))
    _, x = noisy(law, 4000, sigma, 0)
    moments, v = Moments.of(best(law, x, sigma) - 0.8 * x, phi(x)), posterior_variance(law, x, sigma)
    assert feature_ridge(moments, 5, math.inf, v) == pytest.approx(moments.energy)
    assert feature_ridge(moments, 5, 1e12, v) == pytest.approx(moments.energy, rel=1e-6)
    # many samples: what is left is what the features cannot express, at strengths that are large yet small against n
    least = moments.energy - float((moments.against @ torch.linalg.pinv(moments.gram) * moments.against).sum())
    values = [best_strength(moments, n, v)[1] for n in (10, 1000, 100_000, 10**9)]
    assert values == sorted(values, reverse=True)
    assert least <= values[-1] < 1.1 * least + 0.01 * moments.energy
    # errors of the views add in roots
    off = feature_ridge(moments, 10, math.inf, v, views=0.3)
    assert off == pytest.approx((moments.energy**0.5 + 0.3) ** 2)
    for wrong in ((0, 1.0, 0.0), (1, 0.0, 0.0), (1, 1.0, -1.0), (1, math.nan, 0.0)):
        with pytest.raises(ValueError, match="feature_ridge"):
            feature_ridge(moments, wrong[0], wrong[1], v, wrong[2])
