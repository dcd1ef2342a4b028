"""Pictures for a science (TIFF, DICOM, NIfTI, `.npy`) in a folder or one file; and who reads a folder of pictures.

A value v of the range [lo, hi] becomes x = 2 (v - lo) / (hi - lo) - 1. The range is the declared one; else that of the
full samples, where theirs was declared for values of this type; else that of unsigned integers of b bits, [0, 2^b - 1].
All other values are refused until a range is said.

Each picture of a file with several is a sample, NAME[K]. Pixels that are NaN, or that the file itself says are none
(GeoTIFF's nodata, DICOM's padding), are damage or, with `missing: mask`, not observed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bootdiff.data.dataset import Dataset, Span
from bootdiff.data.folders import list_files, nothing_found, passed_over
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.decode import (
    IMAGE_SUFFIXES,
    Transparent,
    Undecodable,
    check_pixels,
    check_regular,
    decode,
    read_file,
    too_large,
)
from bootdiff.data.readers.dicom import DICOM_SUFFIXES, Dicom, is_dicom
from bootdiff.data.readers.images import Images
from bootdiff.data.readers.mask_files import is_opaque, masks_beside, masks_by_stem, without_masks
from bootdiff.data.readers.nifti import NIFTI_SUFFIXES, Nifti
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.recordings import folder_and_file, long_file_digest
from bootdiff.data.readers.stacks import NpyPicture, Stack
from bootdiff.data.readers.tiff import TIFF_SUFFIXES, Tiff
from bootdiff.data.units import Units
from bootdiff.data.value_range import outside, slack_of
from bootdiff.errors import BootdiffError

__all__ = ["STACK_SUFFIXES", "ImageReader", "SciencePictures"]

STACK_SUFFIXES = (*TIFF_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)


class _Encoded(Stack):
    """A PNG, JPEG ... among them. Raises Undecodable."""

    def __init__(self, path: Path, alpha: str, most: int) -> None:
        self.path, self._alpha, self._most, self.labels = path, alpha, most, [""]
        pixels, self.lost = decode(read_file(path), alpha, most)
        self.shape, self.bits = pixels.shape, 8 * pixels.itemsize
        self.alpha = pixels.shape[-1] in (2, 4)
        self.values = str(pixels.dtype)

    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        return decode(read_file(self.path), self._alpha, self._most)[0], None


class SciencePictures(Images):
    """The pictures in a folder, or in one file.

    Args and attributes: those of `Images`. options.range, units, std, missing: see the module; slices: of volumes.
    Attribute ``range``: the declared or inherited one, None where each file's bits say it.

    Raises BootdiffError for anything wrong with the files, or where a library is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        options: ImageOptions | None = None,
        *,
        memory: int = 512 << 20,
    ) -> None:
        o = self._options = options or ImageOptions()
        self._path, self._alone = Path(path), folder_and_file(Path(path))[1]
        self._stacks: dict[str, Stack] = {}
        self._pictures: dict[str, tuple[str, int]] = {}
        self._open_last: str | None = None
        self._damaged: set[str] = set()
        self._has_gaps = o.missing == "mask"
        self._is_indexed = False  # only values tell whether they lie in the range
        super().__init__(self._path.parent if self._alone else self._path, o, memory=memory)
        self.where = str(path)
        self.units = self._units()
        several = any(stack.count > 1 for stack in self._stacks.values())
        self._several = {file: i for i, file in enumerate(self._stacks)} if several else {}
        self.notes = [*self.notes, *self._spacing_notes()]
        settings = (self.units.config(), o.missing, o.slices)
        self._digest = hashlib.sha256((self._digest + repr(settings)).encode()).hexdigest()

    # -- opening ------------------------------------------------------------------------------------------------

    def _list(self) -> list[str]:
        names = self._alone or list_files(self.folder, "pictures", self.problems.add)
        usable = without_masks(names)
        if self._alone:
            names = [*names, *(path.name for path in masks_beside(self.folder / _stem(self._path.name)))]
        self._masks = masks_by_stem(names) if self._beside else {}
        files = [n for n in usable if self._is_picture(n)]
        if not files and self._options.kind == "image":
            files = [n for n in usable if n.lower().endswith(".npy")]
        if not files:
            need = (*IMAGE_SUFFIXES, *STACK_SUFFIXES)
            raise nothing_found(self.folder, usable, "pictures", "a picture", need, self.problems)
        self._passed_over = passed_over(set(usable) - set(files))
        for name in files:
            try:
                stack = self._stacks[name] = self._opened(self.folder / name)
                check_pixels(stack.shape[1], stack.shape[0] * max(1, stack.shape[2] // 4), self._most)
                if stack.unpacked > self._options.max_bytes:
                    raise Undecodable(too_large(stack.unpacked, self._options.max_bytes))
            except (Undecodable, OSError) as error:
                said = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                self.problems.add(name, said)
                self._pictures[name] = name, 0
                self._damaged.add(name)
                continue
            self._pictures |= {f"{name}[{k}]" if k else name: (name, i) for i, k in enumerate(stack.labels)}
        return list(self._pictures)

    def _is_picture(self, name: str) -> bool:
        low = name.lower()
        if low.endswith((*IMAGE_SUFFIXES, *STACK_SUFFIXES)):
            return True
        return not Path(name).suffix and Path(name).name != "DICOMDIR" and is_dicom(self.folder / name)

    def _opened(self, path: Path) -> Stack:
        """Raises Undecodable, or BootdiffError where its library is not installed."""
        check_regular(path)
        low = path.name.lower()
        if low.endswith(TIFF_SUFFIXES):
            return Tiff(path)
        if low.endswith(NIFTI_SUFFIXES):
            return Nifti(path, self._options.slices)
        if low.endswith(".npy"):
            return NpyPicture(path)
        return _Encoded(path, self._alpha, self._most) if low.endswith(IMAGE_SUFFIXES) else Dicom(path)

    def _read_header(self, name: str) -> tuple[int, int, int, str | None] | None:
        file, k = self._pictures[name]
        if file in self._damaged:
            return None
        stack = self._stacks[file]
        try:
            if k == 0 or self._open_last != file:
                self._hash.update(long_file_digest(file, self.folder / file))
            self._open_last = file
            # Only values tell whether they lie in the range, so all are read, whatever is kept.
            return (*self._keep(name, *self._load(name)), stack.lost)
        except Transparent as error:
            self.problems.add(name, f"{error}; or, where they are not observed (partial data), masks: alpha")
        except Undecodable as error:
            self.problems.add(name, str(error))
        except OSError as error:
            self.problems.add(name, f"cannot be read ({error.strerror})")
        return None

    def _range_of(self, name: str, stack: Stack, values: np.ndarray | None = None) -> tuple[float, float]:
        """The range in force for a file. Raises BootdiffError where nobody says one."""
        o = self._options
        if o.range is not None:
            return float(o.range[0]), float(o.range[1])
        if o.units is not None and o.units.values == stack.values:
            low, high = o.units.bounds
            return low, high
        if stack.bits is not None:
            return 0.0, float(2**stack.bits - 1)
        found = "" if values is None else f"; {name} holds {np.nanmin(values):.6g} to {np.nanmax(values):.6g}"
        raise BootdiffError(
            f"{self._path}: {stack.values} values have no usual range{found}. Declare it: range: [low, high], for "
            "example [-1024, 3071] for Hounsfield units."
        )

    def _units(self) -> Units:
        first = self._stacks[self._pictures[self.names[0]][0]]
        o, bounds = self._options, self._range_of(self.names[0], first)
        said = o.range is not None or (o.units is not None and o.units.values == first.values)
        self.range = bounds if said else None
        # Where the bits of each file say its range, levels of 8 bits stand for all, as for other pictures.
        return Units.of_range(*bounds, first.values) if said else Units.of_range(0, 255, "pixels")

    def _spacing_notes(self) -> Iterable[str]:
        used = {self._pictures[name][0] for name in self.names}
        known = Counter(s for name in used if (s := self._stacks[name].spacing) is not None)
        if not known:
            return
        longer = {s: n for s, n in known.items() if not 0.99 < s[0] / s[1] < 1.01}
        if longer:
            yield f"pixels of {sum(longer.values())} file(s) are not square ({_sizes(longer)}); they stay as stored"
        if max(s[0] for s in known) > 1.01 * min(s[0] for s in known):
            yield f"files differ in the size of a pixel ({_sizes(known)}); nothing is resampled"

    # -- reading ------------------------------------------------------------------------------------------------

    def listed(self) -> Iterator[tuple[str, str, int, float | None]]:
        """Each picture that was found, usable or not: its name, its file, how many are in that, and its number."""
        for picture, (file, k) in self._pictures.items():
            stack = self._stacks.get(file)
            if stack is None:
                yield picture, file, 1, None
            else:
                yield picture, file, stack.count, stack.number if stack.count == 1 else float(k)

    def span(self, index: int) -> Span | None:
        """Slices of one volume resemble each other, as frames do: what is held out is whole files."""
        if not self._several:
            return None
        file, k = self._pictures[self.name(index)]
        return Span(self._several[file], k, k + 1)

    def apart(self) -> set[tuple[float, float]]:
        """Of files that say both: how far pictures are apart, and the height of a pixel, in mm."""
        used = [self._stacks[self._pictures[name][0]] for name in self.names]
        return {(s.apart, s.spacing[0]) for s in used if s.apart is not None and s.spacing is not None}

    def _load(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W, C) float32 in stored coordinates, 0 where nothing is observed; and what is, (H, W), None for all."""
        file, k = self._pictures[name]
        if self._open_last not in (None, file):
            self._stacks[self._open_last].close()
        self._open_last = file
        stack = self._stacks[file]
        stored, observed = stack.read(k)
        opacity = None
        if stack.alpha:
            opacity, stored = stored[..., -1], stored[..., :-1]
        wide = stored.astype(np.float64)
        there = np.asarray(~np.isnan(wide).any(-1))
        if not there.all():
            observed = there if observed is None else observed & there
        wide = wide if observed is None else np.where(observed[..., None], wide, np.nan)
        self._check_observed(observed)
        low, high = self._range_of(name, stack, wide)
        self._check_values(wide, low, high)
        x = 2 * (wide - low) / (high - low) - 1
        x = -x if stack.inverted else x
        x = np.nan_to_num(x, nan=0.0).astype(np.float32)
        if opacity is None:
            return x, observed
        full = float(2 ** (stack.bits or 0) - 1 or 1)
        if self._own_masks:
            visible = is_opaque(opacity, full)
            return x, visible if observed is None else observed & visible
        return self._on_ground(x, opacity / full), observed

    def _check_observed(self, observed: np.ndarray | None) -> None:
        if observed is None or observed.all():
            return
        if self._options.missing != "mask":
            raise Undecodable(
                f"has {int((~observed).sum())} pixel(s) without data (NaN, or what the file says is none); where that "
                "means not observed, say missing: mask (partial data)"
            )
        if not observed.any():
            raise Undecodable("holds no observed value at all")

    def _check_values(self, wide: np.ndarray, low: float, high: float) -> None:
        least, most = float(np.nanmin(wide)), float(np.nanmax(wide))
        if not np.isfinite((least, most)).all():
            raise Undecodable("holds infinite values")
        slack = slack_of(low, high, self._options.std)
        if least < low - slack or most > high + slack:
            raise Undecodable(outside(least if least < low - slack else most, low, high, self._options.std))

    def _on_ground(self, x: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        """Transparent pixels as `alpha` says."""
        if self._alpha == "drop" or (opacity >= 1).all():
            return x
        if self._alpha == "refuse":
            raise Transparent("has transparent pixels; say what is behind them with alpha: white, black or drop")
        ground = 1.0 if self._alpha == "white" else -1.0
        return (x * opacity[..., None] + ground * (1 - opacity[..., None])).astype(np.float32)

    def _mask_name(self, name: str) -> str:
        # One mask serves all pictures of a file.
        return super()._mask_name(_stem(self._pictures[name][0]) + ".")


def _stem(file: str) -> str:
    """A file's name without its suffix."""
    return file[: -len(".nii.gz")] if file.lower().endswith(".nii.gz") else file.rpartition(".")[0] or file


def _sizes(spacings: Iterable[tuple[float, float]]) -> str:
    shown = [f"{h:.3g} x {w:.3g} mm" for h, w in list(spacings)[:4]]
    return ", ".join(shown) + (" ..." if len(list(spacings)) > 4 else "")


class ImageReader(Reader):
    """Folders of pictures, and single files of several."""

    what, kinds, options = "a folder of pictures", ("image",), ImageOptions
    suffixes = folder_suffixes = (*IMAGE_SUFFIXES, *STACK_SUFFIXES)

    def open(self, path: Path, options: ImageOptions) -> Dataset:
        self.refuse_names(path, options)
        if self._holds_stacks(path, options):
            return SciencePictures(path, options)
        defaults = ImageOptions()
        for name in ("missing", "slices"):
            if getattr(options, name) != getattr(defaults, name):
                raise BootdiffError(f"{path}: holds ordinary pictures, to which {name} means nothing; remove it")
        others, usual = options.units, {"uint8": (0, 255), "uint16": (0, 65535)}
        ranged = options.range is not None
        if others is not None and others.values in usual:
            ranged |= others.bounds != usual[others.values]
        return SciencePictures(path, options) if ranged else Images(path, options)

    def _holds_stacks(self, path: Path, options: ImageOptions) -> bool:
        if not path.is_dir():
            return True
        names = list_files(path, "pictures", lambda name, reason: None)
        if any(name.lower().endswith(STACK_SUFFIXES) for name in names):
            return True
        suffixes = {Path(name).suffix.lower() for name in names}
        if options.kind == "image" and ".npy" in suffixes and not suffixes & set(IMAGE_SUFFIXES):
            return True
        bare = [name for name in names if not Path(name).suffix]
        return any(is_dicom(path / name) for name in bare[:100])
