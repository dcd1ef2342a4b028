"""`bootdiff plan`: a forecast from a tiny recipe, its words, its files, and what it refuses."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from PIL import Image

from bootdiff.cli import plan as plan_verb
from bootdiff.cli.plan import _by_recording, files_read
from bootdiff.cli.plan_report import at_most, span, worth
from bootdiff.data.dataset import Span
from bootdiff.forecast.ceiling import Ceiling
from bootdiff.forecast.cross_validation import Gain
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe
from cli_calls import TINY, call, refused


def written(tmp_path, **changes):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(TINY) | changes))
    return recipe


def planned(recipe, *options):
    folder = recipe.parent / "plan"
    result = call("plan", recipe, "--out", folder, *options)
    assert result.exit_code == 0, result.output
    return result.stdout, json.loads((folder / "plan.json").read_text())


def test_a_plan_says_what_views_are_worth_and_cost(tmp_path):
    said, report = planned(written(tmp_path))
    found = report["forecast"]
    assert set(found["views"]) == {"thumbnails", "halves"}
    assert found["levels"] == [0.2, 0.8, 3.2]
    assert found["count"] == 30
    for name, view in found["views"].items():
        assert all(0 <= s <= 1 for s in view["share"])
        assert report["words"][name] in said
        assert ("keep it" in report["words"][name]) == (view["verdict"] == "keep")
        assert view["ceiling"]["nats"] >= 0
        cost = report["costs"][name]
        assert cost["flops"] > 0
        assert cost["seconds"] > 0
        assert cost["ratio"] > 0
    assert report["summary"] in said
    assert {row["name"].split("-")[0] for row in report["trainings"]} == {"full", "visible", "view", "residual"}
    with Image.open(tmp_path / "plan" / "plan.png") as picture:
        assert min(picture.size) > 300
    assert ET.parse(tmp_path / "plan" / "plan.svg").getroot().tag.endswith("svg")
    # nothing was trained
    assert {p.name for p in (tmp_path / "plan").iterdir()} == {"plan.json", "plan.png", "plan.svg"}


def gain(low, middle, high):
    return Gain([0.5], [0.1], [0.01], [True], 0.1, 0.01, [middle], middle, (low, high))


def ceiling(samples, *, beyond=False):
    return Ceiling([0.4], [0.2], 3.0, samples, beyond, 0.5)


@pytest.mark.parametrize(
    ("found", "files", "words"),
    [
        (gain(150, 210, 300), 1872, "about 210 full samples (90 %: 150 to 300)"),
        (gain(1872, 1872, 1872), 1872, "1,872 full samples, one for each file (more is not counted)"),
        (gain(900, 1872, 1872), 1872, "about 1,872 full samples, one for each file (90 %: 900 or more)"),
        (gain(900, 1000, 1872), 1872, "about 1,000 full samples (90 %: 900 or more)"),
        (gain(9.6, 10, 10.4), 1872, "about 10 full samples"),
        (gain(0, 0, 0), 1872, "about 0 full samples"),
    ],
)
def test_an_interval_is_only_said_where_it_is_one(found, files, words):
    assert worth(found, files) == words


def test_a_ceiling_is_said_apart_and_in_words_where_the_estimate_reaches_it():
    assert at_most(gain(150, 210, 300), ceiling(340)).startswith("at most about 340 if ")
    for same in (340, 350, 300):
        assert at_most(gain(150, 340, 400), ceiling(same)).startswith("which is as much as if ")
    assert at_most(gain(150, 6400, 6400), ceiling(6400, beyond=True)).startswith("more than 6,400 if ")


def test_two_views_are_summed_up_together_and_one_is_not_said_twice(tmp_path):
    _, both = planned(written(tmp_path), "--no-costs")
    assert len(both["forecast"]["kept"]) == 2
    assert both["summary"].startswith(f"Together {', '.join(both['forecast']['kept'])} carry ")
    assert " full samples" in both["summary"]
    views = {"halves": yaml.safe_load(TINY)["views"]["halves"]}
    _, one = planned(written(tmp_path, views=views), "--no-costs")
    assert one["summary"].startswith("halves lowers the loss by ")
    for report in (one, both):
        found = report["forecast"]["ceiling"]
        assert 0 < found["share"] <= 1
        assert f"{found['nats']:,.3g} nats" in report["summary"]


def test_what_was_not_read_is_said(tmp_path, monkeypatch):
    recipe = written(tmp_path)
    whole = files_read(build_problem(load_recipe(recipe)))
    assert all(n == of for n, of in whole.values())
    monkeypatch.setattr(plan_verb, "_FILES", 40)
    said, report = planned(recipe, "--no-costs")
    of = whole["thumbnails"][1]
    assert f"Of {of} files of `thumbnails` 40 were read" in said.replace("\n", " ")
    assert report["files"]["thumbnails"] == {"read": 40, "of": of}
    assert report["forecast"]["views"]["thumbnails"]["count"] == 40


def test_a_view_of_other_data_is_told_to_be_left_out(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.uniform(0, 1, (300, 4, 4)).astype("float32"))
    other = {"view": {"kind": "downsample", "factor": 2}, "data": {"path": "noise.npy", "range": [0, 1]}}
    views = yaml.safe_load(TINY)["views"]
    said, report = planned(written(tmp_path, views=views | {"other": other}), "--no-costs")
    assert report["forecast"]["views"]["other"]["verdict"] == "dissimilar"
    assert "other" not in report["forecast"]["kept"]
    assert "leave it out" in report["words"]["other"]
    assert "leave out: dissimilar" in said
    assert report["trainings"] == []


def test_a_recipe_whose_only_view_is_useless_is_told_so(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.uniform(0, 1, (300, 4, 4)).astype("float32"))
    other = {"view": {"kind": "downsample", "factor": 2}, "data": {"path": "noise.npy", "range": [0, 1]}}
    said, report = planned(written(tmp_path, views={"other": other}), "--no-costs")
    assert report["forecast"]["kept"] == []
    assert "train on the full samples alone" in said
    assert (tmp_path / "plan" / "plan.png").is_file()


def test_a_view_that_comes_without_files_is_named(tmp_path, monkeypatch):
    import bootdiff.cli.compare  # noqa: F401 (it would otherwise first be imported, and keep, what is patched here)
    from bootdiff.recipe import build

    build_problem = build.build_problem

    def without(recipe):
        found = build_problem(recipe)
        found.views["halves"].train = None
        return found

    monkeypatch.setattr(build, "build_problem", without)
    said, report = planned(written(tmp_path), "--no-costs")
    assert report["without_files"] == ["halves"]
    assert "`halves` comes with a model" in said


def test_signals_and_vectors_are_planned_too(tmp_path):
    rng = np.random.default_rng(0)
    waves = np.cumsum(rng.normal(size=(240, 16, 1)), 1) / 8
    np.save(tmp_path / "full.npy", waves[:40])
    np.save(tmp_path / "start.npy", waves[40:, :8])
    recipe = tmp_path / "signals.yaml"
    recipe.write_text(
        "full: {path: full.npy, kind: signal, range: [-4, 4], holdout: 8}\n"
        "views: {start: {view: {kind: window, length: 8, offset: 0}, data: {path: start.npy, range: [-4, 4],"
        " kind: signal}}}\n"
        "levels: [0.1, 0.5]\ndevice: cpu\n"
    )
    _, report = planned(recipe, "--no-costs")
    assert report["forecast"]["shape"] == [1, 16]
    assert report["forecast"]["views"]["start"]["fit"][0] == pytest.approx(1, abs=0.3)


def test_levels_that_are_none_are_refused(tmp_path):
    assert "levels" in refused("plan", written(tmp_path, levels=[0.1, math.inf]), "--out", tmp_path / "x")


def test_data_that_never_vary_are_refused(tmp_path):
    np.save(tmp_path / "full.npy", np.full((20, 8, 8), 0.5, "float32"))
    np.save(tmp_path / "small.npy", np.random.default_rng(0).uniform(0, 1, (20, 4, 4)).astype("float32"))
    recipe = tmp_path / "flat.yaml"
    recipe.write_text(
        "full: {path: full.npy, range: [0, 1]}\n"
        "views: {small: {view: {kind: downsample, factor: 2}, data: {path: small.npy, range: [0, 1]}}}\n"
    )
    assert "constant" in refused("plan", recipe, "--out", tmp_path / "x")


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refused("plan", tmp_path / "none.yaml")


def test_runs_of_levels_are_spans():
    levels = [0.1, 0.2, 0.4, 0.8]
    assert span(levels, [True] * 4) == "0.1 to 0.8"
    assert span(levels, [False, True, False, True]) == "0.2 and 0.8"
    assert span(levels, [False] * 4) == "none"


def test_windows_that_overlap_are_never_in_two_folds():
    spans = [Span(r, s, s + 4) for r in (1, 0) for s in range(0, 40, 2)]
    parts = _by_recording(spans)
    assert len(parts) == 5
    for k, part in enumerate(parts):
        for i in part:
            for other in parts[:k]:
                for j in other:
                    a, b = spans[i], spans[j]
                    assert a.recording != b.recording or a.start >= b.stop or b.start >= a.stop
