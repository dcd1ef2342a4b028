"""Arrays on disk or in memory: .npy, .npz, JPEG mosaics inside .npz, and scikit-learn's digits.

A stored value v of the declared range [lo, hi] becomes

    x = 2 (v - lo) / (hi - lo) - 1   in [-1, 1].

Integers have their type's range unless another is declared (uint8: [0, 255], uint16: [0, 65535]); floats must lie in
the declared range; undeclared, they are taken as [-1, 1] where negative values occur and as [0, 1] where none do. Files
are never unpickled. A .npy file is mapped, not read: memory stays bounded by the batches; a .npz member is unpacked
once and kept in its own type.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bootdiff.data.base import Problem, Sample, Source, split
from bootdiff.errors import BootdiffError

__all__ = ["Arrays", "Digits"]

_CHUNK = 64 << 20  # bytes looked at in one go when checking and hashing
_LABELS = ("{key}_label", "{key}_labels", "labels", "label", "y")
_MASKS = ("{key}_mask", "{key}_masks", "masks", "mask")


class Arrays(Source):
    """N x H x W or N x H x W x C (or N x T x H x W x C, read as (C, T, H, W)) arrays as a source.

    data: path of a .npy or .npz file, or an array. key: which array of the .npz (only needed if it holds several; a
    JPEG mosaic stored as ``<key>_jpeg`` with ``<key>_shape`` counts as the array ``<key>``). labels_key: array of N
    integer or text labels, or True for the usual names (``<key>_label``, ``labels``, ...). masks_key: array of N x H x
    W masks, 1 = observed, or True likewise. labels, masks: the same as arrays. range: [lo, hi] of the stored values.
    channels_first: the array is N x C x H x W. channels: what the samples must have; gray is repeated to 3, nothing
    else is converted. on_error: "refuse" raises at the first sample with NaN, infinite or out-of-range values, "skip"
    leaves it out and lists it in ``problems``. classes: fixes the meaning of text labels across several files.

    Raises BootdiffError for anything wrong with the data, ValueError for wrong arguments.
    """

    def __init__(
        self,
        data: str | Path | np.ndarray,
        key: str | None = None,
        labels_key: str | bool | None = None,
        masks_key: str | bool | None = None,
        *,
        labels: Sequence[Any] | np.ndarray | None = None,
        masks: np.ndarray | None = None,
        range: Sequence[float] | None = None,
        channels_first: bool = False,
        channels: int | None = None,
        on_error: str = "refuse",
        classes: Sequence[str] | None = None,
        where: str | None = None,
    ) -> None:
        if on_error not in ("refuse", "skip"):
            raise ValueError(f'Arrays: on_error must be "refuse" or "skip", got {on_error!r}')
        if isinstance(data, (str, Path)):
            path = Path(data)
            self.where = where or (f"{path}[{key}]" if key else str(path))
            array, labels, masks = _read(path, key, labels_key, masks_key, labels, masks)
        else:
            if key or labels_key or masks_key:
                raise ValueError("Arrays: key, labels_key and masks_key belong to files; pass labels= and masks=")
            self.where, array = where or "array", np.asarray(data)
        self._array, self._repeat = self._layout(array, channels_first, channels)
        count = len(self._array)
        low, high = self._declared(range)
        bad: dict[int, str] = {}
        self.range, bad = self._check_values(low, high, on_error)
        self.problems = [Problem(self._row(i), reason) for i, reason in sorted(bad.items())]
        self._rows = np.setdiff1d(np.arange(count), list(bad))
        if len(self._rows) == 0:
            raise BootdiffError(f"{self.where}: none of the {count} samples is usable; the first: {bad[min(bad)]}")
        self._labels = self._read_labels(labels, count, classes)
        self._masks = self._read_masks(masks, count)
        self.masked = self._masks is not None
        self._hash: str | None = None

    # -- opening ------------------------------------------------------------------------------------------------

    def _layout(self, array: np.ndarray, channels_first: bool, channels: int | None) -> tuple[np.ndarray, int]:
        """The array as N x [T x] H x W x C, and how often its gray channel is to be repeated."""
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise BootdiffError(
                f"{self.where}: holds values of type {array.dtype}, need integers or floats. Save one regular array."
            )
        if array.ndim == 3:
            array = array[..., None]
        elif channels_first and array.ndim in (4, 5):
            array = np.moveaxis(array, 1, -1)
        if array.ndim not in (4, 5):
            raise BootdiffError(
                f"{self.where}: has shape {array.shape}; need N x H x W, N x H x W x C or N x T x H x W x C: reshape"
            )
        if 0 in array.shape:
            raise BootdiffError(f"{self.where}: is empty (shape {array.shape}). Check the file.")
        found = array.shape[-1]
        if channels is None and found > 4:
            hint = "it looks like channels first" if array.shape[1] <= 4 else "a video needs a last axis for channels"
            raise BootdiffError(
                f"{self.where}: shape {array.shape} means {found} channels (the last axis); {hint}. "
                f"Pass channels_first=True, reshape, or pass channels={found} if that is meant."
            )
        repeat = 1
        if channels is not None and channels != found:
            if found != 1:
                raise BootdiffError(
                    f"{self.where}: has {found} channels, {channels} were asked for. Only gray is repeated; convert "
                    "the array, or describe gray data as a view (kind: channel_mix)."
                )
            repeat = channels
        self.shape = (found * repeat, *array.shape[1:-1])
        return array, repeat

    def _declared(self, bounds: Sequence[float] | None) -> tuple[float | None, float | None]:
        dtype = self._array.dtype.newbyteorder("=")
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
                f"{self.where}: {dtype} values have no usual range (they run from {self._array.min()} to "
                f"{self._array.max()}). Declare it: range: [low, high]."
            )
        return None, None

    def _check_values(
        self, low: float | None, high: float | None, on_error: str
    ) -> tuple[tuple[float, float], dict[int, str]]:
        """The range in force and the unusable samples, in chunks of bounded memory."""
        array, bad = self._array, {}
        axes = tuple(range(1, array.ndim))
        step = max(1, _CHUNK // max(1, array[0].nbytes))
        lows, highs = np.empty(len(array)), np.empty(len(array))
        for start in range(0, len(array), step):
            # NaN and infinities survive min and max, so these two passes find them as well.
            chunk = array[start : start + step]
            lows[start : start + step], highs[start : start + step] = chunk.min(axes), chunk.max(axes)
        finite = np.isfinite(lows) & np.isfinite(highs)
        for i in np.flatnonzero(~finite):
            bad[int(i)] = "holds NaN or infinite values"
        if low is None or high is None:
            if not finite.any():
                raise BootdiffError(f"{self.where}: every sample holds NaN or infinite values")
            least, most = lows[finite].min(), highs[finite].max()
            low, high = (0.0, 1.0) if least >= 0 else (-1.0, 1.0)
            if most > 1 + 1e-4 or least < -1 - 1e-4:
                raise BootdiffError(
                    f"{self.where}: float values run from {least:.6g} to {most:.6g}, outside [-1, 1]. "
                    "Declare what they mean: range: [low, high], for example [0, 255]."
                )
        slack = 1e-4 * (high - low)
        for i in np.flatnonzero(finite & ((lows < low - slack) | (highs > high + slack))):
            value = lows[i] if lows[i] < low - slack else highs[i]
            bad[int(i)] = f"holds {value:.6g}, outside the range [{low:g}, {high:g}]"
        if bad and on_error == "refuse":
            first = min(bad)
            raise BootdiffError(
                f"{self.where}: {self._row(first)} {bad[first]} ({len(bad)} of {len(array)} samples are unusable). "
                "Mend them, declare the right range, or leave them out with on_error: skip."
            )
        return (low, high), bad

    def _read_labels(self, labels: Any, count: int, classes: Sequence[str] | None) -> np.ndarray | None:
        if labels is None:
            return None
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or len(labels) != count:
            raise BootdiffError(
                f"{self.where}: labels have shape {labels.shape}, need one for each of {count} samples. "
                "Check that they belong to this array."
            )
        if labels.dtype.kind in "US":
            text = labels.astype(str)
            known = sorted(set(text.tolist()) - {""}) if classes is None else list(classes)
            number = {name: i for i, name in enumerate(known)}
            values = np.asarray([number.get(t, -1) for t in text.tolist()], dtype=np.int64)
            self.classes = known
        elif labels.dtype.kind in "iuf":
            kept = labels[np.isfinite(labels)]
            whole = kept.size == len(labels) and bool((labels == np.floor(labels)).all())
            values = np.where(np.isfinite(labels), labels, -1).astype(np.int64)
            if not whole and (kept != np.floor(kept)).any():
                raise BootdiffError(f"{self.where}: labels are not whole numbers; number the classes 0, 1, 2, ...")
            if values.max() > 65535:
                raise BootdiffError(f"{self.where}: a label is {values.max()}; number the classes 0, 1, 2, ...")
            self.classes = list(classes) if classes is not None else [str(i) for i in range(values.max() + 1)]
        else:
            raise BootdiffError(f"{self.where}: labels of type {labels.dtype} are no class numbers or names")
        wrong = np.flatnonzero((values < 0) | (values >= len(self.classes)))
        wrong = wrong[np.isin(wrong, self._rows)]
        if len(wrong):
            raise BootdiffError(
                f"{self.where}: {len(wrong)} of {count} samples have no valid label, first {self._row(int(wrong[0]))} "
                f"({labels[wrong[0]]!r}); classes are {_some(self.classes)}. Label all samples or none."
            )
        return values

    def _read_masks(self, masks: Any, count: int) -> np.ndarray | None:
        if masks is None:
            return None
        masks = np.asarray(masks)
        if masks.ndim == len(self.shape) + 1 and masks.shape[-1] == 1:
            masks = masks[..., 0]
        if masks.shape != (count, *self.shape[1:]):
            raise BootdiffError(
                f"{self.where}: masks have shape {masks.shape}, need {(count, *self.shape[1:])}, one per sample."
            )
        high = masks.max()
        if masks.dtype.kind not in "biuf" or not np.isin(masks, (0, high)).all() or high not in (1, 255):
            raise BootdiffError(f"{self.where}: masks must hold 0 (hidden) and 1 or 255 (observed) only.")
        hidden = np.flatnonzero(masks.reshape(count, -1).max(1) == 0)
        if len(hidden):
            raise BootdiffError(
                f"{self.where}: the mask of {self._row(int(hidden[0]))} hides everything; remove the sample."
            )
        return masks > 0

    # -- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, row: int) -> str:
        return f"sample {row}"

    def name(self, index: int) -> str:
        return self._row(int(self._rows[self._check_index(index)]))

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        rows = self._rows[[self._check_index(i) for i in indices]]
        x = torch.from_numpy(np.moveaxis(self._array[rows], -1, 1).astype(np.float32))
        low, high = self.range
        x = x.sub_(low).mul_(2 / (high - low)).sub_(1)
        if self._repeat > 1:
            x = x.repeat_interleave(self._repeat, dim=1)
        labels = None if self._labels is None else torch.from_numpy(self._labels[rows])
        masks = None if self._masks is None else torch.from_numpy(self._masks[rows].astype(np.float32))[:, None]
        return x.contiguous(), labels, masks

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.gather([index])
        return Sample(x[0], None if labels is None else int(labels[0]), None if masks is None else masks[0])

    def fingerprint(self) -> str:
        if self._hash is None:
            digest = hashlib.sha256(repr((self._array.shape, self._array.dtype.str, self.shape, self.range)).encode())
            for array in (self._array, self._rows, self._labels, self._masks):
                if array is not None:
                    step = max(1, _CHUNK // max(1, array[0].nbytes))
                    for start in range(0, len(array), step):
                        digest.update(np.ascontiguousarray(array[start : start + step]).data)
            digest.update(repr(self.classes).encode())
            self._hash = digest.hexdigest()
        return self._hash


def _read(
    path: Path, key: str | None, labels_key: Any, masks_key: Any, labels: Any, masks: Any
) -> tuple[np.ndarray, Any, Any]:
    """The array, labels and masks in a .npy or .npz file."""
    if path.suffix not in (".npy", ".npz"):
        raise BootdiffError(f"{path}: unknown suffix {path.suffix!r}; arrays are read from .npy and .npz files")
    if path.suffix == ".npy":
        if key or isinstance(labels_key, str) or isinstance(masks_key, str):
            raise BootdiffError(f"{path}: a .npy file holds one array without keys; remove the key or use a .npz file")
        if labels_key or masks_key:
            raise BootdiffError(f"{path}: a .npy file holds no labels or masks; save them all in one .npz file")
    try:
        # Opened here: NumPy leaves the file open where it finds it damaged.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".npy":
                return np.load(path, mmap_mode="r", allow_pickle=False), labels, masks
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise BootdiffError(f"{path}: is a .npy file by its contents; rename it")
            return _members(path, key, labels_key, masks_key, labels, masks, archive)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the path (a recipe's paths start at its folder)") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def _members(
    path: Path, key: str | None, labels_key: Any, masks_key: Any, labels: Any, masks: Any, archive: Any
) -> tuple[np.ndarray, Any, Any]:
    names = list(archive.files)
    mosaics = [n[: -len("_jpeg")] for n in names if n.endswith("_jpeg") and n[: -len("_jpeg")] + "_shape" in names]
    hidden = {m + tail for m in mosaics for tail in ("_jpeg", "_shape")}
    known = [n for n in names if n not in hidden] + mosaics
    if key is None:
        if len(known) != 1:
            raise BootdiffError(f"{path}: holds {len(known)} arrays; say which with key: one of {_some(known)}")
        key = known[0]
    if key not in known:
        raise BootdiffError(f"{path}: has no key {key!r}; known keys: {_some(known)}")
    array = _mosaic(path, key, archive) if key in mosaics else _member(path, key, archive)
    if labels_key:
        labels = _member(path, _pick(path, labels_key, _LABELS, key, known, "labels"), archive)
    if masks_key:
        masks = _member(path, _pick(path, masks_key, _MASKS, key, known, "masks"), archive)
    return array, labels, masks


def _pick(path: Path, asked: str | bool, usual: Sequence[str], key: str, known: list[str], what: str) -> str:
    names = [asked] if isinstance(asked, str) else [pattern.format(key=key) for pattern in usual]
    found = next((name for name in names if name in known), None)
    if found is None:
        raise BootdiffError(f"{path}: no {what} under {' or '.join(map(repr, names))}; known keys: {_some(known)}")
    return found


def _member(path: Path, key: str, archive: Any) -> np.ndarray:
    try:
        return archive[key]
    # zlib.error and lzma.LZMAError of damaged members derive from Exception alone.
    except Exception as error:
        raise _unreadable(f"{path}[{key}]", error) from None


def _unreadable(where: Any, error: Exception) -> BootdiffError:
    if "allow_pickle" in str(error) or "pickle" in str(error).lower() or "Python objects" in str(error):
        return BootdiffError(
            f"{where}: holds Python objects or is no NumPy file; bootdiff never unpickles (it could run foreign code). "
            "Save one regular array of numbers with numpy.save or numpy.savez."
        )
    return BootdiffError(f"{where}: cannot be read ({error}). The file may be cut short; copy or save it again.")


def _mosaic(path: Path, key: str, archive: Any) -> np.ndarray:
    """N x ... x H x W x C cut from one JPEG of tiles in reading order."""
    shape = tuple(int(v) for v in _member(path, key + "_shape", archive).ravel())
    if len(shape) < 4 or min(shape) < 1:
        raise BootdiffError(f"{path}[{key}_shape]: must be N x ... x H x W x C with positive sizes, got {shape}")
    *lead, h, w, c = shape
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; this one's size is declared and checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = np.asarray(Image.open(io.BytesIO(_member(path, key + "_jpeg", archive).tobytes())))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(f"{path}[{key}_jpeg]", error) from None
    if picture.ndim == 2:
        picture = picture[..., None]
    rows, cols = picture.shape[0] // h, picture.shape[1] // w
    need = int(np.prod(lead))
    if picture.shape != (rows * h, cols * w, c) or rows * cols < need:
        raise BootdiffError(
            f"{path}[{key}_jpeg]: a {picture.shape} mosaic does not hold {need} tiles of {h} x {w} x {c}"
        )
    tiles = picture.reshape(rows, h, cols, w, c).swapaxes(1, 2).reshape(-1, h, w, c)
    return tiles[:need].reshape(shape)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


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
