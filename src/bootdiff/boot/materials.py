"""What a recipe's data blocks stand for: sources of full, held-out, test and partial samples, of different files each.

    full samples -> training + held out;  test: reporting alone;  view i: training + held out, in its own stored scale.

With `simulate`, a pool of full samples is divided at random: n stay full, some are for the test, and the rest is cut
into views, each file into one view only (or into every view with `share: all`); the oracle gets all but test and
held-out ones.

Labels number one list of classes in all sources that have any. A network whose samples have none is trained without.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from bootdiff.boot.objective import Samples
from bootdiff.data import Reclassed, Simulated, Source, Subset, common_classes, open_source, report_problems, split
from bootdiff.errors import BootdiffError
from bootdiff.recipe import Recipe
from bootdiff.recipe_blocks import Data
from bootdiff.views import Observed, View, compose, from_config

__all__ = ["Materials", "ViewMaterial", "gather", "in_memory", "mirrors"]

# At most so many samples of a plentiful view are held out: enough for a choice among snapshots.
VIEW_HOLDOUT = 128


@dataclass
class ViewMaterial:
    """One kind of partial data: the view, its training and held-out files."""

    view: View
    train: Source
    held_out: Source


@dataclass
class Materials:
    """All of a recipe's data. `oracle` and `test` are None where there are none."""

    full: Source
    held_out: Source
    test: Source | None
    oracle: Source | None
    views: dict[str, ViewMaterial]

    @property
    def classes(self) -> list[str] | None:
        """The classes that labels number, the same in every source that has labels; None where none has."""
        return next((s.classes for s in self.sources().values() if s.classes is not None), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a full sample, (C, H, W)."""
        return tuple(self.full.shape)

    def sources(self) -> dict[str, Source]:
        """Every source by a name for reports."""
        named: dict[str, Source | None] = {"full": self.full, "full (held out)": self.held_out, "test": self.test}
        named["oracle"] = self.oracle
        for name, v in self.views.items():
            named |= {f"view {name}": v.train, f"view {name} (held out)": v.held_out}
        return {name: source for name, source in named.items() if source is not None}

    def problems(self) -> list[dict[str, str]]:
        """Files that were left out, and why."""
        return report_problems(self.sources())

    def fingerprint(self) -> str:
        """Hexadecimal digits that change whenever any of the data does."""
        said = {name: source.fingerprint() for name, source in self.sources().items()}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def in_memory(
    source: Source, scale: float = 1.0, view: View | None = None, full: tuple[int, ...] | None = None
) -> Samples:
    """All samples of a (small) source at once, in view coordinates; masked-out coordinates are 0."""
    x, label, mask = source.gather(range(len(source)))
    if mask is None and view is not None and full is not None:
        fixed = view.mask(full) if view.single else None
        mask = None if fixed is None else fixed.expand(len(x), *fixed.shape).clone()
    x = x * scale
    return Samples(x if mask is None else x * mask, label, mask)


def _open(recipe: Recipe, block: Data) -> Source:
    path: Any = "digits" if block.is_digits else recipe.locate(block.path)
    return open_source(path, **block.model_dump(exclude={"path", "holdout"}))


def _view(recipe: Recipe, name: str) -> View:
    view = compose(*(from_config(c) for c in recipe.view_configs(name)))
    std = recipe.views[name].std
    return Observed(view, std) if std else view


def gather(recipe: Recipe) -> Materials:
    """Open and divide everything the recipe names.

    Raises:
        BootdiffError: missing, empty or unreadable data; sizes or classes that do not fit; nothing left to train on.
    """
    full_ids: list[int]
    views: dict[str, ViewMaterial] = {}
    simulated = recipe.simulate
    if simulated is None:
        pool = _open(recipe, recipe.full)
        full_ids = list(range(len(pool)))
        test = None if recipe.test is None else _open(recipe, recipe.test)
        shares: dict[str, list[int]] = {}
    else:
        pool = _open(recipe, simulated.pool)
        wanted = simulated.full + (simulated.test or 0)
        takers = [name for name, spec in recipe.views.items() if spec.data is None]
        if wanted + len(takers) * 2 > len(pool):
            raise BootdiffError(
                f"simulate: full ({simulated.full}) and test ({simulated.test or 0}) leave {len(pool) - wanted} of the "
                f"pool's {len(pool)} samples for {len(takers)} view(s); ask for fewer, or bring a larger pool"
            )
        full_ids, test_ids, rest = split(len(pool), [simulated.full, simulated.test or 0, None], recipe.seed)
        if simulated.test:
            test = Subset(pool, test_ids)
        else:
            test = None if recipe.test is None else _open(recipe, recipe.test)
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
        shares = {
            name: sorted(
                rest[i] for i in (order if simulated.share == "all" else order[k :: len(takers)])[: simulated.limit]
            )
            for k, name in enumerate(takers)
        }
    full = Subset(pool, full_ids)
    count = recipe.full.held_out(len(full))
    held, train = split(len(full), [count, None], recipe.seed + 1)
    shape = tuple(full.shape)

    for k, (name, spec) in enumerate(recipe.views.items()):
        view = _view(recipe, name)
        try:
            wanted_shape = view.shape(shape)
        except ValueError as error:
            raise BootdiffError(f"views.{name}: {error}") from None
        if spec.data is None:
            corruption = None if spec.corruption is None else spec.corruption.model_dump()
            source: Source = Simulated(
                Subset(pool, shares[name]), view, seed=recipe.seed * 1009 + k, corruption=corruption
            )
        else:
            source = _open(recipe, spec.data)
        if tuple(source.shape) != tuple(wanted_shape):
            raise BootdiffError(
                f"views.{name}: its files are {_by(source.shape)} (channels x height x width), but full samples of "
                f"{_by(shape)} seen through this view are {_by(wanted_shape)}; correct the view's settings or the "
                f"files in {source.where}"
            )
        if view.masked and not view.single and not source.masked:
            raise BootdiffError(
                f"views.{name}: a random mask is known only from masks beside the files: set views.{name}.data.masks "
                f"to true and put NAME.mask.png beside NAME.png"
            )
        count = min(spec.held_out(len(source), name), VIEW_HOLDOUT)
        view_held, view_train = split(len(source), [count, None], recipe.seed + 2)
        views[name] = ViewMaterial(view, Subset(source, view_train), Subset(source, view_held))

    oracle: Source | None = None
    if simulated is not None:
        own = {full_ids[i] for i in held} | set(test_ids)
        oracle = Subset(pool, [i for i in range(len(pool)) if i not in own])
    elif recipe.oracle is not None:
        oracle = _open(recipe, recipe.oracle)
    for what, source_ in (("test", test), ("oracle", oracle)):
        if source_ is not None and tuple(source_.shape) != shape:
            raise BootdiffError(
                f"{what}: samples are {_by(source_.shape)}, the full ones {_by(shape)}; they must be alike"
            )
    return _agreed(Materials(Subset(full, train), Subset(full, held), test, oracle, views))


def _agreed(m: Materials) -> Materials:
    """The same materials with one list of classes; sources without labels stay so."""
    classes = common_classes(m.sources())

    def same(source: Source) -> Source:
        return source if classes is None or source.classes in (None, classes) else Reclassed(source, classes)

    views = {name: ViewMaterial(v.view, same(v.train), same(v.held_out)) for name, v in m.views.items()}
    test, oracle = (None if s is None else same(s) for s in (m.test, m.oracle))
    return Materials(same(m.full), same(m.held_out), test, oracle, views)


def mirrors(view: View, full: tuple[int, ...]) -> bool:
    """Whether the view of a mirrored sample is the mirrored view, so that its files may be flipped in training.

    Windows cut anywhere and masks drawn anew mirror in law; a fixed window or mask is tried out.
    """
    if not view.single:
        return True
    x = torch.randn(1, *full, generator=torch.Generator().manual_seed(0))
    return torch.allclose(view(x.flip(-1)), view(x).flip(-1), atol=1e-6)


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)
