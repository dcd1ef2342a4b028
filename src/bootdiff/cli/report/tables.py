"""The tables of a comparison, each within 80 columns, and their means over several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from bootdiff.cli.console import clock, number
from bootdiff.evaluation import swap

__all__ = [
    "costs",
    "information",
    "levels",
    "long_range",
    "losses",
    "over_seeds",
    "plain_table",
    "pm",
    "quality",
    "quality_over_seeds",
    "stages",
    "swaps",
]


def plain_table(title: str, first: str, *columns: str) -> Table:
    """An empty table: names left-aligned, figures right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def pm(entry: Mapping[str, Any] | None, digits: int = 4, *, sign: bool = False, scale: float = 1.0) -> str:
    """A mean and its standard error; a dash for none.

    >>> pm({"mean": 0.5, "stderr": 0.25}, 2), pm({"mean": 0.5}, 1, sign=True), pm(None)
    ('0.50 ± 0.25', '+0.5', '-')
    """
    if entry is None or _absent(entry.get("mean")):
        return "-"
    text = f"{scale * entry['mean']:{'+' if sign else ''}.{digits}f}"
    return text if _absent(entry.get("stderr")) else f"{text} ± {scale * entry['stderr']:.{digits}f}"


def _absent(value: float | None) -> bool:
    return value is None or math.isnan(value)


def losses(table: Mapping[str, Any], measured_on: str, gap: Mapping[str, Any] | None) -> list[Any]:
    """Mean over the noise levels, the paired difference to full-only training, and the sample-weighted mean."""
    out = plain_table(
        "Denoising loss, mean over the noise levels", "arm", "loss ± s.e.", "against full_only", "sample-weighted"
    )
    for arm, entry in table.items():
        against = entry.get("versus", {}).get("full_only")
        out.add_row(
            arm, pm(entry), "" if arm == "full_only" else pm(against, sign=True), pm(entry["sample_weighted"]),
            style=_style(arm),
        )  # fmt: skip
    lines: list[Any] = ["", out]
    if gap is not None and not _absent(gap["mean"]) and table["oracle"]["mean"] < table["full_only"]["mean"]:
        weighted = gap["sample_weighted"]
        also = (
            "" if _absent(weighted["mean"]) else f"; of that in the sample-weighted loss {pm(weighted, 0, scale=100)} %"
        )
        lines.append(f"bootdiff closes {pm(gap, 0, scale=100)} % of the gap between full_only and oracle{also}.")
    lines.append(f"Measured on {measured_on}. 1 = with only mean and variance known; lower is better.")
    lines.append("Sample-weighted: noise levels count as much as samples need them, 0.4 to 3 most.\n")
    return lines


def levels(table: Mapping[str, Any]) -> Table:
    """The loss at each noise level."""
    sigmas = list(next(iter(table.values()))["per_level"])
    out = plain_table("Denoising loss at each noise level sigma", "arm", *sigmas)
    for arm, entry in table.items():
        out.add_row(arm, *(f"{entry['per_level'][s]['mean']:.3f}" for s in sigmas), style=_style(arm))
    return out


def information(found: Mapping[str, Any] | None) -> list[Any]:
    """The result of `evaluate.information`, with its interval and the noise levels that it covers."""
    if found is None:
        return []
    of, than, share = found["of"], found["than"], 100 * found["confidence"]
    lines: list[Any] = [f"Information that {than} captures and {of} does not, at least ({share:g} % interval):"]
    for unit, digits, name in (("nats", 2, "nats"), ("bits", 2, "bits"), ("bits_per_dim", 4, "bits per dimension")):
        low, high = found["interval"][unit]
        lines.append(f"  {found[unit]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {name}")
    (low, high), (first, last) = found["range"], found["ends"]
    lines.append(
        f"Noise levels from {low:g} to {high:g} only; at these two ends the integrand is at {100 * first:.0f} % and "
        f"{100 * last:.0f} % of its largest value.\n"
    )
    return lines


def costs(totals: Mapping[str, Mapping[str, Any]]) -> Table:
    """Training cost of each arm, over all its networks."""
    out = plain_table(
        "Cost of training", "arm", "nets", "parameters", "images", "FLOPs", "x full_only", "time", "memory"
    )
    for arm, t in totals.items():
        ratio = (t.get("ratio") or {}).get("flops")
        out.add_row(
            arm, str(len(t["stages"])), number(t["parameters"]), number(t["images"]), number(t["flops"]),
            "" if ratio is None else f"{ratio:.1f}", clock(t["seconds"]), number(t["peak_memory"]) + "B",
            style=_style(arm),
        )  # fmt: skip
    return out


def stages(ledger: Mapping[str, Mapping[str, Any]]) -> Table:
    """Cost of each network, per step."""
    out = plain_table("Each network", "network", "parameters", "steps", "FLOPs / step", "ms / step", "memory")
    for name, s in ledger.items():
        out.add_row(
            name, number(s["parameters"]), f"{s['steps']:,}",
            number(s["flops_per_step"]) if s["steps"] else f"{number(s.get('forward_flops', 0))} / evaluation",
            f"{1000 * s['seconds'] / max(s['steps'], 1):.3g}", number(s["peak_memory"]) + "B",
        )  # fmt: skip
    return out


def quality(table: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Sample quality."""
    first = next(iter(table.values()))
    fine = ["detail"] if any(q.get("detail") for q in table.values()) else []
    out = plain_table(
        f"{first['count']} samples against {first['reference_count']} real images",
        "arm", "FID", "KID x 1000", "precision", "recall", "copies", *fine,
    )  # fmt: skip
    for arm, q in table.items():
        out.add_row(
            arm, f"{q['fid']:.3g}", pm(q["kid"], 2, scale=1000), f"{q['precision']:.2f}", f"{q['recall']:.2f}",
            f"{100 * q['memorization']['share']:.1f} %", *([detail(q)] if fine else []), style=_style(arm),
        )  # fmt: skip
    copies = "Copies: samples much closer to one training image than to any other."
    more = " Detail: power at wavelengths of 2 to 16 pixels, in per cent of real ones'." if fine else ""
    return ["", out, f"Features: {first['features']}. {copies}{more}\n"]


def detail(figures: Mapping[str, Any]) -> str:
    """Fine detail of samples in per cent of real ones'; runs of earlier versions have none.

    >>> detail({"detail": {"ratio": 0.748, "stderr": 0.052}}), detail({})
    ('75 ± 5 %', '-')
    """
    found = figures.get("detail")
    return f"{100 * found['ratio']:.0f} ± {100 * found['stderr']:.0f} %" if found else "-"


def quality_over_seeds(table: Mapping[str, Mapping[str, Any]] | None) -> list[Any]:
    """Sample quality over several seeds, the "samples" of `over_seeds`; nothing where a seed has none."""
    if not table:
        return []
    fine = any("detail" in q for q in table.values())
    out = plain_table("Samples", "arm", "FID ± s.e.", "KID x 1000 ± s.e.", "copies", *(["detail"] if fine else []))
    for arm, q in table.items():
        copies = f"{100 * q['copies']['mean']:.1f} %"
        own = [f"{pm(q['detail'], 0, scale=100)} %" if "detail" in q else "-"] if fine else []
        out.add_row(arm, pm(q["fid"], 2), pm(q["kid"], 2, scale=1000), copies, *own, style=_style(arm))
    return ["", out]


def swaps(table: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Where samples are lost: {arm: by `evaluation.swap.summary`}."""
    lines: list[Any] = [""]
    for arm, found in table.items():
        out = plain_table(f"{arm} with {found['other']}'s denoiser at some noise levels", *swap.HEADS)
        for row in swap.rows_of(found):
            out.add_row(*row)
        counts = f"{found['count']} samples each against {found['reference_count']} real ones"
        lines += [out, f"{counts}. Features: {found['features']}.\n", swap.sentence(arm, found) + "\n"]
    return lines


def long_range(table: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Correlation along time at the longest lag, of samples and of real ones."""
    first = next(iter(table.values()))
    lag, real = first["lag"], first["real"]
    title = f"Correlation over {lag} step(s); real: {pm(real, 3)}"
    out = plain_table(title, "arm", "samples ± s.e.", "minus real ± s.e.", "rms over all lags ± s.e.")
    for arm, q in table.items():
        out.add_row(arm, pm(q["samples"], 3), pm(q["difference"], 3, sign=True), pm(q["rms"], 3), style=_style(arm))
    return ["", out, f"{first['count']} samples against {first['reference_count']} real ones.\n"]


def over_seeds(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `metrics.json` of several seeds as one, in the same form: {"holdout_loss", "gap_closed", "samples",
    "long_range"}.

    Means over the seeds; standard errors are over the seeds.
    """
    tables = [m["holdout_loss"] for m in metrics]
    losses: dict[str, Any] = {}
    for arm, first in tables[0].items():
        versus = first.get("versus", {})
        losses[arm] = _entry([t[arm] for t in tables])
        losses[arm]["versus"] = {other: _entry([t[arm]["versus"][other] for t in tables]) for other in versus}
    gaps = [m["gap_closed"] for m in metrics]
    gap = None
    if all(g is not None and not _absent(g["mean"]) for g in gaps):
        gap = _over([g["mean"] for g in gaps])
        gap["sample_weighted"] = _over([g["sample_weighted"]["mean"] for g in gaps])
    quality = [m["samples"] for m in metrics]
    samples = None
    if all(quality):
        samples = {}
        for arm in quality[0]:
            fid, kid = [q[arm]["fid"] for q in quality], [q[arm]["kid"]["mean"] for q in quality]
            copies = [q[arm]["memorization"]["share"] for q in quality]
            samples[arm] = {"fid": _over(fid), "kid": _over(kid), "copies": _over(copies)}
            if all(q[arm].get("detail") for q in quality):
                samples[arm]["detail"] = _over([q[arm]["detail"]["ratio"] for q in quality])
    far = [m.get("long_range") or {} for m in metrics]
    long_range = None
    if all(far):
        figures = ("samples", "real", "difference", "rms")
        long_range = {arm: {k: _over([f[arm][k]["mean"] for f in far]) for k in figures} for arm in far[0]}
    return {"holdout_loss": losses, "gap_closed": gap, "samples": samples, "long_range": long_range}


def _over(values: Sequence[float]) -> dict[str, Any]:
    n = len(values)
    mean = sum(values) / n
    stderr = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else math.nan
    return {"mean": mean, "stderr": stderr, "per_seed": list(values)}


def _entry(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    levels = entries[0]["per_level"]
    rows = {s: _over([e["per_level"][s]["mean"] for e in entries]) for s in levels}
    weighted = _over([e["sample_weighted"]["mean"] for e in entries])
    return {**_over([e["mean"] for e in entries]), "sample_weighted": weighted, "per_level": rows}


def _style(arm: str) -> str | None:
    return "bold" if arm == "bootdiff" else None
