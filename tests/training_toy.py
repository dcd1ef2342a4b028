"""A tiny training for the tests of the loop: an MLP with dropout that denoises 4-vectors, seeded by the step."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import fields
from unittest import mock

import torch
from accelerate import Accelerator
from torch import nn

from bootdiff.training import state
from bootdiff.training.loop import fit, global_randn
from bootdiff.training.run import Run, load_tensors
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.state import TrainingState

STEPS = 60


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(0.1), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 4))


class Batches:
    """Batch of step t: ``size`` rows drawn from generator t; this rank's contiguous share of them."""

    def __init__(self, size: int = 8, rank: int = 0, world: int = 1, on_step=None):
        self.size, self.rank, self.world, self.on_step = size, rank, world, on_step
        self.asked = []

    def stream(self, start_step):
        self.asked.append(start_step)
        step = start_step
        while True:
            if self.on_step:
                self.on_step(step)
            rows = torch.randn(self.size, 4, generator=torch.Generator().manual_seed(step))
            b = self.size // self.world
            yield {"x": rows[self.rank * b : (self.rank + 1) * b]}
            step += 1


def objective(model, batch, generator):
    x = batch["x"]
    return (model(x + global_randn(x.shape, generator)) - x).square().mean(1)


def evaluate(model):
    """Held-out loss at three noise levels."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(7))
    n = torch.randn(32, 4, generator=torch.Generator().manual_seed(8))
    return {str(s): (model(x + s * n) - x).square().mean().item() for s in (0.1, 1.0, 4.0)}


def settings(**changes):
    """How the toy is trained, but for what is changed."""
    given = {"steps": STEPS, "lr": 3e-2, "warmup": 0, "schedule": "constant", "ema": 0.9, "evaluate_every": 8}
    # AdamW, whose losses turn and rise again in so few steps; tests of Muon ask for it.
    fixed = {"checkpoint_seconds": 1e9, "optimizer": "adamw", "batch": 32}
    return TrainingSettings(**given | fixed | changes)


def train(stage, *, checkpoint_every=5, log_every=7, **changes):
    """The toy training. Checkpoints come by the step, not by the clock, where ``checkpoint_every`` is not 0."""
    options = {"model": network(), "objective": objective, "batches": Batches(), "evaluate": evaluate, "seed": 3}
    known = {field.name for field in fields(TrainingSettings)}
    how = settings(**{key: value for key, value in changes.items() if key in known})
    options |= {key: value for key, value in changes.items() if key not in known}
    by_clock = TrainingState.checkpoint_due
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(state, "LOG_EVERY", log_every))
        if checkpoint_every:
            by_step = mock.patch.object(
                TrainingState, "checkpoint_due", lambda job: job.step % checkpoint_every == 0 or by_clock(job)
            )
            patches.enter_context(by_step)
        return fit(options.pop("model"), options.pop("objective"), options.pop("batches"), stage, how, **options)


def main(path, optimizer):
    """One of several processes of the toy training without dropout, which each process draws for itself."""
    accelerator = Accelerator(cpu=True)
    model = network()
    del model[2]
    rank, world = accelerator.process_index, accelerator.num_processes
    with Run.open(path, "seed: 3", main=accelerator.is_main_process) as run:
        how = {"lr": 1e-2, "optimizer": optimizer}
        train(run.stage("toy"), model=model, batches=Batches(8, rank, world), accelerator=accelerator, **how)
        final, _ = load_tensors(run.stage("toy") / "final.safetensors")
        assert all(torch.equal(value, final[name]) for name, value in model.state_dict().items())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
