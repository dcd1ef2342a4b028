"""How one thing is made in a run: an expert, its batches, a stack, a table of weights, each in a stage of its own.

An expert D_k is trained on a `TrainingSet` on top of a composite V (without views: the prior), its snapshots are chosen
per noise level on the held-out samples, and several are stacked with held-out weights.  What is made of which is not
known here: that is `stages`, and the methods under comparison.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.data import Batches, Subset, spaced_indices
from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.method import noise_shift, regressions, snapshots
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.gaussian import GaussianDenoiser, GaussianRecord, gaussian_of
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.plan import prefix_of
from bootdiff.method.problem import Problem, ViewData, in_memory
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.settings import MethodSettings
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.training_set import TrainingSet, full_training_set, view_training_set
from bootdiff.method.validation import Validator, residual_energy
from bootdiff.method.warm_start import Start, race, start_at
from bootdiff.method.weights import Weights, WeightsRecord
from bootdiff.moments.spectrum import has_detail
from bootdiff.nets.network import Network
from bootdiff.training.checkpoint import load_weights
from bootdiff.training.loop import FitResult, Progress, fit
from bootdiff.training.recompute import recomputed
from bootdiff.training.run import Run, StageDir
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.stages import StageStore
from bootdiff.views import to_config

__all__ = ["Task", "Trainer", "Watch", "with_earlier_costs"]

_WORTH_TELLING = 5.0  # seconds after which it is said how something that trains nothing stands


def with_earlier_costs(ledger: dict[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ledger of a training with what was spent before it, on the same network.

    >>> with_earlier_costs({"steps": 7, "flops_per_step": 2, "peak_memory": 5}, [{"steps": 1, "peak_memory": 9}])
    {'steps': 8, 'flops_per_step': 2, 'peak_memory': 9}
    """
    summed = ("steps", "images", "flops", "seconds", "evaluation_seconds")
    out = {k: sum([v, *(o.get(k, 0) for o in others)]) if k in summed else v for k, v in ledger.items()}
    return out | {"peak_memory": max(o["peak_memory"] for o in (ledger, *others))}


@dataclass
class Task:
    """One network to be trained: on which data, on top of what, how.

    name: of its stage.  anchor: of the expert (`ResidualExpert`).  objective: None for the residual's loss.
    mask_channels: of the expert, beside those of the data.  expert: the kind of expert, called as `ResidualExpert` is.
    extra_channels: further input channels of its network; None: the views' estimates, where it uses them.
    """

    name: str
    data: TrainingSet
    composite: CompositeDenoiser
    network: Network
    training: TrainingSettings
    anchor: Literal["views", "prior"] = "prior"
    objective: ResidualObjective | None = None
    mask_channels: int = 0
    uses_views: bool = True
    expert: Callable[..., ResidualExpert] = ResidualExpert
    extra_channels: int | None = None

    def __post_init__(self) -> None:
        self.training = self.training.for_samples(len(self.data.train), self.data.train.shape)

    def loss(self) -> ResidualObjective:
        """The objective that it is trained with."""
        objective = self.objective or ResidualObjective(self.composite, self.training.noise, tau=self.data.tau)
        return replace(objective, noise=self.network.noise_in(objective.noise))


class Watch(Protocol):
    """Someone who looks at networks while they are trained, and changes nothing of it."""

    def steps(self, task: Task, steps: int) -> Collection[int]:
        """After which of a training's `steps` to look; none: never."""
        ...

    def look(self, task: Task, expert: ResidualExpert, step: int, stage: StageDir) -> None:
        """Look at the expert with its averaged weights, in evaluation mode: in the first process alone."""
        ...


@dataclass
class Trainer:
    """What the stages of one run are made with.

    Args:
        settings: how the method is carried out.
        problem: the data.
        run: the run directory, open for writing.
        accelerator: accelerate's; decides device, precision and processes.
        progress: called a few times a second with how a training stands.
        log: called with one line per finished stage.
        reuse: other run directories; a stage that was trained there on the same data with the same settings is copied.
        ledger: cost of each stage.
        outer: the stages around these, where these train the denoiser of its view `name`.
        watch: who looks at the networks of the full samples meanwhile.
        only: names of the stages that may be trained here; None: all. The others must be there (`reuse`).
    """

    settings: MethodSettings
    problem: Problem
    run: Run
    accelerator: Any
    progress: Callable[[Progress], None] | None = None
    log: Callable[[str], None] = print
    reuse: list[str | Path] = field(default_factory=list)
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict)
    outer: Self | None = None
    name: str = ""
    watch: Watch | None = None
    only: frozenset[str] | None = None
    _keys: dict[str, str] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._store = StageStore(self.run, self.accelerator, self.reuse, self.log)

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def root(self) -> Self:
        """The outermost stages, those of the full samples."""
        return self if self.outer is None else self.outer.root

    @property
    def path(self) -> str:
        """The path of the view whose denoiser these stages train; "" for the full samples."""
        if self.outer is None:
            return ""
        return f"{self.outer.path}.{self.name}" if self.outer.path else self.name

    @property
    def prefix(self) -> str:
        """What the names of these stages begin with: "view-clips." inside the view `clips`."""
        return prefix_of(self.path)

    @property
    def levels(self) -> list[float]:
        return list(self.settings.levels)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    # -- experts and stacks --------------------------------------------------------------------------------------------

    def train(
        self, task: Task, depends_on: Sequence[Any] = (), *, batches: Any = None, start: Sequence[Path] = ()
    ) -> SnapshotsByNoiseLevel:
        """Train one expert, and choose its snapshot for each noise level on held-out samples.

        Args:
            depends_on: what the result depends on beside the task: keys of other stages.
            batches: None: those of the task's data.
            start: weights to start at; of several, those that win a race (`warm_start`).

        Raises:
            BootdiffError: it is none of `only`, and not there.
        """
        name, training, data = task.name, task.training, task.data
        begins = {path.parent.name: self._keys[path.parent.name] for path in start}
        stage = self._stage(
            name, self.description(task), parents=_numbered(depends_on), start=begins, steps=training.steps
        )
        if self.only is not None and name not in self.only and not stage.done:
            raise BootdiffError(
                f"{', '.join(sorted(self.only))}: is made of {name}, which is not there yet; train that first "
                f"(--stage {name})"
            )
        validator = self.validator(data, task.composite)
        if not stage.begun and (stage / "choice.json").is_file():
            raise BootdiffError(f"{stage.path}: its done.json is lost; {stage.remedy}")
        scale = self._store.get_or_compute(
            stage, "scale.json", lambda: residual_energy(validator, task.anchor).tolist(), form=list[float]
        )
        objective, expert = task.loss(), self.build(task, scale)
        batches = batches or self.batches(name, data, training)

        def run(stage: StageDir, steps: int, warmup: int, begin: Path | None, **how: Any) -> FitResult:
            if begin is not None and not stage.begun:
                start_at(expert, begin)
            compiled = training.compile and how.get("keep", True)  # a race is too short to be worth it
            watch = self.watch if how.get("keep", True) else None
            if watch is not None:
                how["look_at"] = watch.steps(task, steps)
                how["look"] = lambda model, step: watch.look(task, model.expert, step, stage)
            return fit(
                LossModule(expert), objective, batches, stage,
                replace(training, steps=steps, warmup=warmup, compile=compiled),
                seed=self.seed(name), accelerator=self.accelerator, progress=self.progress, **how,
            )  # fmt: skip

        def raced() -> dict[str, Any]:
            losses, spent = {}, []
            if not short:
                return {"start": None, "losses": {}, "ledgers": []}
            for k, path in enumerate(start):
                own = self._stage(f"{name}.start-{k}", {"candidate": k}, parents={name: stage.key})
                spent.append(run(own, short, min(training.warmup, short // 4), path, keep=False).ledger)
                losses[path.parent.name] = float(validator.expert(expert.eval()).nanmean())
            best = min(range(len(start)), key=lambda k: losses[start[k].parent.name])
            return {"start": f"{name}.start-{best}/final.safetensors", "losses": losses, "ledgers": spent}

        short, steps = race(len(start), training.steps)
        begun = stage.begun
        begin, spent = start[0] if start else None, []
        known = self._store.exists(stage, "start.json")
        if begun and not known and self.run.stamps and len(start) > 1:
            raise BootdiffError(f"{stage.path}: its start.json is lost; {stage.remedy}")
        if len(start) > 1 and (known or not begun):  # for runs of an earlier version there may have been no race
            found = self._store.get_or_compute(stage, "start.json", raced, form=Start)
            spent = found["ledgers"]
            begin = self.run.stages / found["start"] if found["start"] else begin
        # Where more steps are asked for, the race stays as it was.
        short = spent[0]["steps"] if spent else 0
        steps = training.steps - len(spent) * short
        done = stage.done
        result = run(
            stage, steps, training.warmup, begin, evaluate=lambda model: self._by_level(validator.expert(model.expert))
        )
        self.ledger[name] = with_earlier_costs(result.ledger, spent)
        most = self.settings.residual.snapshots
        news = not done

        def choose() -> dict[str, Any]:
            nonlocal news
            news = True
            return snapshots.choose(stage, expert, validator, result.snapshots, most)

        choice = self._store.get_or_compute(stage, "choice.json", choose, of=steps, form=snapshots.Choice)
        self._store.prune(stage, choice["steps"])
        if news:
            for other, loss in (found["losses"] if spent else {}).items():
                self.log(f"{name}: started at {other}, held-out loss {loss:.4f} after {short} steps")
            self.log(f"{name}: held-out loss {choice['loss']:.4f}, best steps {choice['steps']} of {steps}")
        return snapshots.chosen(stage, expert, self.levels, choice).to(self.device)

    def description(self, task: Task) -> dict[str, Any]:
        """All that a training's result depends on beside other stages and its steps, as a whole: JSON-able."""
        network = task.network.resolve(task.data.prior.shape, self.root.problem.shape)
        # Steps are a part of their own.
        training = {k: v for k, v in task.training.recorded().items() if k != "steps"}
        composite = {"views": {n: to_config(v) for n, v in task.composite.views.items()}}
        expert = {
            "class": getattr(task.expert, "__name__", str(task.expert)), "anchor": task.anchor,
            "uses_views": task.uses_views, "mask_channels": task.mask_channels, "extra_channels": task.extra_channels,
        }  # fmt: skip
        return {
            "data": task.data.describe(), "composite": composite, "expert": expert,
            "network": network.describe(), "training": training, "objective": task.loss().describe(),
            "snapshots": self.settings.residual.snapshots, "levels": self.levels, "seed": self.settings.seed,
        }  # fmt: skip

    def build(self, task: Task, scale: Sequence[float] | None = None) -> ResidualExpert:
        """An untrained expert; `scale`: None stands for 1."""
        data, composite = task.data, task.composite
        uses_views = task.uses_views and bool(composite.views)
        extra = task.extra_channels
        if extra is None:
            extra = composite.estimate_channels if uses_views else 0
        beside = data.samples.context
        channels = data.prior.shape[0] + (task.mask_channels if beside is None else beside.shape[1]) + extra
        network = task.network.resolve(data.prior.shape, self.root.problem.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(task.name))
            built = network.build(channels, data.prior.shape, data.classes)
        if self.device.type == "cuda":
            # Tensor cores want channels last; on a CPU it would change the results of earlier runs by rounding.
            built = built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return task.expert(
            built, composite, self.levels, scale, uses_views=uses_views, anchor=task.anchor,
            mask_channels=task.mask_channels,
        ).to(self.device)  # fmt: skip

    def step_flops(self, task: Task, batches: Any = None) -> int:
        """FLOPs of one training step of a task's network, over all processes (counted, not trained)."""
        module = LossModule(self.build(task)).train()
        batches = batches or self.batches(task.name, task.data, task.training)
        batch = next(batches.stream(0))
        # FLOPs are linear in the batch: two rows tell, and cost little.
        few = {key: value[:2].to(self.device) for key, value in batch.items()}
        recompute = recomputed(module, task.training.gradient_checkpointing)
        with recompute, FlopCounterMode(display=False) as counter, self.accelerator.autocast():
            task.loss()(module, few, torch.Generator(self.device).manual_seed(0)).mean().backward()
        rows = len(batch["x"]) * self.accelerator.num_processes
        return round(counter.get_total_flops() * rows / len(few["x"]))

    def batches(self, name: str, data: TrainingSet, training: TrainingSettings) -> Batches:
        """A training set's batches, in the order of the stage `name`."""
        return Batches(
            data.train, data.scale, training.batch_size, seed=self.seed(name), flip=data.flip, workers=training.workers,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes, mask=data.mask,
        )  # fmt: skip

    def stack(
        self,
        name: str,
        data: TrainingSet,
        composite: CompositeDenoiser,
        experts: Mapping[str, Denoiser],
    ) -> StackedDenoiser:
        """Weigh experts, by the names of their stages, on held-out samples."""
        chosen = list(experts.values())
        # A view's stack is an input of the residual's training: its accuracy matters there, its speed does not.
        last = self.outer is None and data.samples is self.full_training_set().samples
        prune = self.settings.residual.prune if last else 0.0

        def solve() -> Weights:
            # Other noise than the snapshots were chosen with, and more of it.
            seed, tick = self.seed("stack"), self.ticker(f"{name}-stack", len(data.samples))
            draws = regressions.DRAWS
            validator = Validator(data.samples, composite, self.levels, draws, seed=seed, tau=data.tau, tick=tick)
            return regressions.kappa(validator, chosen, self.settings.gains, prune)

        weights = self.weights(f"{name}-stack", list(experts), solve, [[self._keys[e] for e in experts], prune])
        made = StackedDenoiser(composite, chosen, self.levels, weights.tolist()).to(self.device).eval()
        if last:
            made.noise_shift = self.noise_shift(name, data, made)
        return made

    def noise_shift(self, name: str, data: TrainingSet, denoiser: Denoiser) -> float:
        """By how much samplers are to understate the noise to a finished denoiser (`noise_shift`), as a stage."""
        how = self.settings.sampling
        if how.noise_shift != "auto":
            return float(how.noise_shift)
        if data.tau or data.samples.context is not None or not has_detail(denoiser.shape):
            return 0.0  # files that show noise or parts only say nothing of the detail of whole ones
        stage = self._stage(f"{name}-shift", asdict(how), parents={"stack": self._keys[f"{name}-stack"]})
        if not self._store.exists(stage, "done.json"):
            if self.accelerator.is_main_process:
                start = time.perf_counter()
                some = Subset(data.train, spaced_indices(len(data.train), noise_shift.real_count(denoiser.shape)))
                real = torch.cat([in_memory(some, data.scale).x, data.samples.x.cpu()])
                tick = self.ticker(stage.name, noise_shift.count_of(denoiser.shape))
                found = noise_shift.measure(denoiser, real, how, self.seed("shift"), tick)
                ledger = {"seconds": 0.0, "evaluation_seconds": time.perf_counter() - start}
                stage.finish(noise_shift.record(*found, ledger))
                if found[1]:
                    self.log(noise_shift.sentence(stage.name, *found))
            self.accelerator.wait_for_everyone()
        return stage.read("done.json", noise_shift.ShiftRecord)["noise_shift"]

    def ticker(self, name: str, samples: int) -> Callable[[int, int], None]:
        """What tells how something that trains nothing stands, where it takes more than a few seconds."""
        start = time.perf_counter()

        def tick(done: int, of: int) -> None:
            spent = time.perf_counter() - start
            if self.progress is not None and spent > _WORTH_TELLING:
                rate = samples * done / of / spent
                self.progress(Progress(name, done, of, None, rate, spent / done * (of - done)))

        return tick

    def gaussian(
        self, name: str, data: TrainingSet, views: Mapping[str, tuple[ViewData, TrainingSet]] | None = None
    ) -> dict[str, Denoiser]:
        """The expert that needs no training (`gaussian`), by the name of its stage; none where it has no say."""
        own, views = f"{name}-gaussian", views or {}
        made_with = {"data": data.describe(), "views": {v: its.describe() for v, (_, its) in views.items()}}
        stage = self._stage(own, made_with)
        if not self._store.exists(stage, "done.json"):
            start = time.perf_counter()
            try:
                found = gaussian_of(data, views)
            except torch.linalg.LinAlgError as error:  # moments as no data have them: hours of training are not lost
                found = None
                self.log(f"{own}: left out, the moments of its data are no Gaussian's ({str(error).splitlines()[0]})")
            if self.accelerator.is_main_process:
                if found is not None:
                    stage.save_weights("final.safetensors", found.state_dict())
                spent = {"seconds": time.perf_counter() - start}
                stage.finish({"config": None if found is None else found.config, "ledger": spent})
            self.accelerator.wait_for_everyone()
        config = stage.read("done.json", GaussianRecord)["config"]
        if config is None:
            return {}
        made = GaussianDenoiser(**config)
        load_weights(made, stage / "final.safetensors")
        return {own: made.to(self.device).eval().requires_grad_(False)}

    def weights(self, name: str, names: list[str], solve: Callable[[], Weights], depends_on: Any) -> Tensor:
        """A table of weights, (levels, names), as a stage: fitted once."""
        made_with = {
            "of": names, "gains": asdict(self.settings.gains), "levels": self.levels, "seed": self.settings.seed,
        }  # fmt: skip
        stage = self._stage(name, made_with, parents=_numbered(depends_on))
        if not self._store.exists(stage, "done.json"):
            record = solve().record(self.levels, names)
            if self.accelerator.is_main_process:
                stage.finish(record)
            self.accelerator.wait_for_everyone()
            self.log(f"{name}: weights at sigma {', '.join(f'{s:g}' for s in self.levels)}")
            for k, part in enumerate(names):
                self.log(f"  {part:24s} " + " ".join(f"{row[k]:6.3f}" for row in record["values"]))
        found = torch.tensor(stage.read("done.json", WeightsRecord)["values"], dtype=torch.float64)
        if found.numel() != len(self.levels) * len(names):
            raise BootdiffError(f"{stage / 'done.json'}: a table of another size; {stage.remedy}")
        return found.reshape(len(self.levels), len(names))

    # -- training sets -------------------------------------------------------------------------------------------------

    def full_training_set(self) -> TrainingSet:
        """That of the full samples; inside a view, that of its samples."""
        if self.outer is not None:
            return self._once("data", lambda: self.outer.view_training_set(self.name))  # type: ignore[union-attr]
        return self._once("data", lambda: full_training_set(self.problem, self.settings.flip, self.device))

    def view_training_set(self, name: str) -> TrainingSet:
        """That of a view's files."""

        def make() -> TrainingSet:
            flip = self.settings.flip if self.outer is None else self.full_training_set().flip
            return view_training_set(self.problem.views[name], self.problem.shape, flip, self.device)

        return self._once(f"data of {name}", make)

    def no_views(self, prior: IsotropicGaussian) -> CompositeDenoiser:
        """The composite of no views: the prior."""
        return CompositeDenoiser({}, prior, self.levels).to(self.device)

    def validator(self, data: TrainingSet, composite: CompositeDenoiser) -> Validator:
        draws = max(1, min(4, 128 // max(len(data.samples), 1)))
        return Validator(data.samples, composite, self.levels, draws, seed=self.seed("held out"), tau=data.tau)

    def seed(self, name: str) -> int:
        """The seed of something by its name: independent of what else is made."""
        return int(hashlib.sha256(f"{self.settings.seed} {name}".encode()).hexdigest()[:8], 16) // 2

    # -- stages on disk ------------------------------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _by_level(self, loss: Tensor) -> dict[str, float]:
        means = loss.mean(1).tolist()
        return {f"{s:g}": v for s, v in zip(self.levels, means, strict=True) if v == v}

    def _stage(self, name: str, made_with: Any, **more: Any) -> StageDir:
        """The stage of this name, whose result depends on all that is given (`StageStore.stage`)."""
        stage = self._store.stage(name, made_with, **more)
        self._keys[name] = stage.key
        return stage


def _numbered(parents: Sequence[Any]) -> dict[str, Any]:
    return {str(k): parent for k, parent in enumerate(parents)}
