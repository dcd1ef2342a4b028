"""Settings: plain dataclasses whose annotations are the one schema, for Python and for recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from bootdiff.recipe.messages import block_of
from bootdiff.settings import Doc, Ge, Lt, check, doc_of


@dataclass(frozen=True)
class Example:
    """An example."""

    steps: Annotated[int, Ge(1), Doc("optimizer steps")] = 10
    ema: Annotated[float, Ge(0), Lt(1), Doc("decay")] = 0.9
    clip: Annotated[float | None, Doc("largest norm")] = None
    mode: Annotated[Literal["a", "b"], Doc("one of two")] = "a"
    flag: Annotated[bool, Doc("on or off")] = False

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "Example.steps must be at least 1, got 0"),
        ({"steps": 1.5}, "Example.steps must be a whole number"),
        ({"steps": True}, "Example.steps must be a whole number"),
        ({"ema": 1.0}, "Example.ema must be less than 1, got 1.0"),
        ({"ema": float("nan")}, "Example.ema must be a finite number"),
        ({"mode": "c"}, "Example.mode must be one of a, b; got 'c'"),
        ({"flag": 1}, "Example.flag must be True or False"),
    ],
)
def test_values_out_of_bounds_are_named(wrong, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        Example(**wrong)


def test_a_recipe_reads_the_same_schema():
    block = block_of(Example, "Block")
    assert vars(block(steps=3)) == {"steps": 3, "ema": 0.9, "clip": None, "mode": "a", "flag": False}
    assert block.model_fields["steps"].description == doc_of(Annotated[int, Doc("optimizer steps")])
    for wrong in ({"steps": 0}, {"steps": "3"}, {"ema": 1.0}, {"mode": "c"}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            block(**wrong)
