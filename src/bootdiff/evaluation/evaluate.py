"""The final table: held-out losses of all arms with their errors, gap closed, information, samples, in one file.

Every arm a is evaluated at the same noisy samples (the noise depends on seed, level, draw and sample alone).  With
l_a(s, j) its normalized loss (1 for the isotropic Gaussian base, `denoise.denoising_error`) at level s on sample j,
averaged over draws,

    loss(a)  =  mean_j mean_s l_a(s, j),        standard errors over the n samples;

differences of two arms are *paired*: the error is that of mean_s (l_a - l_b), usually far below those of the losses.
Beside it stands the sample-weighted loss, whose mean over s has the weights of `sample_weights`.

*Gap closed*: share of the way from full-only F to the oracle O that an arm B goes, g = (F - B) / (F - O), with the
error of the ratio by the delta method from the paired differences (Casella and Berger 2002, section 5.5.4):

    var g = (var(F - B) - 2 g cov(F - B, F - O) + g^2 var(F - O)) / (F - O)^2.

*Information*: for V exact for some distribution q, and D* exact for the data's distribution p, with gamma = 1 / sigma^2
(Guo, Shamai, Verdu 2005, arXiv cs/0412108; mismatched: Verdu 2010, IEEE Trans. Inf. Theory 56(8)),

    KL(p || q) = 1/2 int_0^inf E |D* - V|^2 d gamma = dim int (L_V - L_D*) c_skip d ln sigma,

because E |D* - V|^2 = E |V - x0|^2 - E |D* - x0|^2 and the loss is normalized by c_out^2 = sigma^2 c_skip.  A learned
D has L_D >= L_D*, and a finite range of levels leaves out a part that is not negative, so what is measured is a lower
bound in expectation, up to the error of the trapezoid rule between the levels. The interval is of the integral over
the levels' range, which for exact denoisers is KL(p_low || q_low) - KL(p_high || q_high) of the distributions of x0 +
sigma n at its two ends; it holds the sampling error (Student's t over samples) and that of the rule, estimated by
halving the levels: |T_h - T_2h| / 3 (Richardson 1911; Davis and Rabinowitz 1984, section 6.3).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.sample_weights import weighted_mean, weights_at
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.noise import precondition
from bootdiff.training.files import write_stamped
from bootdiff.training.run import command_line

__all__ = [
    "EVALUATED_ON",
    "gap_closed",
    "holdout_losses",
    "information",
    "markdown_table",
    "sample_losses",
    "tabulate",
    "write_metrics",
]

EVALUATED_ON = {"test": "test", "held-out": "held-out (also used for selection: optimistic)"}
"""What the losses were measured on, and its name in metrics.json."""

PACKAGES = ("bootdiff", "torch", "numpy", "diffusers", "accelerate")

Table = dict[str, dict[str, Any]]


# --- losses -----------------------------------------------------------------------------------------------------------


def sample_losses(
    denoisers: Mapping[str, Denoiser],
    samples: SampleSet,
    levels: Sequence[float],
    base: IsotropicGaussian,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Normalized loss of each denoiser at each level on each sample, {arm: (levels, n) float64}, mean over draws.

    Args:
        denoisers: by the name of the arm; all of the shape of the samples.
        samples: clean samples on the denoisers' device; where they have masks, only observed coordinates count.
        levels: noise levels, ascending.
        base: the isotropic Gaussian base whose loss is 1.
        draws: noise draws per sample and level, the same for every denoiser.
        seed: of the noise.

    Raises:
        BootdiffError: a denoiser gives NaN or infinity (names arm, level and sample).
        ValueError: no samples, no levels, fewer than one draw.
    """
    if not len(samples) or not levels or draws < 1:
        raise ValueError(
            f"held-out losses need samples, levels and draws; got {len(samples)}, {len(levels)} and {draws}"
        )
    # Hashed: with a small seed itself, the noise could equal that of synthetic data made with that seed.
    digits = hashlib.sha256(f"{seed} evaluation".encode()).hexdigest()[:8]
    held_out = Validator(samples, CompositeDenoiser({}, base, levels), levels, draws, int(digits, 16))
    losses = held_out.denoisers(denoisers)
    for arm, loss in losses.items():
        if not bool(loss.isfinite().all()):
            level, sample = (~loss.isfinite()).nonzero()[0].tolist()
            raise BootdiffError(
                f"{arm}: its held-out loss is not finite at sigma {levels[level]:g} on sample {sample}; the denoiser "
                "has diverged: train it again with a lower learning rate, and check the data for extreme values"
            )
    return losses


def tabulate(losses: Mapping[str, Tensor], levels: Sequence[float]) -> Table:
    """Means and standard errors of (levels, n) losses, as plain values.

    Returns:
        {arm: {"mean", "stderr", "sample_weighted": {"mean", "stderr"} (`sample_weights`), "per_level": {"0.05":
        {"mean", "stderr"}, ...}, "versus": {other: {the same four, of the paired difference arm - other}}}}.  Errors
        are over samples, of the mean over levels; NaN for one sample.

    Raises:
        ValueError: losses not of shape levels by samples, or of different numbers of samples.
    """
    sizes = {tuple(loss.shape) for loss in losses.values()}
    if len(sizes) > 1 or any(len(size) != 2 or size[0] != len(levels) for size in sizes):
        raise ValueError(f"losses must be ({len(levels)} levels, samples), the same for all arms; got {sorted(sizes)}")
    return {
        arm: _entry(loss, levels)
        | {"versus": {other: _entry(loss - of, levels) for other, of in losses.items() if other != arm}}
        for arm, loss in losses.items()
    }


def _entry(loss: Tensor, levels: Sequence[float]) -> dict[str, Any]:
    rows = {f"{s:g}": _mean(row) for s, row in zip(levels, loss, strict=True)}
    return {**_mean(loss.mean(0)), "sample_weighted": _mean(weights_at(levels) @ loss.double()), "per_level": rows}


def _mean(values: Tensor) -> dict[str, float]:
    """Mean and standard error of (n,) values."""
    n = len(values)
    stderr = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return {"mean": float(values.mean()), "stderr": stderr}


def holdout_losses(
    denoisers: Mapping[str, Denoiser],
    samples: SampleSet,
    levels: Sequence[float],
    base: IsotropicGaussian,
    draws: int = 4,
    seed: int = 0,
) -> Table:
    """`sample_losses` and `tabulate` at once; see there."""
    return tabulate(sample_losses(denoisers, samples, levels, base, draws, seed), levels)


def gap_closed(
    table: Mapping[str, Mapping[str, Any]], arm: str = "bootdiff", of: str = "full_only", to: str = "oracle"
) -> dict[str, Any]:
    """Share of the gap from `of` to `to` that `arm` closes: 0 is no better than `of`, 1 as good as `to`.

    Args:
        table: by `tabulate`.

    Returns:
        {"mean", "stderr", "sample_weighted": {"mean", "stderr"}, "per_level": {level: {"mean", "stderr"}}, "arm",
        "of", "to"}: "mean" is the share of the gap in the mean loss, not the mean of the levels' shares.  NaN
        where there is no gap (`to` is not better than `of` by two standard errors).

    Raises:
        ValueError: an arm that is not in the table.
    """
    for name in (arm, of, to):
        if name not in table:
            raise ValueError(f"gap_closed needs {name!r}, but the table holds {', '.join(table) or 'nothing'}")
    first, gap, last = table[of]["versus"][arm], table[of]["versus"][to], table[arm]["versus"][to]
    rows = {s: _share(first["per_level"][s], gap["per_level"][s], last["per_level"][s]) for s in gap["per_level"]}
    weighted = _share(*(difference["sample_weighted"] for difference in (first, gap, last)))
    return {**_share(first, gap, last), "sample_weighted": weighted, "per_level": rows, "arm": arm, "of": of, "to": to}


def _share(first: Mapping[str, float], gap: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """(F - B) / (F - O) of the paired differences F - B, F - O and B - O, whose errors give the covariance."""
    u, v = first["mean"], gap["mean"]
    var_u, var_v, var_w = (d["stderr"] ** 2 for d in (first, gap, last))
    if not v > 0 or v**2 < 4 * var_v:
        return {"mean": math.nan, "stderr": math.nan}
    g, cov = u / v, (var_u + var_v - var_w) / 2
    return {"mean": g, "stderr": math.sqrt(max(var_u - 2 * g * cov + g**2 * var_v, 0.0)) / abs(v)}


def information(
    losses: Mapping[str, Tensor],
    levels: Sequence[float],
    base: IsotropicGaussian,
    of: str = "views_only",
    than: str = "bootdiff",
    confidence: float = 0.95,
    sizes: Tensor | None = None,
) -> dict[str, Any]:
    """Information that the denoiser `than` captures and `of` does not, in nats: a truncated I-MMSE integral.

    KL(p || q) >= this in expectation, with p the data's distribution and q the distribution that `of` is exact for: for
    the views' composite, the signal correlation that the views do not capture.  Only ln sigma between the lowest and
    the highest level is integrated ("range"), by the trapezoid rule; what lies outside is not estimated.  Finer and
    wider levels bring it closer.  It may be negative where `than` is the worse denoiser.

    Args:
        losses: by `sample_losses`.
        levels: the noise levels of the losses, ascending, at least 2.
        base: the isotropic Gaussian base the losses are normalized by.
        confidence: of the interval, between 0 and 1.
        sizes: coordinates of each sample that its mask shows, (n,); None: all.

    Returns:
        {"nats", "stderr" (over samples), "bits", "bits_per_dim", "dim", "confidence",
        "interval": {"nats": [low, high], "bits": [...], "bits_per_dim": [...]}, "quadrature" (nats, the estimated
        error of the rule, part of the interval), "range": [sigma, sigma], "ends" (the integrand at both ends of the
        range over its largest value: near 0 where nothing more is to be expected beyond), "per_level": {level: nats
        per unit of ln sigma}, "of", "than", "truncated": True}. The interval is NaN for one sample. Of two levels the
        error of the rule cannot be estimated and is NaN; the interval then holds the sampling error alone.

    Raises:
        ValueError: an arm without losses, levels that are too few or do not ascend, an invalid confidence.
    """
    from scipy.stats import t as student

    for name in (of, than):
        if name not in losses:
            raise ValueError(f"information needs the losses of {name!r}; given: {', '.join(losses) or 'none'}")
    sigma = torch.tensor(list(levels), dtype=torch.float64)
    if len(levels) < 2 or not bool((sigma.diff() > 0).all()) or len(losses[of]) != len(levels):
        raise ValueError(f"information needs at least two ascending levels, as many as the losses have; got {levels}")
    if not 0 < confidence < 1:
        raise ValueError(f"information: the confidence must lie between 0 and 1, got {confidence}")
    dim = math.prod(base.shape)
    seen: int | Tensor = dim if sizes is None else sizes
    density = seen * precondition(sigma, base.sigma_data).c_skip[:, None] * (losses[of] - losses[than])
    nats = _mean(torch.trapezoid(density, sigma.log(), dim=0))
    mean, per_level = nats["mean"], density.mean(1)
    quadrature, count = _halving(per_level, sigma.log()), density.shape[1]
    half = float(student.ppf((1 + confidence) / 2, count - 1)) * nats["stderr"] if count > 1 else math.nan
    half += 0.0 if math.isnan(quadrature) else quadrature
    unit = {"nats": 1.0, "bits": 1 / math.log(2), "bits_per_dim": 1 / (dim * math.log(2))}
    peak = float(per_level.abs().max())
    return {
        "nats": mean,
        "stderr": nats["stderr"],
        "bits": mean * unit["bits"],
        "bits_per_dim": mean * unit["bits_per_dim"],
        "dim": dim,
        "confidence": confidence,
        "interval": {name: [scale * (mean - half), scale * (mean + half)] for name, scale in unit.items()},
        "quadrature": quadrature,
        "range": [float(sigma[0]), float(sigma[-1])],
        "ends": [float(per_level[k]) / peak if peak > 0 else 0.0 for k in (0, -1)],
        "per_level": {f"{s:g}": float(row) for s, row in zip(levels, per_level, strict=True)},
        "of": of,
        "than": than,
        "truncated": True,
    }


def _halving(y: Tensor, x: Tensor) -> float:
    """Error of the trapezoid rule, from every other node and the last; NaN for two nodes."""
    if len(x) < 3:
        return math.nan
    kept = sorted({*range(0, len(x), 2), len(x) - 1})
    return abs(float(torch.trapezoid(y, x) - torch.trapezoid(y[kept], x[kept]))) / 3


# --- what is written --------------------------------------------------------------------------------------------------


def markdown_table(table: Mapping[str, Mapping[str, Any]], digits: int = 3) -> str:
    """The table of losses as Markdown: a row an arm, a column a level, mean, standard error, sample-weighted mean.

    >>> print(markdown_table({"oracle": {"mean": 0.39, "stderr": 0.004, "per_level": {"0.1": {"mean": 0.39}}}}))
    | arm | 0.1 | mean | standard error | sample-weighted |
    |---|---|---|---|---|
    | oracle | 0.390 | 0.390 | 0.004 | 0.390 |
    """
    levels = list(next(iter(table.values()))["per_level"]) if table else []
    heads = ["arm", *levels, "mean", "standard error", "sample-weighted"]
    rows = [
        [
            arm,
            *(f"{entry['per_level'][s]['mean']:.{digits}f}" for s in levels),
            *(f"{entry[k]:.{digits}f}" for k in ("mean", "stderr")),
            f"{weighted_mean(entry):.{digits}f}",
        ]
        for arm, entry in table.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, *rows]).replace("\n", f"\n|{'---|' * len(heads)}\n", 1)


def write_metrics(
    path: str | Path,
    *,
    table: Mapping[str, Mapping[str, Any]],
    levels: Sequence[float],
    count: int,
    evaluated_on: str,
    seed: int,
    recipe: Any = None,
    gap: Mapping[str, Any] | None = None,
    information: Mapping[str, Any] | None = None,
    ceilings: Mapping[str, Any] | None = None,
    left_out: Mapping[str, str] | None = None,
    samples: Mapping[str, Any] | None = None,
    long_range: Mapping[str, Any] | None = None,
    ledger: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write metrics.json atomically, and return what was written.

    Args:
        path: the file; its folder exists.
        table: by `holdout_losses`; becomes "holdout_loss", {arm: {"mean", "stderr", ...}}.
        levels: noise levels of the table.
        count: samples it was measured on.
        evaluated_on: "test" or "held-out"; the latter is written with the warning that goes with it.
        seed, recipe: what the run was started with (the recipe as text or plain values).
        gap: by `gap_closed`; taken from the table where it is not given and the table has the arms for it.
        information: by `information`.  ceilings: by `ceilings.against_run`.  left_out: {view: why it has no part in
            the run}.  samples, long_range: {arm: `quality.sample_quality`, `quality.long_range`}.
        ledger: by `evaluation.costs.costs`.

    Raises:
        ValueError: an unknown `evaluated_on`; an arm of the table without mean and stderr.
        BootdiffError: no room on the disk; the old file is then intact.
    """
    if evaluated_on not in EVALUATED_ON:
        raise ValueError(f"evaluated_on must be one of {', '.join(map(repr, EVALUATED_ON))}, got {evaluated_on!r}")
    for arm, entry in table.items():
        if not {"mean", "stderr"} <= set(entry):
            raise ValueError(f"the table's arm {arm!r} lacks mean or stderr; make it by tabulate()")
    if gap is None and {"bootdiff", "full_only", "oracle"} <= set(table):
        gap = gap_closed(table)
    content: dict[str, Any] = {
        "recipe": recipe,
        "seed": seed,
        "evaluated_on": EVALUATED_ON[evaluated_on],
        "count": count,
        "levels": list(levels),
        "holdout_loss": {arm: dict(entry) for arm, entry in table.items()},
        "gap_closed": gap,
        "information": information,
        "ceilings": ceilings,
        "left_out": left_out,
        "samples": samples,
        "long_range": long_range,
        "ledger": ledger,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "command": command_line(),
    }
    write_stamped(path, content)
    return content


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
