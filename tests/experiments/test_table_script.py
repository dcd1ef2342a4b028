"""experiments/scripts/table.py: what it says of videos and signals, from the results that are there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("table_script", ROOT / "experiments" / "scripts" / "table.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def run(name):
    return json.loads((ROOT / "experiments" / "results" / name / "seed-0.json").read_text())


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
    found = json.loads((ROOT / "experiments" / "results" / "traffic" / "overlay-seed-0.json").read_text())
    assert f"{found['naive_mix']['mean']:.4f}" in script.overlay(found)
