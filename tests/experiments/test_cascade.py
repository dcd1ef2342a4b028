"""The cascade's denoiser where the law is known: draws of the thumbnail are posterior draws, and the loss is exact."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import StackedDenoiser
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
    low = law().through(VIEW)
    y = torch.full((20_000, *VIEW.shape(SHAPE)), 1.0)
    sigma = torch.full((len(y),), 1.5)
    m = ancestral(low, y, sigma, 40, torch.Generator().manual_seed(0))
    exact = low(y[:1], sigma[:1])
    assert torch.allclose(m.mean(0), exact[0], atol=0.03)
    # the posterior variance of N(., 2) seen with noise 1.5
    assert float(m.var(0).mean()) == pytest.approx(1 / (1 / 2 + 1 / 1.5**2), rel=0.05)


class Detail(torch.nn.Module):
    """The exact super-resolution expert: thumbnail as shown, detail by its own law; stands on the white base."""

    on = "views"

    def __init__(self, base, law):
        super().__init__()
        self.base, self.law, self.p = base, law, projection().float()

    def forward(self, x, sigma, seen, label=None, context=None):
        flat = lambda v: v.flatten(1)  # noqa: E731
        detail = flat(self.law(x, sigma)) - flat(self.law(x, sigma)) @ self.p
        return (flat(seen[:, :1] + self.base.mean) + detail).reshape(x.shape) - self.base(x, sigma)


def test_the_denoising_loss_is_the_exact_one_where_thumbnail_and_detail_are_independent():
    true, base, levels = law(), IsotropicGaussian(SHAPE, [0.2], 1.0), [0.5, 2.0]
    composite = Thumbnails(base, VIEW, true.through(VIEW), levels, augment=1e-6, per_octave=6)
    cascade = Cascade(StackedDenoiser(composite, [Detail(base, true)], levels, [[1.0], [1.0]]), draws=96).eval()
    x0 = true.sample(400, torch.Generator().manual_seed(1)).float()
    for level in levels:
        x = x0 + level * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
        sigma = torch.full((len(x),), level)
        mine, exact = (float(((d(x, sigma) - x0) ** 2).mean()) for d in (cascade, true))
        assert mine == pytest.approx(exact, rel=0.05)
        one = Cascade(cascade.stack, draws=1)
        assert float(((one(x, sigma) - x0) ** 2).mean()) > 1.05 * exact  # a single draw is no mean


def test_samples_are_those_of_the_law():
    true, base, levels = law(), IsotropicGaussian(SHAPE, [0.2], 1.0), [0.5, 2.0]
    composite = Thumbnails(base, VIEW, true.through(VIEW), levels, augment=1e-6)
    cascade = Cascade(StackedDenoiser(composite, [Detail(base, true)], levels, [[1.0], [1.0]]), draws=1).eval()
    x = cascade.draw(1500, seed=0, batch_size=500, steps=20).double()
    assert composite.given is None
    flat = x.flatten(1) - x.flatten(1).mean(0)
    covariance, p = flat.T @ flat / len(x), projection()
    assert float(torch.trace(p @ covariance) / 4) == pytest.approx(2.0, rel=0.1)
    assert float(torch.trace(covariance - p @ covariance) / 12) == pytest.approx(0.3, rel=0.1)
