"""The lines of docs/backbones.md run as printed, and its recipe is valid."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
MINIMAL = "full: {path: a}\nviews: {v: {view: gray, data: {path: b}}}\n"


def test_the_lines_run():
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted >= 10
    assert found.failed == 0


def test_the_recipe_is_valid():
    (block,) = re.findall(r"^    backbones:\n(?:      .*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    own, dit = block.splitlines()[1:]
    recipe = load_recipe_text(f"{MINIMAL}backbones:\n{dit[4:]}\n")
    assert recipe.backbones["dit"].network().resolve((3, 16, 16), (3, 16, 16))
    with pytest.raises(BootdiffError, match="trust-imports"):
        load_recipe_text(f"{MINIMAL}backbones:\n{own[4:]}\n")
