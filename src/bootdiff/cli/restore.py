"""`bootdiff restore`: its options, and the data and the view that they select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootdiff.cli.options import Device, OneArm, RunFolder, Steps
from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.data import Dataset
    from bootdiff.recipe.schema import Recipe
    from bootdiff.views import View

__all__ = ["open_partial", "placements_of", "restore", "view_of"]


def restore(
    run: RunFolder,
    partial: Annotated[
        Path | None,
        typer.Argument(metavar="[IN]", help="Partial files: a folder, an array or one file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="Folder to write. Default: RUN/restored/VIEW.", show_default=False),
    ] = None,
    view: Annotated[str | None, typer.Option(help="The view of the files: one of the recipe, by name.")] = None,
    view_config: Annotated[
        str | None, typer.Option(help="Or a view as in a recipe: {kind: downsample, factor: 4}, or a YAML file.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Or a mask for all files, white (1 in an .npy) where observed; or alpha: what is transparent in a "
            "file is not observed."
        ),
    ] = None,
    placement: Annotated[
        int | None, typer.Option(min=0, help="Which placement, from 0, if the view has several.")
    ] = None,
    std: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation of the files' noise, in [-1, 1] units. Default: the view's."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Answers per file. Default: 4, or 19 if the truth is known.")
    ] = None,
    method: Annotated[str, typer.Option(help="mmps, pigdm or ddnm.")] = "mmps",
    iterations: Annotated[int, typer.Option(min=1, help="mmps: steps of conjugate gradients per noise level.")] = 3,
    travel: Annotated[
        tuple[int, int],
        typer.Option(metavar="LENGTH REPEATS", help="ddnm: pass each stretch of LENGTH steps REPEATS times."),
    ] = (1, 1),
    steps: Steps = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Answer k of file i depends on seed, i and k alone, up to rounding.")
    ] = 0,
    arm: OneArm = None,
    label: Annotated[
        str | None, typer.Option(help="Class of all files, by name or number, if classes were trained.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Name of the array in an .npz file.")] = None,
    bounds: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="LOW HIGH", help="Range of the arrays' values. Default: the recipe's."),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="The full samples of IN, to evaluate the answers.")] = None,
    held_out: Annotated[
        int | None, typer.Option(min=1, help="Instead of IN: take the view of this many samples not used in training.")
    ] = None,
    device: Device = None,
) -> None:
    """Complete partial files: enlarge, fill masks and gaps, extend.

    Writes several answers per file, their mean and their spread. Each answer agrees with the file: exactly, or up to
    its noise. With --truth or --held-out, their quality is measured as well.

    bootdiff restore runs/mine small/ large/ --view thumbnails
    bootdiff restore runs/mine photo.png restored/ --mask scratch.png --samples 8
    bootdiff restore runs/mine --view thumbnails --held-out 20
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import restorations
    from bootdiff.cli.report.metadata import DataInfo
    from bootdiff.cli.sample import class_number
    from bootdiff.cli.session import classes_of, device_of, load_arm, read_run
    from bootdiff.data import kind_of
    from bootdiff.restoration import METHODS
    from bootdiff.restoration import restore as draw
    from bootdiff.sampling import classes_of as count_classes

    screen = Console()
    _, recipe = read_run(run, device)
    if method not in METHODS:
        raise BootdiffError(f"--method {method}: no such method; known: {', '.join(METHODS)}")
    if min(travel) < 1:
        raise BootdiffError(
            f"--travel {travel[0]} {travel[1]}: give the length of a stretch and the number of passes, such as 5 4"
        )
    if held_out is not None and out is None:
        partial, out = None, partial  # there is no IN
    if (partial is None) == (held_out is None) or (held_out is not None and truth is not None):
        raise BootdiffError("give either IN, the partial files (with --truth, if known), or --held-out N")
    name, denoiser = load_arm(run, arm, device_of(recipe))
    full = tuple(denoiser.shape)
    chosen, called = view_of(recipe, full, view, view_config, mask, placement, std)
    info = DataInfo.of_run(run)
    label_number = None if label is None else class_number(label, classes_of(run), count_classes(denoiser) or 0)
    problem = which = None
    if held_out is not None or truth is not None:
        from bootdiff.recipe.build import build_problem

        problem = build_problem(recipe)
    if held_out is not None:
        assert problem is not None
        files, which = restorations.cut_out(problem, chosen, held_out, seed)
    else:
        assert partial is not None
        known = None if truth is None else open_partial(truth, recipe, None, full, None, info, key, bounds)
        opened = open_partial(partial, recipe, view, full, chosen, info, key, bounds, mask)
        files = restorations.partial_of(opened, chosen, full, known)
    given = files.observe(chosen, full, str(partial or "--held-out"))
    count = samples or (4 if files.truth is None else 19)
    options: dict[str, Any] = {
        "samples": count, "method": method, "seed": seed, "steps": steps or recipe.sampling.steps,
        "scheduler": recipe.sampling.scheduler, "sigma_min": recipe.sampling.sigma_min,
        "sigma_max": recipe.sampling.sigma_max, "iterations": iterations, "travel": travel,
    }  # fmt: skip
    clamp = (-1.0, 1.0) if kind_of(full) in ("image", "video") else None
    with screen.work(f"restoring {len(given)} file(s), {count} answer(s) each") as done:
        answers = draw(
            denoiser, files.stored, chosen, mask=files.mask, label=label_number, progress=done, bounds=clamp, **options
        ).cpu()  # fmt: skip
    folder = out or run / "restored" / called
    title = f"{called}: restored by {name.replace('_', ' ')}"
    written = restorations.write_answers(folder, answers, files, given, info, title)
    how = {"arm": name, "label": label, "in": str(partial or which), **options}
    training = None
    if problem is not None:
        training = problem.full.batch(range(min(len(problem.full), 2000)))[0]
    restorations.report(folder, answers, files, given, chosen, written, how, training, screen)
    screen.print(f"{len(given)} file(s), {count} answer(s) each: {folder}; look at {folder / 'overview.png'}", "bold")


def view_of(
    recipe: Recipe,
    full: tuple[int, ...],
    name: str | None,
    config: str | None,
    mask: Path | None,
    placement: int | None,
    std: float | None,
) -> tuple[View, str]:
    """The view that the options select, and its name.

    Raises:
        BootdiffError: none or several are given, one that the recipe does not have, or that does not fit.
    """
    from bootdiff.recipe.nesting import walk
    from bootdiff.views import Observed, compose, from_config, unmasked

    if sum(v is not None for v in (name, config, mask)) != 1:
        raise BootdiffError(
            "select the view of the files by one of --view NAME, --view-config {kind: ...}, --mask FILE"
        )
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
        placements = unmasked(chosen).placements(full)
        count = len(placements)
        if placement is not None and placement >= count:
            raise BootdiffError(f"--placement {placement}: the view has {count} placement(s), numbered from 0")
        if placement is None and count > 1:
            raise BootdiffError(
                f"--view: this view has {count} placements; select that of the files: --placement 0 ({placements[0]}) "
                f"to {count - 1} ({placements[-1]}), or any offset by --view-config"
            )
        chosen = chosen if placement is None else placements[placement]
    except ValueError as error:
        option = "--view" if name is not None else "--mask" if mask is not None else "--view-config"
        raise BootdiffError(f"{option}: {error}") from None
    return (Observed(chosen, noise) if noise else chosen), called


def placements_of(recipe: Recipe, full: tuple[int, ...], name: str) -> int:
    """How many placements a view of the recipe has. Raises BootdiffError: it does not fit the samples."""
    from bootdiff.views import compose, from_config, unmasked

    try:
        return len(unmasked(compose(*(from_config(c) for c in _chain(recipe, name)))).placements(full))
    except ValueError as error:
        raise BootdiffError(f"view {name}: {error}") from None


def _chain(recipe: Recipe, path: str) -> list[dict[str, Any]]:
    """Configs of a view, after those of the views that contain it."""
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

    from bootdiff.recipe.mask_pictures import read_mask
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
            f"--view-config {text}: is not valid YAML; write it as in a recipe, '{{kind: downsample, factor: 4}}'"
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


def _is_alpha(mask: Path | None) -> bool:
    """Whether --mask names the files' own alpha channel."""
    return mask is not None and str(mask) == "alpha" and not mask.exists()


def _mask_block(path: Path) -> list[dict[str, Any]]:
    from bootdiff.recipe.mask_pictures import read_mask

    if _is_alpha(path):
        return [{"kind": "random_mask"}]
    return [{"kind": "mask", "image": read_mask(path, "--mask")}]


_ARRAY = ("kind", "key", "range", "missing", "masks", "alpha", "channels", "frames", "length", "stride")
_TABLES = ("columns", "header", "separator", "decimal", "missing_values")
_PICTURES = ("kind", "channels", "alpha", "masks", "range", "missing", "slices", "fit")
_FILES = {
    "image": _PICTURES,
    "video": (*_PICTURES, "frames", "stride", "fps", "pixel_aspect"),
    "signal": ("kind", "range", "missing", *_TABLES, "length", "stride"),
    "vector": ("kind", "range", "missing", *_TABLES),
}
"""Keys of a data block for reading files of a kind."""


def open_partial(
    path: Path,
    recipe: Recipe,
    name: str | None,
    full: tuple[int, ...],
    view: View | None,
    info: DataInfo,
    key: str | None,
    bounds: tuple[float, float] | None,
    mask: Path | None = None,
    fit: str | None = None,
) -> Dataset:
    """Files, read as the recipe reads those of this view; without a view of the recipe, as it reads full samples.

    Args:
        name: a view of the recipe, or None.
        view: of the files; None for full samples.
        bounds: range of the values; None: as in the recipe.
        mask: what --mask names; None: no such option.
        fit: how pictures of other sizes are brought to the view's; None: as the recipe says.

    Raises:
        BootdiffError: missing or unusable files.
    """
    from bootdiff.data import kind_of, open_dataset
    from bootdiff.data.options import ImageOptions
    from bootdiff.data.readers.decode import IMAGE_SUFFIXES
    from bootdiff.data.readers.fitting import size_through
    from bootdiff.data.readers.pictures import ImageReader
    from bootdiff.data.value_range import check_same_range
    from bootdiff.recipe.nesting import walk

    pool = recipe.full if recipe.simulate is None else recipe.simulate.pool
    own = None if name is None else dict(walk(recipe.views))[name].data
    shape = full if view is None else view.shape(full)
    kind = kind_of(shape)
    single_image = path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    array = path.suffix.lower() in (".npy", ".npz")
    known = _ARRAY if array else _FILES[kind]
    configured = (own or pool).options
    options: dict[str, Any] = {k: configured[k] for k in known if configured[k] is not None}
    options.pop("key", None)
    if own is None:
        # The block is of full samples, whose size and number of channels need not be those of these files.
        for k in ("frames", "length", "stride", "kind"):
            options.pop(k, None)
        if shape[0] != full[0]:
            options.pop("channels", None)
        if "missing" in known and (array or kind not in ("image", "video")):
            options["missing"] = "mask"
        options["masks"] = view is not None and view.masked and not view.is_fixed and "masks" in known
        if _is_alpha(mask):
            options |= {"masks": "alpha", "alpha": "refuse"}
    if kind != "image":
        options["kind"] = kind
    if key is not None:
        options["key"] = key
    if bounds is not None:
        options["range"] = list(bounds)
    elif info.units is not None and kind_of(full) in ("signal", "vector") and (own is None or own.range is None):
        options.pop("range", None)
    if fit is not None and kind in ("image", "video") and not array:
        options["fit"] = fit
    if options.get("fit", "refuse") != "refuse":
        options["size"] = size_through(view, full, options["fit"], "--view")
    if info.units is not None and "range" not in options:
        options["units"] = info.units if view is None else _units(info.units, view, full)
    if view is not None:
        options["std"] = view.tau / view.scale
    if single_image and "range" not in options and (info.units is None or info.bytes):
        return _one_image(path, options)
    if single_image:
        return ImageReader().open(path, ImageOptions(**options))
    dataset = open_dataset(path, **options)
    if info.units is not None:
        check_same_range(dataset, info.units, "--range")
    return dataset


def _units(units: Any, view: View, full: tuple[int, ...]) -> Any:
    return units.through(view, full, "--view") if units.standardized else units


def _one_image(path: Path, options: dict[str, Any]) -> Dataset:
    """A dataset of one image, with the mask beside it if the view needs one."""
    import numpy as np

    from bootdiff.data import Arrays
    from bootdiff.data.readers.decode import Transparent, Undecodable, decode, read_file, split_alpha
    from bootdiff.data.readers.fitting import Fitting
    from bootdiff.data.readers.mask_files import MASK_SUFFIX, decode_mask, is_opaque, masks_beside

    own = options.get("masks") == "alpha"
    masks: Any = None
    beside = path
    try:
        pixels, _ = decode(read_file(path), "keep" if own else options.get("alpha", "refuse"))
        if own and pixels.shape[-1] in (2, 4):
            masks = "alpha"
        elif own:
            raise Undecodable("has no alpha channel, which would be its mask")
        elif options.get("masks"):
            found = masks_beside(path.with_suffix(""))
            if len(found) != 1:
                raise Undecodable(
                    f"has {len(found) or 'no'} mask(s) beside it; save one as {path.stem}{MASK_SUFFIX}, white = "
                    "observed, or say --mask alpha where what is transparent is not observed"
                )
            beside = found[0]
            masks = decode_mask(read_file(beside), pixels.shape[:2])[None]
        fitting = Fitting.of(options.get("fit", "refuse"), options.get("size"), str(path))
        if fitting is not None:
            if reason := fitting.problem(pixels.shape):
                beside = path
                raise Undecodable(reason)
            if own:
                pixels, opacity = split_alpha(pixels)
                masks = None if opacity is None else is_opaque(opacity, np.iinfo(opacity.dtype).max)[None]
            if masks is not None or fitting.masks:
                masks = fitting.mask(pixels.shape, None if masks is None else masks[0])[None]
            pixels = fitting.pixels(pixels)
    except Transparent as error:
        raise BootdiffError(f"{path}: {error} in the recipe; or --mask alpha, where they are not observed") from None
    except Undecodable as error:
        raise BootdiffError(f"{beside}: {error}") from None
    channels = options.get("channels") if pixels.shape[-1] == 1 else None
    return Arrays(pixels[None], masks=masks, channels=channels, where=str(path), kind="image", row=path.stem)
