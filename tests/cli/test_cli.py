"""The verbs of the command line, on a tiny run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bootdiff.data import load_letters
from bootdiff.method.stages import ARMS as ALL
from bootdiff.recipe.schema import load_recipe_text, reference
from bootdiff.training.files import digest, load_tensors, read_json, write_record, write_stamped
from cli_calls import TINY, call, refused

ARMS = [arm for arm in ALL if arm != "distilled"]  # which is trained where it is asked for alone


def read(path):
    return read_json(path)


def size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


# --- arms ---


def test_arms_prints_one_table_and_writes_the_same_figures(trained):
    metrics = read(trained.run / "metrics.json")
    losses = metrics["holdout_loss"]
    assert list(losses) == list(ARMS)
    for arm in ARMS:
        row = next(line for line in trained.out.splitlines() if line.split()[:1] == [arm])
        shown = [float(v) for v in row.replace("±", " ").split()[1:]]
        expected = [losses[arm]["mean"], losses[arm]["stderr"]]
        if arm != "full_only":
            expected += [losses[arm]["versus"]["full_only"][k] for k in ("mean", "stderr")]
        expected += [losses[arm]["sample_weighted"][k] for k in ("mean", "stderr")]
        np.testing.assert_allclose(shown, expected, atol=6e-5)
    assert metrics["evaluated_on"] == "test"
    assert metrics["count"] == 24
    assert set(metrics["ledger"]["arms"]) == set(ARMS)


def test_arms_prints_gains_and_weights(trained):
    at = trained.out.splitlines().index("gains: weights at sigma 0.2, 0.8, 3.2")
    kept = set(read(trained.run / "stages" / "screening" / "done.json")["value"]["names"])
    names = {line.split()[0] for line in trained.out.splitlines()[at + 1 : at + 3]} & kept
    assert names
    assert names <= {"thumbnails", "halves"}


def test_arms_writes_pictures(trained):
    for name in ("samples.png", "losses.png", "levels.png", "samples/real.png", *(f"samples/{a}.png" for a in ARMS)):
        width, height = size(trained.run / name)
        # 2 x 2 tiles of 64 pixels at least
        assert min(width, height) >= 2 * 64, name


def test_the_same_command_again_trains_nothing(trained):
    weights = {path: path.stat().st_mtime_ns for path in trained.run.rglob("final.safetensors")}
    before = read(trained.run / "metrics.json")["holdout_loss"]
    again = call("arms", trained.recipe, "--out", trained.run)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in trained.run.rglob("final.safetensors")} == weights
    assert read(trained.run / "metrics.json")["holdout_loss"] == before
    # all stages, also of the arms that this call did not train
    assert set(read(trained.run / "ledger.json")) == {
        p.parent.name.partition(".")[0] for p in weights if not p.parent.name.endswith("-gaussian")
    }


def as_an_earlier_version_left_it(run, *missing):
    """The run as it would be if these keys of the recipe had not been there when it was begun."""
    plain = yaml.safe_load((run / "recipe.yaml").read_text())
    for block, key in missing:
        del plain[block][key]
    (run / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    write_record(run / "run.json", read(run / "run.json")["value"] | {"recipe": digest(plain)})


def test_a_run_goes_on_though_there_are_more_keys_now(tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    as_an_earlier_version_left_it(run, ("sampling", "noise_shift"), ("training", "gradient_checkpointing"))
    weights = {path: path.read_bytes() for path in run.rglob("final.safetensors")}
    again = call("arms", trained.recipe, "--out", run)
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in run.rglob("final.safetensors")} == weights
    assert (run / "recipe.yaml").read_bytes() == (trained.run / "recipe.yaml").read_bytes()
    # What the key now says otherwise is another recipe.
    as_an_earlier_version_left_it(run, ("sampling", "noise_shift"))
    message = refused("arms", trained.recipe, "--out", run, "--set", "sampling.noise_shift=0.02")
    assert "sampling.noise_shift (auto -> 0.02)" in message


def test_several_seeds_make_one_table(tmp_path, trained):
    result = call(
        "arms", trained.recipe, "--out", tmp_path, "--seed", 0, "--seed", 1, "--arm", "full_only", "--arm", "oracle"
    )
    assert result.exit_code == 0, result.output
    metrics = read(tmp_path / "metrics.json")
    runs = [read(tmp_path / f"seed-{seed}" / "metrics.json") for seed in (0, 1)]
    for arm in ("full_only", "oracle"):
        values = [run["holdout_loss"][arm]["mean"] for run in runs]
        assert values[0] != values[1]
        entry = metrics["holdout_loss"][arm]
        assert entry["mean"] == pytest.approx(np.mean(values))
        assert entry["stderr"] == pytest.approx(np.std(values, ddof=1) / 2**0.5)
        weighted = [run["holdout_loss"][arm]["sample_weighted"]["mean"] for run in runs]
        assert entry["sample_weighted"]["mean"] == pytest.approx(np.mean(weighted))
        level = [run["holdout_loss"][arm]["per_level"]["0.8"]["mean"] for run in runs]
        assert entry["per_level"]["0.8"]["mean"] == pytest.approx(np.mean(level))
    paired = [run["holdout_loss"]["oracle"]["versus"]["full_only"]["mean"] for run in runs]
    assert metrics["holdout_loss"]["oracle"]["versus"]["full_only"]["per_seed"] == pytest.approx(paired)
    assert metrics["seeds"] == [0, 1]
    # seed 0 is the run of the fixture
    known = read(trained.run / "metrics.json")["holdout_loss"]["oracle"]["mean"]
    assert runs[0]["holdout_loss"]["oracle"]["mean"] == known


# --- fit ---


def test_fit_reuses_another_run(tmp_path, trained):
    result = call("fit", trained.recipe, "--out", tmp_path / "b", "--reuse", trained.run)
    assert result.exit_code == 0, result.output
    assert f"residual-local: taken from {trained.run}" in result.stdout
    ours, theirs = tmp_path / "b" / "bootdiff", trained.run / "bootdiff"
    assert (ours / "model.json").read_bytes() == (theirs / "model.json").read_bytes()  # which names the weights
    assert not (tmp_path / "b" / "oracle-local").exists()
    size(tmp_path / "b" / "losses.png")


def test_fit_writes_for_tensorboard_what_it_writes_as_rows(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, recipe = tmp_path / "run", tmp_path / "watched.yaml"
    recipe.write_text(TINY.replace("steps: 4}", "steps: 4, preview_every: 10}"))
    arms = ["--arm", "full_only", "--arm", "views_only"]
    result = call("fit", recipe, "--out", out, *arms, "--track", "tensorboard")
    assert result.exit_code == 0, result.output
    events = accumulators.EventAccumulator(str(out / "tensorboard" / "bootdiff")).Reload()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained_at = {row["stage"].partition(".")[0] for row in rows}  # races are rows of their own
    assert trained_at == {"full-local", "visible-local", "view-thumbnails-local", "view-halves-local"}
    for stage in trained_at:
        own = [row for row in rows if row["stage"] == stage]
        said = {"loss": [(row["step"], row["loss"]) for row in own if "loss" in row]}
        for level in ("0.2", "0.8", "3.2"):
            said[f"heldout/{level}"] = [(row["step"], row["heldout"][level]) for row in own if "heldout" in row]
        for name, expected in said.items():
            got = events.Scalars(f"{stage}/{name}")
            assert [event.step for event in got] == [step for step, _ in expected]
            assert [event.value for event in got] == pytest.approx([value for _, value in expected])
    assert len(said["heldout/0.2"]) == 2
    assert [image.step for image in events.Images("full-local/samples")] == [10, 20]


@pytest.mark.slow
def test_fit_in_two_processes_gets_what_one_gets(tmp_path, trained):
    out = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "bootdiff", "fit", trained.recipe, "--out", out, "--arm", "full_only"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: full_only") == 1
    two, _ = load_tensors(out / "stages" / "full-local" / "final.safetensors")
    one, _ = load_tensors(trained.run / "stages" / "full-local" / "final.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    assert read(out / "ledger.json")["full-local"]["processes"] == 2


# --- check ---


def test_check_plans_what_then_happens(tmp_path, trained):
    result = call("check", trained.recipe, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    said, ledger = read(tmp_path / "check.json"), read(trained.run / "ledger.json")
    assert {row["name"] for row in said["plan"]} == set(ledger)
    for row in said["plan"]:
        spent = ledger[row["name"]]
        left_out = row["name"].startswith("residual") and row["parameters"] - spent["parameters"] == 9 * 8
        assert row["parameters"] == spent["parameters"] or left_out, row["name"]  # it does not see a view left out
        assert row["seconds"] > 0
        # views that got no gain at some level are not asked there
        low = 0.5 if row["name"].startswith("residual") else 1
        assert low * row["flops"] <= spent["flops"] <= row["flops"], row["name"]
    assert said["data"]["view thumbnails"]["shape"] == [1, 4, 4]
    assert said["data"]["view thumbnails"]["sigma_data"] == pytest.approx(2 * said["data"]["view thumbnails"]["std"])
    assert said["data"]["full"]["count"] == 20
    width, height = size(tmp_path / "views.png")
    assert width > 5 * 48
    assert height > 4 * 96
    assert not (tmp_path / "metrics.jsonl").exists()


def test_simulated_views_can_be_limited(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(TINY.replace("test: 24}", "test: 24, limit: 20}"))
    assert call("check", recipe, "--out", tmp_path).exit_code == 0
    data = read(tmp_path / "check.json")["data"]
    assert [data[f"view {name}"]["count"] for name in ("thumbnails", "halves")] == [18, 18]  # and 2 held out each
    assert data["oracle"]["count"] == 200 - 24 - 10


def test_check_doubts_files_that_are_not_what_the_view_says(tmp_path):
    rng = np.random.default_rng(0)
    full = rng.integers(0, 90, (12, 8, 8, 1), dtype=np.uint8)
    thumbnails = 255 - full.reshape(12, 4, 2, 4, 2, 1).mean((2, 4)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", full=full, thumbnails=thumbnails, right=255 - thumbnails)
    (tmp_path / "r.yaml").write_text(
        """\
full: {path: data.npz, key: full}
views:
  inverted: {view: {kind: downsample, factor: 2}, data: {path: data.npz, key: thumbnails}}
  right: {view: {kind: downsample, factor: 2}, data: {path: data.npz, key: right}}
backbones: {local: {kind: local, width: 8, depth: 3}}
"""
    )
    result = call("check", tmp_path / "r.yaml", "--out", tmp_path / "check")
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: view")]
    assert len(warnings) == 1
    assert "view inverted: its files have mean" in warnings[0]


# --- sample ---


def test_sample_draws_the_same_images_whatever_their_number(tmp_path, trained):
    for n in (2, 5):
        assert call("sample", trained.run, "-n", n, "--seed", 3, "--out", tmp_path / f"{n}.npy").exit_code == 0
    two, five = np.load(tmp_path / "2.npy"), np.load(tmp_path / "5.npy")
    assert five.shape == (5, 8, 8, 1)
    assert (five.min(), five.max(), five.dtype) == (0, 16, np.float32)  # the digits' own units
    np.testing.assert_allclose(two, five[:2], atol=1e-3)
    assert np.abs(five[0] - five[1]).max() > 1


def test_sample_writes_grids_and_folders(tmp_path, trained):
    result = call("sample", trained.run, "-n", 3, "--arm", "full_only", "--scheduler", "heun", "--steps", 3)
    assert result.exit_code == 0, result.output
    assert size(trained.run / "samples" / "full_only-seed0.png")[0] >= 2 * 64
    assert call("sample", trained.run, "-n", 3, "--label", "7", "--out", tmp_path / "images").exit_code == 0
    files = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in files] == ["00000.png", "00001.png", "00002.png"]
    assert size(files[0]) == (8, 8)


def test_sample_reads_an_arm_folder_by_itself(tmp_path, trained):
    assert call("sample", trained.run / "oracle", "-n", 1, "--steps", 3, "--out", tmp_path / "a.png").exit_code == 0
    size(tmp_path / "a.png")


def test_sample_says_what_it_knows(tmp_path, trained):
    assert "no such class; known: 0, 1, 2" in refused("sample", trained.run, "--label", "cat")
    assert "known: dpm, heun, euler" in refused("sample", trained.run, "--scheduler", "ddim")
    assert "there are: full_only, views_only" in refused("sample", trained.run, "--arm", "best")
    assert "images are written as .png, .npy, .npz or into a folder of PNG" in refused(
        "sample", trained.run, "--out", tmp_path / "a.gif"
    )
    assert "not a run directory" in refused("sample", tmp_path)


# --- evaluate ---


def test_evaluate_measures_what_arms_measured(tmp_path, trained):
    before = read(trained.run / "metrics.json")
    result = call("evaluate", trained.run, "--arm", "bootdiff", "--arm", "full_only", "--samples", 16)
    assert result.exit_code == 0, result.output
    after = read(trained.run / "metrics.json")
    assert list(after["holdout_loss"]) == ["full_only", "bootdiff"]
    for arm in ("full_only", "bootdiff"):
        assert after["holdout_loss"][arm]["mean"] == pytest.approx(before["holdout_loss"][arm]["mean"], rel=1e-5)
        assert after["samples"][arm]["count"] == 16
        assert after["samples"][arm]["features"].startswith("classifier")
    assert after["samples"]["bootdiff"]["features"] in result.stdout.replace("\n", " ")
    write_stamped(trained.run / "metrics.json", before)
    assert "no trained arm" in refused("evaluate", trained.run, "--arm", "best")


def test_ceilings_are_measured_by_stages_of_the_run(tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    result = call("evaluate", run, "--ceilings")
    assert result.exit_code == 0, result.output
    metrics, stages = read(run / "metrics.json"), run / "stages"
    found = metrics["ceilings"]
    assert list(found["views"]) == ["thumbnails", "halves"]
    assert found["views"]["halves"]["full"] == 20
    assert found["together"]["sum"] == sum(max(v["nats"], 0) for v in found["views"].values())
    assert found["run"]["of"] == "full_only"
    assert found["gap"]["than"] == "oracle"
    table = (run / "table.md").read_text()
    for name in found["views"]:
        assert f"\n{name}: its law, learned from " in table
        assert (stages / f"ceiling-{name}-local" / "done.json").is_file()
    assert "bootdiff saves" in table
    # they are no cost of an arm
    assert not any(stage.startswith("ceiling") for arm in metrics["ledger"]["arms"].values() for stage in arm["stages"])
    # again: nothing is trained but what is missing, and the figures are the same
    shutil.rmtree(stages / "ceiling-halves-local")
    again = call("evaluate", run, "--ceilings", "--arm", "full_only", "--arm", "bootdiff")
    assert "ceiling-halves-local: held-out" in again.stdout
    assert "ceiling-thumbnails-local: held-out" not in again.stdout
    after = read(run / "metrics.json")["ceilings"]
    assert after["gap"] is None
    for name, view in found["views"].items():
        assert after["views"][name]["nats"] == pytest.approx(view["nats"])


def test_ceilings_need_the_views_denoisers(monkeypatch, trained):
    from bootdiff.cli import ceilings

    monkeypatch.setattr(ceilings, "saved_arms", lambda folder: ["full_only"])
    assert "has none yet" in refused("evaluate", trained.run, "--ceilings")


# --- recipe, demo, help ---


def test_the_example_is_a_recipe():
    text = call("recipe", "--example").stdout
    assert load_recipe_text(text).view_configs("thumbnails") == [{"kind": "downsample", "factor": 4}]
    # what is commented out is right as well
    lines = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in text.splitlines()[1:]]
    everything = load_recipe_text("\n".join(lines))
    assert list(everything.views) == ["thumbnails", "crops", "subtitled", "gray"]
    assert everything.test is not None


def test_recipe_lists_every_key():
    shown = call("recipe").stdout
    assert all(entry.key in shown and entry.description in shown for entry in reference())
    found = call("recipe", "--find", "learning rate").stdout
    assert "training.lr" in found
    assert "sampling" not in found
    assert "no key of a recipe" in refused("recipe", "--find", "xyzzy")


def test_the_demo_is_what_it_promises(monkeypatch, tmp_path, trained):
    from bootdiff.cli import demo

    recipe = demo.demo_recipe()
    assert recipe.simulate.full <= 0.02 * len(load_letters()) + 1
    assert recipe.simulate.pool.path == "letters"
    assert [spec.std for spec in recipe.views.values()] == [0, 0.3]
    # the verb itself, on the tiny run
    monkeypatch.setattr(demo, "demo_recipe", lambda: load_recipe_text(TINY, trained.recipe.parent))
    own = shutil.copytree(trained.run, tmp_path / "demo")
    result = call("demo", "--out", own)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith("metrics.json")
    assert set(read(own / "metrics.json")["holdout_loss"]) == {"full_only", "bootdiff"}
    assert "differing in seed (0 -> 1)" in refused("demo", "--out", own, "--seed", 1)


VERBS = ["demo", "recipe", "masks", "check", "plan", "fit", "arms", "sample", "restore", "evaluate"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_an_example(verb):
    shown = call(verb, "--help").stdout
    assert f"bootdiff {verb}" in shown
    assert verb in call("--help").stdout


def test_help_does_not_import_torch():
    code = """
import os, sys
from bootdiff.cli.main import main
try:
    main(["--help"])
except SystemExit as e:
    assert not e.code
heavy = {"torch", "diffusers", "accelerate", "numpy", "pydantic", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_do_not_spin_unless_asked(monkeypatch):
    import os

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    call("recipe", "--example")
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    call("recipe", "--example")
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_a_run_keeps_its_recipe(trained):
    kept = yaml.safe_load((trained.run / "recipe.yaml").read_text())
    assert kept["training"]["steps"] == 20
    assert "device" not in kept
