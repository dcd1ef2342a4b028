"""docs/evaluation.md: its figures are those of the committed results and of the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from bootdiff.evaluation.sample_weights import SHARES, weighted_mean, weights_at
from bootdiff.noise import LEVELS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
PAGE = " ".join((ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split())


def correlations(rows):
    """Of the plain and of the sample-weighted loss with FID; rows of (loss entry, FID)."""
    fid = [fid for _, fid in rows]
    plain, weighted = [loss["mean"] for loss, _ in rows], [weighted_mean(loss) for loss, _ in rows]
    return [float(np.corrcoef(x, fid)[0, 1]) for x in (plain, weighted)]


def test_the_weights_are_those_of_the_module():
    shares = " | ".join(f"{100 * s:.0f} %" for s in SHARES.values())
    assert f"| {shares} |" in PAGE
    weights = dict(zip(LEVELS, weights_at(LEVELS).tolist(), strict=True))
    each = [{f"{w:.3f}" for s, w in weights.items() if low <= s < high} for low, high in SHARES]
    assert f"| weight of each, of 1 | {' | '.join(next(iter(w)) for w in each)} |" in PAGE
    assert {len(w) for w in each} == {1}


def test_the_test_on_mnist16_is_that_of_the_results():
    results = [json.loads(path.read_text()) for path in (RESULTS / "mnist16").glob("*/*-n2-seed0.json")]
    found = [(r["holdout_loss"], r["samples"]["fid"]) for r in results if r.get("samples")]
    assert len(found) >= 8
    plain, weighted = correlations(found)
    said = f"{len(found)} results with samples): over them the plain loss correlates with FID by {plain:.3f}, the"
    assert f"{said} sample-weighted one by {weighted:.3f}" in PAGE
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
    benchmarks = benchmarks.split("<!-- table bench-mnist16 -->")[1].split("<!-- end -->")[0]
    (shares,) = re.findall(r"\| three \| 2 % \| (\d+ %) \| (\d+ %) \| (\d+ %) \|", benchmarks)
    assert "closes {} of the gap in the one, {} in the other and {} in FID".format(*shares) in PAGE


def test_the_figures_of_digits_are_those_of_the_results():
    runs = [json.loads((RESULTS / "digits" / f"seed-{s}.json").read_text()) for s in (0, 1, 2)]
    both = [correlations([(r["holdout_loss"][a], r["samples"][a]["fid"]) for a in r["samples"]]) for r in runs]
    plain, weighted = (", ".join(f"{row[k]:.2f}" for row in both) for k in (0, 1))
    assert f"{plain} for the plain loss, {weighted} for the weighted one" in PAGE
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
    pattern = r"by the loss (\d+ %).*?by the sample-weighted loss (\d+ %).*?by FID (\d+ %)"
    (line,) = re.findall(pattern, benchmarks.split("<!-- table digits -->")[1].split("<!-- end -->")[0])
    assert f"closes {line[0]} of the gap between full-only and the oracle in the loss, and {line[2]} in FID" in PAGE
    assert f"it still says {line[1]} where FID says {line[2]}" in PAGE
