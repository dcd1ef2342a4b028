"""Sampling: from white noise to clean samples along the probability flow of any `Denoiser`.

The flow ODE of x = x0 + sigma n is

    dx / d sigma = (x - D(x, sigma)) / sigma,        from x ~ N(0, sigma_max^2 I) down to sigma = 0,

along the noise levels of Karras et al. 2022 (arXiv 2206.00364, eq. 1 with s = 1, eq. 5 with rho = 7), then 0.  Solvers:

    dpm     DPM-Solver++(2M), the exponential integrator of D with one step of memory (Lu et al. 2022, arXiv 2211.01095,
            algorithm 2): diffusers' `EDMDPMSolverMultistepScheduler`.  One evaluation of D a step, order 2.
    heun    x' = x + h d,  x <- x + h (d + d') / 2,  d = (x - D) / sigma (arXiv 2206.00364, algorithm 1): order 2, two
            evaluations a step but one in the last, 2 steps - 1 in all.  diffusers has none for EDM.  With `Churn`,
            algorithm 2: before a step the noise is raised to (1 + gamma) sigma, with fresh noise.
    euler   x <- x + h d: diffusers' `EDMEulerScheduler`, one evaluation a step, order 1.

The last step, from sigma_min to 0, is x <- D(x, sigma_min) in all three.  Other solvers are diffusers' schedulers
(`schedulers`), on noise levels of their own.  With a `noise_shift` of e all ask for D(x, (1 - e) sigma) in the place of
D(x, sigma): learned denoisers may need it, to draw as much detail as there is in their data (`method.noise_shift`).

The noise of sample i is a function of (seed, i), or of its own generator, alone: neither n, nor the batch size, nor the
device changes a sample by more than rounding: on one CPU by about 1e-6 of the largest value.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from bootdiff.data.dataset import generator as seeded
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.nets import NETS
from bootdiff.noise import karras_levels, noted
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.schedulers import After, Evaluate, Solve, Tick, convert, diffusers_scheduler

__all__ = ["SOLVERS", "Churn", "at_once", "classes_of", "sample"]


def at_once(shape: Sequence[int], values: int = 2**20) -> int:
    """How many samples are evaluated at once by default: 64, or as many as hold so many values, at least one.

    A network keeps a few hundred times its input for a moment.

    >>> at_once((3, 64, 64)), at_once((3, 256, 256)), at_once((1, 32, 64, 64))
    (64, 5, 8)
    """
    return max(1, min(64, values // math.prod(shape)))


@dataclass(frozen=True)
class Churn:
    """Fresh noise in the steps of `heun` (arXiv 2206.00364, algorithm 2 and table 5).

    Attributes:
        amount: S_churn >= 0: a step from sigma raises it by gamma = min(amount / steps, sqrt(2) - 1).
        low, high: S_tmin, S_tmax: only between these noise levels.
        noise: S_noise > 0, the standard deviation of the fresh noise; slightly above 1 makes up for lost detail.
    """

    amount: float
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.amount < math.inf and 0 <= self.low <= self.high and 0 < self.noise < math.inf):
            raise ValueError(f"churn needs amount >= 0, 0 <= low <= high and noise > 0, got {self}")

    def gamma(self, sigma: float, steps: int) -> float:
        """The share by which a step from sigma raises it."""
        return min(self.amount / steps, math.sqrt(2) - 1) if self.low <= sigma <= self.high else 0.0


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    n: int,
    *,
    seed: int = 0,
    generator: Generator | Sequence[Generator] | None = None,
    scheduler: str | Any = "dpm",
    steps: int = 40,
    sigma_min: float = 0.02,
    sigma_max: float = 80.0,
    sigmas: Sequence[float] | None = None,
    churn: float | Churn = 0.0,
    noise_shift: Literal["auto"] | float = "auto",
    label: int | Sequence[int] | Tensor | None = None,
    guidance: float = 1.0,
    guidance_interval: Sequence[float] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_step: After | None = None,
) -> Tensor:
    """n samples, (n, *denoiser.shape) float32 on the denoiser's device, in the coordinates of its data; not clamped.

    Args:
        denoiser: posterior mean D(x, sigma); evaluated without gradients and without dropout.
        n: number of samples.
        seed: >= 0; with the same seed, sample i is the same for every n and batch_size, up to rounding (1e-6).
        generator: in place of `seed`, and advanced: one for each sample, which then depends on it alone; or one for
            all, as in diffusers: then solvers with fresh noise also depend on batch_size.
        scheduler: a name in `SOLVERS`, or one of diffusers' schedulers (`schedulers.FAMILIES`), whose own config then
            sets the noise levels.  A copy is used; its random numbers, if it needs any, also depend on (seed, i) alone.
        steps: noise levels above 0, at least 2.
        sigma_min: the lowest of them, in the units of the data: detail below it is averaged, not drawn.
        sigma_max: the highest; much larger than the standard deviation of the data.
        sigmas: the noise levels above 0 themselves, descending, in place of steps, sigma_min and sigma_max; for the
            names in `SOLVERS`, EDM's schedulers and EulerDiscreteScheduler.
        churn: fresh noise in the steps of `heun`; a number is `Churn(number)`.
        noise_shift: e, the share by which the noise is understated to the denoiser, above -1 and below 1; "auto": the
            denoiser's own, measured at the end of its training, 0 where there is none.
        label: the class of all samples, or of each, (n,); None for no class.
        guidance: weight w of classifier-free guidance toward the class (`GuidedDenoiser`), >= 0; 1 for none. Weights
            other than 0 and 1 evaluate the denoiser twice.
        guidance_interval: [lowest, highest] noise level with guidance; None: all.
        batch_size: samples per evaluation: bounds the memory; None: `at_once`.
        progress: called as progress(done, total), in steps, after every step of every batch.
        on_step: called as on_step(i, t, x) after evaluation i of every batch, with the solver's own time t and the
            batch x as the solver holds it; returns the batch to go on with.

    Raises:
        ValueError: an argument out of its range, a scheduler that is unknown or cannot be converted, a class that the
            denoiser does not have.
        BootdiffError: the denoiser returned NaN or an infinity.
    """
    steps = steps if sigmas is None else len(sigmas)
    batch_size = at_once(denoiser.shape) if batch_size is None else batch_size
    if n < 0 or batch_size < 1 or steps < 2 or seed < 0:
        raise ValueError(
            f"sample needs n >= 0, batch_size >= 1, steps >= 2 and seed >= 0, got n={n}, batch_size={batch_size}, "
            f"steps={steps}, seed={seed}"
        )
    shift = getattr(denoiser, "noise_shift", 0.0) if noise_shift == "auto" else noise_shift
    if isinstance(shift, str) or not -1 < shift < 1:
        raise ValueError(f"noise_shift must be auto or a number above -1 and below 1, got {noise_shift!r}")
    labels = checked_labels(label, n, denoiser)
    denoiser = guided(denoiser, label, guidance, guidance_interval)
    solve = solver(scheduler, steps, sigma_min, sigma_max, sigmas, churn)
    device = next((t.device for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    device = device or torch.device("cpu")
    given = None if generator is None else _checked_generators(generator, n)
    # One generator for all gives all of the first noise at once: so it does not depend on batch_size.
    common = None
    if isinstance(generator, Generator):
        common = torch.randn(n, *denoiser.shape, generator=generator, device=generator.device)
    more = _with_callback(solve, scheduler, on_step)
    starts = range(0, n, batch_size)
    out = torch.empty(n, *denoiser.shape, device=device)
    with evaluating(denoiser):
        for b, start in enumerate(starts):
            rows = slice(start, min(start + batch_size, n))
            own = [seeded(seed, i) for i in range(rows.start, rows.stop)] if given is None else given[rows]
            noise = _white(denoiser.shape, own) if common is None else common[rows]
            classes = None if labels is None else labels[rows].to(device)

            def evaluate(x: Tensor, sigma: Tensor, classes: Tensor | None = classes, first: int = start) -> Tensor:
                return posterior_mean(denoiser, x, (1 - shift) * sigma, classes, first)

            def tick(step: int, b: int = b) -> None:
                if progress is not None:
                    progress(b * steps + step, len(starts) * steps)

            out[rows] = solve(evaluate, noise.to(device), own, tick, **more)
    return out


def _checked_generators(given: Generator | Sequence[Generator], n: int) -> list[Generator]:
    if isinstance(given, Generator):
        return [given] * n
    found = list(given)
    if not all(isinstance(g, Generator) for g in found):
        raise ValueError("generator must be a torch.Generator, or a list of them, one for each sample")
    if len(found) != n:
        raise ValueError(f"{len(found)} generators for {n} samples; give one for each, or one torch.Generator for all")
    return found


def _white(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Standard normal noise (B, *shape), on the device of its generators."""
    return torch.stack([torch.randn(tuple(shape), generator=g, device=g.device) for g in generators])


def _with_callback(solve: Solve, scheduler: Any, on_step: After | None) -> dict[str, After]:
    if on_step is None:
        return {}
    if "after" not in inspect.signature(solve).parameters:
        raise ValueError(f"scheduler {scheduler!r} calls nothing after its steps: let its solver take `after`")
    return {"after": on_step}


def solver(
    scheduler: str | Any,
    steps: int,
    sigma_min: float,
    sigma_max: float,
    sigmas: Sequence[float] | None = None,
    churn: float | Churn = 0.0,
) -> Solve:
    """The solver of these arguments of `sample`. Raises ValueError as it does."""
    churn = churn if isinstance(churn, Churn) else Churn(float(churn))
    if churn.amount and scheduler != "heun":
        raise ValueError(
            "churn is fresh noise in the steps of scheduler 'heun'; pass that, or a stochastic scheduler of diffusers, "
            "such as EulerAncestralDiscreteScheduler, without churn"
        )
    if sigmas is not None and not all(math.inf > a > b for a, b in pairwise([*sigmas, 0.0])):
        raise ValueError(f"sigmas must be noise levels above 0, descending, the 0 left out; got {[*sigmas]}")
    if not isinstance(scheduler, str):
        return convert(scheduler, steps, sigmas)
    if scheduler not in SOLVERS:
        raise ValueError(
            f"unknown scheduler {scheduler!r}; give one of {', '.join(SOLVERS)}, or a scheduler of diffusers"
        )
    levels = karras_levels(steps, sigma_min, sigma_max) if sigmas is None else torch.tensor([*map(float, sigmas)])
    if scheduler == "heun":
        return _heun_solver(levels, churn)
    if sigmas is None:
        return SOLVERS[scheduler](steps, sigma_min, sigma_max)
    if scheduler not in ("dpm", "euler"):
        raise ValueError(f"scheduler {scheduler!r} takes no sigmas; give steps, sigma_min and sigma_max")
    return convert(diffusers_scheduler(scheduler), steps, sigmas)


def posterior_mean(denoiser: Denoiser, x: Tensor, sigma: Tensor, label: Tensor | None, first: int) -> Tensor:
    levels = sigma.to(x.dtype).expand(len(x)).contiguous()
    d = denoiser(x, noted(levels.to(x.device), levels), label)
    if d.shape != x.shape:
        raise ValueError(
            f"the denoiser returned shape {tuple(d.shape)} for x of shape {tuple(x.shape)}; D must have the shape of x"
        )
    finite = d.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero()[:, 0].tolist()
        raise BootdiffError(
            f"sampling: the denoiser returned NaN or an infinity at sigma = {float(sigma):.4g}, for {len(bad)} of "
            f"{len(x)} samples, the first of them sample {first + bad[0]}. Evaluate the denoiser on real data at that "
            f"noise level: if it fails there too, its weights are damaged: train it again or take an earlier "
            f"checkpoint; if not, try more steps or a larger sigma_min"
        )
    return d


def _heun_solver(levels: Tensor, churn: Churn) -> Solve:
    """Algorithms 1 and 2 of arXiv 2206.00364."""

    def solve(
        evaluate: Evaluate, noise: Tensor, generators: list[Generator], tick: Tick, after: After | None = None
    ) -> Tensor:
        x = levels[0] * noise
        for i, sigma in enumerate(levels):
            time = sigma
            gamma = churn.gamma(float(sigma), len(levels))
            if gamma > 0:
                fresh = _white(x.shape[1:], generators).to(x.device)
                x = x + sigma * math.sqrt((1 + gamma) ** 2 - 1) * churn.noise * fresh
                sigma = (1 + gamma) * sigma
            d = evaluate(x, sigma)
            if i + 1 == len(levels):
                x = d
            else:
                slope, step = (x - d) / sigma, levels[i + 1] - sigma
                guess = x + step * slope
                x = x + step * (slope + (guess - evaluate(guess, levels[i + 1])) / levels[i + 1]) / 2
            x = x if after is None else after(i, time, x)
            tick(i + 1)
        return x

    return solve


def _solver_of_diffusers(name: str) -> Callable[[int, float, float], Solve]:
    return lambda steps, low, high: convert(diffusers_scheduler(name, low, high), steps)


SOLVERS: dict[str, Callable[[int, float, float], Solve]] = {
    "dpm": _solver_of_diffusers("dpm"),
    "heun": lambda steps, low, high: _heun_solver(karras_levels(steps, low, high), Churn(0)),
    "euler": _solver_of_diffusers("euler"),
}
"""Name -> (steps, sigma_min, sigma_max) -> solver."""


@contextmanager
def evaluating(denoiser: nn.Module) -> Iterator[None]:
    """In evaluation mode inside; afterwards every part is in the mode it was in."""
    modes = [(m, m.training) for m in denoiser.modules()]
    denoiser.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def classes_of(denoiser: nn.Module) -> int | None:
    """Number of classes of the backbones inside, 0 where they have none; None without such a backbone."""
    nets: list[Any] = [m for m in denoiser.modules() if isinstance(m, (*NETS.values(), DiffusersDenoiser))]
    known = [int(count) for m in nets if (count := m.classes if isinstance(m, DiffusersDenoiser) else _classes(m))]
    return min(known) if known else (0 if nets else None)


def _classes(net: Any) -> int | None:
    return net.config.get("classes") if isinstance(net.config, dict) else None


def checked_labels(label: int | Sequence[int] | Tensor | None, n: int, denoiser: Denoiser) -> Tensor | None:
    """(n,) int64, or None."""
    if label is None:
        return None
    labels = torch.as_tensor(label)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim > 1:
        raise ValueError(f"label must be one class number or a list of {n}, got {label!r}")
    labels = labels.to("cpu", torch.int64)
    if labels.ndim == 1 and len(labels) != n:
        raise ValueError(f"label has {len(labels)} entries for {n} samples; give one number, or one for each sample")
    known = classes_of(denoiser)
    if known == 0:
        raise ValueError("label was given, but this denoiser was trained without classes; leave label out")
    if labels.numel() and (int(labels.min()) < 0 or (known is not None and int(labels.max()) >= known)):
        raise ValueError(
            f"label must be 0 or more{'' if known is None else f', below the {known} classes of this denoiser'}; got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return labels.expand(n) if labels.ndim == 0 else labels


def guided(denoiser: Denoiser, label: Any, weight: float, interval: Sequence[float] | None) -> Denoiser:
    """The denoiser with guidance where it changes anything.

    Raises:
        ValueError: guidance without a label; as `GuidedDenoiser`.
    """
    wrapped = GuidedDenoiser(denoiser, weight, interval)
    if weight == 1:
        return denoiser
    if label is None:
        raise ValueError(f"guidance {weight:g} needs a label to guide toward; give one")
    return wrapped
