"""Views that hide coordinates and keep the shape: partial isometries, A = A^T = A A^T = diag(m).

A mask m is (1, *space), the same for all channels, or (C, *space); for vectors it is (C,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Annotated, Any, Literal

import torch
from annotated_types import MaxLen
from torch import Generator, Tensor

from bootdiff.settings import Doc, Ge, Gt, Le, Lt, MinLen, check
from bootdiff.views.base import ArgumentError, PerChannel, Shape, View, randint, set_fields

__all__ = ["Mask", "RandomMask"]


@dataclass(frozen=True)
class Mask(PerChannel):
    """One part hidden in every sample: a subtitle, a watermark, a logo, a gap.

    A = diag(m): samples at full shape, zero where hidden. Give exactly one of

    `box` (top, left, height, width), hidden in a picture or in all frames of a video; or (first frame, top, left,
    frames, height, width) of a video;
    `band` ("bottom" or "top", number of hidden rows) of a picture or of all frames;
    `start`, `stop`: the samples start .. stop - 1 of a signal, or columns of a vector, hidden;
    `image` of zeros and ones, 1 = observed, as nested sequences or a tensor: (H, W) of a picture or of all frames,
    (T, H, W) of a video, (L,) of a signal, each for all channels; (C, *space) for each channel, (C,) for vectors.

    >>> Mask(box=(0, 1, 2, 1)).mask((3, 2, 3))
    tensor([[[1., 0., 1.],
             [1., 0., 1.]]])
    >>> Mask(start=2, stop=4).mask((2, 6))
    tensor([[1., 1., 0., 0., 1., 1.]])
    """

    box: Annotated[
        tuple[Annotated[int, Ge(0)], ...] | None,
        MinLen(4),
        MaxLen(6),
        Doc(
            "[top, left, height, width] of the hidden box, in all frames; [first frame, top, left, frames, height, "
            "width] for some"
        ),
    ] = None
    band: Annotated[tuple[str, int] | None, Doc("[bottom, rows] or [top, rows]: that many hidden rows there")] = None
    image: Annotated[Any, Doc("0 and 1 = observed, as nested sequences or a tensor")] = field(default=None, repr=False)
    start: Annotated[int | None, Ge(0), Doc("the first hidden sample of a signal or column of a vector, from 0")] = None
    stop: Annotated[int | None, Ge(1), Doc("where they end: the first one that is observed again")] = None

    masked = True

    def __post_init__(self) -> None:
        run = None if self.start is None and self.stop is None else (self.start, self.stop)
        parts = {"box": self.box, "band": self.band, "image": self.image, "start and stop": run}
        given = [name for name, value in parts.items() if value is not None]
        if len(given) != 1:
            what = f"give exactly one of box, band, image, start and stop; got {' and '.join(given) or 'none'}"
            raise ArgumentError("Mask", None, what)
        if self.box is not None:
            set_fields(self, box=tuple(map(index, self.box)))
            check(self)
            if len(self.box) not in (4, 6):
                what = f"must have 4 numbers, or 6 for a part of the frames, got {list(self.box)}"
                raise ArgumentError(self, "box", what)
            if min(self.box[len(self.box) // 2 :]) < 1:
                what = f"must hide at least 1 pixel: [top, left, height, width], got {list(self.box)}"
                raise ArgumentError(self, "box", what)
        elif self.band is not None:
            set_fields(self, band=_band(self.band))
        elif run is not None:
            if self.start is None or self.stop is None:
                raise ArgumentError(self, None, "give both: start and stop")
            set_fields(self, start=index(self.start), stop=index(self.stop))
            check(self)
            if self.start >= self.stop:
                raise ArgumentError(self, "stop", f"must be greater than start ({self.start}), got {self.stop}")
        else:
            m = torch.as_tensor(self.image)
            if not 1 <= m.ndim <= 4 or not ((m == 0) | (m == 1)).all() or not m.any():
                what = f"must be (H, W) of 0 and 1 = observed, not all 0; got {(*m.shape,)}"
                raise ArgumentError("Mask", "image", what)
            set_fields(self, image=_nested(m.int().tolist()))

    def shape(self, full: Shape) -> Shape:
        if self.image:
            size, space = tuple(self._hidden.shape), tuple(full[1:])
            # Of one axis less than the sample: alike for all channels; (H, W) of a video: for all frames as well.
            alike = [space[-k:] for k in range(min(2, len(space)), len(space) + 1) if k]
            if size not in (*alike, tuple(full), *([(1, *space)] if space else [])):
                raise self._misfit(full, f"the mask's image is {size}; draw one of {alike[0] if alike else full}")
            return tuple(full)
        if (self.start is None) == (len(full) < 3):
            what = "box, band or image" if self.start is not None else "start and stop, or image"
            raise self._misfit(full, f"here a mask is told by {what}")
        window = self._window(tuple(full))
        if any(p < 0 or p + n > full[a] for a, p, n in window) or all(n == full[a] for a, _, n in window):
            raise self._misfit(full, f"it hides {_said(window)}; hide less, inside the sample")
        return tuple(full)

    def _by_channel(self, full: Shape) -> bool:
        return len(full) == 1 or bool(self.image and self._hidden.ndim == len(full) and len(self._hidden) > 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.image:
            hidden = self._hidden.to(x.device)
        else:
            window = self._window(tuple(x.shape[1:]))
            last = min((a for a, _, _ in window), default=-1)
            hidden = torch.zeros(x.shape[last:], dtype=torch.bool, device=x.device)
            hidden[tuple(slice(p, p + n) for _, p, n in window)] = True
        return x.masked_fill(hidden, 0)  # not a product: whatever stands under the mask, NaN too, is gone

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self.forward(y)

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        return c  # what is hidden has its place, too

    def _window(self, shape: Shape) -> list[tuple[int, int, int]]:
        """The hidden box: along each of the last axes (axis, start, length), where no image tells."""
        if self.band:
            side, rows = self.band
            return [(-2, shape[-2] - rows if side == "bottom" else 0, rows), (-1, 0, shape[-1])]
        if self.box:
            k = len(self.box) // 2
            if len(shape) <= k:
                raise self._misfit(shape, f"the box has {k} axes; give (top, left, height, width) for pictures")
            return [(i - k, self.box[i], self.box[i + k]) for i in range(k)]
        start, stop = self.start or 0, self.stop or 0
        return [(-1, start, stop - start)]

    @cached_property
    def _hidden(self) -> Tensor:
        """Where an image hides, bool, of the image's axes."""
        with torch.inference_mode(False):  # kept for later, when a backward pass may need it
            return torch.tensor(self.image) == 0


@dataclass(frozen=True)
class RandomMask(View):
    """Another part hidden in every sample.

    A mask per file that hides a `fraction` of the sample. What it hides (`hide`) is

    "box": a box of the picture's proportions; in a video the same one in all frames;
    "moving": in a video, such a box that moves along a line, from one random place to another;
    "gap": a run of samples of a signal, or of whole frames of a video;
    "pixels": pixels, samples or columns, each apart (in a video others in each frame);
    "channels": whole channels, or columns of a vector.

    `apart`: each channel has its own mask. `draw` gives the Mask of one file; the placements are `count` of them,
    fixed by `seed`.
    """

    hide: Annotated[
        Literal["box", "pixels", "moving", "gap", "channels"],
        Doc(
            "what is hidden: a box (in all frames alike), pixels or samples each apart, a box moving through the "
            "frames, a run of samples or frames, whole channels or columns"
        ),
    ] = "box"
    fraction: Annotated[float, Gt(0), Lt(1), Doc("share of the sample that is hidden")] = 0.25
    count: Annotated[int, Ge(1), Le(1000), Doc("masks asked per new sample")] = 4
    seed: Annotated[int, Ge(0), Doc("draws these masks")] = 0
    apart: Annotated[bool, Doc("each channel has its own mask")] = False

    masked = True
    is_fixed = False

    def __post_init__(self) -> None:
        check(self)
        if self.apart and self.hide == "channels":
            raise ArgumentError(self, "apart", "whole channels are hidden: leave it out, or choose another `hide`")

    def shape(self, full: Shape) -> Shape:
        kinds = {"box": (3, 4), "moving": (4,), "gap": (2, 4)}.get(self.hide, (1, 2, 3, 4))
        if len(full) not in kinds:
            names = ["vectors (C,)", "signals (C, L)", "pictures (C, H, W)", "videos (C, T, H, W)"]
            fit = " or ".join(names[k - 1] for k in kinds)
            raise self._misfit(full, f"{self.hide!r} hides parts of {fit}; choose another `hide`")
        values = {"gap": full[1:2], "channels": full[:1]}.get(self.hide, full[1:] or full)
        if math.prod(values) < 2:
            raise self._misfit(full, "it would hide all there is; choose another `hide`")
        return tuple(full)

    def forward(self, x: Tensor) -> Tensor:
        raise self._several()

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        raise self._several()

    def placements(self, full: Shape) -> tuple[View, ...]:
        generator = Generator().manual_seed(self.seed)
        return tuple(self.draw(full, generator) for _ in range(self.count))

    def draw(self, full: Shape, generator: Generator) -> View:
        self.shape(full)
        hide = getattr(self, f"_{self.hide}")
        if not self.apart or len(full) == 1:
            return hide(tuple(full), generator)._fit(full)
        one = (1, *full[1:])
        return Mask(image=torch.cat([hide(one, generator).mask(one) for _ in range(full[0])]))._fit(full)

    def _by_channel(self, full: Shape) -> bool:
        return len(full) == 1 or self.hide == "channels" or (self.apart and full[0] > 1)

    def _box(self, full: Shape, generator: Generator) -> View:
        H, W = full[-2:]
        h, w = self._sides(full)
        return Mask(box=(randint(H - h + 1, generator), randint(W - w + 1, generator), h, w))

    def _moving(self, full: Shape, generator: Generator) -> View:
        T, H, W = full[1:]
        h, w = self._sides(full)
        (t0, l0), (t1, l1) = ((randint(H - h + 1, generator), randint(W - w + 1, generator)) for _ in range(2))
        m = torch.ones(T, H, W, dtype=torch.int)
        for i in range(T):
            part = i / max(T - 1, 1)
            top, left = round(t0 + part * (t1 - t0)), round(l0 + part * (l1 - l0))
            m[i, top : top + h, left : left + w] = 0
        return Mask(image=m)

    def _gap(self, full: Shape, generator: Generator) -> View:
        n = full[1]
        length = min(max(1, round(n * self.fraction)), n - 1)
        start = randint(n - length + 1, generator)
        if len(full) == 2:
            return Mask(start=start, stop=start + length)
        return Mask(box=(start, 0, 0, length, *full[2:]))

    def _pixels(self, full: Shape, generator: Generator) -> View:
        space = full[1:] or full
        n = math.prod(space)
        order = torch.randperm(n, generator=generator, device=generator.device).reshape(space)
        return Mask(image=order >= min(max(1, round(self.fraction * n)), n - 1))

    def _channels(self, full: Shape, generator: Generator) -> View:
        C = full[0]
        order = torch.randperm(C, generator=generator, device=generator.device)
        seen = order >= min(max(1, round(self.fraction * C)), C - 1)
        return Mask(image=seen.reshape(-1, *(1 for _ in full[1:])).expand(full))

    def _sides(self, full: Shape) -> tuple[int, int]:
        """Height and width of the hidden box."""
        H, W = (max(1, round(n * math.sqrt(self.fraction))) for n in full[-2:])
        return H, W


def _band(band: Any) -> tuple[str, int]:
    if isinstance(band, list | tuple) and len(band) == 2 and band[0] in ("bottom", "top"):
        side, rows = band
        if isinstance(rows, int) and not isinstance(rows, bool) and rows >= 1:
            return side, rows
    what = f"must be [bottom, rows] or [top, rows] with at least 1 row, as [bottom, 8]; got {band!r}"
    raise ArgumentError("Mask", "band", what)


def _nested(values: Any) -> Any:
    return tuple(map(_nested, values)) if isinstance(values, list) else values


def _said(window: list[tuple[int, int, int]]) -> str:
    if len(window) == 1:
        (_, start, length), = window  # fmt: skip
        return f"samples {start} to {start + length - 1}"
    *frames, (_, top, height), (_, left, width) = window
    said = f"{height}x{width} pixels at row {top}, column {left}"
    return said + "".join(f" of {length} frames from frame {start} on" for _, start, length in frames)
