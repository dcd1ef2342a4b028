"""`bootdiff stages`: the networks that a recipe's training consists of, for those who share them out among machines.

`bootdiff fit RECIPE --stage NAME` trains one of them in a run of its own, OUT.jobs/NAME, beside the run OUT; what it is
made of is taken from the other jobs. `bootdiff fit RECIPE` takes all that is there, and trains the rest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootdiff.cli.options import Arms, Device, RecipeFile, Set, open_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootdiff.method.plan import Stage
    from bootdiff.method.problem import Problem
    from bootdiff.method.settings import MethodSettings

__all__ = ["known_stages", "stages"]

_COSTS = ("steps", "batch", "parameters", "flops", "memory", "seconds")


def stages(
    recipe: RecipeFile,
    arm: Arms = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    changes: Set = None,
    device: Device = None,
) -> None:
    """List the networks to be trained: what each is made of, its FLOPs, memory and time.

    Each can be trained by itself, on any machine that sees the run's folder, once those that it is made of are there.

    bootdiff stages mine.yaml
    bootdiff stages mine.yaml --json
    bootdiff fit mine.yaml --stage full-unet
    """
    from bootdiff.cli.console import Console, clock, number
    from bootdiff.cli.costs import estimate, in_bytes
    from bootdiff.cli.report.tables import plain_table
    from bootdiff.cli.session import accelerate, arms_of
    from bootdiff.method.plan import parents_of, plan
    from bootdiff.recipe.build import build_problem, method_settings

    loaded = open_recipe(recipe, changes, device)
    screen = Console(quiet=as_json)
    accelerator = accelerate(loaded)
    problem = build_problem(loaded)
    settings = method_settings(loaded, problem.shape)
    names = arms_of(problem, arm or ["bootdiff"])
    costs = {row.name: row for row in estimate(settings, problem, accelerator, names, screen)}
    found = {stage.name: stage for stage in plan(settings, problem, names).trainings}
    rows: list[dict[str, Any]] = [
        {
            "stage": name, "made_of": [parent.name for parent in parents_of(settings, problem, stage)],
            **{key: getattr(costs[name], key) for key in _COSTS},
        }
        for name, stage in found.items()
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = plain_table("Networks to be trained", "stage", "made of", "steps", "FLOPs", "memory", "expected time")
    for row in rows:
        table.add_row(
            row["stage"], _short(row["made_of"], rows), f"{row['steps']:,}", number(row["flops"]),
            in_bytes(row["memory"]), clock(row["seconds"]),
        )  # fmt: skip
    screen.show(table)
    screen.print(f"Each by itself: bootdiff fit {recipe} --stage NAME; in the end: bootdiff fit {recipe}", "bold")


def known_stages(settings: MethodSettings, problem: Problem) -> dict[str, Stage]:
    """Every network that some arm needs, by its name."""
    from bootdiff.cli.session import arms_of
    from bootdiff.method.plan import plan

    arms = [*arms_of(problem), "distilled"]
    return {stage.name: stage for stage in plan(settings, problem, arms).trainings}


def _short(made_of: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Names of stages; how many of the table's first ones, where they are just these."""
    before = [row["stage"] for row in rows]
    if len(made_of) > 4 and set(made_of) == set(before[: len(made_of)]):
        return f"the first {len(made_of)}"
    return ", ".join(made_of) or "-"
