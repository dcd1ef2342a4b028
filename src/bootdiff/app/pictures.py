"""Pictures as PNG: grids of samples, views beside full samples, loss curves.

Small images are enlarged by whole factors with the nearest neighbour, so that every pixel is seen as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bootdiff.boot.materials import Materials
from bootdiff.views import View

__all__ = ["grid", "level_curves", "loss_curves", "panels", "save_png", "to_pil", "view_rows"]

_INK, _SOFT, _PAPER = (25, 28, 33), (105, 112, 122), (255, 255, 255)
_HIDDEN = (226, 138, 160)


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def to_pil(x: Tensor, mask: Tensor | None = None) -> Image.Image:
    """One sample (C, H, W) in [-1, 1] as an 8-bit picture: gray or RGB; of other channel counts the first.

    mask: (1, H, W); hidden pixels (0) are drawn in pink.
    """
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels if pixels.shape[0] in (1, 3) else pixels[:1]
    picture = Image.fromarray(pixels.movedim(0, -1).squeeze(-1).contiguous().numpy()).convert("RGB")
    if mask is not None:
        hidden = ((1 - mask[0].float()) * 255).to(torch.uint8).contiguous().numpy()
        picture.paste(_HIDDEN, mask=Image.fromarray(hidden))
    return picture


def save_png(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture (atomically); the folder is made."""
    import io

    from bootdiff.runs import atomic_write_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    atomic_write_bytes(path, file.getvalue())
    return path


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    """By the largest whole factor that keeps the longer side within `side` (at least 1)."""
    factor = max(1, side // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def grid(
    pictures: Sequence[Image.Image], columns: int | None = None, side: int = 64, gap: int = 3, height: int = 0
) -> Image.Image:
    """Pictures in rows, each enlarged to about `side` pixels; rows are `height` pixels high at least."""
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures))))
    tiles = [_enlarged(picture, side) for picture in pictures]
    w, h = max(t.width for t in tiles), max(height, *(t.height for t in tiles))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (w + gap) - gap, rows * (h + gap) - gap), _PAPER)
    for k, tile in enumerate(tiles):
        sheet.paste(tile, ((k % columns) * (w + gap), (k // columns) * (h + gap)))
    return sheet


def panels(sheets: Mapping[str, Image.Image], title: str = "", note: str = "", margin: int = 18) -> Image.Image:
    """Sheets beside each other, each under its name; a title above and a note below."""
    big, small = _font(19), _font(14)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = {name: max(sheet.width, math.ceil(ruler.textlength(name, small))) for name, sheet in sheets.items()}
    width = sum(widths.values()) + margin * (len(sheets) + 1)
    width = max(width, *(math.ceil(ruler.textlength(t, f)) + 2 * margin for t, f in ((title, big), (note, small))))
    top = margin + (34 if title else 0) + 24
    height = top + max(sheet.height for sheet in sheets.values()) + margin + (22 if note else 0)
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((margin, margin), title, _INK, font=big)
    left = margin
    for name, sheet in sheets.items():
        pen.text((left, top - 22), name, _SOFT, font=small)
        page.paste(sheet, (left, top))
        left += widths[name] + margin
    if note:
        pen.text((margin, height - margin - 10), note, _SOFT, font=small)
    return page


def view_rows(materials: Materials, rows: int = 4, least: int = 96) -> Image.Image:
    """Each view beside a full sample: the sample, what the view shows of it, and one of the view's own files.

    The last two should look alike: where they differ in size, brightness or place, the recipe's view is not what was
    done to the files.
    """
    full = materials.full
    rows = min(rows, len(full))
    chosen = [full[i] for i in range(rows)]
    longest = max(full.shape[1:])
    side = longest * math.ceil(least / longest)
    height = full.shape[1] * (side // longest)
    sheets = {"full sample": grid([to_pil(s.x, s.mask) for s in chosen], 1, side)}
    rng = torch.Generator().manual_seed(0)
    for name, material in materials.views.items():
        shown = []
        for sample in chosen:
            view: View = material.view.draw(tuple(full.shape), rng)
            seen = view(sample.x[None])[0] / view.scale
            mask = view.mask(tuple(full.shape))
            if view.tau:
                seen = seen + torch.randn(seen.shape, generator=rng) * (view.tau / view.scale)
            shown.append(to_pil(seen, mask))
        files = [material.train[i] for i in range(min(rows, len(material.train)))]
        fixed = material.view.mask(tuple(full.shape)) if material.view.single else None
        own = [to_pil(s.x, fixed if s.mask is None else s.mask) for s in files]
        sheets[f"its {name}"] = grid(shown, 1, side, height=height)
        sheets[f"{name}: files"] = grid(own, 1, side, height=height)
    note = "a view of a full sample and the view's own files should look alike"
    if any(m.view.masked for m in materials.views.values()):
        note += "; pink is hidden"
    return panels(sheets, "full samples and their views", note)


# --- curves ---

_COLOURS = ("#1f6fb4", "#d1495b", "#2a9d62", "#b07c10", "#7a52a8", "#4a4f57", "#c05fa5", "#3aa6b9")


def _figure(rows: int, columns: int, width: float = 4.2, height: float = 2.9) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Any, path: str | Path) -> Path:
    import io

    from bootdiff.runs import atomic_write_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    atomic_write_bytes(path, file.getvalue())
    return path


def loss_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Held-out loss (above) and training loss (below) against steps, a column per kind of network; None without rows.

    Held-out losses are means over the noise levels, 1 for the white base; the training loss of a residual is in units
    of what the views leave over.

    Args:
        rows: those of metrics.jsonl.
        path: PNG to write.
    """
    groups: dict[str, dict[str, tuple[list[tuple[int, float]], ...]]] = {}
    for row in rows:
        kind = str(row["stage"]).split("-")[0]
        held_out, training = groups.setdefault(kind, {}).setdefault(row["stage"], ([], []))
        losses = [v for v in (row.get("heldout") or {}).values() if v is not None]
        if losses:
            held_out.append((row["step"], sum(losses) / len(losses)))
        elif row.get("loss") is not None:
            training.append((row["step"], row["loss"]))
    order = ["view", "full", "residual", "unregularized", "oracle"]
    kinds = sorted(groups, key=lambda kind: order.index(kind) if kind in order else len(order))
    if not kinds:
        return None
    titles = {"view": "views", "full": "full samples alone", "residual": "residual"}
    titles |= {"unregularized": "unregularized", "oracle": "oracle"}
    figure, axes = _figure(2, len(kinds))
    for column, kind in enumerate(kinds):
        for line, axis in enumerate(axes[:, column]):
            for colour, (stage, curves) in zip(_cycle(), groups[kind].items(), strict=False):
                if curves[line]:
                    style = {"marker": "." if line == 0 else None, "label": stage.removeprefix(f"{kind}-")}
                    axis.plot(*zip(*curves[line], strict=True), color=colour, linewidth=1.5, **style)
        axes[0, column].set_title(titles.get(kind, kind), fontsize=11)
        axes[0, column].legend(frameon=False, fontsize=9)
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_ylabel("held-out loss")
    axes[1, 0].set_ylabel("training loss")
    return _write(figure, path)


_ARMS: dict[str, dict[str, Any]] = {
    "full_only": {"color": "#4a4f57", "linestyle": "--"},
    "views_only": {"color": "#b07c10"},
    "unregularized": {"color": "#d1495b"},
    "bootdiff": {"color": "#1f6fb4", "linewidth": 2.6},
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
    figure, axes = _figure(1, 1, 6.4, 4.2)
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
        # Arms far worse than the reference may leave the picture: the others are what it is about.
        axis.set_ylim(top=min(axis.get_ylim()[1], 1.35))
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{v:g}" for v in x])
    axis.minorticks_off()
    axis.set_xlabel("noise level sigma")
    axis.set_ylabel("denoising loss" + (f" / that of {reference.replace('_', ' ')}" if against else ""))
    axis.legend(frameon=False, fontsize=9)
    return _write(figure, path)


def _cycle() -> Any:
    import itertools

    return itertools.cycle(_COLOURS)
