"""Views that show a window or some frames of a sample: co-isometries that select coordinates, A A^T = I.

    Crop         (h, w) pixels of a picture; a box of the last k axes        axes -k .. -1
    FrameWindow  consecutive frames of a video (C, T, H, W)                  axis -3
    Window       consecutive samples of a signal (C, L)                      axis -1
    Stills       one frame of a video, as a picture (C, H, W)                axis -3
    FrameStride  every k-th frame of a video                                 axis -3

Where the offset p is not given, files may come from anywhere: the view stands for a set of placements A_p that share
one denoiser. Conditioned on p, by the channels `position_channels`, the denoiser knows where it looks: then it is the
mean of the law of A_p x0 at each p; otherwise, that of the law with p drawn at random.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import index
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from torch import Generator, Tensor

from bootdiff.settings import Doc, Ge, MinLen, check
from bootdiff.views.base import ArgumentError, PerChannel, Shape, View, coordinates, randint, set_fields

__all__ = ["Crop", "FrameStride", "FrameWindow", "Stills", "Window"]

Ints = tuple[int, ...]
Lengths = tuple[Annotated[int, Ge(1)], ...]
Conditioned = Annotated[
    bool,
    Doc(
        "tell its network where in the full sample each file lies; files say so by the view's `offsets`, simulated "
        "ones do"
    ),
]


class _Placed(PerChannel):
    """A selection along some axes that begins at an offset, or anywhere."""

    @property
    @abstractmethod
    def _axes(self) -> Ints:
        """The axes it selects along, ascending, counted from the end."""

    @abstractmethod
    def _offsets(self, full: Shape) -> list[Sequence[int]]:
        """Along each axis the offsets of its placements, those of a grid, for samples that it fits."""

    @abstractmethod
    def _at(self, offset: Ints) -> View:
        """The placement at this offset."""

    @property
    def n_offsets(self) -> int:
        return len(self._axes) if self.position_conditioned and not self.is_fixed else 0

    def _moved(self, offset: Sequence[int]) -> View:
        return self._at(tuple(map(int, offset))) if offset else self

    def placements(self, full: Shape) -> tuple[View, ...]:
        self.shape(full)
        return (self,) if self.is_fixed else tuple(map(self._at, product(*self._offsets(full))))

    def draw(self, full: Shape, generator: Generator) -> View:
        self.shape(full)
        every = [] if self.is_fixed else list(product(*self._offsets(full)))
        number = randint(max(len(every), 1), generator)  # drawn for a fixed one, too: the files of earlier runs stay
        return self._at(every[number]) if every else self

    def _positions(self, full: Shape) -> Tensor:
        return (
            torch.cat([self._locate(coordinates(full, a), full) for a in self._axes])
            if self.position_conditioned
            else super()._positions(full)
        )


class _Box(_Placed):
    """Consecutive coordinates along each of its axes."""

    @property
    @abstractmethod
    def _box(self) -> tuple[Ints, Ints | None, Ints | None]:
        """Size, offset and stride along each axis."""

    def _check(self) -> None:
        size, offset, stride = self._box
        set_fields(self, is_fixed=offset is not None)
        check(self)
        if offset is not None and stride is not None:
            raise ArgumentError(self, "stride", "give an offset (one window) or a stride (a grid of windows), not both")
        for name, values in (("offset", offset), ("stride", stride)):
            if values is not None and len(values) != len(size):
                what = f"must have as many numbers as size ({len(size)}), got {list(values)}"
                raise ArgumentError(self, name, what)

    def shape(self, full: Shape) -> Shape:
        size, offset, _ = self._box
        out = list(full)
        if len(full) <= -self._axes[0]:
            raise self._misfit(full, f"it takes {-self._axes[0]} or more axes after the channels, not {len(full) - 1}")
        ends = [p + n for p, n in zip(offset or (0,) * len(size), size)]
        if any(end > full[a] for a, end in zip(self._axes, ends)):
            names = {-1: "sample" if len(full) == 2 else "column", -2: "row", -3: "frame"}
            said = ", ".join(f"{names.get(a, f'axis {a}')} {end}" for a, end in zip(self._axes, ends))
            raise self._misfit(full, f"the window ends at {said}; make it smaller or move it")
        for a, n in zip(self._axes, size):
            out[a] = n
        return tuple(out)

    def _offsets(self, full: Shape) -> list[Sequence[int]]:
        size, _, stride = self._box
        steps = stride or [max(n // 2, 1) for n in size]
        lengths = [full[a] for a in self._axes]
        return [[*range(0, length - n, s), length - n] for length, n, s in zip(lengths, size, steps)]

    def forward(self, x: Tensor) -> Tensor:
        size, offset, _ = self._box
        at = [slice(None)] * x.ndim
        for a, p, n in zip(self._axes, offset or (0,) * len(size), size):
            at[a] = slice(p, p + n)
        return x[tuple(at)]

    def _add(self, total: Tensor, y: Tensor) -> None:
        self.forward(total).add_(y)

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        size, offset, _ = self._box
        pad = [0] * (-2 * self._axes[0])
        for a, p, n in zip(self._axes, offset or (0,) * len(size), size):
            pad[-2 * a - 2 : -2 * a] = p, full[a] - p - n
        return F.pad(y, pad)


@dataclass(frozen=True)
class Crop(_Box):
    """A window of the picture, of all frames of a video, or a box of a video.

    A picks the window of `size` at `offset` of the last axes, as many as the size has numbers: (h, w) of pictures
    and of all frames of a video, (t, h, w) of videos. An integer stands for a pair.

    Without an offset, files may have been cut anywhere and one denoiser serves all: the placements are a grid, `stride`
    apart (default size // 2) and always up to the last row and column. `position_conditioned`: it sees where
    (`position_channels`).

    >>> [p.offset for p in Crop(4, stride=3).placements((3, 4, 9))]
    [(0, 0), (0, 3), (0, 5)]
    >>> Crop((2, 4, 4)).shape((3, 8, 16, 16))
    (3, 2, 4, 4)
    """

    size: Annotated[
        Lengths,
        MinLen(1),
        MaxLen(3),
        Doc("[height, width] or one number for both, in pixels; [frames, height, width]"),
    ]
    offset: Annotated[
        tuple[Annotated[int, Ge(0)], ...] | None,
        Doc("[top, left], as many numbers as the size; null: windows cut anywhere"),
    ] = None
    stride: Annotated[Lengths | None, Doc("spacing of the windows asked when sampling; null: half the size")] = None
    position_conditioned: Conditioned = False

    def __post_init__(self) -> None:
        size = _ints(self.size, 2) or ()
        set_fields(self, size=size, offset=_ints(self.offset, len(size)), stride=_ints(self.stride, len(size)))
        self._check()

    @property
    def _axes(self) -> Ints:
        return tuple(range(-len(self.size), 0))

    @property
    def _box(self) -> tuple[Ints, Ints | None, Ints | None]:
        return self.size, self.offset, self.stride

    def _at(self, offset: Ints) -> View:
        return replace(self, offset=offset, stride=None)


class _Run(_Box):
    """`length` consecutive coordinates along one axis, from `offset` on; without one a grid, `stride` apart (default
    length // 2), always up to the last coordinate. `position_conditioned`: the denoiser sees where
    (`position_channels`)."""

    length: int
    offset: int | None
    stride: int | None

    def __post_init__(self) -> None:
        for name in ("length", "offset", "stride"):
            value = getattr(self, name)
            set_fields(self, **{name: None if value is None else index(value)})
        self._check()

    @property
    def _box(self) -> tuple[Ints, Ints | None, Ints | None]:
        return (self.length,), _ints(self.offset, 1), _ints(self.stride, 1)

    def _at(self, offset: Ints) -> View:
        return replace(self, offset=offset[0], stride=None)  # type: ignore[type-var]


@dataclass(frozen=True)
class FrameWindow(_Run):
    """Some consecutive frames: short clips of long videos.

    A picks `length` frames of a video (C, T, H, W), from `offset` on. Without an offset,
    a grid of windows `stride` apart (default length // 2), always up to the last frame. `position_conditioned`: the
    denoiser sees where (`position_channels`).

    >>> [p.offset for p in FrameWindow(4).placements((3, 12, 8, 8))]
    [0, 2, 4, 6, 8]
    """

    length: Annotated[int, Ge(1), Doc("frames")]
    offset: Annotated[int | None, Ge(0), Doc("the first frame, counted from 0; null: clips cut anywhere")] = None
    stride: Annotated[int | None, Ge(1), Doc("spacing of the clips asked when sampling; null: half the length")] = None
    position_conditioned: Conditioned = False

    @property
    def _axes(self) -> Ints:
        return (-3,)


@dataclass(frozen=True)
class Window(_Run):
    """A piece of a signal.

    A picks `length` samples of a signal (C, L), from `offset` on. Without an offset, a grid of windows `stride`
    apart (default length // 2), always up to the last sample. `position_conditioned`: the denoiser sees
    where (`position_channels`).

    >>> Window(64).shape((2, 256)), len(Window(64).placements((2, 256)))
    ((2, 64), 7)
    """

    length: Annotated[int, Ge(1), Doc("samples")]
    offset: Annotated[int | None, Ge(0), Doc("the first sample, counted from 0; null: pieces cut anywhere")] = None
    stride: Annotated[int | None, Ge(1), Doc("spacing of the pieces asked when sampling; null: half the length")] = None
    position_conditioned: Conditioned = False

    @property
    def _axes(self) -> Ints:
        return (-1,)


class _Frames(_Placed):
    """Single frames of a video."""

    @property
    def _axes(self) -> Ints:
        return (-3,)

    def _length(self, full: Shape) -> int:
        if len(full) != 4:
            raise self._misfit(full, "only videos (channels, frames, height, width) have frames")
        return full[1]


@dataclass(frozen=True)
class Stills(_Frames):
    """Single frames of a video, as pictures.

    A picks one `frame` of a video (C, T, H, W), as a picture (C, H, W). Without one, files may be any frame and one
    denoiser serves all: the placements are all frames, or `every` k-th. `position_conditioned`: it
    sees which (`position_channels`).

    >>> view = Stills(every=4)
    >>> view.shape((3, 12, 8, 8)), [p.frame for p in view.placements((3, 12, 8, 8))]
    ((3, 8, 8), [0, 4, 8])
    """

    frame: Annotated[int | None, Ge(0), Doc("always this frame, counted from 0; null: any")] = None
    every: Annotated[int | None, Ge(1), Doc("when sampling, ask every k-th frame, k = `every`; null: all")] = None
    position_conditioned: Conditioned = False

    def __post_init__(self) -> None:
        for name in ("frame", "every"):
            value = getattr(self, name)
            set_fields(self, **{name: None if value is None else index(value)})
        set_fields(self, is_fixed=self.frame is not None)
        check(self)
        if self.frame is not None and self.every is not None:
            raise ArgumentError(self, "every", "give a frame (this one) or every (one of these), not both")

    def shape(self, full: Shape) -> Shape:
        length = self._length(full)
        if (self.frame or 0) >= length:
            raise self._misfit(full, f"frame {self.frame} of {length}, counted from 0; take an earlier one")
        return (full[0], *full[2:])

    def _offsets(self, full: Shape) -> list[Sequence[int]]:
        return [range(0, full[1], self.every or 1)]

    def _at(self, offset: Ints) -> View:
        return Stills(frame=offset[0], position_conditioned=self.position_conditioned)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.frame or 0, :, :]

    def _add(self, total: Tensor, y: Tensor) -> None:
        self.forward(total).add_(y)

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        t = self.frame or 0
        return F.pad(y.unsqueeze(-3), (0, 0, 0, 0, t, full[1] - 1 - t))


@dataclass(frozen=True)
class FrameStride(_Frames):
    """Every k-th frame of a video: low frame rates.

    A picks every k-th frame of a video (C, T, H, W), k = `every`, from frame `offset` < k on. T
    must be a multiple of k. Without an offset, files may have any phase: the placements are all k of them.

    >>> FrameStride(3, offset=1)(torch.arange(6.0).reshape(1, 1, 6, 1, 1)).flatten()
    tensor([1., 4.])
    """

    every: Annotated[int, Ge(1), Doc("frames from one to the next; the full video's frames are a multiple of it")]
    offset: Annotated[int | None, Ge(0), Doc("the first frame, below `every`; null: any")] = None

    def __post_init__(self) -> None:
        set_fields(self, every=index(self.every), offset=None if self.offset is None else index(self.offset))
        set_fields(self, is_fixed=self.offset is not None)
        check(self)
        if (self.offset or 0) >= self.every:
            raise ArgumentError(self, "offset", f"must be below every ({self.every}), got {self.offset}")

    def shape(self, full: Shape) -> Shape:
        length = self._length(full)
        if not length or length % self.every:
            raise self._misfit(full, f"{length} frames are no multiple of {self.every}; take a window of them first")
        return (full[0], length // self.every, *full[2:])

    def _offsets(self, full: Shape) -> list[Sequence[int]]:
        return [range(self.every)]

    def _at(self, offset: Ints) -> View:
        return FrameStride(self.every, offset[0])

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.offset or 0 :: self.every, :, :]

    def _add(self, total: Tensor, y: Tensor) -> None:
        self.forward(total).add_(y)

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        t = self.offset or 0
        return F.pad(y.unsqueeze(-3), (0, 0, 0, 0, t, self.every - 1 - t)).flatten(-4, -3)


def _ints(v: Any, count: int) -> Ints | None:
    """A tuple of integers; one integer stands for `count` of them."""
    if v is None:
        return None
    return tuple(map(index, v if isinstance(v, Sequence) else (v,) * count))
