"""Figures of merit of a set of samples: pure functions on arrays, one row a sample, in float64 throughout.

With mu, C the mean and covariance of the features, k(x, y) = (x.y / d + 1)^3, and r_i the distance of a point to its
k-th nearest neighbour in its own set:

    Frechet    |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2   (1)
    kernel     unbiased MMD^2 under k, over random subsets                           (2)
    precision  share of the samples inside some real ball (x_i, r_i)                 (3)
    recall     share of the real points inside some sample's ball                    (3)
    density    mean number of real balls around a sample, over k                     (4)
    coverage   share of the real balls with a sample inside                          (4)
    memorized  share of the samples with d_1 < d_2 / 3,                              (5)
               d_j the distance to the j-th nearest training point
    lag k      sum_t,p Cov(x_t,p, x_t+k,p) / sqrt(sum_t,p Var x_t,p sum_t,p Var x_t+k,p): of videos and signals along
               time, pooled over pixels p and starts t; the longest lag of T frames is that of frame 1 with frame T

Sources: (1) Heusel et al. 2017, arXiv 1706.08500; (2) Binkowski et al. 2018, arXiv 1801.01401; (3) Kynkaanniemi et al.
2019, arXiv 1904.06991; (4) Naeem et al. 2020, arXiv 2002.09797; (5) Yoon et al. 2023, "Diffusion probabilistic models
generalize when they fail to memorize" (ICML workshop), with the form of Gu et al. 2023, arXiv 2310.02664.

A figure is meaningful only with the name of its feature network and the two counts: the Frechet distance
and the manifold figures are biased at small counts, so compare at equal counts only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "PRDC",
    "LagCorrelation",
    "Memorization",
    "frechet_distance",
    "kernel_distance",
    "lag_correlation",
    "memorization_ratio",
    "precision_recall_density_coverage",
]

Array = NDArray[np.float64]

_TIE = 1e-12  # share by which distances, ratios and values that are the same may differ by rounding


def frechet_distance(a: Any, b: Any) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features (FID where they are Inception's).

    The trace of (C_a^1/2 C_b C_a^1/2)^1/2 is the nuclear norm of R_a R_b^T, where R^T R = C: the square roots of the
    symmetric product's eigenvalues, without forming it. Singular covariances (fewer samples than features) are as exact
    as others, where a matrix square root loses half of the digits.

    Args:
        a, b: features, (n_a, d) and (n_b, d), arrays or tensors; at least 2 rows each. Covariances divide by n - 1.

    Returns:
        The distance, >= 0, in squared units of the features. Biased upward by about tr C (1/n_a + 1/n_b) and more.

    Raises:
        ValueError: wrong or different shapes, too few rows, values that are not finite.
    """
    a, b = _pair(a, b, 2, "frechet_distance")
    mean_a, mean_b = a.mean(0), b.mean(0)
    r_a, r_b = _root(a - mean_a), _root(b - mean_b)
    cross = np.linalg.svd(r_a @ r_b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(r_a**2) + np.sum(r_b**2) - 2 * cross
    return max(float(distance), 0.0)


def _root(centred: Array) -> Array:
    """R, (min(n, d), d), with R^T R the covariance of centred rows."""
    return np.asarray(np.linalg.qr(centred / np.sqrt(len(centred) - 1), mode="r"))


def kernel_distance(
    a: Any, b: Any, subsets: int = 100, size: int | None = None, generator: np.random.Generator | int = 0
) -> tuple[float, float]:
    """Kernel distance (KID where the features are Inception's): unbiased MMD^2 under k(x, y) = (x.y / d + 1)^3.

    Unlike the Frechet distance it is unbiased at any count; it may be slightly negative where the distributions agree.

    Args:
        a, b: features, (n_a, d) and (n_b, d), arrays or tensors.
        subsets: number of random subsets, drawn without replacement from each set.
        size: rows of a subset, 2 <= size <= min(n_a, n_b); None: 1,000, or all where there are fewer. A subset
            that is the whole of both sets is always the same one: one evaluation, deviation 0.
        generator: numpy's, or a seed.

    Returns:
        Mean and standard deviation (over the subsets, divided by their number) of the estimate.

    Raises:
        ValueError: wrong or different shapes, fewer rows than `size`, no subsets, values that are not finite.
    """
    a, b = _pair(a, b, 2, "kernel_distance")
    least = min(len(a), len(b))
    size = min(1000, least) if size is None else size
    if not 2 <= size <= least:
        raise ValueError(
            f"kernel_distance: subsets of {size} rows requested from {len(a)} and {len(b)}; "
            f"give 2 <= size <= {least}, or more samples"
        )
    if subsets < 1:
        raise ValueError(f"kernel_distance: at least one subset is needed, got subsets={subsets}")
    rng = np.random.default_rng(generator)
    if size == len(a) == len(b):
        return _mmd2(a, b), 0.0
    values = [
        _mmd2(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _mmd2(x: Array, y: Array) -> float:
    """Unbiased MMD^2 of two sets of m rows each: the diagonals of k(x, x) and k(y, y) are left out."""
    m, d = x.shape
    k_xx, k_yy, k_xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = k_xx.sum() - np.trace(k_xx) + k_yy.sum() - np.trace(k_yy)
    return float(within / (m * (m - 1)) - 2 * k_xy.mean())


class PRDC(NamedTuple):
    """Precision, recall, coverage in [0, 1]; density >= 0, about 1 where the distributions agree."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(real: Any, fake: Any, k: int = 5) -> PRDC:
    """Fidelity (precision, density) and variety (recall, coverage) by nearest-neighbour balls.

    Not symmetric: the first argument is the real one. Where both sets follow one distribution of n points each,
    coverage is 1 - 2^-k in expectation (Naeem et al. 2020, lemma 2) and density 1; precision and recall depend on the
    distribution.

    Args:
        real: features of real images, (n, d).
        fake: features of samples, (m, d).
        k: nearest neighbour whose distance is a ball's radius, the point itself not counted; k < min(n, m).

    Raises:
        ValueError: wrong or different shapes, k < 1, not more than k rows, values that are not finite.
    """
    if k < 1:
        raise ValueError(f"precision_recall_density_coverage: k must be at least 1, got {k}")
    real, fake = _pair(real, fake, k + 1, f"precision_recall_density_coverage with k={k}")
    real_radius, fake_radius = _radius(real, k), _radius(fake, k)
    balls = np.zeros(len(fake))
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, d in _distances(real, fake):
        inside = d < real_radius[rows, None]
        balls += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (d < fake_radius).any(1)
    return PRDC(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _radius(x: Array, k: int) -> Array:
    """Distance of every row to its k-th nearest other row, (n,): the row itself is the nearest of all, at 0.

    Less by 1e-12 of it, so that a point at the same distance is outside however the two round.
    """
    return (1 - _TIE) * np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in _distances(x, x)])


class Memorization(NamedTuple):
    """What `memorization_ratio` found. The last two are None where no held-out images were given."""

    share: float
    median: float
    holdout_share: float | None
    holdout_median: float | None


def memorization_ratio(samples: Any, train: Any, holdout: Any | None = None, threshold: float = 1 / 3) -> Memorization:
    """Nearest-neighbour memorization: the share of samples much closer to one training point than to any other.

    A sample counts as memorized where d_1 / d_2 < `threshold`, d_j its distance to the j-th nearest training point.
    Images of the same kind that the model was not trained on, `holdout`, give the share and the median ratio without
    memorization; read the first two figures against these.

    Exact duplicates in `train` count once (else a copied duplicate would have ratio 1). A model trained with mirrored
    images may copy a mirrored one: give `train` with its mirrored images, or such copies are missed. A training point
    met exactly has ratio 0.

    Args:
        samples: (m, ...), pixels (as in the papers) or features; every row is flattened.
        train: what the model was trained on, (n, ...), at least 2 different rows.
        holdout: (h, ...) held out from training, or None.
        threshold: 1/3 in the papers named above; in (0, 1].

    Returns:
        Share and median ratio d_1 / d_2 of the samples and of the held-out images, all in [0, 1].

    Raises:
        ValueError: different sizes, too few (different) rows, threshold out of range, values that are not finite.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"memorization_ratio: threshold must be in (0, 1], got {threshold}")
    flat_samples, flat_train = _pair(_flatten(samples), _flatten(train), 1, "memorization_ratio")
    distinct = np.unique(flat_train, axis=0)
    if len(distinct) < 2:
        raise ValueError(
            f"memorization_ratio: train has {len(distinct)} different rows of {len(flat_train)}; "
            "the ratio to the second nearest training point needs at least 2"
        )
    ratio = _ratios(flat_samples, distinct)
    below = threshold * (1 - _TIE)  # a ratio of exactly the threshold is not below it, however it rounds
    share, median = float((ratio < below).mean()), float(np.median(ratio))
    if holdout is None:
        return Memorization(share, median, None, None)
    flat_holdout, _ = _pair(_flatten(holdout), flat_train, 1, "memorization_ratio (holdout against train)")
    reference = _ratios(flat_holdout, distinct)
    return Memorization(share, median, float((reference < below).mean()), float(np.median(reference)))


class LagCorrelation(NamedTuple):
    """What `lag_correlation` found, as arrays: lags (K,), correlations (K,), replicates (groups, K)."""

    lags: NDArray[np.int64]
    mean: Array
    replicates: Array
    """Correlations without each of the groups of samples: the spread that a jackknife needs."""


def lag_correlation(samples: Any, longest: int | None = None, groups: int = 10) -> LagCorrelation:
    """Correlation along time over lags 1 to `longest`: whether distant steps are still related.

    Each coordinate's mean over the samples is taken off first. What is constant over the samples, to 1e-12, correlates
    with nothing: 0 where everything is.

    Args:
        samples: signals (n, C, L) or videos (n, C, T, H, W); time is the third axis.
        longest: the longest lag; None: all there are, T - 1.
        groups: of the delete-a-group jackknife (Shao and Tu 1995, section 2.3), at most n.

    Raises:
        ValueError: a different shape, fewer than two samples, lags that do not exist, values that are not finite.
    """
    x = _array(samples)
    if x.ndim not in (3, 5) or len(x) < 2 or x.shape[2] < 2:
        raise ValueError(
            f"lag_correlation: need two or more signals (n, C, L) or videos (n, C, T, H, W), got {x.shape}"
        )
    steps = x.shape[2]
    longest = steps - 1 if longest is None else longest
    if not 1 <= longest < steps:
        raise ValueError(f"lag_correlation: lags up to {longest} requested from {steps} steps; give 1 to {steps - 1}")
    if not np.isfinite(x).all():
        raise ValueError("lag_correlation: the samples hold values that are not finite; check the sampler")
    off = x - x.mean(0)
    # a mean that is rounded leaves the same small number everywhere, which would correlate fully
    off[np.abs(off) <= _TIE * np.abs(x)] = 0
    x = np.moveaxis(off, 2, 1).reshape(len(x), steps, -1)
    power = np.square(x).sum(2)
    lags = np.arange(1, longest + 1)
    # Sums of each sample, (n, K), so that a group's contribution can be subtracted.
    cross = np.stack([np.einsum("ntp,ntp->n", x[:, :-k], x[:, k:]) for k in lags], 1)
    early, late = (np.stack([power[:, rows].sum(1) for rows in of], 1) for of in zip(*_ends(lags), strict=True))

    def ratio(rows: NDArray[np.bool_]) -> Array:
        below = np.sqrt(early[rows].sum(0) * late[rows].sum(0))
        return np.divide(cross[rows].sum(0), below, out=np.zeros(len(lags)), where=below > 0)

    fold = np.arange(len(x)) % min(groups, len(x))
    return LagCorrelation(lags, ratio(fold >= 0), np.stack([ratio(fold != g) for g in range(fold.max() + 1)]))


def _ends(lags: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    return [(slice(None, -k), slice(k, None)) for k in lags.tolist()]


def _ratios(x: Array, train: Array) -> Array:
    """d_1 / d_2 of every row, (m,); d_2 > 0 as the rows of `train` differ."""
    nearest = np.concatenate([np.partition(d, 1, axis=1)[:, :2] for _, d in _distances(x, train)])
    return nearest[:, 0] / nearest[:, 1]


def _distances(a: Array, b: Array, elements: int = 2**22) -> Any:
    """Euclidean distances of the rows of `a`, a slice at a time so that memory stays bounded: (slice, (rows, n_b)).

    Of the differences themselves, not of inner products: equal rows are at exactly 0, and a distance is the same
    number both ways round, which the strict inequalities above rely on.
    """
    s, t = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
    step = max(1, elements // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        yield rows, torch.cdist(s[rows], t, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def _array(x: Any) -> Array:
    return np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)


def _flatten(x: Any) -> Array:
    x = _array(x)
    return x.reshape(len(x), -1) if x.ndim > 1 and len(x) else x


def _pair(a: Any, b: Any, least: int, what: str) -> tuple[Array, Array]:
    """Both as float64 (n, d) of one d, with at least `least` rows, all finite."""
    a, b = _array(a), _array(b)
    for name, x in (("first", a), ("second", b)):
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"{what}: the {name} set has shape {x.shape}; give one row of features a sample, (n, d)")
        if len(x) < least:
            raise ValueError(f"{what}: the {name} set has {len(x)} rows; at least {least} are needed")
        bad = ~np.isfinite(x).all(1)
        if bad.any():
            raise ValueError(
                f"{what}: row {int(bad.argmax())} of the {name} set is not finite ({int(bad.sum())} such rows); "
                "check the sampler or the feature network"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{what}: the sets have {a.shape[1]} and {b.shape[1]} features a row; use one network for both"
        )
    return a, b
