"""EDM's coefficients and the noise levels, against their defining equations."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.noise import LEVELS, LogNormal, interpolate, karras_levels, nearest_level, precondition

SIGMA = torch.logspace(-3, 3, 25, dtype=torch.float64)


def test_preconditioning_has_its_defining_properties():
    """Karras et al. 2022, appendix B.6: unit inputs, unit targets, and the c_skip of least c_out."""
    data = 0.7
    c = precondition(SIGMA, data)
    one = torch.ones_like(SIGMA)
    torch.testing.assert_close(c.c_in**2 * (data**2 + SIGMA**2), one)
    # the target (x0 - c_skip x) / c_out for x0 ~ N(0, data^2)
    torch.testing.assert_close(((1 - c.c_skip) ** 2 * data**2 + (c.c_skip * SIGMA) ** 2) / c.c_out**2, one)
    for other in (0.99, 1.01):
        skip = c.c_skip * other
        assert ((1 - skip) ** 2 * data**2 + (skip * SIGMA) ** 2 > c.c_out**2).all()
    torch.testing.assert_close(c.c_noise, SIGMA.log() / 4)
    torch.testing.assert_close(c.c_out**2, SIGMA**2 * c.c_skip)


def test_log_normal_levels_have_their_mean_and_deviation():
    s = LogNormal(-0.6, 1.4).sample(200_000, torch.Generator().manual_seed(0)).log()
    assert float(s.mean()) == pytest.approx(-0.6, abs=4 * 1.4 / 200_000**0.5)
    assert float(s.std()) == pytest.approx(1.4, rel=0.01)
    again = LogNormal(-0.6, 1.4).sample(200_000, torch.Generator().manual_seed(0)).log()
    assert torch.equal(s, again)
    assert s.dtype == torch.float32


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_levels_are_even_in_the_power_of_one_over_rho(rho):
    s = karras_levels(40, 0.02, 80.0, rho).double()
    assert s[0] == pytest.approx(80, rel=1e-6)
    assert s[-1] == pytest.approx(0.02, rel=1e-5)
    steps = (s ** (1 / rho)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(39), rtol=1e-3, atol=0)


@pytest.mark.parametrize("wrong", [(1, 0.1, 1.0), (5, 0.0, 1.0), (5, 2.0, 1.0), (5, 1.0, 1.0)])
def test_karras_levels_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=f"n={wrong[0]}"):
        karras_levels(*wrong)


def test_interpolation_is_linear_in_ln_sigma_and_constant_outside():
    levels, values = torch.tensor([0.1, 1.0, 10.0]), torch.tensor([[0.0, 1.0], [2.0, 1.0], [6.0, -3.0]])
    at = torch.tensor([0.001, 0.1, 10**-0.5, 1.0, 10**0.25, 10.0, 500.0])
    expected = torch.tensor([[0, 1], [0, 1], [1, 1], [2, 1], [3, 0], [6, -3], [6, -3]]).float()
    torch.testing.assert_close(interpolate(at, levels, values), expected)
    torch.testing.assert_close(interpolate(at, levels, values[:, 0]), expected[:, 0])


def test_interpolation_at_the_ends_of_the_line():
    levels, values = torch.tensor([0.1, 1.0]).double(), torch.tensor([3.0, 4.0]).double()
    assert interpolate(torch.tensor([0.0, math.inf]), levels, values).tolist() == [3, 4]
    assert interpolate(torch.tensor([0.5, 2.0]), levels[:1], values[:1]).tolist() == [3, 3]
    assert interpolate(torch.tensor([0.5]), levels[:1], values[None]).tolist() == [[3, 4]]


def test_what_is_off_at_both_neighbours_is_off_between():
    values = torch.tensor([1.0, 0.0, 0.0, 1.0])
    off = interpolate(torch.linspace(0.1001, 0.1999, 50), torch.tensor([0.05, 0.1, 0.2, 0.4]), values)
    assert (off == 0).all()


def test_the_nearest_level_is_nearest_in_ln_sigma():
    sigma = torch.logspace(-2, 1.5, 300)
    distance = (sigma.double().log()[:, None] - torch.tensor(LEVELS).double().log()).abs()
    assert torch.equal(nearest_level(sigma, LEVELS), distance.argmin(1))
    assert nearest_level(torch.tensor([1e-9, 1e9]), [0.3]).tolist() == [0, 0]
