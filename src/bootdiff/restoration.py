"""Restoration of one sample: full samples that agree with a partial one, drawn from the posterior of any `Denoiser`.

Given y = A x0 + tau n (a view of one sample, A A^T A = A) and D(x, sigma) = E[x0 | x], x = x0 + sigma n, samples of
x0 | y are wanted.  The denoiser E[x0 | x, y], put into any solver of `sampling`, draws them.  With x0 | x taken as a
Gaussian of covariance V,

    E[x0 | x, y] ~ D + V A^T (tau^2 I + A V A^T)^-1 (y - A D),              V = Cov[x0 | x] = sigma^2 J,  J = dD/dx,

the last equation being exact (Tweedie's second order: Efron 2011), so everything is exact for Gaussian x0.  Methods:

    mmps    V = sigma^2 J: a few steps of conjugate gradients, each one vector-Jacobian product through D (moment
            matching: Rozet, Andry, Lanusse, Louppe 2024, arXiv 2405.13712; Boys et al. 2023, arXiv 2310.06721).
    pigdm   V = r^2 I, r^2 = sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2), inside the inverse, which A A^T = I then
            gives in closed form, and sigma^2 J outside (Song, Vahdat, Mardani, Kautz 2023, "Pseudoinverse-guided
            diffusion models for inverse problems", ICLR).
    ddnm    the range space is replaced, D + A^T (y - A D), and the null space left to D, at each noise level of a
            stochastic sampler; no gradients.  `travel` goes back up and down again, so that the null space adapts to
            the range space (Wang, Yu, Zhang 2022, arXiv 2212.00490, algorithms 1 and 3).  With tau > 0, the range
            space of x at each level sigma >= tau is set to y plus white noise of variance sigma^2 - tau^2 (Lugmayr et
            al. 2022, arXiv 2201.09865).

Without noise (tau = 0) every estimate is projected onto {x: A x = y} last, x <- x + A^T (y - A x), and so is the
sample: the given part is kept exactly, up to rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.data.dataset import generator
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.noise import karras_levels
from bootdiff.sampling import at_once, checked_labels, evaluating, posterior_mean, solver
from bootdiff.views import View, unmasked

__all__ = ["DDNM", "METHODS", "MMPS", "Method", "Observation", "PiGDM", "PosteriorDenoiser", "observe", "restore"]

# A further word of the random stream: the noise of an answer is that of no sample drawn with the same seed.
_RESTORE = 4


# --- what is given ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observation:
    """n partial samples, in view coordinates; made by `observe`.

    Attributes:
        view: fixed (one placement); A is this view, multiplied by `mask` where there is one.
        full: shape of a full sample.
        y: (n, *view.shape(full)), 0 where hidden.
        mask: (n, 1 or C, *space of the view), 1 = observed, or None.
        tau: standard deviation of y's noise.
    """

    view: View
    full: tuple[int, ...]
    y: Tensor
    mask: Tensor | None
    tau: float

    def __len__(self) -> int:
        return len(self.y)

    def apply(self, x: Tensor) -> Tensor:
        """A x: (n, *full) -> (n, *view)."""
        y = self.view(x)
        return y if self.mask is None else y * self.mask.to(y)

    def lift(self, y: Tensor) -> Tensor:
        """A^T y: (n, *view) -> (n, *full)."""
        return self.view.lift(y if self.mask is None else y * self.mask.to(y), self.full)

    def consistent(self, x: Tensor) -> Tensor:
        """The point of {x: A x = y} nearest to x, x + A^T (y - A x): (n, *full) -> (n, *full)."""
        return x + self.lift(self.y.to(x) - self.apply(x))

    def within(self, x: Tensor, low: float, high: float, rounds: int = 100) -> Tensor:
        """Into [low, high] and, without noise, also onto {x: A x = y}, by alternating projections (Bregman 1965).

        They converge to a common point wherever some sample within the bounds has this view.
        """
        x = x.clamp(low, high)
        for _ in range(rounds if self.tau == 0 else 0):
            closer = self.consistent(x).clamp(low, high)
            if bool((closer - x).abs().max() < 1e-6):
                break
            x = closer
        return x

    def rows(self, index: Tensor) -> Observation:
        """The samples at these indices, which may repeat."""
        return replace(self, y=self.y[index], mask=None if self.mask is None else self.mask[index])

    def to(self, device: torch.device) -> Observation:
        """The same on a different device."""
        return replace(self, y=self.y.to(device), mask=None if self.mask is None else self.mask.to(device))

    @property
    def determined(self) -> bool:
        """Whether y determines x0: nothing is hidden, averaged away or noisy."""
        if self.tau > 0:
            return False
        observed = torch.ones_like(self.y) if self.mask is None else self.mask.to(self.y).expand_as(self.y)
        fixed = self.view.mask(self.full)
        observed = observed if fixed is None else observed * fixed.to(observed)
        return bool((observed.flatten(1).sum(1).round() == math.prod(self.full)).all())


def observe(stored: Tensor, view: View, full: Sequence[int], mask: Tensor | None = None) -> Observation:
    """Partial samples as stored, (n, *view.shape(full)), ready to restore from.

    Args:
        stored: as the files hold them: view coordinates are `view.scale` times these.
        view: of a full sample. Masks drawn per file (`RandomMask`) are taken from `mask`.
        full: shape of a full sample.
        mask: (n, 1 or C, *space of the view), 1 = observed, in addition to what `view` itself hides.

    Raises:
        ValueError: sizes that do not fit, a view of several placements, masks that are missing, not 0 and 1, or hide
            everything, values that are not finite where something is observed.
    """
    full = tuple(full)
    fixed = unmasked(view)
    if not fixed.is_fixed:
        count = len(fixed.placements(full))
        raise ValueError(
            f"{view} has {count} placements, and a partial sample is at one of them only; choose it: give an offset, "
            "or one of view.placements(full)"
        )
    shape = fixed.shape(full)
    if stored.ndim != len(shape) + 1 or tuple(stored.shape[1:]) != shape:
        raise ValueError(f"{view} of samples {full} has shape {shape}, the partial samples {tuple(stored.shape[1:])}")
    if mask is None and view.masked and not view.is_fixed:
        raise ValueError(
            f"{view} hides a different part of each file: pass the masks, (n, 1, {', '.join(map(str, shape[1:]))})"
        )
    stored = stored.to(torch.float32)
    observed = torch.ones(len(stored), *(1,) * len(shape))
    if mask is not None:
        fits = mask.ndim == stored.ndim and len(mask) == len(stored) and mask.shape[1] in (1, shape[0])
        if not fits or tuple(mask.shape[2:]) != shape[1:]:
            raise ValueError(f"masks must be ({len(stored)}, 1 or {shape[0]}, *{shape[1:]}), got {tuple(mask.shape)}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("masks must hold 0 (hidden) and 1 (observed) only")
        mask = mask.to(stored)
        observed = mask
    always = fixed.mask(full)
    observed = (observed if always is None else observed * always).expand_as(stored)
    hidden = (observed.flatten(1).sum(1) == 0).nonzero()[:, 0].tolist()
    if hidden:
        raise ValueError(f"the mask of partial sample {hidden[0]} hides everything: there is nothing to restore from")
    y = torch.where(observed > 0, stored * fixed.scale, 0)
    if not bool(y.isfinite().all()):
        bad = (~y.flatten(1).isfinite().all(1)).nonzero()[0].item()
        raise ValueError(f"partial sample {bad} holds NaN or an infinity where it is observed; mask it there")
    return Observation(fixed, full, y, mask, fixed.tau)


# --- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a restoration, and the solver for the methods that use one (as in `sampling.sample`)."""

    scheduler: str | Any
    steps: int
    sigma_min: float
    sigma_max: float

    def sigmas(self) -> list[float]:
        """The levels, descending, and 0."""
        return [*karras_levels(self.steps, self.sigma_min, self.sigma_max).tolist(), 0.0]


@dataclass(frozen=True)
class Batch:
    """What the answers of one batch are made of: B observations, and for each its label and its random numbers.

    noise: standard normal, (B, *full). first: number of the first answer, for messages. tick: called with the number
    of steps done.
    """

    given: Observation
    label: Tensor | None
    noise: Tensor
    generators: list[Generator]
    first: int
    tick: Callable[[int], None]


class Method(ABC):
    """A way to draw from x0 | y with a denoiser of x0."""

    @abstractmethod
    def steps(self, schedule: Schedule, tau: float) -> int:
        """The number of steps that `draw` reports."""

    @abstractmethod
    def draw(self, denoiser: Denoiser, batch: Batch, schedule: Schedule) -> Tensor:
        """One answer for each observation of the batch, (B, *full)."""


class PosteriorMethod(Method):
    """E[x0 | x, y] of a Gaussian x0 | x as the denoiser of any solver; variants differ in the inverse."""

    @abstractmethod
    def inverse(
        self, posterior: PosteriorDenoiser, gap: Tensor, sigma: Tensor, covariance: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """v ~ (tau^2 I + A V A^T)^-1 (y - A D), (B, *view).

        Args:
            posterior: with y and the denoiser.
            gap: y - A D, (B, *view).
            sigma: (B,).
            covariance: v -> sigma^2 J^T A^T v, (B, *view) -> (B, *full).
        """

    def steps(self, schedule: Schedule, tau: float) -> int:
        return schedule.steps

    def draw(self, denoiser: Denoiser, batch: Batch, schedule: Schedule) -> Tensor:
        posterior = PosteriorDenoiser(denoiser, batch.given, self)
        solve = solver(schedule.scheduler, schedule.steps, schedule.sigma_min, schedule.sigma_max)

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            return posterior_mean(posterior, x, sigma, batch.label, batch.first)

        return solve(evaluate, batch.noise, batch.generators, batch.tick)


@dataclass(frozen=True)
class MMPS(PosteriorMethod):
    """Moment matching, V = sigma^2 J; `iterations` of conjugate gradients, each about two evaluations of D."""

    iterations: int = 3

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"mmps needs iterations >= 1, got iterations={self.iterations}")

    def inverse(
        self, posterior: PosteriorDenoiser, gap: Tensor, sigma: Tensor, covariance: Callable[[Tensor], Tensor]
    ) -> Tensor:
        given = posterior.given
        return _conjugate_gradients(
            lambda p: given.tau**2 * p + given.apply(covariance(p)), gap, self.iterations, given.tau**2
        )


@dataclass(frozen=True)
class PiGDM(PosteriorMethod):
    """Pseudoinverse guidance, V = r^2 I inside the inverse.

    sigma_data: standard deviation of the data; None: that of the denoiser's isotropic Gaussian base, else 0.5.
    """

    sigma_data: float | None = None

    def inverse(
        self, posterior: PosteriorDenoiser, gap: Tensor, sigma: Tensor, covariance: Callable[[Tensor], Tensor]
    ) -> Tensor:
        sigma_data = self.sigma_data
        if sigma_data is None:
            bases = (m for m in posterior.denoiser.modules() if isinstance(m, IsotropicGaussian))
            sigma_data = next((base.sigma_data for base in bases), 0.5)
        r2 = 1 / (1 / sigma**2 + 1 / sigma_data**2)
        return gap / expand(r2 + posterior.given.tau**2, gap)


@dataclass(frozen=True)
class DDNM(Method):
    """Null-space replacement in a stochastic sampler, in steps of DDIM (arXiv 2010.02502, equation 12).

    Attributes:
        eta: share of new noise, from 0 (DDIM) to 1 (ancestral).
        travel: (length, repeats): each stretch of `length` steps is passed `repeats` times.
    """

    eta: float = 1.0
    travel: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1 or len(self.travel) != 2 or min(self.travel) < 1:
            raise ValueError(
                f"ddnm needs 0 <= eta <= 1 and travel of two numbers >= 1, got eta={self.eta}, travel={self.travel}"
            )

    def steps(self, schedule: Schedule, tau: float) -> int:
        return len(list(self._moves(schedule.sigmas(), tau)))

    def draw(self, denoiser: Denoiser, batch: Batch, schedule: Schedule) -> Tensor:
        given, sigmas = batch.given, schedule.sigmas()
        x = sigmas[0] * batch.noise
        for done, (i, j) in enumerate(self._moves(sigmas, given.tau)):
            sigma, after = sigmas[i], sigmas[j]
            noise = _randn(batch.generators, denoiser.shape).to(x) if after > 0 else torch.zeros_like(x)
            if after > sigma:
                x = x + math.sqrt(after**2 - sigma**2) * noise
            else:
                clean = d = posterior_mean(denoiser, x, torch.tensor(sigma), batch.label, batch.first)
                if after >= given.tau:
                    clean = d + given.lift(given.y - given.apply(d))
                std = self.eta * after * math.sqrt(1 - (after / sigma) ** 2)
                x = clean + math.sqrt(after**2 - std**2) * (x - clean) / sigma + std * noise
                if after >= given.tau > 0:
                    # of the noise of deviation `after`, y already contains tau
                    renewed = given.y + math.sqrt(after**2 - given.tau**2) * given.apply(noise)
                    x = x + given.lift(renewed - given.apply(x))
            batch.tick(done + 1)
        return x

    def _moves(self, sigmas: Sequence[float], tau: float) -> Iterator[tuple[int, int]]:
        """Steps between levels (the last is 0) as (from, to); back is a jump over a stretch.

        Below tau, x is tied to y only through its own past, which a jump back would erase.
        """
        (length, most), steps = self.travel, len(sigmas) - 1
        for first in range(0, steps, length):
            last = min(first + length, steps)
            repeats = most if sigmas[last] >= tau else 1
            for turn in range(repeats):
                yield from ((i, i + 1) for i in range(first, last))
                if turn + 1 < repeats:
                    yield last, first


METHODS: dict[str, type[Method]] = {"mmps": MMPS, "pigdm": PiGDM, "ddnm": DDNM}


class PosteriorDenoiser(Denoiser):
    """E[x0 | x, y] by a Gaussian x0 | x (module docstring): the denoiser whose samples are restorations.

    Args:
        denoiser: D.
        given: y, one for each row of the x it is evaluated at.
        method: how the inverse is approximated.
    """

    def __init__(self, denoiser: Denoiser, given: Observation, method: PosteriorMethod) -> None:
        super().__init__()
        self.denoiser, self.shape, self.given, self.method = denoiser, denoiser.shape, given, method

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """E[x0 | x, y], (B, *shape)."""
        given, var = self.given, expand(sigma**2, x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            d = self.denoiser(x, sigma, label, context)

        def covariance(v: Tensor, *, keep: bool = True) -> Tensor:
            """sigma^2 J^T A^T v; J is symmetric where D is a posterior mean."""
            if not d.requires_grad:  # a constant
                return torch.zeros_like(x)
            (pulled,) = torch.autograd.grad(d, x, given.lift(v).to(d), retain_graph=keep)
            return var * pulled

        gap = given.y.to(x) - given.apply(d.detach())
        v = self.method.inverse(self, gap, sigma, covariance)
        estimate = d.detach() + covariance(v, keep=False)
        return given.consistent(estimate) if given.tau == 0 else estimate


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, steps: int, floor: float) -> Tensor:
    """v with matrix(v) = b for each row (Hestenes and Stiefel 1952), from v = 0.

    A row stops where the matrix is not positive along its direction, as happens with trained networks, or where it has
    converged; so nothing is divided by zero.
    """

    def dot(u: Tensor, w: Tensor) -> Tensor:
        return (u.double() * w.double()).flatten(1).sum(1)

    v, rest, direction = torch.zeros_like(b), b, b
    left = dot(rest, rest)
    least = 1e-10 * left
    going = left > 0
    for _ in range(steps):
        image = matrix(direction)
        curvature = dot(direction, image)
        going = going & (curvature > 1e-12 * dot(direction, direction)) & (left > least)
        if not bool(going.any()):
            break
        step = torch.where(going, left / torch.where(going, curvature, 1), 0)
        v = v + expand(step, v) * direction
        rest = rest - expand(step, v) * image
        now = dot(rest, rest)
        direction = rest + expand(torch.where(going, now / torch.where(going, left, 1), 0), v) * direction
        left = torch.where(going, now, left)
    return v


# --- restoration ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def restore(
    denoiser: Denoiser,
    stored: Tensor,
    view: View,
    *,
    samples: int = 1,
    mask: Tensor | None = None,
    method: str | Method = "mmps",
    seed: int = 0,
    scheduler: str | Any = "dpm",
    steps: int = 40,
    sigma_min: float = 0.02,
    sigma_max: float = 80.0,
    label: int | Sequence[int] | Tensor | None = None,
    iterations: int = 3,
    sigma_data: float | None = None,
    eta: float = 1.0,
    travel: tuple[int, int] = (1, 1),
    bounds: tuple[float, float] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Several completions of each partial sample, (n, samples, *denoiser.shape) float32.

    Args:
        denoiser: of full samples; evaluated without dropout.
        stored: n partial samples in stored coordinates, (n, *view.shape(denoiser.shape)).
        view: A x0 = scale * stored, and tau is the standard deviation of their noise.
        samples: answers per partial sample: draws from one posterior, whose spread shows how certain it is.
        mask: (n, 1 or C, *space of the view), 1 = observed: what each file itself hides.
        method: a name in `METHODS`, or a `Method` with its own settings.
        seed: >= 0; answer k of file i depends on seed, i and k alone, up to rounding.
        scheduler: as in `sample`, for mmps and pigdm.
        steps, sigma_min, sigma_max: noise levels, as in `sample`.
        label: class of all, or of each file, (n,); None for no class.
        iterations: of "mmps", see `MMPS`.
        sigma_data: of "pigdm", see `PiGDM`.
        eta, travel: of "ddnm", see `DDNM`.
        bounds: lowest and highest value of the data, such as [-1, 1] of images: the answers are within and still agree.
        batch_size: answers per evaluation: bounds the memory; None: `at_once`, of a quarter of a draw's values.
        progress: called as progress(done, total), in steps, after every step of every batch.

    Returns:
        Where tau = 0 they agree with what was given, A x = y, up to rounding; where `stored` determines x0, they are
        it.

    Raises:
        ValueError: as `observe`; an argument out of its range, an unknown method, a class the denoiser does not have.
        BootdiffError: the denoiser returned NaN or an infinity.
    """
    batch_size = at_once(denoiser.shape, 2**18) if batch_size is None else batch_size
    if samples < 1 or batch_size < 1 or steps < 2 or seed < 0:
        raise ValueError(
            f"restore needs samples and batch_size >= 1, steps >= 2 and seed >= 0, got samples={samples}, "
            f"batch_size={batch_size}, steps={steps}, seed={seed}"
        )
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds}")
    if isinstance(method, str):
        named = {"mmps": MMPS(iterations), "pigdm": PiGDM(sigma_data), "ddnm": DDNM(eta, travel)}
        if method not in named:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        method = named[method]
    schedule = Schedule(scheduler, steps, sigma_min, sigma_max)
    given = observe(stored, view, denoiser.shape, mask)
    labels = checked_labels(label, len(given), denoiser)
    device = next((t.device for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    given = given.to(device or torch.device("cpu"))
    if given.determined:
        return given.lift(given.y)[:, None].repeat_interleave(samples, 1)
    total, each = len(given) * samples, method.steps(schedule, given.tau)
    starts = range(0, total, batch_size)
    out = torch.empty(total, *denoiser.shape, device=given.y.device)
    with evaluating(denoiser):
        for b, start in enumerate(starts):
            answers = [divmod(j, samples) for j in range(start, min(start + batch_size, total))]
            generators = [generator(seed, _RESTORE, i, k + 1) for i, k in answers]
            index = torch.tensor([i for i, _ in answers])
            part = given.rows(index.to(given.y.device))
            classes = None if labels is None else labels[index].to(given.y.device)
            noise = _randn(generators, denoiser.shape).to(given.y)

            def tick(step: int, b: int = b) -> None:
                if progress is not None:
                    progress(b * each + step, len(starts) * each)

            x = method.draw(denoiser, Batch(part, classes, noise, generators, start, tick), schedule)
            x = part.consistent(x) if part.tau == 0 else x
            out[start : start + len(answers)] = x if bounds is None else part.within(x, *bounds)
    return out.unflatten(0, (len(given), samples))


def _randn(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])
