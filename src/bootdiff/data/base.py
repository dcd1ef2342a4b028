"""Data as stored, and batches in view coordinates.

A *source* holds n samples in **stored coordinates**: float32, channels first, the range of the pixels mapped to
[-1, 1]. A view's denoiser works in **view coordinates** ``scale * stored`` (a k-by-k block-averaged thumbnail m is
A x0 / k, so scale = k), where A maps white noise to white noise of the same standard deviation.

Batches are *stateless*: with n samples and batch size B, position j of step t is position ``q = t B + j`` of one
infinite sequence that is a fresh permutation of the source in every epoch,

    index(q) = pi_{q // n}[q mod n],      pi_e = permutation drawn from (seed, e),      flip(t, j) drawn from (seed, t),

so batch = f(seed, step, rank, world): nothing has to be saved to resume, and neither the number of workers nor of
processes changes what is trained on. A source smaller than the batch simply repeats, one permutation after the other.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.errors import BootdiffError

__all__ = [
    "Batches",
    "Problem",
    "Sample",
    "Source",
    "Subset",
    "evenly",
    "generator",
    "measure",
    "rank_slice",
    "report_problems",
    "split",
]

# First words of the random streams: no two uses of one seed share a stream.
_ORDER, _FLIP, _SPLIT, SIMULATE = 0, 1, 2, 3


@dataclass(frozen=True)
class Sample:
    """One stored sample.

    x: (C, H, W) float32 in stored coordinates. label: class number or None. mask: (1, H, W) float32, 1 = observed, or
    None where everything is.
    """

    x: Tensor
    label: int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """A file (or an array's sample) that cannot be used, and why."""

    file: str
    reason: str


class Source(ABC):
    """n samples of one shape.

    Attributes: ``shape`` (C, H, W); ``classes``, the names of the class numbers, or None without labels; ``masked``,
    whether samples carry masks; ``problems``, what was left out on opening; ``where``, the path or name for messages.
    """

    shape: tuple[int, ...]
    classes: list[str] | None = None
    masked: bool = False
    where: str = "data"
    problems: list[Problem]

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

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Samples stacked: x (b, C, H, W), labels (b,) int64 or None, masks (b, 1, H, W) or None.

        Raises BootdiffError, naming the sample, where a labelled source lacks a label or a masked one a mask.
        """
        samples = [self[i] for i in indices]
        x = torch.stack([sample.x for sample in samples])
        labels = masks = None
        if self.labelled:
            labels = torch.tensor(
                [self._need(s.label, i, "label") for s, i in zip(samples, indices)], dtype=torch.int64
            )
        if self.masked:
            masks = torch.stack([self._need(s.mask, i, "mask") for s, i in zip(samples, indices)])
        return x, labels, masks

    def _need(self, value: Any, index: int, what: str) -> Any:
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


class Subset(Source):
    """The samples ``indices`` of a source, in that order. Raises ValueError for an index outside the source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.indices = [int(i) for i in indices]
        outside = next((i for i in self.indices if not 0 <= i < len(source)), None)
        if outside is not None:
            raise ValueError(f"Subset: index {outside} lies outside the {len(source)} samples of {source.where}")
        self.source = source
        self.shape, self.classes, self.masked = source.shape, source.classes, source.masked
        self.where, self.problems = source.where, source.problems

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[self._check_index(index)]]

    def name(self, index: int) -> str:
        return self.source.name(self.indices[self._check_index(index)])

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.source.gather([self.indices[self._check_index(i)] for i in indices])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.source.fingerprint().encode())
        digest.update(np.asarray(self.indices, dtype="<i8").tobytes())
        return digest.hexdigest()


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator fixed by a seed and a path of numbers >= 0; different paths are independent streams."""
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {seed}")
    word = np.random.SeedSequence([int(seed), *map(int, path)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


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


def evenly(n: int, limit: int | None) -> list[int]:
    """At most ``limit`` indices, evenly spaced over range(n) (so that sorted class folders stay represented)."""
    if limit is None or limit >= n:
        return list(range(n))
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    return [i * n // limit for i in range(limit)]


def rank_slice(batch_size: int, rank: int, world: int) -> slice:
    """Positions of the global batch that process ``rank`` of ``world`` works on: contiguous, all together the batch."""
    return slice(rank * batch_size // world, (rank + 1) * batch_size // world)


class Batches:
    """Stateless batches of a source in view coordinates (module docstring); masked-out coordinates are set to 0.

    scale: view coordinates per stored unit (``view.scale``). shape: the view's shape, checked if given. flip: None,
    "none" or "horizontal": mirrors each sample (and its mask) along its last axis with probability 1/2; only for views
    that a mirror image leaves alone (not for, say, the left half). workers: loader processes of ``stream``. rank,
    world: which slice of each global batch is handed out. mask: one (1, H, W) mask for all samples of a source without
    masks of its own (files of a fixed mask view, say all with the same logo).

    Raises ValueError for wrong arguments and BootdiffError for an empty source or one whose shape is not the view's.
    """

    def __init__(
        self,
        source: Source,
        scale: float = 1.0,
        batch_size: int = 32,
        seed: int = 0,
        flip: str | bool | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        shape: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"Batches: scale must be positive and finite, got {scale}")
        if batch_size < 1 or workers < 0 or seed < 0:
            raise ValueError(f"Batches: need batch_size >= 1, workers, seed >= 0; got {batch_size}, {workers}, {seed}")
        if not 0 <= rank < world:
            raise ValueError(f"Batches: rank must lie in 0..{world - 1} (world {world}), got {rank}")
        if batch_size < world:
            raise ValueError(f"Batches: a batch of {batch_size} cannot be shared by {world} processes; enlarge it")
        if flip not in (None, False, "none", "horizontal"):
            raise ValueError(f'Batches: flip must be "none" or "horizontal", got {flip!r}')
        if len(source) == 0:
            raise BootdiffError(f"{source.where}: no samples are left to train on. Add files or hold out fewer.")
        if shape is not None and tuple(shape) != tuple(source.shape):
            raise BootdiffError(
                f"{source.where}: samples are {_times(source.shape)} (channels, height, width), but this view of the "
                f"full samples needs {_times(shape)}. Resize the files, or change the view or its settings."
            )
        if mask is not None and tuple(mask.shape) != (1, *source.shape[1:]):
            raise ValueError(f"Batches: mask must be {_times((1, *source.shape[1:]))}, got {_times(mask.shape)}")
        # A mask of the files' own says more than the view's.
        self.mask = None if mask is None or source.masked else mask.to("cpu", torch.float32)
        self.source, self.scale, self.batch_size, self.seed = source, float(scale), int(batch_size), int(seed)
        self.flip = flip == "horizontal"
        self.workers, self.rank, self.world, self.device = int(workers), rank, world, torch.device(device)
        self._orders: dict[int, np.ndarray] = {}

    @property
    def local(self) -> slice:
        """This process's positions in the global batch; slice noise drawn for the global batch with it."""
        return rank_slice(self.batch_size, self.rank, self.world)

    def epoch(self, step: int) -> float:
        """Passes over the source that are complete when ``step`` begins."""
        return step * self.batch_size / len(self.source)

    def indices(self, step: int) -> list[int]:
        """Source indices of the whole global batch ``step``."""
        if step < 0:
            raise ValueError(f"Batches: step must be 0 or more, got {step}")
        n = len(self.source)
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [int(self._order(q // n)[q % n]) for q in positions]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # Two epochs meet in one batch; no more are kept (a tiny source makes more, each as tiny).
            while len(self._orders) >= 2:
                del self._orders[next(iter(self._orders))]
            permutation = torch.randperm(len(self.source), generator=generator(self.seed, _ORDER, epoch))
            self._orders[epoch] = permutation.numpy()
        return self._orders[epoch]

    def at(self, step: int) -> dict[str, Tensor]:
        """This rank's slice of global batch ``step``, on the device.

        x (b, C, H, W) in view coordinates, index (b,) int64, and where the source has them label (b,) int64 and mask
        (b, 1, H, W).
        """
        return _to(self._cpu(step), self.device)

    def _cpu(self, step: int) -> dict[str, Tensor]:
        batch = self._batch(self.indices(step)[self.local])
        if self.flip:
            coins = torch.rand(self.batch_size, generator=generator(self.seed, _FLIP, step)) < 0.5
            for key in batch.keys() & {"x", "mask"}:
                value = batch[key]
                turn = coins[self.local].view(-1, *[1] * (value.ndim - 1))
                batch[key] = torch.where(turn, value.flip(-1), value)
        return batch

    def _batch(self, indices: list[int]) -> dict[str, Tensor]:
        x, labels, masks = self.source.gather(indices)
        batch = {"x": x * self.scale, "index": torch.tensor(indices, dtype=torch.int64)}
        if labels is not None:
            batch["label"] = labels
        if masks is None and self.mask is not None:
            masks = self.mask.expand(len(indices), *self.mask.shape)
        if masks is not None:
            # What lies under a subtitle or a logo must not reach the denoiser: A x is 0 there.
            batch["mask"] = masks
            batch["x"] = batch["x"] * masks
        return batch

    def stream(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches ``start``, ``start + 1``, ... without end, each equal to ``at(step)``; workers prepare them ahead."""
        if self.workers == 0:
            for step in itertools.count(start):
                yield self.at(step)
        pinned = self.device.type == "cuda"
        loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            _Steps(self),
            sampler=itertools.count(start),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=pinned,
            # Its own generator: the loader would otherwise draw a number from torch's global one.
            generator=torch.Generator().manual_seed(0),
        )
        for item in loader:
            if isinstance(item, str):
                raise BootdiffError(item)
            yield _to(item, self.device)

    def all(self, batch_size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The whole source once, in order, without flips and without regard to rank (the last batch may be smaller)."""
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"Batches.all: batch_size must be 1 or more, got {size}")
        for start in range(0, len(self.source), size):
            yield _to(self._batch(list(range(start, min(start + size, len(self.source))))), self.device)


class _Steps(torch.utils.data.Dataset):
    """Map from step to batch for the loader's workers; an error of the data comes back as its message."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> dict[str, Tensor] | str:
        try:
            return self.batches._cpu(step)
        except BootdiffError as error:
            return str(error)


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def measure(
    source: Source, scale: float = 1.0, limit: int | None = None, mask: Tensor | None = None, batch_size: int = 256
) -> dict[str, Any]:
    """Moments of a source in view coordinates, over its observed coordinates only (its own masks', else ``mask``'s).

    Returns mean (list, per channel), sigma_data (standard deviation about the channels' means), rms (root mean square
    about zero), min, max, count (samples seen: all, or ``limit`` evenly spaced ones). Sums run in float64 over one
    batch at a time. Raises BootdiffError where the data do not vary at all.
    """
    if len(source) == 0:
        raise BootdiffError(f"{source.where}: no samples to measure")
    chosen = evenly(len(source), limit)
    channels = source.shape[0]
    total, square, weight = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    low, high = math.inf, -math.inf
    for start in range(0, len(chosen), batch_size):
        x, _, masks = source.gather(chosen[start : start + batch_size])
        x = x.double().mul_(scale)
        masks = mask if masks is None else masks
        seen = torch.ones_like(x) if masks is None else masks.double().expand_as(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        total += (x * seen).sum(axes)
        square += (x.square() * seen).sum(axes)
        weight += seen.sum(axes)
        observed = x[seen > 0]
        if observed.numel():
            low, high = min(low, observed.min().item()), max(high, observed.max().item())
    if weight.min() == 0:
        raise BootdiffError(f"{source.where}: the masks hide every pixel of the samples. White (255) means observed.")
    mean = total / weight
    variance = ((square - total * mean).sum() / weight.sum()).item()
    if variance <= 1e-12 * scale**2:
        raise BootdiffError(
            f"{source.where}: all {len(chosen)} samples hold one and the same value ({low / scale:.6g} in [-1, 1]): "
            "there is nothing to learn. Check the path and, for float arrays, the declared range."
        )
    return {
        "mean": mean.tolist(),
        "sigma_data": math.sqrt(variance),
        "rms": math.sqrt(square.sum().item() / weight.sum().item()),
        "min": low,
        "max": high,
        "count": len(chosen),
    }


def report_problems(sources: Mapping[str, Source]) -> list[dict[str, str]]:
    """Problems of named sources as rows {"data", "file", "reason"} for the run directory, each source's once."""
    rows, seen = [], set()
    for name, source in sources.items():
        for problem in source.problems:
            # Parts of one source share its problems.
            if (source.where, problem) not in seen:
                seen.add((source.where, problem))
                rows.append({"data": name, "file": problem.file, "reason": problem.reason})
    return rows
