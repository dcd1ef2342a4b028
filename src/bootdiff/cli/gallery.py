"""`bootdiff gallery`: what a run's arms draw, to be looked at and to be told from real samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.cli.options import Arms, Device, RunFolder
from bootdiff.errors import BootdiffError

__all__ = ["gallery"]


def gallery(
    run: RunFolder,
    arm: Arms = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Samples of each arm.")] = 24,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide what is what until you have judged single samples: real or drawn?")
    ] = False,
    each: Annotated[int, typer.Option(min=1, help="How many of each kind the test shows.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test's order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: RUN/gallery.html.")] = None,
    device: Device = None,
) -> None:
    """Show what each arm draws beside real samples, and test whether you can tell them.

    Writes one self-contained page: a sheet of each arm's samples with the command that draws them, and a test: single
    samples in random order, keys to judge them, and the share of each kind that you took for real.

    bootdiff gallery runs/demo
    bootdiff gallery runs/demo --blind --out test.html
    """
    from bootdiff.cli.compare import draw, open_assessment
    from bootdiff.cli.console import Console
    from bootdiff.cli.report.gallery import REAL, Sheet, build
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.data import kind_of
    from bootdiff.method.problem import in_memory
    from bootdiff.training.files import atomic_write_text

    screen = Console()
    a = open_assessment(run, arm or (), count, None, screen, device)
    if kind_of(a.problem.shape) not in ("image", "video"):
        raise BootdiffError(
            f"{run}: its samples are {kind_of(a.problem.shape)}s, which a gallery cannot show; see `bootdiff sample`"
        )
    real = in_memory(a.reference).x[:count]
    unseen = "test samples" if a.problem.test is not None else "held-out samples"
    sheets = {REAL: Sheet(real, f"{len(real)} {unseen}, which no arm was trained on.")}
    for name in a.denoisers:
        drawn = draw(a, name, count)
        command = f"bootdiff sample {run} --arm {name.replace('_', '-')} -n {count}"
        sheets[name.replace("_", "-")] = Sheet(drawn, f"{len(drawn)} samples, not chosen. More of them:", command)
    lead = "Samples of each arm beside real ones, enlarged, in the order in which they were drawn."
    page = build(
        a.recipe.name or run.resolve().name, lead, sheets, each=each, seed=seed, blind=blind,
        made=f"Made by: bootdiff gallery {run} -n {count}" + (" --blind" if blind else "") + f" --seed {seed}",
        rate=DataInfo.of_run(run).rate,
    )  # fmt: skip
    out = out or run / "gallery.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out, page)
    screen.print(f"Open {out}", "bold")
