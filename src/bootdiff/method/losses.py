"""The training loss of an expert, as the training loop calls it: noisy samples drawn, labels left out at random.

The loss itself is `residual.ResidualExpert.loss_at`; here x = y + s n is drawn for the global batch, whichever process
works on it, with s from the distribution of the noise levels and sigma^2 = tau^2 + s^2.
Source of leaving labels out: Ho, Salimans 2022, arXiv 2207.12598.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import expand
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.validation import beside
from bootdiff.noise import LogNormal, noted
from bootdiff.training.loop import global_draw, global_randn

__all__ = ["UNLABELLED", "LossModule", "ResidualObjective"]


UNLABELLED = 0.1
"""Share of labels left out in training, so that a network also learns what to do where no class is given."""


@dataclass
class ResidualObjective:
    """Per-sample training loss of an expert.

    Args:
        composite: V, frozen.
        noise: distribution of the noise levels.
        penalties: weights of the regularizers, arguments of `ResidualExpert.loss_at`, {"energy": mu}; absent: 0.
        tau: noise of the stored samples.
    """

    composite: CompositeDenoiser
    noise: LogNormal
    penalties: Mapping[str, float] = field(default_factory=dict)
    tau: float = 0.0

    def describe(self) -> dict[str, Any]:
        """All that a training depends on by its loss, but for the composite's networks: JSON-able."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("composite", "teacher")}
        values["penalties"] = dict(self.penalties)
        noise = {"mean": self.noise.mean, "std": self.noise.std}
        return {"class": type(self).__name__, **values, "noise": noise, "unlabelled": UNLABELLED}

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Losses (b,) of this process's rows; the noise is drawn for the global batch."""
        x0, label, mask = batch["x"], batch.get("label"), batch.get("mask")
        # Levels are drawn on the CPU, where it is decided what is evaluated: nothing waits for the device.
        host = generator if generator.device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())
        added = global_draw(lambda n: self.noise.sample(n, host), len(x0)).to(x0.dtype)
        n = global_randn(x0.shape, generator).to(x0)
        levels = (added**2 + self.tau**2).sqrt()
        sigma = noted(levels.to(x0), levels)
        x = x0 + expand(added.to(x0), x0) * (n if mask is None else n * mask)
        if label is not None:
            dropped = global_draw(lambda n: torch.rand(n, generator=generator, device=generator.device), len(x0))
            label = torch.where(dropped.to(x0) < UNLABELLED, -1, label)
        return model(self, x0, x, sigma, label, beside(mask, batch.get("position_channels")), counts=mask)

    def loss(
        self,
        expert: ResidualExpert,
        x0: Tensor,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        **how: Any,
    ) -> Tensor:
        """Losses (b,) of the expert at noisy samples: the part that runs inside the model's forward pass.

        `how`: at, tau and counts, as for `ResidualExpert.loss_at`; None: the objective's own, or the default.
        """
        given = {name: value for name, value in how.items() if value is not None}
        return expert.loss_at(x0, x, sigma, label, context, **{"tau": self.tau, **self.penalties, **given})


class LossModule(torch.nn.Module):
    """An expert as the training loop takes it: one forward pass gives the losses (what DDP and autocast wrap).

    Only its network is trained, averaged, saved and copied; the composite that it stands on is shared.
    """

    def __init__(self, expert: ResidualExpert) -> None:
        super().__init__()
        self.net = expert.net
        self._expert = (expert,)  # in a tuple, it is no sub-module

    @property
    def expert(self) -> ResidualExpert:
        return self._expert[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> LossModule:
        copied = LossModule(self.expert.with_net(copy.deepcopy(self.net, memo)))
        return copied.train(self.training)

    def forward(self, objective: ResidualObjective, *at: Any, **how: Any) -> Tensor:
        return objective.loss(self.expert, *at, **how)
