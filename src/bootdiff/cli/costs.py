"""What a run would cost, before it does it: data measured, networks counted, a few steps of each timed.

Nothing is trained for good: the networks are built as the stages build them, a training step is counted (FLOPs) and
three are timed on real batches, and

    seconds = steps * (seconds per step) + evaluations * (levels * draws * held-out samples) * (seconds per answer).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.cli.console import Console, clock, number
from bootdiff.cli.report.tables import plain_table
from bootdiff.data import Batches, measure
from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.distillation import Distillation
from bootdiff.method.losses import LossModule
from bootdiff.method.plan import Part, Plan, Stage
from bootdiff.method.problem import Problem
from bootdiff.method.settings import MethodSettings
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.training.muon import hidden_matrices
from bootdiff.training.optim import Optimizer
from bootdiff.views import View

__all__ = ["Cost", "cost_table", "data_table", "describe", "estimate", "warnings_of"]

_MEASURED = 2000  # samples of each source


@dataclass
class Cost:
    """One training to come. seconds: expected, with its held-out evaluations; flops: all steps."""

    name: str
    parameters: int
    steps: int
    batch: int
    flops: int
    seconds_per_step: float
    seconds: float


# --- data ---


def describe(materials: Problem) -> dict[str, dict[str, Any]]:
    """Each source: count, shape, and range, mean and spread in stored coordinates ([-1, 1]); sigma_data of views in
    view coordinates, as their denoisers see them."""
    rows = {}
    for name, source in materials.datasets().items():
        seen = materials.every_view().get(name.split(" (")[0].removeprefix("view "))
        view = None if seen is None else seen.through
        mask = view.mask(materials.shape) if view is not None and view.is_fixed else None
        found = measure(source, limit=_MEASURED, mask=mask)
        rows[name] = {
            "count": len(source),
            "shape": list(source.shape),
            "min": found["min"],
            "max": found["max"],
            "mean": sum(found["mean"]) / len(found["mean"]),
            "std": found["sigma_data"],
            "sigma_data": found["sigma_data"] * (1 if view is None else view.scale),
            "observed": found["observed"],
            "unusable": len(source.problems),
            "where": source.where,
        }
    return rows


def data_table(rows: dict[str, dict[str, Any]]) -> Table:
    """The table of `describe`."""
    out = plain_table("Data, in stored coordinates", "data", "count", "size", "range", "mean", "spread", "sigma_data")
    for name, row in rows.items():
        size = " x ".join(str(n) for n in row["shape"])
        span = f"{row['min']:.2f} .. {row['max']:.2f}"
        out.add_row(
            name, f"{row['count']:,}", size, span, f"{row['mean']:.2f}", f"{row['std']:.2f}", f"{row['sigma_data']:.2f}"
        )
    return out


def warnings_of(materials: Problem, rows: dict[str, dict[str, Any]]) -> list[str]:
    """What is allowed but looks like a mistake."""
    said = []
    full = rows["full"]
    if full["max"] - full["min"] < 0.5:
        said.append(
            f"full: the values span only {full['min']:.2f} .. {full['max']:.2f} of [-1, 1]; for float arrays, give "
            "their `range`"
        )
    for name, material in materials.every_view().items():
        if f"view {name}" not in rows:
            continue  # it has no files of its own
        row, view = rows[f"view {name}"], material.through
        limit = min(len(materials.full), 200)
        rng = torch.Generator().manual_seed(0)
        expected = torch.cat([_observed(view, materials.full[i].x, rng) for i in range(limit)])
        mean, std = float(expected.mean()), float(expected.std())
        # A spread of a few samples is uncertain itself; a wrong scale or inverted files are far off.
        if abs(mean - row["mean"]) > 0.3 or not 0.6 < (row["std"] + 0.02) / (std + 0.02) < 1.7:
            said.append(
                f"view {name}: its files have mean {row['mean']:.2f} and spread {row['std']:.2f}, full samples seen "
                f"through it {mean:.2f} and {std:.2f}; look at views.png whether the view is what was done to the files"
                + _sentinel(row, expected)
            )
        if view.masked and view.is_fixed and bool(view.mask(materials.shape).min()):  # type: ignore[union-attr]
            said.append(f"view {name}: its mask hides nothing: its files count as full samples; is it the right mask?")
        elif view.masked and row["observed"] == 1:
            said.append(
                f"view {name}: no mask of its files hides anything, so they count as full samples; are they right?"
            )
    if len(materials.held_out) < 8:
        said.append(
            f"full: {len(materials.held_out)} held-out sample(s) decide on stopping, gains and stacking; more make "
            "them surer (full.holdout)"
        )
    return said


def _observed(view: View, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The values of a full sample that a file of this view shows, in stored coordinates, flat."""
    drawn = view.draw(tuple(x.shape), rng)
    seen, mask = drawn(x[None])[0] / view.scale, drawn.mask(tuple(x.shape))
    return seen.flatten() if mask is None else seen[mask.expand_as(seen) > 0]


def _sentinel(row: dict[str, Any], expected: torch.Tensor) -> str:
    """A hint where values lie so far out that they may stand for missing ones, as -200 and -999 do in tables."""
    low, high, std = float(expected.min()), float(expected.max()), float(expected.std())
    far = next((v for v in (row["min"], row["max"]) if not low - 20 * std < v < high + 20 * std), None)
    if len(row["shape"]) > 2 or far is None:
        return ""
    return f"; do values so far out ({far:.4g} in these units) stand for missing ones? Then name them in missing_values"


# --- networks ---


def estimate(
    settings: MethodSettings, problem: Problem, accelerator: Any, arms: Sequence[str], screen: Console
) -> list[Cost]:
    """Every training that the arms need, measured."""
    stages: Any = Bootstrap(settings, problem, None, accelerator)  # type: ignore[arg-type]
    trainings = stages.plan(arms).trainings
    out = []
    with screen.work("timing a few steps of each network", len(trainings)) as done:
        for k, stage in enumerate(trainings):
            out.append(_measure(_Untrained(stages.within(stage.around)), stage))
            done(k + 1)
    return out


class _Untrained:
    """Denoisers with new weights, which cost what the trained ones do, in the place of those of some stages."""

    def __init__(self, stages: Bootstrap) -> None:
        self.stages = stages

    def composite(self) -> CompositeDenoiser:
        """The views' composite."""
        stages = self.stages
        views = {name: (v.view, self.view(name)) for name, v in stages.problem.views.items()}
        return CompositeDenoiser(views, stages.full_training_set().prior, stages.levels).to(stages.device)

    def view(self, name: str) -> Denoiser:
        """A view's denoiser."""
        stages, v = self.stages, self.stages.problem.views[name]
        if v.owner is not None:
            around, _, its = v.owner.rpartition(".")
            return copy.deepcopy(_Untrained(stages.root.within(around)).view(its))
        if v.pretrained is not None:
            return v.pretrained
        if v.views:
            return _Untrained(stages.inner(name)).bootdiff()
        networks = stages.settings.views[name].networks
        tasks = [stages.task(Stage("view", network, name, stages.path)) for network in networks]
        return self._stack(tasks[0].composite, tasks)

    def bootdiff(self) -> Denoiser:
        """The finished denoiser."""
        stages, composite = self.stages, self.composite()
        parts: list[Part] = ["residual"]
        parts += ["full"] if stages.settings.residual.full_experts else []
        parts += ["visible"] if stages.visible_views() else []
        stage = [Stage(part, network, around=stages.path) for part in parts for network in stages.settings.networks]
        return self._stack(composite, [stages.task(s, composite) for s in stage])

    def task(self, stage: Stage) -> Task:
        """How a stage is trained, on top of untrained denoisers."""
        if stage.part in ("residual", "unregularized"):
            return self.stages.task(stage, self.composite())
        if stage.part == "distilled":
            data, teacher = self.stages.full_training_set(), self.bootdiff()
            network, training = self.stages.settings.distilled_networks[stage.network], self.stages.settings.training
            none = self.stages.no_views(data.prior)
            objective = Distillation(none, training["distilled"].noise, teacher=teacher)
            return Task(stage.name, data, none, network, training["distilled"], objective=objective)
        return self.stages.task(stage)

    def _stack(self, composite: CompositeDenoiser, tasks: Sequence[Task]) -> StackedDenoiser:
        return StackedDenoiser(composite, [self.stages.build(task) for task in tasks], self.stages.levels)


# Seconds after which no more steps are timed: long ones vary little.
_ENOUGH = 0.3


def _measure(untrained: _Untrained, stage: Stage) -> Cost:
    stages, task = untrained.stages, untrained.task(stage)
    data, training, objective = task.data, task.training, task.loss()
    module = LossModule(stages.build(task)).train()
    batches = Batches(data.train, data.scale, training.batch, flip=data.flip, device=stages.device, mask=data.mask)
    params: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, averages, training, matrices=hidden_matrices(module))
    rng = torch.Generator(stages.device).manual_seed(0)

    def gradient(t: int) -> None:
        with stages.accelerator.autocast():
            loss = objective(module, batches.at(t), rng).mean()
        optimizer.backward(loss)

    def step(t: int) -> None:
        gradient(t)
        optimizer.clip()
        optimizer.step(t)
        optimizer.average(t)

    with FlopCounterMode(display=False) as counter:  # as the training loop counts: without the optimizer's own
        gradient(0)
    step(1)
    times: list[float] = []
    while len(times) < 3 and sum(times) < _ENOUGH:
        start = time.perf_counter()
        step(2 + len(times))
        _wait(stages.device)
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    parameters = sum(p.numel() for p in params)
    # A held-out evaluation is a forward pass: about a third of a step.
    draws = max(1, min(4, 128 // max(len(data.samples), 1)))
    evaluations = math.ceil(training.steps / training.evaluate_every) * len(stages.levels) * draws * len(data.samples)
    total = training.steps * seconds + evaluations * seconds / 3 / training.batch
    flops = counter.get_total_flops() * training.steps
    return Cost(stage.name, parameters, training.steps, training.batch, flops, seconds, total)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def cost_table(rows: Sequence[Cost], plan: Plan, arms: Sequence[str]) -> list[Any]:
    """The trainings in order, and what `fit` and `arms` will take."""
    out = plain_table("Plan", "training", "parameters", "steps", "batch", "FLOPs", "expected time")
    for row in rows:
        out.add_row(
            row.name, number(row.parameters), f"{row.steps:,}", str(row.batch), number(row.flops), clock(row.seconds)
        )

    def total(names: Sequence[str]) -> str:
        wanted = {name for arm in names for name in plan.names(arm)}
        return clock(sum(row.seconds for row in rows if row.name in wanted))

    return ["", out, f"Training takes about {total(['bootdiff'])} (fit), {total(arms)} for all arms (arms)."]
