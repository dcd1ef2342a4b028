"""The contract of a view, and what follows from it for all of them.

Three methods define one: `shape`, `forward` (A x) and `adjoint` (A^T y).  What else is asked of a view follows, for any
A, from what A does to a few numbers: with y > 0 drawn at random, almost surely

    (A^T y)_j = 0                      exactly where no view coordinate reads x_j,
    (A diag(m) A^T y)_i / y_i = 1, 0   exactly where view coordinate i reads only what m shows, only what it hides,

and with m = 1 the latter is the view's own mask, as A A^T = diag(mask).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.spec import arguments_of

__all__ = ["ArgumentError", "PerChannel", "Shape", "View", "coordinates", "randint", "set_fields"]

Shape = tuple[int, ...]


class ArgumentError(ValueError):
    """An argument of a view that cannot be: `name` says which (None: several together), `what` is wrong with it."""

    def __init__(self, view: View | str, name: str | None, what: str) -> None:
        super().__init__(f"{view}: {what}" if name is None else f"{view}: {name}: {what}")
        self.name, self.what = name, what


class View(ABC):
    """A (partial) isometry A from full samples to the view's space.

    A view of your own is a class with the three methods `shape`, `forward` and `adjoint`; `check_view` tries them.
    To be saved it keeps each argument of its constructor as an attribute of that name, as a dataclass does.

        class Mirrored(View):                            # files that were stored upside down
            def shape(self, full):
                return full
            def forward(self, x):
                return x.flip(-2)
            def adjoint(self, y, full):
                return y.flip(-2)

    These attributes, of the class or of the object, say more:

    scale                 view coordinates per stored coordinate: A x0 = scale * stored file
    tau                   standard deviation of the noise in the stored files, in view coordinates; 0: they are clean
    masked                some view coordinates are hidden, so the denoiser needs to see the mask
    position_conditioned  the denoiser is told where in the full sample each placement lies (`position_channels`)
    is_fixed              A is one linear map; otherwise it stands for several: define `placements` and `draw`, too
    """

    scale: float = 1.0
    tau: float = 0.0
    masked: bool = False
    position_conditioned: bool = False
    is_fixed: bool = True

    def __str__(self) -> str:
        """The kind and what was given, as messages name it."""
        given = arguments_of(self, missing_ok=True)
        image = given.pop("image", None)
        said = [f"{k}={v}" for k, v in given.items() if v is not None and v is not False]
        return f"{type(self).__name__}({', '.join(said if image is None else ['image', *said])})"

    @abstractmethod
    def shape(self, full: Shape) -> Shape:
        """Shape of the view of samples of shape `full`, both without the batch and channels first.

        Raises ValueError, naming the sizes, when they do not fit.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, *full) -> (B, *shape(full)), in the dtype and on the device of x; the sizes are right."""

    @abstractmethod
    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y: (B, *shape(full)) -> (B, *full), in the dtype and on the device of y; the sizes are right."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x: (B, *full) -> (B, *shape(full)). Raises ValueError when the sizes do not fit or A is not `is_fixed`."""
        self._single_shape(x.shape[1:])
        return self.forward(x)

    def lift(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y: (B, *shape(full)) -> (B, *full). Raises ValueError when sizes do not fit or A is not `is_fixed`."""
        self._check_lift(y, full)
        return self.adjoint(y, tuple(full))

    def lift_onto(self, total: Tensor, y: Tensor) -> None:
        """total + A^T y, in place: total (B, *full), y (B, *shape(full)). A window touches its own coordinates only.

        Raises ValueError as `lift` does.
        """
        self._check_lift(y, total.shape[1:])
        self._add(total, y)

    def placements(self, full: Shape) -> tuple[View, ...]:
        """The single views A_p that share this view's denoiser: (self,), a grid of crops, some masks. Compute once."""
        return (self._alone()._fit(full),)

    def draw(self, full: Shape, generator: Generator) -> View:
        """A single view at random, to cut one simulated file with; self where there is nothing to draw."""
        return self._alone()._fit(full)

    def mask(self, full: Shape) -> Tensor | None:
        """1 = observed: (1, *space of the view) float32, or (C, *space of the view) where it differs between channels,
        and (C,) for vectors; None when all is. ValueError when A is not `is_fixed`."""
        if not self.masked:
            return None
        self._single_shape(full)
        return self._carry(self._ones(full), full)

    def position_channels(self, full: Shape) -> Tensor | None:
        """Where the view's coordinates lie along each axis that the denoiser is told of: (axes, *space of the view)
        float32 in (-1, 1), the full sample reaching from -1 to 1; None unless `position_conditioned`. ValueError when A
        is not `is_fixed`."""
        if not self.position_conditioned:
            return None
        self._single_shape(full)
        return self._positions(full)

    def context(self, full: Shape) -> Tensor | None:
        """What the denoiser sees beside its sample, (c, *space of the view): the mask, then the place; None if neither.

        ValueError when A is not `is_fixed`.
        """
        parts = [p for p in (self.mask(full), self.position_channels(full)) if p is not None]
        return torch.cat(parts) if parts else None

    def pace(self, full: Shape) -> float | None:
        """Frames of a full video, or values of a signal, from one of the view's to the next; None without a next one.

        >>> from bootdiff.views import FrameStride, FrameWindow
        >>> FrameWindow(4).pace((3, 12, 8, 8)), FrameStride(3).pace((3, 12, 8, 8))
        (1.0, 3.0)
        """
        seen, axis = self.shape(full), {2: -1, 4: -3}.get(len(full))
        if axis is None or len(seen) != len(full) or seen[axis] < 2:
            return None
        times = self.placements(full)[0]._locate(coordinates(full, axis), full).movedim(axis, 0).flatten(1)[:, 0]
        return round(float(times[1] - times[0]) * full[axis] / 2, 6)

    @property
    def n_offsets(self) -> int:
        """How many whole numbers say where a file lies, of what the denoiser is told: the arguments of `at`."""
        return 0

    def at_offset(self, *offset: int) -> View:
        """This view at the place that its `n_offsets` offsets say. Raises ValueError for more or fewer numbers."""
        if len(offset) != self.n_offsets:
            raise ValueError(f"{self}: {self.n_offsets} number(s) say where a file lies, got {offset}")
        return self._moved(offset)

    def _moved(self, offset: Sequence[int]) -> View:
        return self

    def coverage(self, full: Shape) -> Tensor:
        """(*full) float32: how many placements see each coordinate, and 1 where none does (it is a divisor)."""
        return self._count(full).clamp(min=1)

    def rank(self, full: Shape) -> int:
        """Dimension of the row space of A; of all placements together, which have equal ranks per coordinate seen."""
        count, rows = self._count(full), 0.0
        for view in self.placements(full):
            m = view.mask(full)
            rows += math.prod(view.shape(full)) * (1.0 if m is None else m.double().mean().item())
        return round((count > 0).sum().item() * rows / max(count.sum().item(), 1))

    def _add(self, total: Tensor, y: Tensor) -> None:
        """total + A^T y, in place, the sizes being right."""
        total += self.adjoint(y, tuple(total.shape[1:]))

    def _carry(self, m: Tensor, full: Shape) -> Tensor:
        """What a mask m of samples (1 or C, *space) shows of the view's coordinates, (1 or its C, *its space): 1 where
        one reads only what is seen, 0 where only what is hidden, something else where both."""
        y = _positive(self.shape(full))
        found = self.forward(m * self.adjoint(y, full))[0] / y[0]
        whole = found.round()
        found = torch.where((found - whole).abs() < 1e-3, whole, found)
        alike = len(full) > 1 and len(m) == 1 and bool((found == found[:1]).all())
        return found[:1] if alike else found

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        """(1, *space) -> (1, *space of the view): mean of c over the coordinates that each one reads, as A weighs them;
        0 where the weights cancel."""
        total = self.forward(torch.ones(1, *full))[0, :1]
        found = self.forward(c.expand(full)[None].contiguous())[0, :1]
        return torch.where(total.abs() > 1e-6, found / total, 0)

    def _positions(self, full: Shape) -> Tensor:
        """`position_channels`, with no axes where nothing is told."""
        return torch.zeros(0, *self.shape(full)[1:])

    def _by_channel(self, full: Shape) -> bool:
        """Whether the mask may differ between channels, as it does for vectors."""
        return len(full) == 1

    def _ones(self, full: Shape) -> Tensor:
        """The mask that hides nothing of samples of shape `full`, with as many channels as this view's mask needs."""
        return torch.ones(full) if self._by_channel(full) else torch.ones(1, *full[1:])

    def _sees(self, full: Shape) -> Tensor:
        """(*full) float32: 1 where some view coordinate reads, 0 elsewhere."""
        lifted = self.adjoint(_positive(self.shape(full)), full)[0].abs()
        return (lifted > 1e-6 * lifted.max()).float()

    def _count(self, full: Shape) -> Tensor:
        """(*full): how many placements see each coordinate, 0 where none does."""
        count = torch.zeros(full)
        for view in self.placements(full):
            count += view._sees(full)
        return count

    def _alone(self) -> View:
        if not self.is_fixed:
            raise ValueError(f"{self} stands for several placements; its class must define `placements` and `draw`")
        return self

    def _single_shape(self, full: Sequence[int]) -> Shape:
        if not self.is_fixed:
            raise self._several()
        return self.shape(tuple(full))

    def _check_lift(self, y: Tensor, full: Sequence[int]) -> None:
        shape, given = self._single_shape(full), tuple(y.shape[1:])
        if given != shape:
            raise self._misfit(full, f"their views have shape {shape}, but lift was given {given}; pass (B, *{shape})")

    def _fit(self, full: Shape) -> View:
        """This view, which is known to fit."""
        self.shape(full)
        return self

    def _several(self) -> ValueError:
        return ValueError(f"{self} stands for several placements; apply one of placements(full) or of draw(full, ..)")

    def _misfit(self, full: Sequence[int], what: str) -> ValueError:
        return ValueError(f"{self} does not fit samples of shape {tuple(full)}: {what}")


class PerChannel(View):
    """A view that treats all channels alike, with equal weights: its masks need one channel only."""

    def _carry(self, m: Tensor, full: Shape) -> Tensor:
        return self.forward(m[None])[0] / self.scale

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        return self.forward(c[None])[0] / self.scale


def set_fields(view: View, **values: Any) -> None:
    """Normalize fields of a frozen dataclass, so that equal views compare and hash as equal."""
    for name, value in values.items():
        object.__setattr__(view, name, value)


def coordinates(full: Shape, axis: int) -> Tensor:
    """(1, *space): how far along `axis` (counted from the end) each coordinate lies, centred, in (-1, 1).

    >>> coordinates((3, 4), -1)
    tensor([[-0.7500, -0.2500,  0.2500,  0.7500]])
    """
    n = full[axis]
    c = (2 * torch.arange(n) + 1) / n - 1
    return c.reshape(-1, *(1,) * (-axis - 1)).expand(1, *full[1:]).clone()


def randint(n: int, generator: Generator) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, (), generator=generator, device=generator.device))


def _positive(shape: Shape) -> Tensor:
    """(1, *shape), float32: numbers between 1 and 2, always the same."""
    return 1 + torch.rand(1, *shape, generator=Generator().manual_seed(0), dtype=torch.float32)
