"""What stands behind the page of the training loop: one call of ``fit`` as an object.

It holds the model, its average, the optimizer and the clocks, and it alone reads and writes the files of a stage:

    checkpoint.safetensors    model, average, AdamW's moments; step, loss since the last row, best table, cost so far
    snapshot-{step}           averaged weights that are the best so far for some held-out key
    final.safetensors         averaged weights at the end; done.json marks the stage complete

Order is what makes a kill harmless. A snapshot is written before the checkpoint that names it and deleted only after
a checkpoint that no longer does; whatever lies after the checkpoint is written again, bit by bit the same.
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
from bootdiff.training.memory import forget_peak, peak_memory
from bootdiff.training.run import StageDir, load_tensors, save_tensors

__all__ = [
    "Diverged",
    "FitResult",
    "Interrupted",
    "Progress",
    "TrainingState",
    "load_weights",
    "snapshot_path",
    "step_seed",
]


class Interrupted(BootdiffError):
    """The training was asked to stop (Ctrl-C, SIGTERM) and wrote a checkpoint."""


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


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a snapshot or final.safetensors into ``model``; returns it. Raises BootdiffError: missing, other network."""
    tensors, _ = load_tensors(path)
    load_state(model, tensors, path)
    return model


@dataclass
class _State:
    """What a checkpoint holds beside tensors."""

    step: int = 0
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
    """One call of ``fit``: the model, its average, the optimizer, the clocks, and what is read and written."""

    def __init__(self, model: nn.Module, stage: StageDir, accelerator: Any, settings: dict, progress: Any) -> None:
        if accelerator is None:
            from accelerate import Accelerator

            accelerator = Accelerator()
        self.accelerator, self.stage, self.settings, self.progress = accelerator, stage, settings, progress
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
        self.optimizer = torch.optim.AdamW(
            self.params, lr=settings["lr"], weight_decay=settings["weight_decay"], fused=True
        )
        self.state = _State()
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

    # the step

    @property
    def step(self) -> int:
        return self.state.step

    @step.setter
    def step(self, value: int) -> None:
        self.state.step = value

    def prepare(self) -> tuple[nn.Module, torch.optim.Optimizer, list[Tensor], list[Tensor]]:
        # Only the model is wrapped: the wrapped optimizer's step looks for packages each time, which costs as much as
        # a small network's whole step; what it does beside is the loss scale of fp16, in ``optimizer_step``.
        self.net = self.accelerator.prepare(self.model)
        if self.settings.get("compile"):
            self.net.compile()  # in place: torch.compile(net) would rename every weight in the files
        return self.net, self.optimizer, self.params, self.averages

    def seed_dropout(self, t: int) -> None:
        """Layers that draw from torch's own generators also draw by (seed, step, rank)."""
        for generator in self.generators:
            generator.manual_seed(step_seed(self.settings["seed"] + 1 + self.accelerator.process_index, t))

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        # Compiled code hides its operations from the counter: the step that is counted runs without.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            yield
        self.state.flops_per_step = counter.get_total_flops() * self.world

    def count_flops(self, t: int) -> contextlib.AbstractContextManager:
        return self._counting() if t == 0 else _NOTHING

    def add_loss(self, loss: Tensor, losses: Tensor) -> None:
        if losses.dim() != 1:
            raise ValueError(
                f"stage {self.stage.name}: the objective must return (b,) losses, not {tuple(losses.shape)}"
            )
        self.total += loss.detach()
        self.state.count += 1
        self.state.images += losses.shape[0] * self.world
        if self.look and not math.isfinite(self.total.item()):
            self._diverged("loss", self.step + 1)

    def backward(self, loss: Tensor) -> None:
        scaler = self.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def clip_gradients(self, clip: float | None) -> Tensor | None:
        if clip is None:
            return None
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.params, clip, foreach=True)

    def optimizer_step(self) -> None:
        scaler = self.accelerator.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        for p in self.params:
            p.grad = None  # what zero_grad does, at a tenth of its cost

    def mean_loss(self) -> float:
        """Mean loss since the last row, over all processes; Diverged where it is not finite."""
        total = self.total if self.world == 1 else self.accelerator.reduce(self.total.clone(), reduction="mean")
        value = total.item()
        if not math.isfinite(value):
            self._diverged("loss", self.step)
        self.state.total = value
        return value / max(1, self.state.count)

    def sync_decision(self, stopping: bool, due: bool) -> tuple[bool, bool]:
        """What all processes do next. Asking costs, so several processes ask where a row was written."""
        if self.world == 1:
            return stopping, due
        if self.step % self.settings["log_every"]:
            return False, False
        wishes = torch.tensor([stopping, due and self.main], dtype=torch.float32, device=self.device)
        stopping, due = (self.accelerator.reduce(wishes, reduction="sum") > 0).tolist()
        return stopping, due

    # rows, held-out losses

    def write_row(self, lr: float, norm: Tensor | None) -> None:
        self.row_loss = self.mean_loss()
        row = {"step": self.step, "loss": self.row_loss, "lr": lr, "images": self.state.images}
        if norm is not None:
            row["gradient_norm"] = norm.item()
        row |= {"seconds": self.seconds(), "images_per_second": self.rate()}
        self._append(row)
        self.total.zero_()
        self.state.total, self.state.count = 0.0, 0

    def validate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        start = time.monotonic()
        self.mean_loss()
        self._check_weights()
        self._copy_buffers()
        with torch.no_grad():
            losses = {str(key): float(value) for key, value in evaluate(self.ema_model).items()}
        self.ema_model.eval()
        better = [key for key, loss in losses.items() if loss < self.state.best.get(key, [0, math.inf])[1]]
        for key in better:
            self.state.best[key] = [self.step, losses[key]]
        if better and self.settings["keep"] and self.main:
            meta = {"step": self.step, "heldout": losses}
            save_tensors(snapshot_path(self.stage, self.step), self.ema_model.state_dict(), meta)
        self.evaluation += time.monotonic() - start
        self._append({"step": self.step, "heldout": losses, "seconds": self.seconds()})

    def _append(self, row: dict[str, Any]) -> None:
        if self.main:
            self.stage.append(row)
        if self.accelerator.trackers:
            flat = {k: v for k, v in row.items() if k != "heldout"} | {
                f"heldout/{key}": value for key, value in row.get("heldout", {}).items()
            }
            self.accelerator.log({f"{self.stage.name}/{key}": value for key, value in flat.items()}, step=self.step)

    def report(self, always: bool = False) -> None:
        if self.progress is None or not self.main:
            return
        now = time.monotonic()
        if always or now - self.last_report > 0.2:
            self.last_report = now
            count, steps = self.state.count, self.settings["steps"]
            loss = self.total.item() / count if count else self.row_loss
            left = (now - self.started) / max(1, self.step - self.first) * (steps - self.step)
            self.progress(Progress(self.stage.name, self.step, steps, loss, self.rate(), left))

    # clocks

    @contextlib.contextmanager
    def session(self, stream: Iterator[Any]) -> Iterator[Iterator[Any]]:
        """The time from here on counts as training; leaves torch's own generators and the accelerator as they were."""
        self.state.sessions += 1
        self.first, self.first_images = self.step, self.state.images
        self.evaluation, self.last_report, self.ended = 0.0, 0.0, None
        self.started = self.saved = time.monotonic()
        forget_peak(self.device)
        self.report(always=True)
        try:
            with torch.random.fork_rng(devices=[] if self.device.type != "cuda" else [torch.cuda.current_device()]):
                yield stream
            self.report(always=True)
        finally:
            self.ended = time.monotonic()
            if hasattr(stream, "close"):
                stream.close()
            self.accelerator.unwrap_model(self.net, keep_fp32_wrapper=False)
            # It keeps all that it ever wrapped; its own free_memory would drop the caller's models too.
            self.accelerator._models = [kept for kept in self.accelerator._models if kept is not self.net]

    def seconds(self) -> float:
        return self.state.seconds + (self.ended or time.monotonic()) - self.started - self.evaluation

    def rate(self) -> float:
        """Images per second of training in this session."""
        elapsed = time.monotonic() - self.started - self.evaluation
        return (self.state.images - self.first_images) / max(elapsed, 1e-9)

    def seconds_since_checkpoint(self) -> float:
        return time.monotonic() - self.saved

    def _ledger(self) -> dict[str, Any]:
        state = self.state
        cuda = self.device.type == "cuda"
        return {
            "parameters": sum(p.numel() for p in self.params),
            "steps": state.step,
            "images": state.images,
            "flops_per_step": state.flops_per_step,
            "flops": state.flops_per_step * state.step,
            "seconds": self.seconds(),
            "evaluation_seconds": state.evaluation_seconds + self.evaluation,
            "peak_memory": max(state.peak_memory, peak_memory(self.device)),
            "device": str(self.device) + (f" ({torch.cuda.get_device_name()})" if cuda else ""),
            "processes": self.world,
            "sessions": state.sessions,
        }

    # files

    def write_checkpoint(self) -> None:
        self.mean_loss()
        self._check_weights()
        if self.main:
            self._copy_buffers()
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {f"ema.{name}": value for name, value in self.ema_model.state_dict().items()}
            for i, p in enumerate(self.params):
                tensors |= {f"optimizer.{i}.{name}": value for name, value in self.optimizer.state[p].items()}
            ledger = self._ledger()
            meta = vars(self.state) | {key: ledger[key] for key in ("seconds", "evaluation_seconds", "peak_memory")}
            scaler = self.accelerator.scaler
            self.stage.run.sync_metrics()
            save_tensors(
                self.stage / "checkpoint.safetensors",
                tensors,
                {"state": meta, "settings": self.settings, "scaler": scaler and scaler.state_dict()},
            )
            self._sweep()
        self.saved, self.saved_step = time.monotonic(), self.step

    def resume(self) -> None:
        """Take up the checkpoint, if there is one; drop the rows and snapshots after it."""
        path = self.stage / "checkpoint.safetensors"
        if path.exists():
            tensors, meta = load_tensors(path, self.device)
            self._check_same(meta["settings"])
            for prefix, module in (("model.", self.model), ("ema.", self.ema_model)):
                part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
                load_state(module, part, path)
            for i, p in enumerate(self.params):
                self.optimizer.state[p] = {
                    "step": tensors[f"optimizer.{i}.step"],
                    # empty_like keeps the parameter's memory format, which the file does not know.
                    "exp_avg": torch.empty_like(p).detach().copy_(tensors[f"optimizer.{i}.exp_avg"]),
                    "exp_avg_sq": torch.empty_like(p).detach().copy_(tensors[f"optimizer.{i}.exp_avg_sq"]),
                }
            self.state = _State(**meta["state"])
            self.total.fill_(self.state.total)
            self.saved_step = self.step
            if meta["scaler"] and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(meta["scaler"])
        if self.main:
            self.stage.run.truncate_metrics(self.stage.name, self.step)
            self._sweep()

    def finish(self) -> FitResult:
        self._check_weights()
        if self.main:
            self._copy_buffers()
            save_tensors(self.stage / "final.safetensors", self.ema_model.state_dict(), {"step": self.step})
            self.stage.run.sync_metrics()
            snapshots = {key: int(step) for key, (step, _) in self.state.best.items()}
            self.stage.finish({"snapshots": snapshots, "ledger": self._ledger(), "settings": self.settings})
        self.accelerator.wait_for_everyone()
        return self.finished()

    def finished(self) -> FitResult:
        """The result as it lies on the disk; clears away what only an unfinished stage needs."""
        info = self.stage.info
        self._check_same(info["settings"])
        load_weights(self.model, self.stage / "final.safetensors")
        if self.main:
            self.state.best = {key: [step, 0.0] for key, step in info["snapshots"].items()}
            self._sweep()
            (self.stage / "checkpoint.safetensors").unlink(missing_ok=True)
        return FitResult(self.stage.metrics(), info["snapshots"], info["ledger"])

    def _sweep(self) -> None:
        """Delete the snapshots that are best for no key, once a checkpoint that no longer names them is on the disk."""
        wanted = {snapshot_path(self.stage, int(step)) for step, _ in self.state.best.values()}
        for path in self.stage.path.glob("snapshot-*.safetensors"):
            if path not in wanted:
                path.unlink()

    def _copy_buffers(self) -> None:
        for average, buffer in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    # refusals

    def _check_weights(self) -> None:
        """Diverged where a weight is not finite: the loss would tell only in the next step, after it is saved."""
        with torch.no_grad():
            norms = torch._foreach_norm([*self.params, *self.averages])
        if not torch.stack(norms).sum().isfinite().item():
            self._diverged("weights", self.step)

    def _diverged(self, what: str, step: int) -> None:
        saved = self.saved_step
        good = "no checkpoint was written yet" if saved is None else f"the checkpoint of step {saved} is intact"
        raise Diverged(
            f"stage {self.stage.name}, step {step}: the {what} became NaN or infinite ({good} in {self.stage.path}). "
            f"Try a lower learning rate (now {self.settings['lr']:g}), a longer warmup, a smaller gradient clip (now "
            f"{self.settings['clip']}), and check the data for extreme values; take a new run directory."
        )

    def _check_same(self, there: dict[str, Any]) -> None:
        now = self.settings
        changed = [f"{k} ({there.get(k)} -> {now.get(k)})" for k in {**there, **now} if there.get(k) != now.get(k)]
        if changed:
            raise BootdiffError(
                f"{self.stage.path}: this stage was trained with other settings: {', '.join(changed)} (there -> now). "
                f"Use the same settings to go on, or another run directory."
            )


# --- details ----------------------------------------------------------------------------------------------------------

_NOTHING = contextlib.nullcontext()


def step_seed(seed: int, t: int) -> int:
    """32-bit seed of (seed, t): for one seed all t get different ones (the finalizer of MurmurHash3 is a bijection)."""
    h = (seed * 0x9E3779B1 + t) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def load_state(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise BootdiffError(
            f"{path}: these weights are of another network ({' '.join(str(error).split())[:300]}). Use the network "
            f"they were trained with, or another run directory."
        ) from None
