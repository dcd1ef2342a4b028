"""The command `bootdiff restore`: options, and the data and the view they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.data import Dataset
    from bootdiff.recipe.schema import Recipe
    from bootdiff.views import View

__all__ = ["restore"]


def restore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.", show_default=False)],
    partial: Annotated[
        Path | None,
        typer.Argument(metavar="[IN]", help="Partial files: a folder, an array or one file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="Folder to write. Default: RUN/restored/VIEW.", show_default=False),
    ] = None,
    view: Annotated[str | None, typer.Option(help="What the files show: a view of the recipe, by its name.")] = None,
    view_config: Annotated[
        str | None, typer.Option(help="Another view, as in a recipe: {kind: downsample, factor: 4}, or a YAML file.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A mask for all files, white (or 1 in an .npy) where they may be trusted.")
    ] = None,
    place: Annotated[
        int | None, typer.Option(min=0, help="Which of the places of a view that may lie anywhere, from 0.")
    ] = None,
    std: Annotated[
        float | None, typer.Option(min=0, help="Noise of the files in [-1, 1]. Default: the view's.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per file. Default: 4; 19 with the truth.")] = None,
    method: Annotated[str, typer.Option(help="mmps, pigdm or ddnm.")] = "mmps",
    iterations: Annotated[int, typer.Option(min=1, help="mmps: steps of conjugate gradients per noise level.")] = 3,
    travel: Annotated[
        tuple[int, int], typer.Option(metavar="LENGTH REPEATS", help="ddnm: go through each stretch so often.")
    ] = (1, 1),
    steps: Annotated[int | None, typer.Option(min=2, help="Noise levels visited. Default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Answer k of file i depends on seed, i and k alone.")] = 0,
    arm: Annotated[str | None, typer.Option(help="Which arm's model. Default: bootdiff, or the only one.")] = None,
    label: Annotated[str | None, typer.Option(help="Class of all files, where classes were trained.")] = None,
    key: Annotated[str | None, typer.Option(help="Name of the array in an .npz file.")] = None,
    truth: Annotated[Path | None, typer.Option(help="The full samples of IN, to measure the answers by.")] = None,
    held_out: Annotated[
        int | None, typer.Option(min=1, help="In place of IN: cut the view out of so many samples not trained on.")
    ] = None,
) -> None:
    """Complete partial files: enlarge thumbnails, fill masks and gaps, extend clips.

    Several answers per file, their mean and their spread. Each agrees with what is given: exactly, or to the noise of
    the files. With --truth or --held-out it measures how good they are.

    bootdiff restore runs/mine small/ large/ --view thumbnails
    bootdiff restore runs/mine photo.png mended/ --mask scratch.png --samples 8
    bootdiff restore runs/mine --view thumbnails --held-out 20
    """
    from bootdiff.cli import restoring
    from bootdiff.cli.console import Console
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.cli.sample import class_number
    from bootdiff.cli.session import accelerate, classes_of, load_arm, read_run
    from bootdiff.data import kind_of
    from bootdiff.restoration import METHODS
    from bootdiff.restoration import restore as draw
    from bootdiff.sampling import classes_of as count_classes

    screen = Console()
    _, recipe = read_run(run)
    if method not in METHODS:
        raise BootdiffError(f"--method {method}: no such method; known: {', '.join(METHODS)}")
    if min(travel) < 1:
        raise BootdiffError(f"--travel {travel[0]} {travel[1]}: give the length of a stretch and how often, as 5 4")
    if held_out is not None and out is None:
        partial, out = None, partial  # there is no IN
    if (partial is None) == (held_out is None) or (held_out is not None and truth is not None):
        raise BootdiffError("give either IN, the partial files (with --truth, if it is known), or --held-out N")
    name, denoiser = load_arm(run, arm, accelerate(recipe).device)
    full = tuple(denoiser.shape)
    chosen, called = _view(recipe, full, view, view_config, mask, place, std)
    meaning = DataInfo.of_run(run)
    label_number = None if label is None else class_number(label, classes_of(run), count_classes(denoiser) or 0)
    materials = which = None
    if held_out is not None or truth is not None:
        from bootdiff.recipe.build import build_problem

        materials = build_problem(recipe)
    if held_out is not None:
        assert materials is not None
        files, which = restoring.cut_out(materials, chosen, held_out, seed)
    else:
        assert partial is not None
        known = None if truth is None else _open(truth, recipe, None, full, None, meaning, key)
        files = restoring.partial_of(_open(partial, recipe, view, full, chosen, meaning, key), chosen, full, known)
    given = files.observe(chosen, full, str(partial or "--held-out"))
    count = samples or (4 if files.truth is None else 19)
    options: dict[str, Any] = {
        "samples": count, "method": method, "seed": seed, "steps": steps or recipe.sampling.steps,
        "scheduler": recipe.sampling.scheduler, "sigma_min": recipe.sampling.sigma_min,
        "sigma_max": recipe.sampling.sigma_max, "iterations": iterations, "travel": travel,
    }  # fmt: skip
    bounds = (-1.0, 1.0) if kind_of(full) in ("image", "video") else None
    with screen.work(f"restoring {len(given)} file(s), {count} answer(s) each") as done:
        answers = draw(
            denoiser, files.stored, chosen, mask=files.mask, label=label_number, progress=done, bounds=bounds, **options
        ).cpu()  # fmt: skip
    folder = out or run / "restored" / called
    title = f"{called}: restored by {name.replace('_', ' ')}"
    written = restoring.write_answers(folder, answers, files, given, meaning, title)
    how = {"arm": name, "label": label, "in": str(partial or which), **options}
    training = None
    if materials is not None:
        training = materials.full.batch(range(min(len(materials.full), 2000)))[0]
    restoring.report(folder, answers, files, given, chosen, written, how, training, screen)
    screen.print(f"{len(given)} file(s), {count} answer(s) each: {folder}; look at {folder / 'overview.png'}", "bold")


def _view(
    recipe: Recipe,
    full: tuple[int, ...],
    name: str | None,
    config: str | None,
    mask: Path | None,
    place: int | None,
    std: float | None,
) -> tuple[View, str]:
    """The view that the options name, and what to call it.

    Raises:
        BootdiffError: none or several are named, one that the recipe does not have, or that does not fit.
    """
    from bootdiff.recipe.nesting import walk
    from bootdiff.views import Observed, compose, from_config, unmasked

    if sum(v is not None for v in (name, config, mask)) != 1:
        raise BootdiffError("say what the files show, by one of --view NAME, --view-config {kind: ...}, --mask FILE")
    noise, called = std or 0.0, name or ("mask" if mask is not None else "view")
    try:
        if name is not None:
            known = dict(walk(recipe.views))
            if name not in known:
                raise BootdiffError(f"--view {name}: the recipe has no such view; it has {', '.join(known) or 'none'}")
            noise = known[name].std if std is None else std
            chosen = compose(*(from_config(c) for c in _chain(recipe, name)))
        else:
            blocks = _mask_block(mask) if mask is not None else _parsed(str(config))
            chosen = compose(*map(from_config, blocks))
            if mask is None:
                called = "-".join(str(b["kind"]) for b in blocks)
        chosen.shape(full)
        places = unmasked(chosen).placements(full)
        if place is not None and place >= len(places):
            raise BootdiffError(f"--place {place}: the view has {len(places)} place(s), numbered from 0")
        if place is None and len(places) > 1:
            raise BootdiffError(
                f"--view: such files may lie at any of {len(places)} places of a full sample; say at which these do: "
                f"--place 0 ({places[0]}) to {len(places) - 1} ({places[-1]}), or another offset by --view-config"
            )
        chosen = chosen if place is None else places[place]
    except ValueError as error:
        option = "--view" if name is not None else "--mask" if mask is not None else "--view-config"
        raise BootdiffError(f"{option}: {error}") from None
    return (Observed(chosen, noise) if noise else chosen), called


def _chain(recipe: Recipe, path: str) -> list[dict[str, Any]]:
    """Configs of a view, those of the views around it first."""
    configs, level, steps = [], recipe, path.split(".")
    for i, step in enumerate(steps):
        configs += level.view_configs(step)
        if i + 1 < len(steps):
            level = level.inner(step)
    return configs


def _parsed(text: str) -> list[dict[str, Any]]:
    """A view's blocks from YAML (JSON is YAML), or from a file of it."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from bootdiff.recipe.schema import read_mask
    from bootdiff.recipe.views import Views

    path = Path(text)
    source = text
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        try:
            source = path.read_text(encoding="utf-8")
        except OSError as error:
            raise BootdiffError(f"--view-config {text}: cannot be read ({error.strerror})") from None
    try:
        blocks = TypeAdapter(Views).validate_python(yaml.safe_load(source))
    except yaml.YAMLError:
        raise BootdiffError(
            f"--view-config {text}: is no YAML; write it as in a recipe, '{{kind: downsample, factor: 4}}'"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(v) for v in first["loc"])
        raise BootdiffError(f"--view-config {text}: {at + ': ' if at else ''}{first['msg']}") from None
    configs = [block.config() for block in blocks]
    for config in configs:
        if "image" in config:
            config["image"] = read_mask(Path(config["image"]), "--view-config")
    return configs


def _mask_block(path: Path) -> list[dict[str, Any]]:
    from bootdiff.recipe.schema import read_mask

    return [{"kind": "mask", "image": read_mask(path, "--mask")}]


_ARRAY = ("kind", "key", "range", "missing", "masks", "channels", "frames", "length", "stride")
_FILES = {
    "image": ("channels", "alpha", "masks"),
    "video": ("kind", "channels", "alpha", "masks", "frames", "stride", "fps"),
    "signal": ("kind", "range", "missing", "columns", "length", "stride"),
    "vector": ("kind", "range", "missing", "columns"),
}
"""Keys of a data block that say how files of a kind are read."""


def _open(
    path: Path,
    recipe: Recipe,
    name: str | None,
    full: tuple[int, ...],
    view: View | None,
    meaning: DataInfo,
    key: str | None,
) -> Dataset:
    """Files, read as the recipe reads those of this view; or, without a view of the recipe, as it reads full samples.

    Args:
        name: a view of the recipe; None for another one.
        view: what the files show; None for full samples.

    Raises:
        BootdiffError: missing or unusable files.
    """
    from bootdiff.data import kind_of, open_dataset
    from bootdiff.recipe.nesting import walk

    pool = recipe.full if recipe.simulate is None else recipe.simulate.pool
    own = None if name is None else dict(walk(recipe.views))[name].data
    shape = full if view is None else view.shape(full)
    kind = kind_of(shape)
    picture = path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") and path.is_file()
    array = path.suffix.lower() in (".npy", ".npz")
    known = _ARRAY if array else _FILES[kind]
    said = (own or pool).options
    options: dict[str, Any] = {k: said[k] for k in known if said[k] is not None}
    options.pop("key", None)
    if own is None:
        # The block is of full samples, whose size and number of channels need not be those of these files.
        for k in ("frames", "length", "stride", "kind"):
            options.pop(k, None)
        if shape[0] != full[0]:
            options.pop("channels", None)
        if "missing" in known:
            options["missing"] = "mask"
        options["masks"] = view is not None and view.masked and not view.is_fixed and "masks" in known
    if kind != "image":
        options["kind"] = kind
    if key is not None:
        options["key"] = key
    if meaning.units is not None and kind_of(full) in ("signal", "vector"):
        options["units"] = meaning.units if view is None else _units(meaning.units, view, full)
        options.pop("range", None)
    return _one_picture(path, options) if picture else open_dataset(path, **options)


def _units(units: Any, view: View, full: tuple[int, ...]) -> Any:
    return units.through(view, full, "--view") if units.standardized else units


def _one_picture(path: Path, options: dict[str, Any]) -> Dataset:
    """A source of one picture, and its mask beside it where there should be one."""
    from bootdiff.data import Arrays
    from bootdiff.data.readers.decode import Undecodable, decode, decode_mask

    masks, beside = None, path
    try:
        pixels, _ = decode(path.read_bytes(), options.get("alpha", "refuse"))
        if options.get("masks"):
            beside = path.with_name(path.stem + ".mask.png")
            if not beside.is_file():
                raise BootdiffError(f"{path}: has no mask beside it; save one as {beside.name}, white = observed")
            masks = decode_mask(beside.read_bytes(), pixels.shape[:2])[None]
    except Undecodable as error:
        raise BootdiffError(f"{beside}: {error}") from None
    channels = options.get("channels") if pixels.shape[-1] == 1 else None
    return Arrays(pixels[None], masks=masks, channels=channels, where=str(path), kind="image", row=path.stem)
