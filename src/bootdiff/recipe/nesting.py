"""Views of views in a recipe: their paths, and what cannot be between them.

A view may have views of its own, and so on: stills of short clips of long videos.  The path of such a view is its
name after the names of those around it, `clips.stills`.  A view depends on the views inside it and, by `same_as`, on
the view whose denoiser it takes; training follows these arrows, so they must not lead in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bootdiff.recipe.blocks import ViewSpec

__all__ = ["location", "problems", "walk"]

Mistake = tuple[tuple[str | int, ...], str]


def walk(views: Mapping[str, ViewSpec]) -> Iterator[tuple[str, ViewSpec]]:
    """Every view by its path, the outer ones before the inner ones."""
    queue = list(views.items())
    for path, spec in queue:  # grows: breadth first
        yield path, spec
        queue += [(f"{path}.{name}", inner) for name, inner in (spec.views or {}).items()]


def location(path: str, *keys: str | int) -> tuple[str | int, ...]:
    """Where a view stands in the recipe.

    >>> location("clips.stills", "data")
    ('views', 'clips', 'views', 'stills', 'data')
    """
    return (*(part for name in path.split(".") for part in ("views", name)), *keys)


def problems(views: Mapping[str, ViewSpec]) -> Iterator[Mistake]:
    """What is wrong between a view, its views and the view that it is the same as."""
    there = dict(walk(views))
    for path, spec in there.items():
        yield from _alone(path, spec)
        yield from _told(path, spec)
        other = spec.same_as
        if other is not None and other not in there:
            known = ", ".join(name for name in there if name != path)
            yield location(path, "same_as"), f"there is no view {other!r}; known: {known}"
    for path, spec in there.items():
        if spec.same_as in there and (circle := _circle(there, path)):
            yield (
                location(path, "same_as"),
                f"refers to itself: {' -> '.join(circle)}; train one of them on its own data",
            )


def _alone(path: str, spec: ViewSpec) -> Iterator[Mistake]:
    """What a view that is not trained on its own data cannot have."""
    given: dict[str, Any] = {
        "data": spec.data, "pretrained": spec.pretrained, "views": spec.views, "std": spec.std,
        "backbone": spec.backbone, "training": spec.training.model_fields_set, "corruption": spec.corruption,
    }  # fmt: skip
    if spec.same_as is not None:
        for key in (key for key, value in given.items() if value):
            yield location(path, key), f"with same_as, that of view {spec.same_as!r} counts; leave one of the two out"
    elif spec.pretrained is not None:
        for key in ("views", "std", "backbone", "training", "corruption"):
            if given[key]:
                yield location(path, key), "a pretrained view is not trained; leave one of the two out"
    if spec.views is not None and any(block.masked for block in spec.view):
        hint = "give the mask to the views inside, or these views to the full samples"
        yield location(path, "views"), f"a view that hides a part cannot have views of its own; {hint}"
    if spec.start == "full" and ("." in path or spec.views or spec.same_as or spec.pretrained):
        yield location(path, "start"), "full is for views of the full samples that are trained on their own files"
    if "." in path and spec.corruption is not None:
        yield location(path, "corruption"), "only for views of the full samples: leave it out"


def _told(path: str, spec: ViewSpec) -> Iterator[Mistake]:
    """What must be known, and what cannot be, where a view's network is told where its files lie."""
    position_conditioned = [i for i, block in enumerate(spec.view) if getattr(block, "position_conditioned", False)]
    if not position_conditioned:
        if spec.offsets is not None:
            yield (
                location(path, "offsets"),
                "only for a view with `position_conditioned: true`; leave it out, or tell its network",
            )
        return
    key = location(path, "view", position_conditioned[0], "position_conditioned")
    if "." in path or spec.views is not None:
        yield key, "only for views of the full samples that have no views of their own: leave it out"
    elif spec.same_as is not None or spec.pretrained is not None:
        yield key, "only for a view that is trained on its own files: leave it out"
    elif spec.offsets is not None and spec.data is None:
        yield location(path, "offsets"), "simulated files are known to lie where they were cut: leave it out"
    elif spec.offsets is None and spec.data is not None and any(block.n_offsets for block in spec.view):
        what = "an .npy array or a text file, a row of whole numbers for each file"
        yield (
            location(path, "offsets"),
            f"missing, but required with `position_conditioned: true`: where each file lies, {what}",
        )


def _circle(there: Mapping[str, ViewSpec], start: str) -> list[str]:
    """A way from a view along `same_as` and to the views inside that leads back to it; empty where there is none."""
    done: set[str] = set()

    def follow(path: str) -> list[str]:
        spec = there[path]
        after = [f"{path}.{name}" for name in spec.views or {}]
        after += [spec.same_as] if spec.same_as is not None and spec.same_as in there else []
        for step in after:
            if step == start:
                return [path, step]
            if step not in done:
                done.add(step)
                if rest := follow(step):
                    return [path, *rest]
        return []

    return follow(start)
