"""Noise levels, drawn in training and stepped through in sampling, and EDM's preconditioning.

The process is variance-exploding, x = x0 + sigma n with n ~ N(0, I); sigma is in the units of the data.  For data of
mean m and standard deviation sigma_data, the *isotropic Gaussian base* is the posterior mean under
x0 ~ N(m, sigma_data^2 I),

    b(x, sigma) = m + c_skip (x - m),                 c_skip = sigma_data^2 / (sigma_data^2 + sigma^2),

and a network F turns it into a denoiser D = b + c_out F(c_in (x - m), c_noise) with

    c_in  = 1 / sqrt(sigma^2 + sigma_data^2),     c_out = sigma sigma_data c_in,     c_noise = ln(sigma) / 4.

The loss weight 1 / c_out^2 makes the loss of the base equal to 1 at every noise level.
Source: Karras, Aittala, Aila, Laine 2022 (EDM), arXiv 2206.00364, table 1 and equations 5 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, overload

import torch
from torch import Tensor

from bootdiff.settings import Doc, Ge, Le, check

__all__ = [
    "LEVELS",
    "LogNormal",
    "Preconditioning",
    "interpolate",
    "karras_levels",
    "nearest_level",
    "noted",
    "on_host",
    "precondition",
    "some_rows",
]

LEVELS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""The noise levels at which things are fitted and reported, for data in [-1, 1]."""


class Preconditioning(NamedTuple):
    """EDM's four coefficients, each of the shape of `sigma`."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def precondition(sigma: Tensor, sigma_data: float) -> Preconditioning:
    """EDM's preconditioning (arXiv 2206.00364, table 1).

    >>> c = precondition(torch.tensor([0.5]), 0.5)
    >>> [round(float(v), 4) for v in c]
    [0.5, 0.3536, 1.4142, -0.1733]
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return Preconditioning((sigma_data / total) ** 2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2): the noise levels drawn in training (arXiv 2206.00364, table 1).

    With tau > 0 (data stored with noise of standard deviation tau) the *added* noise s is drawn, and
    sigma = sqrt(tau^2 + s^2) > tau is the denoiser's noise level.
    """

    mean: Annotated[float, Ge(-20), Le(20), Doc("mean of ln sigma")] = -0.6
    std: Annotated[float, Ge(0), Le(20), Doc("standard deviation of ln sigma")] = 1.4

    def __post_init__(self) -> None:
        check(self)

    def reaches(self, levels: Sequence[float]) -> bool:
        """Whether any of these noise levels lies within three standard deviations, or a factor of two, of its mean.

        >>> LogNormal(-2.0, 0.5).reaches([0.05, 0.1]), LogNormal(5.0, 0.5).reaches([0.05, 6.4])
        (True, False)
        """
        return any(abs(math.log(level) - self.mean) <= 3 * self.std + math.log(2) for level in levels)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n standard deviations of the noise to add, shape (n,), float32 on the generator's device."""
        return (self.mean + self.std * torch.randn(n, generator=generator, device=generator.device)).exp()


def karras_levels(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """n noise levels from sigma_max down to sigma_min, shape (n,) (arXiv 2206.00364, equation 5).

    >>> karras_levels(3, 0.1, 10.0, rho=1.0)
    tensor([10.0000,  5.0500,  0.1000])
    """
    if n < 2 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"karras_levels needs n >= 2 and 0 < sigma_min < sigma_max, got n={n}, sigma_min={sigma_min}, "
            f"sigma_max={sigma_max}"
        )
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return ((top + ramp * (bottom - top)) ** rho).to(torch.float32)


def interpolate(sigma: Tensor, levels: Tensor, values: Tensor) -> Tensor:
    """Values given at `levels`, interpolated at `sigma`: linear in ln sigma, constant beyond both ends.

    sigma (B,), levels (L,) ascending, values (L,) or (L, K) -> (B,) or (B, K).  Exactly zero at both neighbours gives
    exactly zero, so what is off at two levels is off between them.
    """
    levels, values = (v.to(sigma.device) if in_one_graph() else v for v in (levels, values))
    if len(levels) == 1:
        return values[0].expand(sigma.shape + values.shape[1:])
    logs, s = levels.log(), sigma.to(levels.dtype).log()
    right = torch.searchsorted(logs, s.contiguous()).clamp(1, len(levels) - 1)
    t = ((s - logs[right - 1]) / (logs[right] - logs[right - 1])).clamp(0, 1)
    t = t.reshape(t.shape + (1,) * (values.ndim - 1))
    return values[right - 1] * (1 - t) + values[right] * t


def in_one_graph() -> bool:
    """Whether `torch.export` traces: one graph for all noise levels, in which everything is evaluated, and what has no
    weight counts nothing."""
    return torch.compiler.is_exporting()


def on_host(v: Tensor) -> Tensor:
    """Noise levels (or labels) on the CPU, where it is decided what is evaluated.

    Fetching them waits for the device, so what is known of them is noted (`noted`), and what was fetched once is kept.
    """
    if v.device.type == "cpu" or in_one_graph():
        return v
    found: Tensor | None = getattr(v, "_on_host", None)
    return on_host(noted(v, v.cpu())) if found is None else found


def noted(v: Tensor, host: Tensor) -> Tensor:
    """v, with its values on the CPU noted for `on_host`."""
    if v.device.type != "cpu":
        v._on_host = host  # type: ignore[attr-defined]
    return v


@overload
def some_rows(v: Tensor, rows: Tensor) -> Tensor: ...
@overload
def some_rows(v: None, rows: Tensor) -> None: ...
def some_rows(v: Tensor | None, rows: Tensor) -> Tensor | None:
    """Some rows of noise levels or labels, by their numbers on the CPU; what is noted of them stays so."""
    if v is None:
        return None
    return noted(v[rows.to(v.device)], on_host(v)[rows]) if v.device.type != "cpu" else v[rows]


def nearest_level(sigma: Tensor, levels: Tensor | Sequence[float]) -> Tensor:
    """Index of the level nearest to each sigma in ln sigma, shape (B,) int64.

    >>> nearest_level(torch.tensor([0.01, 0.13, 9.0]), [0.05, 0.1, 0.2]).tolist()
    [0, 1, 2]
    """
    levels = torch.as_tensor(levels, dtype=torch.float64, device=sigma.device)
    edges = (levels[:-1] * levels[1:]).sqrt()
    return torch.bucketize(sigma.to(torch.float64), edges)
