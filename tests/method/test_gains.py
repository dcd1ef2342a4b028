"""Gains and stacking weights: exact Gaussian views through the real composite, and made-up regressions."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.method.weights import RIDGES, Moments, fit_weights
from bootdiff.views import Crop, Downsample, Identity

SHAPE = (1, 4, 4)
LEVELS = (0.2, 0.5, 1.2)
BASE = IsotropicGaussian(SHAPE, [0.0], 0.6)


def smooth_law(length=1.5):
    """Correlated pixels: covariance exp(-distance / length)."""
    at = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    return Gaussian(torch.zeros(SHAPE, dtype=torch.float64), 0.36 * torch.exp(-torch.cdist(at, at) / length))


def composite(p, views):
    return CompositeDenoiser({name: (view, p.marginal(view)) for name, view in views.items()}, BASE, LEVELS)


def gains_of(p, views, n=1500, draws=1, **options):
    x = p.sample(n, torch.Generator().manual_seed(11)).float()
    moments = Validator(SampleSet(x), composite(p, views), LEVELS, draws, seed=77).evidence_moments()
    return fit_weights(moments, LEVELS, smooth=(0.0,), ridges=(0.0,), **options)


def exact_gains(p, views, sigma):
    """G lambda = h in closed form: e_i = E_i x with E_i = A_i^T (K_i - c) A_i, x0 - b = x0 - c x, C = S + sigma^2."""
    S, eye = p.cov, torch.eye(16, dtype=torch.float64)
    C, c = S + sigma**2 * eye, BASE.sigma_data**2 / (BASE.sigma_data**2 + sigma**2)
    E = []
    for view in views.values():
        A = view(eye.reshape(16, *SHAPE)).flatten(1).T
        s = A @ S @ A.T
        i = torch.eye(len(s), dtype=torch.float64)
        E.append(A.T @ (s @ torch.linalg.inv(s + sigma**2 * i) - c * i) @ A)
    G = torch.stack([torch.stack([torch.trace(a @ C @ b.T) for b in E]) for a in E])
    h = torch.stack([torch.trace(a @ (S - c * C)) for a in E])
    return torch.linalg.solve(G, h)


LEFT, RIGHT = Crop((4, 2), offset=(0, 0)), Crop((4, 2), offset=(0, 2))


def test_disjoint_exact_views_get_one():
    """Their evidence lies in different coordinates, and E[x0 - b | A x] is that evidence: 1, correlated or not."""
    views = {"left": LEFT, "right": RIGHT}
    for sigma in LEVELS:
        torch.testing.assert_close(exact_gains(smooth_law(), views, sigma), torch.ones(2, dtype=torch.float64))
    found = gains_of(smooth_law(), views)
    torch.testing.assert_close(found.values, torch.ones_like(found.values), atol=0.06, rtol=0)
    assert (found.significance > 5).all()


@pytest.mark.parametrize(
    "views",
    [
        {"left": Crop((4, 3), offset=(0, 0)), "right": Crop((4, 3), offset=(0, 1))},
        {"left": LEFT, "left middle": Crop((2, 2), offset=(1, 0)), "small": Downsample(2)},
    ],
    ids=["overlapping", "nested"],
)
def test_overlapping_views_share(views):
    found = gains_of(smooth_law(), views, n=3000, prune=0.0)
    for row, sigma in zip(found.values, LEVELS, strict=True):
        expected = exact_gains(smooth_law(), views, sigma)
        torch.testing.assert_close(row, expected, atol=0.08, rtol=0)
        assert expected.max() < 1
    if len(views) == 2:
        assert (found.values[:, 0] - found.values[:, 1]).abs().max() < 0.08  # mirror images of one another


def test_a_view_that_another_holds_is_left_out():
    """The identity view is the posterior mean itself: nothing of it is left for a thumbnail of it to explain."""
    found = gains_of(smooth_law(), {"all": Identity(), "small": Downsample(2)})
    torch.testing.assert_close(found.values[:, 0], torch.ones(3, dtype=torch.float64), atol=0.06, rtol=0)
    assert (found.values[:, 1] == 0).all()
    assert found.significance[:, 1].abs().max() < 2


def test_two_copies_of_one_view_count_once():
    found = gains_of(smooth_law(), {"a": Identity(), "b": Identity()})
    torch.testing.assert_close(found.values.sum(1), torch.ones(3, dtype=torch.float64), atol=0.06, rtol=0)


def test_a_view_without_a_word_gets_exactly_zero():
    """Of white data the base says all: the view's evidence is 0."""
    white = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), 0.36 * torch.eye(16, dtype=torch.float64))
    found = gains_of(white, {"left": LEFT})
    assert (found.values == 0).all()


def test_a_view_of_other_data_gets_exactly_zero_and_is_left_out():
    """Denoisers of a law with the correlation where ours has none: no number times their evidence helps."""
    ours = torch.diag(torch.tensor([0.36] * 16, dtype=torch.float64))
    theirs = ours.clone()
    theirs[0, 1] = theirs[1, 0] = theirs[8, 9] = theirs[9, 8] = 0.3
    p, q = (Gaussian(torch.zeros(SHAPE, dtype=torch.float64), cov) for cov in (ours, theirs))
    half = composite(q, {"left": LEFT})
    x = p.sample(400, torch.Generator().manual_seed(11)).float()
    found = fit_weights(Validator(SampleSet(x), half, LEVELS, 1, seed=77).evidence_moments(), LEVELS)
    assert (found.values == 0).all()
    assert list(half.with_gains(found.values).views) == []


def test_a_view_counts_only_at_levels_where_it_helps():
    """Evidence that is right at one level and noise at the two others."""
    g = torch.Generator().manual_seed(2)
    target = torch.randn(3, 60, 16, generator=g)
    word = torch.randn(3, 60, 16, generator=g)
    word[1] = target[1]
    found = fit_weights(moments_of(target, [word]), LEVELS, smooth=(0.0,))
    assert found.values[[0, 2], 0].tolist() == [0, 0]
    assert found.values[1, 0] == pytest.approx(1, rel=1e-3)
    assert found.explained.tolist() == pytest.approx([0, 1, 0], abs=1e-3)


# The regression itself, on made-up vectors


def moments_of(target, candidates):
    """Moments of target (levels, n, d) and candidates, each of that shape."""
    m = Moments.empty(len(target), target.shape[1], len(candidates))
    for level, t in enumerate(target):
        m.add(level, torch.arange(len(t)), t, [c[level] for c in candidates], torch.ones(len(t)))
    return m


def made_up(weights, n=40, d=8, noise=1.0, levels=3, seed=0):
    """t = sum_k w_k e_k + noise; weights (levels, K)."""
    g = torch.Generator().manual_seed(seed)
    e = [torch.randn(levels, n, d, generator=g) for _ in range(weights.shape[1])]
    t = sum(weights[:, k, None, None] * c for k, c in enumerate(e)) + noise * torch.randn(levels, n, d, generator=g)
    return t, e


def test_moments_are_means_of_inner_products_and_loss_is_what_is_left():
    w = torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.3, 0.3]])
    t, e = made_up(w)
    m = moments_of(t, e)
    torch.testing.assert_close(m.cross[1, 5, 0], (t[1, 5] * e[0][1, 5]).mean().double())
    torch.testing.assert_close(m.gram[2, 3, 0, 1], (e[0][2, 3] * e[1][2, 3]).mean().double())
    left = t - sum(w[:, k, None, None] * c for k, c in enumerate(e))
    torch.testing.assert_close(m.loss(w), left.square().mean(2).double(), rtol=1e-5, atol=1e-6)
    at = torch.tensor([7, 1])
    torch.testing.assert_close(m.take(at).loss(w), m.loss(w)[:, at])


def test_moments_are_in_units_of_the_scale_and_sum_over_batches():
    t, e = made_up(torch.ones(1, 1), levels=1)
    whole, halves = moments_of(t, e), Moments.empty(1, 40, 1)
    for at in torch.arange(40).split(15):
        halves.add(0, at, t[0, at], [e[0][0, at]], torch.full((len(at),), 3.0))
    torch.testing.assert_close(halves.gram, 9 * whole.gram, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(halves.power, 9 * whole.power, rtol=1e-5, atol=1e-6)


def test_without_noise_the_weights_are_found_exactly():
    w = torch.tensor([[0.5, -1.0], [2.0, 0.25], [0.3, 0.3]])
    found = fit_weights(moments_of(*made_up(w, noise=0.0)), LEVELS)
    torch.testing.assert_close(found.values, w.double(), rtol=1e-5, atol=1e-5)
    assert (found.ridge, found.smooth) == (0.0, 0.0)
    assert found.explained.tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_weights_are_not_negative_where_asked():
    """Lawson-Hanson's conditions: w >= 0, gradient >= 0, and one of both is 0 for each candidate."""
    t, e = made_up(torch.tensor([[0.8, -0.5, 0.3]]).expand(3, -1), n=30)
    e[2] = e[2] + 0.8 * e[1]
    m = moments_of(t, e)
    free = fit_weights(m, LEVELS, smooth=(0.0,), ridges=(0.0,), prune=-math.inf).values
    found = fit_weights(m, LEVELS, smooth=(0.0,), ridges=(0.0,), prune=-math.inf, nonnegative=True).values
    assert (free[:, 1] < -0.3).all()
    assert (found >= 0).all()
    gradient = torch.einsum("ljk,lk->lj", m.gram.mean(1), found) - m.cross.mean(1)
    assert (gradient > -1e-6).all()
    assert (gradient * found).abs().max() < 1e-6
    assert (found[:, 1] == 0).all()


def test_one_sample():
    """No folds, no pruning: plain least squares, finite."""
    w = torch.tensor([[0.5, -1.0]]).expand(3, -1)
    found = fit_weights(moments_of(*made_up(w, n=1, noise=0.0)), LEVELS)
    torch.testing.assert_close(found.values, w.double(), rtol=1e-4, atol=1e-4)
    assert (found.ridge, found.smooth) == (0.0, 0.0)
    assert found.explained.tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_two_samples_and_no_candidates():
    assert fit_weights(moments_of(*made_up(torch.ones(3, 2), n=2)), LEVELS).values.isfinite().all()
    none = fit_weights(Moments.empty(3, 5, 0), LEVELS)
    assert none.values.shape == (3, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_estimates_that_are_not_finite_are_refused(bad):
    t, e = made_up(torch.ones(3, 2))
    e[1][2, 4, 0] = bad
    with pytest.raises(ValueError, match="a denoiser has diverged"):
        fit_weights(moments_of(t, e), LEVELS)


def test_too_many_candidates_are_refused():
    with pytest.raises(ValueError, match="got 13"):
        fit_weights(Moments.empty(2, 5, 13), LEVELS[:2])


def test_silence_everywhere_is_weight_zero():
    """A target or candidates of zeros (levels below the noise of the stored data) do no harm."""
    t, e = made_up(torch.ones(3, 2))
    t[0], e[0][0], e[1][0] = 0, 0, 0
    found = fit_weights(moments_of(t, e), LEVELS, smooth=(0.0,))
    assert found.values[0].tolist() == [0, 0]
    assert found.values.isfinite().all()
    assert found.explained.isfinite().all()


def test_a_candidate_that_is_nothing_but_rounding_gets_no_weight():
    """Two denoisers that are the same differ by what float32 rounds: no sum of it is worth a thing."""
    g = torch.Generator().manual_seed(0)
    t = torch.randn(3, 1, 8, generator=g)
    rounding = [1e-8 * (t + torch.randn(3, 1, 8, generator=g)) for _ in range(2)]
    for nonnegative in (False, True):
        found = fit_weights(moments_of(t, rounding), LEVELS, nonnegative=nonnegative)
        assert found.values.tolist() == [[0, 0]] * 3
        found = fit_weights(moments_of(t, [t, rounding[0]]), LEVELS, nonnegative=nonnegative)
        torch.testing.assert_close(found.values, torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64))


def test_of_two_candidates_that_are_the_same_the_first_is_kept_or_dropped_whatever_is_rounded():
    t, (e,) = made_up(torch.full((3, 1), 0.4), n=40)
    kept = []
    for rounding in (-1e-15, 0.0, 1e-15):
        m = moments_of(t, [e, e])
        m.cross[..., 0] *= 1 + rounding
        m.gram[..., 0, 0] *= 1 - rounding
        kept.append((fit_weights(m, LEVELS, smooth=(0.0,), ridges=(0.0,)).values != 0).tolist())
    assert kept[0] == kept[1] == kept[2]
    assert all(sum(level) == 1 for level in kept[0])


# What cross-validation chooses

FINE = torch.logspace(-1, 1, 12).tolist()


def error(found, w):
    return float((found.values - w).square().mean())


def test_smoothing_is_chosen_where_weights_change_slowly_and_helps():
    w = torch.full((12, 1), 0.4)
    m = moments_of(*made_up(w, n=8, d=4, noise=2.0, levels=12, seed=3))
    found = fit_weights(m, FINE, smooth=(0.0, 0.35, 1.0), prune=-math.inf)
    rough = fit_weights(m, FINE, smooth=(0.0,), prune=-math.inf)
    assert found.smooth > 0
    assert error(found, w) < 0.5 * error(rough, w)


def test_smoothing_is_not_chosen_where_weights_jump():
    w = torch.tensor([0.0, 1.0] * 6)[:, None]
    found = fit_weights(moments_of(*made_up(w, n=100, levels=12)), FINE, smooth=(0.0, 0.35, 1.0), prune=-math.inf)
    assert found.smooth == 0
    assert error(found, w) < 0.01


def test_a_ridge_is_chosen_where_candidates_are_alike_and_samples_few():
    w = torch.full((3, 2), 0.3)
    g = torch.Generator().manual_seed(8)
    t, e = made_up(w, n=5, d=3, noise=1.0, seed=4)
    alike = [e[0] + 0.05 * torch.randn(e[0].shape, generator=g) for _ in range(6)]
    m = moments_of(t, alike)
    found = fit_weights(m, LEVELS, smooth=(0.0,), prune=-math.inf)
    plain = fit_weights(m, LEVELS, smooth=(0.0,), ridges=(0.0,), prune=-math.inf)
    assert found.ridge > 0
    assert found.explained.mean() > plain.explained.mean()
    assert found.values.norm() < plain.values.norm()


def test_with_plenty_of_samples_no_strong_ridge_is_chosen():
    w = torch.tensor([[1.0, -0.5]]).expand(3, -1)
    found = fit_weights(moments_of(*made_up(w, n=400)), LEVELS, smooth=(0.0,))
    assert found.ridge < max(RIDGES)
    assert error(found, w) < 1e-3


def test_what_is_explained_is_out_of_sample():
    """Six candidates of noise explain part of six samples, and nothing of others."""
    t, e = made_up(torch.zeros(3, 6), n=6, d=2)
    m = moments_of(t, e)
    found = fit_weights(m, LEVELS, smooth=(0.0,), ridges=(0.0,), prune=-math.inf)
    inside = 1 - m.loss(found.values).mean(1) / m.power.mean(1)
    assert (inside > 0.2).all()
    assert (found.explained < inside - 0.2).all()
    assert (fit_weights(m, LEVELS).values == 0).all()


def test_the_record_is_plain():
    found = fit_weights(moments_of(*made_up(torch.ones(3, 2))), LEVELS)
    said = found.record(LEVELS, ["a", "b"])
    assert said["names"] == ["a", "b"]
    assert torch.tensor(said["values"], dtype=torch.float64).equal(found.values)
    assert type(said["ridge"]) is float
