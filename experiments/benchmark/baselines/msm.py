"""Views only: the score of the full samples put together from measurement scores, without any full sample.

MSM (Park, Hu, Gan, Chandler, Kamilov 2025, "Measurement score-based diffusion model", arXiv 2505.11853): a score is
learned in the space of the partial measurements and lifted by their adjoints; where several measurements see a
coordinate, the sum is divided by how many do,

    D(x, sigma) = b(x, sigma) + W sum_i A_i^T [ d_i(A_i x, sigma) - b(A_i x, sigma) ],   W = diag(1 / max(1, coverage)).

Different from the paper: one denoiser per kind instead of one for all masks (kinds differ in shape), all placements
instead of a random draw of them, and what no view sees falls to the white base.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stages import Bootstrap
from experiments.benchmark.baselines.base import Method, training_of, with_steps
from experiments.benchmark.budget import step_flops, steps_within

__all__ = ["MSM", "CoverageWeighted", "msm"]


class CoverageWeighted(Denoiser):
    """D above.

    Args:
        composite: base, views and their denoisers; its gains do not count.
    """

    coverage: Tensor

    def __init__(self, composite: CompositeDenoiser) -> None:
        super().__init__()
        self.composite, self.shape = composite, composite.shape
        count = sum((view._count(self.shape) > 0).float() for view in composite.views.values())
        self.register_buffer("coverage", torch.as_tensor(count).clamp(min=1), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        base = self.composite.base(x, sigma)
        total = torch.zeros_like(x)
        for name in self.composite.views:
            total = (
                total
                + self.composite.evidence(name, x, sigma, label, base, self.composite.active(name, sigma, label))[0]
            )
        return base + total / self.coverage.to(x)


def msm(b: Bootstrap, flops: float) -> Denoiser:
    """The whole budget goes into the views' networks."""
    training = training_of(b)
    benches = {name: b.view_training_set(name) for name in b.recipe.views}
    per_step = [
        step_flops(b, bench, b.no_views(bench.base), "base", net, training)
        for bench in benches.values()
        for net in b.recipe.backbones.values()
    ]
    training = with_steps(training, steps_within(flops, per_step)[0])
    denoisers = {}
    for name, bench in benches.items():
        none = b.no_views(bench.base)
        found = {
            f"msm-{name}-{kind}": b.expert(f"msm-{name}-{kind}", bench, none, "base", net, training)
            for kind, net in b.recipe.backbones.items()
        }
        denoisers[name] = b.stack(f"msm-{name}", bench, none, found)
    views = {name: v.view for name, v in b.materials.views.items()}
    composite = CompositeDenoiser(b.full_training_set().base, views, denoisers, b.levels).to(b.device)
    return CoverageWeighted(composite).to(b.device).eval()


MSM = Method(msm, ({}, {"nets": "narrow"}, {"dropout": 0.1}))
