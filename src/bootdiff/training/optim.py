"""How weights move: AdamW, the learning rate's schedule, clipping, the loss scale of fp16, the running average.

Minimize over theta  E_batch mean_b objective(theta, batch)_b  by AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) with
    lr_t = lr min(1, (t - t0 + 1) / warmup) (1 + cos(pi t / steps)) / 2        (the last factor: schedule cosine only),
    t = 0, 1, ... steps - 1, t0 the step at which AdamW began: 0, unless a complete training goes on (`checkpoint`),
and keep the exponential moving average of the weights
    ema <- ema + (1 - beta_t) (theta - ema),    beta_t = min(ema, (1 + t) / (10 + t)),
whose ramp lets the average forget the first weights quickly.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.training.settings import TrainingSettings

__all__ = ["Optimizer", "learning_rate"]


def learning_rate(t: int, settings: TrainingSettings, start: int = 0) -> float:
    """lr_t of this file; ``start`` is t0."""
    warmup, steps = settings.warmup, settings.steps
    ramp = min(1.0, (t - start + 1) / warmup) if warmup else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * t / steps)) if settings.schedule == "cosine" else 1.0
    return settings.lr * ramp * decay


class Optimizer:
    """AdamW on ``params``, with ``averages`` of the same shapes beside them.

    Args:
        params: what is trained, in the model's order.
        averages: their running averages.
        settings: learning rate, decay, clipping.
        scaler: accelerate's loss scale, None without fp16.
    """

    def __init__(
        self, params: list[Tensor], averages: list[Tensor], settings: TrainingSettings, scaler: Any = None
    ) -> None:
        self.params, self.averages, self.settings, self.scaler = params, averages, settings, scaler
        self.lr = settings.lr
        self._adamw = torch.optim.AdamW(params, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, scaled for fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip(self) -> Tensor | None:
        """Bound the gradient's norm; returns what it was, None where there is no bound."""
        if self.settings.clip is None:
            return None
        if self.scaler is not None:
            self.scaler.unscale_(self._adamw)
        return nn.utils.clip_grad_norm_(self.params, self.settings.clip, foreach=True)

    def step(self, t: int, start: int = 0) -> None:
        """Move the weights by AdamW's step t; ``start`` is t0 of this file."""
        self.lr = self._adamw.param_groups[0]["lr"] = learning_rate(t, self.settings, start)
        if self.scaler is None:
            self._adamw.step()
        else:
            self.scaler.step(self._adamw)
            self.scaler.update()
        for p in self.params:
            p.grad = None  # what zero_grad does, at a tenth of its cost

    def average(self, t: int) -> None:
        """Move the running averages toward the weights."""
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.params, 1 - min(self.settings.ema, (1 + t) / (10 + t)))

    # what a checkpoint holds of it

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and counts by "parameter's number.name"; empty before the first step."""
        return {f"{i}.{name}": value for i, p in enumerate(self.params) for name, value in self._adamw.state[p].items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave; nothing where it is empty."""
        if not state:
            return
        for i, p in enumerate(self.params):
            self._adamw.state[p] = {
                "step": state[f"{i}.step"],
                # empty_like keeps the parameter's memory format, which the file does not know.
                "exp_avg": torch.empty_like(p).detach().copy_(state[f"{i}.exp_avg"]),
                "exp_avg_sq": torch.empty_like(p).detach().copy_(state[f"{i}.exp_avg_sq"]),
            }
