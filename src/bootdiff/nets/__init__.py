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
base, where there are none).  A mask is so many further input channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from bootdiff.nets.dense import MLP, Linear
from bootdiff.nets.image import UNet
from bootdiff.nets.local import LocalNet
from bootdiff.nets.signal import SignalUNet
from bootdiff.nets.video import VideoUNet

__all__ = ["BACKBONES", "MLP", "NETS", "Linear", "LocalNet", "SignalUNet", "UNet", "VideoUNet", "build_net"]

BACKBONES: dict[str, dict[int, type[nn.Module]]] = {
    "unet": {1: SignalUNet, 2: UNet, 3: VideoUNet},
    "local": {1: LocalNet, 2: LocalNet, 3: LocalNet},
    "mlp": {0: MLP, 1: MLP, 2: MLP, 3: MLP},
    "linear": {0: Linear, 1: Linear, 2: Linear, 3: Linear},
}
"""Name of a backbone -> number of axes after the first -> its net."""

NETS: dict[str, type[nn.Module]] = {net.__name__: net for nets in BACKBONES.values() for net in nets.values()}
"""Every net by the name of its class."""


def build_net(
    kind: str, in_channels: int, shape: Sequence[int], classes: int | None = None, **options: Any
) -> nn.Module:
    """A backbone by its name in `BACKBONES`, for samples of `shape` (C, *space).

    Levels of a UNet that the sample is too small for (a level below 2 coordinates per axis) are left out.

    Raises:
        ValueError: unknown kind, or one that is not for samples of this shape.
    """
    if kind not in BACKBONES:
        raise ValueError(f"unknown backbone {kind!r}; known: {', '.join(BACKBONES)}")
    axes = len(shape) - 1
    if axes not in BACKBONES[kind]:
        others = ", ".join(name for name, nets in BACKBONES.items() if axes in nets)
        raise ValueError(f"backbone {kind!r} is not for samples of shape {tuple(shape)}; for these: {others}")
    if kind == "unet":
        side = min(shape[-2:] if axes > 1 else shape[1:]) // options.get("patch", 1)
        levels = max(1, int(math.log2(max(side, 1))))
        options["channels"] = list(options.get("channels", (24, 48, 48)))[:levels]
        top = len(options["channels"]) - 1
        options["attention"] = sorted({min(int(a), top) for a in options.get("attention", (top,))})
    elif kind == "local":
        # In one axis, as many taps as in two cost no more.
        options |= {"axes": axes, "kernel": 9 if axes == 1 else 3}
    else:
        options["space"] = list(shape[1:])
    return BACKBONES[kind][axes](in_channels, shape[0], classes=classes, **options)
