"""`bootdiff evaluate RUN --swap ARM`: where samples are lost (`evaluation.swap`), measured on a run.

It adds to the run
    metrics.json    "swap": {arm: `evaluation.swap.summary`}
    table.md        the same as tables, at the end
    samples/swap/   the samples, so that they are not drawn twice
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bootdiff.cli.compare import Assessment, draw, drawn_once, open_assessment, qualities, weights_of
from bootdiff.cli.console import Console
from bootdiff.cli.options import arm_name
from bootdiff.cli.report import tables
from bootdiff.cli.session import load_arm, read_run, saved_arms
from bootdiff.data import kind_of
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.swap import BOUNDARIES, SwappedDenoiser, markdown, name_of, ranges, summary
from bootdiff.method.plan import ARMS
from bootdiff.noise import karras_levels
from bootdiff.sampling import classes_of
from bootdiff.serialization import arm_folder
from bootdiff.training.files import atomic_write_text, write_stamped
from bootdiff.training.run import Run

__all__ = ["boundaries", "swap_run"]

_HEADING = "## Where samples are lost"


def boundaries(text: str | None) -> tuple[float, ...]:
    """The noise levels of --swap-at, such as "0.1,0.4,1,3"; None: the default ones.

    Raises:
        BootdiffError: not numbers, or not positive and ascending.
    """
    if text is None:
        return BOUNDARIES
    try:
        found = tuple(float(word) for word in text.split(","))
        ranges(found)
    except ValueError:
        raise BootdiffError(
            f'--swap-at {text}: give positive, ascending noise levels separated by commas, as "0.1,0.4,1,3"'
        ) from None
    return found


def swap_run(
    folder: Path,
    arms: Sequence[str],
    other: str,
    at: Sequence[float],
    samples: int | None,
    features: str | None,
    screen: Console,
    device: str | None = None,
) -> dict[str, Any]:
    """Draw the arms' samples with the other's denoiser at each range of noise levels, and print what it changes.

    Args:
        folder: a run.
        arms: of the run; none: bootdiff.
        other: an arm of the run, or the folder of a saved model or of another run.
        at: noise levels between the ranges.
        samples, features: as in `bootdiff evaluate`.

    Returns:
        {arm: `evaluation.swap.summary`}, which metrics.json then holds as "swap".

    Raises:
        BootdiffError: no such arm or model, or one of other samples; no test samples, or none to draw.
    """
    arms = list(arms) or ["bootdiff"]
    name, where = _named(folder, other)
    if name in arms:
        raise BootdiffError(f"--swap {other}: give a different, better arm than the one that is measured")
    a = open_assessment(folder, arms, samples, features, screen, device)
    count = a.recipe.evaluate.count(kind_of(a.problem.shape)) if samples is None else samples
    if a.problem.test is None:
        raise BootdiffError(
            f"{folder}: the recipe has no test samples, which FID and KID are measured against; give it the block "
            "`test` (or `simulate: {test: ...}`)"
        )
    if count < 3:
        raise BootdiffError(f"--swap {other} measures drawn samples, at least 3 of them; give --samples, such as 1000")
    better = load_arm(where, None, a.device)[1]
    for arm, denoiser in a.denoisers.items():
        _check_fits(arm, denoiser, other, better)
    # The file where an evaluation keeps this arm's samples, too.
    kept = name if name in ARMS else f"swap/{name}"
    every = drawn_once(a, better, count, kept, weights_of(where))
    found = {arm: _swapped(a, arm, name, better, every, weights_of(where), at) for arm in a.denoisers}
    screen.show(*tables.swaps(found))
    metrics, table = a.folder / "metrics.json", a.folder / "table.md"
    before_it: dict[str, Any] = {}
    if metrics.is_file():
        remedy = "delete it: `bootdiff evaluate` writes it again"
        before_it = Run.read(a.folder).read_json(metrics.name, dict[str, Any], remedy)
    write_stamped(metrics, before_it | {"swap": found})
    before = table.read_text(encoding="utf-8").partition(_HEADING)[0].strip() if table.is_file() else ""
    atomic_write_text(table, f"{before}\n\n{_HEADING}\n\n{markdown(found)}\n".lstrip())
    screen.print(f"Written to {metrics} and {table}", "bold")
    return found


def _named(run: Path, other: str) -> tuple[str, Path]:
    """What the other is called, and where its model.json is.

    Raises:
        BootdiffError: nowhere.
    """
    read_run(run)  # a folder that is no run is told first
    if (arm := arm_name(other)) in saved_arms(run):
        return arm, run / arm
    path = Path(other).resolve()
    if not (path / "model.json").is_file() and saved_arms(path):
        path = arm_folder(path)
    if (path / "model.json").is_file():
        return (f"{path.parent.name}-{path.name}" if path.name in ARMS else path.name), path
    raise BootdiffError(
        f"--swap {other}: neither a trained arm of {run} (there: {', '.join(saved_arms(run)) or 'none'}) nor the "
        f"folder of a saved model; train the arm into the run by `bootdiff fit RECIPE --arm {other} --out {run}`"
    )


def _check_fits(arm: str, one: Denoiser, name: str, other: Denoiser) -> None:
    if tuple(one.shape) != tuple(other.shape):
        raise BootdiffError(
            f"--swap {name}: its samples are {tuple(other.shape)} and those of {arm} {tuple(one.shape)}; give a model "
            "of the same shape"
        )
    if (classes_of(one) or 0) != (classes_of(other) or 0):
        raise BootdiffError(
            f"--swap {name}: it knows {classes_of(other) or 0} classes and {arm} {classes_of(one) or 0}; give a model "
            "of the same classes"
        )


def _swapped(
    a: Assessment, arm: str, name: str, other: Denoiser, every: Tensor, weights: str, at: Sequence[float]
) -> dict[str, Any]:
    """What swapping one arm's denoiser changes; `every`: the other's own samples, (n, C, *space)."""
    own, both = a.denoisers[arm], f"{weights_of(a.folder / arm)} {weights}"
    drawn = {arm: draw(a, arm, len(every)), name: every}
    parts = {f"{name}, {name_of(low, high)}": (low, high) for low, high in ranges(at)}
    for part, (low, high) in parts.items():
        swapped = SwappedDenoiser(own, other, low, high)
        drawn[part] = drawn_once(a, swapped, len(every), f"swap/{arm}-{name}-{low:g}-{high:g}", both)
    quality = qualities(a, drawn)
    how = a.recipe.sampling
    levels = karras_levels(how.steps, how.sigma_min, how.sigma_max).tolist()
    return summary(quality[arm], quality[name], {parts[part]: quality[part] for part in parts}, name, levels)
