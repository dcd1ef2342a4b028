"""The laws of a view, tried on random numbers: what any `View` must keep for its denoiser to be asked rightly.

    shape     A: (B, *full) -> (B, *shape(full)), A^T back, in the dtype that they are given
    linear    A (x + 2 x') = A x + 2 A x'
    adjoint   <A x, y> = <x, A^T y>
    isometry  A A^T = I: A n is white for white n; where the view is `masked`, A A^T = diag(m), so A A^T A = A

One draw of x, x' and y tells: a map that breaks a law keeps it on random numbers with probability 0, up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bootdiff.views.base import Shape, View

__all__ = ["check_view"]

_TOLERANCE = 1e-9
_PLACEMENTS = 4  # of a view with many: the first, the last and some between


def check_view(view: View, full: Shape) -> None:
    """Try the laws on a view of samples of shape `full`, in float64; on a few of its placements where it has many.

    >>> from bootdiff.views import Downsample
    >>> check_view(Downsample(4), (3, 32, 32))

    Raises:
        ValueError: a law that does not hold; it names the view, the law and by how much it fails.
    """
    full = tuple(full)
    if view.is_fixed:
        return _check(view, full)
    placements = view.placements(full)
    steps = min(_PLACEMENTS, len(placements))
    if not steps:
        raise _broken(view, full, "shape", "`placements` gives none")
    chosen = [placements[round(k * (len(placements) - 1) / max(steps - 1, 1))] for k in range(steps)]
    for one in (*chosen, view.draw(full, torch.Generator().manual_seed(0))):
        if not one.is_fixed:
            raise _broken(view, full, "shape", f"its placement {one} stands for several itself")
        if tuple(one.shape(full)) != tuple(view.shape(full)):
            raise _broken(view, full, "shape", f"its placement {one} has another: {tuple(one.shape(full))}")
        _check(one, full)


def _check(view: View, full: Shape) -> None:
    shape = tuple(view.shape(full))
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise _broken(view, full, "shape", f"`shape` gives {shape}, not whole numbers of at least 1")
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(2, *full, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    Ax, Ay = view.forward(x.clone()), view.adjoint(y.clone(), full)
    for name, found, wanted in (("forward", Ax, y), ("adjoint", Ay, x)):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            what = f"`{name}` gives {tuple(found.shape)} {found.dtype}, not {tuple(wanted.shape)} {wanted.dtype}"
            raise _broken(view, full, "shape", f"{what} (the batch is 2)")
    # The sum over a few thousand numbers may cancel, so its error is measured against what it is a sum of.
    apart = float(((Ax * y).sum() - (x * Ay).sum()).abs() / (Ax.norm() * y.norm()).clamp(min=1e-12))
    _hold(
        view, full, "linear", "A (x + 2 x') = A x + 2 A x'", view.forward(x + 2 * other), Ax + 2 * view.forward(other)
    )
    if not apart <= _TOLERANCE:
        raise _broken(view, full, "adjoint", f"<A x, y> = <x, A^T y> fails by {apart:.2g} of |A x| |y|")
    AAy = view.forward(Ay)
    if not view.masked:
        return _hold(view, full, "isometry", "A A^T y = y", AAy, y)
    _hold(view, full, "isometry", "A A^T A x = A x", view.forward(view.adjoint(Ax, full)), Ax)
    m = view.mask(full)
    assert m is not None
    _hold(view, full, "isometry", "A A^T y = m y, m its mask of 0 and 1", AAy, m.double().round().clamp(0, 1) * y)


def _hold(view: View, full: Shape, law: str, formula: str, found: Tensor, wanted: Tensor) -> None:
    apart = float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))
    if not apart <= _TOLERANCE:
        raise _broken(view, full, law, f"{formula} fails by {apart:.2g} of its norm")


def _broken(view: View, full: Shape, law: str, what: str) -> ValueError:
    return ValueError(f"{view}, samples of shape {full}: the law '{law}' does not hold: {what}")
