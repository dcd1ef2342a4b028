"""`--set`: one key of a recipe changed, and held to what a written recipe is held to."""

from __future__ import annotations

import pytest

from bootdiff.errors import BootdiffError
from bootdiff.recipe.changes import change
from bootdiff.recipe.schema import load_recipe, load_recipe_text
from bootdiff.recipe.yaml import parse_yaml

TEXT = """\
full: {path: photos}
training: &both {steps: 300}
levels: [0.1, 1, 5]
views:
  thumbs: {view: {kind: downsample, factor: 2}, data: {path: small}, training: *both}
  crops: {view: [gray, {kind: crop, size: 8, offset: 0}], data: {path: crops}}
"""


def changed(*changes):
    return load_recipe_text(TEXT, source="r.yaml", changes=changes)


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("training.steps=10", lambda r: r.training.steps, 10),
        ("seed=7", lambda r: r.seed, 7),
        ("views.thumbs.view.factor=4", lambda r: r.views["thumbs"].view[0].factor, 4),
        ("views.crops.view.1.size=4", lambda r: r.views["crops"].view[1].size, [4, 4]),
        ("levels.1=2.5", lambda r: r.levels, [0.1, 2.5, 5]),
        ("levels=[1, 2]", lambda r: r.levels, [1, 2]),
        ("full.path= other = folder", lambda r: r.full.path, "other = folder"),
        ("training.full.lr=1e-4", lambda r: r.training_for("full").lr, 1e-4),
        ("backbones.unet={kind: unet, channels: [8]}", lambda r: r.backbones["unet"].channels, [8]),
    ],
)
def test_a_key_is_set_whatever_it_is_inside_of(text, of, expected):
    assert of(changed(text)) == expected
    assert of(load_recipe_text(TEXT)) != expected


def test_a_changed_recipe_is_the_one_that_is_written():
    again = load_recipe_text(changed("training.steps=10").text)
    assert again.training.steps == 10
    assert again.fingerprint() == changed("training.steps=10").fingerprint() != changed().fingerprint()


def test_the_last_one_counts_and_no_other_place_of_an_anchor_changes():
    recipe = changed("training.steps=10", "training.steps=20")
    assert recipe.training.steps == 20
    assert recipe.views["thumbs"].training.steps == 300


def test_a_document_is_not_changed_in_place():
    document = parse_yaml(TEXT, "r.yaml")
    change(document, ["training.steps=10", "levels.0=0.5"])
    assert document.data["training"]["steps"] == 300
    assert document.data["levels"][0] == 0.1


def test_paths_are_still_relative_to_the_recipes_folder(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = load_recipe(tmp_path / "r.yaml", ["full.path=elsewhere"])
    assert recipe.locate(recipe.full.path) == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.steps=-1", "--set training.steps=-1: training.steps: must be at least 1, got -1"),
        ("training.stesp=5", "--set training.stesp=5: training.stesp: unknown key"),
        ("nowhere.at.all=5", "--set nowhere.at.all=5: nowhere: unknown key"),
        ("training.steps", "--set training.steps: must be KEY=VALUE, such as training.steps=10"),
        ("=5", "--set =5: must be KEY=VALUE"),
        ("training..steps=5", "must be KEY=VALUE"),
        ("seed=[1", "--set seed=[1, line 1"),
        ("seed=!!python/object:os.system 1", "--set seed=!!python/object:os.system 1, line 1: the tag"),
        ("levels.9=1", "--set levels.9=1: levels is a list of 3: give an index below that"),
        ("levels.last=1", "levels is a list of 3"),
        ("full.path.name=x", "--set full.path.name=x: full.path is 'photos' in the recipe and has no keys inside"),
        ("levels.1=9", "r.yaml, line 3: levels[2]: must be sorted and different: 5 follows 9"),
    ],
)
def test_a_mistake_names_the_option_or_the_line(text, expected):
    with pytest.raises(BootdiffError) as caught:
        changed(text)
    assert expected in str(caught.value)


def test_other_mistakes_keep_their_lines():
    with pytest.raises(BootdiffError) as caught:
        load_recipe_text(TEXT.replace("steps: 300", "steps: 0"), source="r.yaml", changes=["seed=-1"])
    lines = str(caught.value).splitlines()
    assert "--set seed=-1: seed: must be at least 0, got -1" in lines
    assert "r.yaml, line 2: training.steps: must be at least 1, got 0" in lines
