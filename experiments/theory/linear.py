"""Linear denoisers at one noise level: exact risks, least squares from n samples, and the views' composite as a matrix.

x0 has mean 0 and second moment S, x = x0 + sigma n, C = S + sigma^2 I. For D(x) = W x,

    R(W) = E|W x - x0|^2 = tr(W C W^T) - 2 tr(W S) + tr S,      W* = S C^-1,
    R(W) - R(W*) = |W - W*|_C^2,      <A, B>_C = tr(A C B^T).

From n samples with the expectation over the noise in closed form (infinitely many noise draws for each sample) the
empirical risk is the same formula with the empirical second moment S^ in place of S, so least squares gives
W^ = S^ C^^-1, defined for every n, n = 1 and n < d included. On top of a composite V the residual fits

    energy   min R^(V + D) + mu tr(D C^ D^T)     D = (W^ - V) / (1 + mu)                   (kappa = 1 / (1 + mu))
    ridge    min R^(V + D) + mu tr(D D^T)        D = (S^ - V C^) (C^ + mu I)^-1

and mu = 0 gives V + D = W^ whatever V is: without regularization the residual *is* full-only training.
Ridge regression: Hoerl and Kennard 1970. All matrices may carry leading batch dimensions. sigma = 0 and inf are limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.distributions.base import tolerance
from bootdiff.views import View

__all__ = [
    "box_minimum",
    "composite",
    "energy_fit",
    "energy_strength",
    "evidence",
    "excess",
    "gain_moments",
    "null_projection",
    "optimal_gains",
    "ridge_fit",
    "risk",
    "rows",
    "view_moment",
    "wiener",
]


def wiener(S: Tensor, sigma: float) -> Tensor:
    """W = S (S + sigma^2 I)^-1, (..., d, d): of a population, and from the moment of samples the least-squares fit.

    At sigma = 0 the projection on the range of S, at inf 0.

    Raises:
        ValueError: S not finite or sigma negative or NaN.
    """
    _check(sigma, S)
    if sigma == math.inf:
        return torch.zeros_like(S)
    d = S.shape[-1]
    if sigma**2 > 1e-6 * float(S.abs().amax()):  # well conditioned: no eigenvectors needed
        W = torch.linalg.solve(S + sigma**2 * torch.eye(d).to(S), S)
        return (W + W.mT) / 2
    lam, U = torch.linalg.eigh((S + S.mT) / 2)
    lam = torch.where(lam > tolerance(lam.abs(), d, S.dtype), lam, 0.0)
    gain = torch.where(lam > 0, lam / torch.where(lam > 0, lam + sigma**2, 1.0), 0.0)
    return (U * gain[..., None, :]) @ U.mT


def inner(A: Tensor, B: Tensor, S: Tensor, sigma: float) -> Tensor:
    """<A, B>_C = E <A x, B x>, (...)."""
    return ((A @ S) * B).sum((-2, -1)) + sigma**2 * (A * B).sum((-2, -1))


def excess(W: Tensor, S: Tensor, sigma: float, best: Tensor | None = None) -> Tensor:
    """|W - W*|_C^2, the excess risk of D(x) = W x over the best denoiser of a Gaussian, (...).

    At sigma = inf it is inf unless W = 0. `best` is W* where it is known already.
    """
    _check(sigma, S)
    if sigma == math.inf:
        energy = (W * W).sum((-2, -1))
        return torch.where(energy > 0, math.inf, 0.0).to(W)
    B = W - (wiener(S, sigma) if best is None else best)
    return inner(B, B, S, sigma)


def risk(W: Tensor, S: Tensor, sigma: float) -> Tensor:
    """E|W x - x0|^2, (...): with the empirical second moment for S, the empirical risk."""
    _check(sigma, S)
    if sigma == math.inf:
        return torch.where((W * W).sum((-2, -1)) > 0, math.inf, S.diagonal(dim1=-2, dim2=-1).sum(-1))
    trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)
    return inner(W, W, S, sigma) - 2 * (W * S.mT).sum((-2, -1)) + trace


def energy_fit(V: Tensor, S_hat: Tensor, sigma: float, kappa: float | Tensor) -> Tensor:
    """V + kappa (W^ - V): energy mu = 1 / kappa - 1; kappa = 1 is unregularized, 0 the views alone. kappa: (...)."""
    kappa = torch.as_tensor(kappa, dtype=V.dtype)[..., None, None]
    return V + kappa * (wiener(S_hat, sigma) - V)


def energy_strength(V: Tensor, W_hat: Tensor, S: Tensor, sigma: float) -> Tensor:
    """The kappa in [0, 1] of least risk under the second moment S, (...): the population's or held-out samples'.

    At sigma = inf, and where the two are the same but for rounding (W^ - V is below 1e4 eps of them), 0.
    """
    _check(sigma, S)
    D = W_hat - V
    if sigma == math.inf:
        return torch.zeros(D.shape[:-2], dtype=V.dtype)
    against = (D * S.mT).sum((-2, -1)) - inner(D, V, S, sigma)
    energy = inner(D, D, S, sigma)
    there = energy > _rounding(V) * (inner(V, V, S, sigma) + inner(W_hat, W_hat, S, sigma))
    return torch.where(there, against / torch.where(there, energy, 1.0), 0.0).clamp(0, 1)


def ridge_fit(V: Tensor, S_hat: Tensor, sigma: float, mu: float, null: Tensor | None = None) -> Tensor:
    """V + P (S^ - V C^) (C^ + mu I)^-1: ridge towards the views, mu in [0, inf]; P = `null` keeps r in its range.

    Raises:
        ValueError: mu negative or NaN, moments not finite.
    """
    _check(sigma, S_hat)
    if not mu >= 0:
        raise ValueError(f"the ridge must be >= 0 (inf: the views alone), got {mu}")
    if mu == math.inf or sigma == math.inf:
        return V if mu == math.inf else torch.zeros_like(V + S_hat) if null is None else V - null @ V
    P = torch.eye(V.shape[-1]).to(V) if null is None else null
    # (S^ - V C^) (C^ + mu)^-1 = (W^ - V) C^ (C^ + mu)^-1: at sigma^2 + mu = 0 too
    shrunk = wiener(S_hat, math.sqrt(sigma**2 + mu))
    if sigma == 0 and mu == 0:
        return V + P @ (shrunk - V @ shrunk)
    eye = torch.eye(V.shape[-1]).to(V)
    keep = shrunk + sigma**2 / (sigma**2 + mu) * (eye - shrunk)  # C^ (C^ + mu)^-1
    return V + P @ (shrunk - V @ keep)


def rows(view: View, shape: Sequence[int]) -> Tensor:
    """The matrix of a single view on flattened samples, (k, d) float64."""
    shape = tuple(shape)
    d = math.prod(shape)
    return view(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).flatten(1).T


def view_moment(S: Tensor, view: View, shape: Sequence[int]) -> Tensor:
    """Second moment of the view's samples, (..., k, k): A S A^T, averaged over the placements that share a denoiser."""
    placed = [rows(p, shape).to(S) for p in view.placements(tuple(shape))]
    return torch.stack([A @ S @ A.T for A in placed]).mean(0)


def evidence(moments: Sequence[Tensor], views: Sequence[View], shape: Sequence[int], sigma: float, b: float) -> Tensor:
    """J_i = A_i^T (W_i - b) A_i, lifted over placements, (K, ..., d, d), with W_i the Wiener filter of `moments[i]`.

    Args:
        moments: second moment of each view's samples, (..., k_i, k_i): exact (`view_moment`) or of N_i samples.
        b: factor of the white base, sigma_data^2 / (sigma_data^2 + sigma^2).
    """
    shape, lifted = tuple(shape), []
    for S_i, view in zip(moments, views, strict=True):
        W = wiener(S_i, sigma)
        total: Tensor | float = 0.0
        for place in view.placements(shape):
            A = rows(place, shape).to(S_i)
            total = total + A.T @ W @ A - b * A.T @ A
        lifted.append(torch.as_tensor(total) / view.coverage(shape).flatten().to(S_i)[:, None])
    if not lifted:
        d = math.prod(shape)
        return torch.zeros(0, d, d, dtype=torch.float64)
    return torch.stack(torch.broadcast_tensors(*lifted))


def composite(J: Tensor, gains: Tensor, b: float) -> Tensor:
    """V = b I + sum_i lambda_i J_i, (..., d, d), of J (K, ..., d, d) and gains (K,) or (K, ...)."""
    eye, gains = torch.eye(J.shape[-1]).to(J), gains.to(J)
    while J.ndim < gains.ndim + 2:
        J = J[:, None]
    return b * eye + (gains.reshape(gains.shape + (1,) * (J.ndim - gains.ndim)) * J).sum(0) if len(J) else b * eye


def gain_moments(J: Tensor, S: Tensor, sigma: float, b: float) -> tuple[Tensor, Tensor]:
    """G_ij = E<J_i x, J_j x>, (K, K), and h_i = E<J_i x, x0 - b x>, (K,), of J (K, d, d) under the moment S.

    Raises:
        ValueError: sigma negative, NaN or inf, S not finite.
    """
    _check(sigma, S)
    if sigma == math.inf:
        raise ValueError("gain_moments: sigma must be finite; at inf every gain is 0 (optimal_gains says so)")
    G = torch.stack([torch.stack([inner(A, B, S, sigma) for B in J]) for A in J])
    h = torch.stack([(A * S.mT).sum((-2, -1)) - b * inner(A, torch.eye(S.shape[-1]).to(S), S, sigma) for A in J])
    return G, h


def optimal_gains(J: Tensor, S: Tensor, sigma: float, b: float) -> Tensor:
    """Least-squares gains lambda, (K,), under S: a population's, or that of full samples. The least norm of ties.

    Evidence of no energy (a base that says the same already, sigma = inf) gets 0: below 1e4 eps of what the base says.
    """
    if not len(J) or sigma == math.inf:
        return torch.zeros(len(J), dtype=torch.float64)
    G, h = gain_moments(J, S, sigma, b)
    base = b * torch.eye(S.shape[-1]).to(S)
    there = (G.diagonal() > _rounding(S) * inner(base, base, S, sigma)).to(S)
    return torch.linalg.pinv(G * there * there[:, None], hermitian=True, rtol=1e-10) @ (h * there)


def box_minimum(G: Tensor, h: Tensor, sweeps: int = 200) -> Tensor:
    """argmin over w in [0, 1]^K of w.Gw - 2 h.w, (..., K), G (..., K, K) positive semi-definite, h (..., K).

    By coordinate descent (Hildreth 1957), exact for K = 1; weights without curvature get 0.
    """
    w = torch.zeros_like(h)
    for _ in range(sweeps if h.shape[-1] > 1 else 1):
        before = w.clone()
        for k in range(h.shape[-1]):
            curvature = G[..., k, k]
            rest = h[..., k] - (G[..., k, :] * w).sum(-1) + curvature * w[..., k]
            w[..., k] = torch.where(curvature > 0, rest / torch.where(curvature > 0, curvature, 1.0), 0.0).clamp(0, 1)
        if bool((w - before).abs().amax() < 1e-12):
            break
    return w


def null_projection(views: Sequence[View], shape: Sequence[int]) -> Tensor:
    """Projection on what no view sees, (d, d); 0 where they see everything, I without views."""
    d = math.prod(shape)
    seen = [rows(p, shape) for view in views for p in view.placements(tuple(shape))]
    A = torch.cat(seen) if seen else torch.zeros(1, d, dtype=torch.float64)
    return torch.eye(d, dtype=torch.float64) - torch.linalg.pinv(A, rtol=1e-10) @ A


def _rounding(like: Tensor) -> float:
    """Share of the energy of two denoisers below which that of their difference is rounding."""
    return (1e4 * torch.finfo(like.dtype).eps) ** 2


def _check(sigma: float, S: Tensor) -> None:
    if not sigma >= 0:
        raise ValueError(f"sigma must be >= 0 (0 and inf are allowed), got {sigma}")
    if not bool(torch.isfinite(S).all()):
        raise ValueError("a second moment is not finite: it holds NaN or infinity")
