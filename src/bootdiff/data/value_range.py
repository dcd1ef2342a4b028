"""The values of an array before it is used: their range or moments, and the samples that cannot be used.

Everything is measured in chunks of bounded memory. Moments are those of the observed values v of each channel,

    mean_c = sum v / count_c,        deviation_c^2 = sum (v - mean_c)^2 / count_c,

in float64 and in two passes, so a large mean costs no digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = [
    "LARGEST", "Checked", "beyond", "check_same_range", "check_values", "declared_range", "measured_units", "outside",
    "slack_of", "values_of",
]  # fmt: skip

LARGEST = 1e30
"""Of stored values: networks compute with floats of 32 bits."""

# Noise that is farther out than this many deviations is another scale.
_DEVIATIONS = 8


@dataclass
class Checked:
    """range: the one in force, None where units are used. bad: unusable samples, and why. shared: whether missing
    values are missing in all channels at once."""

    range: tuple[float, float] | None
    bad: dict[int, str] = field(default_factory=dict)
    shared: bool = True


def declared_range(
    array: np.ndarray, bounds: Sequence[float] | None, where: str, kind: str, others: Units | None = None
) -> tuple[float, float] | None:
    """The range that is declared, that of other data (full samples) of the same type of values, or the integer type's
    own; None for floats without any of them.

    Raises BootdiffError for integers that have no usual range, ValueError for bounds the wrong way round.
    """
    dtype = array.dtype.newbyteorder("=")
    if bounds is not None:
        low, high = (float(v) for v in bounds)
        if not low < high:
            raise ValueError(f"Arrays: range must be [low, high] with low < high, got {list(bounds)}")
        return low, high
    if others is not None and others.values == values_of(array):
        return others.bounds
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


def values_of(array: np.ndarray) -> str:
    """The type of an array's values as `Units.values` has it."""
    dtype = array.dtype.newbyteorder("=")
    return "float" if dtype.kind == "f" else str(dtype)


def check_same_range(dataset: Dataset, full: Units, at: str) -> None:
    """BootdiffError where the range of float values was found, and the full samples do not say that it is theirs, too.

    full: the units of the full samples. at: what messages call the data.
    """
    if not dataset.range_found or full.values is None or dataset.units == full:
        return
    low, high = dataset.units.bounds
    if full.values == "float":
        raise BootdiffError(
            f"{at}: its float values were taken to lie in [{low:g}, {high:g}], those of the full samples in "
            f"[{full.bounds[0]:g}, {full.bounds[1]:g}]; say the range of both"
        )
    if low == 0:
        # Negative values would tell.
        raise BootdiffError(
            f"{at}: {dataset.where} holds floats of which none is negative: in [0, 1], or bright ones in [-1, 1]? The "
            f"full samples are of a different type ({full.values}) and do not tell; say range: [0, 1] or "
            "range: [-1, 1]"
        )


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
    std: float = 0.0,
    inherited: bool = False,
) -> Checked:
    """The range in force and the unusable samples of an (N, *space, C) array.

    bounds: the declared range; None: that of floats, [0, 1] or [-1, 1], is found. missing: NaN means "not observed",
    not damaged. by_range: False where units are used and any finite value will do. std: deviation of noise in the
    values, in [-1, 1], which may lie that far outside. inherited: bounds are those of the full samples.
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
        slack = slack_of(low, high, std)
        for i in np.flatnonzero(finite & ((lows < low - slack) | (highs > high + slack))):
            value = lows[i] if lows[i] < low - slack else highs[i]
            bad[int(i)] = outside(float(value), low, high, std)
    if inherited:
        hint += " The range is that of the full samples, as none is said here; noise that leaves it is the view's std."
    if bad and on_error == "refuse":
        first = min(bad)
        raise BootdiffError(
            f"{where}: {row(first)} {bad[first]} ({len(bad)} of {len(array)} samples are unusable). "
            f"Mend them, declare the right range, or leave them out with on_error: skip.{hint}"
        )
    return Checked(bounds if by_range else None, bad, shared)


def slack_of(low: float, high: float, std: float) -> float:
    """How far values may lie outside of their range: rounding, and noise of deviation std, in [-1, 1]."""
    return (1e-4 + _DEVIATIONS * std / 2) * (high - low)


def outside(value: float, low: float, high: float, std: float) -> str:
    """What is wrong with a value that lies outside of its range."""
    far = f" by more than noise of std {std:g} explains" if std else ""
    return f"holds {value:.6g}, outside the range [{low:g}, {high:g}]{far}"


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
    if 0 > least > -0.1 * most:
        raise BootdiffError(
            f"{where}: float values run from {least:.6g} to {most:.6g}: in [0, 1] with a little beyond, or bright ones "
            "in [-1, 1]? Clip them to [0, 1] and save them again, or say range: [-1, 1]."
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
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.sqrt(square / np.maximum(count, 1))
    for c in range(channels):
        named = f"column {columns[c]!r}" if columns else f"channel {c}"
        if count[c] == 0:
            raise BootdiffError(f"{where}: {named} is observed in no sample; leave it out")
        if not np.isfinite(deviation[c]) or max(abs(mean[c]), deviation[c]) > LARGEST:
            raise BootdiffError(f"{where}: {named} {beyond()}")
        if deviation[c] <= 1e-12 * max(1.0, abs(mean[c])):
            raise BootdiffError(f"{where}: {named} holds one and the same value ({mean[c]:.6g}); leave it out")
    return Units(tuple(mean.tolist()), tuple(deviation.tolist()), standardized=True)


def beyond() -> str:
    """What is wrong with values that floats of 32 bits do not reach."""
    return f"holds values beyond +-{LARGEST:g}, which floats of 32 bits do not reach; scale the values"


def _or_standardize(kind: str) -> str:
    return ", or say standardize: true" if kind in ("vector", "signal") else ""


def _chunks(array: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, size // max(1, array[0].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
