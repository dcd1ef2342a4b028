"""The moments of a view's files, and the linear map from the full samples to them.

In coordinates c of the full samples (`shrinkage.Coordinates`) a file is z = R c + e + noise, with R the rows of A U for
the dense coordinates and e the part of A on the others. Only directions of the view's space that are not zero are kept.

A view of several placements has an R for each, and its files do not record which. For files with their own masks,
`missing_data` estimates the moments; where their windows vary as well, hidden values count as zero, in the files and
in placements drawn like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bootdiff.moments.missing_data import completed
from bootdiff.moments.shrinkage import Coordinates
from bootdiff.moments.view_denoisers import CompleteFiles, MaskedFiles, ViewDenoiser
from bootdiff.views import View

__all__ = ["ViewMoments"]

_PLACEMENTS = 16  # placements of a view that are used, at most
_CHUNK = 2**22  # numbers processed at once


@dataclass(frozen=True)
class ViewMoments:
    """The moments of one view's files, in r coordinates of its space. Build it with `ViewMoments.of`.

    Attributes:
        rows: R for each placement, (p, r, m).
        offset: each placement of the channels' means, about the mean of all placements, (p, r).
        mean, cov: of the N = count files, (r,) and (r, r); with their noise, of standard deviation tau.
        placements: those used for the evidence; coverage: how many of them observe each coordinate.
        denoiser: the linear denoiser of the files' own distribution; None where they are too few or constant.
    """

    view: View
    rows: Tensor
    offset: Tensor
    mean: Tensor
    cov: Tensor
    count: float
    tau: float
    placements: tuple[View, ...]
    coverage: Tensor
    denoiser: ViewDenoiser | None

    @property
    def size(self) -> int:
        """r."""
        return len(self.mean)

    @classmethod
    def of(cls, coordinates: Coordinates, view: View, files: Tensor, masks: Tensor | None = None) -> ViewMoments:
        """Measure files.

        Args:
            view: any, with its noise, masks and placements.
            files: (N, *view.shape), N >= 1, in view coordinates (`view.scale` times what is stored), 0 where hidden.
            masks: 0/1, broadcastable to files, if each file has its own.

        Raises:
            ValueError: shapes that do not fit, no files, values that are not finite, masks that a view needs.
        """
        shape = tuple(view.shape(coordinates.shape))
        if tuple(files.shape[1:]) != shape or not len(files):
            raise ValueError(f"{view} of {coordinates.shape} gives {shape}; the files are {tuple(files.shape)}")
        if not bool(torch.isfinite(files).all()):
            raise ValueError(f"{view}: the files hold values that are not finite (NaN or infinity)")
        drawn_masks = view.masked and not view.is_fixed
        if drawn_masks and masks is None:
            raise ValueError(f"{view}: the files have their own masks; pass them too")
        placements = list(view.placements(coordinates.shape))
        if len(placements) > _PLACEMENTS:
            placements = [placements[round(i * (len(placements) - 1) / (_PLACEMENTS - 1))] for i in range(_PLACEMENTS)]
        basis, full = coordinates.basis(), coordinates.shape
        center = coordinates.center.reshape(-1, *(1,) * (len(full) - 1)).expand(full)
        weight = _coverage(placements, full)
        union = _union(view, full, basis, center) if drawn_masks else None
        if union is not None:
            assert masks is not None
            B, at = union
            P = _directions(B)
            mean, cov, count = completed(files, masks, at, P)
            holes = MaskedFiles(at, P, mean, cov, view.tau) if bool(cov.any()) else None
            offset = mean.new_zeros(1, len(mean))
            return cls(view, (P.T @ B)[None], offset, mean, cov, count, view.tau, tuple(placements), weight, holes)
        if drawn_masks:  # windows vary too: the sampling grid of placements does not represent them
            rng = torch.Generator().manual_seed(0)
            placements = [view.draw(full, rng) for _ in range(_PLACEMENTS)]
            weight = _coverage(placements, full)
        each = [_apply(p, basis) for p in placements]
        at = torch.stack([p(center[None])[0].flatten() for p in placements])
        P = _directions(torch.cat(each, 1) / math.sqrt(len(each)))
        rows = torch.stack([P.T @ B for B in each])
        mean, cov = _moments(files, at.mean(0), P)
        offset = (at - at.mean(0)) @ P
        try:
            denoiser = CompleteFiles(files, view.tau, len(basis)) if len(mean) else None
        except ValueError:  # one file, or constant files
            denoiser = None
        return cls(view, rows, offset, mean, cov, float(len(files)), view.tau, tuple(placements), weight, denoiser)

    def evidence(self, x: Tensor, sigma: float, base: float, means: Tensor) -> Tensor:
        """The view's evidence on noisy full samples x (n, *shape): its estimate minus the base's, lifted.

        Args:
            base: b, factor of the isotropic Gaussian base.
            means: the channels' means, (C, 1, ...).
        """
        out = torch.zeros_like(x)
        if self.denoiser is None or sigma < self.tau:
            return out
        shape = tuple(x.shape[1:])
        for placement in self.placements:
            y, at = placement(x), placement(means.expand(shape)[None])
            mask = placement.mask(shape)
            observed = None if mask is None else mask.double().expand(y.shape[1:])
            d = self.denoiser(y, sigma, observed)
            off = d - at - base * (y - at)
            out += placement.lift(off if observed is None else off * observed, shape)
        return out / self.coverage

    def noise(self, R: Tensor, floor: float) -> Tensor:
        """Covariance of the view's part outside the dense coordinates, (r, r)."""
        return floor * (torch.eye(self.size, dtype=R.dtype) - R @ R.T)


def _apply(view: View, basis: Tensor) -> Tensor:
    """A U, (k, m)."""
    return view(basis).flatten(1).T


def _directions(B: Tensor) -> Tensor:
    """Orthonormal directions of view space, range of B (k, m): (k, r), the strongest 2048 at most."""
    k, m = B.shape
    lam, V = torch.linalg.eigh(B @ B.T if k <= m else B.T @ B)
    on = lam > 1e-6 * max(float(lam.max()), 1e-12)
    on[: max(0, len(lam) - 2048)] = False
    V = V[:, on].flip(1)
    return V if k <= m else torch.linalg.qr(B @ V)[0]


def _coverage(placements: Sequence[View], shape: tuple[int, ...]) -> Tensor:
    """How many placements observe each coordinate, at least 1."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    count = sum((p.lift(p(x), shape)[0].abs() > 1e-9).double() for p in placements)
    return count.clamp_min(1)  # type: ignore[union-attr]


def _mask(view: View, shape: tuple[int, ...]) -> Tensor:
    """The mask of a masked view of one placement, over its coordinates, (k,)."""
    mask = view.mask(shape)
    assert mask is not None
    return mask.double().expand(view.shape(shape)).flatten()


def _union(view: View, shape: tuple[int, ...], basis: Tensor, center: Tensor) -> tuple[Tensor, Tensor] | None:
    """A U and A center with nothing hidden, from masks drawn at random.

    None where the draws differ in more than their masks.
    """
    rng = torch.Generator().manual_seed(0)
    k = math.prod(view.shape(shape))
    B, at, ever = (torch.zeros(k, n, dtype=torch.float64) for n in (len(basis), 1, 1))
    for _ in range(64):
        drawn = view.draw(shape, rng)
        m, rows = _mask(drawn, shape) > 0, _apply(drawn, basis)
        both = m & (ever[:, 0] > 0)
        if not torch.allclose(rows[both], B[both], atol=1e-9):
            return None
        B[m], at[m], ever[m] = rows[m], drawn(center[None]).flatten()[m, None], 1.0
        if bool(ever.all()):
            break
    return B, at[:, 0]


def _chunks(files: Tensor) -> list[Tensor]:
    return list(files.flatten(1).split(max(1, _CHUNK // max(files[0].numel(), 1))))


def _moments(files: Tensor, at: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of P^T (files - at)."""
    r = P.shape[1]
    total, square = torch.zeros(r, dtype=torch.float64), torch.zeros(r, r, dtype=torch.float64)
    for chunk in _chunks(files):
        z = (chunk.double() - at) @ P
        total += z.sum(0)
        square += z.T @ z
    mean = total / len(files)
    return mean, square / len(files) - torch.outer(mean, mean)
