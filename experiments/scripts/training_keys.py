"""What does each key of `training` save or cost, at a size where it matters, on one core?

    python -m experiments.scripts.training_keys [--side 256] [--steps 3] [--only bf16 ...]
        [--out experiments/results/training-keys.json]

The default UNet and local net, on random pictures of side x side in colour, trained by the library's loop, each key in
a process of its own: seconds of the processor per step (median, after a first one), the peak of memory beyond what the
process held before the training, and both as ratios to training without any key, measured before and after.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bootdiff.data import Arrays, Batches
from bootdiff.denoise import IsotropicGaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.nets.network import default_networks
from bootdiff.noise import LEVELS, LogNormal
from bootdiff.training.device import make_accelerator
from bootdiff.training.loop import fit
from bootdiff.training.memory import forget_peak, peak_memory
from bootdiff.training.run import Run
from bootdiff.training.settings import TrainingSettings
from experiments.scripts.results import write_result

__all__ = ["KEYS", "main", "measure", "table"]

KEYS: dict[str, dict[str, Any]] = {
    "accumulate: 4": {"accumulate": 4},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "bf16": {"precision": "bf16"},
    "bf16, gradient_checkpointing": {"precision": "bf16", "gradient_checkpointing": True},
    "compile": {"compile": True},
}


class _Timed:
    """Batches that note when each is asked for, by the processor's clock."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.times = batches, list[float]()

    def stream(self, start: int = 0) -> Iterator[Any]:
        for batch in self.batches.stream(start):
            self.times.append(time.process_time())
            yield batch


def measure(kind: str, shape: tuple[int, int, int], changes: dict[str, Any], steps: int) -> dict[str, float]:
    """{"seconds", "memory"}: of a step with these keys, in bytes; the first step, which is counted, left out."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = TrainingSettings(steps=steps + 1, warmup=0, **changes).for_samples(1000, shape)
    network = default_networks(2)[kind].resolve(shape, shape)
    none = CompositeDenoiser({}, IsotropicGaussian(shape, [0.0] * shape[0], 0.5), LEVELS)
    model = LossModule(ResidualExpert(network.build(shape[0], shape, None), none))
    x = torch.randint(0, 256, (2 * settings.batch_size, *shape[1:], shape[0]), dtype=torch.uint8)
    device = torch.device("cpu")
    forget_peak(device)
    before = peak_memory(device)
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder) / "run", "keys: {}") as run:
        batches = _Timed(Batches(Arrays(x.numpy()), 1.0, settings.batch_size))
        fit(
            model, ResidualObjective(none, LogNormal()), batches, run.stage(kind), settings,
            accelerator=make_accelerator("cpu", settings.precision),
        )  # fmt: skip
    # Asked for after a step, the next batch tells when it ended; of the last one only the end of all tells.
    ends = [*batches.times[1:], time.process_time()]
    taken = [end - begin for begin, end in zip(batches.times, ends, strict=True)][1 : steps + 1]
    return {"seconds": statistics.median(taken), "memory": float(peak_memory(device) - before)}


def apart(*job: Any) -> dict[str, float]:
    """`measure` in a process of its own, whose memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, job)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: seconds and memory of a step with each key, and the ratios."""
    kinds = list(result["rows"])
    head = ["key", *(f"{kind}: {what}" for kind in kinds for what in ("s a step", "MiB"))]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key in result["rows"][kinds[0]]:
        cells = [f"`{key}`" if key else "none"]
        for row in (result["rows"][kind][key] for kind in kinds):
            cells.append(f"{row['seconds']:.2f} ({row['seconds_ratio']:.2f})")
            cells.append(f"{row['memory'] / 2**20:,.0f} ({row['memory_ratio']:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    size = " x ".join(map(str, result["shape"]))
    return (
        "\n".join(lines) + f"\n\nSamples of {size}, one core; in brackets the ratio to no key; `{result['command']}`."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all keys, print the ratios and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(KEYS), choices=list(KEYS), metavar="KEY")
    parser.add_argument("--out", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    shape, rows = (3, args.side, args.side), {}
    for kind in ("unet", "local"):
        plain = apart(kind, shape, {}, args.steps)
        found = {key: apart(kind, shape, KEYS[key], args.steps) for key in args.only}
        again = apart(kind, shape, {}, args.steps)
        plain = {name: (plain[name] + again[name]) / 2 for name in plain}
        rows[kind] = {
            key: row | {f"{name}_ratio": row[name] / plain[name] for name in plain}
            for key, row in ({"": plain} | found).items()
        }
        for key, row in rows[kind].items():
            print(
                f"{kind} {key or '(none)'}: {row['seconds']:.2f} s a step ({row['seconds_ratio']:.2f}), "
                f"{row['memory'] / 2**20:,.0f} MiB ({row['memory_ratio']:.2f})"
            )
    write_result(args.out, "training_keys", given, {"shape": list(shape), "steps": args.steps, "rows": rows})


if __name__ == "__main__":
    main()
