"""Guidance, with Gaussian classes as the ruler: the guided denoiser of equal covariances is that of a shifted mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import sample
from bootdiff.serialization import load, save


class Classes(Denoiser):
    """Class c is N(c + 1, 0.25), no class N(0, 0.25); counts how many rows were asked with and without a class."""

    shape = (2,)

    def __init__(self):
        super().__init__()
        self.asked = [0, 0]

    def forward(self, x, sigma, label=None, context=None):
        none = torch.full((len(x),), True) if label is None else label < 0
        self.asked[0] += int((~none).sum())
        self.asked[1] += int(none.sum())
        mean = torch.where(none, 0.0, 1.0 if label is None else 1.0 + label)[:, None]
        return mean + (0.25 / (0.25 + sigma**2))[:, None] * (x - mean)


def noisy(n=6):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=g), torch.linspace(0.1, 5, n), torch.arange(n) % 3


@pytest.mark.parametrize("weight", [0, 0.5, 1, 2.5])
def test_the_formula(weight):
    x, sigma, label = noisy()
    d = Classes()
    free, of_class = d(x, sigma, None), d(x, sigma, label)
    torch.testing.assert_close(GuidedDenoiser(d, weight)(x, sigma, label), free + weight * (of_class - free))


@pytest.mark.parametrize(("weight", "calls"), [(0, [0, 6]), (1, [6, 0]), (2, [6, 6])])
def test_what_it_costs(weight, calls):
    x, sigma, label = noisy()
    d = Classes()
    GuidedDenoiser(d, weight)(x, sigma, label)
    assert d.asked == calls


def test_rows_without_a_class_are_left_alone():
    x, sigma, label = noisy()
    d = Classes()
    label[::2] = -1
    out = GuidedDenoiser(d, 3)(x, sigma, label)
    torch.testing.assert_close(out[::2], d(x, sigma, None)[::2])
    torch.testing.assert_close(out[1::2], GuidedDenoiser(d, 3)(x[1::2], sigma[1::2], label[1::2]))
    torch.testing.assert_close(GuidedDenoiser(d, 3)(x, sigma), d(x, sigma))


@pytest.mark.parametrize("weight", [0, 2])
def test_outside_of_the_interval_there_is_no_guidance(weight):
    x, sigma, label = noisy()
    d = Classes()
    inside = (sigma >= 0.5) & (sigma <= 3)
    assert inside.any()
    assert not inside.all()
    out = GuidedDenoiser(d, weight, [0.5, 3])(x, sigma, label)
    torch.testing.assert_close(out[inside], GuidedDenoiser(d, weight)(x, sigma, label)[inside])
    torch.testing.assert_close(out[~inside], d(x, sigma, label)[~inside])


def test_samples_move_past_the_class():
    """Denoisers that differ by means differ by a shift of c_out^2-like size: w = 2 draws N(2 (c + 1), 0.25)."""
    x = sample(Classes(), 400, label=0, guidance=2)
    assert abs(float(x.mean()) - 2) < 0.1
    assert abs(float(x.std()) - 0.5) < 0.05
    torch.testing.assert_close(sample(Classes(), 4, label=0, guidance=0), sample(Classes(), 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(Classes(), 4, label=0, guidance=1), sample(Classes(), 4, label=0))


def conditional():
    base = IsotropicGaussian((1, 4, 4), [0.1], 0.5)
    net = LocalNet(1, 1, width=8, depth=3, classes=3)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
    none = CompositeDenoiser({}, base, LEVELS)
    return StackedDenoiser(none, [ResidualExpert(net, none, LEVELS, [0.5] * len(LEVELS))], LEVELS)


def test_a_guided_denoiser_is_saved_and_draws_the_same(tmp_path):
    guided = GuidedDenoiser(conditional(), 2.5, (0.1, 4))
    save(guided, tmp_path)
    back = load(tmp_path)
    assert isinstance(back, GuidedDenoiser)
    assert (back.weight, back.interval) == (2.5, [0.1, 4.0])
    options = {"label": [0, 1, 2], "steps": 6}
    torch.testing.assert_close(sample(back, 3, **options), sample(guided, 3, **options))
    inside = sample(conditional(), 3, guidance=2.5, guidance_interval=(0.1, 4), batch_size=2, **options)
    torch.testing.assert_close(inside, sample(guided, 3, **options), atol=1e-5, rtol=0)


def test_the_pipeline_guides():
    pipe = BootdiffPipeline(conditional())
    pipe.set_progress_bar_config(disable=True)
    options = {"class_labels": [0, 2], "num_inference_steps": 5, "output_type": "np"}
    plain, guided = pipe(**options).images, pipe(**options, guidance=3).images
    assert np.abs(plain - guided).max() > 0.01
    limited = pipe(**options, guidance=3, guidance_interval=(100, 200)).images
    np.testing.assert_allclose(limited, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guidance": 2}, "needs a label"),
        ({"guidance": -1, "label": 0}, "weight >= 0"),
        ({"guidance": float("nan"), "label": 0}, "weight >= 0"),
        ({"guidance": 2, "label": 0, "guidance_interval": (3, 1)}, "low < high"),
    ],
)
def test_wrong_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        sample(conditional(), 2, **options)
