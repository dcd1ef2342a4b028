"""How one thing is made in a run: an expert, its batches, a stack, a table of weights, each in a stage of its own.

An expert r_k is trained on the samples of a `TrainingSet` on top of a composite V (without views: the white base), its
snapshots are chosen per noise level on the bench's held-out samples, and several are stacked with held-out weights.
What is made of which is not known here: that is `stages`, and the methods under comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bootdiff.data import Batches
from bootdiff.denoise import IsotropicGaussian
from bootdiff.method import regressions, snapshots
from bootdiff.method.composite import CompositeDenoiser, ResidualExpert, SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.losses import UNLABELLED, LossModule, ResidualObjective, Validator, residual_energy
from bootdiff.method.problem import Problem
from bootdiff.method.training_set import TrainingSet, full_training_set, view_training_set
from bootdiff.method.warm_start import race, start_at
from bootdiff.method.weights import Weights
from bootdiff.nets import build_net
from bootdiff.noise import LogNormal
from bootdiff.recipe.blocks import Training
from bootdiff.recipe.schema import Recipe
from bootdiff.spec import encode
from bootdiff.training.loop import FitResult, Progress, fit
from bootdiff.training.run import Run, StageDir
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.stages import StageStore, digest

__all__ = ["Trainer", "settings_of", "together"]


def together(ledger: dict[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ledger of a training with what was spent before it, on the same network.

    >>> together({"steps": 7, "flops_per_step": 2, "peak_memory": 5}, [{"steps": 1, "peak_memory": 9}])
    {'steps': 8, 'flops_per_step': 2, 'peak_memory': 9}
    """
    summed = ("steps", "images", "flops", "seconds", "evaluation_seconds")
    out = {k: sum([v, *(o.get(k, 0) for o in others)]) if k in summed else v for k, v in ledger.items()}
    return out | {"peak_memory": max(o["peak_memory"] for o in (ledger, *others))}


def settings_of(training: Training, **changes: Any) -> TrainingSettings:
    """A recipe's block as plain settings, with some of them changed."""
    given = {f.name: getattr(training, f.name) for f in fields(TrainingSettings)}
    return TrainingSettings(**given | {"noise": LogNormal(training.noise.mean, training.noise.std)} | changes)


def _numbered(parents: Sequence[Any]) -> dict[str, Any]:
    return {str(k): parent for k, parent in enumerate(parents)}


@dataclass
class Trainer:
    """What the stages of one run are made with.

    Args:
        recipe: what is asked for.
        materials: its data.
        run: the run directory, open for writing.
        accelerator: accelerate's; decides device, precision and processes.
        progress: told a few times a second how a training stands.
        log: told one line per finished stage.
        reuse: other run directories; a stage that was trained there on the same data with the same settings is copied.
        ledger: cost of each stage.
        outer: the stages around these, where these train the denoiser of its view `name`.
    """

    recipe: Recipe
    materials: Problem
    run: Run
    accelerator: Any
    progress: Callable[[Progress], None] | None = None
    log: Callable[[str], None] = print
    reuse: Sequence[str | Path] = ()
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict)
    outer: Self | None = None
    name: str = ""
    _keys: dict[str, str] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe = self.recipe.with_defaults_for(self.materials.shape)
        self._shelf = StageStore(self.run, self.accelerator, self.reuse, self.log)

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def root(self) -> Self:
        """The outermost stages, those of the full samples."""
        return self if self.outer is None else self.outer.root

    @property
    def prefix(self) -> str:
        """What the names of these stages begin with: "view-clips." inside the view `clips`."""
        return "" if self.outer is None else f"{self.outer.prefix}view-{self.name}."

    # -- experts and stacks --------------------------------------------------------------------------------------------

    def expert(
        self,
        name: str,
        bench: TrainingSet,
        composite: CompositeDenoiser,
        on: str,
        net: Any,
        training: Training,
        parents: Sequence[Any] = (),
        penalized: bool = True,
        objective: ResidualObjective | None = None,
        batches: Any = None,
        start: Sequence[Path] = (),
        mask_channels: int = 0,
    ) -> SnapshotsByNoiseLevel:
        """Train one expert on a composite, and choose its snapshot for each noise level on held-out samples.

        Other methods differ in `objective` and `batches` (None: the residual's, on `bench.train`) and in the weights
        they `start` at, of several in those that win a race (`starting`); what these depend on beside the bench must be
        among the `parents`. `mask_channels`: of the expert (`composite.ResidualExpert`).
        """
        net = net.resolve(bench.base.shape, self.root.materials.shape)
        residual = self.recipe.residual
        if not penalized:
            residual = residual.model_copy(update={"energy": 0.0, "subspace": 0.0, "project": False})
        regular = {"energy": residual.energy, "subspace": residual.subspace} if on == "views" else {}
        # Only what is not the default, so that stages of earlier runs stay usable.
        other = {"project": True} if residual.project else {}
        other |= {} if residual.sees_views else {"sees_views": False}
        settings = regular | (other if on == "views" else {})
        settings |= {} if bench.classes is None else {"unlabelled": UNLABELLED}
        settings |= {"shown": mask_channels} if mask_channels else {}
        made_with = self._made_with(bench, training) | {
            "net": encode(net.model_dump()), "residual": settings, "snapshots": residual.snapshots,
            "views": composite.config["views"], "class": None if objective is None else type(objective).__name__,
        }  # fmt: skip
        begins = {path.parent.name: self._keys[path.parent.name] for path in start}
        stage = self._stage(name, made_with, parents=_numbered(parents), start=begins, steps=training.steps)
        held_out = self.held_out(bench, composite)
        scale = self._shelf.get_or_compute(stage, "scale.json", lambda: residual_energy(held_out, on).tolist())
        if objective is None:
            noise = LogNormal(training.noise.mean, training.noise.std)
            objective = ResidualObjective(composite, noise, tau=bench.tau, **regular)
        batches = batches or self.batches(name, bench, training)
        expert = self._build(name, bench, composite, on, net, scale, residual.project, mask_channels)

        def train(stage: StageDir, steps: int, warmup: int, begin: Path | None, **how: Any) -> FitResult:
            if begin is not None and not stage.begun:
                start_at(expert, begin)
            compile = training.compile and how.get("keep", True)  # a race is too short to be worth it
            return fit(
                LossModule(expert), objective, batches, stage,
                settings_of(training, steps=steps, warmup=warmup, compile=compile),
                seed=self._seed(name), accelerator=self.accelerator, progress=self.progress, **how,
            )  # fmt: skip

        def raced() -> dict[str, Any]:
            losses, spent = {}, []
            for k, path in enumerate(start):
                own = self._stage(f"{name}.start-{k}", {"candidate": k}, parents={name: stage.key})
                spent.append(train(own, short, min(training.warmup, short // 4), path, keep=False).ledger)
                losses[path.parent.name] = float(held_out.expert(expert.eval()).nanmean())
            best = min(range(len(start)), key=lambda k: losses[start[k].parent.name])
            return {"start": f"{name}.start-{best}/final.safetensors", "losses": losses, "ledgers": spent}

        short, steps = race(len(start), training.steps)
        begin, spent = start[0] if start else None, []
        if short:
            found = self._shelf.get_or_compute(stage, "start.json", raced)
            begin, spent = self.run.stages / found["start"], found["ledgers"]
            short = spent[0]["steps"]  # where more steps are asked for, the race stays as it was
            steps = training.steps - len(spent) * short
        done = stage.done
        result = train(
            stage, steps, training.warmup, begin, evaluate=lambda model: self._by_level(held_out.expert(model.expert))
        )
        self.ledger[name] = together(result.ledger, spent)
        choose = partial(snapshots.choose, stage, expert, held_out, result.snapshots, residual.snapshots)
        choice = self._shelf.get_or_compute(stage, "choice.json", choose, of=steps)
        self._shelf.prune(stage, choice["steps"])
        if not done:
            for other, loss in (found["losses"] if short else {}).items():
                self.log(f"{name}: started at {other}, held-out loss {loss:.4f} after {short} steps")
            self.log(f"{name}: held-out loss {choice['loss']:.4f}, best steps {choice['steps']} of {steps}")
        return snapshots.chosen(stage, expert, self.levels, choice).to(self.device)

    def batches(self, name: str, bench: TrainingSet, training: Training) -> Batches:
        """A bench's training samples, in the order of the stage `name`."""
        return Batches(
            bench.train, bench.scale, training.batch, seed=self._seed(name), flip=bench.flip, workers=training.workers,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes, mask=bench.mask,
        )  # fmt: skip

    def stack(
        self, name: str, bench: TrainingSet, composite: CompositeDenoiser, experts: dict[str, SnapshotsByNoiseLevel]
    ) -> StackedDenoiser:
        """Stage 5: weigh the experts on held-out samples."""
        chosen = list(experts.values())
        keys = [self._keys[e] for e in experts]
        mode = self.recipe.residual.kappa
        if mode == "one":
            weights = None
        else:
            # A view's stack is an input of the residual's training: what it gives matters there, its speed does not.
            last = self.outer is None and bench.samples is self.full_training_set().samples
            prune = self.recipe.residual.prune if last else 0.0
            keys += [f"prune {prune:g}"] if prune else []
            solve = partial(self._kappa, bench, composite, chosen, prune)
            values = self._weights(f"{name}-stack", list(experts), solve, keys)
            weights = values.tolist()
        return StackedDenoiser(composite, chosen, self.levels, weights).to(self.device).eval()

    def _kappa(
        self, bench: TrainingSet, composite: CompositeDenoiser, experts: list[SnapshotsByNoiseLevel], prune: float
    ) -> Weights:
        # Other noise than the snapshots were chosen with, and more of it.
        held_out = Validator(bench.samples, composite, self.levels, 4, seed=self._seed("stack"), tau=bench.tau)
        return regressions.kappa(held_out, experts, self.recipe, prune)

    def _weights(self, name: str, names: list[str], solve: Callable[[], Weights], parents: list[str]) -> Tensor:
        settings = [self.recipe.gains.model_dump(), self.recipe.residual.kappa]
        made_with = {"of": names, "settings": settings, "levels": self.levels, "seed": self.recipe.seed}
        stage = self._stage(name, made_with, parents=_numbered(parents))
        if not self._shelf.exists(stage, "done.json"):
            record = solve().record(self.levels, names)
            if self.accelerator.is_main_process:
                stage.finish(record)
            self.accelerator.wait_for_everyone()
            self.log(f"{name}: weights at sigma {', '.join(f'{s:g}' for s in self.levels)}")
            for k, part in enumerate(names):
                self.log(f"  {part:24s} " + " ".join(f"{row[k]:6.3f}" for row in record["values"]))
        return torch.tensor(stage.info["values"], dtype=torch.float64).reshape(len(self.levels), len(names))

    # -- benches and nets ----------------------------------------------------------------------------------------------

    @property
    def levels(self) -> list[float]:
        return list(self.recipe.levels)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def full_training_set(self) -> TrainingSet:
        return self._once("bench", self._full_bench)

    def _full_bench(self) -> TrainingSet:
        if self.outer is not None:
            return self.outer.view_training_set(self.name)
        return full_training_set(self.materials, self.recipe.flip, self.device)

    def view_training_set(self, name: str) -> TrainingSet:
        flip = self.recipe.flip if self.outer is None else self.full_training_set().flip
        return view_training_set(self.materials.views[name], self.materials.shape, flip, self.device)

    def no_views(self, base: IsotropicGaussian) -> CompositeDenoiser:
        return CompositeDenoiser(base, {}, {}, self.levels).to(self.device)

    def held_out(self, bench: TrainingSet, composite: CompositeDenoiser) -> Validator:
        draws = max(1, min(4, 128 // max(len(bench.samples), 1)))
        return Validator(bench.samples, composite, self.levels, draws, seed=self._seed("held out"), tau=bench.tau)

    def _build(
        self,
        name: str,
        bench: TrainingSet,
        composite: CompositeDenoiser,
        on: str,
        net: Any,
        scale: list[float],
        project: bool = False,
        mask_channels: int = 0,
    ) -> ResidualExpert:
        uses_views = bool(composite.views) and self.recipe.residual.sees_views
        channels = bench.base.shape[0] + (composite.seen if uses_views else 0)
        beside = bench.samples.context
        channels += mask_channels if beside is None else beside.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed(name))
            built = build_net(net.kind, channels, bench.base.shape, bench.classes, **net.options())
        if self.device.type == "cuda":
            # Tensor cores want channels last; on a CPU it would change the results of earlier runs by rounding.
            built = built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        null = composite.views if on == "views" and project else None
        return ResidualExpert(built, bench.base, self.levels, scale, uses_views, on, null, mask_channels).to(
            self.device
        )

    # -- stages on disk ------------------------------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _seed(self, name: str) -> int:
        return int(hashlib.sha256(f"{self.recipe.seed} {name}".encode()).hexdigest()[:8], 16) // 2

    def _by_level(self, loss: Tensor) -> dict[str, float]:
        means = loss.mean(1).tolist()
        return {f"{s:g}": v for s, v in zip(self.levels, means, strict=True) if v == v}

    def _made_with(self, bench: TrainingSet, training: Training) -> dict[str, Any]:
        """What a training's result depends on, but for its network and what is made of what."""
        return {
            "data": bench.train.fingerprint(),
            "held_out": digest(bench.samples.x.cpu().double().flatten(1).sum(1).tolist()),
            "base": bench.base.config,
            "mask": None if bench.mask is None else digest(bench.mask.tolist()),
            "scale": bench.scale,
            "flip": bench.flip,
            "tau": bench.tau,
            "training": training.model_dump(exclude={"workers", "checkpoint_seconds", "steps"}),
            "levels": self.levels,
            "seed": self.recipe.seed,
        }

    def _stage(self, name: str, made_with: Any, **more: Any) -> StageDir:
        stage = self._shelf.stage(name, made_with, **more)
        self._keys[name] = stage.key
        return stage
