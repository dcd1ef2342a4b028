"""Coordinates, shrinkage, and imposing views' moments: against laws whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch

import view_cases
from bootdiff.distributions.exact import Gaussian
from bootdiff.moments.moment_matching import impose, target
from bootdiff.moments.shrinkage import Coordinates, Estimate, Sampled, shrunk
from bootdiff.moments.view_moments import ViewMoments
from bootdiff.views import Crop, Downsample, Identity, Mask, RandomMask

SHAPES = [(5,), (2, 12), (3, 4, 6), (2, 3, 4, 4)]
DTYPE = torch.float64


def smooth(shape, length=2.0, seed=0):
    """A law of correlated neighbours, about a mean of its own."""
    rng = torch.Generator().manual_seed(seed)
    at = torch.cartesian_prod(*(torch.arange(float(n)) for n in shape)).reshape(math.prod(shape), -1).double()
    cov = torch.exp(-torch.cdist(at, at) / length)
    return Gaussian(0.5 * torch.randn(shape, generator=rng, dtype=DTYPE), cov)


def estimate(coordinates, law, count=100):
    """The law itself, as an estimate in dense coordinates."""
    c = coordinates.analyze(torch.cat([law.mean[None], law.mean + columns(law)]))
    root = (c[1:] - c[0]).T
    return Estimate(c[0], root @ root.T, torch.zeros(0, dtype=DTYPE), count)


def columns(law):
    return (law.basis * law.lam.sqrt()).T.reshape(-1, *law.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coordinates_are_an_orthonormal_basis(shape):
    full = smooth(shape).sample(20, torch.Generator().manual_seed(1))
    C = Coordinates.of(full)
    basis = C.basis().flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(C.dim, dtype=DTYPE))
    center = C.center.reshape(-1, *(1,) * (len(shape) - 1))
    torch.testing.assert_close((full - center).flatten(1) @ basis.T, C.analyze(full))


def test_the_dense_part_keeps_the_largest_variances():
    full = smooth((3, 8, 8), 6.0).sample(50, torch.Generator().manual_seed(1))
    C = Coordinates.of(full, 40)
    second = C.analyze(full).square().mean(0)
    assert len(C.kept) == 40
    assert len(C.left) == 152
    assert second[C.kept].min() >= second[C.left].max()


@pytest.mark.parametrize(
    ("full", "why"),
    [
        (torch.zeros(1, 1, 4, 4), "at least 2 full samples"),
        (torch.full((5, 1, 4, 4), 0.3), "one constant"),
        (torch.full((5, 1, 4, 4), math.nan), "not finite"),
    ],
)
def test_samples_without_a_spread_are_refused(full, why):
    with pytest.raises(ValueError, match=why):
        Coordinates.of(full)


@pytest.mark.parametrize(("view", "shape"), view_cases.CASES, ids=lambda v: str(v)[:60])
def test_files_of_every_view_have_the_moments_of_the_law(shape, view):
    """Files cut out of a law's samples have, within sampling error, the pooled moments that the law predicts."""
    law = smooth(shape)
    rng = torch.Generator().manual_seed(2)
    n = 900
    full = law.sample(n, rng)
    C = Coordinates.of(full[:200])
    files, masks = [], []
    parts = 30 if not view.is_fixed else 1
    for chunk in full.split(n // parts):
        drawn = view.draw(shape, rng)
        files.append(drawn(chunk) + view.tau * drawn(torch.randn(chunk.shape, generator=rng, dtype=DTYPE)))
        if view.masked:
            masks.append(drawn.mask(shape).expand(len(chunk), *drawn.mask(shape).shape))
    seen = ViewMoments.of(C, view, torch.cat(files), torch.cat(masks) if masks else None)
    truth = estimate(C, law, n)
    mean, cov, _ = target(truth, seen)
    model = impose(truth, [seen])
    scale = float(cov.diagonal().max())
    # thirty placements are a coarse sample of them all
    rough = 0.2 if view.is_fixed else 0.7
    assert (seen.cov - seen.tau**2 * torch.eye(seen.size) - cov).abs().max() < rough * (scale + seen.tau**2)
    assert (seen.mean - mean).abs().max() < 2 * rough * math.sqrt(scale)
    assert (model.cov - truth.cov).norm() < 2 * rough * truth.cov.norm()


@pytest.mark.parametrize("view", [Downsample(2), Crop((4, 2), (0, 0)), Mask(band=("bottom", 1))], ids=str)
def test_one_view_is_imposed_exactly(view):
    """The view gets its own moments, and the rest given the view stays as it was (Anderson 1957)."""
    law, other = smooth((2, 4, 4)), smooth((2, 4, 4), 0.7, seed=3)
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    seen = ViewMoments.of(C, view, view(other.sample(2000, torch.Generator().manual_seed(1))))
    before = estimate(C, law, count=50)
    after = impose(before, [seen])
    mean, cov, w = target(before, seen)
    R = seen.rows[0]
    assert w < 0.1
    torch.testing.assert_close(R @ after.cov @ R.T, cov, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(R @ after.mean, mean, atol=1e-6, rtol=1e-6)

    def rest(e):
        G = e.cov @ R.T @ torch.linalg.inv(R @ e.cov @ R.T)
        return G, e.cov - G @ R @ e.cov, e.mean - G @ R @ e.mean

    for a, b in zip(rest(before), rest(after), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_two_views_are_both_imposed():
    law, other = smooth((1, 4, 4)), smooth((1, 4, 4), 0.7, seed=3)
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    x = other.sample(4000, torch.Generator().manual_seed(1))
    halves = [Crop((4, 2), (0, 0)), Crop((4, 2), (0, 2))]
    seen = [ViewMoments.of(C, v, v(x)) for v in halves]
    after = impose(estimate(C, law, 50), seen, sweeps=20)
    for s in seen:
        R = s.rows[0]
        assert (R @ after.cov @ R.T - s.cov).norm() < 0.1 * s.cov.norm()


def test_files_that_agree_with_the_estimate_do_not_move_it():
    law = smooth((1, 4, 4))
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    truth = estimate(C, law)
    seen = ViewMoments.of(C, Identity(), law.sample(40, torch.Generator().manual_seed(1)))
    _, cov, w = target(truth, seen)
    assert w > 0.6
    assert (cov - truth.cov).norm() < (seen.cov - truth.cov).norm()


def test_one_file_moves_the_mean_only():
    law = smooth((1, 4, 4))
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    truth = estimate(C, law, 9)
    after = impose(truth, [ViewMoments.of(C, Downsample(2), 5 + torch.zeros(1, 1, 2, 2))])
    torch.testing.assert_close(after.cov, truth.cov)
    assert not torch.allclose(after.mean, truth.mean)


def test_noise_of_the_files_is_taken_off():
    law = smooth((1, 4, 4))
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    from bootdiff.views import Observed

    view = Observed(Identity(), std=0.8)
    rng = torch.Generator().manual_seed(1)
    files = law.sample(5000, rng) + 0.8 * torch.randn(5000, 1, 4, 4, generator=rng, dtype=DTYPE)
    white = Estimate(torch.zeros(16, dtype=DTYPE), torch.eye(16, dtype=DTYPE), torch.zeros(0, dtype=DTYPE), 10)
    after, truth = impose(white, [ViewMoments.of(C, view, files)]), estimate(C, law)
    assert (after.cov - truth.cov).norm() < 0.15 * truth.cov.norm()


def test_shrinkage_reaches_from_the_samples_to_the_wiener_filter():
    law = smooth((1, 4, 4))
    full = law.sample(12, torch.Generator().manual_seed(0))
    C = Coordinates.of(full)
    first, last = shrunk(C, Sampled.of(C, C.analyze(full)), [0.0, 1.0])
    assert torch.linalg.matrix_rank(first.cov, rtol=1e-6) <= 12
    assert (last.cov - torch.diag(last.cov.diagonal())).abs().max() == 0
    assert (first.cov - torch.diag(first.cov.diagonal())).abs().max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_drawn_moments_are_those_of_drawn_samples(n):
    law = smooth((1, 4, 4))
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)), 10)
    rest = torch.full((6,), 0.1).double()
    e = Estimate(torch.ones(10).double(), torch.diag(torch.arange(1.0, 11.0).double()), rest, 5)
    rng = torch.Generator().manual_seed(1)
    found = [Sampled.drawn(C, e, n, rng) for _ in range(400)]
    mean = torch.stack([f.mean for f in found])
    torch.testing.assert_close(mean[:, C.kept].mean(0), e.mean, atol=0.7 / math.sqrt(n), rtol=0)
    torch.testing.assert_close(mean[:, C.kept].var(0) * n, e.cov.diagonal(), atol=0, rtol=0.4)
    if n > 1:
        cov = torch.stack([f.cov for f in found]).mean(0)
        torch.testing.assert_close(cov.diagonal(), e.cov.diagonal() * (n - 1) / n, atol=0, rtol=0.3)
        outside = torch.stack([f.variance[C.left] for f in found]).mean(0)
        torch.testing.assert_close(outside, e.rest * (n - 1) / n, atol=0, rtol=0.3)


@pytest.mark.parametrize(
    ("view", "files", "why"),
    [
        (Downsample(2), torch.zeros(3, 1, 4, 4), "gives \\(1, 2, 2\\)"),
        (Downsample(2), torch.zeros(0, 1, 2, 2), "the files are"),
        (Downsample(2), torch.full((3, 1, 2, 2), math.inf), "not finite"),
        (RandomMask(), torch.zeros(3, 1, 4, 4), "their own masks"),
    ],
)
def test_files_that_do_not_fit_are_refused(view, files, why):
    C = Coordinates.of(smooth((1, 4, 4)).sample(20, torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=why):
        ViewMoments.of(C, view, files)
