"""Views that hide pixels and keep the shape: partial isometries, A = A^T = A A^T = diag(m)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.views.base import Shape, View, randint, set_fields

__all__ = ["Mask", "RandomMask"]


@dataclass(frozen=True)
class Mask(View):
    """A = diag(m): pictures at full shape, zero where hidden. Give exactly one of

    `box` (top, left, height, width), hidden; `band` ("bottom" or "top", number of hidden rows); `image` (H, W) of zeros
    and ones, 1 = observed, as nested sequences or a tensor.

    >>> Mask(box=(0, 1, 2, 1)).mask((3, 2, 3))
    tensor([[[1., 0., 1.],
             [1., 0., 1.]]])
    """

    box: tuple[int, int, int, int] | None = None
    band: tuple[str, int] | None = None
    image: Any = field(default=None, repr=False)

    masked = True

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.box, self.band, self.image)) != 1:
            raise ValueError("Mask: give one of box=(top, left, height, width), band=(side, rows), image=0/1 (H, W)")
        if self.box is not None:
            set_fields(self, box=tuple(map(index, self.box)))
            if len(self.box) != 4 or min(self.box) < 0 or min(self.box[2:]) < 1:
                raise ValueError(f"{self}: box is (top, left, height, width) of the hidden box, in pixels")
        elif self.band is not None:
            set_fields(self, band=tuple(self.band))
            if len(self.band) != 2 or self.band[0] not in ("bottom", "top") or index(self.band[1]) < 1:
                raise ValueError(f'{self}: band is ("bottom" or "top", number of hidden rows)')
        else:
            m = torch.as_tensor(self.image)
            if m.ndim != 2 or not ((m == 0) | (m == 1)).all() or not m.any():
                raise ValueError(f"Mask: image must be (H, W) of 0 and 1 = observed, not all 0; got {(*m.shape,)}")
            set_fields(self, image=tuple(map(tuple, m.int().tolist())))

    def shape(self, full: Shape) -> Shape:
        H, W = _space(self, full)
        size = (len(self.image), len(self.image[0])) if self.image else (H, W)
        t, l, h, w = self._window(H, W)
        if size != (H, W):
            raise self._misfit(full, f"the mask's image is {size}; draw one of {(H, W)}")
        if t < 0 or t + h > H or l + w > W or (h, w) == (H, W):
            raise self._misfit(full, f"it hides {h}x{w} pixels at row {t}, column {l}; hide less, inside the picture")
        return tuple(full)

    def _forward(self, x: Tensor) -> Tensor:
        if self.image:
            hidden = self._hidden.to(x.device)
        else:
            t, l, h, w = self._window(*x.shape[-2:])
            hidden = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
            hidden[t : t + h, l : l + w] = True
        return x.masked_fill(hidden, 0)  # not a product: whatever stands under the mask, NaN too, is gone

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self._forward(y)

    def _window(self, H: int, W: int) -> tuple[int, int, int, int]:
        """The hidden box (top, left, height, width); an empty one for an image."""
        if self.band:
            side, rows = self.band
            return (H - rows if side == "bottom" else 0, 0, rows, W)
        return self.box or (0, 0, 0, 0)

    @cached_property
    def _hidden(self) -> Tensor:
        """(H, W) bool, for an image."""
        with torch.inference_mode(False):  # kept for later, when a backward pass may need it
            return torch.tensor(self.image) == 0


@dataclass(frozen=True)
class RandomMask(View):
    """A mask per file: a `fraction` of the picture is hidden, as a box of the picture's proportions or as pixels.

    `draw` gives the Mask of one file; the placements are `count` of them, fixed by `seed`.
    """

    hide: str = "box"
    fraction: float = 0.25
    count: int = 4
    seed: int = 0

    masked = True
    single = False

    def __post_init__(self) -> None:
        if self.hide not in ("box", "pixels") or not 0 < self.fraction < 1 or index(self.count) < 1:
            raise ValueError(f'{self}: hide is "box" or "pixels", fraction between 0 and 1, count at least 1')

    def shape(self, full: Shape) -> Shape:
        _space(self, full)
        return tuple(full)

    def placements(self, full: Shape) -> tuple[View, ...]:
        generator = Generator().manual_seed(self.seed)
        return tuple(self.draw(full, generator) for _ in range(self.count))

    def draw(self, full: Shape, generator: Generator) -> View:
        H, W = _space(self, full)
        if self.hide == "box":
            h, w = (max(1, round(n * math.sqrt(self.fraction))) for n in (H, W))
            view = Mask(box=(randint(H - h + 1, generator), randint(W - w + 1, generator), h, w))
        else:
            order = torch.randperm(H * W, generator=generator, device=generator.device).reshape(H, W)
            view = Mask(image=order >= max(1, round(self.fraction * H * W)))
        return view._fit(full)


def _space(view: View, full: Shape) -> tuple[int, int]:
    if len(full) < 3:
        raise view._misfit(full, "a mask needs channels, height and width: (C, H, W)")
    return full[-2], full[-1]
