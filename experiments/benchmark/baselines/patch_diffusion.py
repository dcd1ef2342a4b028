"""Patch diffusion: networks see patches of the picture and where they are.

Patch diffusion (Wang, Jiang, Zheng, Wang, He, Wang, Chen, Zhou 2023, arXiv 2304.12526): a network of x and two channels
of coordinates, each from -1 to 1 over the whole picture, is trained on patches of random place and on whole pictures,

    loss = | D(x_patch, coordinates of the patch, sigma) - x0_patch |^2 / c_out^2,

and asked for whole pictures.  Crops are patches whose place is known: they take part as they are, and so do patches of
the full samples.  Different from the paper: half of every batch are patches, half whole pictures, instead of whole
batches of either; one patch size, that of the crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, expand
from bootdiff.method.composite import Estimates
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import ViewData
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stages import Bootstrap
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.training.settings import TrainingSettings
from bootdiff.views import Crop
from experiments.benchmark.baselines.base import Method, one_stage, training_of
from experiments.benchmark.baselines.mixing import mixture

__all__ = ["PATCH_DIFFUSION", "Pairs", "PatchExpert", "PatchObjective", "coordinates", "crops_of", "patch_diffusion"]


def coordinates(shape: Sequence[int]) -> Tensor:
    """Where each pixel is, (2, H, W): rows and columns, from -1 to 1."""
    axes = [torch.linspace(-1, 1, n) for n in shape[-2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class PatchExpert(ResidualExpert):
    """An expert on the prior that takes coordinates as input, by default those of the whole image."""

    def extra_inputs(self, x: Tensor, sigma: Tensor, at: Estimates) -> Tensor:
        where = coordinates(self.shape).expand(len(x), -1, -1, -1) if at.views is None else at.views
        return where.to(x)


class Pairs:
    """Batches of two kinds at once: keys of the second begin with "patch_"."""

    def __init__(self, whole: Any, patches: Any) -> None:
        self.whole, self.patches = whole, patches

    def stream(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        for one, other in zip(self.whole.stream(start), self.patches.stream(start), strict=True):
            yield one | {f"patch_{key}": value for key, value in other.items()}


@dataclass
class PatchObjective(ResidualObjective):
    """The loss above.

    size: (h, w) of the patches.  offsets: (top, left) of each kind of crop, by kind; the full samples' are drawn.
    """

    size: tuple[int, int] = (1, 1)
    offsets: tuple[tuple[int, int], ...] = ()

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x"]
        y0, where = self.cut(batch["patch_x"], batch["patch_label"], generator)
        noisy, sigmas = [], []
        for clean in (x0, y0):
            sigma = global_draw(lambda n: self.noise.sample(n, generator), len(clean)).to(clean)
            sigmas.append(sigma)
            noisy.append(clean + expand(sigma, clean) * global_randn(clean.shape, generator).to(clean))
        return model(self, x0, noisy[0], sigmas[0], patches=(y0, noisy[1], sigmas[1], where))

    def cut(self, x: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Patches (b, C, h, w) and their coordinates (b, 2, h, w)."""
        h, w = self.size
        H, W = x.shape[-2:]
        u = global_draw(lambda n: torch.rand(n, 2, generator=generator, device=generator.device), len(x)).to(x)
        places = (u * torch.tensor([H - h + 1, W - w + 1], device=x.device)).long().tolist()
        grid = coordinates(x.shape).to(x)
        cut, where = [], []
        for row, kind, place in zip(x, label.tolist(), places, strict=True):
            t, l = place if kind < 0 else self.offsets[kind]
            cut.append(row[:, t : t + h, l : l + w])
            where.append(grid[:, t : t + h, l : l + w])
        return torch.stack(cut), torch.stack(where)

    def loss(self, expert: ResidualExpert, *whole: Any, patches: Any = None, **how: Any) -> Tensor:
        y0, y, sigma, where = patches
        own = super().loss(expert, *whole, **how)
        prior = self.composite.prior(y, sigma)
        other = super().loss(expert, y0, y, sigma, at=Estimates(prior, prior, where))
        return torch.cat([own, other])


def crops_of(views: Mapping[str, ViewData]) -> list[str]:
    """The crops at a known place that are as large as the first of them."""
    found = [n for n, v in views.items() if isinstance(v.view, Crop) and v.view.offset is not None]
    return [n for n in found if views[n].view.size == views[found[0]].view.size]  # type: ignore[attr-defined]


def patch_diffusion(b: Bootstrap, flops: float, share: float = 0.3) -> Denoiser:
    """Crops at a known place, and the full samples, which are `share` of what patches are cut from."""
    full, views = b.full_training_set(), b.problem.views
    names, kinds = crops_of(views), list(views)
    none = b.no_views(full.prior)
    crops: Sequence[Any] = [views[n].view for n in names]
    offsets = tuple(crops[names.index(n)].offset if n in names else (0, 0) for n in kinds)
    objective = PatchObjective(none, training_of(b).noise, size=crops[0].size, offsets=offsets)
    mixed = replace(full, train=mixture(b.problem, share, full.prior.config["mean"], names), flip="none")

    def batches(name: str, training: TrainingSettings) -> Pairs:
        half = replace(training, batch=max(1, training.batch_size // 2))
        return Pairs(b.batches(name, full, half), b.batches(f"{name} patches", mixed, half))

    return one_stage(
        b, "patch_diffusion", full, flops, composite=none, objective=objective, batches=batches,
        parents=["patch diffusion", mixed.train.fingerprint(), share], expert=PatchExpert, extra_channels=2,
    )  # fmt: skip


PATCH_DIFFUSION = Method(patch_diffusion, ({}, {"nets": "narrow"}, {"share": 0.1}), lambda views: bool(crops_of(views)))
