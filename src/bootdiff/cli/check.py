"""`bootdiff check`: a recipe and its data, validated and priced before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.cli.options import Device, RecipeFile, Set, open_recipe, run_folder

__all__ = ["check"]


def check(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/NAME/check.")] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--for", help="Also estimate the time on one such GPU: h100, a100, l4, rtx4090, t4, ..."),
    ] = None,
    changes: Set = None,
    device: Device = None,
) -> None:
    """Validate a recipe and its data, and estimate the training time.

    Reads everything, trains nothing. Writes views.png: full images, each view of them, and the view's own files; the
    last two should look alike. Then prints networks, parameters, FLOPs and memory, counted, and times, from a short
    trial of each.

    bootdiff check mine.yaml
    """
    from bootdiff.cli import costs
    from bootdiff.cli.between import between
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import images
    from bootdiff.cli.report.record import report_notes, report_unusable
    from bootdiff.cli.session import accelerate, arms_of
    from bootdiff.errors import BootdiffError
    from bootdiff.method.plan import plan
    from bootdiff.recipe.build import build_problem, method_settings
    from bootdiff.training.files import atomic_write_json

    if gpu is not None and gpu not in costs.GPUS:
        raise BootdiffError(f"--for {gpu}: no such GPU is known; known: {', '.join(costs.GPUS)}")
    loaded, folder = open_recipe(recipe, changes, device), out or run_folder(recipe) / "check"
    screen = Console()
    accelerator = accelerate(loaded)
    problem = build_problem(loaded)
    settings = method_settings(loaded, problem.shape)
    folder.mkdir(parents=True, exist_ok=True)
    report_unusable(folder, problem, screen.warn)
    notes = report_notes(problem, screen.warn)
    data = costs.describe(problem)
    screen.show(costs.data_table(data))
    warnings = costs.warnings_of(problem, data)
    for warning in warnings:
        screen.print(f"warning: {warning}", "yellow")
    images.save_png(images.view_rows(problem), folder / "views.png")
    names = arms_of(problem)
    rows = costs.estimate(settings, problem, accelerator, names, screen)
    free = costs.free_memory(accelerator.device)
    others = between(settings, problem, {row.name: row.seconds_per_answer for row in rows}, names)
    screen.show(*costs.cost_table(rows, others, plan(settings, problem, ["bootdiff", *names]), names, free, gpu))
    report = {
        "data": data, "warnings": warnings, "notes": notes, "plan": [vars(row) for row in rows],
        "between": [{"name": row.name, "seconds": row.seconds} for row in others],
    }  # fmt: skip
    atomic_write_json(folder / "check.json", report)
    screen.print(f"{recipe} is valid. Look at {folder / 'views.png'}, then: bootdiff fit {recipe}", "bold")
