"""Where samples are lost: one model's samples with a better one's denoiser at one range of noise levels at a time.

With D of the model and E of the other, the better one, the swapped denoiser of a range [a, b) is

    D_ab(x, sigma)  =  E(x, sigma) where a <= sigma < b,  D(x, sigma) elsewhere,

and the share of the difference in a figure f of samples (FID, KID) that the range closes is

    (f(D) - f(D_ab)) / (f(D) - f(E)):

1 where the range alone makes the samples as good as the other's, 0 where it changes nothing, below 0 where it makes
them worse.  All samples come from the same noise.  The levels act one after the other, so the shares of ranges that
cover all of them need not add up to 1.  A denoising loss cannot tell this: it measures each level on true noisy
samples, not on those that the levels above have made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser
from bootdiff.noise import on_host, some_rows

__all__ = [
    "BOUNDARIES",
    "HEADS",
    "SwappedDenoiser",
    "closed",
    "markdown",
    "name_of",
    "ranges",
    "rows_of",
    "sentence",
    "summary",
]

BOUNDARIES: tuple[float, ...] = (0.1, 0.4, 1.0, 3.0)
"""Noise levels between the ranges, for data in [-1, 1]."""


class SwappedDenoiser(Denoiser):
    """One denoiser, and in a range of noise levels the other; each is asked for its own rows only.

    Args:
        one: D.
        other: E, of the same shape.
        low, high: the other's range, low <= sigma < high; [0, inf): it alone, low = high: it never.

    Raises:
        ValueError: different shapes of samples; a range that is none.
    """

    def __init__(self, one: Denoiser, other: Denoiser, low: float, high: float) -> None:
        super().__init__()
        if tuple(one.shape) != tuple(other.shape):
            raise ValueError(f"the denoisers' samples differ in shape: {tuple(one.shape)} and {tuple(other.shape)}")
        if not 0 <= low <= high:
            raise ValueError(f"a range of noise levels needs 0 <= low <= high, got {low:g} and {high:g}")
        self.one, self.other, self.shape = one, other, tuple(one.shape)
        self.noise_shift = one.noise_shift
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D or E of each row, by its noise level: (B, *shape)."""
        inside = self._inside(sigma)
        if bool(inside.all()):
            return self.other(x, sigma, label, context)
        if not bool(inside.any()):
            return self.one(x, sigma, label, context)
        out = torch.empty_like(x)
        for denoiser, rows in ((self.one, (~inside).nonzero()[:, 0]), (self.other, inside.nonzero()[:, 0])):
            at = rows.to(x.device)
            part = denoiser(
                x[at], some_rows(sigma, rows), some_rows(label, rows), None if context is None else context[at]
            )
            out = out.index_copy(0, at, part.to(out.dtype))
        return out

    def valid_at(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.where(self._inside(sigma), self.other.valid_at(sigma, label), self.one.valid_at(sigma, label))

    def _inside(self, sigma: Tensor) -> Tensor:
        host = on_host(sigma)
        return (host >= self.low) & (host < self.high)


def ranges(boundaries: Sequence[float]) -> list[tuple[float, float]]:
    """The ranges between 0, the boundaries and infinity.

    Raises:
        ValueError: no boundaries, or they are not positive, finite and ascending.

    >>> ranges([0.1, 3])
    [(0.0, 0.1), (0.1, 3.0), (3.0, inf)]
    """
    ends = [0.0, *(float(b) for b in boundaries), math.inf]
    if len(ends) < 3 or not all(a < b for a, b in pairwise(ends)):
        given = ", ".join(f"{b:g}" for b in boundaries) or "none"
        raise ValueError(f"the boundaries must be positive and ascending noise levels, such as 0.1, 0.4; got {given}")
    return list(pairwise(ends))


def name_of(low: float, high: float) -> str:
    """A range for people.

    >>> name_of(0, 0.1), name_of(0.1, 0.4), name_of(3, math.inf)
    ('below 0.1', '0.1 to 0.4', 'above 3')
    """
    if low == 0:
        return "all" if high == math.inf else f"below {high:g}"
    return f"above {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def closed(own: float, swapped: float, other: float) -> float:
    """Share of the difference from `own` to `other` that `swapped` closes; NaN where the other is not below.

    >>> closed(4.5, 3.5, 2.5), closed(2.5, 3.0, 4.5)
    (0.5, nan)
    """
    return (own - swapped) / (own - other) if own > other else math.nan


def summary(
    own: Mapping[str, Any],
    other: Mapping[str, Any],
    swapped: Mapping[tuple[float, float], Mapping[str, Any]],
    name: str,
    sigmas: Sequence[float],
) -> dict[str, Any]:
    """What `metrics.json` says of one arm.

    Args:
        own, other: figures of the arm's own samples and of the other's (`sample_quality.sample_quality`).
        swapped: range -> figures of the samples with the other's denoiser there.
        name: the other's.
        sigmas: the noise levels of the sampler.

    Returns:
        {"other", "own" and "swapped_everywhere": {"fid", "kid": {"mean", "stderr"}}, "ranges": [the same figures with
        "low", "high" (None: no bound), "steps" (sampling steps in the range), "fid_share", "kid_share"], "count",
        "reference_count", "features"}.  Shares are None where the other's figure is not the better one.
    """
    rows = []
    for (low, high), q in swapped.items():
        shares = (closed(own["fid"], q["fid"], other["fid"]), closed(*(v["kid"]["mean"] for v in (own, q, other))))
        fid, kid = (None if math.isnan(s) else s for s in shares)
        steps = sum(low <= s < high for s in sigmas)
        limits = {"low": low, "high": None if high == math.inf else high, "steps": steps}
        rows.append({**limits, **_figures(q), "fid_share": fid, "kid_share": kid})
    shared = {key: own[key] for key in ("count", "reference_count", "features")}
    return {"other": name, "own": _figures(own), "swapped_everywhere": _figures(other), "ranges": rows, **shared}


def _figures(quality: Mapping[str, Any]) -> dict[str, Any]:
    return {"fid": quality["fid"], "kid": dict(quality["kid"])}


def sentence(arm: str, found: Mapping[str, Any]) -> str:
    """Where the arm's samples are lost, in one sentence; `found` by `summary`."""
    other, own, best = found["other"], found["own"]["fid"], found["swapped_everywhere"]["fid"]
    told = [row for row in found["ranges"] if row["fid_share"] is not None]
    if not told:
        return (
            f"{other}'s samples are not better than {arm}'s (FID {best:.3g} and {own:.3g}), so this does not tell "
            f"where {arm}'s are lost."
        )
    first, *others = sorted(told, key=lambda row: -row["fid_share"])
    if first["fid_share"] <= 0:
        return f"No range alone brings {arm}'s samples (FID {own:.3g}) nearer to {other}'s ({best:.3g})."
    text = (
        f"{arm}'s samples lose most at noise levels {_range(first)}: {other}'s denoiser there alone closes "
        f"{100 * first['fid_share']:.0f} % of the difference in FID ({own:.3g} to {best:.3g})"
    )
    if others and others[0]["fid_share"] > 0:
        text += f"; next comes {_range(others[0])} with {100 * others[0]['fid_share']:.0f} %"
    return text + "."


def _range(row: Mapping[str, Any]) -> str:
    return name_of(row["low"], math.inf if row["high"] is None else row["high"])


def rows_of(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of one arm's table: swapped where, sampling steps, FID, KID x 1000 ± s.e., both shares."""
    steps = sum(row["steps"] for row in found["ranges"])
    ends = {"fid_share": None, "kid_share": None}
    every = [
        ("nowhere", {**found["own"], **ends, "steps": 0}),
        *((_range(row), row) for row in found["ranges"]),
        ("everywhere", {**found["swapped_everywhere"], **ends, "steps": steps}),
    ]
    return [
        (
            where, str(row["steps"]), f"{row['fid']:.3g}", f"{1000 * kid['mean']:.2f} ± {1000 * kid['stderr']:.2f}",
            *("-" if row[key] is None else f"{100 * row[key]:.0f} %" for key in ends),
        )
        for where, row in every
        for kid in [row["kid"]]
    ]  # fmt: skip


HEADS = ("swapped at sigma", "steps", "FID", "KID x 1000 ± s.e.", "FID closed", "KID closed")
"""The heads of `rows_of`."""


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of all arms, {arm: by `summary`}, each with its sentence."""
    parts = []
    for arm, one in found.items():
        rows = [HEADS, *rows_of(one)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(HEADS))
        head = f"{arm} with {one['other']}'s denoiser at some noise levels, {one['count']} samples:"
        parts += [head, "\n".join(lines), sentence(arm, one)]
    return "\n\n".join(parts)
