"""torch.compile and torch.export of denoisers: what docs/python.md says works, and what it says does not."""

from __future__ import annotations

import pytest
import torch

from bootdiff.nets import LocalNet
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import sample
from small_denoisers import denoiser, prior

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


def test_a_stack_is_not_exported():
    """Which of its parts are evaluated depends on the values of sigma: no one graph. The day it works, say so."""
    with pytest.raises(Exception, match="data-dependent"):
        torch.export.export(denoiser((1, 8, 8)).eval(), (X, SIGMA))


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
