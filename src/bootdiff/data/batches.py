"""Stateless batches of a data set in view coordinates.

A view's denoiser works in **view coordinates** ``scale * stored`` (a k-by-k block-averaged thumbnail m is A x0 / k, so
scale = k), where A maps white noise to white noise of the same standard deviation.

With n samples and batch size B, position j of step t is position ``q = t B + j`` of one infinite sequence that is a
fresh permutation of the data set in every epoch,

    index(q) = pi_{q // n}[q mod n],      pi_e = permutation drawn from (seed, e),      flip(t, j) drawn from (seed, t),

so batch = f(seed, step, rank, world): nothing has to be saved to resume, and neither the number of workers nor of
processes changes what is trained on. A data set smaller than the batch simply repeats, one permutation after the other.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, generator
from bootdiff.data.kinds import axes_of, format_shape, kind_of
from bootdiff.errors import BootdiffError
from bootdiff.processes import end_with_parent

__all__ = ["Batches", "rank_slice"]

# First words of the random streams: no two uses of one seed share a stream (`dataset` has the others).
_ORDER, _FLIP = 0, 1


def rank_slice(batch_size: int, rank: int, world: int) -> slice:
    """Positions of the global batch that process ``rank`` of ``world`` works on: contiguous, all together the batch."""
    return slice(rank * batch_size // world, (rank + 1) * batch_size // world)


class Batches:
    """Stateless batches of a data set in view coordinates (module docstring); masked-out coordinates are set to 0.

    scale: view coordinates per stored unit (``view.scale``). shape: the view's shape, checked if given. flip: None,
    "none" or "horizontal": mirrors each sample (and its mask) along its last axis with probability 1/2; only for
    pictures and videos, and for views that a mirror image leaves alone (not for, say, the left half). workers: loader
    processes of ``stream``. rank, world: which slice of each global batch is handed out. mask: one (1 or C, *space)
    mask for all samples of a data set that has none itself (files of a fixed mask view, say all with the same logo).

    Raises ValueError for wrong arguments and BootdiffError for an empty data set or one whose shape is not the view's.
    """

    def __init__(
        self,
        dataset: Dataset,
        scale: float = 1.0,
        batch_size: int = 32,
        seed: int = 0,
        *,
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
        if len(dataset) == 0:
            raise BootdiffError(f"{dataset.where}: no samples are left to train on. Add files or hold out fewer.")
        if shape is not None and tuple(shape) != tuple(dataset.shape):
            raise BootdiffError(
                f"{dataset.where}: samples are {format_shape(dataset.shape)} ({axes_of(dataset.shape)}), but this view "
                f"of the full samples needs {format_shape(shape)}. Resize the files, or change the view's settings."
            )
        if flip == "horizontal" and kind_of(dataset.shape) not in ("image", "video"):
            raise ValueError(
                f"Batches: only pictures and videos are mirrored, not a {kind_of(dataset.shape)}: flip=None"
            )
        if mask is not None and tuple(mask.shape) not in (tuple(dataset.shape), (1, *dataset.shape[1:])):
            raise ValueError(
                f"Batches: mask must be {format_shape((1, *dataset.shape[1:]))}, got {format_shape(mask.shape)}"
            )
        # A mask of the files' own says more than the view's.
        self.mask = None if mask is None or dataset.masked else mask.to("cpu", torch.float32)
        self.dataset, self.scale, self.batch_size, self.seed = dataset, float(scale), int(batch_size), int(seed)
        self.flip = flip == "horizontal"
        self.workers, self.rank, self.world, self.device = int(workers), rank, world, torch.device(device)
        self._orders: dict[int, np.ndarray] = {}

    @property
    def local(self) -> slice:
        """This process's positions in the global batch; slice noise drawn for the global batch with it."""
        return rank_slice(self.batch_size, self.rank, self.world)

    def epoch(self, step: int) -> float:
        """Passes over the data set that are complete when ``step`` begins."""
        return step * self.batch_size / len(self.dataset)

    def indices(self, step: int) -> list[int]:
        """Indices of the samples of the whole global batch ``step``."""
        if step < 0:
            raise ValueError(f"Batches: step must be 0 or more, got {step}")
        n = len(self.dataset)
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [int(self._order(q // n)[q % n]) for q in positions]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # Two epochs meet in one batch; no more are kept (a tiny data set makes more, each as tiny).
            while len(self._orders) >= 2:
                del self._orders[next(iter(self._orders))]
            permutation = torch.randperm(len(self.dataset), generator=generator(self.seed, _ORDER, epoch))
            self._orders[epoch] = permutation.numpy()
        return self._orders[epoch]

    def at(self, step: int) -> dict[str, Tensor]:
        """This rank's slice of global batch ``step``, on the device.

        x (b, C, *space) in view coordinates, index (b,) int64, and where the data set has them label (b,) int64, -1 =
        not known, mask (b, 1 or C, *space), and position_channels (b, axes, *space).
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
        x, labels, masks = self.dataset.batch(indices)
        batch = {"x": x if self.scale == 1 else x * self.scale, "index": torch.tensor(indices, dtype=torch.int64)}
        if labels is not None:
            batch["label"] = labels
        if masks is None and self.mask is not None:
            masks = self.mask.expand(len(indices), *self.mask.shape)
        if masks is not None:
            # What lies under a subtitle or a logo must not reach the denoiser: A x is 0 there.
            batch["mask"] = masks
            batch["x"] = batch["x"] * masks
        if self.dataset.position_conditioned:
            batch["position_channels"] = self.dataset.positions(indices)  # type: ignore[assignment]
        return batch

    def stream(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches ``start``, ``start + 1``, ... without end, each equal to ``at(step)``; workers prepare them ahead."""
        if self.workers == 0:
            for step in itertools.count(start):
                yield self.at(step)
        self.dataset.fill_memory()
        pinned = self.device.type == "cuda"
        loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            _Steps(self),
            sampler=itertools.count(start),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=pinned,
            # torch's workers look for their parent between two batches only, and miss one that ends while they start.
            worker_init_fn=partial(end_with_parent, os.getpid()),
            # Its own generator: the loader would otherwise draw a number from torch's global one.
            generator=torch.Generator().manual_seed(0),
        )
        for item in loader:
            if isinstance(item, str):
                raise BootdiffError(item)
            yield _to(item, self.device)

    def all(self, batch_size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """All samples once, in order, without flips and without regard to rank (the last batch may be smaller)."""
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"Batches.all: batch_size must be 1 or more, got {size}")
        for start in range(0, len(self.dataset), size):
            yield _to(self._batch(list(range(start, min(start + size, len(self.dataset))))), self.device)


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
