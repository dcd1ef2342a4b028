"""Which snapshots are kept for the noise levels."""

from __future__ import annotations

import itertools

import pytest
import torch

from bootdiff.method.snapshots import fewest

LOSSES = torch.tensor([[1.0, 5.0, 9.0], [3.0, 2.0, 4.0], [9.0, 8.0, 1.0], [2.0, 9.0, 3.0]])
STEPS = [10, 20, 30, 40]


def test_every_level_has_its_best_where_all_may_stay():
    found = fewest(LOSSES, STEPS, 4)
    assert found == {"steps": [10, 20, 30], "choice": [0, 1, 2], "loss": pytest.approx(4 / 3), "per_level": [1, 2, 1]}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_ones_that_are_missed_least_are_given_up(most):
    found = fewest(LOSSES, STEPS, most)
    assert len(found["steps"]) <= most
    best = min(LOSSES[list(kept)].amin(0).mean() for kept in itertools.combinations(range(4), most))
    assert found["loss"] == pytest.approx(float(best))
    for level, k in enumerate(found["choice"]):
        assert float(LOSSES[STEPS.index(found["steps"][k]), level]) == found["per_level"][level]
