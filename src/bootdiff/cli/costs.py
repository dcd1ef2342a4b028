"""What a run would cost, before it does it: data measured, a training step of each network counted and tried.

Nothing is trained: the networks are built as the stages build them, a step is counted and priced (`steps`), and

    seconds = steps * (seconds per step) + evaluations * (levels * draws * held-out samples) * (seconds per answer),

an answer, a forward pass, at a third of what a step takes for a sample. What is computed between trainings is added
(`between`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from rich.table import Table

from bootdiff.cli.between import Between
from bootdiff.cli.console import Console, clock, number
from bootdiff.cli.report.tables import plain_table
from bootdiff.cli.steps import step_cost
from bootdiff.data import measure
from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.distillation import Distillation
from bootdiff.method.plan import Part, Plan, Stage
from bootdiff.method.problem import Problem
from bootdiff.method.settings import MethodSettings
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.views import View

__all__ = [
    "EFFICIENCY", "GPUS", "Cost", "advice", "cost_table", "data_table", "describe", "estimate", "free_memory",
    "in_bytes", "warnings_of",
]  # fmt: skip

_MEASURED = 2000  # samples of each source


@dataclass
class Cost:
    """One training to come. seconds: expected, with its held-out evaluations; flops: all steps; memory: bytes of a
    step, beyond what the process holds before."""

    name: str
    parameters: int
    steps: int
    batch: int
    flops: int
    memory: int
    seconds_per_step: float
    seconds: float

    @property
    def seconds_per_answer(self) -> float:
        """Of one sample."""
        return self.seconds_per_step / 3 / self.batch


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
    with screen.work("trying a step of each network", len(trainings)) as done:
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


def _measure(untrained: _Untrained, stage: Stage) -> Cost:
    stages, task = untrained.stages, untrained.task(stage)
    data, training, step = task.data, task.training, step_cost(untrained.stages, task)
    # A held-out evaluation is a forward pass: about a third of a step.
    draws = max(1, min(4, 128 // max(len(data.samples), 1)))
    evaluations = math.ceil(training.steps / training.evaluate_every) * len(stages.levels) * draws * len(data.samples)
    total = training.steps * step.seconds + evaluations * step.seconds / 3 / training.batch_size
    return Cost(
        name=stage.name, parameters=step.parameters, steps=training.steps, batch=training.batch_size,
        flops=step.flops * training.steps, memory=step.memory, seconds_per_step=step.seconds, seconds=total,
    )  # fmt: skip


GPUS = {
    "t4": 65e12, "v100": 125e12, "l4": 121e12, "a10": 125e12, "rtx3090": 71e12, "rtx4090": 165e12, "l40s": 362e12,
    "a100": 312e12, "h100": 989e12, "h200": 989e12,
}  # fmt: skip
"""FLOP/s of matrix products in 16 bits, without sparsity, as the makers state them, by the name of the GPU."""

EFFICIENCY = 0.1
"""The share of it that is counted on: the convolutions of small networks reach no more, large ones up to four times."""

SHORTEST_STEP = 0.02
"""Seconds that a step takes on a GPU however small the network is: its kernels are started one by one."""

_ABSURD = 48 * 3600.0


def cost_table(
    rows: Sequence[Cost],
    others: Sequence[Between],
    plan: Plan,
    arms: Sequence[str],
    free: int | None = None,
    gpu: str | None = None,
) -> list[Any]:
    """The trainings in order, and what `fit` and `arms` will take; what to change where that is absurd.

    Args:
        others: what comes between the trainings.
        free: bytes of memory that there are (`free_memory`); None: not known.
        gpu: a name in `GPUS`, for an estimate of the time there.
    """
    out = plain_table("Plan", "training", "parameters", "steps", "batch", "FLOPs", "memory", "expected time")
    for row in rows:
        out.add_row(
            row.name, number(row.parameters), f"{row.steps:,}", str(row.batch), number(row.flops), in_bytes(row.memory),
            clock(row.seconds),
        )  # fmt: skip
    for other in others:
        out.add_row(other.name, *["-"] * 5, clock(other.seconds))

    def of(names: Sequence[str]) -> list[Cost]:
        wanted = {name for arm in names for name in plan.names(arm)}
        return [row for row in rows if row.name in wanted]

    def times(of_row: Callable[[Cost], float]) -> str:
        # What comes between is as much slower or faster elsewhere as the trainings are.
        speed = sum(map(of_row, rows)) / max(sum(row.seconds for row in rows), 1e-9)

        def total(names: Sequence[str]) -> str:
            more = sum(other.seconds for other in others if set(names) & set(other.arms))
            return clock(sum(map(of_row, of(names))) + speed * more)

        return f"{total(['bootdiff'])} (fit), {total(arms)} for all arms (arms)"

    said = [f"Training takes about {times(lambda row: row.seconds)}, and {_most(rows)} of memory."]
    if gpu is not None:
        speed = GPUS[gpu] * EFFICIENCY
        there = times(lambda row: max(row.flops / speed, row.steps * SHORTEST_STEP))
        said.append(
            f"On one {gpu} about {there}: an estimate from FLOPs, at {EFFICIENCY:.0%} of its "
            f"{GPUS[gpu] / 1e12:.0f} TFLOP/s in bf16 and no step below {1000 * SHORTEST_STEP:.0f} ms; not measured."
        )
    return ["", out, *said, *advice(of(["bootdiff"]), free)]


def advice(rows: Sequence[Cost], free: int | None) -> list[str]:
    """What to change where a training asks for more memory than there is, or all of them for days."""
    said, largest = [], max(rows, key=lambda row: row.memory)
    if free is not None and largest.memory > free:
        said.append(
            f"warning: {largest.name} asks for {in_bytes(largest.memory)} of memory, and {in_bytes(free)} are free: "
            f"raise training.accumulate (parts of the batch of {largest.batch}, same result), lower training.batch, or "
            "give its network a larger `patch` or fewer `channels`"
        )
    total, dearest = sum(row.seconds for row in rows), max(rows, key=lambda row: row.seconds)
    if total > _ABSURD:
        said.append(
            f"warning: {clock(total)} of training is {total / 86400:.1f} days; {dearest.name} alone takes "
            f"{dearest.seconds / total:.0%} of it. Fewer training.steps, a larger `patch` (4 takes a sixteenth), fewer "
            "`channels`, smaller samples, or a GPU (check --for h100 says how long)"
        )
    return said


def free_memory(device: torch.device) -> int:
    """Bytes that a training may still take on this device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def in_bytes(value: float) -> str:
    """Memory for people.

    >>> in_bytes(3_200_000), in_bytes(13.7e9)
    ('3 MB', '13.7 GB')
    """
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _most(rows: Sequence[Cost]) -> str:
    held = psutil.Process().memory_info().rss
    return in_bytes(held + max(row.memory for row in rows))
