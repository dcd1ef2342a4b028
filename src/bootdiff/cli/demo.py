"""`bootdiff demo`: full-only training and bootdiff on letters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bootdiff.recipe.schema import Recipe

__all__ = ["demo", "demo_recipe"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Selects the full images, the weights and the batches.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Networks to train at once. Default: 2 of two cores or more."),
    ] = None,
) -> None:
    """See it work on letters of many fonts.

    A few letters are full images; the rest have a square stamped out or are noisy copies. Trains
    full-only and bootdiff, prints the comparison and writes images and metrics.json. Takes minutes on two cores; after
    an interruption, the same command continues.

    bootdiff demo
    bootdiff demo --seed 1 --out runs/demo-1
    """
    from bootdiff.cli.compare import compare, print_results
    from bootdiff.cli.console import Console
    from bootdiff.cli.jobs import two_if_free
    from bootdiff.cli.session import open_session

    screen = Console()
    recipe = demo_recipe().model_copy(update={"seed": seed})
    with open_session(recipe, out, screen) as session:
        compare(session, ("full_only", "bootdiff"), jobs=jobs or two_if_free())
        if session.main:
            print_results(out, screen)


def demo_recipe() -> Recipe:
    """The demo's recipe, which the package carries."""
    from bootdiff.cli.recipe import embedded_text
    from bootdiff.recipe.schema import load_recipe_text

    return load_recipe_text(embedded_text("letters"), source="letters.yaml", name="letters")
