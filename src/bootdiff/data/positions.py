"""Files that say where in the full sample they lie, for views whose denoiser is told.

Beside the files of a view stands one row of whole numbers for each, in their order: the offset of a clip, (top, left)
of a crop, counted from 0. A view with one fixed place needs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.errors import BootdiffError
from bootdiff.views import View

__all__ = ["WithPositions", "read_offsets"]


class WithPositions(Dataset):
    """A source whose samples lie at known offsets, (n, view.free) whole numbers; `full` is the full samples' shape.

    Raises BootdiffError where their number is not that of the samples, or the view does not fit at one of them.
    """

    def __init__(self, source: Dataset, view: View, full: Sequence[int], offsets: Tensor | None = None) -> None:
        self.source, self.shape, self.view, self.full = source, source.shape, view, tuple(full)
        self._like(source)
        self.position_conditioned = True
        n, wanted = len(source), (len(source), view.n_offsets)
        self.offsets = torch.zeros(wanted, dtype=torch.int64) if offsets is None and not view.n_offsets else offsets
        if self.offsets is None or tuple(self.offsets.shape) != wanted:
            found = "none" if self.offsets is None else " x ".join(map(str, self.offsets.shape))
            raise BootdiffError(
                f"{source.where}: the view is position-conditioned, which takes {n} x {view.n_offsets} "
                f"offsets, a row for each file in their order; there are {found}. Give them, or leave "
                "`position_conditioned` out."
            )
        rows = self.offsets.tolist()
        for row in {tuple(row) for row in rows}:
            try:
                view.at_offset(*row).shape(self.full)
            except ValueError as error:
                name = source.name(rows.index(list(row)))
                raise BootdiffError(f"{source.where}: offset {list(row)} of {name}: {error}") from None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.source[index]

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        assert self.offsets is not None
        rows = self.offsets[[self._check_index(i) for i in indices]].tolist()
        # Where it lies does not depend on what is hidden: any mask will do.
        views = [self.view.at_offset(*row).placements(self.full)[0] for row in rows]
        return torch.stack([p for v in views if (p := v.position_channels(self.full)) is not None])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.source.batch(indices)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def span(self, index: int) -> Span | None:
        return self.source.span(index)

    def fingerprint(self) -> str:
        assert self.offsets is not None
        said = f"{self.source.fingerprint()} {self.view} {self.full} {self.offsets.tolist()}"
        return hashlib.sha256(said.encode()).hexdigest()


def read_offsets(path: Path) -> Tensor:
    """Offsets from an .npy array or a text file with commas between the numbers, (n, k) int64.

    Raises BootdiffError where the file cannot be read or holds anything but whole numbers from 0 on.
    """
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
        rows = rows[:, None] if rows.ndim == 1 else rows
        whole = rows.astype(np.int64)
    except (OSError, ValueError) as error:
        raise BootdiffError(
            f"{path}: cannot be read ({error}); need an .npy array or a text file, a row of whole numbers for each file"
        ) from None
    if rows.ndim != 2 or (whole != rows).any() or (whole < 0).any():
        raise BootdiffError(f"{path}: offsets are whole numbers from 0 on, a row for each file; correct them")
    return torch.from_numpy(whole)
