"""What a run computes between its trainings: held-out regressions and a few samples, which train nothing and take time.

Priced in answers, a network's estimate of one noisy sample, a third of what a training step takes for it:

    screening        held-out samples * levels * `DRAWS` * (views + full-only)         `regressions.screen_views`
    gains            full samples * levels * `gains.draws` * views                     `regressions.gains`
    weights          held-out samples * levels * `DRAWS` * denoiser                    `regressions.kappa`
    noise shift      samples drawn * solver steps * denoiser, once or twice            `noise_shift.measure`

where a view takes an answer of its networks for each of its placements, and bootdiff's denoiser asks views, full-only's
networks, those of all visible pixels and the residual's. That is an upper bound: networks without weight at a noise
level are not asked there. Left out: views of views' samples, and whatever is small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bootdiff.method import noise_shift
from bootdiff.method.plan import parts_of
from bootdiff.method.problem import Problem
from bootdiff.method.regressions import DRAWS
from bootdiff.method.settings import MethodSettings
from bootdiff.method.visible import visible_views
from bootdiff.moments.spectrum import has_detail

__all__ = ["Between", "between"]

_PASSES = 1.5  # noise shift: one, and another one where detail is missing
_EVALUATIONS = {"heun": 2, "dpm": 1, "euler": 1}


@dataclass(frozen=True)
class Between:
    """seconds: expected; arms: those that need it."""

    name: str
    seconds: float
    arms: Collection[str]


def between(
    settings: MethodSettings, problem: Problem, answers: Mapping[str, float], arms: Sequence[str]
) -> list[Between]:
    """What these arms compute between trainings.

    Args:
        answers: seconds of one answer of a network, by the name of its stage.
    """

    def of(part: str, networks: Collection[str]) -> float:
        return sum(answers.get(f"{part}-{network}", 0.0) for network in networks)

    shape, how, gains = problem.shape, settings.sampling, settings.gains
    held, every = len(problem.held_out), len(problem.held_out) + len(problem.full)
    full = of("full", settings.networks)
    views = sum(
        len(material.view.placements(shape)) * of(f"view-{name}", settings.views[name].networks)
        for name, material in problem.views.items()
        if material.is_trained
    )
    levels = len(settings.levels)
    drawn = 0.0
    if how.noise_shift == "auto" and has_detail(shape):
        drawn = _PASSES * _EVALUATIONS[how.scheduler] * how.steps * noise_shift.count_of(shape)

    def finished(name: str, answer: float, needed_by: Collection[str]) -> Between:
        return Between(f"weights of {name}", (held * levels * DRAWS + drawn) * answer, needed_by)

    parts = {arm: parts_of(arm, settings, problem) for arm in arms}
    fitted = [arm for arm in arms if "view" in parts[arm] and gains.mode == "fit"]
    seen = 1 + bool(settings.residual.full_experts) + bool(visible_views(settings, problem))
    found = [
        Between("screening, gains", levels * (held * DRAWS * (views + full) + every * gains.draws * views), fitted),
        finished("full-only", full, {*fitted, *(arm for arm in arms if arm == "full_only")}),
        finished("bootdiff", views + seen * full, [arm for arm in arms if arm in ("bootdiff", "distilled")]),
        finished("oracle", of("oracle", settings.networks), [arm for arm in arms if arm == "oracle"]),
    ]
    return [row for row in found if row.arms and row.seconds > 0]
