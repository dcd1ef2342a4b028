"""A Gaussian from a few full samples: coordinates in which it is nearly diagonal, and shrinkage.

Coordinates. c = U^T (x - mean of its channel), U orthonormal: the cosine transform (DCT-II) over all axes of space and
the eigenvectors of the channel covariance; vectors, which have no space, are unchanged. A stationary distribution is
nearly diagonal there (Ahmed, Natarajan, Rao 1974). Of d coordinates the m of largest variance are kept in a dense
distribution; the others are taken as independent, with the variances measured.

Shrinkage. n full samples give mean and covariance S_n; both are shrunk,

    S = (1 - alpha) S_n + alpha T,     T = diag(S_n), each entry averaged with its neighbours as with 4 more samples

(Ledoit and Wolf 2004; Schaefer and Strimmer 2005). T is the Wiener filter's model, a stationary distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bootdiff.moments.wishart import wishart

__all__ = ["Coordinates", "Estimate", "Sampled", "ledoit_wolf", "shrunk"]

_PRIOR = 4.0  # samples that the neighbours' variance counts for
_TINY = 1e-8  # least variance, relative to the mean one


@dataclass(frozen=True)
class Coordinates:
    """U, for samples of one shape. Build it with `Coordinates.of`.

    Attributes:
        shape: of one sample.
        center: (C,), mean of each channel.
        channels: (C, C), orthonormal columns.
        kept, left: indices of the coordinates in the dense distribution, and of the others.
        sigma_data: root mean square about the channels' means.
    """

    shape: tuple[int, ...]
    center: Tensor
    channels: Tensor
    kept: Tensor
    left: Tensor
    sigma_data: float

    @classmethod
    def of(cls, full: Tensor, size: int = 1024) -> Coordinates:
        """Coordinates for full samples (n, *shape), at most `size` of them dense.

        Raises:
            ValueError: fewer than 2 samples, values that are not finite or all the same.
        """
        if full.ndim < 2 or len(full) < 2:
            raise ValueError(f"at least 2 full samples are needed to measure a spread, got {tuple(full.shape)}")
        if not bool(torch.isfinite(full).all()):
            raise ValueError("the full samples hold values that are not finite (NaN or infinity)")
        shape, x = tuple(full.shape[1:]), full.double()
        axes = [a for a in range(x.ndim) if a != 1]
        center = x.mean(axes)
        x = x - center.reshape(-1, *(1,) * (len(shape) - 1))
        sigma_data = float(x.square().mean().sqrt())
        if not sigma_data > 1e-9 * max(float(full.abs().max()), 1e-300):
            raise ValueError("the full samples are all one constant: they have no variance")
        channels = torch.eye(shape[0], dtype=torch.float64)
        if len(shape) > 1:
            flat = x.transpose(0, 1).flatten(1)
            channels = torch.linalg.eigh(flat @ flat.T)[1].flip(1)
        d = math.prod(shape)
        made = cls(shape, center, channels, torch.arange(d), torch.arange(0), sigma_data)
        if d <= size:
            return made
        order = made.analyze(full).square().mean(0).argsort(descending=True)
        return cls(shape, center, channels, order[:size].sort()[0], order[size:].sort()[0], sigma_data)

    @property
    def dim(self) -> int:
        """d."""
        return math.prod(self.shape)

    def unit(self, sigma: float) -> float:
        """Mean squared error per coordinate of the isotropic Gaussian base, s^2 s_d^2 / (s^2 + s_d^2), s = sigma."""
        return sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def analyze(self, x: Tensor) -> Tensor:
        """All d coordinates of samples (n, *shape): (n, d) float64."""
        x = x.double() - self.means()
        x = torch.einsum("nc...,ck->nk...", x, self.channels)
        if len(self.shape) > 1:
            from scipy.fft import dctn

            x = torch.from_numpy(dctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho"))
        return x.flatten(1)

    def synthesize(self, c: Tensor) -> Tensor:
        """U c, (n, *shape): the samples of coordinates (n, d), without the channels' means."""
        x = c.reshape(-1, *self.shape)
        if len(self.shape) > 1:
            from scipy.fft import idctn

            x = torch.from_numpy(idctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho"))
        return torch.einsum("nk...,ck->nc...", x, self.channels)

    def basis(self) -> Tensor:
        """Columns of U that are kept, as samples: (m, *shape)."""
        c = torch.zeros(len(self.kept), self.dim, dtype=torch.float64)
        c[torch.arange(len(self.kept)), self.kept] = 1
        return self.synthesize(c)

    def means(self) -> Tensor:
        """The channels' means, to subtract from samples: (C, 1, ...)."""
        return self.center.reshape(-1, *(1,) * (len(self.shape) - 1))

    def neighbours(self, variance: Tensor) -> Tensor:
        """Mean over the neighbouring frequencies of the same channel, (d,); of vectors, over all coordinates."""
        if len(self.shape) == 1:
            return variance.mean().expand_as(variance)
        from scipy.ndimage import uniform_filter

        grid = variance.reshape(self.shape).numpy()
        return torch.from_numpy(uniform_filter(grid, size=(1, *(3,) * (grid.ndim - 1)), mode="nearest")).flatten()


@dataclass(frozen=True)
class Estimate:
    """N(mean, cov) in the m dense coordinates, `rest` the variances of the others; from `count` full samples."""

    mean: Tensor
    cov: Tensor
    rest: Tensor
    count: int

    @property
    def floor(self) -> float:
        """Mean variance of the coordinates that are not dense."""
        return float(self.rest.mean()) if len(self.rest) else 0.0


@dataclass(frozen=True)
class Sampled:
    """Moments of count full samples: mean and variance of all d coordinates, covariance (1 / n) of the m dense ones."""

    mean: Tensor
    variance: Tensor
    cov: Tensor
    count: int

    @classmethod
    def of(cls, coordinates: Coordinates, c: Tensor) -> Sampled:
        """Of `coordinates.analyze(samples)`, (n, d), n >= 1."""
        mean = c.mean(0)
        off = c - mean
        z = off[:, coordinates.kept]
        return cls(mean, off.square().mean(0), z.T @ z / len(c), len(c))

    @classmethod
    def drawn(cls, coordinates: Coordinates, source: Estimate, n: int, generator: Generator) -> Sampled:
        """Of n samples of `source`, drawn without the samples themselves (Wishart and chi-squared distributions)."""
        import numpy as np

        d, kept, left = coordinates.dim, coordinates.kept, coordinates.left
        mean, variance = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        lam, U = torch.linalg.eigh(source.cov)
        white = torch.randn(d, generator=generator, dtype=torch.float64) / math.sqrt(n)
        mean[kept] = source.mean + U @ (lam.clamp_min(0).sqrt() * white[kept])
        mean[left] = source.rest.sqrt() * white[left]
        cov = wishart(source.cov, n - 1, 1, generator)[0] * (n - 1) / n if n > 1 else torch.zeros_like(source.cov)
        chi = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        variance[kept] = cov.diagonal()
        variance[left] = source.rest * torch.from_numpy(chi.chisquare(max(n - 1, 1), len(left)) / n)
        return cls(mean, variance, cov, n)


def ledoit_wolf(found: Sampled, coordinates: Coordinates) -> float:
    """The alpha of Ledoit and Wolf (2004) in units where every variance is 1."""
    root = found.cov.diagonal().clamp_min(1e-12 * coordinates.sigma_data**2).sqrt()
    off = found.cov / root / root[:, None]
    spread, m = off.square().sum() - off.diagonal().square().sum(), len(root)
    return float((m * (m - 1) / found.count / spread.clamp_min(1e-300)).clamp(0, 1)) if m > 1 else 0.0


def shrunk(coordinates: Coordinates, found: Sampled, alphas: Sequence[float]) -> list[Estimate]:
    """The estimates from full samples alone, one for each alpha in [0, 1]."""
    n, kept = found.count, coordinates.kept
    # one sample has no variance about its mean, but about the channels' means
    variance = found.variance * n / (n - 1) if n > 1 else found.mean.square()
    variance = (n * variance + _PRIOR * coordinates.neighbours(variance)) / (n + _PRIOR)
    variance = variance.clamp_min(_TINY * coordinates.sigma_data**2)
    # James-Stein, per coordinate: a mean within its own error becomes 0
    mean = found.mean * (1 - variance / n / found.mean.square().clamp_min(1e-300)).clamp(0, 1)
    off = (found.mean - mean)[kept]
    sample, T = found.cov + torch.outer(off, off), variance[kept]
    jitter = _TINY * coordinates.sigma_data**2
    return [
        Estimate(mean[kept], (1 - a) * sample + torch.diag(a * T + jitter), variance[coordinates.left], n)
        for a in alphas
    ]
