"""What an arm costs: the stages it is made of (`method.plan`), summed.

An arm A needs the networks N(A), each trained once; with p parameters, f FLOPs per training step and T steps,

    parameters(A) = sum p,    flops(A) = sum f T,    images, seconds likewise,    peak_memory(A) = max over N(A),

and ratio(A) = A / full_only in each of them: what the views cost beyond training on the full samples alone.  The same
network counts in every arm that needs it (a run trains it once).  Seconds are those of training, without held-out
evaluations, which are given beside them; they hold for the device named and for what else ran on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bootdiff.method.plan import Plan

__all__ = ["SUMMED", "costs", "totals"]

SUMMED = ("parameters", "steps", "images", "flops", "seconds", "evaluation_seconds")


def totals(ledger: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Sum of the stages of these names.

    Args:
        ledger: stage -> its ledger, one per trained network (`Bootstrap.ledger`, or `ledger` in a stage's done.json).
        names: the stages that an arm needs (`Plan.names`); those that were not trained, because no view adds anything
            to what the full samples teach, do not count.

    Returns:
        "stages" (their names), the sums "parameters", "steps", "images", "flops", "seconds", "evaluation_seconds",
        and "peak_memory" in bytes, the largest; "device", "processes".

    Raises:
        ValueError: none of the stages is in the ledger.
    """
    stages = {name: ledger[name] for name in names if name in ledger}
    if not stages:
        raise ValueError(
            f"the ledger holds none of the stages {', '.join(names) or '(none)'} (it holds: "
            f"{', '.join(ledger) or 'nothing'}); train the arm first"
        )
    out: dict[str, Any] = {"stages": list(stages)}
    out |= {key: sum(entry.get(key, 0) for entry in stages.values()) for key in SUMMED}
    out["peak_memory"] = max(entry.get("peak_memory", 0) for entry in stages.values())
    out["device"] = ", ".join(sorted({str(entry["device"]) for entry in stages.values() if "device" in entry}))
    out["processes"] = max(entry.get("processes", 1) for entry in stages.values())
    return out


def costs(ledger: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, dict[str, Any]]:
    """`totals` of every arm of the plan, each with "ratio" to full-only where that is among them.

    "ratio" holds parameters, images, flops and seconds over those of full_only; None where full_only's is 0.
    """
    table = {arm: totals(ledger, plan.names(arm)) for arm in plan.by_arm}
    ruler = table.get("full_only")
    if ruler is not None:
        keys = ("parameters", "images", "flops", "seconds")
        for entry in table.values():
            entry["ratio"] = {key: entry[key] / ruler[key] if ruler[key] else None for key in keys}
    return table
