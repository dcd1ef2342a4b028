"""The figures of merit against independent calculations: scipy's matrix square root, torchmetrics, plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    lag_correlation,
    memorization_ratio,
    precision_recall_density_coverage,
)


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return shift + rng.normal(size=(n, d)) @ np.random.default_rng(99).normal(size=(d, d)) * rng.uniform(0.5, 1.5, d)


def test_frechet_equals_the_matrix_square_root():
    from scipy.linalg import sqrtm

    a, b = features(300, 7, 0), features(200, 7, 1, 0.3)
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * np.real(sqrtm(c_a @ c_b)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.from_numpy(a).requires_grad_(), b) == pytest.approx(expected, rel=1e-9)


def test_frechet_equals_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    a, b = features(120, 5, 2), features(90, 5, 3, -0.5)
    moments = [torch.from_numpy(v) for x in (a, b) for v in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*moments).item(), rel=1e-9)


def test_frechet_of_singular_covariances():
    """Fewer rows than features: known rank-deficient cases keep all digits, and never go below 0."""
    a = features(10, 40, 4)
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 40, rel=1e-12)
    assert frechet_distance(a, 3 * a - 2 * a.mean(0)) == pytest.approx(4 * np.var(a, axis=0, ddof=1).sum(), rel=1e-12)
    points = np.zeros((5, 3))  # no spread at all
    assert frechet_distance(points, points + np.array([1.0, 2.0, 2.0])) == pytest.approx(9.0, rel=1e-12)
    # orthogonal supports share nothing: the distance is the sum of both traces
    x, y = np.zeros((6, 4)), np.zeros((6, 4))
    x[:, 0], y[:, 1] = [-1, 1, -1, 1, -1, 1], [-2, 2, -2, 2, -2, 2]
    assert frechet_distance(x, y) == pytest.approx((1 + 4) * 6 / 5, rel=1e-12)


def test_kernel_distance_equals_a_plain_loop():
    a, b = features(9, 4, 5), features(9, 4, 6, 0.4)

    def k(x, y):
        return (x @ y / 4 + 1) ** 3

    m = 9
    within = sum(k(s[i], s[j]) for s in (a, b) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    expected = within - 2 * sum(k(x, y) for x in a for y in b) / m**2
    mean, deviation = kernel_distance(a, b)
    assert mean == pytest.approx(expected, rel=1e-10)
    assert deviation == 0


def test_kernel_distance_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    a, b = features(50, 6, 7), features(50, 6, 8, 0.2)
    ours, _ = kernel_distance(a, b, size=50)
    assert ours == pytest.approx(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item(), rel=1e-9)


def test_kernel_distance_is_unbiased_and_repeats():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(4000, 8))
    mean, deviation = kernel_distance(pool[:2000], pool[2000:], subsets=200, size=50, generator=1)
    assert deviation > 0
    assert abs(mean) < 4 * deviation / np.sqrt(200)
    again = kernel_distance(pool[:2000], pool[2000:], subsets=200, size=50, generator=np.random.default_rng(1))
    assert again == (mean, deviation)
    assert kernel_distance(pool[:2000], pool[2000:] + 1, subsets=20, size=50)[0] > 10 * deviation


def brute_prdc(real, fake, k):
    """prdc's definitions, one pair at a time."""
    r_real = [sorted(np.linalg.norm(x - y) for y in real)[k] for x in real]
    r_fake = [sorted(np.linalg.norm(x - y) for y in fake)[k] for x in fake]
    d = [[np.linalg.norm(x - y) for y in fake] for x in real]
    n, m = len(real), len(fake)
    precision = np.mean([any(d[i][j] < r_real[i] for i in range(n)) for j in range(m)])
    recall = np.mean([any(d[i][j] < r_fake[j] for j in range(m)) for i in range(n)])
    density = np.mean([sum(d[i][j] < r_real[i] for i in range(n)) for j in range(m)]) / k
    coverage = np.mean([min(d[i]) < r_real[i] for i in range(n)])
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_equals_the_definitions(k):
    real, fake = features(40, 3, 9), features(31, 3, 10, 1.0)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(brute_prdc(real, fake, k))


def test_a_point_on_the_edge_of_a_ball_is_outside_whatever_the_unit():
    """Whole numbers, whose squares are exact, and tenths of them, whose are not."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        real, fake = (rng.integers(0, 9, (40, 3)).astype(float) for _ in range(2))
        exact = precision_recall_density_coverage(real, fake, 3)
        for unit in (0.1, 1 / 3, 1 / 255):
            assert precision_recall_density_coverage(real * unit, fake * unit, 3) == exact


def test_prdc_reads_collapse_and_noise_apart():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2))
    same = precision_recall_density_coverage(real, rng.normal(size=(400, 2)))
    assert same.coverage == pytest.approx(1 - 2**-5, abs=0.04)  # Naeem et al. 2020, lemma 2
    assert same.density == pytest.approx(1, abs=0.1)
    collapsed = precision_recall_density_coverage(real, 0.05 * rng.normal(size=(400, 2)))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.1
    assert collapsed.coverage < 0.2
    wide = precision_recall_density_coverage(real, 20 * rng.normal(size=(400, 2)))
    assert wide.precision < 0.1
    assert wide.recall > 0.9


def test_distances_are_sliced_without_a_seam():
    from bootdiff.evaluation.metrics import _distances

    a, b = features(23, 4, 11), features(7, 4, 12)
    joined = np.concatenate([d for _, d in _distances(a, b, elements=30)])
    np.testing.assert_allclose(joined, np.linalg.norm(a[:, None] - b[None], axis=-1), rtol=1e-12)


def test_memorization():
    rng = np.random.default_rng(0)
    train, holdout = rng.normal(size=(30, 2, 4, 4)), rng.normal(size=(20, 2, 4, 4))
    fresh = rng.normal(size=(60, 2, 4, 4))
    samples = np.concatenate([train[:20] + 0.05 * rng.normal(size=(20, 2, 4, 4)), fresh])
    found = memorization_ratio(samples, train, holdout)
    assert found.share == 20 / 80
    assert found.holdout_share == 0
    assert 0.5 < found.median <= found.holdout_median <= 1
    # by hand: 1 from the nearest, 4 and 2 from the second
    line = np.array([[0.0], [5.0], [100.0]])
    assert memorization_ratio(np.array([[1.0]]), line) == (1.0, 0.25, None, None)
    assert memorization_ratio(np.array([[-2.0], [2.0], [7.0]]), line).share == 2 / 3  # 2/7, 2/3, 2/7
    assert memorization_ratio(np.array([[1.0]]), line, threshold=0.2).share == 0


def test_memorization_of_exact_copies_and_duplicates():
    train = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert memorization_ratio(train, train)[:2] == (1.0, 0.0)
    # at exactly a third it is not below a third, whatever the unit
    for unit in (1.0, 0.1, 0.3, 0.7, 1 / 255):
        line, at = unit * np.array([[3.0], [7.0]]), unit * np.array([[4.0]])
        assert memorization_ratio(at, line, at)[::2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="1 different rows of 2"):
        memorization_ratio(train, train[:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "first set has 1 rows; at least 2"),
        (lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "3 and 4 features"),
        (lambda: frechet_distance(np.zeros(5), np.zeros((5, 4))), r"shape \(5,\)"),
        (lambda: frechet_distance(np.zeros((5, 1)), np.full((5, 1), np.nan)), "row 0 of the second set is not finite"),
        (
            lambda: kernel_distance(np.zeros((5, 3)), np.zeros((9, 3)), size=6),
            "subsets of 6 rows requested from 5 and 9",
        ),
        (lambda: kernel_distance(np.zeros((5, 3)), np.zeros((9, 3)), subsets=0), "subsets=0"),
        (lambda: precision_recall_density_coverage(np.zeros((5, 3)), np.zeros((9, 3)), k=5), "at least 6"),
        (lambda: precision_recall_density_coverage(np.zeros((5, 3)), np.zeros((9, 3)), k=0), "k must be"),
        (lambda: memorization_ratio(np.zeros((5, 3)), np.eye(3), threshold=0), "threshold"),
        (lambda: memorization_ratio(np.zeros((0, 3)), np.eye(3)), "0 rows"),
        (lambda: memorization_ratio(np.ones((5, 3)), np.eye(3), np.ones((2, 4))), "holdout against train"),
    ],
)
def test_errors_say_what_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Along time


def test_lag_correlation_of_a_moving_average():
    """x_t = e_t + e_t-1 has correlation 1/2 at lag 1 and none beyond."""
    e = np.random.default_rng(0).normal(size=(500, 2, 31))
    found = lag_correlation(e[..., 1:] + e[..., :-1] + 7.0, longest=4)
    assert found.lags.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(found.mean, [0.5, 0, 0, 0], atol=0.02)
    assert found.replicates.shape == (10, 4)


def test_the_longest_lag_is_that_of_the_first_frame_with_the_last():
    x = np.random.default_rng(1).normal(size=(40, 3, 5, 2, 2))
    first, last = (x[:, :, t] - x[:, :, t].mean(0) for t in (0, -1))
    by_hand = (first * last).sum() / np.sqrt((first**2).sum() * (last**2).sum())
    assert lag_correlation(x).mean[-1] == pytest.approx(by_hand)
    assert lag_correlation(torch.tensor(x)).replicates.shape == (10, 4)


def test_the_jackknife_of_a_lag_has_the_spread_of_fresh_samples():
    rng = np.random.default_rng(2)
    found = [lag_correlation(rng.normal(size=(50, 1, 8)), longest=1) for _ in range(60)]
    spread = np.std([f.mean[0] for f in found])
    errors = [np.sqrt(0.9 * np.sum((f.replicates[:, 0] - f.replicates[:, 0].mean()) ** 2)) for f in found]
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.5, -0.7])
def test_samples_that_are_all_the_same_correlate_with_nothing(value):
    """Their mean may round to a number beside them."""
    for n in (3, 6, 7, 10):
        found = lag_correlation(np.full((n, 2, 5), value))
        assert not found.mean.any()
        assert not found.replicates.any()


def test_lag_correlation_checks_what_it_is_given():
    with pytest.raises(ValueError, match="two or more signals"):
        lag_correlation(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="give 1 to 4"):
        lag_correlation(np.zeros((3, 1, 5)), longest=5)
    with pytest.raises(ValueError, match="not finite"):
        lag_correlation(np.full((3, 1, 5), np.nan))
    assert (lag_correlation(np.zeros((3, 1, 5))).mean == 0).all()  # no variance, no correlation
