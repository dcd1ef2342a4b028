"""Sampling, with the exact flow of a Gaussian as the ruler: same pictures, labels, wrong arguments."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bootdiff.data.dataset import generator
from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Discrete, Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.sampling import SOLVERS, classes_of, sample
from bootdiff.schedulers import diffusers_scheduler
from small_denoisers import ByClass, denoiser, two_views

# --- solvers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ruler():
    """A Gaussian in 16 dimensions, and the exact end of its flow from the noise that `sample` starts at with seed 0.

    In each eigendirection of S the flow scales x - m by sqrt((lam + sigma^2) / (lam + sigma_max^2)).
    """
    a = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    mean = torch.full((16,), 0.2, dtype=torch.float64)
    lam, u = torch.linalg.eigh(a @ a.T)
    noise = 80 * torch.stack([torch.randn(16, generator=generator(0, i)) for i in range(32)]).double()
    return Gaussian(mean, a @ a.T), mean + ((noise - mean) @ u * (lam / (lam + 80**2)).sqrt()) @ u.T


def rmse(ruler, **options):
    law, true = ruler
    return float((sample(law, len(true), sigma_min=0.002, **options) - true).square().mean().sqrt())


@pytest.mark.parametrize(("name", "bound"), [("dpm", 7e-3), ("heun", 7e-3), ("euler", 4.5e-2)])
def test_forty_steps_are_near_the_exact_flow(ruler, name, bound):
    assert bound / 4 < rmse(ruler, scheduler=name, steps=40) < bound


@pytest.mark.parametrize(("name", "order"), [("dpm", 2), ("heun", 2), ("euler", 1)])
def test_order_of_the_solver(ruler, name, order):
    errors = [rmse(ruler, scheduler=name, steps=steps) for steps in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_evaluations_and_noise_levels():
    asked = []

    class Spy(IsotropicGaussian):
        def forward(self, x, sigma, label=None, context=None):
            assert bool((sigma == sigma[0]).all())
            asked.append(float(sigma[0]))
            return super().forward(x, sigma, label, context)

    for name, count in {"dpm": 10, "euler": 10, "heun": 19}.items():
        asked.clear()
        sample(Spy((2,), [0, 0], 0.5), 3, scheduler=name, steps=10, sigma_min=0.05, sigma_max=40)
        assert len(asked) == count
        assert (asked[0], asked[-1]) == pytest.approx((40, 0.05))
        assert asked == sorted(asked, reverse=True)


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_of_points_are_the_points(name):
    points = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [0.0, -1.0]])
    x = sample(Discrete(points), 64, scheduler=name, steps=30)
    distance, nearest = torch.cdist(x, points).min(1)
    assert float(distance.max()) < 1e-3
    assert nearest.bincount(minlength=3).min() > 8


def test_a_scheduler_of_diffusers_decides_the_noise_levels(ruler):
    law, _ = ruler
    own = diffusers_scheduler("dpm", sigma_min=0.01, sigma_max=20.0, sigma_data=1.7)
    given = sample(law, 4, scheduler=own, steps=12)
    torch.testing.assert_close(given, sample(law, 4, steps=12, sigma_min=0.01, sigma_max=20.0), rtol=1e-4, atol=1e-5)
    turned = diffusers_scheduler("euler").from_config({**own.config, "prediction_type": "v_prediction"})
    again = sample(law, 4, scheduler=turned, steps=12)
    torch.testing.assert_close(
        again, sample(law, 4, scheduler="euler", steps=12, sigma_min=0.01, sigma_max=20.0), rtol=1e-4, atol=1e-5
    )
    assert own.num_inference_steps is None  # a copy was used


def test_a_stochastic_scheduler_gives_the_same_pictures_too(ruler):
    law, _ = ruler
    from diffusers import EDMDPMSolverMultistepScheduler

    sde = EDMDPMSolverMultistepScheduler(sigma_min=0.02, algorithm_type="sde-dpmsolver++")
    all_at_once = sample(law, 5, scheduler=sde, steps=12)
    torch.testing.assert_close(sample(law, 5, scheduler=sde, steps=12, batch_size=2), all_at_once)
    assert not torch.allclose(all_at_once, sample(law, 5, steps=12), atol=0.05)


# --- the same pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_a_picture_depends_on_seed_and_index_alone(name):
    d = two_views()
    many = sample(d, 7, seed=3, scheduler=name, steps=5)
    for batch_size in (1, 3, 7):
        few = sample(d, 5, seed=3, scheduler=name, steps=5, batch_size=batch_size)
        torch.testing.assert_close(few, many[:5], rtol=0, atol=2e-6 * many.abs().max().item())
    assert torch.equal(sample(d, 7, seed=3, scheduler=name, steps=5), many)
    assert not torch.allclose(sample(d, 7, seed=4, scheduler=name, steps=5), many, atol=0.1)
    assert not torch.allclose(many[0], many[1], atol=0.1)


def test_dropout_is_off_within_and_as_it_was_after():
    d = denoiser((1, 4, 4), dropout=0.5)
    d.train()
    d.composite.prior.eval()
    modes = [m.training for m in d.modules()]
    state = torch.get_rng_state()
    assert torch.equal(sample(d, 2, steps=3), sample(d, 2, steps=3))
    assert [m.training for m in d.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_no_samples_and_no_gradients():
    d = denoiser((1, 4, 4))
    assert sample(d, 0).shape == (0, 1, 4, 4)
    assert not sample(d, 1, steps=2).requires_grad


def test_progress_counts_every_step_once():
    told = []
    sample(IsotropicGaussian((1,), [0], 1), 5, steps=4, batch_size=2, progress=lambda *at: told.append(at))
    assert told == [(k, 12) for k in range(1, 13)]


# --- labels and wrong arguments ---------------------------------------------------------------------------------------


def test_labels_go_to_their_own_samples():
    x = sample(ByClass(), 5, label=[4, 0, 3, 1, 2], steps=3, batch_size=2)
    torch.testing.assert_close(x[:, 0, 0, 0], torch.tensor([4.0, 0, 3, 1, 2]))
    torch.testing.assert_close(sample(ByClass(), 2, label=7, steps=3), torch.full((2, 1, 2, 2), 7.0))
    torch.testing.assert_close(sample(ByClass(), 2, steps=3), torch.zeros(2, 1, 2, 2))


def test_labels_are_checked():
    d = denoiser((1, 4, 4), classes=3)
    assert classes_of(d) == 3
    assert sample(d, 2, label=2, steps=2).shape == (2, 1, 4, 4)
    for label in (3, -1, [0, 5]):
        with pytest.raises(ValueError, match="below the 3 classes"):
            sample(d, 2, label=label)
    with pytest.raises(ValueError, match="3 entries for 2 samples"):
        sample(d, 2, label=[0, 1, 2])
    with pytest.raises(ValueError, match="class number"):
        sample(d, 2, label=0.5)
    with pytest.raises(ValueError, match="without classes"):
        sample(denoiser((1, 4, 4)), 2, label=0)
    assert classes_of(ByClass()) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": -1}, "n >= 0"),
        ({"steps": 1}, "steps >= 2"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"scheduler": "ddim"}, "dpm, heun, euler"),
        ({"scheduler": nn.Identity()}, "Identity cannot be used"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_max": 0.01}, "sigma_max"),
    ],
)
def test_wrong_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        sample(IsotropicGaussian((1,), [0], 1), **{"n": 1, **options})


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stops_at_once_and_says_where(name, bad):
    class Broken(IsotropicGaussian):
        """Fails below sigma = 1 for the second sample of the second batch."""

        batches = 0

        def forward(self, x, sigma, label=None, context=None):
            d = super().forward(x, sigma, label, context)
            self.batches += bool(sigma[0] > 79)
            if self.batches == 2 and sigma[0] < 1:
                d[1] = bad
            return d

    with pytest.raises(BootdiffError, match=r"sigma = 0\.\d+, for 1 of 3 samples, the first of them sample 4"):
        sample(Broken((2,), [0, 0], 1), 6, scheduler=name, batch_size=3, steps=10)


def test_a_denoiser_of_another_shape_is_refused():
    class Wide(IsotropicGaussian):
        def forward(self, x, sigma, label=None, context=None):
            return x.repeat(1, 2)

    with pytest.raises(ValueError, match=r"\(1, 4\) for x of shape \(1, 2\)"):
        sample(Wide((2,), [0, 0], 1), 1)


# --- the package's face -----------------------------------------------------------------------------------------------


FACE = """
import sys, bootdiff
assert "torch" not in sys.modules
bootdiff.load, bootdiff.save
{first}
assert "diffusers" not in sys.modules
from bootdiff.denoise import IsotropicGaussian
assert bootdiff.sample(IsotropicGaussian((2,), [0, 0], 1), 1, steps=2, scheduler="heun").shape == (1, 2)
"""


@pytest.mark.parametrize("first", ["import bootdiff.sampling", "from bootdiff.sampling import sample"])
def test_names_of_the_package_whatever_was_imported_first(first):
    command = [sys.executable, "-c", FACE.format(first=first)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr


def test_large_samples_are_drawn_in_small_batches():
    """By default no more values at once than 64 pictures of 3 x 64 x 64 have; the samples do not depend on it."""

    class Counted(IsotropicGaussian):
        def forward(self, x, sigma, label=None, context=None):
            asked.append(len(x))
            return super().forward(x, sigma, label, context)

    for shape, rows in (((1, 4, 4), 3), ((1, 512, 1024), 2), ((3, 1024, 1024), 1)):
        asked = []
        sample(Counted(shape, [0.0] * shape[0], 0.5), 3, steps=2)
        assert max(asked) == rows
