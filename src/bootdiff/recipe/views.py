"""The recipe's blocks for views: what the files of one kind show of a full sample, and damage done to simulated ones.

The kinds and keys are those of `views.VIEWS` and `data.CORRUPTIONS`, so a block is `views.from_config`'s argument; here
they are checked without importing torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, model_serializer, model_validator

from bootdiff.recipe.messages import Block, fail

__all__ = ["Corruption", "ViewBlock", "Views", "short", "whole"]


def whole(value: Any) -> bool:
    """Whether value is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def _pair(value: Any) -> Any:
    return [value, value] if whole(value) else value


def _for_each_axis(value: Any, info: ValidationInfo) -> Any:
    """One number stands for as many as `size` has."""
    return [value] * len(info.data.get("size", [0, 0])) if whole(value) else value


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


Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=3), BeforeValidator(_pair)]
Strides = Annotated[list[Annotated[int, Field(ge=1)]] | None, BeforeValidator(_for_each_axis)]
Offsets = Annotated[list[Annotated[int, Field(ge=0)]] | None, BeforeValidator(_for_each_axis)]
TOLD = (
    "tell its network where in the full sample each file lies; files say so by the view's `offsets`, simulated ones do"
)


class _View(Block):
    """One step of a view."""

    @model_serializer(mode="wrap")
    def _only_used(self, handler: Any) -> dict[str, Any]:
        # Recipes of earlier runs are written without these keys, and must read the same.
        late = ("position_conditioned", "start", "stop", "apart")
        said = handler(self).items()
        return {key: value for key, value in said if key not in late or not (value is None or value is False)}

    @property
    def n_offsets(self) -> int:
        """How many whole numbers say where a file lies, of what its network is told."""
        return 0


class Identity(_View):
    """The whole sample (useful with noise or a corruption)."""

    kind: Literal["identity"]


class Downsample(_View):
    """Block averages: thumbnails; coarser in time."""

    kind: Literal["downsample"]
    factor: int = Field(ge=2, description="how many pixels across (or frames, or samples) are averaged into one")
    axes: list[Annotated[int, Field(le=-1)]] | None = Field(
        None, min_length=1, description="axes counted from the end; null: [-2, -1], height and width; [-3]: the frames "
        "of a video; [-1]: the samples of a signal"
    )  # fmt: skip


def _offset_or_stride(block: Any) -> list[tuple[tuple[str | int, ...], str]]:
    if block.offset is None or block.stride is None:
        return []
    return [(("stride",), "give an offset (one window) or a stride (a grid of windows), not both")]


class Crop(_View):
    """A window of the picture, of all frames of a video, or a box of a video."""

    kind: Literal["crop"]
    size: Size = Field(description="[height, width] or one number for both, in pixels; [frames, height, width]")
    offset: Offsets = Field(None, description="[top, left], as many numbers as the size; null: windows cut anywhere")
    stride: Strides = Field(None, description="spacing of the windows asked when sampling; null: half the size")
    position_conditioned: bool = Field(False, description=TOLD)

    @model_validator(mode="after")
    def _check(self) -> Crop:
        fail(_offset_or_stride(self))
        for name in ("offset", "stride"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.size):
                fail([((name,), f"must have as many numbers as size ({len(self.size)}), got {value}")])
        return self

    @property
    def n_offsets(self) -> int:
        return len(self.size) if self.position_conditioned and self.offset is None else 0


class FrameWindow(_View):
    """Some consecutive frames: short clips of long videos."""

    kind: Literal["frame_window"]
    length: int = Field(ge=1, description="frames")
    offset: int | None = Field(None, ge=0, description="the first frame, counted from 0; null: clips cut anywhere")
    stride: int | None = Field(
        None, ge=1, description="spacing of the clips asked when sampling; null: half the length"
    )
    position_conditioned: bool = Field(False, description=TOLD)

    @model_validator(mode="after")
    def _check(self) -> FrameWindow:
        fail(_offset_or_stride(self))
        return self

    @property
    def n_offsets(self) -> int:
        return int(self.position_conditioned and self.offset is None)


class Window(_View):
    """A piece of a signal."""

    kind: Literal["window"]
    length: int = Field(ge=1, description="samples")
    offset: int | None = Field(None, ge=0, description="the first sample, counted from 0; null: pieces cut anywhere")
    stride: int | None = Field(
        None, ge=1, description="spacing of the pieces asked when sampling; null: half the length"
    )
    position_conditioned: bool = Field(False, description=TOLD)

    @model_validator(mode="after")
    def _check(self) -> Window:
        fail(_offset_or_stride(self))
        return self

    @property
    def n_offsets(self) -> int:
        return int(self.position_conditioned and self.offset is None)


class Stills(_View):
    """Single frames of a video, as pictures."""

    kind: Literal["stills"]
    frame: int | None = Field(None, ge=0, description="always this frame, counted from 0; null: any")
    every: int | None = Field(None, ge=1, description="when sampling, ask every so many frames; null: all")
    position_conditioned: bool = Field(False, description=TOLD)

    @model_validator(mode="after")
    def _check(self) -> Stills:
        if self.frame is not None and self.every is not None:
            fail([(("every",), "give a frame (this one) or every (one of these), not both")])
        return self

    @property
    def n_offsets(self) -> int:
        return int(self.position_conditioned and self.frame is None)


class FrameStride(_View):
    """Every so many-th frame of a video: low frame rates."""

    kind: Literal["frame_stride"]
    every: int = Field(ge=2, description="frames from one to the next; the full video's frames are a multiple of it")
    offset: int | None = Field(None, ge=0, description="the first frame, below `every`; null: any")

    @model_validator(mode="after")
    def _check(self) -> FrameStride:
        if self.offset is not None and self.offset >= self.every:
            fail([(("offset",), f"must be below every ({self.every}), got {self.offset}")])
        return self


class Mask(_View):
    """One part hidden in every sample: a subtitle, a watermark, a logo, a gap."""

    kind: Literal["mask"]
    box: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=4, max_length=6, description="[top, left, height, width] of the hidden box, in all frames; "
        "[first frame, top, left, frames, height, width] for some"
    )  # fmt: skip
    band: Annotated[list[str | int] | None, PlainValidator(_band)] = Field(
        None, description="[bottom, rows] or [top, rows]: so many hidden rows there"
    )
    image: str | None = Field(
        None, description="a picture of the mask, white (128 and above) = observed; or an .npy array of 0 and 1: "
        "[frames, height, width] of a video, [samples] of a signal, with channels in front where they differ"
    )  # fmt: skip
    start: int | None = Field(
        None, ge=0, description="the first hidden sample of a signal or column of a vector, from 0"
    )
    stop: int | None = Field(None, ge=1, description="where they end: the first one that is observed again")

    @model_validator(mode="after")
    def _check(self) -> Mask:
        given = [name for name in ("box", "band", "image") if getattr(self, name) is not None]
        given += ["start and stop"] if self.start is not None or self.stop is not None else []
        if len(given) != 1:
            fail([((), f"give exactly one of box, band, image, start and stop; got {' and '.join(given) or 'none'}")])
        if self.box is not None:
            if len(self.box) == 5:
                fail([(("box",), f"must have 4 numbers, or 6 for a part of the frames, got {self.box}")])
            if min(self.box[len(self.box) // 2 :]) < 1:
                fail([(("box",), f"must hide at least 1 pixel: [top, left, height, width], got {self.box}")])
        if given == ["start and stop"]:
            if self.start is None or self.stop is None:
                fail([((), "give both: start and stop")])
            elif self.start >= self.stop:
                fail([(("stop",), f"must be greater than start ({self.start}), got {self.stop}")])
        return self


class RandomMask(_View):
    """Another part hidden in every sample."""

    kind: Literal["random_mask"]
    hide: Literal["box", "pixels", "moving", "gap", "channels"] = Field(
        "box", description="what is hidden: a box (in all frames alike), pixels or samples each apart, a box moving "
        "through the frames, a run of samples or frames, whole channels or columns"
    )  # fmt: skip
    fraction: float = Field(0.25, gt=0, lt=1, description="share of the sample that is hidden")
    count: int = Field(4, ge=1, description="masks asked per new sample")
    seed: int = Field(0, ge=0, description="draws these masks")
    apart: bool = Field(False, description="each channel has a mask of its own")

    @model_validator(mode="after")
    def _check(self) -> RandomMask:
        if self.apart and self.hide == "channels":
            fail([(("apart",), "whole channels are hidden: leave it out, or choose another `hide`")])
        return self


class ChannelMix(_View):
    """Mixed or picked channels; `view: gray` for the usual gray."""

    kind: Literal["channel_mix"]
    rows: list[list[float]] | None = Field(None, min_length=1, description="orthonormal rows, one per stored channel")
    weights: list[float] | None = Field(None, min_length=1, description="weights of one stored channel, sum 1")

    @model_validator(mode="after")
    def _check(self) -> ChannelMix:
        if (self.rows is None) == (self.weights is None):
            fail([((), "give exactly one of rows, weights (or write `view: gray`)")])
        return self


class Pick(_View):
    """Some of the channels, or columns of a vector."""

    kind: Literal["pick"]
    indices: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, description="which ones, counted from 0, in order")

    @model_validator(mode="after")
    def _check(self) -> Pick:
        if len(set(self.indices)) < len(self.indices):
            fail([(("indices",), f"must be different, got {self.indices}")])
        return self


ViewBlock = Annotated[
    Identity | Downsample | Crop | FrameWindow | Window | Stills | FrameStride | Mask | RandomMask | ChannelMix | Pick,
    Field(discriminator="kind"),
]

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
