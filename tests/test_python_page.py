"""docs/python.md and README.md: their Python programs run as printed, in turn, on tiny data and few steps."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import bootdiff as bd

ROOT = Path(__file__).parents[1]
FEWER = {"steps=4000": "steps=4, batch=8, evaluate_every=2", "steps=400,": "steps=4, batch=8, evaluate_every=2,"}


class MyNet(nn.Module):
    """A network of one's own: a convolution that takes the noise level as a further channel."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.first, self.last = nn.Conv2d(c_in + 1, 8, 3, padding=1), nn.Conv2d(8, c_out, 3, padding=1)

    def forward(self, x, c_noise, label=None):
        level = c_noise[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.last(torch.relu(self.first(torch.cat([x, level], 1))))


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for said, fewer in FEWER.items():
            block = block.replace(said, fewer)
        yield block


@pytest.fixture
def names():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(28, 1, 4, 4, generator=g) * 2 - 1
    prior = bd.IsotropicGaussian((1, 4, 4), [0.0], 0.5)
    composite = bd.CompositeDenoiser({}, prior)
    factor = torch.randn(16, 16, generator=g, dtype=torch.float64) / 4
    return {
        "x_full": x[:16], "thumbnails": torch.nn.functional.avg_pool2d(x[16:], 4), "columns": x[16:, ..., ::2],
        "MyNet": MyNet, "composite": composite, "c_in": 1, "c_out": 1, "x0": x[:8],
        "mean": torch.zeros(1, 4, 4, dtype=torch.float64), "covariance": factor @ factor.T,
    }  # fmt: skip


@pytest.mark.slow  # 12 s; the README's program, which is most of it, runs each time
def test_the_page_on_python_runs_as_printed(names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bd, "fit", partial(bd.fit, levels=(0.3, 1.5)))  # of eight noise levels
    for block in blocks("docs/python.md"):
        exec(compile(block, "docs/python.md", "exec", dont_inherit=True), names)
    assert names["images"].shape == (16, 1, 4, 4)
    assert names["loss"].shape == ()
    assert bool(names["loss"] > 0)
    assert names["x"].shape == (2000, 1, 4, 4)
    assert names["answers"].shape == (12, 4, 1, 4, 4)
    assert isinstance(names["tuned"], bd.Denoiser)
    # answers agree with what was given
    again = bd.Downsample(4)(names["answers"][:, 0]) / 4
    torch.testing.assert_close(again, names["thumbnails"], atol=0.2, rtol=0)
    # killed, the same call goes on: nothing is trained again, and the model is the same
    capsys.readouterr()
    exec(compile(next(iter(blocks("docs/python.md"))), "docs/python.md", "exec", dont_inherit=True), names)
    assert "held-out loss" not in capsys.readouterr().out


def test_the_program_on_the_first_page_runs_as_printed(names):
    block = next(iter(blocks("README.md")))
    assert "networks=MyNet," in block
    more = "networks=MyNet, training=bd.TrainingSettings(steps=4, batch=8, evaluate_every=2),"
    exec(compile(block.replace("networks=MyNet,", more), "README.md", "exec", dont_inherit=True), names)
    assert names["images"].shape == (16, 1, 4, 4)


def test_composed_exact_halves_are_exact(names):
    """Of a distribution whose halves are independent the composite is the exact denoiser."""
    exact = torch.block_diag(*[torch.eye(4, dtype=torch.float64)] * 4)
    names["covariance"] = exact
    for block in blocks("docs/python.md"):
        if "law.isotropic()" in block:
            exec(compile("import bootdiff as bd\n" + block, "docs/python.md", "exec", dont_inherit=True), names)
    x, sigma = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0]).double()
    torch.testing.assert_close(names["V"].double()(x, sigma), names["law"](x, sigma))
    assert float(names["x"].std()) == pytest.approx(1, rel=0.05)
