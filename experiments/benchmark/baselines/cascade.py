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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from bootdiff.data import Mixture, Simulated
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.method.composite import Estimates
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import ViewData
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.sampling import sample
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.views import Downsample, View
from experiments.benchmark.baselines.base import Method, experts, one_stage, training_of
from experiments.benchmark.baselines.mixing import bare, files

__all__ = [
    "CASCADE",
    "Cascade",
    "CascadeObjective",
    "SuperResolution",
    "Thumbnails",
    "ancestral",
    "cascade",
    "thumbnails_of",
]

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


class Thumbnails(nn.Module):
    """The thumbnails that super-resolution networks take as input: drawn from the base model given A x, or given.

    Args:
        view: A.
        low: the base model, a denoiser of thumbnails in view coordinates.
        prior: of the full samples.
        augment: s, the noise added to thumbnails before networks take them.
        per_octave: levels of the reverse process per halving of the noise.
        seed: of its noise.
    """

    def __init__(
        self,
        view: View,
        low: Denoiser,
        prior: IsotropicGaussian,
        augment: float,
        per_octave: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.view, self.low, self.prior = view, low, prior
        self.augment, self.per_octave, self.seed = augment, per_octave, seed
        self.given: Tensor | None = None
        # Drawing takes many evaluations, and held-out samples are looked at again and again.
        self._drawn = WeakTensorKeyDictionary()

    def channels(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`inputs` of the thumbnails of x (B, *shape) at sigma (B,)."""
        if self.given is not None:
            return self._noised(x, self.given, torch.Generator().manual_seed(self.seed))
        known = self._drawn.setdefault(x, {})
        if self.seed not in known:
            rng = torch.Generator().manual_seed(self.seed)
            known[self.seed] = self._noised(x, ancestral(self.low, self.view(x), sigma, self.per_octave, rng), rng)
        return known[self.seed]

    def _noised(self, x: Tensor, m: Tensor, rng: torch.Generator) -> Tensor:
        c = m + self.augment * torch.randn(m.shape, generator=rng).to(m)
        return self.inputs(x, c, torch.full((len(x),), self.augment, device=x.device, dtype=x.dtype))

    def inputs(self, x: Tensor, c: Tensor, s: Tensor) -> Tensor:
        """Thumbnails c (B, *shape of the view), lifted, and their noise s (B,): (B, C + 1, ...)."""
        lifted = self.view.lift(c, tuple(x.shape[1:])) - self.prior.mean.to(x)
        noise = expand(s.log() / 4 * self.prior.sigma_data, x).expand_as(x[:, :1])
        return torch.cat([lifted, noise], 1)


class SuperResolution(ResidualExpert):
    """An expert on the prior that takes a thumbnail as input, by default the one that `thumbnails` draw."""

    def __init__(self, *args: Any, thumbnails: Thumbnails, **how: Any) -> None:
        super().__init__(*args, **how)
        self.thumbnails = thumbnails

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "thumbnails": self.thumbnails}

    def extra_inputs(self, x: Tensor, sigma: Tensor, at: Estimates) -> Tensor:
        channels = self.thumbnails.channels(x, sigma) if at.views is None else at.views
        return channels / self.composite.prior.sigma_data


@dataclass
class CascadeObjective(ResidualObjective):
    """Super-resolution loss: given A x0 + s n' with ln s uniform from LEAST to `most`."""

    thumbnails: Thumbnails | None = None
    most: float = 1.0

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "thumbnails": None}  # what they depend on is among the stage's parents

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, own = batch["x"], self.thumbnails
        assert own is not None
        sigma = global_draw(lambda n: self.noise.sample(n, generator), len(x0)).to(x0)
        x = x0 + expand(sigma, x0) * global_randn(x0.shape, generator).to(x0)
        u = global_draw(lambda n: torch.rand(n, generator=generator, device=generator.device), len(x0)).to(x0)
        s = LEAST * (self.most / LEAST) ** u
        m = own.view(x0)
        c = m + expand(s, m) * global_randn(m.shape, generator).to(m)
        prior = own.prior(x, sigma)
        return model(self, x0, x, sigma, at=Estimates(prior, prior, own.inputs(x, c, s)))


class Cascade(Denoiser):
    """D above, and samples.

    Args:
        stack: super-resolution experts.
        thumbnails: that they take.
        draws: thumbnails drawn per evaluation.
    """

    def __init__(self, stack: StackedDenoiser, thumbnails: Thumbnails, draws: int = 2) -> None:
        super().__init__()
        self.stack, self.thumbnails, self.shape, self.draws = stack, thumbnails, stack.shape, draws

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        first, total = self.thumbnails.seed, torch.zeros_like(x)
        try:
            for k in range(self.draws):
                self.thumbnails.seed = first + k
                total = total + self.stack(x, sigma)
        finally:
            self.thumbnails.seed = first
        return total / self.draws

    def draw(self, n: int, seed: int = 0, batch_size: int = 64, **how: Any) -> Tensor:
        """n samples as the paper draws them, (n, *shape); `how` as for `sample`."""
        m, out = sample(self.thumbnails.low, n, seed=seed, batch_size=batch_size, **how), []
        try:
            for k, part in enumerate(m.split(batch_size)):
                self.thumbnails.given = part
                out.append(sample(self.stack, len(part), seed=seed + 1 + k, batch_size=batch_size, **how))
        finally:
            self.thumbnails.given = None
        return torch.cat(out)


def thumbnails_of(views: Mapping[str, ViewData]) -> list[str]:
    """The views that are thumbnails, the smallest reduction first."""
    names = [n for n, v in views.items() if isinstance(bare(v.view), Downsample) and not v.view.tau]
    return sorted(names, key=lambda n: bare(views[n].view).factor)  # type: ignore[attr-defined]


def cascade(b: Bootstrap, flops: float, first: float = 0.5, augment: float = 0.2) -> Denoiser:
    """`first` of the FLOPs go into the base model of the largest thumbnails; other views are left out.

    `augment`: noise of the shown thumbnail, in view coordinates as a share of their standard deviation.
    """
    name = thumbnails_of(b.problem.views)[0]
    full, view = b.full_training_set(), b.problem.views[name].view
    low = b.view_training_set(name)
    source = Mixture([files(b.problem.views[name]), Simulated(b.problem.full, view)], [-1, -1])
    low = replace(low, train=_Bare(source), classes=None)
    base = one_stage(b, "cascade-base", low, flops * first)
    s = augment * low.prior.sigma_data
    thumbnails = Thumbnails(view, base, full.prior, s, seed=b.seed("thumbnails")).to(b.device)
    none = b.no_views(full.prior)
    objective = CascadeObjective(none, training_of(b).noise, thumbnails=thumbnails, most=5 * low.prior.sigma_data)
    found = experts(
        b, "cascade-super", full, flops * (1 - first), composite=none, objective=objective,
        parents=["cascade", b._keys["cascade-base-stack"], first, augment],
        expert=partial(SuperResolution, thumbnails=thumbnails), extra_channels=full.prior.shape[0] + 1,
    )  # fmt: skip
    return Cascade(b.stack("cascade-super", full, none, found), thumbnails).to(b.device).eval()


class _Bare(Mixture):
    """A mixture whose labels and masks are left out: thumbnails of both sources are the same thing."""

    masked, classes = False, None

    def __init__(self, mixed: Mixture) -> None:
        self.__dict__.update(mixed.__dict__)
        self.classes = None

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return super().batch(indices)[0], None, None


CASCADE = Method(cascade, ({}, {"nets": "narrow"}, {"augment": 0.5}), lambda views: bool(thumbnails_of(views)))
