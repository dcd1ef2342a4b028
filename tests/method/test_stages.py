"""The stages of a run: several processes that are not equally fast; which arm is made of what."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from bootdiff.method.stages import Bootstrap
from bootdiff.method.weights import Weights
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.training.files import read_record
from bootdiff.training.run import Run, load_tensors
from method_calls import bootstrap, trainings

RECIPE = """\
simulate: {pool: {path: digits, limit: 60}, full: 12}
views: {thumbnails: {view: {kind: downsample, factor: 2}}}
levels: [0.3, 1.5]
"""


# --- several processes


@pytest.mark.parametrize("slow", ["first", "second"])
def test_processes_of_different_speed_meet_at_the_same_barriers(tmp_path, slow):
    """One process is behind after every barrier: it must not take what the other has written in the meantime for a
    stage that was complete when both began, or they wait for each other at different places."""
    barrier, results, failures = threading.Barrier(2, timeout=120), {}, []

    def process(name):
        def meet():
            barrier.wait()
            if name == slow:
                time.sleep(0.05)

        first = name == "first"
        accelerator = SimpleNamespace(is_main_process=first, wait_for_everyone=meet, device=torch.device("cpu"))
        value = 1.0 if first else 2.0  # what rounding does between processes, made large

        def solve():
            return Weights(torch.full((2, 1), value).double(), torch.zeros(2), torch.zeros(2, 1), 0.0, 0.0)

        try:
            with Run.open(tmp_path / "run", RECIPE, main=first) as run:
                boot = bootstrap(load_recipe_text(RECIPE), SimpleNamespace(shape=(1, 8, 8)), run, accelerator)
                got = [boot.weights("gains", ["thumbnails"], solve, []).tolist()]
                stage = boot._stage("full-local", {})
                got.append(boot._store.get_or_compute(stage, "scale.json", lambda: [value]))
                got.append(boot.weights("full-stack", ["thumbnails"], solve, []).tolist())
                meet()
                results[name] = got
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=process, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert results["second"] == results["first"] == [[[1.0], [1.0]], [1.0], [[1.0], [1.0]]]


# --- the arms


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


TRAINED = """\
simulate: {pool: {path: digits, labels: true}, full: 20, test: 10, limit: 40}
views: {small: {view: {kind: downsample, factor: 2}}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 6, batch: 8, lr: 0.01, evaluate_every: 3}
levels: [0.3, 1.5]
gains: {draws: 1, mode: unit}
"""


def opened(folder, recipe, accelerator, materials=None):
    materials = materials or build_problem(recipe)
    run = Run.open(folder, recipe.dump(place=False), materials.fingerprint())
    return bootstrap(recipe, materials, run, accelerator)


def test_the_unregularized_arm_is_that_of_a_recipe_without_penalties(tmp_path, accelerator, monkeypatch):
    """Its experts are trained apart where the recipe penalizes them, else they are bootdiff's."""
    monkeypatch.setattr(Bootstrap, "seed", lambda self, name: 0)  # otherwise each stage has its own
    arms, stages, final = [], [], {}
    plain = f"{TRAINED}residual: {{start: views}}\n"
    for name, text in (("plain", plain), ("penalized", f"{TRAINED}residual: {{energy: 10.0}}\n")):
        boot = opened(tmp_path / name, load_recipe_text(text), accelerator)
        with boot.run:
            arms.append(boot.denoiser("unregularized"))
            boot.denoiser("bootdiff")
        stages.append(set(boot.ledger))
        assert stages[-1] == {s.name for s in boot.plan(["unregularized", "bootdiff"]).trainings}
        final |= {
            f"{name}-{stage}": load_tensors(boot.run.stages / stage / "final.safetensors")[0] for stage in boot.ledger
        }
    assert stages[1] - stages[0] == {"unregularized-local"}
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 1.0, 4.0])
    assert torch.equal(arms[1](x, sigma), arms[0](x, sigma))
    mine, theirs = final["penalized-unregularized-local"], final["penalized-residual-local"]
    assert any(not torch.equal(mine[key], theirs[key]) for key in mine)


AT_FULL = """\
simulate: {pool: {path: digits}, full: 20, test: 10, limit: 60}
views:
  small: {view: {kind: downsample, factor: 2}, start: best}
  boxes: {view: {kind: random_mask, hide: box, fraction: 0.25}, start: best}
  apart: {view: {kind: crop, size: [8, 4], offset: [0, 0]}, start: scratch}
backbones:
  unet: {kind: unet, channels: [8, 8], attention: false, patch: 2}
  local: {kind: local, width: 8, depth: 3}
training: {steps: 6, batch: 8, lr: 0.01, evaluate_every: 3, views: {steps: 1, warmup: 1, lr: 1e-12, evaluate_every: 1}}
levels: [0.3, 1.5]
"""


def test_views_start_at_the_full_only_networks_where_told_and_alike(tmp_path, accelerator):
    said = []
    recipe = load_recipe_text(AT_FULL)
    boot = opened(tmp_path / "run", recipe, accelerator)
    boot.log = said.append
    with boot.run:
        boot.denoiser("views_only")
    assert set(boot.ledger) == set(trainings(recipe, ["views_only"]))
    final = {stage: load_tensors(boot.run.stages / stage / "final.safetensors")[0] for stage in boot.ledger}

    def distance(one, other):
        pairs = [(final[one][key], final[other][key]) for key in final[one]]
        return max((a[:, : b.shape[1]] - b).abs().max() if a.ndim > 1 else (a - b).abs().max() for a, b in pairs)

    # Of a view of 4 x 4 pixels the patches are smaller: its U-Net is another one.
    for view, alike in (("small-local", True), ("boxes-local", True), ("boxes-unet", True), ("apart-local", False)):
        assert (distance(f"view-{view}", f"full-{view.split('-')[1]}") < 1e-6) == alike, view
    (first,) = (key for key, w in final["view-boxes-local"].items() if w.shape != final["full-local"][key].shape)
    assert final["view-boxes-local"][first][:, 1:].abs().max() < 1e-6  # and what it sees of the mask
    assert sum("starts from scratch" in line for line in said) == 1
    assert any(line.startswith("view-small-unet: starts from scratch") for line in said)


RACED = (
    AT_FULL.replace("start: full", "start: scratch")
    .replace("start: best", "start: scratch")
    .replace(
        "{steps: 6, batch: 8, lr: 0.01, evaluate_every: 3, views: {steps: 1, warmup: 1, lr: 1e-12, evaluate_every: 1}}",
        "{steps: 6, batch: 8, lr: 0.01, evaluate_every: 3, residual: {steps: 48, warmup: 0, evaluate_every: 24}}",
    )
)


@pytest.mark.slow  # 9 s: twelve trainings; of two candidates in tests/cli/test_kill_run.py
def test_residual_networks_race_from_all_that_are_alike_and_the_best_is_trained_on(tmp_path, accelerator):
    recipe = load_recipe_text(f"{RACED}gains: {{mode: unit}}\n")
    boot = opened(tmp_path / "run", recipe, accelerator)
    with boot.run:
        boot.denoiser("bootdiff")
        residual = boot.experts("residual")
    assert set(boot.ledger) == set(trainings(recipe, ["bootdiff"]))
    folder = {kind: tmp_path / "run" / "stages" / f"residual-{kind}" for kind in ("unet", "local")}
    raced = {kind: read_record(folder[kind] / "start.json")["result"] for kind in folder}
    # The others' patches are smaller.
    assert list(raced["unet"]["losses"]) == ["full-unet", "visible-unet", "view-boxes-unet"]
    views = ["view-small-local", "view-boxes-local", "view-apart-local"]
    assert list(raced["local"]["losses"]) == ["full-local", "visible-local", *views]
    for kind, short in (("unet", 2), ("local", 1)):
        losses = list(raced[kind]["losses"].values())
        assert raced[kind]["start"] == f"residual-{kind}.start-{losses.index(min(losses))}/final.safetensors"
        assert [spent["steps"] for spent in raced[kind]["ledgers"]] == [short] * len(losses)
        # The race is paid out of the same steps.
        assert boot.ledger[f"residual-{kind}"]["steps"] == 48
        assert read_record(folder[kind] / "done.json")["ledger"]["steps"] == 48 - short * len(losses)
    expert = residual["residual-local"].members[0]
    assert expert.mask_channels == 1
    first = next(p for p in expert.net.parameters() if p.ndim == 4)
    assert first.shape[1] == 1 + 1 + 3  # x, a mask of ones, three views' estimates


def test_few_samples_are_trained_by_adamw_and_plenty_by_muon_unless_told(tmp_path, accelerator):
    text = RECIPE.replace("limit: 60", "limit: 400")
    for more, wanted in (("", ("adamw", "muon")), ("training: {optimizer: muon}\n", ("muon", "muon"))):
        boot = opened(tmp_path / f"run-{wanted[0]}", load_recipe_text(text + more), accelerator)
        with boot.run:
            tasks = [boot.task(stage) for stage in boot.plan(["views_only"]).trainings]
        by_part = {task.name.split("-")[0]: task.training.optimizer for task in tasks}
        assert (by_part["full"], by_part["view"]) == wanted
