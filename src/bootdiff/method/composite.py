"""The composite of views, the residual experts on top of it, and their stack: all of them made of denoisers.

With the white base b, views A_i with denoisers d_i and gains lambda_i(sigma), the *composite* is

    V(x, sigma) = b(x, sigma) + sum_i lambda_i(sigma) A_i^T [ d_i(A_i x, sigma) - b(A_i x, sigma) ],

a product of experts over the base: base times prod_i (view marginal / base marginal).  (b is affine and diagonal, so
b(A_i x) = A_i b(x).)  A view with several placements, as a crop has, lifts as their coverage-weighted sum.  A *residual
expert* sees x and the lifted view estimates,

    r_k(x, sigma) = c_r(sigma) F_k(c_in (x - m), mask, A_i^T (d_i - A_i m) / sigma_data, c_noise),

with c_r(sigma)^2 the measured mean square of x0 - V, so that F_k's target has unit variance; without views V = b, and
b + r is an ordinary EDM denoiser.  The *stack* is

    D(x, sigma) = V + sum_k kappa_k(sigma) (D_k - V),   D_k = V + r_k  (or b + r_k: trained on full data alone).

Where a gain or a weight is 0, the network behind it is not evaluated.
Sources: the residual score: Ma 2025, arXiv 2505.11825; preconditioning: Karras et al. 2022, arXiv 2206.00364; stacking:
Wolpert 1992, Breiman 1996.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bootdiff import views as view_kinds
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.noise import interpolate, nearest_level, precondition
from bootdiff.views import View

__all__ = [
    "CompositeDenoiser",
    "Estimates",
    "ResidualExpert",
    "SnapshotsByNoiseLevel",
    "StackedDenoiser",
    "project_null",
]


class Estimates(NamedTuple):
    """What the views say of a batch: all a residual expert needs to know of them."""

    base: Tensor
    """White base b, (B, *shape)."""
    mean: Tensor
    """Composite V, (B, *shape)."""
    seen: Tensor | None
    """Lifted view estimates less the mean, (B, views * C, ...), 0 where a view has no say; None without views."""


class _Places(NamedTuple):
    """The placements of one view."""

    views: tuple[View, ...]
    coverage: Tensor
    """How many of them see each coordinate, at least 1, (*shape)."""
    contexts: Tensor | None
    """What the denoiser sees of each beside its sample, (placements, c, *space of the view); None if nothing."""


# Values of view samples that a denoiser is given at once.
_AT_ONCE = 2**22


class CompositeDenoiser(Denoiser):
    """V: the views' denoisers, lifted and summed over the white base.

    Args:
        base: the white base of the full samples.
        views: name -> view (or its config).
        denoisers: name -> denoiser of that view's samples, of shape `view.shape(base.shape)`.
        levels: noise levels of the gains, ascending.
        gains: lambda_i at each level, (levels, views); None stands for 1 everywhere.
    """

    gains: Tensor
    levels: Tensor
    _last: tuple[tuple[Any, ...], Estimates] | None

    def __init__(
        self,
        base: IsotropicGaussian,
        views: Mapping[str, View | dict[str, Any]],
        denoisers: Mapping[str, Denoiser],
        levels: Sequence[float],
        gains: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.shape = base, base.shape
        self._remembers, self._last = False, None
        self.views = _views(views)
        if set(self.views) != set(denoisers):
            raise ValueError(f"views {sorted(self.views)} and denoisers {sorted(denoisers)} must have the same names")
        for name, view in self.views.items():
            if view.shape(self.shape) != denoisers[name].shape:
                raise ValueError(
                    f"view {name!r} gives samples of {view.shape(self.shape)}, its denoiser {denoisers[name].shape}"
                )
        self.denoisers = nn.ModuleDict()
        # Past its own check, which refuses names that a module has itself: half, float, type, train.
        self.denoisers._modules.update({name: denoisers[name] for name in self.views})
        values = torch.ones(len(levels), len(self.views)) if gains is None else torch.tensor(gains, dtype=torch.float32)
        values = values.reshape(len(levels), len(self.views))
        self.register_buffer("levels", torch.tensor(list(levels), dtype=torch.float64), persistent=False)
        self.register_buffer("gains", values.double(), persistent=False)
        self._places: dict[tuple[str, torch.device], _Places] = {}
        self.denoisers.requires_grad_(False)
        self.train(False)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "views": {n: view_kinds.to_config(v) for n, v in self.views.items()},
            "denoisers": dict(self.denoisers.items()),
            "levels": self.levels.tolist(),
            "gains": self.gains.tolist(),
        }

    @property
    def seen(self) -> int:
        """Number of channels that `estimate` shows to an expert beside x."""
        return self.shape[0] * len(self.views)

    def train(self, mode: bool = True) -> CompositeDenoiser:
        """Views are frozen: they stay in evaluation mode (no dropout) whatever is trained on top of them."""
        return super().train(False)

    def with_gains(self, gains: Tensor) -> CompositeDenoiser:
        """The same views with other gains, (levels, views); views whose gain is 0 everywhere are left out."""
        keep = [i for i in range(len(self.views)) if bool((gains[:, i] != 0).any())]
        names = [list(self.views)[i] for i in keep]
        kept = {n: self.views[n] for n in names}
        denoisers = {n: self.denoisers[n] for n in names}
        return CompositeDenoiser(self.base, kept, denoisers, self.levels.tolist(), gains[:, keep].tolist())  # type: ignore[arg-type]

    def active(self, name: str, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Where a view has a say, (B,) bool: not below the noise that its data was stored with (its denoiser was never
        trained there), nor where its denoiser has none."""
        above = sigma > self.views[name].tau * 1.01
        return above & self.denoisers[name].valid_at(sigma, label)  # type: ignore[operator]

    def evidence(
        self, name: str, x: Tensor, sigma: Tensor, label: Tensor | None, against: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One view's word against an estimate a of x0 (B, *shape), as the base b is: A^T (d - A a), and A^T (d - A m).

        Each (B, *shape), coverage-weighted over the view's placements; 0 for the samples that are not `asked`, (B,).
        """
        if bool(asked.all()):
            return self._evidence(name, x, sigma, label, against)
        if not bool(asked.any()):
            return torch.zeros_like(x), torch.zeros_like(x)
        at = asked.nonzero()[:, 0]
        part = self._evidence(name, x[at], sigma[at], None if label is None else label[at], against[at])
        says, uses_views = (torch.zeros_like(x).index_copy(0, at, p.to(x.dtype)) for p in part)
        return says, uses_views

    def _evidence(
        self, name: str, x: Tensor, sigma: Tensor, label: Tensor | None, against: Tensor
    ) -> tuple[Tensor, Tensor]:
        denoiser, (places, coverage, contexts) = self.denoisers[name], self._placed(name, x.device)
        y = torch.cat([p(x) for p in places])
        k = len(places)
        sees_where = None if contexts is None else contexts.to(x.dtype).repeat_interleave(len(x), 0)
        given = [None if v is None else v.repeat(k) for v in (sigma, label)] + [sees_where]
        # All placements at once, as far as memory allows: a long video has many stills.
        size = max(1, _AT_ONCE // y[0].numel())
        parts = [y[i : i + size] for i in range(0, len(y), size)]
        more = [[None if v is None else v[i : i + size] for v in given] for i in range(0, len(y), size)]
        d = torch.cat([denoiser(part, *rest) for part, rest in zip(parts, more, strict=True)]).chunk(k)
        mean = self.base.mean.to(x.dtype).expand_as(x)
        says, uses_views = torch.zeros_like(x), torch.zeros_like(x)
        for place, estimate in zip(places, d, strict=True):
            place.lift_onto(says, estimate - place(against))
            place.lift_onto(uses_views, estimate - place(mean))
        return says / coverage.to(x), uses_views / coverage.to(x)

    def _placed(self, name: str, device: torch.device) -> _Places:
        """A view's placements: always the same, and costly for random masks."""
        if (name, device) not in self._places:
            with torch.inference_mode(False):  # kept for later, when a backward pass may need it
                places = self.views[name].placements(self.shape)
                told = [c.to(device) for p in places if (c := p.context(self.shape)) is not None]
                coverage = self.views[name].coverage(self.shape).to(device)
                self._places[name, device] = _Places(places, coverage, torch.stack(told) if told else None)
        return self._places[name, device]

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
        asked = (x, sigma, label)
        if self._last is None or any(a is not b for a, b in zip(self._last[0], asked, strict=True)):
            self._last = asked, self._estimate(x, sigma, label)
        return self._last[1]

    def _estimate(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Estimates:
        base = self.base(x, sigma)
        if not self.views:
            return Estimates(base, base, None)
        total, seen = base, []
        gains = interpolate(sigma, self.levels, self.gains)
        for i, name in enumerate(self.views):
            gain = torch.where(self.active(name, sigma, label), gains[:, i].to(x.dtype), 0.0)
            says, uses_views = self.evidence(name, x, sigma, label, base, gain != 0)
            total = total + expand(gain, x) * says
            seen.append(uses_views)
        return Estimates(base, total, torch.cat(seen, 1))

    def of_class(self, estimate: Tensor, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """An estimate of no class, (B, *shape), with each view's own for the class put in its row space.

        a + A^T [d(A x, c) - A a], one view after the other, for those that know classes.
        """
        for name in self.views:
            if _knows_classes(self.denoisers[name]):
                asked = (label >= 0) & self.active(name, sigma, label)
                estimate = estimate + self.evidence(name, x, sigma, label, estimate, asked)[0]
        return estimate

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return self.estimate(x, sigma, label).mean


def _knows_classes(module: nn.Module) -> bool:
    """Whether any network inside was trained with labels."""
    configs = (getattr(m, "config", None) for m in module.modules())
    return any(isinstance(c, Mapping) and c.get("classes") for c in configs)


def _views(given: Mapping[str, View | dict[str, Any]]) -> dict[str, View]:
    return {n: view_kinds.from_config(v) if isinstance(v, dict) else v for n, v in given.items()}


def project_null(r: Tensor, views: Mapping[str, View], cycles: int = 64) -> Tensor:
    """r less what lies in the views' row spaces, (B, *shape): cyclic projections r <- r - A^T A r.

    Exact after one cycle where the projections commute, as those of one view's placements do, and those of views that
    are nested, disjoint or of different axes; else, as for a thumbnail and a crop across its blocks, or thumbnails of
    windows across each other's blocks, it converges (von Neumann 1949, Halperin 1962), and stops after `cycles` at the
    latest.
    """
    full = tuple(r.shape[1:])
    places = [p for view in views.values() for p in view.placements(full)]
    once = len(views) < 2 and not any(isinstance(v, view_kinds.Compose) and not v.is_fixed for v in views.values())
    for _ in range(cycles):
        before = r
        for p in places:
            r = r - p.lift(p(r), full)
        if once or bool((r - before).abs().max() <= 1e-6 * before.abs().max()):
            break
    return r


class ResidualExpert(nn.Module):
    """r(x, sigma) = c_r(sigma) F(c_in (x - m), seen / sigma_data, context; c_noise).

    Args:
        net: backbone F with C + context + seen input channels and C output channels.
        base: the white base (its mean and sigma_data precondition the input).
        levels: noise levels of `scale`, ascending.
        scale: c_r / c_out at each level; c_out is that of the white base, so 1 stands for "no views".
        sees: whether F sees the lifted view estimates.
        on: what r is added to: "views" (the composite V) or "base" (the white base: a denoiser of its own).
        null: views (or their configs) by name, in whose null space F is kept; None for no such limit.
        shown: mask channels that F sees; they are 1 where no context is given: nothing is hidden.
    """

    scale: Tensor
    levels: Tensor

    def __init__(
        self,
        net: nn.Module,
        base: IsotropicGaussian,
        levels: Sequence[float],
        scale: Sequence[float],
        uses_views: bool,
        on: str,
        null: Mapping[str, View | dict[str, Any]] | None = None,
        mask_channels: int = 0,
    ) -> None:
        super().__init__()
        if on not in ("views", "base"):
            raise ValueError(f"an expert stands on 'views' or on 'base', not {on!r}")
        self.net, self.base, self.uses_views, self.on, self.mask_channels = net, base, uses_views, on, mask_channels
        self.null = _views(null or {})
        self.config = {
            "net": net, "base": base, "levels": list(levels), "scale": list(scale), "uses_views": uses_views, "on": on,
            "null": {n: view_kinds.to_config(v) for n, v in self.null.items()}, "mask_channels": mask_channels,
        }  # fmt: skip
        self.register_buffer("levels", torch.tensor(list(levels), dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float64), persistent=False)

    def c_r(self, sigma: Tensor) -> Tensor:
        """Root mean square of what is left over at sigma, (B,) -> (B,)."""
        return precondition(sigma, self.base.sigma_data).c_out * interpolate(sigma, self.levels, self.scale).to(
            sigma.dtype
        )

    def unit(
        self, x: Tensor, sigma: Tensor, seen: Tensor | None, label: Tensor | None, context: Tensor | None
    ) -> Tensor:
        """F itself, of unit scale, (B, *shape)."""
        c = precondition(sigma, self.base.sigma_data)
        parts = [expand(c.c_in, x) * (x - self.base.mean.to(x.dtype))]
        if context is not None:
            parts.append(context.to(x.dtype))
        elif self.mask_channels:
            parts.append(x.new_ones(len(x), self.mask_channels, *x.shape[2:]))
        if self.uses_views and seen is not None:
            parts.append(seen / self.base.sigma_data)
        return project_null(self.net(torch.cat(parts, 1), c.c_noise, label).to(x.dtype), self.null)

    def forward(
        self, x: Tensor, sigma: Tensor, seen: Tensor | None, label: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """r, (B, *shape)."""
        return expand(self.c_r(sigma), x) * self.unit(x, sigma, seen, label, context).to(x.dtype)


class SnapshotsByNoiseLevel(nn.Module):
    """Several snapshots of one expert; each noise level uses the one that held-out samples chose for it.

    Args:
        members: the snapshots, alike but for their weights.
        levels: noise levels, ascending; in between, the nearest in ln sigma counts.
        choice: index into `members` for each level.
    """

    def __init__(self, members: Sequence[ResidualExpert], levels: Sequence[float], choice: Sequence[int]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.levels, self.choice = list(levels), list(choice)
        self.config = {"members": list(members), "levels": self.levels, "choice": self.choice}

    @property
    def on(self) -> str:
        return str(self.members[0].on)

    def forward(
        self, x: Tensor, sigma: Tensor, seen: Tensor | None, label: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        chosen = torch.tensor(self.choice, device=sigma.device)[nearest_level(sigma, self.levels)]
        used = chosen.unique().tolist()
        if len(used) == 1:
            return self.members[used[0]](x, sigma, seen, label, context)
        out = torch.zeros_like(x)
        for k in used:
            at = (chosen == k).nonzero()[:, 0]
            rest = (None if v is None else v[at] for v in (seen, label, context))
            out = out.index_copy(0, at, self.members[k](x[at], sigma[at], *rest).to(x.dtype))
        return out


class StackedDenoiser(Denoiser):
    """D = V + sum_k kappa_k(sigma) (D_k - V): the finished denoiser.

    Where views know classes and no expert does, D(c) is D(none) with the views' own estimates for the class in their
    row spaces: the weights, fitted on samples of no class, would all but silence them.

    Args:
        composite: V (without views: the white base).
        experts: what is stacked on it.
        levels: noise levels of `weights`, ascending.
        weights: kappa_k at each level, (levels, experts); None stands for 1 / experts.
    """

    weights: Tensor
    levels: Tensor

    def __init__(
        self,
        composite: CompositeDenoiser,
        experts: Sequence[ResidualExpert | SnapshotsByNoiseLevel],
        levels: Sequence[float],
        weights: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.composite, self.experts, self.shape = composite, nn.ModuleList(experts), composite.shape
        count = len(experts)
        values = torch.full((len(levels), count), 1 / max(count, 1)) if weights is None else torch.tensor(weights)
        self.register_buffer("levels", torch.tensor(list(levels), dtype=torch.float64), persistent=False)
        self.register_buffer("weights", values.double().reshape(len(levels), count), persistent=False)
        self._classed_by_views = (
            count > 0 and not _knows_classes(self.experts) and any(map(_knows_classes, composite.denoisers.values()))
        )

    @property
    def config(self) -> dict[str, Any]:
        return {
            "composite": self.composite,
            "experts": list(self.experts),
            "levels": self.levels.tolist(),
            "weights": self.weights.tolist(),
        }

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, *shape)."""
        if label is None or not self._classed_by_views:
            return self._stacked(x, sigma, label, context)
        return self.composite.of_class(self._stacked(x, sigma, None, context), x, sigma, label)

    def _stacked(self, x: Tensor, sigma: Tensor, label: Tensor | None, context: Tensor | None) -> Tensor:
        at = self.composite.estimate(x, sigma, label)
        kappa = interpolate(sigma, self.levels, self.weights).to(x.dtype)
        out = at.mean
        for k, expert in enumerate(self.experts):
            rows = kappa[:, k] > 0
            if not bool(rows.any()):
                continue
            pick = slice(None) if bool(rows.all()) else rows.nonzero()[:, 0]
            part = [None if v is None else v[pick] for v in (x, sigma, at.seen, label, context)]
            r = expert(*part)
            if expert.on == "base":
                r = r + at.base[pick] - at.mean[pick]
            r = expand(kappa[pick, k], x) * r
            out = out + r if isinstance(pick, slice) else out.index_add(0, pick, r.to(out.dtype))
        return out
