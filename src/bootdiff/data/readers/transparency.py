"""Arrays of pictures whose last channel is alpha (RGBA, gray and alpha), treated as folders of pictures are.

The last of 4 channels of 8 bits counts as alpha, and that of 2 or 4 of any type where at least half of its values lie
exactly at the ends of the range, as those of cut-out figures do. With opacity a in [0, 1] and a ground
g = -1 (black) or 1 (white), a colour x in [-1, 1] becomes

    a x + (1 - a) g .
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from bootdiff.data.readers.mask_files import is_opaque
from bootdiff.errors import BootdiffError

__all__ = ["composite", "handle_alpha", "opacity_of"]

_ROWS = 256  # samples looked at at a time


def handle_alpha(
    array: np.ndarray,
    bounds: tuple[float, float] | None,
    bad: dict[int, str],
    alpha: str,
    where: str,
    row: Callable[[int], str],
    on_error: str,
    *,
    own: bool,
) -> str | None:
    """What becomes of the alpha channel of an array (N, *space, C): "white", "black", "drop" or "mask"; None: none.

    bad: samples that cannot be used; where alpha is the mask (`own`), those that are transparent everywhere are added.

    Raises BootdiffError where samples are transparent and nobody says what that means, or there is no alpha for a mask.
    """
    count = array.shape[-1]
    found = _looks(array, bounds) if bounds is not None and count in (2, 4) else None
    if found is None:
        if own:
            raise BootdiffError(f"{where}: its {count} channel(s) hold no alpha, which masks: alpha asks for")
        return None
    opaque, visible = found
    if own:
        hidden = np.flatnonzero(~visible)
        bad |= {int(i): "is transparent everywhere, so that nothing of it is observed" for i in hidden}
        if len(hidden) and on_error == "refuse":
            raise BootdiffError(
                f"{where}: {row(int(hidden[0]))} {bad[int(hidden[0])]}. Remove it, or say on_error: skip."
            )
        return "mask"
    if opaque:
        return "drop"
    if alpha == "refuse":
        raise BootdiffError(
            f"{where}: the last of its {count} channels looks like alpha, and there are transparent pixels; say what "
            "is behind them with alpha: white, black or drop; or, where they are not observed (partial data), masks: "
            f"alpha; or, if all are colours or measurements, channels: {count}"
        )
    return alpha


def _looks(array: np.ndarray, bounds: tuple[float, float]) -> tuple[bool, np.ndarray] | None:
    """Whether an alpha channel is opaque throughout, and which samples are visible anywhere; None: no such channel."""
    low, high = bounds
    visible, ends, opaque = np.zeros(len(array), bool), 0, True
    for start in range(0, len(array), _ROWS):
        part = np.asarray(array[start : start + _ROWS, ..., -1])
        full = part == high
        ends += int((full | (part == low)).sum())
        opaque &= bool(full.all())
        visible[start : start + len(part)] = is_opaque(part - low, high - low).reshape(len(part), -1).any(1)
    usual = array.dtype == np.uint8 and array.shape[-1] == 4
    cut_out = 2 * ends >= array[..., -1].size and visible.any()
    return (opaque, visible) if usual or cut_out else None


def opacity_of(stored: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """(b, *space, C) with alpha last -> opacity (b, *space, 1) in [0, 1]."""
    low, high = bounds
    return (stored[..., -1:].astype(np.float32) - low) / (high - low)


def composite(x: Tensor, opacity: Tensor, ground: str) -> Tensor:
    """x (b, C, *space) in [-1, 1] over white or black; opacity (b, 1, *space)."""
    return opacity * x + (1 - opacity) * (1.0 if ground == "white" else -1.0)
