"""Completing a partial sample on the page: what is given (an example of the run's, or a file), the part of it that is
hidden, the answers, their mean and spread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from bootdiff.cli.report import images, restorations, words
from bootdiff.cli.restore import open_partial, placements_of, view_of
from bootdiff.cli.sample import class_number
from bootdiff.cli.webui import markup
from bootdiff.cli.webui.models import Model, RunInfo
from bootdiff.data import Simulated, Subset, kind_of
from bootdiff.errors import BootdiffError
from bootdiff.method.problem import Problem
from bootdiff.restoration import METHODS, restore
from bootdiff.sampling import at_once
from bootdiff.views import Identity, View

__all__ = [
    "HIDE", "LARGEST", "MOST_ANSWERS", "NAMED", "PAINTED", "Answers", "Given", "answer", "canvas", "check_upload",
    "example", "hidden_in", "of_file", "painted_mask", "placements", "show", "show_given", "view_choices",
]  # fmt: skip

PAINTED = "a part that I hide"
"""The choice beside the views of the recipe."""

NAMED = "rows and columns that I name"
HIDE = ("what I paint", NAMED, "left half", "right half", "upper half", "lower half", "a box in the middle")
"""Parts of a picture that can be hidden."""

MOST_ANSWERS = 12
LARGEST = 24_000_000
"""Pixels of an uploaded picture at most, and bytes that an array holds."""

_BYTES = 64 << 20
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff")
_CANVAS = 384  # pixels of the longer side of a picture to paint on


@dataclass(frozen=True)
class Given:
    """A partial sample, before it is restored. view: of the recipe, by name; None: what is hidden is said later."""

    run: str
    name: str | None
    view: View
    partial: restorations.Partial
    what: str


@dataclass(frozen=True)
class Answers:
    """Several completions (n, *shape) of a sample, and what they were made of."""

    model: Model
    given: Given
    mask: Tensor | None
    x: Tensor
    agreement: dict[str, Any]


def view_choices(run: RunInfo) -> list[str]:
    """What partial samples can be, on this page."""
    return [PAINTED, *run.views]


def _view(run: RunInfo, shape: tuple[int, ...], name: str | None, placement: int) -> View:
    if name is None:
        return Identity()
    if run.recipe is None:
        raise BootdiffError(f"{run.name}: has no recipe, and so no views; hide a part yourself")
    several = placements_of(run.recipe, shape, name) > 1
    return view_of(run.recipe, shape, name, None, None, placement if several else None, None)[0]


def placements(run: RunInfo, choice: str) -> int:
    """How many placements the view of a choice has; 1 where nothing is known of it."""
    if choice == PAINTED or run.recipe is None or run.shape is None or choice not in run.views:
        return 1
    return placements_of(run.recipe, run.shape, choice)


def _name(choice: str) -> str | None:
    return None if choice == PAINTED else choice


# --- what is given ----------------------------------------------------------------------------------------------------


def example(model: Model, problem: Problem, choice: str, number: int, placement: int = 0) -> Given:
    """A sample that was not trained on, or its view.

    Raises:
        BootdiffError: no such sample or view.
    """
    name = _name(choice)
    view = _view(model.run, model.shape, name, placement)
    source, which = (problem.held_out, "held-out") if problem.test is None else (problem.test, "test")
    if not 0 <= number < len(source):
        raise BootdiffError(f"example {number}: there are {len(source)} {which} samples, numbered from 0")
    chosen = Subset(source, [number])
    full = chosen.batch([0])[0]
    cut = chosen if name is None else Simulated(chosen, view, seed=number)
    x, label, mask = cut.batch([0])
    partial = restorations.Partial(x, None if name is None else mask, [chosen.name(0)], full, label)
    return Given(model.run.name, name, view, partial, f"{which} sample {number}")


def check_upload(path: Path) -> None:
    """Raises BootdiffError: too large, or no picture although it is called one."""
    size = path.stat().st_size
    if size > _BYTES:
        raise BootdiffError(f"{path.name}: is of {size / 1e6:,.0f} MB; at most {_BYTES >> 20} MB are read here")
    if size == 0:
        raise BootdiffError(f"{path.name}: is empty")
    if path.suffix.lower() not in _PICTURES:
        return
    try:
        with Image.open(path) as picture:  # its head alone
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width = height = LARGEST
    except Exception as error:  # whatever Pillow raises for what is no picture
        raise BootdiffError(f"{path.name}: is no picture that can be read; give a PNG, JPEG or WebP") from error
    if width * height > LARGEST:
        raise BootdiffError(f"{path.name}: has more than {LARGEST:,} pixels; make it smaller first")


def of_file(model: Model, choice: str, path: Path, fit: bool, placement: int = 0) -> Given:
    """The first sample of a file.

    Args:
        fit: whether a larger picture is cut to the proportions of a sample and shrunk.

    Raises:
        BootdiffError: not readable, or of the wrong size.
    """
    check_upload(path)
    name, full, run = _name(choice), model.shape, model.run
    if run.recipe is None:
        raise BootdiffError(f"{run.name}: has no recipe that says how files are read; take samples by bootdiff.restore")
    view = _view(run, full, name, placement)
    if view.masked and not view.is_fixed:
        raise BootdiffError(f"{name}: hides a different part of each file; choose {PAINTED!r}, and paint it")
    how = "crop" if fit and kind_of(full) == "image" else None
    try:
        opened = open_partial(
            path, run.recipe, name, full, None if name is None else view, run.meaning, None, None, fit=how
        )  # fmt: skip
        if name is None and tuple(opened.shape) != full:
            raise BootdiffError(_sizes(path, opened.shape, full, fit))
        partial = restorations.partial_of(Subset(opened, [0]), view, full)
    except (ValueError, TypeError) as error:
        raise BootdiffError(f"{path.name}: {error}") from None
    except BootdiffError as error:
        raise BootdiffError(str(error).replace(f"{path.parent}/", "").replace(str(path.parent), path.name)) from None
    return Given(run.name, name, view, partial, path.name)


def _sizes(path: Path, shape: tuple[int, ...], full: tuple[int, ...], fit: bool) -> str:
    def by(shape: tuple[int, ...]) -> str:
        return " x ".join(map(str, (*shape[1:], shape[0]) if len(shape) > 1 else shape))

    remedy = "give one of that size"
    if kind_of(full) == "image" and not fit:
        remedy += ", or let a larger one be cut and shrunk"
    return (
        f"{path.name}: is of {by(tuple(shape))}, samples of this run are of {by(full)} (the last is channels); {remedy}"
    )


# --- what is hidden ---------------------------------------------------------------------------------------------------


def canvas(given: Given) -> Image.Image:
    """The sample to paint on, enlarged by a whole factor; of a video the first frame."""
    x = given.partial.stored[0]
    picture = images.to_pil(x[:, 0] if x.ndim == 4 else x)
    factor = max(1, _CANVAS // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def painted_mask(layers: list[Any], shape: tuple[int, ...]) -> Tensor:
    """What was painted on a canvas as a mask (1, *space), 0 where hidden: at least half of a pixel.

    Args:
        layers: (h, w, 4) uint8 each, of any size; what is not transparent is painted.
    """
    height, width = shape[-2:]
    hidden = np.zeros((height, width), dtype=bool)
    for layer in layers:
        opacity = np.asarray(layer)[..., -1].astype(np.uint8)
        there = Image.fromarray((opacity > 40).astype(np.uint8) * 255)
        hidden |= np.asarray(there.resize((width, height), Image.Resampling.BOX)) >= 128
    observed = torch.from_numpy(~hidden).float()
    return observed.expand(1, *shape[1:]).clone()


def hidden_in(shape: tuple[int, ...], part: str, layers: list[Any], between: str = "") -> Tensor:
    """The mask (1 or C, *space), 1 = observed, of a part that is to be hidden.

    Args:
        part: one of `HIDE`, for pictures and videos.
        layers: of the canvas, where it was painted.
        between: of signals the steps, as "20-40"; of vectors the columns, as "1, 3"; of pictures boxes, as "rows 8-15,
            columns 4-11", several divided by semicolons, in videos also "frames 2-5".

    Raises:
        BootdiffError: nothing is hidden, or everything.
    """
    if kind_of(shape) in ("signal", "vector"):
        mask = _numbered(shape, between)
    elif part == HIDE[0]:
        mask = painted_mask(layers, shape)
    elif part == NAMED:
        mask = _boxed(shape, between)
    else:
        height, width = shape[-2:]
        mask = torch.ones(1, *shape[1:])
        up, left = height // 2, width // 2
        box = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
        where = {
            "left half": (slice(None), slice(0, left)), "right half": (slice(None), slice(left, None)),
            "upper half": (slice(0, up), slice(None)), "lower half": (slice(up, None), slice(None)),
            "a box in the middle": box,
        }  # fmt: skip
        if part not in where:
            raise BootdiffError(f"hide {part!r}: one of {', '.join(HIDE)}")
        mask[..., where[part][0], where[part][1]] = 0
    if bool(mask.all()):
        raise BootdiffError("nothing is hidden yet: paint over the part that is to be filled in, or choose one")
    if not bool(mask.any()):
        raise BootdiffError("everything is hidden: leave something to go by")
    return mask


def _boxed(shape: tuple[int, ...], between: str) -> Tensor:
    """What needs no pointing device: each box by its rows, columns and frames; what is not named is hidden whole."""
    axes = {"frames": 1, "rows": len(shape) - 2, "columns": len(shape) - 1}
    if len(shape) == 3:
        del axes["frames"]
    mask = torch.ones(1, *shape[1:])
    for box in filter(None, (b.strip() for b in between.split(";"))):
        where = [slice(None)] * mask.ndim
        for part in filter(None, (p.strip() for p in box.split(","))):
            found = re.fullmatch(r"([a-z]+)\s+(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part.lower())
            axis = axes.get(found[1] if found and found[1].endswith("s") else f"{found[1]}s" if found else "")
            first, last = (int(found[2]), int(found[3] or found[2])) if found else (-1, -1)
            if axis is None or not 0 <= first <= last < shape[axis]:
                known = ", ".join(f"{name} of 0 to {shape[k] - 1}" for name, k in axes.items())
                raise BootdiffError(
                    f"hide {part!r}: give {known}, as rows 0-{shape[-2] // 4}, columns 0-{shape[-1] // 4}"
                )
            where[axis] = slice(first, last + 1)
        mask[tuple(where)] = 0
    return mask


def _numbered(shape: tuple[int, ...], between: str) -> Tensor:
    count = shape[-1] if len(shape) > 1 else shape[0]
    hidden = torch.zeros(count, dtype=torch.bool)
    for part in filter(None, (p.strip() for p in between.split(","))):
        found = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (-1, -1)
        if not 0 <= first <= last < count:
            raise BootdiffError(f"hide {part!r}: give numbers from 0 to {count - 1}, as 20-40 or 1, 3")
        hidden[first : last + 1] = True
    seen = (~hidden).float()
    return seen[None] if len(shape) > 1 else seen


# --- answers ----------------------------------------------------------------------------------------------------------


def answer(
    model: Model,
    given: Given,
    mask: Tensor | None,
    tick: Callable[..., None],
    *,
    count: int = 4,
    seed: int = 0,
    steps: int = 40,
    method: str = "mmps",
    label: str = "",
) -> Answers:
    """Complete a sample. mask: what is hidden beside what the view hides, (1 or C, *space); None: nothing.

    Raises:
        BootdiffError: numbers that are not possible, a sample of another run.
    """
    if given.run != model.run.name:
        raise BootdiffError("what was loaded belongs to a different run; load it again")
    for what, value, low, high in (
        ("answers", count, 1, MOST_ANSWERS),
        ("steps", steps, 2, 200),
        ("seed", seed, 0, 2**31),
    ):
        if not low <= value <= high:
            raise BootdiffError(f"{what}: between {low} and {high:,}, please; got {value:g}")
    if method not in METHODS:
        raise BootdiffError(f"method {method}: known are {', '.join(METHODS)}")
    number = class_number(label, model.classes or None, len(model.classes)) if label else None
    partial = given.partial if mask is None else replace(given.partial, mask=mask[None])
    seen = partial.observe(given.view, model.shape, given.what)
    visual = kind_of(model.shape) in ("image", "video")
    sampling = model.run.sampling

    def progress(done: int, of: int) -> None:
        tick(done, of)

    found = restore(
        model.denoiser, partial.stored, given.view, mask=partial.mask, samples=count, method=method, seed=seed,
        steps=steps, scheduler=sampling.scheduler, sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max,
        label=number, bounds=(-1.0, 1.0) if visual else None, progress=progress,
        batch_size=min(16, at_once(model.shape)),
    ).cpu()  # fmt: skip
    return Answers(model, given, mask, found[0], restorations.agreement(found, seen))


# --- what is seen -----------------------------------------------------------------------------------------------------

_COLUMNS = 60
_WIDE = 128  # pixels of small pictures on the page


def _sheet(x: Tensor, model_or_run: Model | RunInfo, mask: Tensor | None = None) -> Image.Image:
    """One sample as a picture."""
    run = model_or_run.run if isinstance(model_or_run, Model) else model_or_run
    if kind_of(x.shape) == "image":
        return images.grid([images.to_pil(x, mask)], side=_WIDE)
    if kind_of(x.shape) == "video" and mask is not None:
        x = x * mask + (mask - 1)  # black
    return images.sheet(x[None], run.meaning)


def _mask_of(given: Given, model_shape: tuple[int, ...], mask: Tensor | None) -> Tensor | None:
    own = given.partial.mask
    if mask is not None:
        return mask
    return own[0] if own is not None else given.view.mask(model_shape) if given.view.is_fixed else None


def show_given(given: Given, model: Model, mask: Tensor | None = None) -> Markup:
    """What is given, as a picture."""
    hidden = _mask_of(given, model.shape, mask)
    said = " (pink is hidden)" if hidden is not None and kind_of(model.shape) == "image" else ""
    what = given.what if given.name is None else f"{given.name} of {given.what}"
    return markup.figure(_sheet(given.partial.stored[0], model, hidden), f"Given: {what}{said}", f"given{said}")


def _numbers(found: Answers) -> Markup:
    """Vectors as a table: the columns, and what is given, the mean, the spread, the truth and the answers of each."""
    model, given, x = found.model, found.given, found.x
    info, truth = model.run.meaning, given.partial.truth
    zero = info.restore(torch.zeros_like(x[:1]))[0]
    columns = {"mean": info.restore(x.mean(0)[None])[0]}
    columns["spread"] = info.restore(x.std(0, correction=1 if len(x) > 1 else 0)[None])[0] - zero
    columns |= {"truth": info.restore(truth)[0]} if truth is not None else {}
    columns |= {f"answer {k + 1}": values for k, values in enumerate(info.restore(x))}
    hidden = found.mask is not None and (found.mask < 1).tolist()
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in ("", *columns))
    rows = []
    for c in range(min(x.shape[1], _COLUMNS)):
        name = info.name(c) + (" (hidden)" if hidden and hidden[c] else "")
        cells = Markup("").join(Markup("<td>{}</td>").format(f"{float(v[c]):.4g}") for v in columns.values())
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, cells))
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, Markup("").join(rows))


def show(found: Answers) -> str:
    """Given, answers, mean, spread and, where it is known, the truth; and how well the answers agree."""
    model, given, x = found.model, found.given, found.x
    if kind_of(model.shape) == "vector":
        return markup.block(_numbers(found), markup.text(_agreement(found)))
    visual = kind_of(model.shape) in ("image", "video")
    mean, spread = x.mean(0), x.std(0, correction=1 if len(x) > 1 else 0)
    top = max(float(spread.max()), 1e-12)
    truth = given.partial.truth
    first = [show_given(given, model, found.mask)]
    first.append(markup.figure(_sheet(mean, model), f"Mean of {len(x)} answers", "mean of the answers"))
    shown = 2 * spread / top - 1 if visual else spread
    said = f"spread; white: a deviation of {top:.2g} in [-1, 1]" if visual else "spread"
    first.append(markup.figure(_sheet(shown, model), f"Spread of the answers: where they differ. {said}", said))
    if truth is not None:
        first.append(markup.figure(_sheet(truth[0], model), "The truth, which the model was not shown", "the truth"))
    answers = [markup.figure(_sheet(a, model), f"Answer {k + 1}", f"answer {k + 1}") for k, a in enumerate(x)]
    text = _agreement(found)
    if truth is not None and len(x) > 1 and visual:
        error = [10 * math.log10(4 / max(float((y - truth[0]).square().mean()), 1e-12)) for y in (mean, x[0])]
        text += f" PSNR against the truth: mean of the answers {error[0]:.1f} dB, one answer {error[1]:.1f} dB."
    return markup.block(
        markup.figures(first), Markup("<h3>Several answers</h3>"), markup.figures(answers), markup.text(text)
    )


def _agreement(found: Answers) -> str:
    """Who answered, and how well the answers agree with what is given."""
    held = found.agreement
    within = "" if held["max"] < 1e-5 else f" to within {held['max']:.2g} of [-1, 1]"
    text = f"The answers agree with what is given{within}."
    if held["noise"] is not None:
        text = f"The answers differ from what is given by {held['noise']:.2f} of its own noise, root mean square."
    return f"Restored by {words.arm(found.model.arm)} of {found.model.run.name}. {text}"
