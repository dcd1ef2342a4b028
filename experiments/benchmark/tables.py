"""The tables of a benchmark, from its results alone.

For arms a, b measured on the same N test images with the same noise, and S seeds (each with other full samples, other
networks), with l_a(s, j) the loss of image j, averaged over the noise levels,

    loss(a) = mean_s mean_j l_a(s, j),      difference(a, b) = mean_s mean_j (l_a - l_b)(s, j).

Two errors of a difference are given: over images (the standard error of mean_s (l_a - l_b)(s, j) over j), and the
standard deviation over seeds of mean_j.  A comparison is *won* where bootdiff is below the best other arm by more than
twice the larger of the standard error over images and that over seeds (deviation / sqrt(S)), *lost* where it is above
by as much, else a *tie*.  The best other arm is chosen by its mean on these very images, which favours it.

Two rulers stand side by side: denoising losses (the plain mean over the noise levels, and the sample-weighted one of
`evaluation.sample_weights`) and samples (FID, KID, copies found), where a result has them.  *Share of the gap*:
(F - B) / (F - O) with full-only F and the oracle O, in each of them; losses of seeds that all three arms have.
*Equivalent full samples*: the number n' at
which full-only alone would have bootdiff's loss, by linear interpolation of its loss over ln n between the n that were
run; a bound ("> n") where bootdiff is better than full-only at the largest n.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootdiff.errors import BootdiffError
from bootdiff.evaluation.sample_weights import weighted_mean
from experiments.benchmark.benchmarks import NO_VIEWS
from experiments.benchmark.runs import ARMS

__all__ = [
    "REFERENCE",
    "Column",
    "Difference",
    "columns",
    "cost_table",
    "equivalent",
    "fill",
    "loss_table",
    "quality_table",
    "read",
    "ruler_table",
    "tuning_table",
    "verdict_table",
    "weighted_table",
]

OURS, REFERENCE = "bootdiff", ("bootdiff", "unregularized", "oracle")
"""The arm under test, and the arms that are no rivals."""

Result = Mapping[str, Any]


def read(out: Path, name: str) -> list[Result]:
    """All results of a benchmark, in the order of their file names.

    Raises:
        BootdiffError: there are none; a file is not a result.
    """
    found = []
    for path in sorted((out / name).glob("*/*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["holdout_loss"]["per_image"], result["arm"], result["views"]
        except (ValueError, KeyError, TypeError):
            raise BootdiffError(
                f"{path}: not a result of `bootdiff bench`; delete it and run the same command again"
            ) from None
        found.append(result | {"file": f"{path.parent.name}/{path.name}"})
    if not found:
        raise BootdiffError(f"{out / name}: no results there; make some by `bootdiff bench {name}`")
    return found


@dataclass(frozen=True)
class Difference:
    """Difference of two arms: its mean, standard error over images, deviation over seeds (NaN for one), seeds."""

    mean: float
    stderr: float
    deviation: float
    seeds: int

    @property
    def error(self) -> float:
        """The larger of the two standard errors of the mean."""
        return max(self.stderr, 0.0 if math.isnan(self.deviation) else self.deviation / math.sqrt(self.seeds))

    @property
    def verdict(self) -> str:
        return "tie" if abs(self.mean) <= 2 * self.error else ("won" if self.mean < 0 else "lost")


@dataclass(frozen=True)
class Column:
    """One kind of views at one number of full samples: arm -> seed -> result; arms without views included."""

    views: str
    n_full: float
    arms: Mapping[str, Mapping[int, Result]]

    def losses(self, arm: str, *, weighted: bool = False) -> list[float]:
        """Of each seed: the mean over the noise levels, or the sample-weighted one."""
        of = (r["holdout_loss"] for _, r in sorted(self.arms[arm].items()))
        return [weighted_mean(loss) if weighted else loss["mean"] for loss in of]

    def difference(self, arm: str, other: str) -> Difference | None:
        """arm - other over the seeds that both have; None where there is none."""
        seeds = sorted(set(self.arms.get(arm, {})) & set(self.arms.get(other, {})))
        if not seeds:
            return None
        pairs = [[self.arms[a][s]["holdout_loss"]["per_image"] for a in (arm, other)] for s in seeds]
        rows = [[x - y for x, y in zip(a, b, strict=True)] for a, b in pairs]
        images = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        means = [statistics.fmean(row) for row in rows]
        return Difference(
            statistics.fmean(means),
            statistics.stdev(images) / math.sqrt(len(images)) if len(images) > 1 else math.nan,
            statistics.stdev(means) if len(means) > 1 else math.nan,
            len(seeds),
        )

    @property
    def best_other(self) -> str | None:
        """The rival with the least mean loss over bootdiff's seeds."""
        ours = set(self.arms.get(OURS, {}))
        means = {
            arm: statistics.fmean(by_seed[s]["holdout_loss"]["mean"] for s in ours)
            for arm, by_seed in self.arms.items()
            if arm not in REFERENCE and ours and ours <= set(by_seed)
        }
        return min(means, key=lambda arm: means[arm]) if means else None

    @property
    def gap_closed(self) -> float:
        """Share of the gap from full-only to the oracle that bootdiff closes; NaN where there is no gap to speak of."""
        closed, gap = self.difference("full_only", OURS), self.difference("full_only", "oracle")
        if closed is None or gap is None or gap.mean <= 2 * gap.error:
            return math.nan
        return closed.mean / gap.mean

    @property
    def weighted_gap_closed(self) -> float:
        """The same in the sample-weighted loss; of its errors only that over seeds is known."""
        return self._closed(lambda r: weighted_mean(r["holdout_loss"]))

    @property
    def fid_gap_closed(self) -> float:
        """The same in FID; NaN also where one of the three arms has no samples.

        FIDs have no error here: a gap counts as one where it is above 0, and over seeds above two standard errors.
        """
        return self._closed(lambda r: (r.get("samples") or {}).get("fid", math.nan))

    def _closed(self, figure: Callable[[Result], float]) -> float:
        full, ours, oracle = (self.arms.get(arm, {}) for arm in ("full_only", OURS, "oracle"))
        rows = [[figure(by[s]) for by in (full, ours, oracle)] for s in sorted(set(full) & set(ours) & set(oracle))]
        rows = [row for row in rows if not any(math.isnan(v) for v in row)]
        gaps = [f - o for f, _, o in rows]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        if not rows or statistics.fmean(gaps) <= 2 * error:
            return math.nan
        return statistics.fmean(f - b for f, b, _ in rows) / statistics.fmean(gaps)


def columns(results: Iterable[Result]) -> list[Column]:
    """The results by kind of views and number of full samples; arms that see no views are in every column."""
    table: dict[tuple[str, float], dict[str, dict[int, Result]]] = {}
    for r in results:
        table.setdefault((r["views"], r["n_full"]), {}).setdefault(r["arm"], {})[r["seed"]] = r
    found = []
    for (views, n), arms in table.items():
        if views != NO_VIEWS:
            both = {**table.get((NO_VIEWS, n), {}), **arms}
            found.append(Column(views, n, {arm: both[arm] for arm in ARMS if arm in both}))
    return sorted(found, key=lambda c: (c.n_full, c.views))


def equivalent(results: Sequence[Result], column: Column) -> tuple[float, str]:
    """Equivalent full samples of bootdiff in this column, and "", "<" or ">" where it is only a bound; NaN: unknown."""
    full: dict[int, list[float]] = {}
    for r in results:
        if r["arm"] == "full_only":
            full.setdefault(r["count_full"], []).append(r["holdout_loss"]["mean"])
    if OURS not in column.arms or not full:
        return math.nan, ""
    loss = statistics.fmean(column.losses(OURS))
    points = [(n, statistics.fmean(full[n])) for n in sorted(full)]
    for (n, above), (m, below) in itertools.pairwise(points):
        if below <= loss <= above and above > below:
            t = (above - loss) / (above - below)
            return math.exp((1 - t) * math.log(n) + t * math.log(m)), ""
    return (points[-1][0], ">") if loss < points[-1][1] else (points[0][0], "<")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _label(column: Column) -> str:
    return f"{column.views}, {column.n_full:g} %"


def loss_table(found: Sequence[Column]) -> str:
    """Mean loss of every arm (rows) in every column, ± deviation over seeds; the best arm but the oracle is bold.

    An arm of fewer seeds than bootdiff says how many.
    """
    return _losses(found, weighted=False)


def weighted_table(found: Sequence[Column]) -> str:
    """`loss_table` of the sample-weighted losses."""
    return _losses(found, weighted=True)


def _losses(found: Sequence[Column], *, weighted: bool) -> str:
    rows = [["arm", *(_label(c) for c in found)]]
    arms = [arm for arm in ARMS if any(arm in c.arms for c in found)]
    best = []
    for c in found:
        means = {arm: statistics.fmean(c.losses(arm, weighted=weighted)) for arm in c.arms if arm != "oracle"}
        best.append(min(means, key=means.__getitem__, default=""))
    for arm in arms:
        row = [arm.replace("_", "-")]
        for c, winner in zip(found, best, strict=True):
            if arm not in c.arms:
                row.append("")
                continue
            values = c.losses(arm, weighted=weighted)
            text = f"{statistics.fmean(values):.4f}"
            text += f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            text += f" ({len(values)} of {len(c.arms[OURS])} seeds)" if len(values) < len(c.arms.get(OURS, {})) else ""
            row.append(f"**{text}**" if arm == winner else text)
        rows.append(row)
    return _markdown(rows)


def verdict_table(results: Sequence[Result], found: Sequence[Column]) -> str:
    """bootdiff against the best other arm, one row for each column."""
    head = ["views", "full", "seeds", "best other arm", "bootdiff - best", "s.e. images", "dev. seeds", "verdict"]
    rows = [[*head, "gap closed", "equivalent full samples"]]
    for c in found:
        other = c.best_other
        difference = None if other is None else c.difference(OURS, other)
        if other is None or difference is None:
            continue
        n, bound = equivalent(results, c)
        count = next(iter(c.arms[OURS].values()))["count_full"]
        deviation = "" if math.isnan(difference.deviation) else f"{difference.deviation:.4f}"
        verdict = difference.verdict
        share = "no gap" if math.isnan(c.gap_closed) else f"{100 * c.gap_closed:.0f} %"
        same = "" if math.isnan(n) else f"{bound}{' ' if bound else ''}{n:.0f} ({n / count:.1f} x)"
        rows.append(
            [
                c.views, f"{c.n_full:g} % ({count})", str(difference.seeds), other.replace("_", "-"),
                f"{difference.mean:+.4f}", f"{difference.stderr:.4f}", deviation,
                f"**{verdict}**" if verdict == "won" else verdict, share, same,
            ]
        )  # fmt: skip
    return _markdown(rows)


def ruler_table(found: Sequence[Column]) -> str:
    """bootdiff by both rulers, one row for each column: the gap closed in both losses and in FID, and its samples.

    A dash where there are no samples, or no gap.
    """
    head = ["views", "full", "gap closed, loss", "gap closed, sample-weighted loss", "gap closed, FID"]
    rows = [[*head, "FID: bootdiff, full-only, oracle", "KID x 1000", "copies"]]
    for c in found:
        if OURS not in c.arms:
            continue
        shares = (c.gap_closed, c.weighted_gap_closed, c.fid_gap_closed)
        drawn = {arm: _drawn(c, arm) for arm in (OURS, "full_only", "oracle")}
        ours = drawn[OURS]
        fids = ", ".join(f"{_mean_fid(qs):.3g}" if qs else "-" for qs in drawn.values()) if ours else "-"
        kid = f"{statistics.fmean(1000 * q['kid']['mean'] for q in ours):.2f}" if ours else "-"
        rows.append(
            [
                c.views, f"{c.n_full:g} %", *("-" if math.isnan(s) else f"{100 * s:.0f} %" for s in shares), fids, kid,
                f"{_copies(ours):.1f} %" if ours else "-",
            ]
        )  # fmt: skip
    return _markdown(rows)


def _drawn(column: Column, arm: str) -> list[Any]:
    """The figures of samples of the seeds that have some."""
    return [r["samples"] for r in column.arms.get(arm, {}).values() if r.get("samples")]


def _mean_fid(figures: Sequence[Any]) -> float:
    return statistics.fmean(q["fid"] for q in figures)


def _copies(figures: Sequence[Any]) -> float:
    return statistics.fmean(100 * q["memorization"]["share"] for q in figures)


def quality_table(found: Sequence[Column]) -> str:
    """Figures of the samples, means over the seeds that have them; empty where none has.

    Only of columns in which an arm that sees views has any: the others would repeat those that see none.
    """
    head = ["views", "full", "arm", "samples", "FID", "KID x 1000", "precision", "recall", "copies"]
    rows = [head]
    for c in found:
        if not any(r.get("samples") and r["views"] != NO_VIEWS for by in c.arms.values() for r in by.values()):
            continue
        for arm in c.arms:
            qs = _drawn(c, arm)
            if not qs:
                continue
            mean = {k: statistics.fmean(q[k] for q in qs) for k in ("precision", "recall")}
            kid = statistics.fmean(1000 * q["kid"]["mean"] for q in qs)
            rows.append(
                [
                    c.views, f"{c.n_full:g} %", arm.replace("_", "-"), str(qs[0]["count"]), f"{_mean_fid(qs):.3g}",
                    f"{kid:.2f}", f"{mean['precision']:.2f}", f"{mean['recall']:.2f}", f"{_copies(qs):.1f} %",
                ]
            )  # fmt: skip
    return _markdown(rows) if len(rows) > 1 else ""


def cost_table(column: Column) -> str:
    """What each arm of a column cost, means over its seeds."""
    head = ["arm", "training FLOPs", "of the budget", "parameters", "networks / sampling step", "MFLOP / sampling step"]
    rows = [[*head, "training s"]]
    for arm, by_seed in column.arms.items():
        rs = list(by_seed.values())
        flops = statistics.fmean(r["ledger"]["flops"] for r in rs)
        rows.append(
            [
                arm.replace("_", "-"), f"{flops / 1e12:.2f} T", f"{100 * flops / rs[0]['budget_flops']:.0f} %",
                f"{statistics.fmean(r['parameters'] for r in rs) / 1e6:.2f} M",
                f"{statistics.fmean(r['evaluations']['networks'] for r in rs):.1f}",
                f"{statistics.fmean(r['evaluations']['flops'] for r in rs) / 1e6:.0f}",
                f"{statistics.fmean(r['seconds']['training'] for r in rs):.0f}",
            ]
        )  # fmt: skip
    return _markdown(rows)


def tuning_table(tuned: Mapping[str, Any]) -> str:
    """What tuning tried and chose, of the contents of tuned.json (`runs.tune`); empty where nothing was tuned."""
    rows = [["arm", "views", "full", "held-out loss of each setting", "seeds"]]
    for arm, kinds in tuned.items():
        for views, by_n in kinds.items():
            for n, found in sorted(by_n.items(), key=lambda item: float(item[0])):
                tried = [
                    f"{_settings(s)} {loss:.4f}" for s, loss in zip(found["settings"], found["losses"], strict=True)
                ]
                tried[found["trial"]] = f"**{tried[found['trial']]}**"
                seeds = ", ".join(map(str, found["seeds"]))
                rows.append([arm.replace("_", "-"), views, f"{n} %", "; ".join(tried), seeds])
    return _markdown(rows) if len(rows) > 1 else ""


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in settings.items()) or "default"


def fill(document: str, made: Mapping[str, str]) -> str:
    """The document with what stands between `<!-- table NAME -->` and `<!-- end -->` written again."""
    for name, text in made.items():
        pattern = rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)"
        parts = re.split(pattern, document, flags=re.S)
        if len(parts) > 1:
            document = "".join(f"\n{text}\n\n{part}" if k % 3 == 2 else part for k, part in enumerate(parts))
    return document
