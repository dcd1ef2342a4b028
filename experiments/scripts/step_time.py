"""What does the residual cost per training step, against full-only training of the same backbone?

    python experiments/scripts/step_time.py RECIPE [--steps 20] [--out experiments/results/step-time-NAME.json]

Steps of both are timed in turn in one process, so that the machine's speed drops out of the ratio; the peak memory of
each is that of a process of its own.  The views' networks are untrained: they cost what trained ones do.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bootdiff.cli.session import accelerate
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.noise import LogNormal
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe


def stepper(b: Bootstrap, composite: CompositeDenoiser, net: Any, on: str, batch: int) -> Callable[[int], None]:
    """One optimizer step of an expert on this composite, as the loop takes it."""
    net = net.resolve(b.materials.shape, b.materials.shape)
    expert = b._build("timing", b.full_training_set(), composite, on, net, [1.0] * len(b.levels))
    trainee = b.accelerator.prepare(LossModule(expert)).train()
    optimizer = torch.optim.AdamW(expert.parameters(), lr=1e-4, fused=True)
    objective = ResidualObjective(composite, LogNormal())
    x = torch.randn(batch, *b.materials.shape, device=b.device)

    def step(t: int) -> None:
        loss = objective(trainee, {"x": x}, torch.Generator(b.device).manual_seed(t)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expert.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def composites(b: Bootstrap) -> tuple[CompositeDenoiser, CompositeDenoiser]:
    """Without views, and with all of the recipe's, untrained."""
    bench = b.full_training_set()
    denoisers = {}
    for name in b.recipe.views:
        own = b.view_training_set(name)
        none = b.no_views(own.base)
        experts: list[ResidualExpert | SnapshotsByNoiseLevel] = [
            b._build(kind, own, none, "base", net.resolve(own.base.shape, b.materials.shape), [1.0] * len(b.levels))
            for kind, net in b.recipe.backbones.items()
        ]
        denoisers[name] = StackedDenoiser(none, experts, b.levels)
    views = {name: v.view for name, v in b.materials.views.items()}
    return b.no_views(bench.base), CompositeDenoiser(bench.base, views, denoisers, b.levels).to(b.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("WHAT", "NET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    b = Bootstrap(recipe, build_problem(recipe), None, accelerate(recipe))  # type: ignore[arg-type]
    none, views = composites(b)
    batch = recipe.training_for("residual").batch
    if args.memory_of:
        what, name = args.memory_of
        composite, on = (none, "base") if what == "full" else (views, "views")
        step = stepper(b, composite, recipe.backbones[name], on, batch)
        for t in range(3):
            step(t)
        cuda = b.device.type == "cuda"
        print(torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    result: dict[str, Any] = {"benchmark": "step_time", "recipe": args.recipe.stem, "batch": batch, "nets": {}}
    for name, net in recipe.backbones.items():
        full, residual = stepper(b, none, net, "base", batch), stepper(b, views, net, "views", batch)
        times: list[tuple[float, float]] = []
        for t in range(args.steps + 3):
            start = time.perf_counter()
            full(t)
            middle = time.perf_counter()
            residual(t)
            times.append((middle - start, time.perf_counter() - middle))
        times = times[3:]
        memory = {
            what: int(subprocess.check_output([sys.executable, __file__, str(args.recipe), "--memory-of", what, name]))
            for what in ("full", "residual")
        }
        row = {
            "full_seconds": statistics.median(f for f, _ in times),
            "residual_seconds": statistics.median(r for _, r in times),
            "ratio_median": statistics.median(r / f for f, r in times),
            "ratio_quartiles": statistics.quantiles([r / f for f, r in times], n=4)[::2],
            "peak_memory": memory,
            "memory_ratio": memory["residual"] / memory["full"],
        }
        result["nets"][name] = row
        mib = [memory[what] / 2**20 for what in ("full", "residual")]
        print(f"{name}: {1e3 * row['full_seconds']:.0f} ms full-only, {1e3 * row['residual_seconds']:.0f} ms residual")
        print(f"  ratio {row['ratio_median']:.2f}, peak memory {mib[0]:.0f} and {mib[1]:.0f} MiB")
    result |= {"threads": torch.get_num_threads(), "device": str(b.device), "command": " ".join(["python", *sys.argv])}
    result["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
