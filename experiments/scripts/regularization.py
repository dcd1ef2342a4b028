"""Which regularizer pays?  One run per seed, then variants of its residual stage, all measured on the test images.

    python -m experiments.scripts.regularization RECIPE RUN [--seed S] [--train] [--out experiments/results/NAME.json]

RUN is a finished run of `bootdiff arms RECIPE --seed S` (its views and experts are taken from there).  Without --train
only variants that need no training are measured: which experts are stacked and how they are weighed.  With --train the
residual experts are trained once more for each setting of energy and of the networks' input.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bootdiff.cli.session import accelerate
from bootdiff.denoise import Denoiser
from bootdiff.evaluation.evaluate import sample_losses, tabulate
from bootdiff.method import snapshots
from bootdiff.method.problem import in_memory
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.validation import Validator
from bootdiff.method.weights import fit_weights
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import Recipe, load_recipe
from bootdiff.training.run import Run
from experiments.scripts.results import write_result

__all__ = ["TRAINED", "main", "post_hoc"]

TRAINED: dict[str, dict[str, Any]] = {
    "energy 0.3": {"energy": 0.3},
    "energy 1": {"energy": 1.0},
    "views not an input": {"uses_views": False},
}
"""Settings of the residual stage that are trained, by the name of the variant."""


def stacked(
    b: Bootstrap, experts: list[Any], held_out: Validator, nonnegative: bool = True, ridge: bool = True
) -> StackedDenoiser:
    """The experts with held-out weights per noise level; `ridge`: with the weights' ridge and smoothing, too."""
    composite = held_out.composite
    if not experts:
        return StackedDenoiser(composite, [], b.levels)
    options: dict[str, Any] = {} if ridge else {"ridges": (0.0,), "smooth": (0.0,)}
    w = fit_weights(held_out.residual_moments(experts), b.levels, nonnegative=nonnegative, prune=0.0, **options)
    return StackedDenoiser(composite, experts, b.levels, w.values.tolist()).eval()


def post_hoc(b: Bootstrap) -> Iterator[tuple[str, Denoiser]]:
    """Variants made of the run's own experts: (name, denoiser); without views that help, those of full-only alone."""
    composite, full = b.composite(), b.experts("full")
    residual = b.experts("residual") if composite.views else {}
    samples, seed = b.full_training_set(), b.seed("stack")
    held_out = Validator(samples.samples, composite, b.levels, 4, seed=seed)
    none = Validator(samples.samples, b.no_views(samples.prior), b.levels, 4, seed=seed)
    last = {name: snapshots.last(b.run.stage(name), expert) for name, expert in (residual | full).items()}
    yield "views only", StackedDenoiser(composite, [], b.levels)
    for name, expert in residual.items():
        yield f"{name}: last weights", StackedDenoiser(composite, [last[name]], b.levels)
        yield f"{name}: snapshots", StackedDenoiser(composite, [expert], b.levels)
        yield f"{name}: snapshots, kappa", stacked(b, [expert], held_out)
    if residual:
        ended, every = [last[name] for name in residual], list(residual.values())
        yield "all residual: last weights, mean", StackedDenoiser(composite, ended, b.levels)
        yield "all residual: last weights, stack", stacked(b, ended, held_out)
        yield "all residual: snapshots, mean", StackedDenoiser(composite, every, b.levels)
        yield "all residual: snapshots, stack", stacked(b, every, held_out)
        yield "all residual: snapshots, stack without ridge or smoothing", stacked(b, every, held_out, ridge=False)
        yield "all residual + full-only: snapshots, stack", stacked(b, [*every, *full.values()], held_out)
    for name, expert in full.items():
        yield f"{name}: snapshots, kappa", stacked(b, [expert], none)
    ended = [last[name] for name in full]
    yield "full-only: last weights, mean", StackedDenoiser(none.composite, ended, b.levels)
    yield "full-only: snapshots, stack", stacked(b, list(full.values()), none)
    yield "full-only, its Gaussian too: the arm", b.denoiser("full_only")
    yield "all of these, what is visible, Gaussians: bootdiff", b.denoiser("bootdiff")


def with_residual(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with other settings of its residual stage."""
    return recipe.model_copy(update={"residual": recipe.residual.model_copy(update=settings)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all variants, print their losses and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    recipe = load_recipe(args.recipe).model_copy(update={"seed": args.seed})
    problem = build_problem(recipe)
    accelerator = accelerate(recipe)
    variants: dict[str, Denoiser] = {}
    with tempfile.TemporaryDirectory() as scratch:

        def bootstrap(changed: Recipe, name: str) -> Bootstrap:
            run = Run.open(Path(scratch) / name, changed.dump(place=False), problem.fingerprint())
            settings = method_settings(changed, problem.shape)
            return Bootstrap(settings, problem, run, accelerator, reuse=[args.run], log=lambda _: None)

        b = bootstrap(recipe, "run")
        with b.run:
            variants.update(post_hoc(b))
        for name, settings in TRAINED.items() if args.train else ():
            print(f"training: {name}", file=sys.stderr, flush=True)
            other = bootstrap(with_residual(recipe, **settings, full_experts=False), name.replace(" ", "-"))
            with other.run:
                variants[f"trained with {name}: snapshots, stack"] = other.denoiser("bootdiff")
        test = in_memory(problem.test or problem.held_out)
        losses = sample_losses(variants, test, b.levels, b.full_training_set().prior, draws=2, seed=7)
    found = tabulate(losses, b.levels)
    for name, row in found.items():
        print(f"{name:60s} {row['mean']:.4f} +- {row['stderr']:.4f}")
    rows = {name: {key: row[key] for key in ("mean", "stderr", "per_level")} for name, row in found.items()}
    result = {"recipe": args.recipe.stem, "seed": args.seed, "variants": rows}
    write_result(args.out, "regularization", given, result)


if __name__ == "__main__":
    main()
