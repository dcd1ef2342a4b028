"""`bootdiff sample`: samples of a trained model, as pictures or as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bootdiff.cli.console import Console
from bootdiff.cli.report.metadata import DataInfo
from bootdiff.cli.report.writers import check_out, default_suffix, write_samples
from bootdiff.cli.session import accelerate, classes_of, load_arm, read_run
from bootdiff.errors import BootdiffError
from bootdiff.recipe.blocks import Sampling
from bootdiff.sampling import SOLVERS, sample
from bootdiff.sampling import classes_of as count_classes

__all__ = ["check_guidance", "class_number", "draw_from_run"]


def draw_from_run(
    folder: Path,
    arm: str | None,
    count: int,
    seed: int,
    steps: int | None,
    scheduler: str | None,
    label: str | None,
    out: Path | None,
    screen: Console,
    guidance: float = 1.0,
    guidance_interval: Sequence[float] | None = None,
) -> Path:
    """Draw `count` samples from a run (or a folder with a model.json) and write them; returns where.

    Raises:
        BootdiffError: no trained model there, an unknown arm, scheduler or class, guidance without a class.
    """
    sampling, device = Sampling(), None
    if (folder / "recipe.yaml").is_file():
        _, recipe = read_run(folder)
        sampling, device = recipe.sampling, accelerate(recipe).device
    scheduler = scheduler or sampling.scheduler
    if scheduler not in SOLVERS:
        raise BootdiffError(f"--scheduler {scheduler}: no such scheduler; known: {', '.join(SOLVERS)}")
    name, denoiser = load_arm(folder, arm, device or "cpu")
    number = None if label is None else class_number(label, classes_of(folder), count_classes(denoiser) or 0)
    check_guidance(guidance, guidance_interval, number)
    out = out or folder / "samples" / f"{name}-seed{seed}{default_suffix(denoiser.shape)}"
    check_out(out, denoiser.shape)  # before the work, not after it
    with screen.work(f"sampling {name}") as done:
        x = sample(
            denoiser, count, seed=seed, scheduler=scheduler, steps=steps or sampling.steps, label=number,
            sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max, progress=done, guidance=guidance,
            guidance_interval=guidance_interval,
        )  # fmt: skip
    title = f"{name.replace('_', ' ')}, seed {seed}" + (f", {label}" if label is not None else "")
    title += f", guidance {guidance:g}" if guidance != 1 else ""
    return write_samples(x, out, title, DataInfo.of_run(folder))


def check_guidance(weight: float, interval: Sequence[float] | None, label: int | None) -> None:
    """Raises BootdiffError where --guidance or --guidance-interval cannot be meant."""
    if weight != 1 and label is None:
        raise BootdiffError(f"--guidance {weight:g}: guidance leads to a class; say which by --label, or leave it out")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise BootdiffError(
            f"--guidance-interval {interval[0]:g} {interval[1]:g}: give lowest and highest noise level, as 0.2 5"
        )
    if interval is not None and weight == 1:
        raise BootdiffError("--guidance-interval: there is no guidance to limit; give --guidance, as 2, too")


def class_number(label: str, names: list[str] | None, count: int) -> int:
    """The number of a class given by name or number. Raises BootdiffError, naming the known ones."""
    known = names or [str(i) for i in range(count)]
    if not count:
        raise BootdiffError(f"--label {label}: this model was trained without classes (labels: true in the recipe)")
    if label in known:
        return known.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    raise BootdiffError(f"--label {label}: no such class; known: {', '.join(known)}")
