"""Class-conditional runs from end to end: labels of all data, of some, and of data that number them otherwise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bootdiff.cli.session import load_arm
from bootdiff.sampling import classes_of
from cli_calls import call, refused

NAMES = {"dark": -0.8, "mid": 0.0, "light": 0.8}
RECIPE = """\
full: {path: data.npz, key: full, labels: FULL, holdout: 6}
test: {path: data.npz, key: test, labels: FULL}
views:
  small: {view: {kind: downsample, factor: 2}, data: {path: data.npz, key: small, labels: VIEW}}
backbones: {local: {kind: local, width: 16, depth: 3}}
training: {steps: 250, batch: 32, lr: 0.01, noise: {mean: 0.5, std: 1.5}, ema: 0.9, warmup: 0, evaluate_every: 125}
levels: [0.2, 0.8, 3.2]
gains: {mode: unit}
evaluate: {draws: 1, samples: 0}
sampling: {count: 6, steps: 8}
device: cpu
"""


def data(folder, view_names=None):
    """Pictures of one brightness per class, 4 x 4; thumbnails of other pictures, classed by ``view_names``."""
    rng = np.random.default_rng(0)

    def part(n, side, names):
        names = np.array(names)[rng.integers(0, len(names), n)]
        x = np.array([NAMES.get(name, 0.0) for name in names])[:, None, None] + 0.05 * rng.normal(size=(n, side, side))
        return x.clip(-1, 1).astype(np.float32), names

    parts = {"full": part(24, 4, list(NAMES)), "test": part(12, 4, list(NAMES))}
    parts["small"] = part(60, 2, view_names or list(NAMES))
    arrays = {name: x for name, (x, _) in parts.items()} | {
        f"{name}_label": labels for name, (_, labels) in parts.items()
    }
    np.savez(folder / "data.npz", **arrays)


def recipe(folder, full=True, view=True):
    text = RECIPE.replace("FULL", str(full).lower()).replace("VIEW", str(view).lower())
    (folder / "r.yaml").write_text(text)
    return folder / "r.yaml"


def brightness(folder, label, arm="bootdiff"):
    options = [] if label is None else ["--label", label]
    result = call("sample", folder / "run", "--arm", arm, "-n", 24, *options, "--out", folder / "x.npy")
    assert result.exit_code == 0, result.output
    x = np.load(folder / "x.npy")  # in the units of the data
    return x.reshape(len(x), -1).mean(1)


@pytest.mark.parametrize(
    "labelled",
    ["both", "full", "view"],
)
@pytest.mark.slow  # 5 s each: learned well enough to be told apart
def test_samples_are_of_the_class_that_was_asked_for(tmp_path, labelled):
    data(tmp_path)
    path = recipe(tmp_path, labelled in ("both", "full"), labelled in ("both", "view"))
    arms = [f"--arm={arm}" for arm in ("full_only", "views_only", "bootdiff")]
    result = call("arms", path, "--out", tmp_path / "run", *arms)
    assert result.exit_code == 0, result.output
    # An array's own list is sorted by name.
    assert json.loads((tmp_path / "run" / "data.json").read_text())["classes"] == ["dark", "light", "mid"]
    knows = {arm: classes_of(load_arm(tmp_path / "run", arm, "cpu")[1]) for arm in ("full_only", "bootdiff")}
    assert knows == {"full_only": 0 if labelled == "view" else 3, "bootdiff": 3}
    for name, value in NAMES.items():
        found = brightness(tmp_path, name)
        assert abs(found.mean() - value) < 0.3, (name, found)
    if labelled == "view":
        assert "this model was trained without classes" in refused(
            "sample", tmp_path / "run", "--arm", "full_only", "--label", "dark"
        )
    # Without a class: of several.
    found = brightness(tmp_path, None)
    assert found.std() > 0.3, found


def test_a_view_with_classes_of_its_own_numbering(tmp_path):
    """Its list begins with a class that the full samples do not have: the names count, not the numbers."""
    from bootdiff.recipe.build import build_problem
    from bootdiff.recipe.schema import load_recipe

    data(tmp_path, ["beige", "dark", "mid", "light"])
    materials = build_problem(load_recipe(recipe(tmp_path)))
    assert materials.classes == ["dark", "light", "mid", "beige"]
    for source in (materials.full, materials.held_out, materials.test, *vars(materials.views["small"]).values()):
        if hasattr(source, "classes"):
            x, label, _ = source.batch(range(len(source)))
            expected = torch.tensor([NAMES.get(c, 0.0) for c in materials.classes])[label]
            torch.testing.assert_close(x.mean((1, 2, 3)), expected, atol=0.15, rtol=0)


def test_classes_under_other_names_are_refused(tmp_path):
    data(tmp_path, ["dunkel", "hell"])
    message = " ".join(refused("check", recipe(tmp_path)).split())
    assert "the classes of view small (dunkel, hell;" in message
    assert "and those of full (dark, light, mid;" in message
    assert "Name them alike" in message


def test_guidance_on_the_command_line(trained, tmp_path):
    def drawn(*options):
        result = call("sample", trained.run, "-n", 3, "--label", "3", *options, "--out", tmp_path / "x.npy")
        assert result.exit_code == 0, result.output
        return np.load(tmp_path / "x.npy").astype(float)

    plain = drawn()
    np.testing.assert_array_equal(drawn("--guidance", 1), plain)
    assert np.abs(drawn("--guidance", 4) - plain).max() > 0
    np.testing.assert_array_equal(drawn("--guidance", 4, "--guidance-interval", 1000, 2000), plain)
    run = trained.run
    assert "name it by --label" in " ".join(refused("sample", run, "--guidance", 2).split())
    assert "also give --guidance" in " ".join(refused("sample", run, "--label", 3, "--guidance-interval", 1, 2).split())
    wrong = ("--label", 3, "--guidance", 2, "--guidance-interval", 5, 1)
    assert "lowest and highest noise level" in " ".join(refused("sample", run, *wrong).split())
