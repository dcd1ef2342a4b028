"""Views only: the score of the full samples put together from measurement scores, without any full sample.

MSM (Park, Hu, Gan, Chandler, Kamilov 2025, "Measurement score-based diffusion model", arXiv 2505.11853): a score is
learned in the space of the partial measurements and lifted by their adjoints; where several measurements see a
coordinate, the sum is divided by how many do,

    D(x, sigma) = b(x, sigma) + W sum_i A_i^T [ d_i(A_i x, sigma) - b(A_i x, sigma) ],   W = diag(1 / max(1, coverage)).

Different from the paper: one denoiser per kind instead of one for all masks (kinds differ in shape), all placements
instead of a random draw of them, and what no view sees falls to the white base.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from experiments.benchmark.baselines.base import Method, training_of, with_steps
from experiments.benchmark.budget import steps_within

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
        base = self.composite.prior(x, sigma)
        total = torch.zeros_like(x)
        for name in self.composite.views:
            active = self.composite.active(name, sigma, label)
            total = total + self.composite.evidence(name, x, sigma, label, base, active)[0]
        return base + total / self.coverage.to(x)


def msm(b: Bootstrap, flops: float) -> Denoiser:
    """The whole budget goes into the views' networks."""
    training = training_of(b)
    tasks: dict[str, list[Task]] = {}
    for name in b.problem.views:
        data = b.view_training_set(name)
        none = b.no_views(data.prior)
        tasks[name] = [
            Task(f"msm-{name}-{kind}", data, none, network, training) for kind, network in b.settings.networks.items()
        ]
    per_step = [b.step_flops(task) for own in tasks.values() for task in own]
    training = with_steps(training, steps_within(flops, per_step)[0])
    views = {}
    for name, own in tasks.items():
        found = {task.name: b.train(replace(task, training=training)) for task in own}
        views[name] = (
            b.problem.views[name].view,
            b.stack(f"msm-{name}", own[0].data, own[0].composite, {**found, **b.gaussian(f"msm-{name}", own[0].data)}),
        )
    composite = CompositeDenoiser(views, b.full_training_set().prior, b.levels).to(b.device)
    return CoverageWeighted(composite).to(b.device).eval()


MSM = Method(msm, ({}, {"nets": "narrow"}, {"dropout": 0.1}))
