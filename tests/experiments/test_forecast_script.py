"""experiments.scripts.forecast: forecasts against results, from those committed and for a tiny run."""

from __future__ import annotations

import json
import shutil

import pytest

from bootdiff.recipe.schema import load_recipe
from experiments.scripts import forecast
from experiments.scripts.results import RESULTS, ROOT


@pytest.mark.parametrize("name", forecast.NAMES)
def test_every_recipe_is_where_it_is_looked_for(name):
    assert load_recipe(forecast.recipe_file(name)).views


@pytest.mark.slow  # a tiny run is trained for it: 5 s
def test_a_recipe_is_forecast_once(tiny_run, tmp_path, monkeypatch):
    out = tmp_path / "forecast" / "tiny-seed-0.json"
    found = forecast.forecast_recipe(tiny_run.recipe, 0, tiny_run.run, out)
    assert (found["recipe"], found["seed"]) == ("tiny", 0)
    assert found["cpu_seconds"] > 0
    assert set(found["forecast"]["views"]) == {"thumbnails", "halves"}
    assert found["screening"] == json.loads((tiny_run.run / "stages" / "screening" / "done.json").read_text())["value"]
    assert json.loads(out.read_text())["forecast"]["levels"] == [0.2, 0.8, 3.2]
    monkeypatch.setattr("bootdiff.recipe.schema.load_recipe", None)
    assert forecast.forecast_recipe(tiny_run.recipe, 0, tiny_run.run, out)["screening"] == found["screening"]


@pytest.mark.slow  # as above
def test_a_tiny_run_is_compared_with_its_forecast(tiny_run, tmp_path):
    metrics = json.loads((tiny_run.run / "metrics.json").read_text())
    found = forecast.forecast_recipe(tiny_run.recipe, 0, tiny_run.run, tmp_path / "f.json")
    row = forecast.compare("tiny", [(found, metrics)])
    losses = metrics["holdout_loss"]
    gain = [
        losses["full_only"]["per_level"][s]["mean"] - losses["bootdiff"]["per_level"][s]["mean"] for s in row["levels"]
    ]
    assert row["measured"] == pytest.approx(gain, abs=1e-9)
    assert row["views"]["halves"]["screening"] == [values[1] for values in found["screening"]["values"]]
    assert row["full_only_forecast"] == found["forecast"]["full_only"]
    tables = forecast.tables([row])
    assert "| tiny | thumbnails | " in tables["forecast"]
    assert tables["forecast-levels"].splitlines()[0] == "| **tiny** | 0.2 | 0.8 | 3.2 |"


def test_a_call_writes_comparison_tables_and_figure(tmp_path, capsys):
    """From the committed results, without training or forecasting anything: what is committed comes out."""
    results, root = tmp_path / "results", tmp_path / "root"
    (root / "docs" / "theory").mkdir(parents=True)
    for name in (*forecast.NAMES, "forecast"):
        shutil.copytree(RESULTS / name, results / name)
    (results / "forecast" / "comparison.json").unlink()
    (root / "README.md").write_text("nothing to fill in\n")
    (root / "docs" / "theory.md").write_text("before\n<!-- table forecast -->\nold\n<!-- end -->\nafter\n")
    forecast.main(["--runs", str(tmp_path / "none")], results, root)
    made = json.loads((results / "forecast" / "comparison.json").read_text())
    committed = json.loads((RESULTS / "forecast" / "comparison.json").read_text())
    assert [row["recipe"] for row in made] == list(forecast.NAMES)
    for ours, theirs in zip(made, committed, strict=True):
        assert ours["measured"] == pytest.approx(theirs["measured"], abs=1e-12)
        assert ours["forecast"] == pytest.approx(theirs["forecast"], abs=1e-12)
    page = (root / "docs" / "theory.md").read_text()
    assert page == f"before\n<!-- table forecast -->\n\n{forecast.tables(made)['forecast']}\n\n<!-- end -->\nafter\n"
    assert forecast.tables(made) == forecast.tables(committed)
    assert (root / "docs" / "theory" / "forecast.svg").stat().st_size > 1000
    assert "| digits | thumbnails | " in capsys.readouterr().out
    assert (ROOT / "docs" / "theory" / "forecast.svg").is_file()
