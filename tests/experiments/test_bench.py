"""`bootdiff bench`: runs, budgets in minutes, tuning, the page."""

from __future__ import annotations

import json

import pytest

from cli_calls import call, refused
from experiments.benchmark import benchmarks, command
from experiments.benchmark.runs import tune
from tiny_benchmark import tiny


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the tiny benchmark's data; the benchmark is known by its name."""
    monkeypatch.setitem(benchmarks.BENCHMARKS, "tiny", tiny(tmp_path, flops=4e8))
    return tmp_path


def options(place):
    return ["--out", place / "results", "--runs", place / "runs", "--data", place, "--n-full", "20"]


def results(place):
    return sorted(str(p.relative_to(place / "results" / "tiny")) for p in (place / "results" / "tiny").glob("*/*.json"))


@pytest.mark.slow  # eight trainings, of which most is opening and closing them: 7 s
@pytest.mark.timeout(600)
def test_results_are_not_made_twice_and_the_page_is_written(place, monkeypatch):
    monkeypatch.setitem(benchmarks.BENCHMARKS, "tiny", tiny(place, flops=1e8))
    arms = ["--arms", "full_only naive_mix bootdiff oracle", "--views", "noise"]
    out = call("bench", "tiny", *options(place), *arms, "--seeds", "0 1").stdout
    assert "8 of 8 runs are done" in out
    names = ["full_only", "oracle"]
    assert results(place) == sorted(
        [f"none/{a}-n20-seed{s}.json" for a in names for s in (0, 1)]
        + [f"noise/{a}-n20-seed{s}.json" for a in ("bootdiff", "naive_mix") for s in (0, 1)]
    )
    kept = {p: p.read_bytes() for p in (place / "results").rglob("*.json")}
    assert "8 of 8" in call("bench", "tiny", *options(place), *arms, "--seeds", "0 1").stdout
    assert {p: p.read_bytes() for p in (place / "results").rglob("*.json")} == kept

    docs = place / "docs"
    docs.mkdir()
    (docs / "benchmarks.md").write_text("# Benchmarks\n")
    assert call("bench", "tiny", "--table", "--out", place / "results", "--docs", docs).exit_code == 0
    page = (docs / "benchmarks.md").read_text()
    assert page.startswith("# Benchmarks\n")
    for part in ("noise, 20 %", "naive-mix", "verdict", "training FLOPs", "noise/*-n{20}-seed{0,1}.json"):
        assert part in page
    assert (docs / "images" / "bench-tiny-n20.png").is_file()
    call("bench", "tiny", "--table", "--out", place / "results", "--docs", docs)
    assert (docs / "benchmarks.md").read_text() == page


@pytest.mark.slow  # trains and draws: 6 s
def test_samples_are_measured_when_asked_for(place):
    how = [*options(place), "--arms", "full_only cascade", "--views", "thumbnails2"]
    call("bench", "tiny", *how)
    trained = {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("final.safetensors")}
    assert "2 of 2" in call("bench", "tiny", *how, "--samples", "8").stdout
    found = [json.loads((place / "results" / "tiny" / p).read_text())["samples"] for p in results(place)]
    assert [q["count"] for q in found] == [8, 8]
    assert found[0]["features"] == found[1]["features"]
    assert {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("final.safetensors")} == trained


def test_a_training_stops_when_the_minutes_are_spent_and_goes_on(place, monkeypatch):
    how = ["--arms", "naive_mix", "--views", "noise"]
    call("bench", "tiny", *options(place), *how)
    (path,) = (place / "results" / "tiny" / "noise").glob("*.json")
    whole = json.loads(path.read_text())
    path.unlink()
    other = [*options(place), *how, "--runs", place / "again"]
    # the time comes when the first training begins
    monkeypatch.setattr(command, "_past", lambda end: end is not None and (place / "again").exists())
    result = call("bench", "tiny", *other, "--budget", "5")
    assert result.exit_code == 0
    assert "0 of 1 runs are done" in result.stdout
    assert not path.exists()
    stage = next((place / "again").rglob("naive_mix-local"))
    assert (stage / "checkpoint.safetensors").is_file()
    assert "1 of 1" in call("bench", "tiny", *other).stdout
    found = json.loads(path.read_text())
    assert found["holdout_loss"] == whole["holdout_loss"]
    assert found["ledger"]["stages"]["naive_mix-local"]["sessions"] == 2


def test_no_minutes_left_is_no_failure(place):
    result = call("bench", "tiny", *options(place), "--arms", "full_only", "--budget", "0")
    assert result.exit_code == 0
    assert "0 of 1 runs are done; run the same command again for the other 1" in result.stdout.replace("\n", " ")
    assert not (place / "results").exists()


def test_a_method_without_use_for_the_views_has_no_result(place):
    assert "no use" in call("bench", "tiny", *options(place), "--arms", "cascade", "--views", "noise").stdout
    assert not (place / "results").exists()


@pytest.mark.slow  # nine trainings: 4 s
def test_tuning_tries_every_setting_and_the_choice_is_used_for_such_data(place):
    how = [*options(place), "--arms", "naive_mix", "--views", "noise"]
    call("bench", "tiny", *how, "--seeds", "0")
    call("bench", "tiny", *how, "--seeds", "5", "--tune")
    file = place / "results" / "tiny" / "tuned.json"
    ((n, tuned),) = json.loads(file.read_text())["naive_mix"]["noise"].items()
    assert n == "20"
    assert len(tuned["losses"]) == 3
    assert tuned["losses"][tuned["trial"]] == min(tuned["losses"])
    assert tuned["seeds"] == [5]
    (path,) = (place / "results" / "tiny" / "noise").glob("*.json")
    (place / "docs").mkdir()
    (place / "docs" / "benchmarks.md").write_text("# Benchmarks\n")
    call("bench", "tiny", "--table", "--out", place / "results", "--docs", place / "docs")
    assert "nets narrow" in (place / "docs" / "benchmarks.md").read_text()
    stale = next((place / "results" / "tiny" / "tuning" / "noise").glob("*trial2.json"))
    stale.write_text(json.dumps({**json.loads(stale.read_text()), "settings": {"share": 0.9}}))
    assert tune(benchmarks.BENCHMARKS["tiny"], place / "results") == {}  # not all of today's settings were tried
    for best in (2, 1):
        file.write_text(json.dumps({"naive_mix": {"noise": {"20": {**tuned, "trial": best}, "10": {"trial": 0}}}}))
        call("bench", "tiny", *how, "--seeds", "0")  # the result of other settings is made again
        assert json.loads(path.read_text())["trial"] == best
    old = [*tuned["settings"][:2], {"share": 0.9}]
    file.write_text(json.dumps({"naive_mix": {"noise": {"20": {**tuned, "trial": 1, "settings": old}}}}))
    call("bench", "tiny", *how, "--seeds", "0")
    assert json.loads(path.read_text())["trial"] == 0  # what was tuned among other settings does not count


def test_what_is_not_there_is_named(place):
    assert "known: full_only, naive_mix" in refused("bench", "tiny", *options(place), "--arms", "best").replace(
        "\n", " "
    )
    assert "known: thumbnails2" in refused("bench", "tiny", *options(place), "--views", "gold")
    assert "numbers" in refused("bench", "tiny", *options(place), "--seeds", "one")
    assert "known: mnist" in refused("bench", "imagenet")
    assert "experiments.scripts.prepare" in refused(
        "bench", "tiny", *options(place)[:4], "--data", place / "none", "--arms", "full_only"
    )
    assert "make some" in refused("bench", "tiny", "--table", "--docs", "docs", "--out", place / "none")


def test_a_result_of_settings_no_longer_tried_is_made_again(place):
    how = [*options(place), "--arms", "naive_mix", "--views", "noise"]
    call("bench", "tiny", *how)
    (path,) = (place / "results" / "tiny" / "noise").glob("*.json")
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "settings": {"share": 0.9}, "holdout_loss": None}))
    call("bench", "tiny", *how)
    again = json.loads(path.read_text())
    assert (again["settings"], again["holdout_loss"]) == (first["settings"], first["holdout_loss"])
