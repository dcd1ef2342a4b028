"""Measured ceilings: what each view's files can bring, what the run made of it, and what everything in full would.

In nats, all from losses on samples that nothing was trained on, over the range of the noise levels (`information`):

    ceiling of view i    C_i = 1/2 int (L_y[n] - L_y[N]) d gamma    two denoisers of the view, from the n full samples
                                                                    and from its N files (`method.ceilings`)
    the run              R = 1/2 int (L_full_only - L_bootdiff) d gamma
    everything in full   G = 1/2 int (L_full_only - L_oracle) d gamma

C_i / G is the view's share of the gap, R / C what the run got of its ceiling. Several views bring together at least the
largest of their C_i, and their sum where they tell of different things; views that overlap are counted twice in it. R
may be above C: networks share what they learn, and bootdiff's law of x0 given y is another one than full-only's.

In full samples, where the run has an oracle of M samples: full-only's learning curve is then known at n and at M, and
between them it is taken as a straight line in ln n, so that a share g of the gap is worth n (M / n)^g - n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.evaluation.evaluate import information, sample_losses
from bootdiff.method.validation import SampleSet

__all__ = ["against_run", "ceiling", "equivalent_samples"]


def ceiling(
    from_full: Denoiser,
    from_files: Denoiser,
    samples: SampleSet,
    levels: Sequence[float],
    base: IsotropicGaussian,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """C of one view.

    Args:
        from_full, from_files: denoisers of the view, learned from the full samples and from the files.
        samples: full samples seen through the view, without noise; only what their masks show counts.
        levels: noise levels above that of the files, at least 2.
        base: isotropic Gaussian base of the view, by which the losses are normalized.

    Returns:
        what `information` does, and "losses": {"from_full", "from_files"}, means per level.
    """
    losses = sample_losses({"from_full": from_full, "from_files": from_files}, samples, levels, base, draws, seed)
    sizes = None if samples.mask is None else samples.mask.expand_as(samples.x).flatten(1).sum(1).double().cpu()
    found = information(losses, levels, base, "from_full", "from_files", sizes=sizes)
    return found | {"losses": {name: loss.mean(1).tolist() for name, loss in losses.items()}}


def equivalent_samples(share: float, count: int, everything: int) -> float:
    """Full samples in addition to `count` that close this share of the gap to `everything` in full.

    >>> round(equivalent_samples(0.5, 100, 10_000)), round(equivalent_samples(1.0, 100, 10_000))
    (900, 9900)
    """
    return float(count * (everything / count) ** share - count)


def against_run(
    views: Mapping[str, Mapping[str, Any]],
    losses: Mapping[str, torch.Tensor],
    levels: Sequence[float],
    base: IsotropicGaussian,
    count: int,
    everything: int | None = None,
) -> dict[str, Any]:
    """The ceilings beside what the run's arms make of them.

    Args:
        views: {view: `ceiling`}.
        losses: of the run's arms, by `evaluate.sample_losses`.
        base: that of the full samples.
        count: full samples trained on. everything: the oracle's.

    Returns:
        {"views": {view: `ceiling` and "share_of_gap", "equivalent_samples"}, "together": {"least", "sum" (nats),
        "share_of_gap", "equivalent_samples" (of the sum)}, "run": R as `information` gives it and "share" = R / sum,
        "gap": G}. None: an arm that is not there, a gap or ceilings that are not above 0 by two standard errors, full
        samples beyond the oracle's.
    """
    run = gap = None
    if {"full_only", "bootdiff"} <= set(losses):
        run = information(losses, levels, base, "full_only", "bootdiff")
    if {"full_only", "oracle"} <= set(losses):
        gap = information(losses, levels, base, "full_only", "oracle")

    def shares(nats: float) -> dict[str, Any]:
        share = nats / gap["nats"] if gap is not None and gap["nats"] > 2 * gap["stderr"] else None
        worth = None
        if share is not None and share < 1 and everything is not None:  # the curve ends at the oracle
            worth = equivalent_samples(share, count, everything)
        return {"share_of_gap": share, "equivalent_samples": worth}

    # a ceiling below 0 is an error of measurement, or files of another law: such a view brings nothing
    nats = [max(float(found["nats"]), 0.0) for found in views.values()]
    total, spread = sum(nats), sum(float(found["stderr"]) ** 2 for found in views.values()) ** 0.5
    if run is not None:
        run = run | {"share": run["nats"] / total if total > 2 * spread else None}
    return {
        "views": {name: {**found, **shares(max(found["nats"], 0.0))} for name, found in views.items()},
        "together": {"least": max(nats, default=0.0), "sum": total, **shares(total)},
        "run": run,
        "gap": gap,
    }
