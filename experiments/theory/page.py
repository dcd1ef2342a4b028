"""`bootdiff theory`: runs the experiments, writes figures, results.json and one self-contained page.

In the folder: figures/N-name.svg and .png, results.json (claims, figures, tables, curves as numbers), index.html.
"""

from __future__ import annotations

import io
import math
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bootdiff.cli.console import Console, clock
from bootdiff.errors import BootdiffError
from bootdiff.training.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from experiments.theory.claims import EXPERIMENTS, Panel, Result

__all__ = ["draw", "formatted", "run_experiments"]

COLOURS = ("#3d6fb4", "#c8553d", "#3c8d5a", "#8a5fa8", "#b98a2e", "#4aa3a8", "#8c564b", "#6b7280")


def run_experiments(only: Sequence[int], out: Path, screen: Console, fast: bool = False) -> bool:
    """Run the experiments (all, or those of these numbers) and write everything; True when every claim held.

    Raises:
        BootdiffError: a number that is no experiment's.
    """
    unknown = sorted(set(only) - set(EXPERIMENTS))
    if unknown:
        raise BootdiffError(f"--only {unknown[0]}: there are the experiments {', '.join(map(str, EXPERIMENTS))}")
    numbers = sorted(set(only)) or list(EXPERIMENTS)
    names = {n: f"{n} {EXPERIMENTS[n].__name__.replace('_', ' ')}" for n in numbers}
    screen.expect(list(names.values()))
    results: dict[int, Result] = {}
    seconds: dict[int, float] = {}
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for n in numbers:
        begin = time.monotonic()
        with screen.work(names[n]) as done:
            results[n] = EXPERIMENTS[n](fast=fast, done=done)
        seconds[n] = time.monotonic() - begin
        result = results[n]
        for kind, data in draw(result).items():
            atomic_write_bytes(out / "figures" / f"{_stem(n, result)}.{kind}", data)
        screen.print(f"{'holds' if result.passed else 'FAILS'}  {n}. {result.name}  ({clock(seconds[n])})",
                   "green" if result.passed else "bold red")  # fmt: skip
        for key, value in result.figures.items():
            screen.print(f"         {key}: {formatted(value)}")
    passed = all(r.passed for r in results.values())
    about = {
        "passed": passed,
        "fast": fast,
        "versions": {name: version(name) for name in ("bootdiff", "torch", "numpy")}
        | {"python": platform.python_version()},
    }
    report = {
        str(n): asdict(r) | {"seconds": seconds[n], "figure": f"figures/{_stem(n, r)}.svg"} for n, r in results.items()
    }
    atomic_write_json(out / "results.json", about | {"experiments": report})
    atomic_write_text(out / "index.html", _page(results, seconds, about))
    return passed


def _stem(n: int, result: Result) -> str:
    return f"{n}-{re.sub('[^a-z0-9]+', '-', result.name.lower()).strip('-')}"


def draw(result: Result) -> dict[str, bytes]:
    """The result's figure, {"svg": ..., "png": ...}; the same bytes every time."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "svg.fonttype": "path", "svg.hashsalt": "bootdiff", "legend.frameon": False, "legend.fontsize": 7.5,
    }  # fmt: skip
    files: dict[str, bytes] = {}
    with rc_context(style):
        count = len(result.panels)
        figure = Figure(figsize=(min(3.9 * count + 2.2, 13), 3.7), layout="constrained")
        for axes, panel in zip(figure.subplots(1, count, squeeze=False)[0], result.panels, strict=True):
            _panel(axes, panel)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        for kind in ("svg", "png"):
            file = io.BytesIO()
            metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=144, metadata=metadata)
            files[kind] = file.getvalue()
    return files


def _panel(axes: Any, panel: Panel) -> None:
    for k, curve in enumerate(panel.curves):
        marker = "." if len(curve.x) <= 60 else ""
        look = {"line": {"marker": marker}, "dots": {"marker": "x", "linestyle": ""}, "dashes": {"linestyle": "--"}}
        # a curve and the dots on it share a colour
        same = k > 0 and curve.style == "dots"
        colour = axes.lines[-1].get_color() if same else COLOURS[k % len(COLOURS)]
        colour = "#1f2328" if curve.style == "dashes" else colour
        axes.plot(curve.x, curve.y, label=curve.label, color=colour, linewidth=1.3, markersize=5, **look[curve.style])
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    for axis in panel.log:
        getattr(axes, f"set_{axis}scale")("log")


def formatted(value: Any) -> str:
    """A table's value for people: four digits.

    >>> formatted(0.123456), formatted(12), formatted(1.0e-9), formatted("halves")
    ('0.1235', '12', '1e-09', 'halves')
    """
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "∞"
    return f"{value:.4g}"


def _page(results: dict[int, Result], seconds: dict[int, float], about: dict[str, Any]) -> str:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["formatted"] = formatted
    pictures = {n: _inline(draw(r)["svg"], n) for n, r in results.items()}
    return environment.from_string(_PAGE).render(results=results, seconds=seconds, pictures=pictures, **about)


def _inline(svg: bytes, n: int) -> Any:
    """An SVG to stand within HTML: without its prolog, its ids made unique to this experiment."""
    from markupsafe import Markup

    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>e{n}-", text)
    return Markup(text)


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bootdiff: theory</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; }
.badge { font-size: .8rem; font-weight: 600; padding: .15rem .55rem; border-radius: .6rem; vertical-align: middle; }
.holds { background: #dcf2e3; color: #17633a; } .fails { background: #fbdcd6; color: #98230f; }
svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e3e6ea; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { vertical-align: bottom; white-space: normal; }
.note { color: #57606a; }
@media (prefers-color-scheme: dark) {
  body { background: #16191d; color: #dfe3e8; } th, td { border-color: #333a42; } .note { color: #a3adb8; }
  svg { background: #fff; border-radius: .4rem; }
}
</style>
</head>
<body>
<h1>The theory, tested</h1>
<p>Each claim of <a href="https://arxiv.org/abs/2505.11825">Ma 2025</a> (or of ours) as an experiment on laws whose
denoisers are known exactly. Excess risks are mean squares over all coordinates, above the best denoiser's.
Made by <code>bootdiff theory</code>{% if fast %} in its fast version, with fewer draws{% endif %};
{% for name, v in versions.items() %}{{ name }} {{ v }}{{ ", " if not loop.last }}{% endfor %}.</p>
<table>
<tr><th>experiment</th><th>claim</th><th>seconds</th></tr>
{% for n, r in results.items() %}
<tr><td><a href="#e{{ n }}">{{ n }}. {{ r.name }}</a></td>
<td><span class="badge {{ 'holds' if r.passed else 'fails' }}">{{ "holds" if r.passed else "fails" }}</span></td>
<td>{{ "%.1f"|format(seconds[n]) }}</td></tr>
{% endfor %}
</table>
{% for n, r in results.items() %}
<h2 id="e{{ n }}">{{ n }}. {{ r.name }}
<span class="badge {{ 'holds' if r.passed else 'fails' }}">{{ "holds" if r.passed else "fails" }}</span></h2>
<p>{{ r.claim }}</p>
<div class="wide">{{ pictures[n] }}</div>
{% for note in r.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
<table>
{% for key, value in r.figures.items() %}
<tr><td>{{ key.replace("_", " ") }}</td><td>{{ value|formatted }}</td></tr>
{% endfor %}
</table>
<details><summary>Table</summary><div class="wide"><table>
<tr>{% for c in r.columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in r.rows %}
<tr>{% for v in row %}<td>{{ v|formatted }}</td>{% endfor %}</tr>
{% endfor %}
</table></div></details>
{% endfor %}
</body>
</html>
"""
