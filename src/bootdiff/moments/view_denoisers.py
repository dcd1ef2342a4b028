"""Linear denoisers of the views' own distributions, in the views' spaces: stand-ins for their networks.

Both map y = A x0 + sigma n to the posterior mean under a Gaussian. `CompleteFiles` is measured on files that all show
the same (`shrinkage`, in coordinates of the view's space). `MaskedFiles` is a distribution z ~ N(mean, cov) along
directions P, of which a file shows M (at + P z), M its own mask:

    E[z | y] = mean + cov (Q^T Q cov + sigma^2 I)^-1 Q^T (y - M at - Q mean),     Q = M P.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bootdiff.moments.shrinkage import Coordinates, Sampled, ledoit_wolf, shrunk

__all__ = ["CompleteFiles", "MaskedFiles", "ViewDenoiser", "positive"]

_CHUNK = 2**22  # numbers processed at once


class ViewDenoiser(ABC):
    """A view's denoiser."""

    @abstractmethod
    def __call__(self, y: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        """E[A x0 | y], of y (n, *shape); `mask` (*shape) is 1 where y is observed; None: everywhere."""


class CompleteFiles(ViewDenoiser):
    """Of files (N, *shape), whose noise of standard deviation tau is subtracted.

    Raises:
        ValueError: fewer than two files, or constant files.
    """

    def __init__(self, files: Tensor, tau: float, size: int) -> None:
        self.coordinates = C = Coordinates.of(files, size)
        found = Sampled.of(C, torch.cat([C.analyze(part) for part in files.split(max(1, _CHUNK // C.dim))]))
        estimate, m = shrunk(C, found, [ledoit_wolf(found, C)])[0], len(C.kept)
        self.mean, self.outside = estimate.mean, found.mean[C.left]
        lam, self._V = torch.linalg.eigh(estimate.cov - tau**2 * torch.eye(m, dtype=torch.float64))
        self._lam, self._rest = lam.clamp_min(0), (estimate.rest - tau**2).clamp_min(0)

    def __call__(self, y: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        C, V = self.coordinates, self._V
        c = C.analyze(y)
        within = (c[:, C.kept] - self.mean) @ V
        c[:, C.kept] = self.mean + within * (self._lam / (self._lam + sigma**2)) @ V.T
        c[:, C.left] = self.outside + (c[:, C.left] - self.outside) * (self._rest / (self._rest + sigma**2))
        return C.synthesize(c) + C.means()


class MaskedFiles(ViewDenoiser):
    """Of N(mean, cov) along P (k, r) about `at` (k,); the files' noise of standard deviation tau is subtracted."""

    def __init__(self, at: Tensor, P: Tensor, mean: Tensor, cov: Tensor, tau: float) -> None:
        self.at, self.P, self.mean = at, P, mean
        self.cov = positive(cov - tau**2 * torch.eye(len(mean), dtype=torch.float64))

    def __call__(self, y: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        assert mask is not None
        m = mask.flatten()
        Q = self.P * m[:, None]
        gram = Q.T @ Q
        z = (y.flatten(1) - self.at * m) @ Q - gram @ self.mean
        inverse = torch.linalg.inv(gram @ self.cov + sigma**2 * torch.eye(len(gram), dtype=torch.float64))
        return (self.at + (self.mean + z @ inverse.T @ self.cov) @ self.P.T).reshape(y.shape)


def positive(S: Tensor) -> Tensor:
    """The nearest covariance with no eigenvalue below 1e-8 of the largest."""
    lam, V = torch.linalg.eigh((S + S.T) / 2)
    return (V * lam.clamp_min(1e-8 * float(lam.max()))) @ V.T
