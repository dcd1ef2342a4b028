"""The report's sentences and figures in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bootdiff.cli.plan_report import span
from bootdiff.data import kind_of

__all__ = ["arm", "dataset", "deciding", "decimal", "gains", "samples_are", "shares", "verdict"]

_PARTS = {
    "residual": "the networks of what the views leave over",
    "full": "the networks of the full samples alone",
    "visible": "the networks of all visible pixels",
    "gaussian": "the Gaussian of all known moments",
}
_VIEWS = "the views"
# Shares below this decide nothing.
_LITTLE = 0.02


def arm(name: str) -> str:
    """An arm's name as it is read.

    >>> arm("full_only")
    'full only'
    """
    return name.replace("_", " ")


def decimal(value: float | None, digits: int) -> str:
    """A number, or a dash for none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def samples_are(shape: Sequence[int], classes: Sequence[str] | None) -> str:
    """What a full sample is.

    >>> samples_are([1, 8, 8], None)
    'Full samples are images of 8 x 8, 1 channel.'
    """
    kind, channels = kind_of(tuple(shape)), int(shape[0])
    many = "1 channel" if channels == 1 else f"{channels} channels"
    if kind == "vector":
        text = f"Full samples are vectors of {channels} values"
    else:
        frames = f"{shape[1]} frames of " if kind == "video" else ""
        size = " x ".join(str(n) for n in (shape[2:] if kind == "video" else shape[1:]))
        values = " values" if kind == "signal" else ""
        text = f"Full samples are {kind}s of {frames}{size}{values}, {many}"
    if classes:
        named = ", ".join(map(str, classes[:12])) + (", ..." if len(classes) > 12 else "")
        text += f"; {len(classes)} classes: {named}"
    return f"{text}."


def dataset(name: str) -> str:
    """A data set's name as it is read.

    >>> dataset("full"), dataset("view left"), dataset("oracle")
    ('full samples', 'view left', 'everything in full (for the oracle alone)')
    """
    known = {"full": "full samples", "test": "test samples", "oracle": "everything in full (for the oracle alone)"}
    return known.get(name, name)


def verdict(metrics: Mapping[str, Any]) -> str:
    """What came of the comparison with full-only training; "" where there is none."""
    losses = metrics.get("holdout_loss") or {}
    if not {"full_only", "bootdiff"} <= set(losses):
        return ""
    ours, alone = losses["bootdiff"], losses["full_only"]["mean"]
    difference = ours["versus"]["full_only"]
    error = difference.get("stderr")
    share = difference["mean"] / alone
    if error is not None and abs(difference["mean"]) < 2 * error:
        text = (
            f"bootdiff's denoising loss ({ours['mean']:.4f}) is that of training on the full samples alone "
            f"({alone:.4f}) within its error"
        )
    else:
        side = "below" if share < 0 else "above"
        text = (
            f"bootdiff's denoising loss is {100 * abs(share):.1f} % {side} that of training on the full samples alone "
            f"({ours['mean']:.4f} against {alone:.4f})"
        )
    quality = metrics.get("samples") or {}
    if {"full_only", "bootdiff"} <= set(quality):
        text += f", FID {quality['bootdiff']['fid']:.3g} against {quality['full_only']['fid']:.3g}"
    gap, best = (metrics.get("gap_closed") or {}).get("mean"), losses.get("oracle", {}).get("mean", math.inf)
    if ours["mean"] < best < alone:
        text += f". That is below the loss of training as long on everything in full ({best:.4f})"
    elif gap is not None and best < alone and gap > 0:
        text += f". Of the gap to training on everything in full it closes {100 * gap:.0f} % in the loss"
    return f"{text}."


def shares(stack: Mapping[str, Any]) -> dict[str, list[float]]:
    """How much each part has to say at each noise level, {part: shares}, adding up to 1: the weights of the stack
    D = V + sum_k kappa_k (D_k - V), of which the views' composite V has what is left of 1.

    Args:
        stack: {"levels", "names", "values": (levels, names)}, names being those of stages.

    >>> shares({"levels": [1], "names": ["full-unet", "residual-unet"], "values": [[0.25, 0.5]]})["the views"]
    [0.25]
    """
    parts = [_part(name) for name in stack["names"]]
    out: dict[str, list[float]] = {part: [] for part in [_VIEWS, *dict.fromkeys(parts)]}
    for row in stack["values"]:
        found = dict.fromkeys(out, 0.0)
        for part, weight in zip(parts, row):
            found[part] += max(0.0, weight)
        found[_VIEWS] = max(0.0, 1 - sum(found.values()))
        total = sum(found.values()) or 1.0
        for part, value in found.items():
            out[part].append(value / total)
    return {part: values for part, values in out.items() if max(values, default=0) > _LITTLE}


def _part(stage: str) -> str:
    kind = "gaussian" if stage.endswith("-gaussian") else stage.partition("-")[0]
    return _PARTS.get(kind, stage)


def deciding(
    found: Mapping[str, Sequence[float]], levels: Sequence[float], gains: Mapping[str, Any] | None = None
) -> list[str]:
    """Who decides where: a sentence for each range of noise levels.

    Args:
        found: by `shares`.
        gains: of the views, to name those that count where the views decide; None: unknown.

    >>> deciding({"the views": [0.1, 0.2, 0.9], "the rest": [0.9, 0.8, 0.1]}, [0.1, 0.4, 1.6])
    ['At noise up to 0.4 the rest decide (80 to 90 %).', 'At noise of 1.6 and above the views decide (90 %).']
    """
    if not found:
        return []
    most = [max(found, key=lambda part, i=i: found[part][i]) for i in range(len(levels))]  # type: ignore[misc]
    said, at = [], 0
    for part, group in groupby(most):
        count = len(list(group))
        inside = range(at, at + count)
        values = sorted(round(100 * found[part][i]) for i in inside)
        percent = f"{values[0]} %" if values[0] == values[-1] else f"{values[0]} to {values[-1]} %"
        whose = _leading(gains, inside) if part == _VIEWS else ""
        low, high = levels[at], levels[at + count - 1]
        at += count
        if count == len(levels):
            where = "At all noise levels"
        elif low == levels[0]:
            where = f"At noise up to {high:g}"
        elif high == levels[-1]:
            where = f"At noise of {low:g} and above"
        else:
            where = f"At noise of {low:g}" + (f" to {high:g}" if count > 1 else "")
        said.append(f"{where} {part} decide{'s' if part == _PARTS['gaussian'] else ''} ({percent}){whose}.")
    return said


def _leading(found: Mapping[str, Any] | None, inside: Sequence[int]) -> str:
    """The views whose gains are large at these levels."""
    if found is None:
        return ""
    means = {name: sum(found["values"][i][k] for i in inside) / len(inside) for k, name in enumerate(found["names"])}
    largest = max(means.values(), default=0)
    names = [name for name, gain in means.items() if gain > max(largest / 2, _LITTLE)]
    return f", above all {' and '.join(names)}" if names and len(means) > 1 else f": {names[0]}" if names else ""


def gains(found: Mapping[str, Any]) -> list[str]:
    """At which noise each view has a say.

    >>> gains({"levels": [0.1, 0.4, 1.6], "names": ["left"], "values": [[0.0], [0.5], [0.9]]})
    ['left has a say at noise of 0.4 to 1.6, most at 1.6 (gain 0.90).']
    """
    said = []
    for k, name in enumerate(found["names"]):
        values = [row[k] for row in found["values"]]
        active = [value > _LITTLE for value in values]
        if not any(active):
            said.append(f"{name} has no say at any noise level.")
            continue
        top = max(range(len(values)), key=values.__getitem__)
        where = span(found["levels"], active)
        most = f", most at {found['levels'][top]:g}" if sum(active) > 1 else ""
        said.append(f"{name} has a say at noise of {where}{most} (gain {values[top]:.2f}).")
    return said
