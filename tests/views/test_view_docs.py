"""Every recipe line of docs/views.md gives the shapes, scales and masks that its table says."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest
import torch

from bootdiff.recipe.schema import load_recipe_text
from bootdiff.views import View, from_config

PAGE = Path(__file__).parents[2] / "docs" / "views.md"
ROWS = [
    line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and line.endswith("` |")
]


def view_of(row: str) -> View:
    text = re.findall(r"`([^`]*)`", row)[-1]
    return from_config(
        load_recipe_text(f"full: {{path: x}}\nviews: {{v: {{view: {text}, data: {{path: y}}}}}}").view_configs("v")
    )


def shapes_of(row: str) -> list[tuple[int, ...]]:
    return [tuple(ast.literal_eval(f"({text},)")) for text in re.findall(r"\(([\d, ]+)\)", row.partition("`")[0])]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.findall(r"`([^`]*)`", row)[-1])
def test_a_row_is_right(row):
    view, (full, seen) = view_of(row), shapes_of(row)
    if view.masked:
        assert view.shape(full) == full
        assert tuple(view.draw(full, torch.Generator()).mask(full).shape) == seen
    else:
        assert view.shape(full) == seen
    if scale := re.search(r"\| ([\d.]+) \| `", row):
        assert view.scale == pytest.approx(float(scale[1]), abs=5e-5)
    assert ("| one |" in row) <= view.is_fixed


def test_all_rows_are_found_and_the_example_runs():
    assert len(ROWS) > 30
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0
