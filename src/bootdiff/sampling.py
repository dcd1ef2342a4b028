"""Sampling: from white noise to clean samples along the probability flow of any `Denoiser`.

The flow ODE of x = x0 + sigma n is

    dx / d sigma = (x - D(x, sigma)) / sigma,        from x ~ N(0, sigma_max^2 I) down to sigma = 0,

along the noise levels of Karras et al. 2022 (arXiv 2206.00364, eq. 1 with s = 1, eq. 5 with rho = 7), then 0.  Solvers:

    dpm     DPM-Solver++(2M), the exponential integrator of D with one step of memory (Lu et al. 2022, arXiv 2211.01095,
            algorithm 2): diffusers' `EDMDPMSolverMultistepScheduler`.  One evaluation of D a step, order 2.
    heun    x' = x + h d,  x <- x + h (d + d') / 2,  d = (x - D) / sigma (arXiv 2206.00364, algorithm 1): order 2, two
            evaluations a step but one in the last, 2 steps - 1 in all.  diffusers has none for EDM.
    euler   x <- x + h d: diffusers' `EDMEulerScheduler`, one evaluation a step, order 1.

The last step, from sigma_min to 0, is x <- D(x, sigma_min) in all three.  diffusers' schedulers expect the raw output F
of an EDM network and form D = c_skip x + c_out F themselves: they are fed F = (D - c_skip x) / c_out, whatever their
sigma_data.

The noise of sample i is a function of (seed, i) alone: neither n, nor the batch size, nor the device changes a sample
by more than rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from bootdiff.data.dataset import generator
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.nets import NETS
from bootdiff.noise import karras_levels, noted, precondition
from bootdiff.pretrained import DiffusersDenoiser

__all__ = ["SOLVERS", "classes_of", "diffusers_scheduler", "sample"]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    n: int,
    *,
    seed: int = 0,
    scheduler: str | Any = "dpm",
    steps: int = 40,
    sigma_min: float = 0.02,
    sigma_max: float = 80.0,
    label: int | Sequence[int] | Tensor | None = None,
    guidance: float = 1.0,
    guidance_interval: Sequence[float] | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """n samples, (n, *denoiser.shape) float32 on the denoiser's device, in the coordinates of its data; not clamped.

    Args:
        denoiser: posterior mean D(x, sigma); evaluated without gradients and without dropout.
        n: number of samples.
        seed: >= 0; with the same seed, sample i is the same for every n and batch_size, up to rounding.
        scheduler: a name in `SOLVERS`, or one of diffusers' EDM schedulers, whose own config then sets sigma_min and
            sigma_max.  A copy is used; its random numbers, if it needs any, also depend on (seed, i) alone.
        steps: noise levels above 0, at least 2.
        sigma_min: the lowest of them, in the units of the data: detail below it is averaged, not drawn.
        sigma_max: the highest; much larger than the standard deviation of the data.
        label: the class of all samples, or of each, (n,); None for no class.
        guidance: weight w of classifier-free guidance toward the class (`GuidedDenoiser`), >= 0; 1 for none. Weights
            other than 0 and 1 evaluate the denoiser twice.
        guidance_interval: [lowest, highest] noise level with guidance; None: all.
        batch_size: samples per evaluation: bounds the memory.
        progress: called as progress(done, total), in steps, after every step of every batch.

    Raises:
        ValueError: an argument out of its range, an unknown scheduler, a class that the denoiser does not have.
        BootdiffError: the denoiser returned NaN or an infinity.
    """
    if n < 0 or batch_size < 1 or steps < 2 or seed < 0:
        raise ValueError(
            f"sample needs n >= 0, batch_size >= 1, steps >= 2 and seed >= 0, got n={n}, batch_size={batch_size}, "
            f"steps={steps}, seed={seed}"
        )
    labels = checked_labels(label, n, denoiser)
    denoiser = guided(denoiser, label, guidance, guidance_interval)
    solve = solver(scheduler, steps, sigma_min, sigma_max)
    device = next((t.device for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    device = device or torch.device("cpu")
    starts = range(0, n, batch_size)
    out = torch.empty(n, *denoiser.shape, device=device)
    with evaluating(denoiser):
        for b, start in enumerate(starts):
            generators = [generator(seed, i) for i in range(start, min(start + batch_size, n))]
            noise = torch.stack([torch.randn(denoiser.shape, generator=g) for g in generators])
            classes = None if labels is None else labels[start : start + len(generators)].to(device)

            def evaluate(x: Tensor, sigma: Tensor, classes: Tensor | None = classes, first: int = start) -> Tensor:
                return posterior_mean(denoiser, x, sigma, classes, first)

            def tick(step: int, b: int = b) -> None:
                if progress is not None:
                    progress(b * steps + step, len(starts) * steps)

            out[start : start + len(generators)] = solve(evaluate, noise.to(device), generators, tick)
    return out


Evaluate = Callable[[Tensor, Tensor], Tensor]
"""D of a batch x (B, *shape) at one sigma (), on the CPU."""

Solve = Callable[[Evaluate, Tensor, list[Generator], Callable[[int], None]], Tensor]
"""(D, standard normal noise (B, *shape), one generator for each, called with the number of steps done) -> samples."""


def solver(scheduler: str | Any, steps: int, sigma_min: float, sigma_max: float) -> Solve:
    if not isinstance(scheduler, str):
        return _diffusers_solver(_copy(scheduler), steps)
    if scheduler not in SOLVERS:
        raise ValueError(
            f"unknown scheduler {scheduler!r}; give one of {', '.join(SOLVERS)}, or a diffusers EDM scheduler"
        )
    karras_levels(steps, sigma_min, sigma_max)  # raises for invalid levels
    return SOLVERS[scheduler](steps, sigma_min, sigma_max)


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


def _heun_solver(steps: int, sigma_min: float, sigma_max: float) -> Solve:
    """Algorithm 1 of arXiv 2206.00364."""
    levels = karras_levels(steps, sigma_min, sigma_max)

    def solve(evaluate: Evaluate, noise: Tensor, generators: list[Generator], tick: Callable[[int], None]) -> Tensor:
        x = levels[0] * noise
        for i, (sigma, after) in enumerate(pairwise(levels)):
            slope = (x - evaluate(x, sigma)) / sigma
            guess = x + (after - sigma) * slope
            x = x + (after - sigma) * (slope + (guess - evaluate(guess, after)) / after) / 2
            tick(i + 1)
        x = evaluate(x, levels[-1])
        tick(len(levels))
        return x

    return solve


def _diffusers_solver(scheduler: Any, steps: int) -> Solve:
    """One of diffusers' EDM schedulers as a solver."""

    def solve(evaluate: Evaluate, noise: Tensor, generators: list[Generator], tick: Callable[[int], None]) -> Tensor:
        scheduler.set_timesteps(steps, device=noise.device)  # also clears what it kept of the batch before
        scheduler.set_begin_index(0)
        sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
        x = scheduler.sigmas[0] * noise  # not `init_noise_sigma`, which adds the variance of data of unit variance
        for i, t in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(x, t)  # its result is not needed, but Euler warns without the call
            sigma = scheduler.sigmas[i]
            c = precondition(sigma, scheduler.config.sigma_data)
            raw = (evaluate(x, sigma) - c.c_skip * x) / (sign * c.c_out)
            x = scheduler.step(raw, t, x, generator=generators).prev_sample
            tick(i + 1)
        return x

    return solve


def diffusers_scheduler(name: str, sigma_min: float = 0.02, sigma_max: float = 80.0, sigma_data: float = 0.5) -> Any:
    """diffusers' EDM scheduler behind a name in `SOLVERS`.

    Raises:
        ValueError: a name for which diffusers has none.
    """
    from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

    kinds = {"dpm": EDMDPMSolverMultistepScheduler, "euler": EDMEulerScheduler}
    if name not in kinds:
        raise ValueError(f"diffusers has no EDM scheduler {name!r}; it has {', '.join(kinds)}")
    return kinds[name](sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data)


def _solver_of_diffusers(name: str) -> Callable[[int, float, float], Solve]:
    return lambda steps, low, high: _diffusers_solver(diffusers_scheduler(name, low, high), steps)


SOLVERS: dict[str, Callable[[int, float, float], Solve]] = {
    "dpm": _solver_of_diffusers("dpm"),
    "heun": _heun_solver,
    "euler": _solver_of_diffusers("euler"),
}
"""Name -> (steps, sigma_min, sigma_max) -> solver."""


def _copy(scheduler: Any) -> Any:
    if not (hasattr(scheduler, "precondition_outputs") and hasattr(scheduler, "from_config")):
        raise ValueError(
            f"{type(scheduler).__name__} is not an EDM scheduler of diffusers (sigma from sigma_max down to 0, with "
            f"`precondition_outputs`): pass EDMDPMSolverMultistepScheduler, EDMEulerScheduler, or a name in SOLVERS"
        )
    return type(scheduler).from_config(scheduler.config)


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
