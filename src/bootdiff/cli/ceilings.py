"""`bootdiff evaluate --ceilings`: denoisers of the views, trained on the full samples' own views, and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bootdiff.cli.console import Console
from bootdiff.cli.session import open_session, read_run, saved_arms
from bootdiff.errors import BootdiffError
from bootdiff.evaluation import ceilings
from bootdiff.method.ceilings import learned_from_full, remarks, seen_through
from bootdiff.method.composite import takes_classes
from bootdiff.method.problem import in_memory
from bootdiff.method.validation import SampleSet

__all__ = ["measure"]

_SEED = 11  # of the placements, masks and noise that the ceilings are measured with


def measure(folder: Path, screen: Console, device: str | None = None) -> dict[str, Any]:
    """The ceilings of a run's views; trains what is missing, as stages of the run.

    Returns:
        {"views": {view: `evaluation.ceilings.ceiling`, "files", "full": how many, "remarks"}, "not_measured": {view:
        why}}.

    Raises:
        BootdiffError: no run, or one whose views are not trained yet.
    """
    _, recipe = read_run(folder, device)
    if not {"bootdiff", "views_only", "unregularized"} & set(saved_arms(folder)):
        raise BootdiffError(
            f"{folder}: --ceilings compares with the views' denoisers, and the run has none yet; train it with "
            "`bootdiff fit` first"
        )
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    with open_session(recipe, folder, screen) as session:
        stages, problem = session.bootstrap, session.problem
        reference = problem.test if problem.test is not None else problem.held_out
        networks = {name: recipe_view.networks for name, recipe_view in stages.settings.views.items()}
        screen.expect([f"ceiling-{n}-{net}" for n, v in problem.views.items() if v.is_trained for net in networks[n]])
        for name, v in problem.views.items():
            levels = [s for s in stages.levels if s > v.through.tau * 1.01]
            if not v.is_trained or len(levels) < 2:
                skipped[name] = (
                    "fewer than two noise levels lie above that of its files" if v.is_trained
                    else "its denoiser is not trained on its files alone"
                )  # fmt: skip
                continue
            assert v.train is not None
            full, files = learned_from_full(stages, name), stages.view(name)
            seen = in_memory(seen_through(reference, v.through, _SEED), v.through.scale, v.view, problem.shape)
            if not (takes_classes(full) and takes_classes(files)):
                seen = SampleSet(seen.x, None, seen.mask, seen.position_channels)
            base = stages.view_training_set(name).prior
            one = ceilings.ceiling(full, files, seen.to(stages.device), levels, base, recipe.evaluate.draws, _SEED)
            found[name] = one | {
                "files": len(v.train), "full": len(problem.full), "remarks": remarks(stages, name),
            }  # fmt: skip
        session.write_ledger()
    return {"views": found, "not_measured": skipped}
