"""The expert that needs no training: the exact denoiser of the Gaussian that has the data's and the views' moments.

    D(x, sigma) = m + sum_k lam_k / (lam_k + sigma^2) u_k u_k^T (x - m) + floor / (floor + sigma^2) P (x - m),

u_k the leading eigenvectors of the covariance, P what is orthogonal to them.  At high noise every distribution is seen
by its first two moments alone, and these are known well: the full samples' covariance is shrunk, and the moments of all
of the views' files are imposed on it (`moments`: the nearest Gaussian in which each view has those of its files).  A
network learns the same from noisy gradients.  At which noise levels it counts is decided by the stack.

The denoiser: Bishop 2006, section 2.3.3.  Shrinkage: Ledoit, Wolf 2004.  Moments imposed: Csiszar 1975.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from bootdiff.data import Dataset, Subset, spaced_indices
from bootdiff.denoise import Denoiser
from bootdiff.method.problem import ViewData, in_memory
from bootdiff.method.training_set import TrainingSet
from bootdiff.method.validation import SampleSet
from bootdiff.moments.moment_matching import impose
from bootdiff.moments.shrinkage import Coordinates, Estimate, Sampled, ledoit_wolf, shrunk
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["GaussianDenoiser", "GaussianRecord", "gaussian_of"]

# Coordinates that are dense, and eigenvectors that are kept, at most; and numbers in all that they are made of.
_DENSE, _RANK, _NUMBERS = 512, 256, 2**22
# Files of one kind that are read: at most so many, of at most so many numbers in all.
_FILES, _VALUES = 8192, 2**26


class _Config(TypedDict):
    """Arguments of `GaussianDenoiser`."""

    shape: list[int]
    rank: int


@with_config(ConfigDict(strict=True, extra="forbid"))
class GaussianRecord(TypedDict):
    """The done.json of its stage. config: None where it has no say."""

    config: _Config | None
    ledger: dict[str, float]


class GaussianDenoiser(Denoiser):
    """The exact denoiser of a Gaussian with `rank` leading eigenvectors and one variance beside them.

    Args:
        shape: of a sample, (C, *space).
        rank: how many eigenvectors; they, their variances and the mean are its weights.
    """

    mean: Tensor
    basis: Tensor
    lam: Tensor
    floor: Tensor

    def __init__(self, shape: Sequence[int], rank: int) -> None:
        super().__init__()
        self.shape, self.rank = tuple(shape), rank
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("basis", torch.zeros(math.prod(self.shape), rank))
        self.register_buffer("lam", torch.zeros(rank))
        self.register_buffer("floor", torch.zeros(()))

    @property
    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "rank": self.rank}

    @classmethod
    def of(cls, estimate: Estimate, coordinates: Coordinates, tau: float = 0.0) -> Self:
        """Of an estimate from samples with noise tau, which is subtracted."""
        lam, V = torch.linalg.eigh(estimate.cov)
        most = min(_RANK, max(1, _NUMBERS // coordinates.dim), len(lam))
        lam, V = lam.flip(0), V.flip(1)
        beside = torch.cat([lam[most:], estimate.rest])
        basis = coordinates.basis().flatten(1)
        made = cls(coordinates.shape, most)
        made.mean.copy_(coordinates.means() + (estimate.mean @ basis).reshape(coordinates.shape))
        made.basis.copy_(basis.T @ V[:, :most])
        made.lam.copy_((lam[:most] - tau**2).clamp_min(0))
        made.floor.copy_((beside.mean() - tau**2).clamp_min(0) if len(beside) else torch.zeros(()))
        return made

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, *shape); it knows no classes."""
        s2 = sigma.to(self.lam.dtype)[:, None] ** 2
        off = (x - self.mean.to(x.dtype)).flatten(1).to(self.lam.dtype)
        around = self.floor / (self.floor + s2)
        along = off @ self.basis * (self.lam / (self.lam + s2) - around)
        found = (off * around + along @ self.basis.T).reshape(x.shape)
        return self.mean.to(x.dtype) + found.to(x.dtype)


def gaussian_of(
    data: TrainingSet, views: Mapping[str, tuple[ViewData, TrainingSet]] | None = None
) -> GaussianDenoiser | None:
    """Of a kind of data, with the moments of views of it imposed.

    Returns:
        None where it has no say: of samples that have classes, which it does not know and would drown, masks or a
        place; of a single sample, and of constant ones.
    """
    views = views or {}
    if data.classes is not None or data.samples.context is not None or len(data.train) < 2:
        return None
    x = _some(data.train, data.scale).x
    try:
        coordinates = Coordinates.of(x, _size(data, views))
    except ValueError:
        return None
    found = Sampled.of(coordinates, coordinates.analyze(x))
    estimate = shrunk(coordinates, found, [ledoit_wolf(found, coordinates)])[0]
    moments = []
    for v, its in views.values():
        files = _some(its.train, its.scale)
        shown = files.x if its.mask is None or files.mask is not None else files.x * its.mask.to(files.x)
        moments.append(ViewMoments.of(coordinates, v.view, shown, files.mask))
    return GaussianDenoiser.of(impose(estimate, moments), coordinates, data.tau)


def _some(dataset: Dataset, scale: float) -> SampleSet:
    count = max(2, _VALUES // math.prod(dataset.shape))
    return in_memory(Subset(dataset, spaced_indices(len(dataset), min(_FILES, count))), scale)


def _size(data: TrainingSet, views: Mapping[str, tuple[ViewData, TrainingSet]]) -> int:
    """Dense coordinates: time grows with the cube, and with the placements, whose moments are imposed in turn."""
    shape = data.prior.shape
    placements = sum(len(v.view.placements(shape)) for v, _ in views.values())
    dense = next((size for most, size in ((2, _DENSE), (4, 384), (10, 256)) if placements <= most), 192)
    return min(dense, max(1, 4 * _NUMBERS // math.prod(shape)))
