"""The composite of views: their denoisers, lifted and summed over an isotropic Gaussian prior.

With the prior's denoiser b, views A_i with denoisers d_i and gains lambda_i(sigma), the composite is

    V(x, sigma) = b(x, sigma) + sum_i lambda_i(sigma) A_i^T [ d_i(A_i x, sigma) - b(A_i x, sigma) ],

a product of experts over the prior: prior times prod_i (view marginal / prior marginal).  (b is affine and diagonal, so
b(A_i x) = A_i b(x).)  A view with several placements, as a crop has, lifts as their coverage-weighted sum.  Where a
gain is 0, the view's denoiser is not evaluated.  Without views V = b.
Source: Ma 2025, arXiv 2505.11825.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bootdiff import views as view_kinds
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.errors import BootdiffError
from bootdiff.noise import LEVELS, in_one_graph, interpolate, on_host, some_rows
from bootdiff.views import View

__all__ = ["CompositeDenoiser", "Estimates", "takes_classes"]


class Estimates(NamedTuple):
    """What the views estimate of a batch: all that a residual expert takes from them."""

    prior: Tensor
    """b, (B, *shape)."""
    mean: Tensor
    """V, (B, *shape)."""
    views: Tensor | None
    """Lifted view estimates less the prior's mean, (B, views * C, ...), 0 where a view is not active; None without."""


class _Placements(NamedTuple):
    """The placements of one view."""

    views: tuple[View, ...]
    coverage: Tensor
    """How many of them observe each coordinate, at least 1, (*shape)."""
    contexts: Tensor | None
    """The denoiser's input beside the sample at each, (placements, c, *space of the view); None if there is none."""


# Values of view samples that a denoiser is given at once.
_AT_ONCE = 2**22


class CompositeDenoiser(Denoiser):
    """V: the views' denoisers, lifted and summed over the prior.

    Args:
        views: name -> (view or its config, denoiser of that view's samples, of shape `view.shape(prior.shape)`).
        prior: b, the isotropic Gaussian of the full samples' mean and standard deviation.
        levels: noise levels of the gains, ascending.
        gains: lambda_i at each level, (levels, views); None stands for 1 everywhere.

    Raises:
        ValueError: a denoiser of samples of a different shape than its view's.
    """

    _last: tuple[tuple[Any, ...], Estimates] | None

    def __init__(
        self,
        views: Mapping[str, Sequence[Any]],
        prior: IsotropicGaussian,
        levels: Sequence[float] = LEVELS,
        gains: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.shape = prior, prior.shape
        self._remembers, self._last = False, None
        views = {n: (view_kinds.from_config(v) if isinstance(v, Mapping) else v, d) for n, (v, d) in views.items()}
        self.views: dict[str, View] = {name: view for name, (view, _) in views.items()}
        for name, (view, denoiser) in views.items():
            if tuple(view.shape(self.shape)) != tuple(denoiser.shape):
                raise ValueError(
                    f"view {name!r} gives samples of {tuple(view.shape(self.shape))}, its denoiser is of samples of "
                    f"{tuple(denoiser.shape)}"
                )
        self.denoisers = nn.ModuleDict()
        # Past its own check, which refuses names that a module has itself: half, float, type, train.
        self.denoisers._modules.update({name: denoiser for name, (_, denoiser) in views.items()})
        values = torch.ones(len(levels), len(self.views)) if gains is None else torch.tensor(gains, dtype=torch.float32)
        values = values.reshape(len(levels), len(self.views))
        # They stay on the CPU, where it is decided what is evaluated, without waiting for a device.
        self.levels = torch.tensor(list(levels), dtype=torch.float64)
        self.gains = values.double()
        self._placements: dict[tuple[str, torch.device], _Placements] = {}
        self.denoisers.requires_grad_(False)
        self.train(False)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "views": {n: [view_kinds.to_config(v), self.denoisers[n]] for n, v in self.views.items()},
            "prior": self.prior,
            "levels": self.levels.tolist(),
            "gains": self.gains.tolist(),
        }

    @property
    def estimate_channels(self) -> int:
        """Channels of `Estimates.views`."""
        return self.shape[0] * len(self.views)

    def train(self, mode: bool = True) -> CompositeDenoiser:
        """Views are frozen: they stay in evaluation mode (no dropout) whatever is trained on top of them."""
        return super().train(False)

    def with_gains(self, gains: Tensor) -> CompositeDenoiser:
        """The same views with other gains, (levels, views); views whose gain is 0 everywhere are left out."""
        keep = [i for i in range(len(self.views)) if bool((gains[:, i] != 0).any())]
        kept = {n: (self.views[n], self.denoisers[n]) for n in (list(self.views)[i] for i in keep)}
        return CompositeDenoiser(kept, self.prior, self.levels.tolist(), gains[:, keep].tolist())

    def active(self, name: str, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Where a view's denoiser is evaluated, (B,) bool on the CPU: where it is valid, and above the noise that its
        data was stored with (below, it was never trained)."""
        host = on_host(sigma)
        valid = self.denoisers[name].valid_at(host, None if label is None else on_host(label))  # type: ignore[operator]
        return (host > self.views[name].tau * 1.01) & valid

    def evidence(
        self, name: str, x: Tensor, sigma: Tensor, label: Tensor | None, against: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One view's evidence against an estimate a of x0 (B, *shape), as b is: A^T (d - A a), and A^T (d - A m).

        Each (B, *shape), coverage-weighted over the view's placements; 0 outside the `rows`, (B,) bool.
        """
        rows = on_host(rows)
        if in_one_graph():
            found = self._evidence(name, x, sigma, label, against)
            return tuple(torch.where(expand(rows, x) > 0, part, 0.0) for part in found)  # type: ignore[return-value]
        if bool(rows.all()):
            return self._evidence(name, x, sigma, label, against)
        if not bool(rows.any()):
            return torch.zeros_like(x), torch.zeros_like(x)
        numbers = rows.nonzero()[:, 0]
        at = numbers.to(x.device)
        part = self._evidence(name, x[at], some_rows(sigma, numbers), some_rows(label, numbers), against[at])
        evidence, estimates = (torch.zeros_like(x).index_copy(0, at, p.to(x.dtype)) for p in part)
        return evidence, estimates

    def _evidence(
        self, name: str, x: Tensor, sigma: Tensor, label: Tensor | None, against: Tensor
    ) -> tuple[Tensor, Tensor]:
        denoiser, (placements, _, contexts) = self.denoisers[name], self._placed(name, x.device)
        y = torch.cat([p(x) for p in placements])
        k = len(placements)
        beside = None if contexts is None else contexts.to(x.dtype).repeat_interleave(x.shape[0], 0)
        if in_one_graph():
            some = None if label is None else label.repeat(k)
            return self._lifted(name, x, against, denoiser(y, sigma.repeat(k), some, beside))
        # All placements at once, as far as memory allows: a long video has many stills.
        size = max(1, _AT_ONCE // y[0].numel())
        found = []
        for part in torch.arange(len(y)).split(size):
            at, one = slice(int(part[0]), int(part[-1]) + 1), part % len(x)
            rest = None if beside is None else beside[at]
            found.append(denoiser(y[at], some_rows(sigma, one), some_rows(label, one), rest))
        return self._lifted(name, x, against, torch.cat(found))

    def _lifted(self, name: str, x: Tensor, against: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """`_evidence`, of the denoiser's answers at all placements."""
        placements, coverage, _ = self._placed(name, x.device)
        d = found.reshape(len(placements), -1, *found.shape[1:])
        mean = self.prior.mean.to(x.dtype).expand_as(x)
        evidence, estimates = torch.zeros_like(x), torch.zeros_like(x)
        for p, estimate in zip(placements, d, strict=True):
            p.lift_onto(evidence, estimate - p(against))
            p.lift_onto(estimates, estimate - p(mean))
        return evidence / coverage.to(x), estimates / coverage.to(x)

    def _placed(self, name: str, device: torch.device) -> _Placements:
        """A view's placements: always the same, and costly for random masks."""
        if (name, device) not in self._placements:
            if in_one_graph():  # masks that are drawn cannot be traced, and what is traced must not be kept
                raise BootdiffError(
                    f"view {name}: it is not known yet where it is placed; draw a sample before you export the model: "
                    "bootdiff.sample(model, 1)"
                )
            with torch.inference_mode(False):  # kept for later, when a backward pass may need it
                placements = self.views[name].placements(self.shape)
                contexts = [c.to(device) for p in placements if (c := p.context(self.shape)) is not None]
                coverage = self.views[name].coverage(self.shape).to(device)
                stacked = torch.stack(contexts) if contexts else None
                self._placements[name, device] = _Placements(placements, coverage, stacked)
        return self._placements[name, device]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within, what is asked again of the very same tensors is not computed again: arms share their views."""
        self._remembers = True
        try:
            yield
        finally:
            self._last, self._remembers = None, False

    def estimate(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Estimates:
        """Base, composite and lifted view estimates of a batch x (B, *shape) at sigma (B,)."""
        if not self._remembers:
            return self._estimate(x, sigma, label)
        now = (x, sigma, label)
        if self._last is None or any(a is not b for a, b in zip(self._last[0], now, strict=True)):
            self._last = now, self._estimate(x, sigma, label)
        return self._last[1]

    def _estimate(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Estimates:
        prior = self.prior(x, sigma)
        if not self.views:
            return Estimates(prior, prior, None)
        total, found = prior, []
        gains = interpolate(on_host(sigma), self.levels, self.gains)
        for i, name in enumerate(self.views):
            gain = torch.where(self.active(name, sigma, label), gains[:, i].to(x.dtype), 0.0)
            evidence, estimates = self.evidence(name, x, sigma, label, prior, gain != 0)
            total = total + expand(gain, x) * evidence
            found.append(estimates)
        return Estimates(prior, total, torch.cat(found, 1))

    def of_class(self, estimate: Tensor, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """An estimate of no class, (B, *shape), with each view's own for the class put in its row space.

        a + A^T [d(A x, c) - A a], one view after the other, for those that know classes.
        """
        for name in self.views:
            if takes_classes(self.denoisers[name]):
                rows = (on_host(label) >= 0) & self.active(name, sigma, label)
                estimate = estimate + self.evidence(name, x, sigma, label, estimate, rows)[0]
        return estimate

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return self.estimate(x, sigma, label).mean


def takes_classes(module: nn.Module) -> bool:
    """Whether any network inside was trained with labels."""
    configs = (getattr(m, "config", None) for m in module.modules())
    return any(isinstance(c, Mapping) and c.get("classes") for c in configs)
