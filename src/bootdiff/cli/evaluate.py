"""`bootdiff evaluate`: the trained arms of a run, measured."""

from __future__ import annotations

from typing import Annotated

import typer

from bootdiff.cli.options import Arms, RunFolder, SampleCount

__all__ = ["evaluate"]


def evaluate(
    run: RunFolder,
    arm: Arms = None,
    samples: SampleCount = None,
    features: Annotated[
        str | None,
        typer.Option(help="auto, classifier, autoencoder, or the path of a network. Default: the recipe's."),
    ] = None,
    ceilings: Annotated[
        bool,
        typer.Option(
            "--ceilings",
            help="Also measure what each view can bring at most: trains its networks again, on what the full samples "
            "show of it, for no more steps than full_only's.",
        ),
    ] = False,
) -> None:
    """Measure a run's models: denoising loss, FID, KID, copies.

    The loss is measured on images that no arm was trained on. Writes metrics.json, table.md and images into the run.
    FID and KID are comparable only for the same feature network (named beside them) and the same number of samples.

    bootdiff evaluate runs/mine
    bootdiff evaluate runs/mine --samples 5000 --features inception.ts
    bootdiff evaluate runs/mine --ceilings
    """
    from bootdiff.cli.compare import assess_run, print_results
    from bootdiff.cli.console import Console

    screen = Console()
    found = None
    if ceilings:
        from bootdiff.cli.ceilings import measure

        found = measure(run, screen)
    assess_run(run, arm or (), samples, features, screen, found)
    print_results(run, screen)
