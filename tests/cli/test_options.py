"""Options that belong to no verb alone: --set, --device, --version, names of arms, the schema, completion."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml

import bootdiff
from bootdiff.cli.options import arm_name
from cli_calls import TINY, call, refused


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(TINY)
    return path


def test_check_takes_a_changed_key(recipe, tmp_path):
    call("check", str(recipe), "--out", str(tmp_path / "c"), "--set", "training.steps=7", "--set", "training.full={}")
    plan = json.loads((tmp_path / "c" / "check.json").read_text())["plan"]
    assert {row["steps"] for row in plan if row["name"].startswith("full-")} == {7}


def test_a_run_is_of_the_changed_recipe_and_refuses_another_change(recipe, tmp_path):
    out = tmp_path / "run"
    small = ["--set", "training.steps=2", "--set", "training.full={steps: 2}", "--arm", "full-only"]
    call("fit", str(recipe), "--out", str(out), *small)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["training"]["steps"] == 2
    assert (out / "full_only" / "model.json").is_file()
    call("fit", str(recipe), "--out", str(out), *small)  # there already
    said = refused("fit", str(recipe), "--out", str(out), *small, "--set", "seed=5")
    assert "seed" in said
    # What was trained is drawn from on the device that is said, by either name of the arm.
    call("sample", str(out), "--arm", "Full only", "-n", "2", "--out", str(tmp_path / "a.npy"), "--device", "cpu")
    call("evaluate", str(out), "--arm", "full-only", "--samples", "0", "--device", "cpu")


@pytest.mark.parametrize("verb", ["check", "plan", "fit", "arms", "sample", "evaluate", "restore"])
def test_a_device_that_is_none_is_refused_before_anything_is_opened(verb):
    result = call(verb, "nowhere", "--device", "gpu")
    assert result.exit_code == 2
    assert "--device" in result.stderr
    assert all(name in result.stderr for name in ("auto", "cpu", "cuda", "mps"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused_with_the_way_out(trained, recipe, tmp_path):
    for verb in (["sample"], ["evaluate"], ["restore", "--held-out", "1", "--view", "halves"]):
        assert "device: cuda: torch finds none here" in refused(verb[0], trained.run, *verb[1:], "--device", "cuda")
    assert "device: cuda: torch finds none" in refused("fit", recipe, "--out", tmp_path / "x", "--device", "cuda")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["full_only", "full-only", "Full only", " FULL-ONLY "])
def test_names_of_arms_are_taken_as_they_are_typed(text):
    assert arm_name(text) == "full_only"


def test_the_version_is_told_without_torch():
    code = "import sys; from bootdiff.cli.main import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"bootdiff {bootdiff.__version__}", "False"]


def test_the_schema_is_printed_as_json():
    schema = json.loads(call("recipe", "--schema").stdout)
    assert schema["properties"]["views"]["description"] == "the kinds of partial data, by names you choose"
