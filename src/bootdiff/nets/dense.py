"""Dense nets over the flattened sample, for vectors and small samples of any kind.

* `MLP`: hidden layers of SiLU with skips, for whatever structure there is.
* `Linear`: y = W_2 [ g(c_noise) * (W_1 x) ] + h(c_noise): linear in x, with a gain for each of its directions at each
  noise level.  The exact denoiser of a Gaussian law N(m, U diag(v) U^T) has this form, W_1 = U^T, W_2 = U and
  g = v / (v + sigma^2): so few parameters that a few samples suffice for them, as the local net's do for images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.parts import NoiseEmbedding, zero
from bootdiff.settings import Doc, Ge, Le, Lt

__all__ = ["MLP", "Linear"]


class MLP(nn.Module):
    """Dense layers over the whole sample: for vectors and small samples.

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
        width: Annotated[int, Ge(1), Le(65_536), Doc("hidden units")] = 256,
        depth: Annotated[int, Ge(1), Le(1000), Doc("hidden layers")] = 3,
        classes: int | None = None,
        dropout: Annotated[float, Ge(0), Lt(1), Doc("share of hidden units dropped in training")] = 0.0,
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
        self.last = zero(nn.Linear(width, out_channels * size))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = f.silu(self.first(x.flatten(1)) + self.embed(c_noise, label))
        for layer in self.hidden:
            h = h + f.silu(layer(self.dropout(h)))
        return self.last(h).reshape(-1, *self.out_shape)


class Linear(nn.Module):
    """Linear in the sample, with gains by noise level: right for Gaussian laws, and it takes few samples to learn.

    Args:
        in_channels, out_channels: C of the input and of the output.
        space: the further axes of a sample, () for vectors.
        rank: number of directions; None: twice as many as the output has coordinates, at least 32 (with fewer, training
            gets stuck where directions of different gains would have to trade places).
        classes: number of classes, or None.
        dropout: share of directions dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: Sequence[int] = (),
        rank: Annotated[
            int | None, Ge(1), Le(2**20), Doc("directions; null: twice the values of a sample, at least 32")
        ] = None,
        classes: int | None = None,
        dropout: Annotated[float, Ge(0), Lt(1), Doc("share of directions dropped in training")] = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "space": list(space), "rank": rank,
            "classes": classes, "dropout": dropout,
        }  # fmt: skip
        self.out_shape = (out_channels, *space)
        size = math.prod(space)
        rank = rank or max(32, 2 * out_channels * size)
        self.embed = NoiseEmbedding(64, classes)
        self.gain = nn.Linear(64, rank)
        self.shift = nn.Linear(64, rank)
        self.first = nn.Linear(in_channels * size, rank, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.last = zero(nn.Linear(rank, out_channels * size))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.embed(c_noise, label)
        h = (1 + self.gain(e)) * self.first(x.flatten(1)) + self.shift(e)
        return self.last(self.dropout(h)).reshape(-1, *self.out_shape)
