"""Recipes: every mistake is named with its line and a way out; what is read is what was meant."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import Recipe, load_recipe, load_recipe_text, reference
from bootdiff.recipe.yaml import parse_yaml

MINIMAL = """\
full: {path: photos}
views:
  thumbs:
    view: {kind: downsample, factor: 2}
    data: {path: small}
"""

SIMULATED = """\
full: {holdout: 10}
simulate: {pool: {path: digits}, full: 60, test: 200}
views:
  thumbs: {view: {kind: downsample, factor: 2}}
  blurred: {view: identity, corruption: {kind: blur, sigma: 1}}
"""


def mistakes(text: str, source: str = "r.yaml") -> list[str]:
    with pytest.raises(BootdiffError) as caught:
        load_recipe_text(textwrap.dedent(text), source=source)
    return str(caught.value).splitlines()


def test_a_minimal_recipe_gets_the_defaults():
    recipe = load_recipe_text(MINIMAL)
    assert (recipe.name, recipe.seed, recipe.full.holdout) == ("recipe", 0, 0.2)
    assert list(recipe.backbones) == ["unet", "local"]
    assert recipe.views["thumbs"].backbone is None
    assert recipe.training_for("oracle").noise.mean == -0.6
    assert len(recipe.levels) == 8
    assert recipe.text == MINIMAL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ful: 1", ["line 6: ful: unknown key", "(did you mean 'full'?)"]),
        ("steps: 10", ["line 6: steps: unknown key", "(did you mean 'training.steps' or 'sampling.steps'?)"]),
        ("training: {lr: -1}", ["line 6: training.lr: must be greater than 0, got -1"]),
        ("training:\n  lr: 0.1\n  noise:\n    sdt: 1", ["line 9: training.noise.sdt: unknown", "keys: mean, std "]),
        ("training: {views: {steps: 1.5}}", ["line 6: training.views.steps: must be a whole number, got 1.5"]),
        ("training: {steps: true}", ["line 6: training.steps: must be a whole number, got true"]),
        ("training: {lr: '1'}", ["line 6: training.lr: must be a number, got '1'"]),
        ("training: {lr: .nan}", ["line 6: training.lr: must be a finite number"]),
        ("training: {batch: 0}", ["line 6: training.batch: must be auto or a whole number of at least 1, got 0"]),
        ("training: {ema: 1.0}", ["line 6: training.ema: must be less than 1, got 1.0"]),
        ("training: {compile: yes}", ["line 6: training.compile: must be true or false, got 'yes'"]),
        ("training: {steps: 5, warmup: 6}", ["line 6: training.warmup: must be at most steps (5), got 6"]),
        ("training: 7", ["line 6: training: must be a block of keys, got 7", "known keys: steps, batch"]),
        ("training:", ["line 6: training: must be a block of keys, got nothing (null)"]),
        ("device: gpu", ["line 6: device: must be one of the known values, got 'gpu'; known: auto, cpu, cuda, mps"]),
        ("device: cude", ["(did you mean 'cuda'?)"]),
        ("levels: [0.1, 0.1]", ["line 6: levels[1]: must be sorted and different: 0.1 follows 0.1"]),
        ("levels:\n  - 0.1\n  - 0.4\n  - 0.2", ["line 9: levels[2]: must be sorted"]),
        ("levels: [0, 1]", ["line 6: levels[0]: must be at least 0.0001, got 0"]),
        ("levels: []", ["line 6: levels: must have at least 1 item(s), got 0"]),
        ("backbones: {}", ["line 6: backbones: must have at least 1 item(s), got 0"]),
        ("backbones: {a: {kind: unt}}", ["line 6: backbones.a: unknown kind, got 'unt'; known: unet, local", "'unet'"]),
        ("backbones: {a: {width: 3}}", ["line 6: backbones.a: has no 'kind'; known kinds: unet, local"]),
        ("backbones: {a: auto}", ["line 6: backbones.a: unknown kind, got 'auto'"]),
        ("backbones: {A: unet}", ["line 6: backbones.A: must be lower-case letters"]),
        ("backbones: {a: {kind: local, widht: 3}}", ["line 6: backbones.a.widht: unknown key", "'width'"]),
        ("backbones: {a: {kind: unet, channels: [8], attention: [1]}}", ["a.attention: the levels are 0 to 0"]),
        ("backbones: {a: {kind: unet, channels: [x]}}", ["backbones.a.channels: must be auto or a list of widths"]),
        ("sampling: {sigma_min: 90}", ["line 6: sampling.sigma_min: must be below sigma_max (80), got 90"]),
        ("test: {key: x}", ["line 6: test.path: missing, but required: folder of pictures"]),
        ("test: {path: x, range: [1, 0]}", ["line 6: test.range: must be [low, high] with low < high"]),
        ("test: {path: x, range: [1]}", ["line 6: test.range: must have at least 2 item(s), got 1"]),
        ("name: 3", ["line 6: name: must be text, got 3"]),
        ("evaluate: {features: ''}", ["line 6: evaluate.features: must not be empty"]),
        ("simulate: {pool: {path: digits}, full: 5}", ["line 1: full.path: `simulate` takes the full samples"]),
    ],
)
def test_a_mistake_is_named_with_its_line(text, expected):
    lines = mistakes(MINIMAL + text)
    assert len(lines) == 1
    assert lines[0].startswith("r.yaml, line ")
    for part in expected:
        assert part in lines[0]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_text():
    lines = mistakes("""\
        training: {lr: 0}
        views: {a: {view: gray, holdout: 0, dta: {}}}
        full: {holdout: -2}
        sed: 1
    """)
    assert [line.split(":")[0] for line in lines] == [f"r.yaml, line {n}" for n in (1, 2, 2, 3, 4)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("full: {holdout: 10}", "full: {holdout: 60}"), "line 1: full.holdout: must be below simulate.full (60)"),
        (("simulate:", "oracle: {path: x}\nsimulate:"), "line 2: oracle: with `simulate` the oracle has the whole"),
        (("simulate:", "test: {path: x}\nsimulate:"), "line 3: simulate.test: there is a `test` block already"),
        (("{path: digits}", "{path: digits, limit: 260}"), "line 2: simulate.pool.limit: full and test take 260 of"),
        (("view: identity", "view: gray"), "line 5: views.blurred.corruption: only with `view: identity`"),
        (("view: identity", "view: identity, std: 0.1"), "line 5: views.blurred.corruption: only with `view:"),
        (("view: identity", "view: identity, data: {path: x}"), "line 5: views.blurred.corruption: only for simulated"),
    ],
)
def test_simulation_is_checked_against_the_rest(change, expected):
    load_recipe_text(SIMULATED)
    lines = mistakes(SIMULATED.replace(*change))
    assert len(lines) == 1
    assert lines[0].startswith(f"r.yaml, {expected}")


def test_without_simulation_full_and_views_need_data():
    lines = mistakes("views: {a: {view: gray}}")
    assert lines[0] == "r.yaml: full.path: missing, but required: where the full samples are (or use `simulate`)"
    assert lines[1].startswith("r.yaml, line 1: views.a.data: missing, but required")
    assert mistakes("full: {path: x}")[0].startswith("r.yaml: views: missing, but required: the kinds of partial data")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml: empty; a recipe needs"),
        ("# only a comment\n", "r.yaml: empty; a recipe needs"),
        ("- a\n", "r.yaml: a recipe is a block of keys (as `full:` and `views:`), got a list"),
        ("7", "r.yaml: a recipe is a block of keys (as `full:` and `views:`), got 7"),
        ("seed: 1\nfull: {path: a}\nseed: 2", "r.yaml, line 3: the key 'seed' is already given on line 1"),
        ("full:\n  path: a\n  path: b", "r.yaml, line 3: the key 'path' is already given on line 2"),
        ("seed: 1\nfull: [", "r.yaml, line 2, column 8: not valid YAML"),
        ("full:\n\tpath: a", "r.yaml, line 2, column 1: not valid YAML"),
        ("seed: 1\n---\nseed: 2", "r.yaml, line 2, column 1: not valid YAML: expected a single document"),
        ("seed: !!python/name:os.system ''", "r.yaml, line 1: the tag tag:yaml.org,2002:python/name:os.system is not"),
        ("seed: !x 1", "r.yaml, line 1: the tag !x is not understood"),
        ("full: !x {path: a}", "r.yaml, line 1: the tag !x is not understood"),
        ("levels: !x [1]", "r.yaml, line 1: the tag !x is not understood"),
        ("full: &a {path: *a}", "r.yaml, line 1: this anchor contains itself"),
        ("? [a]\n: 1", "r.yaml, line 1: a key must be plain text"),
        ("seed: !!int x", "r.yaml, line 1: 'x' cannot be read as int"),
        ("<<: 3", "r.yaml, line 1: '<<' must name a block of keys"),
        ("seed: \x01", "r.yaml: not valid YAML"),
    ],
)
def test_text_that_is_no_recipe(text, expected):
    assert mistakes(text)[0].startswith(expected)


def test_tabs_are_pointed_out():
    assert "indent with spaces, not tabs" in mistakes("full:\n\tpath: a")[0]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BootdiffError, match=r"no\.yaml: no such file; give the path"):
        load_recipe(tmp_path / "no.yaml")
    with pytest.raises(BootdiffError, match="cannot be read"):
        load_recipe(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: gr\xfcn".encode("latin-1"))
    with pytest.raises(BootdiffError, match=r"latin.yaml: not UTF-8 text \(byte 8\)"):
        load_recipe(latin)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("-2E+4", -2e4), ("1.", 1.0), (".5", 0.5), ("-.inf", -float("inf")),
        ("010", 10), ("0x1F", 31), ("0o17", 15), ("-7", -7), ("+7", 7),
        ("no", "no"), ("on", "on"), ("12:30:15", "12:30:15"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("'1e-3'", "1e-3"),
        ('"true"', "true"), ("!!str 1", "1"), ("e3", "e3"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    read = parse_yaml(f"a: {text}", "x").data["a"]
    assert read == value
    assert type(read) is type(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(1 - 2**63, 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text("abc:#-'\" \n\té", max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_what_pyyaml_writes_is_read_back(value):
    assert parse_yaml(yaml.safe_dump({"root": value}), "x").data == {"root": value}


def test_anchors_and_merge_keys():
    text = """\
        views:
          a: &base {view: gray, data: {path: x}, std: 0.25}
          b: {<<: *base, std: 0.5}
          c: {<<: [{std: 0.125}, *base]}
        full: {path: photos}
    """
    views = load_recipe_text(textwrap.dedent(text)).views
    assert [view.std for view in views.values()] == [0.25, 0.5, 0.125]
    assert [view.data.path for view in views.values()] == ["x"] * 3
    wrong = textwrap.dedent(text).replace("std: 0.25", "std: -1")
    assert mistakes(wrong) == ["r.yaml, line 2: views.a.std: must be at least 0, got -1"]


def test_training_overrides_are_merged_from_the_general_to_the_particular():
    recipe = load_recipe_text(
        MINIMAL
        + textwrap.dedent("""\
            training:
              lr: 1e-2
              steps: 50
              noise: {mean: 0.5}
              views: {lr: 2e-2, batch: 8, noise: {std: 0.5}}
              residual: {ema: 0.5}
        """)
        + "  oracle: {steps: 400}\n"
    )
    views = recipe.training_for("views")
    assert (views.lr, views.batch, views.steps) == (2e-2, 8, 50)
    assert (views.noise.mean, views.noise.std) == (0.5, 0.5)
    residual = recipe.training_for("residual")
    assert (residual.lr, residual.batch, residual.ema, residual.noise.std) == (1e-2, "auto", 0.5, 1.4)
    assert not hasattr(residual, "views")
    # the default warmup gives way to few steps
    assert (residual.warmup, recipe.training_for("oracle").warmup) == (50, 100)

    text = MINIMAL + "    training: {batch: 4, noise: {mean: 1}}\n"
    text += "training: {views: {batch: 8, lr: 1e-4, noise: {std: 2}}}\n"
    own = load_recipe_text(text).training_for("views", "thumbs")
    assert (own.batch, own.lr, own.noise.mean, own.noise.std) == (4, 1e-4, 1.0, 2.0)
    assert load_recipe_text(text).training_for("views").batch == 8


def test_training_for_refuses_other_stages():
    recipe = load_recipe_text(MINIMAL)
    with pytest.raises(ValueError, match="stage must be"):
        recipe.training_for("gains")
    with pytest.raises(ValueError, match="no view 'x' in stage 'views'; views: thumbs"):
        recipe.training_for("views", "x")
    with pytest.raises(ValueError, match="no view 'thumbs' in stage 'oracle'"):
        recipe.training_for("oracle", "thumbs")


def test_an_override_equal_to_the_default_still_overrides():
    recipe = load_recipe_text(MINIMAL + "training: {lr: 0.5, residual: {lr: 1e-3}}")
    assert recipe.training_for("residual").lr == 1e-3
    assert load_recipe_text(recipe.dump()).training_for("residual").lr == 1e-3


SHORT = "training: {steps: 30, views: {steps: 300}}"  # fewer steps than the default warmup


@pytest.mark.parametrize(
    "text", [MINIMAL, SIMULATED, MINIMAL + "training: {views: {noise: {std: 1}}, precision: no}", MINIMAL + SHORT]
)
def test_the_dump_is_canonical(text, tmp_path):
    recipe = load_recipe_text(text, tmp_path, name="mine")
    again = load_recipe_text(recipe.dump(), "/elsewhere")
    assert again.dump() == recipe.dump()
    assert again.name == "mine"
    assert again.fingerprint() == recipe.fingerprint()
    assert again.training_for("views") == recipe.training_for("views")
    # the stock loader reads the same
    assert yaml.safe_load(recipe.dump()) == parse_yaml(recipe.dump(), "x").data


def test_paths_are_relative_to_the_recipe(tmp_path):
    file = tmp_path / "sub" / "cars.yaml"
    file.parent.mkdir()
    file.write_text(MINIMAL + "test: {path: /abs/test}\n")
    recipe = load_recipe(file)
    assert recipe.name == "cars"
    assert recipe.folder == file.parent
    assert recipe.locate(recipe.full.path) == file.parent / "photos"
    assert recipe.locate("../x.npz") == tmp_path / "x.npz"
    dumped = yaml.safe_load(recipe.dump())
    assert dumped["full"]["path"] == str(file.parent / "photos")
    assert dumped["views"]["thumbs"]["data"]["path"] == str(file.parent / "small")
    assert dumped["test"]["path"] == "/abs/test"
    assert yaml.safe_load(recipe.dump(absolute=False))["full"]["path"] == "photos"
    assert load_recipe_text(SIMULATED).simulate.pool.is_path is False
    assert yaml.safe_load(load_recipe_text(SIMULATED).dump())["simulate"]["pool"]["path"] == "digits"


def test_the_fingerprint_leaves_out_what_does_not_change_the_result():
    first = load_recipe_text(MINIMAL).fingerprint()
    same = [
        "name: other", "device: cpu", "threads: 3", "training: {workers: 2}", "training: {views: {workers: 2}}",
        "training: {checkpoint_seconds: 5}", "# a comment", "seed: 0",
    ]  # fmt: skip
    other = ["seed: 1", "training: {views: {lr: 0.5}}", "levels: [1]", "flip: horizontal", "full: {path: b}"]
    for text in same:
        assert load_recipe_text(MINIMAL + text).fingerprint() == first
        assert load_recipe_text(MINIMAL + text).dump(place=False) == load_recipe_text(MINIMAL).dump(place=False)
    prints = {load_recipe_text((MINIMAL if "full" not in t else MINIMAL[21:]) + t).fingerprint() for t in other}
    assert len(prints | {first}) == len(other) + 1


def test_views_may_bear_any_name():
    recipe = load_recipe_text(MINIMAL.replace("thumbs", "workers"))
    assert list(load_recipe_text(recipe.dump(place=False)).views) == ["workers"]
    assert recipe.fingerprint() != load_recipe_text(MINIMAL).fingerprint()


def test_held_out_counts():
    full = load_recipe_text(MINIMAL).full
    assert [full.held_out(n) for n in (2, 5, 50)] == [1, 1, 10]
    with pytest.raises(BootdiffError, match=r"full.holdout: 1 sample\(s\) with 1 held out leave none to train on"):
        full.held_out(1)
    view = load_recipe_text(MINIMAL).views["thumbs"]
    assert (view.held_out(100), view.held_out(100_000)) == (10, 128)
    fixed = load_recipe_text(MINIMAL + "    holdout: 500").views["thumbs"]
    assert fixed.held_out(1000) == 500
    with pytest.raises(BootdiffError, match=r"lower views\.thumbs\.holdout"):
        fixed.held_out(500, "thumbs")


def test_blocks_do_not_change_after_loading():
    recipe = load_recipe_text(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_short_forms():
    text = MINIMAL.replace("{kind: downsample, factor: 2}", "[gray, {kind: crop, size: 8}]")
    text += "    backbone: local\nbackbones: {local: auto, big: {kind: unet, channels: [8, 16]}}\n"
    recipe = load_recipe_text(text)
    assert recipe.views["thumbs"].backbone.kind == "local"
    local = recipe.backbones["local"].network().resolve((3, 8, 8), (3, 8, 8))
    assert local.options == {"width": 64, "depth": 5, "dropout": 0.0}
    assert recipe.view_configs("thumbs") == [
        {"kind": "channel_mix", "weights": [0.299, 0.587, 0.114]},
        {"kind": "crop", "size": [8, 8]},
    ]
    options = recipe.backbones["big"].network().resolve((3, 8, 8), (3, 8, 8)).options
    assert options == {"channels": [8, 16], "layers": 1, "attention": [1], "dropout": 0.0, "patch": 1}


def test_a_view_may_have_one_of_the_recipes_own_backbones():
    text = MINIMAL + "    backbone: big\nbackbones: {local: auto, big: {kind: unet, channels: [8, 16]}}\n"
    recipe = load_recipe_text(text)
    assert recipe.backbones_for("thumbs") == {"big": recipe.backbones["big"]}
    assert recipe.inner("thumbs").backbones == {"big": recipe.backbones["big"]}
    default = load_recipe_text(MINIMAL + "    backbone: unet\n")
    assert default.backbones_for("thumbs") == {"unet": default.backbones["unet"]}
    other = load_recipe_text(text.replace("backbone: big", "backbone: {kind: unet, channels: [8]}"))
    assert list(other.backbones_for("thumbs")) == ["unet"]
    inside = MINIMAL + "    views: {still: {view: gray, data: {path: s}, backbone: big}}\n" + text.split("\n")[-2]
    assert load_recipe_text(inside).inner("thumbs").backbones_for("still") == {"big": recipe.backbones["big"]}
    with pytest.raises(BootdiffError, match=r"views\.thumbs\.backbone: unknown kind, got 'bog'"):
        load_recipe_text(text.replace("backbone: big", "backbone: bog"))


@pytest.mark.parametrize(
    ("attention", "levels"), [("true", [2]), ("false", []), ("[0, 1]", [0, 1]), ("[]", [])]
)  # fmt: skip
def test_unet_options_fill_in_what_is_automatic(attention, levels):
    recipe = load_recipe_text(MINIMAL + f"backbones: {{a: {{kind: unet, attention: {attention}}}}}")
    options = recipe.backbones["a"].network().resolve((1, 32, 32), (1, 32, 32)).options
    assert (options["channels"], options["attention"]) == ([24, 48, 48], levels)


def test_the_reference_describes_every_key_once():
    entries = reference()
    assert len({entry.key for entry in entries}) == len(entries)
    assert all(entry.description and entry.type for entry in entries)
    found = {entry.key: entry for entry in entries}
    assert found["training.lr"].default == "0.001"
    assert found["training.residual"].type == "block, as training"
    assert "training.residual.lr" not in found
    assert found["simulate.pool"].type == "block, as test"
    assert found["views.<name>.view[downsample].factor"].default == "required"
    assert set(Recipe.model_fields) <= set(found)


@pytest.mark.parametrize(
    "place",
    [
        "training: {views: {precision: bf16}}",
        "distill: {training: {precision: bf16}}",
        "training: {full: {precision: fp16}}",
    ],
)
def test_a_part_has_no_precision_of_its_own(place):
    text = "full: {path: a}\nviews: {v: {view: gray, data: {path: b}}}\n"
    with pytest.raises(BootdiffError, match=r"precision: one serves a whole run"):
        load_recipe_text(text + place)
    same = "training: {precision: bf16, views: {precision: bf16}}"
    assert load_recipe_text(text + same).training_for("views").precision == "bf16"


def test_reading_recipes_imports_nothing_heavier_than_torch():
    """The keys are those of the views' and networks' own constructors, which need torch."""
    heavy = "{'diffusers', 'accelerate', 'matplotlib', 'scipy', 'PIL'}"
    code = f"import sys, bootdiff; bootdiff.load_recipe; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("written", "read"), [("auto", "auto"), ("0", 0.0), ("0.03", 0.03), ("-0.02", -0.02), ("3.0e-2", 0.03)]
)
def test_a_noise_shift_is_auto_or_a_number_as_people_write_them(written, read):
    recipe = load_recipe_text(f"{MINIMAL}sampling: {{noise_shift: {written}}}\n")
    assert recipe.sampling.settings().noise_shift == read
    assert load_recipe_text(recipe.dump()).sampling.noise_shift == read


@pytest.mark.parametrize("written", ["1", "-1", "2", "half", "null", "true", ".nan"])
def test_a_noise_shift_that_is_none_is_named(written):
    with pytest.raises(BootdiffError, match=r"noise_shift.* must be auto or a number above -1 and below 1"):
        load_recipe_text(f"{MINIMAL}sampling: {{noise_shift: {written}}}\n")


def test_every_path_that_a_recipe_names_is_told_with_its_key(tmp_path):
    recipe = load_recipe_text(
        "full: {path: photos}\ntest: {path: digits}\n"
        "views:\n"
        "  given: {view: {kind: downsample, factor: 4}, pretrained: model}\n"
        "  small: {view: {kind: downsample, factor: 2}, data: {path: small},\n"
        "          views: {tiny: {view: {kind: downsample, factor: 2}, data: {path: ../tiny}}}}\n"
        "  logo: {view: [{kind: mask, image: logo.png}], data: {path: logos}}\n"
        "init: {full: weights}\nevaluate: {features: f.safetensors}\n",
        folder=tmp_path,
    )
    assert recipe.paths() == {
        "full.path": tmp_path / "photos", "views.given.pretrained": tmp_path / "model",
        "views.small.data.path": tmp_path / "small", "views.small.views.tiny.data.path": tmp_path.parent / "tiny",
        "views.logo.view.image": tmp_path / "logo.png", "views.logo.data.path": tmp_path / "logos",
        "init.full": tmp_path / "weights", "evaluate.features": tmp_path / "f.safetensors",
    }  # fmt: skip
