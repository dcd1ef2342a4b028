"""Random-feature denoisers at one noise level: ridge regression in a feature space, with exact risks by moments.

On top of a composite V that does not depend on the samples (b x: training on the full data alone),

    D(x) = V(x) + T phi(x),     T^ = argmin sum_j |x0_j - V(x_j) - T phi(x_j)|^2 + L |T|_F^2,   x_j = x0_j + sigma n_j,

with one noise draw for each of the n samples. The features are those of a Gaussian kernel (Rahimi and Recht 2007),
phi(x) = sqrt(2 / p) (cos w_k.x, sin w_k.x), w_k ~ N(0, I / length^2), so that phi(x).phi(y) -> exp(-|x - y|^2 / (2
length^2)) as p grows, and |phi(x)|^2 = 1 for every p. With r = D* - V, H = E phi phi^T and B = E r phi^T,

    excess risk of T:    E|r - T phi|^2 = E|r|^2 - 2 tr(T B^T) + tr(T H T^T).

Everything may carry leading batch dimensions. `bounds.feature_ridge` bounds E excess of T^.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bootdiff.distributions.base import Distribution

__all__ = ["Moments", "RandomFeatures", "posterior_variance", "ridge"]


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """phi. `frequencies`: w, (p / 2, d)."""

    frequencies: Tensor

    @classmethod
    def draw(cls, d: int, p: int, length: float, generator: Generator | None = None) -> RandomFeatures:
        """p features of d coordinates, of a Gaussian kernel of this length.

        Raises:
            ValueError: no coordinates, p odd or below 2, a length that is not positive.
        """
        if d < 1 or p < 2 or p % 2 or not 0 < length < math.inf:
            raise ValueError(
                f"RandomFeatures: needs d >= 1, an even p >= 2, 0 < length < inf; got d={d}, p={p}, length={length}"
            )
        return cls(torch.randn(p // 2, d, generator=generator, dtype=torch.float64) / length)

    @property
    def count(self) -> int:
        """p."""
        return 2 * len(self.frequencies)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., p), of norm 1."""
        angle = x @ self.frequencies.to(x).T
        return torch.cat([angle.cos(), angle.sin()], -1) / math.sqrt(len(self.frequencies))


def ridge(features: Tensor, targets: Tensor, strength: float) -> Tensor:
    """T^, (..., d, p), of features (..., n, p) and targets x0 - V(x), (..., n, d).

    With fewer samples than features by the kernel matrix phi phi^T, which is kernel ridge regression.

    Raises:
        ValueError: a strength that is not positive; at inf it is 0.
    """
    if not strength > 0:
        raise ValueError(f"ridge: the strength must be > 0 (inf: the views alone), got {strength}")
    n, p = features.shape[-2:]
    if strength == math.inf or n == 0:
        return features.new_zeros(*targets.shape[:-2], targets.shape[-1], p)
    if n < p:
        gram = features @ features.mT + strength * torch.eye(n).to(features)
        return torch.linalg.solve(gram, targets).mT @ features
    gram = features.mT @ features + strength * torch.eye(p).to(features)
    return torch.linalg.solve(gram, features.mT @ targets).mT


@dataclass(frozen=True, eq=False)
class Moments:
    """What risks and bounds need of a population: E|r|^2, B = E r phi^T (d, p), H = E phi phi^T (p, p)."""

    energy: float
    against: Tensor
    gram: Tensor

    @classmethod
    def of(cls, residual: Tensor, features: Tensor) -> Moments:
        """Of points: r (T, d), phi (T, p)."""
        n = len(residual)
        return cls(float(residual.square().sum()) / n, residual.T @ features / n, features.T @ features / n)

    def excess(self, T: Tensor) -> Tensor:
        """E|r - T phi|^2 of T (..., d, p), (...)."""
        return self.energy + (((T @ self.gram) - 2 * self.against) * T).sum((-2, -1))


def posterior_variance(law: Distribution, x: Tensor, sigma: float) -> Tensor:
    """v(x) = tr Cov(x0 | x), (B,), exact: sigma^2 times the divergence of D* (Tweedie's formula of second order).

    Args:
        law: any law with a differentiable denoiser.  x: (B, *shape).

    Raises:
        ValueError: sigma not positive and finite.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"posterior_variance: sigma must be positive and finite, got {sigma}")
    s = torch.full((len(x),), sigma, dtype=x.dtype)
    y = x.detach().requires_grad_()
    flat, total = law(y, s).flatten(1), torch.zeros(len(x), dtype=x.dtype)
    for i in range(flat.shape[1]):
        (gradient,) = torch.autograd.grad(flat[:, i].sum(), y, retain_graph=True)
        total = total + gradient.flatten(1)[:, i]
    return sigma**2 * total.clamp_min(0)
