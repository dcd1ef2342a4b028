"""Moment matching: the nearest Gaussian in which each view has the moments of its files.

N files of a view (`ViewMoments`), with noise of variance tau^2, have their own moment C. The distribution nearest
to N(m, S), in KL, whose view has the moment C is

    S + G (C - Z) G^T,     m + G (mean of the files - R m),     Z = R S R^T + Cov(e) + tau^2 I,  G = S R^T Z^-1:

which is the view's own marginal with the old conditional given the view (Csiszar 1975). For one view that is the
maximum likelihood estimate of a monotone missing pattern (Anderson 1957); several views are imposed in turn, as
iterative proportional scaling does (Deming and Stephan 1940; Speed and Kiiveri 1986). C is the files' moment, shrunk
toward Z where the two differ by less than N files must: weight w = min(1, E|C - E C|^2 / |C - Z|^2) in the coordinates
where Z = I (Ledoit and Wolf 2004). The placements of a view that has several are all moved by the one linear map that
takes their mean to C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.moments.shrinkage import Estimate
from bootdiff.moments.view_denoisers import positive
from bootdiff.moments.view_moments import ViewMoments

__all__ = ["impose", "pooled", "target"]


def target(estimate: Estimate, view: ViewMoments) -> tuple[Tensor, Tensor, float]:
    """The view's mean (r,) and clean covariance (r, r) as they should be, shrunk toward `estimate`; the weight w."""
    model_mean, model = pooled(estimate, view)
    r, noise = view.size, view.tau**2
    if r == 0:
        return model_mean, model, 1.0
    Z = model + noise * torch.eye(r, dtype=model.dtype)
    L = torch.linalg.cholesky(Z + 1e-10 * Z.diagonal().mean() * torch.eye(r, dtype=Z.dtype))
    white = _both(L, view.cov)
    off = white - torch.eye(r, dtype=Z.dtype)
    spread = (white.trace() ** 2 + white.square().sum()) / view.count
    w = float((spread / off.square().sum().clamp_min(1e-300)).clamp(0, 1)) if view.count > 1 else 1.0
    share = view.count / (view.count + estimate.count)
    clean = model + (1 - w) * (L @ off @ L.T)
    if noise > 0:
        clean = positive(clean)  # files with less noise than declared
    return model_mean + share * (view.mean - model_mean), clean, w


def impose(estimate: Estimate, views: Sequence[ViewMoments], sweeps: int = 2) -> Estimate:
    """The nearest to `estimate` whose views have the files' moments; one view of one placement needs one sweep."""
    mean, cov = estimate.mean, estimate.cov
    one = len(views) == 1 and len(views[0].rows) == 1
    for _ in range(1 if one else sweeps):
        for view in views:
            if view.size == 0:
                continue
            now = Estimate(mean, cov, estimate.rest, estimate.count)
            model_mean, model = pooled(now, view)
            wanted_mean, wanted, _w = target(now, view)
            carry = _transport(model, wanted) if len(view.rows) > 1 else None
            # placements overlap: each is moved from where it was before the first was
            goals = []
            for R in view.rows:
                Z = R @ cov @ R.T + view.noise(R, estimate.floor)
                goals.append((R @ mean + wanted_mean - model_mean, wanted if carry is None else carry @ Z @ carry.T))
            for R, (to_mean, to) in zip(view.rows, goals, strict=True):
                mean, cov = _moved(mean, cov, R, view.noise(R, estimate.floor), to_mean, to, partly=carry is not None)
    return Estimate(mean, cov, estimate.rest, estimate.count)


def pooled(estimate: Estimate, view: ViewMoments) -> tuple[Tensor, Tensor]:
    """Mean and clean covariance of the view's files under the estimate, pooled over its placements."""
    means = view.rows @ estimate.mean + view.offset
    mean = means.mean(0)
    cov = sum(R @ estimate.cov @ R.T + view.noise(R, estimate.floor) for R in view.rows) / len(view.rows)
    between = (means - mean).T @ (means - mean) / len(view.rows)
    return mean, cov + between


# --- details ---


def _moved(
    mean: Tensor, cov: Tensor, R: Tensor, E: Tensor, to_mean: Tensor, to: Tensor, *, partly: bool
) -> tuple[Tensor, Tensor]:
    """N(mean, cov) with R x + e, e of covariance E, given these moments; `partly`: where R may have rows of zeros."""
    if partly:  # a placement may hide what others observe
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
