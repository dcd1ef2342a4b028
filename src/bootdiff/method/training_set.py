"""What one kind of data is worked on with: its batches, its held-out samples, its white base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bootdiff.data import Dataset, measure
from bootdiff.denoise import IsotropicGaussian
from bootdiff.method.losses import SampleSet
from bootdiff.method.problem import Problem, ViewData, in_memory, mirrors

__all__ = ["TrainingSet", "classes_in", "full_training_set", "on_device", "view_training_set"]


@dataclass
class TrainingSet:
    """What one kind of data is worked on with: its batches and its ruler."""

    train: Dataset
    samples: SampleSet
    scale: float
    base: IsotropicGaussian
    flip: str = "none"
    tau: float = 0.0
    mask: Tensor | None = None
    classes: int | None = None


def full_training_set(m: Problem, flip: str, device: torch.device) -> TrainingSet:
    """That of the full samples."""
    samples = on_device(in_memory(m.held_out), device)
    return TrainingSet(m.full, samples, 1.0, _base(m.shape, measure(m.full), device), flip, classes=classes_in(m.full))


def view_training_set(v: ViewData, full: tuple[int, ...], flip: str, device: torch.device) -> TrainingSet:
    """That of a view's files, in view coordinates; `full` is the shape of the samples that it is a view of."""
    assert v.train is not None
    assert v.held_out is not None
    scale = v.through.scale
    base = _base(tuple(v.train.shape), measure(v.train, scale, limit=20_000), device)
    samples = on_device(in_memory(v.held_out, scale, v.view, full), device)
    mask = v.view.mask(full) if v.view.is_fixed else None
    flip = flip if mirrors(v.view, full) else "none"
    return TrainingSet(v.train, samples, scale, base, flip, v.view.tau, mask, classes_in(v.train))


def classes_in(source: Dataset) -> int | None:
    """How many classes the labels of a source number; None without labels."""
    return None if source.classes is None else len(source.classes)


def on_device(s: SampleSet, device: torch.device) -> SampleSet:
    """The same samples there."""
    return s.to(device)


def _base(shape: tuple[int, ...], found: dict[str, Any], device: torch.device) -> IsotropicGaussian:
    return IsotropicGaussian(shape, found["mean"], found["sigma_data"]).to(device)
