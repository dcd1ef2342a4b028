"""The recipe's blocks for views: what the files of one kind show of a full sample, and damage done to simulated ones.

The kinds and keys are those of `views.VIEWS` and `data.CORRUPTIONS`, so a block is `views.from_config`'s argument; here
they are checked without importing torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from .recipe_help import Block, fail

__all__ = ["Corruption", "ViewBlock", "Views", "short", "whole"]


def whole(value: Any) -> bool:
    """Whether value is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def _pair(value: Any) -> Any:
    return [value, value] if whole(value) else value


def _band(value: Any) -> list[str | int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        side, rows = value
        if side in ("bottom", "top") and whole(rows) and rows >= 1:
            return value
    raise ValueError(f"must be [bottom, rows] or [top, rows] with at least 1 row, as [bottom, 8]; got {value!r}")


def short(value: Any) -> Any:
    """`unet` for {kind: unet}."""
    return {"kind": value} if isinstance(value, str) else value


def _view_list(value: Any) -> Any:
    """One view for a list of one; `gray` for the luma weights of ITU-R BT.601, as Pillow's "L"."""
    blocks = value if isinstance(value, list) else [value]
    gray = {"kind": "channel_mix", "weights": [0.299, 0.587, 0.114]}
    return [gray if block in ("gray", {"kind": "gray"}) else short(block) for block in blocks]


Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2), BeforeValidator(_pair)]
Offsets = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2), BeforeValidator(_pair)]


class Identity(Block):
    """The whole sample (useful with noise or a corruption)."""

    kind: Literal["identity"]


class Downsample(Block):
    """Block averages: thumbnails."""

    kind: Literal["downsample"]
    factor: int = Field(ge=2, description="how many pixels across are averaged into one")
    axes: list[Annotated[int, Field(le=-1)]] | None = Field(
        None, min_length=1, description="axes counted from the end; null: [-2, -1], height and width"
    )


class Crop(Block):
    """A window of the picture."""

    kind: Literal["crop"]
    size: Sizes = Field(description="[height, width] or one number for both, in pixels")
    offset: Offsets | None = Field(None, description="[top, left]; null: windows cut anywhere")
    stride: Sizes | None = Field(None, description="spacing of the windows asked when sampling; null: half the size")

    @model_validator(mode="after")
    def _check(self) -> Crop:
        if self.offset is not None and self.stride is not None:
            fail([(("stride",), "give an offset (one window) or a stride (a grid of windows), not both")])
        return self


class Mask(Block):
    """One part hidden in every picture: a subtitle, a watermark, a logo."""

    kind: Literal["mask"]
    box: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=4, max_length=4, description="[top, left, height, width] of the hidden box"
    )
    band: Annotated[list[str | int] | None, PlainValidator(_band)] = Field(
        None, description="[bottom, rows] or [top, rows]: so many hidden rows there"
    )
    image: str | None = Field(None, description="a picture of the mask, white (128 and above) = observed")

    @model_validator(mode="after")
    def _check(self) -> Mask:
        given = [name for name in ("box", "band", "image") if getattr(self, name) is not None]
        if len(given) != 1:
            fail([((), f"give exactly one of box, band, image; got {' and '.join(given) or 'none'}")])
        if self.box is not None and min(self.box[2:]) < 1:
            fail([(("box",), f"must hide at least 1 pixel: [top, left, height, width], got {self.box}")])
        return self


class RandomMask(Block):
    """Another part hidden in every picture."""

    kind: Literal["random_mask"]
    hide: Literal["box", "pixels"] = Field("box", description="what is hidden")
    fraction: float = Field(0.25, gt=0, lt=1, description="share of the picture that is hidden")
    count: int = Field(4, ge=1, description="masks asked per new sample")
    seed: int = Field(0, ge=0, description="draws these masks")


class ChannelMix(Block):
    """Mixed or picked channels; `view: gray` for the usual gray."""

    kind: Literal["channel_mix"]
    rows: list[list[float]] | None = Field(None, min_length=1, description="orthonormal rows, one per stored channel")
    weights: list[float] | None = Field(None, min_length=1, description="weights of one stored channel, sum 1")

    @model_validator(mode="after")
    def _check(self) -> ChannelMix:
        if (self.rows is None) == (self.weights is None):
            fail([((), "give exactly one of rows, weights (or write `view: gray`)")])
        return self


ViewBlock = Annotated[Identity | Downsample | Crop | Mask | RandomMask | ChannelMix, Field(discriminator="kind")]


Views = Annotated[list[ViewBlock], Field(min_length=1), BeforeValidator(_view_list)]


class Blur(Block):
    """Gaussian blur."""

    kind: Literal["blur"]
    sigma: float = Field(ge=1e-3, le=100, description="standard deviation in pixels")


class Jpeg(Block):
    """JPEG artefacts."""

    kind: Literal["jpeg"]
    quality: int = Field(ge=1, le=95, description="quality as Pillow counts it")


class Quantize(Block):
    """Few gray levels."""

    kind: Literal["quantize"]
    levels: int = Field(ge=2, le=65536, description="values per channel")


class ClippedNoise(Block):
    """White noise, clipped to [-1, 1] as files are (without clipping: the view's `std`)."""

    kind: Literal["noise"]
    std: float = Field(ge=0, le=100, description="standard deviation, in [-1, 1]")


Corruption = Annotated[Blur | Jpeg | Quantize | ClippedNoise, Field(discriminator="kind")]
