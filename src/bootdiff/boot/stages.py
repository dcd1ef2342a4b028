"""Bootstrapping diffusion, stage by stage (Ma 2025, arXiv 2505.11825, with the regularizers of docs/regularization.md).

    1. views        for each kind i of partial data: train d_i on its own files (with `start: full` after stage 2)
    2. full         denoisers trained on the full samples alone (they are the arm `full_only`, and experts of the stack)
    3. gains        which views know what the full samples do not teach (`news`)?  For these, lambda_i(sigma): regress
                    x0 - b on the views' lifted evidence, on full samples
    4. residual     train experts r_k of x0 - V on the full samples, each stopped per noise level on held-out ones; they
                    start at the full-only networks (`starting`), or at zero on top of the views
                    (`unregularized`: the same without energy, subspace and projection, where the recipe sets them)
    5. stack        kappa_k(sigma) >= 0: regress x0 - V on D_k - V, on held-out full samples

and for comparison `oracle`: denoisers trained on all data in full.  A view's denoiser is itself a stack without views;
that of a view with views of its own is what stages 1 to 5 make of them, its samples being the full ones (`inner`).
Every stage writes into its own folder of the run and is skipped when it is complete: killed at any moment, the same
command goes on to the same result.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bootdiff.boot import choosing, regressions
from bootdiff.boot.bench import Bench, classes_in, full_bench, on_device, view_bench
from bootdiff.boot.composite import Composite, Expert, Snapshots, Stack
from bootdiff.boot.gains import Weights
from bootdiff.boot.loading import fingerprint, forward_cost
from bootdiff.boot.materials import Materials, in_memory
from bootdiff.boot.objective import UNLABELLED, HeldOut, ResidualObjective, Trainee, residual_energy
from bootdiff.boot.partial import nets_of
from bootdiff.boot.saving import save_denoiser
from bootdiff.boot.shelf import Shelf, digest
from bootdiff.boot.starting import alike, start_at
from bootdiff.data import Batches, Subset, evenly
from bootdiff.denoise import Denoiser, White
from bootdiff.nets import build_net
from bootdiff.noise import LogNormal
from bootdiff.recipe import Recipe
from bootdiff.recipe_blocks import Training
from bootdiff.runs import Run, StageDir
from bootdiff.spec import encode
from bootdiff.train import Progress, fit

__all__ = ["ARMS", "Bench", "Bootstrap"]

# Samples of a view with views of its own that their gains are fitted on, beside the held-out ones.
_GAINS_AT_MOST = 512

ARMS = ("full_only", "views_only", "unregularized", "bootdiff", "oracle")
"""What can be trained from one recipe; every arm is made of the same parts."""


@dataclass
class Bootstrap:
    """The stages of one run.

    Args:
        recipe: what is asked for.
        materials: its data.
        run: the run directory, open for writing.
        accelerator: accelerate's; decides device, precision and processes.
        progress: told a few times a second how a training stands.
        say: told one line per finished stage.
        reuse: other run directories; a stage that was trained there on the same data with the same settings is copied.
        ledger: cost of each stage.
        outer: the stages around these, where they train the denoiser of its view `name`.
    """

    recipe: Recipe
    materials: Materials
    run: Run
    accelerator: Any
    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = print
    reuse: Sequence[str | Path] = ()
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict)
    outer: Bootstrap | None = None
    name: str = ""
    _keys: dict[str, str] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe = self.recipe.suited(self.materials.shape)
        self._shelf = Shelf(self.run, self.accelerator, self.reuse, self.say)

    # -- the algorithm -------------------------------------------------------------------------------------------------

    def denoiser(self, arm: str) -> Denoiser:
        """The finished denoiser of an arm of `ARMS`; trains what is still missing."""
        if arm not in ARMS:
            raise ValueError(f"no arm {arm!r}; known: {', '.join(ARMS)}")
        return self._once(arm, getattr(self, f"_{arm}"))

    def _views_only(self) -> Composite:
        """Stages 1 to 3."""
        bench = self.full_bench()
        denoisers = {name: self.view(name) for name in self.recipe.views}
        views = {name: v.view for name, v in self.materials.views.items()}
        composite = Composite(bench.base, views, denoisers, self.levels).to(self.device)
        if self.recipe.gains.mode == "unit":
            return composite
        parents = [*self._view_keys(), *self._full_keys()]
        news = self._weights(f"{self.prefix}news", list(views), lambda: self._news(composite), parents)
        composite = composite.with_gains(news).to(self.device)
        if not composite.views:
            return composite
        solve = partial(self._gains, composite)
        weights = self._weights(f"{self.prefix}gains", list(composite.views), solve, self._view_keys())
        return composite.with_gains(weights).to(self.device)

    def _full_only(self) -> Stack:
        """Stage 2."""
        bench = self.full_bench()
        return self.stack(f"{self.prefix}full", bench, self.no_views(bench.base), self.full_experts())

    def _bootdiff(self) -> Denoiser:
        """Stages 1 to 5."""
        composite = self.denoiser("views_only")
        assert isinstance(composite, Composite)
        experts = self.residual_experts(composite) if composite.views else {}
        if self.recipe.residual.full_experts or not composite.views:
            # Without a view that has something to say, bootdiff *is* full-only training.
            experts = {**experts, **self.full_experts()}
        return self.stack(f"{self.prefix}residual", self.full_bench(), composite, experts)

    def _unregularized(self) -> Denoiser:
        """The residual as it comes: last weights of each expert, weight 1, nothing held out."""
        composite = self.denoiser("views_only")
        assert isinstance(composite, Composite)
        if not composite.views:
            experts = self.full_experts()
        elif self.recipe.residual.penalized:
            experts = self._experts("unregularized", composite, "views")
        else:
            experts = self.residual_experts(composite)
        last = [choosing.last(self.run.stage(name), expert) for name, expert in experts.items()]
        return Stack(composite, last, self.levels).to(self.device).eval()

    def _oracle(self) -> Stack:
        """Denoisers trained on all data in full."""
        assert self.materials.oracle is not None
        bench = self.full_bench()
        oracle = self.materials.oracle
        bench = Bench(**{**vars(bench), "train": oracle, "classes": classes_in(oracle)})
        training = self.recipe.training_for("oracle")
        experts = {
            f"oracle-{name}": self.expert(f"oracle-{name}", bench, self.no_views(bench.base), "base", net, training)
            for name, net in self.recipe.backbones.items()
        }
        return self.stack("oracle", bench, self.no_views(bench.base), experts)

    # -- its parts -----------------------------------------------------------------------------------------------------

    def view(self, name: str) -> Denoiser:
        """Stage 1 for one view: a denoiser of that view's samples."""
        return self._once(f"view-{name}", lambda: self._view(name))

    def _view(self, name: str) -> Denoiser:
        own, material = f"{self.prefix}view-{name}", self.materials.views[name]
        if material.owner is not None:
            there, its = self.root.at(material.owner)
            denoiser = copy.deepcopy(there.view(its))
            self._keys[f"{own}-stack"] = there._keys[f"{there.prefix}view-{its}-stack"]
            return denoiser
        if material.pretrained is not None:
            return self._pretrained(own, material.pretrained)
        if material.views:
            inner = self.inner(name)
            denoiser = inner.denoiser("bootdiff")
            last = inner._keys.get(f"{inner.prefix}residual-stack") or digest(sorted(inner._keys.values()))
            self._keys[f"{own}-stack"] = last
            return denoiser
        bench = self.view_bench(name)
        composite = self.no_views(bench.base)
        training = self.recipe.training_for("views", name)
        experts = {}
        for kind, net in nets_of(self.recipe, name).items():
            start, parents = self._start_of_view(name, kind, net)
            experts[f"{own}-{kind}"] = self.expert(
                f"{own}-{kind}", bench, composite, "base", net, training, parents, start=start
            )
        return self.stack(own, bench, composite, experts)

    def _start_of_view(self, name: str, kind: str, net: Any) -> tuple[StageDir | None, list[Any]]:
        """Where the training of a view's network starts, None: anew, and what is to be known of that."""
        if self.recipe.views[name].start != "full":
            return None, []
        full, bench = self.full_bench(), self.view_bench(name)
        other = self.recipe.backbones.get(kind)
        if bench.classes != full.classes or not alike(net, bench.base.shape, other, full.base.shape):
            self.say(f"view-{name}-{kind}: starts anew, as it is another network than full-{kind} at its size")
            return None, []
        self.full_experts()
        return self.run.stage(f"full-{kind}"), ["start", self._keys[f"full-{kind}"]]

    def _pretrained(self, own: str, denoiser: Denoiser) -> Denoiser:
        """A denoiser that is there already: it costs no training, but an evaluation whenever it is asked."""
        self._keys[f"{own}-stack"] = fingerprint(denoiser)
        denoiser = denoiser.to(self.device)
        self.ledger[f"{own}-pretrained"] = forward_cost(denoiser)
        return denoiser

    def inner(self, name: str) -> Bootstrap:
        """The same stages for a view that has views of its own: there its samples are the full ones."""
        recipe, materials = self.recipe.inner(name), self.materials.inner(name)
        args = (recipe, materials, self.run, self.accelerator, self.progress, self.say, self.reuse, self.ledger)
        return self._once(f"inner {name}", lambda: Bootstrap(*args, outer=self, name=name))

    def at(self, path: str) -> tuple[Bootstrap, str]:
        """The stages around a view, by its path from here, and the view's own name."""
        head, _, rest = path.partition(".")
        return self.inner(head).at(rest) if rest else (self, head)

    @property
    def root(self) -> Bootstrap:
        """The outermost stages, those of the full samples."""
        return self if self.outer is None else self.outer.root

    @property
    def prefix(self) -> str:
        """What the names of these stages begin with: "view-clips." inside the view `clips`."""
        return "" if self.outer is None else f"{self.outer.prefix}view-{self.name}."

    def full_experts(self) -> dict[str, Snapshots]:
        """Stage 2: denoisers of the full samples, one per backbone."""
        return self._once("full experts", lambda: self._experts("full", self.no_views(self.full_bench().base), "base"))

    def residual_experts(self, composite: Composite) -> dict[str, Snapshots]:
        """Stage 4: experts of what the views leave over, one per backbone."""
        on = "base" if self.recipe.residual.warm else "views"
        if on == "base":
            self.full_experts()  # where they start
        return self._once("residual experts", lambda: self._experts("residual", composite, on))

    def _experts(self, what: str, composite: Composite, on: str) -> dict[str, Snapshots]:
        training = self.recipe.training_for("residual" if what == "unregularized" else what)
        parents = [] if what == "full" else [*self._view_keys(), composite.gains.tolist()]
        bench, own = self.full_bench(), f"{self.prefix}{what}"
        experts = {}
        for name, net in self.recipe.backbones.items():
            start, more = None, []
            if what == "residual" and on == "base":
                start = self.run.stage(f"{self.prefix}full-{name}")
                more = ["start", self._keys[f"{self.prefix}full-{name}"]]
            experts[f"{own}-{name}"] = self.expert(
                f"{own}-{name}", bench, composite, on, net, training, [*parents, *more], what != "unregularized",
                start=start,
            )  # fmt: skip
        return experts

    def expert(
        self,
        name: str,
        bench: Bench,
        composite: Composite,
        on: str,
        net: Any,
        training: Training,
        parents: Sequence[Any] = (),
        penalized: bool = True,
        objective: ResidualObjective | None = None,
        batches: Any = None,
        start: StageDir | None = None,
    ) -> Snapshots:
        """Train one expert on a composite, and choose its snapshot for each noise level on held-out samples.

        Other methods differ in `objective` and `batches` (None: the residual's, on `bench.train`) and in the complete
        stage whose last weights they `start` from; what these depend on beside the bench must be among the `parents`.
        """
        net = net.sized(bench.base.shape, self.root.materials.shape)
        residual = self.recipe.residual
        if not penalized:
            residual = residual.model_copy(update={"energy": 0.0, "subspace": 0.0, "project": False})
        regular = {"energy": residual.energy, "subspace": residual.subspace} if on == "views" else {}
        # Only what is not the default, so that stages of earlier runs stay usable.
        other = {"project": True} if residual.project else {}
        other |= {} if residual.sees_views else {"sees_views": False}
        settings = regular | (other if on == "views" else {})
        settings |= {} if bench.classes is None else {"unlabelled": UNLABELLED}
        key = self._key(name, bench, encode(net.model_dump()), training, settings, residual.snapshots, list(parents))
        stage = self._stage(name, key)
        held_out = self.held_out(bench, composite)
        scale = self._shelf.once(stage, "scale.json", lambda: residual_energy(held_out, on).tolist())
        expert = self._build(name, bench, composite, on, net, scale, residual.project)
        trainee = Trainee(expert)
        if start is not None:
            start_at(expert, start)
        if objective is None:
            noise = LogNormal(training.noise.mean, training.noise.std)
            objective = ResidualObjective(composite, noise, tau=bench.tau, **regular)
        batches = batches or self.batches(name, bench, training)
        done = stage.done
        result = fit(
            trainee, objective, batches, stage,
            steps=training.steps, lr=training.lr, warmup=training.warmup, schedule=training.schedule, ema=training.ema,
            weight_decay=training.weight_decay, clip=training.clip, seed=self._seed(name), accelerator=self.accelerator,
            evaluate=lambda model: self._by_level(held_out.expert(model.expert)),  # type: ignore[arg-type]
            evaluate_every=training.evaluate_every, checkpoint_seconds=training.checkpoint_seconds,
            compile=training.compile, progress=self.progress,
        )  # fmt: skip
        self.ledger[name] = result.ledger
        choose = partial(choosing.choose, stage, expert, held_out, result.snapshots, residual.snapshots)
        choice = self._shelf.once(stage, "choice.json", choose)
        if not done:
            self.say(f"{name}: held-out loss {choice['loss']:.4f}, best steps {choice['steps']} of {training.steps}")
        return choosing.chosen(stage, expert, self.levels, choice).to(self.device)

    def batches(self, name: str, bench: Bench, training: Training) -> Batches:
        """A bench's training samples, in the order of the stage `name`."""
        return Batches(
            bench.train, bench.scale, training.batch, seed=self._seed(name), flip=bench.flip, workers=training.workers,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes, mask=bench.mask,
        )  # fmt: skip

    def stack(self, name: str, bench: Bench, composite: Composite, experts: dict[str, Snapshots]) -> Stack:
        """Stage 5: weigh the experts on held-out samples."""
        chosen = list(experts.values())
        keys = [self._keys[e] for e in experts]
        mode = self.recipe.residual.kappa
        if mode == "one":
            weights = None
        else:
            # A view's stack is an input of the residual's training: what it gives matters there, its speed does not.
            last = self.outer is None and bench.samples is self.full_bench().samples
            prune = self.recipe.residual.prune if last else 0.0
            keys += [f"prune {prune:g}"] if prune else []
            solve = partial(self._kappa, bench, composite, chosen, prune)
            values = self._weights(f"{name}-stack", list(experts), solve, keys)
            weights = values.tolist()
        return Stack(composite, chosen, self.levels, weights).to(self.device).eval()

    # -- regressions ---------------------------------------------------------------------------------------------------

    def _news(self, composite: Composite) -> Weights:
        full_only = self.denoiser("full_only")
        bench = self.full_bench()
        return regressions.news(composite, full_only, bench.samples, self.recipe, self._seed("news"), bench.tau)

    def _gains(self, composite: Composite) -> Weights:
        bench = self.full_bench()
        # A view's own samples are many; so many say enough.
        train = bench.train if self.outer is None else Subset(bench.train, evenly(len(bench.train), _GAINS_AT_MOST))
        both = [on_device(in_memory(train, bench.scale), self.device), bench.samples]
        return regressions.gains(composite, both, self.recipe, self._seed("gains"), bench.tau)

    def _kappa(self, bench: Bench, composite: Composite, experts: list[Snapshots], prune: float) -> Weights:
        # Other noise than the snapshots were chosen with, and more of it.
        held_out = HeldOut(bench.samples, composite, self.levels, 4, seed=self._seed("stack"), tau=bench.tau)
        return regressions.kappa(held_out, experts, self.recipe, prune)

    def _weights(self, name: str, names: list[str], solve: Callable[[], Weights], parents: list[str]) -> Tensor:
        settings = [self.recipe.gains.model_dump(), self.recipe.residual.kappa]
        key = digest([name, names, parents, settings, self.levels, self.recipe.seed])
        stage = self._stage(name, key)
        if not self._shelf.has(stage, "done.json"):
            record = solve().record(self.levels, names)
            if self.accelerator.is_main_process:
                stage.finish(record)
            self.accelerator.wait_for_everyone()
            self.say(f"{name}: weights at sigma {', '.join(f'{s:g}' for s in self.levels)}")
            for k, part in enumerate(names):
                self.say(f"  {part:24s} " + " ".join(f"{row[k]:6.3f}" for row in record["values"]))
        return torch.tensor(stage.info["values"], dtype=torch.float64).reshape(len(self.levels), len(names))

    # -- benches and nets ----------------------------------------------------------------------------------------------

    @property
    def levels(self) -> list[float]:
        return list(self.recipe.levels)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def full_bench(self) -> Bench:
        return self._once("bench", self._full_bench)

    def _full_bench(self) -> Bench:
        if self.outer is not None:
            return self.outer.view_bench(self.name)
        return full_bench(self.materials, self.recipe.flip, self.device)

    def view_bench(self, name: str) -> Bench:
        flip = self.recipe.flip if self.outer is None else self.full_bench().flip
        return view_bench(self.materials.views[name], self.materials.shape, flip, self.device)

    def no_views(self, base: White) -> Composite:
        return Composite(base, {}, {}, self.levels).to(self.device)

    def held_out(self, bench: Bench, composite: Composite) -> HeldOut:
        draws = max(1, min(4, 128 // max(len(bench.samples), 1)))
        return HeldOut(bench.samples, composite, self.levels, draws, seed=self._seed("held out"), tau=bench.tau)

    def _build(
        self,
        name: str,
        bench: Bench,
        composite: Composite,
        on: str,
        net: Any,
        scale: list[float],
        project: bool = False,
    ) -> Expert:
        sees = bool(composite.views) and self.recipe.residual.sees_views
        channels = bench.base.shape[0] + (composite.seen if sees else 0)
        beside = bench.samples.context
        channels += 0 if beside is None else beside.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed(name))
            built = build_net(net.kind, channels, bench.base.shape, bench.classes, **net.options())
        if self.device.type == "cuda":
            # Tensor cores want channels last; on a CPU it would change the results of earlier runs by rounding.
            built = built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        null = composite.views if on == "views" and project else None
        return Expert(built, bench.base, self.levels, scale, sees, on, null).to(self.device)

    # -- stages on disk ------------------------------------------------------------------------------------------------

    def save(self, arm: str) -> Path:
        """Write an arm's denoiser into the run: `<run>/<arm>/model.json` and `model.safetensors`."""
        folder = self.run.path / arm
        if self.accelerator.is_main_process:
            save_denoiser(self.denoiser(arm), folder)
        return folder

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _seed(self, name: str) -> int:
        return int(hashlib.sha256(f"{self.recipe.seed} {name}".encode()).hexdigest()[:8], 16) // 2

    def _by_level(self, loss: Tensor) -> dict[str, float]:
        means = loss.mean(1).tolist()
        return {f"{s:g}": v for s, v in zip(self.levels, means, strict=True) if v == v}

    def _full_keys(self) -> list[str]:
        self.denoiser("full_only")
        return [self._keys[f"{self.prefix}full-stack"]]

    def _view_keys(self) -> list[str]:
        names = [f"{self.prefix}view-{name}-stack" for name in self.recipe.views]
        return [self._keys[name] for name in names if name in self._keys]

    def _key(self, name: str, bench: Bench, net: Any, training: Training, *more: Any) -> str:
        """Digest of all that a stage's result depends on."""
        how = training.model_dump(exclude={"workers", "checkpoint_seconds"})
        data = [bench.train.fingerprint(), bench.samples.x.cpu().double().flatten(1).sum(1).tolist(), bench.base.config]
        return digest([name, data, bench.scale, bench.flip, bench.tau, net, how, self.levels, self.recipe.seed, more])

    def _stage(self, name: str, key: str) -> StageDir:
        self._keys[name] = key
        return self._shelf.stage(name, key)
