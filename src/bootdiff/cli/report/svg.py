"""Plots as inline SVG, a few kilobytes and a millisecond each: lines, and stacked columns. Their colours are the page's
(classes k0, k1, ...), so that they follow its light and dark; lines also differ by their dashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

__all__ = ["COLOURS", "columns", "legend", "lines"]

COLOURS = 8
_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 10, 40
_DOTS = 12  # points of a curve up to which each is marked
_DASHES = ("", "6 3", "2 3", "8 3 2 3")

Points = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Points], title: str, x: str, y: str, *, log: bool = False, at: float | None = None,
    errors: Mapping[str, Sequence[float]] | None = None, strong: str = "",
) -> Markup:  # fmt: skip
    """Curves by name, as an SVG.

    Args:
        series: (x, y) of each; not finite ones are left out.
        title: what it shows, for those who do not see it.
        x, y: what the axes mean.
        log: whether x is logarithmic; its values are then the ticks.
        at: a value of y to mark by a line.
        errors: of curves by name, a bar above and below each point.
        strong: the curve to be drawn bold.
    """
    clean = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    every = [p for points in clean.values() for p in points]
    if not every:
        return Markup("")
    xs, ys = [p[0] for p in every], [p[1] for p in every] + ([] if at is None else [at])
    low, high = _padded(min(ys), max(ys))
    place = _Place(min(xs), max(xs), low, high, log)
    parts = _axes(place, x, y, sorted(set(xs)) if log else _ticks(min(xs), max(xs), 5), _ticks(low, high, 5))
    if at is not None:
        parts.append(_across("mark", place.y(at)))
    for k, (name, points) in enumerate(clean.items()):
        look = _look(k, name == strong)
        at_points = [(place.x(px), place.y(py)) for px, py in points]
        for (px, py), error in zip(points, (errors or {}).get(name, ())):
            top, bottom = place.y(min(py + error, high)), place.y(max(py - error, low))
            parts.append(_tag("line", look=f"bar {look}", x1=place.x(px), x2=place.x(px), y1=top, y2=bottom))
        path = " ".join(f"{px},{py}" for px, py in at_points)
        parts.append(_tag("polyline", look=f"curve {look}", points=path, stroke_dasharray=_dash(k, name == strong)))
        if len(points) <= _DOTS:
            parts += [_tag("circle", look=look, cx=px, cy=py, r=2.6) for px, py in at_points]
    return _svg(title, parts)


def columns(shares: Mapping[str, Sequence[float]], at: Sequence[float], title: str, x: str, y: str) -> Markup:
    """Columns of shares, one per place, as an SVG.

    Args:
        shares: of each name at each place, >= 0, drawn on top of each other up to 1.
        at: the places, for their ticks.
    """
    place = _Place(0, len(at), 0, 1, False)
    parts = _axes(place, x, y, [], [0, 0.25, 0.5, 0.75, 1], percent=True)
    below = [0.0] * len(at)
    width = round((place.x(1) - place.x(0)) * 0.86, 1)
    for k, values in enumerate(shares.values()):
        for i, value in enumerate(values):
            top, bottom = place.y(min(1, below[i] + value)), place.y(min(1, below[i]))
            below[i] += value
            if bottom > top:
                height = round(bottom - top, 1)
                parts.append(_tag("rect", look=_look(k), x=place.x(i + 0.07), y=top, width=width, height=height))
    parts += [_text(f"{value:g}", "tick", place.x(i + 0.5), _HEIGHT - _BOTTOM + 15) for i, value in enumerate(at)]
    return _svg(title, parts)


def legend(names: Sequence[str], strong: str = "", *, areas: bool = False) -> Markup:
    """The names of curves (or areas) beside their colours, as HTML."""
    items = []
    for k, name in enumerate(names):
        bold = name == strong and not areas
        inside = (
            _tag("rect", look=_look(k), width=22, height=10) if areas
            else _tag("line", look=f"curve {_look(k, bold)}", x1=0, x2=22, y1=5, y2=5, stroke_dasharray=_dash(k, bold))
        )  # fmt: skip
        key = Markup(f'<svg viewBox="0 0 22 10" width="22" height="10" aria-hidden="true">{inside}</svg>')
        items.append(Markup("<li>{} {}</li>").format(key, name))
    return Markup('<ul class="legend">') + Markup("").join(items) + Markup("</ul>")


# --- details ----------------------------------------------------------------------------------------------------------


class _Place:
    """From values to places in the SVG."""

    def __init__(self, left: float, right: float, low: float, high: float, log: bool) -> None:
        self.log = log
        self.left, self.right = self._scale(left), self._scale(right)
        self.low, self.high = low, high

    def _scale(self, value: float) -> float:
        return math.log(value) if self.log else value

    def x(self, value: float) -> float:
        share = (self._scale(value) - self.left) / ((self.right - self.left) or 1)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between two others.

    >>> _ticks(0, 400, 5), _ticks(0.93, 1.07, 5)
    ([0, 100, 200, 300, 400], [0.95, 1.0, 1.05])
    """
    if high <= low:
        return [low]
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _axes(
    place: _Place, x: str, y: str, across: Sequence[float], up: Sequence[float], *, percent: bool = False
) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [_across("axis", bottom)]
    for value in up:
        height = place.y(value)
        parts.append(_across("grid", height))
        parts.append(_text(f"{100 * value:g} %" if percent else f"{value:g}", "tick", _LEFT - 5, height + 3.5, "end"))
    parts += [_text(f"{value:g}", "tick", place.x(value), bottom + 15) for value in across]
    parts.append(_text(x, "label", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6))
    turned = f"translate(11 {(_TOP + bottom) / 2:g}) rotate(-90)"
    return [*parts, _text(y, "label", 0, 0, transform=turned)]


def _tag(name: str, content: str = "", look: str = "", **attributes: object) -> str:
    """An element; `content` is markup, attributes are numbers and texts of ours."""
    found = {"class": look, **attributes}
    text = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in found.items() if value != "")
    return f"<{name}{text}>{content}</{name}>"


def _text(text: str, look: str, x: float, y: float, anchor: str = "middle", transform: str = "") -> str:
    return _tag("text", escape(text), look, x=round(x, 1), y=round(y, 1), text_anchor=anchor, transform=transform)


def _across(look: str, height: float) -> str:
    return _tag("line", look=look, x1=_LEFT, x2=_WIDTH - _RIGHT, y1=height, y2=height)


def _look(k: int, strong: bool = False) -> str:
    return f"k{k % COLOURS}{' strong' if strong else ''}"


def _dash(k: int, strong: bool) -> str:
    return "" if strong else _DASHES[k // 2 % len(_DASHES)]


def _svg(title: str, parts: Sequence[str]) -> Markup:
    inside = "".join(parts)
    return Markup(  # of numbers and escaped names alone
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{inside}</svg>'
    )
