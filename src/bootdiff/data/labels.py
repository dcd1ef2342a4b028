"""Labels as people store them -> class numbers 0, 1, ... with names; and one list of classes for several data sets.

A data set numbers its classes 0, 1, ... by its own files, -1 where a sample has none; networks that work together must
mean the same by a number. By name, each data set's numbers are mapped into one list: the first one's classes, then what
others add. Bare numbers ("0", "1", ...), which arrays without names have, mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.errors import BootdiffError

__all__ = ["common_classes", "number_labels", "shortened"]


def number_labels(
    labels: Any,
    count: int,
    where: str,
    row: Callable[[int], str],
    *,
    rows: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    unlabelled: str = "refuse",
) -> tuple[np.ndarray, list[str]]:
    """Class numbers (count,) int64, and the names of the classes.

    labels: whole numbers or text, one per sample; negative numbers, NaN and "" mean none. row: what messages call a
    sample. rows: the samples in use; others may have any label. classes: fixes the numbers of text labels. unlabelled:
    "keep" allows samples without a label, "refuse" does not.

    Raises BootdiffError for labels that are missing, unknown or no labels at all.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count:
        raise BootdiffError(
            f"{where}: labels have shape {labels.shape}, need one for each of {count} samples. "
            "Check that they belong to this array."
        )
    if labels.dtype.kind in "US":
        text = labels.astype(str)
        known = sorted(set(text.tolist()) - {""}) if classes is None else list(classes)
        number = {name: i for i, name in enumerate(known)}
        values = np.asarray([number.get(t, -1) for t in text.tolist()], dtype=np.int64)
        none = text == ""
    elif labels.dtype.kind in "iuf":
        finite = np.isfinite(labels)
        values = np.where(finite, labels, -1).astype(np.int64)
        if (labels[finite] != np.floor(labels[finite])).any():
            raise BootdiffError(f"{where}: labels are not whole numbers; number the classes 0, 1, 2, ...")
        if values.max() > 65535:
            raise BootdiffError(f"{where}: a label is {values.max()}; number the classes 0, 1, 2, ...")
        known = list(classes) if classes is not None else [str(i) for i in range(values.max() + 1)]
        none = values < 0
        values = np.maximum(values, -1)
    else:
        raise BootdiffError(f"{where}: labels of type {labels.dtype} are no class numbers or names")
    used = np.ones(count, bool) if rows is None else np.isin(np.arange(count), rows)
    wrong = ((values < 0) & ~none) | (values >= len(known))
    refused = np.flatnonzero(used & (wrong if unlabelled == "keep" else wrong | none))
    if len(refused):
        first = int(refused[0])
        hint = "" if unlabelled == "keep" else ", or allow samples without a label with unlabelled: keep"
        raise BootdiffError(
            f"{where}: {len(refused)} of {count} samples have no valid label, first {row(first)} ({labels[first]}); "
            f"classes are {shortened(known)}. Label all samples or none{hint}."
        )
    if not known:
        raise BootdiffError(f"{where}: no sample has a label. Label some, or leave labels out.")
    return values, known


def common_classes(datasets: Mapping[str, Dataset]) -> list[str] | None:
    """The classes of several data sets by name together, in order of appearance; None where none has labels.

    Data sets without labels do not count.

    Raises BootdiffError, naming both lists, where classes share no name with those of the data sets before, or are bare
    numbers where the others' have names.
    """
    common: list[str] | None = None
    first = ""
    for name, dataset in datasets.items():
        if dataset.classes is None:
            continue
        if common is None:
            common, first = list(dataset.classes), name
            continue
        if not set(common) & set(dataset.classes) or _are_numbers(common) != _are_numbers(dataset.classes):
            raise BootdiffError(
                f"the classes of {name} ({shortened(dataset.classes)}; {dataset.where}) and those of {first} "
                f"({shortened(common)}; {datasets[first].where}) are not the same ones. Name them alike, or leave the "
                "labels of one of them out (labels: false)."
            )
        common += [c for c in dataset.classes if c not in common]
    return sorted(common, key=int) if common is not None and _are_numbers(common) else common


def _are_numbers(classes: Sequence[str]) -> bool:
    return all(c.isdecimal() for c in classes)


def shortened(names: Sequence[str], most: int = 12) -> str:
    """A list for messages, cut where it is long."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
