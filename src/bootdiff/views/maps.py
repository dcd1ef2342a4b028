"""Views that average, pick or mix coordinates: co-isometries, A A^T = I."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bootdiff.views.base import Shape, View, randint, set_fields

__all__ = ["ChannelMix", "Crop", "Downsample", "Identity"]


@dataclass(frozen=True)
class Identity(View):
    """A = I: whole samples, such as files that are corrupted in a way that no linear map describes (JPEG, blur)."""

    def shape(self, full: Shape) -> Shape:
        return tuple(full)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return y


@dataclass(frozen=True)
class Downsample(View):
    """A = sqrt(k^n) * mean over blocks of length k = `factor` along n `axes`; scale = sqrt(k^n), so k for pictures.

    Axes are counted from the end: (-2, -1) are height and width, (-3,) is time in a video (C, T, H, W).

    >>> view = Downsample(2)
    >>> view.shape((3, 8, 6)), view.scale
    ((3, 4, 3), 2.0)
    >>> view(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))     # the block mean is 3
    tensor([[[[6.]]]])
    """

    factor: int
    axes: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        set_fields(self, factor=index(self.factor), axes=tuple(sorted({index(a) for a in self.axes})))
        if self.factor < 1 or not self.axes or self.axes[-1] >= 0:
            raise ValueError(f"{self}: factor must be at least 1, axes negative (counted from the end), as (-2, -1)")
        set_fields(self, scale=float(self.factor ** (len(self.axes) / 2)))

    def shape(self, full: Shape) -> Shape:
        k, out = self.factor, list(full)
        for a in self.axes:
            n = out[a] if -a <= len(out) else 0
            if n % k or not n:
                raise self._misfit(full, f"axis {a} has length {n}, no multiple of {k}; crop it or change the factor")
            out[a] = n // k
        return tuple(out)

    def _forward(self, x: Tensor) -> Tensor:
        for a in self.axes:
            x = x.unflatten(a, (-1, self.factor)).mean(a)
        return x * self.scale

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        y = y / self.scale
        for a in self.axes:
            y = y.repeat_interleave(self.factor, a)
        return y


@dataclass(frozen=True)
class Crop(View):
    """A picks the window of `size` (h, w) at `offset` (top, left) of the last two axes; an integer stands for a pair.

    Without an offset, files may have been cut anywhere and one denoiser serves all: the placements are a grid, `stride`
    apart (default size // 2) and always up to the last row and column.

    >>> [p.offset for p in Crop(4, stride=3).placements((3, 4, 9))]
    [(0, 0), (0, 3), (0, 5)]
    """

    size: tuple[int, int]
    offset: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        set_fields(self, size=_pair(self.size), offset=_pair(self.offset), stride=_pair(self.stride))
        set_fields(self, single=self.offset is not None)
        if min(self.size) < 1 or min(self.offset or (0,)) < 0 or min(self.stride or (1,)) < 1:
            raise ValueError(f"{self}: size and stride must be at least 1, the offset at least 0")
        if self.offset and self.stride:
            raise ValueError(f"{self}: give an offset (one window) or a stride (a grid of windows), not both")

    def shape(self, full: Shape) -> Shape:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        if len(full) < 2 or t + h > full[-2] or l + w > full[-1]:
            raise self._misfit(full, f"the window ends at row {t + h}, column {l + w}; make it smaller or move it")
        return (*full[:-2], h, w)

    def placements(self, full: Shape) -> tuple[View, ...]:
        self.shape(full)
        if self.offset:
            return (self,)
        stride = self.stride or [max(h // 2, 1) for h in self.size]
        rows, columns = ([*range(0, n - h, s), n - h] for n, h, s in zip(full[-2:], self.size, stride))
        return tuple(Crop(self.size, offset=(t, l)) for t in rows for l in columns)

    def draw(self, full: Shape, generator: Generator) -> View:
        views = self.placements(full)
        return views[randint(len(views), generator)]

    def _forward(self, x: Tensor) -> Tensor:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        return x[..., t : t + h, l : l + w]

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        return F.pad(y, (l, full[-1] - l - w, t, full[-2] - t - h))


@dataclass(frozen=True)
class ChannelMix(View):
    """A mixes channels: y_r = sum_c A_rc x_c with orthonormal rows. Give exactly one of

    `rows` (R, C), orthonormal, for files that hold y itself: ((1, 0, 0),) is the first channel;
    `weights` w (C,), summing to one, for files that hold the single channel w . x: A = w^T / |w|, scale = 1 / |w|.
    """

    rows: tuple[tuple[float, ...], ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.weights is None):
            raise ValueError("ChannelMix: give one of rows (R, C), orthonormal, or weights (C,), summing to one")
        if self.weights is not None:
            set_fields(self, weights=tuple(map(float, self.weights)))
            if not abs(sum(self.weights) - 1) < 1e-6:  # else black and white of file and sample would differ
                raise ValueError(f"{self}: the weights sum to {sum(self.weights):g}, not 1; divide them by their sum")
            set_fields(self, scale=1 / math.hypot(*self.weights))
        else:
            set_fields(self, rows=tuple(tuple(map(float, row)) for row in self.rows or ()))
            A = torch.tensor(self.rows, dtype=torch.float64)
            if A.ndim != 2 or not torch.allclose(A @ A.T, torch.eye(len(A), dtype=A.dtype), atol=1e-6):
                raise ValueError(f"{self}: the rows are not orthonormal to six digits; take torch.linalg.qr(A.T).Q.T")

    @classmethod
    def gray(cls) -> ChannelMix:
        """RGB to gray with the luma weights of ITU-R BT.601, as Pillow's convert("L").

        >>> round(ChannelMix.gray().scale, 4)
        1.4958
        """
        return cls(weights=(0.299, 0.587, 0.114))

    def shape(self, full: Shape) -> Shape:
        R, C = self._matrix(torch.empty(0)).shape
        if not full or full[0] != C:
            raise self._misfit(full, f"it mixes {C} channels (the first axis); give one weight per channel")
        return (R, *full[1:])

    # Products and sums, no matrix product: autocast would round that to bfloat16.
    def _forward(self, x: Tensor) -> Tensor:
        return (self._matrix(x) * x.unsqueeze(1)).sum(2)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return (self._matrix(y) * y.unsqueeze(2)).sum(1)

    def _carry(self, m: Tensor) -> Tensor:
        return m  # masks are alike for all channels

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        return ((self._matrix(c[None]) != 0) * c.unsqueeze(1)).amax(0)

    def _matrix(self, x: Tensor) -> Tensor:
        """A as (R, C, 1, ..., 1), to go with x (B, R or C, *space)."""
        rows = self.rows or [[w * self.scale for w in self.weights or ()]]
        A = torch.tensor(rows, dtype=x.dtype, device=x.device)
        return A.reshape(*A.shape, *(1 for _ in x.shape[2:]))


def _pair(v: Any) -> tuple[int, int] | None:
    if v is None:
        return None
    a, b = v if isinstance(v, Sequence) else (v, v)
    return index(a), index(b)
