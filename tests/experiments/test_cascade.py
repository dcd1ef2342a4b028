"""The cascade's denoiser where the law is known: draws of the thumbnail are posterior draws, and the loss is exact."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stack import StackedDenoiser
from bootdiff.views import Downsample
from experiments.benchmark.baselines.cascade import Cascade, Thumbnails, ancestral

SHAPE, VIEW = (1, 4, 4), Downsample(2)


def projection():
    eye = torch.eye(16, dtype=torch.float64).reshape(16, *SHAPE)
    return VIEW.lift(VIEW(eye), SHAPE).reshape(16, 16)


def law():
    """Thumbnail and detail independent: covariance 2 on the thumbnails' row space, 0.3 on its complement."""
    p = projection()
    return Gaussian(torch.full(SHAPE, 0.2), 2 * p + 0.3 * (torch.eye(16, dtype=p.dtype) - p))


def test_ancestral_draws_have_the_posterior_mean_and_variance():
    low = law().marginal(VIEW)
    y = torch.full((20_000, *VIEW.shape(SHAPE)), 1.0)
    sigma = torch.full((len(y),), 1.5)
    m = ancestral(low, y, sigma, 40, torch.Generator().manual_seed(0))
    exact = low(y[:1], sigma[:1])
    assert torch.allclose(m.mean(0), exact[0], atol=0.03)
    # the posterior variance of N(., 2) seen with noise 1.5
    assert float(m.var(0).mean()) == pytest.approx(1 / (1 / 2 + 1 / 1.5**2), rel=0.05)


class Detail(Denoiser):
    """The exact super-resolution expert: thumbnail as given, detail by its own law."""

    def __init__(self, law, thumbnails):
        super().__init__()
        self.shape, self.law, self.p, self.thumbnails = SHAPE, law, projection().float(), thumbnails

    def forward(self, x, sigma, label=None, context=None):
        flat = lambda v: v.flatten(1)  # noqa: E731
        given = self.thumbnails.channels(x, sigma)[:, :1] + self.thumbnails.prior.mean
        detail = flat(self.law(x, sigma)) - flat(self.law(x, sigma)) @ self.p
        return (flat(given) + detail).reshape(x.shape)


def exact_cascade(draws, **how):
    true, prior, levels = law(), IsotropicGaussian(SHAPE, [0.2], 1.0), [0.5, 2.0]
    thumbnails = Thumbnails(VIEW, true.marginal(VIEW), prior, augment=1e-6, **how)
    none = CompositeDenoiser({}, prior, levels)
    stack = StackedDenoiser(none, [Detail(true, thumbnails)], levels, [[1.0], [1.0]])
    return Cascade(stack, thumbnails, draws=draws).eval()


def test_the_denoising_loss_is_the_exact_one_where_thumbnail_and_detail_are_independent():
    true, levels, cascade = law(), [0.5, 2.0], exact_cascade(96, per_octave=6)
    x0 = true.sample(400, torch.Generator().manual_seed(1)).float()
    for level in levels:
        x = x0 + level * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
        sigma = torch.full((len(x),), level)
        mine, exact = (float(((d(x, sigma) - x0) ** 2).mean()) for d in (cascade, true))
        assert mine == pytest.approx(exact, rel=0.05)
        one = Cascade(cascade.stack, cascade.thumbnails, draws=1)
        assert float(((one(x, sigma) - x0) ** 2).mean()) > 1.05 * exact  # a single draw is no mean


def test_samples_are_those_of_the_law():
    cascade = exact_cascade(1)
    x = cascade.draw(1500, seed=0, batch_size=500, steps=20).double()
    assert cascade.thumbnails.given is None
    flat = x.flatten(1) - x.flatten(1).mean(0)
    covariance, p = flat.T @ flat / len(x), projection()
    assert float(torch.trace(p @ covariance) / 4) == pytest.approx(2.0, rel=0.1)
    assert float(torch.trace(covariance - p @ covariance) / 12) == pytest.approx(0.3, rel=0.1)
