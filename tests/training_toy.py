"""A tiny training for the tests of the loop: an MLP with dropout that denoises 4-vectors, seeded by the step."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch import nn

from bootdiff.training.loop import fit, global_randn
from bootdiff.training.run import Run, load_tensors

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


def train(stage, **changes):
    options = {
        "model": network(), "objective": objective, "batches": Batches(), "steps": STEPS, "lr": 3e-2, "ema": 0.9,
        "evaluate": evaluate, "evaluate_every": 8, "checkpoint_every": 5, "log_every": 7, "seed": 3,
    }  # fmt: skip
    options |= changes
    return fit(options.pop("model"), options.pop("objective"), options.pop("batches"), stage, **options)


def main(path):
    """One of several processes of the toy training without dropout, which each process draws for itself."""
    accelerator = Accelerator(cpu=True)
    model = network()
    del model[2]
    rank, world = accelerator.process_index, accelerator.num_processes
    with Run.open(path, "seed: 3", main=accelerator.is_main_process) as run:
        train(run.stage("toy"), model=model, batches=Batches(8, rank, world), accelerator=accelerator, lr=1e-2)
        final, _ = load_tensors(run.stage("toy") / "final.safetensors")
        assert all(torch.equal(value, final[name]) for name, value in model.state_dict().items())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
