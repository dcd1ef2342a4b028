"""`bootdiff theory`: figures, results.json, the page, and the exit code."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from cli_calls import call, refused
from experiments.theory import page
from experiments.theory.claims import Curve, Panel, Result


def made(passed):
    panels = [
        Panel("n", "risk", [Curve("full-only", [1, 10], [1, 0.1]), Curve("a / n", [1, 10], [1, 0.1], "dashes")], "xy"),
        Panel("n", "risk", [Curve("full-only", [1, 10], [1, 0.1], "dots")], "x", "sigma = 1"),
    ]

    def experiment(fast=False, done=lambda n, of: None):
        done(1, 1)
        return Result("A < B", "B & C", passed, {"a_b": 0.5}, ["k", "v"], [["x", float("inf")]], panels, ["note"])

    return experiment


def test_theory_writes_everything_and_says_what_holds(tmp_path):
    result = call("theory", "--fast", "--only", 2, "--only", 7, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "holds  2. Unregularized residual" in result.stdout
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["passed"] is True
    assert report["fast"] is True
    assert set(report["experiments"]) == {"2", "7"}
    for entry in report["experiments"].values():
        svg = tmp_path / entry["figure"]
        assert ET.parse(svg).getroot().tag.endswith("svg")
        with Image.open(svg.with_suffix(".png")) as picture:
            assert min(picture.size) > 300
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    # self-contained: nothing is fetched
    assert not re.search(r'(src|rel)="', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page)) <= set(ids)


@pytest.mark.slow  # all claims again, with one that fails: 3 s
def test_a_claim_that_fails_is_an_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EXPERIMENTS", {1: made(True), 2: made(False)})
    result = call("theory", "--out", tmp_path)
    assert result.exit_code == 1
    assert "FAILS  2. A < B" in result.stdout
    text = (tmp_path / "index.html").read_text()
    assert text.count("badge fails") == 2
    assert "A &lt; B" in text
    assert json.loads((tmp_path / "results.json").read_text())["passed"] is False
    assert call("theory", "--only", 1, "--out", tmp_path).exit_code == 0


def test_an_unknown_experiment_is_refused():
    assert "there are the experiments 1, 2" in refused("theory", "--only", 77)


def test_figures_are_the_same_every_time():
    result = made(True)()
    assert page.draw(result) == page.draw(result)


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "none"), (float("inf"), "∞"), (1234567.0, "1.235e+06")])
def test_values_are_formatted_for_people(value, text):
    assert page.formatted(value) == text
