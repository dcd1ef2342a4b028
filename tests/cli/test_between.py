"""What is computed between trainings is priced: by counting it."""

from __future__ import annotations

import shutil

import pytest

from bootdiff.cli import costs
from bootdiff.cli.between import Between, between
from bootdiff.method.plan import plan
from bootdiff.nets import LocalNet
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import load_recipe_text
from cli_calls import call

RECIPE = """\
simulate: {pool: {path: digits, limit: 600}, full: 30}
full: {holdout: 14}
views:
  halves: {view: {kind: crop, size: [8, 4]}}
backbones:
  local: {kind: local, width: 8, depth: 3}
training: {steps: 250, batch: 16, lr: 0.01, warmup: 0, evaluate_every: 50}
levels: [0.2, 0.8, 3.2]
gains: {screen: 0, prune: 0}
residual: {snapshots: 1}
sampling: {steps: 10}
device: cpu
"""


@pytest.mark.slow  # trains what it counts: 10 s; by arithmetic below
def test_answers_are_those_that_networks_give(tmp_path, monkeypatch):
    """In units of one answer of the network; a view of three placements takes three of half the size. At most as
    many, since networks without weight are not asked, and not much fewer."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run").exit_code == 0
    for stage in ("screening", "gains", "full-stack", "full-shift", "residual-stack", "residual-shift"):
        shutil.rmtree(tmp_path / "run" / "stages" / stage)
    given = {8: 0, 4: 0}
    forward = LocalNet.forward

    def counted(self, x, *args, **kwargs):
        given[x.shape[-1]] += len(x)
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(LocalNet, "forward", counted)
    assert call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run").exit_code == 0

    recipe = load_recipe_text(RECIPE)
    problem = build_problem(recipe)
    settings = method_settings(recipe, problem.shape)
    for side, priced in ((8, ("full", "visible", "residual")), (4, ("view-halves",))):
        answers = {f"{part}-local": float(part in priced) for part in ("full", "visible", "residual", "view-halves")}
        said = between(settings, problem, answers, ["full_only", "bootdiff"])
        assert 0.5 * sum(row.seconds for row in said) < given[side] <= sum(row.seconds for row in said), (side, said)


def test_each_arm_takes_what_it_needs():
    recipe = load_recipe_text(RECIPE)
    problem = build_problem(recipe)
    settings = method_settings(recipe, problem.shape)
    answers = {"full-local": 1.0, "oracle-local": 1.0, "view-halves-local": 1.0}
    rows = between(settings, problem, answers, ["full_only", "bootdiff", "oracle"])
    assert {row.name: set(row.arms) for row in rows} == {
        "screening, gains": {"bootdiff"}, "weights of full-only": {"full_only", "bootdiff"},
        "weights of bootdiff": {"bootdiff"}, "weights of oracle": {"oracle"},
    }  # fmt: skip
    # 16 full samples and 14 held out, three levels, four draws, three placements
    assert rows[0].seconds == 3 * 4 * (14 * (3 + 1) + 30 * 3)
    assert [row.name for row in between(settings, problem, answers, ["oracle"])] == ["weights of oracle"]


def test_sums_have_it():
    recipe = load_recipe_text(RECIPE)
    problem = build_problem(recipe)
    settings = method_settings(recipe, problem.shape)
    needed = plan(settings, problem, ["bootdiff"])
    names = needed.names("bootdiff")
    rows = [costs.Cost(name, 10, 100, 8, 10**15, 10**9, 1.0, 600.0) for name in names]
    others = [Between("gains", 60.0, ["bootdiff"]), Between("oracle", 7.0, ["oracle"])]
    said = " ".join(map(str, costs.cost_table(rows, others, needed, ["bootdiff"])))
    assert f"Training takes about {len(names) * 10 + 1}:00 (fit), " in said
