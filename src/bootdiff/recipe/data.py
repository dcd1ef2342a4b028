"""The recipe's blocks for data: where samples come from, of which kind they are, and how they are cut and scaled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, SerializerFunctionWrapHandler, model_serializer, model_validator

from bootdiff.errors import BootdiffError
from bootdiff.recipe.messages import Block, fail
from bootdiff.recipe.views import whole

__all__ = ["Data", "Full", "Holdout", "held_out", "partial_only"]

# Keys that belong to some kinds of data only, and to which.
_OF_KIND = {
    "channels": ("image", "video"),
    "alpha": ("image", "video"),
    "frames": ("video",),
    "fps": ("video",),
    "length": ("signal",),
    "stride": ("video", "signal"),
    "columns": ("vector", "signal"),
    "standardize": ("vector", "signal"),
}

# Keys that recipes name only where they are given.
_OPTIONAL = ("kind", "frames", "length", "stride", "fps", "columns", "standardize", "missing", "unlabelled")


def _holdout(value: Any) -> int | float:
    if (whole(value) and value >= 1) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"must be a count of at least 1 or a share between 0 and 1 (as 0.2), got {value!r}")


def _text_or_flag(value: Any) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"must be true, false or the name of an array, got {value!r}")


Holdout = Annotated[int | float, PlainValidator(_holdout)]


def held_out(where: str, holdout: int | float, n: int, most: int | None) -> int:
    """How many of n samples are held out, in 1 .. n - 1; a share gives at most `most`.

    Raises BootdiffError where none is left to train on.
    """
    count = holdout if isinstance(holdout, int) else max(1, min(round(holdout * n), n if most is None else most))
    if count >= n:
        raise BootdiffError(
            f"{where}.holdout: {n} sample(s) with {count} held out leave none to train on; "
            f"bring more samples or lower {where}.holdout"
        )
    return count


class Data(Block):
    """Where samples come from."""

    path: str = Field(
        min_length=1, description="folder of pictures, videos or signals, array, table, or 'digits' (scikit-learn's)"
    )
    kind: Literal["image", "video", "signal", "vector"] | None = Field(
        None, description="what one sample is; null: what the files leave no doubt about"
    )
    key: str | None = Field(None, description="name of the array in an .npz file")
    labels: Annotated[bool | str, PlainValidator(_text_or_flag)] = Field(
        False, description="true: sub-folders are classes; or the name of the array or column of labels"
    )
    unlabelled: Literal["refuse", "keep"] = Field("refuse", description="with labels: what to do with samples without")
    on_error: Literal["refuse", "skip"] = Field("refuse", description="what to do with files that cannot be used")
    channels: Literal[1, 3] | None = Field(None, description="1 gray, 3 colour; null: as in the first file")
    alpha: Literal["refuse", "white", "black", "drop"] = Field("refuse", description="what to do with transparency")
    masks: Annotated[bool | str, PlainValidator(_text_or_flag)] = Field(
        False, description="true: each file has a mask beside it, name.mask.png (white = observed); or the array's name"
    )
    missing: Literal["refuse", "mask"] = Field("refuse", description="NaN and empty cells: damage, or not observed")
    column: str | None = Field(None, description="column of pictures in a Hugging Face dataset saved to disk")
    columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="columns of a table to use, in this order; null: all, which must hold numbers"
    )
    limit: int | None = Field(None, ge=1, description="use at most so many samples, evenly spaced over all there are")
    frames: int | None = Field(None, ge=1, description="frames of a video to use; longer ones give several windows")
    length: int | None = Field(None, ge=1, description="values of a signal to use; longer ones give several windows")
    stride: int | None = Field(None, ge=1, description="spacing of such windows; null: one after the other")
    fps: float | None = Field(None, gt=0, description="resample video files to so many frames per second (nearest)")
    range: list[float] | None = Field(
        None, min_length=2, max_length=2, description="[low, high] of float arrays; null: measured, [0, 1] or [-1, 1]"
    )
    standardize: bool = Field(
        False, description="signals, vectors: scale by each channel's mean and deviation, measured on full samples"
    )

    @model_validator(mode="after")
    def _check(self) -> Data:
        fail(self._problems())
        return self

    def _problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.range is not None and self.range[0] >= self.range[1]:
            yield ("range",), f"must be [low, high] with low < high, got {self.range}"
        if self.range is not None and self.standardize:
            yield ("standardize",), "the values have a range already; leave out one of the two"
        if self.frames is not None and self.length is not None:
            yield ("length",), "videos have frames, signals have a length; leave out one of the two"
        if self.stride is not None and self.frames is None and self.length is None:
            yield ("stride",), "spaces windows, but there is no frames (videos) or length (signals)"
        if self.unlabelled == "keep" and self.labels is False:
            yield ("unlabelled",), "there are no labels to lack; say labels, or leave this out"
        for name, kinds in _OF_KIND.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and self.kind is not None and self.kind not in kinds:
                yield (name,), f"means nothing for kind: {self.kind} (only for {' and '.join(kinds)}); leave it out"

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {k: v for k, v in handler(self).items() if k not in _OPTIONAL or v != fields[k].default}

    @property
    def is_digits(self) -> bool:
        """Whether the data are scikit-learn's digits rather than a path."""
        return self.path == "digits"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `data.open_dataset`."""
        return {name: getattr(self, name) for name in Data.model_fields if name != "path"}


class Full(Data):
    """The few full samples; without a path they come from `simulate`."""

    path: str = Field("", description="as in any data block; left out with `simulate`")
    holdout: Holdout = Field(
        0.2, description="number or share of full samples held out for stopping, gains and stacking; at least 1"
    )

    def held_out(self, n: int) -> int:
        """How many of n full samples are held out, in 1 .. n - 1; BootdiffError if none is left to train on."""
        return held_out("full", self.holdout, n, None)


def partial_only(block: Data) -> Iterator[tuple[str, str]]:
    """Keys that only partial data may have, given in a block of full samples, and why that is wrong."""
    if block.missing == "mask":
        yield "missing", "full samples are whole; those with gaps are a view (view: random_mask) with data of their own"
    if block.masks:
        yield "masks", "full samples are whole; those with masks are a view (view: random_mask) with data of their own"
