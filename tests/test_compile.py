"""torch.compile and torch.export of denoisers: what docs/python.md says works, and what it says does not."""

from __future__ import annotations

import copy

import pytest
import torch

from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import sample
from bootdiff.views import Crop, RandomMask
from small_denoisers import denoiser, prior, stacked, two_views

X, SIGMA = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.7, 3.0])


@pytest.fixture(autouse=True)
def fresh():
    """No compiled code of other tests: it counts towards dynamo's limit."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_compiled_model_draws_the_same(tmp_path):
    d = denoiser((1, 8, 8))
    want = sample(d, 5, steps=4, batch_size=3)
    torch.testing.assert_close(sample(torch.compile(d, backend="eager"), 5, steps=4, batch_size=3), want)
    pipe = BootdiffPipeline(d)
    pipe.set_progress_bar_config(disable=True)
    pipe.denoiser = torch.compile(pipe.denoiser, backend="eager")
    images = pipe(5, num_inference_steps=4, max_batch_size=3, output_type="pt").images
    torch.testing.assert_close(images, (want / 2 + 0.5).clamp(0, 1))
    pipe.save_pretrained(tmp_path)
    again = BootdiffPipeline.from_pretrained(tmp_path)
    assert torch.equal(sample(again.denoiser, 5, steps=4, batch_size=3), want)


def test_networks_and_gaussians_are_exported():
    net = LocalNet(1, 1, width=8, depth=3).eval()
    torch.testing.assert_close(torch.export.export(net, (X, SIGMA)).module()(X, SIGMA), net(X, SIGMA))
    base = prior((1, 8, 8))
    torch.testing.assert_close(torch.export.export(base, (X, SIGMA)).module()(X, SIGMA), base(X, SIGMA))
    whole = torch.compile(base, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(X, SIGMA), base(X, SIGMA))


def whole():
    """A stack with a little of everything: a thumbnail and a gray view, crops with placements, drawn masks, a gain that
    is 0 at some noise levels, snapshots by noise level, weights that are 0 at some."""
    full = (3, 8, 8)
    composite = two_views().composite
    views = {name: (view, composite.denoisers[name]) for name, view in composite.views.items()}
    crop = Crop((4, 8))
    views["crops"] = (crop, denoiser(crop.shape(full)))
    views["masked"] = (RandomMask(hide="box", fraction=0.25), prior(full))
    gains = [[0.9, 0.5 * (level < 1), 0.3 * (level > 0.2), 0.2] for level in LEVELS]
    made = CompositeDenoiser(views, prior(full), LEVELS, gains)
    expert = stacked(made).experts[0]
    again = copy.deepcopy(expert)
    with torch.no_grad():
        for p in again.net.parameters():
            p.mul_(0.7)
    chosen = SnapshotsByNoiseLevel([expert, again], LEVELS, [k % 2 for k in range(len(LEVELS))])
    weights = [[0.6 * (level < 2), 0.4, 0.0] for level in LEVELS]
    return StackedDenoiser(made, [chosen, prior(full), expert], LEVELS, weights).eval()


# Shared weights in channels-last memory; what is read again is compared.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_whole_model_is_exported_in_one_graph(dynamic, tmp_path):
    """For every noise level, also those of which some parts are not evaluated; and it draws the same samples."""
    d, g = whole(), torch.Generator().manual_seed(0)
    x = torch.randn(len(LEVELS) + 2, 3, 8, 8, generator=g)
    sigma = torch.tensor([0.01, *LEVELS, 50.0])
    rows = {0: torch.export.Dim("batch", min=2, max=64)} if dynamic else None
    sample(d, 1, steps=12)  # now it is known where views are placed
    with torch.no_grad():
        made = torch.export.export(d, (x, sigma), dynamic_shapes=(rows, rows) if dynamic else None)
        torch.export.save(made, tmp_path / "d.pt2")
        again = torch.export.load(tmp_path / "d.pt2").module()
        torch.testing.assert_close(again(x, sigma), d(x, sigma))
        if dynamic:
            torch.testing.assert_close(again(x[:4], sigma[3:7]), d(x[:4], sigma[3:7]))


def test_before_it_has_drawn_a_sample_a_model_is_not_exported():
    with pytest.raises(BootdiffError, match=r"draw a sample before you export the model: bootdiff\.sample\(model, 1\)"):
        torch.export.export(whole(), (torch.zeros(2, 3, 8, 8), torch.ones(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_by_autocast(dtype):
    pipe = BootdiffPipeline(denoiser((1, 8, 8)))
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "output_type": "pt"}
    want = pipe(2, **options).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = pipe(2, **options).images
    torch.testing.assert_close(got, want, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match=r"float32 weights.*autocast"):
        pipe.to(dtype)(2, **options)
