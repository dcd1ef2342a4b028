"""Mean and covariance of files with missing values.

`available` takes each entry of the covariance from the files in which both coordinates are observed. Entries from
different files are inconsistent: where neighbours are nearly equal, as in a signal, their difference is mostly error.

`completed` goes on from there by expectation and maximization (Dempster, Laird, Rubin 1977; for a Gaussian with missing
values: Little and Rubin 2019, section 11.2). A file observes M of at + P z + e, z ~ N(m, C), e white of variance w:

    E[z | file] = m + W Q^T (file - M at - Q m),     Cov[z | file] = w W,     W = (Q^T Q + w C^-1)^-1,     Q = M P,

and m, C are the mean and covariance of z over files and posteriors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bootdiff.moments.view_denoisers import positive

__all__ = ["available", "completed"]

_PAIRS = 4 * 10**10  # products that the pairs may cost
_WORK, _STEPS = 10**10, 8  # products that a step of `completed` may cost, and steps
_CHUNK = 2**22  # numbers processed at once


def available(files: Tensor, masks: Tensor, at: Tensor, P: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Mean (r,) and covariance (r, r) along directions P (k, r), about `at` (k,); the variance along each other
    direction, on average; the median number of files of an entry.

    Large samples: from the first files only, as the work grows with the square of their size.

    Args:
        files: (N, *shape) of k values each.
        masks: 0/1, broadcastable to files.
    """
    k, r = P.shape
    most = max(64, _PAIRS // max(k * k, 1))
    m = masks.expand_as(files)[:most].flatten(1).float()
    count = m.sum(0).double()
    z = (files[:most].flatten(1).double() - at) * m
    mean = z.sum(0) / count.clamp_min(1)
    z = ((z - mean) * m).float()
    cov, pairs = torch.zeros(r, r, dtype=torch.float64), []
    variance = float((z.square().sum(0) / count.clamp_min(1)).sum())
    for rows in torch.arange(k).split(1024):
        both = m[:, rows].T @ m
        block = (z[:, rows].T @ z / both.clamp_min(1)).double()
        cov += P[rows].T @ (block @ P)
        pairs.append(float(both.median()))
    other = max(0.0, variance - float(cov.trace())) / (k - r) if k > r else 0.0
    return P.T @ mean, (cov + cov.T) / 2, other, max(1.0, sorted(pairs)[len(pairs) // 2])


def completed(files: Tensor, masks: Tensor, at: Tensor, P: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and number of files as `available` gives them, but consistent.

    With so many directions that fewer than twice as many files could be processed, the same as `available`. Files that
    are constant, to 1e-9 of their largest value, have covariance 0.
    """
    mean, cov, other, count = available(files, masks, at, P)
    r = len(mean)
    if not r:
        return mean, cov, count
    if float(cov.trace()) <= r * (1e-9 * float(files.abs().max())) ** 2:
        return mean, torch.zeros_like(cov), count
    most = _WORK // (4 * r**3)
    if min(most, len(files)) < 2 * r:
        return mean, positive(cov), count
    y, m = files[:most].flatten(1).double() - at, masks.expand_as(files)[:most].flatten(1).double()
    lam, V = torch.linalg.eigh(cov)
    # Negative ones show the size of the error; from zero, EM cannot move.
    cov = (V * lam.clamp_min(max(-float(lam[0]), 1e-6 * float(lam[-1])))) @ V.T
    white = max(other, 1e-6 * float(lam.mean()))
    for _ in range(_STEPS):
        mean, cov = _step(y, m, P, mean, cov, white)
    return mean, positive(cov), max(1.0, count * len(y) / len(files))


def _step(y: Tensor, masks: Tensor, P: Tensor, mean: Tensor, cov: Tensor, white: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of z over files and posteriors, from those of the step before."""
    prior = white * torch.linalg.inv(cov)
    total, square = torch.zeros_like(mean), torch.zeros_like(cov)
    size = max(1, _CHUNK // (len(mean) * len(P)))
    for part, m in zip(y.split(size), masks.split(size), strict=True):
        Q = P * m[:, :, None]
        W = torch.cholesky_inverse(torch.linalg.cholesky(Q.mT @ Q + prior))
        z = (W @ (Q.mT @ (part - P @ mean)[:, :, None]))[:, :, 0]
        total += z.sum(0)
        square += z.T @ z + white * W.sum(0)
    shift = total / len(y)
    return mean + shift, (square + square.T) / 2 / len(y) - torch.outer(shift, shift)
