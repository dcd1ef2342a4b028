"""`bootdiff.fit` from objects: what it trains, goes on with, and refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bootdiff as bd
from bootdiff.errors import BootdiffError
from bootdiff.noise import LogNormal
from bootdiff.training.run import Run

G = torch.Generator().manual_seed(0)
X = torch.rand(40, 1, 8, 8, generator=G) * 2 - 1
FULL, SMALL = X[:16], nn.functional.avg_pool2d(X[16:], 2)
VIEWS = {"small": (bd.Downsample(2), SMALL)}
TINY = bd.TrainingSettings(steps=4, batch=8, evaluate_every=2, warmup=0)
LEVELS = (0.3, 1.5)
WHITE = bd.IsotropicGaussian((1, 8, 8), [0.0], 1.0)


class Net(nn.Module):
    """One convolution of x and the noise level, and an embedding of the class where there are any."""

    def __init__(self, c_in, c_out, classes=None):
        super().__init__()
        self.conv = nn.Conv2d(c_in + 1, c_out, 3, padding=1)
        self.label = nn.Embedding(classes + 1, c_out) if classes else None

    def forward(self, x, c_noise, label=None):
        y = self.conv(torch.cat([x, c_noise[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1))
        if self.label is None:
            return y
        label = torch.full((len(x),), -1) if label is None else label
        return y + self.label(label + 1)[:, :, None, None]


class Columns(bd.View):
    """Every second column."""

    def shape(self, full):
        return (*full[:-1], full[-1] // 2)

    def forward(self, x):
        return x[..., ::2]

    def adjoint(self, y, full):
        x = y.new_zeros(len(y), *full)
        x[..., ::2] = y
        return x


def fit(full=FULL, views=VIEWS, **more):
    return bd.fit(full, views, **{"networks": Net, "training": TINY, "levels": LEVELS, "log": None, **more})


def answers(model, label=None):
    x = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x, torch.tensor([0.1, 0.4, 1.0, 3.0]), label)


def said(**how):
    with pytest.raises((BootdiffError, ValueError)) as error:
        fit(**how)
    return str(error.value)


# --- what it does


def test_own_networks_and_views_train_save_and_load(tmp_path):
    model = fit(views={"columns": (Columns(), X[16:, ..., ::2]), **VIEWS}, run=tmp_path / "run")
    bd.save(model, tmp_path / "model")
    for folder in (tmp_path / "model", tmp_path / "run", tmp_path / "run" / "bootdiff"):
        assert torch.equal(answers(bd.load(folder, classes=[Net, Columns])), answers(model))
    with pytest.raises(BootdiffError, match=r"Net.*classes=\[Net\]"):
        bd.load(tmp_path / "model")


def test_the_same_call_gives_the_same_model_and_another_seed_another():
    assert torch.equal(answers(fit()), answers(fit()))
    assert not torch.equal(answers(fit()), answers(fit(seed=1)))


def test_a_finished_run_is_taken_up_and_more_steps_are_trained(tmp_path):
    lines = []
    first = fit(run=tmp_path, log=lines.append)
    again = fit(run=tmp_path, log=lines.append)
    assert torch.equal(answers(first), answers(again))
    assert [line.split(":")[0] for line in lines if "held-out" in line] == ["full-own", "view-small-own"]  # once each
    lines.clear()
    longer = bd.TrainingSettings(steps=8, batch=8, evaluate_every=2, warmup=0)
    more = fit(run=tmp_path, training=longer, log=lines.append)
    assert any("full-own: goes on from step 4 to 8" in line for line in lines)
    assert any("full-own: held-out loss" in line and line.endswith("of 8") for line in lines)
    assert isinstance(more, bd.Denoiser)
    ledger = {row["stage"]: row["step"] for row in Run.read(tmp_path).metrics()}
    assert ledger["full-own"] == 8
    assert "steps" in said(run=tmp_path)  # fewer are refused
    assert "batch" in said(run=tmp_path, training=bd.TrainingSettings(steps=8, batch=4, evaluate_every=2, warmup=0))


def test_other_data_do_not_go_on_in_a_run(tmp_path):
    fit(run=tmp_path)
    assert "data" in said(run=tmp_path, full=FULL * 0.5)


def test_classes_are_learned_and_guided():
    labels = torch.arange(16) % 3
    data = torch.utils.data.TensorDataset(FULL * 0.2 + (labels[:, None, None, None] - 1) * 0.7, labels)
    model = fit(full=data, arm="full_only", training=bd.TrainingSettings(steps=60, batch=8, lr=3e-2, warmup=0))
    assert not torch.equal(answers(model, torch.zeros(4, dtype=torch.long)), answers(model, torch.full((4,), 2)))
    assert bd.sample(model, 3, label=1, guidance=2.0, steps=3).shape == (3, 1, 8, 8)


def test_a_model_stands_in_the_place_of_files():
    """An exact denoiser of the stored thumbnails, in their own scale."""
    model = bd.IsotropicGaussian((1, 4, 4), [0.0], 0.3)
    found = fit(views={"small": (bd.Downsample(2), model)}, arm="views_only")
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 1.0])
    assert found(x, sigma).shape == (2, 1, 8, 8)


def test_networks_start_at_a_model(tmp_path):
    """Without a step worth its name, the network is the one that it started at."""
    start = fit(arm="full_only", training=bd.TrainingSettings(steps=30, batch=8, lr=1e-2, evaluate_every=30, warmup=0))
    still = bd.TrainingSettings(steps=1, batch=8, lr=1e-12, evaluate_every=1, warmup=0, ema=0.0)
    tuned = fit(arm="full_only", init={"full": start}, training=still)
    there, own = start.experts[0].members[0].net, tuned.experts[0].members[0].net
    for a, b in zip(there.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    # a wider first layer takes the first channels, and so does a view's network
    views = fit(init={"residual": start, "small": start}, training=still)
    assert isinstance(views, bd.Denoiser)
    assert "no network of the form" in said(init={"full": WHITE})
    assert "known: full, visible, residual, oracle, small" in said(init={"fulll": start})


def test_a_module_that_is_there_is_a_template():
    class Kept(Net):
        def __init__(self, in_channels, out_channels):
            super().__init__(in_channels, out_channels)
            self.config = {"in_channels": in_channels, "out_channels": out_channels}

    assert isinstance(fit(networks=Kept(1, 1)), bd.Denoiser)


def test_every_arm_is_trained_from_objects():
    for arm in ("full_only", "views_only", "unregularized", "oracle"):
        assert fit(arm=arm, oracle=X)(FULL[:2], torch.tensor([0.5, 1.0])).shape == (2, 1, 8, 8)
    assert "give `oracle`" in said(arm="oracle")
    assert "known: full_only" in said(arm="best")


PROGRAM = """
import os, pathlib, sys, torch, bootdiff as bd
x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
how = bd.TrainingSettings(steps=4, batch=8, evaluate_every=2, warmup=0)
views = {"small": (bd.Downsample(2), torch.nn.functional.avg_pool2d(x[16:], 2))}
model = bd.fit(x[:16], views, networks="local", training=how, levels=(0.3, 1.5), run=sys.argv[1])
answer = float(model(x[:2], torch.tensor([0.3, 1.0])).sum().detach())
pathlib.Path(sys.argv[1] + ".answer-" + os.environ["RANK"]).write_text(str(answer))
"""


@pytest.mark.slow  # two processes that import torch: 8 s; tests/training has two in every run
def test_two_processes_get_what_one_gets_on_whatever_device_there_is(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*several, tmp_path / "program.py", tmp_path / "both"]
    both = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    alone = float(fit(networks="local")(X[:2], torch.tensor([0.3, 1.0])).sum().detach())
    # Lines of two processes may run into one another on the screen; files do not.
    answers = [float((tmp_path / f"both.answer-{rank}").read_text()) for rank in range(2)]
    assert answers == [pytest.approx(alone, abs=1e-5)] * 2
    assert sum("full-local: held-out loss" in line for line in both) == 1  # one of them speaks
    assert (tmp_path / "both" / "bootdiff" / "model.json").is_file()


# --- data as people have them


def pictures(x):
    return [Image.fromarray(((v[0].numpy() + 1) * 127.5).round().astype(np.uint8)) for v in x]


@pytest.mark.parametrize(
    "data",
    [
        FULL.numpy(),
        [(x, 0) for x in FULL],
        [{"image": p, "label": i % 2} for i, p in enumerate(pictures(FULL))],
        pictures(FULL),
        list(FULL),
    ],
    ids=["array", "tuples", "dicts of pictures", "pictures", "list"],
)
def test_data_of_every_form(data):
    networks = "local" if isinstance(data[0], dict | tuple) else Net
    assert fit(full=data, networks=networks).shape == (1, 8, 8)


# --- what it refuses


class Wrong(Columns):
    """Its adjoint puts everything one column to the right."""

    def adjoint(self, y, full):
        return super().adjoint(y, full).roll(1, -1)


class Wide(Net):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise)[..., :-1]


class Bare(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()

    def forward(self, x, c_noise, label=None):
        return x[:, :1]


class Deaf(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, c_noise):
        return self.conv(x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"networks": Wide}, ["Wide", "(2, 1, 8, 7)", "(2, 1, 8, 8)"]),
        ({"networks": Bare}, ["Bare", "no parameters"]),
        ({"networks": Deaf}, ["Deaf", "label"]),
        ({"networks": "unett"}, ["unett", "unet"]),
        ({"networks": {}}, ["at least one"]),
        ({"views": {"v": (Wrong(), X[16:, ..., ::2])}}, ["views['v']", "adjoint"]),
        ({"views": {"v": (bd.Downsample(2), X[16:])}}, ["views['v']", "1 x 8 x 8", "1 x 4 x 4"]),
        ({"views": {"v": (bd.Downsample(3), SMALL)}}, ["views['v']", "multiple"]),
        ({"views": {"v": SMALL}}, ["views['v']", "(view, files)"]),
        ({"views": {}}, ["no views"]),
        ({"views": {"v": (bd.Downsample(2), WHITE)}}, ["views['v']", "(1, 4, 4)"]),
        ({"full": 255 * (FULL + 1) / 2}, ["full", "[-1, 1]"]),
        ({"full": FULL.clone().fill_(float("nan"))}, ["full", "NaN"]),
        ({"full": [FULL[0], FULL[1, :, :6]]}, ["1 x 8 x 8", "1 x 6 x 8"]),
        ({"full": FULL[:1]}, ["full", "held out"]),
        ({"held_out": 16}, ["leave none to train on"]),
        ({"held_out": 0}, ["held_out of full must be a number of at least 1"]),
        ({"held_out": 1.5}, ["held_out of full must be", "share between 0 and 1"]),
        ({"training": {"views": replace(TINY, precision="bf16")}}, ["one precision", "bf16 and no"]),
        ({"held_out": SMALL}, ["held_out", "(1, 4, 4)"]),
        ({"training": {"view": TINY}}, ["no part 'view'", "views"]),
        ({"device": "gpu"}, ["cpu, cuda, mps"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(how, words):
    message = said(**how)
    assert all(word in message for word in words), message


def test_own_networks_are_tried_before_anything_is_trained(tmp_path):
    """The first network is fine, the second is not: nothing has been trained when that is said."""
    assert "Wide" in said(networks={"good": Net, "bad": Wide}, run=tmp_path)
    assert not list((tmp_path / "stages").glob("*/done.json"))


def test_a_network_that_takes_no_class_is_refused_where_there_are_classes():
    data = torch.utils.data.TensorDataset(FULL, torch.arange(16) % 3)
    assert "label" in said(full=data, networks=Deaf)


def test_noise_levels_that_reach_none_of_the_levels_are_refused():
    far = bd.TrainingSettings(steps=1, warmup=0, noise=LogNormal(9.0, 0.5))
    with pytest.raises(ValueError, match=r"training\['full'\]\.noise: .*reaches none of the noise levels 0\.3, 1\.5, "):
        fit(training=far)
