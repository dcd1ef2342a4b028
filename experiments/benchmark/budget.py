"""The same budget for every arm: training FLOPs, and what one sampling step asks of the networks.

With f_k FLOPs per training step of network k (forward and backward, the frozen views' part included), an arm that
trains its networks for the same number of steps T spends  T sum_k f_k,  so a budget B gives it

    T = floor(B / sum_k f_k)  steps;  with shares w_k of the steps:  T_k = floor(B w_k / sum_j w_j f_j).

FLOPs are counted by running one step of an untrained network of the same form (torch's FLOP counter: matrix products
and convolutions), as the training loop counts them into the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser, SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.stages import Bootstrap
from bootdiff.method.training_set import TrainingSet
from bootdiff.nets import NETS
from bootdiff.noise import LogNormal
from bootdiff.recipe.blocks import Training

__all__ = ["PARTS", "asked", "parts", "step_flops", "steps_within", "untrained"]

PARTS = ("views", "full", "residual")
"""What bootdiff's budget is divided among: networks of the views, of the full samples, of the residual."""


def steps_within(flops: float, per_step: Sequence[float], weights: Sequence[float] | None = None) -> list[int]:
    """Steps of each network, T_k above.

    Raises:
        BootdiffError: the budget is not worth one step of each.

    >>> steps_within(100, [3, 7]), steps_within(100, [10, 10], [3, 1])
    ([10, 10], [7, 2])
    """
    weights = [1.0] * len(per_step) if weights is None else list(weights)
    total = sum(w * f for w, f in zip(weights, per_step, strict=True))
    steps = [int(flops * w / total + 1e-9) for w in weights]
    if min(steps) < 1:
        raise BootdiffError(
            f"a budget of {flops:.3g} FLOPs is less than one step of each network ({sum(per_step):.3g}); raise it"
        )
    return steps


def step_flops(
    b: Bootstrap,
    bench: TrainingSet,
    composite: CompositeDenoiser,
    on: str,
    net: Any,
    training: Training,
    objective: ResidualObjective | None = None,
    batches: Any = None,
    mask_channels: int = 0,
) -> int:
    """FLOPs of one training step of a network, over all processes."""
    net = net.resolve(bench.base.shape, b.materials.shape)
    expert = b._build("count", bench, composite, on, net, [1.0] * len(b.levels), mask_channels=mask_channels)
    trainee = LossModule(expert).train()
    if objective is None:
        noise = LogNormal(training.noise.mean, training.noise.std)
        objective = ResidualObjective(composite, noise, tau=bench.tau)
    batch = next((batches or b.batches("count", bench, training)).stream(0))
    # FLOPs are linear in the batch: two rows tell, and cost little.
    few = {key: value[:2].to(b.device) for key, value in batch.items()}
    with FlopCounterMode(display=False) as counter, b.accelerator.autocast():
        objective(trainee, few, torch.Generator(b.device).manual_seed(0)).mean().backward()
    rows = len(batch["x"]) * b.accelerator.num_processes
    return round(counter.get_total_flops() * rows / len(few["x"]))


def untrained(b: Bootstrap) -> CompositeDenoiser:
    """The composite of all views with new networks, which costs what the trained one does (all gains at 1)."""
    denoisers = {}
    for name in b.recipe.views:
        bench = b.view_training_set(name)
        none = b.no_views(bench.base)
        experts = [
            b._build(name, bench, none, "base", net.resolve(bench.base.shape, b.materials.shape), [1.0] * len(b.levels))
            for net in b.recipe.backbones_for(name).values()
        ]
        members = [SnapshotsByNoiseLevel([expert], b.levels, [0] * len(b.levels)) for expert in experts]
        denoisers[name] = StackedDenoiser(none, members, b.levels)
    views = {name: v.view for name, v in b.materials.views.items()}
    return CompositeDenoiser(b.full_training_set().base, views, denoisers, b.levels).to(b.device)


def parts(b: Bootstrap) -> dict[str, list[int]]:
    """FLOPs per step of each of bootdiff's networks, by the part of `PARTS` they belong to."""
    full, composite = b.full_training_set(), untrained(b)
    flops: dict[str, list[int]] = {part: [] for part in PARTS}
    for name in b.recipe.views:
        bench, training = b.view_training_set(name), b.recipe.training_for("views", name)
        none = b.no_views(bench.base)
        flops["views"] += [
            step_flops(b, bench, none, "base", net, training) for net in b.recipe.backbones_for(name).values()
        ]
    for net in b.recipe.backbones.values():
        training = b.recipe.training_for("full")
        flops["full"].append(step_flops(b, full, b.no_views(full.base), "base", net, training))
        training = b.recipe.training_for("residual")
        flops["residual"].append(
            step_flops(b, full, composite, "views", net, training, mask_channels=b.mask_channels())
        )
    return flops


@torch.no_grad()
def asked(denoiser: Denoiser, levels: Sequence[float], device: Any) -> Mapping[str, float]:
    """What one sampling step asks of a finished denoiser, per sample.

    Returns:
        "networks" evaluated and "flops", means over the noise levels; "parameters" of all networks inside, snapshots of
        one network counted once; "stored", snapshots counted each.
    """
    calls, flops = 0, 0
    nets = [m for m in denoiser.modules() if isinstance(m, tuple(NETS.values()))]

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hooks = [net.register_forward_hook(count) for net in nets]
    try:
        for level in levels:
            x = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(0)).to(device)
            with FlopCounterMode(display=False) as counter:
                denoiser(x, torch.full((1,), float(level), device=device))
            flops += counter.get_total_flops()
    finally:
        for hook in hooks:
            hook.remove()
    stored = sum(p.numel() for net in nets for p in net.parameters())
    copies = [m for s in denoiser.modules() if isinstance(s, SnapshotsByNoiseLevel) for m in list(s.members)[1:]]
    parameters = stored - sum(p.numel() for copy in copies for p in copy.parameters())
    return {"networks": calls / len(levels), "flops": flops / len(levels), "parameters": parameters, "stored": stored}
