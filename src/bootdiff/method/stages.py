"""Bootstrapping diffusion, stage by stage (Ma 2025, arXiv 2505.11825, with the regularizers of docs/regularization.md).

    1. views        for each kind i of partial data: train d_i on its own files (with `start: best`, after stage 2)
    2. full         denoisers of the full samples alone (they are the arm `full_only`, and experts of the stack);
       visible      denoisers of all pixels that full samples and views show (`visible`: experts of the stack)
    3. gains        which views add to what the full samples teach (`screen_views`)?  Their lambda_i(sigma): regress
                    x0 - b on the views' lifted evidence, on full samples
    4. residual     train experts D_k of x0 - V on the full samples, each stopped per noise level on held-out ones; they
                    start at full-only's or a view's networks (`warm_start`), or at zero on top of the views
                    (`unregularized`: the same without penalties, where the settings have it)
    5. stack        kappa_k(sigma) >= 0: regress x0 - V on D_k - V, on held-out full samples; among the experts are
       moments      the exact denoisers of Gaussians with the data's and the views' moments (`gaussian`)
       shift        by how much samplers understate the noise to it, so that samples have enough detail (`noise_shift`)
    6. distilled    where asked for: the full-only networks, taught to answer as the stack does (`distillation`)

and for comparison `oracle`: denoisers trained on all data in full.  A view's denoiser is itself a stack without views;
that of a view with views of its samples is what stages 1 to 5 make of them, its samples being the full ones (`inner`).
Which networks an arm needs is said by `plan`.  Every stage writes into its own folder of the run and is skipped when it
is complete: killed at any moment, the same command goes on to the same result.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bootdiff.data import Subset, spaced_indices
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.method import left_out, regressions, snapshots
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.distillation import Distillation, Pool, draw_pool, forward_cost
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.plan import ARMS, Part, Plan, Stage, plan
from bootdiff.method.problem import ViewData, fingerprint, in_memory
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.trainer import Task, Trainer
from bootdiff.method.training_set import TrainingSet, classes_in
from bootdiff.method.visible import visible_objective, visible_training_set, visible_views
from bootdiff.method.warm_start import alike, weights_like
from bootdiff.method.weights import Weights
from bootdiff.nets.network import BuiltIn
from bootdiff.sampling import classes_of
from bootdiff.views import to_config

__all__ = ["Bootstrap"]

# Samples of a view with views of its samples that their gains are fitted on, beside the held-out ones.
_GAINS_AT_MOST = 512

Experts = dict[str, SnapshotsByNoiseLevel]


@dataclass
class Bootstrap(Trainer):
    """The stages of one run: which things are made, of what, in which order (a `Trainer` says how each is made)."""

    # -- the algorithm -------------------------------------------------------------------------------------------------

    def denoiser(self, arm: str) -> Denoiser:
        """The finished denoiser of an arm of `ARMS`; trains what is still missing."""
        if arm not in ARMS:
            raise ValueError(f"no arm {arm!r}; known: {', '.join(ARMS)}")
        return self._once(arm, getattr(self, f"_{arm}"))

    def _views_only(self) -> CompositeDenoiser:
        """Stages 1 to 3."""
        views = {name: (v.view, self.view(name)) for name, v in self.problem.views.items()}
        composite = CompositeDenoiser(views, self.full_training_set().prior, self.levels).to(self.device)
        if self.settings.gains.mode == "unit":
            return composite
        self.denoiser("full_only")
        # Of pretrained views the keys say nothing of the view; of none of them, on which samples it is weighed.
        made_of = {"views": {n: to_config(v.view) for n, v in self.problem.views.items()}}
        made_of["samples"] = self.full_training_set().describe()
        keys = [*self._view_keys(), made_of, self._keys[f"{self.prefix}full-stack"]]
        found = self.weights(f"{self.prefix}screening", list(views), lambda: self._screening(composite), keys)
        composite = composite.with_gains(found).to(self.device)
        screened = set(composite.views)
        if composite.views:
            solve = partial(self._gains, composite)
            gains = self.weights(f"{self.prefix}gains", list(composite.views), solve, [*self._view_keys(), made_of])
            composite = composite.with_gains(gains).to(self.device)
        self._say_left_out(screened, set(composite.views))
        return composite

    def _full_only(self) -> StackedDenoiser:
        """Stage 2."""
        data = self.full_training_set()
        experts = {**self.experts("full"), **self.gaussian(f"{self.prefix}full", data)}
        return self.stack(f"{self.prefix}full", data, self.no_views(data.prior), experts)

    def _bootdiff(self) -> Denoiser:
        """Stages 1 to 5."""
        composite, data = self.composite(), self.full_training_set()
        experts: dict[str, Denoiser] = dict(self.experts("residual")) if composite.views else {}
        if self.settings.residual.full_experts or not composite.views:
            # Without a view that adds anything, bootdiff *is* full-only training.
            experts = {**experts, **self.experts("full")}
        if self.visible_views():
            experts = {**experts, **self.experts("visible")}
        experts |= self.gaussian(f"{self.prefix}full", data) | self.moments()
        return self.stack(f"{self.prefix}residual", data, composite, experts)

    def _unregularized(self) -> Denoiser:
        """The residual as it comes: last weights of each expert, weight 1, nothing held out."""
        composite = self.composite()
        part: Part = "unregularized" if self.settings.residual.penalties else "residual"
        experts = self.experts(part if composite.views else "full")
        last = [snapshots.last(self.run.stage(name), expert) for name, expert in experts.items()]
        return StackedDenoiser(composite, last, self.levels).to(self.device).eval()

    def _distilled(self) -> Denoiser:
        """Stage 6: bootdiff in as many networks as full-only has."""
        teacher = self.denoiser("bootdiff")
        if not self.composite().views:
            return teacher  # which is full-only training
        data = self.full_training_set()
        return self.stack("distilled", data, self.no_views(data.prior), {**self.experts("distilled"), **self.moments()})

    def _oracle(self) -> StackedDenoiser:
        """Denoisers trained on all data in full."""
        experts, data = self.experts("oracle"), self._oracle_training_set()
        return self.stack("oracle", data, self.no_views(data.prior), {**experts, **self.gaussian("oracle", data)})

    # -- its parts -----------------------------------------------------------------------------------------------------

    def composite(self) -> CompositeDenoiser:
        """The views' composite with its gains: the arm `views_only`."""
        found = self.denoiser("views_only")
        assert isinstance(found, CompositeDenoiser)
        return found

    def visible_views(self) -> list[str]:
        """The views whose pixels are shared with the full samples'."""
        return self._once("visible views", lambda: visible_views(self.settings, self.problem))

    def _sharing(self) -> dict[str, tuple[ViewData, TrainingSet]]:
        return {name: (self.problem.views[name], self.view_training_set(name)) for name in self.visible_views()}

    def pixels(self) -> TrainingSet:
        """All pixels that full samples and views show."""
        share, full = self.settings.residual.visible_share, self.full_training_set()
        return self._once("pixels", lambda: visible_training_set(full, self._sharing(), share))

    def plan(self, arms: Sequence[str]) -> Plan:
        """The stages that these arms need."""
        return plan(self.settings, self.problem, arms)

    def view(self, name: str) -> Denoiser:
        """Stage 1 for one view: a denoiser of that view's samples."""
        return self._once(f"view-{name}", lambda: self._view(name))

    def _view(self, name: str) -> Denoiser:
        own, v = f"{self.prefix}view-{name}", self.problem.views[name]
        if v.owner is not None:
            around, _, its = v.owner.rpartition(".")
            there = self.root.within(around)
            denoiser = copy.deepcopy(there.view(its))
            self._keys[f"{own}-stack"] = there._keys[f"{there.prefix}view-{its}-stack"]
            return denoiser
        if v.pretrained is not None:
            return self._pretrained(own, v.pretrained)
        if v.views:
            inner = self.inner(name)
            denoiser = inner.denoiser("bootdiff")
            self._keys[f"{own}-stack"] = inner._keys[f"{inner.prefix}residual-stack"]
            return denoiser
        data = self.view_training_set(name)
        experts: Experts = dict(self._view_expert(name, network) for network in self.settings.views[name].networks)
        return self.stack(own, data, self.no_views(data.prior), {**experts, **self.gaussian(own, data)})

    def _view_expert(self, name: str, network: str) -> tuple[str, SnapshotsByNoiseLevel]:
        """One network of a view that is trained on its files alone, by the name of its stage."""
        begun = self.settings.views[name].start == "best"
        before = list(itertools.takewhile(lambda other: other != name, self._own_views())) if begun else []
        for other in before:
            self.view(other)
        task = self.task(Stage("view", network, name, self.path))
        start = self._init(name, task) or (self._starts(task, network, before) if begun else [])
        if begun and not start:
            self.log(f"{task.name}: starts from scratch, no network that is there is like it")
        return task.name, self.train(task, start=start)

    def _pretrained(self, own: str, denoiser: Denoiser) -> Denoiser:
        """A denoiser that is there already: it costs no training, but an evaluation whenever it is used."""
        self._keys[f"{own}-stack"] = fingerprint(denoiser)
        denoiser = denoiser.to(self.device)
        self.ledger[f"{own}-pretrained"] = forward_cost(denoiser)
        return denoiser

    def inner(self, name: str) -> Bootstrap:
        """The same stages for a view that has views of its samples: there its samples are the full ones."""
        settings = self.settings.views[name].inner
        assert settings is not None
        args = (settings, self.problem.inner(name), self.run, self.accelerator, self.progress, self.log, self.reuse)
        return self._once(f"inner {name}", lambda: Bootstrap(*args, self.ledger, outer=self, name=name, only=self.only))

    def within(self, path: str) -> Bootstrap:
        """The stages inside the view at this path from here; "" for these."""
        stages = self
        for step in path.split(".") if path else []:
            stages = stages.inner(step)
        return stages

    def moments(self) -> dict[str, Denoiser]:
        """The Gaussian of the full samples with the moments of the views that add anything."""
        names = [n for n in self.composite().views if self.problem.views[n].train is not None]
        views = {n: (self.problem.views[n], self.view_training_set(n)) for n in names}
        return self.gaussian(f"{self.prefix}residual", self.full_training_set(), views) if views else {}

    def experts(self, part: Part) -> Experts:
        """The trained networks of a part, by the names of their stages."""
        return self._once(f"experts of {part}", lambda: self._experts(part))

    def _experts(self, part: Part) -> Experts:
        networks = self.settings.distilled_networks if part == "distilled" else self.settings.networks
        return dict(self._expert(part, network) for network in networks)

    def _expert(self, part: Part, network: str) -> tuple[str, SnapshotsByNoiseLevel]:
        """One network of a part, by the name of its stage."""
        composite = self.composite() if part in ("residual", "unregularized") else None
        teacher = self.denoiser("bootdiff") if part == "distilled" else None
        task = self.task(Stage(part, network, around=self.path), composite, teacher)
        keys, start = self._parents(task, part, network)
        return task.name, self.train(task, keys, start=self._init(part, task) or start)

    def make(self, stage: Stage) -> None:
        """Train one stage, and weigh what it needs to be weighed; `plan.parents_of` says what must be there before."""
        stages = self.within(stage.around)
        if stage.part == "view":
            assert stage.view is not None
            stages._view_expert(stage.view, stage.network)
        else:
            stages._expert(stage.part, stage.network)

    def task(self, stage: Stage, composite: CompositeDenoiser | None = None, teacher: Denoiser | None = None) -> Task:
        """How a stage of this problem is trained, on what.

        Args:
            composite: of the views, for the residual.
            teacher: bootdiff's denoiser, for a distilled network.
        """
        part, name, settings = stage.part, stage.name, self.settings
        if part == "view":
            assert stage.view is not None
            how, data = settings.views[stage.view], self.view_training_set(stage.view)
            none = self.no_views(data.prior)
            shown = how.start == "best" and data.mask_channels == 0
            masks = self.mask_channels() if shown else 0
            return Task(name, data, none, how.networks[stage.network], how.training, mask_channels=masks)
        data = self.full_training_set()
        none = self.no_views(data.prior)
        if part in ("residual", "unregularized"):
            assert composite is not None
            residual, training = settings.residual, settings.training["residual"]
            penalties = residual.penalties if part == "residual" else {}
            warm = part == "residual" and residual.warm_start
            return Task(
                name, data, composite, settings.networks[stage.network], training,
                anchor="prior" if warm else "views",
                objective=ResidualObjective(composite, training.noise, penalties, data.tau),
                mask_channels=self.mask_channels() if residual.starts_best else 0, uses_views=residual.uses_views,
            )  # fmt: skip
        if part == "distilled":
            assert teacher is not None
            training = settings.training["distilled"]
            objective = Distillation(none, training.noise, teacher=teacher)
            network, pooled = settings.distilled_networks[stage.network], self._pooled(data, teacher)
            masks = self.mask_channels() if self.visible_views() else 0  # so that it may start at these networks
            return Task(name, pooled, none, network, training, objective=objective, mask_channels=masks)
        if part == "visible":
            pixels, training = self.pixels(), settings.training["visible"]
            masks = pixels.train.mask_channels if data.samples.context is None else 0  # type: ignore[attr-defined]
            return Task(
                name, pixels, none, settings.networks[stage.network], training,
                objective=visible_objective(none, training.noise, data, self._sharing()), mask_channels=masks,
            )  # fmt: skip
        if part == "oracle":
            data = self._oracle_training_set()
        return Task(name, data, none, settings.networks[stage.network], settings.training[part])

    def _oracle_training_set(self) -> TrainingSet:
        """All data in full; the held-out samples stay held out."""
        oracle = self.problem.oracle
        assert oracle is not None
        return replace(self.full_training_set(), train=oracle, classes=classes_in(oracle))

    def _parents(self, task: Task, part: Part, network: str) -> tuple[list[Any], list[Path]]:
        """What an expert depends on beside its task, and the weights that it may start at."""
        begin = [self.run.stage(f"{self.prefix}full-{network}") / "final.safetensors"]
        if part == "distilled":
            return [self._keys["distilled-samples"]], self._starts(task, network, [])
        if part not in ("residual", "unregularized"):
            return [], []
        keys: list[Any] = [*self._view_keys(), task.composite.gains.tolist()]
        if task.anchor == "views":
            return keys, []
        self.experts("full")  # where they may start
        if self.settings.residual.starts_best:
            return keys, self._starts(task, network, list(task.composite.views))
        return keys, begin

    def _pooled(self, data: TrainingSet, teacher: Denoiser) -> TrainingSet:
        """The full samples and as many drawn from bootdiff's model."""

        def make() -> TrainingSet:
            classes = None if data.classes is None else classes_of(teacher)
            count, how, seed = (
                self.settings.distillation.samples,
                self.settings.sampling,
                self.seed("distilled-samples"),
            )
            last = self._keys[f"{self.prefix}residual-stack"]
            # The shift is the teacher's: where it has one, samples that were drawn without are drawn again.
            sampling = {key: value for key, value in asdict(how).items() if key != "noise_shift"}
            shift = {"noise_shift": teacher.noise_shift} if teacher.noise_shift else {}
            made_with = {"count": count, "sampling": sampling, "seed": seed, "classes": classes}
            stage = self._stage("distilled-samples", made_with, parents={"bootdiff": last} | shift)
            drawn, labels, cost = draw_pool(
                teacher, stage, stage.key, count, how, seed, classes, self.accelerator, self.progress
            )
            self.ledger["distilled-samples"] = cost
            return replace(data, train=Pool(self.problem.full, drawn, labels))

        return self._once("pool", make)

    def check_networks(self, arms: Sequence[str]) -> None:
        """Build the networks of one's own that these arms need, so that what is wrong is said before hours of training.

        Raises:
            ValueError: a network that cannot be built or does not keep the contract (`nets.network.check_network`).
        """
        for stage in self.plan(arms).trainings:
            stages = self.within(stage.around)
            networks = stages.settings.distilled_networks if stage.part == "distilled" else stages.settings.networks
            if stage.view is not None:
                networks = stages.settings.views[stage.view].networks
            if isinstance(networks[stage.network], BuiltIn):
                continue
            data = stages.full_training_set() if stage.view is None else stages.view_training_set(stage.view)
            beside = data.samples.context
            channels = data.prior.shape[0] + (0 if beside is None else beside.shape[1])
            if stage.part in ("residual", "unregularized") and stages.settings.residual.uses_views:
                channels += data.prior.shape[0] * len(stages.problem.views)
            network = networks[stage.network].resolve(data.prior.shape, self.root.problem.shape)
            with torch.random.fork_rng(devices=[]):
                network.build(channels, data.prior.shape, data.classes)

    # -- where networks start ------------------------------------------------------------------------------------------

    def _init(self, name: str, task: Task) -> list[Path]:
        """The weights of a model that the networks of this part or view are to start at, as a stage of their own."""
        model = self.settings.init.get(name)
        if model is None:
            return []
        stage = self._stage(f"{task.name}.init", {"model": fingerprint(model), "network": task.network.describe()})
        if not self._store.exists(stage, "done.json"):
            net = self.build(task).net
            weights = weights_like(net, model)
            if weights is None:
                raise BootdiffError(
                    f"init.{name}: the model has no network of the form of {task.name} ({type(net).__name__}); give "
                    "one that was trained with the same networks, or change `networks` (`backbones`) to its own"
                )
            if self.accelerator.is_main_process:
                stage.save_weights("final.safetensors", {f"net.{k}": v.cpu() for k, v in weights.items()})
                stage.finish({})
            self.accelerator.wait_for_everyone()
        return [stage / "final.safetensors"]

    def _starts(self, task: Task, network: str, views: Sequence[str]) -> list[Path]:
        """What a network can start at, where they are alike: full-only's of its name, that of all visible pixels, and
        those of these views.

        Returns:
            their last weights (those trained longest, not those that are best by themselves).
        """
        full, found = self.full_training_set(), []
        same_name = self.settings.networks.get(network)
        candidates = [(f"{self.prefix}full-{network}", full, same_name, full.mask_channels)]
        if self.visible_views():
            stage = f"{self.prefix}visible-{network}"
            candidates.append((stage, self.pixels(), same_name, self.pixels().train.mask_channels))  # type: ignore[attr-defined]
        for name in (v for v in self._own_views() if v in views):
            other = self.settings.views[name].networks.get(network)
            data = self.view_training_set(name)
            masks = self.mask_channels() if data.mask_channels == 0 else data.mask_channels
            candidates.append((f"{self.prefix}view-{name}-{network}", data, other, masks))
        channels = task.mask_channels or task.data.mask_channels or 0
        for stage, data, other, masks in candidates:
            same = alike(task.network, task.data.prior.shape, other, data.prior.shape, self.root.problem.shape)
            if same and data.classes == task.data.classes and (data is task.data or masks in (0, channels)):
                found.append(stage)
        for part in ("full", "visible"):
            if f"{self.prefix}{part}-{network}" in found:
                self.experts(part)
        return [self.run.stage(stage) / "final.safetensors" for stage in found]

    def mask_channels(self) -> int:
        """Mask channels of networks that see all: so that they may start at those that take masks, as many."""
        if self.full_training_set().samples.context is not None:
            return 0
        views = [self.view_training_set(name).mask_channels or 0 for name in self._own_views()]
        shared = [self.pixels().train.mask_channels] if self.visible_views() else []  # type: ignore[attr-defined]
        return max([0, *views, *shared])

    def _own_views(self) -> list[str]:
        """The views whose networks are trained here, on their files alone."""
        return [name for name, v in self.problem.views.items() if v.is_trained]

    # -- regressions ---------------------------------------------------------------------------------------------------

    def _screening(self, composite: CompositeDenoiser) -> Weights:
        data, how = self.full_training_set(), self.settings.gains
        full_only, seed = self.denoiser("full_only"), self.seed("news")
        tick = self.ticker(f"{self.prefix}screening", len(data.samples))
        return regressions.screen_views(composite, full_only, data.samples, how, self.levels, seed, data.tau, tick)

    def _gains(self, composite: CompositeDenoiser) -> Weights:
        data, how = self.full_training_set(), self.settings.gains
        # A view's own samples are many; this many suffice.
        some = spaced_indices(len(data.train), _GAINS_AT_MOST)
        train = data.train if self.outer is None else Subset(data.train, some)
        both = [in_memory(train, data.scale).to(self.device), data.samples]
        tick = self.ticker(f"{self.prefix}gains", sum(map(len, both)))
        return regressions.gains(composite, both, how, self.levels, self.seed("gains"), data.tau, tick)

    def _say_left_out(self, screened: set[str], kept: set[str]) -> None:
        """Tell why each view that is not kept has no part in it; `screened`: those that passed the screening."""

        def words() -> dict[str, str]:
            said = {}
            for name in (name for name in self.problem.views if name not in kept):
                networks = self.settings.views[name].networks if name in self._own_views() else ()
                stages = [Stage("view", network, name, self.path).name for network in networks]
                falling = {stage: left_out.still_improving(self.run.metrics(stage)) for stage in stages}
                still = {stage: share for stage, share in falling.items() if share is not None}
                said[name] = left_out.sentence(name, name not in screened, still)
            return said

        of = [self._keys.get(f"{self.prefix}{stage}") for stage in ("screening", "gains")] + [sorted(kept)]
        stage = self.run.stage(f"{self.prefix}screening")
        for text in self._store.get_or_compute(stage, left_out.FILE, words, of).values():
            self.log(text)

    def _view_keys(self) -> list[str]:
        names = [f"{self.prefix}view-{name}-stack" for name in self.problem.views]
        return [self._keys[name] for name in names if name in self._keys]
