"""`bootdiff evaluate`: the trained arms of a run, measured."""

from __future__ import annotations

from typing import Annotated

import typer

from bootdiff.cli.options import Arms, Device, FeatureNetwork, RunFolder, SampleCount
from bootdiff.errors import BootdiffError

__all__ = ["evaluate"]


def evaluate(
    run: RunFolder,
    arm: Arms = None,
    samples: SampleCount = None,
    features: FeatureNetwork = None,
    swap: Annotated[
        str | None,
        typer.Option(
            metavar="ARM",
            help="Only tell where samples are lost: draw bootdiff's (or --arm's) with this better arm's denoiser at "
            "one range of noise levels at a time. Also the folder of a saved model.",
        ),
    ] = None,
    swap_at: Annotated[
        str | None,
        typer.Option(metavar="LEVELS", help="The noise levels between the ranges. Default: 0.1,0.4,1,3."),
    ] = None,
    ceilings: Annotated[
        bool,
        typer.Option(
            "--ceilings",
            help="Also measure what each view can bring at most: trains its networks again, on what the full samples "
            "show of it, for no more steps than full_only's.",
        ),
    ] = False,
    device: Device = None,
) -> None:
    """Measure a run's models: denoising loss, FID, KID, copies.

    The loss is measured on images that no arm was trained on. Writes metrics.json, table.md, report.html and images
    into the run.
    FID and KID are comparable only for the same feature network (named beside them) and the same number of samples.

    bootdiff evaluate runs/mine
    bootdiff evaluate runs/mine --samples 5000 --features inception.ts
    bootdiff evaluate runs/mine --swap oracle
    bootdiff evaluate runs/mine --ceilings
    """
    from bootdiff.cli.compare import assess_run, print_results
    from bootdiff.cli.console import Console
    from bootdiff.cli.report.live import LiveReport
    from bootdiff.cli.swap import boundaries, swap_run

    screen = Console()
    if swap is not None:
        if ceilings:
            raise BootdiffError("--swap only tells where samples are lost: leave out --ceilings, or call it by itself")
        swap_run(run, arm or (), swap, boundaries(swap_at), samples, features, screen, device)
        LiveReport(run, screen.print).write()
        return
    if swap_at is not None:
        raise BootdiffError(
            "--swap-at divides the noise levels for --swap: name the arm to swap with, as --swap oracle"
        )
    found = None
    if ceilings:
        from bootdiff.cli.ceilings import measure

        found = measure(run, screen, device)
    assess_run(run, arm or (), samples, features, screen, found, device)
    LiveReport(run, screen.print).write()
    print_results(run, screen)
