"""Bounds against measured risks, their limits, and what views are worth."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.moments.wishart import wishart
from bootdiff.views import Crop, Identity
from experiments.theory.bounds import FullOnly, first_order, full_only, regularized, selection_gap, views_energy, worth
from experiments.theory.linear import (
    composite,
    energy_strength,
    evidence,
    excess,
    gain_moments,
    optimal_gains,
    view_moment,
    wiener,
)

F64 = torch.float64
SHAPE = (1, 2, 4)
HALVES = [Crop((2, 2), offset=(0, 0)), Crop((2, 2), offset=(0, 2))]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def cov_of(d, seed=0, rank=None):
    factor = torch.randn(d, rank or 2 * d, generator=gen(seed), dtype=F64)
    return factor @ factor.T / d


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
@pytest.mark.parametrize(("d", "rank", "n"), [(4, 4, 1), (6, 2, 3), (5, 5, 9), (5, 3, 40), (3, 3, 500)])
def test_full_only_holds(sigma, d, rank, n):
    S = cov_of(d, d + n, rank)
    risks = excess(wiener(wishart(S, n, 2000, gen()), sigma), S, sigma)
    bound = full_only(S, n, sigma)
    assert bound.best >= float(risks.mean() - 3 * risks.std() / 2000**0.5)
    assert bound.best == min(bound.direct, bound.trivial, bound.inverse) == getattr(bound, bound.which)


def test_inverse_bound_is_exact_as_sigma_goes_to_zero():
    S, sigma = cov_of(3), 1e-3
    for n, above in ((12, 1.2), (300, 1.02)):
        risks = excess(wiener(wishart(S, n, 20_000, gen()), sigma), S, sigma)
        assert 0.97 < full_only(S, n, sigma).inverse / float(risks.mean()) < above + 0.03


@pytest.mark.parametrize(("d", "power", "sigma"), [(8, 0.0, 0.1), (8, 0.0, 0.02), (12, 3.0, 0.3), (12, 1.0, 1.0)])
def test_full_only_is_within_a_factor_of_ten_about_the_rank(d, power, sigma):
    """Where it was in the hundreds: as many samples as coordinates, little noise, decaying spectra."""
    lam = torch.arange(1, d + 1, dtype=F64) ** -power
    S = torch.diag(lam * d / lam.sum())
    for n in (d // 2, d, d + 1, d + 3, 2 * d):
        risks = excess(wiener(wishart(S, n, 2000, gen()), sigma), S, sigma)
        ratio = full_only(S, n, sigma).best / float(risks.mean())
        assert 1 - 4 * float(risks.std() / risks.mean()) / 2000**0.5 < ratio < 10


@pytest.mark.parametrize("n", [2, 6, 30])
def test_bias_and_the_best_fixed_strength(n):
    S, sigma = cov_of(6), 0.4
    best, draws = wiener(S, sigma), 20_000
    W = wiener(wishart(S, n, draws, gen()), sigma)
    bound = full_only(S, n, sigma)
    mean_error = W.mean(0) - best
    v = float(excess(W, S, sigma).mean())
    assert float(excess(W.mean(0), S, sigma)) - v / draws <= bound.bias**2 * 1.01
    C = S + sigma**2 * torch.eye(6, dtype=F64)
    for V in (0.5 * best, 0.9 * torch.eye(6, dtype=F64), torch.zeros(6, 6, dtype=F64)):
        rho = float(excess(V, S, sigma))
        cross = float(((V - best) @ C * mean_error).sum())
        kappa = min(max((rho - cross) / (rho + v - 2 * cross), 0.0), 1.0)
        risk = (1 - kappa) ** 2 * rho + 2 * kappa * (1 - kappa) * cross + kappa**2 * v
        assert risk * 0.99 <= regularized(rho, bound) <= min(rho, bound.best)
    with pytest.raises(ValueError, match="energy"):
        regularized(-1.0, bound)


def test_the_best_strength_where_the_two_are_equally_good_and_alike():
    """Energy, risk and bias equal up to rounding: mixing changes nothing."""
    for v in torch.rand(2000, generator=gen(), dtype=F64).tolist():
        for bias in (v**0.5, v**0.5 * (1 - 1e-15)):
            assert regularized(v, FullOnly(v, math.inf, math.inf, bias)) == pytest.approx(v, rel=1e-12)


def test_first_order_is_the_limit():
    S, n = cov_of(5), 100_000
    risks = excess(wiener(wishart(S, n, 4000, gen()), 0.6), S, 0.6)
    assert n * float(risks.mean()) == pytest.approx(first_order(S, 0.6), rel=0.05)


def test_limits():
    S, zero = cov_of(3), torch.zeros(3, 3, dtype=F64)
    assert full_only(S, 1, math.inf).best == 0
    assert full_only(zero, 1, 1.0).best == 0
    assert full_only(S, 1, 0.0).best == pytest.approx(float(S.trace()))
    assert full_only(S, 10, 0.0).best == 0  # n samples span everything
    for tiny in (1e-300, 1e-100, 1e-20):
        assert 0 <= full_only(S, 10, tiny).best <= full_only(S, 10, 0.1).best
        assert 0 <= full_only(S, 2, tiny).bias <= float(S.trace()) ** 0.5 * (1 + 1e-12)
    assert first_order(S, 0.0) == first_order(S, math.inf) == 0
    assert worth(wiener(S, 0.5), S, 0.5).samples == math.inf
    assert worth(zero, S, 0.0).samples == worth(zero, S, math.inf).samples == 0
    with pytest.raises(ValueError, match="n must"):
        full_only(S, 0, 1.0)
    with pytest.raises(ValueError, match="sigma"):
        full_only(S, 1, math.nan)
    with pytest.raises(ValueError, match="one gain per error"):
        views_energy(1.0, [1.0], [])
    with pytest.raises(ValueError, match="one sample"):
        selection_gap(S[None], zero, S, 0.5, 0)


@pytest.mark.parametrize("N", [2, 30])
def test_views_energy_holds_for_views_of_finite_samples(N):
    S, sigma, b = cov_of(8), 0.5, 0.8
    gains = torch.tensor([1.0, 0.6], dtype=F64)
    exact = [view_moment(S, v, SHAPE) for v in HALVES]
    V = composite(evidence(exact, HALVES, SHAPE, sigma, b), gains, b)
    drawn = [wishart(S_i, N, 4000, gen(i)) for i, S_i in enumerate(exact)]
    energy = excess(composite(evidence(drawn, HALVES, SHAPE, sigma, b), gains, b), S, sigma)
    errors = [full_only(S_i, N, sigma).best for S_i in exact]
    rho = float(excess(V, S, sigma))
    tight, loose = (views_energy(rho, gains.tolist(), errors, disjoint=x) for x in (True, False))
    assert float(energy.mean()) <= tight * 1.01
    assert rho < tight < loose
    # unit gains: the errors of disjoint views are orthogonal to the residual and to each other
    ones = torch.ones(2, dtype=F64)
    measured = excess(composite(evidence(drawn, HALVES, SHAPE, sigma, b), ones, b), S, sigma).mean()
    rho = float(excess(composite(evidence(exact, HALVES, SHAPE, sigma, b), ones, b), S, sigma))
    own = [float(excess(wiener(s, sigma), S_i, sigma).mean()) for s, S_i in zip(drawn, exact)]
    assert float(measured) == pytest.approx(views_energy(rho, [1, 1], own, disjoint=True))


@pytest.mark.parametrize("m", [1, 10, 1000])
def test_selection_gap_holds_for_the_held_out_kappa(m):
    S, sigma = cov_of(6), 0.5
    V, W = 0.5 * wiener(S, sigma), wiener(wishart(S, 8, 1, gen())[0], sigma)
    chosen = energy_strength(V, W, wishart(S, m, 2000, gen(1)), sigma)
    best = energy_strength(V, W, S, sigma)
    lost = excess(V + chosen[:, None, None] * (W - V), S, sigma) - excess(V + best * (W - V), S, sigma)
    bound = float(selection_gap((W - V)[None], V, S, sigma, m))
    assert float(lost.mean()) <= bound < math.inf
    assert float(lost.min()) >= -1e-12


def test_selection_gap_falls_like_one_over_m_and_holds_for_two_gains():
    S, sigma, b = cov_of(8), 0.5, 0.8
    J = evidence([view_moment(S, v, SHAPE) for v in HALVES], HALVES, SHAPE, sigma, b)
    base = b * torch.eye(8, dtype=F64)
    gaps = [float(selection_gap(J, base, S, sigma, m)) for m in (10_000, 20_000)]
    assert gaps[0] == pytest.approx(2 * gaps[1], rel=0.05)
    lost = []
    for S_hat in wishart(S, 10_000, 50, gen()):
        gains = optimal_gains(J, S_hat, sigma, b).clamp(0, 1)
        lost.append(float(excess(composite(J, gains, b), S, sigma) - excess(composite(J, torch.ones(2), b), S, sigma)))
    assert sum(lost) / 50 <= gaps[0]


@pytest.mark.parametrize("m", [300, 10_000])
def test_selection_gap_is_of_the_right_size(m):
    """For many samples the gap is E|e|^2_{G^-1}, and the bound comes close to it."""
    S, sigma = cov_of(6), 0.5
    V, W = 0.85 * wiener(S, sigma), wiener(wishart(S, 8, 1, gen())[0], sigma)
    chosen = energy_strength(V, W, wishart(S, m, 20_000, gen(1)), sigma)
    best = energy_strength(V, W, S, sigma)
    assert 0.2 < float(best) < 0.9
    lost = excess(V + chosen[:, None, None] * (W - V), S, sigma) - excess(V + best * (W - V), S, sigma)
    ratio = float(selection_gap((W - V)[None], V, S, sigma, m)) / float(lost.mean())
    assert 1 < ratio < (2 if m == 300 else 1.3)


def test_worth_forecasts_equivalent_samples():
    S, sigma, b = cov_of(8), 0.5, 0.8
    J = evidence([view_moment(S, v, SHAPE) for v in HALVES], HALVES, SHAPE, sigma, b)
    V = composite(J, torch.ones(2), b)
    value = worth(V, S, sigma)
    n = round(20 * value.samples)
    W = wiener(wishart(S, n, 4000, gen()), sigma)
    error = W - V
    # the best fixed kappa, as the theorem has it
    cross = float(((error @ (S + 0.25 * torch.eye(8, dtype=F64))) * (wiener(S, sigma) - V)).sum((-2, -1)).mean())
    energy = float(((error @ (S + 0.25 * torch.eye(8, dtype=F64))) * error).sum((-2, -1)).mean())
    kappa = cross / energy
    ratio = float(excess(V + kappa * error, S, sigma).mean() / excess(W, S, sigma).mean())
    assert n / ratio - n == pytest.approx(value.samples, rel=0.25)
    assert value.stops(0.1) == pytest.approx(10 * value.samples)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 0.5, 1e6, math.inf])
@pytest.mark.parametrize("rank", [0, 1, 8])
@pytest.mark.parametrize("n", [1, 3])
def test_no_nan_whatever_the_rank_the_samples_and_the_noise(sigma, rank, n):
    S = cov_of(8, rank=rank) if rank else torch.zeros(8, 8, dtype=F64)
    b = 1 / (1 + sigma**2)
    for views in ([], [Identity()], HALVES):
        moments = [wishart(view_moment(S, v, SHAPE), 1, 1, gen())[0] for v in views]  # one sample of each view
        J = evidence(moments, views, SHAPE, sigma, b)
        gains = optimal_gains(J, S, sigma, b)
        V = composite(J, gains, b)
        W = wiener(wishart(S, n, 1, gen())[0], sigma)
        kappa = energy_strength(V, W, S, sigma)
        values = [V, W, gains, kappa, excess(V + kappa * (W - V), S, sigma)]
        assert all(bool(v.isfinite().all()) for v in values), views
        value = worth(V, S, sigma)
        assert not math.isnan(value.samples)
        assert math.isfinite(full_only(S, n, sigma).best)
    if sigma == math.inf:
        with pytest.raises(ValueError, match="finite"):
            selection_gap(J, V, S, sigma, 1)
        with pytest.raises(ValueError, match="finite"):
            gain_moments(J, S, sigma, b)
    else:
        assert bool(selection_gap(J, V, S, sigma, 1).isfinite())
