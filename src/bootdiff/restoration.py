"""Restoration: full samples that agree with a partial one, by the posterior of any `Denoiser`.

Given y = A x0 + tau n (a view of one sample, A A^T A = A) and D(x, sigma) = E[x0 | x], x = x0 + sigma n, what is asked
for is x0 | y.  Its own denoiser, E[x0 | x, y], would do: put into any solver of `sample`, it draws from the posterior.
With the noise law of x0 | x taken as a Gaussian of covariance V,

    E[x0 | x, y] ~ D + V A^T (tau^2 I + A V A^T)^-1 (y - A D),              V = Cov[x0 | x] = sigma^2 J,  J = dD/dx,

the last equation being exact (Tweedie's second order: Efron 2011), so everything is exact for Gaussian x0.  Methods:

    mmps    V = sigma^2 J: a few steps of conjugate gradients, each one vector-Jacobian product through D (moment
            matching: Rozet, Andry, Lanusse, Louppe 2024, arXiv 2405.13712; Boys et al. 2023, arXiv 2310.06721).
    pigdm   V = r^2 I, r^2 = sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2), inside the inverse, which A A^T = I then
            gives in closed form, and sigma^2 J outside (Song, Vahdat, Mardani, Kautz 2023, "Pseudoinverse-guided
            diffusion models for inverse problems", ICLR).
    ddnm    the range space is replaced, D + A^T (y - A D), and the null space left to D, at each noise level of a
            stochastic sampler; no gradients.  `travel` goes back up and down again, so that the null space learns of
            the range space (Wang, Yu, Zhang 2022, arXiv 2212.00490, algorithms 1 and 3).  With tau > 0, x is given
            what y says of x at each level sigma >= tau: y and white noise of variance sigma^2 - tau^2 (Lugmayr et al.
            2022, arXiv 2201.09865).

Without noise (tau = 0) every estimate is put onto {x: A x = y} last, x <- x + A^T (y - A x), and so is the sample: the
given part is kept exactly, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from bootdiff.data.dataset import generator
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.noise import karras_levels
from bootdiff.sampling import checked_labels, evaluating, posterior_mean, solver
from bootdiff.views import View, unmasked

__all__ = ["METHODS", "Observation", "PosteriorDenoiser", "observe", "restore"]

METHODS: tuple[str, ...] = ("mmps", "pigdm", "ddnm")

# A further word of the random stream: the noise of an answer is that of no sample drawn with the same seed.
_RESTORE = 4


@dataclass(frozen=True)
class Observation:
    """n partial samples, in view coordinates; made by `observe`.

    y: (n, *view.shape(full)), 0 where hidden. view: single, and what it shows of each file is `mask` times it. mask:
    (n, 1 or C, *space of the view), 1 = observed, or None. tau: deviation of y's noise.
    """

    view: View
    full: tuple[int, ...]
    y: Tensor
    mask: Tensor | None
    tau: float

    def __len__(self) -> int:
        return len(self.y)

    def see(self, x: Tensor) -> Tensor:
        """A x: (n, *full) -> (n, *view)."""
        seen = self.view(x)
        return seen if self.mask is None else seen * self.mask.to(seen)

    def lift(self, y: Tensor) -> Tensor:
        """A^T y: (n, *view) -> (n, *full)."""
        return self.view.lift(y if self.mask is None else y * self.mask.to(y), self.full)

    def consistent(self, x: Tensor) -> Tensor:
        """The point of {x: A x = y} nearest to x, x + A^T (y - A x): (n, *full) -> (n, *full)."""
        return x + self.lift(self.y.to(x) - self.see(x))

    def within(self, x: Tensor, low: float, high: float, rounds: int = 100) -> Tensor:
        """Into [low, high] and, without noise, onto {x: A x = y} too, by projections in turn (Bregman 1965).

        They meet wherever some sample within the bounds has this view.
        """
        x = x.clamp(low, high)
        for _ in range(rounds if self.tau == 0 else 0):
            closer = self.consistent(x).clamp(low, high)
            if bool((closer - x).abs().max() < 1e-6):
                break
            x = closer
        return x

    def rows(self, index: Tensor) -> Observation:
        """The files of these numbers, which may repeat."""
        return replace(self, y=self.y[index], mask=None if self.mask is None else self.mask[index])

    def to(self, device: torch.device) -> Observation:
        """The same on another device."""
        return replace(self, y=self.y.to(device), mask=None if self.mask is None else self.mask.to(device))

    @property
    def determined(self) -> bool:
        """Whether y says all of x0: nothing is hidden, averaged away or noisy."""
        if self.tau > 0:
            return False
        seen = torch.ones_like(self.y) if self.mask is None else self.mask.to(self.y).expand_as(self.y)
        fixed = self.view.mask(self.full)
        seen = seen if fixed is None else seen * fixed.to(seen)
        return bool((seen.flatten(1).sum(1).round() == math.prod(self.full)).all())


def observe(stored: Tensor, view: View, full: Sequence[int], mask: Tensor | None = None) -> Observation:
    """Files as stored, (n, *view.shape(full)), made ready to restore from.

    Args:
        stored: as the files hold them: view coordinates are `view.scale` times these.
        view: what they show of a full sample. Masks drawn per file (`RandomMask`) are taken from `mask`.
        full: shape of a full sample.
        mask: (n, 1 or C, *space of the view), 1 = observed, over and above what `view` itself hides.

    Raises:
        ValueError: sizes that do not fit, a view of several placements, masks that are missing, not 0 and 1, or hide
            everything, values that are not finite where something is observed.
    """
    full = tuple(full)
    is_fixed = unmasked(view)
    if not is_fixed.is_fixed:
        count = len(is_fixed.placements(full))
        raise ValueError(
            f"{view} may lie at any of {count} places, and a partial sample at one of them only; give the place: an "
            "offset, or one of view.placements(full)"
        )
    shape = is_fixed.shape(full)
    if stored.ndim != len(shape) + 1 or tuple(stored.shape[1:]) != shape:
        raise ValueError(f"{view} of samples {full} has shape {shape}, the partial samples {tuple(stored.shape[1:])}")
    if mask is None and view.masked and not view.is_fixed:
        raise ValueError(
            f"{view} hides another part in each file: pass the masks, (n, 1, {', '.join(map(str, shape[1:]))})"
        )
    stored = stored.to(torch.float32)
    seen = torch.ones(len(stored), *(1,) * len(shape))
    if mask is not None:
        fits = mask.ndim == stored.ndim and len(mask) == len(stored) and mask.shape[1] in (1, shape[0])
        if not fits or tuple(mask.shape[2:]) != shape[1:]:
            raise ValueError(f"masks must be ({len(stored)}, 1 or {shape[0]}, *{shape[1:]}), got {tuple(mask.shape)}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("masks must hold 0 (hidden) and 1 (observed) only")
        mask = mask.to(stored)
        seen = mask
    fixed = is_fixed.mask(full)
    seen = (seen if fixed is None else seen * fixed).expand_as(stored)
    hidden = (seen.flatten(1).sum(1) == 0).nonzero()[:, 0].tolist()
    if hidden:
        raise ValueError(f"the mask of partial sample {hidden[0]} hides everything: there is nothing to restore from")
    y = torch.where(seen > 0, stored * is_fixed.scale, 0)
    if not bool(y.isfinite().all()):
        bad = (~y.flatten(1).isfinite().all(1)).nonzero()[0].item()
        raise ValueError(f"partial sample {bad} holds NaN or an infinity where it is observed; mask it there")
    return Observation(is_fixed, full, y, mask, is_fixed.tau)


class PosteriorDenoiser(Denoiser):
    """E[x0 | x, y] by a Gaussian x0 | x (module docstring): the denoiser whose samples are restorations.

    Args:
        denoiser: D.
        given: y, one for each row of the x that will be asked.
        iterations: steps of conjugate gradients on (tau^2 I + sigma^2 A J A^T) v = y - A D; None for the closed form
            with r^2 in place of sigma^2 J (PiGDM).
        sigma_data: standard deviation of the data, for r^2.
    """

    def __init__(
        self, denoiser: Denoiser, given: Observation, iterations: int | None = 3, sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        self.denoiser, self.shape, self.given = denoiser, denoiser.shape, given
        self.iterations, self.sigma_data = iterations, sigma_data

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """E[x0 | x, y], (B, *shape)."""
        given, var = self.given, expand(sigma**2, x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            d = self.denoiser(x, sigma, label, context)

        def covariance(v: Tensor, keep: bool = True) -> Tensor:
            """sigma^2 J^T A^T v; J is symmetric where D is a posterior mean."""
            if not d.requires_grad:  # a constant
                return torch.zeros_like(x)
            (pulled,) = torch.autograd.grad(d, x, given.lift(v).to(d), retain_graph=keep)
            return var * pulled

        gap = given.y.to(x) - given.see(d.detach())
        if self.iterations is None:
            r2 = 1 / (1 / sigma**2 + 1 / self.sigma_data**2)
            v = gap / expand(r2 + given.tau**2, gap)
        else:
            v = _conjugate_gradients(
                lambda p: given.tau**2 * p + given.see(covariance(p)), gap, self.iterations, given.tau**2
            )
        estimate = d.detach() + covariance(v, keep=False)
        return given.consistent(estimate) if given.tau == 0 else estimate


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, steps: int, floor: float) -> Tensor:
    """v with matrix(v) = b for each row (Hestenes and Stiefel 1952), from v = 0.

    A row stops where the matrix is not positive along its direction, which that of a trained network may be, or where
    nothing is left to do; so it never divides by zero.
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


@torch.no_grad()
def restore(
    denoiser: Denoiser,
    stored: Tensor,
    view: View,
    *,
    samples: int = 1,
    mask: Tensor | None = None,
    method: str = "mmps",
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
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Several completions of each partial sample, (n, samples, *denoiser.shape) float32.

    Args:
        denoiser: of full samples; evaluated without dropout.
        stored: n partial samples in stored coordinates, (n, *view.shape(denoiser.shape)).
        view: what they show of a full sample: A x0 = scale * stored, and tau is the deviation of their noise.
        samples: answers per partial sample: draws from one posterior, whose spread says how sure it is.
        mask: (n, 1 or C, *space of the view), 1 = observed: what each file itself hides.
        method: one of `METHODS`.
        seed: >= 0; answer k of file i depends on seed, i and k alone, up to rounding.
        scheduler: as in `sample`, for mmps and pigdm.
        steps, sigma_min, sigma_max: noise levels, as in `sample`.
        label: class of all, or of each file, (n,); None for no class.
        iterations: of conjugate gradients, for mmps; each costs about two evaluations of D.
        sigma_data: standard deviation of the data, for pigdm; None: that of the denoiser's white base, else 0.5.
        eta: share of fresh noise, for ddnm, from 0 (DDIM) to 1 (ancestral).
        travel: (length, repeats) for ddnm: each stretch of so many steps is gone through so often.
        bounds: lowest and highest value of the data, as [-1, 1] of pictures: answers are put there and still agree.
        batch_size: answers per evaluation: bounds the memory.
        progress: called as progress(done, total), in steps, after every step of every batch.

    Returns:
        Where tau = 0 they agree with what was given, A x = y, up to rounding; where `stored` says everything, that.

    Raises:
        ValueError: as `observe`; an argument out of its range, an unknown method, a label the denoiser does not know.
        BootdiffError: the denoiser answered with NaN or an infinity.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if samples < 1 or batch_size < 1 or steps < 2 or seed < 0 or iterations < 1:
        raise ValueError(
            f"restore needs samples, batch_size, iterations >= 1, steps >= 2 and seed >= 0, got samples={samples}, "
            f"batch_size={batch_size}, iterations={iterations}, steps={steps}, seed={seed}"
        )
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds}")
    if not 0 <= eta <= 1 or len(travel) != 2 or min(travel) < 1:
        raise ValueError(f"restore needs 0 <= eta <= 1 and travel of two numbers >= 1, got {eta} and {travel}")
    given = observe(stored, view, denoiser.shape, mask)
    labels = checked_labels(label, len(given), denoiser)
    device = next((t.device for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    given = given.to(device or torch.device("cpu"))
    if given.determined:
        return given.lift(given.y)[:, None].repeat_interleave(samples, 1)
    if sigma_data is None:
        sigma_data = next((m.sigma_data for m in denoiser.modules() if isinstance(m, IsotropicGaussian)), 0.5)
    levels = karras_levels(steps, sigma_min, sigma_max)
    solve = solver(scheduler, steps, sigma_min, sigma_max) if method != "ddnm" else None
    total = len(given) * samples
    starts = range(0, total, batch_size)
    moves = list(_moves([*levels.tolist(), 0.0], travel, given.tau))
    ticks = steps if solve is not None else len(moves)
    out = torch.empty(total, *denoiser.shape, device=given.y.device)
    with evaluating(denoiser):
        for b, start in enumerate(starts):
            jobs = [divmod(j, samples) for j in range(start, min(start + batch_size, total))]
            own = [generator(seed, _RESTORE, i, k + 1) for i, k in jobs]
            index = torch.tensor([i for i, _ in jobs])
            part = given.rows(index.to(given.y.device))
            at = None if labels is None else labels[index].to(given.y.device)
            noise = _randn(own, denoiser.shape).to(given.y)

            def tick(step: int, b: int = b) -> None:
                if progress is not None:
                    progress(b * ticks + step, len(starts) * ticks)

            if solve is None:
                x = _ddnm(denoiser, part, at, levels, eta, moves, noise, own, tick, start)
            else:
                rounds = iterations if method == "mmps" else None
                conditioned = PosteriorDenoiser(denoiser, part, rounds, sigma_data)

                def answer(x: Tensor, sigma: Tensor, d: Denoiser = conditioned, at: Any = at, n: int = start) -> Tensor:
                    return posterior_mean(d, x, sigma, at, n)

                x = solve(answer, noise, own, tick)
            x = part.consistent(x) if part.tau == 0 else x
            out[start : start + len(jobs)] = x if bounds is None else part.within(x, *bounds)
    return out.unflatten(0, (len(given), samples))


def _randn(own: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in own])


def _moves(sigmas: Sequence[float], travel: tuple[int, int], tau: float) -> Iterator[tuple[int, int]]:
    """Steps between levels (the last is 0) as (from, to); back is a jump over a stretch.

    Below tau nothing holds x to y but x itself, which a jump back would make forget it.
    """
    length, steps = travel[0], len(sigmas) - 1
    for first in range(0, steps, length):
        last = min(first + length, steps)
        repeats = travel[1] if sigmas[last] >= tau else 1
        for turn in range(repeats):
            yield from ((i, i + 1) for i in range(first, last))
            if turn + 1 < repeats:
                yield last, first


def _ddnm(
    denoiser: Denoiser,
    given: Observation,
    label: Tensor | None,
    levels: Tensor,
    eta: float,
    moves: Sequence[tuple[int, int]],
    noise: Tensor,
    own: list[Generator],
    tick: Callable[[int], None],
    first: int,
) -> Tensor:
    """Algorithms 1 and 3 of arXiv 2212.00490 in x = x0 + sigma n, in steps of DDIM (arXiv 2010.02502, equation 12)."""
    sigmas = [*levels.tolist(), 0.0]
    x = sigmas[0] * noise
    for done, (i, j) in enumerate(moves):
        sigma, after = sigmas[i], sigmas[j]
        fresh = _randn(own, denoiser.shape).to(x) if j < len(levels) else torch.zeros_like(x)
        if after > sigma:
            x = x + math.sqrt(after**2 - sigma**2) * fresh
        else:
            clean = d = posterior_mean(denoiser, x, torch.tensor(sigma), label, first)
            if after >= given.tau:
                clean = d + given.lift(given.y - given.see(d))
            std = eta * after * math.sqrt(1 - (after / sigma) ** 2)
            x = clean + math.sqrt(after**2 - std**2) * (x - clean) / sigma + std * fresh
            if after >= given.tau > 0:
                # of white noise of deviation `after`, y brings tau itself
                renewed = given.y + math.sqrt(after**2 - given.tau**2) * given.see(fresh)
                x = x + given.lift(renewed - given.see(x))
        tick(done + 1)
    return x
