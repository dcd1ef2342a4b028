"""Imposing views on a Gaussian law: the nearest law in which each view has the moments of its files.

N files of a view (`ViewMoments`), with noise of variance tau^2, have a moment C of their own. The law nearest to
N(m, S), in KL, whose view has the moment C is

    S + G (C - Z) G^T,     m + G (mean of the files - R m),     Z = R S R^T + Cov(e) + tau^2 I,  G = S R^T Z^-1:

the view's own law, and given the view the law as it was (Csiszar 1975). For one view that is the maximum likelihood
estimate of a monotone missing pattern (Anderson 1957); several views are imposed in turn, as iterative proportional
scaling does (Deming and Stephan 1940; Speed and Kiiveri 1986). C is the files' moment, shrunk towards Z where the two
differ by less than N files must: weight w = min(1, E|C - E C|^2 / |C - Z|^2) in the coordinates where Z = I (Ledoit and
Wolf 2004). The placements of a view that has several are all moved by the one linear map that takes their mean to C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.forecast.shrinkage import Estimate
from bootdiff.forecast.view_denoisers import positive
from bootdiff.forecast.view_moments import ViewMoments

__all__ = ["impose", "target"]


def target(law: Estimate, seen: ViewMoments) -> tuple[Tensor, Tensor, float]:
    """The view's mean (r,) and clean covariance (r, r) as they should be, shrunk towards `law`; the weight w."""
    model_mean, model = _pooled(law, seen)
    r, noise = seen.size, seen.tau**2
    if r == 0:
        return model_mean, model, 1.0
    Z = model + noise * torch.eye(r, dtype=model.dtype)
    L = torch.linalg.cholesky(Z + 1e-10 * Z.diagonal().mean() * torch.eye(r, dtype=Z.dtype))
    white = _both(L, seen.cov)
    off = white - torch.eye(r, dtype=Z.dtype)
    spread = (white.trace() ** 2 + white.square().sum()) / seen.count
    w = float((spread / off.square().sum().clamp_min(1e-300)).clamp(0, 1)) if seen.count > 1 else 1.0
    share = seen.count / (seen.count + law.count)
    clean = model + (1 - w) * (L @ off @ L.T)
    if noise > 0:
        clean = positive(clean)  # files that carry less noise than they should
    return model_mean + share * (seen.mean - model_mean), clean, w


def impose(law: Estimate, views: Sequence[ViewMoments], sweeps: int = 2) -> Estimate:
    """The law nearest to `law` whose views have the files' moments; one view of one placement needs one sweep."""
    mean, cov = law.mean, law.cov
    is_fixed = len(views) == 1 and len(views[0].rows) == 1
    for _ in range(1 if is_fixed else sweeps):
        for seen in views:
            if seen.size == 0:
                continue
            now = Estimate(mean, cov, law.rest, law.count)
            model_mean, model = _pooled(now, seen)
            wanted_mean, wanted, _w = target(now, seen)
            carry = _transport(model, wanted) if len(seen.rows) > 1 else None
            # placements overlap: each is moved from where it was before the first was
            goals = []
            for R in seen.rows:
                Z = R @ cov @ R.T + seen.noise(R, law.floor)
                goals.append((R @ mean + wanted_mean - model_mean, wanted if carry is None else carry @ Z @ carry.T))
            for R, (to_mean, to) in zip(seen.rows, goals, strict=True):
                mean, cov = _moved(mean, cov, R, seen.noise(R, law.floor), to_mean, to, carry is not None)
    return Estimate(mean, cov, law.rest, law.count)


# --- details ---


def _moved(
    mean: Tensor, cov: Tensor, R: Tensor, E: Tensor, to_mean: Tensor, to: Tensor, partly: bool
) -> tuple[Tensor, Tensor]:
    """N(mean, cov) with R x + e, e of covariance E, given these moments; `partly`: where R may have rows of zeros."""
    if partly:  # a placement may hide what others show
        lam, V = torch.linalg.eigh(R @ R.T)
        V = V[:, lam > 1e-9]
        R, E, to_mean, to = V.T @ R, V.T @ E @ V, V.T @ to_mean, V.T @ to @ V
    Z = R @ cov @ R.T + E
    eye = torch.eye(len(Z), dtype=Z.dtype)
    L = torch.linalg.cholesky(Z + 1e-10 * Z.diagonal().mean() * eye)
    H = torch.linalg.solve_triangular(L, R @ cov, upper=False)
    off = torch.linalg.solve_triangular(L, (to_mean - R @ mean)[:, None], upper=False)[:, 0]
    cov = cov + H.T @ (_both(L, to) - eye) @ H
    return mean + H.T @ off, (cov + cov.T) / 2


def _pooled(law: Estimate, seen: ViewMoments) -> tuple[Tensor, Tensor]:
    """Mean and clean covariance of the view's files under the law, over its placements together."""
    means = seen.rows @ law.mean + seen.offset
    mean = means.mean(0)
    cov = sum(R @ law.cov @ R.T + seen.noise(R, law.floor) for R in seen.rows) / len(seen.rows)
    between = (means - mean).T @ (means - mean) / len(seen.rows)
    return mean, cov + between


def _transport(source: Tensor, to: Tensor) -> Tensor:
    """The symmetric M with M source M = to: optimal transport between centred Gaussians."""
    lam, V = torch.linalg.eigh(source)
    lam = lam.clamp_min(1e-10 * lam.max())
    root, back = (V * lam.sqrt()) @ V.T, (V * lam.rsqrt()) @ V.T
    mid, W = torch.linalg.eigh(root @ to @ root)
    return back @ ((W * mid.clamp_min(0).sqrt()) @ W.T) @ back


def _both(L: Tensor, S: Tensor) -> Tensor:
    """L^-1 S L^-T."""
    left = torch.linalg.solve_triangular(L, S, upper=False)
    out = torch.linalg.solve_triangular(L, left.T, upper=False)
    return (out + out.T) / 2
