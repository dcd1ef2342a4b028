"""`bootdiff bench`: the runs of a benchmark, one after the other, each resumable; and the tables of their results.

A run whose result is there is skipped.  With a budget in minutes, a training that is under way when they are spent
writes a checkpoint and the command ends; the next call goes on from there.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.cli.console import Console
    from bootdiff.training.state import Progress
    from experiments.benchmark.benchmarks import Benchmark
    from experiments.benchmark.runs import BenchmarkRun

__all__ = ["bench", "planned_runs", "run_all", "run_one"]


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="mnist16, cats16, mnist, mnist-long, cats32, medical64, cats64 or gpu-short.",
            show_default=False,
        ),
    ],
    arms: Annotated[str, typer.Option(help="Only these arms, separated by spaces.")] = "",
    views: Annotated[str, typer.Option(help="Only these kinds of views, separated by spaces.")] = "",
    n_full: Annotated[str, typer.Option(help="Per cent of the pool in full, separated by spaces.")] = "2",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by spaces.")] = "0",
    budget: Annotated[
        float | None, typer.Option(min=0, help="Stop after this many minutes; the next call goes on.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the results are written.")] = Path("experiments/results"),
    runs: Annotated[Path, typer.Option(help="Where the networks are trained.")] = Path("runs/bench"),
    data: Annotated[Path, typer.Option(help="Where the arrays of experiments.scripts.prepare are.")] = Path(
        "experiments/data"
    ),
    docs: Annotated[Path, typer.Option(help="With --table: the folder of benchmarks.md.")] = Path("docs"),
    samples: Annotated[int, typer.Option(min=0, help="Also draw this many samples of each: FID, KID and more.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the FLOPs and images to use: for rehearsals.")
    ] = 1.0,
    tune: Annotated[
        bool, typer.Option("--tune", help="Run every setting of each arm, and choose by held-out loss.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Train nothing: write the tables and plots of the results.")
    ] = False,
) -> None:
    """Is it better than everything else one would do? Every method at the same cost.

    One result per method, kind of views, number of full images and seed. What is there is not made again; when
    interrupted, the same command goes on.

    bootdiff bench mnist16 --views "thumbnails2 three" --n-full 2 --seeds "0 1 2"
    bootdiff bench mnist16 --budget 9
    bootdiff bench mnist16 --table
    """
    from bootdiff.cli.console import Console
    from experiments.benchmark.benchmarks import benchmark

    screen, which = Console(), benchmark(name)
    which = replace(which.scaled(scale), folder=data)
    if table:
        from experiments.benchmark.page import write_page

        for path in write_page(which, out, docs):
            screen.print(f"written: {path}")
        return
    todo = planned_runs(
        which, arms.split(), views.split(), numbers("--n-full", n_full), numbers("--seeds", seeds), tune
    )
    run_all(todo, out, runs, screen, budget, samples)
    if tune:
        from experiments.benchmark.runs import tune as choose

        for arm, kinds in choose(which, out).items():
            for kind, n, found in ((kind, n, found) for kind, by_n in kinds.items() for n, found in by_n.items()):
                losses = ", ".join(f"{x:.4f}" for x in found["losses"])
                screen.print(f"{arm}, {kind}, {n} %: setting {found['trial']} of {losses}")


def numbers(option: str, text: str) -> list[float]:
    """Numbers separated by spaces."""
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        raise BootdiffError(f'{option} "{text}": give numbers separated by spaces, as "0 1 2"') from None


def planned_runs(
    which: Benchmark,
    arms: Sequence[str],
    views: Sequence[str],
    n_full: Sequence[float],
    seeds: Sequence[float],
    tune: bool = False,
) -> list[BenchmarkRun]:
    """What is to be run: seed by seed, each kind of views with all arms; arms that see no views once.

    `tune`: with each of the settings an arm may try.

    Raises:
        BootdiffError: an arm or a kind of views that does not exist.
    """
    from experiments.benchmark.baselines import TRIALS
    from experiments.benchmark.runs import ARMS, BenchmarkRun

    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise BootdiffError(f"--arms {unknown[0]}: no such arm; known: {', '.join(ARMS)}")
    unknown = [v for v in views if v not in which.views]
    if unknown:
        raise BootdiffError(f"--views {unknown[0]}: no such kind; known: {', '.join(which.views)}")
    every = [
        BenchmarkRun(which, arm, kind, n, int(seed), trial)
        for seed in seeds
        for n in n_full
        for kind in views or which.views
        for arm in arms or ARMS
        for trial in (range(TRIALS) if tune else [None])
    ]
    return list({planned.label: planned for planned in every}.values())


def run_all(
    todo: Sequence[BenchmarkRun], out: Path, runs: Path, screen: Console, minutes: float | None = None, samples: int = 0
) -> int:
    """Run what is missing within the minutes; returns how many runs have results or cannot have any."""
    from bootdiff.training.state import Interrupted
    from experiments.benchmark.runs import is_done

    end = None if minutes is None else time.monotonic() + 60 * minutes
    done = 0
    for planned in todo:
        if is_done(planned, out, samples):
            done += 1
            continue
        if _past(end):
            break
        try:
            screen.print(f"[{done + 1}/{len(todo)}] {planned.label}", "bold")
            run_one(planned, out, runs, screen, samples, end)
        except Interrupted:
            if not _past(end):
                raise
            break
        done += 1
    left = len(todo) - done
    screen.print(
        f"{done} of {len(todo)} runs are done" + (f"; run the same command again for the other {left}" if left else "")
    )
    return done


def run_one(
    planned: BenchmarkRun, out: Path, runs: Path, screen: Console, samples: int = 0, end: float | None = None
) -> None:
    """Make one run, measure its denoiser and write its result; a method that cannot use these views has none.

    Raises Interrupted where a training was stopped: by the user, or at the time `end` (of time.monotonic).
    """
    from bootdiff.cli.session import accelerate, open_session
    from bootdiff.method.stages import Bootstrap
    from bootdiff.recipe.build import build_problem, method_settings
    from experiments.benchmark.baselines import METHODS
    from experiments.benchmark.runs import OWN, bootdiff_steps, measured, train

    trial = planned.chosen(out)
    settings = planned.trials[trial]
    recipe = planned.recipe(settings)
    if planned.arm in METHODS and planned.sees_views and not METHODS[planned.arm].suits(build_problem(recipe).views):
        screen.print(f"{planned.arm} has no use for these views")
        return
    if planned.arm in OWN:
        problem = build_problem(recipe)
        method = method_settings(recipe, problem.shape)
        counting = Bootstrap(method, problem, None, accelerate(recipe))  # type: ignore[arg-type]
        recipe = planned.recipe(settings, bootdiff_steps(counting, planned.benchmark.flops, settings))
    start = time.monotonic()
    with open_session(recipe, runs / planned.run(trial), screen) as session:
        session.bootstrap.progress = _until(end, screen)
        denoiser = train(session.bootstrap, planned, settings)
        session.write_ledger()
        if session.main:
            found = measured(session.bootstrap, planned, denoiser, trial, out, samples)
            loss, spent = found["holdout_loss"], found["ledger"]["flops"]
            screen.print(
                f"{planned.label}: loss {loss['mean']:.4f} ± {loss['stderr']:.4f}, {spent / 1e12:.2f} TFLOP of "
                f"{planned.benchmark.flops / 1e12:.2f}, {time.monotonic() - start:.0f} s", "green",
            )  # fmt: skip


def _past(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _until(end: float | None, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Hands a training's progress on, and asks the training to stop once the time has come, as Ctrl-C asks it."""
    asked: set[str] = set()

    def progress(p: Progress) -> None:
        report(p)
        if _past(end) and p.stage not in asked:
            asked.add(p.stage)  # asked twice, it stops without a checkpoint
            signal.raise_signal(signal.SIGINT)

    return progress
