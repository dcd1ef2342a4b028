"""The linear denoisers that views have of their own law, in their own space: what their networks are before training.

Both answer y = A x0 + sigma n by the posterior mean under a Gaussian. `Files` is measured on files that all show the
same (`shrinkage`, in coordinates of the view's space). `Holes` is a law z ~ N(mean, cov) along directions P, of which a
file shows M (at + P z), M a mask of its own:

    E[z | y] = mean + cov (Q^T Q cov + sigma^2 I)^-1 Q^T (y - M at - Q mean),     Q = M P.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bootdiff.forecast.shrinkage import Coordinates, Sampled, shrunk

__all__ = ["Files", "Holes", "Own", "positive"]

_CHUNK = 2**22  # numbers handled at once


class Own(ABC):
    """A view's own denoiser."""

    @abstractmethod
    def __call__(self, y: Tensor, sigma: float, shown: Tensor | None) -> Tensor:
        """E[A x0 | y], of y (n, *shape); `shown` (*shape) is 1 where y is observed, None where it is everywhere."""


class Files(Own):
    """Of files (N, *shape), whose noise of standard deviation tau is taken off.

    alpha is the one of Ledoit and Wolf (2004) in units where every variance is 1.

    Raises:
        ValueError: fewer than two files, or files that are all the same.
    """

    def __init__(self, files: Tensor, tau: float, size: int) -> None:
        self.coordinates = C = Coordinates.of(files, size)
        found = Sampled.of(C, torch.cat([C.analyze(part) for part in files.split(max(1, _CHUNK // C.dim))]))
        root = found.cov.diagonal().clamp_min(1e-12 * C.sigma_data**2).sqrt()
        off = found.cov / root / root[:, None]
        spread, m = off.square().sum() - off.diagonal().square().sum(), len(root)
        alpha = float((m * (m - 1) / found.count / spread.clamp_min(1e-300)).clamp(0, 1)) if m > 1 else 0.0
        law = shrunk(C, found, [alpha])[0]
        self.mean, self.outside = law.mean, found.mean[C.left]
        lam, self._V = torch.linalg.eigh(law.cov - tau**2 * torch.eye(m, dtype=torch.float64))
        self._lam, self._rest = lam.clamp_min(0), (law.rest - tau**2).clamp_min(0)

    def __call__(self, y: Tensor, sigma: float, shown: Tensor | None) -> Tensor:
        C, V = self.coordinates, self._V
        c = C.analyze(y)
        within = (c[:, C.kept] - self.mean) @ V
        c[:, C.kept] = self.mean + within * (self._lam / (self._lam + sigma**2)) @ V.T
        c[:, C.left] = self.outside + (c[:, C.left] - self.outside) * (self._rest / (self._rest + sigma**2))
        return C.synthesize(c) + C.means()


class Holes(Own):
    """Of N(mean, cov) along P (k, r) about `at` (k,); the files' noise of standard deviation tau is taken off cov."""

    def __init__(self, at: Tensor, P: Tensor, mean: Tensor, cov: Tensor, tau: float) -> None:
        self.at, self.P, self.mean = at, P, mean
        self.cov = positive(cov - tau**2 * torch.eye(len(mean), dtype=torch.float64))

    def __call__(self, y: Tensor, sigma: float, shown: Tensor | None) -> Tensor:
        assert shown is not None
        m = shown.flatten()
        Q = self.P * m[:, None]
        seen = Q.T @ Q
        z = (y.flatten(1) - self.at * m) @ Q - seen @ self.mean
        inverse = torch.linalg.inv(seen @ self.cov + sigma**2 * torch.eye(len(seen), dtype=torch.float64))
        return (self.at + (self.mean + z @ inverse.T @ self.cov) @ self.P.T).reshape(y.shape)


def positive(S: Tensor) -> Tensor:
    """The nearest covariance with no eigenvalue below 1e-8 of the largest."""
    lam, V = torch.linalg.eigh((S + S.T) / 2)
    return (V * lam.clamp_min(1e-8 * float(lam.max()))) @ V.T
