"""`bootdiff fit`: training, in one process or, under torchrun or `accelerate launch`, in several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.cli.options import Device, RecipeFile, Reuse, Set, TensorBoard, arm_name, open_recipe, run_folder

__all__ = ["fit"]


def fit(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME of the recipe.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            parser=arm_name,
            metavar="ARM",
            help="bootdiff, distilled, full_only, views_only, unregularized or oracle; may be repeated.",
        ),
    ] = None,
    reuse: Reuse = None,
    tensorboard: TensorBoard = False,
    changes: Set = None,
    device: Device = None,
) -> None:
    """Train a model.

    The run's folder gets the weights, metrics.jsonl, ledger.json (what it cost), losses.png and report.html, a page
    that tells meanwhile how it stands, with samples. After an interruption
    the same command continues, to the same weights. With several GPUs, or several processes on the CPU, start it
    through torchrun or accelerate.

    bootdiff fit mine.yaml
    bootdiff fit mine.yaml --arm distilled
    bootdiff fit mine.yaml --arm full-only --out runs/mine
    bootdiff fit mine.yaml --set training.steps=200 --set full.holdout=0.3 --out runs/try

    torchrun --standalone --nproc_per_node 2 -m bootdiff fit mine.yaml
    accelerate launch -m bootdiff fit mine.yaml
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import curves
    from bootdiff.cli.session import arms_of, open_session

    loaded, folder = open_recipe(recipe, changes, device), out or run_folder(recipe)
    screen = Console()
    with open_session(loaded, folder, screen, reuse=reuse or (), tensorboard=tensorboard) as session:
        arms = arms_of(session.problem, arm or ["bootdiff"])
        session.expect(arms)
        for name in arms:
            session.train(name)
        if session.main:
            curves.loss_curves(session.run.metrics(), session.run.path / "losses.png")
        screen.print(f"trained: {', '.join(arms)}. Loss curves: {folder / 'losses.png'}")
        screen.print(f"Next: bootdiff sample {folder}    or: bootdiff evaluate {folder}", "bold")
