"""Signals in files: WAV, other audio (`audio`), .npy (L or L x C), EDF and BDF (`edf_files`), and tables (CSV, Parquet;
rows are steps, columns are channels).

WAV samples of b bits come out as amplitudes v / 2^(b-1) in [-1, 1] (8-bit ones are unsigned: (v - 128) / 128), floats
as they are. Other signals are put into stored coordinates by a declared range, by standardizing (mean and deviation of
each channel over all observed values of all files), or as they are where they lie in [-1, 1]. NaN, in tables an empty
cell, can mean "not observed" (`missing`). WAV and .npy files are mapped and read window by window; tables are held in
memory.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.data.folders import list_files, nothing_found, passed_over
from bootdiff.data.labels import shortened
from bootdiff.data.options import SignalOptions, defaults_of
from bootdiff.data.readers.audio import AUDIO_SUFFIXES, AudioFile
from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.edf_files import EDF_SUFFIXES, EdfFile
from bootdiff.data.readers.numpy_files import read_npy
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.recordings import Recordings, long_file_digest
from bootdiff.data.readers.tables import TABLE_SUFFIXES, read_table
from bootdiff.data.readers.wav_files import amplitude, read_wav
from bootdiff.data.transforms import windows
from bootdiff.data.units import Units
from bootdiff.data.value_range import LARGEST, beyond, outside, slack_of
from bootdiff.errors import BootdiffError

__all__ = ["SIGNAL_SUFFIXES", "SignalReader", "Signals"]

SIGNAL_SUFFIXES = (".wav", *AUDIO_SUFFIXES, ".npy", *TABLE_SUFFIXES, *EDF_SUFFIXES)
_STEP = 1 << 20  # steps read at a time


class Signals(Recordings):
    """Signals in a folder, or one file, as windows of one length, (C, L).

    Args:
        path: the folder or file.
        options: length of the windows (by default the length that most files have); stride, values between their starts
            (by default the length). labels: a file's class is the first sub-folder on its path. range: [lo, hi] of the
            values; standardize: mean and deviation of each channel instead; units: those of other data of the same
            quantity. missing: "mask" takes NaN for "not observed", so samples have masks, (1, L) where all channels are
            missing at once, else (C, L). columns: those of tables to use; header, separator, decimal, missing_values:
            how tables are written. on_error, classes, unlabelled: as for Images.

    Raises BootdiffError for anything wrong with the files.
    """

    noun, key = "values", "length"

    def __init__(self, path: str | Path, options: SignalOptions | None = None) -> None:
        o = options or SignalOptions()
        super().__init__(path, o)
        units = o.units
        standardize = o.standardize and units is None
        bounds = None if o.range is None else [float(v) for v in o.range]
        self.masked, self._as_table = o.missing == "mask", o
        settings = (bool(o.labels), o.length, o.stride, o.range, standardize, o.missing, o.columns)
        tables = {name: getattr(o, name) for name in ("header", "separator", "decimal", "missing_values")}
        given = {name: value for name, value in tables.items() if value != defaults_of(SignalOptions)[name]}
        # Data read without these have the fingerprint that they always had.
        self._hash.update(repr((*settings, given) if given else settings).encode())
        self._edf_columns: list[str] = []
        self._tables: dict[str, np.ndarray] = {}
        self._missing: dict[str, np.ndarray] = {}
        self._shared = True
        files = self._only or list_files(self.folder, "signals", self.problems.add)
        names = [n for n in files if n.lower().endswith(SIGNAL_SUFFIXES)]
        if not names:
            raise nothing_found(self.folder, files, "signals", "a signal", SIGNAL_SUFFIXES, self.problems)
        self.notes = [] if self._only else passed_over(n for n in files if not n.lower().endswith(SIGNAL_SUFFIXES))
        channels: dict[str, int] = {}
        rates: dict[str, float | None] = {}
        for name in names:
            self._open(name, channels, rates)
        self._check_channels(channels)
        self._check_rates(rates, "Hz", "resample it to {:g} Hz")
        self._check_lengths(o.length)
        self._number_classes()
        self._channels = channels[self._usable()[0]] if self._usable() else 1
        if bounds is not None:
            units = Units.of_range(bounds[0], bounds[1])
        self._measure(standardize, units, declared=bounds is not None)
        self._finish(len(names), self._unobserved())
        self.shape = (self._channels, self.steps)
        for kept in (self._tables, self._missing):
            for name in kept.keys() - set(self.names):
                del kept[name]

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self, name: str, channels: dict[str, int], rates: dict[str, float | None]) -> None:
        path = self.folder / name
        found: np.ndarray | AudioFile | EdfFile
        try:
            self._hash.update(long_file_digest(name, path))
            if name.lower().endswith(TABLE_SUFFIXES):
                found, self.columns = self._table(name)
                self._tables[name], rate = found, None
            elif name.lower().endswith(AUDIO_SUFFIXES):
                audio = AudioFile(path, verify=True)
                found, rate = audio, audio.rate
            elif name.lower().endswith(EDF_SUFFIXES):
                found = self._edf(name)
                rate = found.rate
            else:
                found, rate = _read_signal(path)
        except Undecodable as error:
            self.problems.add(name, str(error))
            return
        except OSError as error:
            self.problems.add(name, f"cannot be read ({error.strerror})")
            return
        self._steps[name], channels[name] = found.shape
        rates[name] = rate

    def _edf(self, name: str) -> EdfFile:
        file = EdfFile(self.folder / name, self._as_table.columns)
        said = [f"{column} ({unit})" for column, unit in zip(file.columns, file.units)]
        if self._edf_columns and said != self._edf_columns:
            raise Undecodable(
                f"has the signals {shortened(said)}, others have {shortened(self._edf_columns)}; columns picks those "
                "that all have"
            )
        self._edf_columns, self.columns = said, file.columns
        return file

    def _table(self, name: str) -> tuple[np.ndarray, list[str]]:
        table = read_table(self.folder / name, self._as_table)
        if self._tables and self.columns != table.columns:
            raise Undecodable(
                f"has the columns {', '.join(table.columns)}, others have {', '.join(self.columns or ())}"
            )
        return table.values, table.columns

    def _check_channels(self, channels: dict[str, int]) -> None:
        usable = self._usable()
        if usable:
            most = Counter(channels[name] for name in usable).most_common(1)[0][0]
            for name in usable:
                if channels[name] != most:
                    self.problems.add(name, f"has {channels[name]} channel(s), most have {most}")

    def _values(self, name: str, start: int, stop: int) -> np.ndarray:
        """(stop - start, C) float64 in original units."""
        if name.lower().endswith(AUDIO_SUFFIXES):
            return AudioFile(self.folder / name)[start:stop]
        if name.lower().endswith(EDF_SUFFIXES):
            return EdfFile(self.folder / name, self._as_table.columns)[start:stop]
        found = self._tables[name] if name in self._tables else _read_signal(self.folder / name)[0]
        part = found[start:stop]
        return amplitude(part) if name.lower().endswith(".wav") else np.asarray(part).astype(np.float64)

    def _measure(self, standardize: bool, units: Units | None, *, declared: bool) -> None:
        """Reads every value: the units in force, gaps, and files that cannot be used."""
        total = square = count = np.zeros(self._channels)
        low, high = np.inf, -np.inf
        where: dict[str, tuple[float, float]] = {}
        for name in self._usable():
            gaps = []
            for start in _pieces(self._steps[name]):
                v = self._values(name, start, min(start + _STEP, self._steps[name]))
                gap = np.isnan(v)
                if np.isinf(v).any() or (gap.any() and not self.masked):
                    bad = ~np.isfinite(v) if not self.masked else np.isinf(v)
                    hint = "" if self.masked else "; where NaN means not observed, say missing: mask (partial data)"
                    self.problems.add(
                        name, f"holds NaN or infinite values, first at {start + int(np.argmax(bad.any(1)))}{hint}"
                    )
                    break
                self._shared &= bool((gap == gap[:, :1]).all())
                gaps.append(np.flatnonzero(gap.all(1)) + start)
                observed = ~gap
                total = total + np.where(observed, v, 0).sum(0)
                count = count + observed.sum(0)
                if observed.any():
                    low, high = min(low, float(v[observed].min())), max(high, float(v[observed].max()))
                    where.setdefault(name, (float(v[observed].min()), float(v[observed].max())))
            else:
                self._missing[name] = np.concatenate(gaps) if self.masked else np.zeros(0, np.int64)
        mean = total / np.maximum(count, 1)
        if standardize and units is None:
            for name in self._usable():
                for start in _pieces(self._steps[name]):
                    v = self._values(name, start, min(start + _STEP, self._steps[name]))
                    square = square + np.where(np.isnan(v), 0, (v - mean) ** 2).sum(0)
            deviation = np.sqrt(square / np.maximum(count, 1))
            for c in np.flatnonzero(~np.isfinite(deviation) | (np.abs(mean) > LARGEST) | (deviation > LARGEST)):
                raise BootdiffError(f"{self.where}: {self._channel(int(c))} {beyond()}")
            for c in np.flatnonzero(deviation <= 1e-12 * np.maximum(1, np.abs(mean))):
                raise BootdiffError(f"{self.where}: {self._channel(int(c))} holds one and the same value; leave it out")
            units = Units(tuple(mean.tolist()), tuple(deviation.tolist()), standardized=True)
        if units is None:
            if high > 1 + 1e-4 or low < -1 - 1e-4:
                raise BootdiffError(
                    f"{self.where}: values run from {low:.6g} to {high:.6g}, outside [-1, 1]. Declare what they mean: "
                    "range: [low, high], or say standardize: true."
                )
            units = Units()
        elif declared:
            self._check_range(units, where)
        self.units = units

    def _channel(self, c: int) -> str:
        return f"column {self.columns[c]!r}" if self.columns else f"channel {c}"

    def _check_range(self, units: Units, found: dict[str, tuple[float, float]]) -> None:
        low, high = units.bounds
        std = self.options.std
        slack = slack_of(low, high, std)
        for name, (least, most) in found.items():
            if least < low - slack or most > high + slack:
                value = least if least < low - slack else most
                self.problems.add(name, outside(value, low, high, std))

    def _unobserved(self) -> set[Span]:
        """Windows in which nothing is observed; each is a problem."""
        dropped = set()
        usable = self._usable()
        for k, name in enumerate(usable):
            gap = self._missing[name]
            if not len(gap):
                continue
            for start in windows(self._steps[name], self.steps, self.options.stride):
                stop = start + self.steps
                if np.searchsorted(gap, stop) - np.searchsorted(gap, start) == self.steps:
                    dropped.add(Span(k, start, stop))
                    self.problems.add(f"{name}[{start}:{stop}]", "holds no observed value at all")
        return dropped

    # -- reading ------------------------------------------------------------------------------------------------

    def _window(self, name: str, start: int, stop: int) -> Sample:
        try:
            v = torch.from_numpy(self._values(name, start, stop).T.copy())
        except (Undecodable, OSError) as error:
            raise BootdiffError(f"{self.folder / name}: {error}. Mend or remove it and start again.") from None
        if v.shape != self.shape:
            raise BootdiffError(f"{self.folder / name}: has changed since it was opened. Start again.")
        mask = None
        if self.masked:
            mask = (~v.isnan()).float()
            mask = mask[:1] if self._shared else mask
        x = self.units.store(v, 1).float().nan_to_num(nan=0.0)
        return Sample(x, self._labels.get(name), mask)


def _pieces(steps: int) -> range:
    """First steps of the pieces that a signal is read in."""
    return range(0, steps, _STEP)


def _read_signal(path: Path) -> tuple[np.ndarray, float | None]:
    """(L, C) as stored, mapped where that is possible, and values per second (None: not known)."""
    if path.suffix.lower() == ".npy":
        array = read_npy(path)
        if array.ndim not in (1, 2) or array.dtype.kind not in "biuf" or 0 in array.shape:
            raise Undecodable(f"holds {array.dtype} of shape {array.shape}; a signal is L or L x C numbers")
        return array[:, None] if array.ndim == 1 else array, None
    data, rate = read_wav(path)
    return data[:, None] if data.ndim == 1 else data, rate


class SignalReader(Reader):
    """Folders of signals, and single files."""

    what, kinds, options = "a folder of signals", ("signal",), SignalOptions
    suffixes, folder_suffixes = SIGNAL_SUFFIXES, (".wav", *AUDIO_SUFFIXES, *EDF_SUFFIXES)

    def open(self, path: Path, options: SignalOptions) -> Dataset:
        self.refuse_names(path, options)
        return Signals(path, options)
