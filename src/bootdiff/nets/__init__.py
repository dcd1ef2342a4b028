"""Backbones, one contract: F(x, c_noise, label) -> y, (B, in, *space) to (B, out, *space); c_noise = ln(sigma) / 4.

A label is a class number, or -1 (or None for all) where no class is given; nets without classes take no notice of it.
The number of axes of a sample tells its kind, and `build_net` finds the net for it:

    kind      vector (C,)   signal (C, L)   image (C, H, W)   video (C, T, H, W)
    unet      -             `SignalUNet`    `UNet`            `VideoUNet`            global structure
    local     -             `LocalNet`      `LocalNet`        `LocalNet`             a neighbourhood only
    mlp       `MLP`         `MLP`           `MLP`             `MLP`                  dense layers, for small samples
    linear    `Linear`      `Linear`        `Linear`          `Linear`               a linear map per noise level

Any length, height, width and number of frames will do: what levels and patches need is padded and cut off again.  Each
net starts at zero: the last layer's weights and biases are 0, so training starts exactly at the views (or at the white
base, where there are none).  A mask is further input channels.

A net that is still to be built, for samples of any shape, is a `Network`: one of these, a class or function of your
own, a module that is there already, or a model of diffusers (`network.as_network`).
"""

from __future__ import annotations

from torch import nn

from bootdiff.nets.build import BACKBONES, build_net
from bootdiff.nets.dense import MLP, Linear
from bootdiff.nets.diffusers_net import DiffusersNet
from bootdiff.nets.image import UNet
from bootdiff.nets.local import LocalNet
from bootdiff.nets.network import (
    AdaptedInput,
    BuiltIn,
    DiffusersNetwork,
    Network,
    NetworkError,
    OwnNetwork,
    TemplateNetwork,
    as_network,
    check_network,
    default_networks,
)
from bootdiff.nets.signal import SignalUNet
from bootdiff.nets.video import VideoUNet

__all__ = [
    "BACKBONES",
    "MLP",
    "NETS",
    "AdaptedInput",
    "BuiltIn",
    "DiffusersNet",
    "DiffusersNetwork",
    "Linear",
    "LocalNet",
    "Network",
    "NetworkError",
    "OwnNetwork",
    "SignalUNet",
    "TemplateNetwork",
    "UNet",
    "VideoUNet",
    "as_network",
    "build_net",
    "check_network",
    "default_networks",
]

NETS: dict[str, type[nn.Module]] = {
    net.__name__: net
    for net in (*(net for nets in BACKBONES.values() for net in nets.values()), DiffusersNet, AdaptedInput)
}
"""Every net by the name of its class."""
