"""What each net sees: receptive fields by gradients, levels and patches, frames that speak to each other."""

from __future__ import annotations

import pytest
import torch

from bootdiff.nets import LocalNet, SignalUNet, UNet, VideoUNet, build_net
from net_calls import C_NOISE, awake, build, noise


def seen(net, shape, at):
    """Where the output at one place depends on the input, a 0/1 tensor over space."""
    x = noise(1, *shape).requires_grad_()
    net(x, torch.zeros(1))[(0, 0, *at)].backward()
    return (x.grad[0] != 0).any(0)


# The local net


@pytest.mark.parametrize(("axes", "kernel", "depth"), [(1, 3, 3), (1, 9, 4), (2, 3, 3), (2, 3, 5), (3, 3, 3)])
def test_the_receptive_field_of_the_local_net(axes, kernel, depth):
    """depth (kernel - 1) + 1 inputs along every axis, and not one more."""
    torch.manual_seed(0)
    net = awake(LocalNet(1, 1, width=16, depth=depth, axes=axes, kernel=kernel))
    reach = depth * (kernel - 1) // 2
    side = 2 * reach + 5
    expected = torch.zeros([side] * axes, dtype=torch.bool)
    expected[(slice(2, 2 * reach + 3),) * axes] = True
    assert torch.equal(seen(net, (1, *[side] * axes), [side // 2] * axes), expected)


def test_the_local_net_of_a_recipe_has_nine_taps_for_signals():
    assert [build("local", shape).config["kernel"] for shape in ((1, 40), (1, 9, 9), (1, 3, 9, 9))] == [9, 3, 3]


@pytest.mark.parametrize("shape", [(2, 40), (2, 16, 16), (2, 4, 16, 16)], ids=str)
def test_the_local_net_is_the_same_everywhere(shape):
    """Away from the edges, moving the sample moves the answer."""
    net, x = awake(build("local", shape)), noise(2, 3, *shape[1:])
    reach = 12 if len(shape) == 2 else 3
    inner = slice(reach, shape[-1] - reach - 2)
    moved = net(x.roll(2, -1), C_NOISE)[..., reach + 2 : shape[-1] - reach]
    torch.testing.assert_close(moved, net(x, C_NOISE)[..., inner], rtol=1e-4, atol=1e-5)


def test_the_shallowest_local_net_hears_the_noise_level():
    net, x = awake(build("local", depth=3)), noise(1, 3, 8, 8).expand(2, -1, -1, -1)
    y = net(x, C_NOISE)
    assert (y[0] - y[1]).abs().max() > 1e-3


def test_a_local_net_that_would_not_is_refused():
    with pytest.raises(ValueError, match="depth of at least 3 to see the noise level, got 2"):
        LocalNet(1, 1, depth=2)
    with pytest.raises(ValueError, match="odd kernel, got 4 and 3"):
        LocalNet(1, 1, axes=4)


# The UNets


@pytest.mark.parametrize("attention", [[2], []], ids=["attention", "convolutions"])
@pytest.mark.parametrize("shape", [(1, 64), (1, 16, 16), (1, 5, 16, 16)], ids=str)
def test_the_unet_sees_the_whole_sample(shape, attention):
    net = awake(build("unet", shape, extra=0, channels=[8, 8, 16], attention=attention))
    assert seen(net, shape, [0] * (len(shape) - 1)).float().mean() > (0.95 if attention else 0.5)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 16), (2, 3), (13, 4)])
@pytest.mark.parametrize(
    "options", [{}, {"channels": [8, 8, 16], "attention": []}, {"patch": 2}, {"channels": [8]}], ids=str
)
@pytest.mark.parametrize("before", [(), (3,)], ids=["image", "video"])
def test_any_size(before, options, size):
    """Not divisible by 2^levels or the patch: padded inside, the size of the input outside."""
    net = awake(build("unet", (2, *before, *size), **options))
    y = net(noise(2, 3, *before, *size), C_NOISE)
    assert y.shape == (2, 2, *before, *size)
    assert y.isfinite().all()
    assert y.std() > 0


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("options", [{}, {"patch": 4}, {"layers": 2, "attention": [0, 1]}, {"channels": [8]}], ids=str)
def test_any_length(length, options):
    net = awake(build("unet", (2, length), **options))
    assert net(noise(2, 3, length), C_NOISE).shape == (2, 2, length)
    again = net(noise(2, 3, length + 3), C_NOISE)  # a net is not bound to the length it was built for
    assert again.shape == (2, 2, length + 3)
    assert again.isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_any_number_of_frames(frames):
    net = awake(build("unet", (1, 4, 8, 8), extra=0))
    assert net(noise(2, 1, frames, 8, 8), C_NOISE).shape == (2, 1, frames, 8, 8)


def test_a_videos_unet_starts_with_each_frame_for_itself_and_ends_with_all():
    net = build("unet", (1, 4, 8, 8), extra=0)
    with torch.no_grad():
        for p in net.unet.conv_out.parameters():
            p.fill_(0.1)
    assert seen(net, (1, 4, 8, 8), (1, 4, 4)).any(-1).any(-1).tolist() == [False, True, False, False]
    assert seen(awake(net), (1, 4, 8, 8), (1, 4, 4)).any(-1).any(-1).all()


def test_the_order_of_frames_matters():
    net, x = awake(build("unet", (1, 4, 8, 8), extra=0)), noise(2, 1, 4, 8, 8)
    assert (net(x.flip(2), C_NOISE).flip(2) - net(x, C_NOISE)).abs().max() > 1e-3


def test_the_frames_of_a_videos_unet_are_those_of_an_images():
    """Before the layers along time are trained, the same weights give the same as UNet frame by frame."""
    video = build("unet", (1, 3, 9, 8), extra=0, classes=2, patch=2)
    image = build("unet", (1, 9, 8), extra=0, classes=2, patch=2)
    with torch.no_grad():
        for p in video.unet.conv_out.parameters():
            p.fill_(0.1)
    image.unet.load_state_dict(video.unet.state_dict())
    x, label = noise(2, 1, 3, 9, 8), torch.tensor([1, -1])
    y = video(x, C_NOISE, label)
    for t in range(3):
        torch.testing.assert_close(y[:, :, t], image(x[:, :, t], C_NOISE, label), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("channels", [(8, 16), (12, 20), (24, 48)])
def test_attention_where_asked(attention, channels):
    net = VideoUNet(1, 1, channels, attention=attention)
    blocks = [type(b).__name__ for b in net.unet.down_blocks]
    assert ["Attn" in name for name in blocks] == [i in attention for i in range(len(channels))]
    assert [layer.attention is not None for layer in net.down] == [i in attention for i in range(len(channels))]
    assert net(noise(1, 1, 2, 8, 8), torch.zeros(1)).shape == (1, 1, 2, 8, 8)
    assert UNet(1, 1, channels, attention=attention)(noise(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


def test_a_signals_unet_needs_widths_of_eight():
    with pytest.raises(ValueError, match=r"multiples of 8, got \[12, 20\]"):
        SignalUNet(1, 1, (12, 20))


@pytest.mark.parametrize(
    ("shape", "patch", "levels"),
    [
        ((1, 8, 8), 1, 3),
        ((1, 4, 4), 1, 2),
        ((1, 2, 2), 1, 1),
        ((1, 1, 1), 1, 1),
        ((1, 8, 8), 2, 2),
        ((1, 32, 32), 1, 4),
        ((1, 9, 4, 4), 1, 2),  # frames are no reason for a level, nor against one
        ((1, 2, 32, 32), 4, 3),
        ((1, 6), 1, 2),
        ((1, 512), 1, 4),
    ],
    ids=str,
)
def test_levels_that_the_sample_is_too_small_for_are_left_out(shape, patch, levels):
    net = build_net("unet", 1, shape, channels=[16, 16, 16, 16], attention=[3], patch=patch)
    assert len(net.config["channels"]) == levels
    assert net.config["attention"] == [levels - 1]
    assert net(noise(1, *shape), torch.zeros(1)).shape == (1, *shape)


def test_a_patch_folds_space_into_channels_never_time():
    assert build("unet", (2, 8, 8), patch=2).unet.config.in_channels == 12
    assert build("unet", (2, 4, 8, 8), patch=2).unet.config.in_channels == 12
    assert build("unet", (2, 8), patch=2).first.in_channels == 6


# Dense nets


def test_the_linear_net_is_linear():
    """Up to the shift by noise level and class: F(a x + b z) - F(0) is linear in x and z."""
    net = awake(build("linear", (5,), extra=2))
    x, z = noise(2, 7), noise(2, 7, seed=1)
    zero = net(torch.zeros(2, 7), C_NOISE)
    combined = net(2 * x - 3 * z, C_NOISE) - zero
    torch.testing.assert_close(combined, 2 * (net(x, C_NOISE) - zero) - 3 * (net(z, C_NOISE) - zero))


def test_the_linear_net_learns_a_gaussians_denoiser():
    """The exact gains v / (v + sigma^2) of two directions at two noise levels, from plenty of samples."""
    torch.manual_seed(0)
    net = build_net("linear", 2, (2,))
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    std = torch.tensor([2.0, 0.3])
    g = torch.Generator().manual_seed(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 300)
        x0 = (torch.randn(512, 2, generator=g) * std) @ turn
        sigma = torch.where(torch.rand(512, generator=g) < 0.5, 0.3, 1.5)
        x = x0 + sigma[:, None] * torch.randn(512, 2, generator=g)
        (net(x, sigma.log() / 4) - x0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for sigma in (0.3, 1.5):
        exact = turn.T @ torch.diag(std**2 / (std**2 + sigma**2)) @ turn
        level = torch.full((2,), sigma).log() / 4
        found = net(torch.eye(2), level) - net(torch.zeros(2, 2), level)
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_dense_nets_take_small_samples_of_any_kind(kind):
    for shape in ((5,), (2, 6), (1, 3, 4), (1, 2, 3, 4)):
        net = awake(build(kind, shape, extra=0))
        assert net(noise(2, *shape), C_NOISE).shape == (2, *shape)
