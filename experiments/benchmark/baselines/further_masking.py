"""Ambient diffusion: networks see a further masked picture and must fill what the file shows.

Ambient diffusion (Daras, Shah, Dagan, Gollakota, Dimakis, Klivans 2023, arXiv 2305.19256): for a file A x0 with mask A
a share delta of what it shows is hidden, too, A~ = B A; with x = x0 + sigma n,

    loss = | A ( D(A~ x, A~, sigma) - x0 ) |^2,        (equation 3.2)

whose minimizer is E[x0 | A~ x, A~] even where A hides.  The full samples are files with A = 1, of a tuned share.  What
is hidden is shown as the mean.  Different from the paper: denoising is asked with A~ = 1, which full samples make exact
for part of the training (the paper has none, and fixes A~ of its own kind); B hides boxes of the kind that the files
have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, expand
from bootdiff.method.problem import ViewData
from bootdiff.method.stages import Bootstrap
from bootdiff.method.validation import SampleSet
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.views import Crop
from experiments.benchmark.baselines.base import Method, one_stage, training_of
from experiments.benchmark.baselines.mixing import MixedObjective, mixture_bench

__all__ = ["FURTHER_MASKING", "FurtherMasking", "Whole", "further_masking", "masks_of"]


class Whole(Denoiser):
    """A denoiser of masked samples, asked for whole ones: its context is a mask of ones unless given.

    Args:
        inner: the denoiser.
    """

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner, self.shape = inner, inner.shape

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        context = torch.ones_like(x[:, :1]) if context is None else context
        return self.inner(x, sigma, label, context)


@dataclass
class FurtherMasking(MixedObjective):
    """The loss above; `hide` is delta, the share of the width and height of the box B hides, 0 for none."""

    hide: float = 0.3

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, _, seen = self.filled(batch)
        s = global_draw(lambda n: self.noise.sample(n, generator), len(x0)).to(x0)
        n = global_randn(x0.shape, generator).to(x0)
        mask_channels = seen * self.boxes(x0, generator)
        mean = self.composite.prior.mean.to(x0)
        x = mean + mask_channels * (x0 + expand(s, x0) * n - mean)
        return model(self, x0, x, s, None, mask_channels, counts=seen)

    def boxes(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(b, 1, H, W): zeros in a box anywhere, ones elsewhere."""
        H, W = x.shape[-2:]
        h, w = round(self.hide * H), round(self.hide * W)
        u = global_draw(lambda n: torch.rand(n, 2, generator=generator, device=generator.device), len(x)).to(x)
        top, left = ((u[:, i] * (n - k + 1)).floor()[:, None] for i, (n, k) in enumerate(((H, h), (W, w))))
        rows, columns = torch.arange(H, device=x.device), torch.arange(W, device=x.device)
        inside = ((rows >= top) & (rows < top + h))[:, :, None] & ((columns >= left) & (columns < left + w))[:, None, :]
        return 1 - inside[:, None].to(x)


def masks_of(views: Mapping[str, ViewData]) -> list[str]:
    """The views that hide part of a picture and change nothing else: masks, and windows with a place."""
    return [
        n
        for n, v in views.items()
        if not v.view.tau and (v.view.masked or (isinstance(v.view, Crop) and v.view.is_fixed))
    ]


def further_masking(b: Bootstrap, flops: float, hide: float = 0.3, share: float = 0.5) -> Denoiser:
    """Views that hide part of the picture; others are left out."""
    bench = mixture_bench(b, share, masks_of(b.problem.views))
    samples = bench.samples
    ones = torch.ones_like(samples.x[:, :1])
    bench = replace(bench, samples=SampleSet(samples.x, samples.label, ones))
    objective = FurtherMasking(b.no_views(bench.prior), training_of(b).noise, hide=hide)
    parents = ["further masking", hide, share]
    return (
        Whole(one_stage(b, "further_masking", bench, flops, objective=objective, parents=parents)).to(b.device).eval()
    )


FURTHER_MASKING = Method(further_masking, ({}, {"nets": "narrow"}, {"hide": 0.1}), lambda views: bool(masks_of(views)))
