"""Costs of the arms: made-up ledgers and plans, sums done by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bootdiff.evaluation.costs import costs, totals
from bootdiff.method.plan import ARMS, plan
from bootdiff.method.problem import ViewData
from bootdiff.method.settings import GainSettings, MethodSettings, ResidualSettings, ViewSettings
from bootdiff.nets import BuiltIn
from bootdiff.training.settings import TrainingSettings
from bootdiff.views import Identity


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


def planned(arms, begin="scratch", gains="fit", **residual):
    """The plan of two views, one with two networks."""
    training, networks = TrainingSettings(), {"unet": BuiltIn("unet")}
    views = {
        "thumbs": ViewSettings({"unet": BuiltIn("unet"), "local": BuiltIn("local")}, training, begin),
        "full-length": ViewSettings(networks, training, begin),
    }
    settings = MethodSettings(
        networks, views, {}, gains=GainSettings(mode=gains), residual=ResidualSettings(**residual)
    )
    full = SimpleNamespace(position_conditioned=False)
    problem = SimpleNamespace(views={name: ViewData(Identity(), Identity()) for name in views}, full=full)
    return plan(settings, problem, arms)


ALONE = {"start": "views", "full_experts": False}


@pytest.mark.parametrize(
    ("arm", "how", "parameters"),
    [
        ("full_only", {}, 8),
        ("views_only", {}, 15),  # screened against the full-only networks
        ("views_only", {"gains": "unit"}, 7),
        ("views_only", {"gains": "unit", "begin": "best"}, 15),  # views start at them
        ("unregularized", {}, 31),
        ("unregularized", {"gains": "unit", "start": "views"}, 23),
        ("unregularized", {"gains": "unit"}, 31),  # the residual starts at them
        ("bootdiff", {"gains": "unit", "start": "views"}, 31),  # they are in the stack
        ("bootdiff", ALONE, 31),
        ("bootdiff", {"gains": "unit", **ALONE}, 23),
        ("distilled", {}, 95),
        ("oracle", {}, 32),
    ],
)
def test_an_arm_is_the_sum_of_its_stages(arm, how, parameters):
    """Parameters are powers of two, so that a sum tells its terms; seconds are equal to them, FLOPs 70 times that."""
    got = totals(LEDGER, planned([arm], **how).names(arm))
    assert got["parameters"] == got["seconds"] == parameters
    assert got["flops"] == 70 * parameters
    assert got["images"] == 320 * len(got["stages"])
    assert got["evaluation_seconds"] == 0.5 * len(got["stages"])


def test_memory_is_the_largest_not_the_sum():
    names = planned(ARMS)
    assert totals(LEDGER, names.names("bootdiff"))["peak_memory"] == 900
    assert totals(LEDGER, names.names("full_only"))["peak_memory"] == 100


def test_ratios_are_to_full_only():
    table = costs(LEDGER, planned(ARMS))
    assert list(table) == list(ARMS)
    assert table["full_only"]["ratio"] == {"parameters": 1, "images": 1, "flops": 1, "seconds": 1}
    assert table["bootdiff"]["ratio"] == {"parameters": 31 / 8, "images": 5, "flops": 31 / 8, "seconds": 31 / 8}


def test_without_residual_networks_the_full_ones_count():
    """All gains are 0: bootdiff is full-only training, and has paid for the views."""
    ledger = {name: entry for name, entry in LEDGER.items() if not name.startswith(("residual", "oracle"))}
    for arm in ("bootdiff", "unregularized"):
        assert totals(ledger, planned([arm]).names(arm))["parameters"] == 15


def test_a_missing_arm_is_named():
    with pytest.raises(ValueError, match=r"none of the stages oracle-unet .*full-unet.*train the arm first"):
        totals({"full-unet": entry(1, 1.0)}, planned(["oracle"]).names("oracle"))


def test_a_ledger_without_flops_has_no_ratio_of_them():
    ledger = {"full-unet": entry(1, 1.0, flops=0), "view-thumbs-unet": entry(1, 2.0)}
    table = costs(ledger, planned(["full_only", "views_only"]))
    assert table["views_only"]["ratio"]["flops"] is None
    assert table["views_only"]["ratio"]["seconds"] == 3


def test_an_unregularized_arm_with_networks_of_its_own_costs_those():
    ledger, both = LEDGER | {"unregularized-unet": entry(128, 128.0)}, planned(ARMS, energy=0.1)
    assert totals(ledger, both.names("unregularized"))["parameters"] == 7 + 8 + 128
    assert totals(ledger, both.names("bootdiff"))["parameters"] == 31


def test_every_network_is_trained_once_in_order():
    names = [stage.name for stage in planned(ARMS, "best").trainings]
    assert names == [
        "full-unet", "view-thumbs-unet", "view-thumbs-local", "view-full-length-unet", "residual-unet",
        "distilled-unet", "oracle-unet",
    ]  # fmt: skip
