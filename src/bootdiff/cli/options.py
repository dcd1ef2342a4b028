"""Arguments and options that several verbs share, and where a run goes by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Arms",
    "Guidance",
    "GuidanceInterval",
    "OneArm",
    "RecipeFile",
    "Reuse",
    "RunFolder",
    "SampleCount",
    "Steps",
    "TensorBoard",
    "run_folder",
]

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
OneArm = Annotated[str | None, typer.Option(help="Which arm's model. Default: bootdiff, or the only one.")]
Arms = Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated.")]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(help="An earlier run: copy what it trained on the same data with the same settings; may be repeated."),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also log to TensorBoard, in the run's folder.")]
Guidance = Annotated[
    float, typer.Option(min=0, help="Weight of classifier-free guidance toward the class; 1: none, 2: sharper.")
]
GuidanceInterval = Annotated[
    tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Guide only at these noise levels.")
]
SampleCount = Annotated[
    int | None, typer.Option(min=0, help="Samples to draw for FID and KID; 0: none. Default: the recipe's.")
]
Steps = Annotated[int | None, typer.Option(min=2, help="Number of noise levels. Default: the recipe's.")]


def run_folder(recipe: Path) -> Path:
    """runs/NAME of a recipe NAME.yaml."""
    return Path("runs") / recipe.stem
