"""Arrays on disk or in memory: .npy, .npz, JPEG mosaics inside .npz, and scikit-learn's digits.

A stored value v of the declared range [lo, hi] becomes

    x = 2 (v - lo) / (hi - lo) - 1   in [-1, 1].

Integers have their type's range unless another is declared (uint8: [0, 255], uint16: [0, 65535]); floats must lie in
the declared range; undeclared, they are taken as [-1, 1] where negative values occur and as [0, 1] where none do.
Signals and vectors may be standardized instead (`units`): x = (v - mean_c) / deviation_c, measured per channel over all
observed values. Files are never unpickled. A .npy file is mapped, not read: memory stays bounded by the batches; a .npz
member is unpacked once and kept in its own type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, UnusableFile, split
from bootdiff.data.kinds import layout
from bootdiff.data.labels import number_labels
from bootdiff.data.readers.numpy_files import read_arrays
from bootdiff.data.units import Units
from bootdiff.data.value_range import check_values, declared_range, measured_units
from bootdiff.errors import BootdiffError

__all__ = ["Arrays", "Digits"]

_CHUNK = 64 << 20  # bytes looked at in one go when checking and hashing


class Arrays(Dataset):
    """An array of N samples of any kind (`kinds`), as a source.

    data: path of a .npy or .npz file, or an array. key: which array of the .npz (only needed if it holds several; a
    JPEG mosaic stored as ``<key>_jpeg`` with ``<key>_shape`` counts as the array ``<key>``). kind: "vector", "signal",
    "image" or "video"; needed where the shape leaves it open. labels_key: array of N integer or text labels, or True
    for the usual names (``<key>_label``, ``labels``, ...). masks_key: array of masks, 1 = observed, N x space, for
    videos also N x H x W (all frames alike), or with a last axis for channels; or True likewise. labels, masks: the
    same as arrays. range: [lo, hi] of the stored values. standardize: mean and deviation of each channel instead
    (signals and vectors). units: those of other data of the same standardized quantity, instead of measuring. missing:
    "mask" takes NaN for "not observed" and gives every sample a mask, "refuse" takes it for damage. unlabelled: "keep"
    allows samples without a label. channels_first: the array is N x C x space. channels: what the samples must have;
    gray is repeated to 3, nothing else is converted. on_error: "refuse" raises at the first sample with NaN, infinite
    or out-of-range values, "skip" leaves it out and lists it in ``problems``. classes: fixes the meaning of text labels
    across several files. columns: names of the channels. row: what a sample is called.

    Raises BootdiffError for anything wrong with the data, ValueError for wrong arguments.
    """

    def __init__(
        self,
        data: str | Path | np.ndarray,
        key: str | None = None,
        labels_key: str | bool | None = None,
        masks_key: str | bool | None = None,
        *,
        kind: str | None = None,
        labels: Sequence[Any] | np.ndarray | None = None,
        masks: np.ndarray | None = None,
        range: Sequence[float] | None = None,
        standardize: bool = False,
        units: Units | None = None,
        missing: str = "refuse",
        unlabelled: str = "refuse",
        channels_first: bool = False,
        channels: int | None = None,
        on_error: str = "refuse",
        classes: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        row: str = "sample {0}",
    ) -> None:
        for name, value, known in (
            ("on_error", on_error, ("refuse", "skip")),
            ("missing", missing, ("refuse", "mask")),
            ("unlabelled", unlabelled, ("refuse", "keep")),
        ):
            if value not in known:
                raise ValueError(f'Arrays: {name} must be "{known[0]}" or "{known[1]}", got {value!r}')
        if range is not None and (standardize or units is not None):
            raise ValueError("Arrays: give a range or standardize, not both")
        self._row_name = row
        if isinstance(data, (str, Path)):
            path = Path(data)
            self.where = where or (f"{path}[{key}]" if key else str(path))
            array, labels, masks = read_arrays(path, key, labels_key, masks_key, labels, masks)
        else:
            if key or labels_key or masks_key:
                raise ValueError("Arrays: key, labels_key and masks_key belong to files; pass labels= and masks=")
            self.where, array = where or "array", np.asarray(data)
        self._array, found = layout(array, kind, self.where, channels_first=channels_first, channels=channels)
        self._repeat = self._repeated(channels)
        self.shape = (self._array.shape[-1] * self._repeat, *self._array.shape[1:-1])
        if standardize and found not in ("signal", "vector"):
            raise BootdiffError(f"{self.where}: only signals and vectors are standardized, not a {found}; give a range")
        self.columns = None if columns is None else list(columns)
        count = len(self._array)
        by_range = not standardize and units is None
        bounds = declared_range(self._array, range, self.where, found) if by_range else None
        checked = check_values(
            self._array, bounds, self.where, self._row, on_error, missing == "mask", _CHUNK, by_range=by_range
        )
        self.range, self._shared = checked.range, checked.shared
        self.problems = [UnusableFile(self._row(i), reason) for i, reason in sorted(checked.bad.items())]
        self._rows = np.setdiff1d(np.arange(count), list(checked.bad))
        if len(self._rows) == 0:
            first = checked.bad[min(checked.bad)]
            raise BootdiffError(f"{self.where}: none of the {count} samples is usable; the first: {first}")
        if standardize and units is None:
            units = measured_units(self._array, self._rows, self.where, self.columns, _CHUNK)
        if units is None:
            assert self.range is not None
            units = Units.of_range(*self.range)
        self.units = units
        self._labels: np.ndarray | None = None
        if labels is not None:
            self._labels, self.classes = number_labels(
                labels, count, self.where, self._row, rows=self._rows, classes=classes, unlabelled=unlabelled
            )
            self.unlabelled = unlabelled == "keep"
        self._holes = missing == "mask"
        self._masks = self._read_masks(masks, count)
        self.masked = self._holes or self._masks is not None
        self._hash: str | None = None

    # -- opening ------------------------------------------------------------------------------------------------

    def _repeated(self, channels: int | None) -> int:
        """How often a gray channel is to be repeated."""
        found = self._array.shape[-1]
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
        stored = self._array[rows]
        masks = self._seen(stored, rows)
        if self.range is None:
            values = torch.from_numpy(np.moveaxis(stored, -1, 1).astype(np.float64))
            x = self.units.store(values, len(self.shape) - 1).float()
        else:
            low, high = self.range
            x = torch.from_numpy(np.moveaxis(stored, -1, 1).astype(np.float32))
            x = x.sub_(low).mul_(2 / (high - low)).sub_(1)
        if self._holes:
            x = x.nan_to_num(nan=0.0)
        if self._repeat > 1:
            x = x.repeat_interleave(self._repeat, dim=1)
        labels = None if self._labels is None else torch.from_numpy(self._labels[rows])
        return x.contiguous(), labels, masks

    def _seen(self, stored: np.ndarray, rows: np.ndarray) -> Tensor | None:
        """(b, 1 or C, *space) float32 masks of these rows."""
        seen = None if self._masks is None else self._masks[rows]
        if self._holes:
            whole = ~np.isnan(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
            whole = whole[..., :1] if self._shared and len(self.shape) > 1 else whole
            seen = whole if seen is None else seen & whole
        if seen is None:
            return None
        return torch.from_numpy(np.moveaxis(seen, -1, 1).astype(np.float32)).contiguous()

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([index])
        label = None if labels is None or labels[0] < 0 else int(labels[0])
        return Sample(x[0], label, None if masks is None else masks[0])

    def fingerprint(self) -> str:
        if self._hash is None:
            said: tuple = (self._array.shape, self._array.dtype.str, self.shape, self.range)
            # Data without these have the fingerprint that they always had.
            said += () if self.range is not None else (self.units.config(),)
            said += ("missing",) if self._holes else ()
            digest = hashlib.sha256(repr(said).encode())
            for array in (self._array, self._rows, self._labels, self._masks):
                if array is not None:
                    step = max(1, _CHUNK // max(1, array[0].nbytes))
                    for start in range(0, len(array), step):
                        digest.update(np.ascontiguousarray(array[start : start + step]).data)
            digest.update(repr(self.classes).encode())
            self._hash = digest.hexdigest()
        return self._hash


class Digits(Arrays):
    """scikit-learn's 1,797 handwritten digits: 1 x 8 x 8, values 0..16, ten classes (needs scikit-learn).

    part: None or "all", or "train" (1,497) or "test" (300), a fixed random division.
    """

    def __init__(self, part: str | None = None, labels: bool = False, channels: int | None = None) -> None:
        if part not in (None, "all", "train", "test"):
            raise BootdiffError(f"digits: no part {part!r}; known parts: all, train, test")
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise BootdiffError("digits: needs scikit-learn; install it with pip install scikit-learn") from None
        found = load_digits()
        images, target = found.images.astype(np.uint8), found.target.astype(np.int64)
        if part in ("train", "test"):
            train, test = split(len(images), [None, 300], seed=0)
            rows = train if part == "train" else test
            images, target = images[rows], target[rows]
        super().__init__(
            images,
            labels=target if labels else None,
            range=(0, 16),
            channels=channels,
            classes=[str(i) for i in np.arange(10)] if labels else None,
            where="digits" if part is None else f"digits[{part}]",
        )
