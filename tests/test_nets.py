"""The backbones' contract, over all of them; the local net's receptive field by its gradient."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bootdiff.nets import BACKBONES, NETS, LocalNet, UNet, build_net
from bootdiff.spec import decode, encode

SMALL = {
    "unet": {"channels": [8, 16], "attention": [1]},
    "local": {"width": 8, "depth": 3},
    "mlp": {"width": 16, "depth": 2},
    "linear": {},
}
every_net = pytest.mark.parametrize("kind", BACKBONES)


def build(kind, shape=(2, 8, 8), extra=1, classes=None, **more):
    torch.manual_seed(0)
    return build_net(kind, shape[0] + extra, shape, classes, **(SMALL[kind] | more)).eval()


def awake(net):
    """The net with a last layer, and classes, that are not zero."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (net.unet.conv_out if isinstance(net, UNet) else net.last).parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
        classes = net.unet.class_embedding if isinstance(net, UNet) else net.embed.classes
        if classes is not None:
            classes.weight.copy_(torch.randn(classes.weight.shape, generator=g))
    return net


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


C_NOISE = torch.tensor([-1.0, 0.2])


def test_every_kind_has_a_small_one():
    assert set(SMALL) == set(BACKBONES)


@every_net
def test_starts_at_zero_and_can_leave_it(kind):
    net, x = build(kind), noise(2, 3, 8, 8)
    y = net(x, C_NOISE)
    assert y.shape == (2, 2, 8, 8)
    assert (y == 0).all()
    (y - 1).square().mean().backward()
    last = net.unet.conv_out if kind == "unet" else net.last
    assert all(p.grad.abs().max() > 0 for p in last.parameters())
    assert awake(net)(x, C_NOISE).abs().max() > 0


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 16), (2, 3), (13, 4)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unet", {}),
        ("unet", {"channels": [8, 8, 16], "attention": []}),
        ("unet", {"patch": 2}),
        ("unet", {"channels": [8]}),
        ("local", {}),
        ("mlp", {}),
    ],
    ids=str,
)
def test_any_size(kind, options, size):
    """Not divisible by 2^levels or the patch: padded inside, the size of the input outside."""
    net = awake(build(kind, (2, *size), **options))
    y = net(noise(2, 3, *size), C_NOISE)
    assert y.shape == (2, 2, *size)
    assert y.isfinite().all()
    assert y.std() > 0


@every_net
def test_each_sample_is_on_its_own(kind):
    """No statistics over the batch."""
    net, x = awake(build(kind)), noise(2, 3, 8, 8)
    both = net(x, C_NOISE)
    for i in range(2):
        torch.testing.assert_close(net(x[i : i + 1], C_NOISE[i : i + 1]), both[i : i + 1], rtol=1e-4, atol=1e-5)


@every_net
def test_hears_the_noise_level(kind):
    net, x = awake(build(kind)), noise(1, 3, 8, 8).expand(2, -1, -1, -1)
    y = net(x, C_NOISE)
    assert (y[0] - y[1]).abs().max() > 1e-3
    near = net(x, torch.tensor([0.2, 0.2 + 1e-4]))
    assert (near[0] - near[1]).abs().max() < 0.02 * near.abs().max()  # no jumps in ln sigma


@every_net
def test_hears_the_class_and_its_absence(kind):
    net, x = awake(build(kind, classes=3)), noise(1, 3, 8, 8).expand(4, -1, -1, -1)
    c = torch.zeros(4)
    y = net(x, c, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(y[0], y[3])
    none = net(x, c)[0]
    for a, b in ((y[0], y[1]), (y[1], y[2]), (y[0], none), (y[2], none)):
        assert (a - b).abs().max() > 1e-3
    torch.testing.assert_close(net(x, c, torch.full((4,), 3)), net(x, c))  # the last row stands for "none"
    some = net(x, c, torch.tensor([0, -1, 2, -1]))  # and so does -1
    torch.testing.assert_close(some[::2], y[::2])
    torch.testing.assert_close(some[1], none)


@every_net
def test_without_classes_a_label_is_passed_over(kind):
    net, x = awake(build(kind)), noise(2, 3, 8, 8)
    torch.testing.assert_close(net(x, C_NOISE, torch.tensor([0, 1])), net(x, C_NOISE))


@every_net
def test_config_round_trip(kind):
    net = awake(build(kind, classes=3, dropout=0.1))
    again = decode(json.loads(json.dumps(encode(net))), NETS).eval()
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    x, label = noise(2, 3, 8, 8), torch.tensor([0, 2])
    assert torch.equal(again(x, C_NOISE, label), net(x, C_NOISE, label))


@every_net
def test_dropout_only_in_training(kind):
    net, x = awake(build(kind, dropout=0.5)), noise(2, 3, 8, 8)
    assert torch.equal(net(x, C_NOISE), net(x, C_NOISE))
    net.train()
    assert not torch.equal(net(x, C_NOISE), net(x, C_NOISE))


# The local net


@pytest.mark.parametrize("depth", [3, 5])
def test_the_receptive_field_of_the_local_net(depth):
    """d y[middle] / d x is not 0 in exactly (2 depth + 1) x (2 depth + 1) pixels."""
    torch.manual_seed(0)
    net = awake(LocalNet(1, 1, width=16, depth=depth))
    x = noise(1, 1, 17, 17).requires_grad_()
    net(x, torch.zeros(1))[0, 0, 8, 8].backward()
    seen = x.grad[0, 0] != 0
    expected = torch.zeros(17, 17, dtype=torch.bool)
    expected[8 - depth : 9 + depth, 8 - depth : 9 + depth] = True
    assert torch.equal(seen, expected)


def test_the_local_net_is_the_same_everywhere():
    """Away from the edges, moving the picture moves the answer."""
    net, x = awake(build("local")), noise(2, 3, 16, 16)
    moved = net(x.roll(2, -1), C_NOISE)[..., 5:11, 6:11]
    torch.testing.assert_close(moved, net(x, C_NOISE)[..., 5:11, 4:9], rtol=1e-4, atol=1e-5)


def test_the_shallowest_local_net_hears_the_noise_level():
    net, x = awake(build("local", depth=3)), noise(1, 3, 8, 8).expand(2, -1, -1, -1)
    y = net(x, C_NOISE)
    assert (y[0] - y[1]).abs().max() > 1e-3


def test_a_local_net_that_would_not_is_refused():
    with pytest.raises(ValueError, match="depth of at least 3 to see the noise level, got 2"):
        LocalNet(1, 1, depth=2)


# The UNet


def test_the_unet_sees_the_whole_picture():
    net = awake(build("unet", (1, 16, 16), extra=0, channels=[8, 8, 16], attention=[2]))
    x = noise(1, 1, 16, 16).requires_grad_()
    net(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert (x.grad != 0).float().mean() > 0.95


@pytest.mark.parametrize("attention", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("channels", [(8, 16), (12, 20), (24, 48)])
def test_attention_where_asked(attention, channels):
    net = UNet(1, 1, channels, attention=attention)
    blocks = [type(b).__name__ for b in net.unet.down_blocks]
    assert ["Attn" in name for name in blocks] == [i in attention for i in range(len(channels))]
    assert net(noise(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("side", "patch", "levels"), [(8, 1, 3), (4, 1, 2), (2, 1, 1), (1, 1, 1), (8, 2, 2), (32, 1, 4)]
)
def test_levels_that_the_picture_is_too_small_for_are_left_out(side, patch, levels):
    net = build_net("unet", 1, (1, side, side), channels=[16, 16, 16, 16], attention=[3], patch=patch)
    assert len(net.config["channels"]) == levels
    assert net.config["attention"] == [levels - 1]
    assert net(noise(1, 1, side, side), torch.zeros(1)).shape == (1, 1, side, side)


def test_build_net_does_not_change_what_it_is_given():
    options = {"channels": [8, 8, 8, 16], "attention": [3]}
    build_net("unet", 1, (1, 4, 4), **options)
    assert options == {"channels": [8, 8, 8, 16], "attention": [3]}


def test_a_patch_folds_pixels_into_channels():
    net = build("unet", (2, 8, 8), patch=2)
    assert (net.unet.config.in_channels, net.unet.config.out_channels) == (12, 8)


# The rest


def test_the_mlp_takes_vectors():
    net = awake(build("mlp", (5,), extra=0))
    assert net(noise(2, 5), C_NOISE).shape == (2, 5)
    assert math.prod(net.out_shape) == 5


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="known: unet, local, mlp, linear"):
        build_net("resnet", 1, (1, 8, 8))
