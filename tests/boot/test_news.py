"""What a view knows beside what the full samples teach: nothing new gives weight 0, and then bootdiff is full-only."""

from __future__ import annotations

import pytest
import torch

from bootdiff.boot.composite import Composite
from bootdiff.boot.gains import Weights, fit_weights
from bootdiff.boot.materials import gather
from bootdiff.boot.objective import HeldOut, Samples
from bootdiff.boot.stages import Bootstrap
from bootdiff.denoise import White
from bootdiff.recipe import load_recipe_text
from bootdiff.runs import Run
from bootdiff.theory.exact import Gaussian
from bootdiff.views import Crop, Downsample

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6, 6.4)


def smooth(length):
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    return Gaussian(torch.zeros(SHAPE), torch.exp(-torch.cdist(pixels, pixels) / length))


def news(law, others, against):
    views = {"left": Crop((4, 2), (0, 0)), "small": Downsample(2)}
    denoisers = {name: other.through(views[name]) for name, other in others.items()}
    composite = Composite(White(SHAPE, [0.0], 1.0), {n: views[n] for n in others}, denoisers, LEVELS)
    samples = Samples(law.sample(300, torch.Generator().manual_seed(0)).float())
    moments = HeldOut(samples, composite, LEVELS, draws=2).evidence_moments(against)
    return fit_weights(moments, LEVELS, nonnegative=True)


def test_exact_views_have_no_news_for_who_knows_the_law():
    law = smooth(2.0)
    assert (news(law, {"left": law, "small": law}, law).values == 0).all()


def test_an_exact_view_has_news_for_who_knows_a_wrong_law():
    law = smooth(2.0)
    found = news(law, {"left": law}, smooth(0.2)).values[:, 0]
    assert (found[1:3] > 0.5).all()


def test_a_view_of_another_law_has_none():
    law, other = smooth(2.0), smooth(0.7)
    # Against the white base it does have something to say: the reason why gains alone do not tell.
    against_nothing = news(law, {"left": other}, None)
    assert (against_nothing.values > 0.1).any()
    assert (news(law, {"left": other}, law).values == 0).all()


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
    materials = gather(recipe)
    none = torch.zeros(len(recipe.levels), 1, dtype=torch.float64)
    monkeypatch.setattr(Bootstrap, "_news", lambda self, composite: Weights(none, none[:, 0], none, 0.0, 0.0))
    with Run.open(tmp_path / "run", recipe.dump(place=False), materials.fingerprint()) as run:
        b = Bootstrap(recipe, materials, run, accelerator, say=lambda text: None)
        mine, full = b.denoiser("bootdiff"), b.denoiser("full_only")
        assert not b.denoiser("views_only").views
    x, sigma = torch.randn(5, *materials.shape), torch.tensor([0.05, 0.2, 0.8, 3.0, 20.0])
    assert torch.equal(mine(x, sigma), full(x, sigma))
    assert not (tmp_path / "run" / "residual-local").exists()
