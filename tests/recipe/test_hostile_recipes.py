"""Recipes that are damaged, absurd or made to harm: accepted, or refused within a second with what is wrong, and where.

Each case is read as `check` and `fit` read it; what is accepted must also be written and read again as the same recipe.
"""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe, load_recipe_text
from cli_calls import refused

BASE = """\
full: {path: full}
views:
  t: {view: {kind: downsample, factor: 2}, data: {path: small}}
backbones: {local: {kind: local, width: 4, depth: 3}}
training: {steps: 3, batch: 4, warmup: 0}
levels: [0.2, 1]
evaluate: {samples: 0}
sampling: {count: 2, steps: 3}
"""


def put(old, new):
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


def laughs(end, leaf="&x0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]", block="[{}]", item="*x{}"):
    """`end` in the base, after nine anchors that each name the one before nine times."""
    inner = [", ".join(item.format(i, k=k) for k in range(9)) for i in range(9)]
    lines = [f"x{i + 1}: &x{i + 1} {block.format(names)}\n" for i, names in enumerate(inner)]
    return "".join([f"x0: {leaf}\n", *lines, end])


def refusal(text):
    """What is said of a recipe that must be refused, in time."""
    start = time.process_time()
    with pytest.raises(BootdiffError) as raised:
        load_recipe_text(text, source="r.yaml")
    assert time.process_time() - start < 2.5  # a second, and what other processes cost
    said = str(raised.value)
    assert max(map(len, said.splitlines())) < 2000
    return said


HUGE = ["9" * 400, "9" * 5000, "0x" + "f" * 5000, "18446744073709551616", "-9223372036854775809"]
KEYS = [
    "threads: {}",
    "evaluate: {{draws: {}}}",
    "evaluate: {{samples: {}}}",
    "sampling: {{count: {}}}",
    "sampling: {{steps: {}}}",
    "gains: {{folds: {}}}",
    "gains: {{draws: {}}}",
    "residual: {{snapshots: {}}}",
    "distill: {{samples: {}}}",
    "training: {{steps: {}}}",
    "training: {{batch: {}}}",
    "training: {{accumulate: {}}}",
    "training: {{warmup: {}}}",
    "training: {{evaluate_every: {}}}",
    "training: {{workers: {}}}",
    "backbones: {{n: {{kind: local, width: {}}}}}",
    "backbones: {{n: {{kind: local, depth: {}}}}}",
    "backbones: {{n: {{kind: unet, patch: {}}}}}",
    "backbones: {{n: {{kind: unet, channels: [{}]}}}}",
    "backbones: {{n: {{kind: unet, layers: {}}}}}",
    "backbones: {{n: {{kind: mlp, width: {}}}}}",
    "backbones: {{n: {{kind: mlp, depth: {}}}}}",
    "backbones: {{n: {{kind: linear, rank: {}}}}}",
    "training: {{views: {{steps: {}}}}}",
    "sampling: {{preview_every: {}}}",
]
MINIMAL = "full: {path: full}\nviews: {t: {view: {kind: downsample, factor: 2}, data: {path: small}}}\n"


@pytest.mark.parametrize("key", KEYS)
def test_every_size_has_a_bound(key):
    name = re.findall(r"\w+", key.format(""))[-1]
    said = refusal(MINIMAL + key.format("1000000000000"))
    assert re.match(r"r\.yaml, line 3: .*must be .*(at most|each up to) [\d,]+, got \[?1000000000000", said), said
    assert name in said


@pytest.mark.parametrize("number", HUGE, ids=lambda v: f"{v[:6]}({len(v)})")
@pytest.mark.parametrize("key", ["seed: {}", "training: {{lr: {}}}", "levels: [{}]", "gains: {{smooth: {}}}"])
def test_a_number_beyond_64_bits_is_named(key, number):
    said = refusal(MINIMAL + key.format(number))
    assert said.startswith("r.yaml, line 3: '")
    assert "digits; no key takes more than 9,223,372,036,854,775,807" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("levels: [1.0e-300, 1]", "levels[0]: must be at least 0.0001, got 1e-300"),
        ("levels: [1, 1.0e+39]", "levels[1]: must be at most 10000"),
        ("training: {lr: 1e400}", "training.lr: must be a finite number"),
        ("training: {noise: {mean: 1e6}}", "training.noise.mean: must be at most 20"),
        ("training: {noise: {mean: .nan}}", "training.noise.mean: must be"),
        ("training: {noise: {std: .inf}}", "training.noise.std: must be"),
        ("training: {checkpoint_seconds: .inf}", "must be a finite number"),
        ("training: {clip: -.inf}", "training.clip: must be"),
        ("sampling: {sigma_max: 1e300}", "sampling.sigma_max: must be at most"),
        ("sampling: {sigma_min: 1e-320}", "sampling.sigma_min: must be at least"),
        ("test: {path: x, size: [1000000, 1]}", "test.size: must be [height, width], two numbers from 1 to 65,536"),
    ],
)
def test_values_that_nothing_can_be_computed_with_are_named(text, expected):
    said = refusal(MINIMAL + text)
    assert said.startswith("r.yaml, line 3: ")
    assert expected in said


@pytest.mark.parametrize(
    "text",
    [
        laughs(BASE),
        laughs(put("levels: [0.2, 1]", "levels: *x9")),
        laughs(put("kind: downsample", "kind: *x9")),
        laughs(put("full: {path: full}", "full: {path: *x9}")),
        laughs(put("{local: {kind: local, width: 4, depth: 3}}", "{local: *x9}")),
        laughs(put("t: {view: {kind: downsample, factor: 2}, data: {path: small}}", "t: *x9")),
        laughs(BASE + "seed: *x9\n"),
        laughs(put("full: {path: full}", "full: *x9"), "&x0 {a: 1, b: 2}", "{{{}}}", "k{k}: *x{0}"),
    ],
    ids=["extra keys", "levels", "kind", "path", "backbone", "view", "seed", "maps"],
)
def test_anchors_that_unfold_without_end_are_refused(text):
    assert re.search(r"r\.yaml, line \d+: its anchors unfold to more than 200,000 values", refusal(text))


def test_merged_blocks_that_unfold_without_end_are_refused():
    merge = laughs(put("full: {path: full}", "full: *x9"), "&x0 {path: full}", "{{<<: [{}]}}")
    assert "its anchors unfold to more than 200,000 values" in refusal(merge)


@pytest.mark.parametrize(
    "text",
    ["name: " + "[" * 5000, "name: " + "[" * 5000 + "]" * 5000, "".join(" " * i + "a:\n" for i in range(600))],
    ids=["open", "closed", "blocks"],
)
def test_a_text_too_deep_is_refused(text):
    assert re.search(r"r\.yaml, line \d+: blocks lie in each other more than 50 deep", refusal(BASE + text))


def test_a_text_too_long_is_refused(tmp_path):
    keys = BASE + "".join(f"k{i}: 1\n" for i in range(60_000))
    assert "more than 20,000 keys and values; is this a recipe?" in refusal(keys)
    for more in ("#" + "x" * 2_000_000, "name: " + "x" * 2_000_000):
        assert refusal(BASE + more).startswith("r.yaml: longer than 1,048,576 characters; is this a recipe?")
    (tmp_path / "long.yaml").write_text("#" * 3_000_000)
    with pytest.raises(BootdiffError, match=r"long\.yaml: longer than 1,048,576"):
        load_recipe(tmp_path / "long.yaml")
    views = "".join(f"  v{i}: {{view: identity, data: {{path: full}}}}\n" for i in range(400))
    assert "views: must have at most 256 item(s)" in refusal(put("backbones", views + "backbones"))
    with pytest.raises(BootdiffError, match="longer than 1,048,576"):
        load_recipe("/dev/zero")


@pytest.mark.parametrize(
    "text",
    [
        BASE + "name: !!python/object/apply:os.system ['exit']\n",
        BASE + "name: !!python/name:os.system\n",
        BASE + "name: !!binary aGVsbG8=\n",
        BASE + "name: !!set {a, b}\n",
        BASE + "name: !foo bar\n",
        put("full: {path: full}", "full: !!omap [path: full]"),
        BASE + "seed: 1\nseed: 2\n",
        put("path: full", "path: full, path: small"),
        put("  t:", "\tt:"),
        BASE + "---\n" + BASE,
        "%YAML 9.9\n---\n" + BASE,
        "\t\t\t\n",
        "",
        "# nothing\n",
        "- 1\n- 2\n",
        "9" * 5000,
        "hello\n",
        BASE + "name: a\x00b\n",
        BASE + "name: \x07\n",
        put("path: full", 'path: "fu\\0ll"'),
        put("path: full", 'path: "\\ud800"'),
        put("full: {path: full}", "full: &a {path: full, x: *a}"),
        BASE + "name: *nope\n",
        BASE + "? [a, b]\n: 1\n",
        BASE + "~: 1\n",
        BASE + "1: 1\n",
        BASE + "😀: 1\n",
        BASE + "x" * 900 + ": 1\n",
        put("  t:", "  '..':"),
        put("{local:", "{'a/b':"),
        put("factor: 2", "factor: 0"),
        put("path: full", "path: full, limit: 0"),
        put("path: full", "path: full, holdout: 1.0"),
        put("path: full", "path: 5"),
        put("levels: [0.2, 1]", "levels: [1, 0.2]"),
    ],
    ids=range(35),
)
def test_what_is_no_recipe_is_named(text):
    said = refusal(text)
    assert said.startswith("r.yaml"), said


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("\n", "\r\n"),
        BASE + "name: \u202eevil\n",
        put("path: full", 'path: "\\e[2J\\e[31mfull"'),
        put("warmup: 0", "warmup: 0, clip: 1.0e-320"),
        BASE + "seed: 9223372036854775807\n",
        "&a " + put("full: {path: full}", "full: &b {path: full}") + "test: *b\n",
    ],
)
def test_what_is_odd_but_right_is_read(text):
    recipe = load_recipe_text(text.removeprefix("&a "))
    again = load_recipe_text(recipe.dump())
    assert again.dump() == recipe.dump()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("path: full", "path: ~nosuchuser/x"),
        ("data: {path: small}", "data: {path: small}, pretrained: ~nosuchuser/x"),
        ("{kind: downsample, factor: 2}", "{kind: mask, image: ~nosuchuser/x.png}"),
    ],
)
def test_the_home_of_nobody(tmp_path, old, new):
    small = "small" if "pretrained" not in new else "small.npy"
    text = put(old, new).replace("path: full", "path: digits, limit: 40").replace("small", small)
    np.save(tmp_path / "small.npy", np.zeros((6, 4, 4), np.uint8))
    (tmp_path / "r.yaml").write_text(text.replace("path: small}", "path: digits}"))
    said = " ".join(refused("check", tmp_path / "r.yaml", "--out", tmp_path).split())
    assert "~nosuchuser/x" in said
    assert "no such user, or one without a home; write the whole path" in said
