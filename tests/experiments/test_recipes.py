"""experiments/recipes: each is valid, and reads what `experiments.scripts.prepare` and `overlay burn` write."""

from __future__ import annotations

import re

import pytest

from bootdiff.recipe.schema import load_recipe
from experiments.scripts.results import RECIPES, RESULTS

WRITTEN = {
    *(
        f"{name}.npz"
        for name in (
            "cats64",
            "cats32",
            "cats16",
            "mnist28",
            "mnist16",
            "mnist-tiny",
            "radar32",
            "ecg",
            "medical64",
            "moving24",
            "moving32",
        )
    ),
    *(f"traffic/{name}.npz" for name in ("full", "broadcast", "before", "test", "test-broadcast", "few")),
    "traffic/logo/mask.png",
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_reads_what_is_written(path):
    recipe = load_recipe(path)
    assert recipe.views
    named = set(re.findall(r"\.\./data/([\w./-]+)", path.read_text()))
    assert named or not recipe.simulate.pool.is_path
    assert named <= WRITTEN
    assert list((RESULTS / path.stem).glob("seed-*.json"))  # and its results are there
