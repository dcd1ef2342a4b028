"""`bootdiff fit`: training, in one process or, under torchrun or `accelerate launch`, in several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootdiff.cli.options import AtOnce, Device, RecipeFile, Reuse, Set, Track, arm_name, open_recipe, run_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootdiff.cli.console import Console
    from bootdiff.recipe.schema import Recipe

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
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this network, as a job of its own in OUT.jobs (`bootdiff stages`); may be repeated."),
    ] = None,
    jobs: AtOnce = 1,
    reuse: Reuse = None,
    track: Track = None,
    changes: Set = None,
    device: Device = None,
) -> None:
    """Train a model.

    The run's folder gets the weights, metrics.jsonl, ledger.json (what it cost), losses.png and report.html, a page
    that tells meanwhile how it stands, with samples. After an interruption
    the same command continues, to the same weights where machine, versions, threads and processes are the same; it
    says where they are not. With several GPUs, or several processes on the CPU, start it through torchrun or
    accelerate.

    bootdiff fit mine.yaml
    bootdiff fit mine.yaml --arm distilled
    bootdiff fit mine.yaml --arm full-only --out runs/mine
    bootdiff fit mine.yaml --set training.steps=200 --set full.holdout=0.3 --out runs/try

    bootdiff fit mine.yaml --jobs 4
    bootdiff fit mine.yaml --stage view-thumbnails-unet

    torchrun --standalone --nproc_per_node 2 -m bootdiff fit mine.yaml
    accelerate launch -m bootdiff fit mine.yaml
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.jobs import check_jobs, train_at_once
    from bootdiff.cli.report.record import LOSSES
    from bootdiff.cli.session import arms_of, open_session
    from bootdiff.errors import BootdiffError
    from bootdiff.training.run import jobs_of

    loaded, folder = open_recipe(recipe, changes, device), out or run_folder(recipe)
    screen = Console()
    if stage:
        if arm:
            raise BootdiffError("--stage trains single networks, --arm what arms need: give one of the two")
        if jobs > 1:
            raise BootdiffError("--stage is one job, --jobs starts several: give one of the two")
        _fit_stages(loaded, folder, list(dict.fromkeys(stage)), reuse or (), screen)
        screen.print(f"trained: {', '.join(stage)}. When all are there: bootdiff fit {recipe} --out {folder}", "bold")
        return
    check_jobs(jobs, track or ())
    # What jobs have trained is taken from them.
    others = [*(reuse or ()), *jobs_of(folder)[1]]
    with open_session(loaded, folder, screen, reuse=others, track=track or ()) as session:
        arms = arms_of(session.problem, arm or ["bootdiff"])
        session.expect(arms)
        train_at_once(session, arms, jobs, reuse or ())
        for name in arms:
            session.train(name)
        session.record.draw_losses()
        screen.print(f"trained: {', '.join(arms)}. Loss curves: {folder / LOSSES}")
        screen.print(f"Next: bootdiff sample {folder}    or: bootdiff evaluate {folder}", "bold")


def _fit_stages(recipe: Recipe, run: Path, names: Sequence[str], reuse: Sequence[Path], screen: Console) -> None:
    """Train single networks, each in a run of its own beside `run`, of what lies in the others.

    Raises:
        BootdiffError: no such network; what one is made of is not there.
    """
    from bootdiff.cli.session import open_session
    from bootdiff.cli.stages import known_stages
    from bootdiff.errors import BootdiffError
    from bootdiff.training.run import jobs_of

    for name in names:
        folder, there = jobs_of(run)
        others = [*reuse, *there, *([run] if (run / "run.json").is_file() else [])]
        with open_session(recipe, folder / name, screen, reuse=others, only=[name]) as session:
            known = known_stages(session.bootstrap.settings, session.problem)
            if name not in known:
                raise BootdiffError(f"--stage {name}: no network is called so; known: {', '.join(known)}")
            session.expect_stages([known[name]])
            session.bootstrap.make(known[name])
            session.write_ledger()
