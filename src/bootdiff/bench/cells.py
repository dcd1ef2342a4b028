"""One cell of a benchmark: an arm trained within the budget, measured on the test images, and what is written of it.

    benchmarks/results/NAME/VIEWS/ARM-nN-seedS.json

holds "benchmark", "arm", "views", "n_full" (per cent), "count_full", "seed", "settings", "trials", "holdout_loss"
("mean", "stderr" over test images, "per_level", and "per_image": the mean over the levels of each image, for paired
errors), "budget_flops", "ledger" (its stages, summed), "parameters", "evaluations" (networks and FLOPs per sampling
step), "seconds", "command", "versions".  The noise of the test images and the base that normalizes the loss are the
same for all arms, seeds and numbers of full samples.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootdiff.bench.baselines import METHODS, TRIALS
from bootdiff.bench.benchmarks import NO_VIEWS, Benchmark
from bootdiff.bench.budget import PARTS, asked, parts, steps_within
from bootdiff.bench.evaluate import PACKAGES, _version, sample_losses, tabulate
from bootdiff.bench.ledger import SUMMED
from bootdiff.boot.materials import in_memory
from bootdiff.boot.stages import Bootstrap
from bootdiff.data import measure
from bootdiff.denoise import Denoiser, White
from bootdiff.files import atomic_write_json, read_json
from bootdiff.recipe import Recipe

__all__ = ["ARMS", "Cell", "bootdiff_steps", "measured", "settings_of", "train"]

OWN: dict[str, tuple[dict[str, Any], ...]] = {
    "bootdiff": ({}, {"split": [2, 1, 1]}, {"split": [1, 1, 2]}),
    "unregularized": ({}, {"split": [2, 1, 1]}, {"split": [1, 1, 2]}),
}
"""bootdiff's own arms, and the settings they may try: shares of the steps for views, full samples and residual."""

ARMS = (*(name for name in METHODS if name != "oracle"), *OWN, "oracle")
"""Every arm, in the order they are run."""

_NOISE = 7


@dataclass(frozen=True)
class Cell:
    """One arm on one kind of data."""

    benchmark: Benchmark
    arm: str
    views: str
    n_full: float
    seed: int

    @property
    def sees_views(self) -> bool:
        return self.arm in OWN or METHODS[self.arm].views

    @property
    def filed(self) -> str:
        """The kind of views its result is filed under."""
        return self.views if self.sees_views else NO_VIEWS

    @property
    def label(self) -> str:
        return f"{self.benchmark.name}/{self.filed}/{self.arm}-n{self.n_full:g}-seed{self.seed}"

    def path(self, out: Path) -> Path:
        """Where its result is written."""
        return out / self.benchmark.name / self.filed / f"{self.arm}-n{self.n_full:g}-seed{self.seed}.json"

    @property
    def run(self) -> str:
        """Name of the folder it is trained in: arms made of the same stages share one."""
        arm = "bootdiff" if self.arm in OWN else self.arm
        return f"{self.benchmark.name}/{self.filed}/n{self.n_full:g}-seed{self.seed}/{arm}"

    def recipe(self, settings: Mapping[str, Any], steps: Mapping[str, int] | None = None) -> Recipe:
        """The cell's recipe; bootdiff's own arms have narrow networks, the others wide ones unless told otherwise."""
        nets = "narrow" if self.arm in OWN else settings.get("nets", "wide")
        return self.benchmark.recipe(self.filed, self.n_full, self.seed, nets, steps, settings.get("dropout", 0.0))


def settings_of(arm: str, views: str, tuned: Path) -> dict[str, Any]:
    """The settings an arm runs with: those that tuning found best for this kind of views, or else its default.

    `tuned` is the file of `bootdiff bench NAME --tune`, {arm: {views: settings}}.
    """
    trials = OWN[arm] if arm in OWN else METHODS[arm].trials
    found = read_json(tuned) if tuned.is_file() else {}
    return dict(found.get(arm, {}).get(views, trials[0]))


def bootdiff_steps(b: Bootstrap, flops: float, settings: Mapping[str, Any]) -> dict[str, int]:
    """Steps of each of bootdiff's parts within the budget."""
    found = parts(b)
    split = settings.get("split", [1, 1, 1])
    steps = steps_within(flops, [sum(found[part]) for part in PARTS], split)
    return dict(zip(PARTS, steps, strict=True))


def train(b: Bootstrap, cell: Cell, settings: Mapping[str, Any]) -> Denoiser:
    """The arm's finished denoiser; goes on where it was."""
    if cell.arm in OWN:
        return b.denoiser(cell.arm)
    own = {k: v for k, v in settings.items() if k not in ("nets", "dropout")}
    return METHODS[cell.arm].train(b, cell.benchmark.flops, **own)


def measured(b: Bootstrap, cell: Cell, denoiser: Denoiser, settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Measure a finished arm and write its result; returns it."""
    start = time.perf_counter()
    test = b.materials.test
    assert test is not None
    found = measure(test)
    base = White(b.materials.shape, found["mean"], found["sigma_data"]).to(b.device)
    samples = in_memory(test).to(b.device)
    losses = sample_losses({cell.arm: denoiser}, samples, b.levels, base, cell.benchmark.draws, _NOISE)
    row = tabulate(losses, b.levels)[cell.arm]
    per_image = losses[cell.arm].mean(0)
    held_out = sample_losses({cell.arm: denoiser}, b.full_bench().samples, b.levels, base, 4, _NOISE + 1)[cell.arm]
    ask = asked(denoiser, b.levels, b.device)
    ledger: dict[str, Any] = {"stages": dict(b.ledger)}
    ledger |= {key: sum(stage.get(key, 0) for stage in b.ledger.values()) for key in SUMMED}
    ledger["peak_memory"] = max(stage.get("peak_memory", 0) for stage in b.ledger.values())
    result: dict[str, Any] = {
        "benchmark": cell.benchmark.name,
        "arm": cell.arm,
        "views": cell.filed,
        "n_full": cell.n_full,
        "count_full": cell.benchmark.count(cell.n_full),
        "pool": cell.benchmark.pool,
        "seed": cell.seed,
        "settings": dict(settings),
        "trials": TRIALS,
        "count": len(test),
        "holdout_loss": {
            "mean": row["mean"],
            "stderr": row["stderr"],
            "per_level": row["per_level"],
            "per_image": [round(float(v), 6) for v in per_image],
        },
        "selection_loss": float(held_out.mean()),
        "budget_flops": cell.benchmark.flops,
        "ledger": ledger,
        "parameters": ask["parameters"],
        "stored_parameters": ask["stored"],
        "evaluations": {"networks": ask["networks"], "flops": ask["flops"]},
        "seconds": {"training": ledger["seconds"], "held_out": ledger["evaluation_seconds"]},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }
    result["seconds"]["measuring"] = time.perf_counter() - start
    path = cell.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, result)
    return result
