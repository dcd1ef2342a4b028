"""Backbones, one contract: F(x, c_noise, label) -> y, with (B, in, H, W) -> (B, out, H, W) and c_noise = ln(sigma) / 4.

A label is a class number, or -1 (or None for all) where no class is given; nets without classes take no notice of it.

* `UNet`: diffusers' UNet2DModel, for global structure.  Any height and width: padded to what its levels need.
* `LocalNet`: 3x3 convolutions at full resolution, a small receptive field, no normalization over space.  It cannot
  memorize whole images, which is what a residual needs once the views bring the global structure.
* `MLP`: for vectors and for tests.

Each starts at zero: the last layer's weights and biases are 0, so training starts exactly at the views (or at the
white base, where there are none).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

__all__ = ["MLP", "NETS", "LocalNet", "UNet", "build_net"]


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def _or_none(label: Tensor | None, c_noise: Tensor, none: int) -> Tensor:
    """Class numbers (B,) with the number `none` where no class is given: no label at all, or -1."""
    nothing = torch.full_like(c_noise, none, dtype=torch.long)
    return nothing if label is None else torch.where(label < 0, nothing, label)


class NoiseEmbedding(nn.Module):
    """c_noise (B,) and label (B,) -> (B, width): random-free Fourier features of ln sigma, then two dense layers."""

    frequencies: Tensor

    def __init__(self, width: int, classes: int | None = None, features: int = 32) -> None:
        super().__init__()
        # From one period over twelve octaves of sigma down to one period per octave: gains and snapshots change
        # slowly in ln sigma, and so should the network.
        self.register_buffer("frequencies", torch.logspace(-1, 1, features // 2) * math.pi, persistent=False)
        self.dense = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.none = classes or 0
        # Starting at zero, a class that no sample was of stays neutral.
        self.classes = _zero(nn.Embedding(classes + 1, features)) if classes else None

    def forward(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        angle = c_noise[:, None].float() * self.frequencies
        e = torch.cat([angle.cos(), angle.sin()], 1)
        if self.classes is not None:
            # The last row stands for "no class given".
            e = e + self.classes(_or_none(label, c_noise, self.none))
        return self.dense(e)


class _LocalBlock(nn.Module):
    """x + conv(SiLU(FiLM(x))), 3x3."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e)[:, :, None, None].chunk(2, 1)
        return x + self.conv(self.dropout(f.silu(x * (1 + scale) + shift)))


class LocalNet(nn.Module):
    """A convolutional net that sees only (2 depth + 1) x (2 depth + 1) pixels.

    Args:
        in_channels, out_channels: of the pictures.
        width: hidden channels.
        depth: number of 3x3 convolutions, at least 3 (the first and the last do not see the noise level); the receptive
            field is 2 depth + 1 pixels wide.
        classes: number of classes, or None.
        dropout: share of hidden values dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        depth: int = 5,
        classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"a local net needs a depth of at least 3 to see the noise level, got {depth}")
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "width": width, "depth": depth,
            "classes": classes, "dropout": dropout,
        }  # fmt: skip
        self.embed = NoiseEmbedding(width, classes)
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_LocalBlock(width, width, dropout) for _ in range(depth - 2))
        self.last = _zero(nn.Conv2d(width, out_channels, 3, padding=1))
        # Plain 3x3 convolutions run 1.1 times (float32) to 1.3 times (bfloat16) as fast this way on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.embed(c_noise, label)
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, e)
        return self.last(f.silu(h))


class UNet(nn.Module):
    """diffusers' UNet2DModel behind the contract.

    Args:
        in_channels, out_channels: of the pictures.
        channels: width of each level, from the finest; each further level halves the resolution.
        layers: residual blocks per level.
        attention: self-attention at the levels given (0 is the finest).
        patch: pixels per side folded into channels first (space to depth): 2 quarters the compute and hands fine
            detail over to a local net beside it.
        classes: number of classes, or None.
        dropout: as in UNet2DModel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (24, 48, 48),
        layers: int = 1,
        attention: Sequence[int] = (2,),
        patch: int = 1,
        classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "channels": list(channels), "layers": layers,
            "attention": list(attention), "patch": patch, "classes": classes, "dropout": dropout,
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
        _zero(self.unet.conv_out)
        if classes is not None:
            _zero(self.unet.class_embedding)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        pad = (-width % self.multiple, -height % self.multiple)
        h = f.pad(x, (0, pad[0], 0, pad[1])) if any(pad) else x
        h = f.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        label = None if self.no_class is None else _or_none(label, c_noise, self.no_class)
        # UNet2DModel embeds its "timestep" with periods from 2 pi up: c_noise spans about 2, so spread it out.
        y = self.unet(h, 50 * c_noise, class_labels=label).sample
        y = f.pixel_shuffle(y, self.patch) if self.patch > 1 else y
        return y[..., :height, :width]


class MLP(nn.Module):
    """Dense layers over the flattened sample, for vectors (B, C) or small pictures.

    Args:
        in_channels, out_channels: C of the input and of the output.
        space: the further axes of a sample, () for vectors.
        width, depth: hidden units and number of hidden layers.
        classes: number of classes, or None.
        dropout: share of hidden values dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: Sequence[int] = (),
        width: int = 128,
        depth: int = 3,
        classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "space": list(space), "width": width,
            "depth": depth, "classes": classes, "dropout": dropout,
        }  # fmt: skip
        self.out_shape = (out_channels, *space)
        size = math.prod(space)
        self.embed = NoiseEmbedding(width, classes)
        self.first = nn.Linear(in_channels * size, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.dropout = nn.Dropout(dropout)
        self.last = _zero(nn.Linear(width, out_channels * size))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = f.silu(self.first(x.flatten(1)) + self.embed(c_noise, label))
        for layer in self.hidden:
            h = h + f.silu(layer(self.dropout(h)))
        return self.last(h).reshape(-1, *self.out_shape)


NETS: dict[str, type[nn.Module]] = {"unet": UNet, "local": LocalNet, "mlp": MLP}


def build_net(
    kind: str, in_channels: int, shape: Sequence[int], classes: int | None = None, **options: Any
) -> nn.Module:
    """A backbone by its name in `NETS`, for samples of `shape` (C, H, W).

    Levels of a UNet that the picture is too small for (a level below 2x2 pixels) are left out.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in NETS:
        raise ValueError(f"unknown backbone {kind!r}; known: {', '.join(NETS)}")
    if kind == "unet":
        side = min(shape[1:]) // options.get("patch", 1)
        levels = max(1, int(math.log2(max(side, 1))))
        options["channels"] = list(options.get("channels", (24, 48, 48)))[:levels]
        top = len(options["channels"]) - 1
        options["attention"] = sorted({min(int(a), top) for a in options.get("attention", (top,))})
    if kind == "mlp":
        options["space"] = list(shape[1:])
    return NETS[kind](in_channels, shape[0], classes=classes, **options)
