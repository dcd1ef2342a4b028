"""Curves of a run as PNG: losses against steps, losses against noise levels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bootdiff.cli.report.figures import COLOURS, new_figure, write_figure

__all__ = ["level_curves", "loss_curves"]


def loss_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Held-out loss (above) and training loss (below) against steps, a column per kind of network; None without rows.

    Held-out losses are means over the noise levels, 1 for the isotropic Gaussian base; the training loss of a residual
    is in units of what the views leave over.

    Args:
        rows: those of metrics.jsonl.
        path: PNG to write.
    """
    groups: dict[str, dict[str, tuple[list[tuple[int, float]], ...]]] = {}
    for row in rows:
        if ".start-" in row["stage"]:
            continue  # a race between starts
        kind = str(row["stage"]).split("-")[0]
        held_out, training = groups.setdefault(kind, {}).setdefault(row["stage"], ([], []))
        losses = [v for v in (row.get("heldout") or {}).values() if v is not None]
        if losses:
            held_out.append((row["step"], sum(losses) / len(losses)))
        elif row.get("loss") is not None:
            training.append((row["step"], row["loss"]))
    order = ["view", "full", "visible", "residual", "unregularized", "distilled", "oracle"]
    kinds = sorted(groups, key=lambda kind: order.index(kind) if kind in order else len(order))
    if not kinds:
        return None
    titles = {"view": "views", "full": "full samples alone", "visible": "all visible pixels"}
    figure, axes = new_figure(2, len(kinds))
    for column, kind in enumerate(kinds):
        for line, axis in enumerate(axes[:, column]):
            for colour, (stage, curves) in zip(itertools.cycle(COLOURS), groups[kind].items(), strict=False):
                if curves[line]:
                    style = {"marker": "." if line == 0 else None, "label": stage.removeprefix(f"{kind}-")}
                    axis.plot(*zip(*curves[line], strict=True), color=colour, linewidth=1.5, **style)
        axes[0, column].set_title(titles.get(kind, kind), fontsize=11)
        axes[0, column].legend(frameon=False, fontsize=9)
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_ylabel("held-out loss")
    axes[1, 0].set_ylabel("training loss")
    return write_figure(figure, path)


_ARMS: dict[str, dict[str, Any]] = {
    "full_only": {"color": "#4a4f57", "linestyle": "--"},
    "views_only": {"color": "#b07c10"},
    "unregularized": {"color": "#d1495b"},
    "bootdiff": {"color": "#1f6fb4", "linewidth": 2.6},
    "distilled": {"color": "#1f6fb4", "linestyle": ":", "linewidth": 2.0},
    "oracle": {"color": "#2a9d62", "linestyle": "--"},
}


def level_curves(table: Mapping[str, Mapping[str, Any]], path: str | Path, reference: str = "full_only") -> Path:
    """Held-out loss of every arm per noise level, relative to that of `reference`; bars are standard errors of the
    paired difference.

    Args:
        table: arm -> {"per_level": {"0.05": {"mean", "stderr"}, ...}, "versus": {arm: the same of the difference}}.
        path: PNG to write.
        reference: if it is not in the table, the losses themselves are drawn.
    """
    figure, axes = new_figure(1, 1, 6.4, 4.2)
    axis = axes[0, 0]
    against = table.get(reference, {}).get("per_level")
    for arm, entry in table.items():
        levels = list(entry["per_level"])
        below = [1.0 if against is None else against[s]["mean"] for s in levels]
        means = [entry["per_level"][s]["mean"] / b for s, b in zip(levels, below, strict=True)]
        x = [float(s) for s in levels]
        style = {"linewidth": 1.6, "label": arm.replace("_", " "), **_ARMS.get(arm, {})}
        paired = entry.get("versus", {}).get(reference, {}).get("per_level")
        bars = None if paired is None else [paired[s]["stderr"] / b for s, b in zip(levels, below, strict=True)]
        if bars is not None and any(v != v for v in bars):
            bars = None
        axis.errorbar(x, means, bars, marker="o", markersize=4, capsize=2, elinewidth=1, **style)
    if against is not None:
        # Arms far worse than the reference may leave the figure, in favour of the others.
        axis.set_ylim(top=min(axis.get_ylim()[1], 1.35))
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{v:g}" for v in x])
    axis.minorticks_off()
    axis.set_xlabel("noise level sigma")
    axis.set_ylabel("denoising loss" + (f" / that of {reference.replace('_', ' ')}" if against else ""))
    axis.legend(frameon=False, fontsize=9)
    return write_figure(figure, path)
