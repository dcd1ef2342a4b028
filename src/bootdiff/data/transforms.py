"""Data sets made of another one: some of its samples, in a different order, or with something about them changed.

All of them stand on `Mapped`, which hands on everything; a subclass says what is different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.errors import BootdiffError
from bootdiff.views import View

__all__ = ["Mapped", "Reclassed", "Subset", "Windowed", "WithMasks", "WithPositions", "windows"]


class Mapped(Dataset):
    """Another data set with one thing different; whatever a subclass leaves alone is that of ``dataset``.

    A subclass overrides ``index_in``, which sample of the other one each is; or ``change``, what becomes of a batch;
    or, where samples are made one by one, ``__getitem__`` together with ``batch = Dataset.batch``. And ``fingerprint``.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.shape = dataset, dataset.shape
        self.describe_as(dataset)

    def index_in(self, index: int) -> int:
        """The index in ``dataset`` of a sample; IndexError where there is no such sample."""
        return self._check_index(index)

    def change(
        self, x: Tensor, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A batch of this data set, from one of ``dataset``; see ``Dataset.batch``."""
        return x, labels, masks

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([index])
        label = None if labels is None or labels[0] < 0 else int(labels[0])
        return Sample(x[0], label, None if masks is None else masks[0])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.change(*self.dataset.batch([self.index_in(i) for i in indices]))

    def fill_memory(self) -> None:
        self.dataset.fill_memory()

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        return self.dataset.positions([self.index_in(i) for i in indices])

    def name(self, index: int) -> str:
        return self.dataset.name(self.index_in(index))

    def span(self, index: int) -> Span | None:
        return self.dataset.span(self.index_in(index))


class Subset(Mapped):
    """The samples ``indices`` of a data set, in that order. Raises ValueError for an index outside it."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        super().__init__(dataset)
        self.indices = [int(i) for i in indices]
        outside = next((i for i in self.indices if not 0 <= i < len(dataset)), None)
        if outside is not None:
            raise ValueError(f"Subset: index {outside} lies outside the {len(dataset)} samples of {dataset.where}")

    def __len__(self) -> int:
        return len(self.indices)

    def index_in(self, index: int) -> int:
        return self.indices[self._check_index(index)]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.dataset.fingerprint().encode())
        digest.update(np.asarray(self.indices, dtype="<i8").tobytes())
        return digest.hexdigest()


class Reclassed(Mapped):
    """A labelled data set with its classes numbered as in ``classes``, which holds all of their names."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        super().__init__(dataset)
        assert dataset.classes is not None
        self.classes = list(classes)
        self._number = torch.tensor([self.classes.index(c) for c in dataset.classes], dtype=torch.int64)

    def change(
        self, x: Tensor, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return x, None if labels is None else torch.where(labels < 0, labels, self._number[labels]), masks

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} {self.classes!r}".encode()).hexdigest()


class WithMasks(Mapped):
    """A masked data set with masks that fit what a view's network is given.

    A view may hide the same coordinates in every file (a logo), and each file others beside (captions): what is
    observed is observed by both, m = m_file * m_view. And networks whose masks differ between channels are given one
    mask per channel.

    Args:
        dataset: its masks are (1 or C, *space).
        channels: repeat masks for every channel, (C, *space).
        fixed: (1 or C, *space), 1 = observed: what is hidden in every file, over and above the files' own masks.
    """

    def __init__(self, dataset: Dataset, *, channels: bool = True, fixed: Tensor | None = None) -> None:
        super().__init__(dataset)
        self.channels, self.fixed = channels, fixed

    def change(
        self, x: Tensor, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if masks is None:
            return x, labels, None
        masks = masks if self.fixed is None else masks * self.fixed.to(masks)
        return x, labels, (masks.expand_as(x) if self.channels else masks).contiguous()

    def fingerprint(self) -> str:
        digest = self.dataset.fingerprint()
        if self.fixed is not None:
            digest += "-" + hashlib.sha256(self.fixed.contiguous().numpy().tobytes()).hexdigest()
        return f"{digest}-widened" if self.channels else digest


class WithPositions(Mapped):
    """A data set whose samples lie at known offsets in the full ones, for a position-conditioned view.

    Args:
        dataset: the view's files.
        view: what they show.
        full: shape of a full sample.
        offsets: (n, view.n_offsets) whole numbers; None for a view with one fixed place.

    Raises:
        BootdiffError: their number is not that of the samples, or the view does not fit at one of them.
    """

    def __init__(self, dataset: Dataset, view: View, full: Sequence[int], offsets: Tensor | None = None) -> None:
        super().__init__(dataset)
        self.view, self.full, self.position_conditioned = view, tuple(full), True
        n, wanted = len(dataset), (len(dataset), view.n_offsets)
        if offsets is None and not view.n_offsets:
            offsets = torch.zeros(wanted, dtype=torch.int64)
        if offsets is None or tuple(offsets.shape) != wanted:
            found = "none" if offsets is None else " x ".join(map(str, offsets.shape))
            raise BootdiffError(
                f"{dataset.where}: the view is position-conditioned, which takes {n} x {view.n_offsets} "
                f"offsets, a row for each file in their order; there are {found}. Give them, or leave "
                "`position_conditioned` out."
            )
        self.offsets = offsets
        rows = offsets.tolist()
        for row in {tuple(row) for row in rows}:
            try:
                view.at_offset(*row).shape(self.full)
            except ValueError as error:
                name = dataset.name(rows.index(list(row)))
                raise BootdiffError(f"{dataset.where}: offset {list(row)} of {name}: {error}") from None

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        rows = self.offsets[[self._check_index(i) for i in indices]].tolist()
        # Where it lies does not depend on what is hidden: any mask will do.
        views = [self.view.at_offset(*row).placements(self.full)[0] for row in rows]
        return torch.stack([p for v in views if (p := v.position_channels(self.full)) is not None])

    def fingerprint(self) -> str:
        parts = f"{self.dataset.fingerprint()} {self.view} {self.full} {self.offsets.tolist()}"
        return hashlib.sha256(parts.encode()).hexdigest()


def windows(steps: int, length: int, stride: int | None) -> range:
    """First steps of the windows of a recording: 0, s, 2 s, ... while the window of ``length`` fits; s = ``stride``, by
    default the length.

    >>> list(windows(11, 4, 3))
    [0, 3, 6]
    """
    return range(0, steps - length + 1, stride or length)


class Windowed(Mapped):
    """Windows of the samples of another data set along its first axis of space: frames of videos, values of signals.

    Raises BootdiffError where its samples are shorter than a window.
    """

    batch = Dataset.batch

    def __init__(self, dataset: Dataset, length: int, stride: int | None = None) -> None:
        super().__init__(dataset)
        if len(dataset.shape) not in (2, 4):
            raise ValueError(f"Windowed: only signals and videos have windows, got samples of shape {dataset.shape}")
        steps = dataset.shape[1]
        if steps < length:
            noun = "frames" if len(dataset.shape) == 4 else "values"
            raise BootdiffError(
                f"{dataset.where}: samples have {steps} {noun}, fewer than the {length} asked for; ask for fewer"
            )
        self.shape = (dataset.shape[0], length, *dataset.shape[2:])
        self._starts = list(windows(steps, length, stride))

    def __len__(self) -> int:
        return len(self.dataset) * len(self._starts)

    def index_in(self, index: int) -> int:
        return self._check_index(index) // len(self._starts)

    def span(self, index: int) -> Span:
        recording, k = divmod(self._check_index(index), len(self._starts))
        return Span(recording, self._starts[k], self._starts[k] + self.shape[1])

    def name(self, index: int) -> str:
        recording, start, stop = self.span(index)
        return f"{self.dataset.name(recording)}[{start}:{stop}]"

    def __getitem__(self, index: int) -> Sample:
        recording, start, stop = self.span(index)
        whole = self.dataset[recording]
        # A window must not keep its whole recording alive.
        mask = None if whole.mask is None else whole.mask[:, start:stop].clone()
        return Sample(whole.x[:, start:stop].clone(), whole.label, mask)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} {self.shape} {self._starts}".encode()).hexdigest()
