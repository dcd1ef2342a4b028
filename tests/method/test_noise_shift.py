"""The understated noise: none for exact denoisers, and the exact cure of those that take the noise for too much."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.swap import SwappedDenoiser
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method import noise_shift
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.settings import SamplingSettings
from bootdiff.method.stack import StackedDenoiser
from bootdiff.pipeline import BootdiffPipeline, DenoiserModel
from bootdiff.sampling import sample
from bootdiff.serialization import load, save
from bootdiff.training.files import read_json, write_stamped

SHAPE = (1, 24, 24)


class Smooth(Denoiser):
    """Exact for white samples of deviation 0.5 about 0, but for believing the noise to be 1 + e times what it is."""

    def __init__(self, too_much=0.0, shape=SHAPE):
        super().__init__()
        self.shape, self.law, self.too_much = shape, IsotropicGaussian(shape, [0.0] * shape[0], 0.5), too_much

    def forward(self, x, sigma, label=None, context=None):
        return self.law(x, (1 + self.too_much) * sigma, label, context)


def real(n=200, shape=SHAPE):
    return 0.5 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(5))


def test_an_exact_denoiser_gets_none():
    shift, tried, found = noise_shift.measure(Smooth(), real(), SamplingSettings(), seed=0)
    assert shift == 0.0
    assert tried == [0.0]
    assert abs(found[0].log) < 3 * found[0].stderr


@pytest.mark.parametrize("too_much", [0.03, 0.05])
def test_one_that_smoothes_gets_what_makes_it_exact(too_much):
    shift, tried, found = noise_shift.measure(Smooth(too_much), real(400), SamplingSettings(), seed=0)
    assert tried == [0.0, noise_shift.TRIED]
    assert found[0].log < -2 * found[0].stderr
    assert shift == pytest.approx(1 - 1 / (1 + too_much), abs=0.008)


def test_no_more_than_the_most():
    assert noise_shift.measure(Smooth(0.5), real(), SamplingSettings(), seed=0)[0] == noise_shift.MOST


@pytest.mark.parametrize(
    ("shape", "count"), [((7,), 50), ((1, 4, 4), 50), (SHAPE, 3)], ids=["a table", "small pictures", "few pictures"]
)
def test_none_where_nothing_can_be_said(shape, count):
    assert noise_shift.measure(Smooth(0.5, shape), real(count, shape), SamplingSettings(), seed=0) == (0.0, [], [])


def test_samplers_take_the_denoisers_own_unless_told():
    soft = Smooth(0.04)
    plain, exact = sample(soft, 4, noise_shift=0.0), sample(Smooth(), 4)
    assert torch.equal(sample(soft, 4), plain)
    soft.noise_shift = 1 - 1 / 1.04
    assert torch.allclose(sample(soft, 4), exact, atol=1e-5)
    assert torch.equal(sample(soft, 4, noise_shift=0.0), plain)
    assert not torch.allclose(plain, exact, atol=1e-2)


@pytest.mark.parametrize("scheduler", ["dpm", "heun", "euler"])
def test_in_every_solver(scheduler):
    x = sample(Smooth(0.04), 3, scheduler=scheduler, noise_shift=1 - 1 / 1.04)
    assert torch.allclose(x, sample(Smooth(), 3, scheduler=scheduler), atol=1e-5)


@pytest.mark.parametrize("value", [1.0, -1.0, math.nan, "half"])
def test_what_is_none_is_refused(value):
    with pytest.raises(ValueError, match="noise_shift must be auto or a number above -1 and below 1"):
        sample(Smooth(), 1, noise_shift=value)


def stacked(shift):
    base = IsotropicGaussian(SHAPE, [0.0], 0.5)
    return StackedDenoiser(CompositeDenoiser({}, base), [base], [0.1, 1.0], [[1.0], [1.0]], shift)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d,
        DenoiserModel,
        lambda d: GuidedDenoiser(d, 2.0),
        lambda d: ScaledDenoiser(d, 2.0),
        lambda d: SwappedDenoiser(d, stacked(0.0), 0.1, 1.0),
        lambda d: BootdiffPipeline(d).denoiser,
    ],
    ids=["itself", "model", "guided", "scaled", "swapped", "pipeline"],
)
def test_what_is_put_around_a_model_keeps_it(wrap):
    assert wrap(stacked(0.03)).noise_shift == 0.03


@pytest.mark.parametrize("shift", [1.0, -2.0, math.nan])
def test_a_model_cannot_have_one_that_is_none(shift, tmp_path):
    with pytest.raises(ValueError, match="noise_shift must be above -1 and below 1"):
        stacked(shift)
    save(stacked(0.5), tmp_path / "model")
    note = read_json(tmp_path / "model" / "model.json")
    note["denoiser"]["args"]["noise_shift"] = shift if shift == shift else "NaN"
    write_stamped(tmp_path / "model" / "model.json", {k: v for k, v in note.items() if k != "checksum"})
    with pytest.raises(BootdiffError):
        load(tmp_path / "model")


def test_it_is_saved_with_the_model(tmp_path):
    save(stacked(0.025), tmp_path / "model")
    assert load(tmp_path / "model").noise_shift == 0.025
    BootdiffPipeline(stacked(0.025)).save_pretrained(tmp_path / "pipe")
    there = BootdiffPipeline.from_pretrained(tmp_path / "pipe")
    assert there.denoiser.noise_shift == 0.025
    # The Gaussian is told less noise than there is: more is left of it.
    more, less = there(2, output_type="pt").images, there(2, output_type="pt", noise_shift=0.0).images
    assert float((more - 0.5).std()) > float((less - 0.5).std())
