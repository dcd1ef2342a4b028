"""Tensors and NumPy arrays that Python already holds, channels first: n x C x space.

Floats are taken as they are, in [-1, 1]; integers of one or two bytes and booleans have their type's range, which
becomes [-1, 1] as in files (`arrays`): uint8 values v are x = 2 v / 255 - 1. Nothing is copied: every value is checked
once, in chunks of bounded memory, and what a batch needs is made float32 when it is asked for.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample
from bootdiff.data.kinds import KINDS, format_shape, kind_of
from bootdiff.data.labels import number_labels
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["SLACK", "Tensors", "check_layout", "how_to_scale", "tensor_dataset"]

SLACK = 1e-4  # what rounding may add to 1
_CHUNK = 1 << 22  # values read at a time


def tensor_dataset(
    value: Tensor | np.ndarray,
    *,
    kind: str | None = None,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    unlabelled: str = "refuse",
    masks: Any = None,
    range: Sequence[float] | None = None,
    standardize: bool = False,
    units: Units | None = None,
    missing: str = "refuse",
    where: str = "data",
) -> Dataset:
    """The data set of a tensor or array (n, C, *space).

    Args:
        kind: vector, signal, image or video; needed where n x a x b could be signals or pictures without an axis of
            channels, or many channels look like another axis.
        labels: n whole numbers (negative: none) or names.
        classes: names of the classes, which fix their numbers.
        unlabelled: "keep" allows samples without a label.
        masks: (n, [1 or C,] *space), 1 = observed.
        range, standardize, units, missing: as for `Arrays`, for values that do not lie in [-1, 1], or lack some.
        where: what messages call the data.

    Raises:
        BootdiffError: values, labels or masks that cannot be used; which, why, and what to do.
    """
    shape = tuple(value.shape)
    if not 2 <= len(shape) <= 5:
        raise BootdiffError(
            f"{where}: has shape {format_shape(shape) or '()'}; need n x C x L or n x C x H x W, as vectors n x C, as "
            "videos n x C x T x H x W"
        )
    if 0 in shape:
        raise BootdiffError(f"{where}: is empty (shape {format_shape(shape)})")
    check_layout(shape[1:], kind, where, batch="n x ")
    x = value if isinstance(value, Tensor) else _tensor(value, where)
    x = x.detach().cpu()
    if x.is_complex() or x.layout != torch.strided:
        raise BootdiffError(f"{where}: holds {x.dtype} values in the layout {x.layout}; need dense real numbers")
    observed = None if masks is None else _masks(masks, shape, where)
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().double() if labels.is_floating_point() else labels.detach().cpu()
    labels = None if labels is False else labels
    if x.is_floating_point() and range is None and not standardize and units is None and missing == "refuse":
        return Tensors(x, labels, classes, unlabelled, observed, where)
    return Arrays(
        (x.float() if x.dtype == torch.bfloat16 else x).numpy(), channels_first=True, kind=kind_of(shape[1:]),
        channels=shape[1], labels=None if labels is None else np.asarray(labels), classes=classes,
        unlabelled=unlabelled, masks=None if observed is None else observed.movedim(1, -1).numpy(), range=range,
        standardize=standardize, units=units, missing=missing, where=where,
    )  # fmt: skip


class Tensors(Dataset):
    """Floats (n, C, *space) in [-1, 1], whatever their precision. labels, classes, unlabelled, where: as for
    `tensor_dataset`; masks (n, 1 or C, *space) bool.

    Raises BootdiffError for values that are not finite or lie outside [-1, 1], and for labels that are none.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Any = None,
        classes: Sequence[str] | None = None,
        unlabelled: str = "refuse",
        masks: Tensor | None = None,
        where: str = "data",
    ) -> None:
        self._x, self._masks, self.where = x, masks, where
        self.shape, self.problems, self.masked = tuple(x.shape[1:]), [], masks is not None
        self._check()
        self._labels: Tensor | None = None
        if labels is not None:
            numbers, self.classes = number_labels(
                labels, len(x), where, "sample {0}".format, classes=classes, unlabelled=unlabelled
            )
            self._labels, self.unlabelled = torch.from_numpy(numbers), unlabelled == "keep"

    def _check(self) -> None:
        low, high, first = math.inf, -math.inf, None
        for start, part in self._parts():
            finite = part.isfinite().flatten(1).all(1)
            if not finite.all():
                raise BootdiffError(
                    f"{self.where}: sample {start + int((~finite).nonzero()[0])} holds NaN or infinite values. Mend or "
                    "remove it; where NaN means not observed (partial data), say missing='mask'."
                )
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            outside = (part.abs() > 1 + SLACK).flatten(1).any(1)
            if first is None and outside.any():
                first = start + int(outside.nonzero()[0])
        if first is not None:
            other = ", or standardize=True" if self.kind in ("vector", "signal") else ""
            raise BootdiffError(
                f"{self.where}: values run from {low:.6g} to {high:.6g}, outside [-1, 1], first in sample {first}. "
                f"{how_to_scale(low, high)}; or say range=[low, high]{other}."
            )

    def _parts(self) -> Iterator[tuple[int, Tensor]]:
        """First index and values, float32 and 0 where hidden, of all samples, some at a time."""
        step = max(1, _CHUNK // math.prod(self.shape))
        for start in range(0, len(self._x), step):
            yield start, self._values(slice(start, start + step))

    def _values(self, rows: Any) -> Tensor:
        x = self._x[rows].float()
        # What lies under a mask may be anything, and must be finite.
        return x if self._masks is None else x.masked_fill(~self._masks[rows], 0.0)

    def __len__(self) -> int:
        return len(self._x)

    def name(self, index: int) -> str:
        return f"sample {self._check_index(index)}"

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        rows = torch.tensor([self._check_index(i) for i in indices], dtype=torch.int64)
        labels = None if self._labels is None else self._labels[rows]
        return self._values(rows), labels, None if self._masks is None else self._masks[rows].float()

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([index])
        label = None if labels is None or labels[0] < 0 else int(labels[0])
        return Sample(x[0], label, None if masks is None else masks[0])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((tuple(self._x.shape), self.classes)).encode())
        for _, part in self._parts():
            digest.update(part.contiguous().numpy().tobytes())
        for tensor in (self._labels, self._masks):
            digest.update(b"none" if tensor is None else tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def check_layout(shape: Sequence[int], kind: str | None, where: str, *, batch: str = "") -> None:
    """BootdiffError where samples of this shape are not of that kind, or, where none is named, look as if their
    channels were not the first axis. batch: what stands before the shape in messages."""
    if kind not in (None, *KINDS):
        raise ValueError(f"as_dataset: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not 1 <= len(shape) <= 4:
        raise BootdiffError(
            f"{where}: has shape {format_shape(shape) or '()'}; need C, C x L, C x H x W or C x T x H x W"
        )
    found, text = kind_of(shape), f"{batch}{format_shape(shape)}"
    if kind is not None:
        if found != kind:
            raise BootdiffError(f"{where}: {text} is of kind {found} (channels first), not {kind}; reshape it")
        return
    if found == "vector" or shape[0] <= 4:
        return
    axis = "[:, None]" if batch else "[None]"
    if found == "signal" and max(shape) <= 8 * min(shape):
        raise BootdiffError(
            f"{where}: {text} could be two things; for gray pictures add their axis of channels: x{axis}; for signals "
            f"of {shape[0]} channels say kind='signal'"
        )
    if found != "signal" and (shape[-1] <= 4 or (found == "video" and shape[1] <= 4)):
        source = -1 if shape[-1] <= 4 else (2 if batch else 1)
        raise BootdiffError(
            f"{where}: {text} means {shape[0]} channels, which come first; another axis looks like them. Move it: "
            f"torch.movedim(x, {source}, {1 if batch else 0}); or say kind='{found}' if {shape[0]} channels are meant"
        )


def how_to_scale(low: float, high: float) -> str:
    """What brings values that run from low to high into [-1, 1]."""
    if low >= 0 and high <= 65535:
        top, bits = (255, 8) if high <= 255 else (65535, 16)
        return f"Scale them: 2 * x / {top} - 1 for pixels of {bits} bits"
    return "Scale them: 2 * (x - low) / (high - low) - 1, where low and high are the ends of what values can be"


def _tensor(array: np.ndarray, where: str) -> Tensor:
    """The same memory as a tensor, wherever torch can."""
    if array.dtype.kind not in "biuf":
        raise BootdiffError(f"{where}: holds values of type {array.dtype}, need numbers")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(step < 0 for step in array.strides):
        array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        # Read-only memory, as of a mapped file; nothing is written to it.
        warnings.simplefilter("ignore")
        return torch.from_numpy(array if array.dtype != np.longdouble else array.astype(np.float64))


def _masks(masks: Any, shape: Sequence[int], where: str) -> Tensor:
    """(n, 1 or C, *space) bool."""
    m = masks.detach().cpu() if isinstance(masks, Tensor) else _tensor(np.asarray(masks), where)
    n, channels, *space = shape
    if space and tuple(m.shape) == (n, *space):
        m = m[:, None]
    if tuple(m.shape) not in ((n, channels, *space), (n, 1, *space)) or (not space and m.shape[1] != channels):
        needed = format_shape((n, 1, *space) if space else shape)
        raise BootdiffError(
            f"{where}: masks have shape {format_shape(m.shape)}, need {needed} "
            f"or {format_shape(shape)}, one for each sample"
        )
    high = 255 if m.dtype == torch.uint8 and m.max() == 255 else 1
    if not ((m == 0) | (m == high)).all():
        raise BootdiffError(f"{where}: masks must hold 0 (hidden) and 1 (observed) only")
    observed = m > 0
    empty = (~observed.flatten(1).any(1)).nonzero()
    if len(empty):
        raise BootdiffError(f"{where}: the mask of sample {int(empty[0])} hides everything; remove the sample")
    return observed
