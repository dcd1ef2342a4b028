"""Files that hold pictures for a science: what their readers have in common.

A *stack* is one file with `count` pictures of one shape: the pages of a TIFF, the frames of a DICOM file, the slices of
a NIfTI volume, the one picture in a `.npy` file. Libraries of the field open them; they are extras, and asked for only
where such a file lies.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.kinds import layout
from bootdiff.data.options import MAX_FRAMES
from bootdiff.data.readers.decode import Undecodable, check_regular
from bootdiff.errors import BootdiffError

__all__ = ["NpyPicture", "Stack", "check_count", "library", "quiet", "unsigned_bits"]


class Stack(ABC):
    """The pictures in one file.

    Attributes: ``count`` of them; ``shape`` (H, W, C) of each; ``labels``, what tells them apart in the file, "" for
    the only one. ``values``, the type of what `read` gives, as `Units.values`; ``bits``, where values are unsigned
    integers of so many bits, which says their range, else None. ``inverted``: the lowest value is white. ``alpha``: the
    last channel is opacity. ``lost``: what pixels were converted from where that loses something. ``unpacked``: bytes
    that reading one picture unpacks, of packed files. Where they are known, ``spacing``: (height, width) of a pixel in
    mm; ``apart``: from one picture to the next in mm; ``number``: of a file among others of its series.
    """

    count: int = 1
    shape: tuple[int, int, int]
    labels: list[str]
    values: str
    bits: int | None = None
    inverted: bool = False
    alpha: bool = False
    spacing: tuple[float, float] | None = None
    apart: float | None = None
    number: float | None = None
    lost: str | None = None
    unpacked: int = 0
    _held: Any = None  # what was read and may be let go of; it is not sent to workers

    @abstractmethod
    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Picture k: (H, W, C) as stored or rescaled by the file's own words; and what of it is observed, (H, W) bool,
        None for all. Raises Undecodable."""

    def close(self) -> None:
        """Let go of what was read; `read` still works."""
        self._held = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}

    def numbered(self) -> list[str]:
        """The usual labels. Raises Undecodable for more than are read of one file: a header may claim any number."""
        check_count(self.count)
        return [""] if self.count == 1 else [str(k) for k in range(self.count)]


class NpyPicture(Stack):
    """A `.npy` file with one picture, H x W or H x W x C. Raises Undecodable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._array()
        self.shape, self.labels = array.shape, [""]
        dtype = array.dtype.newbyteorder("=")
        self.values = "float" if dtype.kind == "f" else str(dtype)
        self.bits = 1 if dtype.kind == "b" else unsigned_bits(dtype)

    def _array(self) -> np.ndarray:
        check_regular(self.path)
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OverflowError, EOFError, OSError) as error:
            raise Undecodable(f"cannot be read ({error})") from None
        if array.ndim not in (2, 3):
            raise Undecodable(f"has the shape {array.shape}; a picture is H x W or H x W x C")
        try:
            return layout(array[None], "image", "it")[0][0]
        except BootdiffError as error:
            raise Undecodable(str(error).removeprefix("it: ")) from None

    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        array = np.array(self._array())
        if array.shape != self.shape:
            raise Undecodable("has changed since the folder was opened")
        return array, None


def check_count(count: int) -> None:
    """Raises Undecodable for a file that says to hold no pictures, or more than are read of one."""
    if not 0 < count <= MAX_FRAMES:
        raise Undecodable(f"says that it holds {count:,} pictures; 1 to {MAX_FRAMES:,} are read of one file")


def unsigned_bits(dtype: np.dtype) -> int | None:
    """Bits of unsigned integers of one or two bytes, whose range is that of the type; None of all others.

    >>> unsigned_bits(np.dtype(np.uint16)), unsigned_bits(np.dtype(np.uint32))
    (16, None)
    """
    return 8 * dtype.itemsize if dtype.kind == "u" and dtype.itemsize <= 2 else None


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without what a library warns and logs while it reads: what cannot be used is an error here."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def library(name: str, path: Path, extra: str) -> Any:
    """A module that reads the file at `path`. Raises BootdiffError, with the command that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise BootdiffError(
            f"{path}: is read by {name}, which is not installed: pip install 'bootdiff[{extra}]'"
        ) from None
