"""The files of one training: what makes a kill harmless, and what lets a complete one be trained for longer.

    checkpoint.safetensors    model, average, moments; `Counts`, settings. Gone when the stage is complete
    snapshot-{step}           averaged weights that are the best so far for some held-out key
    final.safetensors         averaged weights at the end; done.json marks the stage complete

Order is what makes a kill harmless. A snapshot is written before the checkpoint that names it and deleted only after a
checkpoint that no longer does; whatever lies after the checkpoint is written again, bit by bit the same.

*More steps.* A training that is asked for more steps than before goes on where it ended, with the learning rate that
the new number of steps has from there on. From a checkpoint nothing else changes. A complete stage has only the average
left, and goes on from it: model and average both start at ``final.safetensors``, the optimizer starts again with
moments of 0, and so its warmup is repeated (without it the first steps have full length in every coordinate or
direction, whatever the gradient). To keep more was measured and not chosen. The raw weights would add 16 MB to the
demo's run of 61 MB, AdamW's moments 33 MB, in every run, for a training that is most often never asked for; and after a
decayed learning rate average and raw weights hardly differ, while after a constant one the average is the better place.
What was best on held-out samples before is still compared with, as far as its snapshots are left. The checkpoint of the
new training is written first, then the mark of the old one's end is removed: killed in between, both commands, the old
and the new one, find what they need.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bootdiff.errors import BootdiffError
from bootdiff.training.files import differences, load_tensors, save_tensors
from bootdiff.training.forms import CheckpointMeta, Training, checked
from bootdiff.training.pool import common_prefix
from bootdiff.training.run import Run, StageDir
from bootdiff.training.state import Counts, FitResult, TrainingState, snapshot_path

__all__ = ["finish", "load_weights", "read_weights", "resume", "trained_steps", "write"]

_CHECKPOINT = "checkpoint.safetensors"


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a snapshot or final.safetensors into ``model``; returns it.

    Raises BootdiffError: missing, damaged, or of another network.
    """
    _load_state(model, read_weights(model, path), path)
    return model


def read_weights(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The weights in a snapshot or final.safetensors, by the names that they have in ``model``, whose network may be
    another one. Raises BootdiffError: missing, damaged, or another file than the stage was completed with."""
    folder = Path(path).absolute().parent
    tensors, _ = StageDir(Run(folder.parent.parent, None), folder.name).tensors(Path(path).name)
    own, theirs = common_prefix(model.state_dict()), common_prefix(tensors)
    return {own + name.removeprefix(theirs): tensor for name, tensor in tensors.items()}


def write(job: TrainingState) -> None:
    """Write the checkpoint of now (the first process does), after the rows and snapshots that it stands on."""
    job.mean_loss()
    job.check_weights()
    if job.main:
        job.copy_buffers()
        ledger = job.ledger()
        _write(job, {key: ledger[key] for key in ("seconds", "evaluation_seconds", "peak_memory")})
    job.saved_now()


def _write(job: TrainingState, spent: dict[str, Any]) -> None:
    tensors = {f"model.{name}": value for name, value in job.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in job.ema_model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in job.optimizer.state().items()}
    scaler = job.accelerator.scaler
    meta = {
        "stage": job.stage.name, "made_with": job.stage.made_with, "counts": vars(job.counts) | spent,
        "settings": job.recorded, "scaler": scaler and scaler.state_dict(),
    }  # fmt: skip
    job.stage.run.sync_metrics()
    save_tensors(job.stage / _CHECKPOINT, tensors, meta)
    _sweep(job.stage, job.counts.best)


def resume(job: TrainingState) -> FitResult | None:
    """Take up what there is; the result, where the stage is complete.

    Rows and snapshots after the checkpoint are dropped: they will be written again.
    Raises BootdiffError: another network, or settings other than more steps that differ.
    """
    if job.stage.done:
        result = _finished(job)
        if result is not None:
            return result
    path = job.stage / _CHECKPOINT
    if path.exists():
        tensors, meta = _read(job.stage, job.device)
        _check_same(job, meta["settings"])

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}

        _load_state(job.model, part("model."), path)
        _load_state(job.ema_model, part("ema."), path)
        job.optimizer.load_state(part("optimizer."))
        job.counts = meta["counts"]
        job.total.fill_(job.counts.total)
        job.saved_step = job.step
        if meta["scaler"] and job.accelerator.scaler is not None:
            job.accelerator.scaler.load_state_dict(meta["scaler"])
    if job.main:
        job.stage.run.truncate_metrics(job.stage.name, job.step)
        _sweep(job.stage, job.counts.best)
    return None


def finish(job: TrainingState) -> FitResult:
    """Write the final weights and mark the stage complete."""
    job.check_weights()
    if job.main:
        job.copy_buffers()
        job.stage.save_weights("final.safetensors", job.ema_model.state_dict())
        job.stage.run.sync_metrics()
        snapshots = {key: int(step) for key, (step, _) in job.counts.best.items()}
        job.stage.finish({"snapshots": snapshots, "ledger": job.ledger(), "settings": job.recorded})
    job.accelerator.wait_for_everyone()
    result = _finished(job)
    assert result is not None
    return result


def _finished(job: TrainingState) -> FitResult | None:
    """The result as it lies on the disk, cleared of what only an unfinished stage needs; None: more steps are asked."""
    stage = job.stage
    info = stage.read("done.json", Training)
    more = _check_same(job, info["settings"])
    load_weights(job.model, stage / "final.safetensors")
    # All processes have looked before the first changes what they look at.
    job.accelerator.wait_for_everyone()
    if more:
        if job.main:
            _reopen(job, dict(info["ledger"]))
        job.accelerator.wait_for_everyone()
        return None
    if job.main:
        _sweep(stage, {key: [step, 0.0] for key, step in info["snapshots"].items()})
        (stage / _CHECKPOINT).unlink(missing_ok=True)
    return FitResult(stage.metrics(), info["snapshots"], info["ledger"])


def _reopen(job: TrainingState, ledger: dict[str, Any]) -> None:
    """The checkpoint of a complete stage that is asked for more steps, in place of the mark of its end."""
    job.ema_model.load_state_dict(job.model.state_dict())
    kept = {int(path.stem.removeprefix("snapshot-")) for path in job.stage.path.glob("snapshot-*.safetensors")}
    best: dict[str, list[float]] = {}
    for row in job.stage.metrics():
        for key, loss in row.get("heldout", {}).items():
            if row["step"] in kept and loss is not None and loss < best.get(key, [0, math.inf])[1]:
                best[key] = [row["step"], loss]
    same = ("images", "flops_per_step", "seconds", "evaluation_seconds", "peak_memory", "sessions")
    counts = Counts(step=ledger["steps"], began=ledger["steps"], best=best, **{key: ledger[key] for key in same})
    job.counts = counts
    _write(job, {})
    (job.stage / "done.json").unlink()


def _read(stage: StageDir, device: Any = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint of a stage, its meta checked. BootdiffError: damaged, or of a stage made with something else."""
    path = stage / _CHECKPOINT
    tensors, meta = load_tensors(path, device, stage.remedy)
    checked(CheckpointMeta, meta, path, stage.remedy)
    for key, wanted in (("stage", stage.name), ("made_with", stage.made_with)):
        if wanted and meta.get(key, wanted) not in ("", wanted):
            raise BootdiffError(f"{path}: the checkpoint of a stage made with something else; {stage.remedy}")
    return tensors, meta | {"counts": checked(Counts, meta["counts"], path, stage.remedy)}


def trained_steps(stage: StageDir) -> int:
    """Steps that a stage with training in it has been trained for."""
    steps: int = stage.info["ledger"]["steps"] if stage.done else _read(stage)[1]["counts"].step
    return steps


def _sweep(stage: StageDir, best: dict[str, list[float]]) -> None:
    """Delete the snapshots that are best for no key, once a checkpoint that no longer names them is on the disk."""
    wanted = {snapshot_path(stage, int(step)) for step, _ in best.values()}
    for path in stage.path.glob("snapshot-*.safetensors"):
        if path not in wanted:
            path.unlink()
    stage.run.pool.sweep()


def _check_same(job: TrainingState, there: dict[str, Any]) -> bool:
    """Whether more steps are asked for, all else being the same."""
    unsaid = {"optimizer": "adamw"}  # `TrainingSettings.recorded` leaves it out
    found = differences(unsaid | there, unsaid | job.recorded)
    refused = [(key, old, new) for key, old, new in found if key != "steps" or type(old) is not int or new < old]
    if refused:
        raise BootdiffError(
            f"{job.stage.path}: this stage was trained with other settings: "
            f"{', '.join(f'{key} ({old} -> {new})' for key, old, new in refused)} (there -> now). "
            f"Use the same settings to go on (more steps are welcome), take another run directory, or delete the "
            f"folder {job.stage.path} to train this stage from scratch."
        )
    return bool(found)


def _load_state(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise BootdiffError(
            f"{path}: these weights are of another network ({' '.join(str(error).split())[:300]}). Use the network "
            f"they were trained with, or another run directory."
        ) from None
