"""A trained model as a view's denoiser: from a diffusers folder, a run, one of its arms, or a saved pipeline.

Such a model works on files as they are stored, x0' in [-1, 1]; the view's denoiser on A x0 = scale x0'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bootdiff.denoise import Denoiser, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.pretrained import DiffusersDenoiser, is_diffusers
from bootdiff.recipe.trust import imported_classes
from bootdiff.sampling import classes_of
from bootdiff.serialization import load

__all__ = ["as_view", "open_pretrained"]


def open_pretrained(folder: str | Path) -> Denoiser:
    """The denoiser in a folder that diffusers, `save`, a bootdiff pipeline or a run wrote (its arm `bootdiff`,
    or the only one).

    Raises:
        BootdiffError: no such folder, no model in it, or one that cannot be a denoiser.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BootdiffError(f"{folder}: no such folder; give a trained model's (paths start at the recipe's folder)")
    if (folder / "model.json").is_file():
        return load(folder, classes=imported_classes())
    if (folder / "denoiser" / "model.json").is_file():
        return load(folder / "denoiser", classes=imported_classes())
    if (folder / "run.json").is_file():
        arms = sorted(path.parent.name for path in folder.glob("*/model.json"))
        chosen = "bootdiff" if "bootdiff" in arms else arms[0] if len(arms) == 1 else None
        if chosen is None:
            what = "has no arm yet; finish its training first"
            if arms:
                what = f"has the arms {', '.join(arms)}; give one of them, {folder / arms[0]} say"
            raise BootdiffError(f"{folder}: this run {what}")
        return load(folder / chosen, classes=imported_classes())
    if is_diffusers(folder):
        return DiffusersDenoiser.from_folder(folder)
    raise BootdiffError(
        f"{folder}: no trained model in it; give a folder with config.json and safetensors (diffusers), one with "
        f"model.json (bootdiff), or a run"
    )


def as_view(
    denoiser: Denoiser, shape: Sequence[int], scale: float, classes: Sequence[str] | None, where: str, path: str | Path
) -> Denoiser:
    """A model of stored files as the denoiser of a view.

    Args:
        denoiser: of files in [-1, 1].
        shape: of the view's samples.
        scale: view coordinates per stored coordinate.
        classes: the run's classes, or None.
        where, path: the recipe's key and the model's folder, for messages.

    Raises:
        BootdiffError: sizes, channels or classes that do not fit.
    """
    if tuple(denoiser.shape) != tuple(shape):
        raise BootdiffError(
            f"{where}: the model in {path} is of samples of {_by(denoiser.shape)} (channels first), this view's are "
            f"{_by(shape)}; give another model, or correct the view's settings"
        )
    there = "no classes" if classes is None else f"{len(classes)} classes"
    count = 0 if classes is None else len(classes)
    known = classes_of(denoiser)
    for part in (m for m in denoiser.modules() if isinstance(m, DiffusersDenoiser)):
        if part.labels is None:
            continue
        if not count or count not in (part.labels, part.labels - 1):
            raise BootdiffError(
                f"{where}: the model in {path} knows {part.labels} class numbers, the data of this run have {there}; "
                f"label the data alike (data.labels), or give a model without classes"
            )
        part.with_classes(count)
        known = count
    if known and count and known != count:
        raise BootdiffError(
            f"{where}: the model in {path} knows {known} classes, the data of this run have {there}; label the data "
            f"alike, or give a model without classes"
        )
    denoiser = denoiser if scale == 1 else ScaledDenoiser(denoiser, scale)
    return denoiser.requires_grad_(False).eval()


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
