"""Cascade: a base model of all thumbnails, and a super-resolution model of the full samples.

Cascaded diffusion models (Ho, Saharia, Chan, Fleet, Norouzi, Salimans 2021, arXiv 2106.15282): the base learns the law
of the thumbnails m = A x0 (the full samples' among them); the super-resolution model denoises x = x0 + sigma n given a
thumbnail with noise conditioning augmentation, c = m + s n', told s.  Samples: m from the base, noise s added, x given
c.

*Its denoising loss.*  The cascade is the law q(x0) = q(m) q(x0 | m).  A x is a thumbnail at noise level sigma, so the
base's own reverse process started there draws m ~ q(m | A x), and

    D(x, sigma) = E_{m ~ q(m | A x)} E[x0 | x, m]

is a denoiser of x alone that asks nothing but the two models.  It is the posterior mean of q where m and the detail of
x0 are independent; else it misses what the detail of x tells of the thumbnail.  So the loss is defined, and somewhat
above that of q's intractable posterior mean; the mean over m is taken over `draws` draws.  The reverse process is
ancestral (Song et al. 2021, arXiv 2011.13456, appendix F): with d = D_base(y, s_i) on falling levels s_i,

    y <- d + (s_{i+1} / s_i)^2 (y - d) + s_{i+1} sqrt(1 - (s_{i+1} / s_i)^2) n.

Different from the paper: EDM preconditioning, and early stopping per noise level on the loss above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bootdiff.data import Simulated
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.method.composite import CompositeDenoiser, Estimates, StackedDenoiser
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import ViewData
from bootdiff.method.stages import Bootstrap
from bootdiff.method.training_set import TrainingSet
from bootdiff.sampling import sample
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.views import Downsample, View
from experiments.benchmark.baselines.base import Method, experts, noise_of, one_stage, training_of
from experiments.benchmark.baselines.mixing import Mixed, bare, files

__all__ = ["CASCADE", "Cascade", "CascadeObjective", "Thumbnails", "ancestral", "cascade", "thumbnails_of"]

LEAST = 0.05
"""Lowest noise level of the reverse process and of the conditioning augmentation."""


@torch.no_grad()
def ancestral(low: Denoiser, y: Tensor, sigma: Tensor, per_octave: int, rng: torch.Generator) -> Tensor:
    """m ~ q(m | y): the reverse process from y (B, *shape) at noise levels sigma (B,) down to LEAST.

    `per_octave` levels per halving of the highest sigma.  With few of them draws spread less than the posterior; D is
    a mean over draws, for which that matters little.
    """
    ratio = (LEAST / sigma).clamp(max=1.0)
    steps = max(1, math.ceil(-per_octave * math.log2(float(ratio.min())) - 1e-6))
    for i in range(steps):
        now, then = sigma * ratio ** (i / steps), sigma * ratio ** ((i + 1) / steps)
        d = low(y, now)
        if i + 1 == steps:
            return d
        keep = (then / now) ** 2
        noise = torch.randn(y.shape, generator=rng).to(y)
        y = d + expand(keep, y) * (y - d) + expand(then * (1 - keep).clamp(min=0).sqrt(), y) * noise
    return y


class Thumbnails(CompositeDenoiser):
    """The white base, which shows experts a thumbnail: drawn from the base model given A x, or one that is given.

    Args:
        base: of the full samples.
        view: A.
        low: the base model, a denoiser of thumbnails in view coordinates.
        levels: noise levels.
        augment: s, the noise added to thumbnails before they are shown.
        per_octave: levels of the reverse process per halving of the noise.
        seed: of its noise.
    """

    def __init__(
        self,
        base: IsotropicGaussian,
        view: View,
        low: Denoiser,
        levels: Sequence[float],
        augment: float,
        per_octave: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(base, {}, {}, levels)
        self.view, self.low, self.augment, self.per_octave, self.seed = view, low, augment, per_octave, seed
        self.given: Tensor | None = None

    @property
    def seen(self) -> int:
        return self.shape[0] + 1

    def estimate(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Estimates:
        rng = torch.Generator().manual_seed(self.seed)
        m = ancestral(self.low, self.view(x), sigma, self.per_octave, rng) if self.given is None else self.given
        c = m + self.augment * torch.randn(m.shape, generator=rng).to(m)
        return self.showing(x, sigma, c, torch.full_like(sigma, self.augment))

    def showing(self, x: Tensor, sigma: Tensor, c: Tensor, s: Tensor) -> Estimates:
        """Estimates that show the thumbnails c (B, *shape of the view) and their noise s (B,)."""
        base = self.base(x, sigma)
        lifted = self.view.lift(c, self.shape) - self.base.mean.to(x)
        told = expand(s.log() / 4 * self.base.sigma_data, x).expand_as(x[:, :1])
        return Estimates(base, base, torch.cat([lifted, told], 1))


@dataclass
class CascadeObjective(ResidualObjective):
    """Super-resolution loss: shown A x0 + s n' with ln s uniform from LEAST to `most`."""

    most: float = 1.0

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, own = batch["x"], self.composite
        assert isinstance(own, Thumbnails)
        sigma = global_draw(lambda n: self.noise.sample(n, generator), len(x0)).to(x0)
        x = x0 + expand(sigma, x0) * global_randn(x0.shape, generator).to(x0)
        u = global_draw(lambda n: torch.rand(n, generator=generator, device=generator.device), len(x0)).to(x0)
        s = LEAST * (self.most / LEAST) ** u
        m = own.view(x0)
        c = m + expand(s, m) * global_randn(m.shape, generator).to(m)
        return model(self, x0, x, sigma, None, None, at=own.showing(x, sigma, c, s))


class Cascade(Denoiser):
    """D above, and samples.

    Args:
        stack: super-resolution experts on `Thumbnails`.
        draws: thumbnails drawn per question.
    """

    def __init__(self, stack: StackedDenoiser, draws: int = 2) -> None:
        super().__init__()
        self.stack, self.shape, self.draws = stack, stack.shape, draws

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        composite: Any = self.stack.composite
        first, total = composite.seed, torch.zeros_like(x)
        try:
            for k in range(self.draws):
                composite.seed = first + k
                total = total + self.stack(x, sigma)
        finally:
            composite.seed = first
        return total / self.draws

    def draw(self, n: int, seed: int = 0, batch_size: int = 64, **how: Any) -> Tensor:
        """n samples as the paper draws them, (n, *shape); `how` as for `sample`."""
        composite: Any = self.stack.composite
        m, out = sample(composite.low, n, seed=seed, batch_size=batch_size, **how), []
        try:
            for k, part in enumerate(m.split(batch_size)):
                composite.given = part
                out.append(sample(self.stack, len(part), seed=seed + 1 + k, batch_size=batch_size, **how))
        finally:
            composite.given = None
        return torch.cat(out)


def thumbnails_of(views: Mapping[str, ViewData]) -> list[str]:
    """The views that are thumbnails, the smallest reduction first."""
    names = [n for n, v in views.items() if isinstance(bare(v.view), Downsample) and not v.view.tau]
    return sorted(names, key=lambda n: bare(views[n].view).factor)  # type: ignore[attr-defined]


def cascade(b: Bootstrap, flops: float, first: float = 0.5, augment: float = 0.2) -> Denoiser:
    """`first` of the FLOPs go into the base model of the largest thumbnails; other views are left out.

    `augment`: noise of the shown thumbnail, in view coordinates as a share of their standard deviation.
    """
    name = thumbnails_of(b.materials.views)[0]
    full, view = b.full_training_set(), b.materials.views[name].view
    low = b.view_training_set(name)
    source = Mixed([files(b.materials.views[name]), Simulated(b.materials.full, view)], [-1, -1])
    low = TrainingSet(**{**vars(low), "train": _Bare(source), "classes": None})
    base = one_stage(b, "cascade-base", low, flops * first)
    s = augment * low.base.sigma_data
    composite = Thumbnails(full.base, view, base, b.levels, s, seed=b._seed("thumbnails")).to(b.device)
    objective = CascadeObjective(composite, noise_of(training_of(b)), most=5 * low.base.sigma_data)
    parents = ["cascade", b._keys["cascade-base-stack"], first, augment]
    found = experts(
        b,
        "cascade-super",
        full,
        flops * (1 - first),
        composite=composite,
        on="views",
        objective=objective,
        parents=parents,
    )
    return Cascade(b.stack("cascade-super", full, composite, found)).to(b.device).eval()


class _Bare(Mixed):
    """A mixture whose labels and masks are left out: thumbnails of both sources are the same thing."""

    masked, classes = False, None

    def __init__(self, mixed: Mixed) -> None:
        self.__dict__.update(mixed.__dict__)
        self.classes = None

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return super().batch(indices)[0], None, None


CASCADE = Method(cascade, ({}, {"nets": "narrow"}, {"augment": 0.5}), lambda views: bool(thumbnails_of(views)))
