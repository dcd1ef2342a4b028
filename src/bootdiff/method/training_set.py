"""What the networks of one kind of data are trained and judged on: batches, held-out samples, and the prior."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bootdiff.data import Dataset, measure
from bootdiff.denoise import IsotropicGaussian
from bootdiff.method.problem import Problem, ViewData, in_memory, mirrors
from bootdiff.method.validation import SampleSet
from bootdiff.views import to_config

__all__ = ["TrainingSet", "classes_in", "full_training_set", "view_training_set"]


@dataclass
class TrainingSet:
    """One kind of data.

    train: samples to train on, in stored coordinates.  samples: held out, in view coordinates.  scale: view coordinates
    per stored coordinate.  prior: isotropic Gaussian of the data.  flip: "none" or "horizontal".  tau: noise of the
    stored samples, in view coordinates.  mask: of all samples, (1 or C, *space), where the files have none.
    classes: how many, or None.  about: what else a training depends on by its data, JSON-able (the view).
    """

    train: Dataset
    samples: SampleSet
    scale: float
    prior: IsotropicGaussian
    flip: str = "none"
    tau: float = 0.0
    mask: Tensor | None = None
    classes: int | None = None
    about: Any = None

    def describe(self) -> dict[str, Any]:
        """All that a training depends on by its data: JSON-able."""
        held_out = {name: _digest(value) for name, value in vars(self.samples).items() if value is not None}
        return {
            "train": self.train.fingerprint(), "held_out": held_out, "scale": self.scale, "prior": self.prior.config,
            "flip": self.flip, "tau": self.tau, "mask": None if self.mask is None else _digest(self.mask),
            "classes": self.classes, "about": self.about,
        }  # fmt: skip

    @property
    def mask_channels(self) -> int | None:
        """Mask channels that its networks take as input; None where they are conditioned on positions, too."""
        if self.samples.position_channels is not None:
            return None
        return 0 if self.samples.mask is None else int(self.samples.mask.shape[1])


def _digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:24]


def full_training_set(problem: Problem, flip: str, device: torch.device) -> TrainingSet:
    """That of the full samples."""
    samples = in_memory(problem.held_out).to(device)
    prior = _prior(problem.shape, measure(problem.full), device)
    return TrainingSet(problem.full, samples, 1.0, prior, flip, classes=classes_in(problem.full))


def view_training_set(v: ViewData, full: tuple[int, ...], flip: str, device: torch.device) -> TrainingSet:
    """That of a view's files, in view coordinates; `full` is the shape of the samples that it is a view of."""
    assert v.train is not None
    assert v.held_out is not None
    scale = v.through.scale
    prior = _prior(tuple(v.train.shape), measure(v.train, scale, limit=20_000), device)
    samples = in_memory(v.held_out, scale, v.view, full).to(device)
    mask = v.view.mask(full) if v.view.is_fixed else None
    flip = flip if mirrors(v.view, full) else "none"
    return TrainingSet(
        v.train, samples, scale, prior, flip, v.view.tau, mask, classes_in(v.train), about={"view": to_config(v.view)}
    )


def classes_in(dataset: Dataset) -> int | None:
    """How many classes the labels of a dataset number; None without labels."""
    return None if dataset.classes is None else len(dataset.classes)


def _prior(shape: tuple[int, ...], found: dict[str, Any], device: torch.device) -> IsotropicGaussian:
    return IsotropicGaussian(shape, found["mean"], found["sigma_data"]).to(device)
