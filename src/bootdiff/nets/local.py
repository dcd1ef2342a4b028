"""The local net: convolutions at full resolution that see a neighbourhood only, for signals, images and videos.

With blocks h <- h + conv(SiLU(h (1 + scale) + shift)), scale and shift by noise level and class, it has no
normalization over space and no downsampling, so an output depends on depth (kernel - 1) + 1 inputs per axis and on
nothing else.  It cannot memorize whole samples, which is what a residual needs once the views bring the global
structure.

A video's kernel is 3 x 3 x 3: factorized into 1 x 3 x 3 and 3 x 1 x 1 it takes as long on a CPU and sees less at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.parts import Dropout, NoiseEmbedding, zero
from bootdiff.settings import Doc, Ge, Le

__all__ = ["KERNELS", "WIDTHS", "LocalNet"]

WIDTHS = {1: 64, 2: 64, 3: 16}
"""Number of axes -> hidden channels by default."""

KERNELS = {1: 9, 2: 3, 3: 3}
"""Number of axes -> width of each convolution by default. In one axis, as many taps as in two cost no more."""

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# Plain convolutions run 1.1 times (float32) to 1.5 times as fast this way on a CPU.
_LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


class _LocalBlock(nn.Module):
    """h + conv(SiLU(FiLM(h)))."""

    def __init__(self, axes: int, width: int, kernel: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * width)
        self.conv = _CONVOLUTIONS[axes](width, width, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        film = self.film(e)
        scale, shift = film.reshape(*film.shape, *(1,) * (h.ndim - 2)).chunk(2, 1)
        return h + self.conv(self.dropout(f.silu(h * (1 + scale) + shift)))


class LocalNet(nn.Module):
    """A stack of convolutions at full resolution: sees a neighbourhood, cannot memorize whole samples.

    It sees depth (kernel - 1) + 1 inputs per axis.

    Args:
        in_channels, out_channels: of the samples.
        width: hidden channels; "auto": by the number of axes, `WIDTHS`.
        depth: number of convolutions, at least 3 (the first and the last do not see the noise level).
        classes: number of classes, or None.
        dropout: share of hidden values dropped in training.
        axes: 1 for signals (B, C, L), 2 for images (B, C, H, W), 3 for videos (B, C, T, H, W).
        kernel: width of each convolution along every axis, odd; None: by the number of axes, `KERNELS`.

    Raises:
        ValueError: a depth below 3, an even kernel, other axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: Annotated[
            Literal["auto"] | int, Ge(1), Le(65_536), Doc("hidden channels; auto: 64, for videos 16")
        ] = "auto",
        depth: Annotated[
            int,
            Ge(3),
            Le(1000),
            Doc("convolutions; the neighbourhood is 2 depth + 1 pixels wide, in signals 8 depth + 1 values"),
        ] = 5,
        classes: int | None = None,
        dropout: Dropout = 0.0,
        axes: int = 2,
        kernel: int | None = None,
    ) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"a local net needs a depth of at least 3 to see the noise level, got {depth}")
        kernel = KERNELS.get(axes, 3) if kernel is None else kernel
        if axes not in _CONVOLUTIONS or kernel % 2 == 0:
            raise ValueError(f"a local net has 1 to 3 axes and an odd kernel, got {axes} and {kernel}")
        width = WIDTHS[axes] if isinstance(width, str) else width
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "width": width, "depth": depth,
            "classes": classes, "dropout": dropout, "axes": axes, "kernel": kernel,
        }  # fmt: skip
        convolution, self.layout = _CONVOLUTIONS[axes], _LAYOUTS[axes]
        self.embed = NoiseEmbedding(width, classes)
        self.first = convolution(in_channels, width, kernel, padding=kernel // 2)
        self.blocks = nn.ModuleList(_LocalBlock(axes, width, kernel, width, dropout) for _ in range(depth - 2))
        self.last = zero(convolution(width, out_channels, kernel, padding=kernel // 2))
        self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.embed(c_noise, label)
        h = self.first(x.contiguous(memory_format=self.layout))
        for block in self.blocks:
            h = block(h, e)
        return self.last(f.silu(h))
