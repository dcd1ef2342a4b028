"""Which networks an arm needs: written once, as data.  Trained, priced, shown and reported from it.

An arm is made of *parts*, each part of one training per network:

    full_only       full
    views_only      the views' (and full and visible, where views are screened against full-only or start at these)
    unregularized   the views', full, visible, residual (unregularized, where settings regularize the training itself)
    bootdiff        the views', full, visible, residual
    distilled       bootdiff's, distilled
    oracle          oracle

`visible`, networks of all visible pixels, are there only where a view shows pixels.

A view with views of its samples needs its own bootdiff.  Inside it, the names of stages begin with the view's:
view-clips.view-stills-unet, view-clips.residual-unet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bootdiff.method.problem import Problem
from bootdiff.method.settings import MethodSettings
from bootdiff.method.visible import visible_views

__all__ = ["ARMS", "Part", "Plan", "Stage", "parents_of", "parts_of", "plan", "prefix_of"]

ARMS = ("full_only", "views_only", "unregularized", "bootdiff", "distilled", "oracle")
"""What can be trained from one problem; every arm is made of the same parts."""

Part = Literal["view", "full", "visible", "residual", "unregularized", "distilled", "oracle"]


@dataclass(frozen=True)
class Stage:
    """One network to be trained, or (`trained` False) something else that has a cost.

    part: what it is trained as.  network: its name among the part's networks.  view: the view whose files it is trained
    on, for the part "view".  around: path of the view whose problem it belongs to; "" for the full samples'.
    """

    part: Part
    network: str
    view: str | None = None
    around: str = ""
    trained: bool = True

    @property
    def own_name(self) -> str:
        """Its name inside its problem."""
        return f"view-{self.view}-{self.network}" if self.part == "view" else f"{self.part}-{self.network}"

    @property
    def name(self) -> str:
        """Its name in the run."""
        return prefix_of(self.around) + self.own_name


@dataclass(frozen=True)
class Plan:
    """The stages of arms: `by_arm` has those of each, in the order in which they are trained."""

    by_arm: dict[str, tuple[Stage, ...]]

    @property
    def stages(self) -> list[Stage]:
        """Every stage of the arms, each once, in the order in which they are trained."""
        return list(dict.fromkeys(stage for stages in self.by_arm.values() for stage in stages))

    @property
    def trainings(self) -> list[Stage]:
        """The networks to be trained."""
        return [stage for stage in self.stages if stage.trained]

    def names(self, arm: str) -> list[str]:
        """Names of an arm's stages."""
        return [stage.name for stage in self.by_arm[arm]]


def prefix_of(path: str) -> str:
    """What the names of stages begin with inside the view at this path.

    >>> prefix_of("clips.stills"), prefix_of("")
    ('view-clips.view-stills.', '')
    """
    return "".join(f"view-{name}." for name in path.split(".")) if path else ""


def parts_of(arm: str, settings: MethodSettings, problem: Problem) -> tuple[Part, ...]:
    """The parts that an arm is made of, in the order in which they are trained."""
    if arm == "distilled":
        return (*parts_of("bootdiff", settings, problem), "distilled")
    if arm in ("full_only", "oracle"):
        return ("full",) if arm == "full_only" else ("oracle",)
    residual, found = settings.residual, ["view"]
    # Views' networks may start at full-only's; what a view adds is measured beside full-only; the residual may start at
    # its networks; and they are experts of bootdiff's stack.
    first = any(settings.views[name].start == "best" and v.is_trained for name, v in problem.views.items())
    visible = ["visible"] if visible_views(settings, problem) else []
    if first:
        found = ["full", *visible, *found]
    elif (
        settings.gains.mode == "fit"
        or (arm != "views_only" and residual.warm_start)
        or (arm == "bootdiff" and residual.full_experts)
    ):
        found.append("full")
    if arm == "bootdiff":
        found += ["residual"] if first else [*visible, "residual"]
    if arm == "unregularized":
        found.append("unregularized" if residual.penalties else "residual")
    return tuple(found)  # type: ignore[arg-type]


def plan(settings: MethodSettings, problem: Problem, arms: Sequence[str]) -> Plan:
    """The stages that these arms need."""
    top = (settings, problem)
    return Plan({arm: tuple(dict.fromkeys(_arm(top, settings, problem, arm, ""))) for arm in arms})


def parents_of(settings: MethodSettings, problem: Problem, stage: Stage) -> list[Stage]:
    """The networks that must be trained before this one, in the order in which they are; none: it can begin at once.

    Those that it may start at are among them, whether or not it does in the end (`warm_start`).
    """
    top, around = (settings, problem), stage.around
    for step in around.split(".") if around else []:
        inner = settings.views[step].inner
        assert inner is not None
        settings, problem = inner, problem.inner(step)
    found: list[Stage] = []
    if stage.part in ("residual", "unregularized", "distilled"):
        arm = "bootdiff" if stage.part == "residual" else stage.part
        every = _arm(top, settings, problem, arm, around)
        if stage not in every:  # without penalties, `unregularized` is made of the residual's own networks
            every = _arm(top, settings, problem, "unregularized", around)
        first = next(k for k, other in enumerate(every) if (other.part, other.around) == (stage.part, around))
        found = every[:first]
    elif stage.part == "view" and stage.view is not None and settings.views[stage.view].start == "best":
        parts: list[Part] = ["full", *(["visible"] if visible_views(settings, problem) else [])]  # type: ignore[list-item]
        found = [Stage(part, network, around=around) for part in parts for network in settings.networks]
        own = [name for name, v in problem.views.items() if v.is_trained]
        for name in own[: own.index(stage.view)]:
            found += [Stage("view", network, name, around) for network in settings.views[name].networks]
    return list(dict.fromkeys(other for other in found if other.trained))


_Level = tuple[MethodSettings, Problem]


def _arm(top: _Level, settings: MethodSettings, problem: Problem, arm: str, around: str) -> list[Stage]:
    found: list[Stage] = []
    for part in parts_of(arm, settings, problem):
        if part == "view":
            for name in problem.views:
                found += _view(top, f"{around}.{name}" if around else name)
        else:
            if part == "distilled":
                found.append(Stage(part, "samples", around=around, trained=False))
            networks = settings.distilled_networks if part == "distilled" else settings.networks
            found += [Stage(part, network, around=around) for network in networks]
    return found


def _view(top: _Level, path: str) -> list[Stage]:
    settings, problem = top
    *outer, name = path.split(".")
    for step in outer:
        inner = settings.views[step].inner
        assert inner is not None
        settings, problem = inner, problem.inner(step)
    v, around = problem.views[name], ".".join(outer)
    if v.owner is not None:
        return _view(top, v.owner)
    if v.pretrained is not None:
        return [Stage("view", "pretrained", name, around, trained=False)]
    inner = settings.views[name].inner
    if inner is not None:
        return _arm(top, inner, problem.inner(name), "bootdiff", path)
    return [Stage("view", network, name, around) for network in settings.views[name].networks]
