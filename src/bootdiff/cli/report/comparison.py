"""Several runs in one self-contained page: what differs between their recipes, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml

from bootdiff.cli.console import clock, number
from bootdiff.cli.report import html, page, sections, svg, tables, words
from bootdiff.cli.report.html import Block, Picture, Pictures, Plots, Section, Table, Text
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.training.files import differences

__all__ = ["build"]

_LONGEST = 60  # characters of a recipe's value


def build(runs: Sequence[RunFacts]) -> str:
    """The page of several runs, as HTML."""
    names = _names(runs)
    named = dict(zip(names, runs))
    parts = {
        "results": ("Results", _results),
        "differ": ("What differs", _differences),
        "samples": ("Samples", _samples),
        "standing": ("Where they stand", _standing),
    }
    found = [Section(name, title, _guarded(named, title, make)) for name, (title, make) in parts.items()]
    lead = page.guarded(runs[0], "The summary", lambda _: _lead(named))
    made = page.guarded(runs[0], "The end", page.made)
    notes = [f"{name}: {note}" for name, run in named.items() for note in run.notes]
    trained = sum(sections.badge(run)[1] == "good" for run in runs)
    badge = f"{trained} of {len(runs)} trained", "good" if trained == len(runs) else "wait"
    return html.render(
        title="Runs compared: " + ", ".join(names), badge=badge, lead=lead, facts=[], notes=notes,
        sections=[section for section in found if section.blocks], made="".join(made),
    )  # fmt: skip


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Names of the runs: their folders', with as much of the path as tells them apart."""
    for depth in (1, 2, 3):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{run.path.name} ({k})" for k, run in enumerate(runs, 1)]


def _guarded(runs: Mapping[str, RunFacts], title: str, make: Any) -> list[Block]:
    first = next(iter(runs.values()))
    return page.guarded(first, title, lambda _: make(runs))


def _arm(run: RunFacts) -> str | None:
    """The arm that a run is compared by."""
    losses = run.metrics.get("holdout_loss") or {}
    return "bootdiff" if "bootdiff" in losses else next(iter(losses), None)


def _lead(runs: Mapping[str, RunFacts]) -> list[str]:
    measured = {name: run.metrics["holdout_loss"][arm]["mean"] for name, run in runs.items() if (arm := _arm(run))}
    if len(measured) < 2:
        return []
    best = min(measured, key=lambda name: measured[name])
    return [f"The lowest denoising loss is that of {best}: {measured[best]:.4f}."]


def _results(runs: Mapping[str, RunFacts]) -> list[Block]:
    rows, curves = [], {}
    quality = any(run.metrics.get("samples") for run in runs.values())
    for name, run in runs.items():
        losses, arms = run.metrics.get("holdout_loss") or {}, (run.metrics.get("ledger") or {}).get("arms") or {}
        for arm, entry in losses.items():
            q, spent = (run.metrics.get("samples") or {}).get(arm), arms.get(arm)
            row = [f"{name}: {words.arm(arm)}", tables.pm(entry), tables.pm(entry.get("sample_weighted"))]
            if quality:
                row += ["-"] * 2 if q is None else [f"{q['fid']:.3g}", f"{100 * q['memorization']['share']:.1f} %"]
            row += ["", ""] if spent is None else [number(spent["flops"]), clock(spent["seconds"])]
            rows.append(row)
        if arm := _arm(run):
            curves[f"{name}: {words.arm(arm)}"] = [(float(s), e["mean"]) for s, e in losses[arm]["per_level"].items()]
    if not rows:
        return [Text("None of these runs has been measured: bootdiff evaluate RUN does that.")]
    head = ["run: arm", "loss ± s.e.", "sample-weighted loss", *(["FID", "copies"] if quality else []), "FLOPs", "time"]
    plot = svg.lines(curves, "Loss of each run per noise level", "noise level sigma", "denoising loss", log=True)
    blocks: list[Block] = [Table("Denoising loss, mean over the noise levels, and cost", head, rows)]
    blocks += [Text(text) for text in _not_alike(runs)]
    return [*blocks, Plots([(plot, svg.legend(list(curves)), "Denoising loss per noise level; lower is better.")])]


def _not_alike(runs: Mapping[str, RunFacts]) -> list[str]:
    """Why figures may not be comparable."""
    measured = [run for run in runs.values() if run.metrics]
    said = []
    for a, b in pairwise(measured):
        tests = [(run.data.get("counts") or {}).get("test") for run in (a, b)]
        how = [(run.metrics.get("evaluated_on"), run.metrics.get("count"), run.metrics.get("levels")) for run in (a, b)]
        if tests[0] != tests[1] or how[0] != how[1] or a.data.get("shape") != b.data.get("shape"):
            said.append(
                "These runs are not measured on the same samples or noise levels: their figures are not comparable."
            )
            break
    features = {str(q.get("features")) for run in measured for q in (run.metrics.get("samples") or {}).values()}
    if len(features) > 1:
        said.append("FID is measured by different features: it is not comparable.")
    return said


def _differences(runs: Mapping[str, RunFacts]) -> list[Block]:
    recipes = {}
    for name, run in runs.items():
        path = run.path / "recipe.yaml"
        if path.is_file():
            try:
                recipes[name] = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError, RecursionError):
                run.note("recipe.yaml: not YAML; restore it from a copy")
    if len(recipes) < 2:
        return []
    first, *others = recipes.values()
    keys = dict.fromkeys(key for other in others for key, _, _ in differences(first, other))
    if not keys:
        return [Text("Their recipes ask for the same.")]
    rows = []
    for key in keys:
        told = [
            next((_short(new) for k, _, new in differences({}, recipe) if k == key), "-") for recipe in recipes.values()
        ]
        rows.append((key, *told))
    return [Table("Keys of the recipes that differ", ("key", *recipes), rows)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"


def _samples(runs: Mapping[str, RunFacts]) -> list[Block]:
    found = []
    for name, run in runs.items():
        path = run.path / "samples" / f"{_arm(run)}.png"
        if path.is_file():
            found.append(Picture(path, f"Samples of {name}", name))
    real = next(
        (run.path / "samples" / "real.png" for run in runs.values() if (run.path / "samples" / "real.png").is_file()),
        None,
    )
    if found and real is not None:
        found.append(Picture(real, "Real samples, not trained on", "real samples, not trained on"))
    return [Pictures(found)] if found else []


def _standing(runs: Mapping[str, RunFacts]) -> list[Block]:
    rows = []
    for name, run in runs.items():
        counts = run.data.get("counts") or {}
        left = run.seconds_left
        rows.append((
            name, sections.badge(run)[0], f"{sum(s.state == 'done' for s in run.stages)} of {len(run.stages)}",
            "-" if left is None else clock(left) if left else "", f"{counts['full']:,}" if "full" in counts else "-",
        ))  # fmt: skip
    return [Table("Runs", ("run", "state", "networks trained", "time left", "full samples"), rows)]
