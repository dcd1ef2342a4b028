"""The denoiser of a view that the full samples teach: what it is trained on, for how long, and of which views."""

from __future__ import annotations

import pytest
import torch

from bootdiff.method.ceilings import learned_from_full, remarks, seen_through
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.training.run import Run
from bootdiff.views import Crop, Downsample, Observed
from method_calls import bootstrap

RECIPE = """
simulate: {pool: {path: digits}, full: 20, test: 10, limit: 60}
full: {holdout: 8}
views:
  noisy: {view: {kind: downsample, factor: 2}, std: 0.3}
  crops: {view: {kind: crop, size: [4, 4], position_conditioned: true}}
  holes: {view: {kind: random_mask}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 4, evaluate_every: 2}
levels: [0.2, 1, 3]
gains: {draws: 1}
"""


@pytest.fixture(scope="module")
def recipe():
    return load_recipe_text(RECIPE)


def test_full_samples_are_seen_without_the_noise_of_the_files_and_in_many_windows(recipe):
    full = build_problem(recipe).full
    seen = seen_through(full, Observed(Downsample(2), std=0.3), 0, draws=16)
    assert len(seen) == len(full)
    torch.testing.assert_close(seen[3].x * 2, Downsample(2)(full[3].x[None])[0])
    windows = seen_through(full, Crop((4, 4)), 0, draws=16)
    assert len(windows) == 16 * len(full)
    same = [windows[3 + k * len(full)].x for k in range(16)]
    assert len({tuple(x.flatten().tolist()) for x in same}) > 4


def test_it_is_trained_as_the_views_networks_are(tmp_path, recipe):
    from accelerate import Accelerator

    problem = build_problem(recipe)
    with Run.open(tmp_path / "run", recipe.dump(place=False), problem.fingerprint()) as run:
        stages = bootstrap(recipe, problem, run, Accelerator(cpu=True))
        for name, v in problem.views.items():
            denoiser = learned_from_full(stages, name)
            assert denoiser.shape == tuple(v.through.shape(problem.shape))
            assert stages.ledger[f"ceiling-{name}-local"]["steps"] == 4
            several = [text for text in remarks(stages, name) if "one window or mask" in text]
            assert bool(several) == (name != "noisy")
        problem.views["noisy"].owner = "crops"
        with pytest.raises(ValueError, match="noisy"):
            learned_from_full(stages, "noisy")


def test_it_takes_no_more_steps_than_full_only(tmp_path, recipe):
    from dataclasses import replace

    from accelerate import Accelerator

    problem = build_problem(recipe)
    with Run.open(tmp_path / "run", recipe.dump(place=False), problem.fingerprint()) as run:
        stages = bootstrap(recipe, problem, run, Accelerator(cpu=True))
        training = dict(stages.settings.training)
        training["full"] = replace(training["full"], steps=3)
        stages.settings = replace(stages.settings, training=training)
        learned_from_full(stages, "noisy")
        assert stages.ledger["ceiling-noisy-local"]["steps"] == 3
