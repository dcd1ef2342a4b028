"""Information between views: what a combination of them leaves over, in nats.

For laws p and q on R^d, x = x0 + sigma n, gamma = 1 / sigma^2, and D_p, D_q their exact denoisers (I-MMSE: Guo, Shamai,
Verdu 2005, arXiv cs/0412108; mismatched: Verdu 2010, IEEE Trans. Inf. Theory 56(8), theorem 1),

    KL(p || q) = 1/2 int_0^inf E_p |D_p(x, sigma) - D_q(x, sigma)|^2 d gamma.

For views with orthogonal row spaces that together see everything, the composite with unit gains is the denoiser of
q = prod_i (law of A_i x0), so the integrated energy of the exact residual r = D_p - D_q is their total correlation,
for two views the mutual information:

    Gaussian   T = 1/2 (sum_i log det A_i S A_i^T - log det S)   (pseudo-determinants where S is singular)
    energy     E|r|^2 = tr(B (S + sigma^2 I) B^T) + |B m + o|^2,     B x + o = D_q(x) - D_p(x).

The integral is taken over u = ln gamma by the trapezoid rule. For Gaussians the integrand is analytic in the strip
|Im u| < pi and falls like e^{2u} and e^{-u} at the two ends, so a step h is off by about exp(-2 pi^2 / h): the default
leaves rounding. Where the information is infinite (views that determine a part of each other) the answer is inf: then
gamma E|r|^2 tends to the number of directions that one law fills and the other does not (see `integrated_energy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bootdiff.denoise import Denoiser
from bootdiff.distributions.base import Distribution
from bootdiff.distributions.exact import Gaussian
from bootdiff.views import View

__all__ = [
    "Information",
    "affine",
    "gaussian_energy",
    "integrated_energy",
    "log_ratio",
    "monte_carlo_energy",
    "total_correlation",
]


_RANK_DECADES = 6.0  # of gamma beyond the smallest variance, where the ranks of two laws are compared
_RANK_TOLERANCE = 1e-3  # directions


@dataclass(frozen=True)
class Information:
    """An amount of information about `dim` coordinates: `nats`, with the standard error where it was sampled."""

    nats: float
    dim: int
    stderr: float = 0.0

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_dim(self) -> float:
        return self.bits / self.dim


def total_correlation(law: Gaussian, views: Sequence[View]) -> Information:
    """KL of the joint law of all views from the product of their laws; mutual information for two views.

    What is not seen by any view plays no part. Views that overlap (in what is not constant) or determine a part of one
    another otherwise, as in a singular law, have infinite information about each other: inf.

    Args:
        law: of the full samples; it may be singular.
        views: single views (see `View.placements`); fewer than two have no information about each other: 0.

    Raises:
        ValueError: a view of several placements, or one that does not fit the law's shape.
    """
    parts = [law.marginal(view) for view in views]
    dim = sum(part.dim for part in parts)
    if len(parts) < 2:
        return Information(0.0, max(dim, 1))
    basis = torch.eye(law.dim, dtype=torch.float64).reshape(law.dim, *law.shape)
    rows = torch.cat([law._fixed(view)(basis).flatten(1) for view in views], 1).T
    joint = rows @ law.dense() @ rows.T
    product = torch.block_diag(*(part.dense() for part in parts))
    zero = torch.zeros(dim, dtype=torch.float64)
    return Information(max(Gaussian(zero, joint).kl(Gaussian(zero, product)), 0.0), dim)


def affine(denoiser: Denoiser, sigma: float) -> tuple[Tensor, Tensor]:
    """W (d, d) and o (d,), float64, of a denoiser that is affine in x: D(x, sigma) = W x + o.

    Gaussian laws are, and the white base, and composites of such.

    Raises:
        ValueError: the denoiser is not affine in x.
    """
    shape = denoiser.shape
    d = math.prod(shape)
    eye = torch.eye(d, dtype=torch.float64)
    x = torch.cat([torch.zeros(1, d, dtype=torch.float64), eye, 2 * eye.sum(0, keepdim=True)])
    with torch.no_grad():
        y = denoiser(x.reshape(-1, *shape), torch.full((len(x),), sigma, dtype=torch.float64)).flatten(1).double()
    offset, W = y[0], (y[1:-1] - y[0]).T
    if not torch.allclose(W @ x[-1] + offset, y[-1], rtol=1e-4, atol=1e-4 * float(1 + y.abs().max())):
        raise ValueError(f"{type(denoiser).__name__} is not affine in x at sigma = {sigma:g}; use monte_carlo_energy")
    return W, offset


def gaussian_energy(law: Gaussian, other: Denoiser, sigma: float) -> float:
    """E_p |D_p - D|^2 at sigma, closed form, of any affine denoiser D such as a composite of Gaussian views.

    Raises:
        ValueError: laws of different shapes, sigma negative or infinite, a denoiser that is not affine.
    """
    if law.shape != other.shape:
        raise ValueError(f"gaussian_energy: the law has shape {law.shape}, the denoiser {other.shape}; they must agree")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"gaussian_energy: sigma must be >= 0 and finite, got {sigma}; the limit at inf depends on D")
    (W, o), (V, p) = affine(law, sigma), affine(other, sigma)
    B, lam, floor = V - W, law.lam.double(), law.floor.double()
    # sums of squares: tr(B S B^T) of a singular S rounds to less than 0 where B is 0 on what S fills
    known = ((B @ law.basis.double()) * (lam - floor).clamp_min(0).sqrt()).square().sum()
    return float(known + (sigma**2 + floor) * (B * B).sum() + (B @ law.mu.double() + p - o).square().sum())


def monte_carlo_energy(
    law: Distribution, other: Denoiser, sigma: float, n: int, generator: Generator | None = None, batch: int = 8192
) -> tuple[float, float]:
    """E_p |D_p - D|^2 at sigma and its standard error, from n samples of any exact law; D is any denoiser.

    Raises:
        ValueError: n < 2, laws of different shapes, sigma negative or infinite.
    """
    if n < 2:
        raise ValueError(f"monte_carlo_energy needs at least 2 samples for its error, got n={n}")
    if law.shape != other.shape or not 0 <= sigma < math.inf:
        raise ValueError(f"monte_carlo_energy: shapes {law.shape} and {other.shape} at sigma={sigma}; they must agree")
    total = square = 0.0
    for start in range(0, n, batch):
        x0 = law.sample(min(batch, n - start), generator)
        x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        s = torch.full((len(x),), sigma, dtype=x0.dtype)
        with torch.no_grad():
            energy = (law(x, s) - other(x, s)).double().square().flatten(1).sum(1)
        total, square = total + float(energy.sum()), square + float(energy.square().sum())
    mean = total / n
    return mean, math.sqrt(max(square / n - mean**2, 0.0) / (n - 1))


def integrated_energy(
    energy: Callable[[float], float | tuple[float, float]],
    dim: int,
    scale: tuple[float, float],
    step: float = 0.25,
    decades: tuple[float, float] = (8.0, 6.0),
) -> Information:
    """1/2 int_0^inf E|r|^2 d gamma by the trapezoid rule in ln gamma.

    Args:
        energy: sigma -> E|r|^2, or (E|r|^2, standard error) where it is sampled independently at each sigma.
        dim: number of coordinates, for bits per dimension.
        scale: smallest and largest standard deviation of the data that matter (square roots of S's eigenvalues).
        step: h, in ln gamma.
        decades: how many powers of ten of gamma to go beyond 1 / scale^2 on the side of high and of low noise. What is
            cut off is about 10^(-2 first) and 10^(-2 second) of the total: beyond the last node an energy that is not
            sampled goes on like 1 / gamma^2. (A sampled one is cut off there: 10^(-second).) Many more decades of
            low noise show what denoisers round, not their laws.

    Returns:
        Information; of an energy that is not sampled, inf where the laws differ in rank. Where they agree gamma E|r|^2
        falls like 1 / gamma, where they do not it tends to the number of directions that one fills and the other does
        not. So they differ where, 6 decades (or `decades`, if fewer) beyond 1 / smallest^2, it is above 1e-3
        directions and above half of what it was at e^-2 of that gamma. What float32 denoisers round counts for less
        there where dim (largest / smallest)^2 is below 1e5; in float64 it always does.

    Raises:
        ValueError: a scale that is not positive, or an energy that is not finite.
    """
    low, high = scale
    if not 0 < low <= high < math.inf or step <= 0:
        raise ValueError(f"integrated_energy: scale must be 0 < smallest <= largest and step > 0, got {scale}, {step}")
    begin = -2 * math.log(high) - decades[0] * math.log(10)
    end = -2 * math.log(low) + decades[1] * math.log(10)
    nodes = [begin + i * step for i in range(math.ceil((end - begin) / step) + 1)]
    values, variance = [], 0.0
    for u in nodes:
        found = energy(math.exp(-u / 2))
        value, error = found if isinstance(found, tuple) else (found, 0.0)
        if not math.isfinite(value):
            raise ValueError(f"integrated_energy: the energy at sigma = {math.exp(-u / 2):.3g} is {value}")
        values.append(0.5 * math.exp(u) * value)
        variance += (0.5 * math.exp(u) * error * step) ** 2
    total = step * (sum(values) - (values[0] + values[-1]) / 2)
    if variance > 0:
        return Information(total, dim, math.sqrt(variance))
    # Looked at where rounding is not felt yet: the energy of what is rounded grows like gamma.
    at = len(nodes) - 1 - max(0, round((decades[1] - _RANK_DECADES) * math.log(10) / step))
    before = max(0, at - max(1, round(2 / step)))
    if 2 * values[at] > _RANK_TOLERANCE and values[at] > 0.5 * values[before]:
        return Information(math.inf, dim)
    # the rule goes on over nodes of ever lower noise, where the values fall like 1 / gamma: a geometric series
    return Information(total + step * values[-1] * (0.5 + 1 / math.expm1(step)), dim)


def log_ratio(
    law: Distribution, views: Sequence[View], n: int, generator: Generator | None = None, batch: int = 65536
) -> Information:
    """E_p log(p / prod_i p_i) from n samples: the total correlation of views that tile the coordinates, of any law.

    Raises:
        ValueError: n < 2; views that do not tile (their dimensions must add up); a law without a density.
    """
    parts = [law.marginal(view) for view in views]
    if n < 2 or sum(part.dim for part in parts) != law.dim:
        raise ValueError(
            f"log_ratio: n = {n} (at least 2) and views of {[p.dim for p in parts]} coordinates that must add up to "
            f"{law.dim}"
        )
    total = square = 0.0
    for start in range(0, n, batch):
        x = law.sample(min(batch, n - start), generator)
        zero = torch.zeros(len(x), dtype=x.dtype)
        value = law.log_prob(x, zero)
        for view, part in zip(views, parts, strict=True):
            value = value - part.log_prob(law._fixed(view)(x), zero)
        total, square = total + float(value.double().sum()), square + float(value.double().square().sum())
    mean = total / n
    return Information(mean, law.dim, math.sqrt(max(square / n - mean**2, 0.0) / (n - 1)))
