"""Bootstrapping diffusion, stage by stage (Ma 2025, arXiv 2505.11825, with the regularizers of docs/regularization.md).

    1. views        for each kind i of partial data: train d_i on its own files (with `start: best` after stage 2)
    2. full         denoisers trained on the full samples alone (they are the arm `full_only`, and experts of the stack)
    3. gains        which views know what the full samples do not teach (`news`)?  For these, lambda_i(sigma): regress
                    x0 - b on the views' lifted evidence, on full samples
    4. residual     train experts r_k of x0 - V on the full samples, each stopped per noise level on held-out ones; they
                    start at full-only's or a view's networks (`starting`), or at zero on top of the views
                    (`unregularized`: the same without energy, subspace and projection, where the recipe sets them)
    5. stack        kappa_k(sigma) >= 0: regress x0 - V on D_k - V, on held-out full samples
    6. distilled    where asked for: the full-only networks, taught to answer as the stack does (`distilling`)

and for comparison `oracle`: denoisers trained on all data in full.  A view's denoiser is itself a stack without views;
that of a view with views of its own is what stages 1 to 5 make of them, its samples being the full ones (`inner`).
Every stage writes into its own folder of the run and is skipped when it is complete: killed at any moment, the same
command goes on to the same result.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bootdiff.data import Subset, spaced_indices
from bootdiff.denoise import Denoiser
from bootdiff.method import regressions, snapshots
from bootdiff.method.composite import CompositeDenoiser, SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.distillation import Distillation, Pool, draw_pool
from bootdiff.method.problem import in_memory
from bootdiff.method.trainer import Trainer
from bootdiff.method.training_set import TrainingSet, classes_in, on_device
from bootdiff.method.warm_start import alike, masks_of
from bootdiff.method.weights import Weights
from bootdiff.noise import LogNormal
from bootdiff.recipe.open_model import fingerprint, forward_cost
from bootdiff.sampling import classes_of
from bootdiff.training.stages import digest

__all__ = ["ARMS", "Bootstrap", "TrainingSet"]

# Samples of a view with views of its own that their gains are fitted on, beside the held-out ones.
_GAINS_AT_MOST = 512

ARMS = ("full_only", "views_only", "unregularized", "bootdiff", "distilled", "oracle")
"""What can be trained from one recipe; every arm is made of the same parts."""


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
        bench = self.full_training_set()
        denoisers = {name: self.view(name) for name in self.recipe.views}
        views = {name: v.view for name, v in self.materials.views.items()}
        composite = CompositeDenoiser(bench.base, views, denoisers, self.levels).to(self.device)
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

    def _full_only(self) -> StackedDenoiser:
        """Stage 2."""
        bench = self.full_training_set()
        return self.stack(f"{self.prefix}full", bench, self.no_views(bench.base), self.full_experts())

    def _bootdiff(self) -> Denoiser:
        """Stages 1 to 5."""
        composite = self.denoiser("views_only")
        assert isinstance(composite, CompositeDenoiser)
        experts = self.residual_experts(composite) if composite.views else {}
        if self.recipe.residual.full_experts or not composite.views:
            # Without a view that has something to say, bootdiff *is* full-only training.
            experts = {**experts, **self.full_experts()}
        return self.stack(f"{self.prefix}residual", self.full_training_set(), composite, experts)

    def _unregularized(self) -> Denoiser:
        """The residual as it comes: last weights of each expert, weight 1, nothing held out."""
        composite = self.denoiser("views_only")
        assert isinstance(composite, CompositeDenoiser)
        if not composite.views:
            experts = self.full_experts()
        elif self.recipe.residual.penalized:
            experts = self._experts("unregularized", composite, "views")
        else:
            experts = self.residual_experts(composite)
        last = [snapshots.last(self.run.stage(name), expert) for name, expert in experts.items()]
        return StackedDenoiser(composite, last, self.levels).to(self.device).eval()

    def _distilled(self) -> Denoiser:
        """Stage 6: bootdiff in as many networks as full-only has."""
        teacher, composite = self.denoiser("bootdiff"), self.denoiser("views_only")
        assert isinstance(composite, CompositeDenoiser)
        if not composite.views:
            return teacher  # which is full-only training
        bench, training, nets = (
            self.full_training_set(),
            self.recipe.training_for("distilled"),
            self.recipe.distill_backbones,
        )
        classes = None if bench.classes is None else classes_of(teacher)
        count, how, seed = self.recipe.distill.samples, self.recipe.sampling, self._seed("distilled-samples")
        made_with = {"count": count, "sampling": how.model_dump(exclude={"count"}), "seed": seed, "classes": classes}
        stage = self._stage("distilled-samples", made_with, parents={"bootdiff": self._last_key()})
        key = stage.key
        drawn, labels, cost = draw_pool(teacher, stage, key, count, how, seed, classes, self.accelerator, self.progress)
        self.ledger["distilled-samples"] = cost
        bench = TrainingSet(**{**vars(bench), "train": Pool(self.materials.full, drawn, labels)})
        none, experts = self.no_views(bench.base), {}
        objective = Distillation(none, LogNormal(training.noise.mean, training.noise.std), teacher=teacher)
        for name, net in nets.items():
            same = self.recipe.backbones.get(name) == net
            parents = [key]
            experts[f"distilled-{name}"] = self.expert(
                f"distilled-{name}", bench, none, "base", net, training, parents, penalized=False, objective=objective,
                start=[self.run.stage(f"full-{name}") / "final.safetensors"] if same else [],
            )  # fmt: skip
        return self.stack("distilled", bench, none, experts)

    def _oracle(self) -> StackedDenoiser:
        """Denoisers trained on all data in full."""
        assert self.materials.oracle is not None
        bench = self.full_training_set()
        oracle = self.materials.oracle
        bench = TrainingSet(**{**vars(bench), "train": oracle, "classes": classes_in(oracle)})
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
            self._keys[f"{own}-stack"] = inner._last_key()
            return denoiser
        bench = self.view_training_set(name)
        composite = self.no_views(bench.base)
        training = self.recipe.training_for("views", name)
        begun = self.recipe.views[name].start == "best"
        before = list(itertools.takewhile(lambda other: other != name, self._own_views())) if begun else []
        for other in before:
            self.view(other)
        experts = {}
        for kind, net in self.recipe.backbones_for(name).items():
            start = self._starts(bench, kind, net, masks_of(bench) or 0, before) if begun else []
            if begun and not start:
                self.log(f"{own}-{kind}: starts anew, no network that is there is like it")
            experts[f"{own}-{kind}"] = self.expert(
                f"{own}-{kind}", bench, composite, "base", net, training, start=start
            )
        return self.stack(own, bench, composite, experts)

    def _starts(self, target: TrainingSet, kind: str, net: Any, mask_channels: int, views: Sequence[str]) -> list[Path]:
        """What a network can start at: full-only's of its kind and those of these views, where they are alike.

        Returns:
            their last weights (those trained longest, not those that are best by themselves).
        """
        full, found = self.full_training_set(), []
        candidates = [(f"{self.prefix}full-{kind}", full, self.recipe.backbones.get(kind))]
        for name in (v for v in self._own_views() if v in views):
            other = self.recipe.backbones_for(name).get(kind)
            candidates.append((f"{self.prefix}view-{name}-{kind}", self.view_training_set(name), other))
        for stage, bench, other in candidates:
            same = alike(net, target.base.shape, other, bench.base.shape, self.root.materials.shape)
            told_alike = bench is target or masks_of(bench) in (0, mask_channels)
            if same and bench.classes == target.classes and told_alike:
                found.append(stage)
        if found and found[0].startswith(f"{self.prefix}full-"):
            self.full_experts()
        return [self.run.stage(stage) / "final.safetensors" for stage in found]

    def mask_channels(self) -> int:
        """Mask channels of residual experts that may start at a masked view's networks: as many as these see."""
        if not self.recipe.residual.starts_best or self.full_training_set().samples.context is not None:
            return 0
        return max([0, *(masks_of(self.view_training_set(name)) or 0 for name in self._own_views())])

    def _own_views(self) -> list[str]:
        """The views whose networks are trained here, on their files alone."""
        views = self.materials.views.items()
        return [name for name, v in views if v.owner is None and v.pretrained is None and not v.views]

    def _pretrained(self, own: str, denoiser: Denoiser) -> Denoiser:
        """A denoiser that is there already: it costs no training, but an evaluation whenever it is asked."""
        self._keys[f"{own}-stack"] = fingerprint(denoiser)
        denoiser = denoiser.to(self.device)
        self.ledger[f"{own}-pretrained"] = forward_cost(denoiser)
        return denoiser

    def inner(self, name: str) -> Bootstrap:
        """The same stages for a view that has views of its own: there its samples are the full ones."""
        recipe, materials = self.recipe.inner(name), self.materials.inner(name)
        args = (recipe, materials, self.run, self.accelerator, self.progress, self.log, self.reuse, self.ledger)
        return self._once(f"inner {name}", lambda: Bootstrap(*args, outer=self, name=name))

    def at(self, path: str) -> tuple[Bootstrap, str]:
        """The stages around a view, by its path from here, and the view's own name."""
        head, _, rest = path.partition(".")
        return self.inner(head).at(rest) if rest else (self, head)

    def full_experts(self) -> dict[str, SnapshotsByNoiseLevel]:
        """Stage 2: denoisers of the full samples, one per backbone."""
        return self._once(
            "full experts", lambda: self._experts("full", self.no_views(self.full_training_set().base), "base")
        )

    def residual_experts(self, composite: CompositeDenoiser) -> dict[str, SnapshotsByNoiseLevel]:
        """Stage 4: experts of what the views leave over, one per backbone."""
        on = "base" if self.recipe.residual.warm_start else "views"
        if on == "base":
            self.full_experts()  # where they start
        return self._once("residual experts", lambda: self._experts("residual", composite, on))

    def _experts(self, what: str, composite: CompositeDenoiser, on: str) -> dict[str, SnapshotsByNoiseLevel]:
        training = self.recipe.training_for("residual" if what == "unregularized" else what)
        parents = [] if what == "full" else [*self._view_keys(), composite.gains.tolist()]
        bench, own = self.full_training_set(), f"{self.prefix}{what}"
        experts, mask_channels = {}, self.mask_channels() if what == "residual" and on == "base" else 0
        for name, net in self.recipe.backbones.items():
            start: list[Path] = []
            if what == "residual" and on == "base" and self.recipe.residual.starts_best:
                start = self._starts(bench, name, net, mask_channels, list(composite.views))
            elif what == "residual" and on == "base":
                start = [self.run.stage(f"{self.prefix}full-{name}") / "final.safetensors"]
            experts[f"{own}-{name}"] = self.expert(
                f"{own}-{name}", bench, composite, on, net, training, parents, what != "unregularized",
                start=start, mask_channels=mask_channels,
            )  # fmt: skip
        return experts

    # -- regressions ---------------------------------------------------------------------------------------------------

    def _news(self, composite: CompositeDenoiser) -> Weights:
        full_only = self.denoiser("full_only")
        bench = self.full_training_set()
        return regressions.news(composite, full_only, bench.samples, self.recipe, self._seed("news"), bench.tau)

    def _gains(self, composite: CompositeDenoiser) -> Weights:
        bench = self.full_training_set()
        # A view's own samples are many; so many say enough.
        train = (
            bench.train if self.outer is None else Subset(bench.train, spaced_indices(len(bench.train), _GAINS_AT_MOST))
        )
        both = [on_device(in_memory(train, bench.scale), self.device), bench.samples]
        return regressions.gains(composite, both, self.recipe, self._seed("gains"), bench.tau)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _full_keys(self) -> list[str]:
        self.denoiser("full_only")
        return [self._keys[f"{self.prefix}full-stack"]]

    def _last_key(self) -> str:
        """What the finished model depends on; without fitted weights (`residual.kappa: one`) the stack has no stage."""
        return self._keys.get(f"{self.prefix}residual-stack") or digest(sorted(self._keys.values()))

    def _view_keys(self) -> list[str]:
        names = [f"{self.prefix}view-{name}-stack" for name in self.recipe.views]
        return [self._keys[name] for name in names if name in self._keys]
