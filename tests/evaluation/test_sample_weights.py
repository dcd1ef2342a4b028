"""The sample-weighted loss: its weights are the measured shares, whatever the levels."""

from __future__ import annotations

import math

import pytest

from bootdiff.evaluation.sample_weights import SAMPLE_WEIGHTS, SHARES, weighted_loss, weighted_mean, weights_at
from bootdiff.noise import LEVELS


def test_each_range_has_its_share_at_the_default_levels():
    weights = dict(zip(LEVELS, weights_at(LEVELS).tolist(), strict=True))
    assert sum(weights.values()) == pytest.approx(1)
    for (low, high), share in SHARES.items():
        found = sum(w for s, w in weights.items() if low <= s < high)
        assert found == pytest.approx(share / sum(SHARES.values()))
    # levels at 0.4 to 3 count most
    assert min(weights[s] for s in (0.4, 0.8, 1.6)) > max(weights[s] for s in (0.05, 0.1, 0.2, 3.2, 6.4))


def test_the_ranges_cover_every_level_once():
    ends = sorted(SHARES)
    assert (ends[0][0], ends[-1][1]) == (0, math.inf)
    assert [a[1] for a in ends[:-1]] == [b[0] for b in ends[1:]]
    assert tuple(SAMPLE_WEIGHTS) == LEVELS


def test_other_levels_are_interpolated_in_ln_sigma():
    between = math.sqrt(0.8 * 1.6)
    a, b = SAMPLE_WEIGHTS[0.8], SAMPLE_WEIGHTS[1.6]
    w = (a + b) / 2
    assert weighted_loss([1, 0], [between, 1.6]) == pytest.approx(w / (w + b))
    # constant beyond the ends
    assert weighted_loss([1, 0], [0.001, 0.05]) == pytest.approx(0.5)
    assert weighted_loss([0, 1], [6.4, 100]) == pytest.approx(0.5)


def test_a_loss_is_weighted_and_a_constant_kept():
    by_hand = (9 * 1 + 24.5 * 2 + 75 * 4) / (9 + 24.5 + 75)
    assert weighted_loss([1, 2, 4], [0.1, 0.4, 1.6]) == pytest.approx(by_hand)
    assert weighted_loss([4, 2, 1], [1.6, 0.4, 0.1]) == pytest.approx(by_hand)  # in any order
    rows = {"0.1": {"mean": 1}, "0.4": {"mean": 2}, "1.6": {"mean": 4}}
    assert weighted_mean({"per_level": rows}) == pytest.approx(by_hand)
    assert weighted_loss([0.3] * 8, LEVELS) == pytest.approx(0.3)
    assert weighted_loss([0.7], [2.0]) == pytest.approx(0.7)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="got 2 of 1 levels"):
        weighted_loss([1, 2], [0.1])
    for levels in ([], [0.0, 1.0], [-1.0]):
        with pytest.raises(ValueError, match="noise levels above 0"):
            weights_at(levels)
