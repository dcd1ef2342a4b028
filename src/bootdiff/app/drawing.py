"""`bootdiff sample`: images of a trained model, as a grid, as files or as an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from bootdiff.app import pictures
from bootdiff.app.bars import Screen
from bootdiff.app.session import accelerate, classes_of, load_arm, read_run
from bootdiff.errors import BootdiffError
from bootdiff.recipe_blocks import Sampling
from bootdiff.sample import SOLVERS, sample
from bootdiff.sample import classes_of as count_classes

__all__ = ["draw_from_run", "write_images"]


def draw_from_run(
    folder: Path,
    arm: str | None,
    count: int,
    seed: int,
    steps: int | None,
    scheduler: str | None,
    label: str | None,
    out: Path | None,
    screen: Screen,
) -> Path:
    """Draw `count` images from a run (or a folder with a model.json) and write them; returns where.

    Raises:
        BootdiffError: no trained model there, an unknown arm, scheduler or class.
    """
    sampling, device = Sampling(), None
    if (folder / "recipe.yaml").is_file():
        _, recipe = read_run(folder)
        sampling, device = recipe.sampling, accelerate(recipe).device
    scheduler = scheduler or sampling.scheduler
    if scheduler not in SOLVERS:
        raise BootdiffError(f"--scheduler {scheduler}: no such scheduler; known: {', '.join(SOLVERS)}")
    name, denoiser = load_arm(folder, arm, device or "cpu")
    number = None if label is None else _class(label, classes_of(folder), count_classes(denoiser) or 0)
    with screen.work(f"sampling {name}") as done:
        x = sample(
            denoiser, count, seed=seed, scheduler=scheduler, steps=steps or sampling.steps, label=number,
            sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max, progress=done,
        )  # fmt: skip
    title = f"{name.replace('_', ' ')}, seed {seed}" + (f", {label}" if label is not None else "")
    return write_images(x, out or folder / "samples" / f"{name}-seed{seed}.png", title)


def _class(label: str, names: list[str] | None, count: int) -> int:
    known = names or [str(i) for i in range(count)]
    if not count:
        raise BootdiffError(f"--label {label}: this model was trained without classes (labels: true in the recipe)")
    if label in known:
        return known.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    raise BootdiffError(f"--label {label}: no such class; known: {', '.join(known)}")


def write_images(x: Tensor, out: Path, title: str = "") -> Path:
    """Images (n, C, H, W) in [-1, 1] to `out`: a grid (.png), an array (.npy: n, H, W, C, uint8), or a folder of PNG.

    Raises:
        BootdiffError: a file of another kind is asked for, or the place cannot be written.
    """
    try:
        if out.suffix.lower() == ".png":
            sheet = pictures.grid([pictures.to_pil(s) for s in x])
            return pictures.save_png(pictures.panels({title: sheet}), out)
        if out.suffix.lower() == ".npy":
            out.parent.mkdir(parents=True, exist_ok=True)
            pixels = ((x.clamp(-1, 1).cpu() + 1) * 127.5).round().byte()
            np.save(out, pixels.movedim(1, -1).numpy())
            return out
        if out.suffix and not out.is_dir():
            raise BootdiffError(
                f"--out {out}: images are written as a grid (.png), an array (.npy) or into a folder (no suffix)"
            )
        out.mkdir(parents=True, exist_ok=True)
        digits = max(5, len(str(len(x) - 1)))
        for i, s in enumerate(x):
            pictures.save_png(pictures.to_pil(s), out / f"{i:0{digits}d}.png")
        return out
    except OSError as error:
        raise BootdiffError(f"--out {out}: cannot be written ({error.strerror}); choose another place") from None
