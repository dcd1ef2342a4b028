"""From the recipe to the objects that the method takes: its `Problem` and its `MethodSettings`.

With `simulate`, a pool of full samples is divided at random: n stay full, some are for the test, and the rest is cut
into views, each file into one view only (or into every view with `share: all`); the oracle gets all but test and
held-out ones.  Noise of deviation std in the files of a view inside another one is scale' scale std there.

A view that is the same as another takes that one's denoiser: where the recipe says so (`same_as`), and where a view
inside another has the same files in the same scale, trained with the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bootdiff.data import Dataset, Simulated, Subset, open_dataset, read_offsets, split_by_recording
from bootdiff.data.readers.fitting import size_through
from bootdiff.data.value_range import check_same_range
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.method.problem import (
    Problem,
    ViewData,
    check_rate,
    every_view,
    hold_out,
    partial_data,
    with_common_classes,
)
from bootdiff.method.settings import PARTS, DistillationSettings, MethodSettings, ViewSettings
from bootdiff.nets.network import divided
from bootdiff.recipe.blocks import Data, ViewSpec
from bootdiff.recipe.nesting import location, walk
from bootdiff.recipe.open_model import as_view, open_pretrained
from bootdiff.recipe.schema import Recipe
from bootdiff.views import Observed, View, compose, from_config

__all__ = ["build_problem", "gather_views", "method_settings", "open_data", "owners", "takers", "where"]


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
    own = [c for view in chain for c in view if isinstance(c["kind"], type)]
    fixed = [c for view in chain for c in view if c["kind"] in ("crop", "mask", "random_mask")] + own
    nets = [net.model_dump() for net in level.backbones_for(name).values()]
    training = level.training_for("views", name).model_dump()
    scale = compose(*(from_config(c) for view in chain for c in view)).scale
    data = spec.data.model_dump() | {"path": str(level.locate(spec.data.path)) if spec.data.is_path else spec.data.path}
    return json.dumps([data, spec.holdout, spec.std, fixed, nets, training, scale], default=str)


def _chain(recipe: Recipe, path: str) -> list[list[dict[str, Any]]]:
    """The views' configs from the full samples to a view inside others."""
    names = path.split(".")
    levels = [level_of(recipe, ".".join(names[: i + 1])) for i in range(len(names))]
    return [level.view_configs(name) for level, name in levels]


def open_data(
    recipe: Recipe, block: Data, at: str = "", full: Dataset | None = None, view: View | None = None, std: float = 0.0
) -> Dataset:
    """The data that a block of the recipe names.

    Args:
        at: the block as the recipe names it.
        full: the full samples; one quantity has one unit, so theirs is that of all others, too, where these neither
            say their own range nor hold values of a different type.
        view: what of the full samples these files show; None for all of them.
        std: deviation of noise in the files.

    Raises:
        BootdiffError: data that are missing or damaged, or scaled otherwise than the full samples.
    """
    path: Any = recipe.locate(block.path) if block.is_path else block.path
    options = block.options | {"std": std}
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
        elif block.range is None:
            options["units"] = full.units
        if block.fit != "refuse":
            seen = size_through(view, full.shape, block.fit, f"{at}.fit")
            options["size"] = block.size or seen
    dataset = open_dataset(path, **options)
    if full is not None:
        check_same_range(dataset, full.units, at)
    return dataset


def build_problem(recipe: Recipe) -> Problem:
    """Open and divide everything the recipe names.

    Raises:
        BootdiffError: missing, empty or unreadable data; sizes or classes that do not fit; nothing left to train on.
    """
    full_ids: list[int]
    shares: dict[str, list[int]] = {}
    simulated = recipe.simulate
    if simulated is None:
        pool = open_data(recipe, recipe.full)
        full_ids = list(range(len(pool)))
        test = None if recipe.test is None else open_data(recipe, recipe.test, "test", pool)
    else:
        pool = open_data(recipe, simulated.pool)
        wanted = simulated.full + (simulated.test or 0)
        cut = takers(recipe)
        if wanted + len(cut) * 2 > len(pool):
            raise BootdiffError(
                f"simulate: full ({simulated.full}) and test ({simulated.test or 0}) leave {len(pool) - wanted} of the "
                f"pool's {len(pool)} samples for {len(cut)} view(s); ask for fewer, or bring a larger pool"
            )
        full_ids, test_ids, rest = split_by_recording(pool, [simulated.full, simulated.test or 0, None], recipe.seed)
        if simulated.test:
            test = Subset(pool, test_ids)
        else:
            test = None if recipe.test is None else open_data(recipe, recipe.test, "test", pool)
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
        shares = {
            name: sorted(
                rest[i] for i in (order if simulated.share == "all" else order[k :: len(cut)])[: simulated.limit]
            )
            for k, name in enumerate(cut)
        }
    full = Subset(pool, full_ids)
    count = recipe.full.held_out(len(full))
    held, train = hold_out(full, count, recipe.seed + 1, "full")
    shape = tuple(full.shape)
    if recipe.flip == "horizontal" and full.kind not in ("image", "video"):
        raise BootdiffError(
            f"flip: only pictures and videos are mirrored, the full samples are {full.kind}s: flip: none"
        )

    views = gather_views(recipe, shape, pool, shares)
    oracle: Dataset | None = None
    if simulated is not None:
        oracle = Subset(pool, sorted([*rest, *(full_ids[i] for i in train.indices)]))
    elif recipe.oracle is not None:
        oracle = open_data(recipe, recipe.oracle, "oracle", pool)
    for what, source_ in (("test", test), ("oracle", oracle)):
        if source_ is not None and tuple(source_.shape) != shape:
            raise BootdiffError(
                f"{what}: samples are {_by(source_.shape)}, the full ones {_by(shape)}; they must be alike"
            )
        if source_ is not None:
            check_rate(source_, pool, 1.0, what)
    materials = with_common_classes(Problem(train, held, views, test, oracle))
    load_models(recipe, materials.views, shape, materials.classes)
    return materials


def method_settings(recipe: Recipe, shape: Sequence[int]) -> MethodSettings:
    """All that the stages need of a recipe beside its data, for full samples of `shape`.

    Raises:
        BootdiffError: no model where `init` says.
    """
    recipe = recipe.with_defaults_for(shape)

    def networks(blocks: Mapping[str, Any]) -> dict[str, Any]:
        return divided({name: block.network() for name, block in blocks.items()})

    def view(name: str) -> ViewSettings:
        spec = recipe.views[name]
        inner = None if spec.views is None else method_settings(recipe.inner(name), shape)
        training = recipe.training_for("views", name).settings()
        return ViewSettings(networks(recipe.backbones_for(name)), training, spec.start, inner, spec.pixels)

    distill = recipe.distill
    own = None if distill.backbones is None else networks(distill.backbones)
    return MethodSettings(
        networks=networks(recipe.backbones),
        views={name: view(name) for name in recipe.views},
        training={part: recipe.training_for(part).settings() for part in PARTS},
        levels=tuple(recipe.levels),
        seed=recipe.seed,
        flip=recipe.flip,
        gains=recipe.gains.settings(),
        residual=recipe.residual.settings(),
        distillation=DistillationSettings(distill.samples, own),
        sampling=recipe.sampling.settings(),
        init={name: _opened(recipe, path, f"init.{name}")[0] for name, path in recipe.init.items()},
    )


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
            source = open_data(recipe, spec.data, f"{where(path)}.data", pool, material.through, spec.std)
        elif spec.pretrained is None:
            corruption = None if spec.corruption is None else spec.corruption.model_dump()
            assert pool is not None
            assert shares is not None
            cut, seed = Subset(pool, shares[path]), recipe.seed * 1009 + number
            source = Simulated(cut, material.through, seed=seed, corruption=corruption)
        if source is not None:
            around = None
            if outer is not None:
                around = where(path).rpartition(".views.")[0], outer.through.shape(tuple(shape))
            source = partial_data(
                material.through, source, shape, where(path), full_samples=None if spec.data is None else pool,
                around=around, offsets=None if spec.offsets is None else read_offsets(level.locate(spec.offsets)),
            )  # fmt: skip
            held = spec.held_out(len(source), path)
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
        return ViewData(clean, through)
    unit = 1.0 if around is None else around.scale
    return ViewData(Observed(clean, spec.std * unit), Observed(through, spec.std))


def _clean(view: View) -> View:
    """A view without the noise of its files."""
    return view.view if isinstance(view, Observed) else view


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
        denoiser, located = _opened(recipe, folder, key)
        size = material.through.shape(tuple(shape))
        material.pretrained = as_view(denoiser, size, material.through.scale, classes, key, located)
    for material in every.values():
        if material.owner is not None:
            material.pretrained = every[material.owner].pretrained


def _opened(recipe: Recipe, folder: str, key: str) -> tuple[Denoiser, Path]:
    """The model in a folder that the recipe names under `key`, and where that is."""
    located = recipe.locate(folder)
    try:
        return open_pretrained(located), located
    except BootdiffError as error:
        raise BootdiffError(f"{key}: {error}") from None


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)
