"""What the exact distributions share: p of x0 is a denoiser, and has p(x; sigma), the density of x = x0 + sigma n.

Tweedie ties the two together: E[x0 | x] = x + sigma^2 grad log p(x; sigma) (Robbins 1956; Efron 2011).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.views import View

__all__ = ["Distribution"]


class Distribution(Denoiser):
    """A distribution of x0 with its exact denoiser. `label` and `context` are accepted and ignored."""

    mu: Tensor  # any buffer, for dtype and device

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.dim = math.prod(self.shape)
        if self.dim == 0:
            raise ValueError(f"{type(self).__name__}: a sample of shape {self.shape} has no coordinates")

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """E[x0 | x], (B, *shape), exact.

        Raises:
            ValueError: x or sigma of a different shape, sigma negative or NaN.
        """
        return self._posterior(*self._inputs(x, sigma)).reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma) of the noisy distribution, in nats, (B,), differentiable in x.

        Raises:
            ValueError: as `forward`; and sigma = 0 where the distribution has no density (a singular covariance,
            points).
        """
        y, s = self._inputs(x, sigma)
        if self._singular and bool((s == 0).any()):
            raise ValueError(
                f"{type(self).__name__}.log_prob: there is no density at sigma = 0, the support has fewer than "
                f"{self.dim} dimensions; evaluate it at sigma > 0"
            )
        return self._log_prob(y, s).to(x.dtype)

    @abstractmethod
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n independent samples x0, (n, *shape)."""

    @abstractmethod
    def marginal(self, view: View) -> Distribution:
        """The distribution of A x0 in view coordinates, of the same family, with `shape` = view.shape(self.shape).

        The noise of an `Observed` view's files is not part of it: the view's denoiser predicts the clean A x0, as
        E[A x0 | A x0 + sigma n], at every sigma. What a masked view hides is 0.

        Raises:
            ValueError: a view of several placements (take one of `view.placements(shape)`), or one that does not fit.
        """

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each coordinate of x0, each (*shape) float64."""

    def isotropic(self) -> IsotropicGaussian:
        """The isotropic Gaussian with its mean per channel and its mean variance about them: a composite's prior."""
        mean, variance = (m.reshape(self.shape[0], -1).double() for m in self.moments())
        center = mean.mean(1)
        spread = (variance + (mean - center[:, None]) ** 2).mean().sqrt()
        return IsotropicGaussian(self.shape, center.tolist(), float(spread))

    @property
    @abstractmethod
    def _singular(self) -> bool: ...

    @abstractmethod
    def _posterior(self, y: Tensor, s: Tensor) -> Tensor:
        """(B, d) and (B, 1) -> (B, d)."""

    @abstractmethod
    def _log_prob(self, y: Tensor, s: Tensor) -> Tensor:
        """(B, d) and (B, 1) with a density -> (B,)."""

    def _inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x as (B, d), sigma as (B, 1), both in our dtype."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"{type(self).__name__} of shape {self.shape} was given x {tuple(x.shape)}; pass (B, *shape)"
            )
        sigma = torch.as_tensor(sigma, dtype=self.mu.dtype, device=x.device)
        if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(x)):
            raise ValueError(
                f"sigma has shape {tuple(sigma.shape)} for x {tuple(x.shape)}; pass one for each, ({len(x)},)"
            )
        if not bool((sigma >= 0).all()):
            raise ValueError(f"sigma must be >= 0 (0 and inf are allowed), got {sigma.min().item()}")
        return x.reshape(len(x), self.dim).to(self.mu.dtype), sigma.expand(len(x))[:, None]

    def _fixed(self, view: View) -> View:
        views = view.placements(self.shape)
        if len(views) != 1:
            raise ValueError(
                f"{view} has {len(views)} placements on samples of shape {self.shape}, each with its own marginal; "
                "pass one of view.placements(shape)"
            )
        return views[0]


def gain(lam: Tensor, s: Tensor) -> Tensor:
    """lam / (lam + sigma^2), and its limit 0 where both are 0."""
    return torch.where(lam > 0, lam / torch.where(lam > 0, lam + s**2, 1), 0)


def tolerance(lam: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """Eigenvalues up to here, (..., 1), are rounding: max(d, 16) eps of the largest.

    d eps is the bound of numpy's `matrix_rank`; the products that covariances of a few coordinates come from round
    zeros to as much as 9 eps, whatever d.
    """
    return lam.amax(-1, keepdim=True) * max(d, 16) * torch.finfo(dtype).eps if lam.numel() else lam.new_zeros(1)


def eigen(cov: Tensor, dtype: torch.dtype, what: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., d), rounding set to exactly 0, and vectors (..., d, d) of covariances, both in float64."""
    check_finite(cov, f"{what}: covariance")
    cov = cov.double()
    eps, size = torch.finfo(dtype).eps, cov.abs().amax((-2, -1), keepdim=True)
    if bool(((cov - cov.mT).abs() > 1e3 * eps * size).any()):
        raise ValueError(f"{what}: the covariance is not symmetric; pass (S + S.T) / 2 where that is rounding")
    lam, basis = torch.linalg.eigh((cov + cov.mT) / 2)
    bound = tolerance(lam.abs(), cov.shape[-1], dtype)
    if bool((lam < -100 * bound).any()):
        raise ValueError(
            f"{what}: the covariance is not positive semi-definite, its lowest eigenvalue is {lam.min().item():.3g} "
            f"and its highest {lam.max().item():.3g}"
        )
    return torch.where(lam > bound, lam, 0), basis


def floating(x: Any) -> Tensor:
    x = torch.as_tensor(x) if isinstance(x, Tensor) or hasattr(x, "dtype") else torch.tensor(x, dtype=torch.float64)
    return x.detach() if x.is_floating_point() else x.double()


def matrix(cov: Any, d: int, like: Tensor) -> Tensor:
    cov = torch.as_tensor(cov).to(like)
    if cov.numel() != d * d or (cov.shape != (d, d) and cov.shape != (*like.shape, *like.shape)):
        raise ValueError(
            f"Gaussian: cov has shape {tuple(cov.shape)} for {d} coordinates; give ({d}, {d}) or (*shape, *shape)"
        )
    return cov.reshape(d, d)


def normalized(weights: Any, n: int, like: Tensor, what: str) -> Tensor:
    weights = torch.as_tensor(weights).to(like)
    if n == 0 or weights.shape != (n,):
        raise ValueError(
            f"{what}: weights of shape {tuple(weights.shape)} for {n} components; give one each, at least one"
        )
    if not bool(((weights >= 0) & (weights < math.inf)).all()) or not float(weights.sum()) > 0:
        raise ValueError(f"{what}: weights must be finite, >= 0 and not all 0")
    return weights / weights.sum()


def check_finite(x: Tensor, what: str) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{what} is not finite")


def randn(n: int, d: int, generator: Generator | None) -> Tensor:
    return torch.randn(n, d, generator=generator, dtype=torch.float64, device=generator.device if generator else None)


def choose(weights: Tensor, n: int, generator: Generator | None) -> Tensor:
    device = generator.device if generator else "cpu"
    return torch.multinomial(weights.double().to(device), n, replacement=True, generator=generator)
