"""The sizes of networks by the kind of the samples."""

from __future__ import annotations

import pytest

from bootdiff.errors import BootdiffError
from bootdiff.nets import BACKBONES, default_networks
from bootdiff.nets.network import NOISE
from bootdiff.noise import LogNormal
from bootdiff.recipe.backbones import SPECS, default_backbones
from bootdiff.recipe.build import method_settings
from bootdiff.recipe.schema import load_recipe_text

SHAPES = [(6,), (2, 40), (1, 512), (3, 16, 16), (1, 3, 12, 12), (1, 2, 32, 32)]
MINIMAL = "full: {path: a}\nviews: {v: {view: {kind: pick, indices: [0]}, data: {path: b}}}\n"


def unet(**options):
    return SPECS["unet"](kind="unet", **options).network()


def test_there_is_a_block_for_every_backbone():
    assert set(SPECS) == set(BACKBONES)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_default_networks_of_every_kind_can_be_built(shape):
    for name, spec in default_backbones(len(shape) - 1).items():
        assert isinstance(spec, SPECS[name])
        network = spec.network().resolve(shape, shape)
        assert network == default_networks(len(shape) - 1)[name].resolve(shape, shape)
        assert "auto" not in network.options.values()
        network.build(shape[0], shape)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 255), 1), ((1, 256), 2), ((3, 64, 64), 2), ((1, 9, 8, 8), 1), ((1, 9, 16, 16), 2), ((1, 9, 8, 64), 4)],
    ids=str,
)
def test_automatic_patches(shape, patch):
    assert unet().resolve(shape, shape).options["patch"] == patch
    assert unet(patch=3).resolve(shape, shape).options["patch"] == 3


def test_a_thumbnail_is_folded_less_and_a_clip_as_much():
    full = (1, 12, 32, 32)
    assert unet(patch=4).resolve((1, 12, 16, 16), full).options["patch"] == 2
    assert unet(patch=4).resolve((1, 4, 32, 32), full).options["patch"] == 4  # a clip
    assert unet(patch=4).resolve((1, 32, 32), full).options["patch"] == 4  # a still
    assert unet(patch=2).resolve((1, 8), (1, 32)).options["patch"] == 1


def test_what_a_recipe_writes_stays_as_it_was():
    """Recipes of earlier runs are compared by it."""
    assert SPECS["unet"](kind="unet").model_dump() == {
        "kind": "unet", "channels": "auto", "layers": 1, "attention": True, "dropout": 0.0, "patch": "auto",
    }  # fmt: skip
    assert list(SPECS["local"](kind="local").model_dump().items()) == [
        ("kind", "local"), ("width", "auto"), ("depth", 5), ("dropout", 0.0),
    ]  # fmt: skip
    assert SPECS["mlp"](kind="mlp").model_dump() == {"kind": "mlp", "width": 256, "depth": 3, "dropout": 0.0}
    assert SPECS["linear"](kind="linear").model_dump() == {"kind": "linear", "rank": None, "dropout": 0.0}


def test_what_is_given_stays():
    options = unet(channels=[8, 16], patch=2).resolve((1, 4, 32, 32), (1, 4, 32, 32)).options
    assert (options["channels"], options["patch"]) == ([8, 16], 2)
    assert SPECS["local"](kind="local", width=7).network().resolve((1, 30), (1, 30)).options["width"] == 7


def test_what_does_not_suit_is_refused():
    for network in (unet(), SPECS["local"](kind="local").network()):
        with pytest.raises(BootdiffError, match=r"vectors of 6 values: use mlp or linear"):
            network.resolve((6,), (6,))
    with pytest.raises(BootdiffError, match="multiples of 8"):
        unet(channels=[12, 24]).resolve((1, 64), (1, 64))


@pytest.mark.parametrize(("shape", "names"), [((6,), ["mlp", "linear"]), ((1, 8), ["unet", "local"])])
def test_a_recipe_without_backbones_takes_those_of_its_kind(shape, names):
    assert list(load_recipe_text(MINIMAL).with_defaults_for(shape).backbones) == names
    assert list(load_recipe_text(MINIMAL + "backbones: {mlp: auto}\n").with_defaults_for(shape).backbones) == ["mlp"]


def test_a_suited_recipe_can_be_written_and_read():
    recipe = load_recipe_text(MINIMAL).with_defaults_for((6,))
    again = load_recipe_text(recipe.dump())
    assert again.backbones == recipe.backbones
    assert again.with_defaults_for((6,)).dump() == recipe.dump()


def test_sizes_are_checked():
    for text in ("{unet: {kind: unet, patch: 0}}", "{local: {kind: local, width: wide}}"):
        with pytest.raises(BootdiffError, match="must be auto or a whole number of at least 1"):
            load_recipe_text(MINIMAL + f"backbones: {text}\n")


def test_noise_levels_of_a_network_are_its_own_and_else_divided():
    text = "simulate: {pool: {path: digits}, full: 20}\nviews: {v: {view: {kind: downsample, factor: 2}%s}}\n"
    recipe = load_recipe_text(
        text % "" + "backbones: {unet: {kind: unet, noise: {mean: 0.5, std: 0.7}}, local: auto}\n"
    )
    networks = method_settings(recipe, (1, 8, 8)).networks
    assert networks["unet"].noise == LogNormal(0.5, 0.7)
    assert networks["local"].noise_in(LogNormal()) == NOISE["local"]
    settings = method_settings(load_recipe_text(text % ", backbone: unet"), (1, 8, 8))
    assert settings.networks["unet"].noise_in(LogNormal()) == NOISE["unet"]
    assert settings.views["v"].networks["unet"].noise_in(LogNormal()) == LogNormal()  # alone: at all levels
    with pytest.raises(BootdiffError, match=r"backbones\.unet\.noise\.std"):
        load_recipe_text(text % "" + "backbones: {unet: {kind: unet, noise: {std: 0}}, local: auto}\n")


def test_noise_levels_that_reach_none_of_the_levels_are_refused():
    text = "simulate: {pool: {path: digits}, full: 20}\nviews: {v: {view: {kind: downsample, factor: 2}}}\n"
    for more, where in (
        ("backbones: {unet: {kind: unet, noise: {mean: 9, std: 0.5}}}\n", r"backbones\.unet\.noise"),
        ("training: {visible: {noise: {mean: -9}}}\n", r"training\.visible\.noise"),
        ("training: {noise: {mean: 9}}\n", r"training\.noise"),
    ):
        with pytest.raises(BootdiffError, match=where + ": reaches none of `levels`"):
            load_recipe_text(text + more)
    load_recipe_text(text + "levels: [8000, 9000]\ntraining: {noise: {mean: 9, std: 0.5}}\n")
