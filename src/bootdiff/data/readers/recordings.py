"""Recordings of any length, cut into windows of one length: what videos and signals in files have in common.

A recording of n steps gives the windows

    [k s, k s + w),        k = 0, 1, ... while k s + w <= n,

w the window's length and s the stride (by default w, so windows do not overlap). What is left over at its end is not
used. Undeclared, w is the length that most recordings have, and those of a different length are problems.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.data.folders import Problems, classes_by_folder, unusable_files
from bootdiff.data.options import SignalOptions, VideoOptions
from bootdiff.data.readers.decode import check_regular
from bootdiff.data.transforms import windows
from bootdiff.errors import BootdiffError

__all__ = ["Recordings", "folder_and_file", "long_file_digest"]


class Recordings(Dataset):
    """Files with their windows. A subclass fills ``_steps`` and calls the methods below in this order.

    Attributes: ``names`` of the recordings in use; ``steps`` of a window.
    """

    noun = "steps"  # what a recording is made of
    key = "length"  # the recipe's key for the length of a window

    def __init__(self, path: str | Path, options: VideoOptions | SignalOptions) -> None:
        self.where, self.options = str(path), options
        self.folder, self._only = folder_and_file(Path(path))
        self.problems: Problems = Problems()
        self._steps: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._hash = hashlib.sha256()

    # -- opening ------------------------------------------------------------------------------------------------

    def _usable(self) -> list[str]:
        return [name for name in self._steps if name not in self.problems.files]

    def _check_rates(self, rates: Mapping[str, float | None], unit: str, hint: str) -> None:
        """One rate, that of most; a recording whose rate differs by more than 0.5 % is a problem that names both."""
        known = {name: rate for name in self._usable() if (rate := rates[name]) is not None}
        if not known:
            return
        # 29.97 and 30 frames per second are one rate to people and to us.
        common = Counter(round(rate, 1) for rate in known.values()).most_common(1)[0][0]
        alike = [rate for rate in known.values() if abs(rate - common) <= 0.005 * common + 0.05]
        self.rate = sorted(alike)[len(alike) // 2]
        for name, rate in known.items():
            if abs(rate - self.rate) > 0.005 * self.rate:
                self.problems.add(name, f"has {rate:.5g} {unit}, most have {self.rate:.5g}; {hint.format(self.rate)}")

    def _check_lengths(self, length: int | None) -> None:
        """The length of a window; recordings too short for it, or of a different length than most, are problems."""
        usable = self._usable()
        most = Counter(self._steps[name] for name in usable).most_common(1)
        self.steps = length if length is not None else (most[0][0] if most else 1)
        for name in usable:
            n = self._steps[name]
            if length is not None and n < length:
                self.problems.add(name, f"has {n} {self.noun}, {self.key} asks for {length}: too short")
            elif length is None and n != self.steps:
                longer = f"; say {self.key}: {self.steps} to cut windows of that length" if n > self.steps else ""
                self.problems.add(name, f"has {n} {self.noun}, most have {self.steps}{longer}")

    def _number_classes(self) -> None:
        o = self.options
        if o.labels:
            self._labels, self.classes = classes_by_folder(self._usable(), o.classes, o.unlabelled, self.problems.add)
            self.unlabelled = o.unlabelled == "keep"

    def _finish(self, total: int, dropped: set[Span] | None = None, hint: str = "") -> None:
        """Settles which recordings are used and cuts them; BootdiffError where none is, or one is not that should be.

        dropped: windows left out, by the number of their recording among the usable ones. hint: a remedy to add.
        """
        self.names = self._usable()
        if self.problems and (self.options.on_error == "refuse" or not self.names):
            raise unusable_files(self.where, self.problems, total, len(self.names), "recordings", more=hint)
        self._spans = [
            span
            for k, name in enumerate(self.names)
            for start in windows(self._steps[name], self.steps, self.options.stride)
            if (span := Span(k, start, start + self.steps)) not in (dropped or ())
        ]
        if not self._spans:
            raise BootdiffError(f"{self.where}: no window of {self.steps} {self.noun} can be used; shorten {self.key}")
        self._digest = self._hash.hexdigest()
        del self._hash  # hash objects cannot be sent to workers

    # -- reading ------------------------------------------------------------------------------------------------

    @abstractmethod
    def _window(self, name: str, start: int, stop: int) -> Sample:
        """Steps start .. stop - 1 of a recording."""

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Sample:
        span = self._spans[self._check_index(index)]
        return self._window(self.names[span.recording], span.start, span.stop)

    def span(self, index: int) -> Span | None:
        return self._spans[self._check_index(index)]

    def name(self, index: int) -> str:
        span = self._spans[self._check_index(index)]
        name = self.names[span.recording]
        alone = self._steps[name] == self.steps
        return name if alone else f"{name}[{span.start}:{span.stop}]"

    def fingerprint(self) -> str:
        settings = (self.names, self.classes, self.shape, self._spans, self.units.config())
        return hashlib.sha256((self._digest + repr(settings)).encode()).hexdigest()


def folder_and_file(path: Path) -> tuple[Path, list[str] | None]:
    """The folder of a path, and its own name where it is one file."""
    return (path, None) if path.is_dir() else (path.parent, [path.name])


def long_file_digest(name: str, path: Path) -> bytes:
    """What stands for a file in a fingerprint: its name, length, and the hash of all of it, or of its ends if long.

    Raises Undecodable for pipes and devices, OSError where it cannot be read.
    """
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(1 << 20 if size <= 1 << 20 else 1 << 19)
        if size > 1 << 20:
            file.seek(size - (1 << 19))
            data += file.read()
    return repr((name, size, hashlib.sha256(data).hexdigest())).encode()
