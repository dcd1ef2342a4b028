"""The UNet for images: diffusers' UNet2DModel behind the contract, for global structure."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.parts import (
    Attention,
    Channels,
    Dropout,
    Layers,
    Patch,
    attention_levels,
    class_or_none,
    pad_to,
    zero,
)  # fmt: skip

__all__ = ["UNet"]


class UNet(nn.Module):
    """Sees the whole sample: diffusers' UNet2DModel, with layers along time for videos; its 1-D blocks for signals.

    Args:
        in_channels, out_channels: of the pictures.
        channels: width of each level, from the finest; each further level halves the resolution; "auto": `widths`.
        layers: residual blocks per level.
        attention: self-attention at the levels given (0 is the finest); True: the coarsest.
        dropout: as in UNet2DModel.
        patch: pixels per side folded into channels first (space to depth): 2 quarters the compute and hands fine
            detail over to a local net beside it; "auto": 1 (`BuiltIn` chooses by the samples' size).
        classes: number of classes, or None.
    """

    widths: ClassVar[tuple[int, ...]] = (24, 48, 48)

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
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "channels": channels, "layers": layers,
            "attention": attention, "patch": patch, "classes": classes, "dropout": dropout,
        }  # fmt: skip
        self.patch = patch
        self.multiple = patch * 2 ** (len(channels) - 1)
        groups = math.gcd(*channels, 8)
        kinds = ["Attn" if i in attention else "" for i in range(len(channels))]
        self.unet = UNet2DModel(
            in_channels=in_channels * patch**2,
            out_channels=out_channels * patch**2,
            block_out_channels=tuple(channels),
            down_block_types=tuple(f"{k}DownBlock2D" for k in kinds),
            up_block_types=tuple(f"{k}UpBlock2D" for k in reversed(kinds)),
            layers_per_block=layers,
            norm_num_groups=groups,
            attention_head_dim=groups * max(1, channels[-1] // groups // 3),
            num_class_embeds=None if classes is None else classes + 1,
            add_attention=bool(attention),
            dropout=dropout,
        )
        self.no_class = classes
        zero(self.unet.conv_out)
        if classes is not None:
            zero(self.unet.class_embedding)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        h = pad_to(x, (self.multiple, self.multiple))
        h = f.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        label = None if self.no_class is None else class_or_none(label, c_noise, self.no_class)
        # UNet2DModel embeds its "timestep" with periods from 2 pi up: c_noise spans about 2, so spread it out.
        y = self.unet(h, 50 * c_noise, class_labels=label).sample
        y = f.pixel_shuffle(y, self.patch) if self.patch > 1 else y
        return y[..., :height, :width]
