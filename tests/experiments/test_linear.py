"""The linear class: exact risks, fits, limits, and that it is the same composite as the networks'."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.moments.wishart import wishart
from bootdiff.views import ChannelMix, Crop, Downsample, Identity, Mask, View
from experiments.theory.information import affine
from experiments.theory.linear import (
    box_minimum,
    composite,
    energy_fit,
    energy_strength,
    evidence,
    excess,
    null_projection,
    optimal_gains,
    ridge_fit,
    risk,
    rows,
    view_moment,
    wiener,
)

F64 = torch.float64
SHAPE = (3, 4, 4)
D = math.prod(SHAPE)
VIEWS: list[View] = [Downsample(2), Crop((4, 2), offset=(0, 0)), Crop(2), Mask(band=("top", 1)), ChannelMix.gray()]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def cov_of(d, seed=0):
    factor = torch.randn(d, d + 2, generator=gen(seed), dtype=F64)
    return factor @ factor.T / d


def matrix(d, seed):
    return torch.randn(d, d, generator=gen(seed), dtype=F64) / d


def test_risk_is_the_mean_square_over_samples():
    S, W = cov_of(3), matrix(3, 1)
    x0 = Gaussian(torch.zeros(3, dtype=F64), S).sample(200_000, gen())
    x = x0 + 0.7 * torch.randn(x0.shape, generator=gen(1), dtype=F64)
    error = (x @ W.T - x0).square().sum(1)
    assert float(error.mean()) == pytest.approx(float(risk(W, S, 0.7)), abs=4 * float(error.std()) / 200_000**0.5)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.5, 30.0])
def test_excess_is_risk_less_the_least(sigma):
    S, W = cov_of(4), matrix(4, 2)
    least = risk(wiener(S, sigma), S, sigma)
    torch.testing.assert_close(excess(W, S, sigma), risk(W, S, sigma) - least)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.floats(0.01, 20), st.integers(0, 999))
def test_least_squares_minimizes_the_empirical_risk_and_the_residual_without_regularization_is_it(d, n, sigma, seed):
    S_hat, V = wishart(cov_of(d, seed), n, 1, gen(seed))[0], matrix(d, seed + 1)
    W = wiener(S_hat, sigma)
    step = 1e-3 * matrix(d, seed + 2)
    assert risk(W, S_hat, sigma) <= min(risk(W + step, S_hat, sigma), risk(W - step, S_hat, sigma)) + 1e-12
    torch.testing.assert_close(ridge_fit(V, S_hat, sigma, 0.0), W)
    torch.testing.assert_close(energy_fit(V, S_hat, sigma, 1.0), W)


def test_ridge_solves_its_normal_equations_and_energy_its_own():
    S_hat, V, mu, sigma = wishart(cov_of(5), 3, 1, gen())[0], matrix(5, 1), 0.3, 0.4
    C = S_hat + sigma**2 * torch.eye(5, dtype=F64)
    r = ridge_fit(V, S_hat, sigma, mu) - V
    torch.testing.assert_close((V + r) @ C - S_hat + mu * r, torch.zeros(5, 5, dtype=F64))
    r = energy_fit(V, S_hat, sigma, 1 / (1 + mu)) - V
    torch.testing.assert_close((V + r) @ C - S_hat + mu * r @ C, torch.zeros(5, 5, dtype=F64))
    P = null_projection([Crop((1, 2), offset=(0, 0))], (1, 1, 5))
    r = ridge_fit(V, S_hat, sigma, mu, P) - V
    torch.testing.assert_close(P @ r, r)
    torch.testing.assert_close(P @ ((V + r) @ C - S_hat + mu * r), torch.zeros(5, 5, dtype=F64))


def test_limits():
    S = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=F64))
    eye, zero = torch.eye(3, dtype=F64), torch.zeros(3, 3, dtype=F64)
    V = 0.3 * eye
    torch.testing.assert_close(wiener(S, 0.0), torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=F64)))
    torch.testing.assert_close(wiener(S, 1e-12), wiener(S, 0.0))
    torch.testing.assert_close(wiener(zero, 0.0), zero)
    torch.testing.assert_close(wiener(S, math.inf), zero)
    assert excess(V, S, math.inf) == math.inf
    assert excess(zero, S, math.inf) == 0
    assert risk(zero, S, math.inf) == 2.5
    assert energy_strength(V, V, S, 0.5) == 0
    assert energy_strength(V, zero, S, math.inf) == 0
    one = wishart(S, 1, 1, gen())[0]  # one sample, at no noise and a little
    for sigma in (0.0, 1e-9):
        torch.testing.assert_close(ridge_fit(V, one, sigma, 1e-300), ridge_fit(V, one, sigma, 0.0))
        assert ridge_fit(V, one, sigma, 0.1).isfinite().all()
    torch.testing.assert_close(ridge_fit(V, one, 0.5, math.inf), V)
    torch.testing.assert_close(ridge_fit(V, one, 0.5, 1e14), V)
    torch.testing.assert_close(ridge_fit(V, one, math.inf, 1.0), zero)
    assert torch.linalg.matrix_rank(one) == 1


def test_energy_strength_is_the_best_of_a_grid():
    S, V = cov_of(4), matrix(4, 3)
    W = wiener(wishart(S, 6, 1, gen())[0], 0.5)
    kappa = energy_strength(V, W, S, 0.5)
    grid = [float(excess(V + k * (W - V), S, 0.5)) for k in torch.linspace(0, 1, 101).tolist()]
    assert float(excess(V + kappa * (W - V), S, 0.5)) <= min(grid) + 1e-12


@pytest.mark.parametrize("n", [2, 40])
def test_wishart_moments(n):
    S = cov_of(3)
    draws = wishart(S, n, 40_000, gen())
    torch.testing.assert_close(draws.mean(0), S, atol=0.05, rtol=0)
    second = (S @ S + S.trace() * S) / n  # E (S^ - S)^2
    torch.testing.assert_close(((draws - S) @ (draws - S)).mean(0), second, atol=0.12 / n**0.5, rtol=0.05)


@pytest.mark.parametrize("sigma", [0.2, 1.7])
def test_composite_is_the_one_of_networks(sigma):
    law = Gaussian(torch.zeros(SHAPE, dtype=F64), cov_of(D))
    views = {"thumbnails": Downsample(2), "masked": Mask(band=("top", 1)), "gray": ChannelMix.gray()}
    gains = torch.tensor([0.7, 0.4, 0.2])
    base = IsotropicGaussian(SHAPE, [0.0] * 3, 1.2)
    theirs = CompositeDenoiser({n: (v, law.marginal(v)) for n, v in views.items()}, base, [1.0], [gains.tolist()])
    b = 1.2**2 / (1.2**2 + sigma**2)
    J = evidence([view_moment(law.cov, v, SHAPE) for v in views.values()], list(views.values()), SHAPE, sigma, b)
    W, offset = affine(theirs, sigma)
    torch.testing.assert_close(W, composite(J, gains, b), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(offset, torch.zeros(D, dtype=F64))


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_gains_are_the_best_and_never_worse_than_the_base(view):
    S, sigma, b = cov_of(D), 0.6, 0.7
    J = evidence([view_moment(S, view, SHAPE)], [view], SHAPE, sigma, b)
    gain = optimal_gains(J, S, sigma, b)
    best = excess(composite(J, gain, b), S, sigma)
    assert best <= excess(composite(J, torch.zeros(1), b), S, sigma)
    assert best <= min(excess(composite(J, gain + step, b), S, sigma) for step in (-0.01, 0.01))
    if len(view.placements(SHAPE)) == 1:
        assert float(gain) == pytest.approx(1)  # an exact view of one placement


def test_disjoint_exact_views_get_gain_one_and_a_useless_one_zero():
    S, sigma, b = cov_of(16), 0.6, 0.5
    halves = [Crop((4, 2), offset=(0, 0)), Crop((4, 2), offset=(0, 2))]
    J = evidence([view_moment(S, v, (1, 4, 4)) for v in halves], halves, (1, 4, 4), sigma, b)
    torch.testing.assert_close(optimal_gains(J, S, sigma, b), torch.ones(2, dtype=F64))
    same_as_base = torch.zeros_like(J[:1])
    torch.testing.assert_close(optimal_gains(torch.cat([J, same_as_base]), S, sigma, b)[2], torch.tensor(0.0).double())
    assert len(optimal_gains(J[:0], S, sigma, b)) == 0


def test_evidence_that_is_nothing_but_rounding_gets_gain_zero():
    """White data turned by a rotation: the base says it all, up to rounding, and so does least squares."""
    for seed in range(20):
        turn = torch.linalg.qr(torch.randn(D, D, generator=gen(seed), dtype=F64)).Q
        sd, sigma = 0.3 + 0.1 * seed, 0.2 * (1 + seed)
        S, b = sd**2 * (turn @ turn.T), sd**2 / (sd**2 + sigma**2)
        views = VIEWS[:2]
        J = evidence([view_moment(S, view, SHAPE) for view in views], views, SHAPE, sigma, b)
        assert J.abs().max() < 1e-14
        assert optimal_gains(J, S, sigma, b).tolist() == [0, 0]
        assert optimal_gains(J[:1], S, sigma, b).tolist() == [0]
        V = b * torch.eye(D, dtype=F64)
        assert float(energy_strength(V, wiener(S, sigma), S, sigma)) == 0
        # but a little that is there counts
        assert float(energy_strength((1 - 1e-9) * V, V, S, sigma)) == pytest.approx(1, abs=1e-3)


def test_null_projection():
    torch.testing.assert_close(null_projection([Identity()], SHAPE), torch.zeros(D, D, dtype=F64))
    torch.testing.assert_close(null_projection([], SHAPE), torch.eye(D, dtype=F64))
    P = null_projection([Downsample(2), Crop((3, 3), offset=(0, 0))], SHAPE)
    torch.testing.assert_close(P @ P, P)
    torch.testing.assert_close(rows(Downsample(2), SHAPE) @ P, torch.zeros(12, D, dtype=F64))


def test_wrong_arguments():
    S = cov_of(2)
    with pytest.raises(ValueError, match="at least one"):
        wishart(S, 0, 1)
    with pytest.raises(ValueError, match="sigma"):
        wiener(S, -1.0)
    with pytest.raises(ValueError, match="sigma"):
        wiener(S, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        wiener(S * math.nan, 1.0)
    with pytest.raises(ValueError, match="ridge"):
        ridge_fit(S, S, 1.0, -0.1)


def test_box_minimum_is_the_least_over_a_grid():
    g = torch.Generator().manual_seed(0)
    A = torch.randn(20, 2, 3, generator=g, dtype=torch.float64)
    G, h = A @ A.mT, torch.randn(20, 2, generator=g, dtype=torch.float64)
    w = box_minimum(G, h)
    assert bool(((w >= 0) & (w <= 1)).all())
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 41, dtype=torch.float64)] * 2)

    def value(w):
        return torch.einsum("...k,bkl,...l->b...", w, G, w) - 2 * torch.einsum("...k,bk->b...", w, h)

    mine = torch.einsum("bk,bkl,bl->b", w, G, w) - 2 * (w * h).sum(1)
    assert bool((mine <= value(grid).amin(1) + 1e-9).all())
    assert not box_minimum(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)).any()
