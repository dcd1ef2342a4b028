"""Write the tables of README.md and docs/ from the raw results.

    python -m experiments.scripts.table [--check]

Each experiments/results/NAME/seed-S.json is the metrics.json of one `bootdiff arms` run, each regularization-NAME.json
what `experiments.scripts.regularization` wrote; backbones.json, detail.json, training-keys.json, speed/data.json and
forecast/comparison.json are of the scripts backbones, detail, training_keys, throughput and forecast; beside the runs,
overlay-seed-0.json is of `experiments.scripts.overlay` (table NAME-overlay), measures-seed-0.json of
`experiments.scripts.moving` (table NAME-measures, NAME-continued), and restore-WHAT.json the report.json of a
`bootdiff restore` (table NAME-restore-WHAT). Runs of videos and signals have a table NAME-long-range, and those of the
rain radar tables of all recipes together: radar and radar-long-range. Between the markers `<!-- table NAME -->` and
`<!-- end -->` of a document the table of NAME is written again; with --check nothing is written, and the exit code is 1
where a table is not what it should be. (The tables `bench-NAME` are written by `bootdiff bench NAME --table`.)
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootdiff.evaluation.costs import totals
from bootdiff.evaluation.restoration import table as restored
from bootdiff.evaluation.sample_weights import weighted_mean
from bootdiff.method.stages import ARMS
from bootdiff.training.files import read_json
from experiments.benchmark.overlay_detection import table as traces
from experiments.scripts import backbones, detail, forecast, moving, throughput, training_keys
from experiments.scripts.results import RESULTS, ROOT, insert, outdated

__all__ = ["main", "tables"]

# What older results name, and where it lies today.
_MOVED = {
    "python benchmarks/regularization.py": "python -m experiments.scripts.regularization",
    "overlay.py": "python -m experiments.scripts.overlay",
    "benchmarks/results": "experiments/results",
    "src/bootdiff/recipes": "experiments/recipes",
}


def todays(result: dict[str, Any]) -> dict[str, Any]:
    """A result with its command as it is called today: what older results name has moved since."""
    command = result["command"]
    if not command.startswith("python -m"):
        for then, now in _MOVED.items():
            command = command.replace(then, now)
    return result | {"command": command}


def mean_std(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def kind(run: dict[str, Any]) -> str:
    """What a run's samples are: image, video, signal or vector."""
    recipe = run["recipe"]
    block = recipe["test"] or (recipe["simulate"] or {}).get("pool") or recipe["full"]
    return str(block.get("kind") or "image")


def table(runs: list[dict[str, Any]]) -> str:
    """Losses of each arm over the seeds, its paired difference to full-only, its samples, and what it cost."""
    levels = [f"{s:g}" for s in runs[0]["levels"]]
    figures = ["FID", "KID x 1000", "copies"] if all(r.get("samples") for r in runs) else []
    head = ["arm", "loss", "against full-only", "sample-weighted loss", *figures, *levels]
    head += ["FLOPs", "FLOPs / full-only's"]
    rows = [head, ["---"] * len(head)]
    for arm in ARMS:
        if arm not in runs[0]["holdout_loss"]:
            continue
        losses = [r["holdout_loss"][arm] for r in runs]
        row = [arm.replace("_", "-"), mean_std([x["mean"] for x in losses])]
        row.append("" if arm == "full_only" else mean_std([x["versus"]["full_only"]["mean"] for x in losses]))
        row.append(mean_std([weighted_mean(x) for x in losses]))
        row += drawn([r["samples"][arm] for r in runs]) if figures else []
        row += [f"{statistics.mean(x['per_level'][s]['mean'] for x in losses):.3f}" for s in levels]
        cost = [arm_cost(r["ledger"]["stages"], arm) for r in runs]
        row.append(f"{statistics.mean(c['flops'] for c in cost) / 1e12:.1f} T")
        row.append(f"{statistics.mean(c['ratio'] for c in cost):.2f}")
        rows.append(["**" + cell + "**" if arm == "bootdiff" and cell else cell for cell in row])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    note = (
        f"{len(runs)} seed(s), {runs[0]['count']} {runs[0]['evaluated_on']} {kind(runs[0])}s each; ± is the deviation "
        "over them"
    )
    shares = gaps_closed(runs)
    if shares:
        said = [
            f"{name} {100 * statistics.mean(each):.0f} % ({', '.join(f'{100 * s:.0f} %' for s in each)})" if each else
            f"{name} -"
            for name, each in shares.items()
        ]  # fmt: skip
        note += f". Share of the gap full-only → oracle closed: {'; '.join(said)}"
    return "\n".join(lines) + "\n\n" + note + "."


def drawn(figures: list[dict[str, Any]]) -> list[str]:
    """FID, KID and copies of an arm's samples, means over the seeds."""
    means = (
        statistics.mean(q["fid"] for q in figures),
        statistics.mean(1000 * q["kid"]["mean"] for q in figures),
        statistics.mean(100 * q["memorization"]["share"] for q in figures),
    )
    return [f"{means[0]:.2f}", f"{means[1]:.1f}", f"{means[2]:.1f} %"]


def gaps_closed(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Share of the gap that bootdiff closes by each ruler, of each seed; [] where there are no samples or is no gap.

    {} where the plain loss has no gap, or arms are missing: there is nothing to close.
    """
    plain = [r["gap_closed"]["mean"] for r in runs if r["gap_closed"]]
    if not plain or any(s is None or s != s for s in plain):
        return {}
    arms = ("full_only", "bootdiff", "oracle")
    weighted = [[weighted_mean(r["holdout_loss"][arm]) for arm in arms] for r in runs]
    fid = [[r["samples"][arm]["fid"] for arm in arms] for r in runs if r.get("samples")]
    found = {"by the loss": plain}
    for name, rows in (("by the sample-weighted loss", weighted), ("by FID", fid)):
        found[name] = [(f - b) / (f - o) for f, b, o in rows] if all(f > o for f, _, o in rows) else []
    return found


_PARTS = {
    "full_only": ("full-",),
    "views_only": ("view-", "full-", "visible-"),
    "unregularized": ("view-", "residual-", "full-", "visible-"),
    "bootdiff": ("view-", "residual-", "full-", "visible-"),
    "distilled": ("view-", "residual-", "full-", "visible-", "distilled-"),
    "oracle": ("oracle-",),
}
"""What the names of the stages begin with whose networks an arm needs, in results of whatever age."""


def arm_cost(stages: dict[str, dict[str, Any]], arm: str) -> dict[str, float]:
    """FLOPs of an arm's networks, and their ratio to full-only's."""
    cost = {name: totals(stages, [n for n in stages if n.startswith(_PARTS[name])]) for name in (arm, "full_only")}
    return {"flops": cost[arm]["flops"], "ratio": cost[arm]["flops"] / cost["full_only"]["flops"]}


def together(found: dict[str, dict[str, Any]]) -> str:
    """Loss of each arm in runs of several recipes, one row each; bootdiff's less full-only's on the same samples."""
    arms = [arm for arm in ARMS if all(arm in run["holdout_loss"] for run in found.values())]
    head = ["recipe", *(arm.replace("_", "-") for arm in arms), "bootdiff - full-only ± s.e."]
    head += ["the same, sample-weighted", "FLOPs / full-only's"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, run in found.items():
        losses = run["holdout_loss"]
        gain = losses["bootdiff"]["versus"]["full_only"]
        cells = [name, *(f"{losses[arm]['mean']:.4f}" for arm in arms), f"{gain['mean']:+.4f} ± {gain['stderr']:.4f}"]
        cells.append(f"{weighted_mean(losses['bootdiff']) - weighted_mean(losses['full_only']):+.4f}")
        cells.append(f"{arm_cost(run['ledger']['stages'], 'bootdiff')['ratio']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    first = next(iter(found.values()))
    note = f"Seed {first['seed']}, {first['count']} {first['evaluated_on']} {kind(first)}s; s.e. over them, paired."
    return "\n".join(lines) + f"\n\n{note}"


def long_range(found: dict[str, dict[str, Any]]) -> str:
    """Correlation at the longest lag, of samples and of real ones; of arms that recipes have in common, once."""
    several = len(found) > 1
    head = ["arm", *(["recipe"] if several else []), "samples ± s.e.", "less the real ± s.e.", "rms, all lags ± s.e."]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    firsts = [run["long_range"] for run in found.values()]
    for arm in (arm for arm in ARMS if arm in firsts[0]):
        shared = all(f[arm]["curve"]["samples"] == firsts[0][arm]["curve"]["samples"] for f in firsts)
        for name, far in list(zip(found, firsts))[: 1 if shared else None]:
            q = far[arm]
            cells = [arm.replace("_", "-"), *([("all" if shared else name)] if several else [])]
            cells.append(f"{q['samples']['mean']:.3f} ± {q['samples']['stderr']:.3f}")
            cells.append(f"{q['difference']['mean']:+.3f} ± {q['difference']['stderr']:.3f}")
            cells.append(f"{q['rms']['mean']:.3f} ± {q['rms']['stderr']:.3f}")
            lines.append("| " + " | ".join(f"**{c}**" if arm == "bootdiff" else c for c in cells) + " |")
    q = next(iter(firsts[0].values()))
    real = f"Real ones: {q['real']['mean']:.3f} ± {q['real']['stderr']:.3f}, {q['lag']} steps apart"
    return "\n".join(lines) + f"\n\n{real}; {q['count']} samples of each arm against {q['reference_count']} real ones."


def overlay(found: dict[str, Any]) -> str:
    """What the detectors found, and the denoising loss of the naive mix."""
    note = traces(found)
    if "naive_mix" in found:
        mix = found["naive_mix"]
        note += f"\n\nDenoising loss of the naive mix on clean test videos: {mix['mean']:.4f} ± {mix['stderr']:.4f}"
        note += f" ({mix['flops'] / 1e12:.1f} TFLOP)."
    return note


def variants(found: dict[str, Any]) -> str:
    """Losses of the variants of one run's residual stage."""
    levels = [f"{float(s):g}" for s in next(iter(found["variants"].values()))["per_level"]]
    lines = ["| " + " | ".join(["variant", "loss ± s.e.", "sample-weighted", *levels]) + " |"]
    lines.append("|" + "---|" * (3 + len(levels)))
    for name, row in found["variants"].items():
        cells = [f"{row['per_level'][s]['mean']:.3f}" for s in row["per_level"]]
        means = [f"{row['mean']:.4f} ± {row['stderr']:.4f}", f"{weighted_mean(row):.4f}"]
        lines.append("| " + " | ".join([name, *means, *cells]) + " |")
    return "\n".join(lines) + f"\n\nSeed {found['seed']}; `{found['command']}`."


def restoration(report: dict[str, Any]) -> str:
    """How good the answers of one `bootdiff restore` are."""
    scores = report["scores"]
    gain, held = scores["gain"], scores["coverage"]
    note = (
        f"{scores['count']} files, {scores['answers']} answers each ({report['method']}, {report['steps']} noise "
        f"levels); {100 * scores['open']:.1f} % of the values are open. The mean of the answers has "
        f"{gain['mean']:+.2f} ± {gain['stderr']:.2f} dB over the best other estimate. The answers' interval holds "
        f"{100 * held['share']:.1f} % of the true values; right would be {100 * held['nominal']:.1f} %."
    )
    return f"{restored(scores)}\n\n{note}"


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Every table that can be made of the results in a folder: its name -> Markdown."""
    made = {path.stem: variants(todays(read_json(path))) for path in results.glob("regularization-*.json")}
    if (results / "backbones.json").is_file():
        made["backbones"] = backbones.table(read_json(results / "backbones.json")["rows"])
    if (results / "speed" / "data.json").is_file():
        made["throughput"] = throughput.table(read_json(results / "speed" / "data.json"))
    if (results / "detail.json").is_file():
        made["detail"] = detail.table(read_json(results / "detail.json")["rows"])
    if (results / "training-keys.json").is_file():
        made["training-keys"] = training_keys.table(read_json(results / "training-keys.json"))
    if (results / "forecast" / "comparison.json").is_file():
        made |= forecast.tables(read_json(results / "forecast" / "comparison.json"))
    radar = {}
    for folder in sorted(p for p in results.iterdir() if p.is_dir()):
        runs = [read_json(path) for path in sorted(folder.glob("seed-*.json"))]
        if runs:
            made[folder.name] = table(runs)
            if runs[0].get("long_range"):
                made[f"{folder.name}-long-range"] = long_range({folder.name: runs[0]})
            if folder.name.startswith("radar-"):
                radar[folder.name.removeprefix("radar-")] = runs[0]
        for path in folder.glob("overlay-seed-0.json"):
            made[f"{folder.name}-overlay"] = overlay(todays(read_json(path)))
        for path in folder.glob("measures-seed-0.json"):
            made[f"{folder.name}-measures"] = moving.table(read_json(path)["found"])
        for path in folder.glob("continued-seed-0.json"):
            made[f"{folder.name}-continued"] = moving.table(read_json(path)["found"])
        for path in folder.glob("restore-*.json"):
            made[f"{folder.name}-{path.stem}"] = restoration(read_json(path))
    if radar:
        made |= {"radar": together(radar), "radar-long-range": long_range(radar)}
    return made


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the tables into the documents of the checkout `root`; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table is out of date")
    check = parser.parse_args(arguments).check
    made = tables()
    changed = list(outdated(made, root)) if check else insert(made, root)
    for path in changed:
        print(f"{path}: {'a table is out of date' if check else 'written'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
