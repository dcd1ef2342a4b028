"""Pictures and frames of many sizes brought to one, by averages over areas.

A pixel i of the result covers the stretch

    [start + i step, start + (i + 1) step]        of an axis of n pixels (n' in the result),

of the file, and is its average there: pixels count by how much of them lies inside. The stretches are

    resize   start = 0, step = n / n', each axis for itself: all is seen, proportions change
    crop     one step for both axes, the smaller of the two n / n': what is too long is cut off at both ends alike
    pad      one step for both axes, the larger one: all is seen, what lies beyond the file is not observed

Averages of averages are averages: a thumbnail that was made straight from the file, fitted by the same rule to its own
size, is the block average of the fitted picture, as the view `downsample` says. Filters with negative weights (Lanczos)
are sharper and do not have this. Steps below 1 would invent pixels, so what is too small is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from bootdiff.errors import BootdiffError
from bootdiff.views import (
    ChannelMix,
    Compose,
    Downsample,
    FrameStride,
    FrameWindow,
    Identity,
    Mask,
    Observed,
    Pick,
    RandomMask,
    Stills,
    View,
)

__all__ = ["Fitting", "fit_hint", "size_through"]

_WHOLE = (Identity, Downsample, Mask, RandomMask, ChannelMix, Pick, FrameWindow, FrameStride, Stills)


@dataclass
class Fitting:
    """How pictures are brought to `size`, (height, width); ``done`` counts what was done, ``sizes`` the files' own.

    how: "resize", "crop" or "pad". A video's frames are one file's pictures, all of one size.
    """

    how: str
    size: tuple[int, int]
    done: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def of(cls, how: str, size: Sequence[int] | None, where: str) -> Fitting | None:
        """None for "refuse". Raises BootdiffError where there is no size to fit to."""
        if how == "refuse":
            return None
        if size is None:
            raise BootdiffError(f"{where}: fit: {how} does not say to which size; add size: [height, width]")
        return cls(how, (int(size[0]), int(size[1])))

    def problem(self, found: Sequence[int]) -> str | None:
        """Why a picture of (height, width) `found` cannot be fitted; None where it can."""
        if min(self._steps(found)) >= 1:
            return None
        return (
            f"is {found[0]} x {found[1]} pixels (height x width), too small for {self.size[0]} x {self.size[1]} "
            f"with fit: {self.how}; pictures are never enlarged, so leave it out or ask for less"
        )

    def count(self, found: Sequence[int]) -> None:
        """Note what becomes of a picture of this size."""
        self.sizes[(found[0], found[1])] += 1
        steps = self._steps(found)
        covered = [n / (m * s) for n, m, s in zip(found, self.size, steps)]
        words = ["resized"] if max(steps) > 1 else []
        if max(covered) > 1:
            words.append("cropped")
        if min(covered) < 1:
            words.append("padded")
        self.done[" and ".join(words) or "as they were"] += 1

    @property
    def masks(self) -> bool:
        """Whether some of what is fitted may not be observed."""
        return self.how == "pad"

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (h, w, C) in the same type, integers rounded; what was not there is 0."""
        if pixels.shape[:2] == self.size:
            return pixels
        if min(self._steps(pixels.shape)) == max(self._steps(pixels.shape)) == 1:
            return self._moved(pixels)
        deep = pixels.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
        rows, columns = (w.astype(deep.dtype) for w, _ in self._weights(pixels.shape[:2]))
        part = (rows @ deep.reshape(len(deep), -1)).reshape(self.size[0], *deep.shape[1:])
        turned = np.moveaxis(part, 1, 0)
        done = np.moveaxis((columns @ turned.reshape(len(turned), -1)).reshape(self.size[1], *turned.shape[1:]), 0, 1)
        if pixels.dtype.kind in "biu":
            done = np.floor(done + 0.5)
        return np.ascontiguousarray(done.astype(pixels.dtype))

    def mask(self, found: Sequence[int], mask: np.ndarray | None = None) -> np.ndarray:
        """Which pixels of the result are observed, (h, w) bool: those all of whose area is.

        found: (height, width) of the file. mask: (H, W) bool, what is observed of it; None for all.
        """
        (rows, whole_rows), (columns, whole_columns) = self._weights(found)
        inside = whole_rows[:, None] & whole_columns[None]
        if mask is None:
            return inside
        share = (columns @ (rows @ mask.astype(np.float64)).T).T
        return inside & (share > 1 - 1e-6)

    def said(self) -> list[str]:
        """What was done, for people."""
        counts = ", ".join(f"{n} {what}" for what, n in self.done.most_common())
        return [f"{counts} (fit: {self.how} to {self.size[0]} x {self.size[1]}; {_sizes_met(self.sizes)})"]

    def _steps(self, found: Sequence[int]) -> tuple[float, float]:
        steps = found[0] / self.size[0], found[1] / self.size[1]
        if self.how == "resize":
            return steps
        one = min(steps) if self.how == "crop" else max(steps)
        return one, one

    def _starts(self, found: Sequence[int]) -> tuple[float, float]:
        steps = self._steps(found)
        starts = [(n - m * s) / 2 for n, m, s in zip(found, self.size, steps)]
        if max(steps) == 1:
            # Nothing is averaged: half a pixel would blur all of it.
            starts = [float(np.floor(s)) for s in starts]
        return starts[0], starts[1]

    def _weights(self, found: Sequence[int]) -> list[tuple[sparse.csr_array, np.ndarray]]:
        """Of each axis the weights (n', n), and which pixels of the result lie in the file altogether."""
        return [
            _weights(n, m, start, step)
            for n, m, start, step in zip(found, self.size, self._starts(found), self._steps(found))
        ]

    def _moved(self, pixels: np.ndarray) -> np.ndarray:
        """Cut or padded by whole pixels."""
        out = np.zeros((*self.size, pixels.shape[2]), pixels.dtype)
        source, target = [], []
        for n, m, start in zip(pixels.shape, self.size, map(int, self._starts(pixels.shape))):
            source.append(slice(max(start, 0), min(start + m, n)))
            target.append(slice(max(-start, 0), min(n - start, m)))
        out[tuple(target)] = pixels[tuple(source)]
        return out


def _weights(n: int, m: int, start: float, step: float) -> tuple[sparse.csr_array, np.ndarray]:
    low = start + step * np.arange(m)
    high = low + step
    first = np.floor(low + 1e-9).astype(int)
    width = int(np.ceil(step)) + 1
    index = first[:, None] + np.arange(width)[None]
    overlap = np.clip(np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index), 0, None)
    overlap[(index < 0) | (index >= n) | (overlap < 1e-9)] = 0
    sums = overlap.sum(1)
    weights = overlap / np.maximum(sums, 1e-12)[:, None]
    rows = np.repeat(np.arange(m), width)
    kept = weights.ravel() > 0
    matrix = sparse.csr_array((weights.ravel()[kept], (rows[kept], index.ravel()[kept])), shape=(m, n))
    return matrix, sums > step * (1 - 1e-6)


def _sizes_met(sizes: Counter[tuple[int, int]], most: int = 5) -> str:
    """How many pictures there are of which size, height x width, the frequent ones first.

    >>> _sizes_met(Counter({(8, 10): 3, (4, 4): 1}))
    '8 x 10 (3 files), 4 x 4 (1)'
    """
    shown = sizes.most_common(most)
    unit = ["" if not shown else " file" if shown[0][1] == 1 else " files", *[""] * most]
    said = [f"{h} x {w} ({n}{unit[i]})" for i, ((h, w), n) in enumerate(shown)]
    rest = len(sizes) - len(shown)
    return ", ".join(said) + (f" and {rest} other sizes" if rest else "")


def fit_hint(sizes: Counter[tuple[int, int]]) -> str:
    """What to say to those whose pictures are of these sizes and cannot be used so; "" where they are all of one."""
    if len(sizes) < 2:
        return ""
    return (
        f" The sizes are {_sizes_met(sizes)}. They are brought to one by size: [height, width] with "
        "fit: resize, crop or pad."
    )


def size_through(view: View | None, full: Sequence[int], how: str, where: str) -> tuple[int, int]:
    """The size that a view's files of many sizes are fitted to: (height, width) of the view of a full sample.

    Args:
        view: what the files show; None: all of a full sample.
        full: shape of a full sample, (C, H, W) or (C, T, H, W).
        how: the rule, as in `Fitting`.
        where: what messages call the key.

    Raises:
        BootdiffError: the view does not show whole pictures, has noise, or hides the same pixels of every file, which
            would not be the same ones any more.
    """
    if view is None:
        return int(full[-2]), int(full[-1])
    parts = list(_parts(view))
    other = next((part for part in parts if not isinstance(part, _WHOLE)), None)
    if other is not None:
        raise BootdiffError(
            f"{where}: the view {other} does not show whole pictures, so nothing says how much its files are to be "
            "shrunk; bring them to the scale of the full samples yourself, and leave fit out"
        )
    if view.tau > 0:
        raise BootdiffError(
            f"{where}: shrinking averages the files' noise away, in each size otherwise; shrink them yourself, "
            "measure the noise that is left (std), and leave fit out"
        )
    if how != "resize" and any(isinstance(part, Mask) for part in parts):
        raise BootdiffError(
            f"{where}: with fit: {how} the mask does not lie at the same place in files of different proportions; give "
            "each file its own (masks: true, view: random_mask), or say fit: resize"
        )
    shape = view.shape(tuple(full))
    return int(shape[-2]), int(shape[-1])


def _parts(view: View) -> Iterator[View]:
    if isinstance(view, Compose | Observed):
        yield from (*_parts(view.inner), *([] if isinstance(view, Observed) else _parts(view.outer)))
    else:
        yield view
