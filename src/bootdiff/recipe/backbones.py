"""The recipe's blocks for networks, and the sizes they take where the recipe leaves them open.

What is `auto` follows the kind of the samples, which their number of axes tells.  A training step then takes 0.1 to 0.2
seconds on one core: for 32 signals of 512 values, 32 images of 32 x 32 pixels, 8 videos of 12 x 32 x 32
(docs/backbones.md).

    kind      backbones       unet: channels, patch     local: width, kernel    mlp: width
    vector    mlp, linear     -                         -                       256
    signal    unet, local     32 64 64 64, 2            64, 9                   256
    image     unet, local     24 48 48, 1               64, 3 x 3               256
    video     unet, local     32 64 64, 4 (2 below 32)  16, 3 x 3 x 3           256
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from bootdiff.errors import BootdiffError
from bootdiff.recipe.messages import Block
from bootdiff.recipe.views import short, whole

__all__ = ["Backbone", "LinearSpec", "LocalSpec", "MLPSpec", "UNetSpec", "default_backbones"]


def _attention(value: Any) -> bool | list[int]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(whole(v) and v >= 0 for v in value):
        return value
    raise ValueError(f"must be true, false or a list of levels (0 is the finest), got {value!r}")


def _channels(value: Any) -> str | list[int]:
    if value == "auto":
        return "auto"
    if isinstance(value, list) and value and all(whole(v) and v > 0 for v in value):
        return value
    raise ValueError(f"must be auto or a list of widths such as [24, 48, 48], got {value!r}")


def _count(value: Any) -> str | int:
    if value == "auto" or (whole(value) and value >= 1):
        return value
    raise ValueError(f"must be auto or a whole number of at least 1, got {value!r}")


Count = Annotated[Literal["auto"] | int, PlainValidator(_count)]

# By the number of axes after the first.
_CHANNELS = {1: [32, 64, 64, 64], 3: [32, 64, 64]}
_WIDTH = {1: 64, 2: 64, 3: 16}


def _patch(axes: int, side: int) -> int:
    """Where samples are large, the UNet is for what is global: the local net beside it sees what is fine."""
    if axes == 1:
        return 2 if side >= 256 else 1
    return 1 if axes == 2 or side < 16 else 2 if side < 32 else 4


def _side(shape: Sequence[int]) -> int:
    """The longer side in pixels; a signal's length. Time is not counted: it is never folded."""
    return max(shape[-2:] if len(shape) > 2 else shape[1:])


class UNetSpec(Block):
    """Sees the whole sample: diffusers' UNet2DModel, with layers along time for videos; its 1-D blocks for signals."""

    kind: Literal["unet"]
    channels: Annotated[Literal["auto"] | list[int], PlainValidator(_channels)] = Field(
        "auto", description="width of each level, the finest first; auto: by the kind and size of the samples"
    )
    layers: int = Field(1, ge=1, description="residual blocks per level")
    attention: Annotated[bool | list[int], PlainValidator(_attention)] = Field(
        True, description="levels with self-attention (0 is the finest); true: the coarsest, false: none"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden values dropped in training")
    patch: Count = Field(
        "auto",
        description="pixels per side (values of a signal) folded into channels first: 2 quarters the compute; never "
        "frames; fewer for thumbnails; auto: 4 for videos (2 below 32 pixels, 1 below 16), 2 for signals of 256 values "
        "or more, else 1",
    )

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> UNetSpec:
        """The same with a patch, and the channels of its kind, for samples of `shape`, views of samples of `full`.

        Raises:
            BootdiffError: samples or widths that it is not for.
        """
        axes = len(shape) - 1
        if axes == 0:
            raise BootdiffError(_unsuited("unet", shape))
        update: dict[str, Any] = {}
        if self.channels == "auto" and axes in _CHANNELS:
            update["channels"] = _CHANNELS[axes]
        if axes == 1 and isinstance(self.channels, list) and any(width % 8 for width in self.channels):
            raise BootdiffError(
                f"backbones: the channels {self.channels} of a unet for signals must be multiples of 8: its blocks "
                "normalize over 8 groups"
            )
        small, large = _side(shape), _side(full)
        if isinstance(self.patch, str):
            update["patch"] = _patch(axes, small)
        elif self.patch > 1 and small != large:
            # Thumbnails have no detail to fold into channels.
            update["patch"] = max(1, self.patch * small // large)
        return self.model_copy(update=update)

    def network(self):
        from bootdiff.nets.network import SpecNetwork

        return SpecNetwork(self)

    def options(self, auto: Sequence[int] = (24, 48, 48)) -> dict[str, Any]:
        """Keyword arguments of the UNets in `nets`; `auto` are the channels where the recipe leaves them open.

        >>> UNetSpec(kind="unet", patch=1).options((16, 32))["attention"]
        [1]
        """
        channels = list(auto) if isinstance(self.channels, str) else self.channels
        levels = self.attention
        if isinstance(levels, bool):
            levels = [len(channels) - 1] if levels else []
        return {**self.model_dump(exclude={"kind"}), "channels": channels, "attention": levels}


class LocalSpec(Block):
    """A stack of convolutions at full resolution: sees a neighbourhood, cannot memorize whole samples."""

    kind: Literal["local"]
    width: Count = Field("auto", description="hidden channels; auto: 64, for videos 16")
    depth: int = Field(
        5, ge=3, description="convolutions; the neighbourhood is 2 depth + 1 pixels wide, in signals 8 depth + 1 values"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden values dropped in training")

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> LocalSpec:
        """The same with the width of its kind. Raises BootdiffError for vectors."""
        if len(shape) == 1:
            raise BootdiffError(_unsuited("local", shape))
        return self.model_copy(update={"width": _WIDTH[len(shape) - 1]}) if self.width == "auto" else self

    def network(self):
        from bootdiff.nets.network import SpecNetwork

        return SpecNetwork(self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `nets.LocalNet`."""
        return self.model_dump(exclude={"kind"})


class MLPSpec(Block):
    """Dense layers over the whole sample: for vectors and small samples."""

    kind: Literal["mlp"]
    width: int = Field(256, ge=1, description="hidden units")
    depth: int = Field(3, ge=1, description="hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units dropped in training")

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> MLPSpec:
        """The same: dense layers fit any kind."""
        return self

    def network(self):
        from bootdiff.nets.network import SpecNetwork

        return SpecNetwork(self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `nets.MLP`."""
        return self.model_dump(exclude={"kind"})


class LinearSpec(Block):
    """Linear in the sample, with gains by noise level: right for Gaussian laws, and it takes few samples to learn."""

    kind: Literal["linear"]
    rank: int | None = Field(None, ge=1, description="directions; null: twice the values of a sample, at least 32")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of directions dropped in training")

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> LinearSpec:
        """The same: a linear map fits any kind."""
        return self

    def network(self):
        from bootdiff.nets.network import SpecNetwork

        return SpecNetwork(self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `nets.Linear`."""
        return self.model_dump(exclude={"kind"})


def _unsuited(kind: str, shape: Sequence[int]) -> str:
    return (
        f"backbones: a {kind} is for signals, images and videos, and these samples are vectors of {shape[0]} values: "
        "use mlp or linear, or leave `backbones` out"
    )


Backbone = Annotated[UNetSpec | LocalSpec | MLPSpec | LinearSpec, Field(discriminator="kind"), BeforeValidator(short)]


def default_backbones(axes: int = 2) -> dict[str, Any]:
    """The backbones of samples with so many axes after the first, where the recipe names none.

    >>> list(default_backbones(0)), list(default_backbones(3))
    (['mlp', 'linear'], ['unet', 'local'])
    """
    if axes == 0:
        return {"mlp": MLPSpec(kind="mlp"), "linear": LinearSpec(kind="linear")}
    return {"unet": UNetSpec(kind="unet"), "local": LocalSpec(kind="local")}
