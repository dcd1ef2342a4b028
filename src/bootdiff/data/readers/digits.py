"""scikit-learn's handwritten digits, which need no files: an array data set like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bootdiff.data.dataset import Dataset, split
from bootdiff.data.options import EmbeddedOptions
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.reader import Reader
from bootdiff.errors import BootdiffError

__all__ = ["DigitsReader", "load_digits"]


def load_digits(part: str = "all", *, labels: bool = False, channels: int | None = None) -> Arrays:
    """scikit-learn's 1,797 handwritten digits: 1 x 8 x 8, values 0..16, ten classes.

    part: "all", or "train" (1,497) or "test" (300), a fixed random division.

    Raises BootdiffError where scikit-learn is missing, or for an unknown part.
    """
    if part not in ("all", "train", "test"):
        raise BootdiffError(f"digits: no part {part!r}; known parts: all, train, test")
    try:
        from sklearn import datasets
    except ImportError:
        raise BootdiffError("digits: needs scikit-learn; install it with pip install scikit-learn") from None
    data = datasets.load_digits()
    rows = np.arange(len(data.images))
    if part != "all":
        rows = np.asarray(split(len(rows), [None, 300], seed=0)[part == "test"])
    digits = Arrays(
        data.images[rows].astype(np.uint8),
        labels=data.target[rows].astype(np.int64) if labels else None,
        classes=[str(i) for i in range(10)] if labels else None,
        range=(0, 16),
        channels=channels,
        where="digits" if part == "all" else f"digits[{part}]",
    )
    # Arrays of people's own hold pixels of 8 bits, not these counts of 0 .. 16.
    digits.units = replace(digits.units, values="pixels")
    return digits


class DigitsReader(Reader):
    """The path "digits"."""

    what, kinds, options = "scikit-learn's digits", ("image",), EmbeddedOptions

    def open(self, path: Path, options: EmbeddedOptions) -> Dataset:
        return load_digits(options.key or "all", labels=bool(options.labels), channels=options.channels)
