"""The networks that come with bootdiff, to be built by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bootdiff.nets.build import build_net, check_options, fitted, longer_side, patch_for
from bootdiff.nets.contract import Network, NetworkError

__all__ = ["BuiltIn"]


@dataclass(frozen=True)
class BuiltIn(Network):
    """A backbone by its name in `BACKBONES`, with options of its nets; what is left open follows the samples.

    >>> BuiltIn("unet", {"layers": 2}).resolve((1, 12, 32, 32), (1, 12, 32, 32)).describe()
    {'kind': 'unet', 'channels': [32, 64, 64], 'layers': 2, 'attention': [2], 'dropout': 0.0, 'patch': 4}

    Raises:
        ValueError: unknown name or option, a value out of bounds.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    resolved: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        check_options(self.kind, self.options)

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> BuiltIn:
        """All options filled in; a given patch shrinks for thumbnails, which have no detail to fold into channels."""
        if self.resolved:
            return self
        options, axes = dict(self.options), len(shape) - 1
        if axes == 0 and self.kind in ("unet", "local"):
            raise NetworkError(
                f"backbones: a {self.kind} is for signals, images and videos, and these samples are vectors of "
                f"{shape[0]} values: use mlp or linear, or leave `backbones` out"
            )
        if self.kind == "unet":
            channels = options.get("channels", "auto")
            if axes == 1 and not isinstance(channels, str) and any(width % 8 for width in channels):
                raise NetworkError(
                    f"backbones: the channels {list(channels)} of a unet for signals must be multiples of 8: its "
                    "blocks normalize over 8 groups"
                )
            small, large, patch = longer_side(shape), longer_side(full), options.get("patch", "auto")
            if isinstance(patch, str):
                patch = patch_for(shape)
            elif patch > 1 and small != large:
                patch = max(1, patch * small // large)
            options["patch"] = patch
        return BuiltIn(self.kind, fitted(self.kind, shape, options), True, noise=self.noise, divided=self.divided)

    def build(self, in_channels: int, shape: Sequence[int], classes: int | None = None) -> nn.Module:
        own = self.resolve(shape, shape)
        return build_net(own.kind, in_channels, shape, classes, **own.options)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}}
