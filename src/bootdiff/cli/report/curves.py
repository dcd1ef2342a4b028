"""Curves of a run as PNG: losses against steps, losses against noise levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bootdiff.cli.report.figures import COLOURS, new_figure, write_figure

__all__ = ["level_curves", "loss_curves"]


_KINDS = {  # of networks, in the order of their columns, and what these are called
    "view": "views", "full": "full samples alone", "visible": "all visible pixels", "residual": "residual",
    "unregularized": "unregularized", "distilled": "distilled", "oracle": "oracle",
}  # fmt: skip
_LINES = ("held-out loss", "training loss")
_ABREAST = 4  # columns beside each other
_STYLES = ("-", "--", ":", "-.")  # once for each round of the colours


def loss_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Held-out loss (above) and training loss (below) against steps, a column per kind of network, with its legend
    below it; None where there is nothing to draw.

    Held-out losses are means over the noise levels, 1 for the isotropic Gaussian base; the training loss of a residual
    is in units of what the views leave over.

    Args:
        rows: those of metrics.jsonl.
        path: PNG to write.
    """
    groups: dict[str, dict[str, tuple[_Curve, _Curve]]] = {}
    for row in rows:
        if ".start-" in row["stage"]:
            continue  # a race between starts
        losses = [v for v in (row.get("heldout") or {}).values() if v is not None]
        if losses or row.get("loss") is not None:
            kind = str(row["stage"]).split("-")[0]
            held_out, training = groups.setdefault(kind, {}).setdefault(row["stage"], ([], []))
            point = (row["step"], sum(losses) / len(losses) if losses else row["loss"])
            (held_out if losses else training).append(point)
    known = list(_KINDS)
    kinds = sorted(groups, key=lambda kind: known.index(kind) if kind in known else len(known))
    if not kinds:
        return None
    lines = [line for line in (0, 1) if any(curves[line] for g in groups.values() for curves in g.values())]
    bands = [kinds[i : i + _ABREAST] for i in range(0, len(kinds), _ABREAST)]
    deepest = [max(len(groups[kind]) for kind in band) for band in bands]
    heights = [2.6 if line != lines[-1] else 2.9 + 0.2 * n for n in deepest for line in lines]
    figure, axes = new_figure(len(heights), min(len(kinds), _ABREAST), height=sum(heights) / len(heights))
    for axis in axes.flat:
        axis.set_visible(False)  # until there is something in it
    for place, band in enumerate(bands):
        for column, kind in enumerate(band):
            _column(axes[place * len(lines) :, column], lines, kind, groups[kind])
    return write_figure(figure, path)


_Curve = list[tuple[int, float]]  # (step, loss)


def _column(axes: Any, lines: Sequence[int], kind: str, stages: Mapping[str, tuple[_Curve, _Curve]]) -> None:
    """The curves of a kind of network, from the top axis of its column downwards."""
    last = max(step for curves in stages.values() for curve in curves for step, _ in curve)
    handles: dict[str, Any] = {}
    shown = []
    for axis, line in zip(axes, lines, strict=False):
        for k, (stage, curves) in enumerate(stages.items()):
            if not curves[line]:
                continue
            style = _STYLES[k // len(COLOURS) % len(_STYLES)]
            dots = "." if line == 0 or len(curves[line]) == 1 else None  # a single point is no line
            (drawn,) = axis.plot(
                *zip(*curves[line], strict=True), color=COLOURS[k % len(COLOURS)], linestyle=style, linewidth=1.5,
                marker=dots,
            )  # fmt: skip
            handles.setdefault(stage.removeprefix(f"{kind}-"), drawn)
        if axis.has_data():
            axis.set_visible(True)
            axis.set_xlim(0, 1.03 * last)
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=6)
            axis.set_ylabel(_LINES[line])
            shown.append(axis)
    shown[0].set_title(_KINDS.get(kind, kind), fontsize=11)
    shown[-1].set_xlabel("step")
    shown[-1].legend(
        handles.values(), handles.keys(), frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2)
    )


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
