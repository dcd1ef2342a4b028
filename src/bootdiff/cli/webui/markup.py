"""Pieces of the page as HTML: pictures within it, messages, a report in a frame. Every text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from importlib.resources import files

from markupsafe import Markup, escape
from PIL import Image

from bootdiff.cli.report import svg

__all__ = [
    "CSS",
    "bars",
    "block",
    "bullets",
    "figure",
    "figures",
    "frame",
    "heading",
    "legend",
    "note",
    "png",
    "progress",
    "text",
]

_NARROW = 96  # pixels

CSS = files("bootdiff.cli.webui").joinpath("page.css").read_text(encoding="utf-8")


def _whole(*parts: object) -> str:
    return str(Markup('<div class="bd">') + Markup("").join(parts) + Markup("</div>"))  # type: ignore[arg-type]


def text(sentence: str, soft: bool = False) -> Markup:
    """A paragraph."""
    return Markup('<p class="soft">{}</p>' if soft else "<p>{}</p>").format(sentence)


def bullets(sentences: Iterable[str]) -> Markup:
    """Sentences, one below the other."""
    return Markup("<ul>") + Markup("").join(Markup("<li>{}</li>").format(s) for s in sentences) + Markup("</ul>")


def note(message: str, bad: bool = True) -> str:
    """A message; what is wrong is read out at once by those who do not see the page."""
    if not message:
        return ""
    look = Markup('<p class="bad" role="alert">{}</p>') if bad else Markup('<p role="status">{}</p>')
    return _whole(look.format(message))


def block(*parts: object) -> str:
    """Markup as a piece of the page; plain texts are escaped."""
    return _whole(*(part if isinstance(part, Markup) else escape(part) for part in parts))


def progress(done: int, of: int, what: str) -> str:
    """So much of a whole."""
    bar = Markup('<progress max="{}" value="{}" aria-label="{}"></progress>').format(max(of, 1), done, what)
    return _whole(bar, text(what, soft=True))


def png(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def figure(image: Image.Image, alt: str, caption: str = "", least: int = 0, below: Markup | None = None) -> Markup:
    """A picture with what it shows in words. least: pixels that it is wide on the page, at least."""
    factor = max(1, -(-least // image.width))
    caption_ = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    shown = Markup('<img src="{}" alt="{}" width="{}">').format(Markup(png(image)), alt, image.width * factor)
    # The words below stand in the width of the picture.
    return (
        Markup('<figure style="max-width:{}px">').format(max(_NARROW, image.width * factor))
        + shown
        + (below or Markup(""))
        + caption_
        + Markup("</figure>")
    )


def figures(found: Iterable[Markup], look: str = "beside", label: str = "") -> Markup:
    """Pictures side by side (beside), or in a strip that scrolls (film)."""
    name = Markup(' tabindex="0" role="region" aria-label="{}"').format(label) if look == "film" else Markup("")
    return Markup('<div class="{}"{}>').format(look, name) + Markup("").join(found) + Markup("</div>")


def heading(title: str, beside: str) -> Markup:
    """The head of the page."""
    return Markup('<h1>{} <span class="soft">{}</span></h1>').format(title, beside)


def legend(shares: Iterable[str]) -> Markup:
    """The names beside the colours of `bars`."""
    return svg.legend(list(shares), areas=True)


def bars(shares: dict[str, float]) -> Markup:
    """Shares of 1 as a stacked bar."""
    said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    parts = [Markup('<span class="k{}" style="width:{}%"></span>').format(k, round(100 * share, 1))
             for k, share in enumerate(shares.values())]  # fmt: skip
    return (
        Markup('<div class="bar" role="img" aria-label="{0}" title="{0}">').format(said)
        + Markup("").join(parts)
        + Markup("</div>")
    )


def frame(page: str, title: str) -> str:
    """A page within the page: it can run nothing and reach nothing."""
    return _whole(Markup('<iframe sandbox="" srcdoc="{}" title="{}"></iframe>').format(page, title))
