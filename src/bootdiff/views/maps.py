"""Views that average along axes and pick or mix channels: co-isometries, A A^T = I."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Annotated

import torch
from torch import Tensor

from bootdiff.settings import Doc, Ge, Le, MinLen, check
from bootdiff.views.base import ArgumentError, PerChannel, Shape, View, set_fields

__all__ = ["ChannelMix", "Downsample", "Identity", "Pick"]


@dataclass(frozen=True)
class Identity(PerChannel):
    """The whole sample (useful with noise or a corruption).

    A = I, for instance for files that are corrupted in a way that no linear map describes (JPEG, blur).
    """

    def shape(self, full: Shape) -> Shape:
        return tuple(full)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return y


@dataclass(frozen=True)
class Downsample(PerChannel):
    """Block averages: thumbnails; coarser in time.

    A = sqrt(k^n) * mean over blocks of length k = `factor` along n `axes`; scale = sqrt(k^n), so k for pictures.

    Axes are counted from the end: (-2, -1) are height and width, (-3,) is time in a video (C, T, H, W).

    >>> view = Downsample(2)
    >>> view.shape((3, 8, 6)), view.scale
    ((3, 4, 3), 2.0)
    >>> view(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))     # the block mean is 3
    tensor([[[[6.]]]])
    """

    factor: Annotated[int, Ge(1), Doc("how many pixels across (or frames, or samples) are averaged into one")]
    axes: Annotated[
        tuple[Annotated[int, Le(-1)], ...],
        MinLen(1),
        Doc(
            "axes counted from the end; null: [-2, -1], height and width; [-3]: the frames of a video; [-1]: the "
            "samples of a signal"
        ),
    ] = (-2, -1)

    def __post_init__(self) -> None:
        set_fields(self, factor=index(self.factor), axes=tuple(sorted({index(a) for a in self.axes})))
        check(self)
        set_fields(self, scale=float(self.factor ** (len(self.axes) / 2)))

    def shape(self, full: Shape) -> Shape:
        k, out = self.factor, list(full)
        for a in self.axes:
            # The first axis of all but vectors holds channels, which ChannelMix mixes.
            n = out[a] if -a < len(out) or -a == len(out) == 1 else 0
            if n % k or not n:
                raise self._misfit(full, f"axis {a} has length {n}, no multiple of {k}; crop it or change the factor")
            out[a] = n // k
        return tuple(out)

    def forward(self, x: Tensor) -> Tensor:
        for a in self.axes:
            x = x.unflatten(a, (-1, self.factor)).mean(a)
        return x * self.scale

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        y = y / self.scale
        for a in self.axes:
            y = y.repeat_interleave(self.factor, a)
        return y


@dataclass(frozen=True)
class Pick(View):
    """Some of the channels, or columns of a vector.

    A picks `indices` along the first axis, the columns of a vector (C,), in that order.

    >>> Pick((2, 0)).shape((3, 8, 8))
    (2, 8, 8)
    >>> Pick((2, 0))(torch.tensor([[5.0, 6.0, 7.0]]))
    tensor([[7., 5.]])
    """

    indices: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), Doc("which ones, counted from 0, in order")]

    def __post_init__(self) -> None:
        given = self.indices if isinstance(self.indices, Sequence) else (self.indices,)
        set_fields(self, indices=tuple(map(index, given)))
        check(self)
        if len(set(self.indices)) < len(self.indices):
            raise ArgumentError(self, "indices", f"must be different, got {list(self.indices)}")

    def shape(self, full: Shape) -> Shape:
        if not full or max(self.indices) >= full[0]:
            have = full[0] if full else 0
            raise self._misfit(full, f"there are {have} channels or columns (the first axis), counted from 0")
        return (len(self.indices), *full[1:])

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.indices]

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        at = torch.tensor(self.indices, device=y.device)
        return y.new_zeros(len(y), *full).index_copy(1, at, y)

    def _carry(self, m: Tensor, full: Shape) -> Tensor:
        return m if len(m) == 1 and len(full) > 1 else m[self.indices,]

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        return c


@dataclass(frozen=True)
class ChannelMix(View):
    """Mixed or picked channels; `view: gray` for the usual gray.

    A mixes them: y_r = sum_c A_rc x_c with orthonormal rows. Give exactly one of

    `rows` (R, C), orthonormal, for files that hold y itself: ((1, 0, 0),) is the first channel;
    `weights` w (C,), summing to one, for files that hold the single channel w . x: A = w^T / |w|, scale = 1 / |w|.
    """

    rows: Annotated[
        tuple[tuple[float, ...], ...] | None, MinLen(1), Doc("orthonormal rows, one per stored channel")
    ] = None
    weights: Annotated[tuple[float, ...] | None, MinLen(1), Doc("weights of one stored channel, sum 1")] = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.weights is None):
            what = "give exactly one of rows, weights (or write `view: gray`; in Python, ChannelMix.gray())"
            raise ArgumentError("ChannelMix", None, what)
        if self.weights is not None:
            set_fields(self, weights=tuple(map(float, self.weights)))
            if not abs(sum(self.weights) - 1) < 1e-6:  # else black and white of file and sample would differ
                raise ArgumentError(
                    self, "weights", f"they sum to {sum(self.weights):g}, not 1; divide them by their sum"
                )
            set_fields(self, scale=1 / math.hypot(*self.weights))
        else:
            set_fields(self, rows=tuple(tuple(map(float, row)) for row in self.rows or ()))
            if len({len(row) for row in self.rows or ()}) != 1:
                raise ArgumentError(self, "rows", "give each as many numbers as there are channels")
            A = torch.tensor(self.rows, dtype=torch.float64)
            if A.ndim != 2 or not torch.allclose(A @ A.T, torch.eye(len(A), dtype=A.dtype), atol=1e-6):
                raise ArgumentError(
                    self, "rows", "they are not orthonormal to six digits; take those of torch.linalg.qr(A.T).Q.T"
                )

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
    def forward(self, x: Tensor) -> Tensor:
        return (self._matrix(x) * x.unsqueeze(1)).sum(2)

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return (self._matrix(y) * y.unsqueeze(2)).sum(1)

    def _carry(self, m: Tensor, full: Shape) -> Tensor:
        if len(m) == 1 and len(full) > 1:
            return m  # alike for all channels
        reads = self._matrix(m[None]) != 0
        return (reads * m).sum(1) / reads.sum(1)

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        return c

    def _matrix(self, x: Tensor) -> Tensor:
        """A as (R, C, 1, ..., 1), to go with x (B, R or C, *space)."""
        rows = self.rows or [[w * self.scale for w in self.weights or ()]]
        A = torch.tensor(rows, dtype=x.dtype, device=x.device)
        return A.reshape(*A.shape, *(1 for _ in x.shape[2:]))
