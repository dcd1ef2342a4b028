"""The training loop, once for everything that is trained; it knows no diffusion.

Minimize over theta  E_batch mean_b objective(theta, batch)_b  by AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101), and
keep the exponential moving average of the weights
    ema <- ema + (1 - beta_t) (theta - ema),    beta_t = min(ema, (1 + t) / (10 + t)),    t = 0, 1, ... steps - 1,
whose ramp lets the average forget the first weights quickly. Held-out losses are those of the average; per key (a noise
level, say) the average that was best so far is kept as a snapshot, since noise levels overfit at very different times.

Everything random in step t is drawn from generators seeded by (seed, t), and the batch of step t is a function of
t. So a training that is killed at any moment and started again by the same call ends with the same bits; and, since an
objective draws noise for the global batch and takes its own rows (:func:`global_randn`), several processes
get what one gets up to rounding.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bootdiff.training.run import StageDir
from bootdiff.training.state import (
    Diverged,
    FitResult,
    Interrupted,
    Progress,
    TrainingState,
    load_weights,
    snapshot_path,
    step_seed,
)

__all__ = [
    "TIMING",
    "Diverged",
    "FitResult",
    "Interrupted",
    "Progress",
    "fit",
    "global_draw",
    "global_randn",
    "learning_rate",
    "load_weights",
    "snapshot_path",
]

# The fields of a metrics row that are not the same from one run to the next.
TIMING = ("seconds", "images_per_second")


class Batches(Protocol):
    """``stream(start)`` yields the batches of steps start, start + 1, ...; a batch is a function of its step alone."""

    def stream(self, start_step: int) -> Iterator[Any]: ...


Objective = Callable[[nn.Module, Any, torch.Generator], Tensor]


def fit(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    stage: StageDir,
    *,
    steps: int,
    lr: float = 1e-3,
    warmup: int = 0,
    schedule: str = "constant",
    ema: float = 0.999,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    seed: int = 0,
    accelerator: Any = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    checkpoint_seconds: float = 120.0,
    log_every: int = 50,
    keep: bool = True,
    compile: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train the parameters of ``model`` that require gradients; go on where an earlier call for ``stage`` stopped.

    ``objective(model, batch, generator)`` returns the losses of the samples, (b,). ``evaluate(ema_model)`` returns the
    held-out losses by key; it is called every ``evaluate_every`` steps (0: never in between) and at the end, in eval
    mode, without gradients, by every process; it must draw from generators of its own. A checkpoint is written when
    ``checkpoint_every`` steps (0: never) or ``checkpoint_seconds`` have passed. ``keep`` keeps the best snapshots.
    ``clip`` bounds the gradient's norm (None: no bound). ``compile``: train through torch.compile. ``progress`` is
    called a few times per second.

    At return ``model`` holds the final averaged weights, also when the stage was already complete. On disk:
    ``final.safetensors``, ``snapshot-{step}.safetensors`` (each a state dict of averaged weights), ``done.json``.

    Raises Interrupted (Ctrl-C or SIGTERM, after a checkpoint), Diverged (NaN; the last good checkpoint and snapshots
    stay), BootdiffError (other settings than the checkpoint's, no room on the disk), ValueError (wrong arguments).
    """
    # -- set up ------------------------------------------------------------------------------------------------
    settings = {
        "steps": steps, "lr": lr, "warmup": warmup, "schedule": schedule, "ema": ema, "weight_decay": weight_decay,
        "clip": clip, "seed": seed, "evaluate_every": evaluate_every, "log_every": log_every, "keep": keep,
    }  # fmt: skip
    if compile:
        settings["compile"] = True  # only where it is on, so that stages of earlier versions can go on
    _check_settings(settings)
    job = TrainingState(model, stage, accelerator, settings, progress)
    if stage.done:
        return job.finished()
    job.resume()
    net, optimizer, params, averages = job.prepare()
    rng = torch.Generator(job.device)
    stopping = False

    with _stop_on_signals() as stop, job.session(batches.stream(job.step)) as stream:
        for t, batch in zip(range(job.step, steps), stream, strict=False):
            # -- loss: everything random in it is a function of (seed, t) ----------------------------------------
            rng.manual_seed(step_seed(seed, t))
            job.seed_dropout(t)
            with job.count_flops(t):
                losses = objective(net, _to(batch, job.device), rng)
                loss = losses.mean()
                job.add_loss(loss, losses)
                job.backward(loss)

            # -- weights -----------------------------------------------------------------------------------------
            norm = job.clip_gradients(clip)
            optimizer.param_groups[0]["lr"] = learning_rate(t, steps, lr, warmup, schedule)
            job.optimizer_step()

            # -- their average -----------------------------------------------------------------------------------
            with torch.no_grad():
                torch._foreach_lerp_(averages, params, 1 - min(ema, (1 + t) / (10 + t)))
            job.step = t + 1
            last = job.step == steps

            # -- metrics, held-out losses, checkpoint ------------------------------------------------------------
            if last or job.step % log_every == 0:
                job.write_row(optimizer.param_groups[0]["lr"], norm)
            if evaluate is not None and (last or (evaluate_every and job.step % evaluate_every == 0)):
                job.validate(evaluate)
            stopping, due = job.sync_decision(stop.is_set(), job.seconds_since_checkpoint() > checkpoint_seconds)
            if not last and (stopping or due or (checkpoint_every and job.step % checkpoint_every == 0)):
                job.write_checkpoint()
            if stopping and not last:
                break
            job.report()

    # -- finish ------------------------------------------------------------------------------------------------
    where = f"stage {stage.name}, step {job.step} of {steps}"
    if stopping and job.step < steps:
        raise Interrupted(f"{where}: stopped as asked, checkpoint written. Run the same command again to go on.")
    if job.step < steps:
        raise ValueError(f"{where}: the batches ended; stream() must not end")
    result = job.finish()
    if stop.is_set():
        raise Interrupted(f"{where}: complete, stopped after it as asked. Run the same command again to go on.")
    return result


# --- for objectives ---------------------------------------------------------------------------------------------------


def global_draw(draw: Callable[[int], Tensor], n: int, rank: int | None = None, world: int | None = None) -> Tensor:
    """This process's n rows of ``draw(world * n)``, a draw for the global batch (first axis) from the step's generator.

    Each process draws all rows and takes its own, so the noise does not depend on the number of processes. ``rank`` and
    ``world`` are those of torch.distributed unless given.
    """
    if world is None or rank is None:
        here = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if here else (0, 1)
    drawn = draw(world * n)
    return drawn if world == 1 else drawn[rank * n : (rank + 1) * n]


def global_randn(
    shape: Iterable[int], generator: torch.Generator, rank: int | None = None, world: int | None = None
) -> Tensor:
    """White noise of the local ``shape`` (b, ...), on the generator's device: see :func:`global_draw`."""
    b, *rest = shape
    return global_draw(lambda n: torch.randn(n, *rest, generator=generator, device=generator.device), b, rank, world)


def learning_rate(t: int, steps: int, lr: float, warmup: int = 0, schedule: str = "constant") -> float:
    """Learning rate of step t: lr min(1, (t + 1) / warmup); if cosine, times (1 + cos(pi t / steps)) / 2."""
    ramp = min(1.0, (t + 1) / warmup) if warmup else 1.0
    return lr * ramp * (0.5 * (1 + math.cos(math.pi * t / steps)) if schedule == "cosine" else 1.0)


# --- details ----------------------------------------------------------------------------------------------------------


def _check_settings(settings: dict[str, Any]) -> None:
    for key in ("steps", "log_every"):
        if settings[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {settings[key]}")
    if settings["lr"] <= 0 or settings["warmup"] < 0 or not 0 <= settings["ema"] < 1:
        raise ValueError(f"need lr > 0, warmup >= 0 and 0 <= ema < 1, got {settings}")
    if settings["clip"] is not None and settings["clip"] <= 0:
        raise ValueError(f"clip must be positive, or None for no clipping, got {settings['clip']}")
    if settings["schedule"] not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {settings['schedule']!r}")


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _to(value, device) for key, value in batch.items()}
    return batch


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the step is finished first; a second signal stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
