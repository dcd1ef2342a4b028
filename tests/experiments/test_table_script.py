"""experiments.scripts.table: the tables of the documents are those of the results that are there."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from experiments.benchmark.benchmarks import benchmark
from experiments.benchmark.page import write_page
from experiments.scripts import table as script
from experiments.scripts.results import RESULTS, ROOT, command, documents, insert, outdated, write_result

BENCHES = ("mnist16", "cats16", "cats32", "mnist")


def run(name):
    return json.loads((RESULTS / name / "seed-0.json").read_text())


@pytest.mark.parametrize(
    ("name", "kind"), [("traffic", "video"), ("radar-clips", "video"), ("ecg", "signal"), ("digits", "image")]
)
def test_kind_is_that_of_the_samples(name, kind):
    said = script.table([run(name)])
    assert f" test {kind}s each" in said or f"held-out {kind}s each" in said


def test_a_gap_that_is_none_is_not_told():
    ecg = run("ecg")
    assert ecg["gap_closed"]["mean"] is None
    assert "Share of the gap" not in script.table([ecg])


def test_both_rulers_are_told_where_there_are_samples():
    digits = run("digits")
    text = script.table([digits])
    head, *lines = (line for line in text.splitlines() if line.startswith("|"))
    at = [cell.strip() for cell in head.split("|")]
    (ours,) = ([cell.strip("* ") for cell in line.split("|")] for line in lines if "**bootdiff**" in line)
    quality, loss = digits["samples"]["bootdiff"], digits["holdout_loss"]["bootdiff"]
    assert at.index("loss") < at.index("sample-weighted loss") < at.index("FID")
    assert ours[at.index("FID")] == f"{quality['fid']:.2f}"
    assert ours[at.index("copies")] == "0.0 %"
    weights = {"0.05": 4, "0.1": 9, "0.2": 9, "0.4": 24.5, "0.8": 24.5, "1.6": 75, "3.2": 10.5, "6.4": 10.5}
    weighted = sum(w * loss["per_level"][s]["mean"] for s, w in weights.items()) / sum(weights.values())
    assert ours[at.index("sample-weighted loss")] == f"{weighted:.4f}"
    full, own, oracle = (digits["samples"][arm]["fid"] for arm in ("full_only", "bootdiff", "oracle"))
    assert f"by FID {100 * (full - own) / (full - oracle):.0f} %" in text
    cats = script.table([run("cats32-thumbnails")])
    assert "by FID -." in cats
    assert "| FID |" not in cats


def test_long_range_tells_shared_arms_once():
    both = {"clips": run("radar-clips"), "stills": run("radar-stills")}
    lines = script.long_range(both).splitlines()
    assert sum(line.startswith("| full-only | all |") for line in lines) == 1
    assert sum(line.startswith("| views-only |") for line in lines) == 2
    far = both["stills"]["long_range"]["bootdiff"]["samples"]["mean"]
    assert any(line.startswith(f"| **bootdiff** | **stills** | **{far:.3f} ±") for line in lines)
    assert all(line.count("|") == 6 for line in lines if line.startswith("|"))


def test_together_gives_the_paired_difference():
    clips = run("radar-clips")
    line = next(x for x in script.together({"clips": clips}).splitlines() if x.startswith("| clips |"))
    gain = clips["holdout_loss"]["bootdiff"]["mean"] - clips["holdout_loss"]["full_only"]["mean"]
    assert f"{gain:+.4f} ±" in line


def test_overlay_tells_the_loss_of_the_naive_mix():
    found = json.loads((RESULTS / "traffic" / "overlay-seed-0.json").read_text())
    assert f"{found['naive_mix']['mean']:.4f}" in script.overlay(found)


# --- the documents ----------------------------------------------------------------------------------------------------


def test_no_table_of_the_documents_is_out_of_date():
    """Where this fails: `python -m experiments.scripts.table`."""
    assert [path.name for path in outdated(script.tables())] == []
    assert script.main(["--check"]) == 0


@pytest.mark.parametrize("name", BENCHES)
def test_no_table_of_a_benchmark_is_out_of_date(name, tmp_path, monkeypatch):
    """Where this fails: `bootdiff bench NAME --table`."""
    monkeypatch.chdir(ROOT)  # the page names its results as they are seen from there
    committed = (ROOT / "docs" / "benchmarks.md").read_text()
    (tmp_path / "benchmarks.md").write_text(committed)
    written = write_page(benchmark(name), RESULTS.relative_to(ROOT), tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == committed
    images = {path.name for path in written if path.suffix == ".png"}
    assert images == {path.name for path in (ROOT / "docs" / "images").glob(f"bench-{name}-*.png")}


def test_every_table_of_the_documents_has_something_that_makes_it():
    marked = {name for path in documents() for name in re.findall(r"<!-- table (\S+) -->", path.read_text())}
    assert marked - set(script.tables()) == {f"bench-{name}" for name in BENCHES}


def test_what_documents_call_and_name_is_there():
    text = "\n".join(path.read_text() for path in [*documents(), *(ROOT / "experiments" / "recipes").glob("*.yaml")])
    scripts = set(re.findall(r"experiments\.scripts\.(\w+)", text))
    others = {path.stem for path in (ROOT / "experiments" / "scripts").glob("*.py")} - {"__init__", "results"}
    assert scripts == others  # each is there, and none that no document needs
    for name in sorted(scripts):
        assert callable(importlib.import_module(f"experiments.scripts.{name}").main)
    paths = set(re.findall(r"(?<!tests/)experiments/(?!data)[\w/-]+\.(?:json|yaml|py)", text))
    assert paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and "NAME" not in path] == []


def test_the_figures_of_speed_are_those_of_the_results():
    raw = {path.stem: json.loads(path.read_text()) for path in (RESULTS / "speed").glob("*.json")}
    cats, digits = raw["loop-cats"]["speed_of_bare"], raw["loop-digits"]["speed_of_bare"]
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for way in ("bootdiff", "example"):
        assert f"| {cats[way]['median']:.2f} / {digits[way]['median']:.2f} times |" in text
    against = [raw[f"sampling-{name}"]["bootdiff_against"] for name in ("cats32", "digits")]
    assert " / ".join(f"{a['full_only']['median']:.2f}" for a in against) + " times as long" in text
    took = raw["resume"]["seconds_to_first_step"]
    assert f"| {took['start']:.2f} s / {took['resume']:.2f} s |" in text
    assert f"| {raw['processes']['speedup']['median']:.2f} times as fast |" in text
    steps = json.loads((RESULTS / "step-time-cats32-thumbnails.json").read_text())["nets"]
    words = " ".join(text.split())
    for net, name in (("UNet", "unet"), ("local net", "local")):
        row = steps[name]
        seconds = f"{net} {1e3 * row['full_seconds']:.0f} ms against {1e3 * row['residual_seconds']:.0f} ms"
        assert f"{seconds}, **{row['ratio_median']:.2f} times**" in words


def test_only_documents_that_change_are_written(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- table x -->\n\nnew\n\n<!-- end -->\n")
    (tmp_path / "docs" / "a.md").write_text("<!-- table x -->\nold\n<!-- end -->\n")
    before = (tmp_path / "README.md").stat().st_mtime_ns
    assert insert({"x": "new"}, tmp_path) == [tmp_path / "docs" / "a.md"]
    assert (tmp_path / "docs" / "a.md").read_text() == (tmp_path / "README.md").read_text()
    assert (tmp_path / "README.md").stat().st_mtime_ns == before
    assert insert({"x": "new"}, tmp_path) == []


def test_a_check_names_what_is_out_of_date_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "a.md"
    page.write_text("<!-- table digits -->\nold\n<!-- end -->\n")
    (tmp_path / "README.md").write_text("")
    assert script.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out == f"{page}: a table is out of date\n"
    assert "old" in page.read_text()
    assert script.main([], tmp_path) == 0
    assert script.main(["--check"], tmp_path) == 0
    assert "| **bootdiff** |" in page.read_text()


def test_commands_of_older_results_are_given_as_they_are_called_today():
    old = (
        "python benchmarks/regularization.py src/bootdiff/recipes/digits.yaml runs/demo --out benchmarks/results/a.json"
    )
    assert script.todays({"command": old})["command"] == (
        "python -m experiments.scripts.regularization experiments/recipes/digits.yaml runs/demo "
        "--out experiments/results/a.json"
    )
    new = {"command": command("overlay", ["measure", "benchmarks/results"])}
    assert script.todays(new) == new


def test_a_result_says_how_it_was_made(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_result(path, "speed", ["loop", "--out", "a b.json"], {"x": 1, "y": float("nan")})
    found = json.loads(path.read_text())
    assert (found["benchmark"], found["x"], found["y"]) == ("speed", 1, None)
    assert found["command"] == "python -m experiments.scripts.speed loop --out 'a b.json'"
    assert set(found["versions"]) >= {"python", "torch", "bootdiff"}
    write_result(None, "speed", [], {})
