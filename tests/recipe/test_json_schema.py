"""The JSON Schema of recipes: what the recipe reads, it takes; what it refuses, it refuses where the form says so."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import json_schema, load_recipe_text, reference
from bootdiff.recipe.yaml import parse_yaml

HERE = Path(__file__).parents[2]
RECIPES = sorted((HERE / "experiments" / "recipes").glob("*.yaml"))
SCHEMA = json_schema()
CHECK = Draft202012Validator(SCHEMA)
MINIMAL = "full: {path: photos}\nviews: {thumbs: {view: {kind: downsample, factor: 2}, data: {path: small}}}\n"


def errors(text):
    return [error.message for error in CHECK.iter_errors(parse_yaml(text, "r").data)]


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", ["example", "letters"])
def test_it_takes_the_recipes_of_the_package(name):
    assert errors(files("bootdiff.recipe").joinpath("embedded", f"{name}.yaml").read_text()) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_takes_the_recipes_of_the_experiments(path):
    assert errors(path.read_text()) == []


@pytest.mark.parametrize(
    "more",
    [
        "backbones: {unet: auto, own: {kind: unet, channels: [8]}}",
        "backbones: {unet: , net: local}",
        "views: {a: {view: gray, data: {path: x}}}",
        "views: {a: {view: identity, data: {path: x}, std: 0.1}}",
        "views: {a: {view: [gray, {kind: downsample, factor: 2}], data: {path: x}, backbone: unet}}",
        "views: {a: {view: {kind: crop, size: 8, offset: 0}, data: {path: x, labels: true}, holdout: 0.2}}",
        "views: {a: {view: {kind: crop, size: [8, 4], stride: 2}, data: {path: x, labels: name}}}",
        "views: {a: {view: {kind: random_mask, hide: box, fraction: 0.2}, data: {path: x, masks: alpha}}}",
        "training: {batch: auto}\nsampling: {preview_every: auto}\nevaluate: {samples: 10}",
        "full: {path: photos, holdout: 12}",
    ],
)
def test_it_takes_every_short_way_to_write_what_the_recipe_reads(more):
    key = more.partition(":")[0]
    text = "\n".join([*(line for line in MINIMAL.splitlines() if not line.startswith(f"{key}:")), more])
    load_recipe_text(text)
    assert errors(text) == []


@pytest.mark.parametrize(
    "more", ["ful: 1", "seed: -1", "training: {lr: '1'}", "device: gpu", "levels: []", "training: {optimizer: sgd}"]
)
def test_it_refuses_what_the_form_forbids(more):
    with pytest.raises(BootdiffError):
        load_recipe_text(MINIMAL + more)
    assert errors(MINIMAL + more)


def test_every_key_says_what_it_means():
    described = {
        name: field["description"]
        for block in (SCHEMA, *SCHEMA["$defs"].values())
        for name, field in block.get("properties", {}).items()
        if "description" in field
    }
    for entry in reference():
        name = entry.key.rpartition(".")[2]
        if entry.description and not name.startswith("<") and not name.endswith("]") and name != "kind":
            assert name in described
