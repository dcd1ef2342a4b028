"""Exact laws against brute-force formulas, limits, Monte-Carlo, and Tweedie's identity."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from bootdiff.distributions.exact import Discrete, Distribution, Gaussian, Mixture
from bootdiff.views import ChannelMix, Compose, Crop, Downsample, Identity, Mask, Observed, RandomMask, View

F64 = torch.float64
SHAPE = (3, 4, 4)
D = math.prod(SHAPE)
VIEWS: list[View] = [
    Identity(),
    Downsample(2),
    Crop(size=(2, 3), offset=(1, 0)),
    Mask(box=(1, 1, 2, 2)),
    Mask(band=("bottom", 1)),
    RandomMask(fraction=0.3).draw(SHAPE, torch.Generator().manual_seed(0)),
    RandomMask(hide="pixels", fraction=0.5).draw(SHAPE, torch.Generator().manual_seed(1)),
    ChannelMix.gray(),
    ChannelMix(rows=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))),
    Observed(Downsample(2), 0.3),
    Compose(outer=ChannelMix.gray(), inner=Downsample(2)),
    Compose(outer=Mask(box=(0, 0, 1, 1)), inner=Downsample(2)),
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def cov_of(d: int, seed: int, rank: int | None = None) -> torch.Tensor:
    factor = randn(d, rank or d, seed=seed)
    return factor @ factor.T / d


def gaussian(shape=(5,), seed=0, rank=None) -> Gaussian:
    d = math.prod(shape)
    return Gaussian(randn(*shape, seed=seed + 50), cov_of(d, seed, rank))


def mixture(shape=(5,), seed=0, rank=None) -> Mixture:
    d = math.prod(shape)
    covs = torch.stack([cov_of(d, seed + k, rank) for k in range(3)])
    return Mixture(torch.tensor([0.2, 0.5, 0.3]), randn(3, *shape, seed=seed + 60), covs)


def discrete(shape=(5,), seed=0) -> Discrete:
    return Discrete(randn(6, *shape, seed=seed + 70), torch.arange(1.0, 7.0))


LAWS = {
    "gaussian": lambda shape=(5,): gaussian(shape),
    "singular gaussian": lambda shape=(5,): gaussian(shape, rank=2),
    "low rank": lambda shape=(5,): Gaussian.low_rank(randn(*shape), randn(math.prod(shape), 2, seed=1), 0.3),
    "mixture": lambda shape=(5,): mixture(shape),
    "singular mixture": lambda shape=(5,): mixture(shape, rank=2),
    "discrete": lambda shape=(5,): discrete(shape),
}


@pytest.fixture(params=LAWS, name="make")
def _make(request):
    return LAWS[request.param]


def matrix_of(view: View, shape) -> torch.Tensor:
    d = math.prod(shape)
    return view(torch.eye(d, dtype=F64).reshape(d, *shape)).flatten(1).T


# The formulas


def test_gaussian_is_the_formula():
    law, x = gaussian((2, 3)), randn(4, 2, 3, seed=3)
    sigma = torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=F64)
    for i in range(4):
        S = law.cov
        gain = S @ torch.linalg.inv(S + sigma[i] ** 2 * torch.eye(6, dtype=F64))
        expected = law.mean.flatten() + gain @ (x[i] - law.mean).flatten()
        torch.testing.assert_close(law(x, sigma)[i].flatten(), expected)
        noisy = MultivariateNormal(law.mean.flatten(), S + sigma[i] ** 2 * torch.eye(6, dtype=F64))
        torch.testing.assert_close(law.log_prob(x, sigma)[i], noisy.log_prob(x[i].flatten()))


@pytest.mark.parametrize("diagonal", [0.0, 0.4, torch.linspace(0, 1, 6)], ids=["none", "number", "vector"])
def test_low_rank_is_the_dense_law(diagonal):
    mean, factor = randn(2, 3), randn(2, 3, 2, seed=1)
    flat = factor.reshape(6, 2)
    dense = Gaussian(mean, flat @ flat.T + torch.diag(torch.as_tensor(diagonal, dtype=F64).expand(6)))
    law = Gaussian.low_rank(mean, factor, diagonal)
    x, sigma = randn(5, 2, 3, seed=2), torch.tensor([0.0, 0.1, 1.0, 9.0, math.inf], dtype=F64)
    torch.testing.assert_close(law.cov, dense.cov)
    torch.testing.assert_close(law(x, sigma), dense(x, sigma))
    torch.testing.assert_close(law.log_prob(x[1:4], sigma[1:4]), dense.log_prob(x[1:4], sigma[1:4]))
    assert law.rank == dense.rank


def test_mixture_is_the_formula():
    law, x = mixture((2, 2), seed=5), randn(3, 2, 2, seed=3)
    sigma = torch.tensor([0.2, 1.0, 4.0], dtype=F64)
    for i in range(3):
        noise = sigma[i] ** 2 * torch.eye(4, dtype=F64)
        parts = [MultivariateNormal(m.flatten(), S + noise) for m, S in zip(law.means, law.covs)]
        joint = torch.stack([w * p.log_prob(x[i].flatten()).exp() for w, p in zip(law.weights, parts)])
        each = torch.stack([Gaussian(m, S)(x[i : i + 1], sigma[i : i + 1])[0] for m, S in zip(law.means, law.covs)])
        torch.testing.assert_close(law.responsibilities(x, sigma)[i], joint / joint.sum())
        torch.testing.assert_close(law(x, sigma)[i], torch.einsum("k,kij->ij", joint / joint.sum(), each))
        torch.testing.assert_close(law.log_prob(x, sigma)[i], joint.sum().log())


def test_discrete_is_the_formula():
    law, x = discrete((2, 2)), randn(3, 2, 2, seed=3)
    sigma = torch.tensor([0.3, 1.0, 4.0], dtype=F64)
    for i in range(3):
        square = ((x[i] - law.points) ** 2).sum((1, 2))
        joint = law.weights * (-square / (2 * sigma[i] ** 2)).exp()
        torch.testing.assert_close(law(x, sigma)[i], torch.einsum("n,nij->ij", joint / joint.sum(), law.points))
        density = joint.sum() / (2 * math.pi * sigma[i] ** 2) ** 2
        torch.testing.assert_close(law.log_prob(x, sigma)[i], density.log())


def test_families_meet():
    """A mixture of one is a Gaussian; points are a mixture without spread; equal halves are the whole."""
    x, sigma = randn(7, 5, seed=9), torch.tensor([0, 1e-3, 0.1, 1, 10, 1e4, math.inf], dtype=F64)
    inner = slice(1, 6)
    for rank in (None, 2):
        one = gaussian(rank=rank)
        for w, n in (([3.0], 1), ([0.4, 0.0, 0.6], 3)):
            same = Mixture(w, one.mean.expand(n, 5), one.cov)
            torch.testing.assert_close(same(x, sigma), one(x, sigma))
            torch.testing.assert_close(same.log_prob(x[inner], sigma[inner]), one.log_prob(x[inner], sigma[inner]))
    points = discrete()
    same = Mixture(points.weights, points.points, torch.zeros(6))
    torch.testing.assert_close(same(x, sigma), points(x, sigma))
    torch.testing.assert_close(same.log_prob(x[inner], sigma[inner]), points.log_prob(x[inner], sigma[inner]))


def test_tweedie(make):
    law = make()
    sigma = torch.tensor([0.2, 0.7, 2.0, 20.0], dtype=F64)
    x = (law.sample(4, torch.Generator().manual_seed(4)) + sigma[:, None] * randn(4, 5, seed=5)).requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(law(x, sigma), x + sigma[:, None] ** 2 * score)


def test_the_posterior_mean_is_the_best_denoiser(make):
    """Orthogonality of the error to functions of x, by Monte-Carlo: E (x0 - D)(x) = 0 and E (x0 - D) D(x) = 0."""
    law, n = make(), 40_000
    x0 = law.sample(n, torch.Generator().manual_seed(6))
    x = x0 + 0.8 * randn(n, 5, seed=7)
    estimate = law(x, torch.full((n,), 0.8, dtype=F64))
    error = x0 - estimate
    for f in (torch.ones_like(x), x, estimate, x.tanh()):
        product = error * f
        assert (product.mean(0).abs() < 5 * product.std(0) / n**0.5 + 1e-12).all()


# Limits


def test_limits(make):
    """sigma = 0: the support's nearest point to a sample is itself. sigma = inf: the mean. In between: no jump."""
    law = make()
    x0 = law.sample(20, torch.Generator().manual_seed(1))
    torch.testing.assert_close(law(x0, torch.zeros(20)), x0)
    many = law.sample(200_000, torch.Generator().manual_seed(2))
    infinite = law(1e3 * randn(20, 5), torch.full((20,), math.inf))
    assert ((infinite - infinite[0]).abs() < 1e-9).all()
    assert ((infinite[0] - many.mean(0)).abs() < 5 * many.std(0) / 200_000**0.5 + 1e-9).all()
    x = randn(20, 5, seed=3)
    torch.testing.assert_close(law(x, torch.full((20,), 1e-7)), law(x, torch.zeros(20)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(law(x, torch.full((20,), 1e7)), infinite, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_never_nan(make, dtype):
    law = make().to(dtype)
    levels = [0, 1e-300, 1e-38, 1e-20, 1e-8, 1, 1e8, 1e19, 1e30, 1e300, math.inf]
    for size in (0, 1e-30, 1, 1e6, 1e18, 1e22):
        x = (size * randn(len(levels), 5)).to(dtype)
        assert torch.isfinite(law(x, torch.tensor(levels, dtype=F64))).all(), size
    for x0 in (law.sample(3), torch.zeros(3, 5, dtype=dtype)):
        x = x0.requires_grad_()
        law(x, torch.tensor([0, 1.0, math.inf])).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_singular_mixture_at_zero_noise_is_lexicographic():
    """A line through 0, a plane apart from it, the whole space: nearest support first, then lowest dimension."""
    line, plane, whole = torch.diag(torch.tensor([1.0, 0, 0])), torch.diag(torch.tensor([1.0, 1, 0])), torch.eye(3)
    law = Mixture(
        [1, 1, 1], torch.tensor([[0.0, 0, 0], [0, 0, 2], [0, 0, 0]]).double(), torch.stack([line, plane, whole])
    )
    x = torch.tensor([[0.7, 0, 0], [0.3, 0.4, 2], [0.5, 0.5, 0.5]], dtype=F64)
    expected = torch.eye(3, dtype=F64)  # on the line; on the plane; on neither
    torch.testing.assert_close(law.responsibilities(x, torch.zeros(3)), expected)
    torch.testing.assert_close(law.responsibilities(x, torch.full((3,), 1e-9)), expected, atol=1e-6, rtol=0)
    apart = Mixture([1, 1], torch.tensor([[0.0, 0, 0], [0, 0, 2]]).double(), torch.stack([line, plane]))
    off = torch.tensor([[0.5, 0.1, 0.9], [0.5, 0.1, 1.4]], dtype=F64)  # nearer to the line; to the plane
    torch.testing.assert_close(apart.responsibilities(off, torch.zeros(2)), torch.eye(2, dtype=F64))
    torch.testing.assert_close(apart(off, torch.zeros(2)), torch.tensor([[0.5, 0, 0], [0.5, 0.1, 2]], dtype=F64))
    # two points as near as each other share by weight
    pair = Discrete(torch.tensor([[-1.0], [1.0], [5.0]]), [1, 3, 9])
    torch.testing.assert_close(pair(torch.zeros(1, 1), torch.zeros(1)), torch.tensor([[0.5]]))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_discrete_memorizes(dtype):
    points = randn(50, 3, 8, 8).to(dtype)
    law = Discrete(points)
    x = points[:20] + 0.2 * randn(20, 3, 8, 8, seed=1).to(dtype)
    for sigma in (0.0, 1e-25, 1e-3, 0.2):
        torch.testing.assert_close(law(x, torch.full((20,), sigma)), points[:20])
    torch.testing.assert_close(law(x, torch.full((20,), 1e9)), points.mean(0).expand(20, 3, 8, 8), atol=1e-5, rtol=1e-5)


# Through a view


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_through_is_the_direct_formula(view):
    A, y_shape = matrix_of(view, SHAPE), view.shape(SHAPE)
    y, sigma = randn(4, *y_shape, seed=8), torch.tensor([0.0, 0.3, 2.0, math.inf], dtype=F64)
    full = gaussian(SHAPE)
    direct = Gaussian((A @ full.mean.flatten()).reshape(y_shape), A @ full.cov @ A.T)
    seen = full.marginal(view)
    assert seen.shape == y_shape
    torch.testing.assert_close(seen.mean, direct.mean)
    torch.testing.assert_close(seen.cov, direct.cov)
    torch.testing.assert_close(seen(y, sigma), direct(y, sigma))

    thin = Gaussian.low_rank(randn(*SHAPE), randn(D, 3, seed=1), 0.5)
    torch.testing.assert_close(thin.marginal(view).cov, A @ thin.cov @ A.T)

    mixed = mixture(SHAPE, seed=2, rank=20)
    direct = Mixture(mixed.weights, (mixed.means.flatten(1) @ A.T).reshape(3, *y_shape), A @ mixed.covs @ A.T)
    torch.testing.assert_close(mixed.marginal(view).covs, A @ mixed.covs @ A.T)
    torch.testing.assert_close(mixed.marginal(view)(y, sigma), direct(y, sigma))

    points = discrete(SHAPE)
    torch.testing.assert_close(points.marginal(view).points.flatten(1), points.points.flatten(1) @ A.T)


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("make_law", [gaussian, mixture, discrete])
def test_through_agrees_with_monte_carlo(view, make_law):
    """Samples seen through the view: same mean and covariance, and the view's denoiser makes an orthogonal error."""
    n, sigma = 6_000, 0.7
    law = make_law(SHAPE)
    seen = law.marginal(view)
    x0 = law.sample(n, torch.Generator().manual_seed(0))
    y0, drawn = view(x0), seen.sample(n, torch.Generator().manual_seed(1))
    spread = (y0.var(0) + drawn.var(0)).sqrt() / n**0.5
    assert ((y0.mean(0) - drawn.mean(0)).abs() <= 5 * spread + 1e-12).all()
    torch.testing.assert_close(y0.flatten(1).T.cov(), drawn.flatten(1).T.cov(), rtol=0, atol=0.25)
    y = view(x0 + sigma * randn(n, *SHAPE, seed=2))  # the noise is seen through the view too: 0 behind a mask
    error = y0 - seen(y, torch.full((n,), sigma))
    for f in (torch.ones_like(y), y.tanh()):
        product = error * f
        assert (product.mean(0).abs() <= 5.5 * product.std(0) / n**0.5 + 1e-12).all()
    hidden = view.mask(SHAPE)
    if hidden is not None:  # and noise put there by a careless caller changes nothing
        outside = (1 - hidden).to(F64)
        assert outside.sum() > 0
        torch.testing.assert_close(seen(y + 3 * outside, torch.full((n,), sigma)), y0 - error)


def test_views_of_many_placements_are_refused():
    grid = Crop(size=(2, 2), stride=1)
    with pytest.raises(ValueError, match=r"9 placements.*view\.placements"):
        gaussian(SHAPE).marginal(grid)
    assert gaussian(SHAPE).marginal(grid.placements(SHAPE)[4]).shape == (3, 2, 2)
    assert discrete(SHAPE).marginal(Crop(size=(4, 4))).shape == SHAPE  # a grid of one
    with pytest.raises(ValueError, match="4"):
        mixture(SHAPE).marginal(Downsample(3))


# Kullback-Leibler


def test_kl():
    p, q = gaussian(), gaussian(seed=1)
    expected = kl_divergence(MultivariateNormal(p.mu, p.cov), MultivariateNormal(q.mu, q.cov)).item()
    assert p.kl(q) == pytest.approx(expected, rel=1e-9)
    noise = 4 * torch.eye(5, dtype=F64)
    expected = kl_divergence(MultivariateNormal(p.mu, p.cov + noise), MultivariateNormal(q.mu, q.cov + noise)).item()
    assert p.kl(q, sigma=2.0) == pytest.approx(expected, rel=1e-9)
    assert p.kl(p) == pytest.approx(0, abs=1e-10)


def test_kl_of_singular_laws():
    turn = torch.linalg.qr(randn(5, 5)).Q
    p2, q2 = gaussian((2,), seed=3), gaussian((2,), seed=4)

    def embed(law: Gaussian, at: float) -> Gaussian:
        mean = torch.cat([law.mean, torch.full((3,), at, dtype=F64)])
        return Gaussian(turn @ mean, turn[:, :2] @ law.cov @ turn[:, :2].T)

    assert embed(p2, 1.0).kl(embed(q2, 1.0)) == pytest.approx(p2.kl(q2), rel=1e-8)
    assert embed(p2, 1.0).kl(embed(q2, 1.1)) == math.inf  # parallel planes
    assert gaussian(rank=2).kl(gaussian(seed=1, rank=2)) == math.inf  # planes across each other
    assert gaussian(rank=2).kl(gaussian(seed=1)) == math.inf
    assert gaussian().kl(gaussian(rank=2)) == math.inf
    assert gaussian(rank=2).kl(gaussian(seed=1), sigma=0.1) < math.inf
    point = Gaussian(torch.ones(3), torch.zeros(3, 3))
    assert point.kl(point) == 0
    # behind a mask: as without the hidden coordinates
    p, q = gaussian(SHAPE), gaussian(SHAPE, seed=1)
    band = Mask(band=("top", 2))
    seen = [Gaussian(g.mean[:, 2:], g.cov.reshape(*SHAPE, *SHAPE)[:, 2:, :, :, 2:].reshape(24, 24)) for g in (p, q)]
    assert p.marginal(band).kl(q.marginal(band)) == pytest.approx(seen[0].kl(seen[1]), rel=1e-6)


def test_the_rank_is_not_decided_by_rounding():
    """A plane through two maps of its own: what is 0 rounds to several eps of the largest eigenvalue."""
    for seed in range(300):
        for d in (2, 3):
            g = torch.Generator().manual_seed(seed)
            line, first, second = (torch.randn(d, k, generator=g, dtype=F64) for k in (1, d, d))
            S = second @ (first @ (line @ line.T) @ first.T) @ second.T
            law = Gaussian(torch.zeros(d, dtype=F64), (S + S.T) / 2)
            direct = Gaussian.low_rank(torch.zeros(d, dtype=F64), second @ first @ line)
            assert law.rank == direct.rank == 1, (seed, d)
            assert torch.linalg.matrix_rank(law.dense(), tol=1e-12 * float(S.trace()), hermitian=True) == 1
            half = law.float()
            assert torch.linalg.matrix_rank(half.dense(), tol=1e-12 * float(S.trace()), hermitian=True) == 1


# The contract


def test_dtypes_and_devices_are_those_of_a_module(make):
    law = make()
    x, sigma = randn(3, 5, seed=2), torch.tensor([0.1, 1.0, 5.0])
    assert law(x.float(), sigma).dtype == torch.float32
    torch.testing.assert_close(law(x.float(), sigma).double(), law(x, sigma.double()), rtol=1e-5, atol=1e-5)
    is_fixed = make().float()
    torch.testing.assert_close(is_fixed(x, sigma), law(x, sigma), rtol=1e-3, atol=1e-3)
    assert is_fixed.sample(2).dtype == torch.float32
    assert is_fixed.marginal(Identity()).sample(2).dtype == torch.float32
    torch.testing.assert_close(law(x, 0.5), law(x, torch.full((3,), 0.5)))  # one sigma for all
    torch.testing.assert_close(law(x, sigma, label=torch.zeros(3).long(), context=x), law(x, sigma))
    assert isinstance(law, Distribution)
    assert law(x[:0], sigma[:0]).shape == (0, 5)
    first, again = (law.sample(4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(torch.zeros(3), torch.eye(4)), "give \\(3, 3\\)"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2], [0, 1]])), "not symmetric"),
        (lambda: Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -1]))), "not positive semi-definite"),
        (lambda: Gaussian(torch.tensor([0.0, math.nan]), torch.eye(2)), "mean is not finite"),
        (lambda: Gaussian(torch.zeros(0), torch.eye(0)), "no coordinates"),
        (lambda: Gaussian.low_rank(torch.zeros(3), torch.ones(4, 1)), "factor has shape"),
        (lambda: Gaussian.low_rank(torch.zeros(3), torch.ones(3, 1), -1), "diagonal >= 0"),
        (lambda: Gaussian.low_rank(torch.zeros(3), torch.ones(3, 1), [1, 2]), "2 variances for 3"),
        (lambda: Mixture([1, -1], torch.zeros(2, 3), torch.ones(2)), "weights must be"),
        (lambda: Mixture([1], torch.zeros(2, 3), torch.ones(2)), "weights of shape"),
        (lambda: Mixture([1, 1], torch.zeros(2, 3), torch.ones(3)), "covs has shape"),
        (lambda: Mixture([1, 1], torch.zeros(2, 3), -torch.ones(2)), "positive semi-definite"),
        (lambda: Discrete(torch.zeros(0, 3)), "at least one"),
        (lambda: Discrete(torch.full((2, 3), math.inf)), "points is not finite"),
        (lambda: gaussian()(torch.zeros(2, 4), torch.ones(2)), "shape \\(5,\\) was given x \\(2, 4\\)"),
        (lambda: gaussian()(torch.zeros(2, 5), torch.ones(3)), "sigma has shape"),
        (lambda: gaussian()(torch.zeros(2, 5), torch.tensor([1, math.nan])), "sigma must be >= 0"),
        (lambda: discrete().log_prob(torch.zeros(2, 5), torch.zeros(2)), "no density at sigma = 0"),
        (lambda: gaussian().kl(gaussian((4,))), "shapes"),
        (lambda: gaussian().kl(gaussian(), sigma=-1), "sigma"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
