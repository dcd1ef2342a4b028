"""What does the residual cost per training step, against full-only training of the same backbone?

    python -m experiments.scripts.step_time RECIPE [--steps 20] [--out experiments/results/step-time-NAME.json]

Steps of both are timed in turn in one process, so that the machine's speed drops out of the ratio; the peak memory of
each is that of a separate process.  The views' networks are untrained: they cost what trained ones do.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bootdiff.cli.session import accelerate
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.nets.network import Network
from bootdiff.noise import LogNormal
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import load_recipe
from experiments.benchmark.budget import untrained
from experiments.scripts.results import ROOT, write_result

__all__ = ["composites", "main", "stepper"]

_WARM_UP = 3  # steps before those that are timed


def stepper(b: Bootstrap, composite: CompositeDenoiser, network: Network, batch: int) -> Callable[[int], None]:
    """One optimizer step, as the loop takes it, of an expert on this composite: called with the step's number.

    Args:
        batch: samples of a step; they are drawn at random.
    """
    task = Task("timing", b.full_training_set(), composite, network, b.settings.training["residual"], anchor="views")
    module = b.accelerator.prepare(LossModule(b.build(task))).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    objective = ResidualObjective(composite, LogNormal())
    x = torch.randn(batch, *b.problem.shape, device=b.device)

    def step(t: int) -> None:
        loss = objective(module, {"x": x}, torch.Generator(b.device).manual_seed(t)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def composites(b: Bootstrap) -> tuple[CompositeDenoiser, CompositeDenoiser]:
    """Without views, and with all of the recipe's, untrained."""
    return b.no_views(b.full_training_set().prior), untrained(b)


def peak_memory(recipe: Path, what: str, net: str) -> int:
    """Bytes at the peak of a process that takes a few steps; `what`: "full" or "residual"."""
    call = [sys.executable, "-m", "experiments.scripts.step_time", str(recipe.resolve()), "--memory-of", what, net]
    return int(subprocess.check_output(call, cwd=ROOT))


def timed(full: Callable[[int], None], residual: Callable[[int], None], steps: int) -> dict[str, Any]:
    """Seconds of a step of each, and their ratio, from `steps` (at least two) steps of both in turn."""
    times: list[tuple[float, float]] = []
    for t in range(steps + _WARM_UP):
        start = time.perf_counter()
        full(t)
        middle = time.perf_counter()
        residual(t)
        times.append((middle - start, time.perf_counter() - middle))
    ratios = [r / f for f, r in times[_WARM_UP:]]
    return {
        "full_seconds": statistics.median(f for f, _ in times[_WARM_UP:]),
        "residual_seconds": statistics.median(r for _, r in times[_WARM_UP:]),
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Time and weigh every backbone of the recipe, print what was found and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("WHAT", "NET"), help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    recipe = load_recipe(args.recipe)
    # Nothing is trained, so there is no run.
    problem = build_problem(recipe)
    settings = method_settings(recipe, problem.shape)
    b = Bootstrap(settings, problem, None, accelerate(recipe))  # type: ignore[arg-type]
    none, views = composites(b)
    batch = recipe.training_for("residual").settings().for_samples(0, problem.shape).batch_size
    if args.memory_of:
        what, name = args.memory_of
        step = stepper(b, none if what == "full" else views, settings.networks[name], batch)
        for t in range(_WARM_UP):
            step(t)
        cuda = b.device.type == "cuda"
        print(torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    rows: dict[str, dict[str, Any]] = {}
    for name, network in settings.networks.items():
        full, residual = stepper(b, none, network, batch), stepper(b, views, network, batch)
        row = timed(full, residual, args.steps)
        memory = {what: peak_memory(args.recipe, what, name) for what in ("full", "residual")}
        row |= {"peak_memory": memory, "memory_ratio": memory["residual"] / memory["full"]}
        rows[name] = row
        mib = [memory[what] / 2**20 for what in ("full", "residual")]
        print(f"{name}: {1e3 * row['full_seconds']:.0f} ms full-only, {1e3 * row['residual_seconds']:.0f} ms residual")
        print(f"  ratio {row['ratio_median']:.2f}, peak memory {mib[0]:.0f} and {mib[1]:.0f} MiB")
    result = {"recipe": args.recipe.stem, "batch": batch, "nets": rows}
    result |= {"threads": torch.get_num_threads(), "device": str(b.device)}
    write_result(args.out, "step_time", given, result)


if __name__ == "__main__":
    main()
