"""Figures of merit of generated samples against real ones, with errors: by features, by their detail, and along time.

Errors are by the delete-a-group jackknife (Shao and Tu 1995, section 2.3): with f_g the figure without group g of G,

    var f = (G - 1) / G * sum_g (f_g - mean f_g)^2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.data import Dataset, kind_of
from bootdiff.evaluation.features import Features
from bootdiff.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    lag_correlation,
    memorization_ratio,
    precision_recall_density_coverage,
)
from bootdiff.moments.spectrum import detail, has_detail

__all__ = ["long_range", "sample_quality"]


def sample_quality(
    images: Tensor,
    reference: Dataset,
    train: Dataset,
    held_out: Dataset | None,
    features: Features,
    *,
    neighbours: int = 5,
    mirrored: bool = False,
    limit: int = 2000,
    floor: float = 0.02,
) -> dict[str, Any]:
    """Figures of merit of samples; they hold for this network and these counts only.

    Args:
        images: samples, (n, C, *space); images and videos are clipped to [-1, 1].
        reference: real images for Frechet and kernel distance, precision to coverage: the test set.
        train: the full samples the model was trained on, for memorization (in pixels).
        held_out: full samples it was not trained on, for the same figures without memorization, or None.
        features: the feature network.
        neighbours: k of precision to coverage; lowered to what the counts allow.
        mirrored: whether training used mirrored images: a mirrored copy is a copy, too.
        limit: at most this many of each set for the kernel distance, whose cost is quadratic.
        floor: the sampler's lowest noise level, below which it draws no detail.

    Returns:
        {"fid", "kid": {"mean", "stderr"}, "precision", "recall", "density", "coverage", "neighbours",
        "memorization": {"share", "median", "holdout_share", "holdout_median"}, "detail": {"ratio", "stderr",
        "octaves"} (`moments.spectrum`; None for samples without octaves), "count", "reference_count", "train_count",
        "features"}.  The kernel distance's error is a jackknife over ten groups of both sets.

    Raises:
        ValueError: samples of the wrong shape or not finite, too few of them.
    """
    if len(images) < 3 or len(reference) < 3:
        raise ValueError(f"sample_quality needs at least 3 samples and references, got {len(images)}, {len(reference)}")
    a, b = features.extract(images), features.extract(reference)
    k = min(neighbours, len(a) - 1, len(b) - 1)
    pixels = images.detach().cpu()
    pixels = pixels.clamp(-1, 1) if kind_of(images.shape[1:]) in ("image", "video") else pixels
    x = _pixels(train)
    if mirrored:
        x = torch.cat([x, x.flip(-1)])
    memorized = memorization_ratio(pixels, x, None if held_out is None or not len(held_out) else _pixels(held_out))
    return {
        "fid": frechet_distance(a, b),
        "kid": _kernel(a[:limit], b[:limit]),
        **precision_recall_density_coverage(b, a, k)._asdict(),
        "neighbours": k,
        "memorization": memorized._asdict(),
        "detail": detail(pixels, _pixels(reference), floor).record() if has_detail(pixels.shape[1:]) else None,
        "count": len(images),
        "reference_count": len(reference),
        "train_count": len(train),
        "features": features.name,
    }


def _pixels(source: Dataset) -> Tensor:
    return source.batch(range(len(source)))[0]


def _kernel(a: np.ndarray, b: np.ndarray, groups: int = 10) -> dict[str, float]:
    """Kernel distance of all rows, and its error by the delete-a-group jackknife (Shao and Tu 1995, section 2.3)."""
    least = min(len(a), len(b))
    mean = _distance(a, b)
    groups = min(groups, least // 2)
    if groups < 2 or least - math.ceil(least / groups) < 2:
        return {"mean": mean, "stderr": math.nan}
    fold_a, fold_b = np.arange(len(a)) % groups, np.arange(len(b)) % groups
    without = np.array([_distance(a[fold_a != g], b[fold_b != g]) for g in range(groups)])
    return {"mean": mean, "stderr": _jackknife(without)}


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased over all rows of the smaller set and as many of the larger."""
    n = min(len(a), len(b))
    return kernel_distance(a[:n], b[:n], subsets=1, size=n)[0]


def long_range(samples: Tensor, reference: Dataset) -> dict[str, Any]:
    """Correlation along time in samples against that in real videos or signals (`metrics.lag_correlation`).

    Of T frames all lags count, so the longest is that of the first frame with the last; of L values, those up to L / 2.

    Args:
        samples: (n, C, T, H, W) or (n, C, L).
        reference: real ones of the same shape.

    Returns:
        {"lag", the longest; "samples", "real" and "difference" there, each {"mean", "stderr"}; "rms" difference over
        all lags {"mean", "stderr"}; "curve": {"lags", "samples", "real"}, "count", "reference_count"}.  Errors by the
        delete-a-group jackknife over both sets; even for a perfect model the rms is of the order of its error.
    """
    longest = samples.shape[2] - 1 if samples.ndim == 5 else samples.shape[2] // 2
    a, b = lag_correlation(samples, longest), lag_correlation(_pixels(reference), longest)
    groups = min(len(a.replicates), len(b.replicates))
    d, replicates = a.mean - b.mean, a.replicates[:groups] - b.replicates[:groups]
    rms = float(np.sqrt(np.mean(d**2)))
    return {
        "lag": longest,
        "samples": {"mean": float(a.mean[-1]), "stderr": _jackknife(a.replicates[:, -1])},
        "real": {"mean": float(b.mean[-1]), "stderr": _jackknife(b.replicates[:, -1])},
        "difference": {"mean": float(d[-1]), "stderr": _jackknife(replicates[:, -1])},
        "rms": {"mean": rms, "stderr": _jackknife(np.sqrt(np.mean(replicates**2, 1)))},
        "curve": {"lags": a.lags.tolist(), "samples": a.mean.tolist(), "real": b.mean.tolist()},
        "count": len(samples),
        "reference_count": len(reference),
    }


def _jackknife(replicates: np.ndarray) -> float:
    """Standard error by the figures without each group (Shao and Tu 1995, section 2.3)."""
    groups = len(replicates)
    return float(np.sqrt((groups - 1) / groups * np.sum((replicates - replicates.mean()) ** 2)))
