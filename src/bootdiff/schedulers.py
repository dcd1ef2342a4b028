"""diffusers' schedulers as solvers: the denoiser D(x, sigma), converted to what each of them asks a network for.

A scheduler moves a sample y = a x0 + b n, n ~ N(0, I), a and b known at every step. So x = y / a = x0 + sigma n with
sigma = b / a, D = D(x, sigma) is the posterior mean of x0 given y, and of the noise it is e = (y - a D) / b. Then it is
handed, whatever it was configured to expect,

    sample            D
    epsilon           e
    v_prediction      (a e - b D) / sqrt(a^2 + b^2)                    (Salimans, Ho 2022, arXiv 2202.00512, appendix D)
    flow_prediction   e - D                                            (Lipman et al. 2023, arXiv 2210.02747; n - x0)
    raw output F      (D - c_skip x) / c_out, v_prediction: - F        (Karras et al. 2022, arXiv 2206.00364, eq. 7)

of which the scheduler makes D again. The schedulers differ in a and b only:

    exploding     a = 1, b = sigma                              Euler, Heun, LMS, KDPM2: from their `sigmas`
    preserving    a = 1 / sqrt(1 + sigma^2), b = a sigma        DPM-Solver, UniPC, DEIS, SA: from their `sigmas`
    steps         a^2 = alphas_cumprod[t], b^2 = 1 - a^2        DDIM, DDPM, PNDM
    flow          a = 1 - s, b = s                              FlowMatchEuler, FlowMatchHeun: s from their `sigmas`
    edm           a = 1, b = sigma, raw output                  EDMEuler, EDMDPMSolverMultistep

They start at y = b n: at their first noise level, with the data's own spread left out, which is small against it.
Where next to nothing of the data is left, sigma > 200 (flow near s = 1, a zero terminal signal-to-noise ratio), no
network was trained: D is evaluated at sigma = 80 on 80 y / b, pure noise of that level, where it is the mean of the
data to within sigma_data^2 / 80.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from bootdiff.noise import precondition

__all__ = [
    "FAMILIES",
    "After",
    "Evaluate",
    "Solve",
    "Tick",
    "check_scheduler",
    "convert",
    "diffusers_scheduler",
    "range_of",
]

HIGHEST = 80.0
"""The noise level that stands for those above _INFINITE: where `sample` begins by default."""

_INFINITE = (
    200.0  # above the 157 at which diffusers' usual steps begin; noise levels that a user gives are not infinite
)

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""D of a batch x (B, *shape) at one sigma (), on the CPU."""

Tick = Callable[[int], None]
"""Called with the number of steps done."""

After = Callable[[int, Any, Tensor], Tensor]
"""Called after evaluation i (from 0) with i, the solver's own time and the batch as it holds it; returns the batch to
go on with."""


class Solve(Protocol):
    """(D, standard normal noise (B, *shape), one generator for each, tick, after where there is one) -> samples."""

    def __call__(
        self, evaluate: Evaluate, noise: Tensor, generators: list[Generator], tick: Tick, after: After | None = None
    ) -> Tensor: ...


class Mixing(NamedTuple):
    """y = a x0 + b n."""

    a: float
    b: float


def _exploding(scheduler: Any, i: int, t: Tensor) -> Mixing:
    return Mixing(1.0, float(scheduler.sigmas[i]))


def _interpolated(scheduler: Any, i: int, t: Tensor) -> Mixing:
    # diffusers counts the levels between two steps differently in the two schedulers that have them.
    between = i - 1 if "Ancestral" in type(scheduler).__name__ else i
    first = scheduler.state_in_first_order
    return Mixing(1.0, float(scheduler.sigmas[i] if first else scheduler.sigmas_interpol[between]))


def _preserving(scheduler: Any, i: int, t: Tensor) -> Mixing:
    if scheduler.config.get("use_flow_sigmas"):
        return _flow(scheduler, i, t)
    sigma = float(scheduler.sigmas[i])
    a = 1 / math.sqrt(1 + sigma**2)
    return Mixing(a, a * sigma)


def _steps(scheduler: Any, i: int, t: Tensor) -> Mixing:
    kept = float(scheduler.alphas_cumprod[int(t)])
    return Mixing(math.sqrt(kept), math.sqrt(1 - kept))


def _flow(scheduler: Any, i: int, t: Tensor) -> Mixing:
    s = float(scheduler.sigmas[i])
    return Mixing(1 - s, s)


_ALL = ("epsilon", "v_prediction", "sample")
_NOISE = ("epsilon", "v_prediction")

FAMILIES: dict[str, tuple[Callable[[Any, int, Tensor], Mixing], tuple[str, ...]]] = {
    "EDMDPMSolverMultistepScheduler": (_exploding, _NOISE),
    "EDMEulerScheduler": (_exploding, _NOISE),
    "EulerDiscreteScheduler": (_exploding, _ALL),
    "EulerAncestralDiscreteScheduler": (_exploding, _NOISE),
    "HeunDiscreteScheduler": (_exploding, _NOISE),
    "LMSDiscreteScheduler": (_exploding, _ALL),
    "KDPM2DiscreteScheduler": (_interpolated, _NOISE),
    "KDPM2AncestralDiscreteScheduler": (_interpolated, _NOISE),
    "DPMSolverMultistepScheduler": (_preserving, (*_ALL, "flow_prediction")),
    "DPMSolverSinglestepScheduler": (_preserving, (*_ALL, "flow_prediction")),
    "UniPCMultistepScheduler": (_preserving, (*_ALL, "flow_prediction")),
    "DEISMultistepScheduler": (_preserving, (*_ALL, "flow_prediction")),
    "SASolverScheduler": (_preserving, (*_ALL, "flow_prediction")),
    "DDIMScheduler": (_steps, _ALL),
    "DDPMScheduler": (_steps, _ALL),
    "PNDMScheduler": (_steps, ("epsilon",)),  # of v it is of order 1 only
    "FlowMatchEulerDiscreteScheduler": (_flow, ("flow_prediction",)),
    "FlowMatchHeunDiscreteScheduler": (_flow, ("flow_prediction",)),
}
"""Scheduler of diffusers -> (a and b of its step, what it can be configured to expect)."""

_JUMPS = "it jumps to x0, as consistency models do: a posterior mean in their place blurs"
_TORCHSDE = "it draws its noise from torchsde, not from generators; take {} with algorithm_type='sde-dpmsolver++'"

_REASONS = {
    **dict.fromkeys(
        (
            "LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "CMStochasticIterativeScheduler", "SCMScheduler",
        ),
        _JUMPS,
    ),
    **dict.fromkeys(
        ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"), "it goes from samples to noise"
    ),
    "DPMSolverSDEScheduler": _TORCHSDE.format("DPMSolverMultistepScheduler"),
    "CosineDPMSolverMultistepScheduler": _TORCHSDE.format("EDMDPMSolverMultistepScheduler"),
    "RePaintScheduler": "it completes pictures, which bootdiff.restore does",
    "UnCLIPScheduler": "its network also predicts a variance",
    "VQDiffusionScheduler": "it is defined on classes, not on noise levels",
}  # fmt: skip
"""Why some of diffusers' other schedulers are refused."""


def check_scheduler(scheduler: Any) -> None:
    """Raises ValueError for a scheduler, or a configuration of it, that D cannot be converted to."""
    _refuse_kind(scheduler)
    _refuse_config(scheduler)


def _refuse_kind(scheduler: Any) -> None:
    name = type(scheduler).__name__
    if name in FAMILIES and hasattr(scheduler, "from_config"):
        return
    reason = _REASONS.get(name, "the noise levels of its samples are not known to bootdiff")
    raise ValueError(
        f"{name} cannot be used: {reason}. Pass a name, dpm, heun or euler, or one of diffusers' {', '.join(FAMILIES)}"
    )


def prediction_of(scheduler: Any) -> str:
    """What the scheduler takes for the output of a network."""
    return str(scheduler.config.get("prediction_type", "flow_prediction"))


def _refuse_config(scheduler: Any) -> None:
    """Raises ValueError where a scheduler is configured for something that D is not."""
    name, config = type(scheduler).__name__, scheduler.config
    kinds = FAMILIES[name][1]
    if prediction_of(scheduler) not in kinds:
        raise ValueError(
            f"{name} with prediction_type {prediction_of(scheduler)!r} cannot be used: give "
            f"{name}.from_config(config, prediction_type=...) one of {', '.join(kinds)}; the samples are the same"
        )
    reasons = {
        "use_dynamic_shifting": "its shift is by a network's tokens; set shift",
        "stochastic_sampling": _JUMPS,
        "invert_sigmas": "it goes from samples to noise",
    }
    if str(config.get("variance_type")).startswith("learned"):
        reasons["variance_type"] = "a denoiser predicts no variance"
    for key, reason in reasons.items():
        if config.get(key):
            raise ValueError(f"{name} with {key}={config[key]!r} cannot be used: {reason}; change its config")


def _refuse_clipping(scheduler: Any, shape: Sequence[int]) -> None:
    """Clipping of x0 to [-1, 1] is for pictures."""
    for key in ("clip_sample", "thresholding"):
        if scheduler.config.get(key) and len(shape) < 3:
            name = type(scheduler).__name__
            raise ValueError(
                f"{name} with {key}=True clips samples to the range of pictures, and these are of shape "
                f"{tuple(shape)}: pass {name}.from_config(config, {key}=False)"
            )


def convert(scheduler: Any, steps: int, sigmas: Sequence[float] | None = None) -> Solve:
    """One of diffusers' schedulers as a solver of any denoiser; a copy of it is used.

    Args:
        scheduler: of a class in `FAMILIES`, whose config sets the noise levels.
        steps: its number of inference steps.
        sigmas: the noise levels above 0 instead, descending: for EDM's schedulers and EulerDiscreteScheduler.

    Raises:
        ValueError: a scheduler, a configuration of it or noise levels that D cannot be converted to; the solver: one
            that clips to [-1, 1] what is no picture.
    """
    check_scheduler(scheduler)
    scheduler = type(scheduler).from_config(scheduler.config)
    name = type(scheduler).__name__
    if sigmas is not None and not name.startswith(("EDM", "EulerDiscrete")):
        raise ValueError(
            f"{name} takes no sigmas of one's own, its config sets them; leave sigmas out, or pass dpm, heun, euler or "
            f"an EDM scheduler"
        )
    if name == "PNDMScheduler" and steps < 4 and not scheduler.config.skip_prk_steps:
        raise ValueError(f"PNDMScheduler takes at least 4 steps, got {steps}; give more, or set skip_prk_steps=True")
    mixing = FAMILIES[name][0]
    limit = math.inf if name.startswith("EDM") or sigmas is not None else _INFINITE

    def solve(
        evaluate: Evaluate, noise: Tensor, generators: list[Generator], tick: Tick, after: After | None = None
    ) -> Tensor:
        _refuse_clipping(scheduler, noise.shape[1:])
        _set_levels(scheduler, steps, sigmas, noise.device)  # also clears what it kept of the batch before
        random: dict[str, Any] = {"generator": generators} if _is_random(scheduler) else {}
        times, done = scheduler.timesteps, 0
        y = mixing(scheduler, 0, times[0]).b * noise  # not `init_noise_sigma`: that adds the variance of unit data
        for i, t in enumerate(times):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(y, t)  # its result is not needed, but Euler warns without the call
            output = _output(scheduler, evaluate, mixing(scheduler, i, t), y, limit)
            y = scheduler.step(output, t, y, **random).prev_sample
            y = y if after is None else after(i, t, y)
            # Some take several evaluations for a step; steps are counted, not evaluations.
            if steps * (i + 1) // len(times) > done:
                done = steps * (i + 1) // len(times)
                tick(done)
        return y

    return solve


def _output(scheduler: Any, evaluate: Evaluate, mixing: Mixing, y: Tensor, limit: float) -> Tensor:
    """What the scheduler asks a network for, at y = a x0 + b n; noise levels above the limit are infinite."""
    a, b = mixing
    sigma, x = (b / a, y / a) if b < limit * a else (HIGHEST, y * (HIGHEST / b))
    d = evaluate(x, torch.tensor(sigma, dtype=torch.float32))
    kind = prediction_of(scheduler)
    if type(scheduler).__name__.startswith("EDM"):
        c = precondition(torch.tensor(b), scheduler.config.sigma_data)
        raw = (d - c.c_skip * x) / c.c_out
        return -raw if kind == "v_prediction" else raw
    if kind == "sample":
        return d
    e = (y - a * d) / b
    if kind == "epsilon":
        return e
    return e - d if kind == "flow_prediction" else (a * e - b * d) / math.hypot(a, b)


def _set_levels(scheduler: Any, steps: int, sigmas: Sequence[float] | None, device: torch.device) -> None:
    if sigmas is None:
        scheduler.set_timesteps(steps, device=device)
    elif type(scheduler).__name__.startswith("EDM"):
        # Its own argument `sigmas` is a ramp in [0, 1], not noise levels.
        scheduler.set_timesteps(len(sigmas), device=device)
        levels = torch.tensor([*sigmas], dtype=torch.float32, device=device)
        scheduler.timesteps = scheduler.precondition_noise(levels)
        scheduler.sigmas = torch.cat([levels.cpu(), torch.zeros(1)])
    else:
        scheduler.set_timesteps(sigmas=[*sigmas, 0.0], device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def _is_random(scheduler: Any) -> bool:
    """Whether its steps take a generator."""
    return "generator" in inspect.signature(scheduler.step).parameters


def range_of(scheduler: Any, steps: int) -> tuple[float, float]:
    """The lowest and the highest noise level at which `convert` would evaluate D in that many steps."""
    check_scheduler(scheduler)
    if type(scheduler).__name__.startswith("EDM"):
        return float(scheduler.config.sigma_min), float(scheduler.config.sigma_max)
    scheduler = type(scheduler).from_config(scheduler.config)
    _set_levels(scheduler, steps, None, torch.device("cpu"))
    mixing = FAMILIES[type(scheduler).__name__][0]
    mixed = [mixing(scheduler, i, t) for i, t in enumerate(scheduler.timesteps)]
    levels = [m.b / m.a if m.b < _INFINITE * m.a else HIGHEST for m in mixed]
    return min(levels), max(levels)


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
