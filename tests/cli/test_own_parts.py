"""Networks and views of one's own by import path, and models to start at, by the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bootdiff.serialization import load
from cli_calls import call, refused

PARTS = """
import torch
from bootdiff.views import View

class Columns(View):
    def shape(self, full):
        return (*full[:-1], full[-1] // 2)
    def forward(self, x):
        return x[..., ::2]
    def adjoint(self, y, full):
        x = y.new_zeros(len(y), *full)
        x[..., ::2] = y
        return x

class Net(torch.nn.Module):
    def __init__(self, c_in, c_out, width):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(c_in + 1, width, 3, padding=1), torch.nn.Conv2d(width, c_out, 3, padding=1)
    def forward(self, x, c_noise, label=None):
        level = c_noise[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.b(torch.relu(self.a(torch.cat([x, level], 1))))

class Narrow(Net):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise)[..., 1:]

def make(in_channels, out_channels, width=4):
    return Net(in_channels, out_channels, width)
"""

RECIPE = """\
simulate: {pool: {path: x.npy}, full: 12, test: 8}
full: {holdout: 4}
views: {columns: {view: {kind: parts_of_mine:Columns}}}
backbones: {own: {kind: parts_of_mine:Net, width: 4}, made: {kind: parts_of_mine:make}}
training: {steps: 4, batch: 4, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 2}
levels: [0.3, 1.0]
evaluate: {draws: 1, samples: 0}
sampling: {count: 3, steps: 3}
device: cpu
threads: 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (48, 8, 8, 1)).astype(np.uint8))
    (tmp_path / "mine.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("parts_of_mine", None)


def done(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_own_parts_through_every_verb(folder):
    assert "would run code of `parts_of_mine`; if you trust it, call bootdiff with --trust-imports" in refused(
        "fit", "mine.yaml"
    )
    assert "parts_of_mine" not in sys.modules
    done("check", "mine.yaml", "--trust-imports")
    done("--trust-imports", "fit", "mine.yaml", "--out", "run")
    for verb in ("sample", "evaluate"):
        assert "--trust-imports" in refused(verb, "run")
        done(verb, "run", "--trust-imports")
    assert "bootdiff" in json.loads((folder / "run" / "metrics.json").read_text())["holdout_loss"]
    np.save(folder / "half.npy", np.load(folder / "x.npy")[:2, :, ::2])
    done("restore", "run", "half.npy", "whole", "--view", "columns", "--samples", "1", "--trust-imports")
    from parts_of_mine import Columns, Net

    assert load(folder / "run", classes=[Columns, Net]).shape == (1, 8, 8)


def test_a_network_that_is_wrong_is_refused_before_anything_is_trained(folder):
    text = RECIPE.replace("made: {kind: parts_of_mine:make}", "narrow: {kind: parts_of_mine:Narrow, width: 4}")
    (folder / "mine.yaml").write_text(text)
    message = refused("fit", "mine.yaml", "--out", "run", "--trust-imports")
    assert all(word in message for word in ("Narrow", "(2, 1, 8, 7)"))
    assert not list((folder / "run" / "stages").glob("*/done.json"))


def test_a_run_starts_at_the_model_of_another(folder):
    done("fit", "mine.yaml", "--out", "first", "--arm", "full_only", "--trust-imports")
    (folder / "mine.yaml").write_text(RECIPE + "init: {full: first/full_only, columns: first/full_only}\n")
    done("fit", "mine.yaml", "--out", "tuned", "--trust-imports")
    assert (folder / "tuned" / "stages" / "full-own.init" / "done.json").is_file()
    assert (folder / "tuned" / "stages" / "view-columns-made.init" / "done.json").is_file()
    assert f"full: {folder}/first/full_only" in (folder / "tuned" / "recipe.yaml").read_text()
    for init, said in (
        ("{fulll: first}", "known: full, visible, residual, oracle, columns"),
        ("{full: nowhere}", "init.full: "),
        ("{full: mine.yaml}", "no such folder"),
    ):
        (folder / "mine.yaml").write_text(RECIPE + f"init: {init}\n")
        assert said in refused("fit", "mine.yaml", "--out", "other", "--trust-imports")
