"""Arrays, their labels and their masks in .npy and .npz files. Nothing is ever unpickled."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.labels import shortened
from bootdiff.data.options import ArrayOptions
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.decode import check_regular
from bootdiff.data.readers.reader import Reader
from bootdiff.data.transforms import Windowed
from bootdiff.errors import BootdiffError

__all__ = ["ARRAY_SUFFIXES", "ArrayReader", "read_arrays", "unreadable"]

ARRAY_SUFFIXES = (".npy", ".npz")
_LABELS = ("{key}_label", "{key}_labels", "labels", "label", "y")
_MASKS = ("{key}_mask", "{key}_masks", "masks", "mask")


def read_arrays(
    path: Path, key: str | None = None, labels: bool | str = False, masks: bool | str = False
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The array (mapped, if the file is a .npy), its labels and its masks in a .npy or .npz file.

    key: which array of the .npz (only needed if it holds several). labels, masks: True for the usual names
    (``<key>_label``, ``labels``, ...; ``<key>_mask``, ``masks``, ...), or the name; False for none.

    Raises BootdiffError for anything wrong with the file or the names.
    """
    single = path.suffix.lower() == ".npy"
    if single:
        if key or isinstance(labels, str) or isinstance(masks, str):
            raise BootdiffError(f"{path}: a .npy file holds one array without keys; remove the key or use a .npz file")
        if labels or masks:
            raise BootdiffError(f"{path}: a .npy file holds no labels or masks; save them all in one .npz file")
    try:
        check_regular(path)
        # Opened here: NumPy leaves the file open where it finds it damaged.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if single:
                return np.load(path, mmap_mode="r", allow_pickle=False), None, None
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise BootdiffError(f"{path}: is a .npy file by its contents; rename it")
            return _members(path, key, labels, masks, archive)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the path (a recipe's paths start at its folder)") from None
    except (ValueError, OverflowError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from None


def _members(
    path: Path, key: str | None, labels: bool | str, masks: bool | str, archive: Any
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    known = list(archive.files)
    if key is None:
        if len(known) != 1:
            raise BootdiffError(f"{path}: holds {len(known)} arrays; say which with key: one of {shortened(known)}")
        key = known[0]
    if key not in known:
        raise BootdiffError(f"{path}: has no key {key!r}; known keys: {shortened(known)}")
    return (
        _member(path, key, archive),
        _member(path, _pick(path, labels, _LABELS, key, known, "labels"), archive) if labels else None,
        _member(path, _pick(path, masks, _MASKS, key, known, "masks"), archive) if masks else None,
    )


def _pick(path: Path, asked: str | bool, usual: Sequence[str], key: str, known: list[str], what: str) -> str:
    names = [asked] if isinstance(asked, str) else [pattern.format(key=key) for pattern in usual]
    found = next((name for name in names if name in known), None)
    if found is None:
        raise BootdiffError(f"{path}: no {what} under {' or '.join(map(repr, names))}; known keys: {shortened(known)}")
    return found


def _member(path: Path, key: str, archive: Any) -> np.ndarray:
    try:
        member = archive[key]
    # zlib.error and lzma.LZMAError of damaged members derive from Exception alone.
    except Exception as error:
        raise unreadable(f"{path}[{key}]", error) from None
    if not isinstance(member, np.ndarray):
        raise BootdiffError(f"{path}[{key}]: is no array; save it with numpy.savez")
    return member


def unreadable(where: Any, error: Exception) -> BootdiffError:
    if "allow_pickle" in str(error) or "pickle" in str(error).lower() or "Python objects" in str(error):
        return BootdiffError(
            f"{where}: holds Python objects or is no NumPy file; bootdiff never unpickles (it could run foreign code). "
            "Save one regular array of numbers with numpy.save or numpy.savez."
        )
    return BootdiffError(f"{where}: cannot be read ({error}). The file may be cut short; copy or save it again.")


class ArrayReader(Reader):
    """Files of NumPy arrays."""

    what, kinds, options = "an array", ("vector", "signal", "image", "video"), ArrayOptions
    suffixes, channels = ARRAY_SUFFIXES, (1, 2, 3, 4)

    def open(self, path: Path, options: ArrayOptions) -> Dataset:
        o = options
        own = o.masks == "alpha"
        array, labels, masks = read_arrays(path, o.key, o.labels, o.masks if not own else False)
        dataset = Arrays(
            array, kind=o.kind, labels=labels, classes=o.classes, unlabelled=o.unlabelled, range=o.range,
            masks="alpha" if own else masks, alpha=o.alpha,
            standardize=o.standardize and o.units is None, units=o.units, std=o.std, missing=o.missing,
            channels=o.channels, on_error=o.on_error, where=f"{path}[{o.key}]" if o.key else str(path),
        )  # fmt: skip
        for name, length, needed in (("frames", o.frames, "video"), ("length", o.length, "signal")):
            if length is not None:
                if dataset.kind != needed:
                    raise BootdiffError(
                        f"{path}: holds samples of kind {dataset.kind}, to which {name} means nothing; remove it"
                    )
                return Windowed(dataset, length, o.stride)
        return dataset
