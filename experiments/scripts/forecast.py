"""How good is `bootdiff plan`? Its forecasts against what training gave.

    python -m experiments.scripts.forecast [--runs runs]

For every experiments/results/NAME/seed-S.json (metrics of a `bootdiff arms` run) the recipe NAME is forecast at seed S,
which takes half a minute each, and written to experiments/results/forecast/NAME-seed-S.json; what lies there is not
made again. Where the run itself is at hand (RUNS/NAME/seed-S), the weights
that training gave each view beside the full samples (`screening`) are noted, too. Then forecast/comparison.json, the
tables of docs/theory.md and the figure docs/theory/forecast.svg are written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bootdiff.training.files import atomic_write_json, read_json, read_record
from experiments.scripts.results import RECIPES, RESULTS, ROOT, insert

__all__ = ["compare", "draw", "forecast_recipe", "main", "tables"]

NAMES = ("digits", "cats32-thumbnails", "cats32-two-views", "cats32-useless")


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Where the run lies that the results are of."""
    return runs / name / f"seed-{seed}"


def recipe_file(name: str) -> Path:
    """The recipe of this name, in experiments/recipes."""
    return RECIPES / f"{name}.yaml"


def forecast_recipe(path: Path, seed: int, run: Path, out: Path) -> dict[str, Any]:
    """The forecast of a recipe at a seed; read from the file `out` where it is there, else made and written.

    Returns:
        {"recipe", "seed", "cpu_seconds", "forecast"} and, where the finished run is there, "screening": its weights of
        the views beside the full samples.
    """
    if out.is_file():
        return dict(read_json(out))
    import torch

    from bootdiff.cli.plan import forecast_of
    from bootdiff.recipe.build import build_problem
    from bootdiff.recipe.schema import load_recipe

    torch.set_num_threads(1)
    recipe = load_recipe(path).model_copy(update={"seed": seed})
    begin = time.process_time()
    forecast = forecast_of(recipe, build_problem(recipe))
    seconds = time.process_time() - begin
    found = {"recipe": path.stem, "seed": seed, "cpu_seconds": seconds, "forecast": asdict(forecast)}
    screening = run / "stages" / "screening" / "done.json"
    if screening.is_file():
        found["screening"] = read_record(screening)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out, found)
    print(f"{path.stem}, seed {seed}: {seconds:.0f} s")
    return found


def means(rows: list[list[float]]) -> list[float]:
    """Over the seeds (rows), per noise level (columns).

    >>> means([[1.0, 2.0], [3.0, 4.0]])
    [2.0, 3.0]
    """
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def ranks(values: list[float]) -> list[float]:
    """The place of each value among them, from 0 for the least.

    >>> ranks([0.3, 0.1, 0.2])
    [2.0, 0.0, 1.0]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    return [float(order.index(i)) for i in range(len(values))]


def compare(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Forecast and measurement of one recipe.

    Args:
        pairs: for each seed what `forecast_recipe` returned, and the metrics of its run.

    Returns:
        a row of comparison.json: lists are per noise level, those `_per_seed` lists of such lists. "measured" and
        "forecast" are by how much bootdiff's loss lies below full-only's.
    """
    levels = [f"{s:g}" for s in pairs[0][0]["forecast"]["levels"]]
    measured, forecast, full, own, shares, known = [], [], [], [], [], []
    for f, m in pairs:
        losses, found = m["holdout_loss"], f["forecast"]
        at = {arm: [losses[arm]["per_level"][s]["mean"] for s in levels] for arm in losses}
        versus = losses["bootdiff"]["versus"]["full_only"]["per_level"]
        measured.append([-versus[s]["mean"] for s in levels])
        helps = found["together"]["helps"]
        forecast.append([r if on else 0.0 for r, on in zip(found["together"]["raw"], helps, strict=True)])
        full.append(at["full_only"])
        own.append(found["full_only"])
        shares.append(found["share"])
        known.append([(1 - v) / (1 - b) for v, b in zip(at["views_only"], at["bootdiff"], strict=True)])
    a, b = means(forecast), means(measured)
    views = {}
    for view in pairs[0][0]["forecast"]["views"]:
        rows = [f["forecast"]["views"][view] for f, _ in pairs]
        weights = [
            [row[f["screening"]["names"].index(view)] for row in f["screening"]["values"]]
            for f, _ in pairs
            if "screening" in f
        ]
        views[view] = {
            "verdicts": [v["verdict"] for v in rows],
            "used": [any(w > 0 for w in one) for one in weights],
            "screening": means(weights) if weights else None,
            "added": means([v["added"]["raw"] for v in rows]),
            "samples": [v["alone"]["mean_samples"] for v in rows],
            "interval": [v["alone"]["interval"] for v in rows],
            "fit": [v["fit"] and v["fit"][0] for v in rows],
        }
    varied = len(set(a)) > 1 and len(set(b)) > 1
    return {
        "recipe": name, "seeds": [f["seed"] for f, _ in pairs], "levels": levels,
        "measured": b, "measured_per_seed": measured, "forecast": a, "forecast_per_seed": forecast,
        "rank_correlation": statistics.correlation(ranks(a), ranks(b)) if varied else None,
        "full_only": means(full), "full_only_forecast": means(own),
        "share": means(shares), "share_measured": means(known),
        "nats": statistics.mean(f["forecast"]["left_over"] for f, _ in pairs),
        "nats_measured": statistics.mean(m["information"]["nats"] for _, m in pairs if m.get("information")),
        "views": views, "cpu_seconds": statistics.mean(f["cpu_seconds"] for f, _ in pairs),
    }  # fmt: skip


def level_table(found: list[dict[str, Any]]) -> str:
    """Improvement over full-only, and the share of what can be known, per noise level."""
    lines = []
    for r in found:
        rows = [
            ("loss of full-only, forecast", r["full_only_forecast"], ".3f"),
            ("loss of full-only, measured", r["full_only"], ".3f"),
            ("improvement, forecast", r["forecast"], ".4f"),
            ("improvement, measured", r["measured"], ".4f"),
        ]
        if any(r["share"]):
            rows += [("share of what can be known, forecast", r["share"], ".0%")]
            rows += [("the same, views alone, measured", r["share_measured"], ".0%")]
        lines += ["| " + " | ".join([f"**{r['recipe']}**", *r["levels"]]) + " |", "|" + "---|" * (len(r["levels"]) + 1)]
        lines += ["| " + " | ".join([name, *(f"{v:{form}}" for v in values)]) + " |" for name, values, form in rows]
        lines.append("")
    return "\n".join(lines).rstrip()


def summary_table(found: list[dict[str, Any]]) -> str:
    """One row per view: was keep / leave out right, and by how much was the improvement missed."""
    head = [
        "recipe", "view", "forecast", "weight in training", "full samples (90 %), by seed", "rank correlation",
        "improvement, forecast : measured", "left over, nats, forecast : measured",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in found:
        for k, (view, v) in enumerate(r["views"].items()):
            count = {w: v["verdicts"].count(w) for w in dict.fromkeys(v["verdicts"])}
            used = "" if not v["used"] else f"used in {sum(v['used'])} of {len(v['used'])}"
            worth = "; ".join(f"{s:,.0f} ({i[0]:,.0f} to {i[1]:,.0f})" for s, i in zip(v["samples"], v["interval"]))
            corr = "" if k or r["rank_correlation"] is None else f"{r['rank_correlation']:.2f}"
            total = "" if k else f"{statistics.mean(r['forecast']):.4f} : {statistics.mean(r['measured']):.4f}"
            nats = "" if k else f"{r['nats']:,.4g} : {r['nats_measured']:,.4g}"
            verdicts = ", ".join(f"{w} in {n} of {len(v['verdicts'])}" for w, n in count.items())
            lines.append(
                "| " + " | ".join(["" if k else r["recipe"], view, verdicts, used, worth, corr, total, nats]) + " |"
            )
    seconds = statistics.mean(r["cpu_seconds"] for r in found)
    seeds = ", ".join(f"{r['recipe']}: {len(r['seeds'])}" for r in found)
    return "\n".join(lines) + f"\n\nSeeds: {seeds}. {seconds:.0f} s of one core a forecast, in the mean."


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Forecast and measured improvement against the noise level."""
    from bootdiff.cli.report.figures import COLOURS, new_figure, write_figure

    figure, axes = new_figure(1, len(found), 3.4, 3.0)
    for axis, r in zip(axes[0], found, strict=True):
        x = [float(s) for s in r["levels"]]
        for colour, key, label in ((COLOURS[0], "forecast", "forecast"), (COLOURS[1], "measured", "measured")):
            for one in r[f"{key}_per_seed"]:
                axis.plot(x, one, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(x, r[key], color=colour, marker=".", label=label)
        axis.axhline(0, color="#8a9099", linewidth=0.8)
        axis.set(xscale="log", xlabel="noise level sigma", title=r["recipe"])
    axes[0][0].set_ylabel("loss below full-only")
    axes[0][0].legend(frameon=False)
    write_figure(figure, path)


def tables(found: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of docs/theory.md, of the rows of comparison.json: name -> Markdown."""
    return {"forecast": summary_table(found), "forecast-levels": level_table(found)}


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS, root: Path = ROOT) -> None:
    """Forecast what is missing; write the comparison below `results`, tables and figure into the checkout `root`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    runs = parser.parse_args(arguments).runs
    found = []
    for name in NAMES:
        pairs = []
        for path in sorted((results / name).glob("seed-*.json")):
            metrics = read_json(path)
            seed = metrics["seed"]
            out = results / "forecast" / f"{name}-seed-{seed}.json"
            pairs.append((forecast_recipe(recipe_file(name), seed, run_folder(runs, name, seed), out), metrics))
        if pairs:
            found.append(compare(name, pairs))
    atomic_write_json(results / "forecast" / "comparison.json", found)
    made = tables(found)
    print("\n\n".join(made.values()))
    insert(made, root)
    draw(found, root / "docs" / "theory" / "forecast.svg")


if __name__ == "__main__":
    main()
