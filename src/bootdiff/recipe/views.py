"""The recipe's blocks for views: what the files of one kind show of a full sample, and damage done to simulated ones.

The keys, their bounds, defaults and meaning are the fields of the classes in `views.VIEWS`, and what must hold between
them is what their constructors ask; here is only how YAML writes them where it differs.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)

from bootdiff.recipe.messages import Block, block_of, fail
from bootdiff.recipe.trust import imported, is_import
from bootdiff.settings import Ge
from bootdiff.views import VIEWS, View, from_config
from bootdiff.views.base import ArgumentError

__all__ = ["IMPORT_PATH", "Corruption", "OwnView", "ViewBlock", "Views", "kind_of", "short", "whole"]


def whole(value: Any) -> bool:
    """Whether value is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


IMPORT_PATH: Any = {"pattern": r"^[\w.]+:[\w.]+$"}
"""How editors know an import path (`recipe --schema`)."""


def _pair(value: Any) -> Any:
    return [value, value] if whole(value) else value


def _for_each_axis(value: Any, info: ValidationInfo) -> Any:
    """One number stands for as many as `size` has."""
    return [value] * len(info.data.get("size", [0, 0])) if whole(value) else value


def short(value: Any) -> Any:
    """`unet` for {kind: unet}."""
    return {"kind": value} if isinstance(value, str) else value


def _view_list(value: Any) -> Any:
    """One view for a list of one; `gray` for the luma weights of ITU-R BT.601, as Pillow's "L"."""
    blocks = value if isinstance(value, list) else [value]
    gray = {"kind": "channel_mix", "weights": [0.299, 0.587, 0.114]}
    return [gray if block in ("gray", {"kind": "gray"}) else short(block) for block in blocks]


class _View(Block):
    """One step of a view."""

    kind: str

    @model_serializer(mode="wrap")
    def _only_used(self, handler: Any) -> dict[str, Any]:
        # Recipes of earlier runs are written without these keys, and must read the same.
        late = ("position_conditioned", "start", "stop", "apart")
        said = handler(self).items()
        return {key: value for key, value in said if key not in late or not (value is None or value is False)}

    @model_validator(mode="after")
    def _check(self) -> Any:
        config = {name: value for name, value in self if value is not None}
        if "image" in config:
            config["image"] = [1]  # the picture is read later
        try:
            from_config(config)
        except ArgumentError as error:
            fail([((error.name,) if error.name else (), error.what)])
        return self

    def config(self) -> dict[str, Any]:
        """What `views.from_config` builds the view from."""
        return self.model_dump(exclude_none=True)

    @property
    def masked(self) -> bool:
        """Whether it hides a part."""
        return VIEWS[self.kind].masked

    @property
    def n_offsets(self) -> int:
        """How many whole numbers say where a file lies, of what its network is told."""
        return from_config(self.config()).n_offsets if getattr(self, "position_conditioned", False) else 0


class OwnView(Block):
    """A view of your own by its import path, with its constructor's arguments as further keys (--trust-imports)."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(description="module:Class, a bootdiff.views.View", json_schema_extra=IMPORT_PATH)
    _class: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _check(self) -> Any:
        try:
            self._class = imported(self.kind)
        except ValueError as error:
            fail([(("kind",), str(error))])
        if not (isinstance(self._class, type) and issubclass(self._class, View)):
            fail([(("kind",), "must be a class that inherits from bootdiff.views.View")])
        try:
            from_config(self.config())
        except ArgumentError as error:
            fail([((error.name,) if error.name else (), error.what)])
        except Exception as error:  # its constructor is the user's code
            fail([((), str(error))])
        return self

    def config(self) -> dict[str, Any]:
        """What `views.from_config` builds the view from: its kind is the class."""
        return {**self.model_dump(), "kind": self._class}

    @property
    def masked(self) -> bool:
        return from_config(self.config()).masked

    @property
    def position_conditioned(self) -> bool:
        return from_config(self.config()).position_conditioned

    @property
    def n_offsets(self) -> int:
        return from_config(self.config()).n_offsets


# How YAML writes a view where that is not how Python does.
_IMAGE = (
    str | None,
    Field(
        None,
        description="a picture of the mask, white (128 and above) = observed; or an .npy array of 0 and 1: "
        "[frames, height, width] of a video, [samples] of a signal, with channels in front where they differ",
    ),
)
_READ: dict[str, dict[str, Any]] = {
    "downsample": {"read": {"factor": Ge(2)}, "optional": ["axes"]},
    "crop": {
        "read": {
            "size": BeforeValidator(_pair, json_schema_input_type=int | list[int]),
            "offset": BeforeValidator(_for_each_axis, json_schema_input_type=int | list[int]),
            "stride": BeforeValidator(_for_each_axis, json_schema_input_type=int | list[int] | None),
        }
    },
    "frame_stride": {"read": {"every": Ge(2)}},
    # A list of one text and one number: the view says what is wrong with it.
    "mask": {"read": {"band": PlainValidator(lambda value: value)}, "image": _IMAGE},
}


def _block(kind: str, cls: type[View]) -> Any:
    tag: Any = Literal[kind]
    tagged = create_model(f"_{cls.__name__}", __base__=_View, kind=(tag, ...))
    return Annotated[block_of(cls, base=tagged, **_READ.get(kind, {})), Tag(kind)]


def kind_of(own: str) -> Discriminator:
    """Tells blocks apart by their `kind`; those with an import path are of the kind `own`."""

    def tag(value: Any) -> str | None:
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        return own if is_import(kind) else kind if kind is None else str(kind)

    return Discriminator(tag)


if TYPE_CHECKING:
    ViewBlock = _View
    Views = list[_View]
else:
    # `std` beside a view and lists of views stand for the other two.
    _BLOCKS = [_block(kind, cls) for kind, cls in VIEWS.items() if kind not in ("observed", "compose")]
    _OWN = "mypackage.module:MyView"
    _Kinds = Literal[("gray", *VIEWS)]
    ViewBlock = Annotated[reduce(or_, [*_BLOCKS, Annotated[OwnView, Tag(_OWN)]]), kind_of(_OWN)]
    _written = ViewBlock | _Kinds | list[ViewBlock | _Kinds]
    Views = Annotated[
        list[ViewBlock], Field(min_length=1), BeforeValidator(_view_list, json_schema_input_type=_written)
    ]


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
