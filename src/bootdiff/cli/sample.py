"""`bootdiff sample`: samples of a trained model, as images or as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootdiff.cli.options import Device, Guidance, GuidanceInterval, OneArm, RunFolder, Steps
from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.cli.console import Console

__all__ = ["check_guidance", "class_number", "draw_from_run", "sample"]


def sample(
    run: RunFolder,
    arm: OneArm = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of samples.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Sample i depends on seed and i alone, up to rounding.")] = 0,
    steps: Steps = None,
    scheduler: Annotated[str | None, typer.Option(help="dpm, heun or euler. Default: the recipe's.")] = None,
    label: Annotated[str | None, typer.Option(help="Class, by name or number, if classes were trained.")] = None,
    guidance: Guidance = 1.0,
    guidance_interval: GuidanceInterval = None,
    noise_shift: Annotated[
        float | None,
        typer.Option(help="Share by which the noise is understated, for more detail. Default: the model's own."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .png gets a grid, a .npy the array, a folder one file each. Default: in RUN/samples."),
    ] = None,
    device: Device = None,
) -> None:
    """Draw samples from a trained model.

    bootdiff sample runs/mine
    bootdiff sample runs/mine -n 100 --seed 7 --out new-images/
    bootdiff sample runs/mine --label 3 --guidance 2 --scheduler heun --out threes.png
    """
    from bootdiff.cli.console import Console

    screen = Console()
    where = draw_from_run(
        run, arm, count, seed, steps, scheduler, label, out, screen, guidance, guidance_interval, device, noise_shift
    )
    screen.print(f"{count} sample(s): {where}", "bold")


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
    device: str | None = None,
    noise_shift: float | None = None,
) -> Path:
    """Draw `count` samples from a run (or a folder with a model.json) and write them; returns where.

    Raises:
        BootdiffError: no trained model there, an unknown arm, scheduler or class, guidance without a class.
    """
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.cli.report.writers import check_out, default_suffix, write_samples
    from bootdiff.cli.session import classes_of, device_of, load_arm, read_run
    from bootdiff.recipe.blocks import Sampling
    from bootdiff.sampling import SOLVERS
    from bootdiff.sampling import classes_of as count_classes
    from bootdiff.sampling import sample as draw
    from bootdiff.training.device import chosen_device

    sampling, where = Sampling(), chosen_device(device or "cpu")
    if (folder / "recipe.yaml").is_file():
        _, recipe = read_run(folder, device)
        sampling, where = recipe.sampling, device_of(recipe)
    scheduler = scheduler or sampling.scheduler
    if scheduler not in SOLVERS:
        raise BootdiffError(f"--scheduler {scheduler}: no such scheduler; known: {', '.join(SOLVERS)}")
    name, denoiser = load_arm(folder, arm, where)
    number = None if label is None else class_number(label, classes_of(folder), count_classes(denoiser) or 0)
    check_guidance(guidance, guidance_interval, number)
    if noise_shift is not None and not -1 < noise_shift < 1:
        raise BootdiffError(f"--noise-shift {noise_shift:g}: give a number above -1 and below 1, such as 0.03; 0: none")
    out = out or folder / "samples" / f"{name}-seed{seed}{default_suffix(denoiser.shape)}"
    check_out(out, denoiser.shape)  # before the work, not after it
    with screen.work(f"sampling {name}") as done:
        x = draw(
            denoiser, count, seed=seed, scheduler=scheduler, steps=steps or sampling.steps, label=number,
            sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max, progress=done, guidance=guidance,
            guidance_interval=guidance_interval,
            noise_shift=sampling.noise_shift if noise_shift is None else noise_shift,
        )  # fmt: skip
    title = f"{name.replace('_', ' ')}, seed {seed}" + (f", {label}" if label is not None else "")
    title += f", guidance {guidance:g}" if guidance != 1 else ""
    return write_samples(x, out, title, DataInfo.of_run(folder))


def check_guidance(weight: float, interval: Sequence[float] | None, label: int | None) -> None:
    """Raises BootdiffError where --guidance or --guidance-interval makes no sense."""
    if weight != 1 and label is None:
        raise BootdiffError(
            f"--guidance {weight:g}: guidance is toward a class; name it by --label, or leave guidance out"
        )
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise BootdiffError(
            f"--guidance-interval {interval[0]:g} {interval[1]:g}: give lowest and highest noise level, such as 0.2 5"
        )
    if interval is not None and weight == 1:
        raise BootdiffError("--guidance-interval: there is no guidance to limit; also give --guidance, such as 2")


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
