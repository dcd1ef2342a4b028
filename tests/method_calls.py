"""The stages of a recipe's run, for the tests that call them by themselves."""

from __future__ import annotations

from bootdiff.method.plan import plan
from bootdiff.method.stages import Bootstrap
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.serialization import save


def bootstrap(recipe, problem, run, accelerator, **more):
    return Bootstrap(
        method_settings(recipe, problem.shape), problem, run, accelerator, **{"log": lambda text: None, **more}
    )


def save_arm(boot, arm):
    """Write an arm's denoiser into its run; returns the folder."""
    save(boot.denoiser(arm), boot.run.path / arm)
    return boot.run.path / arm


def trainings(recipe, arms):
    """Names of the networks that arms need."""
    problem = build_problem(recipe)
    return [stage.name for stage in plan(method_settings(recipe, problem.shape), problem, arms).trainings]
