"""The training loop, once for everything that is trained; it knows no diffusion.

Minimize over theta  E_batch mean_b objective(theta, batch)_b, and keep the running average of the weights (`optim` has
the formulas). Held-out losses are those of the average; per key (a noise level, say) the average that was best so far
is kept as a snapshot, since noise levels overfit at very different times.

Everything random in step t is drawn from generators seeded by (seed, t), and the batch of step t is a function of
t. So a training that is killed at any moment and started again by the same call ends with the same bits; and, since an
objective draws noise for the global batch and takes its own rows (:func:`global_randn`), several processes
get what one gets up to rounding. More than `SHARED` processes draw for themselves, from generators seeded by
(seed, t, rank): the same law, without each of them drawing for all.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bootdiff.errors import BootdiffError
from bootdiff.training import checkpoint, state
from bootdiff.training.checkpoint import load_weights
from bootdiff.training.optim import learning_rate
from bootdiff.training.recompute import recomputed
from bootdiff.training.run import StageDir
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.state import (
    Diverged,
    FitResult,
    Interrupted,
    Progress,
    TrainingState,
    snapshot_path,
    step_seed,
)

__all__ = [
    "SHARED",
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

SHARED = 16
"""Processes that draw what one process draws; each of more draws its own rows only."""

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
    settings: TrainingSettings,
    *,
    seed: int = 0,
    accelerator: Any = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    progress: Callable[[Progress], None] | None = None,
    keep: bool = True,
    look: Callable[[nn.Module, int], None] | None = None,
    look_at: Collection[int] = (),
) -> FitResult:
    """Train the parameters of ``model`` that require gradients; go on where an earlier call for ``stage`` stopped.

    Args:
        model: any module; at return it holds the final averaged weights, also when the stage was already complete.
        objective: ``objective(model, batch, generator)`` returns the losses of the samples, (b,).
        batches: ``batches.stream(start)`` yields the batches of steps start, start + 1, ... without end.
        stage: gets ``final.safetensors``, ``snapshot-{step}.safetensors`` (averaged weights) and ``done.json``.
        settings: `batch`, `noise`, `workers` and, where an accelerator is given, `precision` are noted only: they are
            what ``batches``, ``objective`` and the accelerator were made with. More `steps` than an earlier call had
            are trained on top of it (`checkpoint` says how).
        seed: of everything random.
        accelerator: accelerate's; None: a new one.
        evaluate: ``evaluate(ema_model)`` returns the held-out losses by key; it is called every
            ``settings.evaluate_every`` steps and at the end, in eval mode, without gradients, by every process; it must
            draw from its own generators.
        progress: called a few times per second.
        keep: keep the best snapshots.
        look: ``look(ema_model, step)`` is called after the steps ``look_at``, in eval mode, without gradients, by the
            first process alone; nothing of what is trained depends on it. Killed and called again, the training shows
            the same steps the same weights.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint.
        Diverged: NaN; the last good checkpoint and snapshots stay.
        BootdiffError: settings other than the checkpoint's, a damaged file, no room on the disk.
        ValueError: wrong arguments.
    """
    # -- set up ------------------------------------------------------------------------------------------------
    job = TrainingState(model, stage, settings, seed, keep, accelerator, progress)
    result = checkpoint.resume(job)
    if result is not None:
        return result
    net, optimizer, steps = job.prepare(), job.optimizer, settings.steps
    rng = torch.Generator(job.device)
    stopping = False

    with (
        _stop_on_signals() as stop,
        recomputed(model, settings.gradient_checkpointing),
        job.session(batches.stream(job.step)) as stream,
    ):
        for t, batch in zip(range(job.step, steps), stream, strict=False):
            # -- loss: everything random in it is a function of (seed, t) ----------------------------------------
            job.seed_dropout(t)
            with job.count_flops(t):
                parts = _parts(batch, settings.accumulate)
                for k, rows in enumerate(parts):
                    rng.manual_seed(_draws_seed(seed, t, job.accelerator.process_index, job.world))
                    with _part(k, len(parts)), _alone(net, k + 1 < len(parts)):
                        losses = objective(net, _to(rows, job.device), rng)
                        loss = losses.mean() / len(parts)
                        job.add_loss(loss, losses, step_is_complete=k + 1 == len(parts))
                        optimizer.backward(loss)

            # -- weights, and their average ----------------------------------------------------------------------
            norm = optimizer.clip()
            optimizer.step(t, job.counts.began)
            optimizer.average(t)
            job.counts.step = t + 1
            last = job.step == steps

            # -- metrics, held-out losses, checkpoint ------------------------------------------------------------
            if last or job.step % state.LOG_EVERY == 0:
                job.write_row(norm)
            if evaluate is not None and (last or job.step % settings.evaluate_every == 0):
                job.validate(evaluate)
            if look is not None and job.step in look_at:
                job.show(look)  # before the checkpoint, so that no checkpoint is ahead of what was to be seen
            stopping, due = job.sync_decision(stop.is_set(), job.checkpoint_due())
            if not last and (stopping or due):
                checkpoint.write(job)
            if stopping and not last:
                break
            job.report()

    # -- finish ------------------------------------------------------------------------------------------------
    where = f"stage {stage.name}, step {job.step} of {steps}"
    if stopping and job.step < steps:
        raise Interrupted(f"{where}: stopped as asked, checkpoint written. Run the same command again to continue.")
    if job.step < steps:
        raise ValueError(f"{where}: the batches ended; stream() must not end")
    result = checkpoint.finish(job)
    if stop.is_set():
        raise Interrupted(f"{where}: complete, stopped after it as asked. Run the same command again to continue.")
    return result


# --- for objectives ---------------------------------------------------------------------------------------------------


def global_draw(draw: Callable[[int], Tensor], n: int, rank: int | None = None, world: int | None = None) -> Tensor:
    """This process's n rows of ``draw(world * n)``, a draw for the global batch (first axis) from the step's generator.

    Each process draws all rows and takes its own, so the noise does not depend on the number of processes (up to
    `SHARED`); nor on the number of parts that a process computes its rows in, of which each asks anew. ``rank`` and
    ``world`` are those of torch.distributed unless given.
    """
    if world is None or rank is None:
        here = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if here else (0, 1)
        if world > SHARED:
            rank, world = 0, 1  # its generator is its own
        part, parts = _PART.get()
        rank, world = rank * parts + part, world * parts
    drawn = draw(world * n)
    return drawn if world == 1 else drawn[rank * n : (rank + 1) * n]


def global_randn(
    shape: Iterable[int], generator: torch.Generator, rank: int | None = None, world: int | None = None
) -> Tensor:
    """White noise of the local ``shape`` (b, ...), on the generator's device: see :func:`global_draw`."""
    b, *rest = shape
    return global_draw(lambda n: torch.randn(n, *rest, generator=generator, device=generator.device), b, rank, world)


def _draws_seed(seed: int, t: int, rank: int, world: int) -> int:
    """What all that is random in a process's step is seeded by, but for dropout; up to `SHARED` processes share it."""
    shared = step_seed(seed, t)
    return shared if world <= SHARED else step_seed(shared, rank + 1)


# Which part of its rows a process is at, of how many: parts divide the global batch as processes do.
_PART: ContextVar[tuple[int, int]] = ContextVar("part", default=(0, 1))


@contextlib.contextmanager
def _part(k: int, parts: int) -> Iterator[None]:
    before = _PART.set((k, parts))
    try:
        yield
    finally:
        _PART.reset(before)


# --- details ----------------------------------------------------------------------------------------------------------


def _parts(batch: Any, parts: int) -> list[Any]:
    """A batch in so many equal parts.

    Raises:
        BootdiffError: its rows cannot be divided so.
    """
    if parts == 1:
        return [batch]
    rows = len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))
    if rows % parts:
        raise BootdiffError(
            f"training.accumulate: {rows} samples per step and process cannot be computed in {parts} equal parts; give "
            f"a number that divides {rows}"
        )
    n = rows // parts
    slices = [slice(k * n, (k + 1) * n) for k in range(parts)]
    if isinstance(batch, Tensor):
        return [batch[own] for own in slices]
    return [{key: value[own] for key, value in batch.items()} for own in slices]


def _alone(net: nn.Module, wait: bool) -> contextlib.AbstractContextManager[Any]:
    """Several processes sum their gradients once, at the last part."""
    return net.no_sync() if wait and hasattr(net, "no_sync") else contextlib.nullcontext()  # type: ignore[operator]


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _to(value, device) for key, value in batch.items()}
    return batch


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP (a terminal that is closed; not under nohup) set, so that the step is
    finished first; a second signal stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
