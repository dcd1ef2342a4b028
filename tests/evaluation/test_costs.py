"""Costs of the arms: made-up ledgers, sums done by hand."""

from __future__ import annotations

import pytest

from bootdiff.evaluation.costs import STAGES, costs, totals
from bootdiff.method.stages import ARMS


def entry(parameters, seconds, memory=100, **more):
    return {
        "parameters": parameters, "steps": 10, "images": 320, "flops_per_step": 7, "flops": 70 * parameters,
        "seconds": seconds, "evaluation_seconds": 0.5, "peak_memory": memory, "device": "cpu", "processes": 1,
    } | more  # fmt: skip


LEDGER = {
    "view-thumbs-unet": entry(1, 1.0, 900),
    "view-thumbs-local": entry(2, 2.0),
    "view-full-length-unet": entry(4, 4.0),  # a view may be named after anything
    "full-unet": entry(8, 8.0),
    "residual-unet": entry(16, 16.0, 500),
    "oracle-unet": entry(32, 32.0),
    "distilled-samples": entry(0, 0.0),
    "distilled-unet": entry(64, 64.0),
}


def test_every_arm_has_its_stages():
    assert set(STAGES) == set(ARMS)


@pytest.mark.parametrize(
    ("arm", "full_experts", "judged", "begun", "parameters"),
    [
        ("full_only", True, True, True, 8),
        ("views_only", True, True, False, 15),
        ("views_only", True, False, True, 7),
        ("unregularized", True, True, False, 31),
        ("unregularized", True, False, False, 23),
        ("unregularized", True, False, True, 31),
        ("bootdiff", True, False, False, 31),
        ("bootdiff", False, True, False, 31),
        ("bootdiff", False, False, True, 31),
        ("bootdiff", False, False, False, 23),
        ("distilled", True, True, True, 95),
        ("oracle", False, False, False, 32),
    ],
)
def test_an_arm_is_the_sum_of_its_stages(arm, full_experts, judged, begun, parameters):
    """Parameters are powers of two, so that a sum tells its terms; seconds are equal to them, FLOPs 70 times that."""
    got = totals(LEDGER, arm, full_experts, judged, begun)
    assert got["parameters"] == got["seconds"] == parameters
    assert got["flops"] == 70 * parameters
    assert got["images"] == 320 * len(got["stages"])
    assert got["evaluation_seconds"] == 0.5 * len(got["stages"])


def test_memory_is_the_largest_not_the_sum():
    assert totals(LEDGER, "bootdiff")["peak_memory"] == 900
    assert totals(LEDGER, "full_only")["peak_memory"] == 100


def test_ratios_are_to_full_only():
    table = costs(LEDGER)
    assert list(table) == list(STAGES)
    assert table["full_only"]["ratio"] == {"parameters": 1, "images": 1, "flops": 1, "seconds": 1}
    assert table["bootdiff"]["ratio"] == {"parameters": 31 / 8, "images": 5, "flops": 31 / 8, "seconds": 31 / 8}


def test_without_residual_networks_the_full_ones_count():
    """All gains are 0: bootdiff is full-only training, and has paid for the views."""
    ledger = {name: entry for name, entry in LEDGER.items() if not name.startswith(("residual", "oracle"))}
    for arm in ("bootdiff", "unregularized"):
        assert totals(ledger, arm, full_experts=False, judged=False, begun=False)["parameters"] == 15
    assert "oracle" not in costs(ledger)


def test_a_missing_stage_is_named():
    with pytest.raises(ValueError, match=r"oracle-\*.*oracle needs.*full-unet"):
        totals({"full-unet": entry(1, 1.0)}, "oracle")
    with pytest.raises(ValueError, match="known: full_only"):
        totals(LEDGER, "best")


def test_a_ledger_without_flops_has_no_ratio_of_them():
    table = costs({"full-unet": entry(1, 1.0, flops=0), "view-a-unet": entry(1, 2.0)})
    assert table["views_only"]["ratio"]["flops"] is None
    assert table["views_only"]["ratio"]["seconds"] == 3


def test_an_unregularized_arm_with_networks_of_its_own_costs_those():
    ledger = LEDGER | {"unregularized-unet": entry(128, 128.0)}
    assert totals(ledger, "unregularized")["parameters"] == 7 + 8 + 128
    assert totals(ledger, "bootdiff")["parameters"] == 31
