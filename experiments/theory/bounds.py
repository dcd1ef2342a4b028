"""Generalization bounds for linear denoisers at one noise level, with explicit constants; proofs in docs/theory.md.

Setting (`linear`): x0 ~ N(0, S) of rank r, C = S + sigma^2 I, M = S C^-1, n independent full samples, the expectation
over the noise in closed form, W^ = S^ C^^-1. Then W^ - W* = sigma^2 C^^-1 (S^ - S) C^-1, and the excess risk of
training on the full data alone, v_n = E |W^ - W*|_C^2, is at most each of

    direct      (tr(S^2 C^-1) + tr(S) tr M) / n                              by C^ >= sigma^2 I
    trivial     tr S                                                         by convexity
    inverse     sigma^4 sum_i [c_i q_i - 2 l_i + 1 / c_i],   l_i <= E (C^^-1)_ii,   E (C^^-2)_ii <= q_i
                in the eigenbasis of S, c_i = lam_i + sigma^2                by Schur complements, see `_inverse`
    first order a / n (1 + o(1)),     a = sigma^4 tr(C^-2 (S C^-1 S + tr(M) S))          exact as n -> inf

W* - E W^ is diagonal in the eigenbasis of S, between 0 and sigma^2 (u_i - 1 / c_i), E (C^^-1)_ii <= u_i: `bias` bounds
its norm. With a composite V that does not depend on the n samples and has E |V - W*|_C^2 <= rho, the energy
regularization D = V + kappa (W^ - V) at its best kappa has

    E excess <= min_kappa (1 - kappa)^2 rho + 2 kappa (1 - kappa) sqrt(rho) bias + kappa^2 v_n <= min(rho, v_n).

Views trained on N_i samples, gains fitted on m samples and kappa held out on m' samples add the terms of
`views_energy` and `selection_gap`. For random-feature denoisers (`kernel`) of any law there is `feature_ridge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bootdiff.distributions.base import tolerance
from experiments.theory.kernel import Moments
from experiments.theory.linear import box_minimum, excess, inner, wiener

__all__ = [
    "FullOnly",
    "Worth",
    "best_strength",
    "feature_ridge",
    "first_order",
    "full_only",
    "regularized",
    "selection_gap",
    "views_energy",
    "worth",
]


@dataclass(frozen=True)
class FullOnly:
    """Upper bounds on the excess risk of full-only training; `best` is the least of them. inf where one has no say.

    bias: upper bound on |E W^ - W*|_C.
    """

    direct: float
    trivial: float
    inverse: float
    bias: float

    @property
    def best(self) -> float:
        return min(self.direct, self.trivial, self.inverse)

    @property
    def which(self) -> str:
        """Name of the least bound."""
        return min(("direct", "trivial", "inverse"), key=lambda name: getattr(self, name))


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
        return FullOnly(0.0, 0.0, 0.0, 0.0)
    c, trace = lam + sigma**2, float(lam.sum())
    m = lam / c
    direct = float((lam * m).sum() + trace * m.sum()) / n
    if sigma**2 == 0:  # n >= r samples span everything
        return FullOnly(direct, trace, 0.0 if n >= r else math.inf, 0.0 if n >= r else math.sqrt(trace))
    inverse, bias = _inverse(lam, n, sigma)
    return FullOnly(direct, trace, inverse, min(bias, math.sqrt(min(direct, trace, inverse))))


def _inverse(lam: Tensor, n: int, sigma: float) -> tuple[float, float]:
    """The bound `inverse`, and |E W^ - W*|_C at most, from eigenvalues lam (r,) > 0 and sigma > 0.

    With z_i the n white coordinates of eigenvector i, (C^^-1)_ii = 1 / (sigma^2 + lam_i z_i' Q_i z_i / n), where Q_i is
    the inverse of I plus the other coordinates' Gram matrix / (n sigma^2). Projecting out the k others of largest
    variance and taking the rest by Cauchy and Schwarz,

        E (C^^-1)_ii^p <= E (sigma^2 + lam_i chi^2_{n-k} / (n s_p))^-p,   s_p^p = E (1 + tau / (n sigma^2))^p,

    tau = sum lam_j g_j^2 over the rest. As 1 / (a + b q) is convex and E Q_i = t_i I, t_i = 1 - sum_j w_j / n, from
    below E (C^^-1)_ii >= E (sigma^2 + lam_i t_i chi^2_n / n)^-1. Off the diagonal sum_j (C^^-1)_ij^2 = (C^^-1)_ii^2
    |b|^2 with b the ridge regression of coordinate i on the others, E |b|^2 <= lam_i / (n sigma^2) sum_j w_j (1 - w_j),
    and w_j = E W^_jj.
    """
    r, s2 = len(lam), sigma**2
    lam = lam.sort(descending=True).values
    c = lam + s2
    others = (lam.expand(r, r) * (1 - torch.eye(r, dtype=lam.dtype))).sort(1, descending=True).values[:, : r - 1]
    most = min(r - 1, n - 1)
    projected = sorted({k for k in (0, 1, 2, 4, 8, 16, 32, 64, most) if k <= most})
    first, second, fourth = (torch.stack([_moment(lam, others, n, k, s2, p) for k in projected]) for p in (1, 2, 4))
    u = torch.minimum(first.amin(0), torch.full_like(c, 1 / s2))
    low = 1 - s2 * u  # of E W^_ii
    high = lam / c
    spread = torch.where((low <= 0.5) & (high >= 0.5), 0.25, torch.maximum(low * (1 - low), high * (1 - high)))
    most_spread = min(n, r - 1) / 4
    spread = (spread.sum() - spread).clamp_max(most_spread)  # of the others
    factor = lam / (n * s2)
    candidates = [u / s2, (second * (1 + factor * most_spread)).amin(0)]
    candidates.append((second + factor * (fourth * most_spread * spread).sqrt()).amin(0))
    if projected[-1] == r - 1:  # orthogonal to all others, thus independent of b
        candidates.append(second[-1] * (1 + factor * spread))
    q = torch.stack(candidates).nan_to_num(nan=math.inf).amin(0)  # 0 * inf, where sigma^-8 overflows
    lower = _moment(lam * (1 - (low.sum() - low) / n), others[:, :0], n, 0, s2, 1)
    value = s2**2 * float((c * q - 2 * lower + 1 / c).sum())
    if not math.isfinite(value):
        return math.inf, math.inf
    return max(value, 0.0), float((c * (high - low).clamp_min(0) ** 2).sum().sqrt())


def _moment(lam: Tensor, others: Tensor, n: int, k: int, s2: float, p: int) -> Tensor:
    """E (sigma^2 + lam chi^2_{n-k} / (n s_p))^-p, (r,), the k largest of `others` (r, r-1) projected out."""
    rest = others[:, k:] / (n * s2)
    k1, k2, k3, k4 = (2 ** (i - 1) * math.factorial(i - 1) * (rest**i).sum(1) for i in (1, 2, 3, 4))
    k1 = k1 + 1
    moment = k1 if p == 1 else k2 + k1**2 if p == 2 else k4 + 4 * k3 * k1 + 3 * k2**2 + 6 * k2 * k1**2 + k1**4
    ratio = lam / (n * moment ** (1 / p))
    freedom = n - k
    # trapezoid rule in ln chi^2: analytic and falling on both sides, so the error is below rounding
    width = math.sqrt(2 / freedom)
    begin, end = math.log(freedom) - max(12 * width, 76 / freedom), math.log(freedom + 14 * math.sqrt(freedom) + 80)
    v = torch.arange(begin, end, min(0.4 * width, 0.3), dtype=torch.float64)
    log_density = freedom / 2 * v - v.exp() / 2
    weight = (log_density - log_density.max()).exp()
    return ((s2 + ratio[:, None] * v.exp()) ** -p * weight).sum(1) / weight.sum()


def regularized(energy: float, full: FullOnly) -> float:
    """Bound on E excess of V + kappa (W^ - V) at the best fixed kappa, of V independent of the n full samples.

    Args:
        energy: of V, or a bound: E |V - W*|_C^2 (`views_energy`, with what finite gains add).
        full: of `full_only`.
    """
    if not energy >= 0:
        raise ValueError(f"regularized: the energy must be >= 0, got {energy}")
    v, cross = full.best, math.sqrt(energy) * full.bias
    if cross >= min(energy, v):
        return min(energy, v)
    # (energy v - cross^2) / (energy + v - 2 cross), without a quotient of two differences that may both be rounding
    least = min(energy, v)
    return least - (least - cross) ** 2 / (energy + v - 2 * cross)


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

    R(w) = R(0) - 2 h.w + w.Gw is the risk of on + sum_k w_k E_k. With w* the minimizer, e = (h^ - G^ w*) - (h - G w*)
    and Y = G^-1/2 G^ G^-1/2, for every 0 < t < 1 the gap is at most

        E |e|^2_{G^-1} / (1 - t)^2 + largest R - min R over the box . P(lowest eigenvalue of Y < 1 - t);

    for K = 1 also, with Z_w = h^ - w G^ of variance s_w^2 / m,  int |R'(w)| P(Z_w on the wrong side of 0) dw with the
    lesser of Cantelli's and Bernstein's tails; and never above largest R - min R. With E_k = J_i, on = b I: gains; with
    E = W^ - V, on = V: the held-out kappa. Candidates must not depend on the m samples.

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
    best = box_minimum(G, h)
    # R - R(0) at the corners of the box, and its least value
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).to(S)] * K).reshape(-1, K)
    value = torch.einsum("ck,...kl,cl->...c", corners, G, corners) - 2 * torch.einsum("ck,...k->...c", corners, h)
    least = torch.einsum("...k,...kl,...l->...", best, G, best) - 2 * (best * h).sum(-1)
    largest = (value.amax(-1) - least).clamp_min(0)
    # empirical h and G are <H, S^> + const; cov(tr(A S^), tr(B S^)) = 2 tr(A S B S) / m for symmetric A, B
    linear = torch.stack([_sym((eye - on).mT @ a) @ S for a in E])
    square = torch.stack([torch.stack([_sym(b.mT @ a) @ S for b in E]) for a in E])
    root = torch.linalg.pinv(G, hermitian=True, rtol=1e-10)
    at_best = linear - torch.einsum("kl...ij,...l->k...ij", square, best)
    cov = torch.stack([torch.stack([2 * (a * b.mT).sum((-2, -1)) for b in at_best], -1) for a in at_best], -2)
    fast = (root * cov).sum((-2, -1)) / m
    found = largest
    low_noise, variance = _lowest(E, square, root, sigma)
    for t in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        # below what the noise alone gives, no draw can be
        bad = torch.where(low_noise >= 1 - t, 0.0, K * torch.exp(-m * t**2 / (2 * variance.clamp_min(1e-300))))
        found = torch.minimum(found, fast / (1 - t) ** 2 + largest * bad)
    if K == 1:
        found = torch.minimum(found, _one_weight(G[..., 0, 0], h[..., 0], best[..., 0], linear[0], square[0, 0], m))
    return found


def _lowest(E: Tensor, square: Tensor, root: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Of Y = G^-1/2 G^ G^-1/2: the lowest eigenvalue of its noise part, and per sample the variance factor of the rest.

    P(lowest eigenvalue of Y < 1 - t) <= K exp(-m t^2 / (2 v)): for K = 1, v is the variance of a sum of squares of
    normals (Laurent and Massart 2000, lemma 1); for more |E Y_1^2|, as exp(-a) <= 1 - a + a^2 / 2 (Tropp 2012, sec. 3).
    """
    K = len(E)
    mean = square.diagonal(dim1=-2, dim2=-1).sum(-1).movedim((0, 1), (-2, -1))
    noise = sigma**2 * torch.stack([torch.stack([(a * b).sum((-2, -1)) for b in E], -1) for a in E], -2)
    if K == 1:
        variance = 2 * (square[0, 0] * square[0, 0].mT).sum((-2, -1)) * root[..., 0, 0] ** 2
        return noise[..., 0, 0] * root[..., 0, 0], variance
    lam, U = torch.linalg.eigh(root)
    half = (U * lam.clamp_min(0).sqrt()[..., None, :]) @ U.mT
    # E Y_ik (G^-1)_kl Y_lj of one sample, before the outer factors
    pairs = torch.einsum("ia...xy,jb...yx->iajb...", square, square)
    second = 2 * torch.einsum("iajb...,...ab->...ij", pairs, root) + mean @ root @ mean
    there = (lam > 1e-10 * lam.amax(-1, keepdim=True)).to(lam)
    low = torch.linalg.eigvalsh(half @ noise @ half + (U * (1 - there)[..., None, :]) @ U.mT)[..., 0]
    return low, torch.linalg.eigvalsh(half @ second @ half)[..., -1]


def _one_weight(g: Tensor, h: Tensor, best: Tensor, linear: Tensor, square: Tensor, m: int, nodes: int = 48) -> Tensor:
    """int over [0, 1] of |R'(w)| P(Z_w has the wrong sign) dw, by Gauss's rule on each side of the best."""
    import numpy as np

    points, weights = (torch.from_numpy(v).to(g) for v in np.polynomial.legendre.leggauss(nodes))
    a, b, c = ((x * y.mT).sum((-2, -1)) for x, y in ((linear, linear), (linear, square), (square, square)))
    total = torch.zeros_like(g)
    for length, sign in ((best, -1.0), (1 - best, 1.0)):
        # nodes denser towards the best w, where the tails change
        w = best[..., None] + sign * length[..., None] * ((points + 1) / 2) ** 2
        measure = length[..., None] * weights * (points + 1) / 2
        away = (g[..., None] * w - h[..., None]) * sign
        deviation = (2 * (a[..., None] - 2 * w * b[..., None] + w**2 * c[..., None])).clamp_min(1e-300).sqrt()
        z = away.clamp_min(0) * math.sqrt(m) / deviation
        tail = torch.minimum(1 / (1 + z**2), torch.exp(-(z**2) / 2 / (1 + math.sqrt(2 / m) * z)))
        total = total + (2 * away.clamp_min(0) * tail * measure).sum(-1)
    return total


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
    """`Worth` of the composite V, (d, d). Views that know everything (rho up to 1e-14 a) are worth inf; at sigma
    = 0 and inf 0.

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


def feature_ridge(
    moments: Moments, n: int, strength: float, variance: Tensor, views: float = 0.0, norm: float = 1.0
) -> float:
    """Bound on E excess of the random-feature denoiser of n samples (`kernel`), of any law, any V, any features.

    With m = strength / (n + 1), A = inf_T E|r - T phi|^2 + m |T|^2, f = tr H (H + m)^-1 / (n + 1), h = norm / (norm +
    strength) and v(x) = tr Cov(x0 | x), for every t

        E excess <= (A + t q (1 - q) + E (v - t)_+ h' (1 - h')) / (1 - h)^2,    q = min(f, 1/2), h' = min(h, 1/2),

    by leaving one out: the empirical minimum of n + 1 samples is the loss of n on another one, up to leverages.

    Args:
        moments: of the population, with r = D* - V of exact views.
        n: samples, at least 1, one noise draw each.  strength: L > 0; inf: the views alone.
        variance: v at points of the population, (T,), or one number.
        views: sum_i |lambda_i| sqrt(v_i), what the views' denoisers are off: A becomes (sqrt A + views)^2.
        norm: largest |phi(x)|^2.

    Raises:
        ValueError: n < 1, a strength that is not positive, views that are negative.
    """
    if n < 1 or not strength > 0 or not views >= 0:
        raise ValueError(f"feature_ridge: n >= 1, strength > 0, views >= 0; got {n}, {strength}, {views}")
    if strength == math.inf:
        return (math.sqrt(moments.energy) + views) ** 2
    m = strength / (n + 1)
    lam, U = torch.linalg.eigh(moments.gram)
    lam = lam.clamp_min(0)
    along = (moments.against @ U).square().sum(0)
    A = max(moments.energy - float((along / (lam + m)).sum()), 0.0)
    freedom, h = float((lam / (lam + m)).sum()) / (n + 1), norm / (norm + strength)
    q, most = min(freedom, 0.5), min(h, 0.5)
    v = variance.double().reshape(-1).sort().values
    above = (v.sum() - v.cumsum(0) - v * torch.arange(len(v) - 1, -1, -1)) / len(v)  # E (v - t)_+ at t = v
    noise = float((v * q * (1 - q) + above.clamp_min(0) * most * (1 - most)).amin())
    return ((math.sqrt(A) + views) ** 2 + noise) / (1 - h) ** 2


def best_strength(moments: Moments, n: int, variance: Tensor, views: float = 0.0) -> tuple[float, float]:
    """The strength, among powers of sqrt 2 and inf, at which `feature_ridge` is least, and its value there."""
    grid = [2.0 ** (k / 2) for k in range(-8, 41)] + [math.inf]
    found = [feature_ridge(moments, n, strength, variance, views) for strength in grid]
    value = min(found)
    return grid[found.index(value)], value
