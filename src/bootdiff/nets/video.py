"""The UNet for videos: diffusers' UNet2DModel on every frame, and layers along time in between.

After the first convolution, each level down, the middle and each level up, the frames speak to each other:

    h <- h + conv_t(SiLU(norm(conv_t(SiLU(norm h)))))        3 frames wide each, at every pixel
    h <- h + attention_t(norm h + position)                  over all frames, at the levels that have attention

with last layers that start at zero: training starts at a net that takes each frame for itself (the factorization of Ho
et al. 2022, arXiv 2204.03458, and Blattmann et al. 2023, arXiv 2304.08818).

Why not diffusers' own: UNet3DConditionModel wants a text's states in its middle, drops out a fixed 10 % and convolves
four times along time after every block; UNetSpatioTemporalConditionModel wants a picture's embedding and widths that
are multiples of 32; neither knows class labels, and both are made for latents that a GPU works on.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.image import UNet
from bootdiff.nets.parts import Attention, Channels, Dropout, Layers, Patch, class_or_none, pad_to, zero

__all__ = ["VideoUNet"]


class _Time(nn.Module):
    """Two convolutions along time, then attention over it where asked: (B T, C, H, W) -> the same."""

    def __init__(self, width: int, groups: int, attention: bool, dropout: float) -> None:
        super().__init__()

        def part(last: bool) -> nn.Sequential:
            # (3, 1) on (T, H W): a third of the time of Conv3d's (3, 1, 1) on a CPU.
            convolution = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
            layers = [nn.GroupNorm(groups, width), nn.SiLU(), nn.Dropout(dropout if last else 0.0)]
            return nn.Sequential(*layers, zero(convolution) if last else convolution)

        self.convolutions = nn.Sequential(part(False), part(True))
        self.attention = None
        if attention:
            from diffusers.models.attention_processor import Attention

            heads = max(1, width // 32)
            self.norm = nn.GroupNorm(groups, width)
            self.attention = Attention(width, heads=heads, dim_head=width // heads, bias=True)
            zero(self.attention.to_out)

    def forward(self, h: Tensor, frames: int) -> Tensor:
        rows, width, *space = h.shape
        h = h.unflatten(0, (-1, frames)).transpose(1, 2).flatten(3)  # (B, C, T, H W)
        h = h + self.convolutions(h)
        if self.attention is not None:
            from diffusers.models.embeddings import get_timestep_embedding

            when = get_timestep_embedding(torch.arange(frames, device=h.device), width).to(h.dtype)
            tokens = self.norm(h).permute(0, 3, 2, 1).flatten(0, 1) + when
            said = self.attention(tokens).unflatten(0, (len(h), -1))
            h = h + said.permute(0, 3, 2, 1)
        return h.transpose(1, 2).reshape(rows, width, *space)


class VideoUNet(nn.Module):
    """A UNet in space with layers along time: (B, in, T, H, W) -> (B, out, T, H, W), any number of frames and size.

    Args:
        in_channels, out_channels: of the videos.
        channels: width of each level, from the finest; each further level halves height and width, never time;
            "auto": `widths`.
        layers: residual blocks per level.
        attention: self-attention, in space and along time, at the levels given (0 is the finest); True: the coarsest.
        dropout: share of hidden values dropped in training.
        patch: pixels per side folded into channels first: 2 quarters the compute; time is not folded; "auto": 1.
        classes: number of classes, or None.
    """

    widths: ClassVar[tuple[int, ...]] = (32, 64, 64)

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
        widths = self.widths if isinstance(channels, str) else channels
        frames = UNet(in_channels, out_channels, widths, layers, attention, dropout, patch, classes)
        self.config: dict[str, Any] = frames.config
        self.patch, self.multiple, self.no_class, self.unet = frames.patch, frames.multiple, classes, frames.unet
        widths, attended = frames.config["channels"], frames.config["attention"]
        groups = math.gcd(*widths, 8)

        def time(level: int) -> _Time:
            return _Time(widths[level], groups, level in attended, dropout)

        levels = range(len(widths))
        self.first, self.middle = _Time(widths[0], groups, False, dropout), time(len(widths) - 1)
        # A block ends with the step to the next level's resolution, in its own width.
        self.down = nn.ModuleList(time(i) for i in levels)
        self.up = nn.ModuleList(time(i) for i in reversed(levels))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        frames, (height, width), net = x.shape[2], x.shape[-2:], self.unet
        h = pad_to(x, (self.multiple, self.multiple)).transpose(1, 2).flatten(0, 1)
        h = f.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        # As in `UNet`, for each video once.
        e = net.time_embedding(net.time_proj(50 * c_noise).to(h.dtype))
        if self.no_class is not None:
            e = e + net.class_embedding(class_or_none(label, c_noise, self.no_class))
        e = e.repeat_interleave(frames, 0)
        h = self.first(net.conv_in(h), frames)
        skips = [h]
        for block, time in zip(net.down_blocks, self.down, strict=True):
            h, passed = block(h, e)
            h = time(h, frames)
            skips += passed
        h = self.middle(net.mid_block(h, e), frames)
        for block, time in zip(net.up_blocks, self.up, strict=True):
            count = len(block.resnets)
            h = time(block(h, tuple(skips[-count:]), e), frames)
            del skips[-count:]
        h = net.conv_out(net.conv_act(net.conv_norm_out(h)))
        h = f.pixel_shuffle(h, self.patch) if self.patch > 1 else h
        return h.unflatten(0, (-1, frames)).transpose(1, 2)[..., :height, :width]
