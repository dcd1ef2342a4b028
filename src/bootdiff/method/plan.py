"""Which networks an arm needs, by the names of their stages, in the order in which `stages.Bootstrap` trains them.

Inside a view with views of its own, names begin with the view's: view-clips.view-stills-unet, view-clips.residual-unet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bootdiff.recipe.build import level_of, owners
from bootdiff.recipe.schema import Recipe

__all__ = ["trainings"]


def trainings(recipe: Recipe, arms: Sequence[str]) -> list[str]:
    """Names of the trainings that these arms need, in the order they are run; each network once."""
    shared = owners(recipe)
    return list(dict.fromkeys(name for arm in arms for name in _arm(recipe, recipe, arm, "", shared)))


def _arm(top: Recipe, recipe: Recipe, arm: str, around: str, shared: Mapping[str, str]) -> list[str]:
    """Those of an arm of `recipe`, which is that of the view at the path `around` (of the full samples: "")."""
    if arm == "distilled":
        return [
            *_arm(top, recipe, "bootdiff", around, shared),
            *(f"distilled-{net}" for net in recipe.distill_backbones),
        ]
    names: list[str] = []
    nets, prefix = list(recipe.backbones), _prefix(around)
    if arm in ("views_only", "unregularized", "bootdiff") and recipe.begins_at_full:
        names += [f"{prefix}full-{net}" for net in nets]
    if arm in ("views_only", "unregularized", "bootdiff"):
        for name in recipe.views:
            names += _view(top, f"{around}.{name}" if around else name, shared)
    # What a view knows is measured beside what the full samples alone teach.
    judged = recipe.gains.mode == "fit" and arm in ("views_only", "unregularized", "bootdiff")
    # Residual experts may start at the full-only networks.
    begun = recipe.residual.warm_start and arm in ("unregularized", "bootdiff")
    if arm == "full_only" or judged or begun or (arm == "bootdiff" and recipe.residual.full_experts):
        names += [f"{prefix}full-{net}" for net in nets]
    if arm in ("unregularized", "bootdiff"):
        own = arm == "unregularized" and recipe.residual.penalized
        names += [f"{prefix}{'unregularized' if own else 'residual'}-{net}" for net in nets]
    if arm == "oracle":
        names += [f"{prefix}oracle-{net}" for net in nets]
    return names


def _view(top: Recipe, path: str, shared: Mapping[str, str]) -> list[str]:
    path = shared.get(path, path)
    level, name = level_of(top, path)
    spec = level.views[name]
    if spec.pretrained is not None:
        return []
    if spec.views is not None:
        return _arm(top, level.inner(name), "bootdiff", path, shared)
    prefix = _prefix(path.rpartition(".")[0])
    return [f"{prefix}view-{name}-{net}" for net in level.backbones_for(name)]


def _prefix(path: str) -> str:
    return "".join(f"view-{name}." for name in path.split(".")) if path else ""
