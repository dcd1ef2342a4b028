"""Tables: CSV, TSV and Parquet files, read by pandas (extra ``data``). Empty cells are missing values.

pandas decides by itself what a header is, which column holds row names, and what a value means; where its choice could
be wrong, the table is refused and the option that settles it is named.
"""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.labels import shortened
from bootdiff.data.options import TableOptions, defaults_of
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.decode import Undecodable, check_regular, too_large
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


def read_table(path: Path, options: TableOptions, label: str | None = None) -> Table:
    """The number columns of a table.

    options: columns: which, in this order; by default all but `label`, all of which must have names and hold numbers.
    header, separator, decimal, missing_values: how the table is written. label: column of labels.

    Raises Undecodable for a file that is damaged, lacks a column, could be read in two ways, or holds text or times
    where numbers are needed; BootdiffError where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise BootdiffError(f"{path}: tables need pandas: pip install 'bootdiff[data]'") from None
    o = options
    frame = _frame(pandas, path, o)
    known = [str(name) for name in frame.columns]
    frame.columns = known
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise Undecodable(f"has two columns named {twice!r}; rename one")
    for name in [*(o.columns or ()), *([label] if label else [])]:
        if name not in known:
            raise Undecodable(f"has no column {name!r}; columns: {shortened(known)}")
    chosen = [name for name in known if name != label] if o.columns is None else list(o.columns)
    if not chosen or not len(frame):
        raise Undecodable("holds no rows" if chosen else "holds no columns of numbers")
    if o.columns is None:
        _check_named(frame, chosen)
    values = np.stack([_numbers(pandas, frame[name], name, o) for name in chosen], 1)
    return Table(chosen, values, None if label is None else _labels(frame[label], o))


def _frame(pandas: Any, path: Path, o: TableOptions) -> Any:
    try:
        check_regular(path)
        with warnings.catch_warnings():
            # A column of numbers and text is reported below, with its row.
            warnings.simplefilter("ignore", pandas.errors.DtypeWarning)
            if path.suffix.lower() == ".parquet":
                for name in ("header", "separator", "decimal"):
                    if getattr(o, name) != defaults_of(TableOptions)[name]:
                        raise Undecodable(f"is a Parquet table, to which {name} means nothing; leave it out")
                _check_parquet(path, o)
                return pandas.read_parquet(path)
            return _csv(pandas, path, o)
    except (Undecodable, MemoryError):
        raise
    except ImportError:
        raise BootdiffError(f"{path}: Parquet files need pyarrow: pip install 'bootdiff[data]'") from None
    # pandas and pyarrow raise many kinds of errors for damaged files.
    except Exception as error:
        raise Undecodable(f"cannot be read as a table ({' '.join(str(error).split())[:200]})") from None


def _check_width(count: int, o: TableOptions) -> None:
    if count > o.max_columns:
        raise Undecodable(
            f"has {count:,} columns, more than max_columns ({o.max_columns:,}): raise that if it is meant"
        )


def _check_parquet(path: Path, o: TableOptions) -> None:
    """Undecodable for a table that is too large, by what it says of itself."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        about = file.metadata
        _check_width(about.num_columns, o)
        # As what it is read: runs of one value are packed into almost nothing.
        if (unpacked := 8 * about.num_rows * about.num_columns) > o.max_bytes:
            raise Undecodable(too_large(unpacked, o.max_bytes))


# --- text tables ---


def _csv(pandas: Any, path: Path, o: TableOptions) -> Any:
    separator = o.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    first, second = ([row for _, row in itertools.islice(_rows(path, separator), 2)] + [[], []])[:2]
    _check_width(len(first), o)
    names = [str(k + 1) for k in range(len(first))]
    if o.header is not False:
        _check_header(first, o)
        names = [name or f"Unnamed: {k}" for k, name in enumerate(first)]
        if len(second) > len(first):
            _check_row_names(path, separator, len(first))
    frame = pandas.read_csv(
        path, sep=r"\s+" if separator == " " else separator, decimal=o.decimal, header=None if o.header is False else 0
    )
    if len(frame.columns) == len(names):
        frame.columns = names  # pandas renames those that are there twice
    return frame


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields, as text, of the rows of a text table, blank ones left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if separator == " ":
            rows: Iterator[list[str]] = (line.split() for line in file)
            yield from ((k, row) for k, row in enumerate(rows, 1) if row)
        else:
            reader = csv.reader(file, delimiter=separator)
            yield from ((reader.line_num, [field.strip() for field in row]) for row in reader if row)


def _check_header(names: Sequence[str], o: TableOptions) -> None:
    """Undecodable where a header is one column that should be several, or holds numbers."""
    if o.separator is None and len(names) == 1:
        for other, written in ((";", "';'"), ("\t", '"\\t"'), ("|", "'|'")):
            if other in names[0]:
                raise Undecodable(
                    f"has one column, named {_quoted(names[0])}: is {written} what divides its columns? Say separator: "
                    f"{written} (and decimal: ',' where numbers are written as 1,5)"
                )
    numbers = sum(_is_number(name) for name in names)
    if o.header is None and 2 * numbers > len(names):
        raise Undecodable(
            f"has numbers for names of its columns ({shortened(names, 3)}): the first row holds values? Then say "
            "header: false; if these are names, header: true"
        )


def _check_row_names(path: Path, separator: str, count: int) -> None:
    """Undecodable where rows are longer than the header, other than by row names in front, as R writes them."""
    every_last_empty = True
    for line, row in _rows(path, separator):
        every_last_empty &= line == 1 or not row[-1]
        if len(row) not in ((count,) if line == 1 else (count + 1,)):
            raise Undecodable(
                f"has {len(row)} values in line {line} and {count} names in its header; correct the rows, or say "
                "separator if another character divides them"
            )
    if every_last_empty:
        raise Undecodable(
            f"has rows of {count + 1} values, the last one empty, for {count} names: they end with a separator that "
            "the header lacks, so the names would not fit. End the header with one, too, and say which columns to use "
            "with columns: [...]; or remove it from the rows"
        )


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return text.lower() not in ("nan", "inf", "infinity")


def _quoted(text: Any) -> str:
    """A value for messages, cut where it is long."""
    said = repr(text)
    return said if len(said) <= 60 else said[:57] + "..."


# --- columns ---


def _check_named(frame: Any, chosen: Sequence[str]) -> None:
    """Undecodable where a column that nobody asked for has no name."""
    for name in chosen:
        if not re.fullmatch(r"Unnamed: \d+", name):
            continue
        like = "where rows end with a separator" if frame[name].isna().all() else "pandas and R write row numbers"
        named = [other for other in chosen if not other.startswith("Unnamed: ")]
        raise Undecodable(
            f"has a column without a name ({name!r}), as {like}; say which columns to use: columns: "
            f"[{', '.join(named)}]"
        )


def _numbers(pandas: Any, column: Any, name: str, o: TableOptions) -> np.ndarray:
    others = "" if o.columns is not None else "; say which columns to use with columns: [...]"
    if column.dtype.kind in "mM":
        what = "time stamps" if column.dtype.kind == "M" else "durations"
        raise Undecodable(f"column {name!r} holds {what}, which are no numbers; make them numbers{others}")
    if any(isinstance(value, bytes | dict) for value in column.head(1)):
        raise Undecodable(f"column {name!r} holds files as bytes; where they are pictures, say kind: image")
    marks = o.missing_values or ()
    if column.dtype.kind not in "biuf":
        said = {str(mark).strip() for mark in marks}
        column = column.mask(column.map(lambda value: isinstance(value, str) and value.strip() in said))
    try:
        found = pandas.to_numeric(column, errors="coerce")
    except TypeError:
        raise Undecodable(f"column {name!r} holds {column.dtype} values, which are no numbers{others}") from None
    text = np.flatnonzero(found.isna() & column.notna())
    if len(text):
        row = int(text[0])
        value, few = column.iloc[row], 2 * len(text) <= len(column)
        raise Undecodable(
            f"column {name!r} holds {_quoted(value)} in row {row}, which is no number{_advice(value, o, few)}{others}"
        )
    values = found.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = [float(mark) for mark in marks if not isinstance(mark, str)]
    return np.where(np.isin(values, numbers), np.nan, values) if numbers else values


def _advice(value: Any, o: TableOptions, few: bool) -> str:
    """What a value that is no number may mean; few: most of its column are numbers."""
    if not isinstance(value, str) or len(value) > 40:
        return ""
    if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value) and o.decimal == ".":
        return "; say decimal: ',' if it is written with a decimal comma"
    if o.separator is None and re.search(r"\d\s*[;|\s]\s*[+-]?\d", value):
        return "; say separator if another character divides the columns"
    return f"; say missing_values: [{value.strip()!r}] if it stands for a missing value" if few else ""


def _labels(column: Any, o: TableOptions) -> np.ndarray:
    if column.dtype.kind in "biuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    none = {"", *(str(mark).strip() for mark in o.missing_values or ())}
    text = ["" if value is None or value != value else str(value) for value in column.tolist()]
    return np.asarray(["" if value.strip() in none else value for value in text])


class TableReader(Reader):
    """Tables whose rows are vectors."""

    what, kinds, options, suffixes = "a table of vectors", ("vector",), TableOptions, TABLE_SUFFIXES

    def open(self, path: Path, options: TableOptions) -> Dataset:
        o = options
        try:
            table = read_table(path, o, "label" if o.labels is True else o.labels or None)
        except Undecodable as error:
            raise BootdiffError(f"{path}: {error}.") from None
        return Arrays(
            table.values, kind="vector", labels=table.labels, unlabelled=o.unlabelled, classes=o.classes, range=o.range,
            standardize=o.standardize and o.units is None, units=o.units, std=o.std, missing=o.missing,
            on_error=o.on_error, columns=table.columns, where=str(path), row="row {0}",
        )  # fmt: skip
