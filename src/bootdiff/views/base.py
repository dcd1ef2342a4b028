"""The contract of a view, and what follows from it for all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["Shape", "View", "randint", "set_fields"]

Shape = tuple[int, ...]


class View(ABC):
    """A (partial) isometry A from full samples to the view's space; the fields are constructor arguments and config.

    scale    view coordinates per stored coordinate: A x0 = scale * stored file
    tau      standard deviation of the noise in the stored files, in view coordinates; 0 when they are clean
    masked   some view coordinates are hidden, so the denoiser needs to see the mask
    single   A is one linear map; otherwise it stands for several `placements` and cannot be applied itself

    A view defines `shape`, `_forward` and `_adjoint`; one that is not single defines `placements` and `draw` as well.
    """

    scale: float = 1.0
    tau: float = 0.0
    masked: bool = False
    single: bool = True

    @abstractmethod
    def shape(self, full: Shape) -> Shape:
        """Shape of the view of samples of shape `full`. Raises ValueError, naming the sizes, when they do not fit."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x: (B, *full) -> (B, *shape(full)). Raises ValueError when the sizes do not fit or A is not `single`."""
        self._single_shape(x.shape[1:])
        return self._forward(x)

    def lift(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y: (B, *shape(full)) -> (B, *full). Raises ValueError when sizes do not fit or A is not `single`."""
        shape, given = self._single_shape(full), tuple(y.shape[1:])
        if given != shape:
            raise self._misfit(full, f"their views have shape {shape}, but lift was given {given}; pass (B, *{shape})")
        return self._adjoint(y, tuple(full))

    def placements(self, full: Shape) -> tuple[View, ...]:
        """The single views A_p that share this view's denoiser: (self,), a grid of crops, some masks. Compute once."""
        return (self._fit(full),)

    def draw(self, full: Shape, generator: Generator) -> View:
        """A single view at random, to cut one simulated file with; self where there is nothing to draw."""
        return self._fit(full)

    def mask(self, full: Shape) -> Tensor | None:
        """(1, *space of the view) float32, 1 = observed; None when all is. ValueError when A is not `single`."""
        if not self.masked:
            return None
        self._single_shape(full)
        return self._carry(torch.ones(1, *full[1:]))

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

    def _forward(self, x: Tensor) -> Tensor:
        """A x, the sizes being right."""
        raise NotImplementedError(type(self).__name__)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y, the sizes being right."""
        raise NotImplementedError(type(self).__name__)

    def _carry(self, m: Tensor) -> Tensor:
        """(1, *space) -> (1, *space of the view): mean of m over the coordinates that a view coordinate reads."""
        return self._forward(m[None])[0] / self.scale

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        """(*shape(full)) -> (*full): to each coordinate the value of the view coordinate that reads it, or 0."""
        return self._adjoint(c[None], full)[0] * self.scale

    def _count(self, full: Shape) -> Tensor:
        """(*full): how many placements see each coordinate, 0 where none does."""
        count = torch.zeros(full)
        for view in self.placements(full):
            count += view._spread(torch.ones(view.shape(full)), full).round()
        return count

    def _single_shape(self, full: Sequence[int]) -> Shape:
        if not self.single:
            raise ValueError(
                f"{self} stands for several placements; apply one of placements(full) or of draw(full, ..)"
            )
        return self.shape(tuple(full))

    def _fit(self, full: Shape) -> View:
        """This view, which is known to fit."""
        self.shape(full)
        return self

    def _misfit(self, full: Shape, what: str) -> ValueError:
        return ValueError(f"{self} does not fit samples of shape {tuple(full)}: {what}")


def set_fields(view: View, **values: Any) -> None:
    """Normalize fields of a frozen dataclass, so that equal views compare and hash as equal."""
    for name, value in values.items():
        object.__setattr__(view, name, value)


def randint(n: int, generator: Generator) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, (), generator=generator, device=generator.device))
