"""A forecast for people: a sentence for each view, tables and a figure.

What a view is worth has an estimate with a 90 % interval, both at most the number of its files (a file is worth one
full sample at most), and a ceiling: what its exact second-order law would be worth, however many files there were
(`forecast.ceiling`). The ceiling is no end of the interval, and is said apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootdiff.cli.console import clock, number
from bootdiff.cli.report.figures import COLOURS, new_figure, write_figure
from bootdiff.cli.report.tables import plain_table
from bootdiff.forecast.ceiling import Ceiling
from bootdiff.forecast.cross_validation import Gain
from bootdiff.forecast.forecast import Forecast, ViewForecast

if TYPE_CHECKING:
    from bootdiff.cli.costs import Cost

__all__ = ["advice", "at_most", "costs_of_views", "draw", "read", "span", "summary", "tables", "worth"]

_SAME = 0.95  # share of the ceiling from which an estimate counts as the ceiling


def advice(view: ViewForecast, found: Forecast) -> str:
    """The recommendation for one view.

    >>> span([0.1, 0.2, 0.4, 0.8], [True, True, False, True])
    '0.1 to 0.2 and 0.8'
    """
    others = " and ".join(v for v in found.kept if v != view.name)
    if view.verdict == "dissimilar":
        assert view.fit is not None
        return (
            f"`{view.name}` does not match the full samples (a model of its files has {view.fit[0]:.3g} times the loss "
            "on their view): leave it out, or correct the view's settings"
        )
    if view.verdict == "redundant":
        return f"`{view.name}` adds nothing to {others}: leave it out"
    if view.verdict == "nothing":
        return (
            f"`{view.name}` adds nothing measurable with {found.count} full samples: leave it out (the exact "
            f"second-order law of the view would be worth {_ceiling(view.ceiling)} full samples)"
        )
    share, least = _carries(view.share, found)
    beside = f" beside {others}" if others else ""
    alone = f"{worth(view.alone, view.count)}, {at_most(view.alone, view.ceiling)}"
    return (
        f"`{view.name}` carries {100 * share:.0f} % of what can be known at sigma >= {least:g}: keep it. It helps"
        f"{beside} at sigma {span(found.levels, view.added.helps)}. Alone, "
        f"{view.count:,} files of it are worth {alone}"
    )


def _carries(share: Sequence[float], found: Forecast) -> tuple[float, float]:
    """The share over the noise levels from the first on where it is half its largest, and that level."""
    first = next(i for i, s in enumerate(share) if s >= max(share) / 2)
    total = sum(found.known[first:])
    part = sum(s * k for s, k in zip(share[first:], found.known[first:], strict=True))
    return (part / total if total > 0 else 0.0), found.levels[first]


def worth(gain: Gain, files: float) -> str:
    """The estimate in full samples, with its 90 % interval; `files` is the most that is counted."""
    low, middle, high = (f"{v:,.0f}" for v in (gain.interval[0], gain.mean_samples, gain.interval[1]))
    if low == middle == high:
        if gain.mean_samples >= files > 0:
            return f"{middle} full samples, one for each file (more is not counted)"
        return f"about {middle} full samples"
    spread = f"{low} or more" if gain.interval[1] >= files else f"{low} to {high}"
    each = ", one for each file" if gain.mean_samples >= files else ""
    return f"about {middle} full samples{each} (90 %: {spread})"


def at_most(gain: Gain, ceiling: Ceiling, what: str = "the view's law were") -> str:
    """The ceiling beside the estimate, in words where the two coincide (both have errors, and either may be higher)."""
    if not ceiling.beyond and gain.mean_samples >= _SAME * ceiling.samples:
        return f"which is as much as if {what} known exactly (to second order): more files would add little"
    most = "more than" if ceiling.beyond else "at most about"
    return f"{most} {ceiling.samples:,.0f} if {what} known exactly (to second order)"


def _ceiling(ceiling: Ceiling) -> str:
    return f"{'more than' if ceiling.beyond else 'about'} {ceiling.samples:,.0f}"


def read(name: str, count: int, of: int) -> str:
    """What was subsampled.

    >>> read("thumbnails", 5000, 20000)
    'Of 20,000 files of `thumbnails` 5,000 were read, evenly spaced: the forecast is of these'
    """
    return f"Of {of:,} files of `{name}` {count:,} were read, evenly spaced: the forecast is of these"


def span(levels: Sequence[float], on: Sequence[bool]) -> str:
    """Noise levels for people, runs of them as "0.1 to 0.4"."""
    runs: list[list[float]] = []
    for i, level in enumerate(levels):
        if on[i]:
            if i and on[i - 1]:
                runs[-1].append(level)
            else:
                runs.append([level])
    return " and ".join(f"{r[0]:g} to {r[-1]:g}" if len(r) > 1 else f"{r[0]:g}" for r in runs) or "none"


def summary(found: Forecast) -> str:
    """The kept views together."""
    if not found.kept:
        return "No view is worth its training: train on the full samples alone."
    gain, files = found.together, sum(found.views[name].count for name in found.kept)
    lower = (
        f"the loss by {gain.mean:.4f} of {sum(found.full_only) / len(found.levels):.4f} (mean over the noise levels)"
    )
    if len(found.kept) == 1:  # its own sentence says the rest
        text = f"{found.kept[0]} lowers {lower}. Its exact law"
    else:
        most = at_most(gain, found.ceiling, "the views' laws were")
        text = (
            f"Together {', '.join(found.kept)} carry {100 * _carries(found.share, found)[0]:.0f} % of what can be "
            f"known; they lower {lower} and are worth {worth(gain, files)} beside the {found.count}, {most}. "
            "Such laws"
        )
    bits = found.ceiling.nats / math.log(2) / math.prod(found.shape)
    return (
        f"{text} would save {found.ceiling.nats:,.3g} nats ({bits:.3g} bits per dimension), "
        f"{100 * found.ceiling.share:.0f} % of what everything known would."
    )


def tables(found: Forecast, costs: Mapping[str, Mapping[str, float]]) -> list[Any]:
    """What each view is worth and costs, and all results per noise level."""
    dim = math.prod(found.shape)

    def bits(nats: float | None) -> str:
        return "-" if nats is None else f"{nats / math.log(2) / dim:.3f}"

    overview = plain_table(
        f"What each view is worth, forecast from {found.count} full samples and the views' files",
        "view", "files", "verdict", "helps at sigma", "full samples (90 %)", "at most", "left over", "shared", "fit",
        "FLOPs", "x full_only", "time",
    )  # fmt: skip
    for name, view in found.views.items():
        cost = costs.get(name)
        overview.add_row(
            name, f"{view.count:,}", "keep" if view.keep else f"leave out: {view.verdict}",
            span(found.levels, view.added.helps if view.keep else view.alone.helps),
            _cell(view), _ceiling_cell(view),
            bits(view.left_over), bits(view.shared),
            "-" if view.fit is None else f"{view.fit[0]:.2f}",
            *(("", "", "") if cost is None else
              (number(cost["flops"]), f"{cost['ratio']:.2f}" if cost["ratio"] else "-", clock(cost["seconds"]))),
            style=None if view.keep else "dim",
        )  # fmt: skip
    levels = plain_table("At each noise level sigma", "", *(f"{s:g}" for s in found.levels))
    for name, view in found.views.items():
        levels.add_row(f"{name}: share of what can be known", *(f"{100 * s:.0f} %" for s in view.share))
    if len(found.kept) > 1:
        levels.add_row("together", *(f"{100 * s:.0f} %" for s in found.share), style="bold")
    levels.add_row("loss, full samples alone", *(f"{x:.4f}" for x in found.full_only))
    if found.kept:
        levels.add_row("loss, with the kept views", *(f"{x:.4f}" for x in found.together.loss))
        levels.add_row("improvement", *(f"{x:.4f}" for x in found.together.raw))
        levels.add_row("± s.e.", *(f"{x:.4f}" for x in found.together.stderr))
    for view in found.views.values():
        if view.verdict == "dissimilar":
            levels.add_row(f"loss, with {view.name}", *(f"{x:.4f}" for x in view.alone.loss), style="dim")
    note = (
        "at most: full samples, if the view's second-order law were known exactly. left over, shared: bits per "
        "dimension. 1 = the loss with only mean and variance known."
    )
    between = found.total_correlation
    if len(found.kept) > 1 and between is not None:
        note += f" The kept views share {between:,.3g} nats ({bits(between)})."
    return ["", overview, levels, note]


def _cell(view: ViewForecast) -> str:
    low, middle, high = (f"{v:,.0f}" for v in (view.alone.interval[0], view.alone.mean_samples, view.alone.interval[1]))
    return middle if low == middle == high else f"{middle} ({low}-{high})"


def _ceiling_cell(view: ViewForecast) -> str:
    if view.verdict == "dissimilar":  # the ceiling is that of the full samples' view, and its files are not of it
        return "-"
    return f"{'> ' if view.ceiling.beyond else ''}{view.ceiling.samples:,.0f}"


def costs_of_views(rows: Sequence[Cost], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """What training each view's networks costs: parameters, flops, seconds; ratio: FLOPs over full-only training's."""
    full = sum(row.flops for row in rows if row.name.startswith("full-"))
    out = {}
    for name in names:
        longer = [n for n in names if n.startswith(f"{name}-")]
        own = [
            row for row in rows
            if row.name.startswith((f"view-{name}-", f"view-{name}."))
            and not any(row.name.startswith(f"view-{n}-") for n in longer)
        ]  # fmt: skip
        if own:
            flops = sum(row.flops for row in own)
            out[name] = {
                "parameters": float(sum(row.parameters for row in own)), "flops": float(flops),
                "seconds": sum(row.seconds for row in own), "ratio": flops / full if full else 0.0,
            }  # fmt: skip
    return out


def draw(found: Forecast, path: Path) -> None:
    """The share of what can be known per noise level, and the improvement, with 90 % intervals; PNG or SVG."""
    figure, axes = new_figure(1, 2, 5.0, 3.4 + 0.2 * len(found.views))
    share, gain = axes[0]
    for k, (name, view) in enumerate(found.views.items()):
        look = {"color": COLOURS[k % len(COLOURS)], "linestyle": "-" if view.keep else ":"}
        label = name if view.keep else f"{name} (leave out: {view.verdict})"
        share.plot(found.levels, [100 * s for s in view.share], marker=".", label=label, **look)
        if view.verdict != "dissimilar":
            gain.plot(found.levels, view.alone.raw, marker=".", label=f"{name} alone", **look)
    if found.kept:
        if len(found.kept) > 1:
            share.plot(found.levels, [100 * s for s in found.share], color="#1f2328", linewidth=2, label="together")
        spread = [1.645 * s for s in found.together.stderr]
        gain.errorbar(
            found.levels, found.together.raw, yerr=spread, color="#1f2328", linewidth=2, capsize=3, label="kept views"
        )
    gain.axhline(0, color="#8a9099", linewidth=0.8)
    share.set(xscale="log", xlabel="noise level sigma", ylabel="% of what can be known", ylim=(-3, 103))
    gain.set(xscale="log", xlabel="noise level sigma", ylabel="loss below full samples alone")
    for axis in (share, gain):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    write_figure(figure, path)
