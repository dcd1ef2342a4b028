"""Samples of any kind as images: sheets of samples, views beside full samples, animations of videos.

Images are laid out in a grid, the frames of a video in a row; signals and vectors are plotted (`figures`).  Small
images are enlarged by whole factors, nearest neighbour, so that every pixel is visible.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bootdiff.cli.report import figures
from bootdiff.cli.report.metadata import DataInfo
from bootdiff.data import kind_of, spaced_indices
from bootdiff.method.problem import Problem
from bootdiff.views import View

__all__ = ["animation", "grid", "panels", "quick_sheet", "save_gif", "save_png", "sheet", "to_pil", "view_rows"]

_INK, _SOFT, _PAPER = (25, 28, 33), (105, 112, 122), (255, 255, 255)
_HIDDEN = (226, 138, 160)
_FRAMES = 16  # of a video in a row


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def to_pil(x: Tensor, mask: Tensor | None = None) -> Image.Image:
    """One sample (C, H, W) in [-1, 1] as an 8-bit image: gray or RGB; other numbers of channels side by side, each in
    gray, as no colour can show them.

    mask: (1 or C, H, W); pixels hidden (0) in any channel are drawn in pink.
    """
    if x.shape[0] not in (1, 3):
        mask = None if mask is None else torch.cat(list(mask.expand(x.shape)), -1)[None]
        x = torch.cat(list(x), -1)[None]
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    image = Image.fromarray(pixels.movedim(0, -1).squeeze(-1).contiguous().numpy()).convert("RGB")
    if mask is not None:
        hidden = ((1 - mask.float().amin(0)) * 255).to(torch.uint8).contiguous().numpy()
        image.paste(_HIDDEN, mask=Image.fromarray(hidden))
    return image


def _frames(x: Tensor, mask: Tensor | None = None) -> list[Image.Image]:
    """Frames of one video (C, T, H, W), evenly spaced where there are many."""
    at = spaced_indices(x.shape[1], _FRAMES)
    return [to_pil(x[:, t], None if mask is None else mask[:, t]) for t in at]


def save_png(image: Image.Image, path: str | Path, *, optimize: bool = True) -> Path:
    """Write an image (atomically); creates the folder. optimize: smaller files, which takes seconds for large ones."""
    from bootdiff.training.files import atomic_write_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=optimize)
    atomic_write_bytes(path, file.getvalue())
    return path


def save_gif(x: Tensor, path: str | Path, rate: float | None = None, side: int = 96) -> Path:
    """Videos (n, C, T, H, W) in [-1, 1] side by side as one looping animation, by default at 8 frames a second."""
    from bootdiff.training.files import atomic_write_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = animation(x, side)
    file = io.BytesIO()
    # Viewers slow down animations faster than 50 frames a second.
    pause = max(20, round(1000 / (rate or 8.0)))
    first.save(file, "GIF", save_all=True, append_images=rest, duration=pause, loop=0)
    atomic_write_bytes(path, file.getvalue())
    return path


def animation(x: Tensor, side: int = 96) -> list[Image.Image]:
    """The images of a GIF: at each time, the frames of all videos (n, C, T, H, W) in a grid."""
    return [grid([to_pil(frame) for frame in x[:, :, t]], side=side) for t in range(x.shape[2])]


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    """By the largest whole factor that keeps the longer side within `side` (at least 1)."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(
    images: Sequence[Image.Image], columns: int | None = None, side: int = 64, gap: int = 3, height: int = 0
) -> Image.Image:
    """Images in rows, each enlarged to about `side` pixels; rows are at least `height` pixels high."""
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    tiles = [_enlarged(image, side) for image in images]
    w, h = max(t.width for t in tiles), max(height, *(t.height for t in tiles))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (w + gap) - gap, rows * (h + gap) - gap), _PAPER)
    for k, tile in enumerate(tiles):
        sheet.paste(tile, ((k % columns) * (w + gap), (k // columns) * (h + gap)))
    return sheet


def panels(sheets: Mapping[str, Image.Image], title: str = "", note: str = "", margin: int = 18) -> Image.Image:
    """Sheets side by side, each under its name; a title above and a note below."""
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


def sheet(x: Tensor, info: DataInfo | None = None, real: Tensor | None = None) -> Image.Image:
    """Samples of one kind, (n, C, *space) in stored coordinates, as one image.

    Images: a grid.  Videos: the frames of each in a row, at most 12 videos.  Signals: at most 16 plots.  Vectors: a
    pair plot of the first columns, over that of `real` ones.
    """
    kind = kind_of(x.shape[1:])
    if kind == "image":
        return grid([to_pil(s) for s in x])
    if kind == "video":
        frames = [_frames(s) for s in x[:12]]
        return grid([f for row in frames for f in row], len(frames[0]), side=64)
    if kind == "signal":
        return figures.as_image(figures.signals(x[:16], info))
    groups = {"samples": x} if real is None else {"real": real, "samples": x}
    return figures.as_image(figures.vectors(groups, info), dpi=70)


def quick_sheet(x: Tensor) -> Image.Image:
    """As `sheet`, in milliseconds, for pictures that are drawn while something waits for them: signals are lines and
    vectors points in the plane of their first two columns, without axes, between their own least and largest values.
    """
    kind = kind_of(x.shape[1:])
    if kind in ("image", "video"):
        return sheet(x)
    side, values = 96, x.detach().float().cpu()
    if kind == "signal":
        return grid([_lines(signal, values, 2 * side, side) for signal in values], side=1)
    tile, pen = _tile(2 * side, 2 * side)
    across = [_scaled(values[:, c], values[:, c], 2 * side) for c in (0, min(1, values.shape[1] - 1))]
    for i, j in zip(across[0], across[1], strict=True):
        pen.ellipse((i - 3, 2 * side - j - 3, i + 3, 2 * side - j + 3), fill=figures.COLOURS[0])
    return tile


def _tile(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    tile = Image.new("RGB", (width, height), (246, 247, 249))
    return tile, ImageDraw.Draw(tile)


def _scaled(line: Tensor, among: Tensor, pixels: int) -> list[float]:
    """Values as places between 5 and 95 % of so many pixels."""
    low, high = float(among.min()), float(among.max())
    return ((line - low) / max(high - low, 1e-12) * (0.9 * pixels) + 0.05 * pixels).tolist()


def _lines(signal: Tensor, among: Tensor, width: int, height: int) -> Image.Image:
    tile, pen = _tile(width, height)
    length = signal.shape[1]
    for c, line in enumerate(signal):
        at = [(i * (width - 1) / max(length - 1, 1), height - y) for i, y in enumerate(_scaled(line, among, height))]
        pen.line(at, fill=figures.COLOURS[c % len(figures.COLOURS)], width=1)
    return tile


Samples = list[tuple[Tensor, Tensor | None]]
"""Samples (C, *space) with their masks."""


def view_rows(problem: Problem, rows: int = 4, least: int = 96) -> Image.Image:
    """Each view beside a full sample: the sample, its view, and one of the view's own files.

    The last two should look alike: where they differ in size, brightness or position, the recipe's view is not how the
    files were made.  Vectors, which cannot be inspected one by one, are shown as histograms.
    """
    full, shape = problem.full, tuple(problem.full.shape)
    vectors = kind_of(shape) == "vector"
    rows = min(200 if vectors else rows, len(full))
    chosen = [full[i] for i in spaced_indices(len(full), rows)]
    pairs: dict[str, tuple[Samples, Samples, DataInfo]] = {}
    rng = torch.Generator().manual_seed(0)
    for name, data in problem.every_view().items():
        simulated = []
        for sample in chosen:
            view: View = data.through.draw(shape, rng)
            y = view(sample.x[None])[0] / view.scale
            if view.tau:
                y = y + torch.randn(y.shape, generator=rng) * (view.tau / view.scale)
            simulated.append((y, view.mask(shape)))
        train = data.train
        if train is None:  # its denoiser is pretrained
            pairs[name] = simulated, [], DataInfo()
            continue
        files = [train[i] for i in spaced_indices(len(train), rows)]
        fixed = data.through.mask(shape) if data.through.is_fixed else None
        pairs[name] = simulated, [(s.x, fixed if s.mask is None else s.mask) for s in files], DataInfo.of(train)
    note = "a view of a full sample and the view's own files should look alike"
    if any(m.through.masked for m in problem.every_view().values()):
        note += "; pink is hidden"
    title = "full samples and their views"
    if vectors:
        tables = {}
        for name, (simulated, own, _) in pairs.items():
            tables[name] = {"view of full samples": _table(simulated)} | ({"files": _table(own)} if own else {})
        return panels({"": figures.as_image(figures.histograms(tables))}, title, note)
    # All images are enlarged by one factor, in rows as high as a full sample's.
    videos, longest = kind_of(shape) == "video", max(shape[-2:])
    side = longest * math.ceil((least / 3 if videos else least) / longest)
    height = shape[-2] * (side // longest) if len(shape) > 2 else 0
    first = {"full sample": _column([(s.x, s.mask) for s in chosen], DataInfo.of(full), side, height)}
    sheets = {}
    for name, (simulated, own, info) in pairs.items():
        sheets[name] = {f"its {name}": _column(simulated, info, side, height)}
        if own:
            sheets[name][f"{name}: files"] = _column(own, info, side, height)
    if videos:
        # Their rows are long: one page width for each view.
        pages = [panels({**first, **sheet}, title if i == 0 else "") for i, sheet in enumerate(sheets.values())]
        return panels({"": grid(pages, 1, side=1, gap=0)}, note=note)
    return panels(first | {k: v for sheet in sheets.values() for k, v in sheet.items()}, title, note)


def _table(samples: Samples) -> Tensor:
    return torch.stack([x for x, _ in samples])


def _column(samples: Samples, info: DataInfo, side: int, height: int) -> Image.Image:
    """Samples in one column."""
    kind = kind_of(samples[0][0].shape)
    if kind == "image":
        return grid([to_pil(x, mask) for x, mask in samples], 1, side, height=height)
    if kind == "video":
        rows = [_frames(x, mask) for x, mask in samples]
        return grid([f for row in rows for f in row], len(rows[0]), side, gap=2, height=height)
    return figures.as_image(figures.signals(_table(samples), info, [mask for _, mask in samples], columns=1), dpi=70)
