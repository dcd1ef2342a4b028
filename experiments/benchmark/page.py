"""What `bootdiff bench NAME --table` writes: the benchmark's section of docs/benchmarks.md, and its plots.

Between `<!-- table bench-NAME -->` and `<!-- end -->` of the page stand the tables of `tables` and the pictures
docs/images/bench-NAME-*.png, each with the results that it was made of.  A page without these markers gets them at its
end.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootdiff.cli.report.figures import COLOURS
from bootdiff.errors import BootdiffError
from bootdiff.training.files import atomic_write_text, read_json
from experiments.benchmark import tables
from experiments.benchmark.benchmarks import Benchmark

__all__ = ["write_page"]


def write_page(which: Benchmark, out: Path, docs: Path) -> list[Path]:
    """Write the section and the plots; returns the files written.

    Raises:
        BootdiffError: no results, or no page to write into.
    """
    page = docs / "benchmarks.md"
    if not page.is_file():
        raise BootdiffError(f"{page}: no such file; run the command in the project's folder")
    results = tables.read(out, which.name)
    found = tables.columns(results)
    if not found:
        raise BootdiffError(f"{out / which.name}: no result with views yet; run `bootdiff bench {which.name}` first")
    text = page.read_text(encoding="utf-8")
    marker = f"<!-- table bench-{which.name} -->"
    if marker not in text:
        text = f"{text.rstrip()}\n\n## All methods at the same cost: {which.name}\n\n{marker}\n<!-- end -->\n"
    images = docs / "images"
    images.mkdir(exist_ok=True)
    written, body = [page], [_heading(which, results, out)]
    for n in sorted({c.n_full for c in found}):
        own = [c for c in found if c.n_full == n]
        body += [
            f"**{n:g} % in full.** Denoising loss on the test images, ± deviation over seeds.",
            tables.loss_table(own),
        ]
        picture = images / f"bench-{which.name}-n{n:g}.png"
        _against_full(own, picture)
        written.append(picture)
        body.append(f"![Loss less that of full-only, {n:g} % in full](images/{picture.name})")
        body.append(_named(out, which.name, own))
        body += ["Sample-weighted loss, ± deviation over seeds.", tables.weighted_table(own)]
    body += [
        "bootdiff against the best other arm, for each kind of views and share in full.",
        tables.verdict_table(results, found),
        "bootdiff by both rulers: denoising loss and samples. A dash: no samples were drawn, or there is no gap.",
        tables.ruler_table(found),
    ]
    if len({c.n_full for c in found}) > 1:
        picture = images / f"bench-{which.name}-samples.png"
        _over_samples(results, found, picture)
        written.append(picture)
        body += [f"![Loss over the number of full samples](images/{picture.name})", _named(out, which.name, found)]
    quality = tables.quality_table(found)
    if quality:
        body += ["Samples, by the features that the results name.", quality]
    tuned = out / which.name / "tuned.json"
    chosen = tables.tuning_table(read_json(tuned)) if tuned.is_file() else ""
    if chosen:
        body += ["Settings that were tuned, and those that won; all other arms have the default ones.", chosen]
    body += [f"What an arm costs, {found[0].views}, {found[0].n_full:g} %.", tables.cost_table(found[0])]
    atomic_write_text(page, tables.fill(text, {f"bench-{which.name}": "\n\n".join(body)}))
    return written


def _heading(which: Benchmark, results: Sequence[tables.Result], out: Path) -> str:
    first = results[0]
    return (
        f"{which.pool:,} samples of {' x '.join(map(str, which.size))}, {first['count']:,} test images, every arm at "
        f"most {which.flops / 1e12:g} TFLOP of training and the best of {first['trials']} settings where tuned. Raw: "
        f"`{(out / which.name).as_posix()}`, {len(results)} files; made by `bootdiff bench {which.name}`, "
        f"written here by `bootdiff bench {which.name} --table`."
    )


def _named(out: Path, name: str, found: Sequence[tables.Column]) -> str:
    """The results that a figure was made of."""
    parts = []
    for folder in sorted({r["file"].split("/")[0] for c in found for rows in c.arms.values() for r in rows.values()}):
        of = {
            (c.n_full, s)
            for c in found
            for rows in c.arms.values()
            for s, r in rows.items()
            if r["file"].startswith(folder + "/")
        }
        ns, seeds = sorted({n for n, _ in of}), sorted({s for _, s in of})
        parts.append(f"`{folder}/*-n{{{','.join(f'{n:g}' for n in ns)}}}-seed{{{','.join(map(str, seeds))}}}.json`")
    return "Made of " + ", ".join(parts) + f" in `{(out / name).as_posix()}`."


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _against_full(found: Sequence[tables.Column], path: Path) -> None:
    """Per kind of views, every arm's loss less full-only's, with both errors.

    The axis ends at twice the largest gain of any arm, or above the worst: what is worse still is a triangle at the
    edge, with its value.
    """
    width = 1.5 + 1.6 * len(found)
    figure, axes = _axes(width, 4.6)
    arms = list(dict.fromkeys(arm for c in found for arm in c.arms if arm != "full_only"))
    compared = [[c.difference(arm, "full_only") for c in found] for arm in arms]
    gain = max([-d.mean for row in compared for d in row if d is not None and d.mean < 0], default=0.01)
    worst = max([d.mean + 3 * d.error for row in compared for d in row if d is not None], default=0.0)
    top = min(2 * gain, max(worst, 0.25 * gain))
    colours = dict(zip((a for a in arms if a not in tables.REFERENCE), itertools.cycle(COLOURS), strict=False))
    colours |= {"bootdiff": "black", "oracle": "#9a9a9a", "unregularized": "#c9c9c9"}
    for k, (arm, row) in enumerate(zip(arms, compared, strict=True)):
        at = [i + (k + 0.5 - len(arms) / 2) * 0.85 / len(arms) for i in range(len(found))]
        inside = [(x, d) for x, d in zip(at, row, strict=True) if d is not None and d.mean <= top]
        style: dict[str, Any] = {"color": colours[arm], "zorder": 3 if arm == "bootdiff" else 2}
        axes.errorbar(
            [x for x, _ in inside], [d.mean for _, d in inside], [2 * d.error for _, d in inside], fmt="o",
            markersize=6.5 if arm == "bootdiff" else 4.0, label=arm.replace("_", "-"), **style,
        )  # fmt: skip
        for x, d in zip(at, row, strict=True):
            if d is not None and d.mean > top:
                axes.plot([x], [0.96 * top], marker="^", markersize=5, linestyle="", **style)
                axes.annotate(f"{d.mean:+.3f}", (x, 0.93 * top), rotation=90, fontsize=6.5, ha="center", va="top")
    axes.set_ylim(-1.25 * gain, top)
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xticks(range(len(found)), [c.views for c in found])
    axes.set_ylabel("loss - loss of full-only (± 2 s.e.)")
    figure.legend(loc="outside lower center", fontsize=8, ncols=min(6, int(width / 1.5)), frameon=False)
    figure.savefig(path, dpi=110)


def _over_samples(results: Sequence[tables.Result], found: Sequence[tables.Column], path: Path) -> None:
    """Loss over the number of full samples: full-only, the oracle, and bootdiff for each kind of views."""
    figure, axes = _axes(6.0, 4.0)
    lines: dict[str, dict[int, list[float]]] = {}
    for r in results:
        if r["arm"] in ("full_only", "oracle", "bootdiff"):
            name = r["arm"].replace("_", "-") + (f", {r['views']}" if r["arm"] == "bootdiff" else "")
            lines.setdefault(name, {}).setdefault(r["count_full"], []).append(r["holdout_loss"]["mean"])
    for name, points in lines.items():
        counts = sorted(points)
        axes.plot(counts, [statistics.fmean(points[n]) for n in counts], "o-", markersize=3.5, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("full samples")
    axes.set_ylabel("denoising loss")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
