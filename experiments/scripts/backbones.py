"""What a training step of the default networks costs, for each kind of samples, on one core.

    python -m experiments.scripts.backbones [--steps 9] [--out experiments/results/backbones.json]

A step is an EDM loss, its gradient and AdamW.  Seconds are those of the processor, not of the clock: what else runs on
the machine counts little.  The input has twice the sample's channels, as that of a residual beside one view.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.nets import Network, default_networks
from experiments.scripts.results import write_result

__all__ = ["CASES", "main", "measure", "table"]

CASES: dict[str, tuple[tuple[int, ...], int]] = {
    "vector 30": ((30,), 64),
    "signal 1x512": ((1, 512), 32),
    "signal 1x4096": ((1, 4096), 8),
    "image 3x32x32": ((3, 32, 32), 32),
    "video 1x12x32x32": ((1, 12, 32, 32), 8),
    "video 1x12x32x32, 16": ((1, 12, 32, 32), 16),
    "video 3x16x32x32": ((3, 16, 32, 32), 8),
}
"""Shape of a sample and size of a batch, by the name in the results."""


def measure(shape: tuple[int, ...], batch: int, network: Network, steps: int) -> dict[str, Any]:
    """What a step of one network costs, on random samples.

    Args:
        shape: of a sample, (channels, *sides); the network's input has twice its channels.
        network: what is built for them.
        steps: timed steps, after one that is not.

    Returns:
        {"parameters", "flops" of a step, "seconds" (median) and "fastest" of the processor, "options" of the network}.
    """
    torch.manual_seed(0)
    network = network.resolve(shape, shape)
    net = network.build(2 * shape[0], shape)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
    x, target, c_noise = torch.randn(batch, 2 * shape[0], *shape[1:]), torch.randn(batch, *shape), torch.randn(batch)

    def step() -> float:
        start = time.process_time()
        (net(x, c_noise) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - start

    with FlopCounterMode(display=False) as counter:
        step()
    times = [step() for _ in range(steps)]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "flops": counter.get_total_flops(),
        "seconds": statistics.median(times),
        "fastest": min(times),
        "options": {name: value for name, value in network.describe().items() if name != "kind"},
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of a result, "NAME NETWORK" -> what `measure` returned and "batch", as Markdown."""
    lines = ["| samples | batch | network | parameters | GFLOPs / step | seconds / step |", "|" + "---|" * 6]
    for name, row in rows.items():
        samples, net = name.rsplit(" ", 1)
        samples = samples.split(",")[0].replace("x", " x ")
        lines.append(
            f"| {samples} | {row['batch']} | {net} | {row['parameters']:,} | {row['flops'] / 1e9:.3g} "
            f"| {row['seconds']:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every network of every case, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for name, (shape, batch) in CASES.items():
        for net, network in default_networks(len(shape) - 1).items():
            rows[f"{name} {net}"] = {"batch": batch, **measure(shape, batch, network, args.steps)}
    print(table(rows))
    write_result(args.out, "backbones", given, {"rows": rows})


if __name__ == "__main__":
    main()
