"""The values of an array before it is used: their range or moments, and the samples that cannot be used.

Everything is measured in chunks of bounded memory. Moments are those of the observed values v of each channel,

    mean_c = sum v / count_c,        deviation_c^2 = sum (v - mean_c)^2 / count_c,

in float64 and in two passes, so a large mean costs no digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["Checked", "check_values", "declared_range", "measured_units"]


@dataclass
class Checked:
    """range: the one in force, None where units are used. bad: unusable samples, and why. shared: whether missing
    values are missing in all channels at once."""

    range: tuple[float, float] | None
    bad: dict[int, str] = field(default_factory=dict)
    shared: bool = True


def declared_range(
    array: np.ndarray, bounds: Sequence[float] | None, where: str, kind: str
) -> tuple[float, float] | None:
    """The range that is declared, or the integer type's own; None for floats without a declared one.

    Raises BootdiffError for integers that have no usual range, ValueError for bounds the wrong way round.
    """
    dtype = array.dtype.newbyteorder("=")
    if bounds is not None:
        low, high = (float(v) for v in bounds)
        if not low < high:
            raise ValueError(f"Arrays: range must be [low, high] with low < high, got {list(bounds)}")
        return low, high
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(dtype).max)
    if dtype.kind in "iu":
        raise BootdiffError(
            f"{where}: {dtype} values have no usual range (they run from {array.min()} to {array.max()}). "
            f"Declare it: range: [low, high]{_or_standardize(kind)}."
        )
    return None


def check_values(
    array: np.ndarray,
    bounds: tuple[float, float] | None,
    where: str,
    row: Callable[[int], str],
    on_error: str,
    chunk: int,
    *,
    missing: bool = False,
    by_range: bool = True,
) -> Checked:
    """The range in force and the unusable samples of an (N, *space, C) array.

    bounds: the declared range; None: that of floats, [0, 1] or [-1, 1], is found. missing: NaN means "not observed",
    not damaged. by_range: False where units are used and any finite value will do.
    """
    lows, highs = np.empty(len(array)), np.empty(len(array))
    whole = np.ones(len(array), bool)
    shared = True
    axes = tuple(range(1, array.ndim))
    for start, part in _chunks(array, chunk):
        at = slice(start, start + len(part))
        if missing and part.dtype.kind == "f":
            gap = np.isnan(part)
            shared &= bool((gap == gap[..., :1]).all())
            whole[at] = ~gap.all(axes)
            lows[at], highs[at] = np.where(gap, np.inf, part).min(axes), np.where(gap, -np.inf, part).max(axes)
        else:
            # NaN and infinities survive min and max, so these two passes find them as well.
            lows[at], highs[at] = part.min(axes), part.max(axes)
    bad = {int(i): "holds no observed value at all" for i in np.flatnonzero(~whole)}
    finite = np.isfinite(lows) & np.isfinite(highs)
    reason = "holds infinite values" if missing else "holds NaN or infinite values"
    bad |= {int(i): reason for i in np.flatnonzero(~finite & whole)}
    hint = (
        ""
        if missing or not np.isnan(lows).any()
        else " Where NaN means not observed, say missing: mask (partial data)."
    )
    if by_range:
        bounds = bounds or _infer_range(lows[finite], highs[finite], where, array)
        low, high = bounds
        slack = 1e-4 * (high - low)
        for i in np.flatnonzero(finite & ((lows < low - slack) | (highs > high + slack))):
            value = lows[i] if lows[i] < low - slack else highs[i]
            bad[int(i)] = f"holds {value:.6g}, outside the range [{low:g}, {high:g}]"
    if bad and on_error == "refuse":
        first = min(bad)
        raise BootdiffError(
            f"{where}: {row(first)} {bad[first]} ({len(bad)} of {len(array)} samples are unusable). "
            f"Mend them, declare the right range, or leave them out with on_error: skip.{hint}"
        )
    return Checked(bounds if by_range else None, bad, shared)


def _infer_range(lows: np.ndarray, highs: np.ndarray, where: str, array: np.ndarray) -> tuple[float, float]:
    if not len(lows):
        raise BootdiffError(f"{where}: every sample holds NaN or infinite values")
    least, most = lows.min(), highs.max()
    if most > 1 + 1e-4 or least < -1 - 1e-4:
        otherwise = _or_standardize({2: "vector", 3: "signal"}.get(array.ndim, ""))
        raise BootdiffError(
            f"{where}: float values run from {least:.6g} to {most:.6g}, outside [-1, 1]. Declare what they mean: "
            f"range: [low, high], for example [0, 255]{otherwise}."
        )
    return (0.0, 1.0) if least >= 0 else (-1.0, 1.0)


def measured_units(array: np.ndarray, rows: np.ndarray, where: str, columns: Sequence[str] | None, chunk: int) -> Units:
    """Mean and standard deviation of each channel of the samples `rows`, over values that are not NaN.

    Raises BootdiffError, naming the channel, where one is never observed or never varies.
    """
    channels = array.shape[-1]
    axes = tuple(range(array.ndim - 1))
    total, square, count = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    used = np.isin(np.arange(len(array)), rows)

    def parts() -> Iterator[np.ndarray]:
        for start, part in _chunks(array, chunk):
            yield part[used[start : start + len(part)]].astype(np.float64)

    for v in parts():
        observed = ~np.isnan(v)
        total += np.where(observed, v, 0).sum(axes)
        count += observed.sum(axes)
    mean = total / np.maximum(count, 1)
    for v in parts():
        square += np.where(np.isnan(v), 0, (v - mean) ** 2).sum(axes)
    deviation = np.sqrt(square / np.maximum(count, 1))
    for c in range(channels):
        named = f"column {columns[c]!r}" if columns else f"channel {c}"
        if count[c] == 0:
            raise BootdiffError(f"{where}: {named} is observed in no sample; leave it out")
        if deviation[c] <= 1e-12 * max(1.0, abs(mean[c])):
            raise BootdiffError(f"{where}: {named} holds one and the same value ({mean[c]:.6g}); leave it out")
    return Units(tuple(mean.tolist()), tuple(deviation.tolist()), standardized=True)


def _or_standardize(kind: str) -> str:
    return ", or say standardize: true" if kind in ("vector", "signal") else ""


def _chunks(array: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, size // max(1, array[0].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
