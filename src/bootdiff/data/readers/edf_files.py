"""EDF and BDF, in which recordings of the body are kept, through pyedflib (extra `edf`), window by window.

Values are physical ones, in the units that the file names. Remarks (annotations) are no signals; recordings with gaps
(EDF+D) are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bootdiff.data.labels import shortened
from bootdiff.data.readers.decode import Undecodable, check_regular
from bootdiff.data.readers.stacks import library

__all__ = ["EDF_SUFFIXES", "EdfFile"]

EDF_SUFFIXES = (".edf", ".bdf")
_MOST = 9999  # signals, as the header has four digits for them


class EdfFile:
    """A file as an array (L, C) of float64 that is read where it is asked for.

    columns: names of the signals to use, in this order; None: all. Attributes: ``rate``, values per second;
    ``columns``; ``units``, the name of each one's unit.

    Raises Undecodable for a file that cannot be used, BootdiffError without pyedflib.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path, self._library = path, library("pyedflib", path, "edf")
        check_regular(path)
        _check_size(path)
        try:
            with self._library.EdfReader(str(path)) as file:
                known = [str(label).strip() for label in file.getSignalLabels()]
                self._numbers = [self._number(known, name) for name in columns or known]
                self.columns = [known[k] for k in self._numbers]
                self.units = [str(file.getPhysicalDimension(k)).strip() for k in self._numbers]
                lengths = {int(file.getNSamples()[k]) for k in self._numbers}
                rates = [float(file.getSampleFrequency(k)) for k in self._numbers]
        except Undecodable:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise Undecodable(f"cannot be read ({_brief(error, path)})") from None
        if not known:
            raise Undecodable("holds no signals")
        if len(lengths) > 1 or len(set(rates)) > 1:
            said = ", ".join(f"{name} ({rate:g} Hz)" for name, rate in list(zip(self.columns, rates))[:8])
            raise Undecodable(f"holds signals of several rates, {said}; say columns: those of one rate")
        self.shape, self.rate = (lengths.pop(), len(self._numbers)), rates[0]
        if not self.shape[0]:
            raise Undecodable("holds no values")

    @staticmethod
    def _number(known: list[str], name: str) -> int:
        if known.count(name) != 1:
            what = "several signals" if name in known else "no signal"
            raise Undecodable(f"has {what} named {name!r}; it has {shortened(known)}")
        return known.index(name)

    def __getitem__(self, at: slice) -> np.ndarray:
        start, stop, _ = at.indices(self.shape[0])
        try:
            with self._library.EdfReader(str(self.path)) as file:
                parts = [file.readSignal(k, start, stop - start) for k in self._numbers]
        except (OSError, ValueError, RuntimeError) as error:
            raise Undecodable(f"cannot be read after value {start} ({_brief(error, self.path)})") from None
        return np.stack(parts, 1).astype(np.float64)


def _brief(error: Exception, path: Path) -> str:
    return " ".join(str(error).replace(f"{path}: ", "").split())[:200]


def _check_size(path: Path) -> None:
    """Raises Undecodable for a file that is not as long as its header says.

    Checked here as well: the library prints what it finds.
    """
    with path.open("rb") as file:
        head = file.read(256)
        try:
            count, signals, start = int(head[236:244]), int(head[252:256]), int(head[184:192])
            if not 0 < signals <= _MOST:
                raise ValueError
            file.seek(256 + 216 * signals)
            fields = file.read(8 * signals)
            each = sum(int(fields[8 * k : 8 * k + 8]) for k in range(signals))
        except ValueError:
            raise Undecodable("is no EDF or BDF file, or its header is damaged") from None
    if count < 0:
        raise Undecodable("was not finished: its header does not say how long it is")
    needed = start + count * each * (3 if head[:1] == b"\xff" else 2)
    there = path.stat().st_size
    if there != needed:
        what = "is cut short" if there < needed else "is longer than its header says"
        raise Undecodable(f"{what}: {there:,} bytes are there, {needed:,} are announced")
