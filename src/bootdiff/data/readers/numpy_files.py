"""Arrays, their labels and their masks in .npy and .npz files. Nothing is ever unpickled."""

from __future__ import annotations

import ast
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.labels import shortened
from bootdiff.data.options import MAX_BYTES, ArrayOptions
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.decode import Undecodable, check_regular, too_large
from bootdiff.data.readers.reader import Reader
from bootdiff.data.transforms import Windowed
from bootdiff.errors import BootdiffError

__all__ = ["ARRAY_SUFFIXES", "ArrayReader", "array_in", "read_arrays", "read_npy", "unreadable"]

ARRAY_SUFFIXES = (".npy", ".npz")
# What NumPy, and reading a header, raise for damaged files.
_DAMAGED = (ValueError, TypeError, KeyError, SyntaxError, OverflowError, MemoryError, RecursionError, EOFError)
_LONGEST_HEADER = 10_000  # as NumPy has it: the parser of its text may not be safe beyond
_LABELS = ("{key}_label", "{key}_labels", "labels", "label", "y")
_MASKS = ("{key}_mask", "{key}_masks", "masks", "mask")


def read_arrays(
    path: Path,
    key: str | None = None,
    labels: bool | str = False,
    masks: bool | str = False,
    most: int = MAX_BYTES,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The array (mapped, if the file is a .npy), its labels and its masks in a .npy or .npz file.

    key: which array of the .npz (only needed if it holds several). labels, masks: True for the usual names
    (``<key>_label``, ``labels``, ...; ``<key>_mask``, ``masks``, ...), or the name; False for none. most: bytes that
    each of them may unpack to.

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
            _check_header(file, path.stat().st_size)
            file.seek(0)
            if single:
                return np.load(path, mmap_mode="r", allow_pickle=False), None, None
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise BootdiffError(f"{path}: is a .npy file by its contents; rename it")
            return _members(path, key, labels, masks, archive, most)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the path (a recipe's paths start at its folder)") from None
    except Undecodable as error:
        raise BootdiffError(f"{path}: {error}; give a file") from None
    except (*_DAMAGED, OSError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from None


def _members(
    path: Path, key: str | None, labels: bool | str, masks: bool | str, archive: Any, most: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    known = list(archive.files)
    if key is None:
        if len(known) != 1:
            raise BootdiffError(f"{path}: holds {len(known)} arrays; say which with key: one of {shortened(known)}")
        key = known[0]
    if key not in known:
        raise BootdiffError(f"{path}: has no key {key!r}; known keys: {shortened(known)}")
    return (
        _member(path, key, archive, most),
        _member(path, _pick(path, labels, _LABELS, key, known, "labels"), archive, most) if labels else None,
        _member(path, _pick(path, masks, _MASKS, key, known, "masks"), archive, most) if masks else None,
    )


def _pick(path: Path, asked: str | bool, usual: Sequence[str], key: str, known: list[str], what: str) -> str:
    names = [asked] if isinstance(asked, str) else [pattern.format(key=key) for pattern in usual]
    found = next((name for name in names if name in known), None)
    if found is None:
        raise BootdiffError(f"{path}: no {what} under {' or '.join(map(repr, names))}; known keys: {shortened(known)}")
    return found


def _member(path: Path, key: str, archive: Any, most: int) -> np.ndarray:
    try:
        for packed in archive.zip.infolist():
            if packed.filename in (key, f"{key}.npy"):
                if packed.file_size > max(most, path.stat().st_size):
                    raise BootdiffError(f"{path}[{key}]: {too_large(packed.file_size, most)}.")
                with archive.zip.open(packed) as file:
                    _check_header(file, packed.file_size)
        member = archive[key]
    except BootdiffError:
        raise
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


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises ValueError where the header of an array claims more than the `size` bytes of its file, for which NumPy
    would take memory."""
    start = file.read(12)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 12:
        return  # NumPy says what is wrong with it
    long = start[6] > 1
    head = int.from_bytes(start[8 : 12 if long else 10], "little") + (12 if long else 10)
    if head > min(size, _LONGEST_HEADER):
        raise ValueError(f"its header claims to be {head:,} bytes long")
    text = (start[12 if long else 10 :] + file.read(head - 12)).decode("latin-1")
    said = ast.literal_eval(text.strip())
    claimed = math.prod(said["shape"]) * np.dtype(said["descr"]).itemsize
    if claimed > size - head:
        raise ValueError(f"its header claims {claimed:,} bytes, there are {size - head:,}")


def read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped, so that memory is taken for what is there and not for what its header claims.

    Raises Undecodable.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except Undecodable:
        raise
    except OSError as error:
        raise Undecodable(f"cannot be read ({error.strerror or error})") from None
    except _DAMAGED as error:
        raise Undecodable(f"cannot be read ({error})") from None


def array_in(file: IO[bytes], size: int) -> np.ndarray:
    """The array in an open .npy file of `size` bytes. Raises Undecodable."""
    try:
        _check_header(file, size)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.lib.format.read_array(file, allow_pickle=False)
    except _DAMAGED as error:
        raise Undecodable(f"cannot be read ({error})") from None


class ArrayReader(Reader):
    """Files of NumPy arrays."""

    what, kinds, options = "an array", ("vector", "signal", "image", "video"), ArrayOptions
    suffixes, channels = ARRAY_SUFFIXES, (1, 2, 3, 4)

    def open(self, path: Path, options: ArrayOptions) -> Dataset:
        o = options
        own = o.masks == "alpha"
        array, labels, masks = read_arrays(path, o.key, o.labels, o.masks if not own else False, o.max_bytes)
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
