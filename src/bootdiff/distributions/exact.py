"""Distributions whose denoiser is known exactly: Gaussians, Gaussian mixtures, finitely many points.

With x = x0 + sigma n, n ~ N(0, I), and S = U diag(lam) U^T:

    Gaussian   x0 ~ N(m, S):            D(x, sigma) = m + U diag(lam / (lam + sigma^2)) U^T (x - m)
    Mixture    x0 ~ sum_k w_k N(m_k, S_k):        D = sum_k rho_k(x, sigma) D_k(x, sigma),
                                        rho_k ~ w_k N(x; m_k, S_k + sigma^2 I)
    Discrete   x0 ~ sum_i w_i delta(p_i):         D = sum_i rho_i p_i,  rho_i ~ w_i exp(-|x - p_i|^2 / (2 sigma^2))

The last one minimizes the denoising loss over n training points: it is what complete memorization looks like
(Karras et al. 2022, arXiv 2206.00364, appendix B.3, equation 57). Bishop 2006, section 2.3.3, has the first two.

Each family is closed under linear maps, so the marginal of a view A x0 is again an exact denoiser: `marginal(view)`.
All agree with Tweedie, D = x + sigma^2 grad log p(x; sigma), and sigma = 0, sigma = inf and singular covariances are
exact limits. Samples are flattened inside; `shape` may be any tuple. A distribution computes in the dtype and
on the device of its buffers (`.float()`, `.double()`, `.to(device)`) and returns the dtype of x.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.distributions.base import (
    Distribution,
    check_finite,
    choose,
    eigen,
    floating,
    gain,
    matrix,
    normalized,
    randn,
    tolerance,
)
from bootdiff.views import View

__all__ = ["Discrete", "Distribution", "Gaussian", "Mixture"]


class Gaussian(Distribution):
    """N(m, S), the covariance may be singular.

    Args:
        mean: m, of the shape of one sample. Its dtype is the distribution's (float64 where it is not a floating
            tensor).
        cov: S, (d, d) with d the number of coordinates, or (*shape, *shape).

    Raises:
        ValueError: sizes that do not fit, values that are not finite, S not symmetric or not positive semi-definite.

    >>> law = Gaussian(torch.zeros(2), torch.diag(torch.tensor([3.0, 0.0])))
    >>> law(torch.tensor([[4.0, 5.0]]), torch.ones(1))
    tensor([[3., 0.]])
    """

    mu: Tensor  # (d,)
    basis: Tensor  # (d, r), orthonormal columns
    lam: Tensor  # (r,), eigenvalues along them, > 0
    floor: Tensor  # (), eigenvalue of all that is orthogonal to them

    def __init__(self, mean: Any, cov: Any) -> None:
        mean = floating(mean)
        super().__init__(mean.shape)
        lam, basis = eigen(matrix(cov, self.dim, mean), mean.dtype, "Gaussian")
        self._set(mean, basis[:, lam > 0], lam[lam > 0], 0.0)

    @classmethod
    def low_rank(cls, mean: Any, factor: Any, diagonal: Any = 0.0) -> Gaussian:
        """S = F F^T + diag(diagonal), without a d-by-d matrix where the diagonal is one number.

        Args:
            mean: m, of the shape of one sample.
            factor: F, (d, r) or (*shape, r).
            diagonal: one variance >= 0, or one for each coordinate (this takes the dense way).
        """
        mean = floating(mean)
        d = mean.numel()
        factor = torch.as_tensor(factor).to(mean).double()
        if factor.ndim < 2 or factor.shape[:-1].numel() != d:
            raise ValueError(f"Gaussian.low_rank: factor has shape {tuple(factor.shape)}; give ({d}, r) or (*shape, r)")
        factor = factor.reshape(d, -1)
        diagonal = torch.as_tensor(diagonal).to(mean).double()
        if not bool(torch.isfinite(factor).all()) or not bool(((diagonal >= 0) & (diagonal < math.inf)).all()):
            raise ValueError("Gaussian.low_rank: factor and diagonal must be finite, and the diagonal >= 0")
        if diagonal.numel() != 1:
            if diagonal.numel() != d:
                raise ValueError(f"Gaussian.low_rank: {diagonal.numel()} variances for {d} coordinates; give 1 or {d}")
            return cls(mean, factor @ factor.T + torch.diag(diagonal.reshape(d)))
        basis, root, _ = torch.linalg.svd(factor, full_matrices=False)
        kept = root**2 > tolerance(root**2, max(factor.shape), mean.dtype)
        law = cls.__new__(cls)
        Distribution.__init__(law, mean.shape)
        law._set(mean, basis[:, kept], root[kept] ** 2 + diagonal.reshape(()), float(diagonal))
        return law

    def _set(self, mean: Tensor, basis: Tensor, lam: Tensor, floor: float) -> None:
        check_finite(mean, "Gaussian: mean")
        self.register_buffer("mu", mean.flatten())
        self.register_buffer("basis", basis.to(mean))
        self.register_buffer("lam", lam.to(mean))
        self.register_buffer("floor", torch.as_tensor(floor).to(mean))

    @property
    def mean(self) -> Tensor:
        """m, of `shape`."""
        return self.mu.reshape(self.shape)

    @property
    def cov(self) -> Tensor:
        """S, dense, (d, d)."""
        eye = torch.eye(self.dim, dtype=self.mu.dtype, device=self.mu.device)
        return (self.basis * (self.lam - self.floor)) @ self.basis.T + self.floor * eye

    def dense(self) -> Tensor:
        """S, (d, d), in float64 and of the distribution's own rank, whatever its dtype: `cov` of a float32 distribution
        rounds zeros."""
        basis, lam, floor = (v.double().cpu() for v in (self.basis, self.lam, self.floor))
        return (basis * (lam - floor)) @ basis.T + floor * torch.eye(self.dim, dtype=torch.float64)

    @property
    def rank(self) -> int:
        """Dimension of the support."""
        return self.dim if float(self.floor) > 0 else len(self.lam)

    @property
    def _singular(self) -> bool:
        return self.rank < self.dim

    def _posterior(self, y: Tensor, s: Tensor) -> Tensor:
        z = y - self.mu
        within, outside = gain(self.lam, s), gain(self.floor, s)
        return self.mu + outside * z + ((within - outside) * (z @ self.basis)) @ self.basis.T

    def _log_prob(self, y: Tensor, s: Tensor) -> Tensor:
        z = y - self.mu
        c = z @ self.basis
        within, outside, left = self.lam + s**2, self.floor + s**2, self.dim - len(self.lam)
        value = (c**2 / within).sum(1) + within.log().sum(1) + self.dim * math.log(2 * math.pi)
        if left:
            value = value + ((z - c @ self.basis.T) ** 2 / outside).sum(1) + left * outside.log()[:, 0]
        return -value / 2

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        white = randn(n, self.dim, generator).to(self.mu)
        root = self.floor.sqrt()
        x = self.mu + root * white + ((self.lam.sqrt() - root) * (white @ self.basis)) @ self.basis.T
        return x.reshape(n, *self.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.mean.double(), self.dense().diagonal().reshape(self.shape)

    def marginal(self, view: View) -> Gaussian:
        view = self._fixed(view)
        mean = view(self.mean[None])[0]
        columns = (self.basis * (self.lam - self.floor).clamp_min(0).sqrt()).T
        mapped = view(columns.reshape(-1, *self.shape)) if len(columns) else columns.new_zeros(0, *mean.shape)
        factor = mapped.flatten(1).T
        # A A^T = I or, behind a mask, the projection onto what is observed: floor * A A^T is then no multiple of I
        if float(self.floor) > 0 and view.rank(self.shape) < mean.numel():
            observed = view(view.lift(torch.ones_like(mean)[None], self.shape))[0].flatten()
            return Gaussian.low_rank(mean, factor, self.floor * observed)
        return Gaussian.low_rank(mean, factor, self.floor)

    def kl(self, other: Gaussian, sigma: float = 0.0) -> float:
        """KL(self || other) in nats, of the distributions of x0 + sigma n.

        Finite where the supports agree, of singular distributions too (then within the support); inf where they do not.

        Raises:
            ValueError: distributions of different shapes, sigma negative.
        """
        if self.shape != other.shape:
            raise ValueError(f"kl: the shapes {self.shape} and {other.shape} must be equal")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"kl: sigma must be >= 0 and finite, got {sigma}")
        d, dtype = self.dim, torch.promote_types(self.mu.dtype, other.mu.dtype)
        noise = sigma**2 * torch.eye(d, dtype=torch.float64)
        p, q = (law.dense() + noise for law in (self, other))
        gap = (self.mu.double() - other.mu.double()).cpu()
        rank = {law: d if sigma > 0 else law.rank for law in (self, other)}
        if rank[self] != rank[other]:
            return math.inf
        lam, basis = torch.linalg.eigh(q)
        support, null = basis[:, d - rank[other] :], basis[:, : d - rank[other]]
        eps = 100 * d * torch.finfo(dtype).eps
        size = self.mu.double().norm().cpu() + other.mu.double().norm().cpu() + p.trace().sqrt() + q.trace().sqrt()
        if bool((null.T @ p @ null).trace() > eps * size**2) or bool((null.T @ gap).norm() > eps * size):
            return math.inf
        root = lam[d - rank[other] :].rsqrt()
        ratio = torch.linalg.eigvalsh(root[:, None] * (support.T @ p @ support) * root).clamp_min(1e-300)
        return float((ratio - 1 - ratio.log()).sum() + (root * (support.T @ gap)).square().sum()) / 2


class Mixture(Distribution):
    """sum_k w_k N(m_k, S_k); every covariance may be singular, down to a point.

    Args:
        weights: w, (K,), >= 0; normalized to sum 1, components of weight 0 are dropped.
        means: m, (K, *shape). Its dtype is the distribution's.
        covs: S, (K, d, d); or (d, d), one for all; or (K,), a variance each, S_k = v_k I.

    Raises:
        ValueError: sizes that do not fit, values that are not finite, invalid weights or covariances.
    """

    weights: Tensor  # (K,)
    mu: Tensor  # (K, d)
    basis: Tensor  # (K, d, d), eigenvectors in columns
    lam: Tensor  # (K, d), eigenvalues, exactly 0 off the support

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        means = floating(means)
        super().__init__(means.shape[1:])
        weights = normalized(weights, len(means), means, "Mixture")
        K, d = len(means), self.dim
        covs = torch.as_tensor(covs).to(means)
        if covs.shape == (K,):
            covs = covs[:, None, None] * torch.eye(d).to(means)
        elif covs.shape == (d, d):
            covs = covs.expand(K, d, d)
        if covs.shape != (K, d, d):
            raise ValueError(f"Mixture: covs has shape {tuple(covs.shape)}; give ({K}, {d}, {d}), ({d}, {d}) or ({K},)")
        check_finite(means, "Mixture: means")
        lam, basis = eigen(covs, means.dtype, "Mixture")
        kept = weights > 0
        self.register_buffer("weights", weights[kept])
        self.register_buffer("mu", means.flatten(1)[kept])
        self.register_buffer("basis", basis.to(means)[kept])
        self.register_buffer("lam", lam.to(means)[kept])

    @property
    def means(self) -> Tensor:
        """m, (K, *shape)."""
        return self.mu.reshape(-1, *self.shape)

    @property
    def covs(self) -> Tensor:
        """S, (K, d, d)."""
        return (self.basis * self.lam[:, None]) @ self.basis.mT

    @property
    def _singular(self) -> bool:
        return bool((self.lam == 0).any())

    def responsibilities(self, x: Tensor, sigma: Tensor) -> Tensor:
        """rho, (B, K): the probability of every component given x."""
        y, s = self._inputs(x, sigma)
        return self._logits(self._coordinates(y), y, s).softmax(1)

    def _coordinates(self, y: Tensor) -> Tensor:
        """U_k^T (x - m_k), (B, K, d)."""
        return torch.einsum("bkd,kde->bke", y[:, None] - self.mu, self.basis)

    def _logits(self, z: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """log rho up to a constant per sample, (B, K), finite or -inf and never all -inf.

        Everything is taken relative to sigma^-d exp(-min_k |null part|^2 / (2 sigma^2)), which all components share, so
        that neither sigma -> 0 nor sigma -> inf overflows. At sigma = 0 the limit is lexicographic: the support nearest
        to x; among equally near ones that of the lowest dimension; among these the density within the support.
        """
        on = self.lam > 0
        null = (torch.where(on, 0, z) ** 2).sum(2)
        nearest = null.amin(1, keepdim=True)
        spread = torch.where(on, self.lam + s[:, :, None] ** 2, 1).sqrt()
        bound = math.sqrt(torch.finfo(z.dtype).max / self.dim) / 4
        quad = (torch.where(on, z / spread, 0).clamp(-bound, bound) ** 2).sum(2) / 2
        prior = self.weights.log()
        log_lam = torch.where(on, self.lam, 1).log()

        zero = s == 0
        safe = torch.where(zero, 1, s)
        excess = ((null - nearest) / safe / safe / 2).nan_to_num(posinf=bound)
        volume = (torch.logaddexp(torch.zeros(()).to(z), log_lam - 2 * safe.log()[:, :, None]) * on).sum(2) / 2
        positive = prior - excess - quad - volume

        eps = 32 * torch.finfo(z.dtype).eps * math.sqrt(self.dim)
        rounding = (eps * (y.norm(dim=1, keepdim=True) + self.mu.norm(dim=1))) ** 2 + eps * nearest
        touching = null <= nearest + rounding
        rank = on.sum(1).expand_as(null)
        lowest = rank.masked_fill(~touching, self.dim + 1).amin(1, keepdim=True)
        limit = (prior - quad - log_lam.sum(1) / 2).masked_fill(~touching | (rank != lowest), -math.inf)
        return torch.where(zero, limit, positive)

    def _posterior(self, y: Tensor, s: Tensor) -> Tensor:
        z = self._coordinates(y)
        rho = self._logits(z, y, s).softmax(1)
        each = self.mu + torch.einsum("bke,kde->bkd", gain(self.lam, s[:, :, None]) * z, self.basis)
        return (rho[:, :, None] * each).sum(1)

    def _log_prob(self, y: Tensor, s: Tensor) -> Tensor:
        total = self.lam + s[:, :, None] ** 2
        value = (self._coordinates(y) ** 2 / total + total.log()).sum(2) + self.dim * math.log(2 * math.pi)
        return (self.weights.log() - value / 2).logsumexp(1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        which = choose(self.weights, n, generator).to(self.mu.device)
        white = randn(n, self.dim, generator).to(self.mu)
        x = self.mu[which]
        for k in range(len(self.weights)):
            mine = which == k
            x[mine] += (white[mine] * self.lam[k].sqrt()) @ self.basis[k].T
        return x.reshape(n, *self.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        w, mu = self.weights.double()[:, None], self.mu.double()
        mean = (w * mu).sum(0)
        own = torch.stack([cov.double().diagonal() for cov in self.covs])
        variance = (w * (own + (mu - mean) ** 2)).sum(0)
        return mean.reshape(self.shape), variance.reshape(self.shape)

    def marginal(self, view: View) -> Mixture:
        view = self._fixed(view)
        K, d = self.mu.shape
        # rows of `mapped[k]` are A u_j sqrt(lam_j): their outer products sum to A S_k A^T
        columns = (self.basis * self.lam.sqrt()[:, None]).mT.reshape(K * d, *self.shape)
        mapped = view(columns).reshape(K, d, -1)
        return Mixture(self.weights, view(self.means), mapped.mT @ mapped)


class Discrete(Distribution):
    """n points, by default of equal weight: the empirical distribution, whose denoiser memorizes the training set.

    Args:
        points: (n, *shape). Its dtype is the distribution's.
        weights: (n,), >= 0, or None; normalized to sum 1.

    Raises:
        ValueError: no points, values that are not finite, invalid weights.

    >>> Discrete([[0.0, 0.0], [4.0, 0.0]])(torch.tensor([[1.0, 7.0]]), torch.tensor([0.1]))
    tensor([[0., 0.]])
    """

    mu: Tensor  # (n, d)
    weights: Tensor  # (n,)

    def __init__(self, points: Any, weights: Any | None = None) -> None:
        points = floating(points)
        super().__init__(points.shape[1:])
        check_finite(points, "Discrete: points")
        weights = normalized(torch.ones(len(points)) if weights is None else weights, len(points), points, "Discrete")
        self.register_buffer("mu", points.flatten(1)[weights > 0])
        self.register_buffer("weights", weights[weights > 0])

    @property
    def points(self) -> Tensor:
        """(n, *shape)."""
        return self.mu.reshape(-1, *self.shape)

    @property
    def _singular(self) -> bool:
        return True

    def responsibilities(self, x: Tensor, sigma: Tensor) -> Tensor:
        """rho, (B, n): the probability of every point given x."""
        return self._responsibilities(*self._inputs(x, sigma))

    def _distances(self, y: Tensor) -> Tensor:
        """(B, n), of the differences: by inner products, small distances would lose their digits."""
        d = torch.cdist(y, self.mu, compute_mode="donot_use_mm_for_euclid_dist")
        return d.clamp_max(torch.finfo(d.dtype).max / 4)

    def _responsibilities(self, y: Tensor, s: Tensor) -> Tensor:
        d = self._distances(y)
        nearest = d.amin(1, keepdim=True)
        # |x - p|^2 - min = (d - min) (d + min): each factor over sigma, so that no square overflows
        zero = s == 0
        safe = torch.where(zero, 1, s)
        excess = torch.where(d > nearest, (d - nearest) / safe * ((d + nearest) / safe), 0)
        near = d <= nearest * (1 + 8 * torch.finfo(d.dtype).eps * math.sqrt(self.dim))
        logits = torch.where(zero, torch.where(near, 0.0, -math.inf), -excess / 2)
        return (self.weights.log() + logits).softmax(1)

    def _posterior(self, y: Tensor, s: Tensor) -> Tensor:
        return self._responsibilities(y, s) @ self.mu

    def _log_prob(self, y: Tensor, s: Tensor) -> Tensor:
        value = (self.weights.log() - (self._distances(y) / s) ** 2 / 2).logsumexp(1)
        return value - self.dim * (s[:, 0].log() + math.log(2 * math.pi) / 2)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return self.points[choose(self.weights, n, generator).to(self.mu.device)]

    def moments(self) -> tuple[Tensor, Tensor]:
        w, mu = self.weights.double()[:, None], self.mu.double()
        mean = (w * mu).sum(0)
        return mean.reshape(self.shape), (w * (mu - mean) ** 2).sum(0).reshape(self.shape)

    def marginal(self, view: View) -> Discrete:
        return Discrete(self._fixed(view)(self.points), self.weights)
