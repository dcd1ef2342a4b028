"""`bootdiff new`: folders in, a recipe out that says what was found in them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from bootdiff.data import Dataset

__all__ = ["new"]

_FILES, _VALUES = 256, 2**24  # of each folder that are looked at, at most


def new(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The file to write.", show_default=False)],
    full: Annotated[
        Path | None, typer.Argument(metavar="[FULL]", help="The full samples: a folder or array.", show_default=False)
    ] = None,
    partial: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PARTIAL]...", help="The partial ones: a folder or array each.", show_default=False),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="vector, signal, image or video, where files leave it open.")] = None,
) -> None:
    """Write a recipe for your folders.

    Looks at some files of each, and says what they show of a full sample: thumbnails, crops, gray or noisy copies, what
    lies under an overlay, stills, clips. Asks for the folders where none are given.

    bootdiff new mine.yaml photos/full photos/thumbnails photos/crops
    bootdiff new mine.yaml
    """
    import numpy as np
    from PIL import Image

    from bootdiff.cli.console import Console
    from bootdiff.recipe.schema import load_recipe_text

    screen = Console()
    if recipe.exists():
        raise BootdiffError(f"{recipe}: is there already; give a different name, or delete it")
    if full is None:
        full, partial = _asked()
    if not partial:
        raise BootdiffError("PARTIAL: no folder of partial files was given; name at least one behind the full samples'")
    masks: dict[Path, np.ndarray] = {}
    text = _text(recipe, full, partial, kind, masks, screen.print)
    load_recipe_text(text, recipe.parent, source=str(recipe), name=recipe.stem)  # what is written can be read
    recipe.parent.mkdir(parents=True, exist_ok=True)
    for path, seen in masks.items():
        Image.fromarray(seen.astype(np.uint8) * 255).save(path)
        screen.print(f"written: {path}, white where something is seen")
    recipe.write_text(text, encoding="utf-8")
    screen.print(f"written: {recipe}. Look at it, then: bootdiff check {recipe}", "bold")


def _asked() -> tuple[Path, list[Path]]:
    if not sys.stdin.isatty():
        raise BootdiffError("FULL: no folder was given, and nobody can be asked; name the full samples' and the others")
    full = Path(typer.prompt("Folder (or array) of full samples"))
    partial: list[Path] = []
    while answer := typer.prompt(f"Folder of partial ones, kind {len(partial) + 1} (empty: that is all)", default=""):
        partial.append(Path(answer))
    return full, partial


def _text(
    recipe: Path, full: Path, partial: Sequence[Path], kind: str | None, masks: dict[Path, np.ndarray], say: Any
) -> str:
    """The recipe; `masks` get those of the overlays that were found, by the files that they are to be written to."""
    from bootdiff.tools.guess_view import guess_view

    whole = _open(full, kind)
    x = _some(whole)
    data = {} if kind is None else {"kind": kind}
    lines = [
        "# Written by `bootdiff new`: what was found in the files is said beside it. All keys: bootdiff recipe",
        f"full: {_flow({'path': _path(recipe, full), **data})}  # {_count(whole)}",
        "views:",
    ]
    names: list[str] = []
    for folder in partial:
        own_masks = _has_masks(folder)
        files = _open(folder, kind, masks=own_masks)
        try:
            guess = guess_view(x, _some(files), hidden=own_masks)
        except BootdiffError as error:
            raise BootdiffError(f"{folder}: {error}") from None
        name = _name(folder, names)
        names.append(name)
        blocks = list(guess.view) or ["identity"]
        if guess.mask is not None:
            image = recipe.parent / f"{recipe.stem}-{name}-mask.png"
            if image.exists():
                raise BootdiffError(f"{image}: is there already, and would be the mask of {name}; move or delete it")
            blocks, masks[image] = [{"kind": "mask", "image": image.name}], guess.mask
        view = _flow(blocks[0]) if len(blocks) == 1 else "[" + ", ".join(map(_flow, blocks)) + "]"
        own = {"path": _path(recipe, folder), **({"masks": True} if own_masks else {}), **_kind(files, whole, kind)}
        lines += [f"  {name}:  # {_count(files)}", f"    view: {view}  # {'; '.join(guess.why)}"]
        lines += [f"    std: {guess.std:g}"] if guess.std else []
        lines += [f"    data: {_flow(own)}"]
        say(f"{name}: {'; '.join(guess.why)}")
    sides = "  # or horizontal, where left and right are alike" if whole.kind in ("image", "video") else None
    lines += [f"flip: none{sides}"] if sides else []
    if whole.kind != "vector":
        lines += ["training: {precision: auto}  # bfloat16 where the device has units for it, about twice as fast"]
    return "\n".join([*lines, ""])


def _open(path: Path, kind: str | None, masks: bool = False) -> Dataset:
    from bootdiff.data import open_dataset

    options: dict[str, Any] = {"masks": True} if masks else {}
    try:
        return open_dataset(path, kind=kind, **options)
    except BootdiffError:
        if kind != "video":
            raise
    return open_dataset(path, **options)  # stills of videos


def _kind(files: Dataset, whole: Dataset, kind: str | None) -> dict[str, str]:
    """The key `kind`, where it was given and the files are of it."""
    return {} if kind is None or files.kind != whole.kind else {"kind": kind}


def _has_masks(path: Path) -> bool:
    from bootdiff.data.folders import list_files
    from bootdiff.data.readers.mask_files import without_masks

    if not path.is_dir():
        return False
    names = list_files(path, "files")
    return len(without_masks(names)) < len(names)


def _some(source: Dataset) -> Tensor:
    """Some samples, spread over all, in stored coordinates."""
    from bootdiff.data.dataset import spaced_indices

    size = 1
    for n in source.shape:
        size *= n
    return source.batch(spaced_indices(len(source), max(2, min(_FILES, _VALUES // size))))[0]


def _name(folder: Path, taken: Sequence[str]) -> str:
    """A view's name after its folder's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().stem.lower()).strip("-_") or "view"
    name = name if name[0].isalpha() else f"view-{name}"
    count = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in taken)
    return f"{name}-{count + 1}" if count else name


def _path(recipe: Path, folder: Path) -> str:
    """How the recipe names a folder: as the user did, if that is absolute, else from the recipe's place."""
    return str(folder) if folder.is_absolute() else os.path.relpath(folder, recipe.parent)


def _count(source: Dataset) -> str:
    words = {"vector": "vectors", "signal": "signals", "image": "pictures", "video": "videos"}
    return f"{len(source):,} {words[source.kind]}, {' x '.join(map(str, source.shape))}"


def _flow(value: Any) -> str:
    """One line of YAML."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()
