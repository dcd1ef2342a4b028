"""Tables: CSV, TSV and Parquet files, read by pandas (extra ``data``). Empty cells are missing values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.options import TableOptions
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.reader import Reader
from bootdiff.errors import BootdiffError

__all__ = ["TABLE_SUFFIXES", "Table", "TableReader", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass
class Table:
    """values: (rows, columns) float64, NaN = missing. labels: (rows,) numbers or text, "" or NaN = missing; or None."""

    columns: list[str]
    values: np.ndarray
    labels: np.ndarray | None


def read_table(path: Path, columns: Sequence[str] | None = None, label: str | None = None) -> Table:
    """The number columns of a table.

    columns: which, in this order; by default all but `label`, all of which must hold numbers. label: column of labels.

    Raises Undecodable for a file that is damaged, lacks a column or holds text where numbers are needed, BootdiffError
    where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise BootdiffError(f"{path}: tables need pandas: pip install 'bootdiff[data]'") from None
    frame = _frame(pandas, path)
    known = [str(name) for name in frame.columns]
    frame.columns = known
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise Undecodable(f"has two columns named {twice!r}; rename one")
    for name in [*(columns or ()), *([label] if label else [])]:
        if name not in known:
            raise Undecodable(f"has no column {name!r}; columns: {', '.join(known)}")
    chosen = [name for name in known if name != label] if columns is None else list(columns)
    if not chosen or not len(frame):
        raise Undecodable("holds no rows" if chosen else "holds no columns of numbers")
    values = np.stack([_numbers(pandas, frame[name], name, suggest=columns is None) for name in chosen], 1)
    return Table(chosen, values, None if label is None else _labels(frame[label]))


def _frame(pandas: Any, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # A column of numbers and text is reported below, with its row.
            warnings.simplefilter("ignore", pandas.errors.DtypeWarning)
            if path.suffix.lower() == ".parquet":
                return pandas.read_parquet(path)
            return pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except ImportError:
        raise BootdiffError(f"{path}: Parquet files need pyarrow: pip install 'bootdiff[data]'") from None
    # pandas and pyarrow raise many kinds of errors for damaged files.
    except Exception as error:
        raise Undecodable(f"cannot be read as a table ({' '.join(str(error).split())[:200]})") from None


def _numbers(pandas: Any, column: Any, name: str, *, suggest: bool) -> np.ndarray:
    found = pandas.to_numeric(column, errors="coerce")
    text = np.flatnonzero(found.isna() & column.notna())
    if len(text):
        row = int(text[0])
        also = "; say which columns to use with columns: [...]" if suggest else ""
        raise Undecodable(f"column {name!r} holds {column.iloc[row]!r} in row {row}, which is no number{also}")
    return found.to_numpy(dtype=np.float64, na_value=np.nan)


def _labels(column: Any) -> np.ndarray:
    if column.dtype.kind in "biuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(["" if value is None or value != value else str(value) for value in column.tolist()])


class TableReader(Reader):
    """Tables whose rows are vectors."""

    what, kinds, options, suffixes = "a table of vectors", ("vector",), TableOptions, TABLE_SUFFIXES

    def open(self, path: Path, options: TableOptions) -> Dataset:
        o = options
        try:
            table = read_table(path, o.columns, "label" if o.labels is True else o.labels or None)
        except Undecodable as error:
            raise BootdiffError(f"{path}: {error}.") from None
        return Arrays(
            table.values, kind="vector", labels=table.labels, unlabelled=o.unlabelled, classes=o.classes, range=o.range,
            standardize=o.standardize and o.units is None, units=o.units, std=o.std, missing=o.missing,
            on_error=o.on_error, columns=table.columns, where=str(path), row="row {0}",
        )  # fmt: skip
