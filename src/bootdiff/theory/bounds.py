"""Generalization bounds for linear denoisers at one noise level, with explicit constants; proofs in docs/theory.md.

Setting (`linear`): x0 ~ N(0, S) of rank r, C = S + sigma^2 I, M = S C^-1, n independent full samples, the expectation
over the noise in closed form, W^ = S^ C^^-1. Then W^ - W* = sigma^2 C^^-1 (S^ - S) C^-1, and the excess risk of
training on the full data alone, v_n = E |W^ - W*|_C^2, is at most each of

    direct      (tr(S^2 C^-1) + tr(S) tr M) / n                              by C^ >= sigma^2 I
    trivial     tr S                                                         by convexity
    inverse     sigma^4 {tr_r(C^-1) [1 - 2n/(n-r-1) + n^2 c (n-r-1)] + n^2 c tr(S^+) tr M},   n > r + 3,
                c = 1 / ((n-r)(n-r-1)(n-r-3))                                by C^^-2 <= S^^-2, Wishart
    first order a / n (1 + o(1)),     a = sigma^4 tr(C^-2 (S C^-1 S + tr(M) S))          exact as n -> inf

With a composite V that does not depend on the n samples, residual energy rho = E |V - W*|_C^2 and the energy
regularization D = V + kappa (W^ - V) at its best kappa, E excess <= min(rho, v_n). Views trained on N_i samples, gains
fitted on m samples and kappa held out on m' samples add the terms of `views_energy` and `selection_gap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bootdiff.theory.law import tolerance
from bootdiff.theory.linear import excess, inner, wiener

__all__ = ["FullOnly", "Worth", "first_order", "full_only", "selection_gap", "views_energy", "worth"]


@dataclass(frozen=True)
class FullOnly:
    """Upper bounds on the excess risk of full-only training; `best` is the least of them. inf where one has no say."""

    direct: float
    trivial: float
    inverse: float

    @property
    def best(self) -> float:
        return min(self.direct, self.trivial, self.inverse)

    @property
    def which(self) -> str:
        """Name of the least bound."""
        return min(vars(self), key=lambda name: getattr(self, name))


def _spectrum(S: Tensor) -> Tensor:
    lam = torch.linalg.eigvalsh((S.double() + S.double().mT) / 2)
    return lam[lam > tolerance(lam.abs(), len(lam), S.dtype)]


def first_order(S: Tensor, sigma: float) -> float:
    """a, with v_n = a / n (1 + O(1/n)); 0 at sigma = 0 and at inf."""
    if sigma in (0, math.inf):
        return 0.0
    lam = _spectrum(S)
    c = lam + sigma**2
    return float(sigma**4 * (lam / c**2 * (lam / c + (lam / c).sum())).sum())


def full_only(S: Tensor, n: int, sigma: float) -> FullOnly:
    """Bounds on E excess of the least-squares denoiser of n full samples, at every n >= 1 and 0 <= sigma <= inf.

    Raises:
        ValueError: n < 1, sigma negative or NaN.
    """
    if n < 1 or not sigma >= 0:
        raise ValueError(f"full_only: n must be at least 1 and sigma >= 0, got n={n}, sigma={sigma}")
    lam = _spectrum(S)
    r = len(lam)
    if sigma == math.inf or r == 0:
        return FullOnly(0.0, 0.0, 0.0)
    c, trace = lam + sigma**2, float(lam.sum())
    m = lam / c
    direct = float((lam * m).sum() + trace * m.sum()) / n
    inverse = math.inf
    if n > r + 3:
        factor = 1 / ((n - r) * (n - r - 1) * (n - r - 3))
        within = 1 - 2 * n / (n - r - 1) + n**2 * factor * (n - r - 1)
        inverse = sigma**4 * float((1 / c).sum() * within + n**2 * factor * (1 / lam).sum() * m.sum())
    return FullOnly(direct, trace, inverse)


def views_energy(energy: float, gains: Sequence[float], errors: Sequence[float], disjoint: bool = False) -> float:
    """Bound on E |V^ - W*|_C^2 of a composite of single-placement views that were trained on N_i samples each.

    By Minkowski's inequality (sqrt(rho) + sum_i |lambda_i| sqrt(v_i))^2, as lifting keeps the excess risk. For views
    with orthogonal row spaces the errors add in squares, (sqrt(rho) + sqrt(sum_i lambda_i^2 v_i))^2, and where all
    gains are 1 they are orthogonal to the residual as well: rho + sum_i v_i, with equality.

    Args:
        energy: rho, |V - W*|_C^2 with exact views and these gains.
        gains: lambda_i, fixed.
        errors: v_i, excess risk (or bound: `full_only(S_i, N_i, sigma).best`) of each view's own denoiser.
        disjoint: whether the row spaces are orthogonal.

    Raises:
        ValueError: numbers that are negative or NaN, gains and errors of different lengths.
    """
    if len(gains) != len(errors) or not energy >= 0 or not all(v >= 0 for v in errors):
        raise ValueError(f"views_energy: give one gain per error, all energies >= 0; got {energy}, {gains}, {errors}")
    if disjoint and all(g == 1 for g in gains):
        return energy + sum(errors)
    terms = [abs(g) * math.sqrt(v) for g, v in zip(gains, errors)]
    return (math.sqrt(energy) + (math.hypot(*terms) if disjoint else sum(terms))) ** 2


def selection_gap(candidates: Tensor, on: Tensor, S: Tensor, sigma: float, m: int) -> Tensor:
    """Bound on E R(w^) - min R(w) over w in [0, 1]^K, w^ the minimizer of the empirical risk of m samples over the box.

    R(w) is the risk of on + sum_k w_k E_k. The bound is 8 (E|dh|^2_{G^-1} + K E|G^-1/2 dG|_F^2), and never above the
    largest R - min R over the box. With E_k = J_i, on = b I: gains; with E = W^ - V, on = V: the held-out kappa.
    Candidates must not depend on the m samples.

    Args:
        candidates: E_k, (K, ..., d, d).  on: (..., d, d).  S: (d, d), the population's.  m: samples, at least 1.

    Returns:
        The bound, (...).
    """
    if m < 1:
        raise ValueError(f"selection_gap: needs at least one sample, got m={m}")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"selection_gap: sigma must be >= 0 and finite, got {sigma}; at inf every weight must be 0")
    E, K = candidates, len(candidates)
    eye = torch.eye(S.shape[-1]).to(S)
    G = torch.stack([torch.stack([inner(a, b, S, sigma) for b in E], -1) for a in E], -2)
    h = torch.stack([(a * S).sum((-2, -1)) - inner(a, on.expand_as(a), S, sigma) for a in E], -1)
    # empirical h and G are <H, S^> + const; cov(tr(A S^), tr(B S^)) = 2 tr(A S B S) / m for symmetric A, B
    linear = [_sym((eye - on).mT @ a) @ S for a in E]
    square = [[_sym(b.mT @ a) @ S for b in E] for a in E]
    root = torch.linalg.pinv(G, hermitian=True, rtol=1e-10)
    cov_h = torch.stack([torch.stack([(a * b.mT).sum((-2, -1)) for b in linear], -1) for a in linear], -2)
    cov_G = torch.stack(
        [
            torch.stack([torch.stack([(a[j] * b[j].mT).sum((-2, -1)) for j in range(K)]).sum(0) for b in square], -1)
            for a in square
        ],
        -2,
    )
    fast = 16 / m * ((root * cov_h).sum((-2, -1)) + K * (root * cov_G).sum((-2, -1)))
    # R - R(0) at the corners of the box, and its least value anywhere
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).to(S)] * K).reshape(-1, K)
    value = torch.einsum("ck,...kl,cl->...c", corners, G, corners) - 2 * torch.einsum("ck,...k->...c", corners, h)
    least = -torch.einsum("...k,...kl,...l->...", h, root, h)
    return torch.minimum(fast, (value.amax(-1) - least).clamp_min(0))


def _sym(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


@dataclass(frozen=True)
class Worth:
    """What views are worth at one noise level, to first order in 1 / n.

    energy: rho, what they leave over; first_order: a, full-only's excess risk times n; bias: c; samples:
    n0 = (a - c)^2 / (a rho), the number of full samples that they replace: full-only needs n + n0 for the risk that n
    samples and the views have.
    """

    energy: float
    first_order: float
    bias: float
    samples: float

    def stops(self, share: float = 0.05) -> float:
        """The n beyond which the views lower the excess risk by less than this share: n0 / share."""
        return self.samples / share


def worth(V: Tensor, S: Tensor, sigma: float) -> Worth:
    """`Worth` of the composite V, (d, d). Views that know everything are worth inf; at sigma = 0 and inf 0.

    c = lim n <V - W*, E W^ - W*>_C = -sigma^2 tr((V - W*) (tr(M) M + M^2)) is the bias of least squares along what the
    views leave over.
    """
    rho, a = float(excess(V, S, sigma)), first_order(S, sigma)
    if a == 0:
        return Worth(rho, 0.0, 0.0, 0.0)
    M = wiener(S, sigma)
    c = -(sigma**2) * float(((V - M) * (M.trace() * M + M @ M)).sum())
    if rho <= 1e-14 * a:
        return Worth(rho, a, c, math.inf)
    return Worth(rho, a, c, max(a - c, 0.0) ** 2 / (a * rho))
