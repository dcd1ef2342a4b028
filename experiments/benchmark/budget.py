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
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.plan import Stage
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.stages import Bootstrap

__all__ = ["PARTS", "asked", "parts", "steps_within", "untrained"]

PARTS = ("views", "full", "visible", "residual")
"""What bootdiff's budget is divided among: networks of the views, of the full samples, of all visible pixels (where a
view shows any), of the residual."""


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


def parts(b: Bootstrap) -> dict[str, list[int]]:
    """FLOPs per step of each of bootdiff's networks, by the part of `PARTS` they belong to."""
    composite = untrained(b)
    flops: dict[str, list[int]] = {part: [] for part in PARTS}
    for stage in b.plan(["bootdiff"]).trainings:
        part = "views" if stage.part == "view" else stage.part
        flops[part].append(b.step_flops(b.task(stage, composite)))
    return flops


def untrained(b: Bootstrap) -> CompositeDenoiser:
    """The composite of all views with new networks, which costs what the trained one does (all gains at 1)."""
    views = {}
    for name, v in b.problem.views.items():
        tasks = [b.task(Stage("view", network, name)) for network in b.settings.views[name].networks]
        views[name] = v.view, StackedDenoiser(tasks[0].composite, [b.build(task) for task in tasks], b.levels)
    return CompositeDenoiser(views, b.full_training_set().prior, b.levels).to(b.device)


@torch.no_grad()
def asked(denoiser: Denoiser, levels: Sequence[float], device: Any) -> Mapping[str, float]:
    """What one sampling step asks of a finished denoiser, per sample.

    Returns:
        "networks" evaluated and "flops", means over the noise levels; "parameters" of all networks inside, snapshots of
        one network counted once; "stored", snapshots counted each.
    """
    calls, flops = 0, 0
    nets = [m.net for m in denoiser.modules() if isinstance(m, ResidualExpert)]

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
    parameters = stored - sum(p.numel() for copy in copies for p in copy.net.parameters())  # type: ignore[union-attr, misc]
    return {"networks": calls / len(levels), "flops": flops / len(levels), "parameters": parameters, "stored": stored}
