"""`check` and `restore` with pictures of many sizes: fitted alike, counted, visible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_calls import call, refused

RNG = np.random.default_rng(0)

RECIPE = """\
full: {path: full, size: [16, 12], fit: crop, holdout: 2}
views:
  thumbnails: {view: {kind: downsample, factor: 4}, data: {path: small, fit: crop}}
  captions: {view: random_mask, data: {path: captions, fit: pad, masks: true}}
backbones:
  local: {kind: local, width: 8, depth: 3}
training: {steps: 4, batch: 4, warmup: 0, evaluate_every: 2}
levels: [0.4, 1.6]
evaluate: {draws: 1, samples: 0}
sampling: {count: 2, steps: 3}
device: cpu
"""


def scene(height: int, width: int) -> np.ndarray:
    """A smooth picture with a bright side."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    a, b, c = RNG.uniform(0, 3, 3)
    return np.stack([128 + 90 * np.sin(3 * x + a + k) * np.cos(2 * y * b + c) for k in range(3)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    for name, count, sizes in (
        ("full", 8, [(16, 12), (40, 30), (33, 47), (16, 20)]),
        ("small", 12, [(4, 3), (8, 12), (10, 7)]),
        ("captions", 8, [(16, 12), (24, 24)]),
    ):
        (root / name).mkdir()
        for i in range(count):
            pixels = scene(*sizes[i % len(sizes)])
            Image.fromarray(pixels).save(root / name / f"{i}.png")
            if name == "captions":
                mask = np.full(pixels.shape[:2], 255, np.uint8)
                mask[-4:] = 0
                Image.fromarray(mask).save(root / name / f"{i}.mask.png")
    (root / "full" / "old.psd").write_bytes(b"?")
    (root / "r.yaml").write_text(RECIPE)
    return root / "r.yaml"


def test_check_counts_what_was_done(recipe, tmp_path):
    result = call("check", recipe, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    notes = json.loads((tmp_path / "check.json").read_text())["notes"]
    text = "\n".join(notes)
    crop = "2 as they were, 2 resized, 2 resized and cropped, 2 cropped"
    assert f"full: {crop} (fit: crop to 16 x 12; 16 x 12 (2 files)" in text
    assert "view thumbnails: " in text
    assert "fit: crop to 4 x 3" in text
    assert "view captions: " in text
    assert "padded (fit: pad to 16 x 12" in text
    assert "full: 1 file(s) of other suffixes are not read: 1 .psd" in text
    assert "resized and cropped" in result.output
    assert (tmp_path / "views.png").is_file()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", fit: crop, holdout", ", fit: pad, holdout", "full.fit: full samples are whole, and what is padded is not"),
        ("full, size: [16, 12], fit", "full, fit", "fit: crop does not say to which size; add size: [height, width]"),
        ("kind: downsample, factor: 4}, data", "kind: crop, size: 4}, data", "thumbnails.data.fit: the view Crop"),
        ("random_mask, data: {path: captions, fit: pad, masks: true}", "identity, data: {path: captions, fit: pad}",
         "add {kind: random_mask} to the view"),
        ("fit: crop, holdout", "fit: zoom, holdout", "full.fit: must be one of the known values, got 'zoom'"),
        ("size: [16, 12], fit: crop", "size: [16, 12, 3], fit: crop", "full.size: must have at most 2 item(s), got 3"),
        ("size: [16, 12], fit: crop", "size: [80, 60], fit: crop", "too small for 80 x 60 with fit: crop"),
        ("factor: 4}, data: {path: small, fit: crop}", "factor: 4}, data: {path: small}", "with fit: resize, crop or"),
        ("factor: 4}, data", "factor: 4}, std: 0.1, data", "averages the files' noise away"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(recipe, tmp_path, old, new, said):
    assert old in RECIPE
    other = recipe.with_name(f"{tmp_path.name}.yaml")
    other.write_text(RECIPE.replace(old, new, 1))
    assert said in refused("check", other, "--out", tmp_path)


def test_fit_sample_and_restore(recipe, tmp_path):
    run = tmp_path / "run"
    assert call("fit", recipe, "--out", run).exit_code == 0
    assert call("sample", run, "--count", 2).exit_code == 0
    done = call("restore", run, recipe.parent / "small", tmp_path / "many", "--view", "thumbnails", "--samples", 1,
                "--steps", 3)  # fmt: skip
    assert done.exit_code == 0, done.output
    one = call("restore", run, recipe.parent / "small" / "1.png", tmp_path / "one", "--view", "thumbnails",
               "--samples", 1, "--steps", 3)  # fmt: skip
    assert one.exit_code == 0, one.output
    alone, among = (sorted(p for p in (tmp_path / d).rglob("*1*.png")) for d in ("one", "many"))
    assert among
    with Image.open(alone[0]) as picture:
        assert picture.size == (12, 16)
