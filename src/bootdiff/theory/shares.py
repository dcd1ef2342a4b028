"""What views say under one Gaussian law of the full samples, in closed form.

At noise level sigma, E|x0 - b|^2 - E|D* - x0|^2 is what can be known beyond the white base b. Of it a view's evidence
e = A^T [d(A x) - b(A x)] explains, with its best gain, h^2 / G, and several views together h G^-1 h, with G and h as in
`linear.gain_moments` plus the means' part: the share of what can be known. What is left, E|D* - V|^2, gives the
information that views leave over (Guo, Shamai, Verdu 2005),

    1/2 int E|D* - V|^2 d gamma      between the least and the largest noise level, trapezoid rule in ln gamma,

and, of x = x0 + sigma n at the least level, with Q what a view sees and N the rest,

    I(Q x; N x) = 1/2 (log det Q C Q^T + log det N C N^T - log det C),      C = S + sigma^2 I.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bootdiff.theory.imposing import target
from bootdiff.theory.linear import gain_moments
from bootdiff.theory.seen import Seen
from bootdiff.theory.shrinkage import Coordinates, Estimate

__all__ = ["Shares", "between", "shared", "shares"]


@dataclass(frozen=True)
class Shares:
    """Lists over the noise levels.

    known: what can be known, in units of the white base's loss. each: every view's share of it; together: of the kept
    ones.
    left_over: nats that each view leaves over; left_together of the kept ones; everything: of the white base alone.
    """

    known: list[float]
    each: dict[str, list[float]]
    together: list[float]
    left_over: dict[str, float]
    left_together: float
    everything: float


class _Evidence:
    """A view's evidence as an affine map of the dense coordinates, at any noise level."""

    def __init__(self, law: Estimate, seen: Seen, sigma_data: float) -> None:
        self.seen, self.law, self.sd2 = seen, law, sigma_data**2
        self.mean, self.cov, _ = target(law, seen)
        self._eigen = torch.linalg.eigh(self.cov) if seen.size and seen.shown is None else None

    def __call__(self, sigma: float) -> tuple[Tensor, Tensor]:
        """J (m, m), and the evidence at x = E x0, (m,)."""
        seen, m = self.seen, len(self.law.mean)
        J, at = torch.zeros(m, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
        if seen.size == 0 or sigma < seen.tau:
            return J, at
        b, eye = self.sd2 / (self.sd2 + sigma**2), torch.eye(seen.size, dtype=torch.float64)
        for p, lift in enumerate(seen.lifts):
            R = seen.rows[p % len(seen.rows)]
            if self._eigen is not None:
                lam, V = self._eigen
                lam = lam.clamp_min(0)
                W, shown = (V * (lam / (lam + sigma**2))) @ V.T, eye
            else:
                assert seen.shown is not None
                shown = seen.shown[p]
                part = shown @ self.cov @ shown
                W = torch.linalg.solve(part + sigma**2 * eye, part)
            offset = seen.offset[p % len(seen.offset)]
            there, own = shown @ (R @ self.law.mean + offset), shown @ self.mean
            J += lift @ ((W - b * shown) @ (shown @ R))
            at += lift @ (own + W @ (there - own) - b * there)
        return J, at


def shares(
    law: Estimate, views: Mapping[str, Seen], kept: Sequence[str], coordinates: Coordinates, levels: Sequence[float]
) -> Shares:
    """All of it. `law` is the estimate of everything, on which the views' own laws are based too."""
    evidence = [_Evidence(law, seen, coordinates.sigma_data) for seen in views.values()]
    names, sd2, d = list(views), coordinates.sigma_data**2, coordinates.dim
    on = [i for i, name in enumerate(names) if name in kept]
    lam, nodes = torch.linalg.eigvalsh(law.cov).clamp_min(0), _nodes(levels)
    power = float(lam.sum() + law.rest.sum() + law.mean.square().sum())
    can, part, together = [], [], []
    for s in nodes:
        b = sd2 / (sd2 + s**2)
        best = s**2 * float((lam / (lam + s**2)).sum() + (law.rest / (law.rest + s**2)).sum())
        can.append(max((1 - b) ** 2 * power + s**2 * b**2 * d - best, 0.0))
        J, at = (torch.stack(x) for x in zip(*(e(s) for e in evidence), strict=True))
        G, h = gain_moments(J, law.cov, s, b)
        G, h = G + at @ at.T, h + at @ ((1 - b) * law.mean)
        own = G.diagonal()
        alone = torch.where((own > 0) & (h > 0), h.square() / own.clamp_min(1e-300), 0.0)
        part.append(alone.clamp(max=can[-1]).tolist())
        root = torch.linalg.pinv(G[on][:, on], hermitian=True, rtol=1e-10) if on else G[on][:, on]
        together.append(min(max(float(h[on] @ root @ h[on]), 0.0), can[-1]))
    unit = [coordinates.unit(s) * d for s in nodes]
    at_level = [nodes.index(s) for s in levels]

    def nats(explained: Sequence[float]) -> float:
        energy = torch.tensor([c - e for c, e in zip(can, explained, strict=True)], dtype=torch.float64)
        gamma = torch.tensor(nodes, dtype=torch.float64) ** -2
        return float(-torch.trapezoid(energy * gamma, gamma.log()) / 2)

    columns = dict(zip(names, zip(*part, strict=True), strict=True))
    return Shares(
        known=[can[i] / unit[i] for i in at_level],
        each={name: [_ratio(column[i], can[i]) for i in at_level] for name, column in columns.items()},
        together=[_ratio(together[i], can[i]) for i in at_level],
        left_over={name: nats(column) for name, column in columns.items()},
        left_together=nats(together),
        everything=nats([0.0] * len(nodes)),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _nodes(levels: Sequence[float]) -> list[float]:
    """The levels, and so many between them that ln gamma has steps of at most ln 2."""
    out = [levels[0]]
    for low, high in itertools.pairwise(levels):
        k = max(1, math.ceil(2 * math.log(high / low) / math.log(2) - 1e-9))
        out += [*(low * (high / low) ** (i / k) for i in range(1, k)), high]
    return out


# --- mutual information ---


def shared(law: Estimate, seen: Seen, sigma: float) -> float | None:
    """I(what the view sees; the rest), nats, of x0 + sigma n; None for a view of several placements."""
    Q = _sees(seen)
    if Q is None:
        return None
    N = torch.linalg.qr(Q.T, mode="complete")[0].T[len(Q) :]
    return max(_log_det(law, Q, sigma) + _log_det(law, N, sigma) - _log_det(law, None, sigma), 0.0) / 2


def between(law: Estimate, views: Sequence[Seen], sigma: float) -> float | None:
    """Total correlation of the views, nats, of x0 + sigma n; None where they overlap or have several placements."""
    rows = []
    for seen in views:
        Q = _sees(seen)
        if Q is None:
            return None
        rows.append(Q)
    if any(len(P) and len(Q) and float((P @ Q.T).abs().max()) > 0.1 for P, Q in itertools.combinations(rows, 2)):
        return None
    if len(rows) < 2:
        return 0.0
    parts = sum(_log_det(law, Q, sigma) for Q in rows)
    return max(parts - _log_det(law, torch.linalg.qr(torch.cat(rows).T)[0].T, sigma), 0.0) / 2


def _sees(seen: Seen) -> Tensor | None:
    """Orthonormal directions, (r', m), of which a view of one placement sees most."""
    if len(seen.lifts) != 1:
        return None
    if not seen.size:
        return seen.rows[0]
    _, s, Q = torch.linalg.svd(seen.rows[0], full_matrices=False)
    return Q[s.square() > 0.5]


def _log_det(law: Estimate, Q: Tensor | None, sigma: float) -> float:
    S = law.cov if Q is None else Q @ law.cov @ Q.T
    return float(torch.linalg.slogdet(S + sigma**2 * torch.eye(len(S), dtype=S.dtype))[1]) if len(S) else 0.0
