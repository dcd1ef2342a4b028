"""Masks of files, made to fit what a view's network sees.

A view may hide the same coordinates in every file (a logo), and each file others beside (captions): what is observed is
observed by both, m = m_file * m_view. And networks whose masks differ between channels see one mask per channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, Subset

__all__ = ["WithMasks"]


class WithMasks(Subset):
    """A masked source with masks (1, *space), or (C, *space) where `channels` or `fixed` says so.

    Args:
        source: its masks are (1 or C, *space).
        channels: repeat masks for every channel.
        fixed: (1 or C, *space), 1 = observed: what is hidden in every file, over and above the files' own masks.
    """

    def __init__(self, source: Dataset, channels: bool = True, fixed: Tensor | None = None) -> None:
        super().__init__(source, range(len(source)))
        self.channels, self.fixed = channels, fixed

    def _made(self, x: Tensor, mask: Tensor) -> Tensor:
        mask = mask if self.fixed is None else mask * self.fixed.to(mask)
        return (mask.expand_as(x) if self.channels else mask).contiguous()

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        return sample if sample.mask is None else replace(sample, mask=self._made(sample.x, sample.mask))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, labels, masks = self.source.batch(indices)
        return x, labels, None if masks is None else self._made(x, masks)

    def fingerprint(self) -> str:
        said = self.source.fingerprint()
        if self.fixed is not None:
            said += "-" + hashlib.sha256(self.fixed.contiguous().numpy().tobytes()).hexdigest()
        return f"{said}-widened" if self.channels else said
