"""How good is `bootdiff plan`? Its forecasts, made anew, against what training gave.

    python experiments/scripts/forecast.py [--runs runs]

For every experiments/results/NAME/seed-S.json (metrics of a `bootdiff arms` run) the recipe NAME is forecast at seed S,
which takes half a minute each, and written to experiments/results/forecast/NAME-seed-S.json; what lies there is not
made again. Where the run itself is at hand (RUNS/NAME/seed-S; the demo's in RUNS/demo and RUNS/demo-S), the weights
that training gave each view beside the full samples (`news`) are noted, too. Then the tables of docs/theory.md and the
figure docs/theory/forecast.svg are written anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table import RESULTS, ROOT, insert

FORECASTS = RESULTS / "forecast"
NAMES = ("digits", "cats32-thumbnails", "cats32-two-views", "cats32-useless")


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Where the run lies that the results are of."""
    return runs / ("demo" if seed == 0 else f"demo-{seed}") if name == "digits" else runs / name / f"seed-{seed}"


def made(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """The forecast of a recipe at a seed."""
    path = FORECASTS / f"{name}-seed-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    import torch

    import bootdiff
    from bootdiff.cli.plan import forecast_of
    from bootdiff.recipe.build import build_problem
    from bootdiff.recipe.schema import load_recipe

    torch.set_num_threads(1)
    folder = Path(bootdiff.__file__).parent / "recipes" if name == "digits" else ROOT / "benchmarks" / "recipes"
    recipe = load_recipe(folder / f"{name}.yaml").model_copy(update={"seed": seed})
    begin = time.process_time()
    forecast = forecast_of(recipe, build_problem(recipe))
    found = {"recipe": name, "seed": seed, "cpu_seconds": time.process_time() - begin, "forecast": asdict(forecast)}
    news = run_folder(runs, name, seed) / "news" / "done.json"
    if news.is_file():
        found["news"] = json.loads(news.read_text(encoding="utf-8"))
    FORECASTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{name}, seed {seed}: {found['cpu_seconds']:.0f} s")
    return found


def means(rows: list[list[float]]) -> list[float]:
    """Over the seeds, per noise level."""
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def ranks(values: list[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return [float(order.index(i)) for i in range(len(values))]


def compare(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Forecast and measurement of one recipe over its seeds."""
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
        said = [f["forecast"]["views"][view] for f, _ in pairs]
        weights = [
            [row[f["news"]["names"].index(view)] for row in f["news"]["values"]] for f, _ in pairs if "news" in f
        ]
        views[view] = {
            "verdicts": [v["verdict"] for v in said],
            "used": [any(w > 0 for w in one) for one in weights],
            "news": means(weights) if weights else None,
            "added": means([v["added"]["raw"] for v in said]),
            "samples": [v["alone"]["mean_samples"] for v in said],
            "interval": [v["alone"]["interval"] for v in said],
            "fit": [v["fit"] and v["fit"][0] for v in said],
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
            said = ", ".join(f"{w} in {n} of {len(v['verdicts'])}" for w, n in count.items())
            lines.append(
                "| " + " | ".join(["" if k else r["recipe"], view, said, used, worth, corr, total, nats]) + " |"
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare forecasts with what training gave.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    runs = parser.parse_args().runs
    found = []
    for name in NAMES:
        paths = sorted((RESULTS / name).glob("seed-*.json"))
        metrics = [json.loads(p.read_text(encoding="utf-8")) for p in paths]
        if metrics:
            found.append(compare(name, [(made(name, m["seed"], runs), m) for m in metrics]))
    (FORECASTS / "comparison.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    tables = {"forecast": summary_table(found), "forecast-levels": level_table(found)}
    print("\n\n".join(tables.values()))
    insert(tables)
    draw(found, ROOT / "docs" / "theory" / "forecast.svg")


if __name__ == "__main__":
    main()
