"""What views explain of the full samples, and what they leave over.

The denoisers are evaluated at x = x0 + sigma n of full samples x0. Beyond the isotropic Gaussian base b, 1 - L* is what
can be known of it, in units of the base's loss, with L* the loss of the best estimate at hand (`cross_validation`). Of
it a view's evidence e = A^T [d(A x) - b(A x)], d the linear denoiser of the view's own distribution (`view_denoisers`),
explains h^2 / G with its best gain, and several views together h G^-1 h, G = E<e_i, e_j>, h = E<e_i, x0 - b>: the share
of what can be known. What is left is the information that the views leave over (Guo, Shamai, Verdu 2005), nats,

    1/2 int E|D* - V|^2 d gamma      over the noise levels, trapezoid rule in ln gamma,

less what L* itself is short of the best loss there is.

And in closed form under the estimate of everything, of x at the least noise level, with Q the directions that a view
observes among the dense coordinates and N the others,

    I(Q x; N x) = 1/2 (log det Q C Q^T + log det N C N^T - log det C),      C = S + sigma^2 I.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bootdiff.moments.shrinkage import Coordinates, Estimate
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["Shares", "between", "nats", "shared", "shares"]

_NUMBERS = 2**20  # values of full samples that are used, about
_PROBES = 64


@dataclass(frozen=True)
class Shares:
    """Lists over the noise levels.

    known: what can be known, in units of the isotropic Gaussian base's loss. each: every view's share of it; together:
    of the kept ones. left_over: nats that each view leaves over; left_together: the kept ones; everything: the
    isotropic Gaussian base alone.
    """

    known: list[float]
    each: dict[str, list[float]]
    together: list[float]
    left_over: dict[str, float]
    left_together: float
    everything: float


def shares(
    full: Tensor,
    views: Mapping[str, ViewMoments],
    kept: Sequence[str],
    coordinates: Coordinates,
    levels: Sequence[float],
    best: Sequence[float],
) -> Shares:
    """All of it, on the full samples (n, *shape). best: L* at each level."""
    sd2, d = coordinates.sigma_data**2, coordinates.dim
    chosen = torch.linspace(0, len(full) - 1, min(len(full), max(256, _NUMBERS // d))).round().long()
    means = coordinates.means()
    x0 = full[chosen].double()
    off, probes = (x0 - means).flatten(1), _probes(coordinates.shape)
    zero = torch.zeros_like(probes[:1])
    names = list(views)
    on = [i for i, name in enumerate(names) if name in kept]
    known, part, together = [], [], []
    for s, loss in zip(levels, best, strict=True):
        b = sd2 / (sd2 + s**2)
        # evidence is affine in x: the mean over the noise needs no noise, only traces
        e = torch.stack([v.evidence(x0, s, b, means).flatten(1) for v in views.values()])
        J = torch.stack([(v.evidence(probes, s, b, means) - v.evidence(zero, s, b, means)).flatten(1)
                         for v in views.values()])  # fmt: skip
        G = torch.einsum("ind,jnd->ij", e, e) / len(x0) + s**2 * torch.einsum("iqd,jqd->ij", J, J)
        h = (1 - b) * torch.einsum("ind,nd->i", e, off) / len(x0)
        h = h - b * s**2 * torch.einsum("iqd,qd->i", J, probes.flatten(1))
        unit = coordinates.unit(s) * d
        G, h = G / unit, h / unit
        can = max(1 - loss, 0.0)
        own = G.diagonal()
        alone = torch.where((own > 0) & (h > 0), h.square() / own.clamp_min(1e-300), 0.0)
        root = torch.linalg.pinv(G[on][:, on], hermitian=True, rtol=1e-10) if on else G[on][:, on]
        known.append(can)
        part.append([min(v, can) for v in alone.tolist()])
        together.append(min(max(float(h[on] @ root @ h[on]), 0.0), can))

    def left(explained: Sequence[float]) -> float:
        off = torch.tensor([c - e for c, e in zip(known, explained, strict=True)], dtype=torch.float64)
        return nats(off, coordinates, levels)

    columns = dict(zip(names, zip(*part, strict=True), strict=True))
    return Shares(
        known=known,
        each={name: _ratios(column, known) for name, column in columns.items()},
        together=_ratios(together, known),
        left_over={name: left(column) for name, column in columns.items()},
        left_together=left(together),
        everything=left([0.0] * len(levels)),
    )


def nats(off: Tensor, coordinates: Coordinates, levels: Sequence[float]) -> float:
    """1/2 int E d gamma over the noise levels; E, (levels,), in units of the isotropic Gaussian base's loss."""
    units = torch.tensor([coordinates.unit(s) * coordinates.dim / s**2 for s in levels], dtype=torch.float64)
    return abs(float(torch.trapezoid(units * off, torch.tensor(levels, dtype=torch.float64).log() * -2))) / 2


def _probes(shape: tuple[int, ...]) -> Tensor:
    """Samples z with sum z z^T = I, exactly or (Hutchinson 1990) in the mean: (q, *shape)."""
    d = math.prod(shape)
    if d <= 4 * _PROBES:
        return torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    signs = torch.randint(0, 2, (_PROBES, *shape), generator=torch.Generator().manual_seed(0))
    return (2.0 * signs.double() - 1) / math.sqrt(_PROBES)


def _ratios(parts: Sequence[float], wholes: Sequence[float]) -> list[float]:
    return [part / whole if whole > 0 else 0.0 for part, whole in zip(parts, wholes, strict=True)]


# --- mutual information ---


def shared(estimate: Estimate, moments: ViewMoments, sigma: float) -> float | None:
    """I(what the view observes; the rest), nats, of x0 + sigma n; None for a view of several placements."""
    Q = _observed_directions(moments)
    if Q is None:
        return None
    N = torch.linalg.qr(Q.T, mode="complete")[0].T[len(Q) :]
    return max(_log_det(estimate, Q, sigma) + _log_det(estimate, N, sigma) - _log_det(estimate, None, sigma), 0.0) / 2


def between(estimate: Estimate, views: Sequence[ViewMoments], sigma: float) -> float | None:
    """Total correlation of the views, nats, of x0 + sigma n; None where they overlap or have several placements."""
    rows = []
    for moments in views:
        Q = _observed_directions(moments)
        if Q is None:
            return None
        rows.append(Q)
    # by the least angle between the two, which does not depend on the bases, as the svd's may be rotated
    if any(len(P) and len(Q) and float(torch.linalg.matrix_norm(P @ Q.T, 2)) > 0.1
           for P, Q in itertools.combinations(rows, 2)):  # fmt: skip
        return None
    if len(rows) < 2:
        return 0.0
    parts = sum(_log_det(estimate, Q, sigma) for Q in rows)
    return max(parts - _log_det(estimate, torch.linalg.qr(torch.cat(rows).T)[0].T, sigma), 0.0) / 2


def _observed_directions(moments: ViewMoments) -> Tensor | None:
    """Orthonormal directions, (r', m), that a view of one placement observes by more than half, up to rounding."""
    if len(moments.placements) != 1:
        return None
    if not moments.size:
        return moments.rows[0]
    _, s, Q = torch.linalg.svd(moments.rows[0], full_matrices=False)
    return Q[s.square() > 0.5 + 1e-9]


def _log_det(estimate: Estimate, Q: Tensor | None, sigma: float) -> float:
    S = estimate.cov if Q is None else Q @ estimate.cov @ Q.T
    return float(torch.linalg.slogdet(S + sigma**2 * torch.eye(len(S), dtype=S.dtype))[1]) if len(S) else 0.0
