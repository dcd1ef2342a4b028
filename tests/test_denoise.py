"""The white base and the loss that all denoisers are measured by, against exact laws."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian, denoising_error, expand, mean_over
from bootdiff.distributions.exact import Gaussian
from bootdiff.spec import decode, encode

SHAPE = (2, 3, 2)
MEAN, DATA = [0.3, -0.1], 0.5


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_white_base_is_the_posterior_mean_of_white_data():
    mean = torch.tensor(MEAN, dtype=torch.float64)[:, None, None].expand(SHAPE)
    exact = Gaussian(mean, DATA**2 * torch.eye(12, dtype=torch.float64))
    x, sigma = noise(20, *SHAPE), torch.logspace(-2, 2, 20, dtype=torch.float64)
    torch.testing.assert_close(IsotropicGaussian(SHAPE, MEAN, DATA)(x, sigma), exact(x, sigma), rtol=1e-6, atol=1e-6)


def test_the_white_base_at_no_noise_and_at_much():
    base, x = IsotropicGaussian(SHAPE, MEAN, DATA), noise(2, *SHAPE).float()
    torch.testing.assert_close(base(x, torch.zeros(2)), x)
    torch.testing.assert_close(base(x, torch.full((2,), 1e9)), base.mean.expand_as(x))
    assert base(x.double(), torch.ones(2)).dtype == torch.float64


def test_the_white_base_has_loss_one_on_data_of_its_two_moments_whatever_the_law():
    """Only the variance enters: data of two points, +-0.5 about the mean."""
    base = IsotropicGaussian(SHAPE, MEAN, DATA)
    x0 = base.mean + DATA * noise(20_000, *SHAPE).sign().float()
    for s in (0.05, 0.5, 5.0):
        sigma = torch.full((len(x0),), s)
        error = denoising_error(base(x0 + s * noise(len(x0), *SHAPE, seed=1).float(), sigma), x0, sigma, DATA)
        assert error.shape == (len(x0),)
        assert abs(float(error.mean()) - 1) < 4 * float(error.std()) / math.sqrt(len(x0)) < 0.02


def test_the_error_of_a_known_miss():
    """Off by delta everywhere: delta^2 / c_out^2, with c_out^2 = 0.8^2 0.6^2 / 1."""
    x0 = noise(3, *SHAPE)
    got = denoising_error(x0 + 0.12, x0, torch.full((3,), 0.8, dtype=torch.float64), 0.6)
    torch.testing.assert_close(got, torch.full((3,), 0.0625, dtype=torch.float64))


def test_a_mask_leaves_only_what_it_shows():
    x0, estimate, sigma = noise(2, *SHAPE), noise(2, *SHAPE, seed=1), torch.full((2,), 0.8, dtype=torch.float64)
    mask = torch.zeros(2, 1, 3, 2)
    mask[:, :, 1] = 1
    shown = denoising_error(estimate[:, :, 1], x0[:, :, 1], sigma, 0.6)
    torch.testing.assert_close(denoising_error(estimate, x0, sigma, 0.6, mask), shown)
    hidden = torch.where(mask > 0, estimate, 1e6)
    torch.testing.assert_close(denoising_error(hidden, x0, sigma, 0.6, mask), shown)
    torch.testing.assert_close(
        denoising_error(estimate, x0, sigma, 0.6, torch.ones(2, 1, 3, 2)), denoising_error(estimate, x0, sigma, 0.6)
    )


def test_a_sample_of_which_nothing_is_shown_counts_nothing():
    assert mean_over(torch.ones(2, *SHAPE), torch.zeros(2, 1, 3, 2)).tolist() == [0, 0]


def test_a_value_per_sample_is_expanded():
    assert expand(torch.tensor([2.0, 3.0]), torch.ones(2, 4)).tolist() == [[2.0], [3.0]]
    assert expand(torch.ones(2, dtype=torch.float64), torch.zeros(2, *SHAPE)).dtype == torch.float32
    x = noise(2, *SHAPE)
    torch.testing.assert_close((expand(torch.tensor([2.0, 3.0]), x) * x)[1], 3 * x[1])


def test_config_round_trip():
    base = IsotropicGaussian(SHAPE, MEAN, DATA)
    again = decode(encode(base), {"IsotropicGaussian": IsotropicGaussian})
    assert (again.shape, again.config) == (base.shape, base.config)
    torch.testing.assert_close(again.mean, base.mean)


def test_what_cannot_be_is_refused():
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="one constant"):
            IsotropicGaussian(SHAPE, MEAN, bad)
    with pytest.raises(ValueError, match="1 values and the data 2 channels"):
        IsotropicGaussian(SHAPE, [0.0], 1.0)
