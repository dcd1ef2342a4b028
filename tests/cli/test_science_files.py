"""`check`, `fit`, `sample` and `restore` with pictures for a science: one range for all, gaps as masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_calls import call, refused

RNG = np.random.default_rng(0)

RECIPE = """\
full: {path: full, range: [-1000, 3000], size: [8, 8], fit: crop, holdout: 2}
views:
  small: {view: {kind: downsample, factor: 2}, data: {path: small, fit: resize}}
  clouds: {view: random_mask, data: {path: clouds, missing: mask}}
backbones:
  local: {kind: local, width: 8, depth: 3}
training: {steps: 4, batch: 4, warmup: 0, evaluate_every: 2}
levels: [0.4, 1.6]
evaluate: {draws: 1, samples: 0}
sampling: {count: 2, steps: 3}
device: cpu
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    tifffile = pytest.importorskip("tifffile")
    root = tmp_path_factory.mktemp("science")
    y, x = np.mgrid[:12, :12] / 12
    for name, count, size in (("full", 8, (12, 10)), ("small", 10, (4, 4)), ("clouds", 8, (8, 8))):
        (root / name).mkdir()
        for i in range(count):
            a, b = RNG.uniform(1, 4, 2)
            pixels = (900 + 900 * np.sin(a * x + b) * np.cos(b * y))[: size[0], : size[1]].astype(np.float32)
            if name == "clouds":
                pixels[i : i + 2] = -9999
            nodata = [(42113, "s", 0, "-9999", True)]
            tifffile.imwrite(root / name / f"{i}.tif", pixels, extratags=nodata)
    (root / "r.yaml").write_text(RECIPE)
    return root / "r.yaml"


def test_check_fit_sample_restore(recipe, tmp_path):
    result = call("check", recipe, "--out", tmp_path / "check")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "check" / "check.json").read_text())
    assert "full: 8 resized and cropped (fit: crop to 8 x 8; 12 x 10 (8 files))" in found["notes"]
    # The views' files are in the range of the full samples.
    assert all(-0.6 < row["min"] < row["max"] < 0.5 for row in found["data"].values())
    assert abs(found["data"]["full"]["mean"] - found["data"]["view small"]["mean"]) < 0.2

    run = tmp_path / "run"
    assert call("fit", recipe, "--out", run).exit_code == 0
    meaning = json.loads((run / "data.json").read_text())["meaning"]
    assert (meaning["units"]["offset"], meaning["units"]["scale"]) == ([1000], [2000])
    assert call("sample", run, "--count", 2).exit_code == 0
    Image.fromarray(RNG.integers(1000, 3000, (8, 8), dtype=np.uint16)).save(tmp_path / "16_bits.png")
    for place, options in (
        (recipe.parent / "small", ("--view", "small")),
        (recipe.parent / "small" / "1.tif", ("--view", "small")),
        (recipe.parent / "clouds", ("--view", "clouds")),
        (recipe.parent / "small" / "1.tif", ("--view-config", "{kind: downsample, factor: 2}")),
        (tmp_path / "16_bits.png", ("--view", "small", "--range", 0, 4000)),
    ):
        out = tmp_path / f"{place.name}-{len(options)}-{len(options[1])}"
        done = call("restore", run, place, out, *options, "--samples", 1, "--steps", 3)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", missing: mask", "", "has 16 pixel(s) without data"),
        ("range: [-1000, 3000], ", "", "float values have no usual range"),
        ("[-1000, 3000]", "[-1000, 1000]", "outside the range [-1000, 1000]"),
        ("full, range", "full, missing: mask, range", "full.missing: full samples are whole"),
        ("full, range", "full, slices: top, range", "full.slices: must be one of the known values, got 'top'"),
        ("view: random_mask", "view: identity", "add {kind: random_mask} to the view"),
    ],
)
def test_what_is_refused(recipe, tmp_path, old, new, said):
    assert old in RECIPE
    other = recipe.with_name(f"{tmp_path.name}.yaml")
    other.write_text(RECIPE.replace(old, new, 1))
    assert said in refused("check", other, "--out", tmp_path)
