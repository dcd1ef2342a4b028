"""What a training step asks for, before it is taken: counted on tensors without values, tried on what is cheap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.cli import costs, steps
from bootdiff.cli.console import Console, clock
from bootdiff.cli.session import accelerate
from bootdiff.method.plan import plan
from bootdiff.nets import LocalNet, OwnNetwork
from bootdiff.nets.network import default_networks
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.training.settings import batch_for
from cli_calls import call, refused
from method_calls import bootstrap

RECIPE = """\
full: {path: full.npy, holdout: 4}
views: {small: {view: {kind: downsample, factor: 2}, data: {path: small.npy}}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 10, batch: 6, optimizer: adamw}
device: cpu
threads: 1
"""


@pytest.fixture
def boot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("full.npy", rng.integers(0, 255, (20, 16, 16, 1), dtype=np.uint8))
    np.save("small.npy", rng.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8))
    recipe = load_recipe_text(RECIPE)
    return bootstrap(recipe, build_problem(recipe), None, accelerate(recipe))


class Seen(nn.Module):
    """A local net that notes what it is really asked, and looks at its input where told."""

    asked: list[tuple[int, ...]] = []  # noqa: RUF012

    def __init__(self, in_channels, out_channels, looks=False):
        super().__init__()
        self.net, self.looks = LocalNet(in_channels, out_channels, 8, 3), looks

    def forward(self, x, c_noise, label=None):
        if x.device.type != "meta":
            self.asked.append(tuple(x.shape))
        if self.looks and bool(x.isnan().any()):
            raise ValueError("not a number")
        return self.net(x, c_noise, label)


def own(looks=False):
    return OwnNetwork(Seen, {"looks": looks})


def task(boot, network):
    stage = next(s for s in boot.plan(["full_only"]).trainings if s.part == "full")
    return replace(boot.task(stage), network=network)


def test_a_network_that_looks_at_values_is_counted_on_one_sample_and_costs_the_same(boot):
    blind, looks = (steps.step_cost(boot, task(boot, own(looks))) for looks in (False, True))
    assert blind.flops == looks.flops > 0
    assert blind.parameters == looks.parameters
    # A few numbers per step (the loss's mean, noise levels) are counted for each sample there.
    assert looks.memory == pytest.approx(blind.memory, rel=0.1)


def test_only_networks_of_ones_own_are_counted_on_real_samples(boot, monkeypatch):
    """All of a plan's trainings, the residual on top of views among them, are counted without values."""
    devices, counted = [], steps._counted
    monkeypatch.setattr(steps, "_counted", lambda *at: devices.append(at[-1].type) or counted(*at))
    rows = costs.estimate(boot.settings, boot.problem, boot.accelerator, ["bootdiff"], Console(quiet=True))
    assert any(row.name.startswith("residual-") for row in rows)
    assert devices == ["meta"] * len(rows)
    devices.clear()
    steps.step_cost(boot, task(boot, own(looks=True)))
    assert devices == ["meta", "cpu"]


def test_other_errors_are_not_taken_for_it(boot, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(steps, "_counted", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        steps.step_cost(boot, task(boot, own()))


def test_flops_and_memory_are_those_of_the_arithmetic(boot):
    net = LocalNet(1, 1, 8, 3)
    said = steps.step_cost(boot, task(boot, own()))
    pixels, rows = 16 * 16, 6
    convolutions = 9 * (1 * 8 + 8 * 8 + 8 * 1)
    # forward, gradient of weights, gradient of inputs but for the first one's
    exact = 2 * rows * pixels * (3 * convolutions - 9 * 8)
    assert exact <= said.flops <= 1.1 * exact  # and the embedding of the noise level
    assert said.parameters == sum(p.numel() for p in net.parameters())
    # Hidden maps that are kept: the first convolution's, what the block makes of it, its output; float32.
    maps = 4 * rows * pixels * 8
    kept = (said.memory - 20 * said.parameters) / 2
    assert 3 * maps <= kept <= 6.7 * maps


def test_only_so_many_samples_are_tried_as_are_cheap(boot, monkeypatch):
    whole = steps.step_cost(boot, task(boot, own()))
    monkeypatch.setattr(steps, "TRIAL", whole.flops / 2.5)
    Seen.asked.clear()
    part = steps.step_cost(boot, task(boot, own()))
    assert part.tried == whole.flops * 2 // 6
    # check_network tries a network that is built on two small samples, too
    assert max(shape[0] for shape in Seen.asked) == 2
    assert part.flops == whole.flops
    assert part.memory == whole.memory


def test_a_sample_too_large_to_try_is_not_computed_at_all(boot, monkeypatch):
    monkeypatch.setattr(steps, "TRIAL", 1.0)
    monkeypatch.setattr(steps, "_small_unet", lambda trainer: (2.0, 1000))
    monkeypatch.setattr(steps, "_optimizer", lambda *_: 0.5)
    building = []
    monkeypatch.setattr(Seen, "asked", building)
    boot.build(task(boot, own()))
    at_building = len(building)
    building.clear()
    said = steps.step_cost(boot, task(boot, own()))
    assert len(building) == at_building
    assert said.seconds == pytest.approx(said.flops * 2.0 / 1000 + 0.5)


def test_the_optimizers_step_counts_once_however_few_samples_are_tried(boot, monkeypatch):
    """It costs the same for any batch, and is not multiplied with the samples that were not tried."""
    monkeypatch.setattr(steps, "_gradient", lambda trainer, task, module, rows: 1.0 * rows)
    monkeypatch.setattr(steps, "_optimizer", lambda *_: 10.0)
    whole = steps.step_cost(boot, task(boot, own()))
    assert whole.seconds == pytest.approx(6 + 10)
    monkeypatch.setattr(steps, "TRIAL", whole.flops / 2.5)
    assert steps.step_cost(boot, task(boot, own())).seconds == pytest.approx(6 + 10)


def test_the_optimizers_step_is_one_that_moves_weights(boot, monkeypatch):
    moved, inner = [], steps.Optimizer.step
    monkeypatch.setattr(
        steps.Optimizer,
        "step",
        lambda self, t, start=0: moved.append(any(p.grad is not None for p in self.params)) or inner(self, t, start),
    )
    assert steps.step_cost(boot, task(boot, own())).seconds > 0
    assert len(moved) > 1
    assert all(moved)


def test_the_machine_is_measured_on_a_small_unet(boot):
    seconds, flops = steps._small_unet(boot)
    assert seconds > 0
    assert 5e9 < flops < steps.TRIAL


def rows(**changes):
    made = {"name": "full-unet", "parameters": 10, "steps": 100, "batch": 8, "flops": 10**15, "memory": 10**9}
    return costs.Cost(**{**made, "seconds_per_step": 1.0, "seconds": 100.0, **changes})


def test_what_is_absurd_is_said_with_what_to_change():
    assert costs.advice([rows()], free=2 * 10**9) == []
    (memory,) = costs.advice([rows(), rows(name="full-local", memory=14 * 10**9)], free=8 * 10**9)
    assert "full-local asks for 14.0 GB of memory, and 8.0 GB are free" in memory
    assert "training.accumulate (parts of the batch of 8" in memory
    (days,) = costs.advice([rows(seconds=9 * 86400.0), rows(name="full-local", seconds=86400.0)], free=None)
    assert "10.0 days" in days
    assert "full-unet alone takes 90%" in days
    assert "patch" in days


def test_time_on_a_gpu_by_name(boot):
    settings, problem = boot.settings, boot.problem
    needed = plan(settings, problem, ["bootdiff"])
    names = needed.names("bootdiff")
    table = [rows(name=name, steps=100, flops=10**15, seconds=3600.0) for name in names]
    said = " ".join(str(line) for line in costs.cost_table(table, [], needed, ["bootdiff"], gpu="h100"))
    seconds = len(names) * max(1e15 / (costs.GPUS["h100"] * costs.EFFICIENCY), 100 * costs.SHORTEST_STEP)
    assert f"On one h100 about {clock(seconds)} (fit)" in said
    assert "10% of its 989 TFLOP/s" in said
    assert "not measured" in said


def test_an_unknown_gpu_is_refused_before_anything_is_read(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    said = refused("check", recipe, "--for", "h900", "--out", tmp_path / "check")
    assert "--for h900: no such GPU is known; known: t4" in said
    assert not (tmp_path / "check").exists()


def test_check_says_memory_and_the_time_on_a_gpu(boot, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    result = call("check", tmp_path / "r.yaml", "--for", "a100", "--out", tmp_path / "check")
    assert result.exit_code == 0, result.output
    flat = " ".join(result.output.split())
    assert "On one a100 about" in flat
    assert " GB of memory" in flat or " MB of memory" in flat


@pytest.mark.parametrize("side", [32, 64, 128, 256, 512])
def test_no_size_of_picture_asks_for_more_than_a_laptop_has(side):
    """Of the default networks: a step below 4 GB and 0.6 TFLOP, 8 seconds of two cores."""
    shape, batch = (3, side, side), batch_for((3, side, side))
    for network in default_networks(2).values():
        net = network.resolve(shape, shape).build(6, shape).to("meta")
        x, c_noise = torch.empty(batch, 6, side, side, device="meta"), torch.zeros(batch, device="meta")
        with steps._kept_for_the_gradient() as kept, FlopCounterMode(display=False) as counter:
            net(x, c_noise).sum().backward()
        assert 0 < counter.get_total_flops() < 0.6e12
        assert 0 < sum(kept.values()) < 3e9


def test_blocks_that_are_computed_again_are_counted_twice_and_kept_once(boot):
    """Depth 8: six blocks of one convolution each, the last layer and not computed again, unlike the linear one
    before. Of six blocks their inputs are kept, and what one keeps inside."""
    deep = OwnNetwork(LocalNet, {"width": 8, "depth": 8})
    found = {}
    for on in (False, True):
        asked = task(boot, deep)
        asked = replace(asked, training=replace(asked.training, gradient_checkpointing=on))
        found[on] = steps.step_cost(boot, asked)
        counted = boot.step_flops(asked)
        assert counted == pytest.approx(found[on].flops, rel=1e-3)
    rows, pixels = 6, 16 * 16
    assert found[True].flops - found[False].flops == 2 * rows * 6 * 8 * 16
    map_ = 4 * rows * pixels * 8
    saved = (found[False].memory - found[True].memory) / 2
    inside = saved / 5  # of six blocks one is left, and all their inputs
    assert 1.5 * map_ < inside < 6 * map_
