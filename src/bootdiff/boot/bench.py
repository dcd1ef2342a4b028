"""What one kind of data is worked on with: its batches, its held-out samples, its white base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bootdiff.boot.materials import Materials, ViewMaterial, in_memory, mirrors
from bootdiff.boot.objective import Samples
from bootdiff.data import Source, measure
from bootdiff.denoise import White

__all__ = ["Bench", "classes_in", "full_bench", "on_device", "view_bench"]


@dataclass
class Bench:
    """What one kind of data is worked on with: its batches and its ruler."""

    train: Source
    samples: Samples
    scale: float
    base: White
    flip: str = "none"
    tau: float = 0.0
    mask: Tensor | None = None
    classes: int | None = None


def full_bench(m: Materials, flip: str, device: torch.device) -> Bench:
    """That of the full samples."""
    samples = on_device(in_memory(m.held_out), device)
    return Bench(m.full, samples, 1.0, _base(m.shape, measure(m.full), device), flip, classes=classes_in(m.full))


def view_bench(v: ViewMaterial, full: tuple[int, ...], flip: str, device: torch.device) -> Bench:
    """That of a view's files, in view coordinates; `full` is the shape of the samples that it is a view of."""
    assert v.train is not None
    assert v.held_out is not None
    scale = v.through.scale
    base = _base(tuple(v.train.shape), measure(v.train, scale, limit=20_000), device)
    samples = on_device(in_memory(v.held_out, scale, v.view, full), device)
    mask = v.view.mask(full) if v.view.single else None
    flip = flip if mirrors(v.view, full) else "none"
    return Bench(v.train, samples, scale, base, flip, v.view.tau, mask, classes_in(v.train))


def classes_in(source: Source) -> int | None:
    """How many classes the labels of a source number; None without labels."""
    return None if source.classes is None else len(source.classes)


def on_device(s: Samples, device: torch.device) -> Samples:
    """The same samples there."""
    return s.to(device)


def _base(shape: tuple[int, ...], found: dict[str, Any], device: torch.device) -> White:
    return White(shape, found["mean"], found["sigma_data"]).to(device)
