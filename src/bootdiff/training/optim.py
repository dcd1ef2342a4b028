"""How weights move: AdamW, Muon, the learning rates' schedule, clipping, the loss scale of fp16, the running average.

Minimize over theta  E_batch mean_b objective(theta, batch)_b  by AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) with
    lr_t = lr min(1, (t - t0 + 1) / warmup) d_t,
    d_t = 1 (schedule constant), 1 - t / steps (linear) or (1 + cos(pi t / steps)) / 2 (cosine),
    t = 0, 1, ... steps - 1, t0 the step at which it began: 0, unless a complete training goes on (`checkpoint`);
with the optimizer muon, hidden matrices by Muon (`muon`) with muon_lr in place of lr, and only the others by AdamW;
and keep the exponential moving average of the weights
    ema <- ema + (1 - beta_t) (theta - ema),    beta_t = min(ema, (1 + t) / (10 + t)),
whose ramp lets the average forget the first weights quickly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.training.muon import Matrix, Muon
from bootdiff.training.settings import TrainingSettings

__all__ = ["Optimizer", "learning_rate"]


def learning_rate(t: int, settings: TrainingSettings, start: int = 0, peak: float | None = None) -> float:
    """lr_t of this file; ``start`` is t0, ``peak`` what it rises to, None: that of AdamW."""
    warmup, steps = settings.warmup, settings.steps
    ramp = min(1.0, (t - start + 1) / warmup) if warmup else 1.0
    decay = 1.0
    if settings.schedule != "constant":
        decay = 1 - t / steps if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * t / steps))
    return (settings.lr if peak is None else peak) * ramp * decay


class Optimizer:
    """AdamW, and Muon where it is asked for, on ``params``, with ``averages`` of the same shapes beside them.

    Args:
        params: what is trained, in the model's order.
        averages: their running averages.
        settings: learning rates, decay, clipping.
        scaler: accelerate's loss scale, None without fp16.
        matrices: those of ``params`` that Muon moves, where it is asked for.
    """

    def __init__(
        self,
        params: list[Tensor],
        averages: list[Tensor],
        settings: TrainingSettings,
        scaler: Any = None,
        matrices: Sequence[Matrix] = (),
    ) -> None:
        self.params, self.averages, self.settings, self.scaler = params, averages, settings, scaler
        self.lr, self.muon_lr = settings.lr, settings.muon_lr
        matrices = () if settings.optimizer == "adamw" else matrices
        self._muon = Muon(matrices, settings.momentum, settings.weight_decay)
        hidden = {id(weight) for weight in self._muon.weights}
        self._others = [p for p in params if id(p) not in hidden]
        # AdamW refuses an empty list, but not an empty group.
        group = {"params": self._others}
        self._adamw = torch.optim.AdamW([group], lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self._both = _Both(self) if hidden else self._adamw

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, scaled for fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip(self) -> Tensor | None:
        """Bound the gradient's norm; returns what it was, None where there is no bound."""
        if self.settings.clip is None:
            return None
        if self.scaler is not None:
            self.scaler.unscale_(self._both)
        return nn.utils.clip_grad_norm_(self.params, self.settings.clip, foreach=True)

    def step(self, t: int, start: int = 0) -> None:
        """Move the weights by step t; ``start`` is t0 of this file."""
        self.lr = self._adamw.param_groups[0]["lr"] = learning_rate(t, self.settings, start)
        self.muon_lr = learning_rate(t, self.settings, start, self.settings.muon_lr)
        if self.scaler is None:
            self._both.step()
        else:
            self.scaler.step(self._both)
            self.scaler.update()
        for p in self.params:
            p.grad = None  # what zero_grad does, at a tenth of its cost

    def average(self, t: int) -> None:
        """Move the running averages toward the weights."""
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.params, 1 - min(self.settings.ema, (1 + t) / (10 + t)))

    # what a checkpoint holds of it

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and counts, Muon's momenta by "parameter's number.name"; no AdamW's before the first step."""
        momenta = {id(w): {"momentum": m} for w, m in zip(self._muon.weights, self._muon.momenta, strict=True)}
        states = [momenta[id(p)] if id(p) in momenta else self._adamw.state[p] for p in self.params]
        return {f"{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave; nothing of what is not there."""
        momenta = {id(w): m for w, m in zip(self._muon.weights, self._muon.momenta, strict=True)}
        for i, p in enumerate(self.params):
            if f"{i}.momentum" in state:
                momenta[id(p)].copy_(state[f"{i}.momentum"])
            elif f"{i}.step" in state:
                self._adamw.state[p] = {
                    "step": state[f"{i}.step"],
                    # empty_like keeps the parameter's memory format, which the file does not know.
                    "exp_avg": torch.empty_like(p).detach().copy_(state[f"{i}.exp_avg"]),
                    "exp_avg_sq": torch.empty_like(p).detach().copy_(state[f"{i}.exp_avg_sq"]),
                }


class _Both:
    """AdamW and Muon as a loss scale takes them: one optimizer, which steps as a whole or not at all."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups = [{"params": optimizer.params}]
        self._optimizer = optimizer

    def step(self) -> None:
        self._optimizer._adamw.step()
        self._optimizer._muon.step(self._optimizer.muon_lr)
