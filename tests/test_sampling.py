"""Sampling, with the exact flow of a Gaussian as the ruler, and the pipeline: same pictures, files, labels, outputs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import bootdiff
from bootdiff.data.dataset import generator
from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.distributions.exact import Discrete, Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import SOLVERS, classes_of, sample
from bootdiff.schedulers import diffusers_scheduler
from bootdiff.serialization import save
from bootdiff.views import ChannelMix, Downsample


def scrambled(module):
    """Weights away from the start, where the last layers are 0 and nothing would depend on them."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
    return module


def prior(shape):
    return IsotropicGaussian(shape, [0.1] * shape[0], 0.5)


def stacked(composite, classes=None, dropout=0.0):
    """A small denoiser: a composite and one local net."""
    shape, views = composite.shape, len(composite.views)
    net = LocalNet(shape[0] * (1 + views), shape[0], width=8, depth=3, classes=classes, dropout=dropout)
    expert = ResidualExpert(net, composite, LEVELS, [0.5] * len(LEVELS))
    return scrambled(StackedDenoiser(composite, [expert], LEVELS))


def denoiser(shape, **options):
    return stacked(CompositeDenoiser({}, prior(shape), LEVELS), **options)


def two_views(channels=3):
    """A stack over a thumbnail view and a gray one."""
    full = (channels, 8, 8)
    views = {"small": Downsample(2), "gray": ChannelMix.gray()}
    parts = {name: (view, denoiser(view.shape(full))) for name, view in views.items()}
    gains = [[0.9, 0.5 * (level < 1)] for level in LEVELS]
    return stacked(CompositeDenoiser(parts, prior(full), LEVELS, gains))


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
        torch.testing.assert_close(few, many[:5], rtol=1e-4, atol=1e-4)
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


class ByClass(Denoiser):
    """All of class k is the constant k."""

    shape = (1, 2, 2)

    def forward(self, x, sigma, label=None, context=None):
        return torch.zeros_like(x) if label is None else expand(label, x).expand_as(x)


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


# --- the pipeline -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_pickle(monkeypatch):
    """Whoever pickles or unpickles, through torch or not, fails."""

    def refuse(*args, **options):
        raise AssertionError("a pickle was touched")

    for module in (pickle, torch):
        for name in ("load", "save") if module is torch else ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
            monkeypatch.setattr(module, name, refuse)
    return refuse


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_stack_with_two_views_through_files_gives_the_same_bits(tmp_path, no_pickle):
    d = two_views()
    pipe = quiet(BootdiffPipeline(d))
    pipe.save_pretrained(tmp_path / "pipe")
    save(d, tmp_path / "arm")
    files = sorted(str(p.relative_to(tmp_path / "pipe")) for p in (tmp_path / "pipe").rglob("*") if p.is_file())
    weights = [f"denoiser/weights/{p.name}" for p in sorted((tmp_path / "arm" / "weights").iterdir())]
    assert weights
    assert files == ["denoiser/model.json", *weights, "model_index.json", "scheduler/scheduler_config.json"]
    want = sample(d, 3, seed=5, steps=6)
    for folder in ("pipe", "arm"):
        again = quiet(BootdiffPipeline.from_pretrained(str(tmp_path / folder)))
        assert torch.equal(sample(again.denoiser, 3, seed=5, steps=6), want)
        pictures = again(3, seed=5, num_inference_steps=6, output_type="pt").images
        assert torch.equal(pictures, (want / 2 + 0.5).clamp(0, 1))
    # and once more, from what was loaded; whoever asks diffusers for pickles gets none either
    again.save_pretrained(tmp_path / "second", safe_serialization=False)
    second = BootdiffPipeline.from_pretrained(tmp_path / "second")
    assert torch.equal(sample(second.denoiser, 3, seed=5, steps=6), want)


def test_three_lines(tmp_path):
    save(two_views(), tmp_path)

    pipe = bootdiff.BootdiffPipeline.from_pretrained(tmp_path)
    images = pipe(num_images=2, seed=0).images
    assert [(i.mode, i.size) for i in images] == [("RGB", (8, 8))] * 2


def test_output_types_agree():
    pipe = quiet(BootdiffPipeline(denoiser((3, 4, 6))))
    pt = pipe(2, num_inference_steps=4, output_type="pt").images
    array = pipe(2, num_inference_steps=4, output_type="np").images
    (pil,) = pipe(2, num_inference_steps=4, return_dict=False)
    assert pt.shape == (2, 3, 4, 6)
    assert (array.shape, array.dtype) == ((2, 4, 6, 3), np.float32)
    assert 0 <= array.min() < array.max() <= 1
    np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert [p.size for p in pil] == [(6, 4)] * 2
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pil]), (array * 255).round().astype(np.uint8))
    with pytest.raises(ValueError, match="latent"):
        pipe(output_type="latent")


def test_gray_pictures_are_of_mode_l():
    (picture,) = quiet(BootdiffPipeline(denoiser((1, 4, 6))))(num_inference_steps=2).images
    assert (picture.mode, picture.size) == ("L", (6, 4))


@pytest.mark.parametrize("shape", [(2, 4, 4), (16,), (1, 9)])
def test_what_is_no_picture_comes_as_numbers(shape):
    pipe = quiet(BootdiffPipeline(IsotropicGaussian(shape, [0.0] * shape[0], 0.5)))
    with pytest.raises(ValueError, match="cannot be PIL images"):
        pipe(output_type="pil")
    assert pipe(3, num_inference_steps=2).images.shape == (3, *shape[1:], shape[0])
    assert pipe(3, output_type="pt", num_inference_steps=2).images.shape == (3, *shape)
    assert pipe(3, output_type="np", num_inference_steps=2).images.shape == (3, *shape[1:], shape[0])


def test_class_labels_of_the_pipeline():
    pipe = quiet(BootdiffPipeline(ByClass()))
    two = pipe(class_labels=[1, 0], num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(two[:, 0, 0, 0], [1.0, 0.5])
    three = pipe(3, class_labels=1, num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(three, np.ones((3, 2, 2, 1)))


def test_the_scheduler_is_swapped_and_saved(tmp_path):
    d = denoiser((1, 4, 4))
    pipe = quiet(BootdiffPipeline(d))
    pipe.scheduler = diffusers_scheduler("euler").from_config({**pipe.scheduler.config, "sigma_max": 30.0})
    want = (sample(d, 2, scheduler="euler", steps=4, sigma_max=30.0) / 2 + 0.5).clamp(0, 1)
    run = {"num_images": 2, "num_inference_steps": 4, "output_type": "pt"}
    torch.testing.assert_close(pipe(**run).images, want)
    pipe.save_pretrained(tmp_path)
    again = quiet(BootdiffPipeline.from_pretrained(tmp_path))
    assert torch.equal(again(**run).images, pipe(**run).images)
    # a name is for one call, on the noise levels of the pipeline's own
    heun = (sample(d, 2, scheduler="heun", steps=4, sigma_max=30.0) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(again(**run, scheduler="heun").images, heun)
    assert again.scheduler.config.sigma_max == 30.0
    other = BootdiffPipeline.from_pretrained(tmp_path, scheduler=diffusers_scheduler("dpm"))
    assert type(other.scheduler).__name__ == "EDMDPMSolverMultistepScheduler"


def test_a_pipeline_moves_as_diffusers_do():
    pipe = BootdiffPipeline(two_views())
    assert pipe.to("cpu") is pipe
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert set(pipe.components) == {"denoiser", "scheduler"}


def test_progress_bar_counts_steps(capsys):
    BootdiffPipeline(ByClass())(3, num_inference_steps=4, batch_size=2)
    assert "8/8" in capsys.readouterr().err


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(BootdiffError, match=r"no model\.json in it"):
        BootdiffPipeline.from_pretrained(tmp_path / "none")
    BootdiffPipeline(denoiser((1, 4, 4))).save_pretrained(tmp_path / "a")
    index = tmp_path / "a" / "model_index.json"
    saved = index.read_text()
    index.write_text(saved.replace("BootdiffPipeline", "DDPMPipeline"))
    with pytest.raises(BootdiffError, match="DDPMPipeline"):
        BootdiffPipeline.from_pretrained(tmp_path / "a")
    index.write_text(saved.replace("EDMDPMSolverMultistepScheduler", "EDMNone"))
    with pytest.raises(BootdiffError, match="EDMNone"):
        BootdiffPipeline.from_pretrained(tmp_path / "a")
    index.write_text(saved)
    (tmp_path / "a" / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(BootdiffError, match="copy the folder again"):
        BootdiffPipeline.from_pretrained(tmp_path / "a")


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
