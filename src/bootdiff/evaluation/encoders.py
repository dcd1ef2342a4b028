"""The two halves of a small convolutional autoencoder, for samples of any kind."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder"]

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Encoder(nn.Module):
    """Convolutions down to about 4 along each axis and a linear layer, (B, *shape) to (B, dim), less `center`, over
    `scale`; of vectors, the columns themselves."""

    center: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], width: int, dim: int) -> None:
        super().__init__()
        self.shape, (channels, *size) = tuple(shape), shape
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        if not size:
            self.net: nn.Module = nn.Identity()
            return
        convolution = _CONVOLUTIONS[len(size)]
        layers: list[nn.Module] = []
        self.sizes = [size]
        # large images are halved at once: most of the cost is at full resolution
        halvings, last = max(0, math.ceil(math.log2(max(size) / 4))), channels
        for i in range(halvings + (halvings < 2)):
            halve = i + 1 > (halvings < 2)
            out = width * 2 ** min(i, 2)
            layers += [convolution(last, out, 3, 2 if halve else 1, 1), nn.GroupNorm(8, out), nn.SiLU()]
            last = out
            if halve:
                size = [(n + 1) // 2 for n in size]
                self.sizes.append(size)
        layers += [convolution(last, last, 3, 1, 1), nn.GroupNorm(8, last), nn.SiLU(), nn.Flatten()]
        self.inner = (last, *size)
        self.net = nn.Sequential(*layers, nn.Linear(math.prod(self.inner), dim))

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"the feature network was trained on {self.shape}, the images are {tuple(x.shape[1:])}")
        return (self.net(x) - self.center) / self.scale


class Decoder(nn.Module):
    """The encoder's mirror image, (B, dim) to (B, *shape); convolutions before enlargements, where they cost least."""

    def __init__(self, encoder: Encoder, width: int, dim: int) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[len(encoder.shape) - 1]
        self.inner, self.sizes = encoder.inner, encoder.sizes[:-1][::-1]
        channels = [self.inner[0], *(max(8, self.inner[0] // 2 ** (i + 1)) for i in range(len(self.sizes)))]
        self.first = nn.Linear(dim, math.prod(self.inner))
        self.convs = nn.ModuleList(convolution(a, b, 3, 1, 1) for a, b in pairwise(channels))
        self.last = convolution(channels[-1], encoder.shape[0], 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.silu(self.first(z)).reshape(-1, *self.inner)
        for size, conv in zip(self.sizes, self.convs):
            x = F.interpolate(F.silu(conv(x)), size=size)
        return self.last(x)
