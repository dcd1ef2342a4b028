"""Fast versions of all experiments: every claim must hold, and the figures must say what the claim says."""

from __future__ import annotations

import math

import pytest

from experiments.theory.claims import EXPERIMENTS
from experiments.theory.claims.base import line_fit, picture_cov, slope


# The bounds over many draws (8) and networks on a mixture (9) take 3 s each.
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] if n in (8, 9) else []) for n in EXPERIMENTS]
)
def test_experiment(number):
    position_conditioned: list[tuple[int, int]] = []
    result = EXPERIMENTS[number](fast=True, done=lambda n, of: position_conditioned.append((n, of)))
    assert result.passed, result.figures
    assert position_conditioned[-1][0] == position_conditioned[-1][1]
    assert [n for n, _ in position_conditioned] == sorted({n for n, _ in position_conditioned})
    assert result.rows
    assert all(len(row) == len(result.columns) for row in result.rows)
    assert all(math.isfinite(v) for v in result.figures.values())
    for panel in result.panels:
        for curve in panel.curves:
            assert len(curve.x) == len(curve.y) > 0
            assert all(map(math.isfinite, curve.x + curve.y)), (panel.y, curve.label)


def test_fits():
    assert slope([1, 10, 100], [5, 0.5, 0.05]) == pytest.approx(-1)
    assert line_fit([1, 2, 3], [2, 4, 6]) == pytest.approx((2, 1))
    assert line_fit([1, 2, 3], [2, 2, 5])[1] < 0.9


def test_picture_cov():
    S = picture_cov((2, 2, 3), length=1.5, channels=0.5, floor=0.0)
    assert S[0, 0] == pytest.approx(1)
    assert S[0, 1] == pytest.approx(math.exp(-1 / 1.5))
    assert S[0, 6] == pytest.approx(0.5)
    assert S[0, 4] == pytest.approx(math.exp(-math.sqrt(2) / 1.5))
