"""Arguments and options that several verbs share, and where a run goes by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bootdiff.recipe.schema import Recipe

__all__ = [
    "Arms",
    "AtOnce",
    "Device",
    "FeatureNetwork",
    "Guidance",
    "GuidanceInterval",
    "OneArm",
    "RecipeFile",
    "Reuse",
    "RunFolder",
    "SampleCount",
    "Set",
    "Steps",
    "Track",
    "arm_name",
    "open_recipe",
    "run_folder",
]

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]


def arm_name(text: str) -> str:
    """The name of an arm as it was typed: tables print "full only", and options elsewhere are written with dashes."""
    return text.strip().lower().replace("-", "_").replace(" ", "_")


OneArm = Annotated[
    str | None,
    typer.Option(parser=arm_name, metavar="ARM", help="Which arm's model. Default: bootdiff, or the only one."),
]
Arms = Annotated[list[str] | None, typer.Option(parser=arm_name, metavar="ARM", help="Only this arm; may be repeated.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as training.steps=100 or full.path=photos; may be repeated.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(help="Where to compute. Default: as the recipe says.")
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(help="An earlier run: copy what it trained on the same data with the same settings; may be repeated."),
]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also log to tensorboard (in the run), wandb, trackio, mlflow, ..."),
]
AtOnce = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Networks to train at once, where they need not wait for one another: a process each.",
    ),
]
Guidance = Annotated[
    float, typer.Option(min=0, help="Weight of classifier-free guidance toward the class; 1: none, 2: sharper.")
]
GuidanceInterval = Annotated[
    tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Guide only at these noise levels.")
]
SampleCount = Annotated[
    int | None, typer.Option(min=0, help="Samples to draw for FID and KID; 0: none. Default: the recipe's.")
]
FeatureNetwork = Annotated[
    str | None,
    typer.Option(
        help="auto, classifier, autoencoder, or the path of a network. TorchScript (.ts, .pt) is a program: it runs "
        "only where it is named here. Default: the recipe's."
    ),
]
Steps = Annotated[int | None, typer.Option(min=2, help="Number of noise levels. Default: the recipe's.")]


def run_folder(recipe: Path) -> Path:
    """runs/NAME of a recipe NAME.yaml."""
    return Path("runs") / recipe.stem


def open_recipe(path: Path, changes: Sequence[str] | None = None, device: str | None = None) -> Recipe:
    """The recipe of a command, with what `--set` and `--device` change."""
    from bootdiff.recipe.schema import load_recipe

    return load_recipe(path, [*(changes or ()), *([] if device is None else [f"device={device}"])])
