"""Masks of one channel for networks that see one per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from bootdiff.data.base import Sample, Source, Subset

__all__ = ["Widened"]


class Widened(Subset):
    """A masked source whose masks, (1, *space), are repeated for every channel, (C, *space)."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, range(len(source)))

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        return sample if sample.mask is None else replace(sample, mask=sample.mask.expand(self.shape).contiguous())

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, labels, masks = self.source.gather(indices)
        return x, labels, None if masks is None else masks.expand(x.shape).contiguous()

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()}-widened"
