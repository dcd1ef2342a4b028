"""A self-contained page of blocks: text, lists, tables, plots, pictures, code. Everything in it is escaped, pictures
are within it, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

__all__ = [
    "Block", "Bullets", "Code", "Picture", "Pictures", "Plots", "Progress", "Section", "Table", "Text", "render",
    "template",
]  # fmt: skip

_LARGE = 150_000  # bytes of a picture from which on it is made smaller


@dataclass
class Block:
    """Something in a section; `kind` is what the template calls it."""

    kind: ClassVar[str] = ""


@dataclass
class Text(Block):
    """A paragraph; soft: a remark."""

    kind = "text"
    text: str
    soft: bool = False


@dataclass
class Bullets(Block):
    """Sentences, one below the other."""

    kind = "bullets"
    items: Sequence[str]


@dataclass
class Table(Block):
    """Rows under a head; the first cell of each names the row. strong: the row to be set bold, by its first cell."""

    kind = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str = ""
    folded: bool = False


@dataclass
class Plots(Block):
    """Plots side by side, each as (SVG, legend, caption)."""

    kind = "plots"
    plots: Sequence[tuple[Markup, Markup, str]]


@dataclass
class Picture:
    """A PNG within the page; large ones at most `width` pixels wide.

    Raises:
        OSError: it cannot be read.
    """

    path: Path
    alt: str
    caption: str = ""
    width: int = 900
    source: str = field(init=False)

    def __post_init__(self) -> None:
        data = _small(self.path, self.path.stat().st_mtime_ns, self.width)
        self.source = "data:image/png;base64," + base64.b64encode(data).decode()


@lru_cache(maxsize=64)  # a report is written again and again
def _small(path: Path, changed: int, width: int) -> bytes:
    """The bytes of a PNG, made smaller where they are many."""
    data = path.read_bytes()
    if len(data) <= _LARGE:
        return data
    with Image.open(path, formats=["PNG"]) as image:
        if image.width <= width:
            return data
        smaller = image.convert("RGB").resize((width, max(1, image.height * width // image.width)))
    file = io.BytesIO()
    smaller.save(file, "PNG")
    return file.getvalue()


@dataclass
class Pictures(Block):
    """Pictures: side by side, in a strip that scrolls, or below each other in their own size."""

    kind = "pictures"
    pictures: Sequence[Picture]
    layout: str = "beside"  # or "strip", "below"
    title: str = ""


@dataclass
class Code(Block):
    """Lines to copy."""

    kind = "code"
    text: str


@dataclass
class Progress(Block):
    """So much of a whole, in steps."""

    kind = "progress"
    done: int
    of: int
    text: str


@dataclass
class Section:
    """A heading and what stands under it."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def render(**content: Any) -> str:
    """The page. content: title, lead, badge (text, look), facts (label, value), notes, sections, made."""
    return template("page.html").render(**content)


@cache
def template(name: str) -> Any:
    """A template of jinja2 beside this file: what is put into it is escaped, what is missing is an error."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = files("bootdiff.cli.report").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text)
