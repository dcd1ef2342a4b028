"""Which net serves a backbone's name for which kind of samples, with which options, and at which sizes by default.

    kind      backbones       unet: widths                    local: width, kernel    mlp: width
    vector    mlp, linear     -                               -                       256
    signal    unet, local     32 64 64 64                     64, 9                   256
    image     unet, local     24 48 48; beyond 32: 32 64 96   64, 3 x 3               256
    video     unet, local     32 64 64                        16, 3 x 3 x 3           256

What is open follows the size of the samples, so that no size costs more than a few times another (docs/backbones.md):
a UNet folds patches of p x p pixels into channels (`patch_for`) and gets a level more for each doubling of what is left
(`widths_for`); a local net, which works on every pixel, gets narrower (`width_for`).
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

__all__ = [
    "BACKBONES",
    "build_net",
    "check_options",
    "fitted",
    "net_of",
    "options_of",
    "patch_for",
    "width_for",
    "widths_for",
]

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
        auto = isinstance(given["channels"], str)
        channels = (widths_for(shape, given["patch"]) if auto else list(given["channels"]))[:levels]
        attention = {min(level, len(channels) - 1) for level in attention_levels(given["attention"], len(channels))}
        given |= {"channels": channels, "attention": sorted(attention)}
    elif kind == "local" and given["width"] == "auto":
        given["width"] = width_for(shape)
    elif kind == "linear" and given["rank"] is None:
        given["rank"] = max(32, 2 * math.prod(shape))
    return given


def patch_for(shape: Sequence[int]) -> int:
    """The patch of a UNet where it is left open: where samples are large, it is for what is global, and the local net
    beside it sees what is fine.

    >>> [patch_for((3, side, side)) for side in (32, 33, 64, 65, 256, 512)]
    [1, 2, 2, 4, 4, 8]
    >>> [patch_for((1, 9, 8, side)) for side in (8, 16, 32, 64, 128)], [patch_for((1, n)) for n in (255, 256, 160_000)]
    ([1, 2, 4, 4, 8], [1, 2, 16])
    """
    sizes: dict[int, tuple[tuple[int, int], ...]] = {  # from so many pixels or values on: the patch
        1: ((131_072, 16), (32_768, 8), (8192, 4), (256, 2)),
        2: ((257, 8), (65, 4), (33, 2)),
        3: ((65, 8), (32, 4), (16, 2)),
    }
    side = longer_side(shape)
    return next((patch for least, patch in sizes[len(shape) - 1] if side >= least), 1)


def widths_for(shape: Sequence[int], patch: int) -> list[int]:
    """The widths of a UNet's levels where they are left open: those of its kind (a picture's wider beyond 32 pixels),
    and the last once more for each doubling, until the coarsest level has at most 16 pixels or 512 values a side.

    >>> widths_for((3, 32, 32), 1), widths_for((3, 256, 256), 4), widths_for((1, 12, 32, 32), 4)
    ([24, 48, 48], [32, 64, 96, 96], [32, 64, 64])
    """
    axes, side = len(shape) - 1, longer_side(shape)
    net: Any = BACKBONES["unet"][axes]
    widths = [32, 64, 96] if axes == 2 and side > 32 else list(net.widths)
    coarsest = 512 if axes == 1 else 16
    while side / patch / 2 ** (len(widths) - 1) >= coarsest:
        widths.append(widths[-1])
    return widths


def width_for(shape: Sequence[int]) -> int:
    """The width of a local net where it is left open: it works on every pixel, of which many cost time.

    >>> [width_for(shape) for shape in ((3, 64, 64), (3, 128, 128), (1, 160_000), (3, 16, 32, 32), (3, 16, 128, 128))]
    [64, 32, 16, 16, 8]
    """
    axes, places = len(shape) - 1, math.prod(shape[1:])
    most: dict[int, tuple[int, ...]] = {1: (8192, 65_536), 2: (8192,), 3: (131_072,)}
    return WIDTHS[axes] >> sum(places > n for n in most[axes])


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
