"""Write the tables of README.md and docs/ from the raw results.

    python experiments/scripts/table.py

Each experiments/results/NAME/seed-S.json is the metrics.json of one `bootdiff arms` run, each regularization-NAME.json
what experiments/scripts/regularization.py wrote; beside the runs, overlay-seed-0.json is of
experiments/scripts/overlay.py (table NAME-overlay), and restore-WHAT.json the report.json of a `bootdiff restore`
(table NAME-restore-WHAT). Runs of videos and signals have a table NAME-long-range, and those of the rain radar tables
of all recipes together: radar and radar-long-range. Between the markers `<!-- table NAME -->` and `<!-- end -->` of a
document the table of NAME is written anew.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from bootdiff.evaluation.restoration import table as restored
from bootdiff.method.stages import ARMS
from experiments.benchmark.overlay_detection import table as traces
from experiments.benchmark.tables import fill

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


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
    """Losses of each arm over the seeds, its paired difference to full-only, and what it cost."""
    levels = [f"{s:g}" for s in runs[0]["levels"]]
    head = ["arm", "loss", "against full-only", *levels, "FLOPs", "FLOPs / full-only's"]
    rows = [head, ["---"] * len(head)]
    for arm in ARMS:
        if arm not in runs[0]["holdout_loss"]:
            continue
        losses = [r["holdout_loss"][arm] for r in runs]
        row = [arm.replace("_", "-"), mean_std([x["mean"] for x in losses])]
        row.append("" if arm == "full_only" else mean_std([x["versus"]["full_only"]["mean"] for x in losses]))
        row += [f"{statistics.mean(x['per_level'][s]['mean'] for x in losses):.3f}" for s in levels]
        cost = [r["ledger"]["arms"][arm] for r in runs]
        row.append(f"{statistics.mean(c['flops'] for c in cost) / 1e12:.1f} T")
        row.append(f"{statistics.mean(c['ratio']['flops'] for c in cost):.2f}")
        rows.append(["**" + cell + "**" if arm == "bootdiff" and cell else cell for cell in row])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    shares = [r["gap_closed"]["mean"] for r in runs if r["gap_closed"]]
    said = (
        f"{len(runs)} seed(s), {runs[0]['count']} {runs[0]['evaluated_on']} {kind(runs[0])}s each; ± is the deviation "
        "over them"
    )
    if shares and all(s is not None and s == s for s in shares):
        each = ", ".join(f"{100 * s:.0f} %" for s in shares)
        said += f". Share of the gap full-only → oracle closed: {100 * statistics.mean(shares):.0f} % ({each})"
    return "\n".join(lines) + "\n\n" + said + "."


def together(found: dict[str, dict[str, Any]]) -> str:
    """Loss of each arm in runs of several recipes, one row each; bootdiff's less full-only's on the same samples."""
    arms = [arm for arm in ARMS if all(arm in run["holdout_loss"] for run in found.values())]
    head = ["recipe", *(arm.replace("_", "-") for arm in arms), "bootdiff - full-only ± s.e.", "FLOPs / full-only's"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, run in found.items():
        losses = run["holdout_loss"]
        gain = losses["bootdiff"]["versus"]["full_only"]
        cells = [name, *(f"{losses[arm]['mean']:.4f}" for arm in arms), f"{gain['mean']:+.4f} ± {gain['stderr']:.4f}"]
        cells.append(f"{run['ledger']['arms']['bootdiff']['ratio']['flops']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    first = next(iter(found.values()))
    said = f"Seed {first['seed']}, {first['count']} {first['evaluated_on']} {kind(first)}s; s.e. over them, paired."
    return "\n".join(lines) + f"\n\n{said}"


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
    said = traces(found)
    if "naive_mix" in found:
        mix = found["naive_mix"]
        said += f"\n\nDenoising loss of the naive mix on clean test videos: {mix['mean']:.4f} ± {mix['stderr']:.4f}"
        said += f" ({mix['flops'] / 1e12:.1f} TFLOP)."
    return said


def variants(found: dict[str, Any]) -> str:
    """Losses of the variants of one run's residual stage."""
    levels = [f"{float(s):g}" for s in next(iter(found["variants"].values()))["per_level"]]
    lines = ["| " + " | ".join(["variant", "loss ± s.e.", *levels]) + " |", "|" + "---|" * (2 + len(levels))]
    for name, row in found["variants"].items():
        cells = [f"{row['per_level'][s]['mean']:.3f}" for s in row["per_level"]]
        lines.append("| " + " | ".join([name, f"{row['mean']:.4f} ± {row['stderr']:.4f}", *cells]) + " |")
    return "\n".join(lines) + f"\n\nSeed {found['seed']}; `{found['command']}`."


def restoration(report: dict[str, Any]) -> str:
    """How good the answers of one `bootdiff restore` are."""
    scores = report["scores"]
    gain, held = scores["gain"], scores["coverage"]
    said = (
        f"{scores['count']} files, {scores['answers']} answers each ({report['method']}, {report['steps']} noise "
        f"levels); {100 * scores['open']:.1f} % of the values are open. The mean of the answers has "
        f"{gain['mean']:+.2f} ± {gain['stderr']:.2f} dB over the best other estimate. The answers' interval holds "
        f"{100 * held['share']:.1f} % of the true values; right would be {100 * held['nominal']:.1f} %."
    )
    return f"{restored(scores)}\n\n{said}"


def insert(made: dict[str, str]) -> None:
    """Write each table between its markers, in every document that has them."""
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = document.read_text(encoding="utf-8")
        text = fill(before, made)
        if text != before:
            document.write_text(text, encoding="utf-8")


def main() -> None:
    made = {p.stem: variants(json.loads(p.read_text(encoding="utf-8"))) for p in RESULTS.glob("regularization-*.json")}
    radar = {}
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()):
        runs = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("seed-*.json"))]
        if runs:
            made[folder.name] = table(runs)
            if runs[0].get("long_range"):
                made[f"{folder.name}-long-range"] = long_range({folder.name: runs[0]})
            if folder.name.startswith("radar-"):
                radar[folder.name.removeprefix("radar-")] = runs[0]
        for path in folder.glob("overlay-seed-0.json"):
            made[f"{folder.name}-overlay"] = overlay(json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("restore-*.json"):
            made[f"{folder.name}-{path.stem}"] = restoration(json.loads(path.read_text(encoding="utf-8")))
    if radar:
        made |= {"radar": together(radar), "radar-long-range": long_range(radar)}
    insert(made)


if __name__ == "__main__":
    main()
