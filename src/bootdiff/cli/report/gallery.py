"""gallery.html: what a run's arms draw beside real samples, and a test whether an eye can tell them.

One self-contained page.  The test shows single pictures or videos in an order drawn from a seed, as many of each kind
as there are; its score is the share of each kind that was taken for real.  Drawn ones that are taken for real as often
as the real ones cannot be told from them.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bootdiff.cli.report.html import template
from bootdiff.cli.report.images import animation, grid, to_pil

__all__ = ["REAL", "Sheet", "build"]

REAL = "real"
_SHEET, _ONE = 96, 192  # pixels of a sample's longer side in a sheet, in the test
_RATE, _COLUMNS = 8.0, 8


@dataclass(frozen=True)
class Sheet:
    """Samples of one kind, (n, C, H, W) or (n, C, T, H, W) in [-1, 1]; the command that draws more, "" for none."""

    samples: Tensor
    caption: str
    command: str = ""


def build(
    title: str, lead: str, sheets: Mapping[str, Sheet], *, each: int, seed: int, blind: bool, made: str,
    rate: float | None = None,
) -> str:  # fmt: skip
    """The page, as HTML.

    Args:
        sheets: by their titles, `REAL` among them.
        each: how many of each kind the test shows.
        seed: of the test's order.
        blind: the sheets are hidden until the test is done.
        rate: frames a second, of videos.
    """
    shown = [
        {
            "title": name, "caption": sheet.caption, "command": sheet.command,
            "source": _source(sheet.samples, _SHEET, rate),
            "alt": f"{len(sheet.samples)} samples: {name}",
        }
        for name, sheet in sheets.items()
    ]  # fmt: skip
    names = list(sheets)
    questions = [
        {"of": k, "source": _source(sheet.samples[i : i + 1], _ONE, rate)}
        for k, sheet in enumerate(sheets.values())
        for i in range(min(each, len(sheet.samples)))
    ]
    random.Random(seed).shuffle(questions)
    video = next(iter(sheets.values())).samples.ndim == 5
    return template("gallery.html").render(
        title=title, lead=lead, sheets=shown, questions=questions, names=names, blind=blind, made=made,
        drawn=[name for name in names if name != REAL], things="videos" if video else "pictures",
    )  # fmt: skip


def _source(x: Tensor, side: int, rate: float | None) -> str:
    """Pictures as one PNG, videos as one GIF, as a data URI."""
    file = io.BytesIO()
    if x.ndim == 5:
        first, *rest = animation(x, side)
        pause = max(20, round(1000 / (rate or _RATE)))
        first.save(file, "GIF", save_all=True, append_images=rest, duration=pause, loop=0)
        return "data:image/gif;base64," + base64.b64encode(file.getvalue()).decode()
    grid([to_pil(one) for one in x], min(len(x), _COLUMNS), side).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
