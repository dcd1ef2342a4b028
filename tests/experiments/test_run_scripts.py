"""The scripts that read a finished run, or train for a few steps: regularization, step_time, speed."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from bootdiff.cli.session import load_arm
from bootdiff.data import measure
from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation.evaluate import sample_losses, tabulate
from bootdiff.method.problem import in_memory
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe
from experiments.scripts import regularization, speed, step_time


def written(path):
    return json.loads(path.read_text())


@pytest.mark.slow  # all variants of a residual are trained: 3 s, beside the tiny run
def test_regularization_measures_what_the_arms_are(tiny_run, tmp_path, capsys):
    """Variants that are made as an arm of the run is are this arm, to the last digit."""
    out = tmp_path / "regularization-tiny.json"
    regularization.main([str(tiny_run.recipe), str(tiny_run.run), "--train", "--out", str(out)])
    result = written(out)
    names = list(result["variants"])
    assert {f"trained with {name}: snapshots, stack" for name in regularization.TRAINED} <= set(names)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == names
    recipe = load_recipe(tiny_run.recipe)
    problem = build_problem(recipe)
    found = measure(problem.full)
    base = IsotropicGaussian(problem.shape, found["mean"], found["sigma_data"])
    same = {
        "views_only": "views only",
        "unregularized": "all residual: last weights, mean",
        "bootdiff": "all of these, what is visible, Gaussians: bootdiff",
        "full_only": "full-only, its Gaussian too: the arm",
    }
    arms = {arm: load_arm(tiny_run.run, arm, "cpu")[1] for arm in same}
    losses = tabulate(sample_losses(arms, in_memory(problem.test), list(recipe.levels), base, draws=2, seed=7),
                      list(recipe.levels))  # fmt: skip
    for arm, name in same.items():
        assert result["variants"][name]["mean"] == pytest.approx(losses[arm]["mean"], rel=1e-6), name
    # They differ in what is trained, so the losses do.
    trained = [result["variants"][f"trained with {name}: snapshots, stack"]["mean"] for name in regularization.TRAINED]
    assert len({round(x, 9) for x in trained}) >= 3
    assert result["command"].startswith(f"python -m experiments.scripts.regularization {tiny_run.recipe}")


def test_what_is_trained_are_settings_of_the_residual(tiny_run):
    residual = load_recipe(tiny_run.recipe).residual
    for settings in regularization.TRAINED.values():
        for key, value in settings.items():
            assert getattr(residual, key) != value


def test_step_time_measures_every_backbone(tiny_run, tmp_path, capsys, monkeypatch):
    calls = []

    def here(call, cwd):
        """The process that is weighed, in this one: it prints bytes and nothing else."""
        calls.append(call[1:3])
        step_time.main(call[3:])
        return capsys.readouterr().out.encode()

    monkeypatch.setattr(subprocess, "check_output", here)
    out = tmp_path / "step-time.json"
    step_time.main([str(tiny_run.recipe), "--steps", "2", "--out", str(out)])
    row = written(out)["nets"]["local"]
    assert calls == [["-m", "experiments.scripts.step_time"]] * 2
    assert row["memory_ratio"] == row["peak_memory"]["residual"] / row["peak_memory"]["full"]
    assert min(row["peak_memory"].values()) > 2**20
    assert row["ratio_quartiles"][0] <= row["ratio_median"] <= row["ratio_quartiles"][1]


def test_step_time_is_the_ratio_of_steps_in_turn(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(step_time, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    order = []

    def step(name, seconds):
        def take(t):
            order.append((name, t))
            clock[0] += seconds * (1 + t % 2)

        return take

    row = step_time.timed(step("full", 2.0), step("residual", 3.0), steps=4)
    assert order == [(name, t) for t in range(7) for name in ("full", "residual")]
    assert row["ratio_median"] == 1.5
    assert row["full_seconds"] == 3.0


def test_speed_of_sampling_is_of_every_network(tiny_run, tmp_path, capsys):
    out = tmp_path / "sampling.json"
    speed.main(["sampling", str(tiny_run.run), "--count", "2", "--rounds", "2", "--out", str(out)])
    result = written(out)
    assert list(result["seconds"]) == ["bootdiff", "full_only", "full-only's network 1"]
    assert all(len(times) == 2 for times in result["seconds"].values())
    assert result["bootdiff_against"]["bootdiff"]["median"] == 1
    assert result["what"] == "sampling"
    assert capsys.readouterr().out.count("ms per sample") == 3


def test_sampling_without_a_run_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(["sampling"])
    assert stopped.value.code == 2
    assert "sampling needs a run" in capsys.readouterr().err


def test_speed_of_the_three_loops(tmp_path):
    out = tmp_path / "loop.json"
    speed.main(["loop", "--net", "digits", "--steps", "6", "--out", str(out)])
    result = written(out)
    assert list(result["seconds_per_step"]) == ["bare", "bootdiff", "example"]
    assert all(len(times) == 4 and min(times) > 0 for times in result["seconds_per_step"].values())
    assert result["speed_of_bare"]["bare"]["median"] == 1


def test_speed_of_resuming(tmp_path):
    out = tmp_path / "resume.json"
    speed.main(["resume", "--net", "digits", "--steps", "4", "--out", str(out)])
    took = written(out)["seconds_to_first_step"]
    assert list(took) == ["start", "resume"]
    assert all(0 < seconds < 60 for seconds in took.values())


def test_speed_of_two_processes_is_the_ratio_of_their_steps(tmp_path, monkeypatch):
    per_step = {"1": "0.30", "2": "0.20"}
    calls = []

    def launched(call, **how):
        calls.append(call)
        processes = next(part for part in call if part.startswith("--nproc_per_node")).split("=")[1]
        return SimpleNamespace(stdout=f"a line before\nseconds per step: {per_step[processes]}\n")

    monkeypatch.setattr(subprocess, "run", launched)
    out = tmp_path / "processes.json"
    speed.main(["processes", "--net", "digits", "--steps", "6", "--rounds", "2", "--out", str(out)])
    result = written(out)
    assert result["seconds_per_step"] == {"1": [0.3, 0.3], "2": [0.2, 0.2]}
    assert result["speedup"]["median"] == pytest.approx(1.5)
    assert [call[6:8] for call in calls] == [["experiments.scripts.speed", "worker"]] * 4


def test_a_worker_prints_seconds_per_step(tmp_path, capsys):
    speed.main(["worker", "--net", "digits", "--steps", "6", "--folder", str(tmp_path / "run")])
    words = capsys.readouterr().out.split("seconds per step:")
    assert 0 < float(words[1]) < 60


@pytest.mark.slow
def test_memory_is_that_of_a_separate_process(tiny_run):
    assert step_time.peak_memory(tiny_run.recipe, "residual", "local") > 2**26


@pytest.mark.slow
def test_two_processes_are_launched(tmp_path):
    out = tmp_path / "processes.json"
    speed.main(["processes", "--net", "digits", "--steps", "6", "--rounds", "1", "--out", str(out)])
    times = written(out)["seconds_per_step"]
    assert times["1"][0] > 0
    assert times["2"][0] > 0


def test_loops_take_steps_in_turn():
    """One step at a time, each loop once a round; who is done is not waited for."""
    turns, order, running = speed.Turns(["a", "b", "c"]), [], []

    def loop(name, steps, note):
        for _, _ in zip(range(steps), note(iter(range(100))), strict=False):
            running.append(name)
            time.sleep(0.001)
            assert running == [name]
            order.append(name)
            running.clear()

    threads = [threading.Thread(target=turns.run, args=(n, loop, n, s)) for n, s in (("a", 6), ("b", 6), ("c", 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert {name: order.count(name) for name in "abc"} == {"a": 6, "b": 6, "c": 3}
    assert all(sorted(order[i : i + 3]) == ["a", "b", "c"] for i in (0, 3, 6))
