"""Parts of all backbones: the embedding of noise level and class, layers that start at zero, sizes made to fit.

And the arguments that several of them have, with bounds and meaning: the constructors are annotated with these, and the
recipe's blocks are read from the constructors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.settings import Doc, Ge, Le, Lt

__all__ = [
    "Attention", "Channels", "Dropout", "Layers", "NoiseEmbedding", "Patch", "attention_levels", "class_or_none",
    "pad_to", "zero",
]  # fmt: skip

Channels = Annotated[
    Literal["auto"] | Sequence[Annotated[int, Ge(1), Le(65_536)]],
    Doc("width of each level, the finest first; auto: by the kind and size of the samples"),
]
Layers = Annotated[int, Ge(1), Le(100), Doc("residual blocks per level")]
Attention = Annotated[
    bool | Sequence[Annotated[int, Ge(0)]],
    Doc("levels with self-attention (0 is the finest); true: the coarsest, false: none"),
]
Dropout = Annotated[float, Ge(0), Lt(1), Doc("share of hidden values dropped in training")]
Patch = Annotated[
    Literal["auto"] | int,
    Ge(1),
    Le(1024),
    Doc(
        "pixels per side (values of a signal) folded into channels first: 2 quarters the compute; never frames; "
        "fewer for thumbnails; auto: by size: 1 for images up to 32 pixels, 2 to 64, 4 to 256, then 8 "
        "(docs/backbones.md)"
    ),
]


def attention_levels(attention: bool | Sequence[int], levels: int) -> list[int]:
    """The levels with self-attention, of that many.

    >>> attention_levels(True, 3), attention_levels(False, 3), attention_levels((0, 1), 3)
    ([2], [], [0, 1])
    """
    if isinstance(attention, bool):
        return [levels - 1] if attention else []
    return list(attention)


def zero(layer: Any) -> Any:
    """The layer with all its parameters 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def class_or_none(label: Tensor | None, c_noise: Tensor, none: int) -> Tensor:
    """Class numbers (B,) with the number `none` where no class is given: no label at all, or -1."""
    nothing = torch.full_like(c_noise, none, dtype=torch.long)
    return nothing if label is None else torch.where(label < 0, nothing, label)


def pad_to(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """x with zeros behind its last axes, so that their sizes are multiples of these, one for each of the last axes."""
    pad = [n for size, m in zip(reversed(x.shape), reversed(multiples)) for n in (0, -size % m)]
    return f.pad(x, pad) if any(pad) else x


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
        self.classes = zero(nn.Embedding(classes + 1, features)) if classes else None

    def forward(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        angle = c_noise[:, None].float() * self.frequencies
        e = torch.cat([angle.cos(), angle.sin()], 1)
        if self.classes is not None:
            # The last row stands for "no class given".
            e = e + self.classes(class_or_none(label, c_noise, self.none))
        return self.dense(e)
