"""A recipe's partial data: the files of each view, trained models in their place, and views of views.

A view's stored files are m = A x0 / scale.  A view inside another has files of that view's samples, m' = A' m / scale',
so that of the full samples it is A' A with scale scale' scale, and of the outer view's samples, in *their* coordinates
scale m, it is A' again.  Noise of deviation std in the inner files is scale' scale std there.

A view that is the same as another takes that one's denoiser: where the recipe says so (`same_as`), and where a view
inside another has the same files in the same scale, trained with the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bootdiff.data import (
    Dataset,
    Simulated,
    Subset,
    WithMasks,
    WithPositions,
    axes_of,
    open_dataset,
    read_offsets,
    split_by_recording,
)
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.recipe.blocks import Data, ViewSpec
from bootdiff.recipe.nesting import location, walk
from bootdiff.recipe.open_model import as_view, open_pretrained
from bootdiff.recipe.schema import Recipe
from bootdiff.views import Observed, View, compose, from_config, unmasked

__all__ = [
    "ViewData", "check_rate", "every_view", "gather_views", "hold_out", "level_of", "load_models",
    "open_data", "owners", "takers", "where",
]  # fmt: skip

# At most so many samples of a plentiful view are held out: enough for a choice among snapshots.
VIEW_HOLDOUT = 128


@dataclass
class ViewData:
    """One kind of partial data.

    view: of the samples around it: the full ones, or those of the view that it stands in, in their view coordinates.
    through: of the full samples; its scale and tau are those of the files.
    train, held_out: its files; None for a pretrained model without any.
    pretrained: a denoiser in view coordinates, in place of training.
    views: partial data of this view's own samples.
    owner: path of the view whose denoiser it takes, and whose files these are.
    """

    view: View
    through: View
    train: Dataset | None
    held_out: Dataset | None
    pretrained: Denoiser | None = None
    views: dict[str, ViewData] = field(default_factory=dict)
    owner: str | None = None


def where(path: str) -> str:
    """A view as the recipe names it: views.clips.views.stills."""
    return ".".join(map(str, location(path)))


def level_of(recipe: Recipe, path: str) -> tuple[Recipe, str]:
    """The recipe around a view, and the view's own name in it."""
    *outer, name = path.split(".")
    for step in outer:
        recipe = recipe.inner(step)
    return recipe, name


def takers(recipe: Recipe) -> list[str]:
    """Paths of the views that are cut out of the pool."""
    return [p for p, spec in walk(recipe.views) if (spec.data or spec.pretrained or spec.same_as) is None]


def owners(recipe: Recipe) -> dict[str, str]:
    """Path -> path of the view whose denoiser serves there; only views that take another's."""
    specs = dict(walk(recipe.views))
    found = {path: spec.same_as for path, spec in specs.items() if spec.same_as is not None}
    seen: dict[str, str] = {}
    for path, spec in specs.items():
        if spec.data is None or spec.views is not None:
            continue
        known = seen.setdefault(_identity(recipe, path), path)
        # Views of the full samples are each trained for themselves, as they always were.
        if known != path and "." in path:
            found[path] = known
    return {path: _last(found, path) for path in found}


def _last(found: Mapping[str, str], path: str) -> str:
    while path in found:
        path = found[path]
    return path


def _identity(recipe: Recipe, path: str) -> str:
    """All of the recipe that a view's denoiser depends on, as text."""
    level, name = level_of(recipe, path)
    spec = level.views[name]
    assert spec.data is not None
    chain = _chain(recipe, path)
    fixed = [c for view in chain for c in view if c["kind"] in ("crop", "mask", "random_mask")]
    nets = [net.model_dump() for net in level.backbones_for(name).values()]
    training = level.training_for("views", name).model_dump()
    scale = compose(*(from_config(c) for view in chain for c in view)).scale
    data = spec.data.model_dump() | {"path": str(level.locate(spec.data.path))}
    return json.dumps([data, spec.holdout, spec.std, fixed, nets, training, scale], default=str)


def _chain(recipe: Recipe, path: str) -> list[list[dict[str, Any]]]:
    """The views' configs from the full samples to a view inside others."""
    names = path.split(".")
    levels = [level_of(recipe, ".".join(names[: i + 1])) for i in range(len(names))]
    return [level.view_configs(name) for level, name in levels]


def open_data(
    recipe: Recipe, block: Data, at: str = "", full: Dataset | None = None, view: View | None = None
) -> Dataset:
    """The data that a block of the recipe names.

    Args:
        at: the block as the recipe names it.
        full: the full samples; one quantity has one unit, so where theirs was measured, or declared for signals and
            vectors, it is that of all others, too.
        view: what of the full samples these files show; None for all of them.

    Raises:
        BootdiffError: data that are missing or damaged, or scaled otherwise than the full samples.
    """
    path: Any = "digits" if block.is_digits else recipe.locate(block.path)
    options = block.options
    if full is not None:
        if full.units.standardized and block.range is not None:
            raise BootdiffError(
                f"{at}.range: the full samples are standardized, and these are read in the same units; leave it out"
            )
        if block.standardize and not full.units.standardized:
            raise BootdiffError(
                f"{at}.standardize: the full samples are not standardized, so these would not be to scale; give both a "
                "range, or standardize both"
            )
        if full.units.standardized:
            options["units"] = full.units if view is None else full.units.through(view, full.shape, at)
        elif full.kind in ("signal", "vector") and block.range is None:
            options["units"] = full.units
    return open_dataset(path, **options)


def hold_out(source: Dataset, count: int, seed: int, at: str) -> tuple[Subset, Subset]:
    """`count` samples to hold out, and the rest to train on; windows of one recording stay together.

    Raises:
        BootdiffError: nothing is left to train on, because windows overlap.
    """
    held, train = split_by_recording(source, [count, None], seed)
    if not held or not train:
        raise BootdiffError(
            f"{at}: {source.where}: with {count} of {len(source)} windows held out, all others overlap with them; "
            "bring more recordings, or a larger stride"
        )
    return Subset(source, held), Subset(source, train)


def gather_views(
    recipe: Recipe,
    shape: Sequence[int],
    pool: Dataset | None = None,
    shares: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, ViewData]:
    """Open the files of all views; pretrained models are opened by `load_models`.

    Args:
        recipe: the whole recipe.
        shape: of a full sample.
        pool: full samples, whose units views share, and which simulated views are cut from.
        shares: which of them become a view's files, by path, where views are simulated.

    Raises:
        BootdiffError: missing, empty or unreadable files; sizes that do not fit; nothing left to train on.
    """
    every: dict[str, ViewData] = {}
    taken = owners(recipe)
    for number, (path, spec) in enumerate(walk(recipe.views)):
        level, name = level_of(recipe, path)
        outer = every.get(path.rpartition(".")[0])
        material = _views(level, name, spec, outer, tuple(shape), path)
        every[path] = material
        if outer is not None:
            outer.views[name] = material
        if path in taken:
            material.owner = taken[path]
            continue
        source: Dataset | None = None
        if spec.data is not None:
            source = open_data(recipe, spec.data, f"{where(path)}.data", pool, material.through)
        elif spec.pretrained is None:
            corruption = None if spec.corruption is None else spec.corruption.model_dump()
            assert pool is not None
            assert shares is not None
            cut, seed = Subset(pool, shares[path]), recipe.seed * 1009 + number
            source = Simulated(cut, material.through, seed=seed, corruption=corruption)
        if source is not None:
            _check(material.through, source, outer, tuple(shape), path)
            if spec.data is not None and pool is not None:
                check_rate(source, pool, material.through.pace(tuple(shape)), f"{where(path)}.data")
            source = _masked_as(material.through, source, tuple(shape), path)
            if material.through.position_conditioned and not source.position_conditioned:
                rows = None if spec.offsets is None else read_offsets(level.locate(spec.offsets))
                source = WithPositions(source, material.through, shape, rows)
            held = min(spec.held_out(len(source), path), VIEW_HOLDOUT)
            material.held_out, material.train = hold_out(source, held, recipe.seed + 2, where(path))
    for path, material in every.items():
        if material.owner is not None:
            _take(material, every[material.owner], tuple(shape), path)
    return {name: every[name] for name in recipe.views}


def _views(
    recipe: Recipe, name: str, spec: ViewSpec, outer: ViewData | None, shape: tuple[int, ...], path: str
) -> ViewData:
    """A view without its files."""
    clean = compose(*(from_config(c) for c in recipe.view_configs(name)))
    around = None if outer is None else _clean(outer.through)
    through = clean if around is None else compose(around, clean)
    try:
        through.shape(shape)
    except ValueError as error:
        raise BootdiffError(f"{where(path)}: {error}") from None
    if not spec.std:
        return ViewData(clean, through, None, None)
    unit = 1.0 if around is None else around.scale
    return ViewData(Observed(clean, spec.std * unit), Observed(through, spec.std), None, None)


def _clean(view: View) -> View:
    """A view without the noise of its files."""
    return view.view if isinstance(view, Observed) else view


def _check(through: View, source: Dataset, outer: ViewData | None, shape: tuple[int, ...], path: str) -> None:
    wanted = tuple(through.shape(shape))
    if tuple(source.shape) != wanted:
        of = f"full samples of {_by(shape)}"
        if outer is not None:
            of = f"samples of {where(path).rpartition('.views.')[0]}, {_by(outer.through.shape(shape))},"
        raise BootdiffError(
            f"{where(path)}: its files are {_by(source.shape)} ({axes_of(source.shape)}), but {of} seen through this "
            f"view are {_by(wanted)} ({axes_of(wanted)}); correct the view's settings or the files in {source.where}"
        )
    if through.masked and not through.is_fixed and not source.masked:
        raise BootdiffError(
            f"{where(path)}: a random mask is known only from masks beside the files: set {where(path)}.data.masks "
            f"to true and put NAME.mask.png beside NAME.png, or, where NaN means not observed, set "
            f"{where(path)}.data.missing to mask"
        )
    if source.masked and not through.masked:
        raise BootdiffError(
            f"{where(path)}: its files have masks, but this view hides nothing: add {{kind: random_mask}} to the view, "
            "or leave masks and missing out"
        )


def check_rate(source: Dataset, full: Dataset, pace: float | None, at: str) -> None:
    """Raises BootdiffError where recordings do not run as fast as the full ones, `pace` of whose steps are one of
    theirs; unknown rates, as of folders of frames and arrays, pass."""
    if pace is None or source.rate is None or full.rate is None:
        return
    wanted, unit = full.rate / pace, "frames per second" if source.kind == "video" else "values per second"
    if abs(source.rate - wanted) > 0.005 * wanted:
        how = f"say {at}.fps: {wanted:.5g} to resample them" if source.kind == "video" else "resample them"
        through = f", so {wanted:.5g} through this view" if pace != 1 else ""
        raise BootdiffError(
            f"{at}: the recordings in {source.where} have {source.rate:.5g} {unit}, full ones have {full.rate:.5g}"
            f"{through}; {how}, or correct the recipe"
        )


def _masked_as(through: View, source: Dataset, shape: tuple[int, ...], path: str) -> Dataset:
    """The source with masks as the view has them: hiding what it hides in every file, with as many channels."""
    if not source.masked:
        return source
    drawn = through.draw(shape, torch.Generator().manual_seed(0)).mask(shape)
    own = source.batch([0])[2]
    assert drawn is not None
    assert own is not None
    if own.shape[1] > len(drawn):
        raise BootdiffError(
            f"{where(path)}: in {source.where} other values are missing in each channel, but this view hides all "
            "channels at once; say view: {kind: random_mask, hide: channels}"
        )
    always = unmasked(through)
    # Simulated files were cut with the whole mask.
    fixed = always.mask(shape) if always.is_fixed and not isinstance(source, Simulated) else None
    wide = own.shape[1] < len(drawn)
    return WithMasks(source, channels=wide, fixed=fixed) if wide or fixed is not None else source


def _take(mine: ViewData, other: ViewData, shape: tuple[int, ...], path: str) -> None:
    """Let a view stand on another's files and denoiser. Raises BootdiffError where these are of other samples."""
    a, b = (tuple(v.through.shape(shape)) for v in (mine, other))
    problem = None
    if a != b:
        problem = f"its samples are {_by(a)}, those of {mine.owner} {_by(b)}"
    elif abs(mine.through.scale / other.through.scale - 1) > 1e-6:
        problem = (
            f"of one full sample it shows {mine.through.scale:g} times the stored values, {mine.owner} "
            f"{other.through.scale:g} times, so that their noise would not be the same"
        )
    elif not _masked_alike(mine.through, other.through, shape):
        problem = f"it does not hide what {mine.owner} hides"
    if problem is not None:
        raise BootdiffError(f"{where(path)}.same_as: {problem}; give this view data of its own")
    if tau := other.through.tau:
        clean = _clean(mine.view)
        mine.view, mine.through = Observed(clean, tau / clean.scale), Observed(mine.through, tau / mine.through.scale)
    mine.train, mine.held_out, mine.pretrained = other.train, other.held_out, other.pretrained


def _masked_alike(a: View, b: View, shape: tuple[int, ...]) -> bool:
    if not (a.masked and b.masked and a.is_fixed and b.is_fixed):
        return a.masked == b.masked and (not a.masked or a.is_fixed == b.is_fixed)
    return torch.equal(a.mask(shape), b.mask(shape))  # type: ignore[arg-type]


def load_models(
    recipe: Recipe, views: Mapping[str, ViewData], shape: Sequence[int], classes: Sequence[str] | None, at: str = ""
) -> None:
    """Open the models of pretrained views, those inside others too.

    Raises:
        BootdiffError: no model, or one that does not fit the view or the run's classes.
    """
    specs = dict(walk(recipe.views))
    every = dict(every_view(views))
    for path, material in every.items():
        folder = specs[path].pretrained
        if folder is None:
            continue
        key = f"{where(path)}.pretrained"
        if material.through.masked or material.through.position_conditioned:
            what = "what is hidden" if material.through.masked else "where its sample lies"
            raise BootdiffError(f"{key}: a pretrained model is not told {what}; train this view on its own data")
        located = recipe.locate(folder)
        try:
            denoiser = open_pretrained(located)
        except BootdiffError as error:
            raise BootdiffError(f"{key}: {error}") from None
        size = material.through.shape(tuple(shape))
        material.pretrained = as_view(denoiser, size, material.through.scale, classes, key, located)
    for material in every.values():
        if material.owner is not None:
            material.pretrained = every[material.owner].pretrained


def every_view(views: Mapping[str, ViewData]) -> list[tuple[str, ViewData]]:
    """Every view with its path, the outer ones before the inner ones."""
    queue = list(views.items())
    for path, material in queue:  # grows: breadth first
        queue += [(f"{path}.{name}", inner) for name, inner in material.views.items()]
    return queue


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)
