"""The UNet for signals: diffusers' 1-D residual blocks, resampling and attention behind the contract.

diffusers' own UNet1DModel is not used as a whole: it knows no class labels; with the blocks of Janner et al. 2022
(arXiv 2205.09991) it has no attention, with those of Dance Diffusion the noise level reaches the first block only.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.parts import (
    Attention,
    Channels,
    Dropout,
    Layers,
    NoiseEmbedding,
    Patch,
    attention_levels,
    pad_to,
    zero,
)  # fmt: skip

__all__ = ["SignalUNet"]


class _Level(nn.Module):
    """Residual blocks, each followed by dropout, then self-attention where asked: (B, in, L) -> (B, out, L)."""

    def __init__(self, last: int, width: int, layers: int, embedding: int, attention: bool, dropout: float) -> None:
        super().__init__()
        from diffusers.models.resnet import ResidualTemporalBlock1D
        from diffusers.models.unets.unet_1d_blocks import SelfAttention1d

        self.blocks = nn.ModuleList(
            ResidualTemporalBlock1D(width if i else last, width, embed_dim=embedding) for i in range(layers)
        )
        self.attention = SelfAttention1d(width, max(1, width // 32)) if attention else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        for block in self.blocks:
            h = self.dropout(block(h, e))
        return h if self.attention is None else self.attention(h)


class SignalUNet(nn.Module):
    """A UNet over the last axis: (B, in, L) -> (B, out, L), any length.

    Args:
        in_channels, out_channels: of the signals.
        channels: width of each level, from the finest, multiples of 8; each further level halves the length;
            "auto": `widths`.
        layers: residual blocks per level (two convolutions of 5 taps each).
        attention: self-attention at the levels given (0 is the finest); True: the coarsest.
        dropout: share of hidden values dropped in training.
        patch: neighbouring values folded into channels first: 2 halves the compute; "auto": 1.
        classes: number of classes, or None.

    Raises:
        ValueError: widths that are no multiples of 8 (the blocks normalize over 8 groups).
    """

    widths: ClassVar[tuple[int, ...]] = (32, 64, 64, 64)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Channels = "auto",
        layers: Layers = 1,
        attention: Attention = True,
        dropout: Dropout = 0.0,
        patch: Patch = "auto",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        channels = list(self.widths) if isinstance(channels, str) else list(channels)
        attention, patch = attention_levels(attention, len(channels)), 1 if isinstance(patch, str) else patch
        from diffusers.models.downsampling import Downsample1D
        from diffusers.models.upsampling import Upsample1D

        if any(width % 8 for width in channels):
            raise ValueError(f"a unet for signals needs widths that are multiples of 8, got {channels}")
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "channels": channels, "layers": layers,
            "attention": attention, "patch": patch, "classes": classes, "dropout": dropout,
        }  # fmt: skip
        self.patch, self.multiple = patch, patch * 2 ** (len(channels) - 1)
        embedding, top = 4 * channels[0], len(channels) - 1
        rest: dict[str, Any] = {"embedding": embedding, "dropout": dropout}
        self.embed = NoiseEmbedding(embedding, classes)
        self.first = nn.Conv1d(in_channels * patch, channels[0], 5, padding=2)
        before = [channels[0], *channels[:-1]]
        self.down = nn.ModuleList(
            _Level(a, b, layers, attention=i in attention, **rest) for i, (a, b) in enumerate(zip(before, channels))
        )
        self.shorter = nn.ModuleList(Downsample1D(width, use_conv=True) for width in channels[:-1])
        self.middle = _Level(channels[-1], channels[-1], layers, attention=top in attention, **rest)
        # The signal itself, as it enters the finest level, is a skip connection, too.
        skips, after = [*channels, channels[0]], [*channels[1:], channels[-1]]
        self.up = nn.ModuleList(
            _Level(b + a + (skips[-1] if i == 0 else 0), a, layers, attention=i in attention, **rest)
            for i, (a, b) in enumerate(zip(channels, after))
        )
        self.longer = nn.ModuleList(Upsample1D(width, use_conv=True) for width in channels[1:])
        self.norm = nn.GroupNorm(8, channels[0])
        self.last = zero(nn.Conv1d(channels[0], out_channels * patch, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        length, e = x.shape[-1], self.embed(c_noise, label)
        h = pad_to(x, (self.multiple,)).unflatten(-1, (-1, self.patch)).transpose(2, 3).flatten(1, 2)
        first = h = self.first(h)
        skips = []
        for i, level in enumerate(self.down):
            h = level(h, e)
            skips.append(h)
            if i < len(self.shorter):
                h = self.shorter[i](h)
        h = self.middle(h, e)
        for i in reversed(range(len(self.up))):
            if i < len(self.longer):
                h = self.longer[i](h)
            h = self.up[i](torch.cat([h, skips[i], *([first] if i == 0 else [])], 1), e)
        y = self.last(f.silu(self.norm(h)))
        return y.unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(2)[..., :length]
