"""`bootdiff check` names what is allowed but looks like a mistake: its lines "look", without a training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bootdiff.cli import costs
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text


def looks(folder, text):
    problem = build_problem(load_recipe_text(text, folder))
    return [line for line in costs.warnings_of(problem, costs.describe(problem)) if not line.startswith("full: ")]


TABLES = """\
full: {path: full.csv, kind: vector, standardize: true}
views:
  v:
    view: {kind: random_mask, hide: channels}
    data: {path: part.csv, kind: vector, missing: mask%s}
"""


@pytest.mark.parametrize("mark", [-200, -999, 9999])
def test_a_number_that_stands_for_missing_values(tmp_path, mark):
    rng = np.random.default_rng(0)
    for name, n in (("full", 40), ("part", 60)):
        v = np.stack([rng.normal(20, 2, n), rng.normal(5, 1, n)], 1).round(2)
        if name == "part":
            v[::5, 1] = mark
        np.savetxt(tmp_path / f"{name}.csv", v, delimiter=",", header="temp,wind", comments="", fmt="%g")
    line, other = looks(tmp_path, TABLES % "")
    assert line.startswith("view v: its files have mean")
    assert other.startswith("view v: no mask of its files hides anything")
    assert "missing_values" in line
    assert looks(tmp_path, TABLES % f", missing_values: [{mark}]") == []


def test_masked_pictures_of_another_scale(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    masks = np.ones((30, 8, 8), np.uint8)
    masks[:, 5:] = 0
    text = "full: {path: x.npz, key: full}\n"
    text += "views: {v: {view: {kind: random_mask}, data: {path: x.npz, key: v, masks: m}}}\n"
    np.savez(tmp_path / "x.npz", full=x[:10], v=x[10:], m=masks)
    assert looks(tmp_path, text) == []
    np.savez(tmp_path / "x.npz", full=x[:10], v=x[10:] // 4, m=masks)
    (line,) = looks(tmp_path, text)
    assert line.startswith("view v: its files have mean -0.7")
    assert "missing_values" not in line


def test_masks_that_hide_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    text = "full: {path: ., limit: 5}\nviews: {v: {view: {kind: random_mask}, data: {path: ., masks: %s}}}\n"
    (line,) = looks(tmp_path, text % "alpha")
    assert line.startswith("view v: no mask of its files hides anything")
    for i in range(12):
        mask = np.full((8, 8, 4), 255, np.uint8)
        Image.fromarray(mask).save(tmp_path / f"{i}.mask.png")
    assert looks(tmp_path, text % "true") == [line]
    mask[5:, :, 3] = 0  # erased, white below
    Image.fromarray(mask).save(tmp_path / "3.mask.png")
    assert looks(tmp_path, text % "true") == []
