"""Several data sets of one shape as one, side by side.

Batches of it draw every sample equally often; a data set that is to be drawn more often is in it several times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample

__all__ = ["Mixture"]


class Mixture(Dataset):
    """Data sets of one shape side by side; masks are ones where one of them has none.

    Args:
        datasets: what is mixed.
        labels: the label of all samples of each of them; None: their own, -1 where they have none.
        repeats: how often each is in it; None: once.
        mask_channels: channels of the masks, 1 or C.
    """

    masked = True

    def __init__(
        self,
        datasets: Sequence[Dataset],
        labels: Sequence[int] | None = None,
        repeats: Sequence[int] | None = None,
        mask_channels: int = 1,
    ) -> None:
        self.datasets, self.labels = list(datasets), None if labels is None else list(labels)
        self.repeats = [1] * len(self.datasets) if repeats is None else list(repeats)
        self.mask_channels = mask_channels
        self.shape, self.where = tuple(datasets[0].shape), datasets[0].where
        self.problems = [p for dataset in datasets for p in dataset.problems]
        if labels is not None:
            self.classes = [str(label) for label in sorted(set(labels)) if label >= 0] or None
        counts = torch.tensor([len(s) * r for s, r in zip(self.datasets, self.repeats, strict=True)])
        self._ends = counts.cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[int, int]:
        part = int(torch.searchsorted(self._ends, index, right=True))
        start = int(self._ends[part - 1]) if part else 0
        return part, (index - start) % len(self.datasets[part])

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([self._check_index(index)])
        return Sample(x[0], int(labels[0]), masks[0])

    def fill_memory(self) -> None:
        for dataset in self.datasets:
            dataset.fill_memory()

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        at = [self._at(int(i)) for i in indices]
        x = torch.empty(len(at), *self.shape)
        masks = torch.ones(len(at), self.mask_channels, *self.shape[1:])
        labels = torch.full((len(at),), -1, dtype=torch.int64)
        for part in sorted({p for p, _ in at}):
            rows = [k for k, (p, _) in enumerate(at) if p == part]
            own, its, seen = self.datasets[part].batch([at[k][1] for k in rows])
            x[rows] = own
            if seen is not None:
                masks[rows] = seen
            if self.labels is not None:
                labels[rows] = self.labels[part]
            elif its is not None:
                labels[rows] = its
        return x, labels, masks

    def name(self, index: int) -> str:
        part, i = self._at(index)
        return self.datasets[part].name(i)

    def fingerprint(self) -> str:
        said = [[s.fingerprint() for s in self.datasets], self.labels, self.repeats]
        return hashlib.sha256(repr(said).encode()).hexdigest()
