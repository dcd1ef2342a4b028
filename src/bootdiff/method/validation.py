"""The held-out ruler that all choices are made with: the same noisy samples for every denoiser that is compared.

The loss at a noise level is the EDM loss, normalized so that the prior's is 1 in the mean (`denoise.denoising_error`;
Karras et al. 2022, arXiv 2206.00364, equation 8).  For samples stored with noise tau it is that of w D + (1 - w) x
against the stored sample, w = 1 - tau^2 / sigma^2 (`residual`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, denoising_error, expand
from bootdiff.method.composite import CompositeDenoiser, Estimates
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, ask
from bootdiff.method.weights import Moments
from bootdiff.noise import precondition

__all__ = ["NoisyBatch", "SampleSet", "Validator", "beside", "noisy_batches", "residual_energy"]

Expert = ResidualExpert | SnapshotsByNoiseLevel

_BATCH = 64
_T = TypeVar("_T")


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
        return beside(self.mask, self.position_channels)

    def to(self, device: torch.device | str) -> SampleSet:
        """The same samples there."""
        rest = (None if v is None else v.to(device) for v in (self.label, self.mask, self.position_channels))
        return SampleSet(self.x.to(device), *rest)


def beside(mask: Tensor | None, position_channels: Tensor | None) -> Tensor | None:
    """A network's input beside x: mask, then position channels, (n, c, *space), or None."""
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
    samples: SampleSet, levels: Sequence[float], draws: int, seed: int, tau: float = 0.0, batch: int = _BATCH
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
        tick: told meanwhile how many probes of how many are done.
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
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        self.samples, self.composite, self.levels = samples, composite, list(levels)
        self.draws, self.seed, self.tau, self.tick = draws, seed, tau, tick
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

    def _counted(self, probes: Iterable[_T]) -> Iterator[_T]:
        """The probes, each told when it is done."""
        total = self.draws * sum(sigma > self.tau for sigma in self.levels) * -(-len(self.samples) // _BATCH)
        for k, probe in enumerate(probes, 1):
            yield probe
            if self.tick is not None:
                self.tick(k, total)

    def _gather(self, errors: Iterator[tuple[NoisyBatch, Tensor]]) -> Tensor:
        loss = torch.full((len(self.levels), len(self.samples)), float("nan"), dtype=torch.float64)
        for p, error in errors:
            before = loss[p.level, p.index] if p.draw else 0.0
            loss[p.level, p.index] = before + error.double().cpu() / self.draws
        return loss

    def _error(self, p: NoisyBatch, estimate: Tensor) -> Tensor:
        a = 1 - (self.tau / p.sigma) ** 2
        estimate = expand(a, p.x) * estimate + expand(1 - a, p.x) * p.x
        return denoising_error(estimate, p.x0, p.sigma, self.composite.prior.sigma_data, p.mask)

    @torch.no_grad()
    def expert(self, expert: Expert) -> Tensor:
        """Loss of the expert by itself, (levels, n); NaN at levels where its data say nothing."""

        def errors() -> Iterator[tuple[NoisyBatch, Tensor]]:
            for p, at in self.points():
                yield p, self._error(p, expert(p.x, p.sigma, p.label, p.context, at=at))

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
    def residual_moments(self, experts: Sequence[Denoiser]) -> Moments:
        """Moments of x0 - V against D_k - V, for the stacking weights."""
        moments = Moments.empty(len(self.levels), len(self.samples), len(experts))
        for p, at in self._counted(self.points()):
            w = 1 - (self.tau / p.sigma) ** 2
            found = [ask(expert, p.x, p.sigma, p.label, p.context, at) - at.mean for expert in experts]
            beyond = [expand(w, p.x) * r for r in found]
            target = p.x0 - expand(1 - w, p.x) * p.x - expand(w, p.x) * at.mean
            scale = 1 / precondition(p.sigma, self.composite.prior.sigma_data).c_out
            if p.mask is not None:
                beyond, target = [r * p.mask for r in beyond], target * p.mask
            moments.add(p.level, p.index, target, beyond, scale)
        return moments

    @torch.no_grad()
    def evidence_moments(self, against: Denoiser | None = None) -> Moments:
        """Moments of x0 - a against each view's lifted evidence A^T (d - A a).

        a is the white base (for the gains), or another denoiser: what do the views know that it does not?
        """
        names = list(self.composite.views)
        moments = Moments.empty(len(self.levels), len(self.samples), len(names))
        for p in self._counted(noisy_batches(self.samples, self.levels, self.draws, self.seed, self.tau)):
            known = (against or self.composite.prior)(p.x, p.sigma, p.label, p.context)
            a = 1 - (self.tau / p.sigma) ** 2
            evidence = []
            for name in names:
                rows = self.composite.active(name, p.sigma, p.label)
                own = self.composite.evidence(name, p.x, p.sigma, p.label, known, rows)[0]
                evidence.append(expand(a, p.x) * own)
            scale = 1 / precondition(p.sigma, self.composite.prior.sigma_data).c_out
            target = p.x0 - expand(1 - a, p.x) * p.x - expand(a, p.x) * known
            moments.add(p.level, p.index, target, evidence, scale)
        return moments


def residual_energy(validator: Validator, anchor: Literal["views", "prior"]) -> Tensor:
    """c_r / c_out at each level: root mean square of x0 - V (or x0 - b), (levels,); 1 where the data say nothing."""
    errors = ((p, validator._error(p, at.mean if anchor == "views" else at.prior)) for p, at in validator.points())
    scale = validator._gather(errors).mean(1).sqrt()
    return torch.where(scale.isnan(), 1.0, scale).clamp_min(1e-4)
