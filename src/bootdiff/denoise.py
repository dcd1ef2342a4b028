"""Denoisers: D(x, sigma) ~ E[x0 | x0 + sigma n = x].

A denoiser is all there is to a diffusion model: the score is s = (D - x) / sigma^2 (Tweedie), the sampler's ODE is
dx / d sigma = (x - D) / sigma, and its loss at noise level sigma, normalized so that the isotropic Gaussian base has 1,
is

    L(sigma) = E |D(x0 + sigma n, sigma) - x0|^2 / (c_out(sigma)^2 dim).

Everything that predicts a clean sample is a `Denoiser`: view models, exact distributions, composites, baselines.
Source: Karras et al. 2022 (EDM), arXiv 2206.00364, equations 2, 3 and 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.noise import precondition

__all__ = ["Denoiser", "IsotropicGaussian", "ScaledDenoiser", "denoising_error", "expand", "mean_over"]


def expand(v: Tensor, like: Tensor) -> Tensor:
    """A value per sample, (B,), reshaped to multiply `like`, (B, ...): (B, 1, ..., 1), dtype and device of `like`.

    >>> expand(torch.ones(2), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    return v.to(like, non_blocking=True).reshape(v.shape + (1,) * (like.ndim - v.ndim))


class Denoiser(nn.Module, ABC):
    """The posterior mean of the clean sample.

    `shape` is the shape of one sample, channels first, (C, H, W) for images.  `noise_shift` is the share e by which
    samplers understate the noise to it, asking for D(x, (1 - e) sigma): 0 for all but finished models whose samples
    were found too soft (`method.noise_shift`).
    """

    shape: tuple[int, ...]
    noise_shift: float = 0.0

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """E[x0 | x].

        Args:
            x: noisy samples, (B, *shape).
            sigma: standard deviation of the noise, (B,).
            label: class of each sample, (B,) int64, or None.
            context: what else is known of each sample, at its resolution, (B, c, H, W): the mask of a masked view.

        Returns:
            The posterior mean, (B, *shape).
        """

    def valid_at(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Whether it may be evaluated, as a view's denoiser, at these noise levels (B,) for these classes: (B,) bool.

        By default, everywhere.
        """
        return torch.ones_like(sigma, dtype=torch.bool)


class ScaledDenoiser(Denoiser):
    """A denoiser of x0 as one of s x0: D(x, sigma) = s D'(x / s, sigma / s).

    Args:
        wrapped: D', say of stored files.
        scale: s > 0, say a view's: view coordinates per stored coordinate.
    """

    def __init__(self, wrapped: Denoiser, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        self.wrapped, self.shape, self.scale = wrapped, wrapped.shape, float(scale)
        self.noise_shift = wrapped.noise_shift
        self.config: dict[str, Any] = {"wrapped": wrapped, "scale": self.scale}

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """s D'(x / s, sigma / s), (B, *shape)."""
        return self.scale * self.wrapped(x / self.scale, sigma / self.scale, label, context)

    def valid_at(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.wrapped.valid_at(sigma / self.scale, label)


class IsotropicGaussian(Denoiser):
    """The isotropic Gaussian base b: exact for x0 ~ N(mean, sigma_data^2 I) (arXiv 2206.00364, appendix B.6).

    Args:
        shape: of one sample, (C, ...).
        mean: one value per channel.
        sigma_data: standard deviation of the data about the mean, > 0.
    """

    mean: Tensor

    def __init__(self, shape: Sequence[int], mean: Sequence[float], sigma_data: float) -> None:
        super().__init__()
        self.shape, self.sigma_data = tuple(shape), float(sigma_data)
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}: is all of the data one constant?")
        if len(mean) != self.shape[0]:
            raise ValueError(
                f"the mean has {len(mean)} values and the data {self.shape[0]} channels; give one for each"
            )
        self.config: dict[str, Any] = {
            "shape": list(shape),
            "mean": [float(m) for m in mean],
            "sigma_data": self.sigma_data,
        }
        m = torch.tensor(self.config["mean"]).reshape(-1, *(1,) * (len(self.shape) - 1))
        self.register_buffer("mean", m, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """m + c_skip (x - m), shape (B, *shape)."""
        mean = self.mean.to(x.dtype)
        return mean + expand(precondition(sigma, self.sigma_data).c_skip, x) * (x - mean)


def denoising_error(
    estimate: Tensor, x0: Tensor, sigma: Tensor, sigma_data: float, mask: Tensor | None = None
) -> Tensor:
    """The normalized squared error of each sample, (B,): 1 for the isotropic Gaussian base in the mean (arXiv
    2206.00364, eq. 8).

    Args:
        estimate: D(x, sigma), (B, *shape).
        x0: clean samples, (B, *shape).
        sigma: noise level of each, (B,).
        sigma_data: standard deviation of the data.
        mask: 1 where x0 is observed, broadcastable to x0; only these coordinates count.
    """
    c_out = precondition(sigma, sigma_data).c_out
    return mean_over(((estimate - x0) / expand(c_out, x0)) ** 2, mask)


def mean_over(square: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each sample over its (observed) coordinates: (B, ...) -> (B,)."""
    if mask is None:
        return square.flatten(1).mean(1)
    mask = mask.expand_as(square).to(square.dtype)
    return (square * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)
