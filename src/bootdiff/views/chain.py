"""Views of views: A = A_outer A_inner, and files that carry noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Generator, Tensor

from bootdiff.views.base import Shape, View, set_fields
from bootdiff.views.maps import Identity

__all__ = ["Compose", "Observed", "compose", "unmasked"]


class _Chain(View):
    """A = A_outer A_inner."""

    outer: View
    inner: View

    def __post_init__(self) -> None:
        outer, inner = self.outer, self.inner
        set_fields(
            self,
            scale=outer.scale * inner.scale,
            # A_outer keeps white noise white; noise that comes with the outer files is scaled by both
            tau=math.hypot(inner.tau, inner.scale * outer.tau),
            masked=outer.masked or inner.masked,
            position_conditioned=outer.position_conditioned or inner.position_conditioned,
            is_fixed=outer.is_fixed and inner.is_fixed,
        )

    @abstractmethod
    def _chain(self, outer: View, inner: View) -> View:
        """This view with other parts."""

    def shape(self, full: Shape) -> Shape:
        shape = self.outer.shape(self.inner.shape(full))
        if self.inner.masked and self.is_fixed:
            m = self._carry(self._ones(full), full)
            if not ((m == 0) | (m == 1)).all():
                raise self._misfit(full, "it mixes seen and hidden values; mask afterwards, or align the mask's rim")
        return shape

    def placements(self, full: Shape) -> tuple[View, ...]:
        inner = self.inner.placements(full)
        return tuple(self._chain(o, i)._fit(full) for i in inner for o in self.outer.placements(i.shape(full)))

    def draw(self, full: Shape, generator: Generator) -> View:
        inner = self.inner.draw(full, generator)
        return self._chain(self.outer.draw(inner.shape(full), generator), inner)._fit(full)

    @property
    def n_offsets(self) -> int:
        return self.inner.n_offsets + self.outer.n_offsets

    def _moved(self, offset: Sequence[int]) -> View:
        n = self.inner.n_offsets
        return self._chain(self.outer._moved(offset[n:]), self.inner._moved(offset[:n]))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y, self.inner.shape(full)), full)

    def _carry(self, m: Tensor, full: Shape) -> Tensor:
        return self.outer._carry(self.inner._carry(m, full), self.inner.shape(full))

    def _locate(self, c: Tensor, full: Shape) -> Tensor:
        return self.outer._locate(self.inner._locate(c, full), self.inner.shape(full))

    def _positions(self, full: Shape) -> Tensor:
        """The outer view says where it lies in the inner one, which says where that lies in the full sample."""
        shape = self.inner.shape(full)
        first = [self.outer._locate(c[None], shape) for c in self.inner._positions(full)]
        return torch.cat([*first, self.outer._positions(shape)])

    def _by_channel(self, full: Shape) -> bool:
        return self.inner._by_channel(full) or self.outer._by_channel(self.inner.shape(full))


@dataclass(frozen=True)
class Compose(_Chain):
    """A = A_outer A_inner, the view of a view; `compose(first, ..., last)` builds it in the order of application.

    A_outer must not mix what A_inner shows with what it hides: a block mean over the rim of a mask is no partial
    isometry, and `shape` raises ValueError. Downsample first, then mask.
    """

    outer: View
    inner: View

    def _chain(self, outer: View, inner: View) -> View:
        return Compose(outer, inner)


@dataclass(frozen=True)
class Observed(_Chain):
    """`view` with files that carry white noise, A x0 / scale + std * n; `std` in stored coordinates, tau = scale * std.

    The denoiser of such a view is trained at sigma >= tau and has no say below.
    """

    view: View
    std: float

    outer = Identity()

    def __post_init__(self) -> None:
        set_fields(self, inner=self.view, std=float(self.std))
        super().__post_init__()
        set_fields(self, tau=math.hypot(self.tau, self.scale * self.std))
        if not 0 <= self.std < math.inf:
            raise ValueError(f"{self}: std must be >= 0, the noise's deviation in stored coordinates [-1, 1]")

    def _chain(self, outer: View, inner: View) -> View:
        return Observed(inner, self.std)


def compose(*views: View) -> View:
    """The view of a view: `views` are applied from left to right; the identity if there are none.

    >>> from bootdiff.views import ChannelMix, Downsample
    >>> compose(ChannelMix.gray(), Downsample(4)).shape((3, 32, 32))
    (1, 8, 8)
    """
    return reduce(lambda inner, outer: Compose(outer, inner), views) if views else Identity()


def unmasked(view: View) -> View:
    """The view with each mask that is drawn per file left out: files bring theirs.

    >>> from bootdiff.views import Downsample, RandomMask
    >>> unmasked(compose(Downsample(2), RandomMask())).is_fixed
    True
    """
    if isinstance(view, Compose):
        return Compose(unmasked(view.outer), unmasked(view.inner))
    if isinstance(view, Observed):
        return Observed(unmasked(view.view), view.std)
    return Identity() if view.masked and not view.is_fixed else view
