"""Small nets of every kind, and what to feed them."""

from __future__ import annotations

import torch

from bootdiff.nets import build_net

SMALL = {
    "unet": {"channels": [8, 16], "attention": [1]},
    "local": {"width": 8, "depth": 3},
    "mlp": {"width": 16, "depth": 2},
    "linear": {},
}
C_NOISE = torch.tensor([-1.0, 0.2])


def build(kind, shape=(2, 8, 8), extra=1, classes=None, **more):
    """An untrained net for samples of `shape`, with so many further input channels."""
    torch.manual_seed(0)
    return build_net(kind, shape[0] + extra, shape, classes, **(SMALL[kind] | more)).eval()


def last(net):
    """Its last layer."""
    return net.unet.conv_out if hasattr(net, "unet") else net.last


def awake(net):
    """The net with no layer that is zero."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim > 1 or p.numel() < 8 else 0.05))
    return net


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
