"""Residual experts: networks of what the views leave over, each a denoiser D_k of the full samples.

On top of a composite V (`composite`), with the prior's denoiser b of mean m and the views' lifted estimates,

    D_k(x, sigma) = a(x, sigma) + c_r(sigma) F_k(c_in (x - m), mask, A_i^T (d_i - A_i m) / sigma_data; c_noise),

with the anchor a = V, or a = b where training starts at a network that was trained without views (`warm_start`), and
c_r(sigma)^2 the measured mean square of x0 - a, so that F_k's target has unit variance.  F_k's last layer starts at
zero, so training starts exactly at the anchor.  Without views V = b, and D_k is an ordinary EDM denoiser.

The loss of a sample x0 is |F_k - (x0 - a) / c_r|^2 + mu |F_k|^2, means over the observed coordinates, where mu
(*energy*) shrinks towards the views.  For data stored with noise, y = A x0 + tau n', the level is sigma^2 = tau^2 + s^2
and the target the stored y, seen through Tweedie's formula: with w = s^2 / sigma^2, | w D(x, sigma) + (1 - w) x - y |^2
is least at D = E[x0 | x] itself.

Sources: the residual score: Ma 2025, arXiv 2505.11825; preconditioning and loss: Karras et al. 2022, arXiv 2206.00364,
equations 7 and 8; noisy data: Daras et al. 2024 (consistent diffusion meets Tweedie), arXiv 2404.10177.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from bootdiff.denoise import Denoiser, expand, mean_over
from bootdiff.method.composite import CompositeDenoiser, Estimates
from bootdiff.noise import LogNormal, interpolate, precondition

__all__ = ["ResidualExpert"]


class ResidualExpert(Denoiser):
    """D_k: a network on top of a composite.

    Args:
        net: backbone F, `net(x, c_noise, label=None)`, with C + mask_channels + `composite.estimate_channels` (0 unless
            `uses_views`) input channels, in this order, and C output channels.
        composite: V; it is frozen.
        levels: noise levels of `scale`, ascending; None: the composite's.
        scale: c_r / c_out at each level, c_out being that of the prior; None: 1, as without views.
        uses_views: whether F takes the views' estimates as input.
        anchor: "views": a = V; "prior": a = b.
        mask_channels: channels of F's input that hold a mask; 1, where no context is given: nothing is hidden.
    """

    scale: Tensor
    levels: Tensor

    def __init__(
        self,
        net: nn.Module,
        composite: CompositeDenoiser,
        levels: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        *,
        uses_views: bool = True,
        anchor: Literal["views", "prior"] = "views",
        mask_channels: int = 0,
    ) -> None:
        super().__init__()
        if anchor not in ("views", "prior"):
            raise ValueError(f"an expert's anchor is 'views' or 'prior', not {anchor!r}")
        self.net, self.composite, self.shape = net, composite, composite.shape
        self.uses_views = uses_views and bool(composite.views)
        self.anchor, self.mask_channels = anchor, mask_channels
        given = composite.levels.tolist() if levels is None else list(levels)
        factors = [1.0] * len(given) if scale is None else list(scale)
        self.register_buffer("levels", torch.tensor(given, dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(factors, dtype=torch.float64), persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "net": self.net, "composite": self.composite, "levels": self.levels.tolist(), "scale": self.scale.tolist(),
            "uses_views": self.uses_views, "anchor": self.anchor, "mask_channels": self.mask_channels,
        }  # fmt: skip

    def with_net(self, net: nn.Module) -> Self:
        """The same expert around a different network; the composite is shared."""
        return type(self)(**{**self.config, "net": net}).to(self.scale.device)

    def anchored(self, at: Estimates) -> Tensor:
        """a, (B, *shape)."""
        return at.mean if self.anchor == "views" else at.prior

    def c_r(self, sigma: Tensor) -> Tensor:
        """Root mean square of what is left over at sigma, (B,) -> (B,)."""
        c_out = precondition(sigma, self.composite.prior.sigma_data).c_out
        return c_out * interpolate(sigma, self.levels, self.scale).to(sigma.dtype)

    def extra_inputs(self, x: Tensor, sigma: Tensor, at: Estimates) -> Tensor | None:
        """What F takes as input after x and mask, (B, c, *space), in units of sigma_data; None for nothing."""
        if not self.uses_views or at.views is None:
            return None
        return at.views / self.composite.prior.sigma_data

    def unit(
        self, x: Tensor, sigma: Tensor, at: Estimates, label: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """F, of unit scale, (B, *shape)."""
        prior = self.composite.prior
        c = precondition(sigma, prior.sigma_data)
        parts = [expand(c.c_in, x) * (x - prior.mean.to(x.dtype))]
        if context is not None:
            parts.append(context.to(x.dtype))
        elif self.mask_channels:
            parts.append(x.new_ones(len(x), self.mask_channels, *x.shape[2:]))
        extra = self.extra_inputs(x, sigma, at)
        if extra is not None:
            parts.append(extra)
        return self.net(torch.cat(parts, 1), c.c_noise, label).to(x.dtype)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        at: Estimates | None = None,
    ) -> Tensor:
        """D_k(x, sigma), (B, *shape); `at`: the composite's estimates at x, where they are there already."""
        at = self.composite.estimate(x, sigma, label) if at is None else at
        residual = expand(self.c_r(sigma), x) * self.unit(x, sigma, at, label, context).to(x.dtype)
        return self.anchored(at) + residual

    def loss(
        self,
        x0: Tensor,
        label: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        noise: LogNormal | None = None,
        generator: torch.Generator | None = None,
        **how: Any,
    ) -> Tensor:
        """Training losses of clean samples, (B,), at random noise levels: for those who keep the loop.

        Args:
            x0: samples, (B, *shape).
            label: their classes, (B,) int64, or None.
            mask: 1 where they are observed, broadcastable to x0; the network takes it as its context.
            noise: distribution of the noise levels; None: the default one.
            generator: of the noise, on x0's device; None: torch's own.
            how: energy and tau, of `loss_at`.
        """
        rng = torch.default_generator if generator is None and x0.device.type == "cpu" else generator
        if rng is None:
            rng = torch.Generator(x0.device).manual_seed(int(torch.randint(2**62, ())))
        tau = how.get("tau", 0.0)
        added = (noise or LogNormal()).sample(len(x0), rng).to(x0)
        n = torch.randn(x0.shape, generator=rng, device=x0.device, dtype=x0.dtype)
        sigma = (added**2 + tau**2).sqrt()
        x = x0 + expand(added, x0) * (n if mask is None else n * mask)
        return self.loss_at(x0, x, sigma, label, mask, **how)

    def loss_at(
        self,
        x0: Tensor,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        *,
        at: Estimates | None = None,
        tau: float | Tensor = 0.0,
        energy: float = 0.0,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Losses (b,) at given noisy samples.

        Args:
            x0, x: stored samples and noisier copies, (b, *shape).
            sigma: noise level of x, (b,).
            label: classes, (b,), or None.
            context: the network's input beside x, (b, c, *space), or None.
            at: the composite's estimates at x; None: they are computed here.
            tau: noise of each stored sample, (b,), or of all.
            energy: mu.
            counts: coordinates that the loss is the mean over, broadcastable to x; None: all.
        """
        if at is None:
            # In here, the views run in the precision of the training, too.
            with torch.no_grad():
                at = self.composite.estimate(x, sigma, label)
        unit = self.unit(x, sigma, at, label, context).float()
        w, c_r = 1 - (tau / sigma) ** 2, self.c_r(sigma)
        target = (x0 - expand(1 - w, x) * x) / expand(c_r, x) - expand(w / c_r, x) * self.anchored(at)
        loss = mean_over((expand(w, x) * unit - target) ** 2, counts)
        return loss + energy * mean_over(unit**2, counts) if energy else loss
