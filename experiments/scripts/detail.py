"""Have samples the fine detail of real ones, as they come and with the noise understated as was measured in training?

    python -m experiments.scripts.detail runs/cats64 runs/medical64

For each arm of each run: `moments.spectrum.detail` of --count samples against the run's test samples, with a
`noise_shift` of 0 and with the model's own, from the same noise. It writes experiments/results/detail.json, of which
`experiments.scripts.table` makes the table of docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bootdiff.cli.session import device_of, load_arm, read_run, saved_arms
from bootdiff.method.problem import in_memory
from bootdiff.moments.spectrum import detail
from bootdiff.recipe.build import build_problem
from bootdiff.sampling import sample
from experiments.scripts.results import RESULTS, write_result

__all__ = ["main", "measured", "table"]

ARMS = ("full_only", "bootdiff")


def measured(folder: Path, arm: str, count: int, seed: int) -> dict[str, Any]:
    """{"run", "arm", "noise_shift", "before", "after"}: the latter two as `Detail.record`."""
    _, recipe = read_run(folder)
    problem, how = build_problem(recipe), recipe.sampling
    real = in_memory(problem.full if problem.test is None else problem.test).x
    _, denoiser = load_arm(folder, arm, device_of(recipe))
    found = {}
    for name, shift in (("before", 0.0), ("after", denoiser.noise_shift)):
        x = sample(denoiser, count, seed=seed, **(asdict(how.settings()) | {"noise_shift": shift}))
        found[name] = detail(x, real, how.sigma_min).record()
    return {"run": recipe.name, "arm": arm, "noise_shift": denoiser.noise_shift, **found}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    head = ["samples of", "as they come", "noise understated by", "detail then", "2 to 4 pixels", "4 to 8", "8 to 16"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        both = [f"{100 * row[k]['ratio']:.0f} ± {100 * row[k]['stderr']:.0f} %" for k in ("before", "after")]
        octaves = [
            f"{100 * a:.0f} → {100 * b:.0f} %" for a, b in zip(row["before"]["octaves"], row["after"]["octaves"])
        ]
        name = f"{row['run']}, {row['arm'].replace('_', '-')}"
        lines.append("| " + " | ".join([name, both[0], f"{100 * row['noise_shift']:.1f} %", both[1], *octaves]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=64, help="samples of each arm")
    parser.add_argument(
        "--seed", type=int, default=11, help="of their noise: not the one that the shift was chosen with"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "detail.json")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    arms = [(run, arm) for run in args.runs for arm in ARMS if arm in saved_arms(run)]
    rows = [measured(run, arm, args.count, args.seed) for run, arm in arms]
    write_result(args.out, "detail", given, {"count": args.count, "seed": args.seed, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
