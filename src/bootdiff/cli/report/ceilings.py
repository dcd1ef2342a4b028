"""Measured ceilings for people: sentences, the same on the screen and in table.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["sentences"]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What each view can bring at most, what all can, and what the run got of it (`evaluation.ceilings`)."""
    said = [_view(name, view) for name, view in found["views"].items()]
    said += [f"{name}: no ceiling, {why}." for name, why in found.get("not_measured", {}).items()]
    together, run = found["together"], found["run"]
    if len(found["views"]) > 1:
        said.append(
            f"All views together: at most about {together['sum']:.2f} nats{_worth(together)}, where they tell of "
            f"different things; at least {together['least']:.2f}, as much as the best of them."
        )
    if run is None or not found["views"]:
        return said
    low, high = run["interval"]["nats"]
    gain = f"bootdiff saves {run['nats']:.2f} nats [{low:.2f}, {high:.2f}] against full_only"
    if run["share"] is None:
        said.append(f"{gain}; the ceiling is not above 0 beyond its error, so no share of it can be given.")
    elif run["share"] > 1:
        said.append(
            f"{gain}: {100 * run['share']:.0f} % of that ceiling. More than the views' laws hold: its networks also "
            "learn from one another."
        )
    else:
        said.append(f"{gain}: the run got {100 * run['share']:.0f} % of it.")
    return said


def _view(name: str, view: Mapping[str, Any]) -> str:
    low, high = view["interval"]["nats"]
    text = (
        f"{name}: its law, learned from {view['files']:,} files instead of {view['full']:,} full samples, can bring at "
        f"most {view['nats']:.2f} nats [{low:.2f}, {high:.2f}] ({view['bits_per_dim']:.4f} bits per dimension of the "
        "view)"
    )
    text += _worth(view) if view["nats"] > 2 * view["stderr"] else ": nothing beyond the error of this measurement"
    return "; ".join([text, *view["remarks"]]) + "."


def _worth(found: Mapping[str, Any]) -> str:
    if found["share_of_gap"] is None:
        return ""
    text = f", {100 * found['share_of_gap']:.0f} % of what everything in full saves"
    if found["share_of_gap"] >= 1:
        return f"{text}: the oracle has not learned all that its samples hold"
    worth = found["equivalent_samples"]
    return text if worth is None else f"{text}, as about {worth:,.0f} more full samples would"
