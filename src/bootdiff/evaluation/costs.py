"""What an arm costs: the stages it is made of, summed.

An arm A needs the networks N(A), each trained once; with p parameters, f FLOPs per training step and T steps,

    parameters(A) = sum p,    flops(A) = sum f T,    images, seconds likewise,    peak_memory(A) = max over N(A),

and ratio(A) = A / full_only in each of them: what the views cost beyond training on the full samples alone.  The same
network counts in every arm that needs it (a run trains it once).  Seconds are those of training, without held-out
evaluations, which are given beside them; they hold for the device named and for what else ran on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["STAGES", "costs", "totals"]

STAGES: dict[str, tuple[str, ...]] = {
    "full_only": ("full-",),
    "views_only": ("view-", "full-"),
    "unregularized": ("view-", "residual-", "full-"),
    "bootdiff": ("view-", "residual-", "full-"),
    "distilled": ("view-", "residual-", "full-", "distilled-"),
    "oracle": ("oracle-",),
}
"""First parts of the names of the stages whose networks an arm needs."""

SUMMED = ("parameters", "steps", "images", "flops", "seconds", "evaluation_seconds")


def totals(
    ledger: Mapping[str, Mapping[str, Any]],
    arm: str,
    full_experts: bool = True,
    judged: bool = True,
    begun: bool = True,
) -> dict[str, Any]:
    """Sum of the stages that an arm needs.

    Args:
        ledger: stage -> its ledger, one per trained network (`Bootstrap.ledger`, or `ledger` in a stage's done.json).
        arm: one of `STAGES`.
        full_experts: whether bootdiff stacks the full-only networks, too (`residual.full_experts`).
        judged: whether views are judged by the full-only networks (`gains.mode: fit`): every arm with views needs them.
        begun: whether the residual starts at the full-only networks (`residual.warm_start`).

    Returns:
        "stages" (their names), the sums "parameters", "steps", "images", "flops", "seconds", "evaluation_seconds",
        and "peak_memory" in bytes, the largest; "device", "processes".  A run whose views all got gain 0 has no
        residual networks: its residual arms are made of the full-only networks, and these are counted.  Where the
        recipe regularizes the training itself, `unregularized` has residual networks of its own, unregularized-*.

    Raises:
        ValueError: unknown arm; a ledger that lacks the arm's networks.
    """
    if arm not in STAGES:
        raise ValueError(f"no arm {arm!r}; known: {', '.join(STAGES)}")
    wanted = set(STAGES[arm])
    if arm == "unregularized" and any(name.startswith("unregularized-") for name in ledger):
        wanted = wanted - {"residual-"} | {"unregularized-"}
    needed = judged or (arm == "bootdiff" and full_experts) or (begun and "residual-" in wanted)
    if "view-" in wanted and not needed:
        wanted -= {"full-"}
    if "residual-" in wanted and not any(name.startswith("residual-") for name in ledger):
        wanted = wanted - {"residual-", "distilled-"} | {"full-"}
    missing = sorted(kind for kind in wanted if not any(name.startswith(kind) for name in ledger))
    if missing:
        raise ValueError(
            f"the ledger holds no stage {' or '.join(f'{kind}*' for kind in missing)}, which {arm} needs "
            f"(it holds: {', '.join(ledger) or 'nothing'}); train the arm first"
        )
    stages = {name: entry for name, entry in ledger.items() if any(name.startswith(kind) for kind in wanted)}
    out: dict[str, Any] = {"stages": list(stages)}
    out |= {key: sum(entry.get(key, 0) for entry in stages.values()) for key in SUMMED}
    out["peak_memory"] = max(entry.get("peak_memory", 0) for entry in stages.values())
    out["device"] = ", ".join(sorted({str(entry["device"]) for entry in stages.values() if "device" in entry}))
    out["processes"] = max(entry.get("processes", 1) for entry in stages.values())
    return out


def costs(
    ledger: Mapping[str, Mapping[str, Any]], full_experts: bool = True, judged: bool = True, begun: bool = True
) -> dict[str, dict[str, Any]]:
    """`totals` of every arm whose networks are in the ledger, each with "ratio" to full-only where that is there.

    "ratio" holds parameters, images, flops and seconds over those of full_only; None where full_only's is 0.
    """
    table: dict[str, dict[str, Any]] = {}
    for arm in STAGES:
        try:
            table[arm] = totals(ledger, arm, full_experts, judged, begun)
        except ValueError:
            continue
    ruler = table.get("full_only")
    if ruler is not None:
        keys = ("parameters", "images", "flops", "seconds")
        for entry in table.values():
            entry["ratio"] = {key: entry[key] / ruler[key] if ruler[key] else None for key in keys}
    return table
