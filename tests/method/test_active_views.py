"""Where a view has no say: below its files' noise, beyond its denoiser's noise levels, without a class."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.views import Crop, Observed

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6, 6.4)


class Between(Denoiser):
    """Speaks between two noise levels, of classes that it knows; elsewhere, it must not be asked."""

    shape = (1, 4, 2)

    def valid_at(self, sigma, label=None):
        said = (sigma > 0.3) & (sigma < 3.0)
        return said if label is None else said & (label >= 0)

    def forward(self, x, sigma, label=None, context=None):
        assert bool(self.valid_at(sigma, label).all())
        return torch.full_like(x, 0.5)


def composite(tau=0.0):
    view = Crop((4, 2), (0, 0))
    views = {"left": (Observed(view, tau) if tau else view, Between())}
    return CompositeDenoiser(views, IsotropicGaussian(SHAPE, [0.0], 0.5), LEVELS)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_view_without_a_say_is_the_base(labelled):
    sigma = torch.tensor([0.1, 0.4, 1.0, 2.9, 6.4])
    label = torch.tensor([0, -1, 1, 0, 1]) if labelled else None
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    at = composite().estimate(x, sigma, label)
    evidence_of = [False, not labelled, True, True, False]
    assert ((at.mean - at.prior).flatten(1).abs().amax(1) > 0).tolist() == evidence_of
    assert (at.views.flatten(1).abs().amax(1) > 0).tolist() == evidence_of
    torch.testing.assert_close(at.mean[2, :, :, :2], torch.full((1, 4, 2), 0.5))
    assert composite(tau=0.5).active("left", sigma, label).tolist() == [False, False, True, True, False]


def test_gains_are_not_fitted_where_there_is_no_say():
    """Nothing is asked there, and the moments are those of silence."""
    samples = SampleSet(torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, -1] * 3))
    moments = Validator(samples, composite(), LEVELS).evidence_moments()
    said = moments.gram[:, :, 0, 0] > 0
    assert said.tolist() == [[False] * 6, [True, False] * 3, [True, False] * 3, [False] * 6]
