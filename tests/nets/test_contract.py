"""The backbones' contract, over every net and every kind of samples it is for."""

from __future__ import annotations

import json

import pytest
import torch

from bootdiff.nets import BACKBONES, NETS, build_net
from bootdiff.spec import decode, encode
from net_calls import C_NOISE, SMALL, awake, build, last, noise

# Odd sizes: nothing is a multiple of levels or patches.
SHAPES = {0: (3,), 1: (2, 13), 2: (2, 9, 7), 3: (2, 3, 9, 7)}
PAIRS = [(kind, SHAPES[axes]) for kind, nets in BACKBONES.items() for axes in nets]
NAMES = [f"{kind}-{'x'.join(map(str, shape))}" for kind, shape in PAIRS]
every_net = pytest.mark.parametrize(("kind", "shape"), PAIRS, ids=NAMES)


def batch(shape, n=2, extra=1, seed=0):
    return noise(n, shape[0] + extra, *shape[1:], seed=seed)


def one(shape, n):
    """The same noisy sample n times."""
    return batch(shape, 1).expand(n, *[-1] * len(shape))


def test_every_kind_has_a_small_one():
    assert set(SMALL) == set(BACKBONES)


@every_net
def test_starts_at_zero_and_can_leave_it(kind, shape):
    net, x = build(kind, shape), batch(shape)
    y = net(x, C_NOISE)
    assert y.shape == (2, *shape)
    assert (y == 0).all()
    (y - 1).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in last(net).parameters())
    assert awake(net)(x, C_NOISE).abs().max() > 0


@every_net
def test_each_sample_is_on_its_own(kind, shape):
    """No statistics over the batch."""
    net, x = awake(build(kind, shape)), batch(shape)
    both = net(x, C_NOISE)
    for i in range(2):
        torch.testing.assert_close(net(x[i : i + 1], C_NOISE[i : i + 1]), both[i : i + 1], rtol=1e-4, atol=1e-5)


@every_net
def test_hears_the_noise_level(kind, shape):
    net, x = awake(build(kind, shape)), one(shape, 2)
    y = net(x, C_NOISE)
    assert (y[0] - y[1]).abs().max() > 1e-3
    near = net(x, torch.tensor([0.2, 0.2 + 1e-4]))
    assert (near[0] - near[1]).abs().max() < 0.02 * near.abs().max()  # no jumps in ln sigma


@every_net
def test_hears_the_class_and_its_absence(kind, shape):
    net, x = awake(build(kind, shape, classes=3)), one(shape, 4)
    c = torch.zeros(4)
    y = net(x, c, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(y[0], y[3])
    none = net(x, c)[0]
    for a, b in ((y[0], y[1]), (y[1], y[2]), (y[0], none), (y[2], none)):
        assert (a - b).abs().max() > 1e-4
    torch.testing.assert_close(net(x, c, torch.full((4,), 3)), net(x, c))  # the last row stands for "none"
    some = net(x, c, torch.tensor([0, -1, 2, -1]))  # and so does -1
    torch.testing.assert_close(some[::2], y[::2])
    torch.testing.assert_close(some[1], none)


@every_net
def test_without_classes_a_label_is_passed_over(kind, shape):
    net, x = awake(build(kind, shape)), batch(shape)
    torch.testing.assert_close(net(x, C_NOISE, torch.tensor([0, 1])), net(x, C_NOISE))


@every_net
@pytest.mark.parametrize("channels", [1, "all"])
def test_masks_are_further_channels(kind, shape, channels):
    """One for all channels, or one for each; a vector's has as many values as the vector."""
    count = shape[0] if channels == "all" or len(shape) == 1 else 1
    net, x = awake(build(kind, shape, extra=count)), batch(shape, extra=count)
    hidden = x.clone()
    hidden[:, shape[0] :] = 0
    assert (net(x, C_NOISE) - net(hidden, C_NOISE)).abs().max() > 1e-4


@every_net
def test_config_round_trip(kind, shape):
    net = awake(build(kind, shape, classes=3, dropout=0.1))
    again = decode(json.loads(json.dumps(encode(net))), NETS).eval()
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    x, label = batch(shape), torch.tensor([0, 2])
    assert torch.equal(again(x, C_NOISE, label), net(x, C_NOISE, label))


@every_net
def test_dropout_only_in_training(kind, shape):
    net, x = awake(build(kind, shape, dropout=0.5)), batch(shape)
    assert torch.equal(net(x, C_NOISE), net(x, C_NOISE))
    net.train()
    assert not torch.equal(net(x, C_NOISE), net(x, C_NOISE))


@every_net
def test_the_seed_decides_the_weights(kind, shape):
    a, b = build(kind, shape).state_dict(), build(kind, shape).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


@every_net
def test_a_step_lowers_the_loss(kind, shape):
    net, x = build(kind, shape).train(), batch(shape, 4)
    c, target = torch.zeros(4), batch(shape, 4, extra=0, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(5):
        loss = (net(x, c) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="known: unet, local, mlp, linear"):
        build_net("resnet", 1, (1, 8, 8))


@pytest.mark.parametrize("kind", ["unet", "local"])
def test_nets_for_neighbourhoods_are_not_for_vectors(kind):
    with pytest.raises(ValueError, match="for these: mlp, linear"):
        build_net(kind, 5, (5,))


def test_build_net_does_not_change_what_it_is_given():
    options = {"channels": [8, 8, 8, 16], "attention": [3]}
    build_net("unet", 1, (1, 4, 4), **options)
    assert options == {"channels": [8, 8, 8, 16], "attention": [3]}
