"""The residual loss with its regularizers, and the held-out ruler that all choices are made with.

For a sample x0, noise n and an expert r = c_r F on top of the composite V, F's target has unit variance:

    loss = | F - (x0 - V) / c_r |^2  +  mu |F|^2  +  nu sum_i |A_i F|^2,

means over coordinates: mu (*energy*) shrinks toward the views, nu (*subspace*) makes what lies in the views' row space
dearer than what lies in their null space.  The hard limit projects F on the null space (`composite.project_null`).

Data stored with noise, y = A x0 + tau n', is trained at sigma^2 = tau^2 + s^2 > tau^2 by predicting the stored y from a
noisier copy x = y + s n: with a = s^2 / sigma^2, Tweedie's formula E[y|x] = a E[x0|x] + (1 - a) x makes

    | a D(x, sigma) + (1 - a) x - y |^2

a loss whose minimizer is D = E[x0|x] itself.
Sources: EDM loss: Karras et al. 2022, arXiv 2206.00364, equation 8; noisy data: Daras et al. 2024 (consistent diffusion
meets Tweedie), arXiv 2404.10177; labels left out: Ho, Salimans 2022, arXiv 2207.12598; residual score with
regularization: Ma 2025, arXiv 2505.11825.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, denoising_error, expand, mean_over
from bootdiff.method.composite import CompositeDenoiser, Estimates, ResidualExpert
from bootdiff.method.weights import Moments
from bootdiff.noise import LogNormal, precondition
from bootdiff.training.loop import global_draw, global_randn

__all__ = [
    "LossModule",
    "NoisyBatch",
    "ResidualObjective",
    "SampleSet",
    "Validator",
    "noisy_batches",
    "residual_energy",
]


UNLABELLED = 0.1
"""Share of labels left out in training, so that a network also knows what to do where no class is given."""


@dataclass
class SampleSet:
    """Clean samples in memory: x (n, *shape) in view coordinates; label (n,), mask (n, 1 or C, *space) and place
    (n, axes, *space), or None."""

    x: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    position_channels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        label, mask = (None if v is None else v[index] for v in (self.label, self.mask))
        return self.x[index], label, mask

    @property
    def context(self) -> Tensor | None:
        """What a denoiser sees of them beside x, (n, c, *space), as `View.context`."""
        return _beside(self.mask, self.position_channels)

    def to(self, device: torch.device | str) -> SampleSet:
        """The same samples there."""
        rest = (None if v is None else v.to(device) for v in (self.label, self.mask, self.position_channels))
        return SampleSet(self.x.to(device), *rest)


def _beside(mask: Tensor | None, position_channels: Tensor | None) -> Tensor | None:
    given = [v for v in (mask, position_channels) if v is not None]
    return torch.cat(given, 1) if given else None


@dataclass
class NoisyBatch:
    """A batch of one noise level: what `noisy_batches` yields."""

    level: int
    draw: int
    index: Tensor
    x0: Tensor
    x: Tensor
    sigma: Tensor
    label: Tensor | None
    mask: Tensor | None
    context: Tensor | None


def noisy_batches(
    samples: SampleSet, levels: Sequence[float], draws: int, seed: int, tau: float = 0.0, batch: int = 64
) -> Iterator[NoisyBatch]:
    """Every sample at every noise level (above tau), `draws` times, with noise that depends on nothing but the seed,
    level, draw and sample: the same for every denoiser that is compared."""
    context = samples.context
    for level, value in enumerate(levels):
        if value <= tau * 1.01:
            continue
        added = (value**2 - tau**2) ** 0.5
        for draw in range(draws):
            generator = torch.Generator().manual_seed((seed * 1009 + level) * 1009 + draw)
            noise = torch.randn(samples.x.shape, generator=generator)
            for index in torch.arange(len(samples)).split(batch):
                x0, label, mask = samples.rows(index)
                n = noise[index].to(x0)
                x = x0 + added * (n if mask is None else n * mask.to(x0))
                sigma = torch.full((len(index),), float(value), device=x0.device)
                beside = None if context is None else context[index]
                yield NoisyBatch(level, draw, index, x0, x, sigma, label, mask, beside)


class Validator:
    """Held-out loss per noise level of an expert (on its composite) or of any denoiser; the composite's part is cached.

    Args:
        samples: held-out samples.
        composite: what the expert stands on.
        levels: noise levels.
        draws: noise draws per sample and level.
        seed: of the noise.
        tau: noise of the stored samples themselves.
        cache: bytes that may be kept of the composite's estimates.
    """

    def __init__(
        self,
        samples: SampleSet,
        composite: CompositeDenoiser,
        levels: Sequence[float],
        draws: int = 1,
        seed: int = 0,
        tau: float = 0.0,
        cache: int = 2**30,
    ) -> None:
        self.samples, self.composite, self.levels = samples, composite, list(levels)
        self.draws, self.seed, self.tau = draws, seed, tau
        views = 2 + len(composite.views)
        size = samples.x.numel() * 4 * views * len(self.levels) * draws
        self.store: list[tuple[NoisyBatch, Estimates]] | None = [] if size <= cache else None

    def points(self) -> Iterator[tuple[NoisyBatch, Estimates]]:
        """Every probe with the composite's estimates of it."""
        if self.store:
            yield from self.store
            return
        for p in noisy_batches(self.samples, self.levels, self.draws, self.seed, self.tau):
            with torch.no_grad():
                estimates = self.composite.estimate(p.x, p.sigma, p.label)
            if self.store is not None:
                self.store.append((p, estimates))
            yield p, estimates

    def _gather(self, errors: Iterator[tuple[NoisyBatch, Tensor]]) -> Tensor:
        loss = torch.full((len(self.levels), len(self.samples)), float("nan"), dtype=torch.float64)
        for p, error in errors:
            before = loss[p.level, p.index] if p.draw else 0.0
            loss[p.level, p.index] = before + error.double().cpu() / self.draws
        return loss

    def _error(self, p: NoisyBatch, estimate: Tensor) -> Tensor:
        a = 1 - (self.tau / p.sigma) ** 2
        estimate = expand(a, p.x) * estimate + expand(1 - a, p.x) * p.x
        return denoising_error(estimate, p.x0, p.sigma, self.composite.base.sigma_data, p.mask)

    @torch.no_grad()
    def expert(self, expert: ResidualExpert) -> Tensor:
        """Loss of the expert on its own, (levels, n): V + r or b + r; NaN at levels without a say."""

        def errors() -> Iterator[tuple[NoisyBatch, Tensor]]:
            for p, e in self.points():
                on = e.mean if expert.on == "views" else e.base
                yield p, self._error(p, on + expert(p.x, p.sigma, e.seen, p.label, p.context))

        return self._gather(errors())

    def denoiser(self, denoiser: Denoiser) -> Tensor:
        """Loss of any denoiser, (levels, n)."""
        return self.denoisers({"": denoiser})[""]

    @torch.no_grad()
    def denoisers(self, denoisers: Mapping[str, Denoiser]) -> dict[str, Tensor]:
        """Losses of several, {name: (levels, n)}; views that they share are asked once."""
        errors: dict[str, list[tuple[NoisyBatch, Tensor]]] = {name: [] for name in denoisers}
        composites = {id(m): m for d in denoisers.values() for m in d.modules() if isinstance(m, CompositeDenoiser)}
        with ExitStack() as stack:
            for composite in composites.values():
                stack.enter_context(composite.remembering())
            for p in noisy_batches(self.samples, self.levels, self.draws, self.seed, self.tau):
                point = replace(p, x0=p.x0[:0], x=p.x[:0], mask=None, context=None)  # what is kept of it
                for name, denoiser in denoisers.items():
                    error = self._error(p, denoiser(p.x, p.sigma, p.label, p.context))
                    errors[name].append((point, error))
        return {name: self._gather(iter(found)) for name, found in errors.items()}

    @torch.no_grad()
    def residual_moments(self, experts: Sequence[torch.nn.Module]) -> Moments:
        """Moments of x0 - V against D_k - V, for the stacking weights."""
        moments = Moments.empty(len(self.levels), len(self.samples), len(experts))
        for p, e in self.points():
            rest = []
            for expert in experts:
                r = expert(p.x, p.sigma, e.seen, p.label, p.context)
                rest.append(r if expert.on == "views" else r + e.base - e.mean)
            a = 1 - (self.tau / p.sigma) ** 2
            seen = [expand(a, p.x) * r for r in rest]
            target = p.x0 - expand(1 - a, p.x) * p.x - expand(a, p.x) * e.mean
            scale = 1 / precondition(p.sigma, self.composite.base.sigma_data).c_out
            if p.mask is not None:
                seen, target = [r * p.mask for r in seen], target * p.mask
            moments.add(p.level, p.index, target, seen, scale)
        return moments

    @torch.no_grad()
    def evidence_moments(self, against: Denoiser | None = None) -> Moments:
        """Moments of x0 - a against each view's lifted evidence A^T (d - A a).

        a is the white base (for the gains), or another denoiser: what do the views know that it does not?
        """
        names = list(self.composite.views)
        moments = Moments.empty(len(self.levels), len(self.samples), len(names))
        for p in noisy_batches(self.samples, self.levels, self.draws, self.seed, self.tau):
            known = (against or self.composite.base)(p.x, p.sigma, p.label, p.context)
            a = 1 - (self.tau / p.sigma) ** 2
            evidence_of = []
            for name in names:
                asked = self.composite.active(name, p.sigma, p.label)
                evidence_of.append(
                    expand(a, p.x) * self.composite.evidence(name, p.x, p.sigma, p.label, known, asked)[0]
                )
            scale = 1 / precondition(p.sigma, self.composite.base.sigma_data).c_out
            target = p.x0 - expand(1 - a, p.x) * p.x - expand(a, p.x) * known
            moments.add(p.level, p.index, target, evidence_of, scale)
        return moments


def residual_energy(held_out: Validator, on: str) -> Tensor:
    """c_r / c_out at each level: root mean square of x0 - V (or x0 - b), (levels,); 1 at levels without a say."""
    loss = held_out._gather((p, held_out._error(p, e.mean if on == "views" else e.base)) for p, e in held_out.points())
    scale = loss.mean(1).sqrt()
    return torch.where(scale.isnan(), 1.0, scale).clamp_min(1e-4)


@dataclass
class ResidualObjective:
    """Per-sample training loss of an expert.

    Args:
        composite: V, frozen.
        noise: distribution of the noise levels.
        energy, subspace: mu and nu.
        tau: noise of the stored samples.
    """

    composite: CompositeDenoiser
    noise: LogNormal
    energy: float = 0.0
    subspace: float = 0.0
    tau: float = 0.0

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Losses (b,) of this process's rows; the noise is drawn for the global batch."""
        x0, label, mask = batch["x"], batch.get("label"), batch.get("mask")
        added = global_draw(lambda n: self.noise.sample(n, generator), len(x0)).to(x0)
        n = global_randn(x0.shape, generator).to(x0)
        sigma = (added**2 + self.tau**2).sqrt()
        x = x0 + expand(added, x0) * (n if mask is None else n * mask)
        if label is not None:
            dropped = global_draw(lambda n: torch.rand(n, generator=generator, device=generator.device), len(x0))
            label = torch.where(dropped.to(x0) < UNLABELLED, -1, label)
        positions = {"position_channels": batch["position_channels"]} if "position_channels" in batch else {}
        return model(self, x0, x, sigma, label, mask, **positions)

    def loss(
        self,
        expert: ResidualExpert,
        x0: Tensor,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None,
        mask: Tensor | None,
        at: Estimates | None = None,
        tau: float | Tensor | None = None,
        counts: Tensor | None = None,
        position_channels: Tensor | None = None,
    ) -> Tensor:
        """Losses (b,) of the expert at noisy samples: the part that runs inside the model's forward pass.

        Args:
            x0, x: stored samples and noisier copies, (b, *shape).
            sigma: noise level of x, (b,).
            label, mask, place: what the network is told beside x.
            at: what the views say of x; None: ask the composite.
            tau: noise of each stored sample, (b,), or of all; None: the objective's own.
            counts: coordinates that the loss is the mean over, broadcastable to x; None: those of the mask.
        """
        if at is None:
            # In here, the views run in the precision of the training, too.
            with torch.no_grad():
                at = self.composite.estimate(x, sigma, label)
        tau, counts = self.tau if tau is None else tau, mask if counts is None else counts
        unit = expert.unit(x, sigma, at.seen, label, _beside(mask, position_channels)).float()
        a = 1 - (tau / sigma) ** 2
        on = at.mean if expert.on == "views" else at.base
        target = (x0 - expand(1 - a, x) * x) / expand(expert.c_r(sigma), x) - expand(a / expert.c_r(sigma), x) * on
        loss = mean_over((expand(a, x) * unit - target) ** 2, counts)
        if self.energy:
            loss = loss + self.energy * mean_over(unit**2, counts)
        if self.subspace and expert.on == "views":
            full = tuple(x.shape[1:])
            for view in self.composite.views.values():
                for p in view.placements(full):
                    loss = loss + self.subspace * p(unit).square().flatten(1).sum(1) / unit[0].numel()
        return loss


class LossModule(torch.nn.Module):
    """An expert as the training loop sees it: one forward pass gives the losses (what DDP and autocast wrap)."""

    def __init__(self, expert: ResidualExpert) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, objective: ResidualObjective, *at: Any, **how: Any) -> Tensor:
        return objective.loss(self.expert, *at, **how)
