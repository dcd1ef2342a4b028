"""Networks of all pixels that anyone shows: trained on full samples and on views that show coordinates as they are.

A view A *shows pixels* where A^T A is a diagonal of zeros and ones: crops, halves, masks, boxes, captions, frame
windows, stills, channels.  Then A^T m is the full sample where the file m shows it, and 0 elsewhere.  With
M = diag(A^T A), the mask, and a network that is given x and M,

    loss = | M (w D(x, M, sigma) + (1 - w) x - y) |^2 / (c_out^2 tr M),    x = M (y + s n),    y = A^T m,

a mean over what is seen, where w = s^2 / sigma^2 and sigma^2 = tau^2 + s^2 for files stored with noise tau, else w = 1.
Nothing that is filled in enters the loss.  In use M = 1: nothing is hidden.

A share of what is drawn are full samples, which alone show what lies far apart.  A crop that may lie anywhere is set
somewhere, each file always at the same place.  Whole samples without noise are left out: a view of that kind has files
that differ from full samples in a way that no view describes (blurred, say), or it would be full data.

Sources: loss over observed pixels: Daras et al. 2023 (Ambient diffusion), arXiv 2305.19256, without its further hiding;
noisy files: Daras et al. 2024, arXiv 2404.10177.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bootdiff.data import Dataset, Mixture
from bootdiff.data.dataset import Sample, generator
from bootdiff.denoise import expand
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import UNLABELLED, ResidualObjective
from bootdiff.method.problem import Problem, ViewData
from bootdiff.method.settings import MethodSettings
from bootdiff.method.training_set import TrainingSet
from bootdiff.noise import LogNormal
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.views import Identity, View, unmasked

__all__ = [
    "OnFullShape",
    "VisibleObjective",
    "shows_pixels",
    "visible_objective",
    "visible_training_set",
    "visible_views",
]

# First word of the random stream of where crops are set; `data.dataset` and `data.batches` have the others.
_PLACE = 4


def shows_pixels(view: View, full: Sequence[int]) -> bool:
    """Whether A^T A is a diagonal of zeros and ones, and the files are not whole samples without noise.

    >>> from bootdiff.views import Crop, Downsample, Mask
    >>> [shows_pixels(v, (1, 4, 4)) for v in (Crop(2), Mask(band=("top", 1)), Downsample(2), Identity())]
    [True, True, False, False]
    """
    full = tuple(full)
    one = unmasked(view).draw(full, torch.Generator().manual_seed(0))
    x = torch.randn(1, *full, generator=torch.Generator().manual_seed(0))
    seen = _seen(one, full)
    exact = torch.allclose(one.lift(one(x), full), x * seen, atol=1e-5)
    return exact and (view.tau > 0 or view.masked or not bool(seen.all()))


def visible_views(settings: MethodSettings, problem: Problem) -> list[str]:
    """The views whose files teach the networks of all visible pixels; none where these are not to be trained."""
    if not settings.residual.visible_experts or problem.full.position_conditioned:
        return []
    wanted = [name for name in problem.views if settings.views[name].pixels == "auto"]
    views = {name: problem.views[name] for name in wanted}
    return [name for name, v in views.items() if v.train is not None and shows_pixels(v.view, problem.shape)]


class OnFullShape(Dataset):
    """A view's files at the shape of full samples, in their coordinates; masks say what they show.

    Labels are class + 1 + number (classes + 1), 0 standing for no class: the objective tells the two apart.

    Args:
        dataset: the files, in stored coordinates.
        view: one that shows pixels.
        full: shape of a full sample.
        scale: coordinates of full samples per stored one.
        number: of the kind of files.
        classes: how many there are, or None.
        mask: what all files show, (1 or C, *space of the view), where it is not all and they have no masks.
        mask_channels: channels of the masks that are given.
    """

    masked = True

    def __init__(
        self,
        dataset: Dataset,
        view: View,
        full: Sequence[int],
        scale: float = 1.0,
        number: int = 0,
        classes: int | None = None,
        mask: Tensor | None = None,
        mask_channels: int = 1,
    ) -> None:
        self.dataset, self.view, self.shape = dataset, unmasked(view), tuple(full)
        self.scale, self.number, self.n_classes, self.mask_channels = scale, number, classes or 0, mask_channels
        self.mask, self.where, self.problems = mask, dataset.where, dataset.problems

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        x, labels, masks = self.batch([self._check_index(index)])
        return Sample(x[0], int(labels[0]), masks[0])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        m, labels, masks = self.dataset.batch(indices)
        if masks is None:
            masks = torch.ones_like(m) if self.mask is None else self.mask.to(m).expand_as(m)
        else:
            masks = masks.expand_as(m)
        y = m * self.scale * masks
        if self.view.is_fixed:
            x, seen = self.view.lift(y, self.shape), self.view.lift(masks, self.shape)
        else:
            placed = [self.view.draw(self.shape, generator(0, _PLACE, int(i))) for i in indices]
            x, seen = (
                torch.cat([v.lift(row[None], self.shape) for v, row in zip(placed, rows, strict=True)])
                for rows in (y, masks)
            )
        own = torch.full((len(m),), -1) if labels is None or not self.n_classes else labels
        return x, own + 1 + self.number * (self.n_classes + 1), seen.abs()[:, : self.mask_channels]

    def fill_memory(self) -> None:
        self.dataset.fill_memory()

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def fingerprint(self) -> str:
        mask = None if self.mask is None else self.mask.tolist()
        said = (self.dataset.fingerprint(), str(self.view), self.shape, self.scale, self.number, self.n_classes, mask)
        return hashlib.sha256(repr((*said, self.mask_channels)).encode()).hexdigest()


@dataclass
class VisibleObjective(ResidualObjective):
    """The loss of this file.

    Args:
        taus: noise of the files of each kind, in coordinates of the full samples.
        classes: how many there are, or None.
    """

    taus: tuple[float, ...] = (0.0,)
    classes: int | None = None

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Losses (b,) of this process's rows."""
        y, mask, each = batch["x"], batch["mask"], (self.classes or 0) + 1
        tau = torch.tensor(self.taus).to(y)[batch["label"].div(each, rounding_mode="floor")]
        s = global_draw(lambda n: self.noise.sample(n, generator), len(y)).to(y)
        noise = global_randn(y.shape, generator).to(y)
        label = None
        if self.classes is not None:
            dropped = global_draw(lambda n: torch.rand(n, generator=generator, device=generator.device), len(y))
            label = torch.where(dropped.to(y) < UNLABELLED, -1, batch["label"] % each - 1)
        x, sigma = y + expand(s, y) * noise * mask, (s**2 + tau**2).sqrt()
        return model(self, y, x, sigma, label, mask, tau=tau, counts=mask)


def visible_training_set(
    full: TrainingSet, views: Mapping[str, tuple[ViewData, TrainingSet]], share: float
) -> TrainingSet:
    """The full samples' training set with all that views show of such samples to train on, too.

    Args:
        full: that of the full samples.
        views: each that shows pixels, with its own training set.
        share: of what is drawn, full samples, or a little more.
    """
    shape = full.prior.shape
    per_channel = any(_per_channel(v.view, data, shape) for v, data in views.values())
    per_channel |= (full.mask_channels or 0) > 1
    channels = shape[0] if per_channel else 1
    if full.mask_channels not in (0, channels):
        raise BootdiffError(
            f"{full.train.where}: these samples have one mask for all channels, and views of them show different "
            "channels at different places; say `pixels: no` for these views"
        )
    kinds = [OnFullShape(full.train, Identity(), shape, full.scale, 0, full.classes, full.mask, channels)]
    for k, (v, data) in enumerate(views.values()):
        kinds.append(OnFullShape(data.train, v.view, shape, data.scale, k + 1, full.classes, data.mask, channels))
    others = sum(len(kind) for kind in kinds[1:])
    repeats = [max(1, math.ceil(share / (1 - share) * others / len(kinds[0]))), *[1] * len(views)]
    # What they show is at full shape now, and to scale.
    return replace(full, train=Mixture(kinds, None, repeats, channels), scale=1.0, mask=None)


def visible_objective(
    composite: CompositeDenoiser,
    noise: LogNormal,
    full: TrainingSet,
    views: Mapping[str, tuple[ViewData, TrainingSet]],
) -> VisibleObjective:
    """The loss on `visible_training_set` of the same."""
    taus = (full.tau, *(data.tau for _, data in views.values()))
    return VisibleObjective(composite, noise, tau=full.tau, taus=taus, classes=full.classes)


def _seen(view: View, full: tuple[int, ...]) -> Tensor:
    return (view.lift(torch.ones(1, *view.shape(full)), full).abs() > 1e-6).float()


def _per_channel(view: View, data: TrainingSet, full: tuple[int, ...]) -> bool:
    """Whether what files of a view show differs between channels."""
    seen = _seen(unmasked(view).draw(full, torch.Generator().manual_seed(0)), full)[0]
    return bool((seen != seen[:1]).any()) or (data.mask_channels or 0) > 1
