"""Arrays in memory, and .npy and .npz files as such; scikit-learn's digits are one.

A stored value v of the declared range [lo, hi] becomes

    x = 2 (v - lo) / (hi - lo) - 1   in [-1, 1].

Integers have their type's range unless a different one is declared (uint8: [0, 255], uint16: [0, 65535]); floats must
lie in the declared range, or in that of the full samples; where there is none, they are taken as [-1, 1] where negative
values occur and as [0, 1] where none do.
Signals and vectors may be standardized instead (`units`): x = (v - mean_c) / deviation_c, measured per channel over all
observed values. Files are never unpickled. A .npy file is mapped, not read: memory stays bounded by the batches; a .npz
member is unpacked once and kept in the type it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, UnusableFile
from bootdiff.data.kinds import layout
from bootdiff.data.labels import number_labels
from bootdiff.data.readers.mask_files import is_opaque
from bootdiff.data.readers.transparency import composite, handle_alpha, opacity_of
from bootdiff.data.units import Units
from bootdiff.data.value_range import check_values, declared_range, measured_units, values_of
from bootdiff.errors import BootdiffError

__all__ = ["Arrays"]

_CHUNK = 64 << 20  # bytes read at a time when checking and hashing


class Arrays(Dataset):
    """An array of N samples of any kind (`kinds`).

    Args:
        array: numbers; a mapped one is read in pieces.
        kind: "vector", "signal", "image" or "video"; needed where the shape leaves it open.
        labels: N whole numbers or text.
        classes: fixes the numbers of text labels across several arrays.
        unlabelled: "keep" allows samples without a label.
        masks: 1 = observed, N x space, for videos also N x H x W (all frames alike), or with a last axis for channels;
            "alpha": of pictures whose last channel of 2 or 4 is alpha (`transparency`), what is half opaque and more.
        alpha: what is done with such a channel: "refuse", "white", "black" (put behind it) or "drop".
        range: [lo, hi] of the stored values.
        standardize: mean and deviation of each channel instead (signals and vectors).
        units: those of other data of the same quantity, instead of measuring; of pictures and videos their range,
            where they hold values of the same type.
        std: deviation of white noise in the values, in [-1, 1], which may lie that far outside of their range.
        missing: "mask" takes NaN for "not observed" and gives every sample a mask, "refuse" takes it for damage.
        channels_first: the array is N x C x space.
        channels: what the samples must have; gray is repeated to 3, nothing else is converted. Where it is that of the
            array, none of them is alpha.
        on_error: "refuse" raises at the first sample with NaN, infinite or out-of-range values, "skip" leaves it out
            and lists it in ``problems``.
        columns: names of the channels.
        where, row: what messages call the array, and a sample.

    Raises BootdiffError for anything wrong with the data, ValueError for wrong arguments.
    """

    def __init__(
        self,
        array: np.ndarray,
        *,
        kind: str | None = None,
        labels: Sequence[Any] | np.ndarray | None = None,
        masks: np.ndarray | str | None = None,
        alpha: str = "refuse",
        range: Sequence[float] | None = None,
        standardize: bool = False,
        units: Units | None = None,
        std: float = 0.0,
        missing: str = "refuse",
        unlabelled: str = "refuse",
        channels_first: bool = False,
        channels: int | None = None,
        on_error: str = "refuse",
        classes: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str = "array",
        row: str = "sample {0}",
    ) -> None:
        for name, value, known in (
            ("on_error", on_error, ("refuse", "skip")),
            ("missing", missing, ("refuse", "mask")),
            ("unlabelled", unlabelled, ("refuse", "keep")),
            ("alpha", alpha, ("refuse", "white", "black", "drop")),
        ):
            if value not in known:
                wanted = " or ".join(f'"{choice}"' for choice in known)
                raise ValueError(f"Arrays: {name} must be {wanted}, got {value!r}")
        if range is not None and (standardize or units is not None):
            raise ValueError("Arrays: give a range or standardize, not both")
        self.where, self._row_name = where, row
        self._array, found = layout(np.asarray(array), kind, where, channels_first=channels_first, channels=channels)
        if standardize and found not in ("signal", "vector"):
            raise BootdiffError(f"{self.where}: only signals and vectors are standardized, not a {found}; give a range")
        self.columns = None if columns is None else list(columns)
        count = len(self._array)
        others, units = (units, None) if found in ("image", "video") else (None, units)
        by_range = not standardize and units is None
        bounds = declared_range(self._array, range, self.where, found, others) if by_range else None
        checked = check_values(
            self._array, bounds, self.where, self._row, on_error, _CHUNK, missing=missing == "mask",
            by_range=by_range, std=std, inherited=range is None and others is not None and bounds == others.bounds,
        )  # fmt: skip
        self.range_found = by_range and bounds is None
        self.range, self._shared = checked.range, checked.shared
        self._transparent: str | None = None
        if found in ("image", "video") and channels != self._array.shape[-1]:
            own = isinstance(masks, str)
            self._transparent = handle_alpha(
                self._array, self.range, checked.bad, alpha, self.where, self._row, on_error, own=own
            )
        elif isinstance(masks, str):
            raise BootdiffError(f"{self.where}: holds no pictures with alpha, which masks: alpha asks for")
        self._repeat = self._repeated(channels)
        self.shape = (self._stored_channels() * self._repeat, *self._array.shape[1:-1])
        self.problems = [UnusableFile(self._row(i), reason) for i, reason in sorted(checked.bad.items())]
        self._rows = np.setdiff1d(np.arange(count), list(checked.bad))
        if len(self._rows) == 0:
            first = checked.bad[min(checked.bad)]
            raise BootdiffError(f"{self.where}: none of the {count} samples is usable; the first: {first}")
        if standardize and units is None:
            units = measured_units(self._array, self._rows, self.where, self.columns, _CHUNK)
        if units is None:
            assert self.range is not None
            units = Units.of_range(*self.range, values_of(self._array))
        self.units = units
        self._labels: np.ndarray | None = None
        if labels is not None:
            self._labels, self.classes = number_labels(
                labels, count, self.where, self._row, rows=self._rows, classes=classes, unlabelled=unlabelled
            )
            self.unlabelled = unlabelled == "keep"
        self._missing = missing == "mask"
        self._masks = self._read_masks(None if isinstance(masks, str) else masks, count)
        self.masked = self._missing or self._masks is not None or self._transparent == "mask"
        self._hash: str | None = None

    # -- opening ------------------------------------------------------------------------------------------------

    def _stored_channels(self) -> int:
        """Channels of the array without alpha."""
        return self._array.shape[-1] - (self._transparent is not None)

    def _repeated(self, channels: int | None) -> int:
        """How often a gray channel is to be repeated."""
        found = self._stored_channels()
        if channels is None or channels == found:
            return 1
        if found != 1:
            raise BootdiffError(
                f"{self.where}: has {found} channels, {channels} were asked for. Only gray is repeated; convert "
                "the array, or describe gray data as a view (kind: channel_mix)."
            )
        return channels

    def _read_masks(self, masks: Any, count: int) -> np.ndarray | None:
        """(N, *space, 1 or C) bool, True = observed."""
        if masks is None:
            return None
        masks = np.asarray(masks)
        space, channels = self.shape[1:], self.shape[0]
        full = (count, *space, channels)
        if space and masks.shape == (count, *space):
            masks = masks[..., None]
        elif len(space) == 3 and masks.shape in ((count, *space[1:]), (count, *space[1:], 1)):
            masks = masks.reshape(count, 1, *space[1:], 1)  # one for all frames
        frames = (count, 1, *space[1:], 1) if len(space) == 3 else full
        if masks.shape not in (full, (*full[:-1], 1), frames) or (not space and masks.shape != full):
            need = (count, *space) if space else full
            raise BootdiffError(f"{self.where}: masks have shape {masks.shape}, need {need}, one per sample.")
        high = masks.max()
        if masks.dtype.kind not in "biuf" or not np.isin(masks, (0, high)).all() or high not in (1, 255):
            raise BootdiffError(f"{self.where}: masks must hold 0 (hidden) and 1 or 255 (observed) only.")
        hidden = np.flatnonzero(masks.reshape(count, -1).max(1) == 0)
        if len(hidden):
            raise BootdiffError(
                f"{self.where}: the mask of {self._row(int(hidden[0]))} hides everything; remove the sample."
            )
        return np.broadcast_to(masks > 0, (*full[:-1], masks.shape[-1]))

    # -- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, row: int) -> str:
        return self._row_name.format(row)

    def name(self, index: int) -> str:
        return self._row(int(self._rows[self._check_index(index)]))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        rows = self._rows[[self._check_index(i) for i in indices]]
        stored, opacity = self._array[rows], None
        if self._transparent is not None:
            assert self.range is not None
            opacity, stored = opacity_of(stored, self.range), stored[..., :-1]
        masks = self._batch_masks(stored, rows, opacity)
        if self.range is None:
            values = torch.from_numpy(np.moveaxis(stored, -1, 1).astype(np.float64))
            x = self.units.store(values, len(self.shape) - 1).float()
        else:
            low, high = self.range
            x = torch.from_numpy(np.moveaxis(stored, -1, 1).astype(np.float32))
            x = x.sub_(low).mul_(2 / (high - low)).sub_(1)
        if opacity is not None and self._transparent in ("white", "black"):
            x = composite(x, torch.from_numpy(np.moveaxis(opacity, -1, 1)), self._transparent)
        if self._missing:
            x = x.nan_to_num(nan=0.0)
        if self._repeat > 1:
            x = x.repeat_interleave(self._repeat, dim=1)
        labels = None if self._labels is None else torch.from_numpy(self._labels[rows])
        return x.contiguous(), labels, masks

    def _batch_masks(self, stored: np.ndarray, rows: np.ndarray, opacity: np.ndarray | None) -> Tensor | None:
        """(b, 1 or C, *space) float32 masks of these rows. opacity: their alpha channel, where there is one."""
        observed = None if self._masks is None else self._masks[rows]
        if opacity is not None and self._transparent == "mask":
            observed = is_opaque(opacity, 1)
        if self._missing:
            whole = ~np.isnan(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
            whole = whole[..., :1] if self._shared and len(self.shape) > 1 else whole
            observed = whole if observed is None else observed & whole
        if observed is None:
            return None
        return torch.from_numpy(np.moveaxis(observed, -1, 1).astype(np.float32)).contiguous()

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([index])
        label = None if labels is None or labels[0] < 0 else int(labels[0])
        return Sample(x[0], label, None if masks is None else masks[0])

    def fingerprint(self) -> str:
        if self._hash is None:
            settings: tuple = (self._array.shape, self._array.dtype.str, self.shape, self.range)
            # Data without these have the fingerprint that they always had.
            settings += () if self.range is not None else (self.units.config(),)
            settings += ("missing",) if self._missing else ()
            settings += ("alpha", self._transparent) if self._transparent is not None else ()
            digest = hashlib.sha256(repr(settings).encode())
            for array in (self._array, self._rows, self._labels, self._masks):
                if array is not None:
                    step = max(1, _CHUNK // max(1, array[0].nbytes))
                    for start in range(0, len(array), step):
                        digest.update(np.ascontiguousarray(array[start : start + step]).data)
            digest.update(repr(self.classes).encode())
            self._hash = digest.hexdigest()
        return self._hash
