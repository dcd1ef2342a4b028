"""Signals and vectors drawn by matplotlib: as lines, as scatter plots and histograms."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from bootdiff.cli.report.metadata import DataInfo

__all__ = ["COLOURS", "as_image", "histograms", "new_figure", "signals", "vectors", "write_figure"]

COLOURS = ("#1f6fb4", "#d1495b", "#2a9d62", "#b07c10", "#7a52a8", "#4a4f57", "#c05fa5", "#3aa6b9")
_HIDDEN = "#e28aa0"
_COLUMNS = 5  # of vectors in a pair plot


def new_figure(rows: int, columns: int, width: float = 4.2, height: float = 2.9, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), of this size each, in inches; options as of `Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as PNG or SVG, by the name's ending (atomically); creates the folder."""
    from bootdiff.training.files import atomic_write_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix[1:].lower(), dpi=130)
    atomic_write_bytes(path, file.getvalue())
    return path


def as_image(figure: Any, dpi: int = 90) -> Image.Image:
    """A figure as an image, to combine with others."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    file.seek(0)
    return Image.open(file).convert("RGB")


def signals(
    x: Tensor,
    info: DataInfo | None = None,
    masks: Sequence[Tensor | None] | None = None,
    columns: int = 2,
    limits: tuple[float, float] | None = None,
) -> Any:
    """One small plot per signal, all on one scale, as a figure; one colour per channel.

    Args:
        x: (n, C, L) in stored coordinates; drawn in original units, over seconds where the rate is known.
        masks: (1 or C, L) for each signal, or None; steps hidden in any channel are shaded.
        limits: of the values, in original units; None: of these signals.
    """
    info = info or DataInfo()
    values = info.restore(x.detach().cpu())
    n, channels, length = values.shape
    time = [i / (info.rate or 1.0) for i in range(length)]
    columns = min(columns, n)
    figure, axes = new_figure(math.ceil(n / columns), columns, 8.4 / columns, 1.15, sharex=True, sharey=True)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    for i, (axis, sample) in enumerate(zip(axes.flat, values, strict=False)):
        for c, line in enumerate(sample.tolist()):
            axis.plot(time, line, color=COLOURS[c % len(COLOURS)], linewidth=0.9, label=info.name(c))
        mask = None if masks is None else masks[i]
        if mask is not None:
            hidden = (mask.amin(0) < 1).tolist()
            axis.fill_between(time, 0, 1, where=hidden, transform=axis.get_xaxis_transform(), color=_HIDDEN, alpha=0.3)
        axis.tick_params(labelsize=7)
    if limits is not None:
        axes.flat[0].set_ylim(limits)
    if channels > 1:
        axes.flat[0].legend(frameon=False, fontsize=7, loc="upper right")
    for axis in axes[-1]:
        axis.set_xlabel("seconds" if info.rate else "step", fontsize=8)
    return figure


def vectors(groups: Mapping[str, Tensor], info: DataInfo | None = None) -> Any:
    """Pair plot of the first columns: histograms on the diagonal, scatter plots below it, as a figure.

    Args:
        groups: name -> vectors (n, C) in stored coordinates, one colour per group; drawn in original units.
    """
    info = info or DataInfo()
    values = {name: info.restore(x.detach().cpu()) for name, x in groups.items()}
    count = min(_COLUMNS, next(iter(values.values())).shape[1])
    figure, axes = new_figure(count, count, 1.7, 1.5)
    for row in range(count):
        for column in range(count):
            axis = axes[row, column]
            axis.tick_params(labelsize=6)
            axis.set_visible(column <= row)
            if column == row:
                _histogram(axis, {name: v[:, row] for name, v in values.items()})
            elif column < row:
                for k, (name, v) in enumerate(values.items()):
                    style = {"s": 4, "alpha": 0.5, "linewidths": 0, "color": COLOURS[k % len(COLOURS)], "label": name}
                    axis.scatter(v[:, column].tolist(), v[:, row].tolist(), **style)
            if row == count - 1:
                axis.set_xlabel(info.name(column), fontsize=7)
            if column == 0 and row:
                axis.set_ylabel(info.name(row), fontsize=7)
    if len(values) > 1:
        axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def histograms(titles: Mapping[str, Mapping[str, Tensor]], info: DataInfo | None = None) -> Any:
    """A row per title, a column per column of its vectors (at most six): histograms of the groups, as a figure."""
    info = info or DataInfo()
    count = min(6, max(x.shape[1] for groups in titles.values() for x in groups.values()))
    figure, axes = new_figure(len(titles), count, 1.9, 1.6)
    for row, (title, groups) in zip(axes, titles.items(), strict=True):
        row[0].set_ylabel(title, fontsize=8)
        for column, axis in enumerate(row):
            axis.tick_params(labelsize=6)
            present = {name: x[:, column] for name, x in groups.items() if column < x.shape[1]}
            axis.set_visible(bool(present))
            _histogram(axis, present)
        row[0].legend(frameon=False, fontsize=6)
    return figure


def _histogram(axis: Any, groups: Mapping[str, Tensor]) -> None:
    if not groups:
        return
    low, high = (float(f([getattr(v, f.__name__)() for v in groups.values()])) for f in (min, max))
    for k, (name, v) in enumerate(groups.items()):
        style = {"bins": 24, "range": (low, high if high > low else low + 1), "density": True, "histtype": "step"}
        axis.hist(v.tolist(), color=COLOURS[k % len(COLOURS)], label=name, **style)
    axis.set_yticks([])
