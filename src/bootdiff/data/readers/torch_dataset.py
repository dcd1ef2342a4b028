"""Any map-style data set of torch, or a list: samples are read when they are asked for, and checked each time.

What ``data[i]`` may be:

    x                        a tensor or array (C, *space), or a PIL picture
    (x,), (x, label)         tuples or lists
    {"image": x, ...}        or "x", "pixel_values", "input"; "label" or "y"; "mask"
    Sample                   bootdiff's

Floats are taken as they are, in [-1, 1]; PIL pictures, uint8, uint16 and bool have their type's range, which becomes
[-1, 1]: uint8 values v are x = 2 v / 255 - 1. Gray PIL pictures among coloured ones are repeated.

Nothing is read up front but the labels of a list, and the first sample, twice: samples that differ from one read to the
next, by random augmentation, are refused, since no run could be repeated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, spaced_indices
from bootdiff.data.kinds import format_shape
from bootdiff.data.labels import number_labels, shortened
from bootdiff.data.readers.decode import Undecodable, from_pillow, to_channels
from bootdiff.data.readers.images import to_tensor
from bootdiff.data.readers.tensors import SLACK, check_layout, how_to_scale
from bootdiff.errors import BootdiffError

__all__ = ["TorchDataset", "unusable"]

_IMAGES = ("image", "x", "pixel_values", "input")
_LABELS = ("label", "y")
_FINGERPRINTED = 64
_RANGES = {torch.uint8: 255, torch.bool: 1, torch.uint16: 65535}


def unusable(value: Any) -> str | None:
    """Why a value is no map-style data set, and what to do; None where it is one."""
    named = type(value).__name__
    if isinstance(value, str | Path):
        return f"{str(value)!r} is a path; open it with bootdiff.open({str(value)!r})"
    if isinstance(value, torch.utils.data.DataLoader):
        return "is a DataLoader, which makes batches of its samples; give the data set that it reads: loader.dataset"
    map_style = hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")
    if named == "IterableDataset" and type(value).__module__.startswith("datasets"):
        return (
            "is streamed, and the batch of a step may hold any sample; load it without streaming=True, or name it: "
            "hf://owner/name, or a folder of its Parquet files"
        )
    if isinstance(value, Mapping | torch.utils.data.IterableDataset) or not map_style:
        return (
            f"is of type {named}, which has no length or no samples by number; give a tensor (n, C, *space), an object "
            "with __len__ and __getitem__, as a torch Dataset, or collect the samples in a list"
        )
    try:
        return None if len(value) > 0 else f"is an empty {named}; give at least one sample"
    except TypeError:
        return f"is of type {named}, which does not know its length; give it a __len__"


class TorchDataset(Dataset):
    """A map-style data set, read lazily.

    Args:
        data: anything with ``__len__`` and ``__getitem__``; the module says what samples may be.
        kind: vector, signal, image or video; needed where a sample's shape leaves it open.
        labels: None: those that come with the samples; False: none; or one for each sample, whole numbers or names.
        classes: names of the classes, which fix their numbers, or how many there are. None: what the data set's
            attributes ``classes``, ``features`` or ``targets`` say; needed where samples have labels and these do not.
        unlabelled: "keep" allows samples whose label is None or negative.
        alpha: what is behind transparent pixels of PIL pictures, "refuse", "white", "black" or "drop".
        where: what messages call the data.

    The fingerprint is made of the type's name, the length, and the content of up to 64 evenly spaced samples.

    Raises BootdiffError where the first sample cannot be used, and at each read where that one cannot.
    """

    def __init__(
        self,
        data: Any,
        *,
        kind: str | None = None,
        labels: Any = None,
        classes: Sequence[str] | int | None = None,
        unlabelled: str = "refuse",
        alpha: str = "refuse",
        where: str = "data",
    ) -> None:
        for name, value, known in (
            ("unlabelled", unlabelled, ("refuse", "keep")),
            ("alpha", alpha, ("refuse", "white", "black", "drop")),
        ):
            if value not in known:
                raise ValueError(f"as_dataset: {name} must be one of {', '.join(known)}, got {value!r}")
        self._data, self._alpha, self.where, self.problems = data, alpha, where, []
        self._length = len(data)
        self._numbers: np.ndarray | None = None
        self.unlabelled = unlabelled == "keep"
        names = [str(i) for i in range(classes)] if isinstance(classes, int) else classes
        self._channels: int | None = None
        x, label, mask = self._read(0)
        check_layout(x.shape, kind, f"{where}: sample 0")
        self.shape, self.masked, self._channels = tuple(x.shape), mask is not None, x.shape[0]
        if labels is None and label is not None and names is None and isinstance(data, list | tuple):
            # All in memory, so that their labels are read in no time.
            none = "" if isinstance(label, str) else -1
            found = [self._parts(value, i)[1] for i, value in enumerate(data)]
            labels = [none if value is None else value for value in found]
        if labels is not None and labels is not False:
            labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
            self._numbers, self.classes = number_labels(
                labels, self._length, where, self.name, classes=names, unlabelled=unlabelled
            )
        elif labels is None and label is not None:
            self.classes = list(names) if names is not None else _classes_of(data)
            if self.classes is None:
                raise BootdiffError(
                    f"{where}: its samples have labels (sample 0: {label!r}), but not all are read to find which "
                    "classes there are; say as_dataset(data, classes=[names]) or classes=how_many, or labels=False to "
                    "leave them out"
                )
        if not torch.equal(self._checked(0, x, label, mask).x, self[0].x):
            raise BootdiffError(
                f"{where}: sample 0 is different each time it is read, so no training could be repeated or resumed; "
                "take the random augmentation out (flip mirrors samples, reproducibly)"
            )

    def __len__(self) -> int:
        return self._length

    def name(self, index: int) -> str:
        return f"sample {self._check_index(index)}"

    def __getitem__(self, index: int) -> Sample:
        index = self._check_index(index)
        return self._checked(index, *self._read(index))

    def _checked(self, index: int, x: Tensor, label: Any, mask: Any) -> Sample:
        if tuple(x.shape) != self.shape:
            raise BootdiffError(
                f"{self.where}: sample {index} is {format_shape(x.shape)}, sample 0 is {format_shape(self.shape)}; all "
                "must be alike: resize, crop or convert them"
            )
        if (mask is None) == self.masked:
            has, other = ("no mask", "has one") if mask is None else ("a mask", "has none")
            raise BootdiffError(f"{self.where}: sample {index} has {has}, sample 0 {other}; give all masks or none")
        if mask is not None:
            mask = self._check_mask(mask, index)
            x = x.masked_fill(mask.expand_as(x) == 0, 0.0)
        if not x.isfinite().all():
            raise BootdiffError(f"{self.where}: sample {index} holds NaN or infinite values; mend or remove it")
        low, high = float(x.min()), float(x.max())
        if low < -1 - SLACK or high > 1 + SLACK:
            raise BootdiffError(
                f"{self.where}: sample {index} holds values from {low:.6g} to {high:.6g}, outside [-1, 1]. "
                f"{how_to_scale(low, high)}."
            )
        return Sample(x, self._number(label, index), mask)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((type(self._data).__name__, self._length, self.shape, self.classes)).encode())
        for i in spaced_indices(self._length, _FINGERPRINTED):
            sample = self[i]
            digest.update(repr((i, sample.label)).encode() + sample.x.numpy().tobytes())
            if sample.mask is not None:
                digest.update(sample.mask.numpy().tobytes())
        if self._numbers is not None:
            digest.update(self._numbers.tobytes())
        return digest.hexdigest()

    # -- one sample ---------------------------------------------------------------------------------------------

    def _read(self, index: int) -> tuple[Tensor, Any, Any]:
        """x (C, *space) float32, the label and the mask as they come, of a sample that is not checked yet."""
        try:
            value = self._data[index]
        except BootdiffError:
            raise
        # Whatever a data set of the user's raises.
        except Exception as error:
            raise BootdiffError(
                f"{self.where}: sample {index} of {self._length} cannot be read ({type(error).__name__}: {error})"
            ) from error
        x, label, mask = self._parts(value, index)
        return self._tensor(x, index), label, mask

    def _parts(self, value: Any, index: int) -> tuple[Any, Any, Any]:
        """What is x, label and mask of what the data set gives."""
        if isinstance(value, Sample):
            return value.x, value.label, value.mask
        if isinstance(value, Mapping):
            key = next((k for k in _IMAGES if k in value), None)
            if key is None:
                raise BootdiffError(
                    f"{self.where}: sample {index} is a dict of {shortened([str(k) for k in value])}; need one of "
                    f"{', '.join(_IMAGES)}"
                )
            return value[key], next((value[k] for k in _LABELS if k in value), None), value.get("mask")
        if isinstance(value, tuple | list):
            if not 1 <= len(value) <= 2:
                raise BootdiffError(
                    f"{self.where}: sample {index} is a {type(value).__name__} of {len(value)}; need (x,) or (x, label)"
                )
            return value[0], value[1] if len(value) == 2 else None, None
        return value, None, None

    def _tensor(self, x: Any, index: int) -> Tensor:
        if isinstance(x, Image.Image):
            try:
                pixels, _ = from_pillow(x, self._alpha)
                return to_tensor(to_channels(pixels, 3)[0] if self._channels == 3 else pixels)
            except (Undecodable, OSError) as error:
                raise BootdiffError(f"{self.where}: sample {index} {error}") from None
        if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
            x = torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("=")))
        if not isinstance(x, Tensor):
            raise BootdiffError(
                f"{self.where}: sample {index} holds a {type(x).__name__} where a tensor, an array of numbers or a PIL "
                "picture should be; return x, (x, label) or {'image': x, 'label': label}"
            )
        x = x.detach().cpu()
        if x.is_floating_point():
            return x.float()
        if x.dtype not in _RANGES:
            raise BootdiffError(
                f"{self.where}: sample {index} holds {str(x.dtype).removeprefix('torch.')} values, which have no usual "
                "range; scale them to floats in [-1, 1]"
            )
        return x.float().mul_(2 / _RANGES[x.dtype]).sub_(1)

    def _check_mask(self, mask: Any, index: int) -> Tensor:
        """(1 or C, *space) float32 of 0 and 1."""
        m = torch.as_tensor(mask).detach().cpu()
        m = m[None] if tuple(m.shape) == self.shape[1:] and len(self.shape) > 1 else m
        high = 255 if m.dtype == torch.uint8 and m.max() == 255 else 1
        wanted = {self.shape, (1, *self.shape[1:])} if len(self.shape) > 1 else {self.shape}
        if tuple(m.shape) not in wanted or not ((m == 0) | (m == high)).all() or not m.any():
            raise BootdiffError(
                f"{self.where}: the mask of sample {index} ({format_shape(m.shape)}) must be "
                f"{format_shape((1, *self.shape[1:]))}, of 0 (hidden) and 1 (observed), and not hide everything"
            )
        return (m > 0).float()

    def _number(self, label: Any, index: int) -> int | None:
        """The class number of a sample; None where it has none."""
        if self.classes is None:
            return None
        if self._numbers is not None:
            return None if self._numbers[index] < 0 else int(self._numbers[index])
        if isinstance(label, Tensor | np.ndarray | np.generic) and math.prod(label.shape) == 1:
            label = label.item()
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        whole = isinstance(label, int | float) and not isinstance(label, bool) and label == label // 1
        if whole and 0 <= label < len(self.classes):
            return int(label)
        if (label is None or (whole and label < 0)) and self.unlabelled:
            return None
        hint = "" if self.unlabelled else ", or allow samples without a label with unlabelled='keep'"
        raise BootdiffError(
            f"{self.where}: sample {index} has the label {label!r}; need a whole number below {len(self.classes)}, or "
            f"one of {shortened(self.classes)}{hint}; labels=False leaves labels out"
        )


def _classes_of(data: Any) -> list[str] | None:
    """Names of the classes as a data set's attributes tell them: those of torchvision and of Hugging Face."""
    while data is not None:
        if isinstance(names := getattr(data, "classes", None), list | tuple):
            return [str(name) for name in names]
        features = getattr(data, "features", None)
        if isinstance(features, Mapping):
            for key in _LABELS:
                if names := getattr(features.get(key), "names", None):
                    return [str(name) for name in names]
        if (targets := getattr(data, "targets", None)) is not None:
            found = np.asarray(targets.cpu() if isinstance(targets, Tensor) else targets)
            if found.ndim == 1 and found.dtype.kind in "iu" and len(found):
                return [str(i) for i in range(int(found.max()) + 1)]
            if found.ndim == 1 and found.dtype.kind == "U":
                return sorted(set(found.tolist()))
        # torch's Subset.
        data = getattr(data, "dataset", None)
    return None
