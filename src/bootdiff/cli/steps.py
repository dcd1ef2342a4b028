"""What one training step asks for: FLOPs and memory counted without computing anything, seconds from a short trial.

Counted on torch's "meta" device, whose tensors have shapes and no values: the loss of a whole batch and its gradient
run there in milliseconds whatever their size, and besides FLOPs they show every tensor that is kept for the gradient:

    memory = what the process holds + tensors kept for the gradient * 2 / parts + 4 bytes * parameters * COPIES,

COPIES = 5: weights, gradient, running average, two moments (Muon has one).  2 is for what comes and goes in between:
measured at 256 x 256 on a CPU, steps took 1.5 to 3 times the kept tensors.

A network of one's own may look at values, which "meta" has none of: it is counted on one real sample then. Those that
come with bootdiff never do, nor do composites and losses.

Seconds come from trials that nobody has to wait for: the gradient of a whole batch where it has fewer than `TRIAL`
FLOPs, else of as many samples as have, and where a single sample has more, a small UNet's; the optimizer's step, which
does not grow with the batch, is timed apart, so that in all cases

    seconds = (seconds of the trial) * (FLOPs of the gradient) / (FLOPs of the trial) + (seconds of the optimizer).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.data import Batches
from bootdiff.method.losses import LossModule
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.trainer import Task, Trainer
from bootdiff.nets.build import build_net
from bootdiff.training.muon import hidden_matrices
from bootdiff.training.optim import Optimizer
from bootdiff.training.recompute import recomputed, wrapped

__all__ = ["TRIAL", "StepCost", "step_cost"]

TRIAL = 3e10
"""FLOPs of a trial at most: a fraction of a second of one core. Of much fewer samples, the time of each is longer."""

_COPIES = 5
_BETWEEN = 2.0
# Seconds after which no more steps are timed: long ones vary little.
_ENOUGH = 0.3


@dataclass(frozen=True)
class StepCost:
    """One training step. memory: bytes at its peak, beyond what the process holds before; tried: FLOPs of the trial."""

    parameters: int
    flops: int
    memory: int
    seconds: float
    tried: int


def step_cost(trainer: Trainer, task: Task) -> StepCost:
    """Count a training step of a task's network and time a trial of it.

    The task's composite and teacher cost what their trained ones do; they may have new weights.
    """
    module = LossModule(trainer.build(task)).train()
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    rows = task.training.batch_size
    try:
        flops, kept = _counted(trainer, task, _without_values(module.expert), rows, torch.device("meta"))
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):  # as torch says where values are looked at
            raise
        flops, kept = (rows * n for n in _counted(trainer, task, copy.deepcopy(module.expert), 1, trainer.device))
    if (few := min(rows, int(rows * TRIAL / max(flops, 1)))) >= 1:
        seconds, tried = _gradient(trainer, task, module, few), flops * few // rows
    else:
        seconds, tried = _small_unet(trainer)
        for p in module.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    memory = int(_BETWEEN * kept) // task.training.accumulate + 4 * _COPIES * parameters
    optimizer = _optimizer(trainer, task, module)
    return StepCost(parameters, flops, memory, seconds * flops / max(tried, 1) + optimizer, tried)


def _batches(trainer: Trainer, task: Task, rows: int, device: torch.device) -> Batches:
    data = task.data
    return Batches(data.train, data.scale, rows, flip=data.flip, device=device, mask=data.mask)


def _counted(trainer: Trainer, task: Task, expert: ResidualExpert, rows: int, device: torch.device) -> tuple[int, int]:
    """FLOPs of the loss and its gradient (as the training loop counts: without the optimizer's own), and bytes kept for
    the gradient."""
    module, objective = LossModule(expert).train(), task.loss()
    if device.type == "meta":
        given = {f.name: getattr(objective, f.name) for f in fields(objective)}
        objective = replace(objective, **{k: _without_values(v) for k, v in given.items() if isinstance(v, nn.Module)})
    batch, rng = _batches(trainer, task, rows, device).at(0), torch.Generator().manual_seed(0)

    def step() -> int:
        with FlopCounterMode(display=False) as counter, trainer.accelerator.autocast():
            objective(module, batch, rng).mean().backward()
        return int(counter.get_total_flops())

    with _kept_for_the_gradient() as kept:
        if not task.training.gradient_checkpointing:
            return step(), sum(kept.values())
        with _by_block(module, kept) as (inside, inputs):
            step()
        total = sum(kept.values()) - sum(inside) + sum(inputs) + max(inside, default=0)
    with recomputed(module):
        return step(), total


@contextmanager
def _by_block(module: nn.Module, kept: dict[int, int]) -> Iterator[tuple[list[int], list[int]]]:
    """Bytes that each block keeps for the gradient, and those that it is given (`recompute` has the sum)."""
    inside: list[int] = []
    given: list[int] = []

    def around(forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given.append(sum(x.nbytes for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)))
        before = sum(kept.values())
        out = forward(*args, **kwargs)
        inside.append(sum(kept.values()) - before)
        return out

    with wrapped(module, around):
        yield inside, given


def _without_values(module: Any) -> Any:
    return copy.deepcopy(module).to("meta")


@contextmanager
def _kept_for_the_gradient() -> Iterator[dict[int, int]]:
    """Bytes by the storage that they lie in: a tensor that is kept twice lies in memory once."""
    kept: dict[int, int] = {}
    storages: list[Any] = []  # held, so that no number is used twice

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages.append(storage)
        kept[StorageWeakRef(storage).cdata] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield kept


def _gradient(trainer: Trainer, task: Task, module: LossModule, rows: int) -> float:
    """Seconds of the loss of so many samples and its gradient, which the parameters hold afterwards."""
    batches, objective = _batches(trainer, task, rows, trainer.device), task.loss()
    rng = torch.Generator(trainer.device).manual_seed(0)

    def step(t: int) -> None:
        with trainer.accelerator.autocast():
            loss = objective(module, batches.at(t), rng).mean()
        loss.backward()

    with recomputed(module, task.training.gradient_checkpointing):
        return _median(step, trainer.device)


def _optimizer(trainer: Trainer, task: Task, module: LossModule) -> float:
    """Seconds of what follows the gradient: clipping, the optimizer's step, the running average."""
    params: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, averages, task.training, matrices=hidden_matrices(module))
    gradients = [None if p.grad is None else p.grad.clone() for p in params]

    def step(t: int) -> None:
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = None if gradient is None else gradient.clone()
        optimizer.clip()
        optimizer.step(t)
        optimizer.average(t)

    return _median(step, trainer.device)


def _small_unet(trainer: Trainer) -> tuple[float, int]:
    """Seconds and FLOPs of the default UNet's gradient at 32 pixels: what this machine computes in a second."""
    shape, device = (3, 32, 32), trainer.device
    net = build_net("unet", 3, shape).to(device)
    x, c_noise = torch.randn(8, *shape).to(device), torch.zeros(8, device=device)

    def step(_: int) -> None:
        with trainer.accelerator.autocast():
            loss = net(x, c_noise).square().mean()
        loss.backward()

    with FlopCounterMode(display=False) as counter:
        step(0)
    return _median(step, device), counter.get_total_flops()


def _median(step: Callable[[int], None], device: torch.device) -> float:
    """Seconds of a step: after a first one, the median of three, or fewer long ones."""
    step(0)
    times: list[float] = []
    while len(times) < 3 and sum(times) < _ENOUGH:
        start = time.perf_counter()
        step(1 + len(times))
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
