"""The recipe's data blocks: every wrong key at its line; recipes that need none of the keys do not name them."""

from __future__ import annotations

import pytest

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text, reference

MINIMAL = """\
full: {path: a}
views:
  v:
    view: {kind: frame_window, length: 4}
    data: {path: b%s}
"""


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("kind: film", "data.kind: must be one of the known values, got 'film'; known: image, video, signal, vector"),
        ("kind: signal, frames: 4", "data.frames: means nothing for kind: signal (only for video); leave it out"),
        ("kind: video, length: 4", "data.length: means nothing for kind: video (only for signal)"),
        ("kind: vector, channels: 3", "data.channels: means nothing for kind: vector (only for image and video)"),
        ("kind: image, standardize: true", "data.standardize: means nothing for kind: image (only for vector and sig"),
        ("stride: 2", "data.stride: spaces windows, but there is no frames (videos) or length (signals)"),
        ("frames: 4, length: 4", "data.length: videos have frames, signals have a length; leave out one"),
        ("frames: 0", "data.frames: must be at least 1, got 0"),
        ("fps: 0", "data.fps: must be greater than 0, got 0"),
        ("standardize: true, range: [0, 1]", "data.standardize: the values have a range already"),
        ("unlabelled: keep", "data.unlabelled: there are no labels to lack"),
        ("missing: zero", "data.missing: must be one of the known values, got 'zero'; known: refuse, mask"),
        ("columns: []", "data.columns: must have at least 1 item(s)"),
        ("masks: 3", "data.masks: must be true, false or the name of an array, got 3"),
        ("colums: [a]", "data.colums: unknown key; known keys:"),
    ],
)
def test_a_mistake_is_named_with_its_line(keys, said):
    with pytest.raises(BootdiffError) as caught:
        load_recipe_text(MINIMAL % f", {keys}", source="r.yaml")
    assert str(caught.value).startswith("r.yaml, line 5: views.v." + said)


@pytest.mark.parametrize("key", ["missing: mask", "masks: true"])
@pytest.mark.parametrize("place", ["full", "test", "oracle"])
def test_full_samples_are_whole(key, place):
    text = MINIMAL % ""
    block = f"{place}: {{path: a, {key}}}\n"
    text = text.replace("full: {path: a}\n", block) if place == "full" else text + block
    with pytest.raises(BootdiffError, match=rf"{place}\.{key.split(':')[0]}: full samples are whole; .*view"):
        load_recipe_text(text)


def test_recipes_that_need_nothing_new_say_nothing_new():
    recipe = load_recipe_text(MINIMAL % "")
    assert set(recipe.full.model_dump()) == {
        *("path", "key", "labels", "on_error", "channels", "alpha", "masks", "column", "limit", "range", "holdout"),
    }
    asked = load_recipe_text(MINIMAL % ", kind: video, frames: 4, fps: 12.5")
    again = load_recipe_text(asked.dump())
    assert again.views["v"].data == asked.views["v"].data.model_copy(update={"path": again.views["v"].data.path})
    assert (again.views["v"].data.frames, again.views["v"].data.fps) == (4, 12.5)


def test_the_reference_lists_the_keys():
    keys = {entry.key: entry for entry in reference()}
    for name in ("kind", "frames", "length", "stride", "fps", "columns", "standardize", "missing", "unlabelled"):
        assert f"full.{name}" in keys or f"test.{name}" in keys
    assert next(e for k, e in keys.items() if k.endswith((".kind",)) and "full" in k).type.startswith("image | video")
