"""Which net serves a backbone's name for which kind of samples, with which options, and at which sizes by default.

    kind      backbones       unet: widths, patch       local: width, kernel    mlp: width
    vector    mlp, linear     -                         -                       256
    signal    unet, local     32 64 64 64, 2            64, 9                   256
    image     unet, local     24 48 48, 1               64, 3 x 3               256
    video     unet, local     32 64 64, 4 (2 below 32)  16, 3 x 3 x 3           256

The sizes are the defaults of the nets' own constructors, and the patch is chosen here.  A training step then takes 0.1
to 0.2 seconds on one core: for 32 signals of 512 values, 32 images of 32 x 32 pixels, 8 videos of 12 x 32 x 32
(docs/backbones.md).
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from bootdiff.nets.dense import MLP, Linear
from bootdiff.nets.image import UNet
from bootdiff.nets.local import WIDTHS, LocalNet
from bootdiff.nets.parts import attention_levels
from bootdiff.nets.signal import SignalUNet
from bootdiff.nets.video import VideoUNet
from bootdiff.settings import check_value

__all__ = ["BACKBONES", "build_net", "check_options", "fitted", "net_of", "options_of", "patch_for"]

BACKBONES: dict[str, dict[int, type[nn.Module]]] = {
    "unet": {1: SignalUNet, 2: UNet, 3: VideoUNet},
    "local": {1: LocalNet, 2: LocalNet, 3: LocalNet},
    "mlp": {0: MLP, 1: MLP, 2: MLP, 3: MLP},
    "linear": {0: Linear, 1: Linear, 2: Linear, 3: Linear},
}
"""Name of a backbone -> number of axes after the first -> its net."""

# What the samples decide, not whoever chooses a net.
_OF_SAMPLES = ("in_channels", "out_channels", "classes", "space", "axes", "kernel")


@cache
def options_of(kind: str) -> dict[str, tuple[Any, Any]]:
    """What may be chosen of a backbone: name -> (annotation with bounds and `Doc`, default).

    >>> [name for name in options_of("local")]
    ['width', 'depth', 'dropout']

    Raises:
        ValueError: no such backbone.
    """
    if kind not in BACKBONES:
        raise ValueError(f"unknown backbone {kind!r}; known: {', '.join(BACKBONES)}")
    make: Any = net_of(kind).__init__
    hints = typing.get_type_hints(make, include_extras=True)
    parameters = list(inspect.signature(make).parameters.values())[1:]
    return {p.name: (hints[p.name], p.default) for p in parameters if p.name not in _OF_SAMPLES}


def net_of(kind: str) -> type[nn.Module]:
    """One of a backbone's nets: those of one name have the same options."""
    nets = BACKBONES[kind]
    return nets.get(2) or next(iter(nets.values()))


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown backbone or option, or a value out of bounds; it names the known ones."""
    known = options_of(kind)
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"backbone {kind!r}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    for name, value in options.items():
        check_value(f"backbone {kind!r}: {name}", known[name][0], value)


def fitted(kind: str, shape: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a backbone for samples of `shape` (C, *space): defaults filled in, levels cut to what fits.

    >>> fitted("unet", (3, 4, 4), {"layers": 2})
    {'channels': [24, 48], 'layers': 2, 'attention': [1], 'dropout': 0.0, 'patch': 1}

    Raises:
        ValueError: unknown kind, or one that is not for samples of this shape.
    """
    given = {name: default for name, (_, default) in options_of(kind).items()} | dict(options)
    axes = len(shape) - 1
    if axes not in BACKBONES[kind]:
        others = ", ".join(name for name, nets in BACKBONES.items() if axes in nets)
        raise ValueError(f"backbone {kind!r} is not for samples of shape {tuple(shape)}; for these: {others}")
    if kind == "unet":
        given["patch"] = 1 if given["patch"] == "auto" else given["patch"]
        side = min(shape[-2:] if axes > 1 else shape[1:]) // given["patch"]
        levels = max(1, int(math.log2(max(side, 1))))
        net: Any = BACKBONES[kind][axes]
        channels = list(net.widths if isinstance(given["channels"], str) else given["channels"])[:levels]
        attention = {min(level, len(channels) - 1) for level in attention_levels(given["attention"], len(channels))}
        given |= {"channels": channels, "attention": sorted(attention)}
    elif kind == "local" and given["width"] == "auto":
        given["width"] = WIDTHS[axes]
    elif kind == "linear" and given["rank"] is None:
        given["rank"] = max(32, 2 * math.prod(shape))
    return given


def patch_for(shape: Sequence[int]) -> int:
    """The patch of a UNet where it is left open: where samples are large, it is for what is global, and the local net
    beside it sees what is fine.

    >>> [patch_for(shape) for shape in ((1, 255), (1, 256), (3, 64, 64), (1, 9, 8, 8), (1, 9, 16, 16), (1, 9, 8, 64))]
    [1, 2, 1, 1, 2, 4]
    """
    axes, side = len(shape) - 1, longer_side(shape)
    if axes == 1:
        return 2 if side >= 256 else 1
    return 1 if axes == 2 or side < 16 else 2 if side < 32 else 4


def longer_side(shape: Sequence[int]) -> int:
    """The longer side in pixels; a signal's length. Time is not counted: it is never folded."""
    return max(shape[-2:] if len(shape) > 2 else shape[1:])


def build_net(
    kind: str, in_channels: int, shape: Sequence[int], classes: int | None = None, **options: Any
) -> nn.Module:
    """A backbone by its name in `BACKBONES`, for samples of `shape` (C, *space).

    Levels of a UNet that the sample is too small for (a level below 2 coordinates per axis) are left out.

    Raises:
        ValueError: unknown kind, or one that is not for samples of this shape.
    """
    axes = len(shape) - 1
    options = fitted(kind, shape, options)
    found: dict[str, Any] = {"axes": axes, "space": list(shape[1:])}
    asked = inspect.signature(BACKBONES[kind][axes]).parameters
    options |= {name: value for name, value in found.items() if name in asked}
    return BACKBONES[kind][axes](in_channels, shape[0], classes=classes, **options)
