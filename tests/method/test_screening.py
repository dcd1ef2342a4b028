"""What a view knows beside what the full samples teach: nothing new gives weight 0, and then bootdiff is full-only."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method import left_out
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.method.weights import Weights, fit_weights
from bootdiff.recipe.blocks import Gains
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.training.run import Run
from bootdiff.views import Crop, Downsample
from method_calls import bootstrap

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6, 6.4)


def smooth(length):
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    return Gaussian(torch.zeros(SHAPE), torch.exp(-torch.cdist(pixels, pixels) / length))


def screened(law, others, against, count=300, seed=0, levels=LEVELS, **how):
    views = {"left": Crop((4, 2), (0, 0)), "small": Downsample(2)}
    exact = {name: (views[name], other.marginal(views[name])) for name, other in others.items()}
    composite = CompositeDenoiser(exact, IsotropicGaussian(SHAPE, [0.0], 1.0), levels)
    samples = SampleSet(law.sample(count, torch.Generator().manual_seed(seed)).float())
    moments = Validator(samples, composite, levels, draws=2, seed=seed).evidence_moments(against)
    return fit_weights(moments, levels, nonnegative=True, **how)


def test_exact_views_have_no_news_for_who_knows_the_law():
    law = smooth(2.0)
    assert (screened(law, {"left": law, "small": law}, law).values == 0).all()


def test_an_exact_view_has_news_for_who_knows_a_wrong_law():
    law = smooth(2.0)
    found = screened(law, {"left": law}, smooth(0.2)).values[:, 0]
    assert (found[1:3] > 0.5).all()


def test_a_view_of_another_law_has_none():
    law, other = smooth(2.0), smooth(0.7)
    # Against the white base it does have something to say: the reason why gains alone do not tell.
    against_nothing = screened(law, {"left": other}, None)
    assert (against_nothing.values > 0.1).any()
    assert (screened(law, {"left": other}, law).values == 0).all()


@pytest.mark.slow  # 120 regressions on draws of 20 samples: 14 s
def test_few_samples_see_faint_news_better_in_one_question_than_level_by_level():
    """Share of 30 draws of 20 samples in which a view is found to have news: where there is nothing new (dissimilar, or
    the law is known), and where there is a little."""
    law, levels = smooth(2.0), (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)

    def found(other, against, **how):
        kept = [screened(law, {"small": other}, against, 20, seed, levels, **how).values.any() for seed in range(30)]
        return sum(map(float, kept)) / len(kept)

    ours = {"prune": Gains().screen, "joint": True}
    assert found(smooth(0.7), law, **ours) <= 0.1
    assert found(law, law, **ours) <= 0.2
    faint = smooth(1.0)
    assert found(law, faint, **ours) >= 0.45
    assert found(law, faint, prune=2.0) <= 0.25


RECIPE = """
simulate: {pool: {path: digits}, full: 20, test: 10, limit: 30}
views: {small: {view: {kind: downsample, factor: 2}}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 4, evaluate_every: 2}
gains: {draws: 1}
"""


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def test_without_news_bootdiff_is_full_only(tmp_path, accelerator, monkeypatch):
    recipe = load_recipe_text(RECIPE)
    materials = build_problem(recipe)
    none = torch.zeros(len(recipe.levels), 1, dtype=torch.float64)
    monkeypatch.setattr(Bootstrap, "_screening", lambda self, composite: Weights(none, none[:, 0], none, 0.0, 0.0))
    with Run.open(tmp_path / "run", recipe.dump(place=False), materials.fingerprint()) as run:
        said: list[str] = []
        b = bootstrap(recipe, materials, run, accelerator, log=said.append)
        mine, full = b.denoiser("bootdiff"), b.denoiser("full_only")
        assert not b.denoiser("views_only").views
        assert left_out.recorded(run) == {"small": "small: left out, it adds nothing to what the full samples teach"}
        assert left_out.recorded(run)["small"] in said
        # the same where the view's network still improved in its last steps
        for k, row in enumerate(rows := [r for r in run.metrics("view-small-local") if "heldout" in r]):
            row["heldout"] = {"1": 0.5 - 0.1 * k}
        monkeypatch.setattr(run, "metrics", lambda stage=None: rows)
        (run.stages / "screening" / left_out.FILE).unlink()
        bootstrap(recipe, materials, run, accelerator, log=said.append).denoiser("views_only")
        assert said[-1] == left_out.recorded(run)["small"]
        assert "view-small-local by 20.0 %" in said[-1]
        assert "train it longer" in said[-1]
    x, sigma = torch.randn(5, *materials.shape), torch.tensor([0.05, 0.2, 0.8, 3.0, 20.0])
    assert torch.equal(mine(x, sigma), full(x, sigma))
    assert not (tmp_path / "run" / "stages" / "residual-local").exists()


def test_it_is_told_meanwhile_how_far_a_regression_is():
    """Probes above the noise of the samples, all of them, each once; and by the stages only what takes seconds."""
    law, told = smooth(2.0), []
    small = {"small": (Downsample(2), law.marginal(Downsample(2)))}
    composite = CompositeDenoiser(small, IsotropicGaussian(SHAPE, [0.0], 1.0), LEVELS)
    samples = SampleSet(law.sample(70, torch.Generator().manual_seed(0)).float())
    validator = Validator(samples, composite, LEVELS, 2, tau=0.2, tick=lambda done, of: told.append((done, of)))
    validator.evidence_moments()
    assert told == [(k, 3 * 2 * 2) for k in range(1, 13)]  # three levels, two draws, batches of 64 and 6
    told.clear()
    for _ in range(2):  # the second time from memory
        validator.residual_moments([law])
    assert told == 2 * [(k, 12) for k in range(1, 13)]


def test_what_takes_no_time_is_not_told(tmp_path, monkeypatch):
    recipe = load_recipe_text(RECIPE)
    told = []
    with Run.open(tmp_path / "run", None) as run:
        boot = bootstrap(recipe, build_problem(recipe), run, None)
        boot.progress = told.append
        boot.ticker("gains", 10)(1, 4)
        assert told == []
        monkeypatch.setattr("bootdiff.method.trainer._WORTH_TELLING", -1.0)
        boot.ticker("gains", 10)(1, 4)
    (one,) = told
    assert (one.stage, one.step, one.steps, one.loss) == ("gains", 1, 4, None)
    assert one.images_per_second > 0
