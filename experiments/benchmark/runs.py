"""One run of a benchmark: an arm trained within the budget, measured on the test images, and what is written of it.

    experiments/results/NAME/VIEWS/ARM-nN-seedS.json

holds "benchmark", "arm", "views", "n_full" (per cent), "count_full", "seed", "settings", "trials", "holdout_loss"
("mean", "stderr" over test images, "per_level", and "per_image": the mean over the levels of each image, for paired
errors), "budget_flops", "ledger" (its stages, summed), "parameters", "evaluations" (networks and FLOPs per sampling
step), "seconds", "samples" (`bench.quality`, or null), "command", "versions".  The noise of the test images and the
base that normalizes the loss are the same for all arms, seeds and numbers of full samples.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bootdiff.data import measure
from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.evaluation.costs import SUMMED
from bootdiff.evaluation.evaluate import PACKAGES, _version, sample_losses, tabulate
from bootdiff.evaluation.features import Features, load_features
from bootdiff.evaluation.sample_quality import sample_quality
from bootdiff.method.problem import in_memory
from bootdiff.method.stages import Bootstrap
from bootdiff.recipe.build import open_data
from bootdiff.recipe.schema import Recipe
from bootdiff.sampling import sample
from bootdiff.training.files import atomic_write_json, read_json
from bootdiff.training.run import command_line
from bootdiff.training.stages import digest
from experiments.benchmark.baselines import METHODS, TRIALS
from experiments.benchmark.baselines.cascade import Cascade
from experiments.benchmark.benchmarks import NO_VIEWS, Benchmark
from experiments.benchmark.budget import PARTS, asked, parts, steps_within

__all__ = ["ARMS", "BenchmarkRun", "bootdiff_steps", "is_done", "measured", "train", "tune"]

_TRIALS: tuple[dict[str, Any], ...] = (
    {"view_nets": "first", "split": [4, 1, 8, 1]},
    {"view_nets": "first", "split": [4, 1, 8, 1], "nets": "mixed"},
    {"view_nets": "first", "split": [2, 1, 8, 2]},
)
# Settings that are the recipe's; the others are the method's own.
_OF_RECIPES = ("nets", "dropout", "view_nets", "optimizer")

OWN = {"bootdiff": _TRIALS, "unregularized": _TRIALS}
"""bootdiff's own arms, and the settings they may try.

view_nets: what a view's denoiser is made of.  How pictures are made locally, few full samples teach as well as many
views, if only there are steps for it; so a view has the one network that sees whole pictures.
split: what the steps of a view's networks, of full-only's, of those of all visible pixels and of the residual's are as;
where no view shows pixels, full-only's have the share of these.  The residual starts where another training ended, and
needs few of its own.
nets: as in `Benchmark.recipe`.
"""

ARMS = (*(name for name in METHODS if name != "oracle"), *OWN, "oracle")
"""Every arm, in the order they are run."""

_NOISE = 7


@dataclass(frozen=True)
class BenchmarkRun:
    """One arm on one kind of data; `trial`: with which of its settings, None: those that tuning found best."""

    benchmark: Benchmark
    arm: str
    views: str
    n_full: float
    seed: int
    trial: int | None = None

    @property
    def trials(self) -> tuple[Mapping[str, Any], ...]:
        """The settings the arm may try."""
        return _trials(self.arm)

    @property
    def sees_views(self) -> bool:
        return self.arm in OWN or METHODS[self.arm].views

    @property
    def filed(self) -> str:
        """The kind of views its result is filed under."""
        return self.views if self.sees_views else NO_VIEWS

    @property
    def label(self) -> str:
        """Its result's path without the ending; trials lie in a folder of their own."""
        tuning, which = ("", "") if self.trial is None else ("tuning/", f"-trial{self.trial}")
        return f"{self.benchmark.name}/{tuning}{self.filed}/{self.arm}-n{self.n_full:g}-seed{self.seed}{which}"

    def path(self, out: Path) -> Path:
        """Where its result is written."""
        return out / f"{self.label}.json"

    def chosen(self, out: Path) -> int:
        """Number of the settings it runs with: its trial, or the best of today's by tuning on such data, or 0."""
        if self.trial is not None:
            return self.trial
        tuned = out / self.benchmark.name / "tuned.json"
        found = read_json(tuned) if tuned.is_file() else {}
        best = found.get(self.arm, {}).get(self.filed, {}).get(f"{self.n_full:g}", {})
        return int(best["trial"]) if best.get("settings") == list(self.trials) else 0

    def run(self, trial: int) -> str:
        """Name of the folder it is trained in: one for each settings, shared by arms made of the same stages."""
        arm, settings = "bootdiff" if self.arm in OWN else self.arm, dict(self.trials[trial])
        own = f"{arm}-{digest(settings)[:8]}" if settings else arm
        return f"{self.benchmark.name}/{self.filed}/n{self.n_full:g}-seed{self.seed}/{own}"

    def recipe(self, settings: Mapping[str, Any], steps: Mapping[str, int] | None = None) -> Recipe:
        """The run's recipe; bootdiff's own arms have narrow networks, the others wide ones unless told otherwise."""
        nets, start = ("narrow", "best") if self.arm in OWN else ("wide", "scratch")
        how = {key: settings[key] for key in _OF_RECIPES if key in settings}
        return self.benchmark.recipe(
            self.filed, self.n_full, self.seed, **{"nets": nets, "steps": steps, "start": start, **how}
        )


def _trials(arm: str) -> tuple[Mapping[str, Any], ...]:
    return OWN[arm] if arm in OWN else METHODS[arm].trials


def tune(benchmark: Benchmark, out: Path) -> dict[str, Any]:
    """Choose each arm's settings for each kind of views and each number of full samples by the trials that are there.

    What counts is the loss on the held-out full samples, mean over the seeds that all of the arm's trials have.
    Arms some of whose trials are missing, or were made with settings that are no longer tried, keep their default.

    Returns and writes tuned.json:
    arm -> views -> per cent in full -> {"trial", "settings" and "losses" of all trials, "seeds"}.
    """
    losses: dict[tuple[str, str, str], dict[int, dict[int, float]]] = {}
    for path in sorted((out / benchmark.name / "tuning").glob("*/*.json")):
        r = read_json(path)
        if r["settings"] != _trials(r["arm"])[r["trial"]]:
            continue
        by_trial = losses.setdefault((r["arm"], r["views"], f"{r['n_full']:g}"), {})
        by_trial.setdefault(r["trial"], {})[r["seed"]] = r["selection_loss"]
    tuned: dict[str, Any] = {}
    for (arm, views, n), by_trial in losses.items():
        seeds = sorted(set.intersection(*(set(found) for found in by_trial.values())))
        if len(by_trial) == TRIALS and seeds:
            means = {k: sum(found[s] for s in seeds) / len(seeds) for k, found in sorted(by_trial.items())}
            best = min(means, key=lambda k: means[k])
            said = {"trial": best, "settings": list(_trials(arm)), "losses": list(means.values()), "seeds": seeds}
            tuned.setdefault(arm, {}).setdefault(views, {})[n] = said
    atomic_write_json(out / benchmark.name / "tuned.json", tuned)
    return tuned


def bootdiff_steps(b: Bootstrap, flops: float, settings: Mapping[str, Any]) -> dict[str, int]:
    """Steps of the networks of each of bootdiff's parts within the budget."""
    found, split = parts(b), dict(zip(PARTS, settings["split"], strict=True))
    if not found["visible"]:
        split["full"] = split["visible"]
    there = [part for part in PARTS if found[part]]
    steps = steps_within(flops, [sum(found[part]) for part in there], [split[part] for part in there])
    return dict(zip(there, steps, strict=True))


def train(b: Bootstrap, planned: BenchmarkRun, settings: Mapping[str, Any]) -> Denoiser:
    """The arm's finished denoiser; goes on where it was."""
    if planned.arm in OWN:
        return b.denoiser(planned.arm)
    own = {k: v for k, v in settings.items() if k not in _OF_RECIPES}
    return METHODS[planned.arm].train(b, planned.benchmark.flops, **own)


def is_done(planned: BenchmarkRun, out: Path, samples: int) -> bool:
    """Whether the run's result is there, with the settings that are best now and figures of as many samples."""
    path = planned.path(out)
    if not path.is_file():
        return False
    found = read_json(path)
    trial = planned.chosen(out)
    same = (found["trial"], found["settings"]) == (trial, dict(planned.trials[trial]))
    return same and (found.get("samples") or {}).get("count", 0) >= samples


def features_of(planned: BenchmarkRun, b: Bootstrap, out: Path) -> Features:
    """The benchmark's feature network, the same for all arms, views, n and seeds: trained once, on its pool."""
    path = out / planned.benchmark.name / "features.safetensors"
    if path.is_file():
        return load_features(path, device=b.device)
    recipe = planned.benchmark.recipe(planned.filed, planned.n_full, 0)
    assert recipe.simulate is not None
    features = load_features("auto", open_data(recipe, recipe.simulate.pool), seed=0, device=b.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    features.save(path)
    return features


def sampled(b: Bootstrap, planned: BenchmarkRun, denoiser: Denoiser, out: Path, count: int) -> dict[str, Any]:
    """Figures of `count` samples against the test images; a cascade draws as cascades do."""
    how = asdict(b.settings.sampling)
    x = denoiser.draw(count, **how) if isinstance(denoiser, Cascade) else sample(denoiser, count, **how)
    m = b.problem
    assert m.test is not None
    features = features_of(planned, b, out)
    mirrored, floor = b.settings.flip != "none", b.settings.sampling.sigma_min
    return sample_quality(x.cpu(), m.test, m.full, m.held_out, features, mirrored=mirrored, floor=floor)


def measured(
    b: Bootstrap, planned: BenchmarkRun, denoiser: Denoiser, trial: int, out: Path, samples: int = 0
) -> dict[str, Any]:
    """Measure a finished arm and write its result; returns it. With `samples`, figures of so many are in it, too."""
    settings = planned.trials[trial]
    start = time.perf_counter()
    test = b.problem.test
    assert test is not None
    found = measure(test)
    base = IsotropicGaussian(b.problem.shape, found["mean"], found["sigma_data"]).to(b.device)
    images = in_memory(test).to(b.device)
    losses = sample_losses({planned.arm: denoiser}, images, b.levels, base, planned.benchmark.draws, _NOISE)
    row = tabulate(losses, b.levels)[planned.arm]
    per_image = losses[planned.arm].mean(0)
    held_out = sample_losses({planned.arm: denoiser}, b.full_training_set().samples, b.levels, base, 4, _NOISE + 1)[
        planned.arm
    ]
    ask = asked(denoiser, b.levels, b.device)
    ledger: dict[str, Any] = {"stages": dict(b.ledger)}
    ledger |= {key: sum(stage.get(key, 0) for stage in b.ledger.values()) for key in SUMMED}
    ledger["peak_memory"] = max(stage.get("peak_memory", 0) for stage in b.ledger.values())
    result: dict[str, Any] = {
        "benchmark": planned.benchmark.name,
        "arm": planned.arm,
        "views": planned.filed,
        "n_full": planned.n_full,
        "count_full": planned.benchmark.count(planned.n_full),
        "pool": planned.benchmark.pool,
        "seed": planned.seed,
        "settings": dict(settings),
        "trial": trial,
        "trials": TRIALS,
        "count": len(test),
        "holdout_loss": {
            "mean": row["mean"],
            "stderr": row["stderr"],
            "per_level": row["per_level"],
            "per_image": [round(float(v), 6) for v in per_image],
        },
        "selection_loss": float(held_out.mean()),
        "budget_flops": planned.benchmark.flops,
        "ledger": ledger,
        "parameters": ask["parameters"],
        "stored_parameters": ask["stored"],
        "evaluations": {"networks": ask["networks"], "flops": ask["flops"]},
        "seconds": {"training": ledger["seconds"], "held_out": ledger["evaluation_seconds"]},
        "command": command_line(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }
    result["samples"] = sampled(b, planned, denoiser, out, samples) if samples else None
    result["seconds"]["measuring"] = time.perf_counter() - start
    path = planned.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, result)
    return result
