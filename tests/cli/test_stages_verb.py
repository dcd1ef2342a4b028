"""Networks trained one by one, as jobs of their own, are those of one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from bootdiff.cli.stages import _short
from bootdiff.errors import BootdiffError
from bootdiff.method.plan import parents_of
from bootdiff.method.stages import Bootstrap
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.training.device import make_accelerator
from bootdiff.training.run import Run
from cli_calls import TINY, call, refused

ROOT = Path(__file__).parents[2]
SMALL = TINY.replace("steps: 20", "steps: 2").replace("evaluate_every: 10", "evaluate_every: 1")
SCRATCH = SMALL.replace("factor: 2}}", "factor: 2}, start: scratch}").replace(
    "offset: [0, 0]}}", "offset: [0, 0]}, start: scratch}"
)
NESTED = SCRATCH.replace(
    "  halves: {view: {kind: crop, size: [8, 4], offset: [0, 0]}, start: scratch}\n",
    "  halves:\n    view: {kind: crop, size: [8, 4], offset: [0, 0]}\n"
    "    views: {small: {view: {kind: downsample, factor: 2}}}\n",
)
RECIPES = {"best": SMALL, "scratch": SCRATCH, "nested": NESTED}


def weights(run):
    return {
        path.parent.name: path.read_bytes()
        for path in (run / "stages").glob("*/final.safetensors")
        if ".start-" not in path.parent.name
    }


def planned(text):
    recipe = load_recipe_text(text)
    problem = build_problem(recipe)
    settings = method_settings(recipe, problem.shape)
    return settings, problem


# 4 s each; jobs under "best" are made in the next test but one.
@pytest.mark.parametrize("name", ["scratch", *(pytest.param(n, marks=pytest.mark.slow) for n in ("best", "nested"))])
def test_what_must_be_there_before_a_network_is_all_that_its_training_needs(name, tmp_path):
    """Each is trained in a run of its own, which sees those of its parents and no others."""
    settings, problem = planned(RECIPES[name])
    accelerator = make_accelerator("cpu", "no")
    arms = ["full_only", "unregularized", "bootdiff", "distilled", "oracle"]
    every = Bootstrap(settings, problem, None, accelerator).plan(arms).trainings
    parents_by_name = {stage.name: [p.name for p in parents_of(settings, problem, stage)] for stage in every}
    order = TopologicalSorter(parents_by_name).static_order()
    for stage in [next(s for s in every if s.name == name) for name in order]:
        parents = parents_by_name[stage.name]
        with Run.open(tmp_path / stage.name, None) as run:
            boot = Bootstrap(
                settings, problem, run, accelerator, log=lambda line: None,
                reuse=[tmp_path / parent for parent in parents], only=frozenset([stage.name]),
            )  # fmt: skip
            boot.make(stage)
            assert run.stage(stage.name).done
    if name == "scratch":
        assert all(parents_of(settings, problem, stage) == [] for stage in every if stage.part == "view")


def test_a_network_whose_parents_are_not_there_is_refused_and_trains_nothing_else(tmp_path):
    settings, problem = planned(SMALL)
    accelerator = make_accelerator("cpu", "no")
    with Run.open(tmp_path / "run", None) as run:
        boot = Bootstrap(settings, problem, run, accelerator, only=frozenset(["residual-local"]))
        stage = next(s for s in boot.plan(["bootdiff"]).trainings if s.part == "residual")
        with pytest.raises(BootdiffError, match=r"residual-local: is made of .*, which is not there yet"):
            boot.make(stage)
        assert weights(tmp_path / "run") == {}


@pytest.mark.slow  # 5 s; tests/cli/test_jobs.py trains two at once
def test_jobs_make_the_same_run_as_one_command(tmp_path):
    (tmp_path / "r.yaml").write_text(SMALL)
    one, jobs = tmp_path / "one", tmp_path / "jobs"
    assert call("fit", tmp_path / "r.yaml", "--out", one).exit_code == 0
    listed = json.loads(call("stages", tmp_path / "r.yaml", "--json").stdout)
    names = [row["stage"] for row in listed]
    assert names == ["full-local", "visible-local", "view-thumbnails-local", "view-halves-local", "residual-local"]
    assert listed[0]["made_of"] == []
    assert listed[-1]["made_of"] == names[:-1]
    assert all(row["flops"] > 0 and row["memory"] > 0 and row["steps"] == 2 for row in listed)
    for name in names:
        said = call("fit", tmp_path / "r.yaml", "--out", jobs, "--stage", name)
        assert said.exit_code == 0, said.output
    assert not jobs.exists()
    said = call("fit", tmp_path / "r.yaml", "--out", jobs)
    assert said.exit_code == 0
    assert sum("taken from" in line for line in said.output.splitlines()) >= len(names)
    assert weights(jobs) == weights(one)
    assert set(weights(one)) >= set(names)
    made = [{p.name: p.read_bytes() for p in (run / "bootdiff").rglob("*") if p.is_file()} for run in (one, jobs)]
    assert made[0]
    assert made[0] == made[1]


def test_jobs_go_on_where_they_were_and_refuse_what_is_wrong(tmp_path):
    (tmp_path / "r.yaml").write_text(SMALL)
    out = ["--out", tmp_path / "run"]
    assert "is made of full-local" in refused("fit", tmp_path / "r.yaml", *out, "--stage", "view-halves-local")
    assert "no network is called so; known: full-local, " in refused("fit", tmp_path / "r.yaml", *out, "--stage", "x-y")
    both = ["--stage", "full-local", "--arm", "full-only"]
    assert "give one of the two" in refused("fit", tmp_path / "r.yaml", *out, *both)
    assert call("fit", tmp_path / "r.yaml", *out, "--stage", "full-local").exit_code == 0
    final = tmp_path / "run.jobs" / "full-local" / "stages" / "full-local" / "final.safetensors"
    before = final.stat().st_mtime_ns
    assert call("fit", tmp_path / "r.yaml", *out, "--stage", "full-local").exit_code == 0
    assert final.stat().st_mtime_ns == before


def test_the_table_says_what_each_is_made_of(tmp_path):
    (tmp_path / "r.yaml").write_text(SCRATCH)
    said = call("stages", tmp_path / "r.yaml", "--arm", "bootdiff")
    assert said.exit_code == 0
    row = next(line for line in said.output.splitlines() if line.split()[:1] == ["view-halves-local"])
    assert row.split()[1] == "-"


def test_many_parents_are_counted_where_they_are_the_tables_first():
    rows = [{"stage": name} for name in "abcdefgh"]
    assert _short(list("abcdef"), rows) == "the first 6"
    assert _short(list("abcdeg"), rows) == "a, b, c, d, e, g"
    assert _short(list("ab"), rows) == "a, b"
    assert _short([], rows) == "-"


@pytest.mark.slow  # four commands, each of which imports torch: 20 s
@pytest.mark.timeout(400)
def test_the_example_for_slurm_submits_them_in_order(tmp_path):
    """With an sbatch that runs what it is given at once, and refuses to run it before its parents."""
    bin_folder, log = tmp_path / "bin", tmp_path / "log"
    bin_folder.mkdir()
    python = sys.executable
    listed = [{"stage": "full-local", "made_of": []}, {"stage": "visible-local", "made_of": ["full-local"]}]
    (tmp_path / "stages.json").write_text(json.dumps(listed))
    (bin_folder / "bootdiff").write_text(
        f'#!/bin/sh\nif [ $1 = stages ]; then cat stages.json; else exec {python} -m bootdiff "$@"; fi\n'
    )
    (bin_folder / "sbatch").write_text(
        f"""#!{python}
import subprocess, sys
from pathlib import Path
log = Path({str(log)!r})
done = log.read_text().splitlines() if log.exists() else []
after = [word for word in sys.argv if word.startswith("--dependency=")]
needed = after[0].partition("afterok:")[2].split(":") if after else []
assert all(job in [line.split()[0] for line in done] for job in needed), needed
assert "--time=1" in sys.argv
subprocess.run(sys.argv[-1], shell=True, check=True, stdout=subprocess.DEVNULL)
job = str(100 + len(done))
with log.open("a") as file:
    file.write(job + " " + ",".join(needed) + " " + sys.argv[-1] + chr(10))
print(job + ";cluster")
"""
    )
    for path in bin_folder.iterdir():
        path.chmod(0o755)
    (tmp_path / "r.yaml").write_text(SMALL)
    packages = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": packages}
    command = [python, ROOT / "examples/cluster/slurm.py", "r.yaml", "--out", "run", "--", "--time=1"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert [line.split()[1] for line in log.read_text().replace("  ", " - ").splitlines()] == ["-", "100", "100,101"]
    assert (tmp_path / "run" / "bootdiff" / "model.json").is_file()
    assert (tmp_path / "run.jobs" / "visible-local" / "stages" / "visible-local" / "done.json").is_file()
