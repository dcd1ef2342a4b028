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

from bootdiff.data import Dataset, Reclassed, Subset, common_classes, report_problems, split_by_recording
from bootdiff.errors import BootdiffError
from bootdiff.method.losses import SampleSet
from bootdiff.recipe.build import (
    ViewData,
    check_rate,
    every_view,
    gather_views,
    hold_out,
    load_models,
    open_data,
    takers,
)
from bootdiff.recipe.open_model import fingerprint
from bootdiff.recipe.schema import Recipe
from bootdiff.views import Compose, Crop, Observed, View

__all__ = ["Problem", "ViewData", "build_problem", "in_memory", "mirrors"]


@dataclass
class Problem:
    """All of a recipe's data. `oracle` and `test` are None where there are none."""

    full: Dataset
    held_out: Dataset
    test: Dataset | None
    oracle: Dataset | None
    views: dict[str, ViewData]

    @property
    def classes(self) -> list[str] | None:
        """The classes that labels number, the same in every source that has labels; None where none has."""
        return next((s.classes for s in self.sources().values() if s.classes is not None), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a full sample, (C, *space)."""
        return tuple(self.full.shape)

    def sources(self) -> dict[str, Dataset]:
        """Every source by a name for reports."""
        named: dict[str, Dataset | None] = {"full": self.full, "full (held out)": self.held_out, "test": self.test}
        named["oracle"] = self.oracle
        for path, v in self.every_view().items():
            if v.owner is None:
                named |= {f"view {path}": v.train, f"view {path} (held out)": v.held_out}
        return {name: source for name, source in named.items() if source is not None}

    def every_view(self) -> dict[str, ViewData]:
        """Every view by its path, those inside others too."""
        return dict(every_view(self.views))

    def inner(self, name: str) -> Problem:
        """The materials of a view's own problem, in which its samples are the full ones."""
        v = self.views[name]
        assert v.train is not None
        assert v.held_out is not None
        return Problem(v.train, v.held_out, None, None, v.views)

    def problems(self) -> list[dict[str, str]]:
        """Files that were left out, and why."""
        return report_problems(self.sources())

    def fingerprint(self) -> str:
        """Hexadecimal digits that change whenever any of the data does."""
        said = {name: source.fingerprint() for name, source in self.sources().items()}
        for path, v in self.every_view().items():
            if v.pretrained is not None and v.owner is None:
                said[f"view {path} (pretrained)"] = fingerprint(v.pretrained)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def in_memory(
    source: Dataset, scale: float = 1.0, view: View | None = None, full: tuple[int, ...] | None = None
) -> SampleSet:
    """All samples of a (small) source at once, in view coordinates; masked-out coordinates are 0."""
    x, label, mask = source.batch(range(len(source)))
    if mask is None and view is not None and full is not None:
        fixed = view.mask(full) if view.is_fixed else None
        mask = None if fixed is None else fixed.expand(len(x), *fixed.shape).clone()
    x = x * scale
    return SampleSet(x if mask is None else x * mask, label, mask, source.positions(range(len(source))))


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
    materials = _agreed(Problem(train, held, test, oracle, views))
    load_models(recipe, materials.views, shape, materials.classes)
    return materials


def _agreed(m: Problem) -> Problem:
    """The same materials with one list of classes; sources without labels stay so."""
    classes = common_classes(m.sources())

    def same(source: Dataset | None) -> Dataset | None:
        fits = classes is None or source is None or source.classes in (None, classes)
        return source if fits else Reclassed(source, classes)  # type: ignore[arg-type]

    for v in m.every_view().values():
        v.train, v.held_out = same(v.train), same(v.held_out)
    full, held_out = same(m.full), same(m.held_out)
    assert full is not None
    assert held_out is not None
    return Problem(full, held_out, same(m.test), same(m.oracle), m.views)


def mirrors(view: View, full: tuple[int, ...]) -> bool:
    """Whether the view of a mirrored sample is the mirrored view, so that its files may be flipped in training.

    Only pictures and videos are mirrored, along their width, never in time. Windows cut anywhere and masks drawn anew
    mirror in law; a fixed window or mask is tried out. Told how far to the left it looks, a view does not mirror.
    """
    if len(full) < 3:
        return False
    if isinstance(view, Compose | Observed):
        inner, outer = view.inner, view.outer
        if not view.is_fixed:
            return mirrors(inner, full) and mirrors(outer, inner.shape(full))
    elif not view.is_fixed:
        return not (view.position_conditioned and isinstance(view, Crop))
    x = torch.randn(1, *full, generator=torch.Generator().manual_seed(0))
    return torch.allclose(view(x.flip(-1)), view(x).flip(-1), atol=1e-6)


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)
