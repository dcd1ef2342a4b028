"""The recipe's blocks for data: where samples come from, of which kind they are, and how they are cut and scaled.

The keys, their bounds, defaults and meanings are those of `data.options`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from bootdiff.data.dataset import held_out_count
from bootdiff.data.options import DataOptions, conflicts, is_path
from bootdiff.recipe.messages import Block, block_of, fail
from bootdiff.recipe.views import whole
from bootdiff.settings import short_repr

__all__ = ["Data", "Full", "Holdout", "partial_only"]

# Keys that recipes name only where they are given.
_OPTIONAL = (
    "kind", "frames", "length", "stride", "fps", "columns", "standardize", "missing", "unlabelled",
    "header", "separator", "decimal", "missing_values", "pixel_aspect", "size", "fit", "slices",
    "max_pixels", "max_frames", "max_columns", "max_bytes",
)  # fmt: skip


def _holdout(value: Any) -> int | float:
    if (whole(value) and value >= 1) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"must be a count of at least 1 or a share between 0 and 1 (as 0.2), got {short_repr(value)}")


Holdout = Annotated[int | float, PlainValidator(_holdout, json_schema_input_type=int | float)]


class _Path(Block):
    path: str = Field(
        min_length=1,
        description="folder of pictures, videos or signals, shards/{00..19}.tar, array, table, hf://owner/name (on the "
        "Hugging Face Hub), 'digits' (scikit-learn's) or 'letters' (of matplotlib's fonts)",
    )

    @field_validator("labels", "masks", mode="plain", check_fields=False, json_schema_input_type=bool | str)
    @classmethod
    def _name_or_flag(cls, value: Any) -> bool | str:
        if isinstance(value, bool) or (isinstance(value, str) and value):
            return value
        raise ValueError(f"must be true, false or the name of an array, got {short_repr(value)}")


# Units and classes are found for all of a recipe's data together.
_Options: Any = block_of(DataOptions, "Data", leave_out=("classes", "units", "std"), base=_Path)


class Data(_Options):
    """Where samples come from."""

    @model_validator(mode="after")
    def _check(self) -> Data:
        fail(((name,), problem) for name, problem in conflicts(self))
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {k: v for k, v in handler(self).items() if k not in _OPTIONAL or v != fields[k].default}

    @property
    def is_path(self) -> bool:
        """Whether the data are files here, neither built in nor on the Hub."""
        return is_path(self.path)

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
        return held_out_count("full.holdout", self.holdout, n)


def partial_only(block: Data) -> Iterator[tuple[str, str]]:
    """Keys that only partial data may have, given in a block of full samples, and why that is wrong."""
    if block.missing == "mask":
        yield "missing", "full samples are whole; those with gaps are a view (view: random_mask) with data of their own"
    if block.fit == "pad":
        yield "fit", "full samples are whole, and what is padded is not observed; say resize or crop, or make it a view"
    if block.masks:
        yield "masks", "full samples are whole; those with masks are a view (view: random_mask) with data of their own"
