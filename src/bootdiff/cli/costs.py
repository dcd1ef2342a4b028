"""What a run would cost, before it does it: data measured, networks counted, a few steps of each timed.

Nothing is trained for good: the networks are built as the stages build them, a training step is counted (FLOPs) and
three are timed on real batches, and

    seconds = steps * (seconds per step) + evaluations * (levels * draws * held-out samples) * (seconds per answer).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.cli.console import Console, clock, number
from bootdiff.cli.report.tables import plain_table
from bootdiff.cli.session import trainings
from bootdiff.data import Batches, measure
from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser, SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.distillation import Distillation
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.problem import Problem
from bootdiff.method.stages import Bootstrap, TrainingSet
from bootdiff.noise import LogNormal
from bootdiff.recipe.schema import Recipe

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
    for name, source in materials.sources().items():
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
        seen = [view.draw(materials.shape, rng)(materials.full[i].x[None]) / view.scale for i in range(limit)]
        expected = torch.cat(seen)
        mean, std = float(expected.mean()), float(expected.std())
        # A spread of a few samples is uncertain itself; a wrong scale or inverted files are far off.
        if not view.masked and (abs(mean - row["mean"]) > 0.3 or not 0.6 < (row["std"] + 0.02) / (std + 0.02) < 1.7):
            said.append(
                f"view {name}: its files have mean {row['mean']:.2f} and spread {row['std']:.2f}, full samples seen "
                f"through it {mean:.2f} and {std:.2f}; look at views.png whether the view is what was done to the files"
            )
        if view.masked and view.is_fixed and bool(view.mask(materials.shape).min()):  # type: ignore[union-attr]
            said.append(f"view {name}: its mask hides nothing: its files count as full samples; is it the right mask?")
    if len(materials.held_out) < 8:
        said.append(
            f"full: {len(materials.held_out)} held-out sample(s) decide on stopping, gains and stacking; more make "
            "them surer (full.holdout)"
        )
    return said


# --- networks ---


def estimate(recipe: Recipe, materials: Problem, accelerator: Any, arms: Sequence[str], screen: Console) -> list[Cost]:
    """Every training that the arms need, measured."""
    boot: Any = Bootstrap(recipe, materials, None, accelerator)  # type: ignore[arg-type]
    planner = _Planner(recipe, boot, accelerator)
    names = trainings(recipe, arms)
    out = []
    with screen.work("timing a few steps of each network", len(names)) as done:
        for k, name in enumerate(names):
            out.append(planner.one(name))
            done(k + 1)
    return out


class _Planner:
    def __init__(self, recipe: Recipe, boot: Bootstrap, accelerator: Any, root: _Planner | None = None) -> None:
        self.recipe, self.boot, self.accelerator, self.root = recipe, boot, accelerator, root or self
        self._untrained: CompositeDenoiser | None = None
        self._inner: dict[str, _Planner] = {}

    def one(self, name: str) -> Cost:
        *around, last = name.split(".")
        planner = self
        for view in around:
            planner = planner.inner(view.removeprefix("view-"))
        return planner._one(name, last)

    def inner(self, view: str) -> _Planner:
        """That of a view with views of its own."""
        if view not in self._inner:
            boot = self.boot.inner(view)
            self._inner[view] = _Planner(boot.recipe, boot, self.accelerator, self.root)
        return self._inner[view]

    def _one(self, whole: str, name: str) -> Cost:
        kind, _, rest = name.partition("-")
        boot, recipe = self.boot, self.recipe
        if kind == "view":
            view = next(
                v
                for v in recipe.views
                if rest.startswith(f"{v}-") and rest.removeprefix(f"{v}-") in recipe.backbones_for(v)
            )
            bench, training = boot.view_training_set(view), recipe.training_for("views", view)
            net, composite, on = (
                recipe.backbones_for(view)[rest.removeprefix(f"{view}-")],
                boot.no_views(bench.base),
                "base",
            )
        else:
            bench = boot.full_training_set()
            if kind == "oracle":
                oracle: Any = boot.materials.oracle
                classes = None if oracle.classes is None else len(oracle.classes)
                bench = TrainingSet(**{**vars(bench), "train": oracle, "classes": classes})
            beyond = kind in ("residual", "unregularized")
            nets = recipe.distill_backbones if kind == "distilled" else recipe.backbones
            training, net = recipe.training_for("residual" if beyond else kind), nets[rest]
            composite, on = (self.untrained(), "views") if beyond else (boot.no_views(bench.base), "base")
        noise = LogNormal(training.noise.mean, training.noise.std)
        objective = ResidualObjective(composite, noise, tau=bench.tau)
        if kind == "distilled":
            teacher = self.stack(self.untrained(), recipe.backbones.values(), "views")
            objective = Distillation(composite, noise, teacher=teacher)
        mask_channels = boot.mask_channels() if kind == "residual" else 0
        return self._measure(whole, bench, composite, on, net, training, objective, mask_channels)

    def untrained(self) -> CompositeDenoiser:
        """The views' composite with new weights: it costs what the trained one does."""
        if self._untrained is None:
            boot = self.boot
            denoisers = {name: self.stand_in(name) for name in self.recipe.views}
            views = {name: v.view for name, v in boot.materials.views.items()}
            self._untrained = CompositeDenoiser(boot.full_training_set().base, views, denoisers, boot.levels).to(
                boot.device
            )
        return self._untrained

    def stand_in(self, name: str) -> Denoiser:
        """A view's denoiser with new weights."""
        boot, material = self.boot, self.boot.materials.views[name]
        if material.owner is not None:
            planner = self.root
            *around, name = material.owner.split(".")
            for view in around:
                planner = planner.inner(view)
            return copy.deepcopy(planner.stand_in(name))
        if material.pretrained is not None:
            return material.pretrained
        if material.views:
            planner = self.inner(name)
            return planner.stack(planner.untrained(), planner.recipe.backbones.values(), "views")
        bench = boot.view_training_set(name)
        return self.stack(boot.no_views(bench.base), self.recipe.backbones_for(name).values(), "base", bench)

    def stack(
        self, composite: CompositeDenoiser, nets: Iterable[Any], on: str, bench: TrainingSet | None = None
    ) -> StackedDenoiser:
        """New experts on a composite, and on the white base beside those on views where these are stacked too."""
        levels, bench = self.boot.levels, bench or self.boot.full_training_set()
        kinds = (on, "base") if on == "views" and self.recipe.residual.full_experts else (on,)
        experts = [self._expert("", bench, composite, kind, net) for kind in kinds for net in nets]
        return StackedDenoiser(
            composite, [SnapshotsByNoiseLevel([expert], levels, [0] * len(levels)) for expert in experts], levels
        )

    def _expert(
        self, name: str, bench: TrainingSet, composite: CompositeDenoiser, on: str, net: Any, mask_channels: int = 0
    ) -> Any:
        boot = self.boot
        net = net.resolve(bench.base.shape, boot.root.materials.shape)
        return boot._build(name, bench, composite, on, net, [1.0] * len(boot.levels), mask_channels=mask_channels)

    def _measure(
        self,
        name: str,
        bench: TrainingSet,
        composite: CompositeDenoiser,
        on: str,
        net: Any,
        training: Any,
        objective: ResidualObjective,
        mask_channels: int,
    ) -> Cost:
        boot = self.boot
        trainee = LossModule(self._expert(name, bench, composite, on, net, mask_channels)).train()
        batches = Batches(
            bench.train, bench.scale, training.batch, flip=bench.flip, device=boot.device, mask=bench.mask
        )
        optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-6, fused=True)
        rng = torch.Generator(boot.device).manual_seed(0)

        def step(t: int) -> None:
            with self.accelerator.autocast():
                loss = objective(trainee, batches.at(t), rng).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        with FlopCounterMode(display=False) as counter:
            step(0)
        step(1)
        times = []
        for t in range(2, 5):
            start = time.perf_counter()
            step(t)
            _wait(boot.device)
            times.append(time.perf_counter() - start)
        seconds = sorted(times)[1]
        parameters = sum(p.numel() for p in trainee.parameters() if p.requires_grad)
        # A held-out question is a forward pass: about a third of a step.
        draws = max(1, min(4, 128 // max(len(bench.samples), 1)))
        asked = math.ceil(training.steps / training.evaluate_every) * len(boot.levels) * draws * len(bench.samples)
        total = training.steps * seconds + asked * seconds / 3 / training.batch
        flops = counter.get_total_flops() * training.steps
        return Cost(name, parameters, training.steps, training.batch, flops, seconds, total)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def cost_table(rows: Sequence[Cost], recipe: Recipe, arms: Sequence[str]) -> list[Any]:
    """The trainings in order, and what `fit` and `arms` will take."""
    out = plain_table("Plan", "training", "parameters", "steps", "batch", "FLOPs", "expected time")
    for row in rows:
        out.add_row(
            row.name, number(row.parameters), f"{row.steps:,}", str(row.batch), number(row.flops), clock(row.seconds)
        )

    def total(names: Sequence[str]) -> str:
        wanted = trainings(recipe, names)
        return clock(sum(row.seconds for row in rows if row.name in wanted))

    return ["", out, f"Training takes about {total(['bootdiff'])} (fit), {total(arms)} for all arms (arms)."]
