"""One list of classes for several sources, each of which numbered its own.

A source numbers its classes 0, 1, ... by its own files; networks that work together must mean the same by a number. By
name, each source's numbers are mapped into one list: the first source's classes, then those that others add. Bare
numbers ("0", "1", ...), which arrays without names have, mean the same in every source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.errors import BootdiffError

__all__ = ["Reclassed", "common_classes"]


def common_classes(sources: Mapping[str, Dataset]) -> list[str] | None:
    """The classes of all sources by name together, in order of appearance; None where no source has labels.

    Sources without labels do not count. Raises BootdiffError, naming both lists, where a source's classes share no name
    with those of the others before it, or are bare numbers where the others' have names.
    """
    common: list[str] | None = None
    first = ""
    for name, source in sources.items():
        if source.classes is None:
            continue
        if common is None:
            common, first = list(source.classes), name
            continue
        if not set(common) & set(source.classes) or _numbers(common) != _numbers(source.classes):
            raise BootdiffError(
                f"the classes of {name} ({_some(source.classes)}; {source.where}) and those of {first} "
                f"({_some(common)}; {sources[first].where}) are not the same ones. Name them alike, or leave the "
                "labels of one of them out (labels: false)."
            )
        common += [c for c in source.classes if c not in common]
    return sorted(common, key=int) if common is not None and _numbers(common) else common


class Reclassed(Dataset):
    """A labelled source with its classes numbered as in ``classes``, which holds all of their names."""

    def __init__(self, source: Dataset, classes: Sequence[str]) -> None:
        assert source.classes is not None
        self.source, self.shape = source, source.shape
        self._like(source)
        self.classes = list(classes)
        self._number = torch.tensor([self.classes.index(c) for c in source.classes], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        return sample if sample.label is None else replace(sample, label=int(self._number[sample.label]))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, labels, masks = self.source.batch(indices)
        return x, None if labels is None else torch.where(labels < 0, labels, self._number[labels]), masks

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.positions(indices)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def span(self, index: int) -> Span | None:
        return self.source.span(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.source.fingerprint()} {self.classes!r}".encode()).hexdigest()


def _numbers(classes: Sequence[str]) -> bool:
    return all(c.isdecimal() for c in classes)


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:8]) + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")
