"""Partial data brought to full shape, mixed with full samples, and the loss that knows which is which.

A stored file m of a view A becomes a picture of full shape in full coordinates: thumbnails are enlarged by bicubic
interpolation, windows and masked pictures are set into their place and what they do not show is filled with the mean,
the rest is A^+ m.  A mixture holds the kinds side by side, numbered in their labels: -1 the full samples, 0, 1, ... the
views.

For a sample of kind k with loss coordinates M, told noise tau_k and lowest noise level t_k,

    sigma^2 = tau_k^2 + s^2,  ln s ~ N(mean, std^2) given s >= t_k,   loss = | D(x, sigma) - x0 |^2 over M / c_out^2,

with Tweedie's form of it where tau_k > 0 (`boot.objective`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as f
from torch import Tensor

from bootdiff.data import Dataset, Mixture
from bootdiff.data.dataset import Sample
from bootdiff.denoise import expand
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import Problem, ViewData
from bootdiff.method.stages import Bootstrap
from bootdiff.method.training_set import TrainingSet
from bootdiff.training.loop import global_draw, global_randn
from bootdiff.views import Downsample, Observed, View

__all__ = ["Lifted", "MixedObjective", "bare", "files", "mixture", "mixture_bench", "placed", "seen_by"]


def bare(view: View) -> View:
    """The view without the noise of its files."""
    return view.view if isinstance(view, Observed) else view


def placed(views: Mapping[str, ViewData]) -> bool:
    """Whether every view's files can be brought to full shape: windows cut anywhere cannot."""
    return all(v.view.is_fixed or files(v).masked for v in views.values())


def files(v: ViewData) -> Dataset:
    """A view's training files; ValueError for a pretrained view without any."""
    if v.train is None:
        raise ValueError("this view is a pretrained model without files, which other methods cannot use")
    return v.train


def seen_by(view: View, full: tuple[int, ...]) -> Tensor:
    """(1, *space) float32: 1 where a single view sees the picture."""
    return (view._count(full)[:1] > 0).float()


class Lifted(Dataset):
    """A view's files at full shape; masks say what they show.

    Args:
        source: the files, in stored coordinates.
        view: what they show.
        full: shape of a full sample.
        fill: value per channel of what is not shown.
    """

    masked = True

    def __init__(self, source: Dataset, view: View, full: Sequence[int], fill: Sequence[float]) -> None:
        self.source, self.view, self.shape = source, view, tuple(full)
        self.where, self.problems = source.where, source.problems
        self.fill = torch.tensor(list(fill)).reshape(-1, *(1,) * (len(self.shape) - 1))
        self._seen = None if source.masked else seen_by(view, self.shape)
        self._all: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        x, masks = self._lifted()
        index = self._check_index(index)
        return Sample(x[index], None, masks[index])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, masks = self._lifted()
        return x[list(indices)], None, masks[list(indices)]

    def _lifted(self) -> tuple[Tensor, Tensor]:
        """All of it at once: lifting one by one costs more than a small network's step."""
        if self._all is None:
            xs, seen = [], []
            for at in torch.arange(len(self.source)).split(512):
                m, _, masks = self.source.batch(at.tolist())
                x = self._lift(m)
                mask = self._seen.expand(len(m), *self._seen.shape) if masks is None else masks  # type: ignore[union-attr]
                xs.append(torch.where(mask > 0, x, self.fill.expand_as(x)))
                seen.append(mask)
            masks = torch.cat(seen) if self._seen is None else self._seen.expand(len(self), *self._seen.shape)
            self._all = torch.cat(xs), masks
        return self._all

    def _lift(self, m: Tensor) -> Tensor:
        view = bare(self.view)
        if isinstance(view, Downsample) and view.axes == (-2, -1):
            return f.interpolate(m, size=self.shape[-2:], mode="bicubic", align_corners=False)
        if not view.is_fixed:  # a mask of each file's own: at full shape already
            return m
        return view.lift(m * view.scale, self.shape)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"lifted {self.source.fingerprint()} {self.view} {self.fill.tolist()}".encode()
        ).hexdigest()


def mixture(m: Problem, share: float, fill: Sequence[float], names: Sequence[str] | None = None) -> Mixture:
    """The full samples and the views' files at full shape; `share` of what is drawn are full samples, or a little more.

    Args:
        names: the views that take part; None: all.
    """
    names = list(m.views) if names is None else list(names)
    lifted = [Lifted(files(m.views[n]), m.views[n].view, m.shape, fill) for n in names]
    wanted = share / (1 - share) * sum(map(len, lifted)) / len(m.full)
    kinds = list(m.views)
    return Mixture(
        [m.full, *lifted], [-1, *(kinds.index(n) for n in names)], [max(1, math.ceil(wanted)), *[1] * len(names)]
    )


def mixture_bench(b: Bootstrap, share: float, names: Sequence[str] | None = None, told: bool = False) -> TrainingSet:
    """The full samples' bench with a mixture to train on; `told`: networks are told the kind."""
    bench = b.full_training_set()
    source = mixture(b.problem, share, bench.prior.config["mean"], names)
    return replace(bench, train=source, classes=len(b.problem.views) if told else None)


@dataclass
class MixedObjective(ResidualObjective):
    """The loss of this file.

    Args:
        least: lowest noise level t_k by kind, the full samples first; empty: 0.
        taus: noise of the files that the loss makes good, tau_k, by kind; empty: 0.
        told: networks are told the kind (the full samples are "no class").
        observed: only what the files show counts, M; else the fill counts as if it were true.
    """

    least: tuple[float, ...] = ()
    taus: tuple[float, ...] = ()
    told: bool = False
    observed: bool = False

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Losses (b,) of this process's rows."""
        x0, kind, seen = self.filled(batch)
        s = global_draw(lambda n: self.noise.sample(n, generator), len(x0)).to(x0)
        if any(self.least):
            s = self.truncated(s, torch.tensor(self.least, device=s.device)[kind])
        n = global_randn(x0.shape, generator).to(x0)
        tau = torch.tensor(self.taus, device=s.device)[kind] if any(self.taus) else None
        sigma = s if tau is None else (s**2 + tau**2).sqrt()
        label = kind - 1 if self.told else None
        return model(
            self, x0, x0 + expand(s, x0) * n, sigma, label, None, tau=tau, counts=seen if self.observed else None
        )

    def filled(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Samples with the mean where nothing is shown (b, *shape), their kinds (b,), what is shown (b, 1, *space)."""
        x0, seen = batch["x"], batch["mask"]
        return x0 + (1 - seen) * self.composite.prior.mean.to(x0), batch["label"] + 1, seen

    def truncated(self, s: Tensor, least: Tensor) -> Tensor:
        """Levels s (b,) moved into the law given s >= least (b,), by its quantiles; unmoved where least is 0."""
        z = (s.double().log() - self.noise.mean) / self.noise.std
        below = torch.special.ndtr((least.double().log() - self.noise.mean) / self.noise.std)
        moved = torch.special.ndtri((below + (1 - below) * torch.special.ndtr(z)).clamp(max=1 - 1e-7))
        moved = (self.noise.mean + self.noise.std * moved).exp().to(s)
        return torch.where(least > 0, torch.maximum(moved, least.to(s)), s)
