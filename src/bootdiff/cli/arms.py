"""`bootdiff arms`: every arm of a recipe, trained and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.cli.options import (
    Arms,
    AtOnce,
    Device,
    FeatureNetwork,
    RecipeFile,
    Reuse,
    SampleCount,
    Set,
    Track,
    open_recipe,
    run_folder,
)

__all__ = ["arms"]


def arms(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/NAME of the recipe.")] = None,
    arm: Arms = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="May be repeated: one run per seed in OUT/seed-S, and one table of all."),
    ] = None,
    jobs: AtOnce = 1,
    reuse: Reuse = None,
    samples: SampleCount = None,
    features: FeatureNetwork = None,
    track: Track = None,
    changes: Set = None,
    device: Device = None,
) -> None:
    """Train all arms of a recipe and compare them in one table.

    full_only: the full images alone. views_only: the partial ones and their gains. unregularized: with a residual
    that nothing regularizes. bootdiff: the whole method. oracle: everything in full, where the recipe has it. Only on
    request, distilled: bootdiff as a single set of networks, as many as full_only has.

    bootdiff arms mine.yaml
    bootdiff arms mine.yaml --seed 0 --seed 1 --seed 2 --samples 0
    """
    from bootdiff.cli.compare import compare, compare_seeds, print_results
    from bootdiff.cli.console import Console
    from bootdiff.cli.jobs import check_jobs
    from bootdiff.cli.session import open_session

    check_jobs(jobs, track or ())
    loaded, folder = open_recipe(recipe, changes, device), out or run_folder(recipe)
    screen = Console()
    if seed and len(seed) > 1:
        seeds, others = sorted(set(seed)), reuse or ()
        compare_seeds(
            loaded, folder, seeds, screen, arm or (), others, samples, features=features, track=track or (), jobs=jobs
        )
    else:
        loaded = loaded.model_copy(update={"seed": seed[0]}) if seed else loaded
        with open_session(loaded, folder, screen, reuse=reuse or (), track=track or ()) as session:
            compare(session, arm or (), samples, features, jobs=jobs, reuse=reuse or ())
    print_results(folder, screen)
