"""`bootdiff plan`: what each view is worth, before anything is trained.

The folder gets plan.json (the forecast with every number, the costs, the recommendations) and plan.png and plan.svg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootdiff.cli.options import Device, RecipeFile, Set, open_recipe, run_folder
from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.data.dataset import Span
    from bootdiff.forecast.forecast import Forecast
    from bootdiff.method.problem import Problem
    from bootdiff.moments.shrinkage import Coordinates
    from bootdiff.moments.view_moments import ViewMoments
    from bootdiff.recipe.build import ViewData
    from bootdiff.recipe.schema import Recipe

__all__ = ["files_read", "forecast_of", "plan"]

_FILES, _VALUES = 20_000, 2**26  # of a view that are read, at most
_FULL = 2_000
_FOLDS = 5


def plan(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/NAME/plan.")] = None,
    costs: Annotated[bool, typer.Option(help="Also time a few steps of each network.")] = True,
    changes: Set = None,
    device: Device = None,
) -> None:
    """Estimate what each view is worth, before training.

    Fits a Gaussian to the full samples, alone and with the views' files, and evaluates it on held-out full samples: at
    which noise levels each view helps, how many full samples it is worth, and at most if its law were known exactly,
    whether to train it, and what it costs.
    Takes a minute or two; trains nothing.

    bootdiff plan mine.yaml
    """
    from dataclasses import asdict

    from bootdiff.cli import plan_report
    from bootdiff.cli.console import Console
    from bootdiff.cli.costs import estimate
    from bootdiff.cli.session import accelerate
    from bootdiff.recipe.build import build_problem, method_settings
    from bootdiff.training.files import write_stamped

    loaded, folder = open_recipe(recipe, changes, device), out or run_folder(recipe) / "plan"
    screen = Console()
    accelerator = accelerate(loaded)
    problem = build_problem(loaded)
    with screen.work("forecast", 100) as done:
        found = forecast_of(loaded, problem, lambda share: done(round(100 * share)))
    settings = method_settings(loaded, problem.shape)
    rows = estimate(settings, problem, accelerator, ["full_only", "bootdiff"], screen) if costs else []
    prices = plan_report.costs_of_views(rows, list(found.views))
    screen.show(*plan_report.tables(found, prices))
    advice = {name: plan_report.advice(view, found) for name, view in found.views.items()}
    for name, text in advice.items():
        screen.print(text, "green" if found.views[name].keep else "yellow")
    counts = files_read(problem)
    for name, (count, of) in counts.items():
        if count < of:
            screen.print(plan_report.read(name, count, of))
    unknown = [name for name in problem.views if name not in found.views]
    for name in unknown:
        screen.print(f"`{name}` comes with a model and without files: it cannot be assessed before it is tried")
    screen.print(plan_report.summary(found), "bold")
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        plan_report.draw(found, folder / f"plan.{kind}")
    report = {
        "recipe": loaded.name, "seed": loaded.seed, "forecast": asdict(found), "words": advice,
        "summary": plan_report.summary(found), "costs": prices, "trainings": [vars(row) for row in rows],
        "without_files": unknown, "files": {name: {"read": n, "of": of} for name, (n, of) in counts.items()},
    }  # fmt: skip
    write_stamped(folder / "plan.json", report)
    screen.print(f"The numbers are in {folder / 'plan.json'}, the figure is {folder / 'plan.png'}")


def forecast_of(recipe: Recipe, problem: Problem, progress: Callable[[float], None] = lambda share: None) -> Forecast:
    """The forecast for a recipe's full samples (also those held out) and its top-level views that have files.

    Raises:
        BootdiffError: no view has files; data from which nothing can be forecast.
    """
    import torch

    from bootdiff.data.dataset import spaced_indices
    from bootdiff.forecast.forecast import forecast

    views = {name: v for name, v in problem.views.items() if v.train is not None}
    if not views:
        raise BootdiffError(
            "plan: the views of the recipe have no files, only models; what a view is worth is estimated from its files"
        )
    samples, spans = [], []
    for source in (problem.full, problem.held_out):
        chosen = spaced_indices(len(source), _FULL)
        samples.append(source.batch(chosen)[0])
        spans += [source.span(i) for i in chosen]
    known = [span for span in spans if span is not None]
    # the time grows with the cube of the size, and with the placements, which are matched one after the other
    placements = sum(len(v.through.placements(problem.shape)) for v in views.values())
    size = next((size for most, size in ((2, 512), (4, 384), (10, 256)) if placements <= most), 192)
    folds = _FOLDS if len(known) < len(spans) else _by_recording(known)
    try:
        return forecast(
            torch.cat(samples), lambda coordinates: _view_moments(coordinates, views), recipe.levels, size=size,
            folds=folds, seed=recipe.seed, progress=progress,
        )  # fmt: skip
    except ValueError as error:
        raise BootdiffError(f"plan: {error}") from None


def files_read(problem: Problem) -> dict[str, tuple[int, int]]:
    """How many files of each view, and of "full" samples, are read for the forecast, and how many there are."""
    full = (problem.full, problem.held_out)
    found = {"full": (sum(min(len(source), _FULL) for source in full), sum(map(len, full)))}
    return found | {
        name: (min(len(v.train), _most(v)), len(v.train)) for name, v in problem.views.items() if v.train is not None
    }


def _most(data: ViewData) -> int:
    """Files of a view that are read, at most."""
    assert data.train is not None
    return min(_FILES, max(2, _VALUES // max(1, data.train[0].x.numel())))


def _view_moments(coordinates: Coordinates, views: dict[str, ViewData]) -> dict[str, ViewMoments]:
    from bootdiff.data.dataset import spaced_indices
    from bootdiff.moments.view_moments import ViewMoments

    out = {}
    for name, data in views.items():
        assert data.train is not None
        x, _, mask = data.train.batch(spaced_indices(len(data.train), _most(data)))
        view = data.through
        x = x.mul_(view.scale)
        out[name] = ViewMoments.of(coordinates, view, x if mask is None else x * mask, mask)
    return out


def _by_recording(spans: Sequence[Span]) -> list[list[int]]:
    """Folds of windows: parts of the recordings, without windows that cross a boundary.

    Raises:
        BootdiffError: too few windows that do not overlap.
    """
    order = sorted(range(len(spans)), key=lambda i: (spans[i].recording, spans[i].start))
    step = -(-len(order) // _FOLDS)
    parts, last = [], None
    for at in range(0, len(order), step):
        part = [
            i for i in order[at : at + step]
            if last is None or spans[i].recording != last.recording or spans[i].start >= last.stop
        ]  # fmt: skip
        if part:
            parts.append(part)
            last = max((spans[i] for i in part), key=lambda s: (s.recording, s.stop))
    if len(parts) < 2:
        raise BootdiffError("plan: the full samples are windows that all overlap; add recordings")
    return parts
