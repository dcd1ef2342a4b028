"""What does a training step with Muon cost, against one with AdamW alone, on one core?

    python -m experiments.scripts.optimizer_step [--steps 40] [--out experiments/results/optimizer-step.json]

A step is a loss, its gradient, clipping, the optimizer's step and the average of the weights.  Both take steps in turn
in one process, so that the machine's speed drops out of the ratio, and seconds are those of the processor; given are
medians over the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from bootdiff.nets import build_net
from bootdiff.training.muon import hidden_matrices
from bootdiff.training.optim import Optimizer
from bootdiff.training.settings import TrainingSettings
from experiments.scripts.results import write_result

__all__ = ["CASES", "main", "price", "stepper"]

SHAPE = (1, 16, 16)
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "unet 16 32, batch 16": ("unet", {"channels": [16, 32], "patch": 2}, 16),
    "unet 32 48, batch 16": ("unet", {"channels": [32, 48], "patch": 2}, 16),
    "unet 32 48, batch 64": ("unet", {"channels": [32, 48], "patch": 2}, 64),
    "local 32, batch 16": ("local", {"width": 32, "depth": 4}, 16),
    "local 32, batch 64": ("local", {"width": 32, "depth": 4}, 64),
    "local 48, batch 16": ("local", {"width": 48, "depth": 4}, 16),
}
"""Backbone, its options and size of a batch, by the name in the results."""

_WARM_UP = 3  # steps before those that are timed


def stepper(
    kind: str, options: dict[str, Any], batch: int, optimizer: Literal["muon", "adamw"]
) -> Callable[[int], tuple[float, float]]:
    """A network's steps on random samples of `SHAPE`: step t -> seconds of all of it, and of the optimizer alone."""
    torch.manual_seed(0)
    net = build_net(kind, SHAPE[0], SHAPE, **options)
    params: list[torch.Tensor] = list(net.parameters())
    averages = [p.detach().clone() for p in params]
    moves = Optimizer(params, averages, TrainingSettings(optimizer=optimizer), matrices=hidden_matrices(net))
    x, c_noise = torch.randn(batch, *SHAPE), torch.randn(batch)

    def step(t: int) -> tuple[float, float]:
        start = time.process_time()
        moves.backward((net(x, c_noise) - x).square().mean())
        moves.clip()
        before = time.process_time()
        moves.step(t)
        after = time.process_time()
        moves.average(t)
        return time.process_time() - start, after - before

    return step


def price(kind: str, options: dict[str, Any], batch: int, steps: int) -> dict[str, float]:
    """Seconds per step with each optimizer, of the optimizer alone, and the median ratio of steps in turn.

    Returns:
        {"adamw", "muon", "adamw_alone", "muon_alone", "ratio"}.
    """
    adamw, muon = (stepper(kind, options, batch, name) for name in ("adamw", "muon"))
    taken = [(*adamw(t), *muon(t)) for t in range(steps + _WARM_UP)][_WARM_UP:]
    columns = dict(zip(("adamw", "adamw_alone", "muon", "muon_alone"), zip(*taken, strict=True), strict=True))
    found = {name: statistics.median(column) for name, column in columns.items()}
    return found | {"ratio": statistics.median(m / a for a, m in zip(columns["adamw"], columns["muon"], strict=True))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all cases, print the ratios and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = {}
    for name, case in CASES.items():
        rows[name] = row = price(*case, args.steps)
        ms = {key: 1e3 * row[key] for key in ("adamw", "muon", "adamw_alone", "muon_alone")}
        print(
            f"{name}: ratio {row['ratio']:.3f}, {ms['adamw']:.1f} ms with AdamW ({ms['adamw_alone']:.2f} its step), "
            f"{ms['muon']:.1f} ms with Muon ({ms['muon_alone']:.2f})"
        )
    write_result(args.out, "optimizer_step", given, {"rows": rows})


if __name__ == "__main__":
    main()
