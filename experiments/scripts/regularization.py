"""Which regularizer pays?  One run per seed, then variants of its residual stage, all measured on the test images.

    python experiments/scripts/regularization.py RECIPE RUN [--seed S] [--train] [--out experiments/results/NAME.json]

RUN is a finished run of `bootdiff arms RECIPE --seed S` (its views and experts are taken from there).  Without --train
only variants that need no training are measured: which experts are stacked and how they are weighed.  With --train the
residual experts are trained anew for each setting of energy, subspace, projection and "sees the views".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bootdiff.cli.session import accelerate
from bootdiff.evaluation.evaluate import sample_losses, tabulate
from bootdiff.method.problem import in_memory
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.validation import Validator
from bootdiff.method.weights import fit_weights
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import Recipe, load_recipe
from bootdiff.training.run import Run, read_json

TRAINED: dict[str, dict[str, Any]] = {
    "energy 0.3": {"energy": 0.3},
    "energy 1": {"energy": 1.0},
    "subspace 0.3": {"subspace": 0.3},
    "null space only": {"project": True},
    "blind to the views": {"sees_views": False},
}


def stacked(
    b: Bootstrap, experts: list[Any], held_out: Validator, nonnegative: bool = True, ridge: bool = True
) -> StackedDenoiser:
    """The experts with held-out weights per noise level."""
    composite = held_out.composite
    if not experts:
        return StackedDenoiser(composite, [], b.levels)
    options: dict[str, Any] = {} if ridge else {"ridges": (0.0,), "smooth": (0.0,)}
    w = fit_weights(held_out.residual_moments(experts), b.levels, nonnegative=nonnegative, prune=0.0, **options)
    return StackedDenoiser(composite, experts, b.levels, w.values.tolist()).eval()


def post_hoc(b: Bootstrap) -> Iterator[tuple[str, StackedDenoiser]]:
    """Variants made of the run's own experts."""
    composite = b.denoiser("views_only")
    residual, full = b.residual_experts(composite), b.full_experts()
    bench = b.full_training_set()
    held_out = Validator(bench.samples, composite, b.levels, 4, seed=b._seed("stack"))
    yield "views only", StackedDenoiser(composite, [], b.levels)
    for name, expert in residual.items():
        last = b._last(b.run.stage(name), expert)
        yield f"{name}: last weights", StackedDenoiser(composite, [last], b.levels)
        yield f"{name}: snapshots", StackedDenoiser(composite, [expert], b.levels)
        yield f"{name}: snapshots, kappa", stacked(b, [expert], held_out)
    last = [b._last(b.run.stage(name), expert) for name, expert in residual.items()]
    yield "all residual: last weights, mean", StackedDenoiser(composite, last, b.levels)
    yield "all residual: last weights, stack", stacked(b, last, held_out)
    every = list(residual.values())
    yield "all residual: snapshots, mean", StackedDenoiser(composite, every, b.levels)
    yield "all residual: snapshots, stack", stacked(b, every, held_out)
    yield "all residual: snapshots, stack without ridge or smoothing", stacked(b, every, held_out, ridge=False)
    yield "all residual + full-only: snapshots, stack", stacked(b, [*every, *full.values()], held_out)
    none = Validator(bench.samples, b.no_views(bench.base), b.levels, 4, seed=b._seed("stack"))
    for name, expert in full.items():
        yield f"{name}: snapshots, kappa", stacked(b, [expert], none)
    yield (
        "full-only: last weights, mean",
        StackedDenoiser(none.composite, [b._last(b.run.stage(n), e) for n, e in full.items()], b.levels),
    )
    yield "full-only: snapshots, stack", stacked(b, list(full.values()), none)


def with_residual(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with other settings of its residual stage."""
    return recipe.model_copy(update={"residual": recipe.residual.model_copy(update=settings)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe).model_copy(update={"seed": args.seed})
    materials = build_problem(recipe)
    accelerator = accelerate(recipe)
    variants: dict[str, torch.nn.Module] = {}
    with tempfile.TemporaryDirectory() as scratch:

        def bootstrap(changed: Recipe, name: str) -> Bootstrap:
            run = Run.open(Path(scratch) / name, changed.dump(place=False), materials.fingerprint())
            return Bootstrap(changed, materials, run, accelerator, reuse=[args.run], log=lambda _: None)

        b = bootstrap(recipe, "run")
        variants.update(post_hoc(b))
        for name, settings in TRAINED.items() if args.train else ():
            print(f"training: {name}", file=sys.stderr, flush=True)
            other = bootstrap(with_residual(recipe, **settings, full_experts=False), name.replace(" ", "-"))
            variants[f"trained with {name}: snapshots, stack"] = other.denoiser("bootdiff")
        test = in_memory(materials.test or materials.held_out)
        losses = sample_losses(variants, test, b.levels, b.full_training_set().base, draws=2, seed=7)  # type: ignore[arg-type]
    table = tabulate(losses, b.levels)
    for name, row in table.items():
        print(f"{name:60s} {row['mean']:.4f} +- {row['stderr']:.4f}")
    if args.out:
        result = {name: {k: row[k] for k in ("mean", "stderr", "per_level")} for name, row in table.items()}
        provenance = read_json(args.run / "provenance.json")[-1]
        said = {"benchmark": "regularization", "recipe": args.recipe.stem, "seed": args.seed, "variants": result}
        said |= {"versions": provenance["versions"], "command": "python " + " ".join(sys.argv)}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
