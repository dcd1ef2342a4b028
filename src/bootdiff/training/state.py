"""What stands behind the page of the training loop: one call of ``fit`` as an object.

It holds the model, its average, the optimizer and the clocks; it counts losses, writes metrics rows, asks for held-out
losses and keeps the snapshots that are best. What is read and written to go on after a kill is `checkpoint`'s.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.errors import BootdiffError
from bootdiff.processes import dead_worker
from bootdiff.training.device import make_accelerator
from bootdiff.training.memory import forget_peak, peak_memory
from bootdiff.training.muon import hidden_matrices
from bootdiff.training.optim import Optimizer
from bootdiff.training.run import StageDir
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.trackers import log_values

__all__ = [
    "LOG_EVERY",
    "Counts",
    "Diverged",
    "FitResult",
    "Interrupted",
    "Progress",
    "TrainingState",
    "snapshot_path",
    "step_seed",
]

LOG_EVERY = 50
"""Steps between rows of metrics.jsonl; several processes agree on stopping and checkpoints that often."""

_NOTHING = contextlib.nullcontext()


class Interrupted(BootdiffError):
    """The training was asked to stop (Ctrl-C, SIGTERM, SIGHUP) and wrote a checkpoint."""


class Diverged(BootdiffError):
    """The loss or the weights became NaN or infinite."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands. ``loss``: mean since the last row, None before the first step; times in seconds."""

    stage: str
    step: int
    steps: int
    loss: float | None
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class FitResult:
    """history: metrics rows of the stage; snapshots: held-out key -> step of its best one; ledger: what it cost."""

    history: list[dict[str, Any]]
    snapshots: dict[str, int]
    ledger: dict[str, Any]


def snapshot_path(stage: StageDir, step: int) -> Path:
    """Where the averaged weights after ``step`` steps are kept, if they are the best for some held-out key."""
    return stage / f"snapshot-{step}.safetensors"


def step_seed(seed: int, t: int) -> int:
    """32-bit seed of (seed, t): for one seed all t get different ones (the finalizer of MurmurHash3 is a bijection)."""
    h = (seed * 0x9E3779B1 + t) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


@dataclass
class Counts:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    began: int = 0  # step at which the optimizer began
    total: float = 0.0  # sum of the losses since the last row, so that resumed rows are the same
    count: int = 0
    best: dict[str, list[float]] = field(default_factory=dict)  # held-out key -> [step, loss]
    images: int = 0
    flops_per_step: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    peak_memory: int = 0
    sessions: int = 0


class TrainingState:
    """One call of ``fit``: the model, its average, the optimizer, the clocks.

    Args:
        model: its parameters that require gradients are trained.
        stage: where it is written.
        settings, seed, keep: as given to ``fit``.
        accelerator: accelerate's, or None for a new one.
        progress: told how the training stands, or None.

    Raises:
        ValueError: nothing to train, or a run that is open for reading.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: StageDir,
        settings: TrainingSettings,
        seed: int,
        keep: bool,
        accelerator: Any,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        if accelerator is None:
            accelerator = make_accelerator("auto", settings.precision)
        self.accelerator, self.stage, self.progress = accelerator, stage, progress
        self.settings, self.seed, self.keep = settings, seed, keep
        self.device, self.world = accelerator.device, accelerator.num_processes
        self.main = accelerator.is_main_process
        if self.main and not stage.run.writer:
            raise ValueError(f"{stage.path}: the run is open for reading; open it with Run.open to train")
        self.model = model.to(self.device).train()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError(f"stage {stage.name}: no parameter of the model requires gradients; nothing to train")
        self.params: list[Tensor] = list(named.values())
        self.ema_model = copy.deepcopy(model).eval().requires_grad_(False)
        averages = dict(self.ema_model.named_parameters())
        self.averages: list[Tensor] = [averages[name] for name in named]
        matrices = hidden_matrices(self.model)
        self.optimizer = Optimizer(self.params, self.averages, settings, accelerator.scaler, matrices)
        self.counts = Counts()
        self.saved_step: int | None = None
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        self.total = torch.zeros((), dtype=dtype, device=self.device)
        # Reading the loss waits for the device: free on a CPU, costly elsewhere, where the sum is read with each row.
        self.look = self.device.type == "cpu" and self.world == 1
        self.generators = [torch.default_generator]
        if self.device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
        self.row_loss: float | None = None
        # Clocks of this session; ``session`` sets them.
        self.started = self.saved = self.last_report = self.evaluation = 0.0
        self.ended: float | None = None
        self.first = self.first_images = 0

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.counts.step

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings that the result depends on, as JSON."""
        return self.settings.recorded() | {"seed": self.seed, "keep": self.keep}

    # the step

    def prepare(self) -> nn.Module:
        """The model as it is asked in training."""
        # Only the model is wrapped: the wrapped optimizer's step looks for packages each time, which costs as much as
        # a small network's whole step; what it does beside is the loss scale of fp16, in ``Optimizer``.
        self.net = self.accelerator.prepare(self.model)
        if self.settings.compile:
            self.net.compile()  # in place: torch.compile(net) would rename every weight in the files
        return self.net

    def seed_dropout(self, t: int) -> None:
        """Layers that draw from torch's own generators also draw by (seed, step, rank)."""
        for generator in self.generators:
            generator.manual_seed(step_seed(self.seed + 1 + self.accelerator.process_index, t))

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        # Compiled code hides its operations from the counter: the step that is counted runs without.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            yield
        self.counts.flops_per_step = counter.get_total_flops() * self.world

    def count_flops(self, t: int) -> contextlib.AbstractContextManager:
        """Count the operations of the first step."""
        return self._counting() if t == 0 else _NOTHING

    def add_loss(self, loss: Tensor, losses: Tensor, step_is_complete: bool = True) -> None:
        """Note the losses (b,) of a step or of a part of it, and what they add to the step's mean; Diverged where it is
        not finite and costs nothing to see."""
        if losses.dim() != 1:
            raise ValueError(
                f"stage {self.stage.name}: the objective must return (b,) losses, not {tuple(losses.shape)}"
            )
        self.total += loss.detach()
        self.counts.count += step_is_complete
        self.counts.images += losses.shape[0] * self.world
        if self.look and not math.isfinite(self.total.item()):
            self._diverged("loss", self.step + 1)

    def mean_loss(self) -> float:
        """Mean loss since the last row, over all processes; Diverged where it is not finite."""
        total = self.total if self.world == 1 else self.accelerator.reduce(self.total.clone(), reduction="mean")
        value = total.item()
        if not math.isfinite(value):
            self._diverged("loss", self.step)
        self.counts.total = value
        return value / max(1, self.counts.count)

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint, by this process's clock."""
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def saved_now(self) -> None:
        """The checkpoint of this step is on the disk."""
        self.saved, self.saved_step = time.monotonic(), self.step

    def sync_decision(self, stopping: bool, due: bool) -> tuple[bool, bool]:
        """What all processes do next. Asking costs, so several processes ask where a row was written."""
        if self.world == 1:
            return stopping, due
        if self.step % LOG_EVERY:
            return False, False
        wishes = torch.tensor([stopping, due and self.main], dtype=torch.float32, device=self.device)
        stopping, due = (self.accelerator.reduce(wishes, reduction="sum") > 0).tolist()
        return stopping, due

    # rows, held-out losses

    def write_row(self, norm: Tensor | None) -> None:
        """The row of a step; ``norm`` of its gradient."""
        self.row_loss = self.mean_loss()
        row = {"step": self.step, "loss": self.row_loss, "lr": self.optimizer.lr, "images": self.counts.images}
        if norm is not None:
            row["gradient_norm"] = norm.item()
        row |= {"seconds": self.seconds(), "images_per_second": self.rate()}
        self._append(row)
        self.total.zero_()
        self.counts.total, self.counts.count = 0.0, 0

    def validate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Held-out losses of the average; its snapshot, where it is the best so far for some key."""
        start = time.monotonic()
        self.mean_loss()
        self.check_weights()
        self.copy_buffers()
        with torch.no_grad():
            losses = {str(key): float(value) for key, value in evaluate(self.ema_model).items()}
        self.ema_model.eval()
        better = [key for key, loss in losses.items() if loss < self.counts.best.get(key, [0, math.inf])[1]]
        for key in better:
            self.counts.best[key] = [self.step, losses[key]]
        if better and self.keep and self.main:
            self.stage.save_weights(snapshot_path(self.stage, self.step).name, self.ema_model.state_dict())
        self.evaluation += time.monotonic() - start
        self._append({"step": self.step, "heldout": losses, "seconds": self.seconds()})

    def show(self, look: Callable[[nn.Module, int], None]) -> None:
        """Let someone look at the average: in the first process, whose torch generators stay as they are."""
        if not self.main:
            return
        start = time.monotonic()
        self.copy_buffers()
        with torch.no_grad(), torch.random.fork_rng(devices=self._cuda()):
            look(self.ema_model, self.step)
        self.ema_model.eval()
        self.evaluation += time.monotonic() - start

    def _cuda(self) -> list[int]:
        return [torch.cuda.current_device()] if self.device.type == "cuda" else []

    def _append(self, row: dict[str, Any]) -> None:
        if self.main:
            self.stage.append(row)
        if self.accelerator.trackers:
            flat = {k: v for k, v in row.items() if k != "heldout"} | {
                f"heldout/{key}": value for key, value in row.get("heldout", {}).items()
            }
            log_values(self.accelerator, self.stage.name, flat, self.step)

    def report(self, always: bool = False) -> None:
        """Tell how the training stands, a few times per second."""
        if self.progress is None or not self.main:
            return
        now = time.monotonic()
        if always or now - self.last_report > 0.2:
            self.last_report = now
            count, steps = self.counts.count, self.settings.steps
            loss = self.total.item() / count if count else self.row_loss
            left = (now - self.started) / max(1, self.step - self.first) * (steps - self.step)
            self.progress(Progress(self.stage.name, self.step, steps, loss, self.rate(), left))

    # clocks

    @contextlib.contextmanager
    def session(self, stream: Iterator[Any]) -> Iterator[Iterator[Any]]:
        """The time from here on counts as training; leaves torch's own generators and the accelerator as they were."""
        self.counts.sessions += 1
        self.first, self.first_images = self.step, self.counts.images
        self.evaluation, self.last_report, self.ended = 0.0, 0.0, None
        self.started = self.saved = time.monotonic()
        forget_peak(self.device)
        self.report(always=True)
        try:
            with torch.random.fork_rng(devices=self._cuda()):
                yield stream
            self.report(always=True)
        except RuntimeError as error:
            # torch raises it wherever the step is just then.
            if dead_worker(error) is None:
                raise
            raise BootdiffError(
                f"stage {self.stage.name}, step {self.step}: a process that prepares batches (training.workers, now "
                f"{self.settings.workers}) has died: {dead_worker(error)}. If memory ran out, lower training.workers "
                "or training.batch; then run the same command again: it continues at the last checkpoint."
            ) from error
        finally:
            self.ended = time.monotonic()
            if hasattr(stream, "close"):
                stream.close()
            self.accelerator.unwrap_model(self.net, keep_fp32_wrapper=False)
            # It keeps all that it ever wrapped; its own free_memory would drop the caller's models too.
            self.accelerator._models = [kept for kept in self.accelerator._models if kept is not self.net]

    def seconds(self) -> float:
        """Seconds of training so far, those of earlier sessions counted."""
        return self.counts.seconds + (self.ended or time.monotonic()) - self.started - self.evaluation

    def rate(self) -> float:
        """Images per second of training in this session."""
        elapsed = time.monotonic() - self.started - self.evaluation
        return (self.counts.images - self.first_images) / max(elapsed, 1e-9)

    def ledger(self) -> dict[str, Any]:
        """What the training has cost so far."""
        counts = self.counts
        cuda = self.device.type == "cuda"
        return {
            "parameters": sum(p.numel() for p in self.params),
            "steps": counts.step,
            "images": counts.images,
            "flops_per_step": counts.flops_per_step,
            "flops": counts.flops_per_step * counts.step,
            "seconds": self.seconds(),
            "evaluation_seconds": counts.evaluation_seconds + self.evaluation,
            "peak_memory": max(counts.peak_memory, peak_memory(self.device)),
            "device": str(self.device) + (f" ({torch.cuda.get_device_name()})" if cuda else ""),
            "processes": self.world,
            "sessions": counts.sessions,
        }

    # weights

    def copy_buffers(self) -> None:
        """Give the average the model's buffers, which are not averaged."""
        for average, buffer in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    def check_weights(self) -> None:
        """Diverged where a weight is not finite: the loss would tell only in the next step, after it is saved."""
        with torch.no_grad():
            norms = torch._foreach_norm([*self.params, *self.averages])
        if not torch.stack(norms).sum().isfinite().item():
            self._diverged("weights", self.step)

    def _diverged(self, what: str, step: int) -> None:
        saved = self.saved_step
        good = "no checkpoint was written yet" if saved is None else f"the checkpoint of step {saved} is intact"
        rates = f"{self.settings.lr:g}"
        if self.settings.optimizer != "adamw":
            rates += f", of Muon {self.settings.muon_lr:g}"
        raise Diverged(
            f"stage {self.stage.name}, step {step}: the {what} became NaN or infinite ({good} in {self.stage.path}). "
            f"Try a lower learning rate (now {rates}), a longer warmup, a smaller gradient clip (now "
            f"{self.settings.clip}), and check the data for extreme values; take a new run directory."
        )
