"""Finding what hides the same pixels in many images (a logo, a watermark, a band), and text that changes.

*Static overlays.*  With a share a(p) of an overlay of values w(p), an image is x(p) = (1 - a) x0(p) + a w(p).  Over
many images, x0 changes and the overlay does not.  Four statistics show it (Dekel et al. 2017, "On the effectiveness of
visible watermarks", sections 3.1 and 3.2, take the gradients' medians; means serve as well here):

    still     the spread of x(p) over the images is almost zero (a = 1), at a value that is not the background's
    shift     the mean has steps as large as single images have: E g / std g, g the difference of neighbouring pixels,
              is below 0.5 in photographs without an overlay, and about (w - E x0) / std x0 at its edge
    spread    the logarithm of the spread has steps: log(1 - a) at edges
    strokes   the logarithm of the mean squared gradient has steps: different text at one place in every image

A map's steps above a threshold are kept, the others set to 0, and the map that has only these steps is solved for
(Poisson's equation, Neumann boundaries); what differs from the rest of the image there is the overlay, if most of its
edge consists of such steps.  The threshold is a multiple of the steps that the image's bulk has.  Where the samples
are aligned, such as small digits, the bulk itself has such steps; then this statistic is left out.

*Text that changes.*  Strokes are what an opening (dark ones: a closing) by a small square removes, if the difference is
large: thin, of high contrast.  Rows of an image that hold far more strokes than the images' rows usually do, many of
them side by side, of one value, are a line of text; a flat box around it belongs to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["LEAST_FILES", "Overlay", "Usual", "find_overlay", "find_text", "usual_strokes"]

LEAST_FILES = 16
"""With fewer images, nothing can be said about static overlays."""

# Least step, and above which typical step a statistic is left out.
_SHIFT, _SPREAD, _STROKES = (0.7, 1.5), (0.33, 0.8), (0.5, 1.2)


@dataclass(frozen=True)
class Overlay:
    """A static overlay.

    hidden: (H, W) bool, True where an overlay lies. mean, deviation: over the images, (C, H, W) and (H, W). by: number
    of pixels that each statistic found. left_out: statistics that are not usable here.
    """

    hidden: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    by: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def find_overlay(x: np.ndarray) -> Overlay:
    """The static overlay of images x (N, C, H, W), floats in [-1, 1].

    Raises:
        ValueError: fewer than `LEAST_FILES` images, or other shapes.
    """
    if x.ndim != 4 or len(x) < LEAST_FILES:
        raise ValueError(f"find_overlay needs at least {LEAST_FILES} images (N, C, H, W), got {x.shape}")
    n = len(x)
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64).max(0)
    found = {"still": _still(x)}
    maps: dict[str, np.ndarray | None] = {
        "shift": _shift(x, mean),
        "spread": _steps(np.log(np.maximum(deviation, 0.1 * _typical(deviation))), _SPREAD, 3 / math.sqrt(n)),
        "strokes": _steps(_gradients(x), _STROKES, 3 / math.sqrt(n)),
    }
    found |= {name: where for name, where in maps.items() if where is not None}
    hidden = np.zeros(x.shape[2:], bool)
    by = {}
    for name, where in found.items():
        where = _regions(where, close=name == "still")
        if name == "strokes":
            # Gradients reach a pixel beyond the edge that the others have found exactly.
            where = _apart(where, hidden)
        by[name] = int(where.sum())
        hidden |= where
    hidden = _filled(hidden)  # holes that one statistic leaves in a band, others may close
    if hidden.mean() > 0.6:
        # This is not an overlay: it covers most of the image.
        hidden, by = np.zeros_like(hidden), dict.fromkeys(by, 0)
    return Overlay(hidden, mean, deviation, by, tuple(name for name, where in maps.items() if where is None))


# --- statistics of static overlays ------------------------------------------------------------------------------------


def _typical(values: np.ndarray) -> float:
    above = values[values > 0]
    return float(np.median(above)) if len(above) else 1e-3


def _still(x: np.ndarray) -> np.ndarray:
    """Pixels whose values hardly change, and are not a background that the rest has too."""
    low, high = (np.empty(x.shape[1:]) for _ in range(2))
    for row in range(x.shape[2]):  # row by row: quantiles copy their input
        low[:, row], high[:, row] = np.quantile(x[:, :, row], [0.16, 0.84], axis=0)
    spread = ((high - low) / 2).max(0)
    usual = float(np.median(spread)) or _typical(x.std(0).max(0))
    still = spread < 0.15 * usual
    rest = x[:: max(1, len(x) // 200)][:, :, ~still]
    if not still.any() or not rest.size:
        return np.zeros_like(still)
    values = np.median(x[:, :, still], axis=0)
    # Values equal to one step of 8 bits are looked up once.
    _, first, back = np.unique(np.round(values * 127.5).T, axis=0, return_index=True, return_inverse=True)
    # A background is behind many pixels, that of a caption behind its letters only.
    share = [float(np.quantile((np.abs(rest - values[:, i][None, :, None]).max(1) < 0.04).mean(0), 0.7)) for i in first]
    out = np.zeros_like(still)
    out[still] = np.asarray(share)[back.reshape(-1)] < 0.05
    return out


def _shift(x: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """Where the mean differs from its surroundings by steps that single images have."""
    steps, size = [], []
    for axis in (1, 2):
        g = np.diff(mean, axis=axis)
        variance = np.zeros(g.shape)
        for part in np.array_split(x, max(1, x.size // 2**24)):
            variance += ((np.diff(part, axis=axis + 1) - g) ** 2).sum(0)
        steps.append(g)
        size.append(np.sqrt((g**2).sum(0) / ((variance / len(x)).sum(0) + 1e-4)))
    return _solved(steps, size, _SHIFT, 4 / math.sqrt(len(x)))


def _gradients(x: np.ndarray) -> np.ndarray:
    """Logarithm of the root mean square of each pixel's steps to its neighbours, (H, W)."""
    total, count = np.zeros(x.shape[2:]), np.zeros(x.shape[2:])
    for axis in (0, 1):
        square = np.zeros(np.diff(total, axis=axis).shape)
        for part in np.array_split(x, max(1, x.size // 2**24)):
            square += (np.diff(part, axis=axis + 2) ** 2).sum(0).max(0)
        for end in (slice(None, -1), slice(1, None)):
            at = (end, slice(None)) if axis == 0 else (slice(None), end)
            total[at] += square / len(x)
            count[at] += 1
    rms = np.sqrt(total / count)
    return np.log(np.maximum(rms, 0.1 * _typical(rms)))


def _steps(values: np.ndarray, limits: tuple[float, float], noise: float) -> np.ndarray | None:
    """Where a map (H, W) differs from its surroundings by steps."""
    steps = [np.diff(values, axis=axis)[None] for axis in (0, 1)]
    return _solved(steps, [np.abs(g[0]) for g in steps], limits, noise)


def _solved(
    steps: list[np.ndarray], size: list[np.ndarray], limits: tuple[float, float], noise: float
) -> np.ndarray | None:
    """Where the map that has only the large steps differs from most of itself; None where the bulk has such steps.

    steps: along height (C, H - 1, W) and width (C, H, W - 1). size: how large each is, (H - 1, W) and (H, W - 1).
    """
    every = np.concatenate([s.ravel() for s in size])
    bulk = max(b * float(q) for b, q in zip((6, 2.5, 2), np.quantile(every, [0.5, 0.8, 0.9]), strict=True))
    least = max(limits[0], bulk, noise)
    height, width = size[1].shape[0], size[0].shape[1]
    if bulk > limits[1]:
        return None
    large = [s > least for s in size]
    rim = np.zeros((height, width), bool)
    rim[:-1] |= large[0]
    rim[1:] |= large[0]
    rim[:, :-1] |= large[1]
    rim[:, 1:] |= large[1]
    if rim.sum() < 3:
        return np.zeros_like(rim)
    w = _poisson(steps[0] * large[0], steps[1] * large[1])
    w = w - np.median(w, axis=(1, 2), keepdims=True)
    away = np.sqrt((w**2).mean(0))
    away /= np.quantile(away[rim], 0.9)
    cuts = [away > level for level in (0.3, 0.4, 0.5, 0.6, 0.7)]
    best = max(cuts, key=lambda cut: _rimmed(cut, large))
    return _filter(best, lambda part: _rimmed(part, large) > 0.5)


def _rimmed(where: np.ndarray, large: list[np.ndarray]) -> float:
    """Share of the edge of a region, inside the image, that consists of large steps."""
    rims = [np.diff(where, axis=axis) for axis in (0, 1)]
    return sum((r & l).sum() for r, l in zip(rims, large, strict=True)) / max(1, sum(r.sum() for r in rims))


def _poisson(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The map (C, H, W), of mean 0, whose steps are nearest to these in least squares."""
    from scipy.fft import dctn, idctn

    channels, height, width = right.shape[0], right.shape[1], down.shape[2]
    divergence = np.zeros((channels, height, width))
    divergence[:, :-1] += down
    divergence[:, 1:] -= down
    divergence[:, :, :-1] += right
    divergence[:, :, 1:] -= right
    waves = [2 * np.cos(np.pi * np.arange(k) / k) - 2 for k in (height, width)]
    laplace = waves[0][:, None] + waves[1]
    laplace[0, 0] = 1
    transformed = dctn(divergence, axes=(1, 2), norm="ortho") / laplace
    transformed[:, 0, 0] = 0
    return idctn(transformed, axes=(1, 2), norm="ortho")


# --- regions ----------------------------------------------------------------------------------------------------------

_AROUND = np.ones((3, 3), bool)


def _filter(where: np.ndarray, keep: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The connected parts for which keep is true."""
    from scipy import ndimage

    parts, count = ndimage.label(where, _AROUND)
    return np.isin(parts, [i for i in range(1, count + 1) if keep(parts == i)])


def _regions(where: np.ndarray, *, close: bool) -> np.ndarray:
    """Without holes (with `close`, also without gaps of a pixel) and without specks."""
    from scipy import ndimage

    if close:
        where = where | ndimage.binary_closing(np.pad(where, 2, mode="edge"), _AROUND)[2:-2, 2:-2]
    where = _filled(where)
    least = max(4, 1e-3 * where.size)
    return _filter(where, lambda part: bool(part.sum() >= least))


def _filled(where: np.ndarray) -> np.ndarray:
    """Without holes, except the image inside a frame."""
    from scipy import ndimage

    holes = ndimage.binary_fill_holes(where) & ~where
    return where | _filter(holes, lambda part: bool(part.mean() < 0.25))


def _apart(where: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The parts of `where` that are mostly not known already."""
    from scipy import ndimage

    near = ndimage.binary_dilation(known, _AROUND)
    return _filter(where, lambda part: bool(near[part].mean() < 0.5))


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usual:
    """Shares of a row's pixels that must be bright and dark strokes for a line of text."""

    bright: float
    dark: float


def usual_strokes(x: np.ndarray) -> Usual:
    """What rows of images x (N, C, H, W) must hold to be unusual: four times the 80 % quantile."""
    rows = np.stack([_strokes(image).mean(2) for image in x])
    bright, dark = np.maximum(0.08, 4 * np.quantile(rows, 0.8, axis=(0, 2)))
    return Usual(float(bright), float(dark))


def find_text(x: np.ndarray, usual: Usual) -> np.ndarray:
    """Boxes of text in one image x (C, H, W), floats in [-1, 1]: (H, W) bool, True in a box."""
    from scipy import ndimage

    height, width = x.shape[1:]
    strokes, pad = _strokes(x), max(1, height // 64)
    hidden = np.zeros((height, width), bool)
    for of, least, sign in ((strokes[0], usual.bright, 1), (strokes[1], usual.dark, -1)):
        share = of.mean(1)
        rows = ndimage.uniform_filter1d(share, 3, mode="nearest") > least
        for start, stop in _runs(rows, max(1, height // 24), max(3, height // 24)):
            held = np.flatnonzero(share[start:stop] > least / 2)  # the mean of three rows extends beyond the text
            top, bottom = start + int(held[0]), start + int(held[-1]) + 1
            for left, right in _runs(of[top:bottom].any(0), max(3, width // 6), 3):
                if _reads(sign * x[:, top:bottom, left:right].mean(0), of[top:bottom, left:right], width):
                    hidden[_boxed(x, strokes[0] | strokes[1], top, bottom, left, right, pad)] = True
    return hidden


def _strokes(x: np.ndarray) -> np.ndarray:
    """(2, H, W) bool: bright and dark strokes of an image (C, H, W)."""
    from scipy import ndimage

    gray = x.mean(0)
    side = max(3, 2 * round(gray.shape[0] / 100) + 1)
    bright = (gray - ndimage.grey_opening(gray, size=(side, side)) > 0.55) & (gray > 0.35)
    dark = (ndimage.grey_closing(gray, size=(side, side)) - gray > 0.55) & (gray < -0.35)
    return np.stack([bright, dark])


def _runs(on: np.ndarray, gap: int, least: int) -> list[tuple[int, int]]:
    """Stretches [start, stop) of True, across gaps of up to `gap`, at least `least` long."""
    out: list[list[int]] = []
    for i in np.flatnonzero(on).tolist():
        if out and i - out[-1][1] <= gap:
            out[-1][1] = i + 1
        else:
            out.append([i, i + 1])
    return [(a, b) for a, b in out if b - a >= least]


def _reads(gray: np.ndarray, strokes: np.ndarray, width: int) -> bool:
    """Whether strokes look like a line of text, bright on dark: long, dense, many side by side, of one value."""
    from scipy import ndimage

    tall, long = strokes.shape
    if long < max(1.5 * tall, width / 8) or strokes.sum() < 4:
        return False
    values = gray[strokes]
    around = gray[ndimage.binary_dilation(strokes, _AROUND) & ~strokes]
    alike = (values > np.quantile(values, 0.9) - 0.25).mean()
    beside = np.median((np.diff(strokes.astype(np.int8), axis=1) == 1).sum(1)[strokes.any(1)]) * tall / long
    contrast = np.median(values) - np.median(around) if len(around) else 0.0
    return bool(alike > 0.58 and beside > 0.5 and strokes.mean() > 0.14 and contrast > 0.85)


def _boxed(x: np.ndarray, strokes: np.ndarray, top: int, bottom: int, left: int, right: int, pad: int) -> Any:
    """The text and `pad` pixels around it, or the flat box of one colour that it stands in."""
    around = np.s_[max(0, top - pad) : bottom + pad, max(0, left - pad) : right + pad]
    beside = [r for r in (top - 2, bottom + 1) if 0 <= r < x.shape[1]]
    ground = x[:, beside, left:right].reshape(len(x), -1)
    if not ground.size:
        return around
    colour = np.median(ground, axis=1)
    # As flat as the ground itself, compressed or not.
    off = np.clip(4 * np.median(np.abs(ground - colour[:, None])), 0.05, 0.15)
    flat = (np.abs(x - colour[:, None, None]).max(0) < off) | strokes
    # Letters have rims that are neither stroke nor ground, a row or two of them.
    tall, height = bottom - top, x.shape[1]
    is_flat = flat[:, left:right].mean(1) > 0.8
    above = next((r for r in range(top - 1, max(-1, top - 4), -1) if is_flat[r]), 0 if top < 2 else None)
    last = height - 1 if bottom > height - 2 else None
    below = next((r for r in range(bottom, min(height, bottom + 3)) if is_flat[r]), last)
    if above is None or below is None:
        return around
    while above > max(0, top - tall) and is_flat[above - 1]:
        above -= 1
    while below < min(height, bottom + tall) - 1 and is_flat[below + 1]:
        below += 1
    top, bottom = above, below + 1
    while left > 0 and flat[top:bottom, left - 1].mean() > 0.8:
        left -= 1
    while right < x.shape[2] and flat[top:bottom, right].mean() > 0.8:
        right += 1
    return np.s_[top:bottom, left:right]
