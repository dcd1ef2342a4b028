"""What every data set is, and how samples are divided.

A *data set* holds n samples in **stored coordinates**: float32, channels first, the range of stored values mapped to
[-1, 1] or standardized (`units`). The number of axes tells the kind: vector (C,), signal (C, L), image (C, H, W), video
(C, T, H, W); *space* is every axis after the first.

Samples may be windows of longer recordings. Windows of one recording resemble each other, so a division into parts of
different use takes recordings whole, and cuts at most one of them, in time, per boundary (`split_by_recording`).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.kinds import kind_of
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = [
    "VIEW_HOLDOUT",
    "Dataset",
    "Sample",
    "Span",
    "UnusableFile",
    "generator",
    "held_out_count",
    "spaced_indices",
    "split",
    "split_by_recording",
]

VIEW_HOLDOUT = 128
"""A share of a plentiful view is at most this many held-out samples: enough for a choice among snapshots."""

# First words of the random streams: no two uses of one seed share a stream (0 and 1 are those of `batches`).
_SPLIT, SIMULATE = 2, 3


@dataclass(frozen=True)
class Sample:
    """One stored sample.

    x: (C, *space) float32 in stored coordinates. label: class number or None. mask: (1 or C, *space) float32, 1 =
    observed, or None where everything is; x is finite where it is 0, too.
    """

    x: Tensor
    label: int | None = None
    mask: Tensor | None = None


class Span(NamedTuple):
    """Which part of which recording a sample is: steps (frames) start .. stop - 1 of the recording with this number."""

    recording: int
    start: int
    stop: int


@dataclass(frozen=True)
class UnusableFile:
    """A file (or an array's sample) that cannot be used, and why."""

    file: str
    reason: str


class Dataset(ABC):
    """n samples of one shape.

    Attributes: ``shape`` (C, *space); ``classes``, the names of the class numbers, or None without labels; ``masked``,
    whether samples carry masks; ``position_conditioned``, whether it is known where in the full sample each lies
    (``positions``); ``unlabelled``, whether samples of a source with classes may lack a label; ``units``, what stored
    coordinates mean;
    ``range_found``, whether the range behind them was found from float values, not declared;
    ``rate``, frames or values per second where known; ``columns``, names of the channels where they have any;
    ``problems``, what was left out on opening; ``notes``, what was done to files or passed over, for people;
    ``where``, the path or name for messages.
    """

    shape: tuple[int, ...]
    classes: list[str] | None = None
    masked: bool = False
    position_conditioned: bool = False
    unlabelled: bool = False
    units: Units = Units()
    range_found: bool = False
    rate: float | None = None
    columns: list[str] | None = None
    where: str = "data"
    notes: Sequence[str] = ()
    problems: list[UnusableFile]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """A name of the sample for people: file name, or key and row."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal hash of the data: the same string exactly if the data are the same."""

    @property
    def labelled(self) -> bool:
        return self.classes is not None

    @property
    def kind(self) -> str:
        """vector, signal, image or video."""
        return kind_of(self.shape)

    def span(self, index: int) -> Span | None:
        """The part of a longer recording that a sample is; None where each sample stands for itself."""
        return None

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        """Where in the full sample each lies, as its denoiser is told: (b, axes, *space), see
        ``View.position_channels``; None where the data set is not ``position_conditioned``."""
        return None

    def fill_memory(self) -> None:  # noqa: B027 - most have nothing to read
        """Read now what is kept in memory once it is read: workers share what there is when they begin, and each would
        else read it for itself."""

    def restore(self, x: Tensor) -> Tensor:
        """Stored coordinates -> original units, float64. x: (C, *space) or (b, C, *space), as samples are."""
        if x.ndim not in (len(self.shape), len(self.shape) + 1):
            raise ValueError(f"restore: need samples of shape {self.shape}, one or a batch, got {tuple(x.shape)}")
        return self.units.restore(x, len(self.shape) - 1)

    def describe_as(self, other: Dataset) -> None:
        """Take over all attributes of another data set but the shape of its samples."""
        self.classes, self.masked, self.unlabelled = other.classes, other.masked, other.unlabelled
        self.position_conditioned = other.position_conditioned
        self.units, self.rate, self.columns = other.units, other.rate, other.columns
        self.range_found = other.range_found
        self.where, self.problems, self.notes = other.where, other.problems, other.notes

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Samples stacked: x (b, C, *space), labels (b,) int64 or None, masks (b, 1 or C, *space) or None.

        A label is -1 where a sample of an ``unlabelled`` data set has none.

        Raises BootdiffError, naming the sample, where a labelled data set lacks a label or a masked one a mask.
        """
        samples = [self[i] for i in indices]
        return self._batch_of(torch.stack([sample.x for sample in samples]), samples, indices)

    def _batch_of(
        self, x: Tensor, samples: Sequence[Sample], indices: Sequence[int]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`batch` of samples whose x are stacked already."""
        labels = masks = None
        if self.labelled:
            known = [
                -1 if s.label is None and self.unlabelled else self._required(s.label, i, "label")
                for s, i in zip(samples, indices)
            ]
            labels = torch.tensor(known, dtype=torch.int64)
        if self.masked:
            masks = torch.stack([self._required(s.mask, i, "mask") for s, i in zip(samples, indices)])
        return x, labels, masks

    def _required(self, value: Any, index: int, what: str) -> Any:
        if value is None:
            raise BootdiffError(
                f"{self.where}: {self.name(index)} has no {what}, others have. Give it one or remove the file."
            )
        return value

    def _check_index(self, index: int) -> int:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"sample {index} of {n} in {self.where}")
        return int(index) % n


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator fixed by a seed and a path of numbers >= 0; different paths are independent streams."""
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {seed}")
    word = np.random.SeedSequence([int(seed), *map(int, path)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def held_out_count(where: str, wanted: int | float, n: int, most: int | None = None) -> int:
    """How many of n samples are held out, in 1 .. n - 1; a share gives at least 1 and at most `most`.

    Raises:
        ValueError: neither a number of at least 1 nor a share between 0 and 1.
        BootdiffError: none is left to train on.
    """
    share = isinstance(wanted, float)
    if isinstance(wanted, bool) or not (0 < wanted < 1 if share else wanted >= 1):
        raise ValueError(f"{where} must be a number of at least 1 or a share between 0 and 1, got {wanted!r}")
    count = max(1, min(round(wanted * n), n if most is None else most)) if share else int(wanted)
    if count >= n:
        raise BootdiffError(
            f"{where}: {n} sample(s) with {count} held out leave none to train on; bring more samples or lower {where}"
        )
    return count


def split(n: int, sizes: Sequence[int | float | None], seed: int = 0) -> list[list[int]]:
    """Disjoint random parts of range(n), each sorted; fixed by (n, sizes, seed).

    A size is a count (int), a share of n (float in [0, 1], rounded, at least 1 sample where the share is above 0), or
    None (once at most): all that the others leave. Raises ValueError where the parts need more than n samples.
    """
    counts: list[int | None] = []
    for size in sizes:
        if size is None:
            counts.append(None)
        elif isinstance(size, float):
            if not 0 <= size <= 1:
                raise ValueError(f"split: a share must lie in [0, 1], got {size}; counts are written without a point")
            counts.append(max(1, round(size * n)) if size > 0 else 0)
        else:
            if size < 0:
                raise ValueError(f"split: a count must be 0 or more, got {size}")
            counts.append(int(size))
    taken = sum(c for c in counts if c is not None)
    if counts.count(None) > 1:
        raise ValueError("split: only one size may be None (the rest)")
    if taken > n:
        raise ValueError(f"split: sizes {list(sizes)} need {taken} samples, there are {n}; ask for fewer or add data")
    filled = [n - taken if c is None else c for c in counts]
    order = torch.randperm(n, generator=generator(seed, _SPLIT)).tolist()
    stops = list(itertools.accumulate(filled))
    return [sorted(order[stop - count : stop]) for stop, count in zip(stops, filled)]


def split_by_recording(dataset: Dataset, sizes: Sequence[int | float | None], seed: int = 0) -> list[list[int]]:
    """`split` of a data set's samples; where they are windows of recordings, recordings are kept together.

    Recordings are put in random order, their windows in order of time, and the parts are cut out of that sequence one
    after the other. Where a cut falls into a recording, those of its windows after the cut that share a frame with one
    before it go to no part.
    """
    spans = [dataset.span(i) for i in range(len(dataset))]
    if any(span is None for span in spans) or not spans:
        return split(len(dataset), sizes, seed)
    counts = [len(part) for part in split(len(dataset), sizes, seed)]
    known = sorted({span.recording for span in spans if span is not None})
    shuffled = torch.randperm(len(known), generator=generator(seed, _SPLIT)).tolist()
    rank = {known[k]: place for place, k in enumerate(shuffled)}
    order = sorted(range(len(dataset)), key=lambda i: (rank[spans[i].recording], spans[i].start))  # type: ignore[union-attr]
    parts: list[list[int]] = []
    at = 0
    for count in counts:
        part = order[at : at + count]
        if at and part:
            last = spans[order[at - 1]]
            part = [i for i in part if not _overlap(last, spans[i])]
        parts.append(sorted(part))
        at += count
    return parts


def _overlap(a: Span | None, b: Span | None) -> bool:
    return a is not None and b is not None and a.recording == b.recording and b.start < a.stop


def spaced_indices(n: int, limit: int | None) -> list[int]:
    """At most ``limit`` indices, evenly spaced over range(n) (so that sorted class folders stay represented)."""
    if limit is None or limit >= n:
        return list(range(n))
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    return [i * n // limit for i in range(limit)]
